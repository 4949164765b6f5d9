//! Weights: find them, read them, hand them to the networks by name.

pub mod changed;
pub mod defaults;
pub mod embedding;
pub mod folder;
pub mod locate;
pub mod lora;
pub mod lora_file;
mod lora_read;
pub mod model;
pub mod pictures;
mod prompts;
pub mod read;
pub mod tokenizer;
pub mod write;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::error::{Error, Result};
use read::TensorFile;

/// Named tensors of one network, on one device, in one type. Clones share the tensors.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    tensors: Arc<HashMap<String, Tensor>>,
    origin: Arc<str>,
}

impl Weights {
    /// From tensors that are in memory already; `origin` is for messages.
    pub fn new(tensors: HashMap<String, Tensor>, origin: &str) -> Self {
        Weights { tensors: Arc::new(tensors), origin: origin.into() }
    }

    /// Reads every floating-point tensor of the files, converted to `dtype`.
    pub fn load(files: &[TensorFile], dtype: DType, device: &Device) -> Result<Self> {
        let mut tensors = HashMap::new();
        for file in files {
            for name in file.names() {
                if let Some(tensor) = file.read(name, dtype, device)? {
                    tensors.insert(name.to_string(), tensor);
                }
            }
        }
        let origin = files.first().map_or("", |f| f.origin());
        Ok(Self::new(tensors, origin))
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &HashMap<String, Tensor> {
        &self.tensors
    }

    /// Where they came from, for messages.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Number of values in all tensors.
    pub fn parameters(&self) -> usize {
        self.tensors.values().map(Tensor::elem_count).sum()
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> usize {
        self.tensors.values().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum()
    }

    /// Renames tensors: `rename` gets each name and returns the new one.
    pub fn rename(&self, rename: impl Fn(&str) -> String) -> Self {
        let tensors = self.tensors.iter().map(|(k, v)| (rename(k), v.clone())).collect();
        Weights { tensors: Arc::new(tensors), origin: self.origin.clone() }
    }

    /// The root scope, from which networks take their tensors.
    pub fn scope(&self) -> Scope {
        Scope { weights: self.clone(), path: String::new(), used: Rc::default(), random: None }
    }
}

/// Makes any tensor that is asked for, from its name and a seed: networks without files, for tests and benchmarks.
/// Matrices and kernels are normal with variance 1 / fan-in (queries and keys twice that deviation, so that attention
/// is not flat), other tensors `1 + normal / 10` for norms' weights and `normal / 10` for the rest.
#[derive(Debug)]
pub struct RandomWeights {
    seed: u64,
    dtype: DType,
    device: Device,
    tracked: bool,
    made: RefCell<std::collections::BTreeMap<String, Tensor>>,
}

impl RandomWeights {
    /// Tensors of `dtype` on `device`; `tracked` makes each one a variable that collects gradients.
    pub fn new(seed: u64, dtype: DType, device: &Device, tracked: bool) -> Rc<Self> {
        Rc::new(RandomWeights { seed, dtype, device: device.clone(), tracked, made: RefCell::default() })
    }

    /// The root scope.
    pub fn scope(self: &Rc<Self>) -> Scope {
        let random = Some(Rc::clone(self));
        Scope { weights: Weights::default(), path: String::new(), used: Rc::default(), random }
    }

    /// Everything that was asked for so far, by name.
    pub fn made(&self) -> std::collections::BTreeMap<String, Tensor> {
        self.made.borrow().clone()
    }

    fn make(&self, name: &str, dims: &[usize]) -> Result<Tensor> {
        if let Some(tensor) = self.made.borrow().get(name) {
            return Ok(tensor.clone());
        }
        let hash =
            name.bytes().fold(self.seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        let count = dims.iter().product();
        let values = super::diffusion::noise::TorchNoise::new(hash ^ (hash >> 32)).normal(count);
        let fan_in: usize = dims.iter().skip(1).product();
        let sharp = ["to_q", "to_k", "q_proj", "k_proj"].iter().any(|p| name.contains(p));
        let (scale, shift) = match dims.len() {
            0 | 1 if name.contains("norm") && name.ends_with("weight") => (0.1, 1.0),
            0 | 1 => (0.1, 0.0),
            _ => ((fan_in as f64).sqrt().recip() * if sharp { 2.0 } else { 1.0 }, 0.0),
        };
        let tensor =
            Tensor::from_vec(values, dims, &self.device)?.to_dtype(self.dtype)?.affine(scale, shift)?;
        let tensor =
            if self.tracked { candle_core::Var::from_tensor(&tensor)?.as_tensor().clone() } else { tensor };
        self.made.borrow_mut().insert(name.to_string(), tensor.clone());
        Ok(tensor)
    }
}

/// A place in the tree of weight names; knows which names were asked for below the root.
#[derive(Clone, Debug)]
pub struct Scope {
    weights: Weights,
    path: String,
    used: Rc<RefCell<BTreeSet<String>>>,
    random: Option<Rc<RandomWeights>>,
}

impl Scope {
    /// The scope below, `self.path() + "." + name`.
    pub fn sub(&self, name: impl AsRef<str>) -> Scope {
        Scope { path: self.full(name.as_ref()), ..self.clone() }
    }

    /// The dotted path of this scope.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn full(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }

    /// The shape of a tensor, if the file has it.
    pub fn dims(&self, name: &str) -> Option<&[usize]> {
        self.weights.tensors.get(&self.full(name)).map(Tensor::dims)
    }

    /// Whether anything lies at or below `name`.
    pub fn has(&self, name: &str) -> bool {
        let full = self.full(name);
        let below = format!("{full}.");
        self.weights.tensors.contains_key(&full) || self.weights.tensors.keys().any(|k| k.starts_with(&below))
    }

    /// The tensor `name`, which must have shape `dims`.
    /// Errors: not in the file (the nearest name is proposed), or of another shape.
    pub fn get(&self, name: &str, dims: &[usize]) -> Result<Tensor> {
        let full = self.full(name);
        if let Some(random) = &self.random {
            return random.make(&full, dims);
        }
        let origin = self.weights.origin();
        let Some(tensor) = self.weights.tensors.get(&full) else {
            let near = nearest(&full, self.weights.tensors.keys());
            let error = Error::missing("load", format!("{origin}: there is no tensor \"{full}\""))
                .expected(format!("{full} of shape {dims:?}"));
            return Err(match near {
                Some(near) => error.got(format!("a file whose nearest name is \"{near}\"")),
                None => error.got("a file without any such name"),
            }
            .hint("is this the right network, in diffusers naming, and is its config.json the one it was saved with?"));
        };
        if tensor.dims() != dims {
            return Err(Error::shape(
                "load",
                format!("{origin}: tensor \"{full}\" has another shape than the config says"),
            )
            .expected(format!("{dims:?}"))
            .got(format!("{:?}", tensor.dims()))
            .hint("use the config.json that the weights were saved with"));
        }
        self.used.borrow_mut().insert(full);
        Ok(tensor.clone())
    }

    /// Names below the root that were never asked for.
    pub fn unused(&self) -> Vec<String> {
        let used = self.used.borrow();
        let mut names: Vec<String> =
            self.weights.tensors.keys().filter(|k| !used.contains(*k)).cloned().collect();
        names.sort();
        names
    }
}

fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    names
        .map(|n| (strsim::normalized_levenshtein(name, n), n.as_str()))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(score, _)| *score > 0.5)
        .map(|(_, n)| n)
}
