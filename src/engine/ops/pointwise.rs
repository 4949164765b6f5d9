//! Activations.

use candle_core::Tensor;

use super::{check, composed};
use crate::engine::error::Result;

macro_rules! activation {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub fn $name(x: &Tensor) -> Result<Tensor> {
            check::float(stringify!($name), x)?;
            if check::is_empty(x) {
                return Ok(x.clone());
            }
            Ok(composed::$name(x)?)
        }
    };
}

activation! {
    /// `1 / (1 + e^-x)`, any shape.
    sigmoid
}
activation! {
    /// `x · sigmoid(x)`, any shape.
    silu
}
activation! {
    /// `x · Φ(x)` with the exact normal distribution function (erf), any shape.
    gelu
}
activation! {
    /// The tanh approximation of GELU, `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`, any shape.
    gelu_tanh
}
activation! {
    /// `x · sigmoid(1.702 x)`, the activation of OpenAI's CLIP, any shape.
    quick_gelu
}

/// The gated unit of diffusers' transformer blocks: `x [.., 2c]` → `x[.., ..c] · gelu(x[.., c..])`, `[.., c]`.
/// Fails with kind `Shape` where the last dimension is odd.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    check::float("geglu", x)?;
    let mut dims = x.dims().to_vec();
    match dims.last_mut() {
        Some(last) if *last % 2 == 0 => *last /= 2,
        _ => return Err(check::wrong("geglu", "the input", "[.., 2 * channels]", x)),
    }
    if check::is_empty(x) {
        return Ok(Tensor::zeros(dims, x.dtype(), x.device())?);
    }
    Ok(composed::geglu(x)?)
}
