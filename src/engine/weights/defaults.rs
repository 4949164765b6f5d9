//! `scumble.json` beside a model: its measured defaults, examples and preview factors.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::folder::Folder;
use super::locate::locate;
use crate::engine::error::{Error, Kind, Result};
use crate::engine::preview::Preview;

/// Options by name.
pub type Options = BTreeMap<String, Value>;

/// What was measured on one model.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// The name of the column in help texts ("emoji").
    pub column: String,
    /// Options per recipe; "common" holds those of every recipe.
    pub recipes: BTreeMap<String, Options>,
    /// Example option sets per recipe.
    pub examples: BTreeMap<String, Vec<Options>>,
    /// Latent to RGB.
    pub preview: Option<Preview>,
}

impl Defaults {
    /// The defaults of the model that `spec` names, without loading it. `None` if it has no `scumble.json` or is not there.
    /// Errors: a `scumble.json` that cannot be read.
    pub fn for_model(spec: &str) -> Result<Option<Defaults>> {
        match locate(spec) {
            Ok(folder) => Self::read(&folder),
            Err(_) => Ok(None),
        }
    }

    /// From a model folder.
    pub fn read(folder: &Folder) -> Result<Option<Defaults>> {
        const FILE: &str = "scumble.json";
        if !folder.has(FILE) {
            return Ok(None);
        }
        let json = folder.json(FILE)?;
        let bad = |m: &str| Error::new(Kind::File, "load", format!("{}: {m}", folder.display(FILE)));
        let object = |key: &str| -> Result<Map<String, Value>> {
            match json.get(key) {
                None => Ok(Map::new()),
                Some(Value::Object(map)) => Ok(map.clone()),
                Some(_) => Err(bad(&format!("\"{key}\" must be an object"))),
            }
        };
        let options = |value: Value| -> Result<Options> {
            match value {
                Value::Object(map) => Ok(map.into_iter().collect()),
                _ => Err(bad("options must be an object")),
            }
        };
        let recipes =
            object("defaults")?.into_iter().map(|(k, v)| Ok((k, options(v)?))).collect::<Result<_>>()?;
        let examples = object("examples")?
            .into_iter()
            .map(|(k, v)| match v {
                Value::Array(list) => Ok((k, list.into_iter().map(options).collect::<Result<_>>()?)),
                _ => Err(bad("examples must be lists")),
            })
            .collect::<Result<_>>()?;
        Ok(Some(Defaults {
            column: json.get("name").and_then(Value::as_str).unwrap_or("model").to_string(),
            recipes,
            examples,
            preview: json.get("preview").and_then(preview),
        }))
    }

    /// The measured value of an option: the recipe's own, else the common one.
    pub fn option(&self, recipe: &str, name: &str) -> Option<&Value> {
        [recipe, "common"].iter().find_map(|r| self.recipes.get(*r)?.get(name))
    }
}

fn preview(json: &Value) -> Option<Preview> {
    let row = |v: &Value| -> Option<[f64; 3]> {
        let numbers: Vec<f64> = v.as_array()?.iter().map(Value::as_f64).collect::<Option<_>>()?;
        numbers.try_into().ok()
    };
    let factors = json.get("factors")?.as_array()?.iter().map(row).collect::<Option<_>>()?;
    Some(Preview { factors, bias: json.get("bias").and_then(row).unwrap_or([0.0; 3]) })
}
