//! The prompt: reads a cell, evaluates it, shows what came of it, and begins again.

use std::time::{Duration, Instant};

use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::history::{History, MemHistory};
use rustyline::{ColorMode, CompletionType, EditMode, Editor};

use super::history::Keeper;
use super::input::{self, PROMPT};
use super::interrupt::Interrupts;
use super::line::LineHelper;
use super::meta;
use super::reporter::Reporter;
use super::run::{self, Finished};
use super::serve::Server;
use super::worker::{Request, Worker};
use super::{actions, config::Config, folders, init, keys, progress, usage, view};
use crate::engine::device;
use crate::report::{self, Exit};
use crate::script::{Settings, Snapshot};
use crate::term::probe::Typing;
use crate::term::style::Role;
use crate::term::{marks, reach};

/// How long the first prompt waits for the history file.
const PATIENCE: Duration = Duration::from_millis(500);

type LineEditor = Editor<LineHelper, MemHistory>;

/// A prompt over a session.
pub struct Repl<'a> {
    pub(super) worker: &'a Worker,
    pub(super) interrupts: &'a Interrupts,
    pub(super) reporter: &'a mut Reporter,
    pub(super) settings: Settings,
    pub(super) config: Config,
    editor: LineEditor,
    history: Keeper,
    /// Input of earlier sessions, the oldest first.
    pub(super) earlier: Vec<String>,
    /// Input of this session, with the number of the cell that it was.
    pub(super) lines: Vec<(Option<usize>, String)>,
    /// The cells of this session by number, failed ones too.
    pub(super) numbered: Vec<(usize, String)>,
    /// The number of the last cell, as the session counts them.
    pub(super) count: usize,
    /// The exit code of what ran last, 130 if Ctrl-C came, however it ended; `None`: nothing ran since it was asked last.
    ended: Option<u8>,
    marks: bool,
    /// Cells of init files: `:save` leaves them out.
    pub(super) own_cells: usize,
    /// Lines that were typed before the prompt was there.
    typed_ahead: String,
    /// What `:serve` started.
    pub(super) server: Option<Server>,
}

impl<'a> Repl<'a> {
    /// Begins to read the history and sets the keys. Errors: the terminal cannot be read.
    pub fn new(
        worker: &'a Worker,
        interrupts: &'a Interrupts,
        reporter: &'a mut Reporter,
        settings: Settings,
        config: Config,
    ) -> rustyline::Result<Self> {
        let kept = config.whole("history").unwrap_or(0);
        let history = Keeper::open(folders::history_file(), kept);
        let color = if reporter.style.color { ColorMode::Forced } else { ColorMode::Disabled };
        let vi = config.get("keys") == "vi";
        let line = rustyline::Config::builder()
            .max_history_size(kept)?
            .history_ignore_dups(true)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .completion_show_all_if_ambiguous(true)
            .edit_mode(if vi { EditMode::Vi } else { EditMode::Emacs })
            .color_mode(color)
            .tab_stop(4)
            .build();
        let history_in_memory = MemHistory::with_config(&line);
        let mut editor = LineEditor::with_history(line, history_in_memory)?;
        let helper = LineHelper::new(reporter.style);
        keys::bind(&mut editor, &helper.closing);
        editor.set_helper(Some(helper));
        let typed_ahead = std::mem::take(&mut reporter.caps(Typing::Keep).typed_ahead);
        let mut repl = Repl {
            worker,
            interrupts,
            reporter,
            settings,
            config,
            editor,
            history,
            earlier: Vec::new(),
            lines: Vec::new(),
            numbered: Vec::new(),
            count: 0,
            ended: None,
            marks: false,
            own_cells: 0,
            typed_ahead,
            server: None,
        };
        repl.mark();
        Ok(repl)
    }

    /// Marks prompts for the terminal, or does not, as the setting says.
    pub(super) fn mark(&mut self) {
        self.marks = marks::wanted(self.config.get("marks"));
        if let Some(helper) = self.editor.helper() {
            helper.mark(if self.marks { marks::INPUT } else { "" });
        }
    }

    /// Takes the entries of the history file, once they have been read. What was typed before stays the newest.
    fn recall(&mut self, wait: Duration) -> rustyline::Result<()> {
        let Some(entries) = self.history.entries(wait) else { return Ok(()) };
        let history = self.editor.history_mut();
        history.clear()?;
        for entry in entries.iter().chain(self.lines.iter().map(|(_, line)| line)) {
            history.add(entry)?;
        }
        self.earlier = entries;
        Ok(())
    }

    /// Reads and evaluates until the user leaves; the exit code.
    pub fn run(mut self) -> u8 {
        self.banner();
        init::run(&mut self);
        let code = self.turns();
        self.history.close();
        code
    }

    fn turns(&mut self) -> u8 {
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
            let cells = input::cells(&line);
            let several = cells.len() > 1;
            for (i, cell) in cells.iter().enumerate() {
                if several {
                    self.echo(cell);
                }
                self.remember(if several { cell } else { &line }, cell);
                self.tell(marks::OUTPUT);
                self.ended = None;
                let quit = self.take(cell);
                if let Some(code) = self.interrupts.exit() {
                    run::rescue(self.worker, self.reporter);
                    return code;
                }
                if let Some(code) = quit {
                    return code;
                }
                // The cells of a pasted session build on each other.
                let left = cells.len() - i - 1;
                if let (Some(code @ 1..), 1..) = (self.ended, left) {
                    self.reporter.remark(Role::Warn, &unfinished(code, left));
                    break;
                }
            }
        }
    }

    fn tell(&mut self, mark: &str) {
        if self.marks {
            self.reporter.tell_terminal(mark);
        }
    }

    /// The next line: what was typed ahead, or from the keyboard.
    fn read(&mut self) -> rustyline::Result<String> {
        self.recall(if self.lines.is_empty() { PATIENCE } else { Duration::ZERO })?;
        if let Some(why) = self.history.trouble() {
            self.reporter.remark(Role::Warn, &format!("note: what is typed cannot be kept: {why}"));
        }
        self.tell(marks::PROMPT);
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
    fn remember(&mut self, line: &str, cell: &str) {
        self.lines.push((None, line.to_string()));
        if self.editor.add_history_entry(line).unwrap_or(false) && !cell.is_empty() {
            self.history.append(line);
        }
    }

    /// Does what a line asks; `Some` ends the prompt with this exit code.
    pub(super) fn take(&mut self, line: &str) -> Option<u8> {
        let before = self.count;
        let action = meta::parse(line);
        let quit = match action {
            Some(action) => actions::act(self, action),
            None => {
                self.reporter.log_cell(line);
                self.evaluate(Request::Eval(line.to_string()));
                None
            }
        };
        if self.count > before
            && let Some((number, _)) = self.lines.last_mut()
        {
            *number = number.or(Some(self.count));
        }
        quit
    }

    /// Evaluates code as if it had been typed.
    pub(super) fn enter(&mut self, code: &str) {
        self.echo(code);
        self.remember(&input::shown(code), code);
        self.take(code);
    }

    /// Shows a cell as it stands at the prompt.
    pub(super) fn echo(&mut self, code: &str) {
        let helper = self.editor.helper();
        let text = input::shown(code);
        let text = helper.map_or_else(|| text.clone(), |h| h.highlight(&text, text.len()).into_owned());
        let prompt = self.reporter.style.paint(Role::Prompt, PROMPT);
        self.reporter.out(&format!("{prompt}{text}"));
    }

    /// The text of a cell by its number. `None`, which is told: there is none.
    pub(super) fn cell(&mut self, number: usize) -> Option<String> {
        let found = self.numbered.iter().find(|(n, _)| *n == number).map(|(_, text)| text.clone());
        if found.is_none() {
            self.reporter.remark(Role::Warn, &format!("there is no cell {number}; :hist shows them"));
        }
        found
    }

    /// The last input that can be done again.
    pub(super) fn last_input(&self) -> Option<String> {
        let again =
            |line: &str| matches!(meta::parse(line), Some(meta::Action::Again(_) | meta::Action::Wrong(_)));
        self.lines.iter().rev().map(|(_, line)| input::cells(line).concat()).find(|l| !again(l))
    }

    /// Text that may be taller than the screen. Some of it comes from files that nobody has looked at yet: what the terminal
    /// would obey becomes visible.
    pub(super) fn page(&mut self, text: &str) {
        self.reporter.page(&report::plain(text), self.config.get("pager"));
    }

    /// Runs a request that evaluates something.
    pub(super) fn evaluate(&mut self, request: Request) {
        self.follow(request);
    }

    fn follow(&mut self, request: Request) -> Finished {
        match &request {
            Request::Eval(code) | Request::Bench(_, code) => {
                self.count += 1;
                self.numbered.push((self.count, code.clone()));
            }
            _ => {}
        }
        usage::reset();
        let started = Instant::now();
        let mut finished = run::run(self.worker, self.interrupts, self.reporter, request);
        if let Some(snapshot) = finished.snapshot.take() {
            self.update(snapshot);
        }
        // Ctrl-C may come when the cell has just ended by itself.
        self.ended = Some(if self.interrupts.count() > 0 { Exit::Interrupted.code() } else { finished.code });
        self.reporter.last_word(0);
        self.tell(marks::end(finished.code != 0));
        self.notify(started.elapsed());
        finished
    }

    /// `:bench`.
    pub(super) fn bench(&mut self, n: usize, code: String) {
        let finished = self.follow(Request::Bench(n, code));
        if !finished.times.is_empty() {
            self.reporter.out(&actions::timings(&finished.times));
        }
    }

    /// Says that a long cell has ended, for who looks elsewhere meanwhile.
    fn notify(&mut self, time: Duration) {
        if self.config.time("notify_after").is_none_or(|limit| time < limit) {
            return;
        }
        let words = format!("scumble: done after {}", progress::duration(time));
        let text = match self.config.get("notify") {
            "auto" => reach::call(self.reporter.caps(Typing::Keep), &words),
            "bell" => reach::BELL.to_string(),
            "osc9" => reach::message(&words),
            _ => return,
        };
        self.reporter.tell_terminal(&text);
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

/// What is said of the cells of a pasted session behind one that did not come to its end.
fn unfinished(code: u8, left: usize) -> String {
    let why = if code == Exit::Interrupted.code() { "was stopped" } else { "failed" };
    let cells =
        if left == 1 { "the cell behind it was".into() } else { format!("the {left} cells behind it were") };
    format!("the pasted session ends here: this cell {why}, {cells} not run")
}
