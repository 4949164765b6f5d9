//! The program: counts memory, keeps the terminal whole when something panics, hands over to the command line.

use std::io::Write;
use std::panic;
use std::process::ExitCode;

use scumble::engine::memory::Reuse;
use scumble::{cli, script, term, ui};

/// Counts what the process holds, for `:mem`, the memory budget and the check before a large tensor is made.
#[global_allocator]
static MEMORY: cap::Cap<Reuse> = cap::Cap::new(Reuse, usize::MAX);

fn main() -> ExitCode {
    panic::set_hook(Box::new(tell));
    script::set_memory_probe(|| MEMORY.allocated() as u64);
    panic::catch_unwind(cli::main).unwrap_or(ExitCode::FAILURE)
}

/// One line for a panic, with the terminal as it was. A panic while a script is evaluated is caught there, and reported
/// with the cell.
fn tell(info: &panic::PanicHookInfo) {
    let thread = std::thread::current();
    let caught = thread.name().is_some_and(|n| n == ui::worker::NAME || n.starts_with(ui::worker::COMPUTE));
    if caught && std::env::var_os("RUST_BACKTRACE").is_none() {
        return;
    }
    term::tty::restore();
    let text = info.payload_as_str().unwrap_or("without a message");
    let place = info.location().map_or(String::new(), |l| format!(" ({}:{})", l.file(), l.line()));
    // Not by a macro: it would panic itself where stderr is closed.
    let _ = writeln!(
        std::io::stderr(),
        "scumble itself failed: {text}{place}. Please report it with what you did."
    );
}
