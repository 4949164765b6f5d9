//! Attention in tiles of query rows. A tile's scores live in scratch memory only; backward makes them again.

use candle_core::Result;

use crate::engine::ops::gemm::{Grid, gemm};
use crate::engine::ops::math::{self, Element, with_scratch};
use crate::engine::ops::parallel;
use crate::engine::ops::simd::vectorized;

/// Sizes of one call.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Batch rows.
    pub batch: usize,
    /// Queries per row.
    pub queries: usize,
    /// Keys per row.
    pub keys: usize,
    /// Heads.
    pub heads: usize,
    /// Numbers per head.
    pub size: usize,
    /// Query `i` sees keys `0..=i` only.
    pub causal: bool,
}

/// A `[batch, rows, heads·size]` operand whose last dimension is contiguous: its elements from the first on, the
/// distance between batch rows and between positions.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a, T> {
    /// Elements, the first of the operand first.
    pub data: &'a [T],
    /// Distance of batch rows.
    pub batch: usize,
    /// Distance of positions.
    pub row: usize,
}

impl<'a, T> Operand<'a, T> {
    /// From position `row` of head `head` of batch row `b` on.
    fn from(&self, s: &Sizes, b: usize, head: usize, row: usize) -> &'a [T] {
        &self.data[b * self.batch + row * self.row + head * s.size..]
    }
}

/// Numbers in a tile of scores: 256 KB of f32, a part of a core's second-level cache.
const TILE: usize = 65536;

/// Widths are rounded up to a whole number of vector registers.
fn padded(n: usize) -> usize {
    n.next_multiple_of(16)
}

impl Sizes {
    fn width(&self) -> usize {
        self.heads * self.size
    }

    /// Query rows per tile.
    fn tile(&self) -> usize {
        (TILE / padded(self.keys)).clamp(16, 64).min(self.queries)
    }

    fn tiles(&self) -> usize {
        self.queries.div_ceil(self.tile())
    }

    fn scale(&self) -> f64 {
        1.0 / (self.size as f64).sqrt()
    }

    /// Keys that the queries before `end` see.
    fn seen(&self, end: usize) -> usize {
        if self.causal { end.min(self.keys) } else { self.keys }
    }

    /// Rough time of `products` matrix products of all scores, in nanoseconds.
    fn nanos(&self, products: usize) -> usize {
        let scores = self.batch * self.heads * self.queries * self.keys;
        scores * (products * self.size / 25 + 1)
    }
}

/// For every batch row and head the operand turned to `[size, padded(rows)]`, so that products over `size` read
/// contiguous rows. Columns past `rows` are zero.
fn turned<T: Element>(s: &Sizes, x: Operand<'_, T>, rows: usize) -> Result<Vec<T>> {
    /// Positions at a time: a whole cache line of the output.
    const BLOCK: usize = 16;
    let across = padded(rows);
    let each = s.size * across;
    let mut out = vec![T::zero(); s.batch * s.heads * each];
    let tasks: Vec<_> = out.chunks_mut(each).enumerate().collect();
    parallel::run(tasks, s.batch * rows * s.width(), |(i, out)| {
        let from = x.from(s, i / s.heads, i % s.heads, 0);
        for first in (0..rows).step_by(BLOCK) {
            let block = BLOCK.min(rows - first);
            for (j, out) in out.chunks_exact_mut(across).enumerate() {
                for (r, out) in out[first..first + block].iter_mut().enumerate() {
                    *out = from[(first + r) * x.row + j];
                }
            }
        }
        Ok(())
    })?;
    Ok(out)
}

vectorized! {
    /// `e^(scale (score - largest))` in place for rows of `width` scores of which the first `seen` count, in causal
    /// attention (`first` is the number of the first query) only those up to the query's own. The others become
    /// zero. `sums` gets the sum of each row.
    pub fn exponentials<T>(
        scores: &'a mut [T], sums: &'a mut [T], width: usize, seen: usize, first: Option<usize>, scale: T,
    ) -> () {
        for (i, (row, sum)) in scores.chunks_exact_mut(width).zip(sums).enumerate() {
            let seen = first.map_or(seen, |first| (first + i + 1).min(seen));
            let (live, dead) = row.split_at_mut(seen);
            let top = math::max(live);
            for v in live.iter_mut() {
                *v = ((*v - top) * scale).exp_();
            }
            *sum = math::sum(live, |v| v);
            dead.fill(T::zero());
        }
    }
}

vectorized! {
    /// Gradient of the scores, in place of the gradient `dp` of the probabilities `p`, for rows of `width`.
    pub fn score_gradient<T>(p: &'a [T], dp: &'a mut [T], width: usize, scale: T) -> () {
        for (p, dp) in p.chunks_exact(width).zip(dp.chunks_exact_mut(width)) {
            let dot = math::sum2(p, dp, |p, dp| p * dp);
            for (dp, p) in dp.iter_mut().zip(p) {
                *dp = *p * (*dp - dot) * scale;
            }
        }
    }
}

vectorized! {
    /// `out = x · factor`.
    pub fn scaled<T>(x: &'a [T], out: &'a mut [T], factor: T) -> () {
        for (out, x) in out.iter_mut().zip(x) {
            *out = *x * factor;
        }
    }
}

/// One tile of query rows of one head.
#[derive(Clone, Copy)]
struct Tile {
    batch: usize,
    head: usize,
    /// First query.
    first: usize,
    /// Queries.
    rows: usize,
    /// Keys that the tile's last query sees.
    seen: usize,
    /// Distance of the rows of scores.
    width: usize,
}

impl Sizes {
    fn tile_at(&self, pair: usize, first: usize) -> Tile {
        let rows = self.tile().min(self.queries - first);
        let seen = self.seen(first + rows);
        Tile { batch: pair / self.heads, head: pair % self.heads, first, rows, seen, width: padded(seen) }
    }

    /// Scores of a tile, raised to exponentials; `sums` gets their row sums. `kt` are the turned keys.
    fn scores<T: Element>(
        &self,
        t: Tile,
        q: Operand<'_, T>,
        kt: &[T],
        scores: &mut [T],
        sums: &mut [T],
    ) -> Result<()> {
        let across = padded(self.keys);
        let kt = &kt[(t.batch * self.heads + t.head) * self.size * across..];
        gemm(
            (scores, Grid::rows(t.rows, t.width, t.width)),
            false,
            T::one(),
            (q.from(self, t.batch, t.head, t.first), Grid::rows(t.rows, self.size, q.row)),
            (kt, Grid::rows(self.size, t.width, across)),
        )?;
        let first = self.causal.then_some(t.first);
        exponentials(scores, sums, t.width, t.seen, first, T::of(self.scale()));
        Ok(())
    }
}

/// `softmax(q kᵀ / √size) v` → `[batch, queries, heads·size]`.
pub fn forward<T: Element>(
    s: &Sizes,
    q: Operand<'_, T>,
    k: Operand<'_, T>,
    v: Operand<'_, T>,
) -> Result<Vec<T>> {
    let kt = turned(s, k, s.keys)?;
    let mut out = vec![T::zero(); s.batch * s.queries * s.width()];
    let (tile, tiles) = (s.tile(), s.tiles());
    let groups = parallel::blocks(&mut out, s.width(), s.size, s.batch * s.heads * tiles, |row, head| {
        let (batch, query) = (row / s.queries, row % s.queries);
        (batch * s.heads + head) * tiles + query / tile
    });
    let tasks: Vec<_> = groups.into_iter().enumerate().collect();
    parallel::run(tasks, s.nanos(2), |(i, segments)| {
        let t = s.tile_at(i / tiles, i % tiles * tile);
        with_scratch(t.rows * (t.width + s.size + 1), |scratch| {
            let (scores, rest) = scratch.split_at_mut(t.rows * t.width);
            let (result, sums) = rest.split_at_mut(t.rows * s.size);
            s.scores(t, q, &kt, scores, sums)?;
            gemm(
                (result, Grid::rows(t.rows, s.size, s.size)),
                false,
                T::one(),
                (scores, Grid::rows(t.rows, t.seen, t.width)),
                (v.from(s, t.batch, t.head, 0), Grid::rows(t.seen, s.size, v.row)),
            )?;
            for ((segment, row), sum) in segments.into_iter().zip(result.chunks_exact(s.size)).zip(sums) {
                scaled(row, segment, T::one() / *sum);
            }
            Ok(())
        })
    })?;
    Ok(out)
}

/// Gradients of [`forward`] for q, k and v, those that are wanted; the others come back empty.
/// `dy [batch, queries, heads·size]` is contiguous.
pub fn backward<T: Element>(
    s: &Sizes,
    q: Operand<'_, T>,
    k: Operand<'_, T>,
    v: Operand<'_, T>,
    dy: &[T],
    [want_q, want_k, want_v]: [bool; 3],
) -> Result<[Vec<T>; 3]> {
    let pairs = s.batch * s.heads;
    let (tile, tiles) = (s.tile(), s.tiles());
    // Tiles that share an accumulator for keys and values: few enough accumulators to be small, enough to keep
    // many cores busy.
    let per_split = tiles.div_ceil(16usize.div_ceil(pairs));
    let splits = tiles.div_ceil(per_split);
    let each = s.keys * s.size;
    let want_scores = want_q || want_k;
    let kt = turned(s, k, s.keys)?;
    let vt = if want_scores { turned(s, v, s.keys)? } else { Vec::new() };
    let dy_all = Operand { data: dy, batch: s.queries * s.width(), row: s.width() };

    let mut dq = vec![T::zero(); if want_q { s.batch * s.queries * s.width() } else { 0 }];
    let mut dk = vec![T::zero(); if want_k { pairs * splits * each } else { 0 }];
    let mut dv = vec![T::zero(); if want_v { pairs * splits * each } else { 0 }];
    let groups = parallel::blocks(&mut dq, s.width(), s.size, pairs * splits, |row, head| {
        let (batch, query) = (row / s.queries, row % s.queries);
        (batch * s.heads + head) * splits + query / tile / per_split
    });
    let (mut dk_parts, mut dv_parts) = (dk.chunks_mut(each), dv.chunks_mut(each));
    let tasks: Vec<_> = groups
        .into_iter()
        .enumerate()
        .map(|(i, dq)| (i, dq, dk_parts.next().unwrap_or_default(), dv_parts.next().unwrap_or_default()))
        .collect();
    parallel::run(tasks, s.nanos(5), |(i, dq, dk, dv)| {
        let (pair, split) = (i / splits, i % splits);
        let mut dq = dq.into_iter();
        let area = tile * padded(s.keys);
        with_scratch(2 * area + tile * (s.size + 1), |scratch| {
            let (scores, rest) = scratch.split_at_mut(area);
            let (slopes, rest) = rest.split_at_mut(area);
            let (result, sums) = rest.split_at_mut(tile * s.size);
            for number in split * per_split..((split + 1) * per_split).min(tiles) {
                let t = s.tile_at(pair, number * tile);
                let scores = &mut scores[..t.rows * t.width];
                s.scores(t, q, &kt, scores, &mut sums[..t.rows])?;
                for (row, sum) in scores.chunks_exact_mut(t.width).zip(sums.iter()) {
                    let factor = T::one() / *sum;
                    row.iter_mut().for_each(|v| *v *= factor);
                }
                let grid = Grid::rows(t.rows, t.seen, t.width);
                let dy = dy_all.from(s, t.batch, t.head, t.first);
                let dy_grid = Grid::rows(t.rows, s.size, dy_all.row);
                let seen = Grid::rows(t.seen, s.size, s.size);
                if want_v {
                    gemm((&mut *dv, seen), true, T::one(), (scores, grid.t()), (dy, dy_grid))?;
                }
                if !want_scores {
                    continue;
                }
                let slopes = &mut slopes[..t.rows * t.width];
                let across = padded(s.keys);
                let vt = &vt[pair * s.size * across..];
                gemm(
                    (&mut *slopes, Grid::rows(t.rows, t.width, t.width)),
                    false,
                    T::one(),
                    (dy, dy_grid),
                    (vt, Grid::rows(s.size, t.width, across)),
                )?;
                score_gradient(scores, slopes, t.width, T::of(s.scale()));
                if want_k {
                    let q_grid = Grid::rows(t.rows, s.size, q.row);
                    let q = q.from(s, t.batch, t.head, t.first);
                    gemm((&mut *dk, seen), true, T::one(), (slopes, grid.t()), (q, q_grid))?;
                }
                if want_q {
                    let k_grid = Grid::rows(t.seen, s.size, k.row);
                    let k = k.from(s, t.batch, t.head, 0);
                    let result = &mut result[..t.rows * s.size];
                    gemm(
                        (&mut *result, Grid::rows(t.rows, s.size, s.size)),
                        false,
                        T::one(),
                        (slopes, grid),
                        (k, k_grid),
                    )?;
                    for (row, segment) in result.chunks_exact(s.size).zip(&mut dq) {
                        segment.copy_from_slice(row);
                    }
                }
            }
            Ok(())
        })
    })?;
    Ok([dq, gathered(s, &dk, splits), gathered(s, &dv, splits)])
}

/// Sums the `splits` accumulators `[keys, size]` of every head into `[batch, keys, heads·size]`.
fn gathered<T: Element>(s: &Sizes, parts: &[T], splits: usize) -> Vec<T> {
    if parts.is_empty() {
        return Vec::new();
    }
    let each = s.keys * s.size;
    let mut out = vec![T::zero(); s.batch * s.keys * s.width()];
    parallel::pieces(&mut out, s.width(), parts.len(), |at, out| {
        let row = at / s.width();
        let (batch, key) = (row / s.keys, row % s.keys);
        for (head, out) in out.chunks_exact_mut(s.size).enumerate() {
            let first = (batch * s.heads + head) * splits;
            for part in parts.chunks_exact(each).skip(first).take(splits) {
                for (out, v) in out.iter_mut().zip(&part[key * s.size..]) {
                    *out += *v;
                }
            }
        }
    });
    out
}
