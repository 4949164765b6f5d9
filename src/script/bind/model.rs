//! Models: loading, encoding, predicting, decoding.

use std::cell::RefCell;
use std::path::{Component, Path};

use candle_core::DType;
use rhai::{Dynamic, Map, NativeCallContext};

use super::guidance::Cfg;
use super::hooks::{self, How};
use super::size;
use crate::engine::device;
use crate::engine::diffusion::noise::Rng;
use crate::engine::diffusion::sampler::Sampler;
use crate::engine::diffusion::schedule::{Schedule, ScheduleOptions};
use crate::engine::error::{Error, Result};
use crate::engine::image::Picture;
use crate::engine::latent::Latent;
use crate::engine::nets::hooks::{Site, SiteKind};
use crate::engine::observe::Event;
use crate::engine::ops;
use crate::engine::weights::embedding::Embedding;
use crate::engine::weights::lora_file::Lora;
use crate::engine::weights::model::{LoadOptions, Model};
use crate::script::args::{Either, Opts};
use crate::script::host::Host;
use crate::script::options::{Options, Val};
use crate::script::registry::Registry;
use crate::script::types::Handle;
use crate::script::values::Fail;

/// The model that was loaded last, so that loading it again costs nothing.
#[derive(Default)]
pub struct Models(RefCell<Option<Loaded>>);

#[derive(Clone)]
struct Loaded {
    spec: String,
    model: Model,
    device: String,
}

impl Models {
    /// Lets the model go (it stays while a variable holds it).
    pub fn forget(&self) {
        self.0.replace(None);
    }

    /// The model that was loaded last, with a line about its device.
    pub fn last(&self) -> Option<(Model, String)> {
        self.0.borrow().as_ref().map(|l| (l.model.clone(), l.device.clone()))
    }
}

impl Handle for Model {
    const NAME: &'static str = "Model";

    fn detail(&self) -> String {
        let millions = self.parameters() as f64 / 1e6;
        format!("{}  {millions:.1} M weights  pictures {1}x{1}", self.name(), self.size())
    }

    fn bytes(&self) -> usize {
        Model::bytes(self)
    }
}

pub(super) fn load(host: &Host, spec: &str) -> Result<Model> {
    if let Some(loaded) = host.models.0.borrow().as_ref().filter(|l| l.spec == spec) {
        return Ok(loaded.model.clone());
    }
    let settings = host.settings();
    // A folder that a recipe computes is a path like any other; what the command line names may be read.
    let path = Path::new(spec);
    let outside = path.is_absolute() || path.components().any(|c| c == Component::ParentDir);
    if spec != settings.model && (outside || path.exists()) {
        host.policy.borrow().readable_tree("load", path)?;
    }
    // A LoRA file is a change of a model: of the one in whose folder it lies, or of the one of --model.
    if let Some(lora) = Lora::find(spec)? {
        let base = load(host, lora.base().unwrap_or(&settings.model))?;
        return base.with_lora(&lora, spec, 1.0);
    }
    let (device, mut line) = device::open(&settings.device)?;
    let dtype = match settings.dtype.as_str() {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        other => {
            return Err(Error::value("load", "there is no such number type")
                .expected("f32, f16 or bf16")
                .got(other));
        }
    };
    // Half precision is a way to store weights here; only linear layers have a kernel, for bfloat16.
    let rounds = device.is_cpu() && dtype == DType::BF16 && ops::round_products(true);
    line.push_str(if rounds { ", bf16 in linear layers" } else { "" });
    let dtype = if device.is_cpu() && dtype != DType::F32 {
        let how = match rounds {
            true => "linear layers multiply in bfloat16, each off by about 0.2 %; everything else is f32",
            false => "the CPU computes in f32",
        };
        host.emit(Event::Warn(format!("--dtype {}: {how}", settings.dtype)));
        DType::F32
    } else {
        dtype
    };
    // The old model goes before the new one comes: two may not fit.
    host.models.forget();
    let model = Model::load(spec, &LoadOptions { device, dtype, cancel: host.cancel().clone() })?;
    if model.unused().len() > 3 {
        let list = model.unused().iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        host.emit(Event::Warn(format!(
            "{spec}: {} tensors of the files are not used: {list}, ...",
            model.unused().len()
        )));
    }
    host.models.0.replace(Some(Loaded { spec: spec.into(), model: model.clone(), device: line }));
    Ok(model)
}

/// Longest prompt, bytes: far more than any positions hold, and little enough for the tokenizer.
const MAX_PROMPT: usize = 1 << 16;

pub(super) fn encode_text(host: &Host, m: &Model, words: &str) -> Result<Embedding> {
    if words.len() > MAX_PROMPT {
        return Err(Error::value("encode", "the prompt is too long")
            .expected(format!("at most {MAX_PROMPT} bytes"))
            .got(format!("{} bytes", words.len())));
    }
    let text = m.encode_text(words)?;
    if let Some(cut) = text.cut() {
        host.emit(Event::Warn(format!(
            "the prompt is too long: {} positions hold no more; cut off: \"{cut}\"",
            text.len()
        )));
    }
    Ok(text)
}

fn encode_picture(m: &Model, picture: &Picture, wanted: Option<(usize, usize)>) -> Result<Latent> {
    let (w, h) = wanted.unwrap_or((m.size(), m.size()));
    let unit = m.unit();
    if w == 0 || h == 0 || w % unit != 0 || h % unit != 0 {
        return Err(Error::value("encode", "the picture size does not fit this model")
            .expected(format!("multiples of {unit}"))
            .got(format!("{w}x{h}")));
    }
    m.encode_picture(&picture.fit(w, h)?)
}

fn number(o: &Options, name: &str) -> f64 {
    o.0.get(name).and_then(Val::number).unwrap_or(0.0)
}

fn text<'a>(o: &'a Options, name: &str) -> Option<&'a str> {
    o.0.get(name).and_then(Val::text)
}

/// The number of steps and how they are made, from a recipe's options or from `opts`, which count more.
pub(super) fn schedule(m: &Model, steps: &Either<usize, Options>, opts: &Opts) -> Result<Schedule> {
    let (n, recipe) = match steps {
        Either::Left(n) => (*n, None),
        Either::Right(o) => (number(o, "steps") as usize, Some(o)),
    };
    let named = |key: &str, default: &str| -> Result<String> {
        opts.or(key, recipe.and_then(|o| text(o, key)).unwrap_or(default).to_string())
    };
    let options = ScheduleOptions {
        sampler: Sampler::parse(&named("sampler", "ddim")?)?,
        rng: Rng::parse("schedule", &named("rng", "torch")?)?,
        noise_eta: opts.or("noise_eta", recipe.map_or(0.0, |o| number(o, "noise_eta")))?,
        seed: opts.or("seed", recipe.map_or(0, |o| number(o, "seed") as u64))?,
    };
    m.schedule(n, options)
}

pub(super) fn noise(m: &Model, seed: &Either<u64, Options>, opts: &Opts) -> Result<Latent> {
    let (seed, n, given, rng) = match seed {
        Either::Left(seed) => (*seed, 1, None, None),
        Either::Right(o) => (
            number(o, "seed") as u64,
            number(o, "n") as usize,
            o.0.get("size").map(Val::to_dynamic),
            text(o, "rng"),
        ),
    };
    let rng = Rng::parse("noise", &opts.or("rng", rng.unwrap_or("torch").to_string())?)?;
    let n = opts.or("n", n)?;
    let given = opts.get::<Dynamic>("size")?.or(given);
    let size = size("noise", given.as_ref())?;
    m.noise(rng, seed, n, size)
}

/// The options of a prediction, with the tape of the gradient that is being computed, if its blocks shall be computed
/// twice.
fn how(host: &Host, m: &Model, o: &Opts) -> Result<How> {
    let gradient = if o.or("checkpoint", m.is_checkpointed())? { host.gradient() } else { None };
    let tape = gradient.map(|g| std::rc::Rc::clone(g.tape()));
    Ok(How { tape, ..How::read(o)? })
}

/// Noise, or noise and activations where some were asked for.
fn predicted(
    (eps, features): (Latent, Vec<candle_core::Tensor>),
    names: &[String],
) -> std::result::Result<Either<Latent, Map>, Fail> {
    if names.is_empty() {
        return Ok(Either::Left(eps));
    }
    let features =
        features.into_iter().map(|f| Ok(Dynamic::from(Latent::new(f)?))).collect::<Result<Vec<_>>>()?;
    let mut map = Map::new();
    map.insert("eps".into(), Dynamic::from(eps));
    map.insert("features".into(), Dynamic::from_array(features));
    Ok(Either::Right(map))
}

/// A site with what stands there for pictures of the model's own size.
fn site(m: &Model, site: &Site) -> Map {
    let side = m.size() / m.factor();
    let mut map = hooks::describe(site, (side, side), m.reduction(site));
    let side = side.div_ceil(m.reduction(site)) as i64;
    let keys = m.positions() as i64;
    let shape = match site.kind {
        SiteKind::CrossAttention => vec![site.heads as i64, side * side, keys],
        SiteKind::SelfAttention => vec![site.heads as i64, side * side, side * side],
        SiteKind::Activation => vec![site.channels as i64, side, side],
    };
    map.insert("shape".into(), Dynamic::from_array(shape.into_iter().map(Dynamic::from).collect()));
    map
}

fn similarity(m: &Model, picture: &Picture, what: &Either<String, Picture>) -> Result<Either<f64, Vec<f64>>> {
    let pictures = m.picture_features(picture)?.to_dtype(DType::F32)?;
    let other = match what {
        Either::Left(words) if words.len() > MAX_PROMPT => {
            return Err(Error::value("similarity", "the text is too long")
                .expected(format!("at most {MAX_PROMPT} bytes")));
        }
        Either::Left(words) => m.text_features(words)?,
        Either::Right(other) => m.picture_features(&other.index(0)?)?,
    };
    let scores = pictures.matmul(&other.to_dtype(DType::F32)?.t()?)?.flatten_all()?.to_vec1::<f32>()?;
    let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
    Ok(if let [one] = scores[..] { Either::Left(one) } else { Either::Right(scores) })
}

/// Binds them.
pub fn register(r: &mut Registry) {
    r.group("Models", "A latent diffusion model: text encoder, UNet, autoencoder, training schedule.");
    let host = r.host();
    r.def(
        "load(name)",
        "Loads a model: `emoji` (the embedded one), a diffusers folder, or a name in the Hugging Face cache. Without a name, \
         the one of --model. Loading the same model again costs nothing. A LoRA file, or a folder with one, gives the model \
         in whose folder it lies (else the one of --model) with the LoRA merged in: `emoji/expert-ink`.",
    )
    .example("let m = load(\"emoji\");\nm.name // => \"emoji\"")
    .example("load(\"emojy\") // error: emojy")
    .see(&["Model", "options"])
    .work()
    .bind(move |name: Option<String>| load(&host, &name.unwrap_or_else(|| host.settings().model.clone())));
    let host = r.host();
    r.def(
        "m.encode(what)",
        "Words become an Embedding (the text encoder's states of the prompt); a picture becomes a Latent (the mean of the \
         autoencoder's distribution, scaled). A picture is cropped around its center and scaled to the model's own size, or \
         to `size`.",
    )
    .option("size", "pixels|[w, h]", "of the picture; 0 = the model's own")
    .example("let m = load(\"emoji\");\nm.encode(\"a cup of coffee\") // => Embedding \"a cup of coffee\"  4 words")
    .example("let m = load(\"emoji\");\nm.encode(open(\"dog-flat.png\")).shape // => [1, 4, 16, 16]")
    .see(&["decode", "Embedding", "Latent", "open"])
    .work()
    .bind(move |m: Model, what: Either<String, Picture>, o: Opts| -> Result<Either<Embedding, Latent>> {
        Ok(match what {
            Either::Left(words) => Either::Left(encode_text(&host, &m, &words)?),
            Either::Right(p) => {
                Either::Right(encode_picture(&m, &p, size("encode", o.get::<Dynamic>("size")?.as_ref())?)?)
            }
        })
    });
    r.def("m.decode(z)", "The pictures of latents, by the autoencoder's decoder.")
        .example("let m = load(\"emoji\");\nlet z = m.encode(open(\"dog-flat.png\"));\nm.decode(z) // => Image 64x64")
        .see(&["encode", "show", "save"])
        .work()
        .bind(|m: Model, z: Latent| {
            if z.has_non_finite()? {
                return Err(Error::value("decode", "the latent holds values that are no numbers (NaN or infinite)")
                    .hint("a smaller cfg, or --dtype f32; print(z) after each step shows where it begins"));
            }
            m.decode(&z)
        });
    r.def(
        "m.schedule(steps)",
        "The noise levels of a sampling run, noisiest first. Given the options of a recipe, it takes `steps`, `sampler`, \
         `noise_eta` and `seed` from them.",
    )
    .option("sampler", "string", "ddim, euler, euler_a, euler_karras, dpmpp_2m, dpmpp_2m_karras or lcm")
    .option("noise_eta", "number", "share of fresh noise per step of ddim or euler, 0..1")
    .option("seed", "integer", "of the fresh noise, where a sampler takes any")
    .option("rng", "string", "torch (its CPU generator) or philox (its CUDA generator)")
    .example("let s = load(\"emoji\").schedule(50);\n[s.len, s.t(0), s.t(49)] // => [50, 981, 1]")
    .example("load(\"emoji\").schedule(4, #{ sampler: \"lcm\" }).timesteps // => [999, 759, 499, 259]")
    .example("load(\"emoji\").schedule(4, #{ sampler: \"plms\" }) // error: no sampler plms")
    .see(&["Schedule", "noise"])
    .bind(|m: Model, steps: Either<usize, Options>, o: Opts| schedule(&m, &steps, &o));
    r.def(
        "m.noise(seed)",
        "Starting noise, the same as torch's CPU generator gives for this seed. Given the options of a recipe, it takes \
         `seed`, `n`, `size` and `rng` from them. Picture i of n has the noise of seed + i.",
    )
    .option("rng", "string", "torch (its CPU generator) or philox (its CUDA generator, as A1111's GPU and NV noise)")
    .option("n", "integer", "how many pictures")
    .option("size", "pixels|[w, h]", "of the picture; 0 = the model's own")
    .example("let m = load(\"emoji\");\nm.noise(7, #{ n: 2 }).shape // => [2, 4, 16, 16]")
    .example("let m = load(\"emoji\");\ndistance(m.noise(8), m.noise(7, #{ n: 2 }).pick(1)) // => 0.0")
    .see(&["schedule", "add_noise"])
    .work()
    .bind(|m: Model, seed: Either<u64, Options>, o: Opts| noise(&m, &seed, &o));
    let host = r.host();
    r.def(
        "m.predict(z, t, text)",
        "The noise eps that the UNet sees in `z` at training timestep `t` under the prompt, whatever the network's own target \
         is. With `features` the result is #{ eps, features }: activations of the same pass, as Latents. `reuse` and `merge` \
         are approximations that save time: see `guided`.",
    )
    .option("attention", "Attention", "edits of the attention, or a recorder")
    .option("features", "[string]", "activation sites to read: \"input 2\", \"middle 0\", or paths of `m.sites()`")
    .option(
        "checkpoint",
        "true|false",
        "inside of a gradient: compute each block again on the way back, for less memory and a pass more (not the blocks that an \
         edit or a feature looks into)",
    )
    .option("reuse", "integer", "the network's deep features serve that many steps; 1 = off (DeepCache, another picture)")
    .option("merge", "number", "share of the tokens that self-attention merges, 0 to 0.75; 0 = off (ToMe, another picture)")
    .option("merge_seed", "integer", "which tokens others are merged into; 0")
    .example(
        "let m = load(\"emoji\");\nlet s = m.schedule(50);\nm.predict(m.noise(0), s.t(0), m.encode(\"a dog\")).shape \
         // => [1, 4, 16, 16]",
    )
    .example(
        "let m = load(\"emoji\");\nlet p = m.predict(m.noise(0), 981, m.encode(\"a dog\"), #{ features: [\"middle 0\"] });\n\
         p.features[0].shape // => [1, 128, 2, 2]",
    )
    .see(&["guided", "step", "attention", "sites"])
    .work()
    .bind(move |cx: &NativeCallContext, m: Model, z: Latent, t: f64, text: Embedding, o: Opts| {
        let how = how(&host, &m, &o)?;
        predicted(hooks::predict(cx, &m, &z, t, &text, &how)?, &how.features)
    });
    let host = r.host();
    r.def(
        "m.guided(z, t, text, none, cfg)",
        "Classifier-free guidance: `eps(none) + cfg * (eps(text) - eps(none))`, both rows in one call. `none` is the empty or \
         the negative prompt. `cfg` is a number, an interval of noise levels `\"7@0.2..0.8\"` or #{ scale, low, high } outside \
         of which it is 1, or a function |level| of the noise level (see `cfg_at`). Where it is 1 the row of `none` is not \
         computed. `reuse` (Ma, Fang and Wang 2023, arXiv 2312.00858) runs only the outermost layers on the deep features of \
         an earlier step; these travel with the values, from eps over `step` to the next latent, and arithmetic drops them: \
         then the pass is a full one, as it is when prompts or rows change. It has no gradient, and refuses hooks at what is \
         left out. `merge` (Bolya and Hoffman 2023, arXiv 2303.17604) merges similar tokens in self-attention at the latent's \
         own size, except where a hook wants the attention.",
    )
    .option("attention", "Attention", "edits of the attention of the row with the prompt, or a recorder")
    .example(
        "let m = load(\"emoji\");\nlet s = m.schedule(50);\nlet text = m.encode(\"a dog\");\nlet z = m.noise(0);\n\
         distance(m.guided(z, 981, text, m.encode(\"\"), 1), m.predict(z, 981, text)) // => 0.0",
    )
    .example(
        "let m = load(\"emoji\");\nlet text = m.encode(\"a dog\");\nlet none = m.encode(\"\");\nlet st = m.schedule(6).stepper(m.noise(0));\n\
         while !st.done {\n    st = st.step(m.guided(st.z, st.t, text, none, \"7@0.2..0.8\", #{ reuse: 2, merge: 0.5 }));\n}\nst.z.shape // => [1, 4, 16, 16]",
    )
    .see(&["predict", "step", "attention", "cfg_at", "work"])
    .work()
    .option("features", "[string]", "activation sites to read, in the rows with the prompt: the result is #{ eps, features }")
    .option(
        "checkpoint",
        "true|false",
        "inside of a gradient: compute each block again on the way back, for less memory and a pass more (not the blocks that an \
         edit or a feature looks into)",
    )
    .option("reuse", "integer", "the network's deep features serve that many steps; 1 = off (DeepCache, another picture)")
    .option("merge", "number", "share of the tokens that self-attention merges, 0 to 0.75; 0 = off (ToMe, another picture)")
    .option("merge_seed", "integer", "which tokens others are merged into; 0")
    .bind(move |cx: &NativeCallContext, m: Model, z: Latent, t: f64, text: Embedding, none: Embedding, cfg: Cfg, o: Opts| {
        let (how, cfg) = (how(&host, &m, &o)?, cfg.at(cx, &m, t)?);
        predicted(hooks::guided(cx, &m, &z, t, (&text, &none, cfg), &how)?, &how.features)
    });
    r.def(
        "m.similarity(picture, what)",
        "How well a picture fits a text or another picture: the cosine of their CLIP features, by the CLIP beside the model. \
         One number, or a list for several pictures.",
    )
    .example(
        "let m = load(\"emoji\");\nlet dog = open(\"dog-flat.png\");\nm.similarity(dog, \"a dog\") > m.similarity(dog, \"a bus\") \
         // => true",
    )
    .see(&["open"])
    .work()
    .bind(|m: Model, picture: Picture, what: Either<String, Picture>| similarity(&m, &picture, &what));
    r.def(
        "m.target(x0, noise, t)",
        "What the network should have said for `x0` noised with `noise` to timestep `t`, the target of training: the noise, or v \
         for a network that predicts v (Salimans and Ho 2022). The loss is mse(m.predict(z, t, text).output, m.target(x0, noise, t)). \
         One latent and n noises give n targets.",
    )
    .example("let m = load(\"emoji\");\nlet e = m.noise(1);\ndistance(m.target(m.noise(2), e, 500), e) // => 0.0")
    .see(&["output", "predict", "add_noise"])
    .bind(|m: Model, x0: Latent, noise: Latent, t: f64| m.target(&x0, &noise, t));
    r.def(
        "m.sites()",
        "The places in its UNet that can be read and changed: a list of maps with path, kind, CompVis alias, heads, channels, \
         height, width, and the shape of one row: [channels, height, width] of an activation, [heads, queries, keys] of \
         attention, for pictures of the model's own size.",
    )
    .example("load(\"emoji\").sites()[0].path // => \"conv_in\"")
    .example("load(\"emoji\").sites().filter(|s| s.kind == \"cross-attention\").map(|s| s.shape)[0] // => [2, 256, 77]")
    .see(&["predict"])
    .bind(|m: Model| m.sites().into_iter().map(|s| site(&m, s)).collect::<Vec<Map>>());
    r.prop("m.name", "What it was loaded by.")
        .example("load(\"emoji\").name // => \"emoji\"")
        .bind(|m: Model| m.name().to_string());
    r.prop("m.has_clip", "Whether a CLIP lies beside the model, which `similarity` and `clip` need.")
        .example("load(\"emoji\").has_clip // => true")
        .see(&["similarity"])
        .bind(|m: Model| m.has_clip());
    r.prop("m.size", "The side of the pictures that it was trained on, in pixels.")
        .example("load(\"emoji\").size // => 64")
        .bind(|m: Model| m.size());
    r.prop("m.factor", "Picture pixels per latent pixel, on a side.")
        .example("load(\"emoji\").factor // => 4")
        .bind(|m: Model| m.factor());
    r.prop(
        "m.work",
        "What its UNet has done since it was loaded, as a map: `passes`, calls of the network; `shallow`, those that ran on \
         reused features; `rows`, pictures and prompts of all calls together (guidance needs two rows a picture); `keys`, how \
         often keys and values of prompts were computed at one place.",
    )
    .example(
        "let m = load(\"emoji\");\nlet before = m.work.rows;\nm.sample(\"a dog\", #{ steps: 10, cfg: \"7@0.0..0.4\" });\n\
         m.work.rows - before // => 14",
    )
    .see(&["guided", "sites"])
    .bind(|m: Model| {
        let work = m.work();
        let list = [
            ("passes", work.passes()),
            ("shallow", work.shallow()),
            ("rows", work.rows()),
            ("keys", work.keys()),
        ];
        list.into_iter().map(|(k, v)| (k.into(), (v as i64).into())).collect::<Map>()
    });
    r.prop("m.memory", "Bytes of its weights in memory.")
        .example("load(\"emoji\").memory > 1000000 // => true")
        .bind(|m: Model| Model::bytes(&m));
}
