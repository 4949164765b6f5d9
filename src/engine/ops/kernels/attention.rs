//! Attention in tiles of query rows. A tile's scores live in scratch memory only, on the way forward a block of keys at a time;
//! backward makes them again.

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

/// Numbers in a tile of scores of the way back: 256 KB of f32, a part of a core's second-level cache.
const TILE: usize = 65536;

/// Query rows per tile of the way forward: as many as [`gemm`] takes without packing the keys again.
const ROWS: usize = 48;

/// Keys whose scores a tile of the way forward holds at a time: they stay in the caches with their keys and values.
const KEYS: usize = 512;

/// Widths are rounded up to a whole number of vector registers.
fn padded(n: usize) -> usize {
    n.next_multiple_of(16)
}

impl Sizes {
    fn width(&self) -> usize {
        self.heads * self.size
    }

    /// Query rows per tile of the way forward, in whole sixes where there are enough: the rows of a register tile.
    fn rows(&self) -> usize {
        let tiles = self.queries.div_ceil(ROWS);
        self.queries.div_ceil(tiles).next_multiple_of(6).min(self.queries)
    }

    /// Query rows per tile of the way back.
    fn tile(&self) -> usize {
        (TILE / padded(self.keys)).clamp(16, 64).min(self.queries)
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

/// For every batch row and head the operand turned for products over `size`: blocks of [`KEYS`] positions, each
/// `[size, positions]`, so that a product reads one stretch of memory. The last block is as wide as its positions,
/// rounded up; columns past `rows` are zero.
fn turned<T: Element>(s: &Sizes, x: Operand<'_, T>, rows: usize) -> Result<Vec<T>> {
    /// Positions at a time: a whole cache line of the output.
    const LINE: usize = 16;
    let each = s.size * padded(rows);
    let mut out = vec![T::zero(); s.batch * s.heads * each];
    let tasks: Vec<_> = out.chunks_mut(each).enumerate().collect();
    parallel::run(tasks, s.batch * rows * s.width(), |(i, out)| {
        let from = x.from(s, i / s.heads, i % s.heads, 0);
        for (block, out) in out.chunks_mut(s.size * KEYS).enumerate() {
            let across = out.len() / s.size;
            let start = block * KEYS;
            for first in (start..rows.min(start + KEYS)).step_by(LINE) {
                let line = LINE.min(rows - first);
                for (j, out) in out.chunks_exact_mut(across).enumerate() {
                    for (r, out) in out[first - start..][..line].iter_mut().enumerate() {
                        *out = from[(first + r) * x.row + j];
                    }
                }
            }
        }
        Ok(())
    })?;
    Ok(out)
}

/// For every batch row and head the operand `[rows, padded(size)]` in one stretch of memory, zeros on the right.
fn together<T: Element>(s: &Sizes, x: Operand<'_, T>, rows: usize) -> Result<Vec<T>> {
    let across = padded(s.size);
    let mut out = vec![T::zero(); s.batch * s.heads * rows * across];
    let tasks: Vec<_> = out.chunks_mut(rows * across).enumerate().collect();
    parallel::run(tasks, s.batch * rows * s.width() / 2, |(i, out)| {
        let from = x.from(s, i / s.heads, i % s.heads, 0);
        for (r, out) in out.chunks_exact_mut(across).enumerate() {
            out[..s.size].copy_from_slice(&from[r * x.row..][..s.size]);
        }
        Ok(())
    })?;
    Ok(out)
}

/// The rows of queries whose softmax is summed up block by block of keys: largest score so far, sum of exponentials
/// and of exponentials times values, both relative to that score.
struct Sums<'a, T> {
    top: &'a mut [T],
    sum: &'a mut [T],
    /// Rows of `across` numbers.
    values: &'a mut [T],
    across: usize,
}

vectorized! {
    /// `e^(scale (score - largest))` in place for rows of `width` scores, of which the first `seen` count, in causal attention
    /// only the first `first + 1` for the first row, one more for every other. The others become zero.
    /// `sums` follows to the new largest scores.
    fn softened<T>(
        scores: &'a mut [T], width: usize, seen: usize, first: Option<isize>, scale: T, sums: Sums<'a, T>,
    ) -> () {
        let Sums { top, sum, values, across } = sums;
        let rows = scores.chunks_exact_mut(width).zip(values.chunks_exact_mut(across));
        for (i, ((row, values), (top, sum))) in rows.zip(top.iter_mut().zip(sum)).enumerate() {
            let seen = first.map_or(seen, |first| (first + i as isize + 1).clamp(0, seen as isize) as usize);
            let (live, dead) = row.split_at_mut(seen);
            dead.fill(T::zero());
            if live.is_empty() {
                continue;
            }
            let new = math::max(live).at_least(*top);
            if new > *top {
                let factor = ((*top - new) * scale).exp_();
                *sum *= factor;
                for v in values.iter_mut() {
                    *v *= factor;
                }
            }
            *sum += math::sum_mut(live, |v| {
                *v = ((*v - new) * scale).exp_();
                *v
            });
            *top = new;
        }
    }
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
            *sum = math::sum_mut(live, |v| {
                *v = ((*v - top) * scale).exp_();
                *v
            });
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

    /// `out [t.rows, t.width] = a · b` for the rows `a` of a tile and an operand of all keys that was [`turned`].
    fn products<T: Element>(&self, t: Tile, a: (&[T], usize), b: &[T], out: &mut [T]) -> Result<()> {
        let all = padded(self.keys);
        let b = &b[(t.batch * self.heads + t.head) * self.size * all..];
        for at in (0..t.width).step_by(KEYS) {
            // The block may be wider than what the tile sees of it.
            let (across, width) = (KEYS.min(all - at), KEYS.min(t.width - at));
            gemm(
                (&mut out[at..], Grid::rows(t.rows, width, t.width)),
                false,
                T::one(),
                (a.0, Grid::rows(t.rows, self.size, a.1)),
                (&b[at * self.size..], Grid::rows(self.size, width, across)),
            )?;
        }
        Ok(())
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
        self.products(t, (q.from(self, t.batch, t.head, t.first), q.row), kt, scores)?;
        let first = self.causal.then_some(t.first);
        exponentials(scores, sums, t.width, t.seen, first, T::of(self.scale()));
        Ok(())
    }
}

/// `softmax(q kᵀ / √size) v` → `[batch, queries, heads·size]`.
///
/// The softmax is summed up over blocks of keys, each relative to the largest score so far (Milakov and Gimelshein,
/// "Online normalizer calculation for softmax", 2018), so that no row of scores is ever whole.
pub fn forward<T: Element>(
    s: &Sizes,
    q: Operand<'_, T>,
    k: Operand<'_, T>,
    v: Operand<'_, T>,
) -> Result<Vec<T>> {
    let (kt, vs) = (turned(s, k, s.keys)?, together(s, v, s.keys)?);
    let mut out = vec![T::zero(); s.batch * s.queries * s.width()];
    let tile = s.rows();
    let tiles = s.queries.div_ceil(tile);
    let groups = parallel::blocks(&mut out, s.width(), s.size, s.batch * s.heads * tiles, |row, head| {
        let (batch, query) = (row / s.queries, row % s.queries);
        (batch * s.heads + head) * tiles + query / tile
    });
    let tasks: Vec<_> = groups.into_iter().enumerate().collect();
    let (all, across) = (padded(s.keys), padded(s.size));
    parallel::run(tasks, s.nanos(2), |(i, segments)| {
        let (pair, first) = (i / tiles, i % tiles * tile);
        let rows = tile.min(s.queries - first);
        let end = s.seen(first + rows);
        let (kt, vs) = (&kt[pair * s.size * all..], &vs[pair * s.keys * across..]);
        let queries = (q.from(s, pair / s.heads, pair % s.heads, first), Grid::rows(rows, s.size, q.row));
        with_scratch(rows * (KEYS.min(all) + across + 2), |scratch| {
            let (values, rest) = scratch.split_at_mut(rows * across);
            let (top, rest) = rest.split_at_mut(rows);
            let (sum, scores) = rest.split_at_mut(rows);
            values.fill(T::zero());
            top.fill(T::min_value());
            sum.fill(T::zero());
            for at in (0..end).step_by(KEYS) {
                let (seen, block) = (KEYS.min(end - at), KEYS.min(all - at));
                let width = padded(seen);
                let scores = &mut scores[..rows * width];
                let keys = (&kt[at * s.size..], Grid::rows(s.size, width, block));
                gemm((&mut *scores, Grid::rows(rows, width, width)), false, T::one(), queries, keys)?;
                let first = s.causal.then_some(first as isize - at as isize);
                let sums = Sums { top: &mut *top, sum: &mut *sum, values: &mut *values, across };
                softened(scores, width, seen, first, T::of(s.scale()), sums);
                gemm(
                    (&mut *values, Grid::rows(rows, across, across)),
                    true,
                    T::one(),
                    (scores, Grid::rows(rows, seen, width)),
                    (&vs[at * across..], Grid::rows(seen, across, across)),
                )?;
            }
            for ((segment, row), sum) in segments.into_iter().zip(values.chunks_exact(across)).zip(sum) {
                scaled(&row[..s.size], segment, T::one() / *sum);
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
    let tile = s.tile();
    let tiles = s.queries.div_ceil(tile);
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
                s.products(t, (dy, dy_all.row), &vt, slopes)?;
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
