//! Completion and the signature hint, from the text, the cursor and a [`Snapshot`]. Pure: no session, no thread.

mod recipe;
mod words;

pub use self::recipe::{has_option, is_recipe, option_names, option_values, paths, recipes};
pub(super) use self::words::words;

use super::catalog::{self, Entry, What};
use super::scan::{self, Class, KEYWORDS, Piece};
use super::session::Snapshot;
use super::{check, files, modules};
use crate::engine::weights::locate::{self, SHIPPED};
use crate::engine::weights::pictures;

/// One way to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What is put in place of the text from the start that [`complete`] returns.
    pub replacement: String,
    /// What is listed.
    pub display: String,
    /// A dim remark beside it: the type, the signature.
    pub detail: String,
}

impl Candidate {
    fn new(text: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        // A remark may come from a recipe that nobody has looked at yet, and stands in one line.
        let detail = crate::report::plain(&detail).replace(['\n', '\t'], " ");
        Candidate { replacement: text.into(), display: text.into(), detail }
    }
}

/// Whether a name from outside can be offered: it is one line, and nothing of it would be obeyed by the terminal.
fn is_plain(name: &str) -> bool {
    crate::report::plain(name) == name && !name.contains(['\n', '\t'])
}

/// Where the completed word begins (bytes), and the candidates, best first.
pub fn complete(line: &str, position: usize, session: &Snapshot) -> (usize, Vec<Candidate>) {
    let before = &line[..position.min(line.len())];
    if let Some(rest) = before.trim_start().strip_prefix(':') {
        return recipe::command(before, rest);
    }
    let pieces = scan::pieces(before);
    match pieces.last() {
        Some(p) if p.open && p.class == Class::String => return in_string(before, p, &pieces, session),
        Some(p) if p.class == Class::Comment && (p.open || p.range.end == before.len()) => {
            return (before.len(), Vec::new());
        }
        // Behind a number or a whole text no name can begin.
        Some(p) if matches!(p.class, Class::Number | Class::String) && p.range.end == before.len() => {
            return (before.len(), Vec::new());
        }
        _ => {}
    }
    let word = pieces.last().filter(|p| p.class == Class::Name && p.range.end == before.len());
    let start = word.map_or(before.len(), |p| p.range.start);
    let prefix = &before[start..];
    let done = &pieces[..pieces.len() - usize::from(word.is_some())];
    let sign = done.last().map_or("", |p| &before[p.range.clone()]);
    let mut list = match sign {
        "." | "?." => members(before, &done[..done.len() - 1], session),
        "::" => {
            let module = done.len().checked_sub(2).map_or("", |i| &before[done[i].range.clone()]);
            library(module)
        }
        _ => match option_keys(before, done) {
            Some(keys) => keys,
            None => names(session, prefix.is_empty()),
        },
    };
    list.retain(|c| c.replacement.starts_with(prefix) && c.replacement != prefix);
    list.dedup_by(|a, b| a.replacement == b.replacement);
    (start, list)
}

/// Inside an open string: model names, shipped pictures, words of prompts, paths, by the function whose argument it is.
fn in_string(before: &str, piece: &Piece, pieces: &[Piece], session: &Snapshot) -> (usize, Vec<Candidate>) {
    let start = piece.range.start + 1;
    let prefix = &before[start..];
    let (call, argument) = open_call(before, &pieces[..pieces.len() - 1]).unwrap_or_default();
    let mut list: Vec<Candidate> = match call.as_str() {
        "load" => {
            let cached =
                locate::cached_models().into_iter().map(|(id, _)| Candidate::new(&id, "model in the cache"));
            SHIPPED.iter().map(|n| Candidate::new(n, "model")).chain(cached).collect()
        }
        "open" => pictures::names().iter().map(|n| Candidate::new(n, "picture")).collect(),
        "reweight" | "columns" | "heat" => {
            session.words.iter().map(|w| Candidate::new(w, "word of a prompt")).collect()
        }
        _ => Vec::new(),
    };
    list.retain(|c| c.replacement.starts_with(prefix));
    if call.is_empty() || takes_path(&call, argument) || files::is_file_like(prefix) {
        list.extend(paths(prefix));
    }
    (start, list)
}

/// Whether an argument of a documented call is a file or a folder.
fn takes_path(call: &str, argument: usize) -> bool {
    let entries = catalog::lookup(call).into_iter().filter(|e| e.name == call);
    let names = entries.filter_map(|e| e.params.get(argument + usize::from(e.what == What::Method)));
    call == "load" || names.into_iter().any(|p| matches!(p.name.as_str(), "path" | "file" | "folder" | "dir"))
}

/// After a dot: members of the receiver's type if it is known, else of all types.
fn members(before: &str, receiver: &[Piece], session: &Snapshot) -> Vec<Candidate> {
    let ty = receiver_type(before, receiver, session);
    let fits = |e: &&Entry| match (&ty, &e.owner) {
        (Some(ty), Some(owner)) => owner.split('|').any(|o| o == ty),
        _ => true,
    };
    let mine = catalog::all().iter().filter(|e| matches!(e.what, What::Method | What::Property));
    let mut list: Vec<Candidate> = mine.filter(fits).map(|e| Candidate::new(&e.name, e.usage())).collect();
    // A function whose first parameter is of the type can be written behind a dot, too.
    if let Some(ty) = &ty {
        let functions = catalog::all().iter().filter(|e| e.what == What::Function);
        let fits = |e: &&Entry| e.params.first().is_some_and(|p| p.ty.split('|').any(|t| t == ty));
        list.extend(functions.filter(fits).map(|e| Candidate::new(&e.name, e.usage())));
    }
    if list.is_empty() || matches!(ty.as_deref(), Some("list" | "string" | "map")) {
        list.extend(check::standard().iter().map(|n| Candidate::new(n, "")));
    }
    list
}

/// The type of what stands before the dot: a variable, or a call or property that the catalogue knows.
fn receiver_type(before: &str, pieces: &[Piece], session: &Snapshot) -> Option<String> {
    let last = pieces.last()?;
    let text = &before[last.range.clone()];
    let plain = |ty: &str| ty.split(['|', ' ']).next().unwrap_or("").to_string();
    let returns = |name: &str| {
        let mut found = catalog::lookup(name).into_iter().filter(|e| e.name == name);
        let ty = found.next()?.returns.clone();
        // Several return types: all of their members are offered.
        (!ty.contains('|') && found.all(|e| e.returns == ty) && !ty.is_empty()).then_some(ty)
    };
    match last.class {
        Class::Name => {
            let after_dot = pieces.len() > 1 && before[pieces[pieces.len() - 2].range.clone()].ends_with('.');
            if after_dot {
                return returns(text);
            }
            session.variables.iter().rev().find(|(n, _)| n == text).map(|(_, ty)| plain(ty))
        }
        Class::String => Some("string".into()),
        _ if text == ")" => {
            let open = matching(before, pieces)?;
            returns(&before[pieces[open.checked_sub(1)?].range.clone()])
        }
        _ if text == "]" => Some("list".into()),
        _ => None,
    }
}

/// The index of the bracket that the last piece closes.
fn matching(before: &str, pieces: &[Piece]) -> Option<usize> {
    let mut depth = 0;
    for (i, p) in pieces.iter().enumerate().rev() {
        match &before[p.range.clone()] {
            ")" | "]" | "}" => depth += 1,
            "(" | "[" | "{" | "#{" => {
                depth -= 1;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

fn library(module: &str) -> Vec<Candidate> {
    let mine =
        catalog::all().iter().filter(|e| e.what == What::Library && e.owner.as_deref() == Some(module));
    mine.map(|e| Candidate::new(&e.name, e.usage())).collect()
}

/// Inside `#{ ` of a call's options map, where a key is expected.
fn option_keys(before: &str, done: &[Piece]) -> Option<Vec<Candidate>> {
    let at = |i: usize| &before[done[i].range.clone()];
    let last = done.len().checked_sub(1)?;
    if !matches!(at(last), "#{" | ",") {
        return None;
    }
    let open = innermost(before, done)?;
    if at(open) != "#{" {
        return None;
    }
    let (name, _) = open_call(before, &done[..open])?;
    let given: Vec<&str> = (open..last).filter(|i| at(i + 1) == ":").map(at).collect();
    let entries = catalog::lookup(&name);
    let options = entries.iter().flat_map(|e| &e.options).filter(|o| !given.contains(&o.name.as_str()));
    let list: Vec<Candidate> =
        options.map(|o| Candidate::new(&format!("{}: ", o.name), format!("{}  {}", o.ty, o.doc))).collect();
    (!list.is_empty()).then_some(list)
}

/// The innermost bracket that is still open.
fn innermost(before: &str, pieces: &[Piece]) -> Option<usize> {
    let mut depth = 0;
    for (i, p) in pieces.iter().enumerate().rev() {
        match &before[p.range.clone()] {
            ")" | "]" | "}" => depth += 1,
            "(" | "[" | "{" | "#{" => {
                if depth == 0 {
                    return Some(i);
                }
                depth -= 1;
            }
            _ => {}
        }
    }
    None
}

/// The innermost call that is still open: its name, and which argument the end of the text is in.
fn open_call(before: &str, pieces: &[Piece]) -> Option<(String, usize)> {
    let mut end = pieces.len();
    loop {
        let open = innermost(before, &pieces[..end])?;
        let name = open.checked_sub(1).map(|i| &pieces[i]).filter(|p| p.class == Class::Name);
        if let (Some(name), "(") = (name, &before[pieces[open].range.clone()]) {
            let mut depth = 0;
            let mut argument = 0;
            for p in &pieces[open + 1..] {
                match &before[p.range.clone()] {
                    "(" | "[" | "{" | "#{" => depth += 1,
                    ")" | "]" | "}" => depth -= 1,
                    "," if depth == 0 => argument += 1,
                    _ => {}
                }
            }
            return Some((before[name.range.clone()].to_string(), argument));
        }
        end = open;
    }
}

fn names(session: &Snapshot, all: bool) -> Vec<Candidate> {
    let mut list: Vec<Candidate> = session
        .variables
        .iter()
        .rev()
        .filter(|(n, _)| n != "args")
        .map(|(n, ty)| Candidate::new(n, ty.as_str()))
        .collect();
    list.extend(session.functions.iter().map(|(n, p)| Candidate::new(n, format!("{n}({})", p.join(", ")))));
    let functions = catalog::all().iter().filter(|e| e.what == What::Function);
    let mut mine: Vec<Candidate> = functions.map(|e| Candidate::new(&e.name, e.usage())).collect();
    mine.sort_by(|a, b| a.replacement.cmp(&b.replacement));
    list.extend(mine);
    list.extend(modules::names().iter().map(|n| Candidate::new(&format!("{n}::"), "module")));
    if !all {
        list.extend(KEYWORDS.iter().map(|k| Candidate::new(k, "")));
        list.extend(["print", "debug", "type_of"].iter().map(|k| Candidate::new(k, "")));
    }
    list
}

/// The parameters still to come of the innermost open call: ` b: Latent, x: number) -> Latent`.
/// `None` outside of calls that the catalogue or the session knows.
pub fn signature_hint(line: &str, position: usize, session: &Snapshot) -> Option<String> {
    let before = &line[..position.min(line.len())];
    let pieces = scan::pieces(before);
    let last = pieces.last()?;
    if last.open || last.class == Class::Comment {
        return None;
    }
    let sign = &before[last.range.clone()];
    // Only right behind `(` or `,`: elsewhere the hint would be in the way.
    if !matches!(sign, "(" | ",") {
        return None;
    }
    let (name, argument) = open_call(before, &pieces)?;
    let own = session.functions.iter().find(|(n, _)| *n == name).map(|(_, p)| (p.clone(), String::new()));
    let (params, returns) = own.or_else(|| {
        let e = catalog::lookup(&name).into_iter().find(|e| e.name == name && e.what != What::Operator)?;
        let skip = usize::from(matches!(e.what, What::Method));
        let list = e.params.iter().skip(skip).map(|p| {
            let ty = if p.ty == "any" { String::new() } else { format!(": {}", p.ty) };
            if p.optional { format!("[{}{ty}]", p.name) } else { format!("{}{ty}", p.name) }
        });
        Some((list.collect(), e.returns.clone()))
    })?;
    if argument > params.len() || (argument == params.len() && argument > 0) {
        return None;
    }
    let rest = params[argument..].join(", ");
    let space = if sign == "," && !before.ends_with(' ') { " " } else { "" };
    let arrow = if returns.is_empty() { String::new() } else { format!(" -> {returns}") };
    Some(format!("{space}{rest}){arrow}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Snapshot {
        Snapshot {
            variables: vec![
                ("args".into(), "map".into()),
                ("m".into(), "Model".into()),
                ("sched".into(), "Schedule".into()),
                ("z".into(), "Latent".into()),
            ],
            functions: vec![("mine".into(), vec!["a".into(), "b".into()])],
            words: vec!["dog".into(), "snow".into()],
        }
    }

    fn found(line: &str) -> Vec<String> {
        complete(line, line.len(), &session()).1.into_iter().map(|c| c.replacement).collect()
    }

    #[test]
    fn names_and_members() {
        assert_eq!(found("ble"), ["blend"]);
        assert_eq!(found("sch"), ["sched"]);
        assert!(found("sched.").contains(&"at_level".to_string()));
        assert!(!found("sched.").contains(&"decode".to_string()));
        assert_eq!(found("m.enc"), ["encode"]);
        assert_eq!(found("z.sha"), ["shape"]);
        assert_eq!(found("load(\"emoji\").enc"), ["encode"]);
        assert!(found("unknown.").contains(&"encode".to_string()));
        assert_eq!(found("let x = mi"), ["mine", "minimize", "mix::"]);
        assert!(found("ret").contains(&"return".to_string()));
        assert!(found("// ble").is_empty());
    }

    #[test]
    fn the_place_where_the_word_begins() {
        let (start, _) = complete("let a = m.enc", 13, &session());
        assert_eq!(start, 10);
        let (start, list) = complete("blend(z, z", 5, &session());
        assert_eq!((start, list.len()), (0, 0));
    }

    #[test]
    fn option_keys_and_strings() {
        assert_eq!(found("m.noise(1, #{ "), ["rng: ", "n: ", "size: "]);
        assert_eq!(found("m.noise(1, #{ n: 2, "), ["rng: ", "size: "]);
        assert_eq!(found("m.noise(1, #{ si"), ["size: "]);
        assert!(found("load(\"em").contains(&"emoji".to_string()));
        assert!(found("open(\"dog-f").contains(&"dog-flat.png".to_string()));
        assert!(found("open(\"src/").contains(&"src/script/".to_string()));
        assert_eq!(found("z.heat(\"d"), ["dog"]);
        assert_eq!(found("text.columns(\""), ["dog", "snow"]);
        assert_eq!(found("attention().reweight(text, \"s"), ["snow"]);
    }

    #[test]
    fn commands() {
        assert!(found(":run ").contains(&"magicmix".to_string()));
        assert!(found(":run magicmix k_").contains(&"k_max=".to_string()));
        assert!(!found(":run magicmix k_max=0.5 k_").contains(&"k_max=".to_string()));
        assert!(found(":run magicmix layout=src/").contains(&"src/script/".to_string()));
        assert!(found(":vars ").is_empty());
    }

    #[test]
    fn hints_show_what_is_still_to_come() {
        let hint = |line: &str| signature_hint(line, line.len(), &session());
        assert_eq!(hint("distance(").unwrap(), "a: Latent, b: Latent) -> number");
        assert_eq!(hint("distance(z,").unwrap(), " b: Latent) -> number");
        assert_eq!(hint("sched.t(").unwrap(), "i: integer) -> integer|number");
        assert_eq!(hint("mine(z, ").unwrap(), "b)");
        assert_eq!(hint("distance(z"), None);
        assert_eq!(hint("distance(z, z, "), None);
        assert_eq!(hint("nope("), None);
        assert_eq!(hint("\"distance("), None);
    }
}
