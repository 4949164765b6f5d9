//! What keys do beyond the line editor's own: Enter in an unfinished input, Up and Down after some text, a closing
//! bracket at the beginning of a line.

use std::sync::{Arc, Mutex, PoisonError};

use rustyline::history::History;
use rustyline::{
    Cmd, ConditionalEventHandler, Editor, Event, EventContext, EventHandler, Helper, InputMode, KeyCode,
    KeyEvent, Modifiers, Movement, RepeatCount,
};

use super::input::{self, INDENT};

/// Binds them all.
pub fn bind<H: Helper, I: History>(editor: &mut Editor<H, I>, closing: &Closing) {
    let walk = Arc::new(Mutex::new(Walk::default()));
    let mut on = |event: Event, what: What| {
        let handler = Key { what, walk: Arc::clone(&walk), closing: Arc::clone(closing) };
        editor.bind_sequence(event, EventHandler::Conditional(Box::new(handler)));
    };
    let plain = |code: KeyCode| Event::from(KeyEvent(code, Modifiers::NONE));
    // Ctrl-J too: a line feed is what Enter was while the terminal was in line mode.
    on(plain(KeyCode::Enter), What::Enter);
    on(KeyEvent::ctrl('J').into(), What::Enter);
    for bracket in [')', ']', '}'] {
        on(plain(KeyCode::Char(bracket)), What::Closing(bracket));
    }
    on(plain(KeyCode::Up), What::Arrow { up: true });
    on(plain(KeyCode::Down), What::Arrow { up: false });
    on(Event::Any, What::Other);
    editor.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), Cmd::Newline);
    editor.bind_sequence(KeyEvent(KeyCode::PageUp, Modifiers::NONE), Cmd::HistorySearchBackward);
    editor.bind_sequence(KeyEvent(KeyCode::PageDown, Modifiers::NONE), Cmd::HistorySearchForward);
}

/// What a key is for.
#[derive(Clone, Copy)]
enum What {
    Enter,
    Closing(char),
    Arrow { up: bool },
    Other,
}

struct Key {
    what: What,
    walk: Arc<Mutex<Walk>>,
    closing: Closing,
}

/// A closing bracket that takes some of the margin with it, and from where. A key can do one thing only: this one asks for a
/// completion, and the completer gives it this.
pub type Closing = Arc<Mutex<Option<(usize, char)>>>;

impl ConditionalEventHandler for Key {
    fn handle(&self, _: &Event, n: RepeatCount, _: bool, context: &EventContext) -> Option<Cmd> {
        let mut walk = self.walk.lock().unwrap_or_else(PoisonError::into_inner);
        let (line, pos) = (context.line(), context.pos());
        if let What::Arrow { up } = self.what {
            return walk.step(up, line, pos);
        }
        *walk = Walk::Not;
        match self.what {
            What::Enter => enter(line, pos),
            What::Closing(bracket) if n == 1 && context.input_mode() == InputMode::Insert => {
                let start = outward(line, pos)?;
                *self.closing.lock().unwrap_or_else(PoisonError::into_inner) = Some((start, bracket));
                Some(Cmd::Complete)
            }
            _ => None,
        }
    }
}

/// Enter at the end of an unfinished input starts a line that is indented to its depth; everywhere else it does what it
/// always does.
fn enter(line: &str, pos: usize) -> Option<Cmd> {
    let unfinished = pos == line.len() && !input::is_complete(line);
    unfinished.then(|| Cmd::Insert(1, input::continuation(line)))
}

/// Where the margin begins that a closing bracket takes away: it goes one level out where it begins a line.
fn outward(line: &str, pos: usize) -> Option<usize> {
    let (_, margin) = line.get(..pos)?.rsplit_once('\n')?;
    let deep = margin.len() >= input::PROMPT.len() + INDENT && margin.chars().all(|c| c == ' ');
    deep.then(|| pos - INDENT)
}

/// How the arrow keys are walking through the history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Walk {
    /// They are not: another key came last.
    #[default]
    Not,
    /// Entry by entry.
    All,
    /// Through the entries that begin with a text, so many of them back. What came of the last key, whether it was Up, is
    /// seen at the next one: a search that finds nothing leaves the line as it was before.
    Beginning { back: usize, up: bool, before: String },
}

impl Walk {
    /// What an arrow key does; `None`: what it always does.
    fn step(&mut self, up: bool, line: &str, pos: usize) -> Option<Cmd> {
        let typed = line.get(..pos).unwrap_or_default();
        match self {
            Walk::Not if up && !typed.is_empty() && pos == line.len() && !typed.contains('\n') => {
                *self = Walk::Beginning { back: 0, up, before: line.to_string() };
                Some(Cmd::HistorySearchBackward)
            }
            Walk::Not | Walk::All => {
                *self = Walk::All;
                None
            }
            Walk::Beginning { back, up: last, before } => {
                if line != before.as_str() {
                    *back = if *last { *back + 1 } else { back.saturating_sub(1) };
                }
                if !up && *back <= 1 {
                    *self = Walk::Not;
                    // A search leaves the cursor behind what it looked for.
                    return Some(Cmd::Kill(Movement::EndOfBuffer));
                }
                (*last, *before) = (up, line.to_string());
                Some(if up { Cmd::HistorySearchBackward } else { Cmd::HistorySearchForward })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_after_a_text_walks_through_what_begins_with_it() {
        let mut walk = Walk::default();
        let (new, old) = ("let y = 2", "let x = 1");
        let back = || Some(Cmd::Kill(Movement::EndOfBuffer));
        assert_eq!(walk.step(true, "let", 3), Some(Cmd::HistorySearchBackward));
        assert_eq!(walk.step(true, new, 3), Some(Cmd::HistorySearchBackward));
        assert_eq!(walk.step(false, old, 3), Some(Cmd::HistorySearchForward));
        assert_eq!(walk.step(false, new, 3), back(), "at last what was typed");
        assert_eq!(walk, Walk::Not);
    }

    #[test]
    fn up_that_finds_nothing_more_is_not_counted() {
        let (new, old) = ("let y = 2", "let x = 1");
        let back = || Some(Cmd::Kill(Movement::EndOfBuffer));
        let mut walk = Walk::default();
        walk.step(true, "let", 3);
        walk.step(true, new, 3);
        // There is nothing older.
        (0..5).for_each(|_| assert_eq!(walk.step(true, old, 3), Some(Cmd::HistorySearchBackward)));
        assert_eq!(walk.step(false, old, 3), Some(Cmd::HistorySearchForward));
        assert_eq!(walk.step(false, new, 3), back(), "two entries back, two forward");
        // Nor anything at all.
        walk.step(true, "none", 4);
        walk.step(true, "none", 4);
        assert_eq!((walk.step(false, "none", 4), walk), (back(), Walk::Not));
    }

    #[test]
    fn up_on_an_empty_line_walks_through_everything() {
        let mut walk = Walk::default();
        assert_eq!(walk.step(true, "", 0), None);
        assert_eq!(walk.step(true, "let x = 1", 9), None, "what Up brought is no text to search for");
        let mut walk = Walk::default();
        assert_eq!(
            walk.step(true, "let x = {\n  1", 12),
            None,
            "within an input of several lines it goes up"
        );
        assert_eq!(Walk::default().step(true, "let", 1), None, "nor from the middle");
    }

    #[test]
    fn brackets_go_out_where_they_begin_a_line() {
        let text = format!("fn f() {{\n{}", " ".repeat(input::PROMPT.len() + INDENT));
        assert_eq!(outward(&text, text.len()), Some(text.len() - INDENT));
        assert_eq!(outward(&format!("{text}x"), text.len() + 1), None);
        assert_eq!(outward("    ", 4), None);
    }
}
