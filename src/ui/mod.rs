//! The only layer that writes to the terminal: the prompt, meta commands, progress, pictures, the plain reporter.
//!
//! The main thread owns the terminal. Scripts run on a thread of their own ([`worker`]) and send events.

pub mod cells;
pub mod doctor;
pub mod interrupt;
pub mod line;
pub mod meta;
pub mod progress;
pub mod repl;
pub mod reporter;
pub mod run;
pub mod worker;
