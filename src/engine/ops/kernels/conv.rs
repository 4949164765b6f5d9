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
            let part = positions.div_ceil(positions.div_ceil(columns)).next_multiple_of(16);
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
    let by_cache = (UNROLLED / depth.max(1)).max(96);
    by_work.clamp(96, 512).min(by_cache) / 48 * 48
}

/// Range of the outputs `0..len` whose tap lies inside the input: `0 <= o · stride + tap - before < size`.
fn inside(len: usize, stride: usize, tap: usize, before: usize, size: usize) -> Range<usize> {
    let from = before.saturating_sub(tap).div_ceil(stride).min(len);
    let to = (size + before).saturating_sub(tap).div_ceil(stride).min(len);
    from..to.max(from)
}

/// The runs of a tile's positions that lie in one output row: calls `f(column, oy, ox, length)`.
fn runs(tile: Tile, width: usize, mut f: impl FnMut(usize, usize, usize, usize)) {
    let mut column = 0;
    while column < tile.positions {
        let position = tile.first + column;
        let (oy, ox) = (position / width, position % width);
        let length = (width - ox).min(tile.positions - column);
        f(column, oy, ox, length);
        column += length;
    }
}

/// Unrolls the tile's input for some channels: row `(channel, ky, kx)`, column (picture, position).
fn unroll<T: Element>(s: &Sizes, x: &[T], tile: Tile, channels: Range<usize>, out: &mut [T]) {
    let [ic, h, w] = s.input;
    let columns = tile.columns();
    let mut rows = out.chunks_exact_mut(columns);
    for channel in channels {
        for ky in 0..s.kernel[0] {
            let rows_inside = inside(s.output[1], s.stride, ky, s.padding.top, h);
            for (kx, row) in (0..s.kernel[1]).zip(&mut rows) {
                let cols_inside = inside(s.output[2], s.stride, kx, s.padding.left, w);
                for (p, out) in row.chunks_exact_mut(tile.positions).enumerate() {
                    let plane = &x[((tile.picture + p) * ic + channel) * h * w..][..h * w];
                    runs(tile, s.output[2], |column, oy, ox, length| {
                        let out = &mut out[column..column + length];
                        if !rows_inside.contains(&oy) {
                            return out.fill(T::zero());
                        }
                        let line = &plane[(oy * s.stride + ky - s.padding.top) * w..][..w];
                        let from = cols_inside.start.clamp(ox, ox + length);
                        let to = cols_inside.end.clamp(from, ox + length);
                        out[..from - ox].fill(T::zero());
                        out[to - ox..].fill(T::zero());
                        if from == to {
                            return;
                        }
                        let out = &mut out[from - ox..to - ox];
                        let line = &line[from * s.stride + kx - s.padding.left..];
                        if s.stride == 1 {
                            out.copy_from_slice(&line[..out.len()]);
                        } else {
                            for (out, v) in out.iter_mut().zip(line.iter().step_by(s.stride)) {
                                *out = *v;
                            }
                        }
                    });
                }
            }
        }
    }
}

/// Adds unrolled columns of some channels back to where they came from: the reverse of [`unroll`].
/// `planes[(picture, channel)]` are the planes of the tile's pictures, channel by channel within a picture.
fn roll<T: Element>(s: &Sizes, columns: &[T], tile: Tile, channels: usize, planes: &mut [&mut [T]]) {
    let [_, h, w] = s.input;
    let mut rows = columns.chunks_exact(tile.columns());
    for channel in 0..channels {
        for ky in 0..s.kernel[0] {
            let rows_inside = inside(s.output[1], s.stride, ky, s.padding.top, h);
            for (kx, row) in (0..s.kernel[1]).zip(&mut rows) {
                let cols_inside = inside(s.output[2], s.stride, kx, s.padding.left, w);
                for (p, from_row) in row.chunks_exact(tile.positions).enumerate() {
                    let plane = &mut *planes[p * channels + channel];
                    runs(tile, s.output[2], |column, oy, ox, length| {
                        if !rows_inside.contains(&oy) {
                            return;
                        }
                        let from = cols_inside.start.clamp(ox, ox + length);
                        let to = cols_inside.end.clamp(from, ox + length);
                        if from == to {
                            return;
                        }
                        let values = &from_row[column + from - ox..column + to - ox];
                        let line = &mut plane[(oy * s.stride + ky - s.padding.top) * w..][..w];
                        let line = &mut line[from * s.stride + kx - s.padding.left..];
                        for (sum, v) in line.iter_mut().step_by(s.stride).zip(values) {
                            *sum += *v;
                        }
                    });
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
    let slices = if tiles.count >= 16 { 1 } else { (per_tile / TASK).clamp(1, (o / 32).max(1)).min(16) };
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

/// `dy` of a tile as a matrix `[o, columns]`: in place for one picture, gathered into `scratch` for several.
fn gradient_columns<'a, T: Element>(
    s: &Sizes,
    dy: &'a [T],
    tile: Tile,
    scratch: &'a mut [T],
) -> (&'a [T], Grid) {
    let (o, positions, columns) = (s.output[0], s.positions(), tile.columns());
    if tile.pictures == 1 {
        return (&dy[tile.picture * o * positions + tile.first..], Grid::rows(o, columns, positions));
    }
    for (row, out) in scratch.chunks_exact_mut(columns).take(o).enumerate() {
        for (p, out) in out.chunks_exact_mut(positions).enumerate() {
            out.copy_from_slice(&dy[((tile.picture + p) * o + row) * positions..][..positions]);
        }
    }
    (scratch, Grid::rows(o, columns, columns))
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
        let channels = height.min(i - first);
        let rows = channels * taps;
        with_scratch(rows * columns, |unrolled| {
            with_scratch(if tiles.pictures > 1 { o * columns } else { 0 }, |scratch| {
                for part in 0..tiles.across {
                    let tile = tiles.at(s, group * tiles.across + part);
                    let dy = gradient_columns(s, dy, tile, scratch);
                    let columns = tile.columns();
                    let unrolled = &mut unrolled[..rows * columns];
                    let weight = (&weight[first * taps..], Grid::rows(o, rows, depth).t());
                    gemm((&mut *unrolled, Grid::rows(rows, columns, columns)), false, T::one(), weight, dy)?;
                    roll(s, unrolled, tile, channels, &mut planes);
                }
                Ok(())
            })
        })
    })?;
    Ok(dx)
}

/// Gradient for the weight.
pub fn back_weight<T: Element>(s: &Sizes, dy: &[T], x: &[T]) -> Result<Vec<T>> {
    let (i, o, taps, depth) = (s.input[0], s.output[0], s.taps(), s.depth());
    let mut dw = vec![T::zero(); o * depth];
    let tiles = Tiles::new(s, 384);
    let per_channel = 2 * taps * o * s.positions() * s.n;
    let columns = tiles.positions * tiles.pictures;
    let height = (TASK / per_channel.max(1)).clamp(1, (UNROLLED / (taps * columns)).max(1)).min(i);
    let slices = i.div_ceil(height);
    let blocks = parallel::blocks(&mut dw, depth, height * taps, slices, |_, part| part);
    let tasks: Vec<_> = blocks.into_iter().enumerate().collect();
    parallel::run(tasks, s.nanos(), |(index, segments)| {
        let channels = index * height..((index + 1) * height).min(i);
        let rows = channels.len() * taps;
        let sizes = [rows * columns, o * rows, if tiles.pictures > 1 { o * columns } else { 0 }];
        with_scratch(sizes.iter().sum(), |scratch| {
            let (unrolled, rest) = scratch.split_at_mut(sizes[0]);
            let (result, gathered) = rest.split_at_mut(sizes[1]);
            for index in 0..tiles.count {
                let tile = tiles.at(s, index);
                let columns = tile.columns();
                let unrolled = &mut unrolled[..rows * columns];
                unroll(s, x, tile, channels.clone(), unrolled);
                let dy = gradient_columns(s, dy, tile, gathered);
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
