//! `:save`: the cells that worked, as a recipe that runs.

use crate::script::scan::{self, Class};

/// The text of the recipe. The prompt keeps each cell's value in `ans`; a recipe does not, so cells whose value a later
/// cell asks for are written as `ans = ...`.
pub fn recipe(cells: &[String]) -> String {
    let uses = |cell: &str| names(cell).any(|n| n == "ans");
    let needed = cells.iter().any(|c| uses(c));
    let mut out = String::from("// Cells of a scumble session.\n");
    if needed {
        out.push_str("let ans = ();\n");
    }
    for (i, cell) in cells.iter().enumerate() {
        // Up to the next cell that has a value of its own, `ans` is this cell's.
        let asked = needed && cells.iter().skip(i + 1).any(|c| uses(c));
        match split_value(cell).filter(|_| asked) {
            Some((head, value)) => out.push_str(&format!("{head}ans = {value};\n")),
            // The value of the last one is that of the recipe.
            None if i + 1 == cells.len() => out.push_str(&format!("{}\n", cell.trim_end())),
            None => out.push_str(&format!("{}\n", terminated(cell))),
        }
    }
    out
}

fn names(cell: &str) -> impl Iterator<Item = &str> {
    let pieces = scan::classes(cell, &|_| true).into_iter();
    pieces.filter(|(_, c)| *c == Class::Name).filter_map(|(range, _)| cell.get(range))
}

/// The statements of a cell and, after them, the expression that is its value. `None` if it ends in a statement whose
/// value cannot be assigned.
fn split_value(cell: &str) -> Option<(&str, &str)> {
    let pieces: Vec<_> =
        scan::classes(cell, &|_| true).into_iter().filter(|(_, c)| *c != Class::Comment).collect();
    let text = |i: usize| pieces.get(i).and_then(|(r, _)| cell.get(r.clone())).unwrap_or_default();
    let mut end = pieces.len();
    while end > 0 && text(end - 1) == ";" {
        end -= 1;
    }
    // The last `;` or `}` outside of brackets, before the value.
    let (mut depth, mut start) = (0i32, 0);
    for i in 0..end {
        match text(i) {
            "(" | "[" | "{" | "#{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            ";" if depth == 0 => start = i + 1,
            _ => {}
        }
        // A block that begins its statement ends it, too: `if a { } f()`.
        if depth == 0
            && text(i) == "}"
            && i + 1 < end
            && pieces.get(start).is_some_and(|(_, c)| *c == Class::Keyword)
        {
            let joins = matches!(text(i + 1), "else" | "while" | "until" | "catch");
            start = if joins { start } else { i + 1 };
        }
    }
    let (first, class) = pieces.get(start).filter(|_| start < end)?;
    let statement =
        ["let", "const", "fn", "private", "import", "export", "for", "while", "loop", "do", "try"];
    let word = cell.get(first.clone())?;
    if *class == Class::Keyword && statement.contains(&word) {
        return None;
    }
    let last = pieces.get(end - 1)?.0.end;
    let value = cell.get(first.start..last)?;
    (!assigns(value)).then_some((cell.get(..first.start)?, value))
}

/// Whether an expression is an assignment, which has no value.
fn assigns(value: &str) -> bool {
    let mut depth = 0i32;
    let pieces = scan::classes(value, &|_| true);
    let mut before = "";
    for sign in pieces.iter().map(|(range, _)| &value[range.clone()]) {
        match sign {
            "(" | "[" | "{" | "#{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            // `=`, and the second sign of `+=`, `-=`, ...; comparisons are signs of their own.
            "=" if depth == 0 && before != ">" => return true,
            _ => {}
        }
        before = sign;
    }
    false
}

/// A cell with the semicolon that a following cell needs.
fn terminated(cell: &str) -> String {
    let cell = cell.trim_end();
    let last = scan::classes(cell, &|_| true).into_iter().rfind(|(_, c)| *c != Class::Comment);
    // Before a comment at the end, not in it.
    let (code, comment) = cell.split_at(last.map_or(0, |(range, _)| range.end));
    if code.is_empty() || code.ends_with([';', '}']) { cell.to_string() } else { format!("{code};{comment}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(cells: &[&str]) -> String {
        let cells: Vec<String> = cells.iter().map(|c| (*c).to_string()).collect();
        recipe(&cells).lines().skip(1).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn cells_can_follow_one_another() {
        assert_eq!(saved(&["let x = 1", "fn f() { 1 }\n", "x // one"]), "let x = 1;\nfn f() { 1 }\nx // one");
        assert_eq!(saved(&["// only a remark"]), "// only a remark");
    }

    #[test]
    fn values_that_are_asked_for_are_kept() {
        assert_eq!(saved(&["1 + 1", "ans * 2"]), "let ans = ();\nans = 1 + 1;\nans * 2");
        assert_eq!(saved(&["let a = 3; a + 1;", "ans"]), "let ans = ();\nlet a = 3; ans = a + 1;\nans");
        assert_eq!(saved(&["let a = 3", "ans"]), "let ans = ();\nlet a = 3;\nans");
        assert_eq!(saved(&["x = 2", "x == 2", "ans"]), "let ans = ();\nx = 2;\nans = x == 2;\nans");
        assert_eq!(saved(&["f(|x| x; )", "[1, 2].map(|x| x + 1)"]), "f(|x| x; );\n[1, 2].map(|x| x + 1)");
        assert_eq!(saved(&["if a { b() } f(2)", "ans"]), "let ans = ();\nif a { b() } ans = f(2);\nans");
        assert_eq!(
            saved(&["if a { 1 } else { 2 }", "ans"]),
            "let ans = ();\nans = if a { 1 } else { 2 };\nans"
        );
    }
}
