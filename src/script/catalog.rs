//! The catalogue: what every script function is called, takes, returns and does. Help, completion, the checks, the
//! reference page and the tests that run the examples all read this one table.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::rc::Rc;
use std::sync::OnceLock;

use super::host::Host;
use super::registry::Registry;
use super::{bind, modules};

/// What sort of name an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// `blend(a, b, x)`.
    Function,
    /// `m.encode(what)`.
    Method,
    /// `s.len`.
    Property,
    /// `a + b`.
    Operator,
    /// `name::function(a)`, written in Rhai.
    Library,
}

/// One parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// Its type as signatures show it.
    pub ty: String,
    /// Whether it may be left out.
    pub optional: bool,
}

/// One key of an options map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionDoc {
    /// The key.
    pub name: String,
    /// The type of its value.
    pub ty: String,
    /// One clause.
    pub doc: String,
}

/// One function, method, property or operator.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The bare name ("encode").
    pub name: String,
    /// The type of the receiver, for methods and properties; the module, for library functions.
    pub owner: Option<String>,
    /// What sort of name it is.
    pub what: What,
    /// The call as a recipe writes it: "m.encode(what)".
    pub call: String,
    /// Parameters, receiver included.
    pub params: Vec<Param>,
    /// The type of the result; empty for nothing.
    pub returns: String,
    /// A paragraph.
    pub doc: String,
    /// Keys of the options map, if the last parameter is one.
    pub options: Vec<OptionDoc>,
    /// Rhai code; see [`super::registry::Def::example`].
    pub examples: Vec<String>,
    /// Names of related entries.
    pub related: Vec<String>,
    /// The group of the reference page.
    pub group: String,
    /// The Rhai source, for library functions.
    pub source: Option<String>,
}

impl Entry {
    /// The full name: "Model.encode", "Schedule.len", "blend", "prompt::words".
    pub fn path(&self) -> String {
        match (self.what, &self.owner) {
            (What::Method | What::Property, Some(owner)) => format!("{owner}.{}", self.name),
            (What::Library, Some(owner)) => format!("{owner}::{}", self.name),
            _ => self.name.clone(),
        }
    }

    /// The signature: `blend(a: Latent, b: Latent, x: number) -> Latent`.
    pub fn usage(&self) -> String {
        let ty = |i: usize| self.params.get(i).map_or("any", |p| p.ty.as_str());
        let head = match self.what {
            What::Operator if self.name == "[]" => format!("{}[{}]", ty(0), ty(1)),
            What::Operator => format!("{} {} {}", ty(0), self.name, ty(1)),
            What::Property => self.call.clone(),
            _ => {
                let skip = usize::from(self.what == What::Method);
                let list: Vec<String> = self.params.iter().skip(skip).map(Param::text).collect();
                let (head, _) = self.call.split_once('(').unwrap_or((&self.call, ""));
                format!("{head}({})", list.join(", "))
            }
        };
        if self.returns.is_empty() { head } else { format!("{head} -> {}", self.returns) }
    }

    /// How many arguments a call may have, the receiver included.
    pub fn arity(&self) -> std::ops::RangeInclusive<usize> {
        let most = self.params.len();
        most - self.params.iter().rev().take_while(|p| p.optional).count()..=most
    }
}

impl Param {
    fn text(&self) -> String {
        let ty = if self.ty == "any" { String::new() } else { format!(": {}", self.ty) };
        if self.optional { format!("[{}{ty}]", self.name) } else { format!("{}{ty}", self.name) }
    }
}

/// Everything, in order of definition, with the groups and their sentences.
pub struct Catalog {
    entries: Vec<Entry>,
    groups: Vec<(String, String)>,
}

fn catalog() -> &'static Catalog {
    static CATALOG: OnceLock<Catalog> = OnceLock::new();
    CATALOG.get_or_init(|| {
        let mut registry = Registry::new(Rc::new(Host::idle()));
        bind::register(&mut registry);
        let (_, mut entries, mut groups) = registry.finish();
        let library = modules::documented();
        if !library.is_empty() {
            groups.push(("Library".into(), "Functions written in Rhai; `??name` shows their source.".into()));
        }
        entries.extend(library);
        Catalog { entries, groups }
    })
}

/// All entries, in the order of the reference page.
pub fn all() -> &'static [Entry] {
    &catalog().entries
}

/// Entries of that name: "encode", "Model.encode", "prompt::words"; the name of a type gives its members.
pub fn lookup(name: &str) -> Vec<&'static Entry> {
    let named: Vec<_> = all().iter().filter(|e| e.name == name || e.path() == name).collect();
    if !named.is_empty() {
        return named;
    }
    all().iter().filter(|e| e.owner.as_deref().is_some_and(|o| o.split('|').any(|t| t == name))).collect()
}

/// The types and modules that own entries, sorted.
pub fn owners() -> BTreeSet<&'static str> {
    all().iter().filter_map(|e| e.owner.as_deref()).flat_map(|o| o.split('|')).collect()
}

/// Entries in whose name or text every word occurs, names first.
pub fn search(words: &str) -> Vec<&'static Entry> {
    let words: Vec<String> = words.split_whitespace().map(str::to_lowercase).collect();
    if words.is_empty() {
        return Vec::new();
    }
    let in_name = |e: &Entry| words.iter().all(|w| e.path().to_lowercase().contains(w));
    let in_text = |e: &Entry| {
        let text = format!("{} {} {}", e.usage(), e.doc, e.group).to_lowercase();
        words.iter().all(|w| text.contains(w))
    };
    let mut found: Vec<_> = all().iter().filter(|e| in_name(e)).collect();
    found.extend(all().iter().filter(|e| !in_name(e) && in_text(e)));
    found
}

/// The nearest known name, if any is near.
pub fn suggest(name: &str) -> Option<&'static str> {
    nearest(name, all().iter().map(|e| e.name.as_str()))
}

/// The nearest of some names, if any is near: a few letters changed, swapped or left out, or the same beginning.
pub fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    // Of a name of one or two letters, every other one would be near.
    let length = name.chars().count();
    let allowed = if length < 3 { 0 } else { (length / 3).max(1) };
    names
        .into_iter()
        .filter(|n| !n.is_empty() && *n != name)
        .filter_map(|n| {
            let other = n.to_lowercase();
            let distance = strsim::damerau_levenshtein(&lower, &other);
            if distance <= allowed {
                return Some((distance, n));
            }
            let begins = lower.len() >= 3
                && (other.starts_with(&lower) || lower.starts_with(&other) && other.len() > 2);
            begins.then_some((allowed + 1, n))
        })
        .min_by_key(|(d, n)| (*d, n.len()))
        .map(|(_, n)| n)
}

/// One entry for `?name`: signature, paragraph, options, examples, related names.
pub fn render(entry: &Entry, width: usize) -> String {
    let width = width.clamp(30, 100);
    let mut out = entry.usage();
    if let (What::Method | What::Property, Some(owner)) = (entry.what, &entry.owner) {
        let receiver = entry.params.first().map_or("", |p| p.name.as_str());
        let _ = write!(out, "      ({receiver}: {owner})");
    }
    out.push('\n');
    for line in fill(&entry.doc, width - 2) {
        let _ = write!(out, "\n  {line}");
    }
    if !entry.options.is_empty() {
        out.push_str("\n\n  options");
        let names = entry.options.iter().map(|o| o.name.len()).max().unwrap_or(0);
        let types = entry.options.iter().map(|o| o.ty.len()).max().unwrap_or(0);
        for o in &entry.options {
            let _ = write!(out, "\n    {:<names$}  {:<types$}  {}", o.name, o.ty, o.doc);
        }
    }
    for example in &entry.examples {
        out.push_str("\n\n  example");
        for line in example.lines() {
            let _ = write!(out, "\n    {line}");
        }
    }
    if !entry.related.is_empty() {
        let _ = write!(out, "\n\n  see also  {}", entry.related.join(", "));
    }
    out
}

/// What `?name` prints: the entries of that name, the members of that type, else the result of a search.
/// `None` if nothing is found.
pub fn help(question: &str, width: usize) -> Option<String> {
    let question = question.trim();
    let found = lookup(question);
    if owners().contains(question) && !found.iter().any(|e| e.name == question) {
        return Some(format!("{question}\n\n{}", listed(&found, width)));
    }
    if !found.is_empty() {
        return Some(found.iter().map(|e| render(e, width)).collect::<Vec<_>>().join("\n\n"));
    }
    let found = search(question);
    if found.is_empty() {
        return suggest(question).map(|n| format!("nothing is called {question}; did you mean {n}?"));
    }
    Some(listed(&found[..found.len().min(20)], width))
}

/// Entries with their first sentences: beside each other where all fits, else the sentence below the signature.
fn listed(entries: &[&Entry], width: usize) -> String {
    let width = width.clamp(30, 100);
    let mut out = String::new();
    for e in entries {
        let (usage, about) = (e.usage(), first_sentence(&e.doc));
        let line = format!("  {usage:<32} {about}");
        if line.chars().count() <= width {
            let _ = writeln!(out, "{line}");
            continue;
        }
        let usage = fill(&usage, width - 2).join("\n    ");
        let _ = writeln!(out, "  {usage}\n      {}", fill(&about, width - 6).join("\n      "));
    }
    out.truncate(out.trim_end().len());
    out
}

/// All names by group, for `scumble doc` and `:help`.
pub fn overview(width: usize) -> String {
    let mut out = String::new();
    for (group, about) in &catalog().groups {
        let mut names: Vec<String> = Vec::new();
        for e in all().iter().filter(|e| &e.group == group) {
            let name = match e.what {
                What::Operator => e.name.clone(),
                What::Library => e.path(),
                What::Property => e.call.clone(),
                _ => format!("{}()", e.call.split_once('(').map_or(e.call.as_str(), |(head, _)| head)),
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let _ = write!(out, "{group}  {about}");
        for line in fill(&names.join("  "), width.clamp(30, 120) - 2) {
            let _ = write!(out, "\n  {line}");
        }
        out.push_str("\n\n");
    }
    out.push_str("?name explains one; ?word searches; scumble doc NAME does the same.");
    out
}

fn first_sentence(doc: &str) -> String {
    let flat = doc.split_whitespace().collect::<Vec<_>>().join(" ");
    match flat.find(". ") {
        Some(end) => flat[..=end].to_string(),
        None => flat,
    }
}

/// Lines of at most `width` characters; paragraphs (blank lines) are kept.
fn fill(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for (i, paragraph) in text.split("\n\n").enumerate() {
        if i > 0 {
            lines.push(String::new());
        }
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

/// The reference page (docs/reference.md). A test keeps the file current; `SCUMBLE_UPDATE=1 cargo test reference`
/// writes it.
pub fn reference_markdown() -> String {
    let mut out = String::from(
        "# Function reference\n\nMade from the catalogue that `?name` and `scumble doc` read; do not edit. Every \
         example is run by the tests.\nIn signatures, `[x]` may be left out, `number` takes integers too, and \
         `#{...}` is a map of the listed options.\n",
    );
    for (group, about) in &catalog().groups {
        let _ = write!(out, "\n## {group}\n\n{about}\n");
        for e in all().iter().filter(|e| &e.group == group) {
            let _ = write!(out, "\n### {}\n\n```\n{}\n```\n\n{}\n", heading(e), e.usage(), e.doc.trim());
            if !e.options.is_empty() {
                out.push_str("\n| option | type | |\n|---|---|---|\n");
                for o in &e.options {
                    let _ = writeln!(out, "| `{}` | {} | {} |", o.name, o.ty.replace('|', "\\|"), o.doc);
                }
            }
            for example in &e.examples {
                let _ = write!(out, "\n```rhai\n{example}\n```\n");
            }
            if !e.related.is_empty() {
                let list: Vec<String> = e.related.iter().map(|r| format!("`{r}`")).collect();
                let _ = write!(out, "\nSee also {}.\n", list.join(", "));
            }
        }
    }
    out
}

fn heading(e: &Entry) -> String {
    match e.what {
        What::Operator => format!("`{}` on {}", e.name, e.params.first().map_or("values", |p| p.ty.as_str())),
        _ => format!("`{}`", e.path()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let names = ["seed", "steps", "size", "negative", "noise_eta"];
        assert_eq!(nearest("sede", names), Some("seed"));
        assert_eq!(nearest("step", names), Some("steps"));
        assert_eq!(nearest("negativ", names), Some("negative"));
        assert_eq!(nearest("noise", names), Some("noise_eta"));
        assert_eq!(nearest("banana", names), None);
        assert_eq!(nearest("", names), None);
        assert_eq!(nearest("m", ["n", "t"]), None);
    }

    #[test]
    fn every_entry_is_documented_with_an_example() {
        for e in all() {
            assert!(e.doc.len() > 15, "{} lacks a paragraph", e.path());
            assert!(!e.examples.is_empty(), "{} lacks an example", e.path());
            assert!(!e.group.is_empty(), "{} lacks a group", e.path());
            for (i, p) in e.params.iter().enumerate() {
                assert!(p.name != format!("arg{i}"), "{}: parameter {i} lacks a name", e.path());
            }
            for r in &e.related {
                assert!(
                    !lookup(r).is_empty() || owners().contains(r.as_str()),
                    "{}: no {r} to see",
                    e.path()
                );
            }
            if e.params.iter().any(|p| p.ty == "#{...}") {
                assert!(!e.options.is_empty(), "{} takes options but lists none", e.path());
            }
        }
    }

    #[test]
    fn help_finds_names_types_and_words() {
        assert!(help("blend", 80).unwrap().starts_with("blend("));
        assert!(help("Latent", 80).unwrap().contains("z.shape"));
        assert!(help("noise levels", 80).unwrap().contains("m.schedule("));
        for question in ["noise level", "Latent", "Model"] {
            assert!(help(question, 80).unwrap().lines().all(|l| l.chars().count() <= 80), "{question}");
        }
        assert_eq!(help("blennd", 80).unwrap(), "nothing is called blennd; did you mean blend?");
        assert_eq!(help("qqqqqqq", 80), None);
    }
}
