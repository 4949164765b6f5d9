//! The prompt.

use std::path::PathBuf;
use std::time::Instant;

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{
    Cmd, ColorMode, CompletionType, ConditionalEventHandler, Config, Editor, Event, EventContext,
    EventHandler, KeyCode, KeyEvent, Modifiers, RepeatCount,
};

use super::cells;
use super::interrupt::Interrupts;
use super::line::LineHelper;
use super::meta::{self, Action};
use super::reporter::Reporter;
use super::run;
use super::worker::{Answer, Request, Worker};
use crate::script::host::{self, Settings};
use crate::script::scan::{self, Class, Completeness};
use crate::script::{catalog, options, recipes, types};
use crate::term::style::Role;
use crate::term::{probe, tty};

/// The prompt's text. Pasted input that starts with it loses it.
const PROMPT: &str = "scumble> ";
/// Entries that the history keeps.
const HISTORY: usize = 10_000;

type LineEditor = Editor<LineHelper, FileHistory>;

/// `init.rhai` in the configuration folder: run at the start of a prompt.
pub fn init_file() -> Option<PathBuf> {
    dirs::config_dir().map(|d| d.join("scumble").join("init.rhai"))
}

/// Where the history is kept.
pub fn history_file() -> Option<PathBuf> {
    dirs::state_dir().or_else(dirs::data_local_dir).map(|d| d.join("scumble").join("history.txt"))
}

/// A prompt over a session.
pub struct Repl<'a> {
    worker: &'a Worker,
    interrupts: &'a Interrupts,
    reporter: &'a mut Reporter,
    settings: &'a Settings,
    editor: LineEditor,
    history: Option<PathBuf>,
}

/// Enter in the middle of an unfinished input starts a line that is indented to its depth.
struct Indent;

impl ConditionalEventHandler for Indent {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext) -> Option<Cmd> {
        let (line, pos) = (context.line(), context.pos());
        if meta::is_meta(line) || pos < line.len() || scan::completeness(line) == Completeness::Complete {
            return None;
        }
        let indent = PROMPT.len() + 4 * depth(line);
        Some(Cmd::Insert(1, format!("\n{}", " ".repeat(indent))))
    }
}

impl<'a> Repl<'a> {
    /// Reads the history and sets the keys. Errors: the terminal cannot be read.
    pub fn new(
        worker: &'a Worker,
        interrupts: &'a Interrupts,
        reporter: &'a mut Reporter,
        settings: &'a Settings,
    ) -> rustyline::Result<Self> {
        let config = Config::builder()
            .max_history_size(HISTORY)?
            .history_ignore_dups(true)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .color_mode(if reporter.style.color { ColorMode::Enabled } else { ColorMode::Disabled })
            .tab_stop(4)
            .build();
        let mut editor = LineEditor::with_config(config)?;
        editor.set_helper(Some(LineHelper::new(reporter.style)));
        editor
            .bind_sequence(KeyEvent::new('\r', Modifiers::NONE), EventHandler::Conditional(Box::new(Indent)));
        editor.bind_sequence(
            KeyEvent(KeyCode::Enter, Modifiers::NONE),
            EventHandler::Conditional(Box::new(Indent)),
        );
        editor.bind_sequence(KeyEvent::alt('\r'), Cmd::Newline);
        let history = history_file();
        if let Some(file) = &history {
            let _ = file.parent().map(std::fs::create_dir_all);
            let _ = editor.load_history(file);
        }
        Ok(Repl { worker, interrupts, reporter, settings, editor, history })
    }

    /// Reads and evaluates until the user leaves; the exit code.
    pub fn run(mut self, typed_ahead: &str) -> u8 {
        self.banner();
        self.init();
        let mut initial = typed_ahead.to_string();
        loop {
            let line = self.editor.readline_with_initial(PROMPT, (&initial, ""));
            initial.clear();
            match line {
                Ok(line) => {
                    let line = unpaste(&line);
                    if line.trim().is_empty() {
                        continue;
                    }
                    self.remember(&line);
                    if let Some(code) = self.take(&line) {
                        return code;
                    }
                }
                Err(ReadlineError::Interrupted) => {
                    // With text on the line, Ctrl-C throws the text away and nothing more.
                    if self.editor.helper().is_some_and(LineHelper::is_empty) {
                        self.reporter.remark(Role::Dim, "Ctrl-D or :quit leaves");
                    }
                }
                Err(ReadlineError::Eof) => return 0,
                Err(ReadlineError::Signal(_)) => {}
                Err(_) => return self.interrupts.exit().unwrap_or(129),
            }
            if let Some(code) = self.interrupts.exit() {
                run::rescue(self.worker, self.reporter);
                return code;
            }
        }
    }

    fn banner(&mut self) {
        let device =
            crate::engine::device::open(&self.settings.device).map_or_else(|e| e.to_string(), |d| d.1);
        let pictures =
            self.reporter.caps().map_or("none".into(), |c| format!("{:?}", c.protocol).to_lowercase());
        let first = format!(
            "scumble {}  {device}  model {}  pictures: {pictures}",
            env!("CARGO_PKG_VERSION"),
            self.settings.model
        );
        self.reporter.remark(Role::Good, &first);
        self.reporter
            .remark(Role::Dim, "?name explains, Tab completes, :help lists commands; try :run magicmix");
    }

    fn init(&mut self) {
        let Some(file) = init_file().filter(|f| !self.settings.no_init && f.is_file()) else { return };
        match std::fs::read_to_string(&file) {
            Ok(code) => {
                self.reporter.remark(Role::Dim, &format!("running {}", file.display()));
                self.evaluate(Request::Eval(format!("{code}\n;")));
            }
            Err(e) => self.reporter.remark(Role::Warn, &format!("note: {}: {e}", file.display())),
        }
    }

    /// History is appended after every line: a session that ends badly loses nothing.
    fn remember(&mut self, line: &str) {
        if self.editor.add_history_entry(line).unwrap_or(false)
            && let Some(file) = &self.history
        {
            let _ = self.editor.append_history(file);
        }
    }

    /// Does what a line asks; `Some` ends the prompt with this exit code.
    fn take(&mut self, line: &str) -> Option<u8> {
        let Some(action) = meta::parse(line) else {
            self.reporter.log_cell(line);
            self.evaluate(Request::Eval(line.to_string()));
            return None;
        };
        match action {
            Action::Quit => return Some(0),
            Action::Print(text) => self.reporter.out(&text),
            Action::Wrong(text) => self.reporter.remark(Role::Warn, &text),
            Action::Run(recipe, args) => self.evaluate(Request::Run(recipe, args)),
            Action::RecipeHelp(name) => self.recipe_help(&name),
            Action::Check(names) => self.check(&names),
            Action::Variables => self.variables(),
            Action::Free(names) => self.free(&names),
            Action::Save(path) => self.save(&path),
            Action::Help(name) => self.help(&name),
            Action::Source(name) => self.source(&name),
            Action::History(text) => self.list_history(&text),
            Action::Memory => self.memory(),
            Action::Doctor => {
                let caps = self.reporter.caps().cloned().unwrap_or_else(probe::probe);
                let text = super::doctor::report(self.settings, &caps);
                self.reporter.out(&text);
            }
            Action::Time(code) => {
                let started = Instant::now();
                self.evaluate(Request::Eval(code));
                let text = format!("{:.3} s", started.elapsed().as_secs_f64());
                self.reporter.remark(Role::Dim, &text);
            }
            Action::Reset => {
                if let Ok((_, snapshot)) = self.worker.call(Request::Reset, |_| {}) {
                    self.update(snapshot);
                    self.reporter.remark(Role::Dim, "all variables and models are gone");
                }
            }
            Action::Shell(command) => self.shell(&command),
        }
        None
    }

    fn evaluate(&mut self, request: Request) {
        let finished = run::run(self.worker, self.interrupts, self.reporter, request);
        if let Some(snapshot) = finished.snapshot {
            self.update(snapshot);
        }
    }

    fn update(&mut self, snapshot: crate::script::session::Snapshot) {
        if let Some(helper) = self.editor.helper() {
            helper.update(snapshot);
        }
    }

    fn recipe_help(&mut self, name: &str) {
        match recipes::find(name) {
            Ok(recipe) => {
                let column = options::Column::of_model(&self.settings.model, &recipe.name);
                self.reporter.out(&recipes::help(&recipe, column.as_ref()));
            }
            Err(report) => self.reporter.report(&report),
        }
    }

    fn check(&mut self, names: &[String]) {
        for name in names {
            let reports = recipes::check(name);
            reports.iter().for_each(|r| self.reporter.report(r));
            if reports.is_empty() {
                self.reporter.remark(Role::Good, &format!("{name}: nothing found"));
            }
        }
    }

    fn variables(&mut self) {
        let Ok((Answer::Variables(list), _)) = self.worker.call(Request::Variables, |_| {}) else { return };
        if list.is_empty() {
            return self.reporter.remark(Role::Dim, "no variables yet");
        }
        let width = list.iter().map(|v| v.name.len()).max().unwrap_or(0);
        for v in &list {
            let size = if v.bytes > 0 { types::size(v.bytes) } else { String::new() };
            let detail: String =
                v.detail.chars().take(usize::from(tty::size().0).saturating_sub(width + 14)).collect();
            self.reporter.out(&format!("{:width$}  {size:>9}  {detail}", v.name));
        }
    }

    fn free(&mut self, names: &str) {
        for name in names.split_whitespace() {
            if let Ok((Answer::Freed(found), snapshot)) =
                self.worker.call(Request::Free(name.to_string()), |_| {})
            {
                self.update(snapshot);
                if !found {
                    self.reporter
                        .remark(Role::Warn, &format!("there is no variable {name}; :vars lists them"));
                }
            }
        }
    }

    /// Writes the cells that worked; what is written runs as a recipe.
    fn save(&mut self, path: &str) {
        let Ok((Answer::Cells(worked), _)) = self.worker.call(Request::Cells, |_| {}) else { return };
        if worked.is_empty() {
            return self.reporter.remark(Role::Warn, "no cell has worked yet: there is nothing to save");
        }
        let path =
            PathBuf::from(if path.ends_with(".rhai") { path.to_string() } else { format!("{path}.rhai") });
        let text = cells::as_script(&worked);
        let written = std::fs::File::create_new(&path)
            .and_then(|mut f| std::io::Write::write_all(&mut f, text.as_bytes()));
        match written {
            Ok(()) => self
                .reporter
                .remark(Role::Good, &format!("{} cells saved: scumble run {}", worked.len(), path.display())),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                self.reporter
                    .remark(Role::Warn, &format!("{} is there already: choose another name", path.display()));
            }
            Err(e) => self.reporter.remark(Role::Error, &format!("{}: {e}", path.display())),
        }
    }

    fn help(&mut self, name: &str) {
        if name.is_empty() {
            return self.reporter.out(&meta::list());
        }
        if recipes::names().contains(&name) {
            return self.recipe_help(name);
        }
        let width = usize::from(tty::size().0).min(100);
        match catalog::help(name, width) {
            Some(text) => self.reporter.out(text.trim_end()),
            None => self.reporter.remark(
                Role::Warn,
                &format!("nothing is called \"{name}\"; ?two words searches all documentation"),
            ),
        }
    }

    fn source(&mut self, name: &str) {
        match self.worker.call(Request::Source(name.to_string()), |_| {}) {
            Ok((Answer::Source(Some(text)), _)) => self.reporter.out(text.trim_end()),
            _ => self.help(name),
        }
    }

    fn list_history(&mut self, text: &str) {
        let all: Vec<String> = self.editor.history().iter().filter(|h| h.contains(text)).cloned().collect();
        let from = all.len().saturating_sub(50);
        all[from..].iter().for_each(|h| self.reporter.out(h));
    }

    fn memory(&mut self) {
        let held = host::allocated().map_or("unknown".into(), |b| types::size(b as usize));
        let limit = self.settings.max_memory.map_or("none".into(), |b| types::size(b as usize));
        let free =
            crate::engine::device::memory_available().map_or("unknown".into(), |b| types::size(b as usize));
        self.reporter.out(&format!("held {held}, budget {limit}, free on this machine {free}"));
    }

    fn shell(&mut self, command: &str) {
        let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
        match std::process::Command::new(shell).arg("-c").arg(command).status() {
            Ok(status) if !status.success() => {
                self.reporter.remark(Role::Warn, &format!("the command ended with {status}"))
            }
            Ok(_) => {}
            Err(e) => self.reporter.remark(Role::Error, &e.to_string()),
        }
    }
}

/// Brackets that are open at the end of a text.
fn depth(text: &str) -> usize {
    let pieces = scan::classes(text, &|_| true);
    let signs = pieces.into_iter().filter(|(_, c)| !matches!(c, Class::String | Class::Comment));
    signs.fold(0usize, |depth, (range, _)| match text.get(range) {
        Some("(" | "[" | "{" | "#{") => depth + 1,
        Some(")" | "]" | "}") => depth.saturating_sub(1),
        _ => depth,
    })
}

/// Removes our own prompt from pasted lines.
fn unpaste(line: &str) -> String {
    if !line.trim_start().starts_with(PROMPT.trim_end()) {
        return line.to_string();
    }
    line.lines().map(|l| l.trim_start().strip_prefix(PROMPT).unwrap_or(l)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pasted_prompts_are_removed() {
        assert_eq!(unpaste("scumble> let x = 1\nscumble> x"), "let x = 1\nx");
        assert_eq!(unpaste("let x = 1"), "let x = 1");
    }

    #[test]
    fn depth_counts_brackets_outside_of_text() {
        assert_eq!(depth("f(\"(\", [ #{ a: 1 // (("), 3);
        assert_eq!(depth("f()"), 0);
        assert_eq!(depth(")))"), 0);
    }
}
