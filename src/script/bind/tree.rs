//! Values that can have a gradient, one by one or in lists and maps.

use candle_core::Tensor as Values;
use rhai::{Array, Dynamic, EvalAltResult, FnPtr, Map};

use super::tensor::Tensor;
use crate::engine::error::{Error, Result};
use crate::engine::image::Picture;
use crate::engine::latent::Latent;
use crate::engine::nets::mlp::Mlp;
use crate::engine::weights::embedding::Embedding;
use crate::engine::weights::model::Model;
use crate::script::tracking::Leaves;
use crate::script::types;
use crate::script::values::Fail;

/// Values in one list or map, nested ones counted.
const MOST: usize = 10_000;

/// The numbers behind a handle, if it is of a kind that can have a gradient.
pub fn values(x: &Dynamic) -> Option<Values> {
    let latent = x.read_lock::<Latent>().map(|z| z.tensor().clone());
    let tensor = || x.read_lock::<Tensor>().map(|t| t.0.clone());
    let text = || x.read_lock::<Embedding>().map(|e| e.states().clone());
    latent.or_else(tensor).or_else(text)
}

/// A value of the same kind with other numbers.
pub fn like(x: &Dynamic, values: Values) -> Result<Dynamic> {
    if x.read_lock::<Latent>().is_some() {
        return Ok(Dynamic::from(Latent::new(values)?));
    }
    match x.read_lock::<Embedding>() {
        Some(e) => Ok(Dynamic::from(e.with_states(values)?)),
        None => Ok(Dynamic::from(Tensor(values))),
    }
}

/// Whether a value carries the graph of a gradient.
pub fn is_tracked(x: &Dynamic) -> bool {
    let model = || x.read_lock::<Model>().is_some_and(|m| m.changes().is_tracked());
    let net = || x.read_lock::<Mlp>().is_some_and(|n| n.is_tracked());
    values(x).is_some_and(|v| v.track_op())
        || model()
        || net()
        || x.read_lock::<Picture>().is_some_and(|p| p.tensor().track_op())
}

/// All numbers of a value, or of the values in a list or map, with their places: "x", "x[1]", "x.text".
/// Errors: a value of another kind, none at all.
pub fn leaves(op: &str, name: &str, x: &Dynamic) -> Result<Leaves> {
    let mut all = Leaves::new();
    collect(op, name, x, &mut all)?;
    if all.is_empty() {
        return Err(Error::value(op, format!("{name} holds no values"))
            .expected(expected(name))
            .got(types::got(x)));
    }
    Ok(all)
}

fn expected(name: &str) -> String {
    format!("{name}: Latent, Tensor or Embedding, or a list or map of them")
}

fn collect(op: &str, name: &str, x: &Dynamic, into: &mut Leaves) -> Result<()> {
    if into.len() >= MOST {
        return Err(Error::value(op, format!("there are more than {MOST} values")));
    }
    if let Some(v) = values(x) {
        into.push((name.to_string(), v));
    } else if let Some(list) = x.read_lock::<Array>() {
        for (i, v) in list.iter().enumerate() {
            collect(op, &format!("{name}[{i}]"), v, into)?;
        }
    } else if let Some(map) = x.read_lock::<Map>() {
        for (key, v) in map.iter() {
            collect(op, &format!("{name}.{key}"), v, into)?;
        }
    } else {
        return Err(Error::value(op, format!("{name} cannot be {}", types::got(x)))
            .expected(expected(name))
            .got(types::got(x)));
    }
    Ok(())
}

/// A value of the same form with other numbers, in the order of [`leaves`].
pub fn rebuild(x: &Dynamic, new: &[Values]) -> Result<Dynamic> {
    fill(x, &mut new.iter())
}

fn fill<'a>(x: &Dynamic, new: &mut impl Iterator<Item = &'a Values>) -> Result<Dynamic> {
    if let Some(list) = x.read_lock::<Array>() {
        return Ok(Dynamic::from_array(list.iter().map(|v| fill(v, new)).collect::<Result<_>>()?));
    }
    if let Some(map) = x.read_lock::<Map>() {
        let filled = map.iter().map(|(k, v)| Ok((k.clone(), fill(v, new)?))).collect::<Result<Map>>()?;
        return Ok(Dynamic::from_map(filled));
    }
    match new.next() {
        Some(v) => like(x, v.clone()),
        None => Ok(x.clone()),
    }
}

/// The same value without the graph of a gradient, in lists and maps, too.
pub fn detach(x: &Dynamic) -> Result<Dynamic> {
    if let Some(list) = x.read_lock::<Array>() {
        return Ok(Dynamic::from_array(list.iter().map(detach).collect::<Result<_>>()?));
    }
    if let Some(map) = x.read_lock::<Map>() {
        let all = map.iter().map(|(k, v)| Ok((k.clone(), detach(v)?))).collect::<Result<Map>>()?;
        return Ok(Dynamic::from_map(all));
    }
    if let Some(p) = x.read_lock::<Picture>() {
        return Ok(Dynamic::from(Picture::from_tensor(p.tensor().detach())?));
    }
    match values(x) {
        Some(v) => like(x, v.detach()),
        None => Ok(x.clone()),
    }
}

/// Rhai says of a closure with another number of parameters that there is no such function.
pub fn wrong_count(op: &str, f: &FnPtr, form: &str, e: Box<EvalAltResult>) -> Fail {
    match &*e {
        EvalAltResult::ErrorFunctionNotFound(name, _) if name.starts_with(f.fn_name()) => {
            Error::value(op, "the closure takes another number of values").expected(form).into()
        }
        _ => Fail::Rhai(e),
    }
}
