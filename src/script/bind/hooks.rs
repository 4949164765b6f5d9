//! Attention edits as scripts hold them, script functions as hooks, and the two ways to predict with them.

use std::cell::RefCell;
use std::rc::Rc;

use rhai::{Dynamic, EvalAltResult, FnPtr, Map, NativeCallContext};

use super::tensor::Tensor;
use crate::engine::error::{Error, Kind, Result};
use crate::engine::latent::Latent;
use crate::engine::nets::attention_edit::Attention;
use crate::engine::nets::hooks::{ActivationHook, AttentionHook, Extra, Row, Site, SiteKind};
use crate::engine::nets::unet::Shortcuts;
use crate::engine::tape::Tape;
use crate::engine::weights::embedding::Embedding;
use crate::engine::weights::model::{Model, PredictOptions};
use crate::script::args::Opts;
use crate::script::types::{self, Handle};
use crate::script::values::Fail;

/// A script function at named sites.
#[derive(Clone, Debug)]
pub struct Callback {
    /// Names of sites, or of parts of the network; empty: all.
    pub sites: Vec<String>,
    /// `|site, value|`.
    pub function: FnPtr,
}

/// What scripts call an Attention: edits that are data, and script functions that run after them.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    /// The data.
    pub attention: Attention,
    /// Functions on probabilities.
    pub probs: Vec<Callback>,
    /// Functions on activations.
    pub activations: Vec<Callback>,
}

impl Handle for Edits {
    const NAME: &'static str = "Attention";

    fn detail(&self) -> String {
        let mut text = self.attention.describe().trim_start_matches("Attention ").to_string();
        let functions = self.probs.len() + self.activations.len();
        if functions > 0 {
            let more = format!("{functions} function{}", if functions == 1 { "" } else { "s" });
            text = if self.attention.is_idle() { more } else { format!("{text}, {more}") };
        }
        text
    }
}

impl Edits {
    /// The same with other data.
    pub fn with(self, attention: Attention) -> Self {
        Edits { attention, ..self }
    }
}

/// The first error of a script function; the network stops, and this is what the script sees.
type Failed = Rc<RefCell<Option<Box<EvalAltResult>>>>;

struct Hook<'a> {
    cx: &'a NativeCallContext<'a>,
    callback: &'a Callback,
    latent: (usize, usize),
    reduction: &'a dyn Fn(&Site) -> usize,
    failed: Failed,
}

impl Hook<'_> {
    /// What the function is told of a site: path, kind, alias, heads, height, width, and the role of every row.
    fn site(&self, site: &Site, rows: &[Row], count: usize) -> Map {
        let mut map = describe(site, self.latent, (self.reduction)(site));
        let role = |row: Option<&Row>| match row {
            Some(Row::Unconditional) => "none",
            _ => "text",
        };
        let rows: Vec<Dynamic> = (0..count).map(|i| role(rows.get(i)).into()).collect();
        map.insert("rows".into(), Dynamic::from_array(rows));
        map
    }

    fn call(&self, op: &str, args: (Map, Dynamic)) -> Result<Dynamic> {
        self.callback.function.call_within_context::<Dynamic>(self.cx, args).map_err(|e| {
            let error = Error::new(Kind::Value, op, "a script function failed inside the network");
            self.failed.borrow_mut().get_or_insert(wrong_count(op, &self.callback.function, e));
            error
        })
    }
}

/// Rhai says of a closure with another number of parameters that there is no such function.
fn wrong_count(op: &str, f: &FnPtr, e: Box<EvalAltResult>) -> Box<EvalAltResult> {
    match &*e {
        EvalAltResult::ErrorFunctionNotFound(name, _) if name.starts_with(f.fn_name()) => {
            crate::script::errors::throw(
                Error::value(op, "the function takes another number of values")
                    .expected("two: |site, value| ...")
                    .hint("site is a map with path, kind, height, width and rows"),
            )
        }
        _ => e,
    }
}

/// A site as a map.
pub fn describe(site: &Site, latent: (usize, usize), reduction: usize) -> Map {
    let (h, w) = (latent.0.div_ceil(reduction), latent.1.div_ceil(reduction));
    let kind = match site.kind {
        SiteKind::CrossAttention => "cross-attention",
        SiteKind::SelfAttention => "self-attention",
        SiteKind::Activation => "activation",
    };
    let mut map = Map::new();
    let mut put = |key: &str, value: Dynamic| {
        map.insert(key.into(), value);
    };
    put("path", site.path.clone().into());
    put("kind", kind.into());
    put("alias", site.alias.clone().unwrap_or_default().into());
    put("heads", (site.heads as i64).into());
    put("channels", (site.channels as i64).into());
    put("height", (h as i64).into());
    put("width", (w as i64).into());
    map
}

fn among(callback: &Callback, site: &Site) -> bool {
    callback.sites.is_empty() || callback.sites.iter().any(|name| site.is_in(name))
}

fn not_that(op: &str, expected: &str, got: &Dynamic) -> Error {
    Error::value(op, "the function returned something else")
        .expected(format!("{expected}, or nothing to leave it as it is"))
        .got(types::got(got))
}

impl AttentionHook for Hook<'_> {
    fn wants_probs(&self, site: &Site, _queries: usize, _keys: usize) -> bool {
        among(self.callback, site)
    }

    fn on_probs(
        &mut self,
        site: &Site,
        rows: &[Row],
        probs: &candle_core::Tensor,
    ) -> Result<Option<candle_core::Tensor>> {
        let about = self.site(site, rows, probs.dim(0)?);
        let new = self.call("on_probs", (about, Dynamic::from(Tensor(probs.clone()))))?;
        if new.is_unit() {
            return Ok(None);
        }
        match new.read_lock::<Tensor>() {
            Some(t) => Ok(Some(t.0.to_dtype(probs.dtype())?.contiguous()?)),
            None => Err(not_that("on_probs", "a Tensor", &new)),
        }
    }
}

impl ActivationHook for Hook<'_> {
    fn wants(&self, site: &Site) -> bool {
        among(self.callback, site)
    }

    fn on_activation(
        &mut self,
        site: &Site,
        rows: &[Row],
        x: &candle_core::Tensor,
    ) -> Result<Option<candle_core::Tensor>> {
        let about = self.site(site, rows, x.dim(0)?);
        let new = self.call("on_activation", (about, Dynamic::from(Latent::new(x.clone())?)))?;
        if new.is_unit() {
            return Ok(None);
        }
        match new.read_lock::<Latent>() {
            Some(z) => Ok(Some(z.tensor().to_dtype(x.dtype())?.contiguous()?)),
            None => Err(not_that("on_activation", "a Latent", &new)),
        }
    }
}

/// The options of a prediction.
#[derive(Clone, Debug, Default)]
pub struct How {
    /// Edits of the attention, functions at sites.
    pub edits: Option<Edits>,
    /// Activations to read.
    pub features: Vec<String>,
    /// Approximations.
    pub shortcuts: Shortcuts,
    /// Computes blocks again on the way back.
    pub tape: Option<Rc<Tape>>,
}

impl How {
    /// From `attention`, `features`, `reuse`, `merge` and `merge_seed`. Errors: values of other types or out of range.
    pub fn read(o: &Opts) -> Result<Self> {
        Ok(How {
            edits: o.get("attention")?,
            features: o.or("features", Vec::new())?,
            shortcuts: shortcuts(o, Shortcuts::default())?,
            tape: None,
        })
    }
}

/// `reuse`, `merge` and `merge_seed`, or those of `before`. Errors: out of range.
pub fn shortcuts(o: &Opts, before: Shortcuts) -> Result<Shortcuts> {
    Shortcuts::new(
        o.or("reuse", before.reuse())?,
        o.or("merge", before.merge())?,
        o.or("merge_seed", before.merge_seed())?,
    )
}

/// A noise prediction and the activations that were asked for.
type Predicted = std::result::Result<(Latent, Vec<candle_core::Tensor>), Fail>;

fn with_hooks(
    cx: &NativeCallContext,
    m: &Model,
    z: &Latent,
    how: &How,
    predict: impl FnOnce(&PredictOptions, &mut Extra) -> Result<(Latent, Vec<candle_core::Tensor>)>,
) -> Predicted {
    let How { edits, features, shortcuts, tape } = how;
    let options = PredictOptions {
        attention: edits.as_ref().map(|e| e.attention.clone()),
        features: features.clone(),
        shortcuts: *shortcuts,
        tape: tape.clone(),
    };
    let Some(edits) = edits.as_ref().filter(|e| !e.probs.is_empty() || !e.activations.is_empty()) else {
        return Ok(predict(&options, &mut Extra::default())?);
    };
    let failed = Failed::default();
    let (_, _, h, w) = z.dims();
    let reduction = |site: &Site| m.reduction(site);
    for callback in edits.probs.iter().chain(&edits.activations) {
        m.known_sites(callback.sites.iter())?;
    }
    let hook =
        |callback| Hook { cx, callback, latent: (h, w), reduction: &reduction, failed: Rc::clone(&failed) };
    let mut extra = Extra::default();
    for callback in &edits.probs {
        extra.attention.push(Box::new(hook(callback)));
    }
    for callback in &edits.activations {
        extra.activation.push(Box::new(hook(callback)));
    }
    let result = predict(&options, &mut extra);
    drop(extra);
    match failed.take() {
        Some(error) => Err(Fail::Rhai(error)),
        None => Ok(result?),
    }
}

/// One prediction under one prompt.
pub fn predict(
    cx: &NativeCallContext,
    m: &Model,
    z: &Latent,
    t: f64,
    text: &Embedding,
    how: &How,
) -> Predicted {
    with_hooks(cx, m, z, how, |o, extra| m.predict_with(z, t, text, o, extra))
}

/// One guided prediction; `by` is prompt, empty or negative prompt, guidance.
pub fn guided(
    cx: &NativeCallContext,
    m: &Model,
    z: &Latent,
    t: f64,
    by: (&Embedding, &Embedding, f64),
    how: &How,
) -> Predicted {
    with_hooks(cx, m, z, how, |o, extra| m.guided_with(z, t, by.0, by.1, by.2, o, extra))
}
