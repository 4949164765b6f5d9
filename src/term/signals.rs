//! Signals, on a thread of their own.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGWINCH, SIGXFSZ};
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

/// Calls `handler` for every signal, on a thread that lives as long as the process.
/// Errors: the system refuses a handler or the thread.
pub fn install(handler: impl Fn(Signal) + Send + 'static) -> std::io::Result<()> {
    let simple = tty::stops_simply();
    signal_hook::flag::register_conditional_default(SIGTSTP, Arc::clone(&simple))?;
    // SIGXFSZ would end the process where a file may not grow (`ulimit -f`): handled, the write fails and is told.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP, SIGCONT, SIGXFSZ])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGINT => handler(Signal::Interrupt),
                SIGTERM => handler(Signal::Terminate),
                SIGHUP => handler(Signal::Hangup),
                SIGWINCH => {
                    tty::redraw();
                    handler(Signal::Resize);
                }
                // Under a guard: the terminal goes back to the shell as it was.
                SIGTSTP if !simple.load(Ordering::SeqCst) => {
                    tty::restore();
                    let _ = signal_hook::low_level::emulate_default_handler(SIGTSTP);
                    tty::reenter();
                }
                SIGCONT => tty::reenter(),
                _ => {}
            }
        }
    })?;
    Ok(())
}

/// Stops the whole job as the terminal does at Ctrl-Z, for a view that gets it as a key: a shell script or `make` around this
/// process would wait for it for ever otherwise. Returns at once; [`install`]'s thread stops this process a moment later.
pub fn suspend() {
    // Before anything stops: the shell may take the terminal back as soon as the first process has.
    tty::restore();
    let _ = rustix::process::kill_current_process_group(rustix::process::Signal::TSTP);
}
