//! Where LoRA files lie: one that ships with a model, a folder, a file.

use std::path::Path;

use super::folder::Folder;
use super::locate::SHIPPED;
use super::model::Model;
use super::read::TensorFile;
use crate::engine::error::{Error, Result};

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
            let base = path.parent().and_then(model_above);
            return Ok(Some(Lora { file: TensorFile::open(path)?, base }));
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
}

impl Model {
    /// A new model, called `name`, with a LoRA's changes times `scale` on top of those that this one has; this one is left as it
    /// is, and what does not change is shared. Errors: a LoRA of another model, a scale that is not finite.
    pub fn with_lora(&self, lora: &Lora, name: &str, scale: f64) -> Result<Self> {
        if !scale.is_finite() {
            return Err(Error::value("lora", "the scale must be a finite number").got(scale.to_string()));
        }
        Ok(self.with_file(&lora.file, scale)?.named(name))
    }
}

/// The folder above, if it is a model.
fn model_above(path: &Path) -> Option<String> {
    let above = path.parent().filter(|p| p.join("model_index.json").is_file())?;
    Some(above.display().to_string())
}
