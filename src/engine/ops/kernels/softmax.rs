//! Softmax over rows.

use crate::engine::ops::math::{self, Element};
use crate::engine::ops::parallel;
use crate::engine::ops::simd::vectorized;

vectorized! {
    /// `out = softmax(x)` for every row of `m` numbers.
    pub fn rows<T>(x: &'a [T], out: &'a mut [T], m: usize) -> () {
        for (x, out) in x.chunks_exact(m).zip(out.chunks_exact_mut(m)) {
            let top = math::max(x);
            for (out, x) in out.iter_mut().zip(x) {
                *out = (*x - top).exp_();
            }
            let scale = T::one() / math::sum(out, |v| v);
            for out in out {
                *out *= scale;
            }
        }
    }
}

vectorized! {
    /// `dx = y (dy - Σ y dy)` for every row of `m` numbers.
    pub fn back_rows<T>(y: &'a [T], dy: &'a [T], dx: &'a mut [T], m: usize) -> () {
        for ((y, dy), dx) in y.chunks_exact(m).zip(dy.chunks_exact(m)).zip(dx.chunks_exact_mut(m)) {
            let dot = math::sum2(y, dy, |y, dy| y * dy);
            for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = *y * (*dy - dot);
            }
        }
    }
}

fn piece(m: usize) -> usize {
    (8192 / m).max(1) * m
}

/// Softmax over the last dimension, of size `m`.
pub fn forward<T: Element>(x: &[T], m: usize) -> Vec<T> {
    let mut out = vec![T::zero(); x.len()];
    parallel::pieces(&mut out, piece(m), x.len(), |at, out| rows(&x[at..at + out.len()], out, m));
    out
}

/// The gradient for `x`, from the result `y`.
pub fn backward<T: Element>(y: &[T], dy: &[T], m: usize) -> Vec<T> {
    let mut out = vec![T::zero(); y.len()];
    parallel::pieces(&mut out, piece(m), y.len(), |at, out| {
        let range = at..at + out.len();
        back_rows(&y[range.clone()], &dy[range], out, m)
    });
    out
}
