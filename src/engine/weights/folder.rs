//! A model folder, on disk or in the binary: the same calls for both.

use std::borrow::Cow;
use std::path::PathBuf;

use serde_json::Value;

use super::read::TensorFile;
use crate::engine::error::{Error, Kind, Result};

/// The models that ship with the program.
#[cfg(feature = "embedded")]
static EMBEDDED: include_dir::Dir<'static> = include_dir::include_dir!("$CARGO_MANIFEST_DIR/models/emoji");

/// Where the files of a model lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folder {
    /// A folder on disk.
    Disk(PathBuf),
    /// A folder in the binary, by its path from the embedded root ("" is the root).
    Embedded(String),
}

impl Folder {
    /// The model that ships with the program: in the binary, or in `models/emoji` when it was built without it
    /// (below `SCUMBLE_MODELS`, the working directory or the program's own folder).
    pub fn shipped() -> Result<Folder> {
        if cfg!(feature = "embedded") {
            return Ok(Folder::Embedded(String::new()));
        }
        let mut roots: Vec<PathBuf> =
            std::env::var_os("SCUMBLE_MODELS").map(PathBuf::from).into_iter().collect();
        roots.push(PathBuf::from("models"));
        if let Ok(exe) = std::env::current_exe() {
            roots.extend(exe.ancestors().skip(1).take(4).map(|p| p.join("models")));
        }
        roots.iter().map(|r| r.join("emoji")).find(|p| p.join("model_index.json").is_file()).map(Folder::Disk).ok_or_else(
            || {
                Error::missing("load", "this build carries no model, and no folder models/emoji was found")
                    .hint("set SCUMBLE_MODELS to the folder `models` of the project, or build with the feature \"embedded\"")
            },
        )
    }

    /// The folder `name` inside this one.
    pub fn sub(&self, name: &str) -> Folder {
        match self {
            Folder::Disk(path) => Folder::Disk(path.join(name)),
            Folder::Embedded(path) if path.is_empty() => Folder::Embedded(name.to_string()),
            Folder::Embedded(path) => Folder::Embedded(format!("{path}/{name}")),
        }
    }

    /// A file's name for messages.
    pub fn display(&self, file: &str) -> String {
        match self {
            Folder::Disk(path) => path.join(file).display().to_string(),
            Folder::Embedded(path) if path.is_empty() => format!("emoji/{file}"),
            Folder::Embedded(path) => format!("emoji/{path}/{file}"),
        }
    }

    /// Whether the folder has this file.
    pub fn has(&self, file: &str) -> bool {
        match self {
            Folder::Disk(path) => path.join(file).is_file(),
            Folder::Embedded(_) => self.embedded(file).is_some(),
        }
    }

    /// The bytes of a file. Errors: missing or unreadable.
    pub fn read(&self, file: &str) -> Result<Cow<'static, [u8]>> {
        match self {
            Folder::Disk(path) => {
                let path = path.join(file);
                Ok(std::fs::read(&path).map_err(|e| Error::file("load", &path, e))?.into())
            }
            Folder::Embedded(_) => self
                .embedded(file)
                .map(Cow::Borrowed)
                .ok_or_else(|| Error::missing("load", format!("{}: not in the binary", self.display(file)))),
        }
    }

    /// A JSON file. Errors: missing, or not JSON.
    pub fn json(&self, file: &str) -> Result<Value> {
        let bytes = self.read(file)?;
        serde_json::from_slice(&bytes).or_else(|e| {
            // Python writes numbers that JSON does not have (`"lambda_min_clipped": -Infinity`): such a key counts as
            // not given.
            let without = without_infinities(&String::from_utf8_lossy(&bytes));
            serde_json::from_str(&without).map_err(|_| {
                Error::new(Kind::File, "load", format!("{}: this is not JSON: {e}", self.display(file)))
            })
        })
    }

    /// The names of the files directly in this folder, sorted.
    pub fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Folder::Disk(path) => std::fs::read_dir(path)
                .into_iter()
                .flatten()
                .filter_map(|e| e.ok()?.file_name().into_string().ok())
                .collect(),
            Folder::Embedded(_) => self.embedded_names(),
        };
        names.sort();
        names
    }

    /// The weight files of a network: `STEM.safetensors`, its half-precision variant, or the shards that
    /// `STEM.safetensors.index.json` lists. Errors: none there, or a shard outside the folder.
    pub fn weights(&self, stem: &str) -> Result<Vec<TensorFile>> {
        let index = format!("{stem}.safetensors.index.json");
        for name in [format!("{stem}.safetensors"), format!("{stem}.fp16.safetensors")] {
            if self.has(&name) {
                return Ok(vec![self.tensors(&name)?]);
            }
        }
        if self.has(&index) {
            let json = self.json(&index)?;
            let map = json.get("weight_map").and_then(Value::as_object).into_iter().flatten();
            let mut shards: Vec<&str> = map.filter_map(|(_, v)| v.as_str()).collect();
            shards.sort_unstable();
            shards.dedup();
            if let Some(bad) = shards.iter().find(|s| s.contains(['/', '\\']) || s.starts_with('.')) {
                return Err(Error::new(
                    Kind::File,
                    "load",
                    format!("{}: a shard lies outside: {bad}", self.display(&index)),
                ));
            }
            return shards.into_iter().map(|s| self.tensors(s)).collect();
        }
        let error =
            Error::missing("load", format!("{}: no such file", self.display(&format!("{stem}.safetensors"))));
        Err(if self.has(&format!("{stem}.bin")) {
            error.hint(
                "only .bin (pickle) weights are there: save the model again with safe_serialization=True",
            )
        } else {
            error.hint("the folder of a network holds config.json and its .safetensors file")
        })
    }

    pub(super) fn tensors(&self, file: &str) -> Result<TensorFile> {
        match self {
            Folder::Disk(path) => TensorFile::open(&path.join(file)),
            Folder::Embedded(_) => match self.embedded(file) {
                Some(bytes) => TensorFile::from_static(&self.display(file), bytes),
                None => Err(Error::missing("load", format!("{}: not in the binary", self.display(file)))),
            },
        }
    }

    #[cfg(feature = "embedded")]
    fn embedded(&self, file: &str) -> Option<&'static [u8]> {
        let Folder::Embedded(path) = self else { return None };
        let full = if path.is_empty() { file.to_string() } else { format!("{path}/{file}") };
        EMBEDDED.get_file(full).map(include_dir::File::contents)
    }

    #[cfg(feature = "embedded")]
    fn embedded_names(&self) -> Vec<String> {
        let Folder::Embedded(path) = self else { return Vec::new() };
        let dir = if path.is_empty() { Some(&EMBEDDED) } else { EMBEDDED.get_dir(path) };
        let files = dir.into_iter().flat_map(include_dir::Dir::files);
        files.filter_map(|f| Some(f.path().file_name()?.to_str()?.to_string())).collect()
    }

    #[cfg(not(feature = "embedded"))]
    fn embedded(&self, _file: &str) -> Option<&'static [u8]> {
        None
    }

    #[cfg(not(feature = "embedded"))]
    fn embedded_names(&self) -> Vec<String> {
        Vec::new()
    }
}
/// The text with `NaN`, `Infinity` and `-Infinity` outside strings replaced by `null`.
fn without_infinities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut quoted) = (text, false);
    while let Some(c) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|w| !quoted && rest.starts_with(w));
        if let Some(word) = word {
            out.push_str("null");
            rest = &rest[word.len()..];
            continue;
        }
        let taken =
            if quoted && c == '\\' { rest.chars().take(2).map(char::len_utf8).sum() } else { c.len_utf8() };
        quoted ^= c == '"';
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_does_not_have() {
        let text = r#"{"a": -Infinity, "b": [NaN, Infinity], "c": "NaN \" Infinity"}"#;
        let json: Value = serde_json::from_str(&without_infinities(text)).unwrap();
        assert_eq!(json, serde_json::json!({"a": null, "b": [null, null], "c": "NaN \" Infinity"}));
    }
}
