//! The prompt: reads a cell, evaluates it, shows what came of it, and begins again.

use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Cmd, ColorMode, CompletionType, Config, Editor, EventHandler, KeyCode, KeyEvent, Modifiers};

use super::input::{self, PROMPT};
use super::interrupt::Interrupts;
use super::line::{Enter, LineHelper};
use super::meta;
use super::reporter::Reporter;
use super::run;
use super::serve::Server;
use super::worker::{Request, Worker};
use super::{actions, folders, init, view};
use crate::engine::device;
use crate::script::{Settings, Snapshot};
use crate::term::probe::Typing;
use crate::term::style::Role;

/// Entries that the history keeps.
const HISTORY: usize = 10_000;

type LineEditor = Editor<LineHelper, FileHistory>;

/// A prompt over a session.
pub struct Repl<'a> {
    pub(super) worker: &'a Worker,
    interrupts: &'a Interrupts,
    pub(super) reporter: &'a mut Reporter,
    pub(super) settings: &'a Settings,
    pub(super) editor: LineEditor,
    history: Option<PathBuf>,
    /// Cells of init files: `:save` leaves them out.
    pub(super) own_cells: usize,
    /// Lines that were typed before the prompt was there.
    typed_ahead: String,
    /// What `:serve` started.
    pub(super) server: Option<Server>,
}

impl<'a> Repl<'a> {
    /// Reads the history and sets the keys. Errors: the terminal cannot be read.
    pub fn new(
        worker: &'a Worker,
        interrupts: &'a Interrupts,
        reporter: &'a mut Reporter,
        settings: &'a Settings,
    ) -> rustyline::Result<Self> {
        let color = if reporter.style.color { ColorMode::Enabled } else { ColorMode::Disabled };
        let config = Config::builder()
            .max_history_size(HISTORY)?
            .history_ignore_dups(true)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .completion_show_all_if_ambiguous(true)
            .color_mode(color)
            .tab_stop(4)
            .build();
        let mut editor = LineEditor::with_config(config)?;
        editor.set_helper(Some(LineHelper::new(reporter.style)));
        // Ctrl-J too: a line feed is what Enter was while the terminal was in line mode.
        for key in [KeyEvent(KeyCode::Enter, Modifiers::NONE), KeyEvent::ctrl('J')] {
            editor.bind_sequence(key, EventHandler::Conditional(Box::new(Enter)));
        }
        editor.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), Cmd::Newline);
        editor.bind_sequence(KeyEvent(KeyCode::PageUp, Modifiers::NONE), Cmd::HistorySearchBackward);
        editor.bind_sequence(KeyEvent(KeyCode::PageDown, Modifiers::NONE), Cmd::HistorySearchForward);
        let history = folders::history_file();
        if let Some(file) = &history {
            // A home that cannot be written has no history: nothing more.
            let _ = file.parent().map(std::fs::create_dir_all);
            let _ = editor.load_history(file);
        }
        let typed_ahead = std::mem::take(&mut reporter.caps(Typing::Keep).typed_ahead);
        Ok(Repl {
            worker,
            interrupts,
            reporter,
            settings,
            editor,
            history,
            own_cells: 0,
            typed_ahead,
            server: None,
        })
    }

    /// Reads and evaluates until the user leaves; the exit code.
    pub fn run(mut self) -> u8 {
        self.banner();
        init::run(&mut self);
        let mut reminded = false;
        loop {
            let line = match self.read() {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => {
                    let empty = self.editor.helper().is_none_or(|h| h.take_seen().trim().is_empty());
                    if empty && !std::mem::replace(&mut reminded, true) {
                        self.reporter.remark(Role::Dim, "Ctrl-D or :quit leaves");
                    }
                    continue;
                }
                Err(ReadlineError::Eof) => return self.interrupts.exit().unwrap_or(0),
                Err(ReadlineError::Signal(_)) => continue,
                // The terminal went away.
                Err(_) => return self.interrupts.exit().unwrap_or(129),
            };
            reminded = false;
            if line.trim().is_empty() {
                continue;
            }
            self.remember(&line);
            let quit = self.take(&input::cell(&line));
            if let Some(code) = self.interrupts.exit() {
                run::rescue(self.worker, self.reporter);
                return code;
            }
            if let Some(code) = quit {
                return code;
            }
        }
    }

    /// The next line: what was typed ahead, or from the keyboard.
    fn read(&mut self) -> rustyline::Result<String> {
        let caps = self.reporter.caps(Typing::Keep);
        caps.hear_late();
        self.typed_ahead.push_str(&std::mem::take(&mut caps.typed_ahead));
        if let Some(cell) = input::next_cell(&mut self.typed_ahead) {
            let prompt = self.reporter.style.paint(Role::Prompt, PROMPT);
            self.reporter.out(&format!("{prompt}{cell}"));
            return Ok(cell);
        }
        let begun = std::mem::take(&mut self.typed_ahead);
        self.editor.readline_with_initial(PROMPT, (&begun, ""))
    }

    fn banner(&mut self) {
        let device = device::open(&self.settings.device).map_or_else(|e| e.to_string(), |d| d.1);
        let pictures = self.reporter.caps(Typing::Keep).protocol.name();
        let advice = self.reporter.caps(Typing::Keep).advice.clone();
        let version = env!("CARGO_PKG_VERSION");
        let model = &self.settings.model;
        self.reporter.remark(
            Role::Good,
            &format!("scumble {version}: {device}, model {model}, pictures as {pictures}"),
        );
        if let Some(advice) = advice {
            self.reporter.remark(Role::Hint, &advice);
        }
        self.reporter
            .remark(Role::Dim, "?name explains, Tab completes, :help lists the commands; try :run magicmix");
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
        match meta::parse(line) {
            Some(action) => actions::act(self, action),
            None => {
                self.reporter.log_cell(line);
                self.evaluate(Request::Eval(line.to_string()));
                None
            }
        }
    }

    /// Runs a request that evaluates something.
    pub(super) fn evaluate(&mut self, request: Request) {
        let finished = run::run(self.worker, self.interrupts, self.reporter, request);
        if let Some(snapshot) = finished.snapshot {
            self.update(snapshot);
        }
        self.reporter.last_word(0);
    }

    /// Looks at variables on the whole screen. What is to be typed next is put into the prompt.
    pub(super) fn view(&mut self, names: Vec<String>) {
        if let Some(text) = view::open(self.worker, self.interrupts, self.reporter, names) {
            self.typed_ahead.push_str(&text);
        }
    }

    /// Takes the state of the session, for completion.
    pub(super) fn update(&mut self, snapshot: Snapshot) {
        if let Some(helper) = self.editor.helper() {
            helper.update(snapshot);
        }
    }
}
