//! Terminal modes. Guards restore what they change; [`restore`] does it from anywhere: a signal, a panic.
//!
//! A guard is [`Quiet`] (something runs) or [`Full`] (a view has the whole screen); guards may lie inside each other.
//! Ctrl-Z leaves the mode of the innermost one and coming back enters it again; [`redraws`] then counts up.

use std::io::{IsTerminal, Write};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{self, InputModes, LocalModes, OptionalActions, Termios};

/// What a guard has made of the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Quiet,
    Keys,
    Full,
}

/// What [`restore`] and [`reenter`] need to know.
struct State {
    /// The modes when the program started.
    initial: Option<Termios>,
    /// Of the living guards, the innermost last.
    guards: Vec<Mode>,
    /// Whether [`restore`] has left the mode of the guards, so that [`reenter`] has something to do.
    left: bool,
}

static STATE: Mutex<State> = Mutex::new(State { initial: None, guards: Vec::new(), left: false });

/// Whether Ctrl-Z simply stops the process, as no guard has changed anything.
static SIMPLE: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(true)));

/// See [`redraws`].
static REDRAWS: AtomicUsize = AtomicUsize::new(0);

/// Starts the alternate screen, empty, without a cursor.
const FULL: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[0m\x1b[2J\x1b[H";
/// Ends what a frame may have left open, and the alternate screen.
const NOT_FULL: &[u8] = b"\x1b[?2026l\x1b[0m\x1b[?1049l\x1b[?25h";

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The flag that says whether Ctrl-Z simply stops the process; without a guard, and at the line editor's prompt, which
/// brings the modes back by itself.
pub(super) fn stops_simply() -> Arc<AtomicBool> {
    Arc::clone(&SIMPLE)
}

/// Counts up whenever what is on the screen may be gone: the window has another size, or the process was stopped and came
/// back. A view that sees another number than last time draws everything.
pub fn redraws() -> usize {
    REDRAWS.load(Ordering::SeqCst)
}

/// Says that what is on the screen may be gone.
pub(super) fn redraw() {
    REDRAWS.fetch_add(1, Ordering::SeqCst);
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

/// Brings back the modes of the start, ends full screen and bracketed paste and shows the cursor, and gives the terminal
/// away: nothing is drawn until [`reenter`], or until the next guard. May be called at any time, from any thread; a terminal
/// that belongs to another job is left alone.
pub fn restore() {
    back_to_start(true);
}

/// The same after a program of ours has left the terminal in modes of its own: the terminal stays ours.
pub fn mend() {
    back_to_start(false);
}

fn back_to_start(given_away: bool) {
    let (modes, full) = {
        let mut state = state();
        let Some(modes) = state.initial.clone().filter(|_| is_foreground()) else { return };
        state.left |= given_away;
        (modes, state.guards.contains(&Mode::Full))
    };
    let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &modes);
    if is_dumb() {
        return;
    }
    if full {
        tell(NOT_FULL);
    }
    tell(b"\x1b[?2004l\x1b[?25h");
}

/// Writes to the terminal without a lock and without waiting long, from any thread: another one may hold the lock of stdout,
/// and the terminal may be one that takes nothing (Ctrl-S). What it does not take in time is lost.
fn tell(bytes: &[u8]) {
    let out: BorrowedFd = match () {
        () if is_terminal_err() => rustix::stdio::stderr(),
        () if is_terminal_out() => rustix::stdio::stdout(),
        () => return,
    };
    let tenth = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    if poll(&mut [PollFd::new(&out, PollFlags::OUT)], Some(&tenth)).is_ok_and(|n| n > 0) {
        let _ = rustix::io::write(out, bytes);
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
    _guard: Guard,
}

impl Quiet {
    /// Enters the mode. `None` if stdin is no terminal, or not ours.
    pub fn enter() -> Option<Quiet> {
        Some(Quiet { _guard: Guard::enter(Mode::Quiet)? })
    }
}

/// While it lives, keys arrive one by one and are not echoed, Ctrl-C and Ctrl-Z among them, on the usual screen: read them
/// with [`super::keys::Keyboard`].
pub struct Keys {
    _guard: Guard,
}

impl Keys {
    /// Enters the mode. `None` if stdin is no terminal, or not ours.
    pub fn enter() -> Option<Keys> {
        Some(Keys { _guard: Guard::enter(Mode::Keys)? })
    }
}

/// While it lives, the alternate screen is shown and keys arrive one by one, Ctrl-C and Ctrl-Z among them: read them with
/// [`super::keys::Keyboard`], which never waits for a terminal that is gone.
pub struct Full {
    _guard: Guard,
}

impl Full {
    /// Enters the mode. `None` if stdin or stdout is no terminal, or not ours, or understands no escapes.
    pub fn enter() -> Option<Full> {
        if is_dumb() || !is_terminal_out() {
            return None;
        }
        Some(Full { _guard: Guard::enter(Mode::Full)? })
    }
}

/// What both have in common.
struct Guard {
    before: Termios,
    mode: Mode,
}

impl Guard {
    fn enter(mode: Mode) -> Option<Guard> {
        if !is_foreground() {
            return None;
        }
        let before = termios::tcgetattr(rustix::stdio::stdin()).ok()?;
        SIMPLE.store(false, Ordering::SeqCst);
        let set = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &changed(&before, mode));
        let mut state = state();
        if set.is_err() {
            SIMPLE.store(state.guards.is_empty(), Ordering::SeqCst);
            return None;
        }
        state.guards.push(mode);
        // Whoever enters a mode has the terminal, whatever was given away before.
        state.left = false;
        drop(state);
        if mode == Mode::Full {
            write(FULL);
        }
        Some(Guard { before, mode })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let last = {
            let mut state = state();
            if let Some(at) = state.guards.iter().rposition(|m| *m == self.mode) {
                state.guards.remove(at);
            }
            state.guards.is_empty()
        };
        if is_foreground() {
            if self.mode == Mode::Full {
                write(NOT_FULL);
            }
            let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
        }
        SIMPLE.store(last, Ordering::SeqCst);
    }
}

/// Writes on stdout, behind what was written before, however long that takes: a slow line would lose the end of the full
/// screen otherwise.
fn write(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

fn changed(modes: &Termios, mode: Mode) -> Termios {
    let mut modes = modes.clone();
    modes.local_modes -= LocalModes::ECHO | LocalModes::ICANON;
    match mode {
        Mode::Quiet => modes.local_modes |= LocalModes::ISIG,
        Mode::Keys | Mode::Full => {
            modes.local_modes -= LocalModes::ISIG | LocalModes::IEXTEN;
            // Enter is not Ctrl-J, and Ctrl-S stops nothing.
            modes.input_modes -= InputModes::ICRNL | InputModes::IXON;
        }
    }
    modes
}

/// Whether a guard lives.
pub fn is_guarded() -> bool {
    !state().guards.is_empty()
}

/// Whether [`restore`] has given the terminal away and it was not taken again yet, by [`reenter`] or a new guard: nothing is
/// to be drawn. A process that was stopped runs on for a moment before its modes are back.
pub fn is_given_away() -> bool {
    state().left
}

/// Enters the mode of the innermost guard again, after [`restore`]: the process was stopped and came back, or what was to
/// end it did not.
pub fn reenter() {
    let (mode, left) = {
        let mut state = state();
        if !is_foreground() {
            return;
        }
        (state.guards.last().copied(), std::mem::take(&mut state.left))
    };
    let Some(mode) = mode else { return };
    if let Ok(modes) = termios::tcgetattr(rustix::stdio::stdin()) {
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &changed(&modes, mode));
    }
    if mode == Mode::Full && left {
        tell(FULL);
    }
    redraw();
}

/// Whether stdout is the terminal's, and we are its foreground job.
pub fn owns_out() -> bool {
    let own = rustix::process::getpgrp();
    termios::tcgetpgrp(rustix::stdio::stdout()).is_ok_and(|group| group == own)
}

/// Whether stderr is the terminal's, and we are its foreground job.
pub fn owns_err() -> bool {
    let own = rustix::process::getpgrp();
    termios::tcgetpgrp(rustix::stdio::stderr()).is_ok_and(|group| group == own)
}
