//! `AutoencoderKL`: pictures to latents and back, by diffusers' config.json and weight names (old ones too).

use candle_core::Tensor;
use serde_json::Value;

use super::clip::size;
use super::hooks::{Hooks, Site, SiteKind};
use super::layers::{attend, conv, conv1, conv3, group_norm, linear_or_conv1};
use crate::engine::error::{Error, Kind, Result};
use crate::engine::ops::{self, Conv2d, GroupNorm, Linear, Padding};
use crate::engine::weights::Scope;

const EPS: f64 = 1e-6;

/// Sizes of a VAE.
#[derive(Clone, Debug)]
pub struct VaeConfig {
    widths: Vec<usize>,
    layers: usize,
    groups: usize,
    in_channels: usize,
    out_channels: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Factor between the encoder's mean and the latent that the UNet works on.
    pub scaling: f64,
    /// Added after scaling (0 for SD 1.x and 2.x).
    pub shift: f64,
    /// Picture pixels per latent pixel, on a side.
    pub factor: usize,
    quant: bool,
    post_quant: bool,
    mid_attention: bool,
}

impl VaeConfig {
    /// Reads and checks config.json.
    pub fn parse(json: &Value) -> Result<Self> {
        let bad = |m: &str| Error::new(Kind::File, "load", format!("vae/config.json: {m}"));
        let widths: Vec<usize> = json
            .get("block_out_channels")
            .and_then(Value::as_array)
            .map(|l| {
                l.iter()
                    .filter_map(Value::as_u64)
                    .filter(|&v| v > 0 && v < 1 << 16)
                    .map(|v| v as usize)
                    .collect()
            })
            .unwrap_or_default();
        if widths.is_empty() || widths.len() > 10 {
            return Err(bad("\"block_out_channels\" must be a list of positive numbers"));
        }
        if json.get("act_fn").and_then(Value::as_str).is_some_and(|a| a != "silu" && a != "swish") {
            return Err(bad("only the activation \"silu\" is supported"));
        }
        let flag = |key: &str| json.get(key).and_then(Value::as_bool).unwrap_or(true);
        Ok(VaeConfig {
            factor: 1 << (widths.len() - 1),
            layers: size(json, "layers_per_block")?,
            groups: json.get("norm_num_groups").and_then(Value::as_u64).unwrap_or(32) as usize,
            in_channels: size(json, "in_channels")?,
            out_channels: size(json, "out_channels")?,
            latent_channels: size(json, "latent_channels")?,
            scaling: json.get("scaling_factor").and_then(Value::as_f64).unwrap_or(0.18215),
            shift: json.get("shift_factor").and_then(Value::as_f64).unwrap_or(0.0),
            quant: flag("use_quant_conv"),
            post_quant: flag("use_post_quant_conv"),
            mid_attention: flag("mid_block_add_attention"),
            widths,
        })
    }
}

#[derive(Clone, Debug)]
struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl Resnet {
    fn new(w: &Scope, from: usize, to: usize, groups: usize) -> Result<Self> {
        Ok(Resnet {
            norm1: group_norm(&w.sub("norm1"), from, groups, EPS)?,
            conv1: conv3(&w.sub("conv1"), from, to)?,
            norm2: group_norm(&w.sub("norm2"), to, groups, EPS)?,
            conv2: conv3(&w.sub("conv2"), to, to)?,
            shortcut: if from == to { None } else { Some(conv1(&w.sub("conv_shortcut"), from, to)?) },
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        let h = self.conv2.forward(&self.norm2.forward_silu(&h)?)?;
        Ok(match &self.shortcut {
            Some(conv) => (conv.forward(x)? + h)?,
            None => (x + h)?,
        })
    }
}

#[derive(Clone, Debug)]
struct Attention {
    norm: GroupNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    site: Site,
}

impl Attention {
    fn new(w: &Scope, width: usize, groups: usize) -> Result<Self> {
        // Files from before diffusers 0.18 say query, key, value and proj_attn.
        let layer =
            |new: &str, old: &str| linear_or_conv1(&w.sub(if w.has(new) { new } else { old }), width, width);
        Ok(Attention {
            norm: group_norm(&w.sub("group_norm"), width, groups, EPS)?,
            q: layer("to_q", "query")?,
            k: layer("to_k", "key")?,
            v: layer("to_v", "value")?,
            out: layer("to_out.0", "proj_attn")?,
            site: Site {
                path: w.path().to_string(),
                kind: SiteKind::SelfAttention,
                alias: None,
                heads: 1,
                channels: width,
            },
        })
    }

    fn forward(&self, x: &Tensor, hooks: &mut Hooks) -> Result<Tensor> {
        let (n, c, h, w) = x.dims4()?;
        let y = self.norm.forward(x)?.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        let (q, k, v) = (self.q.forward(&y)?, self.k.forward(&y)?, self.v.forward(&y)?);
        let y = self.out.forward(&attend(&self.site, q, k, v, false, hooks)?)?;
        Ok((y.transpose(1, 2)?.contiguous()?.reshape((n, c, h, w))? + x)?)
    }
}

#[derive(Clone, Debug)]
struct Middle {
    first: Resnet,
    attention: Option<Attention>,
    second: Resnet,
}

impl Middle {
    fn new(w: &Scope, width: usize, config: &VaeConfig) -> Result<Self> {
        let w = w.sub("mid_block");
        Ok(Middle {
            first: Resnet::new(&w.sub("resnets.0"), width, width, config.groups)?,
            attention: config
                .mid_attention
                .then(|| Attention::new(&w.sub("attentions.0"), width, config.groups))
                .transpose()?,
            second: Resnet::new(&w.sub("resnets.1"), width, width, config.groups)?,
        })
    }

    fn forward(&self, x: &Tensor, hooks: &mut Hooks) -> Result<Tensor> {
        let x = self.first.forward(x)?;
        let x = match &self.attention {
            Some(attention) => attention.forward(&x, hooks)?,
            None => x,
        };
        self.second.forward(&x)
    }
}

/// One level: resnets, and the convolution that changes the size after them.
#[derive(Clone, Debug)]
struct Level {
    resnets: Vec<Resnet>,
    sampler: Option<Conv2d>,
}

/// Encoder or decoder: the same parts in another order.
#[derive(Clone, Debug)]
struct Half {
    conv_in: Conv2d,
    levels: Vec<Level>,
    middle: Middle,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    outer: Option<Conv2d>,
}

/// The autoencoder.
#[derive(Clone, Debug)]
pub struct Vae {
    config: VaeConfig,
    encoder: Half,
    decoder: Half,
}

impl Vae {
    /// From the root scope of `vae/*.safetensors`. Errors: a tensor missing or of another shape.
    pub fn new(w: &Scope, config: VaeConfig) -> Result<Self> {
        Ok(Vae { encoder: encoder(w, &config)?, decoder: decoder(w, &config)?, config })
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Mean of the latent distribution of pictures `[n, 3, h, w]` in -1..1, scaled as the UNet wants it:
    /// `[n, c, h / factor, w / factor]`.
    pub fn encode_mean(&self, x: &Tensor, hooks: &mut Hooks) -> Result<Tensor> {
        let (_, c, h, w) = x.dims4()?;
        let f = self.config.factor;
        if c != self.config.in_channels || h % f != 0 || w % f != 0 || h == 0 || w == 0 {
            return Err(Error::shape("encode", "the picture does not fit this VAE")
                .expected(format!("{} channels, sides that are multiples of {f}", self.config.in_channels))
                .got(format!("{c} channels, {w}x{h}")));
        }
        let e = &self.encoder;
        let mut x = e.conv_in.forward(x)?;
        for level in &e.levels {
            hooks.check_cancel("encode")?;
            for resnet in &level.resnets {
                x = resnet.forward(&x)?;
            }
            if let Some(conv) = &level.sampler {
                x = conv.forward(&x)?;
            }
        }
        x = e.middle.forward(&x, hooks)?;
        x = e.conv_out.forward(&e.norm_out.forward_silu(&x)?)?;
        if let Some(quant) = &e.outer {
            x = quant.forward(&x)?;
        }
        let mean = x.narrow(1, 0, self.config.latent_channels)?.contiguous()?;
        Ok(mean.affine(self.config.scaling, -self.config.shift * self.config.scaling)?)
    }

    /// What the encoder sees in pictures `[n, 3, h, w]` in -1..1: the activations after each of its levels, before their
    /// size is halved, the finest first. Errors: a picture that does not fit.
    pub fn encoder_levels(&self, x: &Tensor, hooks: &mut Hooks) -> Result<Vec<Tensor>> {
        let e = &self.encoder;
        let mut x = e.conv_in.forward(x)?;
        let mut all = Vec::with_capacity(e.levels.len());
        for level in &e.levels {
            hooks.check_cancel("perceptual")?;
            for resnet in &level.resnets {
                x = resnet.forward(&x)?;
            }
            all.push(x.clone());
            if let Some(conv) = &level.sampler {
                x = conv.forward(&x)?;
            }
        }
        Ok(all)
    }

    /// Pictures `[n, 3, h * factor, w * factor]`, nominally in -1..1, from scaled latents `[n, c, h, w]`.
    pub fn decode(&self, z: &Tensor, hooks: &mut Hooks) -> Result<Tensor> {
        let c = z.dims4()?.1;
        if c != self.config.latent_channels {
            return Err(Error::shape("decode", "the latent does not fit this VAE")
                .expected(format!("{} channels", self.config.latent_channels))
                .got(format!("{c}")));
        }
        let d = &self.decoder;
        let mut x = z.affine(1.0 / self.config.scaling, self.config.shift)?;
        if let Some(conv) = &d.outer {
            x = conv.forward(&x)?;
        }
        x = d.middle.forward(&d.conv_in.forward(&x)?, hooks)?;
        for level in &d.levels {
            hooks.check_cancel("decode")?;
            for resnet in &level.resnets {
                x = resnet.forward(&x)?;
            }
            if let Some(conv) = &level.sampler {
                x = conv.forward(&ops::upsample_nearest2x(&x)?)?;
            }
        }
        d.conv_out.forward(&d.norm_out.forward_silu(&x)?)
    }
}

fn encoder(w: &Scope, config: &VaeConfig) -> Result<Half> {
    let e = w.sub("encoder");
    let (widths, latent) = (&config.widths, config.latent_channels * 2);
    let deepest = widths[widths.len() - 1];
    let mut from = widths[0];
    let mut levels = Vec::new();
    for (i, &to) in widths.iter().enumerate() {
        let b = e.sub(format!("down_blocks.{i}"));
        let resnets = (0..config.layers)
            .map(|j| {
                Resnet::new(&b.sub(format!("resnets.{j}")), if j == 0 { from } else { to }, to, config.groups)
            })
            .collect::<Result<_>>()?;
        // diffusers pads right and below only here.
        let pad = Padding { top: 0, left: 0, bottom: 1, right: 1 };
        let sampler = if i + 1 < widths.len() {
            Some(conv(&b.sub("downsamplers.0.conv"), to, to, 3, 2, pad)?)
        } else {
            None
        };
        levels.push(Level { resnets, sampler });
        from = to;
    }
    Ok(Half {
        conv_in: conv3(&e.sub("conv_in"), config.in_channels, widths[0])?,
        levels,
        middle: Middle::new(&e, deepest, config)?,
        norm_out: group_norm(&e.sub("conv_norm_out"), deepest, config.groups, EPS)?,
        conv_out: conv3(&e.sub("conv_out"), deepest, latent)?,
        outer: config.quant.then(|| conv1(&w.sub("quant_conv"), latent, latent)).transpose()?,
    })
}

fn decoder(w: &Scope, config: &VaeConfig) -> Result<Half> {
    let d = w.sub("decoder");
    let (widths, latent) = (&config.widths, config.latent_channels);
    let deepest = widths[widths.len() - 1];
    let mut from = deepest;
    let mut levels = Vec::new();
    for (i, &to) in widths.iter().rev().enumerate() {
        let b = d.sub(format!("up_blocks.{i}"));
        let resnets = (0..=config.layers)
            .map(|j| {
                Resnet::new(&b.sub(format!("resnets.{j}")), if j == 0 { from } else { to }, to, config.groups)
            })
            .collect::<Result<_>>()?;
        let sampler =
            if i + 1 < widths.len() { Some(conv3(&b.sub("upsamplers.0.conv"), to, to)?) } else { None };
        levels.push(Level { resnets, sampler });
        from = to;
    }
    Ok(Half {
        conv_in: conv3(&d.sub("conv_in"), latent, deepest)?,
        levels,
        middle: Middle::new(&d, deepest, config)?,
        norm_out: group_norm(&d.sub("conv_norm_out"), widths[0], config.groups, EPS)?,
        conv_out: conv3(&d.sub("conv_out"), widths[0], config.out_channels)?,
        outer: config.post_quant.then(|| conv1(&w.sub("post_quant_conv"), latent, latent)).transpose()?,
    })
}
