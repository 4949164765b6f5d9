//! SAM, "segment anything" (Kirillov and others 2023, arXiv 2304.02643), in transformers' names: what lies at some points or in
//! a box of a picture, as masks.
//!
//! An encoder ([`vision`]) looks once at a picture; points and boxes become tokens ([`prompt`]); a small decoder ([`decoder`])
//! lets both attend to each other and draws four masks, with a guess of how good each is. Written here, since that of
//! candle-transformers knows other names, one size and no boxes.

mod decoder;
mod prompt;
mod vision;

use candle_core::Tensor;
use serde_json::Value;

use super::clip::size;
use crate::engine::error::{Error, Kind, Result};
use crate::engine::observe::Cancel;
use crate::engine::weights::Scope;
use decoder::Decoder;
use prompt::Prompts;
pub use prompt::{Corners, Point};
use vision::Vision;

/// A part of config.json with transformers' defaults where it is silent.
struct Part<'a>(&'a Value);

impl Part<'_> {
    fn or(&self, key: &str, default: usize) -> Result<usize> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(_) => size(self.0, key),
        }
    }

    fn eps(&self) -> f64 {
        self.0.get("layer_norm_eps").and_then(Value::as_f64).filter(|e| *e > 0.0).unwrap_or(1e-6)
    }
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(Kind::File, "load", what.into())
        .hint("a transformers folder of facebook/sam-vit-base and its like")
}

/// Four masks of one picture, finest guess first: the first is the single answer, the other three are a part, more, and the whole.
#[derive(Clone, Debug)]
pub struct Masks {
    /// Logits `[4, side, side]`, a quarter of the encoder's side; above 0 is inside.
    pub logits: Tensor,
    /// The expected overlap (IoU) of each with the truth, `[4]`.
    pub scores: Vec<f32>,
}

/// The network.
#[derive(Clone, Debug)]
pub struct Sam {
    vision: Vision,
    prompts: Prompts,
    decoder: Decoder,
}

impl Sam {
    /// From the root of the file and config.json. Errors: names, shapes or sizes that do not fit.
    pub fn new(w: &Scope, json: &Value) -> Result<Self> {
        let part = |key: &str| Part(json.get(key).unwrap_or(&Value::Null));
        let vision = Vision::new(&w.sub("vision_encoder"), &part("vision_config"))?;
        let width = part("prompt_encoder_config").or("hidden_size", 256)?;
        if width != vision.out() || part("mask_decoder_config").or("hidden_size", 256)? != width {
            return Err(wrong("the parts of the network have different widths"));
        }
        let prompts = Prompts::new(w, width, vision.side(), vision.places())?;
        let decoder = Decoder::new(&w.sub("mask_decoder"), &part("mask_decoder_config"), width)?;
        Ok(Sam { vision, prompts, decoder })
    }

    /// Side of the pictures that the encoder sees, in pixels.
    pub fn side(&self) -> usize {
        self.vision.side()
    }

    /// Bytes that a pass holds at once, roughly.
    pub fn working(&self) -> u64 {
        self.vision.working()
    }

    /// Normalized pixels `[1, 3, side, side]`, zeros right of and below the picture → `[1, width, side / patch, side / patch]`.
    /// Errors: another size; a stop.
    pub fn look(&self, pixels: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        self.vision.forward(pixels, cancel)
    }

    /// The masks for points and a box, in pixels of the encoder's picture. Errors: neither point nor box.
    pub fn masks(&self, seen: &Tensor, points: &[Point], corners: Option<Corners>) -> Result<Masks> {
        let tokens = self.prompts.tokens(points, corners, seen.device())?;
        self.decoder.forward(&self.prompts.without_mask(seen)?, self.prompts.everywhere(), &tokens)
    }
}
