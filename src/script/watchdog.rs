//! The time budget while native code runs, where Rhai's own hook is not asked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use super::host::Host;
use crate::engine::observe::Cancel;

/// Sets the cancel token when the time is used up, also while native code runs.
pub struct Watchdog {
    done: Option<mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    fired: Arc<AtomicBool>,
    cancel: Cancel,
}

impl Watchdog {
    /// Starts the watch, if the session has a time budget.
    pub fn start(host: &Host) -> Watchdog {
        let fired = Arc::new(AtomicBool::new(false));
        let cancel = host.cancel().clone();
        let mut watch =
            Watchdog { done: None, thread: None, fired: Arc::clone(&fired), cancel: cancel.clone() };
        if let Some(deadline) = host.deadline() {
            let (send, receive) = mpsc::channel::<()>();
            watch.done = Some(send);
            watch.thread = Some(std::thread::spawn(move || {
                let left = deadline.saturating_duration_since(Instant::now());
                if receive.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Timeout) {
                    fired.store(true, Ordering::SeqCst);
                    cancel.set();
                }
            }));
        }
        watch
    }

    /// Ends the watch. Whether the time ran out; its stop request is taken back then.
    pub fn finish(self) -> bool {
        drop(self.done);
        if let Some(thread) = self.thread {
            let _ = thread.join();
        }
        let fired = self.fired.load(Ordering::SeqCst);
        if fired {
            self.cancel.clear();
        }
        fired
    }
}
