//! Options of a recipe: `let o = options(args, #{ nu: opt(0.5, 0.0..1.0, "share of the content") });`
//!
//! The first statement of a recipe is read from its syntax tree without running anything ([`read`]): help, checks and
//! sweeps know every option. The values come from the command line, an example, the model's measured defaults and the
//! recipe's own ([`resolve()`]), in this order. What the script gets ([`Options`]) is a value whose unknown field is an
//! error: `o.sede` on a map would silently be `()`.

pub mod help;
pub mod read;
mod resolve;
mod value;

pub use read::Recipe;
pub use resolve::{Column, resolve};
pub use value::Val;

use std::path::Path;
use std::rc::Rc;

use super::host::Settings;
use super::types::Handle;
use crate::engine::diffusion::sampler::Sampler;

/// One option: name, default, what values it takes, one clause.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The key on the command line and the field in the script.
    pub name: String,
    /// The paper's default; its type is the option's type.
    pub default: Val,
    /// Smallest and largest value, both allowed.
    pub range: Option<(f64, f64)>,
    /// The words it takes, if only some.
    pub choices: Vec<String>,
    /// One clause.
    pub doc: String,
    /// Whether every recipe has it.
    pub common: bool,
}

impl Spec {
    /// Whether it is the guidance, which may be given by noise level: `7@0.2..0.8`.
    pub fn is_cfg(&self) -> bool {
        self.common && self.name == "cfg"
    }

    /// The type and range as help shows it: "0.0..1.0", "integer 1..1000", "lerp|slerp".
    pub fn takes(&self) -> String {
        if !self.choices.is_empty() {
            return self.choices.join("|");
        }
        let range = self.range.map(|(lo, hi)| match self.default {
            Val::Int(_) if hi >= 1e15 => format!("{lo} or more"),
            Val::Int(_) => format!("{lo}..{hi}"),
            _ => format!("{}..{}", super::types::number(lo), super::types::number(hi)),
        });
        let kind = match (&self.default, self.name.as_str()) {
            (_, "size") => "pixels|[w, h]",
            (Val::Int(_), _) => "integer",
            (Val::Float(_), _) => "number",
            (Val::Bool(_), _) => "true|false",
            (Val::Text(_), _) => "text",
            (Val::List(_), _) => "list",
            (Val::Map(_), _) => "map",
            (Val::None, _) => "any",
        };
        match range {
            Some(range) if self.is_cfg() => format!("number {range}[@low..high]"),
            Some(range) if matches!(self.default, Val::Int(_) | Val::Float(_)) && kind != "pixels|[w, h]" => {
                format!("{kind} {range}")
            }
            _ => kind.to_string(),
        }
    }
}

/// The options that every recipe takes.
pub fn common() -> Vec<Spec> {
    let spec = |name: &str, default: Val, range: Option<(f64, f64)>, doc: &str| Spec {
        name: name.into(),
        default,
        range,
        choices: Vec::new(),
        doc: doc.into(),
        common: true,
    };
    vec![
        spec("seed", Val::Int(0), Some((0.0, 9e15)), "the noise; picture i of n has seed + i"),
        spec("steps", Val::Int(50), Some((1.0, 1000.0)), "sampling steps"),
        spec(
            "cfg",
            Val::Float(7.5),
            Some((0.0, 100.0)),
            "guidance: how hard the prompt pulls; 1 = not at all; @: between these noise levels, else 1",
        ),
        spec("size", Val::Int(0), Some((0.0, 8192.0)), "of the picture; 0 = the model's own"),
        spec("n", Val::Int(1), Some((1.0, 64.0)), "pictures at once, shown as a grid"),
        spec("negative", Val::Text(String::new()), None, "what the picture should not show"),
        Spec {
            choices: Sampler::names().map(str::to_string).collect(),
            ..spec("sampler", Val::Text("ddim".into()), None, "how a step is computed")
        },
        spec(
            "noise_eta",
            Val::Float(0.0),
            Some((0.0, 1.0)),
            "share of fresh noise per step of ddim or euler",
        ),
        spec("example", Val::Int(0), Some((0.0, 1000.0)), "take an example's options; 0 = none"),
    ]
}

/// Options with their values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolved {
    /// The recipe they belong to.
    pub recipe: String,
    /// The model that `o.model` names.
    pub model: String,
    /// Name and value, in the order of the recipe.
    pub values: Vec<(String, Val)>,
    /// The options that were given, not left to a default.
    pub given: Vec<String>,
}

impl Resolved {
    /// The value of an option.
    pub fn get(&self, name: &str) -> Option<&Val> {
        self.values.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// The names there are.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.iter().map(|(n, _)| n.as_str()).chain(["model"])
    }

    /// The command line that runs the recipe with these values, results below `out`: those that were given, quoted for a
    /// shell.
    pub fn command(&self, out: &Path) -> String {
        let usual = Settings::default();
        let mut words = vec!["scumble".to_string(), "run".to_string(), quoted(&self.recipe)];
        if self.model != usual.model {
            words.extend(["--model".to_string(), quoted(&self.model)]);
        }
        if out != usual.out {
            words.extend(["--out".to_string(), quoted(&out.to_string_lossy())]);
        }
        let given = self.values.iter().filter(|(name, _)| self.given.contains(name));
        words.extend(given.map(|(name, value)| {
            let text = value.text().map_or_else(|| value.to_string(), str::to_string);
            format!("{name}={}", quoted(&text))
        }));
        words.join(" ")
    }
}

/// A word as a shell reads it: in quotes where it holds more than letters, digits and what is harmless between them.
fn quoted(word: &str) -> String {
    if !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || "-_./,:@=+".contains(c)) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// What `options(...)` returns to the script.
#[derive(Clone, Debug)]
pub struct Options(pub Rc<Resolved>);

impl Handle for Options {
    const NAME: &'static str = "Options";

    fn detail(&self) -> String {
        let list: Vec<String> =
            self.0.values.iter().filter(|(n, _)| n != "example").map(|(n, v)| format!("{n}={v}")).collect();
        list.join(" ")
    }
}

/// What `opt(...)` returns: one option without its name.
#[derive(Clone, Debug)]
pub struct Opt {
    /// The default.
    pub default: Val,
    /// Smallest and largest value.
    pub range: Option<(f64, f64)>,
    /// The words it takes.
    pub choices: Vec<String>,
    /// One clause.
    pub doc: String,
}

impl Opt {
    /// With its name, a [`Spec`].
    pub fn named(self, name: &str) -> Spec {
        let Opt { default, range, choices, doc } = self;
        Spec { name: name.into(), default, range, choices, doc, common: false }
    }
}

impl Handle for Opt {
    const NAME: &'static str = "Option";

    fn detail(&self) -> String {
        format!("{} {}", self.default, self.doc)
    }
}
