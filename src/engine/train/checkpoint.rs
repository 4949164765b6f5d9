//! Checkpoints: a state as a safetensors file, with what the run is.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::State;
use crate::engine::error::{Error, Result};
use crate::engine::weights::read::TensorFile;
use crate::engine::weights::write;

/// What a run is, as words: the model's fingerprint, what is trained, rates. Two runs that differ in one of them are not
/// the same.
pub type About = BTreeMap<String, String>;

/// Marks our files.
const FORMAT: &str = "scumble checkpoint 1";
const LOSSES: &str = "losses";

/// Writes it, whole or not at all.
pub(super) fn write(op: &str, path: &Path, about: &About, state: &State) -> Result<()> {
    write::replace(op, path, &encode(about, state)?)
}

/// The bytes of the file.
pub(super) fn encode(about: &About, state: &State) -> Result<Vec<u8>> {
    let mut text = about.clone();
    text.insert("format".into(), FORMAT.into());
    text.insert("step".into(), state.step().to_string());
    let device = Device::Cpu;
    let losses = Tensor::from_slice(state.losses(), state.step(), &device)?;
    let mut all: Vec<(String, Tensor)> =
        state.names().iter().zip(state.values()).map(|(n, v)| (format!("value.{n}"), v.clone())).collect();
    for (kind, moments) in state.optimizer().moments() {
        all.extend(state.names().iter().zip(moments).map(|(n, v)| (format!("{kind}.{n}"), v.clone())));
    }
    all.extend(state.kept().iter().map(|(n, v)| (format!("kept.{n}"), v.clone())));
    all.push((LOSSES.into(), losses));
    write::encode(all.iter().map(|(n, t)| (n.as_str(), t)), &text)
}

/// Reads it. Errors: no checkpoint, cut short, of another run; the message names what differs.
pub(super) fn read(op: &str, path: &Path, about: &About, fresh: &State) -> Result<State> {
    let bad = |what: String| {
        Error::file(op, path, what).hint("give another file, or begin anew without resume under another name")
    };
    let file =
        TensorFile::open(path).map_err(|e| bad(format!("this is no whole checkpoint: {}", e.message())))?;
    let text = file.metadata();
    if text.get("format").map(String::as_str) != Some(FORMAT) {
        return Err(bad("this is no checkpoint of a training run".into()));
    }
    for (key, wanted) in about {
        let got = text.get(key).map_or("nothing", String::as_str);
        if got != wanted {
            return Err(bad(format!("the checkpoint belongs to another run: {key} differs"))
                .expected(wanted.clone())
                .got(got));
        }
    }
    let step: usize = text.get("step").and_then(|s| s.parse().ok()).unwrap_or(0);
    let tensor = |name: &str, like: &Tensor| -> Result<Tensor> {
        match file.read(name, like.dtype(), like.device())? {
            Some(t) if t.dims() == like.dims() => Ok(t),
            Some(t) => Err(bad(format!("{name} has another shape"))
                .expected(format!("{:?}", like.dims()))
                .got(format!("{:?}", t.dims()))),
            None => Err(bad(format!("{name} is missing: the checkpoint belongs to another run"))),
        }
    };
    let all = |kind: &str| -> Result<Vec<Tensor>> {
        fresh.names().iter().zip(fresh.values()).map(|(n, v)| tensor(&format!("{kind}.{n}"), v)).collect()
    };
    let values = all("value")?;
    let moments = match step {
        0 => Vec::new(),
        _ => fresh.optimizer().moment_names().iter().map(|kind| all(kind)).collect::<Result<_>>()?,
    };
    let kept = fresh.kept().iter().map(|(n, v)| Ok((n.clone(), tensor(&format!("kept.{n}"), v)?)));
    let kept = kept.collect::<Result<_>>()?;
    let losses = match file.read(LOSSES, DType::F64, &Device::Cpu)? {
        Some(losses) => losses.flatten_all()?.to_vec1::<f64>()?,
        None => Vec::new(),
    };
    if losses.len() != step {
        return Err(bad("the checkpoint contradicts itself".into())
            .expected(format!("{step} losses"))
            .got(losses.len().to_string()));
    }
    let optimizer = fresh.optimizer().resumed(step, moments);
    Ok(State { names: fresh.names().to_vec(), values, optimizer, losses, kept })
}
