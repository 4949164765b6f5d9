//! Training a model's weights: a new model value, with the loss in a closure.

use std::path::{Path, PathBuf};

use rhai::{Dynamic, FnPtr, NativeCallContext};

use super::training::{self, Asked, Trained, follow, whole};
use crate::engine::error::{Error, Result};
use crate::engine::nets::hooks::SiteKind;
use crate::engine::train::{About, State};
use crate::engine::weights::changed::{Changes, TEXT, TOKENS, UNET};
use crate::engine::weights::lora::Adapter;
use crate::engine::weights::model::Model;
use crate::engine::weights::read::TensorFile;
use crate::engine::weights::write;
use crate::script::args::Opts;
use crate::script::host::Host;
use crate::script::registry::Registry;
use crate::script::types;
use crate::script::values::Fail;

/// Largest rank of an adapter.
const MAX_RANK: usize = 1024;

/// Ends of the names of an adapter's two values.
const DOWN: &str = ".lora_A.weight";
const UP: &str = ".lora_B.weight";

/// Words of `what` that stand for many weights.
const WORDS: [&str; 4] = ["unet", "text", "attention", "cross_attention"];

/// What a run trains.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// Weights as they are, by name.
    Weights(Vec<String>),
    /// Matrices that are added to weights.
    Lora(Vec<String>),
    /// The vectors of tokens that were added.
    Tokens(Vec<String>),
}

/// Whether `pattern` means the weight `name` of the UNet: a site's path or alias, the beginning of a path, or a pattern with `*`.
fn means(m: &Model, pattern: &str, name: &str) -> bool {
    let path = name.strip_prefix(UNET).unwrap_or(name);
    let begins = |p: &str| path == p || path.strip_prefix(p).is_some_and(|rest| rest.starts_with('.'));
    if pattern.contains('*') {
        return glob(pattern.as_bytes(), path.as_bytes()) || glob(pattern.as_bytes(), name.as_bytes());
    }
    let alias = || m.sites().into_iter().any(|s| s.alias.as_deref() == Some(pattern) && begins(&s.path));
    begins(pattern)
        || name == pattern
        || name.strip_prefix(pattern).is_some_and(|r| r.starts_with('.'))
        || alias()
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|i| text.get(i..).is_some_and(|t| glob(rest, t))),
        Some((c, rest)) => text.split_first().is_some_and(|(t, more)| t == c && glob(rest, more)),
    }
}

/// The weights that `what` names. Errors: a word that means none.
fn chosen(m: &Model, what: &[String], rank: usize) -> Result<Part> {
    let names = m.weight_names();
    let attention = |name: &str, cross: bool| {
        let kinds = [SiteKind::CrossAttention, SiteKind::SelfAttention];
        let path = name.strip_prefix(UNET).unwrap_or_default();
        let wanted = &kinds[..if cross { 1 } else { 2 }];
        name.starts_with(UNET)
            && m.sites().iter().any(|s| {
                wanted.contains(&s.kind)
                    && path.strip_prefix(s.path.as_str()).is_some_and(|r| r.starts_with('.'))
            })
    };
    let tokens: Vec<&String> = m.changes().tokens.iter().map(|(t, _)| t).collect();
    let wanted: Vec<&String> = what.iter().filter(|w| tokens.contains(w)).collect();
    if !wanted.is_empty() {
        if rank > 0 || wanted.len() < what.len() {
            return Err(Error::value("tune", "tokens are trained alone")
                .expected("what: the tokens, without lora")
                .got(what.join(", ")));
        }
        return Ok(Part::Tokens(wanted.into_iter().cloned().collect()));
    }
    let mut found = std::collections::BTreeSet::new();
    for word in what {
        let belongs = |n: &&String| match word.as_str() {
            "unet" => n.starts_with(UNET),
            "text" => n.starts_with(TEXT),
            "attention" => attention(n, false),
            "cross_attention" => attention(n, true),
            pattern => means(m, pattern, n),
        };
        let matches: Vec<&String> = names.iter().filter(belongs).collect();
        if matches.is_empty() || word.trim().is_empty() {
            let near = crate::script::catalog::nearest(word, WORDS.iter().copied());
            let error = Error::missing("tune", format!("what: nothing is called \"{word}\""))
                .expected("unet, text, attention, cross_attention, a site or its beginning (m.sites()), a pattern with *, or a new token");
            return Err(match near {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error.hint("m.sites() lists the sites"),
            });
        }
        found.extend(matches.into_iter().cloned());
    }
    let found = found.into_iter();
    Ok(if rank > 0 { Part::Lora(found.collect()) } else { Part::Weights(found.collect()) })
}

/// The values to begin with, by name.
fn parameters(m: &Model, part: &Part, rank: usize, seed: u64) -> Result<Vec<(String, candle_core::Tensor)>> {
    let mut all = Vec::new();
    match part {
        Part::Weights(names) => {
            for name in names {
                all.push((name.clone(), m.weight(name)?));
            }
        }
        Part::Lora(names) => {
            for name in names {
                let table = name.ends_with("embedding.weight");
                let Some(a) = Adapter::fresh(name, &m.weight(name)?, rank, seed)?.filter(|_| !table) else {
                    continue;
                };
                let layer = name.strip_suffix(".weight").unwrap_or(name);
                all.push((format!("{layer}{DOWN}"), a.down));
                all.push((format!("{layer}{UP}"), a.up));
            }
            if all.is_empty() {
                return Err(Error::value("tune", "what: no linear layer or convolution is among these")
                    .expected("layers that have a matrix or a kernel, for lora"));
            }
        }
        Part::Tokens(tokens) => {
            for (token, rows) in m.changes().tokens.iter().filter(|(t, _)| tokens.contains(t)) {
                all.push((format!("{TOKENS}{token}"), rows.clone()));
            }
        }
    }
    Ok(all)
}

/// The model with these values, in the order of their names.
fn with_values(m: &Model, part: &Part, names: &[String], values: &[candle_core::Tensor]) -> Result<Model> {
    let mut changes = Changes::default();
    match part {
        Part::Weights(_) => changes.weights = names.iter().cloned().zip(values.iter().cloned()).collect(),
        Part::Lora(_) => {
            for (pair, names) in values.chunks_exact(2).zip(names.chunks_exact(2)) {
                let [down, up] = pair else { continue };
                let Some(layer) = names.first().and_then(|n| n.strip_suffix(DOWN)) else { continue };
                let adapter = Adapter { down: down.clone(), up: up.clone(), scale: 1.0 };
                changes.adapters.insert(format!("{layer}.weight"), adapter);
            }
        }
        Part::Tokens(_) => {
            let token = |n: &String| n.strip_prefix(TOKENS).unwrap_or(n).to_string();
            changes.tokens = names.iter().map(token).zip(values.iter().cloned()).collect();
        }
    }
    m.with_changes(&changes)
}

fn words(o: &Opts) -> Result<Vec<String>> {
    let Some(what) = o.get::<Dynamic>("what")? else { return Ok(vec!["unet".into()]) };
    let text = |v: &Dynamic| v.read_lock::<rhai::ImmutableString>().map(|s| s.to_string());
    let list = match what.read_lock::<rhai::Array>() {
        Some(list) => list.iter().map(text).collect::<Option<Vec<_>>>(),
        None => text(&what).map(|w| vec![w]),
    };
    list.filter(|l| !l.is_empty()).ok_or_else(|| {
        Error::value("tune", "what cannot be understood")
            .expected("a word, or a list of words")
            .got(types::got(&what))
    })
}

/// A model's weights in training.
struct Weights<'a> {
    model: &'a Model,
    part: &'a Part,
}

impl Trained for Weights<'_> {
    const FORM: &'static str = "two: |m, i| ...";
    const WHAT: &'static str = "the weights that are tuned";
    const EXAMPLE: &'static str =
        "use the closure's m, not the model outside: |m, i| mse(m.predict(z, t, text), noise)";
    const HINT: &'static str = "leave it out of what; text needs m.encode(words) inside of the closure";

    fn value(&self, state: &State, values: &[candle_core::Tensor]) -> Result<Dynamic> {
        Ok(Dynamic::from(with_values(self.model, self.part, state.names(), values)?))
    }
}

fn tune(
    host: &Host,
    cx: &NativeCallContext,
    m: &Model,
    o: &Opts,
    loss: &FnPtr,
) -> std::result::Result<Model, Fail> {
    if host.is_tracking() {
        return Err(Error::value("tune", "a model cannot be tuned inside of a gradient").into());
    }
    let what = words(o)?;
    let rank = match o.get::<i64>("lora")? {
        None => 0,
        Some(_) => whole(o, "lora", 1, 1, MAX_RANK as i64)?,
    };
    let seed = whole(o, "seed", 0, 0, i64::from(u32::MAX))? as u64;
    let part = chosen(m, &what, rank)?;
    let asked = Asked::read(host, o, 1e-5)?;
    let base = m.clone().checkpointed(o.or("checkpoint", false)?)?;
    let fresh = State::new("tune", parameters(m, &part, rank, seed)?, asked.optimizer.clone())?;
    let bytes: usize = fresh.values().iter().map(|v| v.elem_count() * 4).sum();
    // The weights, their gradients, two moments, and the state before the last step.
    host.reserve_on("tune", bytes as u64 * 8, m.device())?;
    let about: About = [
        ("model", m.fingerprint().to_string()),
        ("what", what.join(", ")),
        ("lora", rank.to_string()),
        ("seed", seed.to_string()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_string(), v))
    .collect();
    let state = follow(host, cx, &Weights { model: &base, part: &part }, fresh, asked, about, loss)?;
    Ok(with_values(m, &part, state.names(), state.values())?)
}

/// Saves what a model's tuning has changed.
pub(super) fn save(host: &Host, m: &Model, path: &Path) -> Result<PathBuf> {
    if m.changes().is_empty() {
        return Err(Error::value("save", "this model is as it was loaded: there is nothing to save")
            .hint("m.tune(...) gives one that has changed"));
    }
    let named = match path.extension() {
        None => path.with_extension("safetensors"),
        Some(e) if e.eq_ignore_ascii_case("safetensors") => path.to_path_buf(),
        Some(_) => {
            return Err(Error::value("save", "weights are saved as safetensors")
                .expected("a name that ends in .safetensors, or has no ending")
                .got(path.display().to_string()));
        }
    };
    let about = [("format", "pt"), ("model", m.name()), ("fingerprint", m.fingerprint())];
    let about = about.into_iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let tensors = m.changes().tensors();
    let bytes = write::encode(tensors.iter().map(|(n, t)| (n.as_str(), t)), &about)?;
    host.may_save("save", bytes.len() as u64)?;
    let saved = host.policy.borrow().write_new("save", &named, &bytes)?;
    host.note_saved(&saved);
    Ok(saved)
}

fn with_weights(host: &Host, m: &Model, path: &str, scale: f64) -> Result<Model> {
    let real = host.policy.borrow().readable("with_weights", Path::new(path))?;
    m.with_file(&TensorFile::open(&real)?, scale)
}

fn with_token(m: &Model, token: &str, init: &str, vectors: usize) -> Result<Model> {
    if vectors == 0 || vectors > m.positions() - 2 {
        return Err(Error::value("with_token", "option vectors is out of range")
            .expected(format!("1 to {}", m.positions() - 2))
            .got(vectors.to_string()));
    }
    let word = m.word_rows(init)?;
    let n = word.dim(0)?;
    // Several vectors begin as the tokens of the word in turn.
    let rows: Vec<_> = (0..vectors).map(|i| Ok(word.narrow(0, i % n, 1)?)).collect::<Result<_>>()?;
    m.with_token(token, candle_core::Tensor::cat(&rows, 0)?)
}

/// Binds them.
pub fn register(r: &mut Registry) {
    const SETUP: &str = "let m = load(\"emoji\");\nlet text = m.encode(\"a dog\");\nlet z = m.noise(0);\n";
    r.group(
        "Training",
        "Models with other weights: new values, that share with the old ones all that stays. The old ones are left as they are.",
    );
    let host = r.host();
    let tune_def = r
        .def(
        "m.tune(options, |m, i| loss)",
        "A new model whose weights have followed the gradient of a loss, by Adam or another optimizer; `m` is left as it is. The closure \
         gets the model of step `i` and gives the loss, a Tensor of one value. What is drawn in a step should be drawn from `i` \
         (`m.noise(seed + i)`): then a run that goes on from its checkpoint is the same, bit for bit, as one that never stopped. \
         A loss or gradient that is no finite number stops the run, and so does Ctrl-C: the last good state is saved as a checkpoint, in \
         `file` or as NAME-tune.safetensors, from which `file` and `resume` go on.",
    )
    .option(
        "what",
        "string|[string]",
        "unet (the default), text, attention, cross_attention, a site or its beginning, a pattern with *, or a token of with_token",
    )
    .option("lora", "integer", "rank of matrices that are added to the weights, which stay; left out: the weights themselves");
    training::options(tune_def, "1e-5")
    .option("checkpoint", "true|false", "compute the UNet's blocks again on the way back: less memory, a pass more")
    .option("seed", "integer", "of the first matrices of lora; 0")
    .example(&format!(
        "{SETUP}let m2 = m.tune(#{{ what: \"attention\", lora: 2, steps: 2, lr: 0.01 }}, |m, i| mse(m.predict(z, 500, text), z));\n\
         distance(m2.predict(z, 500, text), z) < distance(m.predict(z, 500, text), z) // => true"
    ))
    .example(&format!("{SETUP}m.tune(#{{ what: \"unett\" }}, |m, i| mse(m.predict(z, 500, text), z)) // error: did you mean \"unet\""))
    .see(&["minimize", "save", "with_weights", "with_token"])
    .work()
    .bind(move |cx: &NativeCallContext, m: Model, o: Opts, loss: FnPtr| tune(&host, cx, &m, &o, &loss));
    let host = r.host();
    r.def(
        "m.with_weights(path)",
        "A new model with what a safetensors file holds: a LoRA (names of diffusers, peft or kohya), whole weights by their full \
         name (`unet.conv_in.weight`), or the vectors of a new token by the token, as `save(m, path)` writes them.",
    )
    .option("scale", "number", "what a LoRA is multiplied with; 1")
    .example(
        "let m = load(\"emoji\").with_token(\"<thing>\", #{ init: \"dog\" });\nlet path = save(m, \"thing\");\n\
         load(\"emoji\").with_weights(path).encode(\"a <thing>\").words // => [\"a\", \"<thing>\"]",
    )
    .see(&["tune", "save", "load"])
    .work()
    .bind(move |m: Model, path: String, o: Opts| with_weights(&host, &m, &path, o.number("scale", 1.0, -100.0, 100.0)?));
    r.def(
        "m.with_token(token)",
        "A new model that knows one more word. It begins as a word that the model knows, and is learned by `tune` with `what` the \
         token (textual inversion). All other words are left as they are.",
    )
    .option("init", "string", "the word to begin with, a coarse one: \"dog\"")
    .option("vectors", "integer", "how many vectors the token stands for; 1")
    .example(
        "let m = load(\"emoji\").with_token(\"<thing>\", #{ init: \"dog\" });\n\
         mse(m.encode(\"a <thing>\"), m.encode(\"a dog\")).list() // => [0.0]",
    )
    .example("load(\"emoji\").with_token(\"dog\", #{ init: \"cat\" }) // error: cannot be a new token")
    .see(&["tune", "with_weights"])
    .bind(|m: Model, token: String, o: Opts| {
        let init = o.get::<String>("init")?.ok_or_else(|| {
            Error::value("with_token", "option init is missing").expected("a word that the model knows: init: \"dog\"")
        })?;
        with_token(&m, &token, &init, o.or("vectors", 1usize)?)
    });
    r.prop("m.changes", "In what a tuned model differs from the one that was loaded: a map with the numbers of whole `weights`, of `adapters` and of `tokens`.")
        .example("load(\"emoji\").changes.weights // => 0")
        .see(&["tune", "save"])
        .bind(|m: Model| {
            let c = m.changes();
            let counts = [("weights", c.weights.len()), ("adapters", c.adapters.len()), ("tokens", c.tokens.len())];
            counts.into_iter().map(|(k, n)| (k.into(), (n as i64).into())).collect::<rhai::Map>()
        });
}
