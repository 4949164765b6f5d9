//! The picture encoder: a vision transformer whose layers look within windows, some of them everywhere, with positions
//! relative to the query (Li and others 2022, arXiv 2112.01526).

use candle_core::{D, Tensor};
use serde_json::Value;

use super::{Part, wrong};
use crate::engine::error::{Error, Result};
use crate::engine::nets::layers::{LayerNorm2d, conv, layer_norm, linear};
use crate::engine::observe::Cancel;
use crate::engine::ops::{self, Conv2d, LayerNorm, Linear, Padding};
use crate::engine::weights::Scope;

/// Most places along a side of the picture: four times as many as any SAM has. There need not be weights for each of them, so that a
/// few bytes of config.json could ask for any amount of memory.
const MOST_PLACES: usize = 256;

#[derive(Clone, Debug)]
struct Layer {
    norm1: LayerNorm,
    qkv: Linear,
    out: Linear,
    /// Vectors for every place `[query, key, size]` along a column, and along a row.
    relative: Option<[Tensor; 2]>,
    norm2: LayerNorm,
    mlp: [Linear; 2],
    /// Side of a window in places; all places where it is that of the picture.
    window: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Vision {
    patches: Conv2d,
    positions: Option<Tensor>,
    layers: Vec<Layer>,
    neck: (Conv2d, LayerNorm2d, Conv2d, LayerNorm2d),
    heads: usize,
    inner: usize,
    side: usize,
    places: usize,
    out: usize,
}

/// Of `2 side - 1` vectors those between each query and each key: `[side, side, size]`.
fn between(w: &Scope, name: &str, side: usize, size: usize) -> Result<Tensor> {
    let all = w.get(name, &[2 * side - 1, size])?;
    let at: Vec<u32> = (0..side * side).map(|i| (i / side + side - 1 - i % side) as u32).collect();
    Ok(all.index_select(&Tensor::from_vec(at, side * side, all.device())?, 0)?.reshape((side, side, size))?)
}

impl Vision {
    pub(super) fn new(w: &Scope, c: &Part) -> Result<Self> {
        let (width, heads, count) =
            (c.or("hidden_size", 768)?, c.or("num_attention_heads", 12)?, c.or("num_hidden_layers", 12)?);
        let (side, patch, out) =
            (c.or("image_size", 1024)?, c.or("patch_size", 16)?, c.or("output_channels", 256)?);
        if !width.is_multiple_of(heads) || !side.is_multiple_of(patch) || side < patch {
            return Err(wrong(
                "num_attention_heads must divide hidden_size, patch_size must divide image_size",
            ));
        }
        let ratio = c.0.get("mlp_ratio").and_then(Value::as_f64).unwrap_or(4.0).clamp(0.1, 64.0);
        let inner = c.or("mlp_dim", (width as f64 * ratio) as usize)?;
        let places = side / patch;
        if places > MOST_PLACES {
            return Err(wrong(format!("image_size / patch_size is more than {MOST_PLACES}"))
                .got(format!("{side} / {patch}")));
        }
        // A window of 0 is none, in every layer.
        let window = match c.0.get("window_size").and_then(Value::as_u64) {
            Some(0) => places,
            _ => c.or("window_size", 14)?,
        };
        if window > places {
            return Err(wrong("window_size is more than the picture has places")
                .expected(format!("at most {places}, or 0"))
                .got(window.to_string()));
        }
        let everywhere = match c.0.get("global_attn_indexes").and_then(Value::as_array) {
            None => vec![2, 5, 8, 11],
            Some(list) => list.iter().filter_map(Value::as_u64).collect(),
        };
        let flag = |key: &str| c.0.get(key).and_then(Value::as_bool).unwrap_or(true);
        if !flag("qkv_bias") || c.0.get("hidden_act").is_some_and(|a| a != "gelu") {
            return Err(wrong("qkv_bias must be true and hidden_act gelu, as in every SAM"));
        }
        let layers = (0..count).map(|i| {
            let w = w.sub(format!("layers.{i}"));
            let a = w.sub("attn");
            let window = if everywhere.contains(&(i as u64)) { places } else { window };
            let relative = |name: &str| between(&a, name, window, width / heads);
            Ok(Layer {
                norm1: layer_norm(&w.sub("layer_norm1"), width, c.eps())?,
                qkv: linear(&a.sub("qkv"), width, 3 * width)?,
                out: linear(&a.sub("proj"), width, width)?,
                relative: match flag("use_rel_pos") {
                    true => Some([relative("rel_pos_h")?, relative("rel_pos_w")?]),
                    false => None,
                },
                norm2: layer_norm(&w.sub("layer_norm2"), width, c.eps())?,
                mlp: [linear(&w.sub("mlp.lin1"), width, inner)?, linear(&w.sub("mlp.lin2"), inner, width)?],
                window,
            })
        });
        let neck = w.sub("neck");
        let plain = |name: &str, i: usize, k: usize| -> Result<Conv2d> {
            let weight = neck.sub(name).get("weight", &[out, i, k, k])?;
            Conv2d::new(weight, None, 1, Padding::all(k / 2))
        };
        Ok(Vision {
            patches: conv(&w.sub("patch_embed.projection"), 3, width, patch, patch, Padding::all(0))?,
            positions: match flag("use_abs_pos") {
                true => Some(w.get("pos_embed", &[1, places, places, width])?),
                false => None,
            },
            layers: layers.collect::<Result<_>>()?,
            neck: (
                plain("conv1", width, 1)?,
                LayerNorm2d::new(&neck.sub("layer_norm1"), out, 1e-6)?,
                plain("conv2", out, 3)?,
                LayerNorm2d::new(&neck.sub("layer_norm2"), out, 1e-6)?,
            ),
            heads,
            inner,
            side,
            places,
            out,
        })
    }

    /// Bytes that a pass holds at once, roughly: pixels, hidden states, what the layer with the widest windows makes of them.
    pub(super) fn working(&self) -> u64 {
        let (width, side) = (self.width() as u64, self.side as u64);
        let layer = |layer: &Layer| {
            // Windows at the edges are filled up; queries and keys have a row and a column of their window beside them.
            let window = layer.window as u64;
            let places = ((self.places as u64).div_ceil(window) * window).pow(2);
            let beside = if layer.relative.is_some() { 2 * window * self.heads as u64 } else { 0 };
            places.saturating_mul(20 * width + 8 * beside + 3 * self.inner as u64)
        };
        let states = self.layers.iter().map(layer).max().unwrap_or(0);
        states.saturating_add(10 * side.pow(2)).saturating_mul(4)
    }

    pub(super) fn side(&self) -> usize {
        self.side
    }

    /// Places of the result along a side.
    pub(super) fn places(&self) -> usize {
        self.places
    }

    /// Width of the hidden states.
    fn width(&self) -> usize {
        self.patches.weight().dims()[0]
    }

    /// Width of the result.
    pub(super) fn out(&self) -> usize {
        self.out
    }

    pub(super) fn forward(&self, pixels: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        if pixels.dims() != [1, 3, self.side, self.side] {
            return Err(Error::shape("segment", "the encoder sees pictures of one size")
                .expected(format!("[1, 3, {0}, {0}]", self.side))
                .got(format!("{:?}", pixels.dims())));
        }
        let mut x = self.patches.forward(pixels)?.permute((0, 2, 3, 1))?.contiguous()?;
        if let Some(positions) = &self.positions {
            x = (x + positions)?;
        }
        for layer in &self.layers {
            cancel.check("segment")?;
            let y = layer.norm1.forward(&x)?;
            x = (&x + self.attend(layer, &y)?)?;
            let [first, second] = &layer.mlp;
            x = (&x + second.forward(&ops::gelu(&first.forward(&layer.norm2.forward(&x)?)?)?)?)?;
        }
        let (conv1, norm1, conv2, norm2) = &self.neck;
        let x = norm1.forward(&conv1.forward(&x.permute((0, 3, 1, 2))?.contiguous()?)?)?;
        norm2.forward(&conv2.forward(&x)?)
    }

    /// `x [1, places, places, width]` → the same, window by window.
    fn attend(&self, layer: &Layer, x: &Tensor) -> Result<Tensor> {
        let (_, h, w, c) = x.dims4()?;
        let side = layer.window;
        // The last windows of a row or column are filled up with zeros.
        let (rows, columns) = (h.div_ceil(side), w.div_ceil(side));
        let x = x.pad_with_zeros(1, 0, rows * side - h)?.pad_with_zeros(2, 0, columns * side - w)?;
        let x = x.reshape((rows, side, columns, side, c))?.transpose(1, 2)?.contiguous()?;
        let x = layer.qkv.forward(&x.reshape((rows * columns, side * side, c))?)?;
        let x = layer.out.forward(&self.window(layer, &x)?)?;
        let x = x.reshape((rows, columns, side, side, c))?.transpose(1, 2)?.contiguous()?;
        let x = x.reshape((1, rows * side, columns * side, c))?;
        Ok(x.narrow(1, 0, h)?.narrow(2, 0, w)?.contiguous()?)
    }

    /// Attention within windows: `[windows, side², 3 width]` → `[windows, side², width]`. How near a key is adds to its score
    /// `q·r(row) + q·r(column)`: as products with keys that are 1 at their own row and column, so that no matrix of scores is ever
    /// whole in memory.
    fn window(&self, layer: &Layer, qkv: &Tensor) -> Result<Tensor> {
        let (n, count, width) = qkv.dims3()?;
        let (side, heads, size) = (layer.window, self.heads, width / 3 / self.heads);
        let part =
            |i: usize| -> Result<Tensor> { Ok(qkv.narrow(2, i * width / 3, width / 3)?.contiguous()?) };
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let Some([down, across]) = &layer.relative else { return ops::attention(&q, &k, &v, heads, false) };
        let q = q.reshape((n, side, side, heads, size))?;
        // Queries of one row share its table: [side, n side heads, size] x [side, size, side].
        let table = |q: Tensor, r: &Tensor| -> Result<Tensor> {
            let (first, a, b, ..) = q.dims5()?;
            let q = q.contiguous()?.reshape((first, a * b * heads, size))?;
            Ok(q.matmul(&r.transpose(1, 2)?.contiguous()?)?.reshape((first, a, b, heads, side))?)
        };
        let down = table(q.permute((1, 0, 2, 3, 4))?, down)?.permute((1, 0, 2, 3, 4))?;
        let across = table(q.permute((2, 0, 1, 3, 4))?, across)?.permute((1, 2, 0, 3, 4))?;
        let all = size + 2 * side;
        let root = (all as f64).sqrt();
        let q = Tensor::cat(&[&(&q * (1.0 / (size as f64).sqrt()))?, &down, &across], D::Minus1)?;
        let q = (q.reshape((n, count, heads * all))? * root)?;
        let marks: Vec<f32> = (0..count)
            .flat_map(|i| {
                (0..2 * side).map(move |j| if j == i / side || j == side + i % side { 1.0 } else { 0.0 })
            })
            .collect();
        let marks = Tensor::from_vec(marks, (1, count, 1, 2 * side), q.device())?.to_dtype(q.dtype())?;
        let marks = marks.broadcast_as((n, count, heads, 2 * side))?;
        let k = k.reshape((n, count, heads, size))?;
        let k = Tensor::cat(&[&k, &marks.contiguous()?], D::Minus1)?.reshape((n, count, heads * all))?;
        let v = v.reshape((n, count, heads, size))?.pad_with_zeros(D::Minus1, 0, 2 * side)?;
        let y = ops::attention(&q, &k, &v.reshape((n, count, heads * all))?, heads, false)?;
        let y = y.reshape((n, count, heads, all))?.narrow(D::Minus1, 0, size)?;
        Ok(y.contiguous()?.reshape((n, count, heads * size))?)
    }
}
