//! Convolution 3×3 with stride 1 by Winograd's F(4×4, 3×3): a quarter of the multiplications.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), with the interpolation points
//! 0, ±1, ±2, ∞. A tile of 6×6 inputs is transformed, multiplied channel by channel with the transformed kernel at
//! each of its 36 places (36 matrix products over all tiles), and transformed back to 4×4 outputs.
//! In f32 the error grows from about 3e-7 to 3e-6 of the largest output.
//!
//! Transforms run over 16 channels at a time, so that every size of picture fills the vector registers; planes are
//! turned to channels-last, 16 channels wide, on the way in and back on the way out.

use candle_core::Result;

use super::conv::Sizes;
use crate::engine::ops::conv::Padding;
use crate::engine::ops::gemm::{Grid, gemm};
use crate::engine::ops::math::{Element, with_scratch};
use crate::engine::ops::parallel;
use transforms::{input_scratch, output_scratch, transform_input, transform_output, transform_weights};

mod panels;
mod transforms;

/// Places of a transformed tile.
pub const PLACES: usize = 36;

/// Channels that are transformed together.
const LANES: usize = 16;

/// Multiplications and additions that one task should have (about 0.1 ms of one core with AVX-512).
const TASK: usize = 8_000_000;

/// Elements of scratch memory per task: 5 MB of f32.
const SCRATCH: usize = 1_250_000;

/// Output channels whose weights lie together: four registers of AVX-512, read from front to back.
const PANEL: usize = 64;

fn padded(channels: usize) -> usize {
    channels.next_multiple_of(LANES)
}

/// Whether the transform pays: fewer multiplications in spite of tiles that hang over the edge, enough tiles to
/// use each transformed weight several times, enough channels to outweigh the transforms.
pub fn pays(s: &Sizes) -> bool {
    let [i, _, _] = s.input;
    let [o, oh, ow] = s.output;
    let Padding { top, left, bottom, right } = s.padding;
    let small_frame = [top, left, bottom, right].iter().all(|p| *p <= 2);
    let tiles = s.tiles();
    let fits = s.kernel == [3, 3] && s.stride == 1 && small_frame;
    fits && tiles >= 6 && i >= 8 && o >= 8 && 5 * PLACES * tiles < 4 * 9 * s.n * oh * ow
}

/// Where the transformed weights of a convolution come from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a, T> {
    /// What [`weights`] made.
    Kept(&'a [T]),
    /// The kernel itself, as [`weights`] takes it.
    Plain {
        /// `[o, i, 3, 3]`, with `back` `[i, o, 3, 3]`.
        weight: &'a [T],
        /// Of the way back.
        back: bool,
    },
}

impl Sizes {
    /// Tiles of all pictures.
    fn tiles(&self) -> usize {
        self.n * self.output[1].div_ceil(4) * self.output[2].div_ceil(4)
    }
}

/// Distance of the places of `rows` rows of `width` numbers: an odd number of cache lines, so that the 36 places of
/// a tile do not compete for one set of the cache.
fn place_step(rows: usize, width: usize) -> usize {
    ((rows * width / LANES) | 1) * LANES
}

/// Elements that [`weights`] makes.
pub fn weights_len(i: usize, o: usize) -> usize {
    PLACES * i * padded(o)
}

/// The convolution whose result is the gradient of `s` for the input: the same with input and output exchanged
/// and the frame reversed (and the kernel turned, see [`weights`]). `None` for frames wider than the kernel.
pub fn reversed(s: &Sizes) -> Option<Sizes> {
    let Padding { top, left, bottom, right } = s.padding;
    let padding = Padding {
        top: 2usize.checked_sub(top)?,
        left: 2usize.checked_sub(left)?,
        bottom: 2usize.checked_sub(bottom)?,
        right: 2usize.checked_sub(right)?,
    };
    Some(Sizes { input: s.output, output: s.input, padding, ..*s })
}

/// Transformed weights of a kernel `weight [o, i, 3, 3]`: for each of 36 places panels of 64 output channels (the
/// last one narrower, a multiple of 16), in each panel a row for every input channel. With `back`, of the kernel that
/// gives the gradient for the input: `weight` is then `[i, o, 3, 3]`, turned by half a turn.
pub fn weights<T: Element>(weight: &[T], i: usize, o: usize, back: bool) -> Result<Vec<T>> {
    let across = padded(o);
    let mut out = vec![T::zero(); PLACES * i * across];
    // Panels are disjoint parts of every place.
    let panels = across.div_ceil(PANEL);
    let groups = parallel::blocks(&mut out, i * across, i * PANEL, panels, |_, panel| panel);
    let tasks: Vec<_> = groups.into_iter().enumerate().collect();
    parallel::run(tasks, 8 * i * o, |(panel, mut places)| {
        transform_weights(weight, &mut places, panel * PANEL, [i, o], back);
        Ok(())
    })?;
    Ok(out)
}

/// Tiles of one task: `rows` rows of tiles from row `top` on of `pictures` pictures from `picture` on.
#[derive(Clone, Copy, Debug)]
struct Block {
    picture: usize,
    pictures: usize,
    top: usize,
    rows: usize,
    /// Tiles per row.
    across: usize,
}

impl Block {
    fn tiles(&self) -> usize {
        self.pictures * self.rows * self.across
    }
}

/// How tiles and output channels are cut into tasks. Depends on the shapes only.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Tiles per row, rows of tiles per picture.
    across: usize,
    down: usize,
    /// Pictures per block, where a block holds whole pictures; else 1.
    pictures: usize,
    /// Rows of tiles per block.
    rows: usize,
    /// Blocks of one picture (1 where a block holds whole pictures), blocks of all.
    parts: usize,
    blocks: usize,
    /// Output channels per task, number of slices.
    height: usize,
    slices: usize,
}

impl Plan {
    fn new(s: &Sizes) -> Self {
        let ([i, _, _], [o, _, _]) = (s.input, s.output);
        let by_work = TASK / (2 * PLACES * i * o);
        let by_memory = SCRATCH / (PLACES * (padded(i) + padded(o)));
        let shares = parallel::shares(2 * PLACES * i * o * s.tiles());
        // Small calls make a few blocks too, none of so few tiles that the products suffer.
        let even = s.tiles().div_ceil(shares).max(12);
        let plan = Plan::with_tiles(s, by_work.max(48).min(by_memory.max(16)).min(even));
        // Few blocks with much work each: cut the output channels too (every slice transforms the input again).
        let work = 2 * PLACES * i * o * plan.pictures * plan.rows * plan.across;
        let slices =
            if plan.blocks >= 16 { 1 } else { (work / (4 * TASK)).clamp(1, 16).min(o.div_ceil(128)) };
        let slices = slices.max(shares.div_ceil(plan.blocks).min(o / PANEL));
        // Whole panels.
        let height = if slices == 1 { padded(o) } else { o.div_ceil(slices).next_multiple_of(PANEL) };
        Plan { height, slices: o.div_ceil(height), ..plan }
    }

    /// Blocks of about `tiles` tiles, whole rows of them at least, and all output channels.
    fn with_tiles(s: &Sizes, tiles: usize) -> Self {
        let [o, oh, ow] = s.output;
        let (across, down) = (ow.div_ceil(4), oh.div_ceil(4));
        let tiles = tiles.max(across);
        let (pictures, rows) = if tiles >= across * down {
            // Blocks of about as many pictures.
            let pictures = (tiles / (across * down)).clamp(1, s.n);
            (s.n.div_ceil(s.n.div_ceil(pictures)), down)
        } else {
            // Blocks of about equal height.
            let rows = (tiles / across).max(1);
            (1, down.div_ceil(down.div_ceil(rows)))
        };
        let parts = down.div_ceil(rows);
        let blocks = s.n.div_ceil(pictures) * parts;
        Plan { across, down, pictures, rows, parts, blocks, height: padded(o), slices: 1 }
    }

    fn block(&self, s: &Sizes, index: usize) -> Block {
        let picture = index / self.parts * self.pictures;
        let top = index % self.parts * self.rows;
        Block {
            picture,
            pictures: self.pictures.min(s.n - picture),
            top,
            rows: self.rows.min(self.down - top),
            across: self.across,
        }
    }
}

/// `x [n, i, h, w]` with the weights of `source` and `bias [o]` → `[n, o, h', w']`.
pub fn forward<T: Element>(s: &Sizes, x: &[T], source: Source<'_, T>, bias: Option<&[T]>) -> Result<Vec<T>> {
    match source {
        _ if panels::pays(s, &source) => panels::forward(s, x, source, bias),
        Source::Kept(weights) => by_blocks(s, x, weights, bias),
        Source::Plain { weight, back } => {
            by_blocks(s, x, &weights(weight, s.input[0], s.output[0], back)?, bias)
        }
    }
}

/// Block of tiles by block of tiles, with transformed `weights`.
fn by_blocks<T: Element>(s: &Sizes, x: &[T], weights: &[T], bias: Option<&[T]>) -> Result<Vec<T>> {
    let [i, _, _] = s.input;
    let [o, oh, ow] = s.output;
    let mut out = vec![T::zero(); s.n * o * oh * ow];
    let plan = Plan::new(s);
    let (wide_in, wide_out) = (padded(i), padded(o));
    let groups =
        parallel::blocks(&mut out, oh * ow, plan.rows * 4 * ow, plan.blocks * plan.slices, |row, part| {
            let (picture, channel) = (row / o, row % o);
            (picture / plan.pictures * plan.parts + part) * plan.slices + channel / plan.height
        });
    let tasks: Vec<_> = groups.into_iter().enumerate().collect();
    let tiles = s.n * plan.across * plan.down;
    let nanos = tiles * (PLACES * i * o / 40 + 10 * (i * plan.slices + o));
    parallel::run(tasks, nanos, |(index, mut segments)| {
        let block = plan.block(s, index / plan.slices);
        let first = index % plan.slices * plan.height;
        let channels = plan.height.min(o - first);
        let (tiles, wide) = (block.tiles(), padded(channels));
        let steps = [place_step(tiles, wide_in), place_step(tiles, wide)];
        with_scratch(PLACES * (steps[0] + steps[1]), |scratch| {
            let (transformed, products) = scratch.split_at_mut(PLACES * steps[0]);
            with_scratch(input_scratch(s, block), |band| transform_input(s, x, block, transformed, band));
            let places = transformed.chunks_exact(steps[0]).zip(products.chunks_exact_mut(steps[1]));
            for (place, (a, dst)) in places.enumerate() {
                for at in (0..wide).step_by(PANEL) {
                    let width = PANEL.min(wide - at);
                    let b =
                        (&weights[place * i * wide_out + (first + at) * i..], Grid::rows(i, width, width));
                    let dst = (&mut dst[at..], Grid::rows(tiles, width, wide));
                    gemm(dst, false, T::one(), (a, Grid::rows(tiles, i, wide_in)), b)?;
                }
            }
            let bias = bias.map_or(&[][..], |b| &b[first..first + channels]);
            with_scratch(output_scratch(s, block), |band| {
                transform_output(s, products, block, bias, &mut segments, band);
            });
            Ok(())
        })
    })?;
    Ok(out)
}
