//! Kernels for main memory: plain functions on slices, f32 and f64, forward and backward.
//! They trust the shapes that the operations checked.

pub mod adam;
pub mod attention;
pub mod bf16;
pub mod conv;
pub mod linear;
pub mod norm;
pub mod pointwise;
pub mod resize;
pub mod softmax;
pub mod winograd;
