//! scumble: an interactive terminal shell for diffusion models.
//!
//! Floors, imports go down only (`tests/it/layers.rs` enforces it):
//!
//! ```text
//! main, cli
//!   └─ ui       the only layer that writes to the terminal
//!       ├─ term     terminal facilities; knows no engine, no Rhai
//!       └─ script   Rhai over the engine; knows no terminal
//!            ├─ record   what made a picture; knows no Rhai, no terminal
//!            └─ engine   diffusion on candle; knows nothing above
//!   report      leaf: title, span, labels, hint
//! ```

pub mod cli;
pub mod engine;
pub mod record;
pub mod report;
pub mod script;
pub mod term;
pub mod ui;
