//! Fully connected layer: `y [r, o] = x [r, i] · weightᵀ + bias`, and its gradients.
//!
//! The right-hand matrix of a product is read in panels of 64 columns that lie together row by row: four registers of
//! AVX-512, read from front to back. A layer keeps the panels of a constant weight; other matrices are turned to
//! panels once per task.

use candle_core::Result;

use crate::engine::ops::gemm::{Grid, gemm};
use crate::engine::ops::math::{Element, with_scratch};
use crate::engine::ops::parallel;
use crate::engine::ops::simd::vectorized;

/// Multiplications and additions that one task should have (about 0.05 ms of one core with AVX-512).
const TASK: usize = 5_000_000;

/// Columns of a panel.
const PANEL: usize = 64;

/// Rows per product: as many as a panel serves from the cache without being packed again.
const ROWS: usize = 48;

/// Rows under which turning a matrix to panels costs more than it saves.
const FEW: usize = 8;

/// Rough time of a matrix product in nanoseconds.
fn nanos(m: usize, n: usize, k: usize) -> usize {
    m.saturating_mul(n).saturating_mul(k) / 30
}

fn padded(n: usize) -> usize {
    n.next_multiple_of(16)
}

/// The right-hand matrix `[k, n]` of a product.
#[derive(Clone, Copy, Debug)]
pub enum Right<'a, T> {
    /// Its elements and the distances of its rows and columns.
    Matrix(&'a [T], usize, usize),
    /// What [`panels`] made of it.
    Panels(&'a [T]),
}

/// Elements that [`panels`] makes of a `[k, n]` matrix.
pub fn panels_len(k: usize, n: usize) -> usize {
    k * padded(n)
}

/// Whether a product with `rows` rows is faster from panels.
pub fn pays(rows: usize) -> bool {
    rows >= FEW
}

/// Writes four columns beside each other in rows that are `width` apart: stores of four numbers.
#[inline(always)]
fn turn<T: Element>([a, b, c, d]: [&[T]; 4], out: &mut [T], width: usize) {
    for (out, ((a, b), (c, d))) in out.chunks_mut(width).zip(a.iter().zip(b).zip(c.iter().zip(d))) {
        if let Some(out) = out.first_chunk_mut::<4>() {
            *out = [*a, *b, *c, *d];
        }
    }
}

vectorized! {
    /// Columns `first..first + columns` of a `[k, n]` matrix with rows `row` and columns `col` apart, as the rows of `width`
    /// of a panel; columns past the last are zero.
    fn panel<T>(
        matrix: &'a [T], row: usize, col: usize, first: usize, columns: usize, width: usize, out: &'a mut [T],
    ) -> () {
        /// Rows at a time: a cache line of the columns of a transposed matrix.
        const BLOCK: usize = 16;
        if columns < width {
            out.fill(T::zero());
        }
        if col == 1 {
            for (r, out) in out.chunks_exact_mut(width).enumerate() {
                out[..columns].copy_from_slice(&matrix[r * row + first..][..columns]);
            }
            return;
        }
        for (block, out) in out.chunks_mut(BLOCK * width).enumerate() {
            let rows = out.len() / width;
            let quads = if row == 1 { columns / 4 * 4 } else { 0 };
            for c in (0..quads).step_by(4) {
                let from = |i: usize| &matrix[(first + c + i) * col + block * BLOCK..][..rows];
                turn([from(0), from(1), from(2), from(3)], &mut out[c..], width);
            }
            for c in quads..columns {
                let from = &matrix[(first + c) * col + block * BLOCK * row..];
                if row == 1 {
                    for (r, v) in from[..rows].iter().enumerate() {
                        out[r * width + c] = *v;
                    }
                } else {
                    for r in 0..rows {
                        out[r * width + c] = from[r * row];
                    }
                }
            }
        }
    }
}

/// The panels of the matrix `weightᵀ` of a layer, `weight [o, i]`.
pub fn panels<T: Element>(weight: &[T], i: usize, o: usize) -> Result<Vec<T>> {
    let mut out = vec![T::zero(); panels_len(i, o)];
    let tasks: Vec<_> = out.chunks_mut(i.max(1) * PANEL).enumerate().collect();
    parallel::run(tasks, i * o, |(p, out)| {
        let first = p * PANEL;
        let width = PANEL.min(padded(o) - first);
        panel(weight, 1, i, first, width.min(o - first), width, out);
        Ok(())
    })?;
    Ok(out)
}

/// How an `[m, n]` result with sums of `k` terms is cut into tasks. Depends on the shape only.
#[derive(Clone, Copy)]
struct Cut {
    /// Rows per task.
    rows: usize,
    /// Panels per task.
    panels: usize,
}

impl Cut {
    fn new(m: usize, n: usize, k: usize) -> Self {
        let work = 2 * k.max(1) * PANEL;
        let all = n.div_ceil(PANEL);
        // Enough rows that turning a panel costs little beside using it.
        let rows = (4 * TASK / work).clamp(4 * ROWS, 1 << 20).next_multiple_of(ROWS);
        let shares = parallel::shares(2 * m * n * k).div_ceil(all);
        let rows = m.div_ceil(m.div_ceil(rows).max(shares)).next_multiple_of(ROWS).min(m);
        let mut panels = (TASK / (work * rows)).clamp(1, all);
        // Where all columns make one task, whole rows need no copy.
        if rows < m && panels * 2 > all {
            panels = all;
        }
        Cut { rows, panels }
    }
}

/// A part of the result: its first row and column, and its width.
#[derive(Clone, Copy)]
struct Part {
    row: usize,
    column: usize,
    columns: usize,
}

/// `dst [m, n] = a · b` in parallel, plus `bias [n]` in every row where there is one.
/// `a` is a whole matrix `[m, k]`, with the distances of its rows and columns, `b` is `[k, n]`.
pub fn product<T: Element>(
    (m, n, k): (usize, usize, usize),
    a: (&[T], usize, usize),
    b: Right<'_, T>,
    bias: Option<&[T]>,
) -> Result<Vec<T>> {
    let mut out = vec![T::zero(); m * n];
    if let Right::Matrix(data, row, col) = b
        && !pays(m)
    {
        few((m, n, k), a, (data, row, col), bias, &mut out)?;
        return Ok(out);
    }
    let cut = Cut::new(m, n, k);
    let across = n.div_ceil(cut.panels * PANEL);
    let down = m.div_ceil(cut.rows);
    if across == 1 {
        let tasks: Vec<_> = out.chunks_mut(cut.rows * n).enumerate().collect();
        parallel::run(tasks, nanos(m, n, k), |(i, dst)| {
            let part = Part { row: i * cut.rows, column: 0, columns: n };
            let mut rows: Vec<&mut [T]> = dst.chunks_exact_mut(n).collect();
            block((n, k), a, b, bias, part, &mut rows)
        })?;
        return Ok(out);
    }
    let width = cut.panels * PANEL;
    let groups = parallel::blocks(&mut out, n, width, down * across, |r, s| r / cut.rows * across + s);
    let tasks: Vec<_> = groups.into_iter().enumerate().collect();
    parallel::run(tasks, nanos(m, n, k), |(i, mut rows)| {
        let columns = rows.first().map_or(0, |row| row.len());
        let part = Part { row: i / across * cut.rows, column: i % across * width, columns };
        block((n, k), a, b, bias, part, &mut rows)
    })?;
    Ok(out)
}

/// A part of the product; `rows` are the rows of the result, cut to the part's columns.
fn block<T: Element>(
    (n, k): (usize, usize),
    a: (&[T], usize, usize),
    b: Right<'_, T>,
    bias: Option<&[T]>,
    part: Part,
    rows: &mut [&mut [T]],
) -> Result<()> {
    let (a, a_row, a_col) = a;
    let turned = if matches!(b, Right::Panels(_)) { 0 } else { k * PANEL };
    with_scratch(turned + ROWS * PANEL, |scratch| {
        let (turned, result) = scratch.split_at_mut(turned);
        for at in (0..part.columns).step_by(PANEL) {
            let first = part.column + at;
            let columns = PANEL.min(part.columns - at);
            let width = PANEL.min(padded(n) - first);
            let b = match b {
                Right::Panels(all) => &all[first * k..][..width * k],
                Right::Matrix(data, row, col) => {
                    panel(data, row, col, first, columns, width, &mut turned[..k * width]);
                    &turned[..k * width]
                }
            };
            for (i, rows) in rows.chunks_mut(ROWS).enumerate() {
                let result = &mut result[..rows.len() * width];
                let a = &a[(part.row + i * ROWS) * a_row..];
                gemm(
                    (&mut *result, Grid::rows(rows.len(), width, width)),
                    false,
                    T::one(),
                    (a, Grid::new(rows.len(), k, a_row, a_col)),
                    (b, Grid::rows(k, width, width)),
                )?;
                for (row, from) in rows.iter_mut().zip(result.chunks_exact(width)) {
                    let out = &mut row[at..at + columns];
                    match bias {
                        Some(bias) => added(&from[..columns], &bias[first..first + columns], out),
                        None => out.copy_from_slice(&from[..columns]),
                    }
                }
            }
        }
        Ok(())
    })
}

/// `out = a + b`.
#[inline(always)]
fn added<T: Element>(a: &[T], b: &[T], out: &mut [T]) {
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = *a + *b;
    }
}

/// A product with so few rows that the matrix is used as it lies, cut by columns.
fn few<T: Element>(
    (m, n, k): (usize, usize, usize),
    (a, a_row, a_col): (&[T], usize, usize),
    (b, b_row, b_col): (&[T], usize, usize),
    bias: Option<&[T]>,
    out: &mut [T],
) -> Result<()> {
    let width = (TASK / (2 * k.max(1) * m.max(1))).max(64).next_multiple_of(64);
    let groups = parallel::blocks(out, n, width, n.div_ceil(width), |_, segment| segment);
    let tasks: Vec<_> = groups.into_iter().enumerate().collect();
    // Such a product waits for memory: it takes longer than its operations say.
    parallel::run(tasks, 4 * nanos(m, n, k), |(i, rows)| {
        let (first, columns) = (i * width, rows.first().map_or(0, |row| row.len()));
        with_scratch(m * columns, |result| {
            gemm(
                (&mut *result, Grid::rows(m, columns, columns)),
                false,
                T::one(),
                (a, Grid::new(m, k, a_row, a_col)),
                (&b[first * b_col..], Grid::new(k, columns, b_row, b_col)),
            )?;
            for (row, from) in rows.into_iter().zip(result.chunks_exact(columns)) {
                match bias {
                    Some(bias) => added(from, &bias[first..first + columns], row),
                    None => row.copy_from_slice(from),
                }
            }
            Ok(())
        })
    })
}

/// `x [r, i]`, `weight [o, i]` or its panels, `bias [o]` → `[r, o]`.
pub fn forward<T: Element>(
    x: &[T],
    weight: &[T],
    kept: Option<&[T]>,
    bias: Option<&[T]>,
    (r, i, o): (usize, usize, usize),
) -> Result<Vec<T>> {
    let right = kept.map_or(Right::Matrix(weight, 1, i), Right::Panels);
    product((r, o, i), (x, i, 1), right, bias)
}

/// Gradient for `x`: `dy [r, o] · weight`.
pub fn back_input<T: Element>(dy: &[T], weight: &[T], (r, i, o): (usize, usize, usize)) -> Result<Vec<T>> {
    product((r, i, o), (dy, o, 1), Right::Matrix(weight, i, 1), None)
}

/// Gradient for the weight: `dyᵀ · x`.
pub fn back_weight<T: Element>(dy: &[T], x: &[T], (r, i, o): (usize, usize, usize)) -> Result<Vec<T>> {
    product((o, i, r), (dy, 1, o), Right::Matrix(x, i, 1), None)
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
