//! Signals, on a thread of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::Signals;

use super::tty;

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// A request to end.
    Terminate,
    /// The terminal went away.
    Hangup,
    /// The window changed its size.
    Resize,
}

/// Whether the process was started with hang-ups ignored. To be asked before [`install`], which handles them.
pub fn ignores_hangup() -> bool {
    // A mask in hexadecimal digits; signal n is bit n - 1. Only Linux tells.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).unwrap_or(0);
    mask >> (SIGHUP - 1) & 1 == 1
}

/// Says whether Ctrl-Z simply stops the process. While a [`tty::Quiet`] guard lives the modes have to be brought back
/// first; the line editor does that by itself.
#[derive(Clone, Debug)]
pub struct Suspension(Arc<AtomicBool>);

impl Suspension {
    /// `simple`: stop at once.
    pub fn set(&self, simple: bool) {
        self.0.store(simple, Ordering::SeqCst);
    }
}

/// Calls `handler` for every signal, on a thread that lives as long as the process.
/// Errors: the system refuses a handler or the thread.
pub fn install(handler: impl Fn(Signal) + Send + 'static) -> std::io::Result<Suspension> {
    let simple = Arc::new(AtomicBool::new(true));
    signal_hook::flag::register_conditional_default(SIGTSTP, Arc::clone(&simple))?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP, SIGCONT])?;
    let plain = Arc::clone(&simple);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGINT => handler(Signal::Interrupt),
                SIGTERM => handler(Signal::Terminate),
                SIGHUP => handler(Signal::Hangup),
                SIGWINCH => handler(Signal::Resize),
                SIGTSTP if !plain.load(Ordering::SeqCst) => {
                    tty::restore();
                    let _ = signal_hook::low_level::emulate_default_handler(SIGTSTP);
                    tty::reenter();
                }
                SIGCONT => tty::reenter(),
                _ => {}
            }
        }
    })?;
    Ok(Suspension(simple))
}
