//! Layers built from named weights: the glue between [`Scope`] and [`crate::engine::ops`].

use candle_core::Tensor;

use crate::engine::error::{Error, Result};
use crate::engine::nets::hooks::{Hooks, Site};
use crate::engine::ops::{self, Conv2d, GroupNorm, LayerNorm, Linear, Padding};
use crate::engine::weights::Scope;

/// A convolution `[o, i, k, k]` with bias.
pub fn conv(w: &Scope, i: usize, o: usize, k: usize, stride: usize, padding: Padding) -> Result<Conv2d> {
    Conv2d::new(w.get("weight", &[o, i, k, k])?, Some(w.get("bias", &[o])?), stride, padding)
}

/// A 3×3 convolution that keeps the size.
pub fn conv3(w: &Scope, i: usize, o: usize) -> Result<Conv2d> {
    conv(w, i, o, 3, 1, Padding::all(1))
}

/// A 1×1 convolution.
pub fn conv1(w: &Scope, i: usize, o: usize) -> Result<Conv2d> {
    conv(w, i, o, 1, 1, Padding::all(0))
}

/// A linear layer `[o, i]` with bias.
pub fn linear(w: &Scope, i: usize, o: usize) -> Result<Linear> {
    Linear::new(w.get("weight", &[o, i])?, Some(w.get("bias", &[o])?))
}

/// A linear layer `[o, i]` without bias.
pub fn linear_no_bias(w: &Scope, i: usize, o: usize) -> Result<Linear> {
    Linear::new(w.get("weight", &[o, i])?, None)
}

/// A linear layer whose weight may be stored as a 1×1 convolution (old VAE files).
pub fn linear_or_conv1(w: &Scope, i: usize, o: usize) -> Result<Linear> {
    let weight = match w.dims("weight") {
        Some(dims) if dims.len() == 4 => w.get("weight", &[o, i, 1, 1])?.reshape((o, i))?,
        _ => w.get("weight", &[o, i])?,
    };
    Linear::new(weight, Some(w.get("bias", &[o])?))
}

/// A group normalization. Errors: channels that the groups do not divide.
pub fn group_norm(w: &Scope, channels: usize, groups: usize, eps: f64) -> Result<GroupNorm> {
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(Error::shape(w.path(), format!("{groups} groups do not divide {channels} channels")));
    }
    GroupNorm::new(w.get("weight", &[channels])?, w.get("bias", &[channels])?, groups, eps)
}

/// A layer normalization.
pub fn layer_norm(w: &Scope, width: usize, eps: f64) -> Result<LayerNorm> {
    LayerNorm::new(w.get("weight", &[width])?, w.get("bias", &[width])?, eps)
}

/// A transposed convolution whose stride is its kernel: every pixel becomes a square of so many pixels.
#[derive(Clone, Debug)]
pub struct Grow {
    /// 1×1, to `by²` values per output.
    conv: Conv2d,
    by: usize,
}

impl Grow {
    /// From a weight `[i, o, by, by]` and a bias `[o]`.
    pub fn new(w: &Scope, i: usize, o: usize, by: usize) -> Result<Self> {
        let weight = w.get("weight", &[i, o, by, by])?;
        let weight = weight.flatten_from(1)?.t()?.contiguous()?.reshape((o * by * by, i, 1, 1))?;
        let bias =
            w.get("bias", &[o])?.unsqueeze(1)?.broadcast_as((o, by * by))?.contiguous()?.flatten_all()?;
        Ok(Grow { conv: Conv2d::new(weight, Some(bias), 1, Padding::all(0))?, by })
    }

    /// `[n, i, h, w]` → `[n, o, by h, by w]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (x, by) = (self.conv.forward(x)?, self.by);
        let (n, c, h, w) = x.dims4()?;
        let o = c / (by * by);
        let x = x.reshape((n, o, by, by, h, w))?.permute((0, 1, 4, 2, 5, 3))?.contiguous()?;
        Ok(x.reshape((n, o, by * h, by * w))?)
    }
}

/// A layer normalization over the channels of maps.
#[derive(Clone, Debug)]
pub struct LayerNorm2d(LayerNorm);

impl LayerNorm2d {
    /// From `weight` and `bias`.
    pub fn new(w: &Scope, channels: usize, eps: f64) -> Result<Self> {
        Ok(LayerNorm2d(layer_norm(w, channels, eps)?))
    }

    /// `[n, channels, h, w]`, the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.0.forward(&x.permute((0, 2, 3, 1))?.contiguous()?)?;
        Ok(y.permute((0, 3, 1, 2))?.contiguous()?)
    }
}

/// Attention at a site: fused where no hook wants the probabilities, explicit where one does.
/// `q [b, n, c]`, `k` and `v [b, m, c]` → `[b, n, c]`.
pub fn attend(
    site: &Site,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    hooks: &mut Hooks,
) -> Result<Tensor> {
    let [q, k, v] = hooks.qkv(site, q, k, v)?;
    if !hooks.wants_probs(site, q.dim(1)?, k.dim(1)?) {
        return ops::attention(&q, &k, &v, site.heads, causal);
    }
    let probs = ops::attention_probs(&q, &k, site.heads, causal)?;
    let probs = hooks.probs(site, probs)?;
    ops::apply_probs(&probs, &v, site.heads)
}
