//! Terminal facilities: modes, signals, what the terminal can do, pictures. Knows no engine and no Rhai.

mod answer;
pub mod graphics;
pub mod keys;
pub mod probe;
pub mod signals;
pub mod style;
pub mod tty;
