//! Where everything that a script does becomes text and pictures: on a terminal, through a pipe, or as JSON lines.
//!
//! Through a pipe, stdout carries values, printed lines and saved paths only; progress and warnings go to stderr.

use std::io::Write;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::{Value, json};

use super::output::Output;
use super::panel::{Colors, Panel};
use super::progress::Progress;
use super::usage;
use super::worker::Looking;
use crate::engine::observe::Event;
use crate::report::Report;
use crate::script::{Outcome, types};
use crate::term::graphics::{self, Bounds};
use crate::term::probe::{self, Caps, Protocol, Typing};
use crate::term::reach;
use crate::term::style::{Role, Style};
use crate::term::{pager, tty};

/// Most columns and rows of a picture.
const PICTURE: (u16, u16) = (60, 20);
/// Requests shorter than this end without a word about their time, in seconds.
const WORTH_TELLING: f64 = 1.0;

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
    style_err: Style,
    quiet: bool,
    caps: Option<Caps>,
    progress: Progress,
    panel: Panel,
    line_open: bool,
    out: Output,
    /// The name of the recipe that runs: the stem of its result.
    recipe: Option<String>,
    /// The path that is to be the last line of a run, whatever else is printed.
    held: Option<PathBuf>,
    saved: Vec<PathBuf>,
}

impl Reporter {
    /// `style` and `style_err` are for stdout and stderr; `quiet` drops progress and remarks.
    pub fn new(mode: Mode, style: Style, style_err: Style, quiet: bool, out: Output) -> Self {
        Reporter {
            mode,
            style,
            style_err,
            quiet,
            caps: None,
            progress: Progress::default(),
            panel: Panel::on_stdout(),
            line_open: false,
            out,
            recipe: None,
            held: None,
            saved: Vec::new(),
        }
    }

    /// How output is meant to be read.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What the terminal can show; asked for at the first call.
    pub fn caps(&mut self, typing: Typing) -> &mut Caps {
        self.caps.get_or_insert_with(|| probe::probe(typing))
    }

    /// Asks the terminal anew, the next time somebody wants to know.
    pub fn forget_caps(&mut self) {
        self.caps = None;
    }

    /// Whether there shall be a panel while something runs, or a line only.
    pub fn want_panel(&mut self, wanted: bool) {
        self.panel.want(wanted);
    }

    /// Appends to a log file from now on. Errors (exit code 2): it cannot be opened.
    pub fn start_log(&mut self, path: &Path) -> Result<(), Report> {
        self.out.start_log(path)
    }

    /// Ends the log.
    pub fn stop_log(&mut self) {
        self.out.stop_log();
    }

    /// The log file, if there is one.
    pub fn log_path(&self) -> Option<PathBuf> {
        self.out.log_path()
    }

    /// Text on stdout, through the pager `choice` if it is taller than the screen.
    pub fn page(&mut self, text: &str, choice: &str) {
        self.clear_progress();
        if self.mode != Mode::Terminal || !pager::show(text, choice) {
            self.out(text);
        }
    }

    /// Escapes for the terminal, which nobody reads.
    pub fn tell_terminal(&mut self, escapes: &str) {
        if self.mode == Mode::Terminal && !self.out.is_closed() {
            let mut out = std::io::stdout().lock();
            let written = out.write_all(escapes.as_bytes()).and_then(|()| out.flush());
            self.out.note(written);
        }
    }

    /// Starts the clock of a request. `recipe`: it is a run of that recipe, whose last line is the path of its result.
    /// `looking` tells what runs whether somebody wants to see how it looks.
    pub fn begin(&mut self, recipe: Option<&str>, looking: Looking) {
        self.progress = Progress::default();
        self.panel.begin(looking);
        // What the terminal can show is asked with the first frame: short requests do not wait for the answer.
        if self.may_panel() {
            self.panel.look();
        }
        self.saved.clear();
        let stem = |name: &str| Path::new(name).file_stem().map(|s| s.to_string_lossy().to_string());
        self.recipe = recipe.and_then(stem);
    }

    /// Takes an event.
    pub fn event(&mut self, event: Event) {
        match &event {
            Event::Print(text) => self.out.log(text),
            Event::Warn(text) => self.out.log(&format!("note: {text}")),
            Event::Saved(path) => {
                self.out.log(&path.display().to_string());
                self.saved.push(path.clone());
            }
            Event::Step { .. } | Event::Loss { .. } | Event::Preview { .. } | Event::Picture { .. } => {}
        }
        if self.mode == Mode::Json {
            return self.json(&event_json(&event));
        }
        self.panel.event(&event);
        match event {
            Event::Preview { .. } => self.tick(),
            Event::Loss { label, step, loss } => self.progress.loss(label, step, loss),
            Event::Step { label, done, total } => self.step(label, done, total),
            Event::Print(text) => self.out(&text),
            Event::Warn(text) => self.remark(Role::Warn, &format!("note: {text}")),
            Event::Picture { picture, caption } => {
                // What has come to its end keeps its last frame; the picture stands below it.
                if self.progress.is_complete() {
                    self.freeze();
                }
                self.picture(&picture, &caption);
            }
            Event::Saved(path) => self.saved(path),
        }
    }

    /// Shows what a cell or a recipe gave.
    pub fn outcome(&mut self, outcome: &Outcome) {
        if let Some(text) = &outcome.text {
            self.out.log(text);
        }
        if self.mode == Mode::Json {
            if let Some(text) = &outcome.text {
                self.json(&json!({"event": "value", "text": text}));
            }
            return;
        }
        self.freeze();
        for picture in &outcome.pictures {
            self.picture(picture, "");
        }
        if let Some(text) = &outcome.text {
            self.out(text);
        }
    }

    /// Shows an error on stderr.
    pub fn report(&mut self, report: &Report) {
        self.out.log(&report.render(false, 100));
        if self.mode == Mode::Json {
            return self.json(&report_json(report));
        }
        self.freeze();
        self.flush_path();
        self.clear_progress();
        let width = usize::from(tty::size().0);
        let text = report.render(self.style_err.color, width);
        self.out.err(&format!("{}\n", text.trim_end()));
    }

    /// A line for people, on stderr; dropped when quiet.
    pub fn remark(&mut self, role: Role, text: &str) {
        if self.quiet {
            return;
        }
        if self.mode == Mode::Json {
            return self.json(&json!({"event": "remark", "text": text}));
        }
        self.clear_progress();
        let painted = self.style_err.paint(role, text);
        self.out.err(&format!("{painted}\n"));
    }

    /// Ends a request: the progress line goes, the path of the result is printed, and a long request says how long it
    /// took. `code` is the exit code that it would have.
    pub fn finish(&mut self, code: u8) {
        if self.mode == Mode::Json {
            self.json(&json!({"event": "done", "code": code, "saved": self.saved}));
        }
        self.freeze();
        self.panel.end();
        self.clear_progress();
        self.flush_path();
        let long = self.progress.age().as_secs_f64() > WORTH_TELLING;
        if long && code == 0 && self.mode == Mode::Terminal {
            let mut text = self.progress.summary();
            if let Some(bytes) = usage::peak() {
                text.push_str(&format!(
                    ", peak {}",
                    types::size(usize::try_from(bytes).unwrap_or(usize::MAX))
                ));
            }
            self.remark(Role::Dim, &text);
        }
        self.progress = Progress::default();
    }

    /// A line on stdout.
    pub fn out(&mut self, text: &str) {
        self.clear_progress();
        self.out.line(text);
    }

    /// A line on the terminal's stdout that is less important than the rest.
    pub fn dim(&mut self, text: &str) {
        let text = self.style.paint(Role::Dim, text);
        self.out(&text);
    }

    /// Writes a cell into the log.
    pub fn log_cell(&mut self, code: &str) {
        self.out.log(&format!("> {}", code.trim_end().replace('\n', "\n  ")));
    }

    /// Whether nobody reads what is written.
    pub fn is_unread(&self) -> bool {
        self.out.is_closed()
    }

    /// The exit code with which to end, given what else happened: a result that could not be written is a failure.
    pub fn last_word(&mut self, code: u8) -> u8 {
        match self.out.failure() {
            Some(report) => {
                self.report(&report);
                if code == 0 { report.exit.code() } else { code }
            }
            None => code,
        }
    }

    /// Draws the progress line again if it is time to. To be called now and then while something runs.
    pub fn tick(&mut self) {
        if self.quiet || !self.progress.due() || !self.can_draw() {
            return;
        }
        if self.may_panel() {
            let (title, colors) = (self.recipe.clone().unwrap_or_default(), self.colors());
            self.panel.tick(&title, &self.progress, colors);
        } else {
            self.panel.leave();
            let width = usize::from(tty::size().0).saturating_sub(1);
            let line = self.progress.line(width, self.style_err);
            self.out.err(&format!("\r\x1b[K{line}"));
            self.line_open = true;
        }
    }

    /// Whether a line can be drawn over and over: stderr is a terminal, and ours (a background job must not draw).
    fn can_draw(&self) -> bool {
        self.mode != Mode::Json && tty::is_terminal_err() && !tty::is_dumb() && tty::owns_err()
    }

    /// Whether the panel may be drawn: by a person's terminal, that is ours, and large enough.
    fn may_panel(&self) -> bool {
        self.mode == Mode::Terminal && !self.quiet && self.can_draw() && tty::owns_out() && self.panel.fits()
    }

    /// What the terminal can show in the panel.
    fn colors(&mut self) -> Colors {
        let text = self.style.color;
        let caps = self.caps(Typing::Leave);
        Colors { text, pictures: caps.protocol != Protocol::None, truecolor: caps.truecolor }
    }

    /// Leaves the panel's last frame where it is: what follows stands below it.
    fn freeze(&mut self) {
        // Asked first: a request that showed no panel does not ask the terminal what it can show either.
        if self.panel.is_shown() && self.may_panel() {
            let (title, colors) = (self.recipe.clone().unwrap_or_default(), self.colors());
            self.panel.freeze(&title, &self.progress, colors);
        } else {
            self.panel.leave();
        }
    }

    fn step(&mut self, label: &'static str, done: usize, total: usize) {
        self.progress.step(label, done, total);
        if self.quiet {
            return;
        }
        if self.can_draw() {
            self.tick();
        } else if self.progress.line_due() {
            let line = self.progress.text();
            self.out.err(&format!("{line}\n"));
        }
    }

    fn clear_progress(&mut self) {
        if tty::owns_out() {
            self.panel.hide();
        } else {
            self.panel.leave();
        }
        // Since it was drawn the terminal may have gone to another job.
        if std::mem::take(&mut self.line_open) && tty::owns_err() {
            self.out.err("\r\x1b[K");
        }
    }

    /// A path on stdout: that of a run's result, or else of its last file, waits until the run has ended.
    fn saved(&mut self, path: PathBuf) {
        let Some(recipe) = &self.recipe else { return self.out_path(&path) };
        if self.held.as_ref().is_some_and(|held| is_result(held, recipe)) && !is_result(&path, recipe) {
            return self.out_path(&path);
        }
        self.flush_path();
        self.held = Some(path);
    }

    fn flush_path(&mut self) {
        if let Some(path) = self.held.take() {
            self.out_path(&path);
        }
    }

    /// A picture, and its caption below it.
    fn picture(&mut self, picture: &RgbImage, caption: &str) {
        if self.mode != Mode::Terminal || self.out.is_closed() {
            return;
        }
        self.draw(picture, None);
        if !caption.is_empty() {
            self.dim(caption);
        }
    }

    /// Draws a picture, in another protocol than the chosen one if given.
    pub(super) fn draw(&mut self, picture: &RgbImage, protocol: Option<Protocol>) {
        self.clear_progress();
        let (columns, rows) = tty::size();
        let bounds = Bounds {
            columns: columns.saturating_sub(1).clamp(1, PICTURE.0),
            rows: rows.saturating_sub(4).clamp(1, PICTURE.1),
        };
        let mut caps = self.caps(Typing::Leave).clone();
        caps.protocol = protocol.unwrap_or(caps.protocol);
        if caps.protocol != Protocol::None {
            // One write instead of one for each piece, and nothing in between.
            let mut out = std::io::BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
            let shown = graphics::show(&mut out, &caps, picture, bounds);
            self.out.note(shown.and_then(|()| std::io::Write::flush(&mut out)));
        }
    }

    /// Remembers how writing to stdout by somebody else went.
    pub(super) fn note(&mut self, written: std::io::Result<()>) {
        self.out.note(written);
    }

    /// A path that was saved without a run, on stdout.
    pub(super) fn saved_beside(&mut self, path: &Path) {
        self.out_path(path);
    }

    /// A path on stdout; on a terminal that has links, one.
    fn out_path(&mut self, path: &Path) {
        let text = match self.mode {
            Mode::Terminal => reach::link(self.caps(Typing::Leave), path),
            _ => path.display().to_string(),
        };
        self.out(&text);
    }

    fn json(&mut self, value: &Value) {
        self.out.line(&value.to_string());
    }
}

/// Whether a file is the result of a recipe, `RECIPE.png` or `RECIPE-2.png`, and not something beside it.
fn is_result(path: &Path, recipe: &str) -> bool {
    let stem = path.file_stem().map(|s| s.to_string_lossy()).unwrap_or_default();
    let number = stem.strip_prefix(recipe).map(|rest| rest.strip_prefix('-').unwrap_or(rest));
    number.is_some_and(|n| n.chars().all(|c| c.is_ascii_digit()))
}

fn event_json(event: &Event) -> Value {
    match event {
        Event::Step { label, done, total } => {
            json!({"event": "step", "label": label, "done": done, "total": total})
        }
        Event::Loss { label, step, loss } => {
            json!({"event": "loss", "label": label, "step": step, "loss": loss})
        }
        Event::Preview { title, .. } => json!({"event": "preview", "title": title}),
        Event::Print(text) => json!({"event": "print", "text": text}),
        Event::Warn(text) => json!({"event": "note", "text": text}),
        Event::Picture { picture, caption } => {
            json!({"event": "picture", "width": picture.width(), "height": picture.height(), "caption": caption})
        }
        Event::Saved(path) => json!({"event": "saved", "path": path}),
    }
}

fn report_json(report: &Report) -> Value {
    json!({
        "event": "error",
        "kind": report.kind,
        "message": report.title,
        "expected": report.expected,
        "got": report.got,
        "hint": report.hint,
        "source": report.source.as_ref().map(|s| s.name.clone()),
        "line": report.span.map(|s| s.line),
        "column": report.span.map(|s| s.column),
        "trace": report.trace,
        "code": report.exit.code(),
    })
}
