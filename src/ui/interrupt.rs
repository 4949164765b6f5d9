//! Signals, turned into flags that the main thread reads.
//!
//! Ctrl-C while something runs stops it after the step; the third one within a few seconds ends the process. SIGTERM and
//! SIGHUP stop what runs, let the last latent be saved, and end the process with 143 and 129.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::engine::observe::Cancel;
use crate::term::{signals, tty};

/// Interrupts further apart than this start counting anew.
const TOGETHER: Duration = Duration::from_secs(5);

/// What signals have asked for. Clones share it.
#[derive(Clone)]
pub struct Interrupts(Arc<State>);

struct State {
    cancel: Cancel,
    running: AtomicBool,
    count: AtomicU8,
    last: AtomicU64,
    exit: AtomicU8,
    resized: AtomicBool,
    start: Instant,
}

impl Interrupts {
    /// Installs the handlers. `keep_going` ignores a hang-up.
    pub fn install(cancel: &Cancel, keep_going: bool) -> std::io::Result<Interrupts> {
        let state = Arc::new(State {
            cancel: cancel.clone(),
            running: AtomicBool::new(false),
            count: AtomicU8::new(0),
            last: AtomicU64::new(0),
            exit: AtomicU8::new(0),
            resized: AtomicBool::new(false),
            start: Instant::now(),
        });
        let shared = Arc::clone(&state);
        signals::install(move |signal| shared.signal(signal, keep_going))?;
        Ok(Interrupts(state))
    }

    /// Says that a request runs from now on: Ctrl-C will stop it.
    pub fn begin(&self) {
        self.0.cancel.clear();
        self.0.count.store(0, Ordering::SeqCst);
        self.0.running.store(true, Ordering::SeqCst);
    }

    /// Says that nothing runs any more.
    pub fn end(&self) {
        self.0.running.store(false, Ordering::SeqCst);
        self.0.cancel.clear();
    }

    /// How often Ctrl-C came since `begin`.
    pub fn count(&self) -> u8 {
        self.0.count.load(Ordering::SeqCst)
    }

    /// The exit code that a signal asked for.
    pub fn exit(&self) -> Option<u8> {
        Some(self.0.exit.load(Ordering::SeqCst)).filter(|&code| code != 0)
    }

    /// Whether the window changed its size since the last call.
    pub fn resized(&self) -> bool {
        self.0.resized.swap(false, Ordering::SeqCst)
    }
}

impl State {
    fn signal(&self, signal: signals::Signal, keep_going: bool) {
        match signal {
            signals::Signal::Interrupt => self.interrupt(),
            signals::Signal::Terminate => self.leave(143),
            signals::Signal::Hangup if keep_going => {}
            signals::Signal::Hangup => self.leave(129),
            signals::Signal::Resize => self.resized.store(true, Ordering::SeqCst),
            signals::Signal::Continue | signals::Signal::Suspend => {}
        }
    }

    fn interrupt(&self) {
        if !self.running.load(Ordering::SeqCst) {
            return;
        }
        let now = self.start.elapsed().as_millis() as u64;
        let before = self.last.swap(now, Ordering::SeqCst);
        if now.saturating_sub(before) > TOGETHER.as_millis() as u64 {
            self.count.store(0, Ordering::SeqCst);
        }
        self.cancel.set();
        if self.count.fetch_add(1, Ordering::SeqCst) >= 2 {
            tty::restore();
            std::process::exit(130);
        }
    }

    /// A second request to leave does not wait for the work to stop.
    fn leave(&self, code: u8) {
        let again = self.exit.swap(code, Ordering::SeqCst) != 0;
        self.cancel.set();
        if again || !self.running.load(Ordering::SeqCst) {
            tty::restore();
            std::process::exit(i32::from(code));
        }
    }
}
