//! Group and layer normalization.
//!
//! Statistics take two passes over a block that is still in cache (mean, then squared distances to it), so that a
//! large mean does not drown the variance. Backward recomputes them: nothing but the input is kept.

use candle_core::Result;

use super::pointwise::{Curve, Silu};
use crate::engine::ops::math::{self, Element};
use crate::engine::ops::parallel;
use crate::engine::ops::simd::vectorized;

/// Elements that are summed in the type itself before the sum goes on in f64.
const RUN: usize = 4096;

/// Mean and 1 / √(variance + eps).
#[inline(always)]
fn moments<T: Element>(x: &[T], eps: T) -> (T, T) {
    let count = x.len() as f64;
    let total: f64 = x.chunks(RUN).map(|x| math::sum(x, |v| v).wide()).fold(0.0, |a, b| a + b);
    let mean = T::of(total / count);
    let squares: f64 =
        x.chunks(RUN).map(|x| math::sum(x, |v| (v - mean) * (v - mean)).wide()).fold(0.0, |a, b| a + b);
    let variance = T::of(squares / count);
    (mean, T::one() / (variance + eps).sqrt())
}

/// What group normalization needs to know beside its tensors.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    /// Channels.
    pub channels: usize,
    /// Groups; divides the channels.
    pub groups: usize,
    /// Elements per channel.
    pub area: usize,
    /// Added to the variance.
    pub eps: f64,
    /// SiLU afterwards.
    pub silu: bool,
}

impl Groups {
    fn per_group(&self) -> usize {
        self.channels / self.groups
    }

    fn block(&self) -> usize {
        self.per_group() * self.area
    }
}

vectorized! {
    /// One group of one row: `x` and `out` hold `weight.len()` channels of `area`.
    pub fn group_block<T>(
        x: &'a [T], weight: &'a [T], bias: &'a [T], out: &'a mut [T], area: usize, eps: T, silu: bool,
    ) -> () {
        let (mean, scale) = moments(x, eps);
        let channels = x.chunks_exact(area).zip(out.chunks_exact_mut(area)).zip(weight.iter().zip(bias));
        for ((x, out), (weight, bias)) in channels {
            let (weight, bias) = (*weight * scale, *bias);
            if silu {
                for (out, x) in out.iter_mut().zip(x) {
                    *out = Silu::value((*x - mean) * weight + bias);
                }
            } else {
                for (out, x) in out.iter_mut().zip(x) {
                    *out = (*x - mean) * weight + bias;
                }
            }
        }
    }
}

/// `x [n, channels, area]` → the same shape.
pub fn group_norm<T: Element>(x: &[T], weight: &[T], bias: &[T], g: Groups) -> Vec<T> {
    let mut out = vec![T::zero(); x.len()];
    let (block, per) = (g.block(), g.per_group());
    parallel::pieces(&mut out, block, x.len(), |at, out| {
        let first = at / block % g.groups * per;
        let channels = first..first + per;
        let x = &x[at..at + block];
        group_block(x, &weight[channels.clone()], &bias[channels], out, g.area, T::of(g.eps), g.silu)
    });
    out
}

vectorized! {
    /// Backward of one group of one row: fills `dx` where it is not empty, and adds to nothing: `sums` gets, per
    /// channel, the gradients of weight and bias from this row alone.
    pub fn group_block_back<T>(
        x: &'a [T], dy: &'a [T], weight: &'a [T], bias: &'a [T], dx: &'a mut [T], sums: &'a mut [[T; 2]],
        area: usize, eps: T, silu: bool,
    ) -> () {
        let (mean, scale) = moments(x, eps);
        let back = |x: T, dy: T, weight: T, bias: T| {
            let normal = (x - mean) * scale;
            let dz = if silu { dy * Silu::slope(normal * weight + bias) } else { dy };
            (normal, dz)
        };
        let channels = x.chunks_exact(area).zip(dy.chunks_exact(area)).zip(weight.iter().zip(bias)).zip(sums.iter_mut());
        let (mut total, mut total_normal) = (0.0, 0.0);
        for (((x, dy), (weight, bias)), sums) in channels {
            let (mut for_weight, mut for_bias) = (0.0, 0.0);
            for (x, dy) in x.chunks(RUN).zip(dy.chunks(RUN)) {
                for_weight += math::sum2(x, dy, |x, dy| {
                    let (normal, dz) = back(x, dy, *weight, *bias);
                    normal * dz
                }).wide();
                for_bias += math::sum2(x, dy, |x, dy| back(x, dy, *weight, *bias).1).wide();
            }
            *sums = [T::of(for_weight), T::of(for_bias)];
            total += for_bias * weight.wide();
            total_normal += for_weight * weight.wide();
        }
        if dx.is_empty() {
            return;
        }
        let count = x.len() as f64;
        let (total, total_normal) = (T::of(total / count), T::of(total_normal / count));
        let channels = x.chunks_exact(area).zip(dy.chunks_exact(area)).zip(weight.iter().zip(bias));
        for (((x, dy), (weight, bias)), dx) in channels.zip(dx.chunks_exact_mut(area)) {
            for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                let (normal, dz) = back(*x, *dy, *weight, *bias);
                *dx = scale * (dz * *weight - total - normal * total_normal);
            }
        }
    }
}

/// Gradients of [`group_norm`] for `x` (empty unless `want_x`), weight and bias.
pub fn group_norm_back<T: Element>(
    x: &[T],
    dy: &[T],
    weight: &[T],
    bias: &[T],
    g: Groups,
    want_x: bool,
) -> Result<(Vec<T>, Vec<T>, Vec<T>)> {
    let (block, per) = (g.block(), g.per_group());
    let count = x.len() / block;
    let mut dx = vec![T::zero(); if want_x { x.len() } else { 0 }];
    let mut sums = vec![[T::zero(); 2]; count * per];
    let mut dx_blocks = dx.chunks_mut(block);
    let tasks: Vec<_> = sums
        .chunks_mut(per)
        .enumerate()
        .map(|(i, sums)| (i, dx_blocks.next().unwrap_or_default(), sums))
        .collect();
    parallel::run(tasks, 3 * x.len(), |(i, dx, sums)| {
        let channels = i % g.groups * per..(i % g.groups + 1) * per;
        let block = i * block..(i + 1) * block;
        let (weight, bias) = (&weight[channels.clone()], &bias[channels]);
        group_block_back(&x[block.clone()], &dy[block], weight, bias, dx, sums, g.area, T::of(g.eps), g.silu);
        Ok(())
    })?;
    let (mut dweight, mut dbias) = (vec![T::zero(); g.channels], vec![T::zero(); g.channels]);
    for row in sums.chunks_exact(g.channels) {
        for ((dweight, dbias), [for_weight, for_bias]) in dweight.iter_mut().zip(&mut dbias).zip(row) {
            *dweight += *for_weight;
            *dbias += *for_bias;
        }
    }
    Ok((dx, dweight, dbias))
}

/// Rows per task of layer normalization: about 8192 elements.
fn layer_rows(c: usize) -> usize {
    (8192 / c).max(1)
}

vectorized! {
    /// Layer normalization of rows of `weight.len()` numbers.
    pub fn layer_block<T>(x: &'a [T], weight: &'a [T], bias: &'a [T], out: &'a mut [T], eps: T) -> () {
        let c = weight.len();
        for (x, out) in x.chunks_exact(c).zip(out.chunks_exact_mut(c)) {
            let (mean, scale) = moments(x, eps);
            for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
                *out = (*x - mean) * scale * *weight + *bias;
            }
        }
    }
}

/// `x [rows, c]` → the same shape.
pub fn layer_norm<T: Element>(x: &[T], weight: &[T], bias: &[T], eps: f64) -> Vec<T> {
    let mut out = vec![T::zero(); x.len()];
    let c = weight.len();
    parallel::pieces(&mut out, layer_rows(c) * c, x.len(), |at, out| {
        layer_block(&x[at..at + out.len()], weight, bias, out, T::of(eps))
    });
    out
}

vectorized! {
    /// Backward of rows: fills `dx` where it is not empty, adds to `dweight` and `dbias` where they are not empty.
    pub fn layer_block_back<T>(
        x: &'a [T], dy: &'a [T], weight: &'a [T], dx: &'a mut [T], dweight: &'a mut [T], dbias: &'a mut [T], eps: T,
    ) -> () {
        let c = weight.len();
        let count = T::of(c as f64);
        let mut dx_rows = dx.chunks_exact_mut(c);
        for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(c)) {
            let (mean, scale) = moments(x, eps);
            for (((dweight, dbias), x), dy) in dweight.iter_mut().zip(dbias.iter_mut()).zip(x).zip(dy) {
                *dweight += (*x - mean) * scale * *dy;
                *dbias += *dy;
            }
            let Some(dx) = dx_rows.next() else { continue };
            for ((dx, dy), weight) in dx.iter_mut().zip(dy).zip(weight) {
                *dx = *dy * *weight;
            }
            let total = math::sum(dx, |v| v) / count;
            let total_normal = math::sum2(dx, x, |g, x| g * ((x - mean) * scale)) / count;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = scale * (*dx - total - (*x - mean) * scale * total_normal);
            }
        }
    }
}

/// Gradients of [`layer_norm`]: for `x` (empty unless `want_x`), and for weight and bias (empty unless
/// `want_weight`).
pub fn layer_norm_back<T: Element>(
    x: &[T],
    dy: &[T],
    weight: &[T],
    eps: f64,
    want_x: bool,
    want_weight: bool,
) -> Result<(Vec<T>, Vec<T>, Vec<T>)> {
    let c = weight.len();
    // At most 64 partial sums of the weights, however many rows there are.
    let rows = layer_rows(c).max((x.len() / c).div_ceil(64));
    let count = (x.len() / c).div_ceil(rows);
    let width = if want_weight { c } else { 0 };
    let mut dx = vec![T::zero(); if want_x { x.len() } else { 0 }];
    let mut partial = vec![T::zero(); 2 * width * count];
    let mut dx_blocks = dx.chunks_mut(rows * c);
    let mut partial_blocks = partial.chunks_mut((2 * width).max(1));
    let tasks: Vec<_> = (0..count)
        .map(|i| (i, dx_blocks.next().unwrap_or_default(), partial_blocks.next().unwrap_or_default()))
        .collect();
    parallel::run(tasks, 2 * x.len(), |(i, dx, partial)| {
        let range = i * rows * c..((i + 1) * rows * c).min(x.len());
        let (dweight, dbias) = partial.split_at_mut(width);
        layer_block_back(&x[range.clone()], &dy[range], weight, dx, dweight, dbias, T::of(eps));
        Ok(())
    })?;
    let (mut dweight, mut dbias) = (vec![T::zero(); width], vec![T::zero(); width]);
    if want_weight {
        for block in partial.chunks_exact(2 * width) {
            let (for_weight, for_bias) = block.split_at(width);
            for ((dweight, dbias), (w, b)) in
                dweight.iter_mut().zip(&mut dbias).zip(for_weight.iter().zip(for_bias))
            {
                *dweight += *w;
                *dbias += *b;
            }
        }
    }
    Ok((dx, dweight, dbias))
}
