//! Small random models that stand for whole families: SD 1.x, SD 2.x (v-prediction, linear projections, GELU, heads per
//! level), and widths, groups and factors that no checkpoint has.

use candle_core::{DType, Device, Tensor};
use scumble::engine::diffusion::noise::TorchNoise;
use scumble::engine::image::Picture;
use scumble::engine::latent::Latent;
use scumble::engine::nets::hooks::Hooks;
use scumble::engine::nets::unet::{Context, Unet, UnetConfig};
use scumble::engine::weights::Weights;
use scumble::engine::weights::folder::Folder;
use scumble::engine::weights::model::{LoadOptions, Model, PredictOptions};

use super::{Fixture, close, data, difference};

const TOLERANCE: f64 = 1e-4;

fn states(m: &Model, prompts: &[String]) -> Tensor {
    let all: Vec<Tensor> = prompts.iter().map(|p| m.encode_text(p).unwrap().states().clone()).collect();
    Tensor::cat(&all, 0).unwrap()
}

fn check(name: &str) {
    let m = Model::load(data(name).to_str().unwrap(), &LoadOptions::default()).unwrap();
    assert!(m.unused().is_empty(), "{name}: {:?}", m.unused());
    let f = Fixture::open(&format!("{name}/reference.safetensors"));
    let prompts = f.strings("prompts");
    for (prompt, ids) in prompts.iter().zip(f.ids("text.ids")) {
        let ours: Vec<u32> = m.encode_text(prompt).unwrap().tokens().iter().map(|t| t.id).collect();
        assert_eq!(ours, ids, "{name}");
    }
    close(&format!("{name} text"), &states(&m, &prompts), f.get("text.states"), TOLERANCE);

    let folder = Folder::Disk(data(name)).sub("unet");
    let weights =
        Weights::load(&folder.weights("diffusion_pytorch_model").unwrap(), DType::F32, &Device::Cpu).unwrap();
    let unet = Unet::new(&weights.scope(), UnetConfig::parse(&folder.json("config.json").unwrap()).unwrap())
        .unwrap();
    let context = Context::new(f.get("text.states").clone());
    let predict =
        |context: &Context, t: f64| unet.forward(f.get("unet.z"), t, context, &mut Hooks::none()).unwrap();
    for t in [981, 501, 1] {
        close(
            &format!("{name} t {t}"),
            &predict(&context, f64::from(t)),
            f.get(&format!("unet.eps.{t}")),
            TOLERANCE,
        );
    }
    let swapped = predict(&Context::new(states(&m, &f.strings("swapped"))), 501.0);
    close(&format!("{name} swapped"), &swapped, f.get("unet.swapped"), TOLERANCE);
    let moved = difference(&swapped, f.get("unet.eps.501"));
    assert!(moved > 1e-2, "{name}: swapping a word moves the output by {moved}: attention is flat");

    let picture = Picture::from_tensor(f.get("vae.picture").clone()).unwrap();
    close(
        &format!("{name} encode"),
        m.encode_picture(&picture).unwrap().tensor(),
        f.get("vae.mean"),
        TOLERANCE,
    );
    let decoded = m.decode(&Latent::new(f.get("vae.mean").clone()).unwrap()).unwrap();
    close(
        &format!("{name} decode"),
        decoded.tensor(),
        &f.get("vae.decoded").clamp(0.0, 1.0).unwrap(),
        TOLERANCE,
    );

    let c = f.meta("chain");
    let s = m.schedule(c["steps"].as_u64().unwrap() as usize, Default::default()).unwrap();
    let text = m.encode_text(c["prompt"].as_str().unwrap()).unwrap();
    let none = m.encode_text(c["negative"].as_str().unwrap_or_default()).unwrap();
    // The reference's latent need not have the shape that the model was made for.
    let dims = f.get("chain.latent").dims().to_vec();
    let noise = TorchNoise::new(c["seed"].as_u64().unwrap()).normal(dims.iter().product());
    let mut z = Latent::new(Tensor::from_vec(noise, dims, &Device::Cpu).unwrap()).unwrap();
    for i in 0..s.len() {
        let cfg = c["cfg"].as_f64().unwrap();
        let eps = m.guided(&z, s.t(i).unwrap(), &text, &none, cfg, &PredictOptions::default()).unwrap();
        z = s.step(&z, &eps, i).unwrap();
    }
    close(&format!("{name} chain"), z.tensor(), f.get("chain.latent"), TOLERANCE);
}

#[test]
fn like_sd1() {
    check("tiny-sd1");
}

#[test]
fn like_sd2() {
    check("tiny-sd2");
}

#[test]
fn foreign_widths() {
    check("tiny-foreign");
}

/// transformers 5 leaves the prefix "text_model." out of a text encoder that stands alone.
#[test]
fn a_text_encoder_as_transformers_5_saves_it() {
    let dir = tempfile::tempdir().unwrap();
    for part in ["", "text_encoder", "tokenizer", "unet", "vae", "scheduler"] {
        let (from, to) = (data("tiny-sd1").join(part), dir.path().join(part));
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap).filter(|e| e.path().is_file()) {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    let file = dir.path().join("text_encoder/model.safetensors");
    let tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let bare = tensors.iter().map(|(k, v)| (k.trim_start_matches("text_model.").to_string(), v.clone()));
    candle_core::safetensors::save(&bare.collect::<std::collections::HashMap<_, _>>(), &file).unwrap();
    let model = Model::load(dir.path().to_str().unwrap(), &LoadOptions::default()).unwrap();
    assert!(model.unused().is_empty(), "{:?}", model.unused());
    let f = Fixture::open("tiny-sd1/reference.safetensors");
    close("bare names", &states(&model, &f.strings("prompts")), f.get("text.states"), TOLERANCE);
}
