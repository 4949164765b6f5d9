//! The live panel: what runs, how far it is, how it looks. It stands below the text while something long runs, and its
//! last frame stays in the scrollback.
//!
//! The keyboard is never read and the terminal never asked: what is typed ahead waits for the prompt (the terminal is in
//! [`crate::term::tty::Quiet`] mode), and Ctrl-C is a signal. Lines of text go above: the panel is erased, the text is
//! written, and the panel drawn anew when its next frame is due. When the window changes its size, or the process comes
//! back from a stop, the old frame is left where the terminal has moved it, and a new panel begins below.

mod draw;

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use image::RgbImage;
use ratatui::layout::{Rect, Size};
use ratatui::{Terminal, TerminalOptions, Viewport};

pub use draw::{Shown, draw, smoothed};

use super::progress::Progress;
use super::screen::Screen;
use super::worker::Looking;
use crate::engine::observe::Event;
use crate::script::host;
use crate::term::tty;

/// Least window in which there is a panel, columns and rows.
const LEAST: (u16, u16) = (40, 12);
/// Time between two frames, and between two previews.
const PERIOD: Duration = Duration::from_millis(200);
/// Longest time between two frames on a slow line.
const SLOWEST: Duration = Duration::from_secs(5);
/// A write that took so long halves the rate.
const SLOW: Duration = Duration::from_millis(100);
/// A write that took so long ends the pictures of this run.
const TOO_SLOW: Duration = Duration::from_millis(500);
/// Points of a loss curve. Twice as many are made half by taking means of two.
const POINTS: usize = 512;

/// Where frames go.
pub type Out = Box<dyn Write>;

/// What the terminal can show of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colors {
    /// Colors for text.
    pub text: bool,
    /// Pictures at all.
    pub pictures: bool,
    /// 24 bits.
    pub truecolor: bool,
}

/// The panel of one request after the other.
pub struct Panel {
    open: fn() -> Out,
    /// Whether the user wants one.
    wanted: bool,
    looking: Looking,
    live: Option<Live>,
    data: Data,
    period: Duration,
    drawn: Option<Instant>,
    /// Whether a frame of this request was shown, and whether its last one stands for good.
    shown: bool,
    frozen: bool,
    /// Writing failed: no more frames.
    broken: bool,
    /// The line is too slow for pictures: no more of them in this request.
    bare: bool,
}

/// A panel that stands on the screen.
struct Live {
    terminal: Terminal<Screen<Out>>,
    size: Size,
    window: (u16, u16),
    redraws: usize,
}

/// What was heard of the run.
#[derive(Default)]
struct Data {
    preview: Option<(String, Arc<Vec<RgbImage>>)>,
    losses: Vec<(f64, f64)>,
    /// What is trained, and every how many steps make a point.
    label: &'static str,
    every: usize,
    pending: Vec<(f64, f64)>,
}

impl Data {
    fn loss(&mut self, label: &'static str, step: usize, loss: f64) {
        let before = self.losses.last().or(self.pending.last()).map_or(0.0, |p| p.0);
        if label != self.label || (step as f64) <= before {
            *self = Data { label, every: 1, preview: self.preview.take(), ..Data::default() };
        }
        if !loss.is_finite() {
            return;
        }
        self.pending.push((step as f64, loss));
        if self.pending.len() >= self.every {
            self.losses.push(mean(&self.pending));
            self.pending.clear();
        }
        if self.losses.len() >= 2 * POINTS {
            self.losses = self.losses.chunks(2).map(mean).collect();
            self.every *= 2;
        }
    }
}

/// The last place, and the mean of the values.
fn mean(points: &[(f64, f64)]) -> (f64, f64) {
    let last = points.last().map_or(0.0, |p| p.0);
    (last, points.iter().map(|p| p.1).sum::<f64>() / points.len().max(1) as f64)
}

impl Panel {
    /// A panel that draws to what `open` gives, if it is `wanted`.
    pub fn new(open: fn() -> Out, wanted: bool) -> Self {
        Panel {
            open,
            wanted,
            looking: Looking::default(),
            live: None,
            data: Data::default(),
            period: PERIOD,
            drawn: None,
            shown: false,
            frozen: false,
            broken: false,
            bare: false,
        }
    }

    /// On stdout.
    pub fn on_stdout() -> Self {
        Panel::new(|| Box::new(io::stdout()), true)
    }

    /// Whether there shall be one, from the next request on.
    pub fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
    }

    /// A request begins; `looking` tells its engine whether pictures are wanted.
    pub fn begin(&mut self, looking: Looking) {
        *self = Panel { looking, broken: self.broken, ..Panel::new(self.open, self.wanted) };
    }

    /// Whether there can be a panel in this window.
    pub fn fits(&self) -> bool {
        let (columns, rows) = tty::size();
        self.wanted && !self.broken && columns >= LEAST.0 && rows >= LEAST.1
    }

    /// Asks the engine for pictures of what it makes.
    pub fn look(&self) {
        self.looking.set(Some(PERIOD));
    }

    /// Takes what an event says.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Step { .. } => self.frozen = false,
            Event::Loss { label, step, loss } => self.data.loss(label, *step, *loss),
            Event::Preview { title, pictures } if !self.bare => {
                self.data.preview = Some((title.clone(), Arc::clone(pictures)));
            }
            _ => {}
        }
    }

    /// Draws a frame, if it is time for one.
    pub fn tick(&mut self, title: &str, progress: &Progress, colors: Colors) {
        if !self.frozen && self.drawn.is_none_or(|d| d.elapsed() >= self.period) {
            self.draw(title, progress, colors);
        }
    }

    /// Draws a frame.
    pub fn draw(&mut self, title: &str, progress: &Progress, colors: Colors) {
        if tty::is_given_away() {
            return;
        }
        self.drawn = Some(Instant::now());
        if !colors.pictures {
            self.looking.set(None);
        }
        let window = tty::size();
        let shown = Shown {
            title,
            progress,
            memory: host::allocated(),
            preview: self.data.preview.as_ref().filter(|_| colors.pictures),
            losses: &self.data.losses,
            colors,
        };
        if self.live.as_ref().is_some_and(|l| l.window != window || l.redraws != tty::redraws()) {
            // Wherever the old frame is now, the cursor is below it.
            self.live = None;
        }
        let size = Size::new(window.0 - 1, shown.rows(window.1));
        if self.live.as_ref().is_some_and(|l| l.size.height < size.height) {
            self.broken |= !erased(&mut self.live);
        }
        let open = self.open;
        let begun = Instant::now();
        let drawn = match &mut self.live {
            Some(live) => live.frame(&shown),
            None => Live::new(open(), size, window, colors.text).and_then(|mut live| {
                live.frame(&shown)?;
                self.live = Some(live);
                Ok(())
            }),
        };
        self.shown = true;
        if drawn.is_err() {
            // The terminal is gone, or it is full of something else: the work goes on.
            (self.broken, self.live) = (true, None);
        }
        self.pace(begun.elapsed());
    }

    /// A slow line gets fewer frames, a very slow one only text.
    fn pace(&mut self, took: Duration) {
        if took > TOO_SLOW {
            self.bare = true;
            self.data.preview = None;
            self.looking.set(None);
        }
        if took > SLOW {
            self.period = (self.period * 2).min(SLOWEST);
            if !self.bare {
                self.looking.set(Some(self.period));
            }
        }
    }

    /// Erases the panel, so that text can be written where it stood. It comes back with the next frame.
    pub fn hide(&mut self) {
        self.broken |= !erased(&mut self.live);
    }

    /// Whether this request has shown a frame.
    pub fn is_shown(&self) -> bool {
        self.shown
    }

    /// Leaves the last frame in the scrollback.
    pub fn freeze(&mut self, title: &str, progress: &Progress, colors: Colors) {
        if !self.frozen && self.fits() {
            self.draw(title, progress, colors);
        }
        self.frozen = true;
        self.live = None;
    }

    /// Leaves the frame that stands there as it is.
    pub fn leave(&mut self) {
        self.live = None;
    }

    /// The request has ended.
    pub fn end(&mut self) {
        self.looking.set(None);
        (self.shown, self.live) = (false, None);
        self.data = Data::default();
    }
}

/// Takes a panel from the screen. What has been moved by the terminal stays where it is. `false`: writing failed.
fn erased(live: &mut Option<Live>) -> bool {
    let Some(mut live) = live.take().filter(|_| !tty::is_given_away()) else { return true };
    live.window != tty::size()
        || live.redraws != tty::redraws()
        || live.terminal.backend_mut().erase().is_ok()
}

impl Live {
    fn new(out: Out, size: Size, window: (u16, u16), color: bool) -> io::Result<Live> {
        let redraws = tty::redraws();
        let screen = Screen::below(out, size, color);
        let viewport = Viewport::Fixed(Rect::new(0, 0, size.width, size.height));
        let terminal = Terminal::with_options(screen, TerminalOptions { viewport })?;
        Ok(Live { terminal, size, window, redraws })
    }

    fn frame(&mut self, shown: &Shown) -> io::Result<()> {
        self.terminal.draw(|frame| draw(shown, frame.area(), frame.buffer_mut()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
