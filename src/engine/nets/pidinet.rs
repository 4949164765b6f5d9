//! PiDiNet (Su and others 2021, arXiv 2108.07009), the form of its table 5 (`table5_pidinet`: carv4, dilations, attention): edges
//! from differences between pixels. A convolution of differences is a plain one with other weights, so both kinds of file are
//! read: as trained, and converted.

use candle_core::{D, Tensor};

use super::layers::conv1;
use crate::engine::error::{Error, Kind, Result};
use crate::engine::fields::{Pooling, Window, pool};
use crate::engine::ops::{self, Conv2d, Padding};
use crate::engine::weights::Scope;

/// Blocks of the four stages; a stage after the first begins with a pool that halves the size.
const STAGES: [usize; 4] = [3, 4, 4, 4];
/// Reach of the four convolutions of a stage's end.
const DILATIONS: [usize; 4] = [5, 7, 9, 11];
/// The kinds in turn (carv4), beginning with the first convolution.
const KINDS: [Difference; 4] =
    [Difference::Central, Difference::Angular, Difference::Radial, Difference::None];

/// Smallest side of a picture: three pools.
pub const LEAST: usize = 8;

/// Between which pixels a convolution takes differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    /// Neighbours and the centre.
    Central,
    /// Neighbours and the next ones around the circle.
    Angular,
    /// Outer and inner neighbours, in 5×5.
    Radial,
    None,
}

impl Difference {
    /// The plain kernel for a trained one `[o, i, 3, 3]`.
    fn plain(self, weight: &Tensor) -> Result<Tensor> {
        let (o, i, ..) = weight.dims4()?;
        let flat = weight.reshape((o, i, 9))?;
        let picked = |from: &Tensor, order: &[u32]| -> Result<Tensor> {
            Ok(from.index_select(&Tensor::new(order, from.device())?, D::Minus1)?)
        };
        Ok(match self {
            Difference::None => weight.clone(),
            Difference::Central => {
                let sum = flat.sum_keepdim(D::Minus1)?;
                let centre = sum.pad_with_zeros(D::Minus1, 4, 4)?;
                (flat - centre)?.reshape((o, i, 3, 3))?
            }
            Difference::Angular => {
                let next = picked(&flat, &[3, 0, 1, 6, 4, 2, 7, 8, 5])?;
                (flat - next)?.reshape((o, i, 3, 3))?
            }
            Difference::Radial => {
                // The eight outer weights, their opposites one step nearer to the centre, and a zero.
                let outer = flat.narrow(D::Minus1, 1, 8)?;
                let all = Tensor::cat(
                    &[&outer, &outer.neg()?, &outer.narrow(D::Minus1, 0, 1)?.zeros_like()?],
                    D::Minus1,
                )?;
                let mut order = [16u32; 25];
                let (far, near): ([usize; 8], [usize; 8]) =
                    ([0, 2, 4, 10, 14, 20, 22, 24], [6, 7, 8, 11, 13, 16, 17, 18]);
                for (n, (far, near)) in far.into_iter().zip(near).enumerate() {
                    order[far] = n as u32;
                    order[near] = n as u32 + 8;
                }
                picked(&all, &order)?.reshape((o, i, 5, 5))?
            }
        })
    }
}

#[derive(Clone, Debug)]
struct Block {
    /// `[c, 1, k, k]`, channel by channel.
    depth: Tensor,
    mix: Conv2d,
    /// Of a block that halves the size.
    shortcut: Option<Conv2d>,
}

#[derive(Clone, Debug)]
struct End {
    narrow: Conv2d,
    /// `[c, c, 3, 3]` each.
    dilated: Vec<Tensor>,
    attend: (Conv2d, Conv2d),
    reduce: Conv2d,
}

/// The network.
#[derive(Clone, Debug)]
pub struct Pidinet {
    first: Conv2d,
    stages: Vec<(Vec<Block>, End)>,
    classifier: Conv2d,
}

fn first_dim(w: &Scope, name: &str) -> Result<usize> {
    w.dims(name).and_then(|d| d.first().copied()).filter(|d| *d > 0).ok_or_else(|| {
        Error::missing("load_edges", format!("there is no tensor \"{}.{name}\"", w.path()))
            .expected("PiDiNet's table5_pidinet: init_block.weight to classifier.bias")
    })
}

/// A kernel `[o, i, 3, 3]`, or a converted radial one. Errors: another shape.
fn kernel(w: &Scope, name: &str, kind: Difference, o: usize, i: usize, converted: bool) -> Result<Tensor> {
    let side = if converted && kind == Difference::Radial { 5 } else { 3 };
    let weight = w.get(name, &[o, i, side, side])?;
    if converted { Ok(weight) } else { kind.plain(&weight) }
}

fn plain(w: &Scope, i: usize, o: usize, k: usize) -> Result<Conv2d> {
    Conv2d::new(w.get("weight", &[o, i, k, k])?, None, 1, Padding::all(k / 2))
}

impl Pidinet {
    /// From the root of the file (or `module`). Widths are the file's own. Errors: a name missing or of another shape; a file
    /// whose kernels are neither as trained nor converted.
    pub fn new(w: &Scope) -> Result<Self> {
        let w = if w.has("module") { w.sub("module") } else { w.clone() };
        // A radial kernel is 3 wide as trained and 5 wide converted.
        let radial = w.dims("block1_2.conv1.weight").and_then(|d| d.last().copied());
        let converted = match radial {
            Some(3) => false,
            Some(5) => true,
            other => {
                return Err(Error::new(Kind::File, "load_edges", "this is no PiDiNet of table 5 (carv4)")
                    .expected("block1_2.conv1.weight, 3 or 5 wide")
                    .got(other.map_or("none".into(), |n| n.to_string())));
            }
        };
        let width = first_dim(&w, "init_block.weight")?;
        let mut kinds = KINDS.iter().copied().cycle();
        let mut kind = || kinds.next().unwrap_or(Difference::None);
        let first = kernel(&w, "init_block.weight", kind(), width, 3, converted)?;
        let mut from = width;
        let mut stages = Vec::with_capacity(STAGES.len());
        for (s, count) in STAGES.iter().enumerate() {
            let mut blocks = Vec::with_capacity(*count);
            for b in 0..*count {
                let w = w.sub(format!("block{}_{}", s + 1, b + 1));
                let to = first_dim(&w, "conv2.weight")?;
                let halves = s > 0 && b == 0;
                if !halves && to != from {
                    return Err(Error::shape("load_edges", format!("{} changes the width", w.path())));
                }
                blocks.push(Block {
                    depth: kernel(&w, "conv1.weight", kind(), from, 1, converted)?,
                    mix: plain(&w.sub("conv2"), from, to, 1)?,
                    shortcut: if halves { Some(conv1(&w.sub("shortcut"), from, to)?) } else { None },
                });
                from = to;
            }
            let d = w.sub(format!("dilations.{s}"));
            let a = w.sub(format!("attentions.{s}"));
            let (narrow, inner) = (first_dim(&d, "conv1.weight")?, first_dim(&a, "conv1.weight")?);
            let dilated = (1..=DILATIONS.len())
                .map(|n| d.sub(format!("conv2_{n}")).get("weight", &[narrow, narrow, 3, 3]));
            let end = End {
                narrow: conv1(&d.sub("conv1"), from, narrow)?,
                dilated: dilated.collect::<Result<_>>()?,
                attend: (conv1(&a.sub("conv1"), narrow, inner)?, plain(&a.sub("conv2"), inner, 1, 3)?),
                reduce: conv1(&w.sub(format!("conv_reduces.{s}.conv")), narrow, 1)?,
            };
            stages.push((blocks, end));
        }
        let side = first.dims()[3];
        Ok(Pidinet {
            first: Conv2d::new(first, None, 1, Padding::all(side / 2))?,
            stages,
            classifier: conv1(&w.sub("classifier"), STAGES.len(), 1)?,
        })
    }

    /// Channels of the widest map, as if all were of the picture's size.
    pub fn widest(&self) -> u64 {
        let out = |conv: &Conv2d| conv.weight().dims()[0] as u64;
        let stage = |(i, (blocks, end)): (usize, &(Vec<Block>, End))| {
            let block = |b: &Block| out(&b.mix).max(b.depth.dims()[0] as u64);
            let blocks = blocks.iter().map(block).max().unwrap_or(0);
            blocks.max(out(&end.narrow)).max(out(&end.attend.0)).div_ceil(1 << (2 * i))
        };
        self.stages.iter().enumerate().map(stage).max().unwrap_or(0).max(out(&self.first))
    }

    /// Colors in 0..1 `[n, 3, h, w]`, sides of 8 or more → `[n, 1, h, w]`, 1 = an edge. They are read blue first and not
    /// normalized, as ControlNet's annotator has it.
    pub fn forward(&self, colors: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = colors.dims4()?;
        let order = Tensor::new(&[2u32, 1, 0], colors.device())?;
        let mut x = self.first.forward(&colors.contiguous()?.index_select(&order, 1)?)?;
        let mut maps = Vec::with_capacity(STAGES.len());
        for (blocks, end) in &self.stages {
            for block in blocks {
                x = block.run(&x)?;
            }
            maps.push(ops::resize_bilinear(&end.run(&x)?, height, width)?);
        }
        ops::sigmoid(&self.classifier.forward(&Tensor::cat(&maps, 1)?)?)
    }
}

impl Block {
    fn run(&self, x: &Tensor) -> Result<Tensor> {
        let x = match &self.shortcut {
            Some(_) => pool(x, Pooling::Max, Window { size: 2, stride: 2, padding: 0 })?,
            None => x.clone(),
        };
        let (channels, _, side, _) = self.depth.dims4()?;
        let y = x.conv2d(&self.depth, side / 2, 1, 1, channels)?;
        let y = self.mix.forward(&y.relu()?)?;
        Ok(match &self.shortcut {
            Some(shortcut) => (y + shortcut.forward(&x)?)?,
            None => (y + x)?,
        })
    }
}

impl End {
    fn run(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.narrow.forward(&x.relu()?)?;
        let mut sum: Option<Tensor> = None;
        for (weight, dilation) in self.dilated.iter().zip(DILATIONS) {
            let y = x.conv2d(weight, dilation, 1, dilation, 1)?;
            sum = Some(match sum {
                None => y,
                Some(sum) => (sum + y)?,
            });
        }
        let x = sum.unwrap_or(x);
        let (first, second) = &self.attend;
        let share = ops::sigmoid(&second.forward(&first.forward(&x.relu()?)?)?)?;
        self.reduce.forward(&x.broadcast_mul(&share)?)
    }
}
