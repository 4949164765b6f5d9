//! Diffusion on candle: tensors, networks with hooks, weights, schedules, noise. Knows no script and no terminal.

pub mod error;
pub mod image;
pub mod latent;
pub mod observe;
pub mod ops;

pub use error::{Error, Kind, Result};
