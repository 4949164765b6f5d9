//! Completion in the user's own shell: the shell asks the program (`COMPLETE=bash scumble -- WORDS`), which answers from the
//! tables that the prompt completes from.

use std::ffi::{OsStr, OsString};

use clap_complete::CompletionCandidate;

use crate::engine::weights::locate;
use crate::script::catalog;
use crate::script::complete::{self as inside, Candidate};

/// Built-in recipes, the user's own, and files.
pub fn recipes(current: &OsStr) -> Vec<CompletionCandidate> {
    let typed = current.to_string_lossy();
    let mut found: Vec<Candidate> = inside::recipes().into_iter().filter(|c| begins(c, &typed)).collect();
    found.extend(inside::paths(&typed).into_iter().filter(|c| is_script(&c.replacement)));
    offered(found, "")
}

/// The options of the recipe that the words before name, and their values.
pub fn options(current: &OsStr) -> Vec<CompletionCandidate> {
    let (words, index) = words();
    let typed = current.to_string_lossy();
    let before = words.get(..index).unwrap_or_default();
    let Some(at) = before.iter().position(|w| w == "run") else { return Vec::new() };
    // Flags may stand anywhere, and some take a word.
    let Some(recipe) = before.iter().skip(at + 1).find(|w| inside::is_recipe(w)) else { return Vec::new() };
    // bash takes key=value apart: the word is the value alone, or nothing if the cursor stands right behind the sign.
    let last = before.last().map_or("", String::as_str);
    let key = match last {
        "=" => before.iter().rev().nth(1).cloned(),
        word if typed.is_empty() && inside::has_option(recipe, word) => Some(word.to_string()),
        _ => None,
    };
    if let Some(key) = key {
        return offered(inside::option_values(recipe, &key, &typed), "");
    }
    match typed.split_once('=') {
        Some((key, value)) => offered(inside::option_values(recipe, key, value), &format!("{key}=")),
        None => {
            let given: Vec<&str> = before.iter().map(String::as_str).collect();
            let keys = inside::option_names(recipe, &given);
            offered(keys.into_iter().filter(|c| begins(c, &typed)).collect(), "")
        }
    }
}

/// Functions, methods, types.
pub fn documented(current: &OsStr) -> Vec<CompletionCandidate> {
    let typed = current.to_string_lossy();
    let mut names: Vec<&str> = catalog::all().iter().map(|e| e.name.as_str()).collect();
    names.extend(catalog::owners());
    names.sort_unstable();
    names.dedup();
    names.into_iter().filter(|n| n.starts_with(&*typed)).map(CompletionCandidate::new).collect()
}

/// Shipped models, those of the Hugging Face cache, and folders.
pub fn models(current: &OsStr) -> Vec<CompletionCandidate> {
    let typed = current.to_string_lossy();
    let mut names: Vec<String> = locate::SHIPPED.iter().map(|n| (*n).to_string()).collect();
    names.extend(locate::cached_models().into_iter().map(|(id, _)| id));
    names.extend(inside::paths(&typed).into_iter().map(|c| c.replacement).filter(|p| p.ends_with('/')));
    names.into_iter().filter(|n| n.starts_with(&*typed)).map(CompletionCandidate::new).collect()
}

/// The command line as the shell gave it, and which word is being completed.
fn words() -> (Vec<String>, usize) {
    let all: Vec<OsString> = std::env::args_os().collect();
    let start = all.iter().position(|w| w == "--").map_or(all.len(), |i| i + 1);
    let words: Vec<String> = all[start..].iter().map(|w| w.to_string_lossy().into_owned()).collect();
    let index = std::env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|i| i.parse().ok());
    let last = words.len().saturating_sub(1);
    (words, index.unwrap_or(last))
}

fn is_script(path: &str) -> bool {
    path.ends_with('/') || path.ends_with(".rhai")
}

fn begins(candidate: &Candidate, typed: &str) -> bool {
    candidate.replacement.starts_with(typed)
}

fn offered(found: Vec<Candidate>, prefix: &str) -> Vec<CompletionCandidate> {
    let one = |c: Candidate| {
        let help = Some(c.detail).filter(|d| !d.is_empty()).map(Into::into);
        CompletionCandidate::new(format!("{prefix}{}", c.replacement)).help(help)
    };
    found.into_iter().map(one).collect()
}
