//! A step of Adam, in one pass over the memory.

use candle_core::Result;

use crate::engine::ops::math::Element;
use crate::engine::ops::parallel;
use crate::engine::ops::simd::vectorized;

/// Elements per task.
const PIECE: usize = 16_384;

/// Independent sums, so that the additions of one do not wait for those of another.
const LANES: usize = 16;

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
pub struct Step<T> {
    /// What stays of the mean of gradients and of the mean of their squares, and what each takes of the new one.
    pub keep: [T; 2],
    pub take: [T; 2],
    /// One over the root of the second mean's correction.
    pub scale: T,
    pub eps: T,
    /// Learning rate over the first mean's correction.
    pub rate: T,
    /// What weight decay leaves of a value.
    pub decayed: T,
}

vectorized! {
    /// `x`, gradient and means → new `x` and means.
    fn piece<T>(
        step: Step<T>, x: &'a [T], grad: &'a [T], mean: &'a [T], square: &'a [T],
        new: &'a mut [T], new_mean: &'a mut [T], new_square: &'a mut [T],
    ) -> () {
        let old = x.iter().zip(grad).zip(mean.iter().zip(square));
        let out = new.iter_mut().zip(new_mean.iter_mut().zip(new_square));
        for (((x, g), (m, v)), (new, (new_m, new_v))) in old.zip(out) {
            let m = *m * step.keep[0] + *g * step.take[0];
            let v = *v * step.keep[1] + *g * *g * step.take[1];
            (*new_m, *new_v) = (m, v);
            *new = *x * step.decayed - m / (v.sqrt() * step.scale + step.eps) * step.rate;
        }
    }
}

/// The new values, means of gradients and means of their squares. All slices have the same length.
pub fn step<T: Element>(step: Step<T>, x: &[T], grad: &[T], mean: &[T], square: &[T]) -> Result<[Vec<T>; 3]> {
    let zeros = || vec![T::zero(); x.len()];
    let (mut new, mut new_mean, mut new_square) = (zeros(), zeros(), zeros());
    let means = new_mean.chunks_mut(PIECE).zip(new_square.chunks_mut(PIECE));
    let tasks: Vec<_> = new.chunks_mut(PIECE).zip(means).enumerate().collect();
    // The pass waits for memory: three streams out and four in.
    parallel::run(tasks, 2 * x.len(), |(i, (new, (new_mean, new_square)))| {
        let range = i * PIECE..i * PIECE + new.len();
        piece(
            step,
            &x[range.clone()],
            &grad[range.clone()],
            &mean[range.clone()],
            &square[range],
            new,
            new_mean,
            new_square,
        );
        Ok(())
    })?;
    Ok([new, new_mean, new_square])
}

vectorized! {
    /// The sum of squares.
    fn squares<T>(x: &'a [T]) -> f64 {
        let mut sums = [0.0; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest: f64 = chunks.remainder().iter().map(|v| v.wide() * v.wide()).sum();
        for chunk in chunks {
            for (sum, v) in sums.iter_mut().zip(chunk) {
                *sum += v.wide() * v.wide();
            }
        }
        sums.iter().sum::<f64>() + rest
    }
}

/// The sum of the squares of all elements, in f64.
pub fn sum_of_squares<T: Element>(x: &[T]) -> f64 {
    let mut parts = vec![0.0; x.len().div_ceil(PIECE)];
    parallel::pieces(&mut parts, 1, x.len() / 2, |i, out| {
        for (k, out) in out.iter_mut().enumerate() {
            let first = (i + k) * PIECE;
            *out = squares(&x[first..x.len().min(first + PIECE)]);
        }
    });
    parts.iter().sum()
}
