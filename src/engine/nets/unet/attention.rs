//! `Transformer2DModel`: self-attention among the pixels, cross-attention to the prompt, a gated feed-forward.

use std::sync::Arc;

use candle_core::Tensor;

use super::activation_site;
use super::config::UnetConfig;
use super::context::Context;
use super::merge::Plan;
use crate::engine::error::Result;
use crate::engine::nets::hooks::{Hooks, Site, SiteKind};
use crate::engine::nets::layers::{attend, conv1, group_norm, layer_norm, linear, linear_no_bias};
use crate::engine::ops::{self, Conv2d, GroupNorm, LayerNorm, Linear};
use crate::engine::weights::Scope;

#[derive(Clone, Debug)]
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    site: Site,
}

impl Attention {
    fn new(w: &Scope, width: usize, context: usize, heads: usize, kind: SiteKind) -> Result<Self> {
        Ok(Attention {
            q: linear_no_bias(&w.sub("to_q"), width, width)?,
            k: linear_no_bias(&w.sub("to_k"), context, width)?,
            v: linear_no_bias(&w.sub("to_v"), context, width)?,
            out: linear(&w.sub("to_out.0"), width, width)?,
            site: Site { path: w.path().to_string(), kind, alias: None, heads, channels: width },
        })
    }

    fn keys_values(&self, from: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok((self.k.forward(from)?, self.v.forward(from)?))
    }

    /// Attention from `x` to itself, or to the prompt if there is one.
    fn forward(&self, x: &Tensor, text: Option<&Context>, hooks: &mut Hooks) -> Result<Tensor> {
        let (k, v) = match text {
            Some(text) => {
                text.keys_values(&self.site.path, [self.k.weight(), self.v.weight()], |states| {
                    self.keys_values(states)
                })?
            }
            None => self.keys_values(x)?,
        };
        self.out.forward(&attend(&self.site, self.q.forward(x)?, k, v, false, hooks)?)
    }
}

#[derive(Clone, Debug)]
struct Block {
    norm1: LayerNorm,
    own: Attention,
    norm2: LayerNorm,
    cross: Attention,
    norm3: LayerNorm,
    gate: Linear,
    out: Linear,
}

impl Block {
    fn new(w: &Scope, config: &UnetConfig, width: usize, heads: usize) -> Result<Self> {
        let eps = 1e-5;
        Ok(Block {
            norm1: layer_norm(&w.sub("norm1"), width, eps)?,
            own: Attention::new(&w.sub("attn1"), width, width, heads, SiteKind::SelfAttention)?,
            norm2: layer_norm(&w.sub("norm2"), width, eps)?,
            cross: Attention::new(&w.sub("attn2"), width, config.context, heads, SiteKind::CrossAttention)?,
            norm3: layer_norm(&w.sub("norm3"), width, eps)?,
            gate: linear(&w.sub("ff.net.0.proj"), width, width * 8)?,
            out: linear(&w.sub("ff.net.2"), width * 4, width)?,
        })
    }

    /// `grid`: height and width of the feature map, where its tokens may be merged.
    fn forward(
        &self,
        x: Tensor,
        text: &Context,
        grid: Option<(usize, usize)>,
        hooks: &mut Hooks,
    ) -> Result<Tensor> {
        let y = self.norm1.forward(&x)?;
        let site = &self.own.site;
        let plan = match grid.and_then(|grid| Some((grid, hooks.merging(site, grid.0 * grid.1)?))) {
            Some((grid, merge)) => Plan::new(&y, grid, merge, &site.path)?,
            None => None,
        };
        let own = match plan {
            Some(plan) => plan.split(&self.own.forward(&plan.merge(&y)?, None, hooks)?)?,
            None => self.own.forward(&y, None, hooks)?,
        };
        let x = (own + x)?;
        let x = (self.cross.forward(&self.norm2.forward(&x)?, Some(text), hooks)? + x)?;
        let y = ops::geglu(&self.gate.forward(&self.norm3.forward(&x)?)?)?;
        Ok((self.out.forward(&y)? + x)?)
    }
}

/// The 1×1 convolution of SD 1.x or the linear layer of SD 2.x, before and after the blocks.
#[derive(Clone, Debug)]
enum Projection {
    Conv(Conv2d),
    Linear(Linear),
}

impl Projection {
    fn new(w: &Scope, width: usize, as_linear: bool) -> Result<Self> {
        Ok(if as_linear {
            Projection::Linear(linear(w, width, width)?)
        } else {
            Projection::Conv(conv1(w, width, width)?)
        })
    }
}

#[derive(Clone, Debug)]
pub(super) struct Transformer {
    norm: GroupNorm,
    proj_in: Projection,
    blocks: Vec<Block>,
    proj_out: Projection,
    site: Site,
    /// Whether it works at the latent's own size. Tokens are merged there alone, as in the paper: that is where most of
    /// the time goes, and where neighbours are alike.
    finest: bool,
}

impl Transformer {
    pub(super) fn new(
        w: &Scope,
        config: &UnetConfig,
        level: usize,
        width: usize,
        alias: Option<String>,
    ) -> Result<Self> {
        let heads = config.heads[level];
        Ok(Transformer {
            norm: group_norm(&w.sub("norm"), width, config.groups, 1e-6)?,
            proj_in: Projection::new(&w.sub("proj_in"), width, config.linear_projection)?,
            blocks: (0..config.depth[level])
                .map(|i| Block::new(&w.sub(format!("transformer_blocks.{i}")), config, width, heads))
                .collect::<Result<_>>()?,
            proj_out: Projection::new(&w.sub("proj_out"), width, config.linear_projection)?,
            site: activation_site(w.path().to_string(), alias, width),
            finest: level == 0,
        })
    }

    pub(super) fn sites<'a>(&'a self, into: &mut Vec<&'a Site>) {
        for block in &self.blocks {
            into.extend([&block.own.site, &block.cross.site]);
        }
        into.push(&self.site);
    }

    /// [`Transformer::forward`], computed again on the way back where a tape wants it.
    pub(super) fn run(self: &Arc<Self>, x: &Tensor, text: &Context, hooks: &mut Hooks) -> Result<Tensor> {
        let (_, _, h, w) = x.dims4()?;
        let mut sites = Vec::new();
        self.sites(&mut sites);
        let wanted = |keys: usize| hooks.tape_for(&sites, (h * w, keys));
        let Some(tape) = wanted(h * w).and_then(|_| wanted(text.states().dim(1).ok()?)) else {
            return self.forward(x, text, hooks);
        };
        let (block, text) = (Arc::clone(self), text.clone());
        let inputs = [x.clone(), text.states().clone()];
        let run = move |t: &[Tensor]| {
            // Keys and values that are kept belong to states without a graph.
            let text = if text.states().track_op() { Context::new(t[1].clone()) } else { text.clone() };
            Ok(vec![block.forward(&t[0], &text, &mut Hooks::none())?])
        };
        Ok(tape.checkpoint(&inputs, run)?.swap_remove(0))
    }

    /// `x [n, c, h, w]`, the prompt → `[n, c, h, w]`.
    fn forward(&self, x: &Tensor, text: &Context, hooks: &mut Hooks) -> Result<Tensor> {
        let (n, c, h, w) = x.dims4()?;
        let y = self.norm.forward(x)?;
        let tokens = |y: Tensor| -> Result<Tensor> { Ok(y.flatten_from(2)?.transpose(1, 2)?.contiguous()?) };
        let pixels =
            |y: Tensor| -> Result<Tensor> { Ok(y.transpose(1, 2)?.contiguous()?.reshape((n, c, h, w))?) };
        let mut y = match &self.proj_in {
            Projection::Conv(conv) => tokens(conv.forward(&y)?)?,
            Projection::Linear(linear) => linear.forward(&tokens(y)?)?,
        };
        for block in &self.blocks {
            y = block.forward(y, text, self.finest.then_some((h, w)), hooks)?;
        }
        let y = match &self.proj_out {
            Projection::Conv(conv) => conv.forward(&pixels(y)?)?,
            Projection::Linear(linear) => pixels(linear.forward(&y)?)?,
        };
        hooks.activation(&self.site, (y + x)?)
    }
}
