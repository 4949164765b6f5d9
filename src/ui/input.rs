//! What was typed or pasted, made into a cell: indentation, our own prompt in a paste, lines typed ahead.

use crate::script::scan::{self, Class, Completeness};

/// The prompt's text. Pasted input that starts with it loses it.
pub const PROMPT: &str = "scumble> ";
/// Columns of one level of indentation.
pub const INDENT: usize = 4;

/// Whether Enter should run the text. Commands are one line.
pub fn is_complete(text: &str) -> bool {
    super::meta::is_meta(text) || scan::completeness(text) == Completeness::Complete
}

/// What Enter inserts after an unfinished text: a line that begins under the first one, deeper by the open brackets.
pub fn continuation(text: &str) -> String {
    format!("\n{}", " ".repeat(PROMPT.len() + INDENT * depth(text)))
}

/// Brackets that are open at the end of a text.
fn depth(text: &str) -> usize {
    let pieces = scan::classes(text, &|_| true);
    let signs = pieces.into_iter().filter(|(_, c)| !matches!(c, Class::String | Class::Comment));
    signs.fold(0usize, |depth, (range, _)| match text.get(range) {
        Some("(" | "[" | "{" | "#{") => depth + 1,
        Some(")" | "]" | "}") => depth.saturating_sub(1),
        _ => depth,
    })
}

/// The cells of a typed or pasted text: without our prompts, and without the columns that only stand under the prompt. A
/// pasted piece of a session gives several; what the program printed between them is left out.
pub fn cells(text: &str) -> Vec<String> {
    let mut cells = Vec::new();
    if !text.trim_start().starts_with(PROMPT.trim_end()) {
        cells.push(unindent(text));
        return cells;
    }
    let mut open = String::new();
    for line in text.lines() {
        let prompted = line.trim_start().strip_prefix(PROMPT.trim_end());
        match prompted {
            Some(rest) => {
                cells.extend(Some(std::mem::take(&mut open)).filter(|c| !c.is_empty()));
                open = rest.strip_prefix(' ').unwrap_or(rest).to_string();
            }
            // The rest of a cell; after a whole one only output can follow.
            None if !open.is_empty() && !is_complete(&open) => {
                open.push('\n');
                open.push_str(line);
            }
            None => {}
        }
    }
    cells.push(open);
    cells.iter_mut().for_each(|c| *c = unindent(c));
    cells.retain(|c| !c.trim().is_empty());
    cells
}

/// Takes out the columns that only stand under the prompt, if every line after the first has them.
fn unindent(text: &str) -> String {
    let margin = " ".repeat(PROMPT.len());
    let continued = || text.lines().skip(1).filter(|l| !l.trim().is_empty());
    if !continued().all(|l| l.starts_with(&margin)) {
        return text.to_string();
    }
    text.lines().map(|l| l.strip_prefix(&margin).unwrap_or(l)).collect::<Vec<_>>().join("\n")
}

/// A cell as it stands at the prompt: lines after the first begin under it.
pub fn shown(cell: &str) -> String {
    cell.replace('\n', &format!("\n{}", " ".repeat(PROMPT.len())))
}

/// Takes the first cell out of lines that were typed ahead. `None` if they do not make a whole one yet.
pub fn next_cell(typed: &mut String) -> Option<String> {
    let mut end = 0;
    while let Some(line) = typed.get(end..).and_then(|rest| rest.find('\n')) {
        end += line + 1;
        if is_complete(&typed[..end - 1]) {
            let cell = typed[..end - 1].to_string();
            typed.drain(..end);
            return Some(cell);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pasted_prompts_are_removed() {
        assert_eq!(cells("scumble> let x = 1\nscumble> x\n1\nscumble> "), ["let x = 1", "x"]);
        assert_eq!(cells("let x = 1"), ["let x = 1"]);
        assert_eq!(
            cells("scumble> fn f(x) {\n             x\n         }\nscumble> f(2)\n2\n   note: two"),
            ["fn f(x) {\n    x\n}", "f(2)"]
        );
        assert_eq!(cells("  scumble> 1"), ["1"]);
    }

    #[test]
    fn depth_counts_brackets_outside_of_text() {
        assert_eq!(depth("f(\"(\", [ #{ a: 1 // (("), 3);
        assert_eq!(depth("f()"), 0);
        assert_eq!(depth(")))"), 0);
    }

    #[test]
    fn what_enter_inserts_is_taken_out_again() {
        let mut text = String::from("fn f(x) {");
        text += &continuation(&text);
        assert!(text.ends_with("\n             "));
        text += "x + 1";
        text += &continuation(&text).replace("    ", "");
        text += "        }";
        let cell = "fn f(x) {\n    x + 1\n}";
        assert_eq!(cells("fn f(x) {\n             x + 1\n         }"), [cell]);
        assert_eq!(cells(&shown(cell)), [cell]);
        assert_eq!(cells("f(\n  a)"), ["f(\n  a)"], "a pasted indentation stays");
    }

    #[test]
    fn lines_typed_ahead_become_cells() {
        let mut typed = String::from("let x = 1\nfn f() {\n 2 }\nx + ");
        assert_eq!(next_cell(&mut typed).as_deref(), Some("let x = 1"));
        assert_eq!(next_cell(&mut typed).as_deref(), Some("fn f() {\n 2 }"));
        assert_eq!(next_cell(&mut typed), None);
        assert_eq!(typed, "x + ");
    }
}
