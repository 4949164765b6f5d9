//! What CLIP's two towers share: the transformer encoder (pre-norm, as in transformers' `CLIPEncoder`).

use candle_core::Tensor;
use serde_json::Value;

use super::hooks::{Hooks, Site, SiteKind};
use super::layers::{attend, layer_norm, linear};
use crate::engine::error::{Error, Kind, Result};
use crate::engine::ops::{self, LayerNorm, Linear};
use crate::engine::weights::Scope;

/// The nonlinearity of the feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(1.702 x)` (OpenAI's CLIP).
    QuickGelu,
    /// Exact GELU (OpenCLIP, SD 2.x).
    Gelu,
    /// The tanh form of GELU.
    GeluTanh,
}

impl Activation {
    fn parse(name: &str) -> Result<Self> {
        match name {
            "quick_gelu" => Ok(Activation::QuickGelu),
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            _ => Err(Error::new(Kind::File, "load", format!("unknown hidden_act \"{name}\""))
                .expected("quick_gelu, gelu or gelu_new")),
        }
    }

    fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Activation::QuickGelu => ops::quick_gelu(x),
            Activation::Gelu => ops::gelu(x),
            Activation::GeluTanh => ops::gelu_tanh(x),
        }
    }
}

/// Sizes of one tower, from its config.json.
#[derive(Clone, Debug)]
pub struct TowerConfig {
    /// Width of the hidden states.
    pub width: usize,
    /// Width of the feed-forward part.
    pub inner: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Nonlinearity.
    pub activation: Activation,
    /// Epsilon of the layer norms.
    pub eps: f64,
}

impl TowerConfig {
    /// From config.json (or its `text_config` / `vision_config`). Errors: a key missing or nonsense.
    pub fn parse(json: &Value) -> Result<Self> {
        let config = TowerConfig {
            width: size(json, "hidden_size")?,
            inner: size(json, "intermediate_size")?,
            layers: size(json, "num_hidden_layers")?,
            heads: size(json, "num_attention_heads")?,
            activation: Activation::parse(
                json.get("hidden_act").and_then(Value::as_str).unwrap_or("quick_gelu"),
            )?,
            eps: json.get("layer_norm_eps").and_then(Value::as_f64).unwrap_or(1e-5),
        };
        if !config.width.is_multiple_of(config.heads) {
            return Err(Error::new(Kind::File, "load", "num_attention_heads does not divide hidden_size"));
        }
        Ok(config)
    }
}

/// A positive whole number of a config. Errors: missing, not a number, 0 or absurdly large.
pub fn size(json: &Value, key: &str) -> Result<usize> {
    json.get(key).and_then(Value::as_u64).filter(|&v| v > 0 && v < 1 << 20).map(|v| v as usize).ok_or_else(
        || {
            Error::new(Kind::File, "load", format!("config.json: \"{key}\" must be a positive whole number"))
                .got(json.get(key).map_or("nothing".to_string(), Value::to_string))
        },
    )
}

#[derive(Clone, Debug)]
struct Layer {
    norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    site: Site,
}

/// A stack of transformer layers.
#[derive(Clone, Debug)]
pub struct Encoder {
    layers: Vec<Layer>,
    activation: Activation,
}

impl Encoder {
    /// From the scope that holds `layers.0`, `layers.1`, ...; sites are named below `site_root`.
    pub fn new(w: &Scope, config: &TowerConfig, site_root: &str) -> Result<Self> {
        let c = config.width;
        let layers = (0..config.layers)
            .map(|i| {
                let w = w.sub(format!("layers.{i}"));
                let a = w.sub("self_attn");
                Ok(Layer {
                    norm1: layer_norm(&w.sub("layer_norm1"), c, config.eps)?,
                    q: linear(&a.sub("q_proj"), c, c)?,
                    k: linear(&a.sub("k_proj"), c, c)?,
                    v: linear(&a.sub("v_proj"), c, c)?,
                    out: linear(&a.sub("out_proj"), c, c)?,
                    norm2: layer_norm(&w.sub("layer_norm2"), c, config.eps)?,
                    fc1: linear(&w.sub("mlp.fc1"), c, config.inner)?,
                    fc2: linear(&w.sub("mlp.fc2"), config.inner, c)?,
                    site: Site {
                        path: format!("{site_root}.layers.{i}.self_attn"),
                        kind: SiteKind::SelfAttention,
                        alias: None,
                        heads: config.heads,
                        channels: c,
                    },
                })
            })
            .collect::<Result<_>>()?;
        Ok(Encoder { layers, activation: config.activation })
    }

    /// `x [b, n, width]` → `[b, n, width]`; `causal` hides later positions.
    pub fn forward(&self, x: Tensor, causal: bool, hooks: &mut Hooks) -> Result<Tensor> {
        let mut x = x;
        for layer in &self.layers {
            let y = layer.norm1.forward(&x)?;
            let (q, k, v) = (layer.q.forward(&y)?, layer.k.forward(&y)?, layer.v.forward(&y)?);
            let y = attend(&layer.site, q, k, v, causal, hooks)?;
            x = (x + layer.out.forward(&y)?)?;
            let y = self.activation.apply(&layer.fc1.forward(&layer.norm2.forward(&x)?)?)?;
            x = (x + layer.fc2.forward(&y)?)?;
        }
        Ok(x)
    }
}
