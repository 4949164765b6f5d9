//! The text of `scumble run RECIPE --help`.

use std::fmt::Write;

use super::{Column, Recipe, Spec, Val};

/// Header, options with type, range and default (two columns where they differ), examples.
pub fn render(recipe: &Recipe, column: Option<&Column>) -> String {
    let mut out = recipe.header.trim().to_string();
    if out.is_empty() {
        out = recipe.name.clone();
    }
    let _ = write!(
        out,
        "\n\nscumble run {} [key=value ...]\n",
        recipe.path.as_ref().map_or(recipe.name.clone(), |p| p.display().to_string())
    );
    let measured = |s: &Spec| column.and_then(|c| c.get(&s.name)).filter(|v| !same(v, &s.default));
    let two = column.is_some() && recipe.specs.iter().any(|s| measured(s).is_some());
    let rows: Vec<[String; 5]> = recipe
        .specs
        .iter()
        .map(|s| {
            let other = measured(s).map(short).unwrap_or_default();
            [s.name.clone(), s.takes(), short(&s.default), other, s.doc.clone()]
        })
        .collect();
    let heading = [
        "option".to_string(),
        "takes".to_string(),
        if two { "paper".into() } else { "default".into() },
        column.map(|c| c.name.clone()).unwrap_or_default(),
        String::new(),
    ];
    let width = |i: usize| {
        rows.iter().map(|r| r[i].chars().count()).chain([heading[i].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..4).map(width).collect();
    let mut line = |row: &[String; 5]| {
        out.push_str("\n ");
        for i in 0..4 {
            if i == 3 && !two {
                continue;
            }
            let _ = write!(out, " {}{} ", row[i], " ".repeat(widths[i] - row[i].chars().count()));
        }
        let _ = write!(out, " {}", row[4]);
        out.truncate(out.trim_end().len());
    };
    line(&heading);
    for (row, spec) in rows.iter().zip(&recipe.specs) {
        if spec.common && row[0] == recipe.specs.iter().find(|s| s.common).map_or("", |s| &s.name) {
            line(&Default::default());
        }
        line(row);
    }
    if two {
        out.push_str(
            "\n\n  An empty field: the same as the paper's. The model's column holds where it is loaded.",
        );
    }
    let shown = column.map(|c| (&c.name[..], &c.examples)).filter(|(_, e)| !e.is_empty());
    for (title, list) in [("the paper", &recipe.examples)].into_iter().chain(shown) {
        if list.is_empty() {
            continue;
        }
        let _ = write!(out, "\n\nexamples of {title}");
        for (i, example) in list.iter().enumerate() {
            let set: Vec<String> = example.iter().map(|(k, v)| format!("{k}={}", shell(v))).collect();
            let _ = write!(out, "\n  example={}  {}", i + 1, set.join(" "));
        }
    }
    out.push('\n');
    out
}

fn same(a: &Val, b: &Val) -> bool {
    a == b || matches!((a.number(), b.number()), (Some(x), Some(y)) if x == y)
}

fn short(v: &Val) -> String {
    let text = v.to_string();
    if text.chars().count() > 30 { text.chars().take(29).collect::<String>() + "…" } else { text }
}

/// A value as one types it in a shell.
fn shell(v: &Val) -> String {
    match v {
        Val::Text(t) if !t.is_empty() && t.chars().all(|c| c.is_alphanumeric() || "._-/".contains(c)) => {
            t.clone()
        }
        Val::Text(t) => format!("\"{}\"", t.replace('\\', "\\\\").replace('"', "\\\"")),
        Val::List(_) | Val::Map(_) => format!("'{v}'"),
        other => other.to_string(),
    }
}
