//! Convolution as matrix products over tiles of output positions (im2col), and its gradients.

use std::ops::Range;

use candle_core::Result;

use crate::engine::ops::conv::Padding;
use crate::engine::ops::gemm::{Grid, gemm};
use crate::engine::ops::math::{self, Element, with_scratch};
use crate::engine::ops::parallel;
use crate::engine::ops::simd::vectorized;

/// Multiplications and additions that one task should have (about 0.15 ms of one core with AVX-512).
const TASK: usize = 16_000_000;

/// Elements of a tile's unrolled input: 768 KB of f32, most of a core's second-level cache.
const UNROLLED: usize = 196_608;

/// Sizes of one call.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Pictures.
    pub n: usize,
    /// Input channels, height, width.
    pub input: [usize; 3],
    /// Output channels, height, width.
    pub output: [usize; 3],
    /// Kernel height, width.
    pub kernel: [usize; 2],
    /// Steps of the kernel.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: Padding,
}

impl Sizes {
    /// Output positions of one picture.
    fn positions(&self) -> usize {
        self.output[1] * self.output[2]
    }

    /// Input positions of one picture.
    fn area(&self) -> usize {
        self.input[1] * self.input[2]
    }

    /// Positions of the kernel.
    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Terms of one output value.
    fn depth(&self) -> usize {
        self.input[0] * self.taps()
    }

    /// Whether input and unrolled input are the same.
    fn is_plain(&self) -> bool {
        self.kernel == [1, 1] && self.stride == 1 && self.padding == Padding::default()
    }

    /// Rough time of one matrix product of the whole, in nanoseconds.
    fn nanos(&self) -> usize {
        self.n * self.positions() * self.output[0] * self.depth() / 30
            + self.n * self.positions() * self.depth() / 4
    }
}

/// Columns of a matrix product: all positions of several pictures, or some positions of one.
#[derive(Clone, Copy, Debug)]
struct Tile {
    /// First picture.
    picture: usize,
    pictures: usize,
    /// First position.
    first: usize,
    positions: usize,
}

impl Tile {
    fn columns(&self) -> usize {
        self.pictures * self.positions
    }
}

/// How the positions of a batch are cut into tiles. Depends on the shapes only.
#[derive(Clone, Copy, Debug)]
struct Tiles {
    /// Pictures per tile, where a tile holds whole pictures; else 1.
    pictures: usize,
    /// Positions per tile.
    positions: usize,
    /// Tiles per picture, where a picture is cut; else 1.
    across: usize,
    count: usize,
}

impl Tiles {
    /// Tiles of about `columns` columns.
    fn new(s: &Sizes, columns: usize) -> Self {
        let positions = s.positions();
        if positions <= columns {
            let pictures = (columns / positions).clamp(1, s.n);
            Tiles { pictures, positions, across: 1, count: s.n.div_ceil(pictures) }
        } else {
            // Whole rows of outputs where they are short, whole registers otherwise.
            let unit =
                if s.output[2] <= 64 && s.output[2].is_power_of_two() { s.output[2].max(16) } else { 16 };
            let part = positions.div_ceil(positions.div_ceil(columns)).next_multiple_of(unit);
            let across = positions.div_ceil(part);
            Tiles { pictures: 1, positions: part, across, count: s.n * across }
        }
    }

    fn at(&self, s: &Sizes, index: usize) -> Tile {
        let (group, part) = (index / self.across, index % self.across);
        let picture = group * self.pictures;
        let first = part * self.positions;
        Tile {
            picture,
            pictures: self.pictures.min(s.n - picture),
            first,
            positions: self.positions.min(s.positions() - first),
        }
    }

    /// The tile that holds the first position of segment `part` of `picture`.
    fn index(&self, picture: usize, part: usize) -> usize {
        picture / self.pictures * self.across + part
    }
}

/// Columns that a tile should have for sums of `depth` terms and `rows` results per column.
fn columns(depth: usize, rows: usize) -> usize {
    let by_work = TASK / (2 * depth.max(1) * rows.max(1));
    let by_cache = (UNROLLED / depth.max(1)).max(64);
    by_work.clamp(64, 512).min(by_cache) / 64 * 64
}

/// The part of one input plane that a tile's positions of one picture reach, padding included: `rows` rows of
/// `width`, the first of them `top` rows below the upper edge of the padded plane.
#[derive(Clone, Copy)]
struct Band {
    top: usize,
    rows: usize,
    width: usize,
}

impl Band {
    fn new(s: &Sizes, tile: Tile) -> Self {
        let ow = s.output[2];
        let (first, last) = (tile.first / ow, (tile.first + tile.positions - 1) / ow);
        let width = s.input[2] + s.padding.left + s.padding.right;
        Band { top: first * s.stride, rows: (last - first) * s.stride + s.kernel[0], width }
    }

    fn len(&self) -> usize {
        self.rows * self.width
    }

    /// Rows of the band that are rows of the plane: (band row, plane row).
    fn inside(self, s: &Sizes) -> impl Iterator<Item = (usize, usize)> {
        let (before, h) = (s.padding.top, s.input[1]);
        (0..self.rows).filter_map(move |r| {
            let y = (self.top + r).checked_sub(before)?;
            (y < h).then_some((r, y))
        })
    }
}

/// The runs of a tile's positions that lie in one output row: calls `f(column, row of outputs in the tile, ox, length)`.
#[inline(always)]
fn runs(tile: Tile, width: usize, mut f: impl FnMut(usize, usize, usize, usize)) {
    let (mut column, mut row, mut ox) = (0, 0, tile.first % width);
    while column < tile.positions {
        let length = (width - ox).min(tile.positions - column);
        f(column, row, ox, length);
        column += length;
        (row, ox) = (row + 1, 0);
    }
}

/// `N` numbers at once, where there are as many: one or two registers instead of a call to memmove.
#[inline(always)]
fn copy_exactly<T: Copy, const N: usize>(out: &mut [T], from: &[T]) -> bool {
    match (out.first_chunk_mut::<N>(), from.first_chunk::<N>()) {
        (Some(out), Some(from)) => {
            *out = *from;
            true
        }
        _ => false,
    }
}

/// Copies a run; the widths of small pictures without a call.
#[inline(always)]
fn copy_run<T: Copy>(out: &mut [T], from: &[T]) {
    let done = match out.len() {
        2 => copy_exactly::<T, 2>(out, from),
        4 => copy_exactly::<T, 4>(out, from),
        8 => copy_exactly::<T, 8>(out, from),
        16 => copy_exactly::<T, 16>(out, from),
        32 => copy_exactly::<T, 32>(out, from),
        _ => false,
    };
    if !done {
        out.copy_from_slice(from);
    }
}

vectorized! {
    /// Unrolls the tile's input for some channels: row `(channel, ky, kx)`, column (picture, position).
    /// `band` is scratch memory for one [`Band`].
    fn unroll_into<T>(
        s: &'a Sizes, x: &'a [T], tile: Tile, channels: Range<usize>, out: &'a mut [T], memory: &'a mut [T],
    ) -> () {
        let [ic, h, w] = s.input;
        let columns = tile.columns();
        let band = Band::new(s, tile);
        let memory = &mut memory[..band.len()];
        // The frame of zeros stays when the inside is overwritten channel by channel.
        memory.fill(T::zero());
        for (channel, out) in channels.zip(out.chunks_exact_mut(s.taps() * columns)) {
            for p in 0..tile.pictures {
                let plane = &x[((tile.picture + p) * ic + channel) * h * w..][..h * w];
                for (r, y) in band.inside(s) {
                    copy_run(&mut memory[r * band.width + s.padding.left..][..w], &plane[y * w..][..w]);
                }
                for (tap, out) in out.chunks_exact_mut(columns).enumerate() {
                    let out = &mut out[p * tile.positions..][..tile.positions];
                    let shifted = &memory[tap / s.kernel[1] * band.width + tap % s.kernel[1]..];
                    runs(tile, s.output[2], |column, row, ox, length| {
                        let out = &mut out[column..column + length];
                        let from = &shifted[row * s.stride * band.width + ox * s.stride..];
                        if s.stride == 1 {
                            copy_run(out, &from[..length]);
                        } else {
                            for (out, v) in out.iter_mut().zip(from.iter().step_by(s.stride)) {
                                *out = *v;
                            }
                        }
                    });
                }
            }
        }
    }
}

/// [`unroll_into`] with scratch memory of its own.
fn unroll<T: Element>(s: &Sizes, x: &[T], tile: Tile, channels: Range<usize>, out: &mut [T]) {
    with_scratch(Band::new(s, tile).len(), |memory| unroll_into(s, x, tile, channels, out, memory));
}

vectorized! {
    /// Adds unrolled columns of some channels back to where they came from: the reverse of [`unroll_into`].
    /// `planes[(picture, channel)]` are the planes of the tile's pictures, channel by channel within a picture.
    fn roll_into<T>(
        s: &'a Sizes, columns: &'a [T], tile: Tile, planes: &'a mut [&'b mut [T]], memory: &'a mut [T],
    ) -> () {
        let w = s.input[2];
        let channels = planes.len() / tile.pictures;
        let band = Band::new(s, tile);
        let memory = &mut memory[..band.len()];
        for (channel, from) in columns.chunks_exact(s.taps() * tile.columns()).enumerate() {
            for p in 0..tile.pictures {
                memory.fill(T::zero());
                for (tap, from) in from.chunks_exact(tile.columns()).enumerate() {
                    let from = &from[p * tile.positions..][..tile.positions];
                    let shifted = &mut memory[tap / s.kernel[1] * band.width + tap % s.kernel[1]..];
                    runs(tile, s.output[2], |column, row, ox, length| {
                        let sums = &mut shifted[row * s.stride * band.width + ox * s.stride..];
                        let from = &from[column..column + length];
                        if s.stride == 1 {
                            for (sum, v) in sums.iter_mut().zip(from) {
                                *sum += *v;
                            }
                        } else {
                            for (sum, v) in sums.iter_mut().step_by(s.stride).zip(from) {
                                *sum += *v;
                            }
                        }
                    });
                }
                let plane = &mut *planes[p * channels + channel];
                for (r, y) in band.inside(s) {
                    let sums = &memory[r * band.width + s.padding.left..][..w];
                    for (plane, v) in plane[y * w..][..w].iter_mut().zip(sums) {
                        *plane += *v;
                    }
                }
            }
        }
    }
}

vectorized! {
    /// `out = x + shift`.
    pub fn shifted<T>(x: &'a [T], out: &'a mut [T], shift: T) -> () {
        for (out, x) in out.iter_mut().zip(x) {
            *out = *x + shift;
        }
    }
}

/// `x [n, i, h, w]`, `weight [o, i, kh, kw]`, `bias [o]` → `[n, o, h', w']`.
pub fn forward<T: Element>(s: &Sizes, x: &[T], weight: &[T], bias: Option<&[T]>) -> Result<Vec<T>> {
    let (o, depth, positions) = (s.output[0], s.depth(), s.positions());
    let mut out = vec![T::zero(); s.n * o * positions];
    let tiles = Tiles::new(s, columns(depth, o));
    // Few tiles with much work each: cut the output channels too, and unroll once for all of them.
    let per_tile = 2 * o * depth * tiles.positions * tiles.pictures;
    let most = (o / 32).max(1);
    let slices = if tiles.count >= 16 { 1 } else { (per_tile / TASK).clamp(1, most).min(16) };
    let slices = slices.max(parallel::shares(per_tile * tiles.count).div_ceil(tiles.count).min(most));
    let height = o.div_ceil(slices);
    let slices = o.div_ceil(height);
    let shared = if slices > 1 && !s.is_plain() { Some(unrolled(s, x, &tiles)?) } else { None };

    let groups = parallel::blocks(&mut out, positions, tiles.positions, tiles.count * slices, |row, part| {
        tiles.index(row / o, part) * slices + row % o / height
    });
    let tasks: Vec<_> = groups.into_iter().enumerate().collect();
    parallel::run(tasks, s.nanos(), |(index, segments)| {
        let tile = tiles.at(s, index / slices);
        let first = index % slices * height;
        let rows = height.min(o - first);
        let weight = (&weight[first * depth..], Grid::rows(rows, depth, depth));
        let columns = tile.columns();
        let product = |b: (&[T], Grid), dst: &mut [T]| {
            gemm((dst, Grid::rows(rows, columns, columns)), false, T::one(), weight, b)
        };
        let packed = Grid::rows(depth, columns, columns);
        with_scratch(rows * columns, |dst| {
            if s.is_plain() && tile.pictures == 1 {
                let plane = &x[tile.picture * s.input[0] * positions + tile.first..];
                product((plane, Grid::rows(depth, columns, positions)), dst)?;
            } else if let Some((shared, starts)) = &shared {
                product((&shared[starts[index / slices]..], packed), dst)?;
            } else {
                with_scratch(depth * columns, |b| {
                    unroll(s, x, tile, 0..s.input[0], b);
                    product((b, packed), dst)
                })?;
            }
            for (at, segment) in segments.into_iter().enumerate() {
                let (picture, row) = (at / rows, at % rows);
                let from = &dst[row * columns + picture * tile.positions..][..tile.positions];
                match bias {
                    Some(bias) => shifted(from, segment, bias[first + row]),
                    None => segment.copy_from_slice(from),
                }
            }
            Ok(())
        })
    })?;
    Ok(out)
}

/// All tiles unrolled, one after the other, and where each starts.
fn unrolled<T: Element>(s: &Sizes, x: &[T], tiles: &Tiles) -> Result<(Vec<T>, Vec<usize>)> {
    let lengths = (0..tiles.count).map(|i| tiles.at(s, i).columns() * s.depth());
    let starts: Vec<usize> = lengths.scan(0, |at, len| Some(std::mem::replace(at, *at + len))).collect();
    let mut all = vec![T::zero(); s.n * s.positions() * s.depth()];
    let mut rest = all.as_mut_slice();
    let mut tasks = Vec::new();
    let pieces = (16 / tiles.count).clamp(1, s.input[0]);
    let each = s.input[0].div_ceil(pieces);
    for i in 0..tiles.count {
        let tile = tiles.at(s, i);
        for first in (0..s.input[0]).step_by(each) {
            let channels = first..(first + each).min(s.input[0]);
            let (mine, others) = rest.split_at_mut(channels.len() * s.taps() * tile.columns());
            rest = others;
            tasks.push((tile, channels, mine));
        }
    }
    parallel::run(tasks, s.n * s.positions() * s.depth() / 4, |(tile, channels, out)| {
        unroll(s, x, tile, channels, out);
        Ok(())
    })?;
    Ok((all, starts))
}

/// Where the gradients of a tile lie as a matrix `[o, columns]`: in place where a tile is a part of one picture, in
/// `gathered` (see [`gather`]) where it holds several.
fn gradient_columns<'a, T: Element>(
    s: &Sizes,
    dy: &'a [T],
    gathered: &'a [T],
    tile: Tile,
) -> (&'a [T], Grid) {
    let (o, positions, columns) = (s.output[0], s.positions(), tile.columns());
    if gathered.is_empty() {
        return (&dy[tile.picture * o * positions + tile.first..], Grid::rows(o, columns, positions));
    }
    (&gathered[tile.picture * o * positions..], Grid::rows(o, columns, columns))
}

/// For tiles of several pictures: the gradients of every tile as a matrix `[o, columns]`, one after the other.
fn gather<T: Element>(s: &Sizes, dy: &[T], tiles: &Tiles) -> Vec<T> {
    if tiles.pictures == 1 {
        return Vec::new();
    }
    let (o, positions) = (s.output[0], s.positions());
    let mut out = vec![T::zero(); dy.len()];
    let each = tiles.pictures * o * positions;
    for (dy, out) in dy.chunks(each).zip(out.chunks_mut(each)) {
        let pictures = dy.len() / (o * positions);
        for (row, out) in out.chunks_exact_mut(pictures * positions).enumerate() {
            for (p, out) in out.chunks_exact_mut(positions).enumerate() {
                copy_run(out, &dy[(p * o + row) * positions..][..positions]);
            }
        }
    }
    out
}

/// Gradient for the input.
pub fn back_input<T: Element>(s: &Sizes, dy: &[T], weight: &[T]) -> Result<Vec<T>> {
    let (i, o, taps, depth) = (s.input[0], s.output[0], s.taps(), s.depth());
    let mut dx = vec![T::zero(); s.n * i * s.area()];
    if s.area() == 0 {
        return Ok(dx);
    }
    // Tasks own whole planes: a group of pictures, a slice of input channels.
    let tiles = Tiles::new(s, 192.max(columns(taps * 16, o)));
    let gathered = gather(s, dy, &tiles);
    let groups = s.n.div_ceil(tiles.pictures);
    let per_channel = 2 * taps * o * s.positions() * tiles.pictures;
    let columns = tiles.positions * tiles.pictures;
    let height = (TASK / per_channel.max(1)).clamp(1, (UNROLLED / (taps * columns)).max(1)).min(i);
    let slices = i.div_ceil(height);
    let area = s.area();
    let planes = parallel::blocks(&mut dx, area, area, groups * slices, |row, _| {
        row / i / tiles.pictures * slices + row % i / height
    });
    let tasks: Vec<_> = planes.into_iter().enumerate().collect();
    parallel::run(tasks, s.nanos(), |(index, mut planes)| {
        let (group, first) = (index / slices, index % slices * height);
        let rows = height.min(i - first) * taps;
        with_scratch(rows * columns, |unrolled| {
            for part in 0..tiles.across {
                let tile = tiles.at(s, group * tiles.across + part);
                let dy = gradient_columns(s, dy, &gathered, tile);
                let columns = tile.columns();
                let unrolled = &mut unrolled[..rows * columns];
                let weight = (&weight[first * taps..], Grid::rows(o, rows, depth).t());
                gemm((&mut *unrolled, Grid::rows(rows, columns, columns)), false, T::one(), weight, dy)?;
                with_scratch(Band::new(s, tile).len(), |memory| {
                    roll_into(s, unrolled, tile, &mut planes, memory);
                });
            }
            Ok(())
        })
    })?;
    Ok(dx)
}

/// Gradient for the weight.
pub fn back_weight<T: Element>(s: &Sizes, dy: &[T], x: &[T]) -> Result<Vec<T>> {
    let (i, o, taps, depth) = (s.input[0], s.output[0], s.taps(), s.depth());
    let mut dw = vec![T::zero(); o * depth];
    let tiles = Tiles::new(s, 384);
    let gathered = gather(s, dy, &tiles);
    let per_channel = 2 * taps * o * s.positions() * s.n;
    let columns = tiles.positions * tiles.pictures;
    let height = (TASK / per_channel.max(1)).clamp(1, (UNROLLED / (taps * columns)).max(1)).min(i);
    let slices = i.div_ceil(height);
    let blocks = parallel::blocks(&mut dw, depth, height * taps, slices, |_, part| part);
    let tasks: Vec<_> = blocks.into_iter().enumerate().collect();
    parallel::run(tasks, s.nanos(), |(index, segments)| {
        let channels = index * height..((index + 1) * height).min(i);
        let rows = channels.len() * taps;
        with_scratch(rows * columns + o * rows, |scratch| {
            let (unrolled, result) = scratch.split_at_mut(rows * columns);
            for index in 0..tiles.count {
                let tile = tiles.at(s, index);
                let columns = tile.columns();
                let unrolled = &mut unrolled[..rows * columns];
                unroll(s, x, tile, channels.clone(), unrolled);
                let dy = gradient_columns(s, dy, &gathered, tile);
                let b = (&*unrolled, Grid::rows(rows, columns, columns).t());
                gemm((&mut *result, Grid::rows(o, rows, rows)), index > 0, T::one(), dy, b)?;
            }
            for (segment, row) in segments.into_iter().zip(result.chunks_exact(rows)) {
                segment.copy_from_slice(row);
            }
            Ok(())
        })
    })?;
    Ok(dw)
}

/// Gradient for the bias: sums over pictures and positions.
pub fn back_bias<T: Element>(s: &Sizes, dy: &[T]) -> Vec<T> {
    let (o, positions) = (s.output[0], s.positions());
    let mut sums = vec![T::zero(); o];
    for (row, dy) in dy.chunks_exact(positions).enumerate() {
        sums[row % o] += plane_sum(dy);
    }
    sums
}

vectorized! {
    /// Sum of a plane, long ones in runs.
    pub fn plane_sum<T>(x: &'a [T]) -> T {
        x.chunks(4096).map(|x| math::sum(x, |v| v)).fold(T::zero(), |a, b| a + b)
    }
}
