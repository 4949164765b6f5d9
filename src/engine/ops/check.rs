//! Checks of shapes and dtypes that every operation makes before it computes anything.

use candle_core::Tensor;

use crate::engine::error::{Error, Result};

/// An error of kind `Shape` for a tensor whose shape is not the `expected` one (written as the reader would).
pub(super) fn wrong(op: &str, what: &str, expected: impl Into<String>, got: &Tensor) -> Error {
    Error::shape(op, format!("{what} has the wrong shape"))
        .expected(expected)
        .got(format!("{:?}", got.dims()))
}

/// `x` has exactly `rank` dimensions; `expected` says what they mean.
pub(super) fn rank(op: &str, what: &str, x: &Tensor, rank: usize, expected: &str) -> Result<()> {
    if x.rank() == rank { Ok(()) } else { Err(wrong(op, what, expected, x)) }
}

/// `x` is a vector of `len` values.
pub(super) fn vector(op: &str, what: &str, x: &Tensor, len: usize) -> Result<()> {
    if x.dims() == [len] { Ok(()) } else { Err(wrong(op, what, format!("[{len}]"), x)) }
}

/// The operands are of one dtype and on one device.
pub(super) fn alike(op: &str, x: &Tensor, others: &[(&str, &Tensor)]) -> Result<()> {
    for (name, other) in others {
        if other.dtype() != x.dtype() {
            return Err(Error::value(op, format!("the input and its {name} are of different types"))
                .expected(x.dtype().as_str())
                .got(other.dtype().as_str()));
        }
        if !other.device().same_device(x.device()) {
            return Err(Error::new(
                crate::engine::error::Kind::Device,
                op,
                format!("the input and its {name} are on different devices"),
            ));
        }
    }
    Ok(())
}

/// `x` holds real numbers.
pub(super) fn float(op: &str, x: &Tensor) -> Result<()> {
    if x.dtype().is_float() {
        Ok(())
    } else {
        Err(Error::value(op, "needs real numbers").expected("a float tensor").got(x.dtype().as_str()))
    }
}

/// Whether a tensor (or the result of an operation on it) has no elements.
pub(super) fn is_empty(x: &Tensor) -> bool {
    x.elem_count() == 0
}
