//! Options, ranges, and what every script needs.

use std::rc::Rc;
use std::time::Instant;

use rhai::Map;

use crate::engine::error::{Error, Result};
use crate::engine::weights::model::Model;
use crate::script::args::check_options;
use crate::script::catalog::nearest;
use crate::script::errors;
use crate::script::options::{self, Column, Opt, Options, Spec, Val, common};
use crate::script::recipes;
use crate::script::registry::Registry;
use crate::script::types::{self, Handle};

/// A range of numbers, `0.0..1.0`: the limits of an option. Both ends belong to it.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Smallest value.
    pub from: f64,
    /// Largest value.
    pub to: f64,
}

impl Handle for Span {
    const NAME: &'static str = "Span";

    fn detail(&self) -> String {
        format!("{}..{}", types::number(self.from), types::number(self.to))
    }
}

/// Binds them.
pub fn register(r: &mut Registry) {
    r.group(
        "Options",
        "The parameters of a recipe: declared once, read by help, checks and the command line.",
    );
    let began = Instant::now();
    let host = r.host();
    r.def(
        "options(args, spec, examples)",
        "The options of a recipe with their values: from the command line, an example, the model's measured defaults, or \
         the recipe's own, in this order. It is the first statement of a recipe and a literal, because help and checks \
         read it without running it. Every recipe also has `seed steps cfg size n negative sampler noise_eta example`, \
         and `o.model`. An unknown field of the result is an error.",
    )
    .example("let o = options(args, #{ nu: opt(0.5, 0.0..1.0, \"share of the content\") });\no.nu // => 0.5")
    .example("let o = options(#{ seed: 7 }, #{});\no.sede // error: did you mean seed?")
    .see(&["opt", "finish"])
    .bind(move |args: Map, spec: Map, examples: Option<Vec<Map>>| {
        if let Some(resolved) = &host.running.borrow().options {
            return Ok(Options(Rc::new(resolved.clone())));
        }
        resolve_now(&host, &args, &spec, &examples.unwrap_or_default())
    });
    r.def(
        "opt(default, limits, doc)",
        "One option of `options`: its default (which gives its type), what values it takes (a range of numbers, both ends \
         included, or a list of words), and one clause. `opt(default, doc)` and `opt(default)` work too.",
    )
    .example("opt(0.5, 0.0..1.0, \"share of the content\")")
    .example("opt(\"lerp\", [\"lerp\", \"slerp\"], \"how to go from a to b\")")
    .see(&["options"])
    .bind(|default: rhai::Dynamic, limits: Option<rhai::Dynamic>, doc: Option<String>| opt(&default, limits, doc));
    r.def(
        "defaults(given, all)",
        "The map `all` with the values of `given` in place of its own. A key of `given` that `all` does not have is an error \
         with a suggestion: for functions of your own that take an options map.",
    )
    .example("defaults(#{ steps: 5 }, #{ steps: 30, seed: 0 }) // => #{ seed: 0, steps: 5 }")
    .example("defaults(#{ sede: 5 }, #{ steps: 30, seed: 0 }) // error: did you mean seed?")
    .see(&["options"])
    .bind(|given: Map, all: Map| {
        let known: Vec<&str> = all.keys().map(|k| k.as_str()).collect();
        check_options("defaults", &rhai::Dynamic::from_map(given.clone()), &known)?;
        let mut all = all;
        all.extend(given);
        Ok::<_, Error>(all)
    });
    let host = r.host();
    r.def(
        "command(o)",
        "The command line that runs a recipe with these options again: what was given, quoted for a shell. What was left to \
         a default is not named.",
    )
    .example("command(options(#{ seed: 7 }, #{})).ends_with(\" seed=7\") // => true")
    .see(&["options", "finish"])
    .bind(move |o: Options| o.0.command(&host.settings().out));
    r.def(
        "m.settings(recipe)",
        "The options of a built-in recipe as this model has them: its measured defaults, else the paper's. What a study of \
         several recipes runs each of them with.",
    )
    .example("load(\"emoji\").settings(\"imagic\").embed_steps // => 200")
    .example("load(\"emoji\").settings(\"imagick\") // error: did you mean imagic?")
    .see(&["options", "defaults"])
    .bind(|m: Model, recipe: String| settings(&m, &recipe));
    r.def(
        "clock()",
        "Seconds on a clock that only goes forward, from when the session began: the difference of two says how long \
         something took.",
    )
    .example("let began = clock();\nclock() - began < 60.0 // => true")
    .bind(move || began.elapsed().as_secs_f64());
    r.op("..", "A range of numbers: the limits of an option. Both ends belong to it.")
        .example("0.0..1.0 // => Span 0.0..1.0")
        .see(&["opt"])
        .bind(|a: f64, b: f64| Span { from: a, to: b });
}

fn opt(default: &rhai::Dynamic, limits: Option<rhai::Dynamic>, doc: Option<String>) -> Result<Opt> {
    let bad = |what: &str| Error::value("opt", format!("{what} must be a literal"));
    let default = Val::from_dynamic(default).ok_or_else(|| bad("the default"))?;
    let mut opt = Opt { default, range: None, choices: Vec::new(), doc: doc.unwrap_or_default() };
    let Some(limits) = limits else { return Ok(opt) };
    if let Some(span) = limits.read_lock::<Span>() {
        opt.range = Some((span.from, span.to));
    } else if let Some(range) = limits.read_lock::<std::ops::Range<i64>>() {
        opt.range = Some((range.start as f64, range.end as f64));
    } else if let Some(range) = limits.read_lock::<std::ops::RangeInclusive<i64>>() {
        opt.range = Some((*range.start() as f64, *range.end() as f64));
    } else if let Some(text) = limits.read_lock::<rhai::ImmutableString>() {
        opt.doc = text.to_string();
    } else {
        let Some(Val::List(list)) = Val::from_dynamic(&limits) else {
            return Err(Error::value("opt", "the limits are a range or a list of words")
                .expected("0.0..1.0, or [\"a\", \"b\"]")
                .got(types::got(&limits)));
        };
        opt.choices = list.iter().filter_map(|v| v.text().map(str::to_string)).collect();
    }
    Ok(opt)
}

/// The options of a built-in recipe with the values that they have for a model. Errors: there is no such recipe.
fn settings(m: &Model, name: &str) -> Result<Map> {
    // A recipe of the user's is a file, and files are read through the policy alone.
    if !recipes::names().contains(&name) {
        let error = Error::missing("settings", format!("there is no built-in recipe {name}"))
            .expected(recipes::names().join(" "));
        return Err(match nearest(name, recipes::names()) {
            Some(near) => error.hint(format!("did you mean {near}?")),
            None => error,
        });
    }
    let recipe = recipes::find(name).map_err(|report| errors::to_engine("settings", report))?;
    let column = m.defaults().map(|defaults| Column::of(defaults, name));
    let value = |spec: &Spec| match (&spec.default, column.as_ref().and_then(|c| c.get(&spec.name))) {
        (Val::Float(_), Some(Val::Int(i))) => Val::Float(*i as f64),
        (_, Some(measured)) => measured.clone(),
        (default, None) => default.clone(),
    };
    Ok(recipe.specs.iter().map(|spec| (spec.name.as_str().into(), value(spec).to_dynamic())).collect())
}

/// At the prompt: the options from the values themselves.
fn resolve_now(
    host: &crate::script::host::Host,
    args: &Map,
    spec: &Map,
    examples: &[Map],
) -> Result<Options> {
    let mut specs: Vec<Spec> = Vec::new();
    for (name, value) in spec {
        let opt = match value.read_lock::<Opt>() {
            Some(opt) => opt.clone(),
            None => opt(value, None, None)?,
        };
        specs.push(opt.named(name));
    }
    specs.extend(common().into_iter().filter(|c| !spec.contains_key(c.name.as_str())));
    let fields = |map: &Map| -> Vec<(String, Val)> {
        map.iter().filter_map(|(k, v)| Some((k.to_string(), Val::from_dynamic(v)?))).collect()
    };
    let examples: Vec<_> = examples.iter().map(fields).collect();
    let settings = host.settings();
    let model = &settings.model;
    let name = host.running.borrow().name.clone();
    let column = Column::of_model(model, &name);
    let resolved = options::resolve(
        "options",
        &specs,
        &examples,
        column.as_ref(),
        model,
        &fields(args),
        &super::is_shipped,
    );
    resolved.map(|r| Options(Rc::new(r))).map_err(|report| {
        host.usage.set(!host.policy.borrow().is_typed());
        errors::to_engine("options", report)
    })
}
