//! The levels of the UNet: down (resnets, transformers, downsampler) and up (the same with skips and an upsampler).

use std::sync::Arc;

use candle_core::Tensor;

use super::activation_site;
use super::attention::Transformer;
use super::config::UnetConfig;
use super::context::Context;
use super::resnet::Resnet;
use crate::engine::error::{Error, Kind, Result};
use crate::engine::nets::hooks::{Hooks, Site};
use crate::engine::nets::layers::{conv, conv3};
use crate::engine::ops::{self, Conv2d, Padding};
use crate::engine::weights::Scope;

/// One resnet with the transformer that follows it, if the level attends.
#[derive(Clone, Debug)]
struct Layer {
    resnet: Arc<Resnet>,
    attention: Option<Arc<Transformer>>,
}

impl Layer {
    fn new(resnet: Resnet, attention: Option<Transformer>) -> Self {
        Layer { resnet: Arc::new(resnet), attention: attention.map(Arc::new) }
    }

    fn forward(
        &self,
        x: &Tensor,
        skip: Option<&Tensor>,
        temb: &Tensor,
        text: &Context,
        hooks: &mut Hooks,
    ) -> Result<Tensor> {
        let x = self.resnet.run(x, skip, temb, hooks)?;
        match &self.attention {
            Some(attention) => attention.run(&x, text, hooks),
            None => Ok(x),
        }
    }

    fn sites<'a>(&'a self, into: &mut Vec<&'a Site>) {
        into.push(self.resnet.site());
        if let Some(attention) = &self.attention {
            attention.sites(into);
        }
    }
}

/// The alias belongs to the last module of a CompVis block: the transformer if there is one, else the resnet.
fn layer_aliases(alias: String, attends: bool) -> (Option<String>, Option<String>) {
    if attends { (None, Some(alias)) } else { (Some(alias), None) }
}

#[derive(Clone, Debug)]
pub(super) struct Down {
    layers: Vec<Layer>,
    sampler: Option<(Conv2d, Site)>,
}

impl Down {
    pub(super) fn new(
        w: &Scope,
        config: &UnetConfig,
        level: usize,
        from: usize,
        to: usize,
        temb: usize,
    ) -> Result<Self> {
        let w = w.sub(format!("down_blocks.{level}"));
        let attends = config.attends_down[level];
        let first = level * (config.layers + 1) + 1;
        let layers = (0..config.layers)
            .map(|j| {
                let from = if j == 0 { from } else { to };
                let (resnet_alias, attention_alias) = layer_aliases(format!("input {}", first + j), attends);
                let resnet =
                    Resnet::new(&w.sub(format!("resnets.{j}")), config, from, to, temb, resnet_alias)?;
                let attention = attends
                    .then(|| {
                        Transformer::new(
                            &w.sub(format!("attentions.{j}")),
                            config,
                            level,
                            to,
                            attention_alias,
                        )
                    })
                    .transpose()?;
                Ok(Layer::new(resnet, attention))
            })
            .collect::<Result<_>>()?;
        let sampler = if level + 1 < config.widths.len() {
            let s = w.sub("downsamplers.0");
            let site =
                activation_site(s.path().to_string(), Some(format!("input {}", first + config.layers)), to);
            Some((conv(&s.sub("conv"), to, to, 3, 2, Padding::all(1))?, site))
        } else {
            None
        };
        Ok(Down { layers, sampler })
    }

    pub(super) fn sites<'a>(&'a self, into: &mut Vec<&'a Site>) {
        self.layers.iter().for_each(|l| l.sites(into));
        into.extend(self.sampler.iter().map(|(_, site)| site));
    }

    pub(super) fn forward(
        &self,
        x: Tensor,
        temb: &Tensor,
        text: &Context,
        skips: &mut Vec<Tensor>,
        hooks: &mut Hooks,
    ) -> Result<Tensor> {
        let mut x = x;
        for layer in &self.layers {
            x = layer.forward(&x, None, temb, text, hooks)?;
            skips.push(x.clone());
        }
        if let Some((conv, site)) = &self.sampler {
            x = hooks.activation(site, conv.forward(&x)?)?;
            skips.push(x.clone());
        }
        Ok(x)
    }

    /// The first `count` layers alone; what comes out of each is in `skips`.
    pub(super) fn begin(
        &self,
        mut x: Tensor,
        count: usize,
        temb: &Tensor,
        text: &Context,
        skips: &mut Vec<Tensor>,
        hooks: &mut Hooks,
    ) -> Result<()> {
        for layer in self.layers.iter().take(count) {
            x = layer.forward(&x, None, temb, text, hooks)?;
            skips.push(x.clone());
        }
        Ok(())
    }

    /// The sites of the first `count` layers.
    pub(super) fn first_sites<'a>(&'a self, count: usize, into: &mut Vec<&'a Site>) {
        self.layers.iter().take(count).for_each(|l| l.sites(into));
    }
}

#[derive(Clone, Debug)]
pub(super) struct Up {
    layers: Vec<Layer>,
    sampler: Option<(Conv2d, Site)>,
}

impl Up {
    /// Block `i` of the way up, 0 being the deepest.
    pub(super) fn new(w: &Scope, config: &UnetConfig, i: usize, temb: usize) -> Result<Self> {
        let levels = config.widths.len();
        let level = levels - 1 - i;
        let (to, before) = (config.widths[level], config.widths[(level + 1).min(levels - 1)]);
        let below = config.widths[level.saturating_sub(1)];
        let w = w.sub(format!("up_blocks.{i}"));
        let attends = config.attends_up[i];
        let sampled = i + 1 < levels;
        let layers = (0..=config.layers)
            .map(|j| {
                let from = if j == 0 { before } else { to };
                let skip = if j == config.layers { below } else { to };
                let last = sampled && j == config.layers;
                let alias = format!("output {}", i * (config.layers + 1) + j);
                // CompVis puts the upsampler into the last block of a level: the alias goes there.
                let (resnet_alias, attention_alias) =
                    if last { (None, None) } else { layer_aliases(alias, attends) };
                let resnet =
                    Resnet::new(&w.sub(format!("resnets.{j}")), config, from + skip, to, temb, resnet_alias)?;
                let attention = attends
                    .then(|| {
                        Transformer::new(
                            &w.sub(format!("attentions.{j}")),
                            config,
                            level,
                            to,
                            attention_alias,
                        )
                    })
                    .transpose()?;
                Ok(Layer::new(resnet, attention))
            })
            .collect::<Result<_>>()?;
        let sampler = if sampled {
            let s = w.sub("upsamplers.0");
            let alias = format!("output {}", i * (config.layers + 1) + config.layers);
            let site = activation_site(s.path().to_string(), Some(alias), to);
            Some((conv3(&s.sub("conv"), to, to)?, site))
        } else {
            None
        };
        Ok(Up { layers, sampler })
    }

    pub(super) fn sites<'a>(&'a self, into: &mut Vec<&'a Site>) {
        self.layers.iter().for_each(|l| l.sites(into));
        into.extend(self.sampler.iter().map(|(_, site)| site));
    }

    pub(super) fn forward(
        &self,
        x: Tensor,
        temb: &Tensor,
        text: &Context,
        skips: &mut Vec<Tensor>,
        hooks: &mut Hooks,
    ) -> Result<Tensor> {
        let x = self.layers(x, 0..self.layers.len(), temb, text, skips, hooks)?;
        match &self.sampler {
            Some((conv, site)) => {
                let Some(tape) = hooks.tape_for(&[site], (0, 0)) else {
                    return hooks.activation(site, conv.forward(&ops::upsample_nearest2x(&x)?)?);
                };
                let conv = conv.clone();
                let run = move |t: &[Tensor]| Ok(vec![conv.forward(&ops::upsample_nearest2x(&t[0])?)?]);
                Ok(tape.checkpoint(&[x], run)?.swap_remove(0))
            }
            None => Ok(x),
        }
    }

    /// How many layers it has.
    pub(super) fn len(&self) -> usize {
        self.layers.len()
    }

    /// The sites of the last `count` layers.
    pub(super) fn last_sites<'a>(&'a self, count: usize, into: &mut Vec<&'a Site>) {
        self.layers.iter().skip(self.layers.len().saturating_sub(count)).for_each(|l| l.sites(into));
    }

    /// Some of the layers, without the upsampler behind them.
    pub(super) fn layers(
        &self,
        x: Tensor,
        range: std::ops::Range<usize>,
        temb: &Tensor,
        text: &Context,
        skips: &mut Vec<Tensor>,
        hooks: &mut Hooks,
    ) -> Result<Tensor> {
        let mut x = x;
        for layer in self.layers.get(range).unwrap_or_default() {
            let skip = skips.pop().ok_or_else(|| {
                Error::new(Kind::Internal, "predict", "the UNet's way up needs more skips than were kept")
            })?;
            x = layer.forward(&x, Some(&skip), temb, text, hooks)?;
        }
        Ok(x)
    }
}
