//! The program: counts memory, keeps the terminal whole when something panics, hands over to the command line.

use std::io::Write;
use std::panic;
use std::process::ExitCode;
use std::time::Duration;

use scumble::engine::memory::Reuse;
use scumble::{cli, report, script, term, ui};

/// Counts what the process holds, for `:mem`, the memory budget and the check before a large tensor is made.
#[global_allocator]
static MEMORY: cap::Cap<Reuse> = cap::Cap::new(Reuse, usize::MAX);

fn main() -> ExitCode {
    panic::set_hook(Box::new(tell));
    script::set_memory_probe(|| MEMORY.allocated() as u64);
    panic::catch_unwind(cli::main).unwrap_or_else(|_| {
        if let Some(path) = ui::worker::rescue(PATIENCE) {
            let _ = writeln!(std::io::stderr(), "the last latent was saved: {}", path.display());
        }
        ExitCode::FAILURE
    })
}

/// Longest wait for a step to end after the main thread failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A panic, with the terminal as it was. One while a script is evaluated is caught there, and reported with the cell; the
/// process goes on, and takes the terminal again.
fn tell(info: &panic::PanicHookInfo) {
    let thread = std::thread::current();
    let place = info.location().map_or("an unknown place".into(), |l| format!("{}:{}", l.file(), l.line()));
    report::note_panic(&place);
    let caught = thread.name().is_some_and(|n| n == ui::worker::NAME || n.starts_with(ui::worker::COMPUTE));
    if caught && std::env::var_os("RUST_BACKTRACE").is_none() {
        return;
    }
    term::tty::restore();
    let text = info.payload_as_str().unwrap_or("without a message");
    // What was being drawn in this line is not finished any more.
    if term::tty::is_terminal_err() && !term::tty::is_dumb() {
        let _ = std::io::stderr().write_all(b"\r\x1b[K");
    }
    // Not by a macro: it would panic itself where stderr is closed.
    let _ = writeln!(
        std::io::stderr(),
        "scumble itself failed: {text} ({place}, version {}). The history is kept. Please report this line and what you \
         did.",
        env!("CARGO_PKG_VERSION")
    );
    // Only a panic of the main thread ends the process.
    if thread.name() != Some("main") {
        term::tty::reenter();
    }
}
