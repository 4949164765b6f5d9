//! Changed models, and models that share a latent space.

use std::sync::{Arc, OnceLock};

use candle_core::{D, DType, Device, Tensor};

use super::{Model, Parts, join_fingerprints, within};
use crate::engine::error::{Error, Result};
use crate::engine::image::Picture;
use crate::engine::nets::clip_text::ClipText;
use crate::engine::nets::unet::Unet;
use crate::engine::weights::Weights;
use crate::engine::weights::lora::Lora;
use crate::engine::weights::prompts::PromptCache;

/// By how much the latents of one picture may differ, as a share of their length, in two models that share a latent space:
/// autoencoders whose decoder alone was tuned give equal latents, others give unrelated ones.
const SAME: f64 = 0.05;

impl Model {
    /// A new model with a LoRA's changes times `scale` merged into its weights; this one is left as it is, and what does
    /// not change is shared. Errors: a LoRA of another model, one that changes nothing here, a scale that is not finite.
    pub fn with_lora(&self, lora: &Lora, name: &str, scale: f64) -> Result<Self> {
        if !scale.is_finite() {
            return Err(Error::value("lora", "the scale must be a finite number").got(scale.to_string()));
        }
        let p = &self.0;
        if !p.adapters.is_empty() {
            return Err(Error::value("lora", "the model has a LoRA merged in already")
                .expected("a model as it was loaded")
                .got(p.name.clone()));
        }
        let read = |part: &str, stem: &str| -> Result<(Weights, usize)> {
            p.options.cancel.check("load")?;
            let files = p.folder.sub(part).weights(stem)?;
            lora.merge(part, &Weights::load(&files, p.options.dtype, self.device())?, scale)
        };
        let (weights, layers) = read("unet", "diffusion_pytorch_model")?;
        let unet = Unet::new(&weights.scope(), p.unet.config().clone()).map_err(|e| within(e, "unet"))?;
        let (weights, words) = read("text_encoder", "model")?;
        let text = match words {
            0 => p.text.clone(),
            _ => ClipText::new(&weights.scope(), &p.folder.sub("text_encoder").json("config.json")?)
                .map_err(|e| within(e, "text_encoder"))?,
        };
        if layers + words == 0 {
            return Err(Error::value("lora", format!("{name}: this file changes no layer of the model"))
                .expected("tensors named unet.LAYER.lora.down.weight, or lora_unet_LAYER.lora_down.weight"));
        }
        let own = u64::from_str_radix(&p.fingerprint, 16).unwrap_or_default();
        Ok(Model(Arc::new(Parts {
            name: name.to_string(),
            defaults: p.defaults.clone(),
            folder: p.folder.clone(),
            options: p.options.clone(),
            text,
            tokenizer: Arc::clone(&p.tokenizer),
            unet,
            vae: p.vae.clone(),
            train: Arc::clone(&p.train),
            clip: OnceLock::new(),
            parameters: p.parameters,
            fingerprint: join_fingerprints(&[own, lora.fingerprint()?, scale.to_bits()]),
            unused: Vec::new(),
            prompts: PromptCache::default(),
            work: Arc::default(),
            identity: Arc::new(()),
            adapters: name.to_string(),
        })))
    }

    /// Whether latents mean the same in both models: channels, sizes, noise levels, and the latent of a test picture. The
    /// text encoders may differ. Errors: what differs.
    pub fn same_latents(&self, other: &Model) -> Result<()> {
        let (a, b) = (&self.0, &other.0);
        let differ = |what: &str, one: String, two: String| {
            Error::value("same_latents", format!("{} and {} cannot share latents: {what}", a.name, b.name))
                .expected(one)
                .got(two)
                .hint("take two models that were tuned from the same one")
        };
        let (va, vb) = (a.vae.config(), b.vae.config());
        if (va.latent_channels, va.factor) != (vb.latent_channels, vb.factor) {
            let text = |c: usize, f: usize| format!("{c} channels, a {f}th of the picture's side");
            return Err(differ(
                "their shapes differ",
                text(va.latent_channels, va.factor),
                text(vb.latent_channels, vb.factor),
            ));
        }
        let (ta, tb) = (&a.train.alphas, &b.train.alphas);
        let levels = ta.len() == tb.len() && ta.iter().zip(tb).all(|(x, y)| (x - y).abs() < 1e-4);
        if !levels {
            return Err(differ(
                "their noise levels differ",
                format!("{} training steps", ta.len()),
                format!("{} with other levels", tb.len()),
            ));
        }
        let unit = self.unit().max(other.unit());
        let picture = test_picture(unit * 64usize.div_ceil(unit))?;
        let (za, zb) = (self.encode_picture(&picture)?, other.encode_picture(&picture)?);
        let length =
            za.tensor().to_dtype(DType::F32)?.flatten_all()?.sqr()?.sum(D::Minus1)?.to_scalar::<f32>()?;
        let apart = za.distance(&zb)? / f64::from(length).sqrt().max(1e-12);
        if apart > SAME {
            return Err(differ(
                "their autoencoders differ",
                format!("latents of one picture at most {SAME} apart"),
                format!("{apart:.2}"),
            ));
        }
        Ok(())
    }
}

/// Colors that change over the picture, and stripes.
fn test_picture(side: usize) -> Result<Picture> {
    let at = |c: usize, y: usize, x: usize| {
        let (y, x) = (y as f32 / side as f32, x as f32 / side as f32);
        [x, y, if ((x * 8.0) as usize).is_multiple_of(2) { 0.2 } else { 0.8 }]
            .get(c)
            .copied()
            .unwrap_or_default()
    };
    let places = (0..3).flat_map(|c| (0..side).flat_map(move |y| (0..side).map(move |x| (c, y, x))));
    let values: Vec<f32> = places.map(|(c, y, x)| at(c, y, x)).collect();
    Picture::from_tensor(Tensor::from_vec(values, (1, 3, side, side), &Device::Cpu)?)
}
