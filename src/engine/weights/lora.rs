//! Low-rank adapters (LoRA; Hu et al. 2021, arXiv 2106.09685): a change of a weight as the product of two narrow matrices.
//!
//! For a linear layer `down [r, in]`, `up [out, r]`; for a convolution `down [r, in, k, k]`, `up [out, r, 1, 1]`, or with a `mid
//! [r, r, k, k]` between two of 1×1 (LoCon). Files are read in the names of peft (`X.lora_A.weight`), diffusers
//! (`X.lora.down.weight`, `X.lora_linear_layer.down.weight`, `X.processor.to_q_lora.down.weight`) and kohya
//! (`lora_unet_X_with_underscores.lora_down.weight`), with `alpha` where a file has it, as a tensor or in diffusers' metadata;
//! written in those of peft, which diffusers reads.

use candle_core::{DType, Tensor};

use crate::engine::diffusion::noise::TorchNoise;
use crate::engine::error::{Error, Result};

/// One weight's change: `scale * up down`.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// `[r, in]` or `[r, in, k, k]`.
    pub down: Tensor,
    /// `[out, r]` or `[out, r, 1, 1]`.
    pub up: Tensor,
    /// What the product is multiplied with.
    pub scale: f64,
}

impl Adapter {
    /// One that changes nothing yet: `down` normal with deviation 1 / rank, by the seed and the weight's name, `up` zero.
    /// In f32 for a weight in half precision: it is to be trained. `None`: the weight is neither a matrix nor a kernel.
    pub fn fresh(name: &str, weight: &Tensor, rank: usize, seed: u64) -> Result<Option<Adapter>> {
        let (down, up) = match *weight.dims() {
            [o, i] => (vec![rank, i], vec![o, rank]),
            [o, i, h, w] => (vec![rank, i, h, w], vec![o, rank, 1, 1]),
            _ => return Ok(None),
        };
        let hash = name.bytes().fold(seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        let values = TorchNoise::new(hash ^ (hash >> 32)).normal(down.iter().product());
        let down = Tensor::from_vec(values, down, weight.device())?.affine(1.0 / rank as f64, 0.0)?;
        let dtype = match weight.dtype() {
            DType::F16 | DType::BF16 => DType::F32,
            other => other,
        };
        let up = Tensor::zeros(up, dtype, weight.device())?;
        Ok(Some(Adapter { down: down.to_dtype(dtype)?, up, scale: 1.0 }))
    }

    /// What is added to a weight of shape `dims`. Errors: another shape.
    pub fn product(&self, name: &str, dims: &[usize]) -> Result<Tensor> {
        let wrong = || {
            Error::shape("load", format!("the adapter does not fit {name}"))
                .expected(format!("a weight {dims:?}"))
                .got(format!("matrices {:?} and {:?}", self.down.dims(), self.up.dims()))
        };
        let (&[o, r], &[i, ref kernel @ ..]) = (
            self.up.dims().get(..2).and_then(|d| d.first_chunk::<2>()).ok_or_else(wrong)?,
            self.down.dims().get(1..).ok_or_else(wrong)?,
        ) else {
            return Err(wrong());
        };
        let inner = i * kernel.iter().product::<usize>();
        let fits = self.up.elem_count() == o * r
            && self.down.elem_count() == r * inner
            && dims.first() == Some(&o)
            && dims.iter().product::<usize>() == o * inner;
        if !fits {
            return Err(wrong());
        }
        let product = self.up.reshape((o, r))?.matmul(&self.down.reshape((r, inner))?)?;
        Ok(product.affine(self.scale, 0.0)?.reshape(dims)?)
    }

    /// For a file, in peft's names; the scale goes into the second matrix.
    pub fn tensors(&self, weight: &str) -> Vec<(String, Tensor)> {
        let layer = weight.strip_suffix(".weight").unwrap_or(weight);
        let up = self.up.affine(self.scale, 0.0).unwrap_or_else(|_| self.up.clone());
        vec![(format!("{layer}.lora_A.weight"), self.down.clone()), (format!("{layer}.lora_B.weight"), up)]
    }
}
