//! Signals, turned into flags that the main thread reads.
//!
//! Ctrl-C while something runs stops it after the step; the third one in a row ends the process. SIGTERM and SIGHUP stop
//! what runs, let the last latent be saved, and end the process with 143 and 129. While nothing runs yet (flags are
//! checked, a script is read from stdin) a signal ends the process at once, with the same codes.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::worker;
use crate::engine::observe::Cancel;
use crate::term::signals::{self, Signal};
use crate::term::tty;

/// Interrupts further apart than this start counting anew.
const TOGETHER: Duration = Duration::from_secs(2);

/// Longest time between a request to leave and the end, longer than what `run` grants the work.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest time to save a latent at an idle prompt.
const RESCUE: Duration = Duration::from_secs(5);

/// What signals have asked for. Clones share it.
#[derive(Clone)]
pub struct Interrupts {
    state: Arc<State>,
}

struct State {
    cancel: Cancel,
    /// Whether a prompt waits when nothing runs.
    interactive: AtomicBool,
    keep_going: bool,
    running: AtomicBool,
    count: AtomicU8,
    last: AtomicU64,
    exit: AtomicU8,
    start: Instant,
}

impl Interrupts {
    /// Installs the handlers, which set `cancel`. `keep_going` ignores a hang-up, and so does a process that was
    /// started with hang-ups ignored, as nohup does. Errors: the system refuses a handler.
    pub fn install(cancel: &Cancel, keep_going: bool) -> std::io::Result<Interrupts> {
        let state = Arc::new(State {
            cancel: cancel.clone(),
            interactive: AtomicBool::new(false),
            keep_going: keep_going || signals::ignores_hangup(),
            running: AtomicBool::new(false),
            count: AtomicU8::new(0),
            last: AtomicU64::new(0),
            exit: AtomicU8::new(0),
            start: Instant::now(),
        });
        let shared = Arc::clone(&state);
        signals::install(move |signal| shared.signal(signal))?;
        Ok(Interrupts { state })
    }

    /// Says that from now on Ctrl-C while nothing runs belongs to the prompt.
    pub fn belong_to_prompt(&self) {
        self.state.interactive.store(true, Ordering::SeqCst);
    }

    /// The token that signals set.
    pub fn cancel(&self) -> &Cancel {
        &self.state.cancel
    }

    /// Says that a request runs from now on: Ctrl-C will stop it.
    pub fn begin(&self) {
        self.state.cancel.clear();
        self.state.count.store(0, Ordering::SeqCst);
        self.state.running.store(true, Ordering::SeqCst);
        // A request to end that came just before must not get lost.
        if self.exit().is_some() {
            self.state.cancel.set();
        }
    }

    /// Says that nothing runs any more.
    pub fn end(&self) {
        self.state.running.store(false, Ordering::SeqCst);
        self.state.cancel.clear();
    }

    /// How often Ctrl-C came in a row.
    pub fn count(&self) -> u8 {
        self.state.count.load(Ordering::SeqCst)
    }

    /// The exit code that a signal asked for.
    pub fn exit(&self) -> Option<u8> {
        Some(self.state.exit.load(Ordering::SeqCst)).filter(|&code| code != 0)
    }
}

impl State {
    fn signal(&self, signal: Signal) {
        match signal {
            Signal::Interrupt => self.interrupt(),
            Signal::Terminate => self.leave(143),
            Signal::Hangup if self.keep_going => {}
            Signal::Hangup => self.leave(129),
            Signal::Resize => {}
        }
    }

    fn interrupt(&self) {
        if !self.running.load(Ordering::SeqCst) {
            if !self.interactive.load(Ordering::SeqCst) {
                quit(130);
            }
            return;
        }
        let now = self.start.elapsed().as_millis() as u64;
        let before = self.last.swap(now, Ordering::SeqCst);
        let count = self.count.load(Ordering::SeqCst);
        let together = now.saturating_sub(before) <= TOGETHER.as_millis() as u64;
        let count = if together { count + 1 } else { 1 };
        self.cancel.set();
        if count >= 3 {
            quit(130);
        }
        self.count.store(count, Ordering::SeqCst);
    }

    /// A second request to leave does not wait for the work to stop.
    fn leave(&self, code: u8) {
        let again = self.exit.swap(code, Ordering::SeqCst) != 0;
        self.cancel.set();
        let idle = !self.running.load(Ordering::SeqCst);
        if again || (idle && !self.interactive.load(Ordering::SeqCst)) {
            quit(code);
        }
        if idle {
            // The main thread waits for keys: the latent that nobody may have saved is saved without it.
            let started = std::thread::Builder::new().name("rescue".into()).spawn(move || {
                let saved = worker::rescue(RESCUE);
                tty::restore();
                if let Some(path) = saved {
                    let _ = writeln!(std::io::stderr(), "\nthe last latent was saved: {}", path.display());
                }
                quit(code)
            });
            if started.is_err() {
                quit(code);
            }
            return;
        }
        // Nor does the first one wait for ever: the main thread may hang in a pipe that nobody reads. Without a thread
        // for this, the second request remains.
        let _ = std::thread::Builder::new().name("patience".into()).spawn(move || {
            std::thread::sleep(PATIENCE);
            quit(code)
        });
    }
}

fn quit(code: u8) -> ! {
    tty::restore();
    std::process::exit(i32::from(code))
}
