//! Marks around prompt, input and output (OSC 133), by which terminals jump from prompt to prompt and select an output.

use super::tty;

/// Ends what the terminal is told. BEL would ring where the mark is not understood.
macro_rules! mark {
    ($what:literal) => {
        concat!("\x1b]133;", $what, "\x1b\\")
    };
}

/// The prompt begins.
pub const PROMPT: &str = mark!("A");
/// The prompt ends, the input begins.
pub const INPUT: &str = mark!("B");
/// The input ends, the output begins.
pub const OUTPUT: &str = mark!("C");

/// The output ends; whether it was an error.
pub fn end(failed: bool) -> &'static str {
    if failed { mark!("D;1") } else { mark!("D;0") }
}

/// Whether to mark. `choice` is `on`, `off` or `auto`: on a terminal that does not print what it does not understand.
pub fn wanted(choice: &str) -> bool {
    let term = std::env::var("TERM").unwrap_or_default();
    let knows = !tty::is_dumb() && term != "linux" && !term.starts_with("vt") && !term.starts_with("eterm");
    match choice {
        "on" => true,
        "off" => false,
        _ => tty::is_terminal_out() && knows,
    }
}
