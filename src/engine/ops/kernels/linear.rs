//! Fully connected layer: `y [r, o] = x [r, i] · weightᵀ + bias`, and its gradients.

use candle_core::Result;

use crate::engine::ops::gemm::{Grid, gemm};
use crate::engine::ops::math::{Element, with_scratch};
use crate::engine::ops::parallel;

/// Multiplications and additions that one task should have (about 0.05 ms of one core with AVX-512).
const TASK: usize = 5_000_000;

/// Rows of a block: enough that packing the other matrix again for every block costs little.
const ROWS: usize = 512;

/// Rough time of a matrix product in nanoseconds.
fn nanos(m: usize, n: usize, k: usize) -> usize {
    m.saturating_mul(n).saturating_mul(k) / 30
}

/// How an `[m, n]` result with sums of `k` terms is cut into blocks: rows and columns of a block. Depends on the
/// shape only.
fn cut(m: usize, n: usize, k: usize) -> (usize, usize) {
    let rows = m.clamp(1, ROWS);
    let cols = (TASK / (2 * k.max(1) * rows)).max(64).next_multiple_of(64);
    // Whole rows need no copy. Where they are few or short, there is nothing to gain from cutting columns.
    let blocks = m.div_ceil(ROWS);
    if cols >= n {
        let short = (TASK / (2 * k.max(1) * n.max(1))).clamp(64, ROWS).next_multiple_of(16);
        (short.min(rows), n.max(1))
    } else if blocks >= 16 {
        (rows, n)
    } else {
        (rows, cols)
    }
}

/// `dst [m, n] = a · b` in parallel, plus `bias [n]` in every row where there is one.
/// `a` and `b` are whole matrices `[m, k]` and `[k, n]`.
pub fn product<T: Element>(
    (m, n, k): (usize, usize, usize),
    a: (&[T], usize, usize),
    b: (&[T], usize, usize),
    bias: Option<&[T]>,
) -> Result<Vec<T>> {
    let mut out = vec![T::zero(); m * n];
    let (rows, cols) = cut(m, n, k);
    let (down, across) = (m.div_ceil(rows), n.div_ceil(cols));
    let (a_data, a_row, a_col) = a;
    let (b_data, b_row, b_col) = b;
    let block = |r0: usize, c0: usize, h: usize, w: usize, dst: &mut [T], step: usize| {
        if let Some(bias) = bias {
            for row in dst.chunks_mut(step) {
                row[..w].copy_from_slice(&bias[c0..c0 + w]);
            }
        }
        let a = (&a_data[r0 * a_row..], Grid::new(h, k, a_row, a_col));
        let b = (&b_data[c0 * b_col..], Grid::new(k, w, b_row, b_col));
        gemm((dst, Grid::rows(h, w, step)), bias.is_some(), T::one(), a, b)
    };
    if across == 1 {
        let tasks: Vec<_> = out.chunks_mut(rows * n).enumerate().collect();
        parallel::run(tasks, nanos(m, n, k), |(i, dst)| block(i * rows, 0, dst.len() / n, n, dst, n))?;
        return Ok(out);
    }
    let groups = parallel::blocks(&mut out, n, cols, down * across, |r, s| r / rows * across + s);
    let tasks: Vec<_> = groups.into_iter().enumerate().collect();
    parallel::run(tasks, nanos(m, n, k), |(i, segments)| {
        let (r0, c0) = (i / across * rows, i % across * cols);
        let (h, w) = (segments.len(), segments.first().map_or(0, |s| s.len()));
        with_scratch(h * w, |dst| {
            block(r0, c0, h, w, dst, w)?;
            for (segment, row) in segments.into_iter().zip(dst.chunks_exact(w)) {
                segment.copy_from_slice(row);
            }
            Ok(())
        })
    })?;
    Ok(out)
}

/// `x [r, i]`, `weight [o, i]`, `bias [o]` → `[r, o]`.
pub fn forward<T: Element>(
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    (r, i, o): (usize, usize, usize),
) -> Result<Vec<T>> {
    product((r, o, i), (x, i, 1), (weight, 1, i), bias)
}

/// Gradient for `x`: `dy [r, o] · weight`.
pub fn back_input<T: Element>(dy: &[T], weight: &[T], (r, i, o): (usize, usize, usize)) -> Result<Vec<T>> {
    product((r, i, o), (dy, o, 1), (weight, i, 1), None)
}

/// Gradient for the weight: `dyᵀ · x`.
pub fn back_weight<T: Element>(dy: &[T], x: &[T], (r, i, o): (usize, usize, usize)) -> Result<Vec<T>> {
    product((o, i, r), (dy, 1, o), (x, i, 1), None)
}

/// Gradient for the bias: the sum of the rows of `dy [r, o]`.
pub fn back_bias<T: Element>(dy: &[T], o: usize) -> Vec<T> {
    let mut sums = vec![T::zero(); o];
    // Blocks of rows first, so that rounding grows with the logarithm of the number of rows, not with the number.
    for block in dy.chunks(o * 256) {
        let mut part = vec![T::zero(); o];
        for row in block.chunks_exact(o) {
            for (part, v) in part.iter_mut().zip(row) {
                *part += *v;
            }
        }
        for (sum, part) in sums.iter_mut().zip(part) {
            *sum += part;
        }
    }
    sums
}
