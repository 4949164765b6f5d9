//! The floors of the house: imports go down only (see the head of `src/lib.rs`).

use std::path::{Path, PathBuf};

/// What each floor may import, besides itself.
const ALLOWED: &[(&str, &[&str])] = &[
    ("engine", &[]),
    ("report", &[]),
    ("record", &["engine"]),
    ("script", &["engine", "record", "report"]),
    ("term", &[]),
    ("ui", &["engine", "record", "report", "script", "term"]),
    ("cli", &["engine", "record", "report", "script", "term", "ui"]),
];

/// Crates that only one floor may use.
const FENCED: &[(&str, &[&str])] = &[
    ("rhai", &["script"]),
    ("candle_core", &["engine", "script"]),
    ("rustyline", &["ui"]),
    ("viuer", &["term"]),
    ("ratatui", &["ui"]),
    ("crossterm", &["ui"]),
];

fn rust_files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")).map(|(i, l)| (i + 1, l))
}

/// Words that follow `prefix` in a line, `crate::engine::x` giving `engine`; `crate::{a, b}` gives both.
fn named_after<'a>(line: &'a str, prefix: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices(prefix) {
        let rest = &line[at + prefix.len()..];
        let list = rest.strip_prefix('{').map_or(rest, |r| r);
        let items: Vec<&str> = if rest.starts_with('{') { list.split(',').collect() } else { vec![list] };
        found.extend(items.into_iter().map(|i| {
            let i = i.trim_start();
            &i[..i.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(i.len())]
        }));
    }
    found
}

#[test]
fn imports_go_down_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    assert!(files.len() > 20, "the source files were found");
    let floors: Vec<&str> = ALLOWED.iter().map(|(f, _)| *f).collect();
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&src).unwrap();
        let top = relative
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs")
            .to_string();
        let Some((_, allowed)) = ALLOWED.iter().find(|(f, _)| *f == top) else { continue };
        let text = std::fs::read_to_string(&file).unwrap();
        let tests = text.lines().position(|l| l == "#[cfg(test)]").unwrap_or(usize::MAX);
        for (number, line) in code_lines(&text) {
            for target in named_after(line, "crate::").into_iter().chain(named_after(line, "scumble::")) {
                if floors.contains(&target) && target != top && !allowed.contains(&target) {
                    wrong.push(format!("{}:{number}: {top} imports {target}", relative.display()));
                }
            }
            for (name, homes) in FENCED {
                let used = line.contains(&format!("{name}::")) && !line.contains(&format!("_{name}::"));
                if used && !homes.contains(&top.as_str()) {
                    wrong.push(format!("{}:{number}: {top} uses {name}", relative.display()));
                }
            }
            if line.contains("var.set(") && number < tests && !relative.ends_with("ops/versions.rs") {
                wrong.push(format!("{}:{number}: weights change by ops::assign only", relative.display()));
            }
            let prints = ["println!(", "print!(", "eprintln!(", "eprint!("].iter().any(|p| line.contains(p));
            if prints && matches!(top.as_str(), "engine" | "script" | "record" | "report") {
                wrong.push(format!("{}:{number}: {top} prints", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that go up, or a fence that is crossed:\n{}", wrong.join("\n"));
}

#[test]
fn the_scan_sees_what_it_should() {
    assert_eq!(named_after("use crate::{engine::Error, script};", "crate::"), ["engine", "script"]);
    assert_eq!(named_after("    crate::ui::run()", "crate::"), ["ui"]);
}
