//! Signals, on a thread of their own.

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
    /// Back from a stop.
    Continue,
    /// Ctrl-Z; the process stops after the handler has returned.
    Suspend,
    /// The window changed its size.
    Resize,
}

/// Calls `handler` for every signal, on a thread that lives as long as the process.
pub fn install(handler: impl Fn(Signal) + Send + 'static) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP, SIGCONT])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGINT => handler(Signal::Interrupt),
                SIGTERM => handler(Signal::Terminate),
                SIGHUP => handler(Signal::Hangup),
                SIGWINCH => handler(Signal::Resize),
                SIGCONT => handler(Signal::Continue),
                SIGTSTP => {
                    handler(Signal::Suspend);
                    tty::restore();
                    let _ = signal_hook::low_level::emulate_default_handler(SIGTSTP);
                }
                _ => {}
            }
        }
    })?;
    Ok(())
}
