//! The line editor's helper: completion, hints, colors, and when input is whole.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::sync::PoisonError;

use rustyline::completion::{Completer, Pair};
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::{Hint, Hinter};
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper, Result};
use unicode_width::UnicodeWidthStr;

use super::keys::Closing;
use super::{input, meta, meta_complete};
use crate::script::Snapshot;
use crate::script::complete::{self, Candidate};
use crate::script::scan::{self, Class};
use crate::term::style::{Role, Style};
use crate::term::tty;

/// Lists up to this length show a remark beside each candidate.
const DETAILED: usize = 16;

/// What the line editor asks while keys are typed.
pub struct LineHelper {
    style: Style,
    snapshot: RefCell<Snapshot>,
    /// The text as it was last seen: Ctrl-C on an empty line is answered, on a text it only clears the line.
    seen: RefCell<String>,
    /// Whether the input is being edited, and not painted for the last time.
    editing: Cell<bool>,
    /// Written behind the prompt: a mark for the terminal.
    mark: Cell<&'static str>,
    /// What a closing bracket wants to be completed to.
    pub(super) closing: Closing,
}

impl LineHelper {
    /// Colors by `style`.
    pub fn new(style: Style) -> Self {
        LineHelper {
            style,
            snapshot: RefCell::default(),
            seen: RefCell::default(),
            editing: Cell::new(true),
            mark: Cell::default(),
            closing: Closing::default(),
        }
    }

    /// Takes the state of the session after a cell.
    pub fn update(&self, snapshot: Snapshot) {
        self.snapshot.replace(snapshot);
    }

    /// Sets what is written, for no one to see, behind the prompt.
    pub fn mark(&self, mark: &'static str) {
        self.mark.set(mark);
    }

    /// The text as it was last seen, taken out.
    pub fn take_seen(&self) -> String {
        self.seen.take()
    }
}

impl Helper for LineHelper {}

impl Completer for LineHelper {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> Result<(usize, Vec<Pair>)> {
        let closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((start, bracket)) = closing {
            return Ok((
                start,
                vec![Pair { display: bracket.to_string(), replacement: bracket.to_string() }],
            ));
        }
        let snapshot = self.snapshot.borrow();
        let (start, found) = meta_complete::at(line, pos, &snapshot)
            .unwrap_or_else(|| complete::complete(line, pos, &snapshot));
        Ok((start, pairs(found)))
    }
}

/// Short lists say what each candidate is.
fn pairs(found: Vec<Candidate>) -> Vec<Pair> {
    let detailed = found.len() > 1 && found.len() <= DETAILED;
    let width = found.iter().map(|c| c.display.width()).max().unwrap_or(0);
    let window = usize::from(tty::size().0).saturating_sub(2);
    let pair = |c: Candidate| {
        let mut display = c.display.clone();
        if detailed && !c.detail.is_empty() {
            display = format!("{:<width$}  {}", c.display, c.detail);
            display = display.chars().take(window).collect();
        }
        Pair { display, replacement: c.replacement }
    };
    found.into_iter().map(pair).collect()
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
        self.seen.replace(line.to_string());
        if pos < line.len() || meta::is_meta(line) {
            return None;
        }
        let hint = complete::signature_hint(line, pos, &self.snapshot.borrow())?;
        // A hint that wraps would move the line up and down while keys are typed.
        let last = line.rsplit('\n').next().unwrap_or_default();
        let room = usize::from(tty::size().0).saturating_sub(last.width() + input::PROMPT.len() + 1);
        Some(Signature(hint.chars().take(room).collect()))
    }
}

impl Highlighter for LineHelper {
    fn highlight<'l>(&self, line: &'l str, pos: usize) -> Cow<'l, str> {
        if !self.style.color || meta::is_meta(line) {
            return Cow::Borrowed(line);
        }
        let pair = self.editing.get().then(|| scan::bracket_pair(line, pos)).flatten();
        let snapshot = self.snapshot.borrow();
        let known = |name: &str| {
            snapshot.functions.iter().any(|f| f.0 == name) || snapshot.variables.iter().any(|v| v.0 == name)
        };
        let mut out = String::with_capacity(line.len() * 2);
        let mut end = 0;
        for (range, class) in scan::classes(line, &known) {
            out.push_str(line.get(end..range.start).unwrap_or_default());
            let text = line.get(range.clone()).unwrap_or_default();
            let paired = pair.as_ref().is_some_and(|(a, b)| *a == range || *b == range);
            match role(class).or(paired.then_some(Role::Pair)) {
                // Each line is painted by itself: a color must not run over into the margin.
                Some(role) => {
                    let lines: Vec<String> = text.split('\n').map(|l| self.style.paint(role, l)).collect();
                    out.push_str(&lines.join("\n"));
                }
                None => out.push_str(text),
            }
            end = range.end;
        }
        out.push_str(line.get(end..).unwrap_or_default());
        Cow::Owned(out)
    }

    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        Cow::Owned(format!("{}{}", self.style.paint(Role::Prompt, prompt), self.mark.get()))
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(self.style.paint(Role::Dim, hint))
    }

    fn highlight_char(&self, line: &str, pos: usize, kind: CmdKind) -> bool {
        self.editing.set(kind != CmdKind::ForcedRefresh);
        self.style.color && (kind != CmdKind::MoveCursor || scan::bracket_pair(line, pos).is_some())
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
        Class::Property | Class::Name | Class::Sign => return None,
    })
}

impl Validator for LineHelper {
    fn validate(&self, context: &mut ValidationContext) -> Result<ValidationResult> {
        Ok(match input::is_complete(context.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_do_not_change_the_width() {
        let helper = LineHelper::new(Style { color: true });
        for line in ["let x = blend(a, 0.5); // mix", "nope(\"a\nb\")", "`a\n  b`", "", "if x { 1 } // ä猫"]
        {
            let painted = helper.highlight(line, 0).to_string();
            let mut plain = String::new();
            let mut chars = painted.chars();
            while let Some(c) = chars.next() {
                if c == '\x1b' {
                    chars.by_ref().find(|c| *c == 'm');
                } else {
                    plain.push(c);
                }
            }
            assert_eq!(plain, line);
        }
        assert!(helper.highlight("nope(1)", 0).contains("\x1b[4;31mnope"));
        let twice = |line: &str, pos: usize| helper.highlight(line, pos).matches("\x1b[1;33m").count();
        assert_eq!(twice("f((1), \")\")", 11), 2, "the bracket behind the cursor and its partner");
        assert_eq!((twice("f(1)", 1), twice("f(1)", 0), twice("f(1", 1)), (2, 0, 0));
        assert!(helper.highlight("blend(1)", 0).contains("\x1b[36mblend"));
    }

    #[test]
    fn short_lists_say_what_the_candidates_are() {
        let candidate = |name: &str| Candidate {
            replacement: name.into(),
            display: name.into(),
            detail: "Latent".into(),
        };
        let shown = pairs(vec![candidate("z"), candidate("zebra")]);
        assert_eq!(shown[0].display, "z      Latent");
        assert_eq!(shown[0].replacement, "z");
        assert_eq!(pairs(vec![candidate("z")])[0].display, "z");
    }
}
