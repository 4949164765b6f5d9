//! Terminal modes. Guards restore what they change; [`restore`] does it from anywhere.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::PoisonError;

use rustix::termios::{self, LocalModes, OptionalActions, Termios};

/// The modes as they were when the program started.
static INITIAL: Mutex<Option<Termios>> = Mutex::new(None);

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

/// Columns and rows of the window; 80 × 24 where there is none.
pub fn size() -> (u16, u16) {
    let measured = [rustix::stdio::stdout(), rustix::stdio::stderr(), rustix::stdio::stdin()]
        .into_iter()
        .find_map(|fd| termios::tcgetwinsize(fd).ok().filter(|s| s.ws_col > 0 && s.ws_row > 0));
    measured.map_or((80, 24), |s| (s.ws_col, s.ws_row))
}

/// Remembers the modes, for [`restore`]. Call it once, at the start.
pub fn save_initial() {
    let modes = termios::tcgetattr(rustix::stdio::stdin()).ok();
    *INITIAL.lock().unwrap_or_else(PoisonError::into_inner) = modes;
}

/// Brings back the modes of the start and shows the cursor. May be called at any time, from any thread.
pub fn restore() {
    let modes = INITIAL.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(modes) = modes {
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &modes);
    }
    if is_terminal_err() && !is_dumb() {
        let _ = std::io::stderr().write_all(b"\x1b[?25h");
    }
}

/// While it lives, typed keys are not echoed and wait in the terminal for the next reader; Ctrl-C is still a signal.
/// The keyboard is never read.
pub struct Quiet {
    before: Termios,
}

impl Quiet {
    /// Enters the mode. `None` if stdin is no terminal.
    pub fn enter() -> Option<Quiet> {
        if !is_terminal_in() {
            return None;
        }
        let before = termios::tcgetattr(rustix::stdio::stdin()).ok()?;
        let mut modes = before.clone();
        modes.local_modes -= LocalModes::ECHO | LocalModes::ICANON;
        modes.local_modes |= LocalModes::ISIG;
        termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &modes).ok()?;
        Some(Quiet { before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}
