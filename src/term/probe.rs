//! What the terminal can show: asked once, bounded in time, before anybody else reads the keyboard.

use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{self, LocalModes, OptionalActions};

use super::tty;

/// Longest wait for answers.
const WAIT: Duration = Duration::from_millis(250);

/// How pictures reach the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// kitty's graphics protocol.
    Kitty,
    /// iTerm2's inline images.
    Iterm,
    /// Half-block characters with two colors each.
    Blocks,
    /// Not at all.
    None,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// How pictures reach the screen.
    pub protocol: Protocol,
    /// Why this protocol.
    pub reason: String,
    /// 24-bit colors.
    pub truecolor: bool,
    /// tmux or screen, if we are inside one.
    pub multiplexer: Option<String>,
    /// Width and height of a cell in pixels, if known.
    pub cell: Option<(u16, u16)>,
    /// What the user typed while we asked.
    pub typed_ahead: String,
}

impl Caps {
    fn new(protocol: Protocol, reason: impl Into<String>) -> Self {
        let var = |name: &str| std::env::var(name).unwrap_or_default();
        let color = var("COLORTERM");
        let term = var("TERM");
        let truecolor = color == "truecolor"
            || color == "24bit"
            || ["kitty", "direct", "ghostty", "alacritty", "foot", "wezterm"]
                .iter()
                .any(|t| term.contains(t));
        let multiplexer = if std::env::var_os("TMUX").is_some() {
            Some("tmux".to_string())
        } else if std::env::var_os("STY").is_some() {
            Some("screen".to_string())
        } else {
            None
        };
        Caps {
            protocol,
            reason: reason.into(),
            truecolor,
            multiplexer,
            cell: cell(),
            typed_ahead: String::new(),
        }
    }
}

/// Cell size from the window's pixel size, where the terminal tells it.
fn cell() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
    let whole = size.ws_col > 0 && size.ws_row > 0 && size.ws_xpixel > 0 && size.ws_ypixel > 0;
    whole.then(|| (size.ws_xpixel / size.ws_col, size.ws_ypixel / size.ws_row)).filter(|c| c.0 > 1 && c.1 > 1)
}

/// Finds out what the terminal can show. `SCUMBLE_GRAPHICS=kitty|iterm|blocks|none` decides without asking.
pub fn probe() -> Caps {
    if let Ok(choice) = std::env::var("SCUMBLE_GRAPHICS") {
        let protocol = match choice.as_str() {
            "kitty" => Some(Protocol::Kitty),
            "iterm" => Some(Protocol::Iterm),
            "blocks" => Some(Protocol::Blocks),
            "none" => Some(Protocol::None),
            _ => None,
        };
        if let Some(protocol) = protocol {
            return Caps::new(protocol, format!("SCUMBLE_GRAPHICS={choice}"));
        }
    }
    if !tty::is_terminal_out() {
        return Caps::new(Protocol::None, "stdout is no terminal");
    }
    if tty::is_dumb() {
        return Caps::new(Protocol::None, "TERM is dumb");
    }
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let inside = Caps::new(Protocol::Blocks, "");
    if let Some(multiplexer) = &inside.multiplexer {
        return Caps {
            reason: format!("inside {multiplexer}, which passes no picture protocol on"),
            ..inside
        };
    }
    if [var("TERM_PROGRAM"), var("LC_TERMINAL")].iter().any(|p| p == "iTerm.app" || p == "iTerm2") {
        return Caps::new(Protocol::Iterm, "TERM_PROGRAM or LC_TERMINAL says iTerm2");
    }
    match ask() {
        Some(answer) if answer.kitty => Caps {
            typed_ahead: answer.typed,
            ..Caps::new(Protocol::Kitty, "the terminal answered kitty's graphics query")
        },
        Some(answer) => {
            let reason = if answer.ended {
                "the terminal answered, without kitty graphics"
            } else {
                "the terminal did not answer in time"
            };
            Caps { typed_ahead: answer.typed, ..Caps::new(Protocol::Blocks, reason) }
        }
        None => Caps::new(Protocol::Blocks, "the keyboard cannot be read, so the terminal was not asked"),
    }
}

/// What came back from the terminal.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    kitty: bool,
    /// The device attributes came: every terminal sends them, and sends them last.
    ended: bool,
    typed: String,
}

/// Asks for kitty graphics, then for the device attributes, which every terminal answers.
fn ask() -> Option<Answer> {
    if !tty::is_terminal_in() {
        return None;
    }
    let mut terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
    let before = termios::tcgetattr(&terminal).ok()?;
    let mut modes = before.clone();
    modes.local_modes -= LocalModes::ECHO | LocalModes::ICANON;
    termios::tcsetattr(&terminal, OptionalActions::Now, &modes).ok()?;
    let sent = terminal
        .write_all(b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[c")
        .and_then(|()| terminal.flush());
    let mut bytes = Vec::new();
    if sent.is_ok() {
        let end = Instant::now() + WAIT;
        let mut buffer = [0u8; 256];
        while !parse(&bytes).ended {
            let left = end.saturating_duration_since(Instant::now());
            let wait = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
            let ready = poll(&mut [PollFd::new(&terminal, PollFlags::IN)], Some(&wait)).unwrap_or(0);
            if ready == 0 {
                break;
            }
            match terminal.read(&mut buffer) {
                Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
                _ => break,
            }
        }
    }
    let _ = termios::tcsetattr(&terminal, OptionalActions::Now, &before);
    Some(parse(&bytes))
}

/// Tells answers from typed keys.
fn parse(bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes);
    let mut answer = Answer::default();
    let mut rest = &*text;
    while let Some(first) = rest.chars().next() {
        if let Some(body) = rest.strip_prefix("\x1b_G") {
            let Some(end) = body.find("\x1b\\") else { break };
            answer.kitty |= body[..end].contains("i=31") && body[..end].ends_with(";OK");
            rest = &body[end + 2..];
        } else if let Some(body) = rest.strip_prefix("\x1b[") {
            let Some(end) = body.find(|c: char| c.is_ascii_alphabetic() || c == '~') else { break };
            answer.ended |= body.starts_with('?') && body[end..].starts_with('c');
            rest = &body[end + 1..];
        } else {
            // Other escapes are keys that mean nothing to a line editor's initial text.
            if !first.is_control() || first == '\n' || first == '\r' {
                answer.typed.push(if first == '\r' { '\n' } else { first });
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kitty: bool, ended: bool, typed: &str) -> Answer {
        Answer { kitty, ended, typed: typed.into() }
    }

    #[test]
    fn answers_are_told_from_typing() {
        assert_eq!(parse(b"\x1b_Gi=31;OK\x1b\\\x1b[?62;c"), answer(true, true, ""));
        assert_eq!(parse(b"\x1b[?1;2c"), answer(false, true, ""));
        assert_eq!(parse(b"let\x1b_Gi=31;OK\x1b\\ x\x1b[?62;4;c = 1\r"), answer(true, true, "let x = 1\n"));
        assert_eq!(parse(b"\x1b_Gi=31;ENOTSUPPORTED\x1b\\\x1b[?6c"), answer(false, true, ""));
        assert_eq!(parse(b"\x1b_Gi=31;O"), answer(false, false, ""));
        assert_eq!(parse(b"\x1b[A\x1b[?6c"), answer(false, true, ""));
        assert_eq!(parse(b""), answer(false, false, ""));
        assert_eq!(parse("ä\u{fffd}".as_bytes()).typed, "ä\u{fffd}");
    }
}
