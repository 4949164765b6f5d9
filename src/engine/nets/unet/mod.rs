//! `UNet2DConditionModel` of Stable Diffusion 1.x and 2.x, by diffusers' config.json and weight names.
//!
//! Widths, levels, groups, heads and activations come from the config. Sites: every resnet, transformer, sampler and
//! the two outer convolutions are activations; every `attn1` and `attn2` is an attention site.

mod attention;
mod blocks;
mod config;
mod context;
mod kept;
mod merge;
mod resnet;
mod shortcuts;
mod time;

use std::sync::Arc;

use candle_core::Tensor;

pub use config::UnetConfig;
pub use context::{Context, Work};
pub(crate) use kept::Kept;
pub use merge::Merge;
pub(crate) use merge::spread;
pub use shortcuts::{MAX_MERGE, MAX_REUSE, Shortcuts};

use super::hooks::{Hooks, Site, SiteKind};
use super::layers::{conv3, group_norm};
use crate::engine::error::{Error, Kind, Result};
use crate::engine::ops::{Conv2d, GroupNorm};
use crate::engine::weights::Scope;
use attention::Transformer;
use blocks::{Down, Up};
use resnet::Resnet;
use time::TimeEmbedding;

/// How many skips of the finest level, counted from the outside, a shallow pass computes anew: those of `conv_in` and of
/// the first layer going down, with the two layers going up that take them (DeepCache's first branch).
const SHALLOW: usize = 2;

/// How much of the network a call runs.
#[derive(Clone, Copy, Debug)]
pub enum Pass<'a> {
    /// All of it.
    Full,
    /// All of it, and the deep features are kept.
    Keep,
    /// The shallow branch, on deep features that were kept before, `[n, c, h, w]`.
    From(&'a Tensor),
}

/// The noise-prediction network.
#[derive(Clone, Debug)]
pub struct Unet {
    config: UnetConfig,
    time: TimeEmbedding,
    conv_in: Conv2d,
    conv_in_site: Site,
    down: Vec<Down>,
    middle: Middle,
    up: Vec<Up>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

#[derive(Clone, Debug)]
struct Middle {
    first: Arc<Resnet>,
    attention: Arc<Transformer>,
    second: Arc<Resnet>,
}

/// Path and CompVis alias of an activation site.
pub(crate) fn activation_site(path: String, alias: Option<String>, channels: usize) -> Site {
    Site { path, kind: SiteKind::Activation, alias, heads: 0, channels }
}

impl Unet {
    /// From the root scope of `unet/*.safetensors`. Errors: a tensor missing or of another shape.
    pub fn new(w: &Scope, config: UnetConfig) -> Result<Self> {
        let widths = &config.widths;
        let temb = widths[0] * 4;
        let levels = widths.len();
        let mut down = Vec::with_capacity(levels);
        let mut before = widths[0];
        for (level, &width) in widths.iter().enumerate() {
            down.push(Down::new(w, &config, level, before, width, temb)?);
            before = width;
        }
        let deepest = widths[levels - 1];
        let mid = w.sub("mid_block");
        let middle = Middle {
            first: Arc::new(Resnet::new(
                &mid.sub("resnets.0"),
                &config,
                deepest,
                deepest,
                temb,
                Some("middle 0".into()),
            )?),
            attention: Arc::new(Transformer::new(
                &mid.sub("attentions.0"),
                &config,
                levels - 1,
                deepest,
                Some("middle 1".into()),
            )?),
            second: Arc::new(Resnet::new(
                &mid.sub("resnets.1"),
                &config,
                deepest,
                deepest,
                temb,
                Some("middle 2".into()),
            )?),
        };
        let up = (0..levels).map(|i| Up::new(w, &config, i, temb)).collect::<Result<_>>()?;
        Ok(Unet {
            time: TimeEmbedding::new(w, &config, temb)?,
            conv_in: conv3(&w.sub("conv_in"), config.in_channels, widths[0])?,
            conv_in_site: activation_site("conv_in".into(), Some("input 0".into()), widths[0]),
            down,
            middle,
            up,
            norm_out: group_norm(&w.sub("conv_norm_out"), widths[0], config.groups, config.eps)?,
            conv_out: conv3(&w.sub("conv_out"), widths[0], config.out_channels)?,
            config,
        })
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// All sites in the order in which they run.
    pub fn sites(&self) -> Vec<&Site> {
        let mut sites = vec![&self.conv_in_site];
        self.down.iter().for_each(|d| d.sites(&mut sites));
        sites.push(self.middle.first.site());
        self.middle.attention.sites(&mut sites);
        sites.push(self.middle.second.site());
        self.up.iter().for_each(|u| u.sites(&mut sites));
        sites
    }

    /// By how much the feature maps at a site are smaller than the latent, on a side.
    pub fn reduction(&self, site: &Site) -> usize {
        let levels = self.config.widths.len();
        let mut parts = site.path.split('.');
        let (block, i) = (parts.next(), parts.next().and_then(|i| i.parse::<usize>().ok()).unwrap_or(0));
        let sampled = usize::from(site.path.contains("samplers"));
        let level = match block {
            Some("down_blocks") => i + sampled,
            Some("mid_block") => levels - 1,
            Some("up_blocks") => (levels - 1).saturating_sub(i + sampled),
            _ => 0,
        };
        1 << level
    }

    /// What the network predicts (noise, v or the picture, as the schedule's config says) for `z [n, c, h, w]` at train
    /// timestep `t` under the prompt `text`, whose states are `[n, m, d]`.
    /// Errors: a size that the levels do not divide, another batch or width of `text`, cancelled.
    pub fn forward(&self, z: &Tensor, t: f64, text: &Context, hooks: &mut Hooks) -> Result<Tensor> {
        Ok(self.forward_pass(z, t, text, hooks, Pass::Full)?.0)
    }

    /// The sites that a shallow pass leaves out.
    pub fn deep_sites(&self) -> Vec<&Site> {
        let mut shallow = vec![&self.conv_in_site];
        self.down.iter().take(1).for_each(|d| d.first_sites(SHALLOW - 1, &mut shallow));
        self.up.iter().rev().take(1).for_each(|u| u.last_sites(SHALLOW, &mut shallow));
        let runs = |site: &Site| shallow.iter().any(|s| s.path == site.path);
        self.sites().into_iter().filter(|s| !runs(s)).collect()
    }

    /// [`Unet::forward`], and the deep features where `pass` keeps them: DeepCache (Ma, Fang and Wang 2023, arXiv
    /// 2312.00858). A shallow pass runs the outermost layers on the features of an earlier timestep.
    /// Errors: as for [`Unet::forward`]; features of another size.
    pub fn forward_pass(
        &self,
        z: &Tensor,
        t: f64,
        text: &Context,
        hooks: &mut Hooks,
        pass: Pass,
    ) -> Result<(Tensor, Option<Tensor>)> {
        self.check(z, text.states())?;
        let temb = self.time.forward(t, z)?;
        let x = self.conv_in.forward(z)?;
        let mut x = hooks.activation(&self.conv_in_site, x)?;
        let mut skips = vec![x.clone()];
        let (Some(outer_down), Some((outer_up, inner_up))) = (self.down.first(), self.up.split_last()) else {
            return Err(Error::new(Kind::Internal, "predict", "a UNet without levels"));
        };
        let from = outer_up.len().saturating_sub(SHALLOW);
        if let Pass::From(features) = pass {
            outer_down.begin(x, SHALLOW - 1, &temb, text, &mut skips, hooks)?;
            hooks.check_cancel("predict")?;
            let range = from..outer_up.len();
            let x = outer_up.layers(features.clone(), range, &temb, text, &mut skips, hooks)?;
            return Ok((self.end(&x)?, None));
        }
        for block in &self.down {
            hooks.check_cancel("predict")?;
            x = block.forward(x, &temb, text, &mut skips, hooks)?;
        }
        hooks.check_cancel("predict")?;
        x = self.middle.first.run(&x, None, &temb, hooks)?;
        x = self.middle.attention.run(&x, text, hooks)?;
        x = self.middle.second.run(&x, None, &temb, hooks)?;
        for block in inner_up {
            hooks.check_cancel("predict")?;
            x = block.forward(x, &temb, text, &mut skips, hooks)?;
        }
        hooks.check_cancel("predict")?;
        x = outer_up.layers(x, 0..from, &temb, text, &mut skips, hooks)?;
        let features = matches!(pass, Pass::Keep).then(|| x.clone());
        x = outer_up.layers(x, from..outer_up.len(), &temb, text, &mut skips, hooks)?;
        Ok((self.end(&x)?, features))
    }

    fn end(&self, x: &Tensor) -> Result<Tensor> {
        self.conv_out.forward(&self.norm_out.forward_silu(x)?)
    }

    fn check(&self, z: &Tensor, text: &Tensor) -> Result<()> {
        let (n, c, h, w) = z.dims4()?;
        if c != self.config.in_channels {
            return Err(Error::shape("predict", "the latent has another number of channels than this UNet")
                .expected(format!("{} channels", self.config.in_channels))
                .got(format!("{c}")));
        }
        let unit = 1 << (self.config.widths.len() - 1);
        if h % unit != 0 || w % unit != 0 || h == 0 || w == 0 {
            return Err(Error::shape("predict", "this UNet halves the latent several times")
                .expected(format!("height and width that are multiples of {unit}"))
                .got(format!("{h}x{w}")));
        }
        let (rows, _, width) = text.dims3()?;
        if rows != n || width != self.config.context {
            return Err(Error::shape("predict", "the prompt states do not fit this UNet")
                .expected(format!("[{n}, tokens, {}]", self.config.context))
                .got(format!("{:?}", text.dims()))
                .hint("encode the prompt with the model that predicts"));
        }
        Ok(())
    }
}
