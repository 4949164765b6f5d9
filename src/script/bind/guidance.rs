//! `cfg` as scripts give it: a number, an interval of noise levels, or a function of the level.

use rhai::{Dynamic, EvalAltResult, FnPtr, ImmutableString, Map, NativeCallContext};

use crate::engine::diffusion::guidance::{EXAMPLE, Guidance};
use crate::engine::diffusion::schedule::Schedule;
use crate::engine::error::{Error, Result};
use crate::engine::weights::model::Model;
use crate::script::args::{Arg, Mismatch};
use crate::script::registry::Registry;
use crate::script::types;
use crate::script::values::Fail;

/// What a script says of guidance.
#[derive(Clone, Debug)]
pub enum Cfg {
    /// The same for every call, or by level.
    Given(Guidance),
    /// `|level| ...`, level 0 (clean) to 1 (noise).
    Function(FnPtr),
}

/// All forms, as messages show them.
fn forms() -> String {
    format!("number, \"{EXAMPLE}\", #{{ scale: 7, low: 0.2, high: 0.8 }} or |level| ...")
}

/// `#{ scale, low, high }`. Errors: other keys, values that are no numbers, an interval that is none.
pub fn from_map(map: &Map) -> Result<Guidance> {
    let bad = |message: String| Error::value("cfg", message).expected("#{ scale: 7, low: 0.2, high: 0.8 }");
    if let Some(key) = map.keys().find(|k| !["scale", "low", "high"].contains(&k.as_str())) {
        return Err(
            bad(format!("the map of cfg has no field {key}")).hint("its fields are scale, low and high")
        );
    }
    let number = |key: &str, default: Option<f64>| match (map.get(key), default) {
        (Some(v), _) => {
            f64::read(v).map_err(|_| bad(format!("{key} of cfg is no number")).got(types::got(v)))
        }
        (None, Some(default)) => Ok(default),
        (None, None) => Err(bad(format!("the map of cfg lacks {key}"))),
    };
    Guidance::interval(number("scale", None)?, number("low", Some(0.0))?, number("high", Some(1.0))?)
}

/// From a recipe's option or a script's value that is no function. `None`: neither number, text nor map.
pub fn from_value(value: &Dynamic) -> Option<Result<Guidance>> {
    if let Some(text) = value.read_lock::<ImmutableString>() {
        return Some(Guidance::parse(&text));
    }
    if let Some(map) = value.read_lock::<Map>() {
        return Some(from_map(&map));
    }
    f64::read(value).ok().map(Guidance::constant)
}

impl Arg for Cfg {
    fn type_name() -> String {
        "number|string|map|function".into()
    }
    fn accepts(value: &Dynamic) -> bool {
        f64::accepts(value) || String::accepts(value) || Map::accepts(value) || FnPtr::accepts(value)
    }
    fn read(value: &Dynamic) -> std::result::Result<Self, Mismatch> {
        if let Some(f) = value.read_lock::<FnPtr>() {
            return Ok(Cfg::Function(f.clone()));
        }
        match from_value(value) {
            Some(Ok(given)) => Ok(Cfg::Given(given)),
            Some(Err(e)) => {
                let hint = match e.hint_text() {
                    Some(hint) => format!("{}: {hint}", e.message()),
                    None => e.message().to_string(),
                };
                Err(Mismatch { expected: forms(), hint: Some(hint) })
            }
            None => Err(Mismatch { expected: forms(), hint: Some(format!("for instance \"{EXAMPLE}\"")) }),
        }
    }
}

fn call(cx: &NativeCallContext, f: &FnPtr, level: f64) -> std::result::Result<f64, Fail> {
    let said = f.call_within_context::<Dynamic>(cx, (level,)).map_err(|e| match &*e {
        // Rhai says of a closure with another number of parameters that there is no such function.
        EvalAltResult::ErrorFunctionNotFound(name, _) if name.starts_with(f.fn_name()) => Fail::Engine(
            Error::value("cfg", "the function of cfg takes another number of values")
                .expected("one: |level| ...")
                .hint("level is the noise level, 0 (clean) to 1 (noise)"),
        ),
        _ => Fail::Rhai(e),
    })?;
    f64::read(&said).map_err(|_| {
        Fail::Engine(
            Error::value("cfg", "the function of cfg returned something else")
                .expected("a number")
                .got(types::got(&said))
                .hint("|level| if level > 0.2 { 7 } else { 1 }"),
        )
    })
}

impl Cfg {
    /// The scale for one prediction of `m` at timestep `t`.
    pub fn at(&self, cx: &NativeCallContext, m: &Model, t: f64) -> std::result::Result<f64, Fail> {
        let level = t / m.train_schedule().len() as f64;
        match self {
            Cfg::Given(guidance) => Ok(guidance.at(level)),
            Cfg::Function(f) => call(cx, f, level),
        }
    }

    /// For a whole run: a function is asked once per step, before the first.
    pub fn over(
        &self,
        cx: &NativeCallContext,
        m: &Model,
        s: &Schedule,
    ) -> std::result::Result<Guidance, Fail> {
        let f = match self {
            Cfg::Given(guidance) => return Ok(guidance.clone()),
            Cfg::Function(f) => f,
        };
        let mut steps = Vec::with_capacity(s.len());
        for t in s.timesteps() {
            let level = t / m.train_schedule().len() as f64;
            steps.push((level, call(cx, f, level)?));
        }
        Ok(Guidance::levels(steps)?)
    }
}

/// Binds them.
pub fn register(r: &mut Registry) {
    r.def(
        "m.cfg_at(cfg, t)",
        "The guidance scale at training timestep `t`, for loops that weigh predictions themselves. `cfg` is what `guided` \
         takes: a number; an interval of noise levels, as text `\"7@0.2..0.8\"` or as #{ scale, low, high }, outside of which \
         the scale is 1 (Kynkaanniemi et al. 2024); or a function of the noise level. The level is t over the number of \
         training timesteps; an interval holds where low < level <= high.",
    )
    .example("load(\"emoji\").cfg_at(\"7@0.2..0.8\", 500) // => 7.0")
    .example("load(\"emoji\").cfg_at(#{ scale: 7, high: 0.4 }, 500) // => 1.0")
    .example("load(\"emoji\").cfg_at(|level| 1 + 6 * level, 500) // => 4.0")
    .example("load(\"emoji\").cfg_at(\"7@0.8..0.2\", 500) // error: 7@0.2..0.8")
    .see(&["guided", "at_level"])
    .bind(|cx: &NativeCallContext, m: Model, cfg: Cfg, t: f64| cfg.at(cx, &m, t));
}
