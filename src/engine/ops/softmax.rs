//! Softmax.

use candle_core::Tensor;

use super::{check, composed};
use crate::engine::error::Result;

/// Softmax over the last dimension of `x [.., m]`.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    check::float("softmax", x)?;
    if x.rank() == 0 {
        return Err(check::wrong("softmax", "the input", "at least one dimension", x));
    }
    if check::is_empty(x) {
        return Ok(x.clone());
    }
    Ok(composed::softmax(x)?)
}
