//! The mask decoder: tokens and picture attend to each other, and each of four tokens draws a mask.

use candle_core::Tensor;

use super::{Masks, Part, wrong};
use crate::engine::error::Result;
use crate::engine::nets::layers::{Grow, LayerNorm2d, layer_norm, linear};
use crate::engine::ops::{self, LayerNorm, Linear};
use crate::engine::weights::Scope;

#[derive(Clone, Debug)]
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: usize,
}

impl Attention {
    fn new(w: &Scope, width: usize, inner: usize, heads: usize) -> Result<Self> {
        if inner == 0 || !inner.is_multiple_of(heads) {
            return Err(wrong(
                "num_attention_heads does not divide the width of the mask decoder's attention",
            ));
        }
        Ok(Attention {
            q: linear(&w.sub("q_proj"), width, inner)?,
            k: linear(&w.sub("k_proj"), width, inner)?,
            v: linear(&w.sub("v_proj"), width, inner)?,
            out: linear(&w.sub("out_proj"), inner, width)?,
            heads,
        })
    }

    fn run(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (q, k, v) = (self.q.forward(q)?, self.k.forward(k)?, self.v.forward(v)?);
        self.out.forward(&ops::attention(&q, &k, &v, self.heads, false)?)
    }
}

#[derive(Clone, Debug)]
struct Layer {
    own: Attention,
    to_picture: Attention,
    to_tokens: Attention,
    mlp: [Linear; 2],
    norms: [LayerNorm; 4],
}

/// Linear layers with ReLU between them.
#[derive(Clone, Debug)]
struct Chain(Vec<Linear>);

impl Chain {
    fn new(w: &Scope, widths: [usize; 3], depth: usize) -> Result<Self> {
        let [i, inner, o] = widths;
        let mut all = vec![linear(&w.sub("proj_in"), i, inner)?];
        for n in 0..depth.saturating_sub(2) {
            all.push(linear(&w.sub(format!("layers.{n}")), inner, inner)?);
        }
        all.push(linear(&w.sub("proj_out"), inner, o)?);
        Ok(Chain(all))
    }

    fn run(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for (i, layer) in self.0.iter().enumerate() {
            x = layer.forward(&x)?;
            if i + 1 < self.0.len() {
                x = x.relu()?;
            }
        }
        Ok(x)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Decoder {
    /// The token of the scores, then those of the masks.
    tokens: Tensor,
    layers: Vec<Layer>,
    last: Attention,
    last_norm: LayerNorm,
    grow: [Grow; 2],
    grow_norm: LayerNorm2d,
    drawers: Vec<Chain>,
    scorer: Chain,
}

impl Decoder {
    pub(super) fn new(w: &Scope, c: &Part, width: usize) -> Result<Self> {
        let (heads, inner) = (c.or("num_attention_heads", 8)?, c.or("mlp_dim", 2048)?);
        let narrow = width / c.or("attention_downsample_rate", 2)?;
        let masks = c.or("num_multimask_outputs", 3)? + 1;
        if !width.is_multiple_of(8) || masks != 4 {
            return Err(wrong("the mask decoder's width must be a multiple of 8, its masks 1 and 3"));
        }
        let t = w.sub("transformer");
        let layers = (0..c.or("num_hidden_layers", 2)?).map(|i| {
            let w = t.sub(format!("layers.{i}"));
            let norm = |n: usize| layer_norm(&w.sub(format!("layer_norm{n}")), width, c.eps());
            Ok(Layer {
                own: Attention::new(&w.sub("self_attn"), width, width, heads)?,
                to_picture: Attention::new(&w.sub("cross_attn_token_to_image"), width, narrow, heads)?,
                to_tokens: Attention::new(&w.sub("cross_attn_image_to_token"), width, narrow, heads)?,
                mlp: [linear(&w.sub("mlp.lin1"), width, inner)?, linear(&w.sub("mlp.lin2"), inner, width)?],
                norms: [norm(1)?, norm(2)?, norm(3)?, norm(4)?],
            })
        });
        let drawers = (0..masks).map(|i| {
            Chain::new(&w.sub(format!("output_hypernetworks_mlps.{i}")), [width, width, width / 8], 3)
        });
        let (head, depth) = (c.or("iou_head_hidden_dim", 256)?, c.or("iou_head_depth", 3)?);
        Ok(Decoder {
            tokens: Tensor::cat(
                &[w.get("iou_token.weight", &[1, width])?, w.get("mask_tokens.weight", &[masks, width])?],
                0,
            )?,
            layers: layers.collect::<Result<_>>()?,
            last: Attention::new(&t.sub("final_attn_token_to_image"), width, narrow, heads)?,
            // transformers leaves this one at PyTorch's own.
            last_norm: layer_norm(&t.sub("layer_norm_final_attn"), width, 1e-5)?,
            grow: [
                Grow::new(&w.sub("upscale_conv1"), width, width / 4, 2)?,
                Grow::new(&w.sub("upscale_conv2"), width / 4, width / 8, 2)?,
            ],
            grow_norm: LayerNorm2d::new(&w.sub("upscale_layer_norm"), width / 4, 1e-6)?,
            drawers: drawers.collect::<Result<_>>()?,
            scorer: Chain::new(&w.sub("iou_prediction_head"), [width, head, masks], depth)?,
        })
    }

    /// `picture` and its places `[1, places², width]`, `prompt [1, n, width]`.
    pub(super) fn forward(&self, picture: &Tensor, places: &Tensor, prompt: &Tensor) -> Result<Masks> {
        let tokens = Tensor::cat(&[&self.tokens.unsqueeze(0)?, prompt], 1)?;
        let (mut q, mut k) = (tokens.clone(), picture.clone());
        for (i, layer) in self.layers.iter().enumerate() {
            let [norm1, norm2, norm3, norm4] = &layer.norms;
            // The first layer's tokens are their own places still.
            q = match i {
                0 => layer.own.run(&q, &q, &q)?,
                _ => {
                    let at = (&q + &tokens)?;
                    (&q + layer.own.run(&at, &at, &q)?)?
                }
            };
            q = norm1.forward(&q)?;
            let (at, there) = ((&q + &tokens)?, (&k + places)?);
            q = norm2.forward(&(&q + layer.to_picture.run(&at, &there, &k)?)?)?;
            let [first, second] = &layer.mlp;
            q = norm3.forward(&(&q + second.forward(&first.forward(&q)?.relu()?)?)?)?;
            let at = (&q + &tokens)?;
            k = norm4.forward(&(&k + layer.to_tokens.run(&there, &at, &q)?)?)?;
        }
        let q = (&q + self.last.run(&(&q + &tokens)?, &(&k + places)?, &k)?)?;
        let q = self.last_norm.forward(&q)?;
        let (_, count, width) = k.dims3()?;
        let side = count.isqrt();
        let x = k.transpose(1, 2)?.contiguous()?.reshape((1, width, side, side))?;
        let [first, second] = &self.grow;
        let x = ops::gelu(&self.grow_norm.forward(&first.forward(&x)?)?)?;
        let x = ops::gelu(&second.forward(&x)?)?;
        let (_, c, h, w) = x.dims4()?;
        let pencils: Vec<Tensor> = (self.drawers.iter().enumerate())
            .map(|(i, drawer)| drawer.run(&q.narrow(1, 1 + i, 1)?.squeeze(1)?.contiguous()?))
            .collect::<Result<_>>()?;
        let logits =
            Tensor::cat(&pencils, 0)?.matmul(&x.reshape((c, h * w))?)?.reshape((pencils.len(), h, w))?;
        let scores =
            self.scorer.run(&q.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?)?.flatten_all()?.to_vec1()?;
        Ok(Masks { logits, scores })
    }
}
