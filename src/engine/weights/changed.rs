//! Models with other weights: a new [`Model`] shares all that stays with the one it was made from, which is left as it is.
//!
//! Weights are named as in the files, with the network before the path: `unet.conv_in.weight`,
//! `text_encoder.text_model...`; the vectors of a new token as `text_encoder.new_tokens.<token>`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::Weights;
use super::lora::Adapter;
use super::lora_read;
use super::model::Model;
use super::read::TensorFile;
use crate::engine::error::{Error, Result};
use crate::engine::ops::wide;

/// Before the names of a UNet's weights.
pub const UNET: &str = "unet.";
/// Before the names of a text encoder's weights.
pub const TEXT: &str = "text_encoder.";
/// Before the vectors of tokens that were added.
pub const TOKENS: &str = "text_encoder.new_tokens.";

/// In what a model differs from the one that was loaded.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Whole weights, by name.
    pub weights: BTreeMap<String, Tensor>,
    /// Low-rank changes of weights, by the weight's name.
    pub adapters: BTreeMap<String, Adapter>,
    /// Tokens that were added, in the order of their numbers: `[vectors, width]` each.
    pub tokens: Vec<(String, Tensor)>,
}

impl Changes {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty() && self.adapters.is_empty() && self.tokens.is_empty()
    }

    /// Whether any value has a graph.
    pub fn is_tracked(&self) -> bool {
        let adapters = self.adapters.values().flat_map(|a| [&a.down, &a.up]);
        self.weights.values().chain(adapters).chain(self.tokens.iter().map(|(_, t)| t)).any(Tensor::track_op)
    }

    /// As the tensors of a file, in diffusers' names: what [`Model::with_file`] reads.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        let mut all = self.weights.clone();
        for (name, adapter) in &self.adapters {
            all.extend(adapter.tensors(name));
        }
        all.extend(self.tokens.iter().cloned());
        all
    }

    /// Sixteen hexadecimal digits of all values: FNV-1a over their bytes.
    fn fingerprint(&self, before: &str) -> Result<String> {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut feed = |bytes: &[u8]| {
            bytes.iter().for_each(|&b| hash = (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        };
        feed(before.as_bytes());
        for (name, tensor) in self.tensors() {
            feed(name.as_bytes());
            let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            // As for files: samples of what is large.
            values.iter().take(1024).for_each(|v| feed(&v.to_le_bytes()));
            feed(&values.iter().map(|v| f64::from(*v)).sum::<f64>().to_le_bytes());
        }
        Ok(format!("{hash:016x}"))
    }
}

impl Model {
    /// The same model with these changes on top of those that it has. Nothing is copied but what changes. Their numbers may be of
    /// another type: files are read, and weights are trained, in f32 whatever the model computes in.
    /// Errors: a name that is no weight of this model, another shape, a token that it knows already.
    pub fn with_changes(&self, new: &Changes) -> Result<Model> {
        let mut changes = self.changes().clone();
        let mut nets =
            [(UNET, self.unet_weights(), HashMap::new()), (TEXT, self.text_weights(), HashMap::new())];
        let given = new.weights.keys().chain(new.adapters.keys());
        for name in given {
            let base = self.weight(name)?;
            let mut weight = match new.weights.get(name) {
                Some(other) if other.dims() != base.dims() => {
                    return Err(Error::shape("tune", format!("{name} has another shape in this model"))
                        .expected(format!("{:?}", base.dims()))
                        .got(format!("{:?}", other.dims())));
                }
                Some(other) => {
                    // What was added to the old weight is gone with it.
                    changes.adapters.remove(name);
                    let other = other.to_dtype(base.dtype())?;
                    changes.weights.insert(name.clone(), other.clone());
                    other
                }
                None => base,
            };
            if let Some(adapter) = new.adapters.get(name) {
                // Rounded once, after the sum.
                let old = wide(&weight)?;
                let sum = (&old + adapter.product(name, weight.dims())?.to_dtype(old.dtype())?)?;
                let sum = sum.to_dtype(weight.dtype())?;
                if changes.weights.contains_key(name) || changes.adapters.contains_key(name) {
                    // Two changes of one weight are one whole weight.
                    changes.adapters.remove(name);
                    changes.weights.insert(name.clone(), sum.clone());
                } else {
                    changes.adapters.insert(name.clone(), adapter.clone());
                }
                weight = sum;
            }
            for (prefix, _, map) in &mut nets {
                if let Some(rest) = name.strip_prefix(*prefix) {
                    map.insert(rest.to_string(), weight.clone());
                }
            }
        }
        for (token, rows) in &new.tokens {
            let rows = rows.to_dtype(self.text_dtype())?;
            match changes.tokens.iter_mut().find(|(t, _)| t == token) {
                Some((_, old)) if old.dims() == rows.dims() => *old = rows,
                Some((_, old)) => {
                    return Err(Error::shape(
                        "tune",
                        format!("{token} has another number of vectors in this model"),
                    )
                    .expected(format!("{:?}", old.dims()))
                    .got(format!("{:?}", rows.dims())));
                }
                None => changes.tokens.push((token.clone(), rows)),
            }
        }
        let [unet, text] = nets.map(|(_, old, map)| (!map.is_empty()).then(|| merged(old, map)));
        let tracked = changes.is_tracked();
        let fingerprint =
            if tracked { self.fingerprint().to_string() } else { new.fingerprint(self.fingerprint())? };
        self.rebuilt(unet, text, Arc::new(changes), fingerprint)
    }

    /// A weight by its full name. Errors: there is none, with the nearest name.
    pub fn weight(&self, name: &str) -> Result<Tensor> {
        let found = match (name.strip_prefix(UNET), name.strip_prefix(TEXT)) {
            (Some(rest), _) => self.unet_weights().tensors().get(rest),
            (_, Some(rest)) => self.text_weights().tensors().get(rest),
            _ => None,
        };
        found.cloned().ok_or_else(|| {
            let names = self.weight_names();
            let error = Error::missing("tune", format!("this model has no weight {name}"));
            match super::nearest(name, names.iter()) {
                Some(near) => error.hint(format!("did you mean {near}?")),
                None => error.hint("is this file for another model?"),
            }
        })
    }

    /// The full names of all weights of UNet and text encoder, sorted.
    pub fn weight_names(&self) -> Vec<String> {
        let names = |prefix: &str, all: &Weights| -> Vec<String> {
            // Positions are a buffer that old exports carry along.
            let keys = all.tensors().keys().filter(|k| !k.ends_with("position_ids"));
            keys.map(|k| format!("{prefix}{k}")).collect()
        };
        let mut all = names(UNET, self.unet_weights());
        all.extend(names(TEXT, self.text_weights()));
        all.sort();
        all
    }

    /// The same model with what a file holds: an adapter in the names of diffusers, peft or kohya (scaled by `scale`), whole
    /// weights by full name, or vectors of new tokens by the token. Errors: a file for another model.
    pub fn with_file(&self, file: &TensorFile, scale: f64) -> Result<Model> {
        let changes = lora_read::read(self, file, scale)?;
        self.with_changes(&changes).map_err(|e| {
            let message = format!("{}: {}", file.origin(), e.message());
            Error::new(e.kind(), "load", message).hint("is this file for another model?")
        })
    }

    /// The same model with a new token that is `rows [vectors, width]` of the text encoder's table.
    pub fn with_token(&self, token: &str, rows: Tensor) -> Result<Model> {
        if self.changes().tokens.iter().any(|(t, _)| t == token) {
            return Err(Error::value("token", format!("the model has the token {token} already"))
                .hint("give another one"));
        }
        self.with_changes(&Changes { tokens: vec![(token.to_string(), rows)], ..Changes::default() })
    }
}

fn merged(old: &Weights, new: HashMap<String, Tensor>) -> Weights {
    let mut all = old.tensors().clone();
    all.extend(new);
    Weights::new(all, old.origin())
}
