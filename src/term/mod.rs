//! Terminal facilities: modes, signals, what the terminal can do, pictures. Knows no engine and no Rhai.

mod answer;
mod brands;
pub mod graphics;
pub mod keys;
pub mod marks;
pub mod pager;
pub mod probe;
pub mod reach;
pub mod signals;
pub mod style;
mod tmux;
pub mod tty;
