//! One network pass at a time, on request: the Rust side of `benches/networks.py`, which starts this program and its
//! PyTorch counterpart and lets them take turns.
//!
//! `networks CASE MODEL [ours|lean|bf16|candle]` loads what the case needs, prints `ready`, and then for every line on its
//! standard input runs one pass and prints `WALL PROCESSOR PEAK CHECK`: seconds of wall time, seconds of processor time
//! of all threads, the process's highest memory so far in MB, and the mean magnitude of the result, by which the
//! two sides are compared. Cases: unet64 unet32 step vae512 text latent32 weights32.

#![allow(clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};
use candle_transformers::models::stable_diffusion::StableDiffusionConfig;
use scumble::engine::device;
use scumble::engine::diffusion::noise::TorchNoise;
use scumble::engine::error::Result;
use scumble::engine::memory::Reuse;
use scumble::engine::nets::clip_text::ClipText;
use scumble::engine::nets::hooks::Hooks;
use scumble::engine::nets::unet::{Context, Unet, UnetConfig};
use scumble::engine::nets::vae::{Vae, VaeConfig};
use scumble::engine::ops;
use scumble::engine::weights::read::TensorFile;
use scumble::engine::weights::{Scope, Weights};

/// As in the program.
#[global_allocator]
static MEMORY: Reuse = Reuse;

/// One pass and what it made.
type Pass = Box<dyn Fn() -> Result<Tensor>>;

fn normal(seed: u64, dims: &[usize]) -> Result<Tensor> {
    Ok(Tensor::from_vec(TorchNoise::new(seed).normal(dims.iter().product()), dims, &Device::Cpu)?)
}

struct Folder(PathBuf);

impl Folder {
    fn weights(&self, part: &str) -> Result<Weights> {
        let folder = self.0.join(part);
        let file = ["model.safetensors", "diffusion_pytorch_model.safetensors"]
            .into_iter()
            .map(|name| folder.join(name))
            .find(|path| path.is_file())
            .expect("a .safetensors file");
        Weights::load(&[TensorFile::open(&file)?], DType::F32, &Device::Cpu)
    }

    fn config(&self, part: &str) -> serde_json::Value {
        let text = std::fs::read_to_string(self.0.join(part).join("config.json")).expect("config.json");
        serde_json::from_str(&text).expect("JSON")
    }

    fn unet(&self, w: &Scope) -> Result<Unet> {
        Unet::new(w, UnetConfig::parse(&self.config("unet"))?)
    }
}

/// The network's output for `z` under fixed prompt states, with the keys and values of the prompt made anew when
/// `fresh`: a sampling run makes them once.
fn predict(unet: Unet, z: Tensor, width: usize) -> Result<Pass> {
    let text = Context::new(normal(2, &[z.dim(0)?, 77, width])?);
    Ok(Box::new(move || unet.forward(&z, 501.0, &text, &mut Hooks::none())))
}

/// Every gradient that a loss has for `of`, as one number: the mean over tensors of the mean magnitude.
fn magnitude(loss: &Tensor, of: &[Tensor]) -> Result<Tensor> {
    let grads = loss.backward()?;
    let each: Vec<Tensor> = of
        .iter()
        .map(|x| grads.get(x).expect("a gradient").abs()?.mean_all())
        .collect::<candle_core::Result<_>>()?;
    Ok(Tensor::stack(&each, 0)?)
}

/// A loss with a weight of its own on every output.
fn loss(out: &Tensor) -> Result<Tensor> {
    Ok((out * normal(3, out.dims())?)?.sum_all()?)
}

fn case(name: &str, model: &Path) -> Result<Pass> {
    let folder = Folder(model.to_path_buf());
    match name {
        "unet64" | "unet32" => {
            let side = if name == "unet64" { 64 } else { 32 };
            predict(folder.unet(&folder.weights("unet")?.scope())?, normal(1, &[2, 4, side, side])?, 768)
        }
        "step" => {
            let unet = folder.unet(&folder.weights("unet")?.scope())?;
            let width = unet.config().context;
            predict(unet, normal(1, &[2, 4, 16, 16])?, width)
        }
        "vae512" => {
            let vae = Vae::new(&folder.weights("vae")?.scope(), VaeConfig::parse(&folder.config("vae"))?)?;
            let z = normal(1, &[1, 4, 64, 64])?;
            Ok(Box::new(move || vae.decode(&z, &mut Hooks::none())))
        }
        "text" => {
            let text =
                ClipText::new(&folder.weights("text_encoder")?.scope(), &folder.config("text_encoder"))?;
            let ids: Vec<u32> = (0..77).map(|i| 320 + i * 37).collect();
            Ok(Box::new(move || text.forward(&ids, &mut Hooks::none())))
        }
        "latent32" => {
            let unet = folder.unet(&folder.weights("unet")?.scope())?;
            let z = Var::from_tensor(&normal(1, &[1, 4, 32, 32])?)?.as_tensor().clone();
            let pass = predict(unet, z.clone(), 768)?;
            Ok(Box::new(move || magnitude(&loss(&pass()?)?, std::slice::from_ref(&z))))
        }
        "weights32" => {
            let frozen = folder.weights("unet")?;
            let vars: HashMap<String, Tensor> = frozen
                .tensors()
                .iter()
                .map(|(name, t)| Ok((name.clone(), Var::from_tensor(t)?.as_tensor().clone())))
                .collect::<Result<_>>()?;
            drop(frozen);
            let all: Vec<Tensor> = vars.values().cloned().collect();
            let pass = predict(
                folder.unet(&Weights::new(vars, "variables").scope())?,
                normal(1, &[1, 4, 32, 32])?,
                768,
            )?;
            Ok(Box::new(move || magnitude(&loss(&pass()?)?, &all)))
        }
        other => panic!("unknown case {other}"),
    }
}

/// The same with candle-transformers' networks of Stable Diffusion 1.5.
fn candle_case(name: &str, model: &Path) -> Result<Pass> {
    let config = StableDiffusionConfig::v1_5(None, None, None);
    let unet = |model: &Path| {
        let file = model.join("unet/diffusion_pytorch_model.safetensors");
        config.build_unet(file, &Device::Cpu, 4, false, DType::F32)
    };
    match name {
        "unet64" | "unet32" => {
            let side = if name == "unet64" { 64 } else { 32 };
            let (unet, z, text) = (unet(model)?, normal(1, &[2, 4, side, side])?, normal(2, &[2, 77, 768])?);
            Ok(Box::new(move || Ok(unet.forward(&z, 501.0, &text)?)))
        }
        "vae512" => {
            let file = model.join("vae/diffusion_pytorch_model.safetensors");
            let vae = config.build_vae(file, &Device::Cpu, DType::F32)?;
            let z = normal(1, &[1, 4, 64, 64])?;
            Ok(Box::new(move || Ok(vae.decode(&z)?)))
        }
        other => panic!("candle-transformers does not run the case {other} here"),
    }
}

/// Passes per figure: single ones are too short to time where they take milliseconds.
fn count(name: &str) -> usize {
    match name {
        "step" => 20,
        "text" => 5,
        _ => 1,
    }
}

/// Processor time of all threads in seconds.
fn processor() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The process's highest resident memory so far, in MB (Linux; 0 elsewhere).
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1e3
}

fn main() -> Result<()> {
    // Cargo appends `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [name, model, rest @ ..] = args.as_slice() else {
        panic!("usage: networks CASE MODEL [ours|lean|bf16|candle]");
    };
    let how = rest.first().map_or("ours", String::as_str);
    if how != "candle" {
        let threads = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok());
        // SAFETY: no thread was started yet.
        unsafe { device::settle_candle(threads.unwrap_or_else(device::threads)) };
        device::lead_pool(threads.unwrap_or_else(device::threads), "compute");
    }
    ops::round_products(how == "bf16");
    ops::keep_transformed(if how == "lean" { 0 } else { device::room_for_copies() });
    let pass = match how {
        "candle" => candle_case(name, Path::new(model))?,
        _ => case(name, Path::new(model))?,
    };
    let count = count(name);
    println!("ready {} threads, {:?}", rayon::current_num_threads(), ops::level());
    for line in std::io::stdin().lock().lines() {
        if line.is_err() {
            break;
        }
        let (cpu, start) = (processor(), Instant::now());
        let mut out = pass()?;
        for _ in 1..count {
            out = pass()?;
        }
        let (wall, cpu) = (start.elapsed().as_secs_f64() / count as f64, (processor() - cpu) / count as f64);
        let check = out.abs()?.mean_all()?.to_scalar::<f32>()?;
        drop(out);
        println!("{wall:.5} {cpu:.5} {:.0} {check:.7e}", peak());
        let _ = std::io::stdout().flush();
    }
    Ok(())
}
