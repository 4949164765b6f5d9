//! Holistically-nested edges (Xie and Tu 2015, arXiv 1504.06375) in the form and the names of ControlNet's annotator
//! (`ControlNetHED`): five blocks of convolutions, each with a map of edges of its own; the picture's edges are their mean.

use candle_core::Tensor;

use super::layers::{conv1, conv3};
use crate::engine::error::{Error, Result};
use crate::engine::fields::{Pooling, Window, pool};
use crate::engine::ops::{self, Conv2d};
use crate::engine::weights::Scope;

/// Convolutions of each block; a block after the first begins with a pool that halves the size.
const BLOCKS: [usize; 5] = [2, 2, 3, 3, 3];

/// Smallest side of a picture: four pools.
pub const LEAST: usize = 16;

/// The network.
#[derive(Clone, Debug)]
pub struct Hed {
    /// Subtracted from the colors, `[1, 3, 1, 1]`.
    norm: Tensor,
    blocks: Vec<(Vec<Conv2d>, Conv2d)>,
}

impl Hed {
    /// From the root of the file: `norm`, `block1.convs.0` and `block1.projection` to `block5`. Widths are the file's own.
    /// Errors: a name missing or of another shape.
    pub fn new(w: &Scope) -> Result<Self> {
        let mut from = 3;
        let blocks = BLOCKS.iter().enumerate().map(|(i, count)| {
            let b = w.sub(format!("block{}", i + 1));
            let mut convs = Vec::with_capacity(*count);
            for n in 0..*count {
                let c = b.sub(format!("convs.{n}"));
                let to = c.dims("weight").and_then(|d| d.first().copied()).ok_or_else(|| {
                    Error::missing("load_edges", format!("there is no tensor \"{}.weight\"", c.path()))
                        .expected(
                            "ControlNet's HED: block1.convs.0.weight to block5.projection.bias, and norm",
                        )
                })?;
                convs.push(conv3(&c, from, to)?);
                from = to;
            }
            Ok((convs, conv1(&b.sub("projection"), from, 1)?))
        });
        Ok(Hed { blocks: blocks.collect::<Result<_>>()?, norm: w.get("norm", &[1, 3, 1, 1])? })
    }

    /// Channels of the widest map, as if all were of the picture's size.
    pub fn widest(&self) -> u64 {
        let width = |convs: &[Conv2d]| convs.iter().map(|c| c.weight().dims()[0] as u64).max().unwrap_or(0);
        let blocks = self.blocks.iter().enumerate();
        blocks.map(|(i, (convs, _))| width(convs).div_ceil(1 << (2 * i))).max().unwrap_or(0)
    }

    /// Colors in 0..1 `[n, 3, h, w]`, sides of 16 or more → `[n, 1, h, w]`, 1 = an edge. With a graph.
    pub fn forward(&self, colors: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = colors.dims4()?;
        let mut x = (colors * 255.0)?.broadcast_sub(&self.norm)?;
        let mut sum: Option<Tensor> = None;
        for (i, (convs, projection)) in self.blocks.iter().enumerate() {
            if i > 0 {
                x = pool(&x, Pooling::Max, Window { size: 2, stride: 2, padding: 0 })?;
            }
            for conv in convs {
                x = conv.forward(&x)?.relu()?;
            }
            let map = ops::resize_bilinear(&projection.forward(&x)?, height, width)?;
            sum = Some(match sum {
                None => map,
                Some(sum) => (sum + map)?,
            });
        }
        let sum = sum.ok_or_else(|| Error::missing("load_edges", "the network has no blocks"))?;
        ops::sigmoid(&(sum / BLOCKS.len() as f64)?)
    }
}
