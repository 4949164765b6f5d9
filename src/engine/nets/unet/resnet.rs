//! `ResnetBlock2D`: norm, SiLU, convolution, twice, with the timestep added between; and a residual.

use std::sync::Arc;

use candle_core::Tensor;

use super::activation_site;
use super::config::UnetConfig;
use crate::engine::error::Result;
use crate::engine::nets::hooks::{Hooks, Site};
use crate::engine::nets::layers::{conv1, conv3, group_norm, linear};
use crate::engine::ops::{self, Conv2d, GroupNorm, Linear};
use crate::engine::weights::Scope;

#[derive(Clone, Debug)]
pub(super) struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
    scale: f64,
    site: Site,
}

impl Resnet {
    pub(super) fn new(
        w: &Scope,
        config: &UnetConfig,
        from: usize,
        to: usize,
        temb: usize,
        alias: Option<String>,
    ) -> Result<Self> {
        let middle = alias.as_deref().is_some_and(|a| a.starts_with("middle"));
        Ok(Resnet {
            norm1: group_norm(&w.sub("norm1"), from, config.groups, config.eps)?,
            conv1: conv3(&w.sub("conv1"), from, to)?,
            time: linear(&w.sub("time_emb_proj"), temb, to)?,
            norm2: group_norm(&w.sub("norm2"), to, config.groups, config.eps)?,
            conv2: conv3(&w.sub("conv2"), to, to)?,
            shortcut: if from == to { None } else { Some(conv1(&w.sub("conv_shortcut"), from, to)?) },
            scale: if middle { config.mid_scale } else { 1.0 },
            site: activation_site(w.path().to_string(), alias, to),
        })
    }

    pub(super) fn site(&self) -> &Site {
        &self.site
    }

    /// [`Resnet::forward`] of `x`, and of a skip behind its channels; computed again on the way back where a tape wants it.
    pub(super) fn run(
        self: &Arc<Self>,
        x: &Tensor,
        skip: Option<&Tensor>,
        temb: &Tensor,
        hooks: &mut Hooks,
    ) -> Result<Tensor> {
        let Some(tape) = hooks.tape_for(&[&self.site], (0, 0)) else {
            return match skip {
                Some(skip) => self.forward(&Tensor::cat(&[x, skip], 1)?, temb, hooks),
                None => self.forward(x, temb, hooks),
            };
        };
        let mut inputs = vec![temb.clone(), x.clone()];
        inputs.extend(skip.cloned());
        let block = Arc::clone(self);
        let run = move |t: &[Tensor]| {
            Ok(vec![block.forward(&Tensor::cat(&t[1..], 1)?, &t[0], &mut Hooks::none())?])
        };
        Ok(tape.checkpoint(&inputs, run)?.swap_remove(0))
    }

    /// `x [n, from, h, w]`, `temb [1, temb]` after its SiLU → `[n, to, h, w]`.
    fn forward(&self, x: &Tensor, temb: &Tensor, hooks: &mut Hooks) -> Result<Tensor> {
        let h = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        let time = self.time.forward(temb)?;
        let h = ops::add_channels(&h, &time)?;
        let h = self.conv2.forward(&self.norm2.forward_silu(&h)?)?;
        let x = match &self.shortcut {
            Some(conv) => conv.forward(x)?,
            None => x.clone(),
        };
        let out = (x + h)?;
        let out = if self.scale == 1.0 { out } else { (out / self.scale)? };
        hooks.activation(&self.site, out)
    }
}
