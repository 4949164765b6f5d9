//! `:view`: a value on the whole screen. The alternate screen is used, so that the scrollback is as it was on leaving.
//!
//! The main thread reads the keys and draws; what takes time (decoding a level, saving a picture) is asked of the
//! evaluation thread while the keys go on working. A hang-up, Ctrl-C and a request to end leave the view at once.

mod attention;
mod curves;
mod model;
mod parts;
mod runs;
mod sheet;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use image::RgbImage;
use ratatui::buffer::Buffer;
use ratatui::layout::{Rect, Size};
use ratatui::{Terminal, TerminalOptions, Viewport};

use super::interrupt::Interrupts;
use super::panel::Out;
use super::reporter::{Mode, Reporter};
use super::screen::Screen;
use super::worker::{Answer, Message, Number, Request, Worker};
use crate::engine::observe::Event;
use crate::report::Report;
use crate::script::view::View;
use crate::term::keys::{Input, Key, Keyboard};
use crate::term::probe::Typing;
use crate::term::signals;
use crate::term::style::Role;
use crate::term::tty::{self, Full};

/// Least window in which something can be seen, columns and rows.
const LEAST: (u16, u16) = (40, 12);
/// Longest wait between two looks at signals and answers.
const LOOK: Duration = Duration::from_millis(40);
/// How long leaving waits for what the evaluation thread was asked.
const GRACE: Duration = Duration::from_secs(20);

/// What a key asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Nothing, or only another frame.
    Stay,
    /// Leave.
    Leave,
    /// Leave, with this text at the prompt.
    Prompt(String),
    /// Decode level `1` of the run in variable `0`.
    Decode(String, usize),
    /// Save a picture under a name.
    Save(Arc<RgbImage>, String),
}

/// A full-screen page.
pub trait Page {
    /// Draws everything between the line above and the two below.
    fn draw(&mut self, area: Rect, buffer: &mut Buffer);
    /// Takes a key.
    fn key(&mut self, key: Key) -> Act;
    /// The line above.
    fn title(&self) -> String;
    /// The keys, for the line below.
    fn keys(&self) -> &'static str;
    /// What the page wants without a key being pressed; asked now and then.
    fn wish(&mut self) -> Act {
        Act::Stay
    }
    /// Takes a decoded picture, and how long it took.
    fn decoded(
        &mut self,
        _name: &str,
        _level: usize,
        _picture: Result<Arc<RgbImage>, String>,
        _took: Duration,
    ) {
    }
    /// Whether keys are letters of a text at the moment.
    fn is_typing(&self) -> bool {
        false
    }
}

/// The page for what there is to see.
pub fn page(view: View, truecolor: bool) -> Box<dyn Page> {
    match view {
        View::Runs(runs) => Box::new(runs::RunsPage::new(runs, truecolor)),
        View::Sheet(cells) => Box::new(sheet::SheetPage::new(cells, truecolor)),
        View::Attention(maps) => Box::new(attention::AttentionPage::new(maps, truecolor)),
        View::Curves(curves) => Box::new(curves::CurvesPage::new(curves)),
        View::Model(inside) => Box::new(model::ModelPage::new(inside)),
    }
}

/// Draws a page with its lines above and below. `note` is the last word about what was asked.
pub fn draw(page: &mut dyn Page, note: &str, area: Rect, buffer: &mut Buffer) {
    if area.is_empty() {
        return;
    }
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!("make the window larger: {} x {} at least; q leaves", LEAST.0, LEAST.1);
        buffer.set_stringn(area.x, area.y, text, usize::from(area.width), parts::DIM);
        return;
    }
    parts::bar(&page.title(), area, buffer);
    let inner = Rect { y: area.y + 1, height: area.height - 3, ..area };
    page.draw(inner, buffer);
    let width = usize::from(area.width);
    buffer.set_stringn(area.x, area.bottom() - 2, note, width, parts::NOTE);
    buffer.set_stringn(area.x, area.bottom() - 1, page.keys(), width, parts::DIM);
}

/// Shows variables on the whole screen until the user leaves; a text for the prompt, if one was asked for.
pub(super) fn open(
    worker: &Worker,
    interrupts: &Interrupts,
    reporter: &mut Reporter,
    names: Vec<String>,
) -> Option<String> {
    if let Some(report) = impossible(reporter) {
        reporter.report(&report);
        return None;
    }
    let shown = names.join(" ");
    let view = match worker.call(Request::View(names)) {
        Ok((Answer::Seen(Ok(view)), _)) => view,
        Ok((Answer::Seen(Err(report)), _)) => {
            reporter.report(&report);
            return None;
        }
        _ => return None,
    };
    let truecolor = reporter.caps(Typing::Keep).truecolor;
    let color = reporter.style.color;
    let mut page = page(*view, truecolor);
    let full = Full::enter()?;
    interrupts.begin();
    let mut stage = Stage { worker, interrupts, color, waiting: Vec::new(), heard: Heard::default() };
    let ended = stage.play(&mut *page);
    stage.settle();
    let Heard { saved, failed, .. } = std::mem::take(&mut stage.heard);
    interrupts.end();
    drop(full);
    for path in &saved {
        reporter.out(&path.display().to_string());
    }
    failed.iter().for_each(|report| reporter.report(report));
    let prompt = match ended {
        Ok(prompt) => prompt,
        // The terminal went away: whoever reads next finds out, too.
        Err(_) => return None,
    };
    let title = page.title();
    let names = if title.starts_with(&shown) { String::new() } else { format!("{shown}, ") };
    reporter.remark(Role::Dim, &format!("seen: {names}{title}"));
    prompt
}

/// Why nothing can be shown on the whole screen here, if so.
fn impossible(reporter: &Reporter) -> Option<Report> {
    let report = Report::new("terminal", ":view needs a terminal that it can have to itself");
    if reporter.mode() != Mode::Terminal || !tty::is_foreground() {
        return Some(report.got("output to a pipe or a file").hint("print(value); save(picture, \"name\")"));
    }
    tty::is_dumb().then(|| {
        let term = std::env::var("TERM").unwrap_or_default();
        report
            .got(format!("TERM={term:?}, which knows no places on the screen"))
            .hint("TERM=xterm-256color scumble")
    })
}

struct Stage<'a> {
    worker: &'a Worker,
    interrupts: &'a Interrupts,
    color: bool,
    /// The requests that have no answer yet, and when each was sent.
    waiting: Vec<(Number, Instant)>,
    heard: Heard,
}

/// What came of requests, apart from pictures.
#[derive(Default)]
struct Heard {
    /// The last word, for the line below the page.
    note: String,
    saved: Vec<PathBuf>,
    /// What could not be saved, and was told only when there was no page any more to say so.
    failed: Vec<Report>,
}

impl Heard {
    /// Takes an answer; `page` is `None` where the view is being left.
    fn take(&mut self, answer: Answer, took: Duration, page: Option<&mut dyn Page>) {
        match (answer, page) {
            (Answer::Decoded(name, level, picture), page) => {
                let picture = picture.map_err(|report| {
                    self.note = report.title.clone();
                    report.title.clone()
                });
                if let Some(page) = page {
                    page.decoded(&name, level, picture, took);
                }
            }
            (Answer::Saved(Err(report)), Some(_)) => self.note = report.title.clone(),
            (Answer::Saved(Err(report)), None) => self.failed.push(*report),
            _ => {}
        }
    }
}

impl Stage<'_> {
    /// Draws and reads keys until the user leaves. Errors: the terminal cannot be written.
    fn play(&mut self, page: &mut dyn Page) -> io::Result<Option<String>> {
        let mut keyboard = Keyboard::default();
        let mut redraws = tty::redraws();
        let mut terminal = self.terminal()?;
        let mut stale = true;
        loop {
            if self.interrupts.exit().is_some() || self.interrupts.count() > 0 {
                return Ok(None);
            }
            if redraws != tty::redraws() {
                redraws = tty::redraws();
                terminal = self.terminal()?;
                stale = true;
            }
            stale |= self.hear(page);
            let wish = page.wish();
            if wish != Act::Stay {
                self.act(wish);
                stale = true;
            }
            if stale && !tty::is_given_away() {
                stale = false;
                terminal.draw(|frame| draw(page, &self.heard.note, frame.area(), frame.buffer_mut()))?;
            }
            let act = match keyboard.next(LOOK) {
                Input::Nothing => continue,
                Input::Gone => return Err(io::ErrorKind::UnexpectedEof.into()),
                Input::Key(Key::Ctrl('c' | 'd')) => return Ok(None),
                Input::Key(Key::Ctrl('z')) => {
                    signals::suspend();
                    continue;
                }
                // Escape and `q` leave, unless the page has something to close first.
                Input::Key(Key::Char('q')) if !page.is_typing() => page.key(Key::Escape),
                Input::Key(key) => page.key(key),
            };
            stale = true;
            self.heard.note.clear();
            match act {
                Act::Leave => return Ok(None),
                Act::Prompt(text) => return Ok(Some(text)),
                act => self.act(act),
            }
        }
    }

    fn terminal(&self) -> io::Result<Terminal<Screen<Out>>> {
        let (columns, rows) = tty::size();
        let screen = Screen::whole(Box::new(io::stdout()) as Out, Size::new(columns, rows), self.color);
        let viewport = Viewport::Fixed(Rect::new(0, 0, columns, rows));
        Terminal::with_options(screen, TerminalOptions { viewport })
    }

    /// Asks the evaluation thread for what takes time.
    fn act(&mut self, act: Act) {
        let request = match act {
            Act::Decode(name, level) => Request::Level(name, level),
            Act::Save(picture, name) => Request::SavePicture(picture, name),
            _ => return,
        };
        self.waiting.extend(self.worker.ask(request).map(|number| (number, Instant::now())));
    }

    /// Takes what the evaluation thread has to say. `true`: there is something new to see.
    fn hear(&mut self, page: &mut dyn Page) -> bool {
        let mut heard = false;
        while !self.waiting.is_empty() {
            let Ok(Some(message)) = self.worker.next(Duration::ZERO) else { break };
            heard |= self.take(message, Some(page));
        }
        heard
    }

    fn take(&mut self, message: Message, page: Option<&mut dyn Page>) -> bool {
        match message {
            Message::Event(Event::Saved(path)) => {
                self.heard.note = format!("saved: {}", path.display());
                self.heard.saved.push(path);
                true
            }
            Message::Event(_) => false,
            Message::Answer(number, answer, _) => {
                let Some(at) = self.waiting.iter().position(|(n, _)| *n == number) else { return false };
                let (_, asked) = self.waiting.remove(at);
                self.heard.take(answer, asked.elapsed(), page);
                true
            }
        }
    }

    /// Waits for what was asked: what nobody waits for any more is cancelled.
    fn settle(&mut self) {
        let end = Instant::now() + GRACE;
        if !self.waiting.is_empty() {
            self.worker.cancel().set();
        }
        while !self.waiting.is_empty() && Instant::now() < end {
            match self.worker.next(LOOK) {
                Ok(Some(message)) => _ = self.take(message, None),
                Ok(None) => {}
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
