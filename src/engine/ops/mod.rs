//! Neural-network operations: what candle lacks, does slowly, or gets wrong when it goes backward.
//!
//! Every operation has a forward, a backward and a gradient check. A gradient is computed only for operands that
//! are tracked ([`candle_core::Tensor::track_op`]); a frozen weight costs nothing on the way back.
//! Tensors may have any strides. A wrong shape is an error of kind `Shape` that says both sides; an empty tensor
//! gives an empty result.
//!
//! In main memory f32 and f64 run on kernels of our own (`kernels/`): vectorized for the processor at hand, on all
//! threads, with results that do not depend on the number of threads.
//!
//! [`composed`] holds the same operations on candle's own: the fallback for devices and dtypes without a kernel,
//! and the reference of the tests.

pub mod composed;

mod adam;
mod attention;
mod channels;
mod check;
mod conv;
mod gemm;
#[cfg(test)]
mod grad_check;
mod host;
mod kernels;
mod linear;
mod math;
mod norm;
mod parallel;
mod pointwise;
mod prepared;
mod resize;
mod simd;
mod softmax;
mod versions;

pub use adam::{Adam, sum_of_squares};
pub use attention::{apply_probs, attention, attention_probs};
pub use channels::add_channels;
pub use composed::wide;
pub use conv::{Conv2d, Padding};
pub use host::on_one_device;
pub use linear::Linear;
pub use norm::{GroupNorm, LayerNorm};
pub use pointwise::{geglu, gelu, gelu_tanh, quick_gelu, sigmoid, silu};
pub use prepared::{keep_transformed, round_products};
pub use resize::{Interpolation, resize, resize_bilinear, upsample_nearest2x};
pub use simd::{Level, VARIABLE as LEVEL_VARIABLE, cap as level_cap, level};
pub use softmax::softmax;
pub use versions::{assign, version};
