//! CLIP's picture tower and the joint space (transformers `CLIPModel`): how similar a picture and a text are.

use candle_core::{D, Tensor};
use serde_json::Value;

use super::clip::{Encoder, TowerConfig, size};
use super::clip_text::ClipText;
use super::hooks::Hooks;
use super::layers::{layer_norm, linear_no_bias};
use crate::engine::error::{Error, Kind, Result};
use crate::engine::fields::{Pooling, Window, pool};
use crate::engine::image::Picture;
use crate::engine::ops::{Conv2d, LayerNorm, Linear, Padding, resize_bilinear};
use crate::engine::weights::Scope;

/// The picture tower with its projection.
#[derive(Clone, Debug)]
pub struct ClipVision {
    patches: Conv2d,
    class: Tensor,
    positions: Tensor,
    norm_in: LayerNorm,
    encoder: Encoder,
    norm_out: LayerNorm,
    projection: Linear,
    side: usize,
    width: usize,
}

impl ClipVision {
    /// From `vision_model.*`, `visual_projection` and `vision_config`.
    pub fn new(w: &Scope, json: &Value, projection: usize) -> Result<Self> {
        let config = TowerConfig::parse(json)?;
        let (side, patch, width) = (size(json, "image_size")?, size(json, "patch_size")?, config.width);
        if side % patch != 0 {
            return Err(Error::new(Kind::File, "load", "patch_size does not divide image_size"));
        }
        let channels = json.get("num_channels").and_then(Value::as_u64).unwrap_or(3) as usize;
        let count = (side / patch) * (side / patch) + 1;
        let v = w.sub("vision_model");
        let e = v.sub("embeddings");
        let patch_weight = e.get("patch_embedding.weight", &[width, channels, patch, patch])?;
        Ok(ClipVision {
            patches: Conv2d::new(patch_weight, None, patch, Padding::all(0))?,
            class: e.get("class_embedding", &[width])?,
            positions: e.get("position_embedding.weight", &[count, width])?,
            // The name is misspelt in every file.
            norm_in: layer_norm(&v.sub("pre_layrnorm"), width, config.eps)?,
            encoder: Encoder::new(&v.sub("encoder"), &config, "vision_model.encoder")?,
            norm_out: layer_norm(&v.sub("post_layernorm"), width, config.eps)?,
            projection: linear_no_bias(&w.sub("visual_projection"), width, projection)?,
            side,
            width,
        })
    }

    /// Side of the pictures it takes, in pixels.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Normalized pixels `[n, 3, side, side]` → features `[n, projection]`, not of unit length.
    pub fn forward(&self, pixels: &Tensor, hooks: &mut Hooks) -> Result<Tensor> {
        let n = pixels.dim(0)?;
        // Pictures lie in main memory.
        let pixels = pixels.to_device(self.positions.device())?;
        let patches = self.patches.forward(&pixels)?.flatten_from(2)?.transpose(1, 2)?;
        let class = self.class.reshape((1, 1, self.width))?.broadcast_as((n, 1, self.width))?;
        let x = Tensor::cat(&[&class.contiguous()?, &patches.contiguous()?], 1)?
            .broadcast_add(&self.positions)?;
        let x = self.encoder.forward(self.norm_in.forward(&x)?, false, hooks)?;
        let pooled = self.norm_out.forward(&x.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?)?;
        self.projection.forward(&pooled)
    }
}

/// Both towers.
#[derive(Clone, Debug)]
pub struct Clip {
    vision: ClipVision,
    text: ClipText,
    text_projection: Linear,
    mean: [f64; 3],
    std: [f64; 3],
}

impl Clip {
    /// From a transformers CLIP folder's weights, config.json and preprocessor_config.json.
    pub fn new(w: &Scope, json: &Value, preprocessor: &Value) -> Result<Self> {
        let projection = size(json, "projection_dim")?;
        let text_json = json.get("text_config").unwrap_or(json);
        let text = ClipText::new(w, text_json)?;
        let triple = |key: &str, default: [f64; 3]| -> [f64; 3] {
            let list = preprocessor.get(key).and_then(Value::as_array);
            let numbers: Option<Vec<f64>> = list.and_then(|l| l.iter().map(Value::as_f64).collect());
            numbers.and_then(|l| l.try_into().ok()).unwrap_or(default)
        };
        Ok(Clip {
            text_projection: linear_no_bias(&w.sub("text_projection"), text.width(), projection)?,
            text,
            vision: ClipVision::new(w, json.get("vision_config").unwrap_or(json), projection)?,
            // OpenAI's own values stand in when the folder has no preprocessor_config.json.
            mean: triple("image_mean", [0.48145466, 0.4578275, 0.40821073]),
            std: triple("image_std", [0.26862954, 0.26130258, 0.27577711]),
        })
    }

    /// The text tower.
    pub fn text(&self) -> &ClipText {
        &self.text
    }

    /// The picture tower.
    pub fn vision(&self) -> &ClipVision {
        &self.vision
    }

    /// Picture features of unit length, `[n, projection]`; pictures are fitted to the tower's side.
    pub fn picture_features(&self, picture: &Picture) -> Result<Tensor> {
        let side = self.vision.side();
        let pixels = picture.fit(side, side)?.tensor().clamp(0.0, 1.0)?;
        unit(&self.vision.forward(&self.normalize(&pixels)?, &mut Hooks::none())?)
    }

    /// Pixels in 0..1 → the normalized pixels that the picture tower takes.
    pub fn normalize(&self, pixels: &Tensor) -> Result<Tensor> {
        let device = pixels.device();
        let mean = Tensor::from_slice(&self.mean, (1, 3, 1, 1), device)?.to_dtype(pixels.dtype())?;
        let std = Tensor::from_slice(&self.std, (1, 3, 1, 1), device)?.to_dtype(pixels.dtype())?;
        Ok(pixels.broadcast_sub(&mean)?.broadcast_div(&std)?)
    }

    /// Picture features as the projection gives them, not of unit length, `[n, projection]`. Pictures are cropped around
    /// their center and scaled by what a gradient goes through: means of whole blocks of pixels, then linear interpolation.
    /// Values outside of 0..1 count as the nearest inside.
    pub fn picture_projection(&self, picture: &Picture) -> Result<Tensor> {
        let side = self.vision.side();
        let (h, w) = (picture.height(), picture.width());
        let square = h.min(w);
        let x = picture.tensor().narrow(2, (h - square) / 2, square)?.narrow(3, (w - square) / 2, square)?;
        let block = square / side;
        let x = match block {
            0 | 1 => x,
            _ => pool(&x, Pooling::Mean, Window { size: block, stride: block, padding: 0 })?,
        };
        let x = if x.dims()[3] == side { x.contiguous()? } else { resize_bilinear(&x, side, side)? };
        let x = x.clamp(0f32, 1f32)?;
        self.vision.forward(&self.normalize(&x)?, &mut Hooks::none())
    }

    /// Text features as the projection gives them, `[1, projection]`.
    pub fn text_projection(&self, ids: &[u32]) -> Result<Tensor> {
        let states = self.text.forward(ids, &mut Hooks::none())?;
        let at = self.text.pooled_position(ids);
        self.text_projection.forward(&states.narrow(1, at, 1)?.squeeze(1)?.contiguous()?)
    }

    /// Text features of unit length, `[1, projection]`.
    pub fn text_features(&self, ids: &[u32]) -> Result<Tensor> {
        unit(&self.text_projection(ids)?)
    }
}

fn unit(x: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?)
}
