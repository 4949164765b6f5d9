//! Low-rank adapters (LoRA; Hu et al. 2021, arXiv 2106.09685): a change of a weight as the product of two narrow matrices.
//!
//! For a linear layer `down [r, in]`, `up [out, r]`; for a convolution `down [r, in, k, k]`, `up [out, r, 1, 1]`. Read in the
//! names of peft (`X.lora_A.weight`), diffusers (`X.lora.down.weight`, `X.lora_linear_layer.down.weight`) and kohya
//! (`lora_unet_X_with_underscores.lora_down.weight`), with `alpha` where a file has it; written in those of peft, which
//! diffusers reads.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Tensor};

use super::changed::{Changes, TEXT, UNET};
use super::model::Model;
use super::read::TensorFile;
use crate::engine::diffusion::noise::TorchNoise;
use crate::engine::error::{Error, Result};

/// The ends of names: of the first matrix, of the second.
const ENDS: [(&str, &str); 5] = [
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_A.default.weight", ".lora_B.default.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    (".lora_down.weight", ".lora_up.weight"),
];

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
    /// `None`: the weight is neither a matrix nor a kernel.
    pub fn fresh(name: &str, weight: &Tensor, rank: usize, seed: u64) -> Result<Option<Adapter>> {
        let (down, up) = match *weight.dims() {
            [o, i] => (vec![rank, i], vec![o, rank]),
            [o, i, h, w] => (vec![rank, i, h, w], vec![o, rank, 1, 1]),
            _ => return Ok(None),
        };
        let hash = name.bytes().fold(seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        let values = TorchNoise::new(hash ^ (hash >> 32)).normal(down.iter().product());
        let down = Tensor::from_vec(values, down, weight.device())?.affine(1.0 / rank as f64, 0.0)?;
        let up = Tensor::zeros(up, DType::F32, weight.device())?;
        Ok(Some(Adapter {
            down: down.to_dtype(weight.dtype())?,
            up: up.to_dtype(weight.dtype())?,
            scale: 1.0,
        }))
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

/// The changes that a file holds. Errors: half an adapter, a layer or weight that the model lacks, no number type.
pub(super) fn read(model: &Model, file: &TensorFile, scale: f64) -> Result<Changes> {
    let names = model.weight_names();
    // kohya's names have underscores in the place of dots.
    let flat: HashMap<String, &String> = names
        .iter()
        .map(|n| {
            let short = n.strip_suffix(".weight").unwrap_or(n);
            let short = short.replacen(UNET, "lora_unet.", 1).replacen(TEXT, "lora_te.", 1);
            (short.replace('.', "_"), n)
        })
        .collect();
    let mut pairs: BTreeMap<&str, (Option<Tensor>, Option<Tensor>)> = BTreeMap::new();
    let mut changes = Changes::default();
    let bad = |what: String| {
        Error::file("load", std::path::Path::new(file.origin()), what).hint("is this file for another model?")
    };
    for name in file.names() {
        if name.ends_with(".alpha") {
            continue;
        }
        let Some(tensor) = file.read(name, DType::F32, model.device())? else { continue };
        let end = ENDS.iter().find_map(|(down, up)| {
            name.strip_suffix(down).map(|l| (l, true)).or_else(|| name.strip_suffix(up).map(|l| (l, false)))
        });
        match end {
            Some((layer, true)) => pairs.entry(layer).or_default().0 = Some(tensor),
            Some((layer, false)) => pairs.entry(layer).or_default().1 = Some(tensor),
            None if name.starts_with(UNET) || name.starts_with(TEXT) => {
                changes.weights.insert(name.to_string(), tensor);
            }
            None => {
                let rows = if tensor.rank() == 1 { tensor.unsqueeze(0)? } else { tensor };
                if rows.rank() != 2 || rows.dim(1)? != model.text_width() {
                    return Err(bad(format!(
                        "{name} is neither an adapter, nor a weight, nor the vectors of a token"
                    )));
                }
                changes.tokens.push((name.to_string(), rows));
            }
        }
    }
    for (layer, pair) in pairs {
        let (Some(down), Some(up)) = pair else {
            return Err(bad(format!("half of the adapter of {layer} is missing")));
        };
        let full = format!("{layer}.weight");
        let with_unet = format!("{UNET}{full}");
        let known = |n: &String| names.binary_search(n).is_ok();
        let weight = match flat.get(layer) {
            Some(name) => (*name).clone(),
            None if known(&full) => full,
            None if known(&with_unet) => with_unet,
            None => return Err(bad(format!("there is no layer {layer} in this model"))),
        };
        let rank = down.dims().first().copied().unwrap_or(1).max(1) as f64;
        let alpha = match file.read(&format!("{layer}.alpha"), DType::F64, model.device())? {
            Some(alpha) => alpha.flatten_all()?.get(0)?.to_scalar::<f64>()?,
            None => rank,
        };
        changes.adapters.insert(weight, Adapter { down, up, scale: scale * alpha / rank });
    }
    if changes.is_empty() {
        return Err(bad("the file holds nothing that could change a model".into()));
    }
    Ok(changes)
}
