//! Matrix products on slices: the `gemm` crate behind bounds checks. The only unsafe code of the operations.

use candle_core::{Error, Result};

use super::math::Element;

/// Where the elements of a matrix lie in a slice: element (r, c) at `r · row_step + c · col_step`.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    rows: usize,
    cols: usize,
    row_step: usize,
    col_step: usize,
}

impl Grid {
    /// Any steps.
    pub fn new(rows: usize, cols: usize, row_step: usize, col_step: usize) -> Self {
        Grid { rows, cols, row_step, col_step }
    }

    /// Rows after one another, `row_step` apart.
    pub fn rows(rows: usize, cols: usize, row_step: usize) -> Self {
        Grid { rows, cols, row_step, col_step: 1 }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Grid { rows: self.cols, cols: self.rows, row_step: self.col_step, col_step: self.row_step }
    }

    /// Number of slice elements from the first element of the matrix to its last, inclusive; `None` on overflow.
    fn span(&self) -> Option<usize> {
        if self.rows == 0 || self.cols == 0 {
            return Some(0);
        }
        let down = (self.rows - 1).checked_mul(self.row_step)?;
        let across = (self.cols - 1).checked_mul(self.col_step)?;
        down.checked_add(across)?.checked_add(1)
    }

    /// Whether the matrix lies inside a slice of `len` elements, with steps that pointer arithmetic can take.
    fn fits(&self, len: usize) -> bool {
        let steps = self.row_step <= isize::MAX as usize && self.col_step <= isize::MAX as usize;
        steps && self.span().is_some_and(|span| span <= len)
    }

    /// Whether no two elements share a place.
    fn is_injective(&self) -> bool {
        let by_rows =
            self.col_step >= 1 && self.row_step > (self.cols.max(1) - 1).saturating_mul(self.col_step);
        let by_cols =
            self.row_step >= 1 && self.col_step > (self.rows.max(1) - 1).saturating_mul(self.row_step);
        by_rows || by_cols || self.rows <= 1 && self.col_step >= 1 || self.cols <= 1 && self.row_step >= 1
    }
}

/// Rows per call where `b` needs no packing: the `gemm` crate starts to pack it above 8 registers' worth of rows.
const UNPACKED_ROWS: usize = 48;

/// `dst = scale · a · b`, or `dst += scale · a · b` where `add` is set, on the calling thread.
/// Fails where a matrix reaches over its slice, or the shapes do not fit together.
pub fn gemm<T: Element>(
    dst: (&mut [T], Grid),
    add: bool,
    scale: T,
    a: (&[T], Grid),
    b: (&[T], Grid),
) -> Result<()> {
    let ((dst, d), (a, ga)) = (dst, a);
    // Whole registers of contiguous columns: rows block by block, so that `b` is read in place and stays in cache.
    let in_place =
        d.col_step == 1 && b.1.col_step == 1 && d.cols.is_multiple_of(16) && d.rows > UNPACKED_ROWS;
    if !in_place || !d.fits(dst.len()) || !ga.fits(a.len()) || ga.rows != d.rows {
        return whole((dst, d), add, scale, (a, ga), b);
    }
    for first in (0..d.rows).step_by(UNPACKED_ROWS) {
        let rows = UNPACKED_ROWS.min(d.rows - first);
        let dst = (&mut dst[first * d.row_step..], Grid { rows, ..d });
        whole(dst, add, scale, (&a[first * ga.row_step..], Grid { rows, ..ga }), b)?;
    }
    Ok(())
}

/// [`gemm`] in one call.
fn whole<T: Element>(
    dst: (&mut [T], Grid),
    add: bool,
    scale: T,
    a: (&[T], Grid),
    b: (&[T], Grid),
) -> Result<()> {
    let ((dst, d), (a, ga), (b, gb)) = (dst, a, b);
    let shapes = d.rows == ga.rows && d.cols == gb.cols && ga.cols == gb.rows;
    if !shapes || !d.fits(dst.len()) || !ga.fits(a.len()) || !gb.fits(b.len()) || !d.is_injective() {
        return Err(Error::Msg(format!(
            "matrix product {d:?} = {ga:?} x {gb:?} does not fit slices of {}, {} and {}",
            dst.len(),
            a.len(),
            b.len()
        )));
    }
    // SAFETY: `gemm` reads `lhs[r · lhs_rs + k · lhs_cs]` for r < m, k < depth, reads `rhs` and reads and writes
    // `dst` in the same way. `fits` proved for each of the three that the largest such index is inside its slice
    // (indices are sums of non-negative terms, so the largest is the last) and that the steps fit isize. `dst` is
    // borrowed mutably and `a`, `b` immutably, so that no memory is shared between what is written and what is read,
    // and every element of all three slices is initialized. T is f32 or f64 (the only implementors of `Element`),
    // both of which `gemm` supports and neither of which has invalid bit patterns.
    unsafe {
        gemm::gemm(
            d.rows,
            d.cols,
            ga.cols,
            dst.as_mut_ptr(),
            d.col_step as isize,
            d.row_step as isize,
            add,
            a.as_ptr(),
            ga.col_step as isize,
            ga.row_step as isize,
            b.as_ptr(),
            gb.col_step as isize,
            gb.row_step as isize,
            T::one(),
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(m: usize, n: usize, k: usize, a: &[f64], b: &[f64]) -> Vec<f64> {
        (0..m * n).map(|at| (0..k).map(|i| a[at / n * k + i] * b[i * n + at % n]).sum()).collect()
    }

    fn numbers(len: usize) -> Vec<f64> {
        (0..len).map(|i| ((i * 29 + 7) % 17) as f64 - 8.0).collect()
    }

    #[test]
    fn agrees_with_three_loops() {
        for (m, n, k) in
            [(1, 1, 1), (3, 5, 7), (65, 20, 33), (130, 32, 17), (1, 40, 9), (40, 1, 9), (4, 4, 0)]
        {
            let (a, b) = (numbers(m * k), numbers(k * n));
            let want = naive(m, n, k, &a, &b);
            let mut got = vec![1.0; m * n];
            gemm(
                (&mut got, Grid::rows(m, n, n)),
                false,
                1.0,
                (&a, Grid::rows(m, k, k)),
                (&b, Grid::rows(k, n, n)),
            )
            .unwrap();
            assert_eq!(got, want, "{m} {n} {k}");
            let mut turned = vec![2.0; m * n];
            gemm(
                (&mut turned, Grid::rows(n, m, m)),
                true,
                3.0,
                (&b, Grid::rows(k, n, n).t()),
                (&a, Grid::rows(m, k, k).t()),
            )
            .unwrap();
            for (at, want) in want.iter().enumerate() {
                assert_eq!(turned[at % n * m + at / n], 2.0 + 3.0 * want);
            }
        }
    }

    #[test]
    fn refuses_matrices_outside_their_slices() {
        let (a, b) = (vec![0f32; 6], vec![0f32; 6]);
        let run = |len: usize, d: Grid, ga: Grid, gb: Grid| {
            let mut dst = vec![0f32; len];
            gemm((&mut dst, d), false, 1.0, (&a, ga), (&b, gb)).is_err()
        };
        let (ga, gb) = (Grid::rows(2, 3, 3), Grid::rows(3, 2, 2));
        assert!(!run(4, Grid::rows(2, 2, 2), ga, gb));
        assert!(run(3, Grid::rows(2, 2, 2), ga, gb));
        assert!(run(4, Grid::rows(2, 2, 2), Grid::rows(2, 3, 4), gb));
        assert!(run(4, Grid::rows(2, 2, 2), ga, Grid::rows(3, 2, usize::MAX)));
        assert!(run(9, Grid::rows(3, 3, 3), ga, gb));
        assert!(run(4, Grid::rows(2, 2, 1), ga, gb));
        assert!(run(4, Grid::rows(2, 2, 0), ga, gb));
    }
}
