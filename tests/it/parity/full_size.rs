//! Stable Diffusion 1.5 and 2.1 at full size, random weights: one prediction against PyTorch. Such folders are made by
//! `benches/sd_weights.py` and `benches/sd_reference.py` and are too large to commit; the test looks at those that
//! `SCUMBLE_SD_FOLDERS` names (separated by `:`), and at nothing when it is unset.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use scumble::engine::image::Picture;
use scumble::engine::latent::Latent;
use scumble::engine::nets::hooks::Hooks;
use scumble::engine::nets::unet::{Context, Unet, UnetConfig};
use scumble::engine::weights::Weights;
use scumble::engine::weights::folder::Folder;
use scumble::engine::weights::model::{LoadOptions, Model};

use super::{Fixture, close, difference};

#[test]
fn folders_of_real_size() {
    let folders = std::env::var("SCUMBLE_SD_FOLDERS").unwrap_or_default();
    for folder in folders.split(':').filter(|f| !f.is_empty()) {
        check(Path::new(folder));
    }
}

fn check(folder: &Path) {
    let f = Fixture::at(&folder.join("reference.safetensors"));
    let tolerance = f.meta("tolerance").as_f64().unwrap();
    {
        let m = Model::load(folder.to_str().unwrap(), &LoadOptions::default()).unwrap();
        assert!(m.unused().is_empty(), "{:?}", m.unused());
        let states: Vec<Tensor> =
            f.strings("prompts").iter().map(|p| m.encode_text(p).unwrap().states().clone()).collect();
        close("text", &Tensor::cat(&states, 0).unwrap(), f.get("text.states"), tolerance);
        let picture = Picture::from_tensor(f.get("vae.picture").clone()).unwrap();
        close("encode", m.encode_picture(&picture).unwrap().tensor(), f.get("vae.mean"), tolerance);
        let decoded = m.decode(&Latent::new(f.get("vae.mean").clone()).unwrap()).unwrap();
        close("decode", decoded.tensor(), &f.get("vae.decoded").clamp(0.0, 1.0).unwrap(), tolerance);
    }
    let place = Folder::Disk(folder.join("unet"));
    let weights =
        Weights::load(&place.weights("diffusion_pytorch_model").unwrap(), DType::F32, &Device::Cpu).unwrap();
    let unet =
        Unet::new(&weights.scope(), UnetConfig::parse(&place.json("config.json").unwrap()).unwrap()).unwrap();
    let t = f.meta("timestep").as_f64().unwrap();
    let mut sides = 0;
    for name in f.tensors.keys().filter(|k| k.starts_with("eps.")) {
        let side = name.trim_start_matches("eps.");
        for (row, kind) in ["eps", "swapped"].iter().enumerate() {
            let context = Context::new(f.get("text.states").narrow(0, row, 1).unwrap());
            let out = unet.forward(f.get(&format!("z.{side}")), t, &context, &mut Hooks::none()).unwrap();
            let theirs = f.get(&format!("{kind}.{side}"));
            println!("{} {kind} {side}: {:.2e}", folder.display(), difference(&out, theirs));
            close(kind, &out, theirs, tolerance);
        }
        sides += 1;
    }
    assert!(sides > 0, "the reference holds no prediction");
}
