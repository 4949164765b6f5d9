//! Stable Diffusion's networks on a GPU, on request: the scumble side of `benches/cuda.py`.
//!
//! `cuda CASE MODEL DTYPE` loads what the case needs, prints `ready` and the device, and then for every line on its standard
//! input runs as many passes as the line says and prints `WALL HELD CHECK`: seconds per pass, MB of the GPU that are not free,
//! and the mean magnitude of the result. Cases: unet64 unet96 step64 vae512 latent64. It needs a build by cuda/build.sh.

#![allow(clippy::expect_used, clippy::panic)]

use std::io::{BufRead, Write};
use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};
use scumble::engine::device;
use scumble::engine::error::Result;
use scumble::engine::latent::Latent;
use scumble::engine::observe::Cancel;
use scumble::engine::weights::model::{LoadOptions, Model, PredictOptions};

/// One pass and what it made.
type Pass = Box<dyn Fn() -> Result<Tensor>>;

fn case(name: &str, m: Model) -> Result<Pass> {
    let side = if name.ends_with("96") { 96 } else { 64 };
    let noise = m.noise(
        Default::default(),
        1,
        if name.starts_with("unet") { 2 } else { 1 },
        Some((8 * side, 8 * side)),
    )?;
    let (text, none) = (m.encode_text("a dog in the snow")?, m.encode_text("")?);
    let options = PredictOptions::default();
    Ok(match name {
        "unet64" | "unet96" => {
            Box::new(move || Ok(m.predict(&noise, 501.0, &text, &options)?.0.tensor().clone()))
        }
        "step64" => {
            Box::new(move || Ok(m.guided(&noise, 501.0, &text, &none, 7.0, &options)?.tensor().clone()))
        }
        "vae512" => Box::new(move || Ok(m.decode(&noise)?.tensor().clone())),
        "latent64" => {
            let z = Var::from_tensor(noise.tensor())?;
            let latent = Latent::new(z.as_tensor().clone())?;
            Box::new(move || {
                let eps = m.predict(&latent, 501.0, &text, &options)?.0;
                let grads = eps.tensor().sqr()?.sum_all()?.backward()?;
                Ok(grads.get(&z).expect("a gradient").clone())
            })
        }
        other => panic!("unknown case {other}"),
    })
}

/// The mean magnitude; it waits for the GPU, too.
fn check(x: &Tensor) -> Result<f64> {
    Ok(x.to_dtype(DType::F32)?.abs()?.mean_all()?.to_device(&Device::Cpu)?.to_scalar::<f32>()?.into())
}

fn main() -> Result<()> {
    // Cargo appends `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [name, model, dtype] = args.as_slice() else {
        println!("usage: cuda CASE MODEL DTYPE; benches/cuda.py starts it");
        return Ok(());
    };
    let dtype = match dtype.as_str() {
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        _ => DType::F32,
    };
    let (device, line) = device::open("cuda")?;
    let before = device::gpu_memory_free().unwrap_or(0);
    let pass = case(name, Model::load(model, &LoadOptions { device, dtype, cancel: Cancel::default() })?)?;
    println!("ready {line}");
    for line in std::io::stdin().lock().lines() {
        let Some(count) = line.ok().and_then(|l| l.trim().parse::<u32>().ok()) else { break };
        let start = Instant::now();
        let mut out = pass()?;
        for _ in 1..count {
            out = pass()?;
        }
        let value = check(&out)?;
        let wall = start.elapsed().as_secs_f64() / f64::from(count);
        let held = before.saturating_sub(device::gpu_memory_free().unwrap_or(0)) as f64 / 1e6;
        println!("{wall:.6} {held:.0} {value:.7e}");
        let _ = std::io::stdout().flush();
    }
    Ok(())
}
