//! Keys for full-screen views: read with a time limit, and an end when the terminal is gone.
//!
//! A reader that does not tell silence from a closed terminal burns a processor for ever after a lost connection.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// A letter with Ctrl, in lower case.
    Ctrl(char),
    /// Enter.
    Enter,
    /// Esc.
    Escape,
    /// Tab.
    Tab,
    /// Backspace.
    Backspace,
    /// Arrow up.
    Up,
    /// Arrow down.
    Down,
    /// Arrow left.
    Left,
    /// Arrow right.
    Right,
    /// Home.
    Home,
    /// End.
    End,
    /// Page up.
    PageUp,
    /// Page down.
    PageDown,
    /// Something that no view uses.
    Other,
}

/// What came of waiting for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A key.
    Key(Key),
    /// The time is over, or a signal came: look around and ask again.
    Nothing,
    /// There will be no more keys: the terminal hung up, or the input ended.
    Gone,
}

/// How long the rest of an escape sequence may take, over a slow line. Esc alone is told by this silence.
const REST: Duration = Duration::from_millis(40);

/// Reads keys from stdin. Only inside [`super::tty::Full`].
#[derive(Debug, Default)]
pub struct Keyboard {
    waiting: Vec<u8>,
}

impl Keyboard {
    /// The next key, waiting at most `wait`.
    pub fn next(&mut self, wait: Duration) -> Input {
        if self.waiting.is_empty() {
            match self.read(wait) {
                Input::Gone => return Input::Gone,
                _ if self.waiting.is_empty() => return Input::Nothing,
                _ => {}
            }
        }
        // The rest of a key that has begun.
        while parse(&self.waiting).is_none() {
            let before = self.waiting.len();
            if self.read(REST) == Input::Gone || self.waiting.len() == before {
                break;
            }
        }
        let (key, used) = parse(&self.waiting).unwrap_or((lone(&self.waiting), self.waiting.len()));
        self.waiting.drain(..used);
        Input::Key(key)
    }

    /// Reads what is there.
    fn read(&mut self, wait: Duration) -> Input {
        let stdin = rustix::stdio::stdin();
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut fds, Some(&wait)) {
            Ok(0) | Err(Errno::INTR | Errno::AGAIN) => return Input::Nothing,
            Ok(_) => {}
            Err(_) => return Input::Gone,
        }
        let mut buffer = [0u8; 64];
        match rustix::io::read(stdin, &mut buffer) {
            Ok(0) => Input::Gone,
            Ok(n) => {
                self.waiting.extend_from_slice(&buffer[..n]);
                Input::Nothing
            }
            Err(Errno::INTR | Errno::AGAIN) => Input::Nothing,
            Err(_) => Input::Gone,
        }
    }
}

/// A key that was begun and not ended.
fn lone(bytes: &[u8]) -> Key {
    if bytes == [0x1b] { Key::Escape } else { Key::Other }
}

/// The first key, and its length in bytes. `None`: more has to come.
fn parse(bytes: &[u8]) -> Option<(Key, usize)> {
    let first = *bytes.first()?;
    Some(match first {
        0x1b => return escape(bytes),
        b'\r' | b'\n' => (Key::Enter, 1),
        b'\t' => (Key::Tab, 1),
        0x7f | 0x08 => (Key::Backspace, 1),
        1..=26 => (Key::Ctrl(char::from(first - 1 + b'a')), 1),
        0..=0x1f => (Key::Other, 1),
        _ => {
            let len = match first {
                0xf0..=0xf4 => 4,
                0xe0..=0xef => 3,
                0xc2..=0xdf => 2,
                _ => 1,
            };
            let piece = bytes.get(..len)?;
            match std::str::from_utf8(piece).ok().and_then(|s| s.chars().next()) {
                Some(c) => (Key::Char(c), len),
                None => (Key::Other, 1),
            }
        }
    })
}

/// A key that the terminal sends as an escape sequence.
fn escape(bytes: &[u8]) -> Option<(Key, usize)> {
    match bytes.get(1)? {
        b'[' => {}
        b'O' => {
            let last = *bytes.get(2)?;
            return Some((named(last, ""), 3));
        }
        0x1b => return Some((Key::Escape, 1)),
        // Alt with a key.
        _ => return Some((Key::Other, 2)),
    }
    let end = bytes.iter().skip(2).position(|b| (0x40..=0x7e).contains(b))? + 2;
    let parameters = std::str::from_utf8(&bytes[2..end]).unwrap_or_default();
    Some((named(bytes[end], parameters), end + 1))
}

fn named(last: u8, parameters: &str) -> Key {
    match (last, parameters) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'C', _) => Key::Right,
        (b'D', _) => Key::Left,
        (b'H', _) | (b'~', "1" | "7") => Key::Home,
        (b'F', _) | (b'~', "4" | "8") => Key::End,
        (b'~', "5") => Key::PageUp,
        (b'~', "6") => Key::PageDown,
        _ => Key::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(mut bytes: &[u8]) -> Vec<Key> {
        let mut all = Vec::new();
        while let Some((key, used)) = parse(bytes) {
            all.push(key);
            bytes = &bytes[used..];
        }
        all
    }

    #[test]
    fn keys_are_told_apart() {
        assert_eq!(
            keys(b"q\r\x03\x1a\x7f\t"),
            [Key::Char('q'), Key::Enter, Key::Ctrl('c'), Key::Ctrl('z'), Key::Backspace, Key::Tab]
        );
        assert_eq!(
            keys(b"\x1b[A\x1bOB\x1b[1;5C\x1b[5~\x1b[6~\x1b[H\x1b[4~"),
            [Key::Up, Key::Down, Key::Right, Key::PageUp, Key::PageDown, Key::Home, Key::End]
        );
        assert_eq!(
            keys("ä猫\u{1f600}".as_bytes()),
            [Key::Char('ä'), Key::Char('猫'), Key::Char('\u{1f600}')]
        );
        assert_eq!(keys(b"\xff\x80x"), [Key::Other, Key::Other, Key::Char('x')]);
    }

    #[test]
    fn a_key_that_has_only_begun_waits_for_its_rest() {
        for begun in [&b"\x1b"[..], b"\x1b[", b"\x1b[1;", b"\x1bO", "猫".as_bytes().get(..2).unwrap(), b""] {
            assert_eq!(parse(begun), None, "{begun:?}");
        }
        assert_eq!((lone(b"\x1b"), lone(b"\x1b[")), (Key::Escape, Key::Other));
    }
}
