//! A thread with a stack for deep scripts.

/// Stack of the evaluation thread, bytes. Rhai evaluates by recursion.
pub const STACK: usize = 64 << 20;

/// Runs `f` on a new thread with [`STACK`] bytes of stack and returns its result. A panic of `f` goes on in the caller.
///
/// # Panics
/// If the thread cannot be started, or if `f` panics.
#[allow(
    clippy::panic,
    reason = "as documented; the program itself has a thread of its own and reports instead"
)]
pub fn run<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let spawned =
            std::thread::Builder::new().name("script".into()).stack_size(STACK).spawn_scoped(scope, f);
        match spawned.map(|handle| handle.join()) {
            Ok(Ok(value)) => value,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(e) => std::panic::panic_any(format!("no thread for the script: {e}")),
        }
    })
}
