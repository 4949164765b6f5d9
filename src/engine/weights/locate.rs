//! From what the user typed to a model folder: a shipped name, a folder, or a hub id in the local cache.

use std::path::{Path, PathBuf};

use super::folder::Folder;
use crate::engine::error::{Error, Kind, Result};

/// Names of the models that ship with the program.
pub const SHIPPED: [&str; 1] = ["emoji"];

/// Finds a diffusers folder. `spec` is `emoji`, a path to a folder with model_index.json, or `org/name[@revision]` in
/// the Hugging Face cache (nothing is downloaded).
/// Errors: nothing there, a folder that is no model, a single-file checkpoint.
pub fn locate(spec: &str) -> Result<Folder> {
    if spec.is_empty() {
        return Err(Error::value("load", "the name of the model is empty").hint("load(\"emoji\")"));
    }
    if SHIPPED.contains(&spec) {
        return Folder::shipped();
    }
    let path = Path::new(spec);
    if path.is_dir() {
        return folder(path);
    }
    if path.is_file() {
        return Err(Error::new(Kind::File, "load", format!("{spec}: this is one file, and a model is a folder"))
            .expected("a diffusers folder, with model_index.json in it")
            .hint("convert it once in Python: StableDiffusionPipeline.from_single_file(\"...\").save_pretrained(\"folder\")"));
    }
    let (id, revision) = spec.split_once('@').unwrap_or((spec, "main"));
    let looks_like_id = id.split('/').count() == 2
        && !id.starts_with(['.', '/', '~'])
        && id.split('/').all(|p| !p.is_empty() && p != "..");
    if looks_like_id {
        if let Some(snapshot) = cached(id, revision) {
            return folder(&snapshot);
        }
        let looked: Vec<String> = caches().iter().map(|c| c.display().to_string()).collect();
        return Err(Error::missing(
            "load",
            format!("\"{spec}\" is no folder here and not in the Hugging Face cache"),
        )
        .got(format!("looked in {}", looked.join(", ")))
        .hint(format!("fetch it once: hf download {id}   (or git clone), then give the folder's path")));
    }
    let near = SHIPPED.iter().find(|s| strsim::damerau_levenshtein(s, spec) <= 2);
    let error = Error::missing("load", format!("there is no model \"{spec}\""))
        .expected("emoji, a diffusers folder, or org/name of a model in the Hugging Face cache");
    Err(match near {
        Some(near) => error.hint(format!("did you mean \"{near}\"?")),
        None => error.hint("load(\"emoji\") is always there"),
    })
}

fn folder(path: &Path) -> Result<Folder> {
    if path.join("model_index.json").is_file() {
        return Ok(Folder::Disk(path.to_path_buf()));
    }
    let error = Error::missing("load", format!("{}: this folder is no diffusers model", path.display()))
        .expected("model_index.json and the folders unet, vae, text_encoder, tokenizer, scheduler");
    let inner = std::fs::read_dir(path)
        .into_iter()
        .flatten()
        .filter_map(std::result::Result::ok)
        .find(|e| e.path().join("model_index.json").is_file());
    Err(match inner {
        Some(inner) => error.hint(format!("did you mean {}?", inner.path().display())),
        None if path.join("config.json").is_file() => {
            error.hint("this is one network: give the folder above it")
        }
        None => error,
    })
}

/// The cache folders of huggingface_hub, by its own environment variables, the most specific first.
pub fn caches() -> Vec<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(cache) = var("HF_HUB_CACHE").or_else(|| var("HUGGINGFACE_HUB_CACHE")) {
        return vec![cache];
    }
    let home = var("HF_HOME")
        .or_else(|| var("XDG_CACHE_HOME").map(|c| c.join("huggingface")))
        .or_else(|| dirs::home_dir().map(|h| h.join(".cache/huggingface")));
    home.map(|h| h.join("hub")).into_iter().collect()
}

/// Diffusers models in the Hugging Face cache: id and folder, sorted.
pub fn cached_models() -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for cache in caches() {
        let entries = std::fs::read_dir(cache).into_iter().flatten().flatten().take(5000);
        let names = entries.filter_map(|e| e.file_name().into_string().ok());
        for id in names.filter_map(|n| n.strip_prefix("models--").map(|n| n.replacen("--", "/", 1))) {
            let folder = cached(&id, "main").filter(|f| f.join("model_index.json").is_file());
            found.extend(folder.map(|f| (id, f)));
        }
    }
    found.sort();
    found
}

fn cached(id: &str, revision: &str) -> Option<PathBuf> {
    if revision.contains("..") || revision.starts_with('/') {
        return None;
    }
    caches().iter().find_map(|cache| {
        let root = cache.join(format!("models--{}", id.replace('/', "--")));
        let commit = std::fs::read_to_string(root.join("refs").join(revision))
            .map_or_else(|_| revision.to_string(), |c| c.trim().to_string());
        let snapshot = root.join("snapshots").join(commit);
        snapshot.is_dir().then_some(snapshot)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_names_say_what_to_type() {
        let text = |spec: &str| locate(spec).unwrap_err().to_string();
        assert!(text("emjoi").contains("did you mean \"emoji\""), "{}", text("emjoi"));
        assert!(text("").contains("empty"));
        assert!(text("some/thing").contains("hf download some/thing"));
        let dir = tempfile::tempdir().unwrap();
        assert!(text(dir.path().to_str().unwrap()).contains("model_index.json"));
    }
}
