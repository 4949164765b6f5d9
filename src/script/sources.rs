//! The text of every cell and file, so that an error can show the line that it comes from.
//!
//! Rhai knows a place as (source name, line, column); the texts are kept here by name. An error in a function that was
//! defined three cells ago is shown with the cell that defined it.

use std::collections::HashMap;
use std::sync::Arc;

use rhai::{AST, Position};

use crate::report::{Source, Span};

/// Texts by name.
#[derive(Debug, Default)]
pub struct Sources {
    texts: HashMap<String, Arc<str>>,
    /// Which source defines a closure: Rhai names closures by hash.
    closures: HashMap<String, String>,
}

impl Sources {
    /// Keeps a text. A text of the same name is replaced.
    pub fn add(&mut self, name: &str, text: &str) {
        self.texts.insert(name.to_string(), text.into());
    }

    /// Remembers which closures a compiled source defines.
    pub fn add_closures(&mut self, name: &str, ast: &AST) {
        for f in ast.iter_fn_def().filter(|f| f.name.starts_with("anon$")) {
            self.closures.insert(f.name.to_string(), name.to_string());
        }
    }

    /// The source that defines a closure.
    pub fn of_closure(&self, function: &str) -> Option<&str> {
        self.closures.get(function).map(String::as_str)
    }

    /// The source of that name; its text is empty if it is not known.
    pub fn get(&self, name: &str) -> Source {
        let text = self.texts.get(name).cloned().unwrap_or_else(|| "".into());
        Source { name: name.to_string(), text }
    }

    /// The text of that name.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(AsRef::as_ref)
    }

    /// Rhai's point, widened to the word under it. None without a line.
    pub fn span(&self, name: &str, position: Position) -> Option<Span> {
        let line = position.line()?;
        let text = self.text(name).unwrap_or("");
        let mut column = position.position().unwrap_or(1).max(1);
        // A property's error points at its dot: the name behind it is meant.
        let chars: Vec<char> =
            text.split('\n').nth(line - 1).unwrap_or("").chars().skip(column - 1).take(3).collect();
        let dots = match chars[..] {
            ['?', '.', c] | ['.', c, _] | ['.', c] if c == '.' => 0,
            ['?', '.', ..] => 2,
            ['.', ..] => 1,
            _ => 0,
        };
        column += dots;
        Some(Span { line, column, len: word_len(text, line, column) })
    }
}

/// Characters of the identifier, number or quoted string that starts at a place (1 for anything else).
pub fn word_len(text: &str, line: usize, column: usize) -> usize {
    let Some(line) = text.split('\n').nth(line.saturating_sub(1)) else { return 1 };
    let rest: Vec<char> = line.chars().skip(column.saturating_sub(1)).collect();
    let count = |f: &dyn Fn(char) -> bool| rest.iter().take_while(|c| f(**c)).count();
    match rest.first() {
        Some(c) if c.is_alphabetic() || *c == '_' => count(&|c| c.is_alphanumeric() || c == '_'),
        Some(c) if c.is_ascii_digit() => count(&|c| c.is_ascii_digit() || c == '.').max(1),
        Some('"') => rest.iter().skip(1).position(|c| *c == '"').map_or(1, |i| i + 2),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_becomes_a_word() {
        let text = "let z = blend(a, \"b c\", 0.25);";
        assert_eq!(word_len(text, 1, 9), 5);
        assert_eq!(word_len(text, 1, 18), 5);
        assert_eq!(word_len(text, 1, 25), 4);
        assert_eq!(word_len(text, 1, 15), 1);
        assert_eq!(word_len(text, 1, 17), 1);
        assert_eq!(word_len(text, 1, 99), 1);
        assert_eq!(word_len(text, 9, 1), 1);
    }
}
