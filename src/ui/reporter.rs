//! Where everything that a script does becomes text and pictures: on a terminal, through a pipe, or as JSON lines.
//!
//! Through a pipe, stdout carries values, printed lines and saved paths only; progress and warnings go to stderr.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use image::RgbImage;
use serde_json::{Value, json};

use super::progress::Progress;
use crate::engine::observe::Event;
use crate::report::Report;
use crate::script::session::Outcome;
use crate::term::graphics::{self, Bounds};
use crate::term::probe::Caps;
use crate::term::style::{Role, Style};
use crate::term::tty;

/// How output is meant to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By a person, on a terminal.
    Terminal,
    /// By another program, or from a file.
    Plain,
    /// By another program, as one JSON object a line.
    Json,
}

/// Writes events, values and errors.
pub struct Reporter {
    mode: Mode,
    /// Colors on stdout.
    pub style: Style,
    /// Colors on stderr.
    pub style_err: Style,
    quiet: bool,
    caps: Option<Caps>,
    progress: Progress,
    line_open: bool,
    log: Option<File>,
    /// stdout was closed by its reader: the work goes on, nothing more is written there.
    closed: bool,
    /// stdout could not be written for another reason than a reader that left (a full disk).
    failed: bool,
}

impl Reporter {
    /// `caps` is what the terminal can show (`None`: no pictures); `quiet` drops progress and remarks.
    pub fn new(
        mode: Mode,
        style: Style,
        style_err: Style,
        quiet: bool,
        caps: Option<Caps>,
        log: Option<File>,
    ) -> Self {
        Reporter {
            mode,
            style,
            style_err,
            quiet,
            caps,
            progress: Progress::default(),
            line_open: false,
            log,
            closed: false,
            failed: false,
        }
    }

    /// Whether something that belongs on stdout was lost.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// How output is meant to be read.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What the terminal can show.
    pub fn caps(&self) -> Option<&Caps> {
        self.caps.as_ref()
    }

    /// Starts the clock of a request.
    pub fn begin(&mut self) {
        self.progress = Progress::default();
    }

    /// Takes an event.
    pub fn event(&mut self, event: &Event) {
        self.log_event(event);
        if self.mode == Mode::Json {
            return self.json(event_json(event));
        }
        match event {
            Event::Step { label, done, total } => self.step(label, *done, *total),
            Event::Print(text) => self.out(text),
            Event::Warn(text) => self.remark(Role::Warn, &format!("note: {text}")),
            Event::Picture { picture, caption } => self.picture(picture, caption),
            Event::Saved(path) => self.saved(path),
        }
    }

    /// Shows what a cell or a recipe gave.
    pub fn outcome(&mut self, outcome: &Outcome) {
        self.clear_progress();
        if self.mode == Mode::Json {
            return self.json(json!({"event": "value", "text": outcome.text}));
        }
        for picture in &outcome.pictures {
            self.picture(picture, "");
        }
        if let Some(text) = &outcome.text {
            self.log(text);
            self.out(text);
        }
    }

    /// Shows an error on stderr.
    pub fn report(&mut self, report: &Report) {
        self.clear_progress();
        self.log(&report.render(false, 100));
        if self.mode == Mode::Json {
            return self.json(json!({
                "event": "error", "kind": report.kind, "message": report.title, "expected": report.expected,
                "got": report.got, "hint": report.hint, "line": report.span.map(|s| s.line),
                "source": report.source.as_ref().map(|s| s.name.clone()),
            }));
        }
        let width = usize::from(tty::size().0);
        self.err(&report.render(self.style_err.color, width));
    }

    /// A line for people, on stderr; dropped when quiet.
    pub fn remark(&mut self, role: Role, text: &str) {
        if self.quiet {
            return;
        }
        self.clear_progress();
        if self.mode == Mode::Json {
            return self.json(json!({"event": "remark", "text": text}));
        }
        let painted = self.style_err.paint(role, text);
        self.err(&painted);
    }

    /// Ends the progress line with a summary, if one was shown; says whether.
    pub fn finish(&mut self) -> bool {
        let shown = self.progress.shown();
        self.clear_progress();
        if shown && self.mode == Mode::Terminal {
            let text = self.progress.summary();
            self.remark(Role::Dim, &text);
        }
        self.progress = Progress::default();
        shown
    }

    /// A line on stdout. A closed pipe is remembered, never an error: results are in files.
    pub fn out(&mut self, text: &str) {
        self.clear_progress();
        if self.closed {
            return;
        }
        let mut out = io::stdout().lock();
        if let Err(e) = writeln!(out, "{text}").and_then(|()| out.flush()) {
            self.closed = true;
            drop(out);
            if e.kind() != io::ErrorKind::BrokenPipe {
                self.failed = true;
                self.err(&format!("error: stdout cannot be written: {e}"));
            }
        }
    }

    fn err(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{}", text.trim_end());
    }

    fn step(&mut self, label: &'static str, done: usize, total: usize) {
        self.progress.step(label, done, total);
        if self.quiet {
            return;
        }
        if self.mode == Mode::Plain || !tty::is_terminal_err() || tty::is_dumb() {
            if self.progress.line_due() {
                let line = self.progress.line(100, false);
                self.err(&line);
            }
        } else if self.progress.due() {
            let width = usize::from(tty::size().0).saturating_sub(1);
            let line = self.style_err.paint(Role::Dim, &self.progress.line(width, true));
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r\x1b[K{line}").and_then(|()| err.flush());
            self.line_open = true;
        }
    }

    fn clear_progress(&mut self) {
        if std::mem::take(&mut self.line_open) {
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r\x1b[K").and_then(|()| err.flush());
        }
    }

    fn picture(&mut self, picture: &RgbImage, caption: &str) {
        let Some(caps) = self.caps.as_ref().filter(|_| self.mode == Mode::Terminal && !self.closed) else {
            return;
        };
        let caps = caps.clone();
        self.clear_progress();
        let (columns, rows) = tty::size();
        let bounds = Bounds {
            columns: columns.saturating_sub(1).clamp(1, 60),
            rows: rows.saturating_sub(4).clamp(1, 20),
        };
        if graphics::show(&mut io::stdout(), &caps, picture, bounds).is_err() {
            self.closed = true;
        }
        if !caption.is_empty() {
            let caption = self.style.paint(Role::Dim, caption);
            self.out(&caption);
        }
    }

    fn saved(&mut self, path: &Path) {
        self.out(&path.display().to_string());
    }

    fn json(&mut self, value: Value) {
        self.out(&value.to_string());
    }

    fn log(&mut self, text: &str) {
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{}", text.trim_end());
        }
    }

    /// Writes a cell into the log.
    pub fn log_cell(&mut self, code: &str) {
        self.log(&format!("> {}", code.trim_end().replace('\n', "\n  ")));
    }

    fn log_event(&mut self, event: &Event) {
        match event {
            Event::Print(text) => self.log(text),
            Event::Warn(text) => self.log(&format!("note: {text}")),
            Event::Saved(path) => self.log(&path.display().to_string()),
            Event::Step { .. } | Event::Picture { .. } => {}
        }
    }
}

fn event_json(event: &Event) -> Value {
    match event {
        Event::Step { label, done, total } => {
            json!({"event": "step", "label": label, "done": done, "total": total})
        }
        Event::Print(text) => json!({"event": "print", "text": text}),
        Event::Warn(text) => json!({"event": "note", "text": text}),
        Event::Picture { picture, caption } => {
            json!({"event": "picture", "width": picture.width(), "height": picture.height(), "caption": caption})
        }
        Event::Saved(path) => json!({"event": "saved", "path": path}),
    }
}
