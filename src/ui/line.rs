//! The line editor's helper: completion, hints, colors, and when input is whole.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};

use rustyline::completion::{Completer, Pair};
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::{Hint, Hinter};
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper, Result};

use super::meta;
use crate::script::complete;
use crate::script::scan::{self, Class, Completeness};
use crate::script::session::Snapshot;
use crate::term::style::{Role, Style};

/// What the line editor asks while keys are typed.
pub struct LineHelper {
    style: Style,
    snapshot: RefCell<Snapshot>,
    empty: Cell<bool>,
}

impl LineHelper {
    /// Colors by `style`.
    pub fn new(style: Style) -> Self {
        LineHelper { style, snapshot: RefCell::default(), empty: Cell::new(true) }
    }

    /// Whether the line held no text when it was last looked at.
    pub fn is_empty(&self) -> bool {
        self.empty.get()
    }

    /// Takes the state of the session after a cell.
    pub fn update(&self, snapshot: Snapshot) {
        self.snapshot.replace(snapshot);
    }
}

impl Helper for LineHelper {}

impl Completer for LineHelper {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> Result<(usize, Vec<Pair>)> {
        let pair = |display: String, replacement: String| Pair { display, replacement };
        if let Some((start, found)) = meta::complete(line, pos, &self.snapshot.borrow()) {
            return Ok((start, found.into_iter().map(|c| pair(c.clone(), c)).collect()));
        }
        let (start, found) = complete::complete(line, pos, &self.snapshot.borrow());
        Ok((start, found.into_iter().map(|c| pair(c.display, c.replacement)).collect()))
    }
}

/// Shown dim after the cursor, never taken over.
pub struct Signature(String);

impl Hint for Signature {
    fn display(&self) -> &str {
        &self.0
    }

    fn completion(&self) -> Option<&str> {
        None
    }
}

impl Hinter for LineHelper {
    type Hint = Signature;

    fn hint(&self, line: &str, pos: usize, _: &Context<'_>) -> Option<Signature> {
        self.empty.set(line.is_empty());
        if pos < line.len() || meta::is_meta(line) {
            return None;
        }
        complete::signature_hint(line, pos, &self.snapshot.borrow()).map(|s| Signature(format!("  {s}")))
    }
}

impl Highlighter for LineHelper {
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        if !self.style.color || meta::is_meta(line) {
            return Cow::Borrowed(line);
        }
        let snapshot = self.snapshot.borrow();
        let known = |name: &str| snapshot.functions.iter().any(|f| f.0 == name);
        let mut out = String::with_capacity(line.len() * 2);
        let mut end = 0;
        for (range, class) in scan::classes(line, &known) {
            out.push_str(line.get(end..range.start).unwrap_or_default());
            let text = line.get(range.clone()).unwrap_or_default();
            out.push_str(&role(class).map_or_else(|| text.to_string(), |role| self.style.paint(role, text)));
            end = range.end;
        }
        out.push_str(line.get(end..).unwrap_or_default());
        Cow::Owned(out)
    }

    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        Cow::Owned(self.style.paint(Role::Prompt, prompt))
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(self.style.paint(Role::Dim, hint))
    }

    fn highlight_char(&self, _: &str, _: usize, _: CmdKind) -> bool {
        self.style.color
    }
}

fn role(class: Class) -> Option<Role> {
    Some(match class {
        Class::Keyword => Role::Keyword,
        Class::String => Role::Text,
        Class::Number => Role::Number,
        Class::Comment => Role::Comment,
        Class::Function => Role::Name,
        Class::Unknown => Role::Unknown,
        _ => return None,
    })
}

impl Validator for LineHelper {
    fn validate(&self, context: &mut ValidationContext) -> Result<ValidationResult> {
        let text = context.input();
        if meta::is_meta(text) || scan::completeness(text) == Completeness::Complete {
            return Ok(ValidationResult::Valid(None));
        }
        Ok(ValidationResult::Incomplete)
    }
}
