//! CLIP's text encoder (transformers `CLIPTextModel`), the prompt side of Stable Diffusion 1.x and 2.x.

use candle_core::{D, DType, Tensor};
use serde_json::Value;

use super::clip::{Encoder, TowerConfig, size};
use super::hooks::Hooks;
use super::layers::layer_norm;
use crate::engine::error::{Error, Result};
use crate::engine::ops::LayerNorm;
use crate::engine::weights::Scope;

/// The text tower.
#[derive(Clone, Debug)]
pub struct ClipText {
    tokens: Tensor,
    /// Rows of tokens that were added, after those of the table.
    added: Option<Tensor>,
    positions: Tensor,
    encoder: Encoder,
    norm: LayerNorm,
    width: usize,
    vocab: usize,
    length: usize,
    end_id: u32,
}

impl ClipText {
    /// From `text_model.*` and config.json; without that prefix too, as transformers 5 writes a text encoder that stands alone.
    pub fn new(w: &Scope, json: &Value) -> Result<Self> {
        let config = TowerConfig::parse(json)?;
        let vocab = size(json, "vocab_size")?;
        let length = size(json, "max_position_embeddings")?;
        let bare = w.has("embeddings") && !w.has("text_model");
        let w = if bare { w.clone() } else { w.sub("text_model") };
        let e = w.sub("embeddings");
        Ok(ClipText {
            tokens: e.get("token_embedding.weight", &[vocab, config.width])?,
            added: None,
            positions: e.get("position_embedding.weight", &[length, config.width])?,
            encoder: Encoder::new(&w.sub("encoder"), &config, "text_model.encoder")?,
            norm: layer_norm(&w.sub("final_layer_norm"), config.width, config.eps)?,
            width: config.width,
            vocab,
            length,
            end_id: json.get("eos_token_id").and_then(Value::as_u64).unwrap_or(2) as u32,
        })
    }

    /// Width of the states.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows of the token table.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Number of positions (77).
    pub fn length(&self) -> usize {
        self.length
    }

    /// The same with rows for tokens of its own, `[n, width]`: their numbers begin after those of the table, which is
    /// left as it is. Errors: another width.
    pub fn with_added(&self, added: Option<Tensor>) -> Result<Self> {
        if let Some(rows) = &added
            && (rows.rank() != 2 || rows.dim(1)? != self.width)
        {
            return Err(Error::shape("token", "the vectors of a new token have another width")
                .expected(format!("[n, {}]", self.width))
                .got(format!("{:?}", rows.dims())));
        }
        Ok(ClipText { added, ..self.clone() })
    }

    /// The rows of the token table for `ids` of one prompt, `[1, n, width]` (before positions): what textual
    /// inversion optimizes.
    pub fn token_rows(&self, ids: &[u32]) -> Result<Tensor> {
        let device = self.tokens.device();
        let first = self.vocab as u32;
        let pick = |from: &Tensor, ids: Vec<u32>| -> Result<Tensor> {
            let n = ids.len();
            Ok(from.index_select(&Tensor::from_vec(ids, n, device)?, 0)?)
        };
        let Some(added) = self.added.as_ref().filter(|_| ids.iter().any(|&id| id >= first)) else {
            return Ok(pick(&self.tokens, ids.to_vec())?.unsqueeze(0)?);
        };
        // Runs of one table after those of the other: a gradient of the new rows touches nothing else.
        let mut runs = Vec::new();
        for run in ids.chunk_by(|a, b| (*a >= first) == (*b >= first)) {
            let is_new = run.first().is_some_and(|&id| id >= first);
            let ids = run.iter().map(|id| if is_new { id - first } else { *id }).collect();
            runs.push(pick(if is_new { added } else { &self.tokens }, ids)?);
        }
        Ok(Tensor::cat(&runs, 0)?.unsqueeze(0)?)
    }

    /// The last hidden states after the final norm, `[1, n, width]`, from token rows.
    pub fn forward_rows(&self, rows: &Tensor, hooks: &mut Hooks) -> Result<Tensor> {
        let n = rows.dim(D::Minus2)?;
        let x = rows.broadcast_add(&self.positions.narrow(0, 0, n)?)?;
        self.norm.forward(&self.encoder.forward(x, true, hooks)?)
    }

    /// The last hidden states after the final norm, `[1, n, width]`, from token numbers.
    pub fn forward(&self, ids: &[u32], hooks: &mut Hooks) -> Result<Tensor> {
        self.forward_rows(&self.token_rows(ids)?, hooks)
    }

    /// Position whose state stands for the whole prompt: the first end token, or, for configs that say 2 (OpenAI's
    /// first export), the largest token number.
    pub fn pooled_position(&self, ids: &[u32]) -> usize {
        let by_end = ids.iter().position(|&id| id == self.end_id);
        let by_max = ids.iter().enumerate().rev().max_by_key(|(_, id)| **id).map(|(i, _)| i);
        if self.end_id == 2 { by_max.unwrap_or(0) } else { by_end.or(by_max).unwrap_or(0) }
    }

    /// The type of the weights.
    pub fn dtype(&self) -> DType {
        self.tokens.dtype()
    }
}
