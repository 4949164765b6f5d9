//! Text that is being typed: is it complete, and which part is what. Needs no session.
//!
//! Completeness is Rhai's own parser's word: an error beyond the last character means that something is still to come.
//! Three more rules: an unterminated back-tick string goes on, so does an open block comment (which Rhai accepts
//! silently), so do a text of documentation comments alone and a closure without a body.

use std::cell::RefCell;
use std::ops::Range;

use rhai::{Engine, LexError, OptimizationLevel, ParseErrorType};

use super::catalog::{self, What};

/// Whether Enter runs the text or adds a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// Run it (it may still be wrong).
    Complete,
    /// Something is still to come.
    Incomplete,
}

/// What a piece of text is, for coloring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `// ...` and `/* ... */`.
    Comment,
    /// Strings and characters.
    String,
    /// Numbers, `true`, `false`.
    Number,
    /// Words of the language.
    Keyword,
    /// A call of a function that exists.
    Function,
    /// A call of a name that nothing has.
    Unknown,
    /// `.name` without a call.
    Property,
    /// Any other name.
    Name,
    /// The rest: operators and brackets.
    Sign,
}

/// Words of the language.
pub const KEYWORDS: [&str; 30] = [
    "let",
    "const",
    "if",
    "else",
    "switch",
    "do",
    "while",
    "until",
    "loop",
    "for",
    "in",
    "continue",
    "break",
    "return",
    "throw",
    "try",
    "catch",
    "fn",
    "private",
    "import",
    "export",
    "as",
    "true",
    "false",
    "this",
    "global",
    "Fn",
    "call",
    "curry",
    "is_shared",
];

thread_local! {
    static PARSER: RefCell<Option<Engine>> = const { RefCell::new(None) };
}

/// Whether a text can be run as it stands.
pub fn completeness(text: &str) -> Completeness {
    let pieces = pieces(text);
    // Rhai takes `|x|` for a closure with an empty body; nobody means that.
    let bare_closure = pieces
        .iter()
        .rfind(|p| p.class != Class::Comment)
        .is_some_and(|p| matches!(&text[p.range.clone()], "|" | "||"));
    if bare_closure {
        return Completeness::Incomplete;
    }
    let open_comment = pieces.last().is_some_and(|p| p.open && p.class == Class::Comment);
    if open_comment || only_documentation(text) {
        return Completeness::Incomplete;
    }
    let open_backtick = pieces
        .last()
        .is_some_and(|p| p.open && p.class == Class::String && text[p.range.clone()].starts_with('`'));
    PARSER.with_borrow_mut(|parser| {
        let engine = parser.get_or_insert_with(|| {
            let mut engine = Engine::new_raw();
            engine.set_optimization_level(OptimizationLevel::None);
            super::engine::words(&mut engine);
            engine
        });
        let Err(error) = engine.compile(text) else { return Completeness::Complete };
        let incomplete = match error.err_type() {
            ParseErrorType::BadInput(LexError::UnterminatedString) => open_backtick,
            _ => beyond_the_end(text, error.position()),
        };
        if incomplete { Completeness::Incomplete } else { Completeness::Complete }
    })
}

fn beyond_the_end(text: &str, position: rhai::Position) -> bool {
    let Some(line) = position.line() else { return true };
    let column = position.position().unwrap_or(0);
    let trimmed = text.trim_end();
    let lines = trimmed.split('\n').count();
    let last = trimmed.split('\n').next_back().map_or(0, |l| l.chars().count());
    line > lines || (line == lines && column > last)
}

fn only_documentation(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty()).peekable();
    lines.peek().is_some() && lines.all(|l| l.starts_with("///"))
}

/// Whether the last sign of the code is `;` (comments aside): the value is not shown.
pub fn ends_with_semicolon(code: &str) -> bool {
    let last = pieces(code).into_iter().rfind(|p| p.class != Class::Comment);
    last.is_some_and(|p| &code[p.range] == ";")
}

/// The text in pieces, with what each is; white space is left out. Ranges are bytes.
/// `known` tells whether the session has a function of that name.
pub fn classes(text: &str, known: &dyn Fn(&str) -> bool) -> Vec<(Range<usize>, Class)> {
    let pieces = pieces(text);
    let sign = |i: usize| pieces.get(i).map(|p: &Piece| &text[p.range.clone()]);
    let mut out = Vec::with_capacity(pieces.len());
    for (i, piece) in pieces.iter().enumerate() {
        let word = &text[piece.range.clone()];
        let before = i.checked_sub(1).and_then(sign);
        let class = match piece.class {
            Class::Name if KEYWORDS.contains(&word) && before != Some(".") => {
                if matches!(word, "true" | "false") { Class::Number } else { Class::Keyword }
            }
            Class::Name if sign(i + 1) == Some("(") => {
                let defining = before == Some("fn");
                if defining || known(word) || is_function(word) { Class::Function } else { Class::Unknown }
            }
            Class::Name if matches!(before, Some("." | "?.")) => Class::Property,
            other => other,
        };
        out.push((piece.range.clone(), class));
    }
    out
}

/// Whether the catalogue or Rhai's standard library has a function of that name.
pub fn is_function(name: &str) -> bool {
    catalog::all().iter().any(|e| e.name == name && !matches!(e.what, What::Property | What::Operator))
        || super::check::standard().iter().any(|n| n == name)
        || super::check::LANGUAGE.contains(&name)
}

/// The bracket under or just before the cursor, and the one that belongs to it. `None`: there is none, or it is alone.
pub fn bracket_pair(text: &str, position: usize) -> Option<(Range<usize>, Range<usize>)> {
    let brackets: Vec<(Range<usize>, bool)> = pieces(text)
        .into_iter()
        .filter(|p| p.class == Class::Sign)
        .filter_map(|p| match &text[p.range.clone()] {
            "(" | "[" | "{" | "#{" => Some((p.range, true)),
            ")" | "]" | "}" => Some((p.range, false)),
            _ => None,
        })
        .collect();
    let under = brackets.iter().position(|(r, _)| r.contains(&position));
    let here = under.or_else(|| brackets.iter().position(|(r, _)| r.end == position))?;
    let (start, opens) = brackets.get(here)?;
    let mut depth = 0i32;
    let mut partner = |(range, opening): &(Range<usize>, bool)| {
        depth += if opening == opens { 1 } else { -1 };
        (depth == 0).then(|| range.clone())
    };
    let other = match opens {
        true => brackets[here..].iter().find_map(&mut partner),
        false => brackets[..=here].iter().rev().find_map(&mut partner),
    };
    Some((start.clone(), other?))
}

/// A token, roughly: enough for color and for finding where one stands.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// Bytes of the text.
    pub range: Range<usize>,
    /// What it is, names not yet told apart.
    pub class: Class,
    /// A string or comment that does not end.
    pub open: bool,
}

/// Cuts a text into tokens. Never fails: what it does not know is a sign.
pub(super) fn pieces(text: &str) -> Vec<Piece> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let (len, class, open) = if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        } else if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), Class::Comment, false)
        } else if rest.starts_with("/*") {
            let (len, open) = block_comment(rest);
            (len, Class::Comment, open)
        } else if matches!(c, '"' | '`' | '\'') {
            let (len, open) = string(rest, c);
            (len, Class::String, open)
        } else if c.is_ascii_digit() {
            (number(rest), Class::Number, false)
        } else if c.is_alphabetic() || c == '_' {
            let len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            (len, Class::Name, false)
        } else {
            let two = ["#{", "::", "?.", "..", "=>", "==", "!=", "<=", ">=", "&&", "||", "??"];
            let len = two.iter().find(|t| rest.starts_with(**t)).map_or(c.len_utf8(), |t| t.len());
            (len, Class::Sign, false)
        };
        out.push(Piece { range: at..at + len, class, open });
        at += len;
    }
    out
}

/// Block comments nest.
fn block_comment(rest: &str) -> (usize, bool) {
    let (mut depth, mut i) = (0, 0);
    let bytes = rest.as_bytes();
    while i + 1 < bytes.len() {
        match &bytes[i..i + 2] {
            b"/*" => {
                depth += 1;
                i += 2;
            }
            b"*/" => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return (i, false);
                }
            }
            _ => i += 1,
        }
    }
    (rest.len(), true)
}

/// A quoted string; `"` and `'` end at the line's end at the latest, back-ticks run on.
fn string(rest: &str, quote: char) -> (usize, bool) {
    let mut escaped = false;
    for (i, c) in rest.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' && quote != '`' {
            escaped = true;
        } else if c == quote {
            return (i + c.len_utf8(), false);
        } else if c == '\n' && quote != '`' {
            return (i, true);
        }
    }
    (rest.len(), true)
}

fn number(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let c = bytes[i];
        let fraction = c == b'.' && bytes.get(i + 1).is_some_and(u8::is_ascii_digit);
        let sign = (c == b'-' || c == b'+') && matches!(bytes[i - 1], b'e' | b'E') && !rest.starts_with("0x");
        if c.is_ascii_alphanumeric() || c == b'_' || fraction || (i > 0 && sign) {
            i += 1;
        } else {
            break;
        }
    }
    i.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Completeness::{Complete, Incomplete};

    #[test]
    fn what_is_complete() {
        let samples = [
            ("1 + 1", Complete),
            ("let x = 1;", Complete),
            ("", Complete),
            ("// note", Complete),
            ("blend(a, b, 0.5)", Complete),
            ("#{ a: 1 }", Complete),
            ("fn f(x) { x + 1 }", Complete),
            ("if a { 1 } else { 2 }", Complete),
            ("for i in 0..3 { print(i); }", Complete),
            ("\"done\"", Complete),
            ("`done`", Complete),
            ("`two\nlines`", Complete),
            ("let f = |x| x + 1;", Complete),
            ("/* a */ 1", Complete),
            // Wrong, and no more text would make it right.
            ("let = 3", Complete),
            ("1 + * 2", Complete),
            (")", Complete),
            ("\"open", Complete),
            ("blend(a, b))", Complete),
            ("let x = 1 2", Complete),
            ("blend(", Incomplete),
            ("blend(a,", Incomplete),
            ("let x =", Incomplete),
            ("1 +", Incomplete),
            ("fn f(x) {", Incomplete),
            ("fn f(x)", Incomplete),
            ("if a {", Incomplete),
            ("for i in 0..3 {\n  print(i);", Incomplete),
            ("#{ a: 1,", Incomplete),
            ("[1, 2", Incomplete),
            ("`open", Incomplete),
            ("/* open", Incomplete),
            ("/* a /* nested */ b", Incomplete),
            ("/// A doc comment.", Incomplete),
            ("m.", Incomplete),
            ("let f = |x|", Incomplete),
            ("switch x {", Incomplete),
            ("try { a() }", Incomplete),
        ];
        for (text, want) in samples {
            assert_eq!(completeness(text), want, "{text:?}");
        }
    }

    #[test]
    fn semicolons_hide() {
        assert!(ends_with_semicolon("1 + 1;"));
        assert!(ends_with_semicolon("1 + 1; // note"));
        assert!(ends_with_semicolon("1; /* note */\n"));
        assert!(!ends_with_semicolon("1 + 1 // ;"));
        assert!(!ends_with_semicolon("\";\""));
        assert!(!ends_with_semicolon(""));
    }

    #[test]
    fn pieces_are_told_apart() {
        let text = "let z = m.encode(\"a\").shape; blendd(z, 1.5e-3) // x";
        let found: Vec<(&str, Class)> =
            classes(text, &|_| false).into_iter().map(|(r, c)| (&text[r], c)).collect();
        let class = |word: &str| found.iter().find(|(w, _)| *w == word).unwrap().1;
        assert_eq!(class("let"), Class::Keyword);
        assert_eq!(class("m"), Class::Name);
        assert_eq!(class("encode"), Class::Function);
        assert_eq!(class("\"a\""), Class::String);
        assert_eq!(class("shape"), Class::Property);
        assert_eq!(class("blendd"), Class::Unknown);
        assert_eq!(class("1.5e-3"), Class::Number);
        assert_eq!(class("// x"), Class::Comment);
        assert!(classes("mine(1)", &|n| n == "mine").iter().any(|(_, c)| *c == Class::Function));
    }

    #[test]
    fn every_beginning_of_every_recipe_can_be_scanned() {
        let known = super::super::session::Snapshot::default();
        for (name, text) in super::super::recipes::BUILT_IN {
            assert_eq!(completeness(text), Complete, "{name}");
            // A recipe broken off is never thought wrong inside an open bracket; and nothing panics.
            for (at, _) in text.char_indices() {
                let part = &text[..at];
                classes(part, &|_| false);
                super::super::complete::signature_hint(part, at, &known);
                if at % 7 == 0 {
                    super::super::complete::complete(part, at, &known);
                    completeness(part);
                }
            }
        }
    }

    #[test]
    fn any_text_can_be_cut() {
        for text in ["0..3", "'", "\"", "`${", "日本語 🦀 \u{7f}", "1.", "0x", "/*", "\\", "a\u{301}b"] {
            let pieces = pieces(text);
            assert!(pieces.windows(2).all(|w| w[0].range.end <= w[1].range.start), "{text:?}");
            let _ = completeness(text);
        }
    }
}
