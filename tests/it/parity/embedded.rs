//! The embedded model against diffusers and transformers, stage by stage.

use candle_core::{Device, Tensor};
use scumble::engine::diffusion::schedule::ScheduleOptions;
use scumble::engine::error::Result;
use scumble::engine::image::Picture;
use scumble::engine::latent::Latent;
use scumble::engine::nets::hooks::{AttentionHook, Hooks, Row, Site};
use scumble::engine::nets::unet::{Context, Unet, UnetConfig};
use scumble::engine::weights::Weights;
use scumble::engine::weights::folder::Folder;
use scumble::engine::weights::model::{LoadOptions, Model, PredictOptions};
use scumble::engine::weights::pictures;

use super::{Fixture, close, close_picture};

const TOLERANCE: f64 = 1e-4;

fn model() -> Model {
    Model::load("emoji", &LoadOptions::default()).unwrap()
}

fn fixture() -> Fixture {
    Fixture::open("embedded.safetensors")
}

fn picture(name: &str) -> Picture {
    let bytes = pictures::bytes(name).unwrap().unwrap_or_else(|| panic!("no picture {name}"));
    Picture::from_bytes(&bytes, name, &Device::Cpu).unwrap()
}

fn text_states(m: &Model, prompts: &[String]) -> Tensor {
    let all: Vec<Tensor> = prompts.iter().map(|p| m.encode_text(p).unwrap().states().clone()).collect();
    Tensor::cat(&all, 0).unwrap()
}

#[test]
fn text_states_and_features() {
    let (m, f) = (model(), fixture());
    let prompts = f.strings("prompts");
    for (prompt, ids) in prompts.iter().zip(f.ids("text.ids")) {
        let ours: Vec<u32> = m.encode_text(prompt).unwrap().tokens().iter().map(|t| t.id).collect();
        assert_eq!(ours, ids);
    }
    close("states", &text_states(&m, &prompts), f.get("text.states"), TOLERANCE);
    close("empty prompt", m.encode_text("").unwrap().states(), f.get("text.empty"), TOLERANCE);
    let features: Vec<Tensor> = prompts.iter().map(|p| m.text_features(p).unwrap()).collect();
    close("clip text", &Tensor::cat(&features, 0).unwrap(), f.get("clip.text"), TOLERANCE);
    let features: Vec<Tensor> =
        f.strings("clip_pictures").iter().map(|p| m.picture_features(&picture(p)).unwrap()).collect();
    close("clip pictures", &Tensor::cat(&features, 0).unwrap(), f.get("clip.image"), TOLERANCE);
}

/// The UNet alone, to see the rows of a batch with a prompt each.
fn unet() -> Unet {
    let folder = Folder::shipped().unwrap().sub("unet");
    let files = folder.weights("diffusion_pytorch_model").unwrap();
    let weights = Weights::load(&files, candle_core::DType::F32, &Device::Cpu).unwrap();
    Unet::new(&weights.scope(), UnetConfig::parse(&folder.json("config.json").unwrap()).unwrap()).unwrap()
}

/// Keeps the probabilities at one place.
struct Keep {
    site: String,
    kept: Vec<(String, Tensor)>,
}

impl AttentionHook for Keep {
    fn wants_probs(&self, site: &Site, _: usize, _: usize) -> bool {
        site.path.starts_with(&self.site)
    }

    fn on_probs(&mut self, site: &Site, _: &[Row], probs: &Tensor) -> Result<Option<Tensor>> {
        self.kept.push((site.path.clone(), probs.clone()));
        Ok(None)
    }
}

#[test]
fn unet_predictions_with_and_without_hooks() {
    let (unet, f) = (unet(), fixture());
    let context = Context::new(f.get("text.states").clone());
    for t in f.meta("timesteps").as_array().unwrap() {
        let (t, name) = (t.as_u64().unwrap(), format!("unet.eps.{t}"));
        let out = unet.forward(f.get("unet.z"), t as f64, &context, &mut Hooks::none()).unwrap();
        close(&name, &out, f.get(&name), TOLERANCE);
    }
    let mut keep = Keep { site: f.meta("site").as_str().unwrap().to_string(), kept: Vec::new() };
    let mut hooks = Hooks::none().with_attention(&mut keep);
    let out = unet.forward(f.get("unet.z"), 501.0, &context, &mut hooks).unwrap();
    drop(hooks);
    close("the explicit attention path", &out, f.get("unet.eps.501"), TOLERANCE);
    for (ending, name) in [("attn1", "attention.self"), ("attn2", "attention.cross")] {
        let (_, probs) = keep.kept.iter().find(|(p, _)| p.ends_with(ending)).unwrap();
        close(name, probs, f.get(name), TOLERANCE);
    }
}

#[test]
fn vae_both_ways() {
    let (m, f) = (model(), fixture());
    let z = m.encode_picture(&picture(f.meta("picture").as_str().unwrap())).unwrap();
    close("mean", z.tensor(), f.get("vae.mean"), TOLERANCE);
    let decoded = m.decode(&Latent::new(f.get("vae.mean").clone()).unwrap()).unwrap();
    close_picture("decoded", decoded.tensor(), &f.get("vae.decoded").clamp(0.0, 1.0).unwrap());
}

#[test]
fn chains_of_ddim_steps_from_a_seed() {
    let (m, f) = (model(), fixture());
    let chains = f.meta("chains");
    for name in ["ddim", "eta"] {
        let c = &chains[name];
        let number = |key: &str, default: f64| c[key].as_f64().unwrap_or(default);
        let seed = number("seed", 0.0) as u64;
        let s = m
            .schedule(
                number("steps", 20.0) as usize,
                ScheduleOptions { noise_eta: number("noise_eta", 0.0), seed, ..Default::default() },
            )
            .unwrap();
        let text = m.encode_text(c["prompt"].as_str().unwrap()).unwrap();
        let none = m.encode_text(c["negative"].as_str().unwrap_or_default()).unwrap();
        let mut z = m.noise(Default::default(), seed, 1, None).unwrap();
        for i in 0..s.len() {
            let cfg = number("cfg", 7.0);
            let eps = m.guided(&z, s.t(i).unwrap(), &text, &none, cfg, &PredictOptions::default()).unwrap();
            z = s.step(&z, &eps, i).unwrap();
        }
        close(name, z.tensor(), f.get(&format!("{name}.latent")), TOLERANCE);
        close_picture(name, m.decode(&z).unwrap().tensor(), f.get(&format!("{name}.picture")));
    }
}
