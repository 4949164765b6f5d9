//! Pictures with captions, from a folder.

use std::collections::HashMap;
use std::path::Path;

use rhai::{Dynamic, Map};

use crate::engine::error::{Error, Result};
use crate::engine::weights::pictures as shipped;
use crate::script::host::Host;
use crate::script::registry::Registry;

/// Pictures of one folder, at most.
const MOST: usize = 10_000;
/// Longest file of captions, in bytes.
const MAX_TABLE: u64 = 16 << 20;
/// Longest caption, in bytes.
const MAX_CAPTION: u64 = 1 << 16;
/// The file that holds all captions.
const TABLE: &str = "captions.csv";

/// `dog-on-the-grass.png` → `dog on the grass`.
fn from_name(name: &str) -> String {
    let stem = Path::new(name).file_stem().unwrap_or_default().to_string_lossy();
    stem.split(['-', '_', ' ']).filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
}

fn is_picture(name: &str) -> bool {
    let ending = Path::new(name).extension().map(|e| e.to_string_lossy().to_lowercase());
    ending.is_some_and(|e| ["png", "jpg", "jpeg", "webp"].contains(&e.as_str()))
}

fn text(host: &Host, path: &Path, most: u64) -> Result<String> {
    let bytes = host.policy.borrow().read("captioned", path, most)?;
    String::from_utf8(bytes).map_err(|_| Error::file("captioned", path, "this is no text (UTF-8)"))
}

/// Lines `file,caption`; a caption may stand in quotes.
fn table(text: &str) -> HashMap<String, String> {
    let line = |line: &str| {
        let (name, caption) = line.split_once([',', '\t'])?;
        let caption = caption.trim().trim_matches('"').replace("\"\"", "\"");
        Some((name.trim().trim_matches('"').to_string(), caption))
    };
    text.lines().filter_map(line).collect()
}

fn entry(host: &Host, name: &str, path: &str, caption: String) -> Result<Map> {
    Ok(Map::from([
        ("name".into(), name.into()),
        ("caption".into(), caption.into()),
        ("picture".into(), Dynamic::from(super::image::open(host, path)?)),
    ]))
}

fn captioned(host: &Host, folder: &str) -> Result<Vec<Map>> {
    if folder == "shipped" && !Path::new(folder).exists() {
        return shipped::names().iter().map(|n| entry(host, n, n, from_name(n))).collect();
    }
    let dir = host.policy.borrow().readable_tree("captioned", Path::new(folder))?;
    let bad = |e: std::io::Error| Error::file("captioned", Path::new(folder), e);
    let mut names: Vec<String> = std::fs::read_dir(&dir)
        .map_err(bad)?
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| is_picture(n))
        .take(MOST + 1)
        .collect();
    names.sort();
    if names.is_empty() || names.len() > MOST {
        return Err(Error::file("captioned", Path::new(folder), "the folder cannot be used")
            .expected(format!("1 to {MOST} pictures (png, jpg, webp)"))
            .got(names.len().to_string())
            .hint("captions stand in NAME.txt beside NAME.png, or in captions.csv: file,caption"));
    }
    let here = Path::new(folder);
    let all = here.join(TABLE);
    let captions = if all.is_file() { table(&text(host, &all, MAX_TABLE)?) } else { HashMap::new() };
    names
        .iter()
        .map(|name| {
            let beside = here.join(name).with_extension("txt");
            let caption = match captions.get(name) {
                Some(caption) => caption.clone(),
                None if beside.is_file() => text(host, &beside, MAX_CAPTION)?.trim().to_string(),
                None => from_name(name),
            };
            entry(host, name, &here.join(name).display().to_string(), caption)
        })
        .collect()
}

/// Binds them.
pub fn register(r: &mut Registry) {
    let host = r.host();
    r.def(
        "captioned(folder)",
        "The pictures of a folder with their captions: a list of #{ name, caption, picture }. The caption of NAME.png stands in NAME.txt \
         beside it, or in captions.csv (`file,caption`); else it is the words of the name. \"shipped\" is the pictures that come \
         with scumble.",
    )
    .example("captioned(\"shipped\").filter(|p| p.caption.contains(\"dog\"))[0].caption // => \"dog cartoon\"")
    .example("captioned(\"no such folder\") // error: no such folder")
    .see(&["open", "tune"])
    .work()
    .bind(move |folder: String| captioned(&host, &folder));
}
