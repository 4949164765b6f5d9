//! Points and boxes as tokens: where they are as sines of random directions, and what they mean as a learnt vector.

use std::f64::consts::PI;

use candle_core::{D, Device, Tensor};

use crate::engine::error::{Error, Result};
use crate::engine::weights::Scope;

/// A point in pixels of the encoder's picture, and whether it lies inside of what is meant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// From the left edge.
    pub x: f64,
    /// From the upper edge.
    pub y: f64,
    /// Whether the mask holds it; else the mask must leave it out.
    pub inside: bool,
}

/// A box in pixels of the encoder's picture: left, upper, right, lower.
pub type Corners = [f64; 4];

#[derive(Clone, Debug)]
pub(super) struct Prompts {
    /// Directions `[2, width / 2]`.
    directions: Tensor,
    /// What a point outside, a point inside, the first and the second corner of a box mean.
    kinds: [Tensor; 4],
    no_point: Tensor,
    no_mask: Tensor,
    /// Where every place of the encoder's result lies, `[1, places, width]`.
    everywhere: Tensor,
    side: usize,
}

/// Places in 0..1 `[n, 2]` (x, y) → `[n, width]`.
fn waves(directions: &Tensor, places: &Tensor) -> Result<Tensor> {
    let angles = (places.affine(2.0, -1.0)?.matmul(directions)? * (2.0 * PI))?;
    Ok(Tensor::cat(&[&angles.sin()?, &angles.cos()?], D::Minus1)?)
}

impl Prompts {
    pub(super) fn new(w: &Scope, width: usize, side: usize, places: usize) -> Result<Self> {
        let p = w.sub("prompt_encoder");
        let directions = w.sub("shared_image_embedding").get("positional_embedding", &[2, width / 2])?;
        let row = |name: &str| p.get(&format!("{name}.weight"), &[1, width]);
        let centre = |i: usize| (i as f32 + 0.5) / places as f32;
        let grid: Vec<f32> =
            (0..places * places).flat_map(|i| [centre(i % places), centre(i / places)]).collect();
        let grid = Tensor::from_vec(grid, (places * places, 2), directions.device())?
            .to_dtype(directions.dtype())?;
        Ok(Prompts {
            everywhere: waves(&directions, &grid)?.unsqueeze(0)?,
            kinds: [
                row("point_embed.0")?,
                row("point_embed.1")?,
                row("point_embed.2")?,
                row("point_embed.3")?,
            ],
            no_point: row("not_a_point_embed")?,
            no_mask: row("no_mask_embed")?,
            directions,
            side,
        })
    }

    pub(super) fn everywhere(&self) -> &Tensor {
        &self.everywhere
    }

    /// What the encoder saw, told that no rough mask is given: `[1, places, width]`.
    pub(super) fn without_mask(&self, seen: &Tensor) -> Result<Tensor> {
        Ok(seen.flatten_from(2)?.transpose(1, 2)?.contiguous()?.broadcast_add(&self.no_mask)?)
    }

    /// `[1, n, width]`: a token per point, one that says that no box follows or two for its corners.
    pub(super) fn tokens(
        &self,
        points: &[Point],
        corners: Option<Corners>,
        device: &Device,
    ) -> Result<Tensor> {
        if points.is_empty() && corners.is_none() {
            return Err(
                Error::value("segment", "there is neither a point nor a box").expected("a point [x, y]")
            );
        }
        let [outside, inside, first, second] = &self.kinds;
        let token = |x: f64, y: f64, kind: &Tensor| -> Result<Tensor> {
            // The middle of a pixel.
            let at = [x, y].map(|v| ((v + 0.5) / self.side as f64) as f32);
            let at = Tensor::new(&[at], device)?.to_dtype(self.directions.dtype())?;
            Ok((waves(&self.directions, &at)? + kind)?)
        };
        let mut all = Vec::with_capacity(points.len() + 2);
        for p in points {
            all.push(token(p.x, p.y, if p.inside { inside } else { outside })?);
        }
        match corners {
            Some([left, top, right, bottom]) => {
                all.push(token(left, top, first)?);
                all.push(token(right, bottom, second)?);
            }
            None => all.push(self.no_point.clone()),
        }
        Ok(Tensor::cat(&all, 0)?.unsqueeze(0)?)
    }
}
