//! The same numbers as PyTorch, diffusers and transformers on the same weights. The fixtures and how they are made:
//! tests/parity/README.md.

mod chains;
mod edges;
mod embedded;
mod full_size;
mod guidance;
mod helpers;
mod lora;
mod noise;
mod papers;
mod samplers;
mod schedules;
mod tiny;
mod tokens;
mod tune;
mod vgg;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

/// Where the fixtures lie.
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(data(name)).unwrap()).unwrap()
}

/// Tensors and metadata of a fixture file.
struct Fixture {
    tensors: HashMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
}

impl Fixture {
    fn open(name: &str) -> Self {
        Self::at(&data(name))
    }

    fn at(path: &Path) -> Self {
        let file = scumble::engine::weights::read::TensorFile::open(path).unwrap();
        Fixture {
            tensors: candle_core::safetensors::load(path, &Device::Cpu).unwrap(),
            metadata: file.metadata().clone(),
        }
    }

    fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the fixture has no {name}"))
    }

    fn meta(&self, name: &str) -> Value {
        let text = self.metadata.get(name).unwrap_or_else(|| panic!("the fixture has no {name}"));
        // A plain string stands there without quotes.
        serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()))
    }

    fn strings(&self, name: &str) -> Vec<String> {
        self.meta(name).as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_string()).collect()
    }

    fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        let rows = self.get(name).to_dtype(DType::I64).unwrap().to_vec2::<i64>().unwrap();
        rows.into_iter().map(|r| r.into_iter().map(|v| v as u32).collect()).collect()
    }
}

/// max|a - b| / max|b|; panics on shapes that differ or values that are no numbers.
fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let flat = |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let (a, b) = (flat(a), flat(b));
    assert!(a.iter().chain(&b).all(|v| v.is_finite()), "values that are no numbers");
    let most = b.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    a.iter().zip(&b).fold(0.0f64, |m, (x, y)| m.max((x - y).abs())) / most
}

fn close(name: &str, ours: &Tensor, theirs: &Tensor, tolerance: f64) {
    let d = difference(ours, theirs);
    assert!(d <= tolerance, "{name}: differs by {d:.2e}, more than {tolerance:.0e}");
}

/// Pictures: at most 1/255 anywhere.
fn close_picture(name: &str, ours: &Tensor, theirs: &Tensor) {
    assert_eq!(ours.dims(), theirs.dims());
    let d = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(d <= 1.0 / 255.0, "{name}: a pixel differs by {d}");
}
