//! The program: counts memory, keeps the terminal whole when something panics, hands over to the command line.

use std::process::ExitCode;

/// Counts what the process holds, for `:mem`, the memory budget and the check before a large tensor is made.
#[global_allocator]
static MEMORY: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        scumble::term::tty::restore();
        // A panic in a script's native is caught and reported by its cell; this line is for the one that is not.
        if std::thread::current().name() != Some("evaluation") {
            eprintln!(
                "scumble failed: {info}\nThis is a fault of scumble; please report it with what you did."
            );
        }
    }));
    scumble::script::host::set_memory_probe(|| MEMORY.allocated() as u64);
    scumble::cli::main()
}
