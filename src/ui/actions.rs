//! What the `:` and `?` lines do.

use std::io::Write;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::config::keys::{self, When};
use super::meta::{self, Action};
use super::repl::Repl;
use super::worker::{Answer, Request};
use super::{doctor, edit, init, input, listing, pictures, save, units, usage, watch};
use crate::engine::device;
use crate::engine::weights::locate;
use crate::report::Report;
use crate::script::{Variable, catalog, host, options, recipes, thread, types};
use crate::term::probe::{self, Typing};
use crate::term::style::Role;
use crate::term::tty;

/// Lines of history that `:hist` shows.
const HISTORY_SHOWN: usize = 50;

/// Does it; `Some` ends the prompt with this exit code.
pub(super) fn act(repl: &mut Repl, action: Action) -> Option<u8> {
    match action {
        Action::Quit => return Some(0),
        Action::Wrong(text) => repl.reporter.remark(Role::Warn, &text),
        Action::Commands => repl.page(&meta::list()),
        Action::Run(recipe, args) => repl.evaluate(Request::Run(recipe, args)),
        Action::Watch(recipe, args) => watched(repl, &recipe, &args),
        Action::Recipes => repl.page(&recipe_list()),
        Action::RecipeHelp(name) => recipe_help(repl, &name),
        Action::Check(names) => check(repl, &names),
        Action::Variables => variables(repl),
        Action::Free(names) => free(repl, &names),
        Action::View(names) => repl.view(names),
        Action::Save(path, cells) => save_cells(repl, &path, &cells),
        Action::Edit(name) => edit::edit(repl, &name),
        Action::Again(which) => return again(repl, &which),
        Action::Log(file) => log(repl, &file),
        Action::Set(text) => set(repl, &text),
        Action::Models => models(repl),
        Action::Results(text) => {
            let width = usize::from(tty::size().0);
            repl.page(&listing::results(&repl.settings.out, &text, width));
        }
        Action::Bench(n, code) => repl.bench(n, code),
        Action::Help(name) => help(repl, &name),
        Action::Source(name) => source(repl, &name),
        Action::History(text) => history(repl, &text),
        Action::Memory => memory(repl),
        Action::Doctor => {
            let caps = repl.reporter.caps(Typing::Keep).clone();
            repl.page(&doctor::report(&repl.settings, &repl.config, &caps));
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
                repl.numbered.clear();
                repl.lines.iter_mut().for_each(|(number, _)| *number = None);
                repl.count = 0;
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
        Ok(text) => repl.page(&text),
        Err(report) => repl.reporter.report(&report),
    }
}

pub(super) fn check(repl: &mut Repl, names: &[String]) {
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
    let line = |v: &Variable| {
        let size = if v.bytes > 0 { types::size(v.bytes) } else { String::new() };
        let detail: String = v.detail.chars().take(room).collect();
        format!("{:width$}  {size:>9}  {detail}", v.name)
    };
    repl.page(&list.iter().map(line).collect::<Vec<_>>().join("\n"));
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

/// Writes cells that worked; what is written runs as a recipe, or it is said why not.
fn save_cells(repl: &mut Repl, path: &str, wanted: &[RangeInclusive<usize>]) {
    let Ok((Answer::Cells(cells), _)) = repl.worker.call(Request::Cells) else { return };
    let own = cells.get(repl.own_cells..).unwrap_or_default();
    let named = |number: &usize| wanted.is_empty() || wanted.iter().any(|r| r.contains(number));
    let chosen: Vec<String> = own.iter().filter(|c| named(&c.number)).map(|c| c.text.clone()).collect();
    if chosen.is_empty() {
        let text = match own {
            [] => "no cell has worked yet: there is nothing to save".to_string(),
            [first, ..] => {
                let last = own.last().map_or(first.number, |c| c.number);
                format!(
                    "none of these cells has worked; there are {} to {last}, :hist shows them",
                    first.number
                )
            }
        };
        return repl.reporter.remark(Role::Warn, &text);
    }
    let path = PathBuf::from(if path.ends_with(".rhai") { path.to_string() } else { format!("{path}.rhai") });
    match write_new(&path, &save::recipe(&chosen)) {
        Ok(()) => {
            let cells = if chosen.len() == 1 { "1 cell".into() } else { format!("{} cells", chosen.len()) };
            let text = format!("{cells} saved: scumble run {}", path.display());
            repl.reporter.remark(Role::Good, &text);
            let name = path.display().to_string();
            let mistakes = thread::run(|| recipes::check(&name));
            if let Some(first) = mistakes.first() {
                let text = "it does not run as it is: a cell that is not in it made what this needs";
                repl.reporter.remark(Role::Warn, text);
                repl.reporter.report(first);
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            let text = format!("{} is there already: choose another name", path.display());
            repl.reporter.remark(Role::Warn, &text);
        }
        Err(e) => repl.reporter.remark(Role::Error, &format!("{}: {e}", path.display())),
    }
}

/// Writes a file that is not there yet, whole or not at all. Errors: it is there, or cannot be written.
pub(super) fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().permissions(readable()).tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist_noclobber(path).map_err(|e| e.error)?;
    Ok(())
}

/// As other programs make files; the user's mask takes away from it.
fn readable() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

fn watched(repl: &mut Repl, recipe: &str, args: &[(String, String)]) {
    let mut last = None;
    let ended = watch::watch(repl.worker, repl.interrupts, repl.reporter, (recipe, args), |s| last = Some(s));
    if let Some(snapshot) = last {
        repl.update(snapshot);
    }
    match ended {
        Ok(_) => repl.reporter.remark(Role::Dim, "watching has ended"),
        Err(report) => repl.reporter.report(&report),
    }
}

/// `:again`, `:again 7`.
fn again(repl: &mut Repl, which: &str) -> Option<u8> {
    let text = match which.parse::<usize>() {
        Ok(number) => repl.cell(number)?,
        Err(_) if which.is_empty() => match repl.last_input() {
            Some(text) => text,
            None => {
                repl.reporter.remark(Role::Warn, "nothing was evaluated yet");
                return None;
            }
        },
        Err(_) => {
            let text = format!("{which} is no number of a cell; :hist shows them");
            repl.reporter.remark(Role::Warn, &text);
            return None;
        }
    };
    repl.echo(&text);
    repl.take(&text)
}

fn log(repl: &mut Repl, file: &str) {
    let now = repl.reporter.log_path();
    let text = match (file, now) {
        ("", Some(path)) => format!("the log goes to {}; :log off ends it", path.display()),
        ("", None) => "there is no log; :log FILE begins one".to_string(),
        ("off" | "stop", Some(path)) => {
            repl.reporter.stop_log();
            format!("the log in {} has ended", path.display())
        }
        ("off" | "stop", None) => "there is no log to end".to_string(),
        (file, _) => match repl.reporter.start_log(Path::new(file)) {
            Ok(()) => {
                format!("from here on, cells, values and errors go to {file} as well; :log off ends it")
            }
            Err(report) => return repl.reporter.report(&report),
        },
    };
    repl.reporter.remark(Role::Dim, &text);
}

fn models(repl: &mut Repl) {
    if let Ok((Answer::Models(held), _)) = repl.worker.call(Request::Models) {
        repl.page(&listing::models(&held, &repl.config));
    }
}

/// `:set`, `:set name`, `:set name value`.
fn set(repl: &mut Repl, text: &str) {
    let (name, value) = text.split_once(|c: char| c.is_whitespace() || c == '=').unwrap_or((text, ""));
    let value = value.trim().trim_matches('"');
    if name.is_empty() {
        let width = usize::from(tty::size().0);
        return repl.page(&repl.config.list(width));
    }
    if let (Some(key), true) = (keys::find(name), value.is_empty()) {
        return repl.reporter.out(&repl.config.line(key));
    }
    let before = repl.config.clone();
    let key = match repl.config.set(name, value) {
        Ok(key) => key,
        Err(why) => return repl.reporter.remark(Role::Warn, &why),
    };
    if key.name == "model"
        && let Err(e) = locate::locate(value)
    {
        repl.config = before;
        return repl.reporter.remark(Role::Warn, &e.to_string());
    }
    if key.when == When::Start {
        let flag = if key.flag { format!(", or start with --{}", key.flag_name()) } else { String::new() };
        let text = format!("{} counts from the start on: write it into config.toml{flag}", key.name);
        repl.config = before;
        return repl.reporter.remark(Role::Warn, &text);
    }
    settle(repl, key.name);
    let text = format!("{} is now {}", key.name, repl.config.get(key.name));
    repl.reporter.remark(Role::Dim, &text);
}

/// Lets a changed setting count.
fn settle(repl: &mut Repl, name: &str) {
    let value = repl.config.get(name).to_string();
    match name {
        "graphics" => {
            probe::choose(&value, ":set graphics");
            repl.reporter.forget_caps();
        }
        "marks" => repl.mark(),
        "panel" => repl.reporter.want_panel(value != "false"),
        "model" => repl.settings.model = value,
        "out" => repl.settings.out = value.into(),
        "max_memory" => repl.settings.max_memory = units::size(&value).ok(),
        "max_time" => repl.settings.max_time = units::time(&value).ok(),
        _ => return,
    }
    if let Ok((_, snapshot)) = repl.worker.call(Request::Configure(Box::new(repl.settings.clone()))) {
        repl.update(snapshot);
    }
}

/// `median 18.2 ms, min 17.9 ms, max 25.1 ms  (20 times, after one to warm up)`.
pub(super) fn timings(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = |i: usize| sorted.get(i).copied().unwrap_or_default();
    let (n, middle) = (sorted.len(), sorted.len() / 2);
    let median = if n % 2 == 0 { (at(middle.saturating_sub(1)) + at(middle)) / 2 } else { at(middle) };
    format!(
        "median {}, min {}, max {}  ({n} times, after one to warm up)",
        short(median),
        short(at(0)),
        short(at(n.saturating_sub(1)))
    )
}

/// Three digits and a unit.
fn short(time: Duration) -> String {
    let s = time.as_secs_f64();
    let (x, unit) = match s {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "us"),
    };
    match x {
        x if x >= 100.0 => format!("{x:.0} {unit}"),
        x if x >= 10.0 => format!("{x:.1} {unit}"),
        x => format!("{x:.2} {unit}"),
    }
}

fn help(repl: &mut Repl, name: &str) {
    let width = usize::from(tty::size().0).min(100);
    if name.is_empty() {
        return repl.page(&catalog::overview(width));
    }
    if recipes::names().contains(&name) {
        return recipe_help(repl, name);
    }
    if let Some(c) = meta::COMMANDS.iter().find(|c| c.name == name) {
        return repl.reporter.out(&format!(":{} {}\n\n  {}", c.name, c.arguments, c.about));
    }
    match catalog::help(name, width) {
        Some(text) => repl.page(text.trim_end()),
        None => {
            let text = format!("nothing is called \"{name}\"; ?word searches all documentation");
            repl.reporter.remark(Role::Warn, &text);
        }
    }
}

fn source(repl: &mut Repl, name: &str) {
    if let Ok(recipe) = recipes::find(name) {
        return repl.page(recipe.text.trim_end());
    }
    match repl.worker.call(Request::Source(name.to_string())) {
        Ok((Answer::Source(Some(text)), _)) => repl.page(text.trim_end()),
        _ => help(repl, name),
    }
}

/// Input of earlier sessions, and of this one with the numbers of its cells.
fn history(repl: &mut Repl, text: &str) {
    let earlier = repl.earlier.iter().map(|entry| (None, entry));
    let here = repl.lines.iter().map(|(number, line)| (*number, line));
    let all: Vec<_> = earlier.chain(here).filter(|(_, line)| line.contains(text)).collect();
    let from = all.len().saturating_sub(HISTORY_SHOWN);
    let number = |n: Option<usize>| n.map_or(String::new(), |n| n.to_string());
    let line = |(n, line): &(Option<usize>, &String)| {
        format!("{:>4}  {}", number(*n), input::cells(line).join("\n").replace('\n', "\n      "))
    };
    let out = all[from..].iter().map(line).collect::<Vec<_>>().join("\n");
    repl.page(&out);
}

fn memory(repl: &mut Repl) {
    let size = |bytes: Option<u64>| bytes.map_or("unknown".into(), |b| types::size(b as usize));
    let text = format!(
        "held {}, most so far {}, allowed {}, free on this machine {}",
        size(host::allocated()),
        size(usage::most()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_have_a_middle_and_ends() {
        let ms = |list: &[u64]| list.iter().map(|n| Duration::from_millis(*n)).collect::<Vec<_>>();
        assert!(
            timings(&ms(&[30, 10, 20])).starts_with("median 20.0 ms, min 10.0 ms, max 30.0 ms  (3 times")
        );
        assert!(timings(&ms(&[1, 4])).starts_with("median 2.50 ms"));
        assert!(timings(&[Duration::from_nanos(1500)]).starts_with("median 1.50 us"));
    }
}
