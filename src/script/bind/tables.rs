//! Tables: rows of numbers and words as text, and as files; texts as files.

use std::path::{Path, PathBuf};

use rhai::{Dynamic, Map};

use crate::engine::error::{Error, Result};
use crate::script::args::Opts;
use crate::script::host::Host;
use crate::script::registry::Registry;
use crate::script::types;

/// Rows and columns of a table, at most.
const MOST: usize = 10_000;

fn cell(value: Option<&Dynamic>) -> String {
    match value {
        None => String::new(),
        Some(v) if v.is_unit() => String::new(),
        Some(v) => v.clone().into_string().unwrap_or_else(|_| types::line(v)),
    }
}

/// The heads and the cells of all rows. Errors: no rows, a column that no row has.
fn cells(op: &str, rows: &[Map], columns: Option<Vec<String>>) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    let mut known: Vec<String> = Vec::new();
    for key in rows.iter().flat_map(|r| r.keys()) {
        if !known.iter().any(|k| k == key.as_str()) {
            known.push(key.to_string());
        }
    }
    if known.is_empty() || rows.len() > MOST || known.len() > MOST {
        return Err(Error::value(op, "a table needs rows")
            .expected("[#{ name: value, ... }, ...]")
            .got(format!("{} rows", rows.len())));
    }
    let heads = columns.unwrap_or_else(|| known.clone());
    if let Some(odd) = heads.iter().find(|h| !known.contains(h)) {
        return Err(Error::missing(op, format!("no row has a column {odd}")).expected(known.join(", ")));
    }
    let lines = rows.iter().map(|row| heads.iter().map(|h| cell(row.get(h.as_str()))).collect()).collect();
    Ok((heads, lines))
}

fn is_number(text: &str) -> bool {
    text.parse::<f64>().is_ok()
}

fn as_text(rows: &[Map], columns: Option<Vec<String>>) -> Result<String> {
    let (heads, lines) = cells("table", rows, columns)?;
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = (0..heads.len())
        .map(|c| lines.iter().map(|l| width(&l[c])).chain([width(&heads[c])]).max().unwrap_or(0))
        .collect();
    let right: Vec<bool> =
        (0..heads.len()).map(|c| lines.iter().all(|l| l[c].is_empty() || is_number(&l[c]))).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().enumerate().map(|(c, text)| {
            let space = " ".repeat(widths[c] - width(text));
            if right[c] { format!("{space}{text}") } else { format!("{text}{space}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    let mut out = vec![line(&heads)];
    out.extend(lines.iter().map(|l| line(l)));
    Ok(out.join("\n"))
}

fn as_csv(rows: &[Map], columns: Option<Vec<String>>) -> Result<String> {
    let (heads, lines) = cells("save_table", rows, columns)?;
    let quote = |text: &String| {
        if text.contains(['"', ',', '\n', '\r']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text.clone()
        }
    };
    let line = |cells: &Vec<String>| cells.iter().map(quote).collect::<Vec<_>>().join(",") + "\n";
    Ok(std::iter::once(&heads).chain(&lines).map(line).collect())
}

/// Bytes of a table's file, at most.
const MOST_BYTES: u64 = 16 << 20;

/// Lines of comma-separated values, quotes undone. Errors: a quote that is not closed, too many lines.
fn split(text: &str, name: &str) -> Result<Vec<Vec<String>>> {
    let mut lines: Vec<Vec<String>> = Vec::new();
    let (mut line, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => {
                cell.push('"');
                rest.next();
            }
            '"' => quoted = !quoted,
            ',' if !quoted => line.push(std::mem::take(&mut cell)),
            '\r' if !quoted => {}
            '\n' if !quoted => {
                line.push(std::mem::take(&mut cell));
                lines.push(std::mem::take(&mut line));
            }
            c => cell.push(c),
        }
        if lines.len() > MOST || line.len() > MOST {
            return Err(Error::value(
                "read_table",
                format!("{name}: a table has at most {MOST} rows and columns"),
            ));
        }
    }
    if quoted {
        return Err(Error::value("read_table", format!("{name}: a quote is not closed")));
    }
    if !cell.is_empty() || !line.is_empty() {
        line.push(cell);
        lines.push(line);
    }
    lines.retain(|l| l.iter().any(|c| !c.is_empty()));
    Ok(lines)
}

/// Rows of a file that `save_table` wrote; what reads as a number is one. Errors: no text, rows of another length.
fn from_csv(bytes: &[u8], name: &str) -> Result<Vec<Map>> {
    let text = std::str::from_utf8(bytes).map_err(|_| {
        Error::value("read_table", format!("{name}: this is no text"))
            .expected("comma-separated values, as save_table writes them")
    })?;
    let mut lines = split(text, name)?.into_iter();
    let heads = lines.next().unwrap_or_default();
    if heads.is_empty() {
        return Err(Error::value("read_table", format!("{name}: the file is empty"))
            .expected("a line of names, then rows"));
    }
    let value = |cell: String| match (cell.parse::<i64>(), cell.parse::<f64>()) {
        (Ok(n), _) => Dynamic::from(n),
        (_, Ok(x)) => Dynamic::from(x),
        _ => Dynamic::from(cell),
    };
    lines
        .enumerate()
        .map(|(i, cells)| {
            if cells.len() != heads.len() {
                return Err(Error::value(
                    "read_table",
                    format!("{name}: row {} has another number of values than the head", i + 1),
                )
                .expected(heads.len().to_string())
                .got(cells.len().to_string()));
            }
            Ok(heads.iter().map(|h| h.as_str().into()).zip(cells.into_iter().map(value)).collect())
        })
        .collect()
}

/// Endings of what `save_text` writes: nothing that a system would run.
const TEXTS: [&str; 3] = ["md", "txt", "json"];

fn save_text(host: &Host, text: &str, path: &str, replace: bool) -> Result<String> {
    const OP: &str = "save_text";
    let named = match Path::new(path).extension() {
        None => PathBuf::from(format!("{path}.txt")),
        Some(ext) if TEXTS.iter().any(|t| ext.eq_ignore_ascii_case(t)) => PathBuf::from(path),
        Some(_) => {
            return Err(Error::value(OP, "this is no name for a text")
                .expected("a name that ends in .md, .txt or .json, or has no ending")
                .got(path.to_string()));
        }
    };
    let bytes = text.as_bytes();
    if !replace {
        host.may_save(OP, bytes.len() as u64)?;
        let saved = host.policy.borrow().write_new(OP, &named, bytes)?;
        host.note_saved(&saved);
        return Ok(saved.display().to_string());
    }
    if !host.saved.borrow().contains(&named) {
        return Err(Error::value(
            OP,
            "only what this run wrote itself is replaced, and this run has not written it",
        )
        .expected("a path that save_text returned")
        .got(path.to_string())
        .hint("save_text(text, path) writes a new file"));
    }
    host.policy.borrow().write_again(OP, &named, bytes)?;
    Ok(path.to_string())
}

/// Binds them.
pub fn register(r: &mut Registry) {
    const ROWS: &str = "let rows = [#{ nu: 0.5, word: \"a cat\" }, #{ nu: 1.0, word: \"a dog\" }];\n";
    r.group("Tables", "Results as rows: a list of maps with the same keys. Texts.");
    r.def(
        "table(rows, columns)",
        "Rows as text, a line each, with aligned columns: for `print`. `columns` names the keys and their order; without it \
         all of them, by name.",
    )
    .example(&format!("{ROWS}print(table(rows, [\"word\", \"nu\"]));"))
    .example(&format!("{ROWS}table(rows, [\"mu\"]) // error: no row has a column mu"))
    .see(&["save_table"])
    .bind(|rows: Vec<Map>, columns: Option<Vec<String>>| as_text(&rows, columns));
    let host = r.host();
    r.def(
        "save_table(rows, path, columns)",
        "Saves rows as comma-separated values below --out. Nothing is overwritten. Returns the path.",
    )
    .example(&format!("{ROWS}save_table(rows, \"words\").ends_with(\".csv\") // => true"))
    .see(&["table", "save"])
    .work()
    .bind(move |rows: Vec<Map>, path: String, columns: Option<Vec<String>>| {
        let name = if path.to_lowercase().ends_with(".csv") { path } else { format!("{path}.csv") };
        let text = as_csv(&rows, columns)?;
        let saved = host.policy.borrow().write_new("save_table", Path::new(&name), text.as_bytes())?;
        host.note_saved(&saved);
        Ok::<_, Error>(saved.display().to_string())
    });
    let host = r.host();
    r.def(
        "save_text(text, path)",
        "Saves words below --out as they are (.md, .txt, .json; .txt if the name has no ending). Nothing is overwritten: NAME.md, then \
         NAME-2.md. Returns the path.",
    )
    .option("replace", "bool", "the path is one that an earlier `save_text` of this run returned: the file is written anew, whole or not at all")
    .example("save_text(\"# Results\", \"results.md\").ends_with(\".md\") // => true")
    .example("save_text(\"x\", \"x.sh\") // error: .md, .txt or .json")
    .example("save_text(\"x\", \"x.md\", #{ replace: true }) // error: this run has not written it")
    .see(&["save", "save_table"])
    .work()
    .bind(move |text: String, path: String, o: Opts| save_text(&host, &text, &path, o.or("replace", false)?));
    let host = r.host();
    r.def(
        "read_table(path)",
        "Rows of a file of comma-separated values, as `save_table` writes them: a list of maps. What reads as a number is one.",
    )
    .example(&format!("{ROWS}read_table(save_table(rows, \"read\"))[1].nu // => 1.0"))
    .example("read_table(\"none.csv\") // error: none.csv")
    .see(&["save_table", "table"])
    .work()
    .bind(move |path: String| {
        let bytes = host.policy.borrow().read("read_table", Path::new(&path), MOST_BYTES)?;
        from_csv(&bytes, &path)
    });
}
