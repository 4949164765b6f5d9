//! Changes of size.

use candle_core::Tensor;

use super::{check, composed};
use crate::engine::error::Result;

/// `x [n, c, h, w]` → `[n, c, 2h, 2w]`: every value becomes a square of four.
pub fn upsample_nearest2x(x: &Tensor) -> Result<Tensor> {
    let op = "upsample_nearest2x";
    check::float(op, x)?;
    check::rank(op, "the input", x, 4, "[n, channels, height, width]")?;
    if check::is_empty(x) {
        let (n, c, h, w) = x.dims4()?;
        return Ok(Tensor::zeros((n, c, 2 * h, 2 * w), x.dtype(), x.device())?);
    }
    Ok(composed::upsample_nearest2x(x)?)
}
