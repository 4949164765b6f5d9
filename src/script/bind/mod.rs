//! The bindings: one file per kind of value, one registry call per function.

mod attention;
mod chain;
mod core;
mod data;
mod drawing;
mod experts;
mod fields;
mod frozen;
mod grad;
pub mod guidance;
mod heat;
mod hooks;
mod image;
mod latent;
mod maps;
mod mlp;
mod model;
mod numbers;
mod optimizers;
mod perceptual;
mod plot;
mod prompt;
mod schedule;
mod segment;
mod tables;
mod tensor;
mod training;
mod trajectory;
mod tree;
mod tune;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::image::RgbImage;
use rhai::{Dynamic, Engine};

pub use hooks::Edits;
pub use model::Models;
pub use perceptual::Perceptual;
pub use tensor::Tensor;
pub use tree::is_tracked;

use super::host::Host;
use super::options::{Opt, Options, Val};
use super::registry::Registry;
use super::types::{self, Handle};
use crate::engine::caption::Captioner;
use crate::engine::detector::Detector;
use crate::engine::diffusion::schedule::Schedule;
use crate::engine::diffusion::stepper::Stepper;
use crate::engine::error::{Error, Result};
use crate::engine::frozen::{Depth, Dino};
use crate::engine::image::Picture;
use crate::engine::latent::Latent;
use crate::engine::nets::mlp::Mlp;
use crate::engine::segment::Segmenter;
use crate::engine::trajectory::Trajectory;
use crate::engine::weights::embedding::Embedding;
use crate::engine::weights::model::Model;
use crate::engine::weights::pictures as shipped;

/// Every function, in the order of the reference page.
pub fn register(r: &mut Registry) {
    model::register(r);
    experts::register(r);
    guidance::register(r);
    prompt::register(r);
    schedule::register(r);
    latent::register(r);
    trajectory::register(r);
    attention::register(r);
    heat::register(r);
    tensor::register(r);
    numbers::register(r);
    fields::register(r);
    perceptual::register(r);
    grad::register(r);
    chain::register(r);
    optimizers::register(r);
    tune::register(r);
    mlp::register(r);
    image::register(r);
    drawing::register(r);
    frozen::register(r);
    segment::register(r);
    data::register(r);
    maps::register(r);
    tables::register(r);
    plot::register(r);
    core::register(r);
}

/// Makes the types known to an engine under their script names, with their display lines.
pub fn types(engine: &mut Engine) {
    handle::<Model>(engine);
    handle::<Embedding>(engine);
    handle::<Schedule>(engine);
    handle::<Stepper>(engine);
    handle::<Latent>(engine);
    handle::<Trajectory>(engine);
    handle::<trajectory::Level>(engine);
    handle::<Edits>(engine);
    handle::<tensor::Tensor>(engine);
    handle::<optimizers::State>(engine);
    handle::<Mlp>(engine);
    handle::<Picture>(engine);
    handle::<Depth>(engine);
    handle::<Dino>(engine);
    handle::<Captioner>(engine);
    handle::<Segmenter>(engine);
    handle::<Detector>(engine);
    handle::<perceptual::Perceptual>(engine);
    handle::<Options>(engine);
    handle::<Opt>(engine);
    handle::<core::Span>(engine);
}

fn handle<T: Handle>(engine: &mut Engine) {
    types::know::<T>();
    engine.register_type_with_name::<T>(T::NAME);
    engine.register_fn("to_string", |x: &mut T| types::line(&Dynamic::from(x.clone())));
    engine.register_fn("to_debug", |x: &mut T| types::line(&Dynamic::from(x.clone())));
}

/// The pictures that a value shows at the prompt.
pub fn pictures(value: &Dynamic) -> Result<Vec<Arc<RgbImage>>> {
    match value.read_lock::<Picture>() {
        Some(p) => Ok(vec![p.sheet(None)?]),
        None => Ok(Vec::new()),
    }
}

/// Saves a picture below --out with the record of how it was made; the path.
pub fn save_picture(host: &Host, picture: &RgbImage, name: &str) -> Result<PathBuf> {
    image::write(host, "save", picture, Path::new(name))
}

/// Whether a picture of that name comes with the program.
pub fn is_shipped(name: &str) -> bool {
    shipped::names().iter().any(|n| n == name)
}

/// A latent as the bytes of a safetensors file: one tensor, `latent`, f32.
pub fn latent_file(z: &Latent) -> Result<Vec<u8>> {
    let values = z.tensor().to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let (n, c, h, w) = z.dims();
    let header = serde_json::json!({
        "latent": { "dtype": "F32", "shape": [n, c, h, w], "data_offsets": [0, values.len() * 4] }
    });
    let mut header = header.to_string();
    // The data begins at a multiple of eight bytes.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    Ok(bytes)
}

/// A picture size as scripts give it: `0` or nothing = the model's own, one number = square, `[width, height]`.
fn size(op: &str, value: Option<&Dynamic>) -> Result<Option<(usize, usize)>> {
    let Some(value) = value.filter(|v| !v.is_unit()) else { return Ok(None) };
    let side = |v: &Val| v.number().filter(|x| *x >= 0.0 && *x == x.trunc()).map(|x| x as usize);
    let sides = match Val::from_dynamic(value) {
        Some(Val::List(list)) => match &list[..] {
            [w, h] => side(w).zip(side(h)),
            _ => None,
        },
        Some(v) => side(&v).map(|s| (s, s)),
        None => None,
    };
    match sides {
        Some((0, 0)) => Ok(None),
        Some(sides) => Ok(Some(sides)),
        None => Err(Error::value(op, "this is no picture size")
            .expected("pixels, or [width, height]; 0 = the model's own")
            .got(types::got(value))),
    }
}
