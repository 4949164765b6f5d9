//! Diffusion on candle: tensors, networks with hooks, weights, schedules, noise. Knows no script and no terminal.

pub mod caption;
pub mod chart;
pub mod detector;
pub mod device;
pub mod diffusion;
pub mod draw;
pub mod edges;
pub mod error;
pub mod fields;
pub mod frozen;
pub mod image;
pub mod latent;
pub mod memory;
pub mod nets;
pub mod observe;
pub mod ops;
pub mod optimize;
pub mod preview;
pub mod segment;
pub mod sheet;
pub mod tape;
pub mod train;
pub mod trajectory;
pub mod weights;

pub use error::{Error, Kind, Result};
