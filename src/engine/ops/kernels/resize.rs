//! Doubling of pictures.

use crate::engine::ops::math::Element;
use crate::engine::ops::parallel;

/// Rows of `w` → twice as many rows of `2w`, every value four times.
pub fn double<T: Element>(x: &[T], w: usize) -> Vec<T> {
    let mut out = vec![T::zero(); 4 * x.len()];
    let rows = (8192 / (4 * w)).max(1);
    parallel::pieces(&mut out, rows * 4 * w, x.len(), |at, out| {
        let x = &x[at / 4..(at + out.len()) / 4];
        for (x, out) in x.chunks_exact(w).zip(out.chunks_exact_mut(4 * w)) {
            let (first, second) = out.split_at_mut(2 * w);
            for (pair, x) in first.as_chunks_mut::<2>().0.iter_mut().zip(x) {
                *pair = [*x, *x];
            }
            second.copy_from_slice(first);
        }
    });
    out
}

/// The gradient of [`double`]: the sum over every square. `w` is the width of the smaller side.
pub fn double_back<T: Element>(dy: &[T], w: usize) -> Vec<T> {
    let mut out = vec![T::zero(); dy.len() / 4];
    let rows = (8192 / (4 * w)).max(1);
    parallel::pieces(&mut out, rows * w, dy.len(), |at, out| {
        let dy = &dy[4 * at..4 * (at + out.len())];
        for (dy, out) in dy.chunks_exact(4 * w).zip(out.chunks_exact_mut(w)) {
            let (first, second) = dy.split_at(2 * w);
            let pairs = first.as_chunks::<2>().0.iter().zip(second.as_chunks::<2>().0);
            for (out, ([a, b], [c, d])) in out.iter_mut().zip(pairs) {
                *out = (*a + *b) + (*c + *d);
            }
        }
    });
    out
}
