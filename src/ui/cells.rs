//! Cells of the prompt as one script.

use crate::script::scan::{self, Class};

/// Words with which a statement starts that has no value of its own.
const STATEMENTS: &[&str] =
    &["let", "const", "fn", "for", "while", "loop", "do", "import", "export", "if", "switch", "try"];

/// The cells one after the other, as a recipe: each ends in `;`, and where a later cell uses `ans`, the value that it
/// stands for is named.
pub fn as_script(cells: &[String]) -> String {
    let last_use = cells.iter().rposition(|c| uses_ans(c)).unwrap_or(0);
    let lines = cells.iter().enumerate().map(|(i, cell)| {
        let cell = terminated(cell);
        if i < last_use { name_value(&cell) } else { cell }
    });
    lines.map(|l| l + "\n").collect()
}

fn uses_ans(cell: &str) -> bool {
    scan::classes(cell, &|_| true)
        .into_iter()
        .any(|(range, class)| class == Class::Name && cell.get(range) == Some("ans"))
}

/// A cell with the semicolon that a following cell needs.
fn terminated(cell: &str) -> String {
    let cell = cell.trim_end();
    if cell.ends_with([';', '}']) { cell.to_string() } else { format!("{cell};") }
}

/// `a; b + c;` becomes `a; let ans = b + c;`; a cell whose last statement has no value stays.
fn name_value(cell: &str) -> String {
    let mut depth = 0usize;
    let mut start = 0;
    for (range, class) in scan::classes(cell, &|_| true) {
        if matches!(class, Class::String | Class::Comment) {
            continue;
        }
        match cell.get(range.clone()) {
            Some("(" | "[" | "{" | "#{") => depth += 1,
            Some(")" | "]" | "}") => depth = depth.saturating_sub(1),
            Some(";") if depth == 0 && !cell[range.end..].trim().is_empty() => start = range.end,
            _ => {}
        }
    }
    let (before, last) = cell.split_at(start);
    let last = last.trim_start();
    let first = last.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
    let assigns = last.split_once('=').is_some_and(|(name, rest)| {
        !rest.starts_with('=')
            && name.trim().chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '[' | ']'))
    });
    if STATEMENTS.contains(&first) || assigns {
        return cell.to_string();
    }
    let space = if before.is_empty() { "" } else { " " };
    format!("{before}{space}let ans = {last}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(cells: &[&str]) -> String {
        as_script(&cells.iter().map(|c| c.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn cells_follow_one_another() {
        assert_eq!(
            script(&["let x = 1", "fn f() { 1 }\n", "x + f();"]),
            "let x = 1;\nfn f() { 1 }\nx + f();\n"
        );
    }

    #[test]
    fn the_value_that_ans_stands_for_is_named() {
        assert_eq!(script(&["1 + 1", "ans * 2"]), "let ans = 1 + 1;\nans * 2;\n");
        assert_eq!(script(&["let z = 2; z + 1", "ans"]), "let z = 2; let ans = z + 1;\nans;\n");
        assert_eq!(
            script(&["f(\"a; b\")", "z = 3", "x.y = 1", "ans"]),
            "let ans = f(\"a; b\");\nz = 3;\nx.y = 1;\nans;\n"
        );
        assert_eq!(script(&["2", "\"ans\""]), "2;\n\"ans\";\n");
    }

    #[test]
    fn what_is_written_can_be_run() {
        let text = script(&["let a = 20", "a + 1", "ans * 2"]);
        assert_eq!(crate::script::thread::run(|| rhai_value(&text)), "42");
    }

    /// The value of a script, as the prompt would show it.
    fn rhai_value(text: &str) -> String {
        use crate::engine::observe::{Cancel, Silent};
        use crate::script::session::Session;
        let mut session = Session::new(Default::default(), std::sync::Arc::new(Silent), Cancel::default());
        // The last cell ends in a semicolon, as all of them do: its value is asked for without it.
        session.eval(text.trim_end().trim_end_matches(';')).unwrap().text.unwrap()
    }
}
