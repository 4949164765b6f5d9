//! `:models` and `:out`: what there is.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::config::Config;
use super::progress;
use crate::engine::weights::locate;
use crate::record::png;
use crate::report::plain;
use crate::script::{Held, types};

/// Results that `:out` lists.
const MOST: usize = 500;
/// Bytes at the beginning of a picture in which its record is looked for.
const HEAD: u64 = 1 << 20;

/// Models in memory, and those that load(NAME) finds.
pub fn models(held: &[Held], config: &Config) -> String {
    let mut out = String::from(if held.is_empty() { "No model is in memory yet.\n" } else { "In memory:\n" });
    for model in held {
        let variables = match model.variables.join(", ") {
            names if names.is_empty() => "kept for the next use".to_string(),
            names => names,
        };
        let size = types::size(model.bytes);
        out.push_str(&format!("  {:<20} {size:>10}  {}  {variables}\n", model.name, model.device));
    }
    out.push_str("\nCan be loaded, as load(\"NAME\") or :set model NAME:\n");
    let mut known: Vec<(String, String)> =
        locate::SHIPPED.iter().map(|n| ((*n).to_string(), "ships with scumble".to_string())).collect();
    known.extend(locate::cached_models().into_iter().map(|(id, _)| (id, "Hugging Face cache".to_string())));
    let chosen = config.get("model").to_string();
    match known.iter_mut().find(|(name, _)| *name == chosen) {
        Some((_, about)) => about.push_str(", --model"),
        None => {
            let about = match locate::locate(&chosen) {
                Ok(_) => config.label("model"),
                Err(e) => format!("{}: {}", config.label("model"), e.message()),
            };
            known.push((chosen, about));
        }
    }
    for (name, about) in known {
        out.push_str(&format!("  {name:<40} {about}\n"));
    }
    out.push_str("  PATH                                     any diffusers folder");
    out
}

/// Files of the results' folder whose name or record holds a text, the newest first: name, size, age, and for pictures what
/// made them.
pub fn results(folder: &Path, text: &str, width: usize) -> String {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(_) => return format!("{} is not there yet: nothing was saved", folder.display()),
    };
    let file = |e: std::fs::DirEntry| {
        let meta = e.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some((meta.modified().ok()?, meta.len(), e.file_name().to_string_lossy().into_owned()))
    };
    let mut all: Vec<_> = entries.flatten().filter_map(file).collect();
    all.sort_by(|a, b| b.cmp(a));
    let now = SystemTime::now();
    let mut lines = Vec::new();
    for (time, length, name) in &all {
        let made = made_by(&folder.join(name)).unwrap_or_default();
        if !name.contains(text) && !made.contains(text) {
            continue;
        }
        if lines.len() == MOST {
            lines.push(format!("... and older ones: ls -t {}", folder.display()));
            break;
        }
        let age = age(now.duration_since(*time).unwrap_or_default());
        let size = types::size(usize::try_from(*length).unwrap_or(usize::MAX));
        let line =
            format!("{:<26} {size:>9}  {age:>9}  {}", plain(name), plain(&made).replace(['\n', '\t'], " "));
        lines.push(line.chars().take(width).collect::<String>().trim_end().to_string());
    }
    match lines.is_empty() {
        true if all.is_empty() => format!("{} is empty", folder.display()),
        true => format!("nothing in {} has \"{text}\" in it", folder.display()),
        false => lines.join("\n"),
    }
}

/// `magicmix  a lion  seed 3`, from the record in a picture.
fn made_by(path: &Path) -> Option<String> {
    path.extension().filter(|e| e.eq_ignore_ascii_case("png"))?;
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(HEAD).read_to_end(&mut bytes).ok()?;
    let record = png::read_record(&bytes)?;
    let option = |name: &str| record.options.get(name).filter(|v| !v.is_null());
    let words = ["prompt", "content", "target", "source"].into_iter().find_map(option);
    let words = words.and_then(|v| v.as_str()).unwrap_or_default();
    let seed = option("seed").map_or(String::new(), |s| format!("seed {s}"));
    Some(
        [record.recipe.as_str(), words, &seed]
            .iter()
            .filter(|p| !p.is_empty())
            .copied()
            .collect::<Vec<_>>()
            .join("  "),
    )
}

fn age(time: Duration) -> String {
    match time.as_secs() {
        0..10 => "now".into(),
        s if s < 86_400 => {
            let text = progress::duration(time);
            // The first number says enough.
            text.split(' ').take(2).collect::<Vec<_>>().join(" ")
        }
        s => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    #[test]
    fn results_come_newest_first_with_what_made_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record { recipe: "magicmix".into(), ..Record::default() };
        record.options.insert("content".into(), "a lion".into());
        record.options.insert("seed".into(), 3.into());
        let picture = image::RgbImage::new(2, 2);
        let write = |name: &str, bytes: &[u8], age: u64| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let time = SystemTime::now() - Duration::from_secs(age);
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        write("old.txt", b"x", 200_000);
        write("magicmix.png", &png::encode(&picture, Some(&record)).unwrap(), 90);
        write("plain.png", &png::encode(&picture, None).unwrap(), 1);
        write("broken.png", b"no picture", 4000);
        let list = results(dir.path(), "", 80);
        let names: Vec<&str> = list.lines().map(|l| l.split(' ').next().unwrap()).collect();
        assert_eq!(names, ["plain.png", "magicmix.png", "broken.png", "old.txt"]);
        assert!(list.contains("1 min  magicmix  a lion  seed 3") && list.contains("2 d"), "{list}");
        assert_eq!(results(dir.path(), "lion", 80).lines().count(), 1);
        assert!(results(dir.path(), "tiger", 80).contains("nothing in"));
        assert!(results(&dir.path().join("none"), "", 80).contains("not there yet"));
    }

    #[test]
    fn models_say_where_they_are() {
        let held = [Held {
            name: "emoji".into(),
            device: "cpu".into(),
            bytes: 51 << 20,
            variables: vec!["m".into()],
        }];
        let list = models(&held, &Config::default());
        assert!(list.contains("51.0 MiB  cpu  m") && list.contains("ships with scumble, --model"), "{list}");
        assert!(models(&[], &Config::default()).starts_with("No model"));
    }
}
