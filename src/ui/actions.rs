//! What the `:` and `?` lines do.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use super::meta::{self, Action};
use super::repl::Repl;
use super::worker::{Answer, Request};
use super::{doctor, init, pictures, save};
use crate::engine::device;
use crate::report::Report;
use crate::script::{catalog, host, options, recipes, thread, types};
use crate::term::probe::Typing;
use crate::term::style::Role;
use crate::term::tty;

/// Lines of history that `:hist` shows.
const HISTORY_SHOWN: usize = 50;

/// Does it; `Some` ends the prompt with this exit code.
pub(super) fn act(repl: &mut Repl, action: Action) -> Option<u8> {
    match action {
        Action::Quit => return Some(0),
        Action::Wrong(text) => repl.reporter.remark(Role::Warn, &text),
        Action::Commands => repl.reporter.out(&meta::list()),
        Action::Run(recipe, args) => repl.evaluate(Request::Run(recipe, args)),
        Action::Recipes => {
            let text = recipe_list();
            repl.reporter.out(&text);
        }
        Action::RecipeHelp(name) => recipe_help(repl, &name),
        Action::Check(names) => check(repl, &names),
        Action::Variables => variables(repl),
        Action::Free(names) => free(repl, &names),
        Action::View(names) => repl.view(names),
        Action::Save(path) => save_cells(repl, &path),
        Action::Help(name) => help(repl, &name),
        Action::Source(name) => source(repl, &name),
        Action::History(text) => history(repl, &text),
        Action::Memory => memory(repl),
        Action::Doctor => {
            let caps = repl.reporter.caps(Typing::Keep).clone();
            let text = doctor::report(repl.settings, &caps);
            repl.reporter.out(&text);
        }
        Action::TestCard => pictures::test_card(repl.reporter, Typing::Keep),
        Action::Serve(text) => pictures::serve(repl, &text),
        Action::Get(name) => pictures::get(repl, &name),
        Action::Time(code) => {
            let started = Instant::now();
            repl.evaluate(Request::Eval(code));
            let text = format!("{:.3} s", started.elapsed().as_secs_f64());
            repl.reporter.remark(Role::Dim, &text);
        }
        Action::Trust => init::trust(repl),
        Action::Reset => {
            if let Ok((_, snapshot)) = repl.worker.call(Request::Reset) {
                repl.update(snapshot);
                repl.own_cells = 0;
                repl.reporter.remark(Role::Dim, "all variables, functions and models are gone");
            }
        }
        Action::Shell(command) => shell(repl, &command),
    }
    None
}

/// The built-in recipes and what each is.
pub fn recipe_list() -> String {
    let mut out = String::from("Recipes (run NAME --help shows the options):\n");
    for name in recipes::names() {
        let about = recipes::find(name).map(|r| recipes::summary(&r)).unwrap_or_default();
        out.push_str(&format!("  {name:<16} {}\n", about.trim_start_matches('/').trim()));
    }
    out.trim_end().to_string()
}

/// The help of a recipe, with the defaults of the model.
/// Errors (exit code 2): there is no such recipe, or its options cannot be read.
pub fn recipe_help_text(name: &str, model: &str) -> Result<String, Report> {
    let recipe = recipes::find(name)?;
    let column = options::Column::of_model(model, &recipe.name);
    Ok(recipes::help(&recipe, column.as_ref()).trim_end().to_string())
}

fn recipe_help(repl: &mut Repl, name: &str) {
    match recipe_help_text(name, &repl.settings.model) {
        Ok(text) => repl.reporter.out(&text),
        Err(report) => repl.reporter.report(&report),
    }
}

fn check(repl: &mut Repl, names: &[String]) {
    for name in names {
        let reports = thread::run(|| recipes::check(name));
        reports.iter().for_each(|r| repl.reporter.report(r));
        if reports.is_empty() {
            repl.reporter.remark(Role::Good, &format!("{name}: nothing found"));
        }
    }
}

fn variables(repl: &mut Repl) {
    let Ok((Answer::Variables(list), _)) = repl.worker.call(Request::Variables) else { return };
    if list.is_empty() {
        return repl.reporter.remark(Role::Dim, "no variables yet");
    }
    let width = list.iter().map(|v| v.name.chars().count()).max().unwrap_or(0);
    let room = usize::from(tty::size().0).saturating_sub(width + 14);
    for v in &list {
        let size = if v.bytes > 0 { types::size(v.bytes) } else { String::new() };
        let detail: String = v.detail.chars().take(room).collect();
        repl.reporter.out(&format!("{:width$}  {size:>9}  {detail}", v.name));
    }
}

fn free(repl: &mut Repl, names: &[String]) {
    for name in names {
        let Ok((Answer::Freed(found), snapshot)) = repl.worker.call(Request::Free(name.clone())) else {
            return;
        };
        if !found {
            let known: Vec<&str> = snapshot.variables.iter().map(|(n, _)| n.as_str()).collect();
            let hint = match catalog::nearest(name, known) {
                Some(near) => format!("did you mean {near}?"),
                None => ":vars lists them".to_string(),
            };
            repl.reporter.remark(Role::Warn, &format!("there is no variable {name}; {hint}"));
        }
        repl.update(snapshot);
    }
}

/// Writes the cells that worked; what is written runs as a recipe.
fn save_cells(repl: &mut Repl, path: &str) {
    let Ok((Answer::Cells(cells), _)) = repl.worker.call(Request::Cells) else { return };
    let own = cells.get(repl.own_cells..).unwrap_or_default();
    if own.is_empty() {
        return repl.reporter.remark(Role::Warn, "no cell has worked yet: there is nothing to save");
    }
    let path = PathBuf::from(if path.ends_with(".rhai") { path.to_string() } else { format!("{path}.rhai") });
    let text = save::recipe(own);
    let written = std::fs::File::create_new(&path).and_then(|mut f| f.write_all(text.as_bytes()));
    match written {
        Ok(()) => {
            let cells = if own.len() == 1 { "1 cell".into() } else { format!("{} cells", own.len()) };
            let text = format!("{cells} saved: scumble run {}", path.display());
            repl.reporter.remark(Role::Good, &text);
        }
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            let text = format!("{} is there already: choose another name", path.display());
            repl.reporter.remark(Role::Warn, &text);
        }
        Err(e) => repl.reporter.remark(Role::Error, &format!("{}: {e}", path.display())),
    }
}

fn help(repl: &mut Repl, name: &str) {
    let width = usize::from(tty::size().0).min(100);
    if name.is_empty() {
        return repl.reporter.out(&catalog::overview(width));
    }
    if recipes::names().contains(&name) {
        return recipe_help(repl, name);
    }
    if let Some(c) = meta::COMMANDS.iter().find(|c| c.name == name) {
        return repl.reporter.out(&format!(":{} {}\n\n  {}", c.name, c.arguments, c.about));
    }
    match catalog::help(name, width) {
        Some(text) => repl.reporter.out(text.trim_end()),
        None => {
            let text = format!("nothing is called \"{name}\"; ?word searches all documentation");
            repl.reporter.remark(Role::Warn, &text);
        }
    }
}

fn source(repl: &mut Repl, name: &str) {
    if let Ok(recipe) = recipes::find(name) {
        return repl.reporter.out(recipe.text.trim_end());
    }
    match repl.worker.call(Request::Source(name.to_string())) {
        Ok((Answer::Source(Some(text)), _)) => repl.reporter.out(text.trim_end()),
        _ => help(repl, name),
    }
}

fn history(repl: &mut Repl, text: &str) {
    let all: Vec<String> = repl.editor.history().iter().filter(|h| h.contains(text)).cloned().collect();
    let from = all.len().saturating_sub(HISTORY_SHOWN);
    all[from..].iter().for_each(|h| repl.reporter.out(h));
}

fn memory(repl: &mut Repl) {
    let size = |bytes: Option<u64>| bytes.map_or("unknown".into(), |b| types::size(b as usize));
    let text = format!(
        "held {}, most so far {}, allowed {}, free on this machine {}",
        size(host::allocated()),
        size(doctor::peak_memory()),
        size(repl.settings.max_memory),
        size(device::memory_available()),
    );
    repl.reporter.out(&text);
}

fn shell(repl: &mut Repl, command: &str) {
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
    match std::process::Command::new(shell).arg("-c").arg(command).status() {
        Ok(status) if status.success() => {}
        Ok(status) => repl.reporter.remark(Role::Warn, &format!("the command ended with {status}")),
        Err(e) => repl.reporter.remark(Role::Error, &format!("the shell cannot be started: {e}")),
    }
}
