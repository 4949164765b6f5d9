//! SDEdit and MagicMix, written here on the engine, against the same in plain PyTorch. (That the recipes do the same is
//! checked by the tests of the recipes.)

use candle_core::Device;
use scumble::engine::diffusion::schedule::Schedule;
use scumble::engine::image::Picture;
use scumble::engine::latent::Latent;
use scumble::engine::nets::attention_edit::Attention;
use scumble::engine::weights::embedding::Embedding;
use scumble::engine::weights::model::{LoadOptions, Model, PredictOptions};
use scumble::engine::weights::pictures;
use serde_json::Value;

use super::{Fixture, close, close_picture};

struct Run<'a> {
    m: &'a Model,
    s: Schedule,
    none: Embedding,
    cfg: f64,
}

impl Run<'_> {
    fn step(&self, z: &Latent, text: &Embedding, i: usize, attention: Option<&Attention>) -> Latent {
        let options = PredictOptions { attention: attention.cloned(), ..Default::default() };
        let eps = self.m.guided(z, self.s.t(i).unwrap(), text, &self.none, self.cfg, &options).unwrap();
        self.s.step(z, &eps, i).unwrap()
    }

    fn text(&self, run: &Value, key: &str) -> Embedding {
        self.m.encode_text(run[key].as_str().unwrap()).unwrap()
    }

    fn picture(&self, name: &str) -> Latent {
        let bytes = pictures::bytes(name).unwrap().unwrap();
        self.m.encode_picture(&Picture::from_bytes(&bytes, name, &Device::Cpu).unwrap()).unwrap()
    }

    fn level(&self, run: &Value, key: &str) -> usize {
        self.s.at_level(run[key].as_f64().unwrap()).unwrap()
    }

    fn sdedit(&self, run: &Value, noise: &Latent) -> Latent {
        let (x0, text, start) = (
            self.picture(run["image"].as_str().unwrap()),
            self.text(run, "prompt"),
            self.level(run, "strength"),
        );
        let z = self.s.add_noise(&x0, noise, start).unwrap();
        (start..self.s.len()).fold(z, |z, i| self.step(&z, &text, i, None))
    }

    fn magicmix(&self, run: &Value, noise: &Latent) -> Latent {
        let (start, stop) = (self.level(run, "k_max"), self.level(run, "k_min"));
        let layout = run["layout"].as_str().unwrap();
        let layout: Vec<Latent> = if layout.ends_with(".png") {
            let x0 = self.picture(layout);
            (0..=stop).map(|i| self.s.add_noise(&x0, noise, i).unwrap()).collect()
        } else {
            let words = self.text(run, "layout");
            (0..stop).fold(vec![noise.clone()], |mut all, i| {
                all.push(self.step(&all[i], &words, i, None));
                all
            })
        };
        let text = self.text(run, "content");
        let edit = run["word"]
            .as_str()
            .map(|w| Attention::new().reweight(&text, w, run["s"].as_f64().unwrap(), &[]).unwrap());
        (start..self.s.len()).fold(layout[start].clone(), |z, i| {
            let z = self.step(&z, &text, i, edit.as_ref());
            if i < stop { Latent::blend(&layout[i + 1], &z, run["nu"].as_f64().unwrap()).unwrap() } else { z }
        })
    }
}

#[test]
fn sdedit_and_magicmix_in_all_modes() {
    let f = Fixture::open("chains.safetensors");
    let m = Model::load("emoji", &LoadOptions::default()).unwrap();
    let steps = f.meta("steps").as_u64().unwrap() as usize;
    let run = Run {
        m: &m,
        s: m.schedule(steps, Default::default()).unwrap(),
        none: m.encode_text("").unwrap(),
        cfg: f.meta("cfg").as_f64().unwrap(),
    };
    let runs = f.meta("runs");
    assert_eq!(runs.as_object().unwrap().len(), 4);
    for (name, options) in runs.as_object().unwrap() {
        let noise = m.noise(Default::default(), options["seed"].as_u64().unwrap(), 1, None).unwrap();
        let z = if name == "sdedit" { run.sdedit(options, &noise) } else { run.magicmix(options, &noise) };
        close(name, z.tensor(), f.get(&format!("{name}.latent")), 1e-4);
        close_picture(name, m.decode(&z).unwrap().tensor(), f.get(&format!("{name}.picture")));
    }
}
