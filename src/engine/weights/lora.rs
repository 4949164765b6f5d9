//! LoRA files (Hu et al. 2021, arXiv 2106.09685): low-rank changes of a model's layers, merged into its weights:
//! `W + scale * alpha / rank * up @ down`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::Weights;
use super::folder::Folder;
use super::locate::SHIPPED;
use super::read::TensorFile;
use crate::engine::error::{Error, Kind, Result};

/// The name that diffusers gives such a file.
const FILE: &str = "pytorch_lora_weights.safetensors";

/// A LoRA file, and the model that it lies in, if it lies in one.
#[derive(Clone, Debug)]
pub struct Lora {
    file: TensorFile,
    base: Option<String>,
}

impl Lora {
    /// The file that `spec` names: `emoji/NAME` for one that ships with a model, a folder with
    /// `pytorch_lora_weights.safetensors`, or a .safetensors file. `None`: `spec` names no such thing.
    /// Errors: a file that is not safetensors.
    pub fn find(spec: &str) -> Result<Option<Self>> {
        let path = Path::new(spec);
        if path.is_file() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")) {
            let base = path.parent().map(Path::to_path_buf);
            return Ok(Some(Lora {
                file: TensorFile::open(path)?,
                base: base.and_then(|p| model_above(&p)),
            }));
        }
        if path.is_dir() {
            if path.join("model_index.json").is_file() || !path.join(FILE).is_file() {
                return Ok(None);
            }
            return Ok(Some(Lora { file: TensorFile::open(&path.join(FILE))?, base: model_above(path) }));
        }
        let Some((shipped, name)) = spec.split_once('/').filter(|(s, _)| SHIPPED.contains(s)) else {
            return Ok(None);
        };
        let folder = Folder::shipped()?.sub(name);
        if name.contains(['/', '\\', '.']) || !folder.has(FILE) {
            return Ok(None);
        }
        Ok(Some(Lora { file: folder.tensors(FILE)?, base: Some(shipped.to_string()) }))
    }

    /// The model in whose folder it lies.
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// A number that changes when the file does.
    pub(super) fn fingerprint(&self) -> Result<u64> {
        self.file.fingerprint()
    }

    /// Weights with its changes times `scale` merged in; `part` is `unet` or `text_encoder`. The second value counts the
    /// layers that were changed. Errors: a layer that the network has not, or of another shape.
    pub(super) fn merge(&self, part: &str, weights: &Weights, scale: f64) -> Result<(Weights, usize)> {
        let layers = self.layers(part)?;
        let mut all = weights.tensors().clone();
        // kohya's names have underscores for dots.
        let flat: HashMap<String, String> = all.keys().map(|k| (k.replace('.', "_"), k.clone())).collect();
        for (name, layer) in &layers {
            let key = format!("{name}.weight");
            let key =
                if all.contains_key(&key) { Some(key) } else { flat.get(&key.replace('.', "_")).cloned() };
            let Some((key, old)) = key.and_then(|k| all.get(&k).cloned().map(|w| (k, w))) else {
                return Err(Error::missing(
                    "lora",
                    format!("{}: the {part} has no layer {name}", self.file.origin()),
                )
                .expected("a LoRA that was made for this model"));
            };
            all.insert(key, layer.change(&old, scale, name)?);
        }
        Ok((Weights::new(all, weights.origin()), layers.len()))
    }

    fn layers(&self, part: &str) -> Result<BTreeMap<String, Layer>> {
        let kohya = match part {
            "unet" => "lora_unet_",
            _ => "lora_te_",
        };
        let dotted = format!("{part}.");
        let mut layers: BTreeMap<String, Layer> = BTreeMap::new();
        for name in self.file.names() {
            let Some(rest) = name.strip_prefix(&dotted).or_else(|| name.strip_prefix(kohya)) else {
                continue;
            };
            let tensor = || {
                let t = self.file.read(name, DType::F32, &Device::Cpu)?;
                t.ok_or_else(|| Error::new(Kind::File, "lora", format!("{name}: not floating-point numbers")))
            };
            let ends = |list: [&str; 3]| list.into_iter().find_map(|end| rest.strip_suffix(end));
            if let Some(layer) = ends([".lora.down.weight", ".lora_A.weight", ".lora_down.weight"]) {
                layers.entry(layer.into()).or_default().down = Some(tensor()?);
            } else if let Some(layer) = ends([".lora.up.weight", ".lora_B.weight", ".lora_up.weight"]) {
                layers.entry(layer.into()).or_default().up = Some(tensor()?);
            } else if let Some(layer) = rest.strip_suffix(".alpha") {
                let alpha = tensor()?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
                layers.entry(layer.into()).or_default().alpha = alpha.first().copied();
            } else {
                return Err(Error::new(Kind::File, "lora", format!("{}: tensor \"{name}\" is no part of a LoRA", self.file.origin()))
                    .expected("names that end in .lora.down.weight, .lora_A.weight or .lora_down.weight, and their counterparts"));
            }
        }
        Ok(layers)
    }
}

/// The folder above, if it is a model.
fn model_above(path: &Path) -> Option<String> {
    let above = path.parent().filter(|p| p.join("model_index.json").is_file())?;
    Some(above.display().to_string())
}

#[derive(Debug, Default)]
struct Layer {
    /// `[rank, in, ...]`.
    down: Option<Tensor>,
    /// `[out, rank, ...]`.
    up: Option<Tensor>,
    alpha: Option<f64>,
}

impl Layer {
    fn change(&self, old: &Tensor, scale: f64, name: &str) -> Result<Tensor> {
        let (Some(down), Some(up)) = (&self.down, &self.up) else {
            return Err(Error::new(
                Kind::File,
                "lora",
                format!("{name}: one of the two matrices is missing"),
            ));
        };
        let rank = down.dims().first().copied().unwrap_or(0);
        let out = old.dims().first().copied().unwrap_or(0);
        let fits =
            rank > 0 && up.elem_count() == out * rank && down.elem_count() * out == old.elem_count() * rank;
        if !fits {
            return Err(Error::shape("lora", format!("{name}: the change does not fit the layer"))
                .expected(format!("matrices whose product is {:?}", old.dims()))
                .got(format!("{:?} and {:?}", up.dims(), down.dims()))
                .hint("a LoRA fits the model that it was trained on, and others of the same sizes"));
        }
        let change = up.reshape((out, rank))?.matmul(&down.flatten_from(1)?)?.reshape(old.dims())?;
        let change = (change * (scale * self.alpha.map_or(1.0, |a| a / rank as f64)))?;
        Ok((old + change.to_dtype(old.dtype())?.to_device(old.device())?)?)
    }
}
