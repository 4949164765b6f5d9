//! [`Report`]: one thing that went wrong, as the user reads it. A leaf: knows no engine, no Rhai, no terminal.
//!
//! ```text
//! error: blend: the two latents differ in size
//!   --> cell 7, line 2
//!    |
//!  2 |   let z = blend(a, b, 0.4);
//!    |           ^^^^^
//!    = expected  Latent 1x4x16x16
//!    = got       Latent 1x4x32x32
//!    = try       use pictures of one size
//! called from  merge (cell 3, line 5)
//! ```

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Where the last panic of a thread that catches its panics happened.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Remembers where a panic happened, for the report that is made of it.
pub fn note_panic(place: &str) {
    let text = format!("a panic at {place}, version {}", env!("CARGO_PKG_VERSION"));
    PANIC.lock().unwrap_or_else(PoisonError::into_inner).replace(text);
}

/// Where the last panic happened, taken out.
pub fn place_of_panic() -> Option<String> {
    PANIC.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// How the process ends when this report ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The script failed: code 1.
    Script,
    /// Unknown flag, recipe or option, or a value out of range: code 2.
    Usage,
    /// Stopped by the user: code 130.
    Interrupted,
}

impl Exit {
    /// The process exit code.
    pub fn code(self) -> u8 {
        match self {
            Exit::Script => 1,
            Exit::Usage => 2,
            Exit::Interrupted => 130,
        }
    }
}

/// A named text: one cell of the prompt, one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// "cell 7", "scripts/magicmix.rhai".
    pub name: String,
    /// The whole text; may be empty if only the name is known.
    pub text: Arc<str>,
}

/// A place in a source: line and column count from 1, in characters; `len` characters are marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// Characters marked, at least 1.
    pub len: usize,
}

/// What went wrong, where, and what to do next: one pointer around its [`Facts`], whose fields are read and set
/// directly (`report.title`).
#[derive(Clone, Debug, PartialEq)]
pub struct Report(Box<Facts>);

impl Deref for Report {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.0
    }
}

impl DerefMut for Report {
    fn deref_mut(&mut self) -> &mut Facts {
        &mut self.0
    }
}

impl From<Report> for Facts {
    fn from(report: Report) -> Facts {
        *report.0
    }
}

/// The fields of a [`Report`].
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// One clause: "blend: the two latents differ in size".
    pub title: String,
    /// The lower-case kind scripts see ("shape", "missing", "syntax", ...).
    pub kind: String,
    /// The text the error points into.
    pub source: Option<Source>,
    /// Where in it.
    pub span: Option<Span>,
    /// What was expected.
    pub expected: Option<String>,
    /// What came instead.
    pub got: Option<String>,
    /// What to type or do next.
    pub hint: Option<String>,
    /// Callers, innermost first: "merge (cell 3, line 5)".
    pub trace: Vec<String>,
    /// How the process should end.
    pub exit: Exit,
}

impl Report {
    /// A report without a place.
    pub fn new(kind: impl Into<String>, title: impl Into<String>) -> Self {
        Report(Box::new(Facts {
            title: title.into(),
            kind: kind.into(),
            source: None,
            span: None,
            expected: None,
            got: None,
            hint: None,
            trace: Vec::new(),
            exit: Exit::Script,
        }))
    }

    /// A report about how the program was called: exit code 2.
    pub fn usage(title: impl Into<String>) -> Self {
        Report::new("option", title).exit(Exit::Usage)
    }

    /// Sets the place.
    pub fn at(mut self, source: Source, span: Option<Span>) -> Self {
        self.source = Some(source);
        self.span = span;
        self
    }

    /// Sets what was expected.
    pub fn expected(mut self, text: impl Into<String>) -> Self {
        self.expected = Some(text.into());
        self
    }

    /// Sets what came instead.
    pub fn got(mut self, text: impl Into<String>) -> Self {
        self.got = Some(text.into());
        self
    }

    /// Sets what to do next.
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.hint = Some(text.into());
        self
    }

    /// Sets the exit class.
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// The report as text, without a final newline. `width` is the terminal's (at least 20 is assumed);
    /// `color` adds ANSI colors. Control characters of the content are made visible, never passed on.
    pub fn render(&self, color: bool, width: usize) -> String {
        let width = width.max(20);
        let paint = Paint { color };
        let mut out = String::new();
        let head = if self.exit == Exit::Interrupted { "stopped" } else { "error" };
        let title = wrap(&clean(&self.title), width, head.len() + 2, 7);
        out.push_str(&paint.red(head));
        out.push_str(": ");
        out.push_str(&paint.bold(&title));
        let mut gutter = 1;
        if let Some(source) = &self.source {
            gutter = self.span.map_or(1, |s| s.line.to_string().len());
            let place = match self.span {
                Some(span) => format!("{}, line {}", clean(&source.name), span.line),
                None => clean(&source.name),
            };
            out.push_str(&format!("\n {}{} {place}", " ".repeat(gutter), paint.blue("-->")));
            if let Some(span) = self.span {
                out.push_str(&snippet(source, span, gutter, width, &paint));
            }
        }
        let labels = [("expected", &self.expected), ("got", &self.got), ("try", &self.hint)];
        for (label, text) in labels {
            if let Some(text) = text {
                let indent = gutter + 14;
                let text = wrap(&clean(text), width, indent, indent);
                out.push_str(&format!("\n {} {} {label:<9} {text}", " ".repeat(gutter), paint.blue("=")));
            }
        }
        for caller in &self.trace {
            out.push_str(&format!("\n{}  {}", paint.blue("called from"), clean(caller)));
        }
        out
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false, 100))
    }
}

impl std::error::Error for Report {}

/// Most characters of one line of a report.
const LONGEST: usize = 4_000;

struct Paint {
    color: bool,
}

impl Paint {
    fn with(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
    fn red(&self, text: &str) -> String {
        self.with("1;31", text)
    }
    fn blue(&self, text: &str) -> String {
        self.with("34", text)
    }
    fn bold(&self, text: &str) -> String {
        self.with("1", text)
    }
}

/// The source line and the carets below it, cut to the width around the marked place.
fn snippet(source: &Source, span: Span, gutter: usize, width: usize, paint: &Paint) -> String {
    let Some(line) = source.text.split('\n').nth(span.line.saturating_sub(1)) else {
        return String::new();
    };
    let line = line.trim_end_matches('\r');
    let chars: Vec<char> = line.chars().collect();
    let start = span.column.saturating_sub(1).min(chars.len());
    let end = (start + span.len.max(1)).min(chars.len().max(start + 1));
    let cell = |c: &char| if *c == '\t' { "    ".to_string() } else { visible(*c) };
    let room = width.saturating_sub(gutter + 5).max(10);
    let (mut from, mut to) = (0, chars.len());
    let span_width = |a: usize, b: usize| -> usize {
        chars.iter().take(b).skip(a).map(|c| UnicodeWidthStr::width(cell(c).as_str())).sum()
    };
    // A line that is too long is shown as a window: it starts at most half the room before the mark. Widths are added up
    // step by step: a hostile line may have a million characters.
    let width_of = |i: usize| chars.get(i).map_or(0, |c| UnicodeWidthStr::width(cell(c).as_str()));
    if span_width(0, chars.len()) > room {
        let mut before = 0;
        from = start;
        while from > 0 && before + width_of(from - 1) <= room / 2 {
            from -= 1;
            before += width_of(from);
        }
        let mut shown = 0;
        to = from;
        while to < chars.len() && shown + width_of(to) + 2 <= room {
            shown += width_of(to);
            to += 1;
        }
    }
    let shown: String = chars.iter().take(to).skip(from).map(&cell).collect();
    let before = if from > 0 { "…" } else { "" };
    let after = if to < chars.len() { "…" } else { "" };
    let pad = span_width(from, start.max(from)) + before.chars().count();
    let marks = span_width(start, end.min(to.max(start + 1))).max(1);
    let bar = paint.blue("|");
    let number = paint.blue(&format!("{:>gutter$}", span.line));
    let carets = paint.red(&"^".repeat(marks));
    let empty = " ".repeat(gutter);
    format!(
        "\n {empty} {bar}\n {number} {bar} {before}{shown}{after}\n {empty} {bar} {}{carets}",
        " ".repeat(pad)
    )
}

fn visible(c: char) -> String {
    match c {
        '\t' => "    ".to_string(),
        c if hidden(c) => "\u{fffd}".to_string(),
        c => c.to_string(),
    }
}

/// Whether a terminal would obey the character instead of showing it: controls, and the marks that turn the direction of
/// the text around it (with which a text can pass for another).
fn hidden(c: char) -> bool {
    c.is_control()
        || c.width().is_none()
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// Text from outside (a script's lines, file names) for a terminal: newlines and tabs stay, what the terminal would obey
/// becomes visible.
pub fn plain(text: &str) -> std::borrow::Cow<'_, str> {
    let obeyed = |c: char| !matches!(c, '\n' | '\t') && hidden(c);
    if !text.contains(obeyed) {
        return text.into();
    }
    text.chars().map(|c| if obeyed(c) { '\u{fffd}' } else { c }).collect::<String>().into()
}

/// Text from outside (file names, values): control characters become visible, newlines stay; what nobody would read
/// to its end is cut.
fn clean(text: &str) -> String {
    let mut out: String =
        text.chars().take(LONGEST).map(|c| if c == '\n' { "\n".to_string() } else { visible(c) }).collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

/// Breaks at spaces so that no line passes `width`; the first line starts `first` columns in, the others are
/// indented by `hang`.
fn wrap(text: &str, width: usize, first: usize, hang: usize) -> String {
    let hang = hang.min(width / 2);
    let mut out = String::new();
    let mut column = first.min(width / 2);
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
            out.push_str(&" ".repeat(hang));
            column = hang;
        }
        let mut empty = true;
        for word in line.split_inclusive(' ') {
            let bare = UnicodeWidthStr::width(word.trim_end());
            if !empty && column + bare > width {
                out.truncate(out.trim_end_matches(' ').len());
                out.push('\n');
                out.push_str(&" ".repeat(hang));
                column = hang;
            }
            out.push_str(word);
            column += UnicodeWidthStr::width(word);
            empty = false;
        }
    }
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Report {
        let text = "// mix\n  let z = blend(a, b, 0.4);\n";
        Report::new("shape", "blend: the two latents differ in size")
            .at(
                Source { name: "cell 7".into(), text: text.into() },
                Some(Span { line: 2, column: 11, len: 5 }),
            )
            .expected("Latent 1x4x64x64")
            .got("Latent 1x4x128x128")
            .hint("use pictures of one size")
    }

    #[test]
    fn everything_has_its_place() {
        let mut report = example();
        report.trace = vec!["merge (cell 3, line 5)".into()];
        insta::assert_snapshot!(report.render(false, 80), @r"
        error: blend: the two latents differ in size
          --> cell 7, line 2
           |
         2 |   let z = blend(a, b, 0.4);
           |           ^^^^^
           = expected  Latent 1x4x64x64
           = got       Latent 1x4x128x128
           = try       use pictures of one size
        called from  merge (cell 3, line 5)
        ");
    }

    #[test]
    fn color_only_adds_escapes() {
        let colored = example().render(true, 80);
        assert!(colored.contains("\x1b[1;31m^^^^^\x1b[0m"));
        let mut plain = String::new();
        let mut chars = colored.chars();
        while let Some(c) = chars.next() {
            if c == '\x1b' {
                chars.by_ref().find(|c| *c == 'm');
            } else {
                plain.push(c);
            }
        }
        assert_eq!(plain, example().render(false, 80));
    }

    #[test]
    fn narrow_terminals_wrap_and_cut() {
        let mut report = example();
        report.title = "blend: the two latents differ in size and in a number of other ways".into();
        report.hint = Some("use pictures of one size, and the same n for both of them".into());
        let text = format!("{}blend(a, b); {}", "x = 1; ".repeat(20), "y = 2; ".repeat(20));
        report.source = Some(Source { name: "long.rhai".into(), text: text.into() });
        report.span = Some(Span { line: 1, column: 141, len: 5 });
        let out = report.render(false, 40);
        assert!(out.lines().all(|l| UnicodeWidthStr::width(l) <= 40), "{out}");
        insta::assert_snapshot!(out, @r"
        error: blend: the two latents differ in
               size and in a number of other
               ways
          --> long.rhai, line 1
           |
         1 | …1; x = 1; x = 1; blend(a, b); y …
           |                   ^^^^^
           = expected  Latent 1x4x64x64
           = got       Latent 1x4x128x128
           = try       use pictures of one size,
                       and the same n for both
                       of them
        ");
    }

    #[test]
    fn wide_characters_tabs_and_escapes_keep_the_caret_right() {
        let text = "\t\"猫\x1b[31m\"; nope()";
        let report = Report::new("missing", "nope: no such function").at(
            Source { name: "a\x1b]0;x\x07.rhai".into(), text: text.into() },
            Some(Span { line: 1, column: 12, len: 4 }),
        );
        let out = report.render(false, 80);
        assert!(!out.contains('\x1b') && !out.contains('\x07'));
        let lines: Vec<&str> = out.lines().collect();
        let (code, marks) = (lines[3], lines[4]);
        let at = UnicodeWidthStr::width(&code[..code.find("nope").unwrap()]);
        assert_eq!(UnicodeWidthStr::width(&marks[..marks.find('^').unwrap()]), at, "{out}");
    }

    #[test]
    fn a_place_past_the_end_is_marked_after_the_line() {
        let report = Report::new("syntax", "the script ends too early").at(
            Source { name: "cell 1".into(), text: "let x =".into() },
            Some(Span { line: 1, column: 8, len: 1 }),
        );
        insta::assert_snapshot!(report.render(false, 80), @r"
        error: the script ends too early
          --> cell 1, line 1
           |
         1 | let x =
           |        ^
        ");
    }
}
