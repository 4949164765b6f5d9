//! DINOv2 (Oquab and others 2023, arXiv 2304.07193): a picture encoder trained without words, in transformers' names.
//! Its class token tells whether two pictures show the same subject; its patches feed the depth network.

use candle_core::{D, Tensor};
use serde_json::Value;

use super::clip::size;
use super::hooks::{Hooks, Site, SiteKind};
use super::layers::{attend, layer_norm, linear};
use crate::engine::error::{Error, Kind, Result};
use crate::engine::ops::{self, Conv2d, Interpolation, LayerNorm, Linear, Padding};
use crate::engine::weights::Scope;

/// Sizes, from config.json; keys that a file leaves out have transformers' defaults.
#[derive(Clone, Debug)]
pub struct DinoConfig {
    /// Width of the hidden states.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Pixels of a patch, on a side.
    pub patch: usize,
    heads: usize,
    inner: usize,
    side: usize,
    eps: f64,
    gated: bool,
}

impl DinoConfig {
    /// Errors: nonsense sizes, heads that do not divide the width, patches that do not divide the side.
    pub fn parse(json: &Value) -> Result<Self> {
        let or = |key: &str, default: usize| match json.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(_) => size(json, key),
        };
        let (width, gated) =
            (or("hidden_size", 768)?, json.get("use_swiglu_ffn") == Some(&Value::Bool(true)));
        let ratio = json.get("mlp_ratio").and_then(Value::as_f64).unwrap_or(4.0).clamp(0.1, 64.0);
        let inner = (width as f64 * ratio) as usize;
        let config = DinoConfig {
            width,
            layers: or("num_hidden_layers", 12)?,
            patch: or("patch_size", 14)?,
            heads: or("num_attention_heads", 12)?,
            // The gated form has two thirds of the width, rounded up to eights.
            inner: if gated { (inner * 2 / 3).next_multiple_of(8) } else { inner },
            side: or("image_size", 224)?,
            eps: json.get("layer_norm_eps").and_then(Value::as_f64).unwrap_or(1e-6),
            gated,
        };
        let wrong = |what: &str| Err(Error::new(Kind::File, "load", what.to_string()));
        if !config.width.is_multiple_of(config.heads) {
            return wrong("num_attention_heads does not divide hidden_size");
        }
        if config.side < config.patch || json.get("qkv_bias") == Some(&Value::Bool(false)) {
            return wrong("image_size is smaller than patch_size, or qkv_bias is false, which no DINOv2 has");
        }
        Ok(config)
    }
}

/// The feed-forward part.
#[derive(Clone, Debug)]
enum Forward {
    Plain(Linear, Linear),
    Gated(Linear, Linear),
}

impl Forward {
    fn new(w: &Scope, c: &DinoConfig) -> Result<Self> {
        let w = w.sub("mlp");
        Ok(match c.gated {
            false => Forward::Plain(
                linear(&w.sub("fc1"), c.width, c.inner)?,
                linear(&w.sub("fc2"), c.inner, c.width)?,
            ),
            true => Forward::Gated(
                linear(&w.sub("weights_in"), c.width, 2 * c.inner)?,
                linear(&w.sub("weights_out"), c.inner, c.width)?,
            ),
        })
    }

    fn run(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Forward::Plain(first, second) => second.forward(&ops::gelu(&first.forward(x)?)?),
            Forward::Gated(first, second) => {
                let x = first.forward(x)?;
                let half = x.dim(D::Minus1)? / 2;
                let gate = ops::silu(&x.narrow(D::Minus1, 0, half)?.contiguous()?)?;
                second.forward(&(gate * x.narrow(D::Minus1, half, half)?.contiguous()?)?)
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Layer {
    norm1: LayerNorm,
    qkv: [Linear; 3],
    out: Linear,
    scale1: Tensor,
    norm2: LayerNorm,
    forward: Forward,
    scale2: Tensor,
    site: Site,
}

/// The encoder.
#[derive(Clone, Debug)]
pub struct Dino {
    config: DinoConfig,
    patches: Conv2d,
    class: Tensor,
    positions: Tensor,
    layers: Vec<Layer>,
    norm: LayerNorm,
}

impl Dino {
    /// From the scope that holds `embeddings`, `encoder` and `layernorm`. Errors: names or shapes that do not fit.
    pub fn new(w: &Scope, config: DinoConfig) -> Result<Self> {
        let (c, e) = (config.width, w.sub("embeddings"));
        let p = e.sub("patch_embeddings.projection");
        let weight = p.get("weight", &[c, 3, config.patch, config.patch])?;
        let count = (config.side / config.patch).pow(2) + 1;
        let layers = (0..config.layers).map(|i| {
            let path = format!("encoder.layer.{i}");
            let w = w.sub(&path);
            let a = w.sub("attention");
            let one = |name: &str| linear(&a.sub("attention").sub(name), c, c);
            Ok(Layer {
                norm1: layer_norm(&w.sub("norm1"), c, config.eps)?,
                qkv: [one("query")?, one("key")?, one("value")?],
                out: linear(&a.sub("output.dense"), c, c)?,
                scale1: w.get("layer_scale1.lambda1", &[c])?,
                norm2: layer_norm(&w.sub("norm2"), c, config.eps)?,
                forward: Forward::new(&w, &config)?,
                scale2: w.get("layer_scale2.lambda1", &[c])?,
                site: Site {
                    path: format!("{path}.attention"),
                    kind: SiteKind::SelfAttention,
                    alias: None,
                    heads: config.heads,
                    channels: c,
                },
            })
        });
        Ok(Dino {
            patches: Conv2d::new(weight, Some(p.get("bias", &[c])?), config.patch, Padding::all(0))?,
            class: e.get("cls_token", &[1, 1, c])?,
            positions: e.get("position_embeddings", &[1, count, c])?,
            layers: layers.collect::<Result<_>>()?,
            norm: layer_norm(&w.sub("layernorm"), c, config.eps)?,
            config,
        })
    }

    /// Sizes.
    pub fn config(&self) -> &DinoConfig {
        &self.config
    }

    /// Hidden states after the layers `after` (1 is the first layer, ascending), normalized:
    /// pixels `[n, 3, h, w]` → `[n, 1 + patches, width]` each, the class token first.
    /// Errors: sides that are no whole number of patches.
    pub fn hidden(&self, pixels: &Tensor, after: &[usize]) -> Result<Vec<Tensor>> {
        let (n, _, h, w) = pixels.dims4()?;
        let patch = self.config.patch;
        if h < patch || w < patch || h % patch != 0 || w % patch != 0 {
            return Err(Error::shape("dino", "the sides must be whole numbers of patches")
                .expected(format!("multiples of {patch}"))
                .got(format!("{w}x{h}")));
        }
        // Pictures lie in main memory.
        let pixels = pixels.to_device(self.class.device())?;
        let patches = self.patches.forward(&pixels)?.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        let class = self.class.broadcast_as((n, 1, self.config.width))?.contiguous()?;
        let mut x =
            Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.places(h / patch, w / patch)?)?;
        let mut found = Vec::with_capacity(after.len());
        for (i, layer) in self.layers.iter().enumerate() {
            let y = layer.norm1.forward(&x)?;
            let [q, k, v] = &layer.qkv;
            let (q, k, v) = (q.forward(&y)?, k.forward(&y)?, v.forward(&y)?);
            let y = attend(&layer.site, q, k, v, false, &mut Hooks::none())?;
            x = (x + layer.out.forward(&y)?.broadcast_mul(&layer.scale1)?)?;
            let y = layer.forward.run(&layer.norm2.forward(&x)?)?;
            x = (x + y.broadcast_mul(&layer.scale2)?)?;
            if after.contains(&(i + 1)) {
                found.push(self.norm.forward(&x)?);
            }
        }
        Ok(found)
    }

    /// The class token: normalized pixels `[n, 3, h, w]` → `[n, width]`.
    pub fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        let last = self.hidden(pixels, &[self.config.layers])?;
        let last = last.first().ok_or_else(|| Error::new(Kind::File, "dino", "the encoder has no layer"))?;
        Ok(last.narrow(1, 0, 1)?.squeeze(1)?)
    }

    /// Bytes that a picture of these sides holds at once, roughly: its pixels, hidden states, what a layer makes of them.
    pub fn working(&self, [h, w]: [u64; 2]) -> u64 {
        let c = &self.config;
        let places = (h / c.patch as u64 + 1).saturating_mul(w / c.patch as u64 + 1);
        let states = places.saturating_mul((16 * c.width + 4 * c.inner) as u64);
        states.saturating_add(h.saturating_mul(w).saturating_mul(10)).saturating_mul(4)
    }

    /// Position embeddings for `rows × columns` patches.
    fn places(&self, rows: usize, columns: usize) -> Result<Tensor> {
        let (side, c) = (self.config.side / self.config.patch, self.config.width);
        if rows == side && columns == side {
            return Ok(self.positions.clone());
        }
        let grid = self.positions.narrow(1, 1, side * side)?.reshape((1, side, side, c))?;
        let grid = grid.permute((0, 3, 1, 2))?.contiguous()?;
        let grid = ops::resize(&grid, rows, columns, Interpolation::Cubic)?;
        let grid = grid.permute((0, 2, 3, 1))?.reshape((1, rows * columns, c))?;
        Ok(Tensor::cat(&[&self.positions.narrow(1, 0, 1)?, &grid], 1)?)
    }
}
