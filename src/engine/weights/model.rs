//! [`Model`]: a diffusers folder, loaded: text encoder, UNet, VAE, schedule; and the calls that scripts make on it.

mod adapt;
mod look;

use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};

use super::changed::Changes;
use super::defaults::Defaults;
use super::embedding::Embedding;
use super::folder::Folder;
use super::locate::locate;
use super::prompts::{PromptCache, Prompts};
use super::tokenizer::Tokenizer;
use super::{Scope, Weights};
use crate::engine::diffusion::noise::Rng;
use crate::engine::diffusion::schedule::{Schedule, ScheduleOptions, implied_noise};
use crate::engine::diffusion::train_schedule::{Prediction, TrainSchedule};
use crate::engine::error::{Error, Result};
use crate::engine::image::Picture;
use crate::engine::latent::{Latent, Raw};
use crate::engine::nets::attention_edit::Attention;
use crate::engine::nets::clip_text::ClipText;
use crate::engine::nets::clip_vision::Clip;
use crate::engine::nets::hooks::{Extra, Features, Hooks, Row, Site, SiteKind};
use crate::engine::nets::unet::{Kept, Merge, Pass, Shortcuts, Unet, UnetConfig, Work, spread};
use crate::engine::nets::vae::{Vae, VaeConfig};
use crate::engine::observe::Cancel;
use crate::engine::tape::Tape;

/// How to load a model.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where it computes.
    pub device: Device,
    /// The type it computes in.
    pub dtype: DType,
    /// Stops loading between networks, and every later call of the model between blocks.
    pub cancel: Cancel,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions { device: Device::Cpu, dtype: DType::F32, cancel: Cancel::default() }
    }
}

/// How to predict: attention edits and activations to collect.
#[derive(Clone, Debug, Default)]
pub struct PredictOptions {
    /// Edits of the attention.
    pub attention: Option<Attention>,
    /// Activation sites to read, graph kept.
    pub features: Vec<String>,
    /// Computes the UNet's blocks again on the way back: less memory for a gradient, at one more pass.
    pub tape: Option<Rc<Tape>>,
    /// Approximations; off unless said.
    pub shortcuts: Shortcuts,
}

struct Parts {
    name: String,
    folder: Folder,
    options: LoadOptions,
    text: ClipText,
    tokenizer: Arc<Tokenizer>,
    unet: Unet,
    vae: Vae,
    train: Arc<TrainSchedule>,
    defaults: Option<Defaults>,
    clip: Arc<OnceLock<Option<ClipPair>>>,
    /// What the networks were built from, to build them again where weights change.
    unet_weights: Weights,
    text_weights: Weights,
    text_config: Arc<serde_json::Value>,
    changes: Arc<Changes>,
    /// Whether a gradient computes the UNet's blocks twice unless a call says otherwise.
    checkpointed: bool,
    parameters: usize,
    fingerprint: String,
    unused: Vec<String>,
    prompts: PromptCache,
    work: Arc<Work>,
    /// Tells this model from all others, whatever their weights.
    identity: Arc<()>,
}

type ClipPair = (Clip, Tokenizer);

/// A loaded model. Immutable, cheap to clone; freed when the last clone goes.
#[derive(Clone)]
pub struct Model(Arc<Parts>);

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Model({})", self.0.name)
    }
}

impl Model {
    /// Loads the model that `spec` names (see [`locate`]).
    /// Errors: not there, files missing or malformed, a network that does not fit its config, cancelled.
    pub fn load(spec: &str, options: &LoadOptions) -> Result<Self> {
        let folder = locate(spec)?;
        let (device, dtype) = (&options.device, options.dtype);
        let mut unused = Vec::new();
        let mut parameters = 0;
        let mut fingerprints = Vec::new();
        let mut weights = |part: &str, stem: &str| -> Result<(Weights, Scope)> {
            options.cancel.check("load")?;
            let files = folder.sub(part).weights(stem)?;
            fingerprints
                .extend(files.iter().map(super::read::TensorFile::fingerprint).collect::<Result<Vec<_>>>()?);
            let all = Weights::load(&files, dtype, device)?;
            parameters += all.parameters();
            let scope = all.scope();
            Ok((all, scope))
        };
        let config = |part: &str| folder.sub(part).json("config.json");

        let (text_weights, w) = weights("text_encoder", "model")?;
        let text_config = config("text_encoder")?;
        let text = ClipText::new(&w, &text_config).map_err(|e| within(e, "text_encoder"))?;
        unused.extend(w.unused());
        let tokenizer = Tokenizer::load(&folder.sub("tokenizer"), text.length(), text.vocab())?;

        let (unet_weights, w) = weights("unet", "diffusion_pytorch_model")?;
        let unet = Unet::new(&w, UnetConfig::parse(&config("unet")?)?).map_err(|e| within(e, "unet"))?;
        unused.extend(w.unused());

        let (_, w) = weights("vae", "diffusion_pytorch_model")?;
        let vae = Vae::new(&w, VaeConfig::parse(&config("vae")?)?).map_err(|e| within(e, "vae"))?;
        unused.extend(w.unused());

        if text.width() != unet.config().context {
            return Err(Error::shape("load", format!("{spec}: the text encoder and the UNet do not fit"))
                .expected(format!("prompt states of width {}", unet.config().context))
                .got(format!("{}", text.width())));
        }
        let train = TrainSchedule::parse(&folder.sub("scheduler").json("scheduler_config.json")?)?;
        // Positions are a buffer that old exports carry along.
        unused.retain(|n| !n.ends_with("position_ids"));
        Ok(Model(Arc::new(Parts {
            name: spec.to_string(),
            defaults: Defaults::read(&folder)?,
            folder,
            options: options.clone(),
            text,
            tokenizer: Arc::new(tokenizer),
            unet,
            vae,
            train: Arc::new(train),
            clip: Arc::default(),
            unet_weights,
            text_weights,
            text_config: Arc::new(text_config),
            changes: Arc::default(),
            checkpointed: false,
            parameters,
            fingerprint: join_fingerprints(&fingerprints),
            unused,
            prompts: PromptCache::default(),
            work: Arc::default(),
            identity: Arc::new(()),
        })))
    }

    /// The same model under another name, for a value that nobody else holds yet.
    pub(super) fn named(self, name: &str) -> Model {
        match Arc::try_unwrap(self.0) {
            Ok(parts) => Model(Arc::new(Parts { name: name.to_string(), ..parts })),
            Err(shared) => Model(shared),
        }
    }

    /// The same model with other networks in the place of those that are given.
    pub(super) fn rebuilt(
        &self,
        unet: Option<Weights>,
        text: Option<Weights>,
        changes: Arc<Changes>,
        fingerprint: String,
    ) -> Result<Model> {
        let p = &*self.0;
        let new_unet = match &unet {
            Some(w) => Unet::new(&w.scope(), p.unet.config().clone())?,
            None => p.unet.clone(),
        };
        let new_text = match &text {
            Some(w) => ClipText::new(&w.scope(), &p.text_config)?,
            None => p.text.clone(),
        };
        let same_tokens = changes.tokens.iter().map(|(t, _)| t).eq(p.changes.tokens.iter().map(|(t, _)| t));
        let tokenizer = match same_tokens {
            true => Arc::clone(&p.tokenizer),
            false => {
                let added = changes.tokens.iter().map(|(t, rows)| Ok((t.as_str(), rows.dim(0)?)));
                let added = added.collect::<Result<Vec<_>>>()?;
                let base = Tokenizer::load(&p.folder.sub("tokenizer"), new_text.length(), new_text.vocab())?;
                Arc::new(base.with_words(&added, new_text.vocab())?)
            }
        };
        let rows: Vec<&Tensor> = changes.tokens.iter().map(|(_, rows)| rows).collect();
        let added = if rows.is_empty() { None } else { Some(Tensor::cat(&rows, 0)?) };
        Ok(Model(Arc::new(Parts {
            name: p.name.clone(),
            folder: p.folder.clone(),
            options: p.options.clone(),
            text: new_text.with_added(added)?,
            tokenizer,
            unet: new_unet,
            vae: p.vae.clone(),
            train: Arc::clone(&p.train),
            defaults: p.defaults.clone(),
            clip: Arc::clone(&p.clip),
            unet_weights: unet.unwrap_or_else(|| p.unet_weights.clone()),
            text_weights: text.unwrap_or_else(|| p.text_weights.clone()),
            text_config: Arc::clone(&p.text_config),
            changes,
            checkpointed: p.checkpointed,
            parameters: p.parameters,
            fingerprint,
            unused: p.unused.clone(),
            // Keys and values of prompts belong to the old weights.
            prompts: PromptCache::default(),
            work: Arc::clone(&p.work),
            identity: Arc::new(()),
        })))
    }

    /// The weights that its UNet was built from.
    pub(super) fn unet_weights(&self) -> &Weights {
        &self.0.unet_weights
    }

    /// The weights that its text encoder was built from.
    pub(super) fn text_weights(&self) -> &Weights {
        &self.0.text_weights
    }

    /// In what it differs from the model that was loaded.
    pub fn changes(&self) -> &Changes {
        &self.0.changes
    }

    /// Width of the text encoder's vectors.
    pub fn text_width(&self) -> usize {
        self.0.text.width()
    }

    /// The type of the token table.
    pub(super) fn text_dtype(&self) -> DType {
        self.0.text.dtype()
    }

    /// The token table's rows of a word, `[n, width]`, one for each token that it is cut into.
    pub fn word_rows(&self, word: &str) -> Result<Tensor> {
        let ids = self.0.tokenizer.word_ids(word)?;
        if ids.is_empty() {
            return Err(
                Error::value("token", "the word to begin with is empty").hint("a coarse word, like \"dog\"")
            );
        }
        Ok(self.0.text.token_rows(&ids)?.squeeze(0)?)
    }

    /// Whether its gradients compute the UNet's blocks twice unless a call says otherwise.
    pub fn is_checkpointed(&self) -> bool {
        self.0.checkpointed
    }

    /// The same model; its gradients compute the UNet's blocks twice (less memory), or not.
    pub fn checkpointed(self, on: bool) -> Result<Model> {
        let p = &*self.0;
        let mut new = self.rebuilt(None, None, Arc::clone(&p.changes), p.fingerprint.clone())?;
        match Arc::get_mut(&mut new.0) {
            Some(parts) => parts.checkpointed = on,
            None => return Err(Error::new(crate::engine::Kind::Internal, "tune", "a new model is shared")),
        }
        Ok(new)
    }

    /// The name it was loaded by.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Number of weights of its networks.
    pub fn parameters(&self) -> usize {
        self.0.parameters
    }

    /// Sixteen hexadecimal digits that change when the weight files do.
    pub fn fingerprint(&self) -> &str {
        &self.0.fingerprint
    }

    /// Tensors in the files that no network asked for (more than a few: another architecture).
    pub fn unused(&self) -> &[String] {
        &self.0.unused
    }

    /// Bytes of its weights in memory.
    pub fn bytes(&self) -> usize {
        self.0.parameters * self.0.options.dtype.size_in_bytes()
    }

    /// What its UNet has done since it was loaded.
    pub fn work(&self) -> &Work {
        &self.0.work
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.0.options.device
    }

    /// Its measured defaults, if it has any.
    pub fn defaults(&self) -> Option<&Defaults> {
        self.0.defaults.as_ref()
    }

    /// Every site that hooks can reach in its UNet.
    pub fn sites(&self) -> Vec<&Site> {
        self.0.unet.sites()
    }

    /// Number of positions of its prompts (77).
    pub fn positions(&self) -> usize {
        self.0.text.length()
    }

    /// By how much the feature maps at a site are smaller than the latent, on a side.
    pub fn reduction(&self, site: &Site) -> usize {
        self.0.unet.reduction(site)
    }

    /// An error that names the nearest sites, unless every name means one.
    pub fn known_sites<'a>(&self, names: impl Iterator<Item = &'a String>) -> Result<()> {
        for name in names {
            let sites = self.sites();
            if !sites.iter().any(|s| s.is_in(name)) {
                let mut parts: Vec<&str> = sites.iter().filter_map(|s| s.alias.as_deref()).collect();
                parts.extend(["down_blocks", "mid_block", "up_blocks"]);
                return Err(Error::missing("sites", format!("the network has no site \"{name}\""))
                    .expected(format!("a path of m.sites(), its beginning, or one of: {}", parts.join(", ")))
                    .hint("m.sites() lists them"));
            }
        }
        Ok(())
    }

    /// Picture pixels per latent pixel, on a side.
    pub fn factor(&self) -> usize {
        self.0.vae.config().factor
    }

    /// The side of the pictures that it was trained on, in pixels.
    pub fn size(&self) -> usize {
        self.0.unet.config().sample_size * self.factor()
    }

    /// The training schedule.
    pub fn train_schedule(&self) -> &TrainSchedule {
        &self.0.train
    }

    /// Encodes a prompt. One that is too long is cut: see [`Embedding::cut`].
    pub fn encode_text(&self, prompt: &str) -> Result<Embedding> {
        let encoded = self.0.tokenizer.encode(prompt)?;
        let ids: Vec<u32> = encoded.tokens.iter().map(|t| t.id).collect();
        let mut hooks = Hooks::none().with_cancel(self.0.options.cancel.clone());
        let states = self.0.text.forward(&ids, &mut hooks)?;
        Ok(Embedding::new(states, prompt, encoded, Arc::clone(&self.0.tokenizer)))
    }

    /// The latent mean of pictures whose sides are multiples of [`Model::unit`].
    /// Errors: another size (see [`Picture::fit`]).
    pub fn encode_picture(&self, picture: &Picture) -> Result<Latent> {
        let x =
            picture.tensor().to_device(self.device())?.to_dtype(self.0.options.dtype)?.affine(2.0, -1.0)?;
        let mut hooks = Hooks::none().with_cancel(self.0.options.cancel.clone());
        Latent::new(self.0.vae.encode_mean(&x, &mut hooks)?)
    }

    /// Pictures of latents, in main memory and clamped to 0..1 unless a gradient is wanted.
    pub fn decode(&self, z: &Latent) -> Result<Picture> {
        let z = z.tensor().to_device(self.device())?.to_dtype(self.0.options.dtype)?;
        let mut hooks = Hooks::none().with_cancel(self.0.options.cancel.clone());
        // One picture at a time: a batch at 512 pixels would hold all its activations at once.
        let pictures: Vec<Tensor> = (0..z.dim(0)?)
            .map(|i| {
                let one = if z.dim(0)? == 1 { z.clone() } else { z.narrow(0, i, 1)?.contiguous()? };
                self.0.vae.decode(&one, &mut hooks)
            })
            .collect::<Result<_>>()?;
        let x = if pictures.len() == 1 { pictures[0].clone() } else { Tensor::cat(&pictures, 0)? };
        let x = x.affine(0.5, 0.5)?;
        let x = x.to_dtype(DType::F32)?;
        Picture::from_tensor(if x.track_op() { x } else { x.clamp(0.0, 1.0)?.to_device(&Device::Cpu)? })
    }

    /// A schedule of `n` sampling steps; see [`Schedule::new`].
    pub fn schedule(&self, n: usize, options: ScheduleOptions) -> Result<Schedule> {
        Schedule::new(Arc::clone(&self.0.train), n, options)
    }

    /// The picture side of which width and height must be multiples.
    pub fn unit(&self) -> usize {
        self.factor() << (self.0.unet.config().widths.len() - 1)
    }

    /// Starting noise for `n` pictures of `size` (width, height) pixels (the model's own size if not said): picture `i`
    /// has the noise that a single picture of seed + i has.
    /// Errors: n = 0; a size that is no multiple of [`Model::unit`], 0, or larger than 4096.
    pub fn noise(&self, rng: Rng, seed: u64, n: usize, size: Option<(usize, usize)>) -> Result<Latent> {
        let (w, h) = size.unwrap_or((self.size(), self.size()));
        let unit = self.unit();
        if w == 0 || h == 0 || w % unit != 0 || h % unit != 0 || w > 4096 || h > 4096 {
            return Err(Error::value("noise", "the picture size does not fit this model")
                .expected(format!("multiples of {unit} up to 4096"))
                .got(format!("{w}x{h}"))
                .hint(format!("{} is what it was trained on", self.size())));
        }
        if n == 0 || n > 4096 {
            return Err(Error::value("noise", "the number of pictures is out of range")
                .expected("1..4096")
                .got(n.to_string()));
        }
        let (c, f) = (self.0.vae.config().latent_channels, self.factor());
        let each = c * (h / f) * (w / f);
        let mut values = Vec::with_capacity(n * each);
        for i in 0..n as u64 {
            values.extend(rng.draw(seed.wrapping_add(i), 0, each));
        }
        let t = Tensor::from_vec(values, (n, c, h / f, w / f), self.device())?;
        Latent::new(t.to_dtype(self.0.options.dtype)?)
    }

    /// The noise that the UNet predicts in `z [n, ...]` at training timestep `t` under the prompt (whatever the network's
    /// own target is), and the activations that were asked for.
    /// Errors: t outside the schedule, shapes that do not fit, an edit of another prompt, cancelled.
    pub fn predict(
        &self,
        z: &Latent,
        t: f64,
        text: &Embedding,
        options: &PredictOptions,
    ) -> Result<(Latent, Vec<Tensor>)> {
        self.predict_with(z, t, text, options, &mut Extra::default())
    }

    /// [`Model::predict`] with hooks of the caller's own, which work after the edits in `options`.
    pub fn predict_with(
        &self,
        z: &Latent,
        t: f64,
        text: &Embedding,
        options: &PredictOptions,
        extra: &mut Extra,
    ) -> Result<(Latent, Vec<Tensor>)> {
        let n = z.dims().0;
        let rows = vec![Row::Conditional; n];
        self.run(z, t, &*self.prompts(&vec![text; n])?, rows, text, options, extra)
    }

    /// Classifier-free guidance (Ho and Salimans 2022): `none + cfg (text - none)`, both in one batch. With `cfg` 1 only
    /// the prompt is predicted.
    pub fn guided(
        &self,
        z: &Latent,
        t: f64,
        text: &Embedding,
        none: &Embedding,
        cfg: f64,
        options: &PredictOptions,
    ) -> Result<Latent> {
        Ok(self.guided_with(z, t, text, none, cfg, options, &mut Extra::default())?.0)
    }

    /// [`Model::guided`] with hooks of the caller's own, and the activations that were asked for, of the rows with the
    /// prompt.
    #[allow(clippy::too_many_arguments)]
    pub fn guided_with(
        &self,
        z: &Latent,
        t: f64,
        text: &Embedding,
        none: &Embedding,
        cfg: f64,
        options: &PredictOptions,
        extra: &mut Extra,
    ) -> Result<(Latent, Vec<Tensor>)> {
        if !cfg.is_finite() {
            return Err(Error::value("guided", "cfg must be a finite number").got(cfg.to_string()));
        }
        if cfg == 1.0 {
            return self.predict_with(z, t, text, options, extra);
        }
        let n = z.dims().0;
        let both = Latent::new(Tensor::cat(&[z.tensor(), z.tensor()], 0)?)?.with_kept(z.kept().cloned());
        let mut prompts = vec![none; n];
        prompts.resize(2 * n, text);
        let mut rows = vec![Row::Unconditional; n];
        rows.resize(2 * n, Row::Conditional);
        let prompts = self.prompts(&prompts)?;
        let (both, features) = self.run(&both, t, &prompts, rows, text, options, extra)?;
        let features = features.iter().map(|f| Ok(f.narrow(0, n, n)?)).collect::<Result<_>>()?;
        let part = |x: &Tensor, i: usize| -> Result<Tensor> { Ok(x.narrow(0, i * n, n)?) };
        let mix = |x: &Tensor| -> Result<Tensor> {
            let (none, text) = (part(x, 0)?, part(x, 1)?);
            Ok((&none + ((text - &none)? * cfg)?)?)
        };
        let eps = Latent::new(mix(both.tensor())?)?.with_kept(both.kept().cloned());
        match both.raw() {
            Some(raw) => {
                let tensor = mix(&raw.tensor)?;
                Ok((eps.with_raw(Raw { tensor, kind: raw.kind, of: z.tensor().id() }), features))
            }
            None => Ok((eps, features)),
        }
    }

    fn prompts(&self, prompts: &[&Embedding]) -> Result<Arc<Prompts>> {
        self.0.prompts.get(prompts, &self.0.work)
    }

    #[allow(clippy::too_many_arguments)]
    fn run(
        &self,
        z: &Latent,
        t: f64,
        prompts: &Prompts,
        rows: Vec<Row>,
        text: &Embedding,
        options: &PredictOptions,
        extra: &mut Extra,
    ) -> Result<(Latent, Vec<Tensor>)> {
        let ab = self.0.train.alpha_at("predict", t)?;
        let (_, _, h, w) = z.dims();
        let mut edit = match &options.attention {
            Some(attention) => {
                self.known_sites(attention.names())?;
                attention.hook(text, h, w)?
            }
            None => None,
        };
        let mut features = Features::new(&options.features);
        let shortcuts = options.shortcuts;
        let merge = (shortcuts.merge() > 0.0)
            .then(|| Merge { ratio: shortcuts.merge(), seed: spread(shortcuts.merge_seed() ^ t.to_bits()) });
        let mut hooks = Hooks::for_rows(rows)
            .with_cancel(self.0.options.cancel.clone())
            .with_tape(options.tape.clone())
            .with_merge(merge);
        if let Some(edit) = &mut edit {
            hooks = hooks.with_attention(edit);
        }
        if !options.features.is_empty() {
            self.known_sites(options.features.iter())?;
            hooks = hooks.with_activation(&mut features);
        }
        for hook in &mut extra.attention {
            hooks = hooks.with_attention(hook.as_mut());
        }
        for hook in &mut extra.activation {
            hooks = hooks.with_activation(hook.as_mut());
        }
        let z_in = z.tensor().to_device(self.device())?.to_dtype(self.0.options.dtype)?;
        let kept = self.kept(z, prompts, &hooks, shortcuts.reuse())?;
        let pass = match &kept {
            _ if shortcuts.reuse() == 1 => Pass::Full,
            Some(kept) => Pass::From(kept.features()),
            None => Pass::Keep,
        };
        self.0.work.pass(z.dims().0, matches!(pass, Pass::From(_)));
        let (out, deep) = self.0.unet.forward_pass(&z_in, t, &prompts.context, &mut hooks, pass)?;
        let out = out.to_dtype(z.tensor().dtype())?;
        drop(hooks);
        if deep.as_ref().is_some_and(Tensor::track_op) {
            return Err(no_gradient());
        }
        let kept = match (kept, deep) {
            (Some(kept), _) => Some(Arc::new(kept.aged(kept.age() + 1))),
            (None, deep) => deep.map(|d| Arc::new(Kept::new(&self.0.identity, &prompts.ids, d))),
        };
        let eps = implied_noise(self.0.train.prediction, z, out, ab)?.with_kept(kept);
        Ok((eps, features.take()?))
    }

    /// The deep features that came with `z`, if they may serve once more.
    /// Errors: a gradient is wanted, or a hook wants what a shallow pass leaves out (also where this pass is a full one:
    /// a mistake is told at once).
    fn kept(&self, z: &Latent, prompts: &Prompts, hooks: &Hooks, reuse: usize) -> Result<Option<Arc<Kept>>> {
        if reuse == 1 {
            return Ok(None);
        }
        let states = prompts.context.states();
        if z.tensor().track_op() || states.track_op() {
            return Err(no_gradient());
        }
        let (_, _, h, w) = z.dims();
        let deep = self.0.unet.deep_sites();
        let wanted = deep.iter().find(|site| {
            let side = self.0.unet.reduction(site);
            let queries = (h / side) * (w / side);
            let keys = if site.kind == SiteKind::CrossAttention { states.dims()[1] } else { queries };
            hooks.wants(site, queries, keys)
        });
        if let Some(site) = wanted {
            let runs = |s: &&Site| !deep.iter().any(|d| d.path == s.path);
            let sites = self.sites();
            let runs: Vec<&str> = sites.into_iter().filter(runs).filter_map(|s| s.alias.as_deref()).collect();
            return Err(Error::value(
                "reuse",
                "an edit, a recorder or a feature needs what reuse leaves out",
            )
            .expected(format!("sites that every step runs: {}; or reuse 1", runs.join(", ")))
            .got(site.alias.clone().unwrap_or_else(|| site.path.clone()))
            .hint("leave out reuse here, or let the edit work at those sites alone"));
        }
        let fits = |kept: &&Arc<Kept>| kept.serves(&self.0.identity, &prompts.ids, (h, w), reuse);
        Ok(z.kept().filter(fits).cloned())
    }

    /// What the network should say for `x0` noised with `noise` to timestep `t`: the target of training, beside
    /// [`Latent::output`]. One latent and n noises give n.
    pub fn target(&self, x0: &Latent, noise: &Latent, t: f64) -> Result<Latent> {
        let ab = self.0.train.alpha_at("target", t)?;
        let (x0, noise) = Latent::same_batch("target", x0, noise)?;
        match self.0.train.prediction {
            Prediction::Epsilon => Ok(noise),
            Prediction::Sample => Ok(x0),
            Prediction::Velocity => noise.scale(ab.sqrt())?.sub(&x0.scale((1.0 - ab).sqrt())?),
        }
    }

    /// CLIP features of unit length, `[n, d]`, by the CLIP beside the model. Errors: the model has none.
    pub fn picture_features(&self, picture: &Picture) -> Result<Tensor> {
        self.clip()?.0.picture_features(picture)
    }

    /// CLIP features of a text, of unit length, `[1, d]`. Errors: the model has no CLIP.
    pub fn text_features(&self, text: &str) -> Result<Tensor> {
        let (clip, tokenizer) = self.clip()?;
        let ids: Vec<u32> = tokenizer.encode(text)?.tokens.iter().map(|t| t.id).collect();
        clip.text_features(&ids)
    }

    /// Whether a CLIP lies beside the model, for [`Model::picture_features`].
    pub fn has_clip(&self) -> bool {
        self.0.folder.sub("clip").has("config.json")
    }

    fn clip(&self) -> Result<&ClipPair> {
        if self.0.clip.get().is_none() {
            let folder = self.0.folder.sub("clip");
            let pair = if folder.has("config.json") { Some(self.load_clip(&folder)?) } else { None };
            return self.0.clip.get_or_init(|| pair).as_ref().ok_or_else(|| self.no_clip());
        }
        self.0.clip.get().and_then(Option::as_ref).ok_or_else(|| self.no_clip())
    }

    fn load_clip(&self, folder: &Folder) -> Result<ClipPair> {
        let weights = Weights::load(&folder.weights("model")?, DType::F32, self.device())?;
        let preprocessor = if folder.has("preprocessor_config.json") {
            folder.json("preprocessor_config.json")?
        } else {
            serde_json::Value::Null
        };
        let clip = Clip::new(&weights.scope(), &folder.json("config.json")?, &preprocessor)?;
        let tokenizer = Tokenizer::load(folder, clip.text().length(), clip.text().vocab())?;
        Ok((clip, tokenizer))
    }

    fn no_clip(&self) -> Error {
        Error::missing("similarity", format!("the model {} has no CLIP beside it", self.0.name))
            .hint("put a transformers CLIP folder named clip into the model's folder")
    }
}

fn no_gradient() -> Error {
    Error::value("reuse", "reuse has no gradient: the features of an earlier step are constants")
        .expected("reuse 1 where a gradient is wanted")
        .hint("leave out reuse inside grad and minimize")
}

fn within(error: Error, part: &str) -> Error {
    let op = format!("load {part}");
    error.op(op)
}

fn join_fingerprints(parts: &[u64]) -> String {
    let joined =
        parts.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, p| (h ^ p).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{joined:016x}")
}
