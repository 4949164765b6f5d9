//! Recipes, their options and the values of these, and files: at the prompt behind `:run`, and in the user's own shell.

use std::path::Path;

use super::{Candidate, is_plain};
use crate::engine::weights::pictures;
use crate::script::options::{Spec, Val};
use crate::script::{files, recipes as known};

/// `:run name key=value`: recipes, their options, the values of these, files.
pub(super) fn command(before: &str, rest: &str) -> (usize, Vec<Candidate>) {
    // White space may be more than one byte long.
    let start = before.len() - before.rsplit(char::is_whitespace).next().map_or(0, str::len);
    let prefix = &before[start..];
    let words: Vec<&str> = rest.split_whitespace().collect();
    let first = words.first().copied().unwrap_or("");
    let takes = ["run", "check", "edit", "doc", "help", "watch", "save", "log"];
    if !takes.iter().any(|c| !first.is_empty() && c.starts_with(first)) || start == 0 {
        return (before.len(), Vec::new());
    }
    let second = words.len() < 2 || (words.len() == 2 && !prefix.is_empty());
    let files_only = ["save", "log"].iter().any(|c| c.starts_with(first)) && !"run".starts_with(first);
    if second {
        let mut list = if files_only { Vec::new() } else { recipes() };
        list.retain(|c| c.replacement.starts_with(prefix));
        if list.is_empty() {
            list = paths(prefix);
        }
        return (start, list);
    }
    if !["run", "watch"].iter().any(|c| c.starts_with(first)) {
        return (start, paths(prefix));
    }
    let recipe = words.get(1).copied().unwrap_or_default();
    match prefix.split_once('=') {
        Some((key, value)) => {
            // A quote that is open belongs to the command, not to the value.
            let quoted = usize::from(value.starts_with(['"', '\'']));
            let at = start + key.len() + 1 + quoted;
            (at, option_values(recipe, key, &value[quoted..]))
        }
        None => {
            let mut list = option_names(recipe, &words[2..]);
            list.retain(|c| c.replacement.starts_with(prefix));
            (start, list)
        }
    }
}

/// The built-in recipes and the user's own.
pub fn recipes() -> Vec<Candidate> {
    let built_in = known::names().into_iter().map(|n| Candidate::new(n, "recipe"));
    let own = known::own_names();
    built_in.chain(own.iter().filter(|n| is_plain(n)).map(|n| Candidate::new(n, "your recipe"))).collect()
}

/// Whether there is a recipe of that name, or a file that may be one.
pub fn is_recipe(name: &str) -> bool {
    known::names().contains(&name)
        || (!name.starts_with('-') && !name.contains('=') && known::file_of(name).is_ok())
}

/// Whether a recipe has an option of that name.
pub fn has_option(recipe: &str, name: &str) -> bool {
    specs(recipe).iter().any(|s| s.name == name)
}

fn specs(recipe: &str) -> Vec<Spec> {
    known::find(recipe).map(|r| r.specs).unwrap_or_default()
}

/// `key=` of a recipe's options that are not among the words already. Names that the terminal would obey are left out.
pub fn option_names(recipe: &str, words: &[&str]) -> Vec<Candidate> {
    let given = |name: &str| {
        let alone = |pair: &[&str]| pair == [name, "="];
        words.iter().any(|w| w.split_once('=').is_some_and(|(k, _)| k == name)) || words.windows(2).any(alone)
    };
    let free = specs(recipe).into_iter().filter(|s| is_plain(&s.name) && !given(&s.name));
    free.map(|s| Candidate::new(&format!("{}=", s.name), format!("{}  {}", s.takes(), s.doc))).collect()
}

/// Values of an option that begin with what was typed: its words, shipped pictures, files.
pub fn option_values(recipe: &str, key: &str, typed: &str) -> Vec<Candidate> {
    let specs = specs(recipe);
    let Some(spec) = specs.iter().find(|s| s.name == key) else { return paths(typed) };
    let mut list: Vec<Candidate> = match &spec.default {
        _ if !spec.choices.is_empty() => {
            spec.choices.iter().filter(|c| is_plain(c)).map(|c| Candidate::new(c, "")).collect()
        }
        Val::Bool(_) => ["true", "false"].iter().map(|b| Candidate::new(b, "")).collect(),
        Val::Text(t) if files::is_file_like(t) || spec.doc.contains("picture") => {
            pictures::names().iter().map(|n| Candidate::new(n, "ships with scumble")).collect()
        }
        _ => Vec::new(),
    };
    list.retain(|c| c.replacement.starts_with(typed));
    if spec.choices.is_empty() && matches!(spec.default, Val::Text(_) | Val::List(_) | Val::None) {
        list.extend(paths(typed));
    }
    list
}

/// Files and folders that begin with a path; folders end in `/`.
pub fn paths(prefix: &str) -> Vec<Candidate> {
    let (dir, stem) = prefix.rsplit_once('/').map_or(("", prefix), |(d, s)| (&prefix[..=d.len()], s));
    let folder = if dir.is_empty() { Path::new(".") } else { Path::new(dir) };
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut list: Vec<Candidate> = entries
        .flatten()
        .take(5000)
        .filter_map(|e| {
            let name = e.file_name().to_str()?.to_string();
            if !name.starts_with(stem) || (name.starts_with('.') && !stem.starts_with('.')) {
                return None;
            }
            if !is_plain(&name) {
                return None;
            }
            let slash = if e.path().is_dir() { "/" } else { "" };
            let text = format!("{dir}{name}{slash}");
            Some(Candidate { replacement: text, display: format!("{name}{slash}"), detail: String::new() })
        })
        .collect();
    list.sort_by(|a, b| a.display.cmp(&b.display));
    list.truncate(200);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: Vec<Candidate>) -> Vec<String> {
        list.into_iter().map(|c| c.replacement).collect()
    }

    #[test]
    fn options_that_were_given_are_not_offered_again() {
        let all = texts(option_names("magicmix", &[]));
        assert!(all.contains(&"layout=".to_string()) && all.contains(&"seed=".to_string()));
        // As the prompt has the words, and as bash takes them apart.
        assert!(!texts(option_names("magicmix", &["layout=x"])).contains(&"layout=".to_string()));
        assert!(!texts(option_names("magicmix", &["layout", "=", "x"])).contains(&"layout=".to_string()));
        assert!(option_names("nothing", &[]).is_empty());
    }

    #[test]
    fn what_a_strangers_recipe_says_is_plain() {
        let folder = tempfile::tempdir().unwrap();
        let text = "let o = options(args, #{ good: opt(1, \"a \u{1b}]0;doc\u{7}\\n2\"), \"bad\u{1b}[2J\": opt(1, \"x\"), \
                    pick: opt(\"a\", [\"a\", \"b\u{1b}c\"], \"x\") });";
        let path = folder.path().join("stranger.rhai");
        std::fs::write(&path, text).unwrap();
        let recipe = path.display().to_string();
        let names = option_names(&recipe, &[]);
        let good = names.iter().find(|c| c.replacement == "good=").unwrap();
        assert!(good.detail.ends_with("a \u{fffd}]0;doc\u{fffd} 2"), "{:?}", good.detail);
        assert!(!names.iter().any(|c| c.replacement.starts_with("bad")), "{names:?}");
        let shown = |c: &Candidate| format!("{}{}{}", c.replacement, c.display, c.detail);
        assert!(names.iter().all(|c| !shown(c).contains(char::is_control)), "{names:?}");
        assert_eq!(texts(option_values(&recipe, "pick", "")), ["a"]);
    }

    #[test]
    fn values_are_words_pictures_and_files() {
        assert_eq!(texts(option_values("magicmix_grid", "study", "see")), ["seeds"]);
        assert!(texts(option_values("sdedit", "image", "dog-f")).contains(&"dog-flat.png".to_string()));
        assert!(texts(option_values("sdedit", "image", "src/scr")).contains(&"src/script/".to_string()));
        assert!(option_values("magicmix", "nu", "src/").is_empty(), "a number is no file");
    }
}
