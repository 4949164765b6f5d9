//! What the terminal can show: asked once, bounded in time, before anybody else reads the keyboard.

use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{self, LocalModes, OptionalActions};

use super::answer::{Answer, parse};
use super::tty;

/// Longest wait for answers; an answer that comes later would land in the line editor as text.
const WAIT: Duration = Duration::from_millis(250);
/// The same where every answer travels through a network.
const WAIT_REMOTE: Duration = Duration::from_millis(800);

/// Name and version, kitty graphics, and last the device attributes, which every terminal answers.
const QUESTION: &[u8] = b"\x1b[>q\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[c";

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

impl Protocol {
    /// As `SCUMBLE_GRAPHICS` and the banner name it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Kitty => "kitty",
            Protocol::Iterm => "iterm",
            Protocol::Blocks => "blocks",
            Protocol::None => "none",
        }
    }
}

/// Terminals whose name says more than their answers: the beginning of the name, and what serves best there.
const BRANDS: &[(&str, Protocol)] = &[
    ("kitty", Protocol::Kitty),
    ("ghostty", Protocol::Kitty),
    ("konsole", Protocol::Kitty),
    // Answers kitty's query too; iTerm2's protocol is the one that it implements in full.
    ("wezterm", Protocol::Iterm),
    ("iterm", Protocol::Iterm),
    ("mintty", Protocol::Iterm),
];

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// How pictures reach the screen.
    pub protocol: Protocol,
    /// Why this protocol.
    pub reason: String,
    /// Name and version, as the terminal gave them.
    pub brand: Option<String>,
    /// 24-bit colors.
    pub truecolor: bool,
    /// tmux or screen, if we are inside one.
    pub multiplexer: Option<&'static str>,
    /// Width and height of a cell in pixels, if known.
    pub cell: Option<(u16, u16)>,
    /// What the user typed while we asked.
    pub typed_ahead: String,
    /// Whether an answer is still to come.
    pub late: bool,
}

/// What to do with keys that were typed while the terminal is asked: they arrive among the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typing {
    /// They are handed over in [`Caps::typed_ahead`].
    Keep,
    /// Nobody here wants them: if keys are waiting, the terminal is not asked.
    Leave,
}

/// An environment variable as text, empty if it is not set.
fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

impl Caps {
    fn new(protocol: Protocol, reason: impl Into<String>) -> Self {
        let multiplexer = match () {
            () if std::env::var_os("TMUX").is_some() => Some("tmux"),
            () if std::env::var_os("STY").is_some() => Some("screen"),
            () => None,
        };
        let (color, term) = (var("COLORTERM"), var("TERM"));
        let known = ["kitty", "direct", "ghostty", "alacritty", "foot", "wezterm"];
        // tmux takes 24-bit colors and turns them into what its own terminal has.
        let truecolor = color == "truecolor"
            || color == "24bit"
            || multiplexer == Some("tmux")
            || known.iter().any(|t| term.contains(t));
        Caps {
            protocol,
            reason: reason.into(),
            brand: None,
            truecolor,
            multiplexer,
            cell: cell(),
            typed_ahead: String::new(),
            late: false,
        }
    }

    /// Takes what the terminal said.
    fn answered(answer: Answer) -> Self {
        let brand = answer.brand.clone();
        let lower = brand.clone().unwrap_or_default().to_lowercase();
        let preferred = BRANDS.iter().find(|(name, _)| lower.starts_with(name)).map(|(_, p)| *p);
        let (protocol, reason) = match preferred {
            Some(p) => (p, format!("the terminal says that it is {}", brand.clone().unwrap_or_default())),
            None if answer.kitty => {
                (Protocol::Kitty, "the terminal answered kitty's graphics query".to_string())
            }
            None => from_environment().unwrap_or_else(|| {
                let reason = if answer.ended {
                    "the terminal answered, without a picture protocol that scumble speaks"
                } else {
                    "the terminal did not answer in time"
                };
                (Protocol::Blocks, reason.to_string())
            }),
        };
        let mut caps = Caps::new(protocol, reason);
        caps.truecolor |= preferred.is_some() || answer.kitty;
        Caps { brand, typed_ahead: answer.typed, late: !answer.ended, ..caps }
    }

    /// Reads an answer that came too late, so that it does not land in the line editor as text.
    /// Call it before each prompt while [`Caps::late`] is set.
    pub fn hear_late(&mut self) {
        if !self.late || !tty::is_foreground() || !has_raw_input() {
            return;
        }
        let Some(answer) = listen(Duration::from_millis(20), None) else { return };
        let typed = std::mem::take(&mut self.typed_ahead) + answer.typed.as_str();
        if answer.ended || answer.kitty || answer.brand.is_some() {
            *self = Caps::answered(answer);
        }
        self.typed_ahead = typed;
    }
}

/// Cell size from the window's pixel size, where the terminal tells it.
fn cell() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
    let whole = size.ws_col > 0 && size.ws_row > 0 && size.ws_xpixel > 0 && size.ws_ypixel > 0;
    whole.then(|| (size.ws_xpixel / size.ws_col, size.ws_ypixel / size.ws_row)).filter(|c| c.0 > 1 && c.1 > 1)
}

fn from_environment() -> Option<(Protocol, String)> {
    for name in ["TERM_PROGRAM", "LC_TERMINAL"] {
        let value = var(name).to_lowercase();
        if value.starts_with("iterm") || value == "wezterm" || value == "mintty" {
            return Some((Protocol::Iterm, format!("{name}={}", var(name))));
        }
    }
    None
}

/// Reasons not to ask at all, and what is done then.
fn unasked() -> Option<Caps> {
    let choice = var("SCUMBLE_GRAPHICS");
    let all = [Protocol::Kitty, Protocol::Iterm, Protocol::Blocks, Protocol::None];
    if let Some(protocol) = all.into_iter().find(|p| p.name() == choice) {
        return Some(Caps::new(protocol, format!("SCUMBLE_GRAPHICS={choice}")));
    }
    if !tty::is_terminal_out() {
        return Some(Caps::new(Protocol::None, "stdout is no terminal"));
    }
    if tty::is_dumb() {
        return Some(Caps::new(Protocol::None, "TERM is dumb"));
    }
    let caps = Caps::new(Protocol::Blocks, "");
    if let Some(name) = caps.multiplexer {
        return Some(Caps { reason: format!("inside {name}, which passes no picture protocol on"), ..caps });
    }
    // The Linux console and Terminal.app print what they do not understand.
    let (term, program) = (var("TERM"), var("TERM_PROGRAM"));
    if term == "linux" || term.starts_with("vt") || program == "Apple_Terminal" {
        let reason = format!("TERM={term} knows no picture protocol");
        return Some(Caps { reason, ..caps });
    }
    if !var("CI").is_empty() {
        return Some(Caps { reason: "CI is set, so the terminal was not asked".into(), ..caps });
    }
    from_environment().map(|(protocol, reason)| Caps { truecolor: true, ..Caps::new(protocol, reason) })
}

/// Finds out what the terminal can show. `SCUMBLE_GRAPHICS=kitty|iterm|blocks|none` decides without asking.
pub fn probe(typing: Typing) -> Caps {
    if let Some(caps) = unasked() {
        return caps;
    }
    if !tty::is_foreground() || (typing == Typing::Leave && has_raw_input()) {
        return Caps::new(Protocol::Blocks, "the keyboard cannot be read now, so the terminal was not asked");
    }
    let remote = std::env::var_os("SSH_CONNECTION").is_some();
    match listen(if remote { WAIT_REMOTE } else { WAIT }, Some(QUESTION)) {
        Some(answer) => Caps::answered(answer),
        None => Caps::new(Protocol::Blocks, "/dev/tty cannot be opened, so the terminal was not asked"),
    }
}

/// Runs `f` while keys arrive one by one and are not echoed.
fn raw<T>(f: impl FnOnce(&mut File) -> T) -> Option<T> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
    let before = termios::tcgetattr(&terminal).ok()?;
    let mut modes = before.clone();
    modes.local_modes -= LocalModes::ECHO | LocalModes::ICANON;
    termios::tcsetattr(&terminal, OptionalActions::Now, &modes).ok()?;
    let result = f(&mut terminal);
    let _ = termios::tcsetattr(&terminal, OptionalActions::Now, &before);
    Some(result)
}

/// Whether keys wait, half-typed lines included.
fn has_raw_input() -> bool {
    raw(|_| tty::has_input()).unwrap_or(false)
}

/// Sends a question, if there is one, and reads until the answers are complete or the time is over.
fn listen(wait: Duration, question: Option<&[u8]>) -> Option<Answer> {
    raw(|terminal| {
        let sent = question.map_or(Ok(()), |q| terminal.write_all(q).and_then(|()| terminal.flush()));
        let mut bytes = Vec::new();
        let end = Instant::now() + wait;
        let mut buffer = [0u8; 256];
        while sent.is_ok() && !parse(&bytes).ended {
            let left = end.saturating_duration_since(Instant::now());
            let wait = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
            let ready = poll(&mut [PollFd::new(&*terminal, PollFlags::IN)], Some(&wait)).unwrap_or(0);
            if ready == 0 {
                break;
            }
            match terminal.read(&mut buffer) {
                Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
                _ => break,
            }
        }
        parse(&bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(kitty: bool, brand: Option<&str>) -> Protocol {
        let answer = Answer { kitty, ended: true, brand: brand.map(String::from), ..Answer::default() };
        Caps::answered(answer).protocol
    }

    #[test]
    fn the_brand_goes_before_the_answer() {
        assert_eq!(caps(true, None), Protocol::Kitty);
        assert_eq!(caps(true, Some("kitty(0.35.2)")), Protocol::Kitty);
        assert_eq!(caps(true, Some("WezTerm 20240203")), Protocol::Iterm);
        assert_eq!(caps(false, Some("iTerm2 3.5.0")), Protocol::Iterm);
        assert_eq!(caps(true, Some("another 1.0")), Protocol::Kitty);
    }

    #[test]
    fn every_protocol_has_the_name_that_chooses_it() {
        let names: Vec<_> =
            [Protocol::Kitty, Protocol::Iterm, Protocol::Blocks, Protocol::None].map(Protocol::name).into();
        assert_eq!(names, ["kitty", "iterm", "blocks", "none"]);
    }
}
