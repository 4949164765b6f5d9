//! What the model's own networks see in a picture, with a graph: for losses.

use candle_core::{DType, Tensor};

use super::Model;
use crate::engine::error::{Error, Result};
use crate::engine::image::Picture;
use crate::engine::nets::hooks::Hooks;

impl Model {
    /// CLIP features of pictures as the projection gives them (not of unit length), `[n, d]`, by the CLIP beside the model.
    /// Errors: the model has none.
    pub fn picture_projection(&self, picture: &Picture) -> Result<Tensor> {
        self.clip()?.0.picture_projection(picture)
    }

    /// CLIP features of a text as the projection gives them, `[1, d]`. Errors: the model has no CLIP.
    pub fn text_projection(&self, text: &str) -> Result<Tensor> {
        let (clip, tokenizer) = self.clip()?;
        let ids: Vec<u32> = tokenizer.encode(text)?.tokens.iter().map(|t| t.id).collect();
        clip.text_projection(&ids)
    }

    /// The activations of the autoencoder's encoder after each of its levels, the finest first.
    /// Errors: a picture whose sides are no multiples of [`Model::unit`].
    pub fn encoder_levels(&self, picture: &Picture) -> Result<Vec<Tensor>> {
        let (w, h, unit) = (picture.width(), picture.height(), self.factor());
        if w % unit != 0 || h % unit != 0 {
            return Err(Error::shape("perceptual", "the picture does not fit this model")
                .expected(format!("sides that are multiples of {unit}"))
                .got(format!("{w}x{h}")));
        }
        let x = picture.tensor().clamp(0f32, 1f32)?;
        let x = x.to_device(self.device())?.to_dtype(self.0.options.dtype)?.affine(2.0, -1.0)?;
        let mut hooks = Hooks::none().with_cancel(self.0.options.cancel.clone());
        let levels = self.0.vae.encoder_levels(&x, &mut hooks)?;
        levels.into_iter().map(|t| Ok(t.to_dtype(DType::F32)?)).collect()
    }
}
