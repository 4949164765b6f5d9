//! Terminal modes. Guards restore what they change; [`restore`] does it from anywhere.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{self, LocalModes, OptionalActions, Termios};

/// What [`restore`] and [`reenter`] need to know.
struct State {
    /// The modes when the program started.
    initial: Option<Termios>,
    /// Whether a [`Quiet`] guard lives.
    quiet: bool,
}

static STATE: Mutex<State> = Mutex::new(State { initial: None, quiet: false });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether stdin is a terminal.
pub fn is_terminal_in() -> bool {
    std::io::stdin().is_terminal()
}

/// Whether stdout is a terminal.
pub fn is_terminal_out() -> bool {
    std::io::stdout().is_terminal()
}

/// Whether stderr is a terminal.
pub fn is_terminal_err() -> bool {
    std::io::stderr().is_terminal()
}

/// Whether the terminal understands no escapes (`TERM=dumb` or unset).
pub fn is_dumb() -> bool {
    std::env::var("TERM").map_or(true, |t| t.is_empty() || t == "dumb")
}

/// Whether stdin is a terminal whose foreground job we are. A background job that changes the modes of its terminal, or
/// reads from it, is stopped by the kernel.
pub fn is_foreground() -> bool {
    let own = rustix::process::getpgrp();
    termios::tcgetpgrp(rustix::stdio::stdin()).is_ok_and(|group| group == own)
}

/// Columns and rows of the window; 80 × 24 where there is none.
pub fn size() -> (u16, u16) {
    let measured = [rustix::stdio::stdout(), rustix::stdio::stderr(), rustix::stdio::stdin()]
        .into_iter()
        .find_map(|fd| termios::tcgetwinsize(fd).ok().filter(|s| s.ws_col > 0 && s.ws_row > 0));
    measured.map_or((80, 24), |s| (s.ws_col, s.ws_row))
}

/// Remembers the modes, for [`restore`]. Call it once, at the start.
pub fn save_initial() {
    state().initial = termios::tcgetattr(rustix::stdio::stdin()).ok();
}

/// Brings back the modes of the start, ends bracketed paste and shows the cursor. May be called at any time, from any
/// thread; a terminal that belongs to another job is left alone.
pub fn restore() {
    let Some(modes) = state().initial.clone().filter(|_| is_foreground()) else { return };
    let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &modes);
    if is_terminal_err() && !is_dumb() {
        let _ = std::io::stderr().write_all(b"\x1b[?2004l\x1b[?25h");
    }
}

/// Whether a key was typed that nobody has read yet. In line mode only whole lines count.
pub fn has_input() -> bool {
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    let stdin = rustix::stdio::stdin();
    poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&none)).is_ok_and(|n| n > 0)
}

/// While it lives, typed keys are not echoed and wait in the terminal for the next reader; Ctrl-C is still a signal.
/// The keyboard is never read.
pub struct Quiet {
    before: Termios,
}

impl Quiet {
    /// Enters the mode. `None` if stdin is no terminal, or not ours.
    pub fn enter() -> Option<Quiet> {
        if !is_foreground() {
            return None;
        }
        let before = termios::tcgetattr(rustix::stdio::stdin()).ok()?;
        termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &quieted(&before)).ok()?;
        state().quiet = true;
        Some(Quiet { before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        state().quiet = false;
        if is_foreground() {
            let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
        }
    }
}

fn quieted(modes: &Termios) -> Termios {
    let mut modes = modes.clone();
    modes.local_modes -= LocalModes::ECHO | LocalModes::ICANON;
    modes.local_modes |= LocalModes::ISIG;
    modes
}

/// Whether a [`Quiet`] guard lives.
pub fn is_quiet() -> bool {
    state().quiet
}

/// Enters the mode of the living guard again, after the process was stopped and came back.
pub fn reenter() {
    if is_quiet()
        && is_foreground()
        && let Ok(modes) = termios::tcgetattr(rustix::stdio::stdin())
    {
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &quieted(&modes));
    }
}

/// Whether stderr is the terminal's, and we are its foreground job.
pub fn owns_err() -> bool {
    let own = rustix::process::getpgrp();
    termios::tcgetpgrp(rustix::stdio::stderr()).is_ok_and(|group| group == own)
}
