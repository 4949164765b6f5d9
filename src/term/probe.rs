//! What the terminal can show: asked once, bounded in time, before anybody else reads the keyboard.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{self, LocalModes, OptionalActions};

use super::answer::{Answer, parse};
use super::brands::{self, Brand};
use super::tmux::{self, Tmux};
use super::tty;

/// Longest wait for answers; an answer that comes later would land in the line editor as text.
const WAIT: Duration = Duration::from_millis(250);
/// The same where every answer travels through a network.
const WAIT_REMOTE: Duration = Duration::from_millis(800);
/// The same for a terminal that is known to answer: one that has just been opened may be busy with itself.
const WAIT_KNOWN: Duration = Duration::from_secs(2);

/// Name and version; a 24-bit color that is set and asked for, as ssh rarely carries COLORTERM along; size of a cell.
const QUESTION: &str = "\x1b[>q\x1b[48;2;1;2;3m\x1bP$qm\x1b\\\x1b[m\x1bP+q524742\x1b\\\x1b[16t";
/// kitty graphics. Not inside tmux or screen, where this kind of escape sets the title.
const QUESTION_KITTY: &str = "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\";
/// The device attributes, which every terminal answers: the end.
const QUESTION_LAST: &str = "\x1b[c";
/// For a terminal with sixel: 256 colors for pictures, if it lets itself be told, and how many it has.
const QUESTION_SIXEL: &str = "\x1b[?1;3;256S\x1b[?1;1;0S\x1b[c";

/// How pictures reach the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// kitty's graphics protocol.
    Kitty,
    /// iTerm2's inline images.
    Iterm,
    /// DEC's sixel.
    Sixel,
    /// Half-block characters with two colors each.
    Blocks,
    /// Not at all.
    None,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 5] =
        [Protocol::Kitty, Protocol::Iterm, Protocol::Sixel, Protocol::Blocks, Protocol::None];

    /// As `SCUMBLE_GRAPHICS` and the banner name it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Kitty => "kitty",
            Protocol::Iterm => "iterm",
            Protocol::Sixel => "sixel",
            Protocol::Blocks => "blocks",
            Protocol::None => "none",
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// How pictures reach the screen.
    pub protocol: Protocol,
    /// Why this protocol.
    pub reason: String,
    /// Everything that the terminal claims to do, the best first.
    pub claims: Vec<Protocol>,
    /// What the user may change to see more.
    pub advice: Option<String>,
    /// Name and version, as the terminal gave them.
    pub brand: Option<String>,
    /// 24-bit colors.
    pub truecolor: bool,
    /// tmux or screen, if we are inside one.
    pub multiplexer: Option<&'static str>,
    /// Text cells can hold pieces of a picture: kitty's Unicode placeholders.
    pub placeholders: bool,
    /// OSC 8 links.
    pub links: bool,
    /// OSC 9 messages to the desktop.
    pub messages: bool,
    /// Most colors of a sixel picture.
    pub registers: u16,
    /// Width and height of a cell in pixels, if known.
    pub cell: Option<(u16, u16)>,
    /// What the user typed while we asked.
    pub typed_ahead: String,
    /// Whether an answer is still to come.
    pub late: bool,
    /// What the terminal has said so far, if it was asked.
    pub(super) said: Option<Box<Said>>,
}

/// What the terminal has said, and who stands between it and us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    answer: Answer,
    inside: Option<&'static str>,
    tmux: Option<Tmux>,
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

/// tmux or screen, by the environment; also where ssh has carried only TERM along.
fn multiplexer() -> Option<&'static str> {
    let term = var("TERM");
    match () {
        () if std::env::var_os("TMUX").is_some() || term.starts_with("tmux") => Some("tmux"),
        () if std::env::var_os("STY").is_some() || term.starts_with("screen") => Some("screen"),
        () => None,
    }
}

/// Whether mosh carries our output: it passes on text and colors, no pictures, whatever the environment says.
fn is_mosh() -> bool {
    let mut process = std::process::id();
    // The chain of parents; only Linux tells.
    for _ in 0..16 {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{process}/stat")) else { return false };
        // The name stands in parentheses and may hold some itself.
        let Some((head, tail)) = stat.rsplit_once(')') else { return false };
        if head.ends_with("(mosh-server") {
            return true;
        }
        match tail.split_whitespace().nth(1).and_then(|p| p.parse().ok()) {
            Some(parent) if parent > 1 => process = parent,
            _ => return false,
        }
    }
    false
}

impl Caps {
    fn new(protocol: Protocol, reason: impl Into<String>) -> Self {
        let multiplexer = multiplexer();
        let (color, term) = (var("COLORTERM"), var("TERM"));
        let known = ["kitty", "direct", "ghostty", "alacritty", "foot", "wezterm"];
        let said = color == "truecolor" || color == "24bit" || known.iter().any(|t| term.contains(t));
        // tmux takes 24-bit colors and turns them into what its own terminal has. screen got COLORTERM from the terminal
        // around it, and knows no such colors itself.
        let truecolor = match multiplexer {
            Some("tmux") => true,
            Some("screen") => term.contains("direct"),
            _ => said,
        };
        let vte = var("VTE_VERSION").parse::<u32>().is_ok_and(|v| v >= 5000) && multiplexer.is_none();
        Caps {
            protocol,
            reason: reason.into(),
            claims: vec![Protocol::Blocks],
            advice: None,
            brand: None,
            truecolor,
            multiplexer,
            placeholders: false,
            links: vte,
            messages: false,
            registers: 256,
            cell: cell(),
            typed_ahead: String::new(),
            late: false,
            said: None,
        }
    }

    /// Takes what the terminal said, or tmux in its place. `inside` is tmux or screen, if we are inside one.
    fn answered(answer: Answer, inside: Option<&'static str>, tmux: Option<Tmux>) -> Self {
        let name = tmux.as_ref().map(|t| t.client.clone()).filter(|c| !c.is_empty());
        let name = name.or(answer.brand.clone());
        let brand = name.as_deref().and_then(brands::find);
        let mut caps = match inside {
            Some(inside) => Caps::inside(inside, &answer, tmux.as_ref(), brand),
            None => Caps::outside(&answer, brand, name.as_deref()),
        };
        caps.placeholders &= brand.is_some_and(|b| b.has_placeholders(name.as_deref().unwrap_or_default()));
        caps.registers = answer.registers.unwrap_or(caps.registers).clamp(2, 256);
        caps.cell = caps.cell.or(answer.cell);
        let (typed_ahead, late) = (answer.typed.clone(), !answer.ended);
        Caps { brand: name, typed_ahead, late, said: Some(Box::new(Said { answer, inside, tmux })), ..caps }
    }

    /// The terminal itself speaks.
    fn outside(answer: &Answer, brand: Option<&Brand>, name: Option<&str>) -> Self {
        let claims = brands::claims(brand, answer);
        let best = claims.first().copied().unwrap_or(Protocol::Blocks);
        let preferred = brand.and_then(|b| b.protocol(answer));
        let (protocol, reason) = match best {
            _ if preferred.is_some() => {
                (best, format!("the terminal says that it is {}", name.unwrap_or_default()))
            }
            Protocol::Kitty => (best, "the terminal answered kitty's graphics query".into()),
            Protocol::Sixel => (best, "the terminal's device attributes name sixel".into()),
            // A terminal that answered and gave no name may be mosh, behind which the environment speaks of another.
            _ => match from_environment().filter(|_| !(answer.ended && is_mosh())) {
                Some(found) => found,
                None if answer.ended => (
                    Protocol::Blocks,
                    "the terminal answered, without a picture protocol that scumble speaks".into(),
                ),
                None => (Protocol::Blocks, "the terminal did not answer in time".into()),
            },
        };
        let mut caps = Caps::new(protocol, reason);
        caps.claims = claims;
        if !caps.claims.contains(&protocol) {
            caps.claims.insert(0, protocol);
        }
        caps.truecolor |= answer.truecolor || answer.kitty || brand.is_some_and(|b| b.truecolor);
        caps.placeholders = true;
        caps.links |= brand.is_some_and(|b| b.links);
        caps.messages = brand.is_some_and(|b| b.messages);
        caps
    }

    /// Inside tmux or screen: what they draw themselves, and what tmux passes on.
    fn inside(name: &str, answer: &Answer, tmux: Option<&Tmux>, brand: Option<&Brand>) -> Self {
        let mut caps =
            Caps::new(Protocol::Blocks, format!("inside {name}, which passes no picture protocol on"));
        if let Some(tmux) = tmux {
            // Its own mapping to 256 colors is coarser than ours.
            caps.truecolor = tmux.client.is_empty() || tmux.has("RGB") || brand.is_some_and(|b| b.truecolor);
            caps.links = tmux.has("hyperlinks");
            let able = brand.is_some_and(|b| b.has_placeholders(&tmux.client));
            if able && tmux.passthrough && caps.truecolor {
                caps.protocol = Protocol::Kitty;
                caps.placeholders = true;
                caps.claims = vec![Protocol::Kitty, Protocol::Blocks];
                caps.reason = format!("tmux in {} passes it on", tmux.client);
            } else if able && !tmux.passthrough {
                caps.advice = Some(format!("pictures pass through tmux after: {}", tmux::ADVICE));
            }
        }
        if answer.sixel && caps.protocol == Protocol::Blocks {
            caps.protocol = Protocol::Sixel;
            caps.claims = vec![Protocol::Sixel, Protocol::Blocks];
            caps.reason = format!("{name} draws sixel pictures itself");
        }
        caps
    }

    /// Reads an answer that came too late, so that it does not land in the line editor as text.
    /// Call it before each prompt while [`Caps::late`] is set.
    pub fn hear_late(&mut self) {
        if !self.late || !tty::is_foreground() || !has_raw_input() {
            return;
        }
        let begun = self.said.as_ref().map_or("", |said| said.answer.rest.as_str());
        if let Some(answer) = listen(Duration::from_millis(20), None, begun) {
            self.learn(answer);
        }
    }

    /// Takes a later piece of the answer: what was said before still counts.
    fn learn(&mut self, later: Answer) {
        let typed = std::mem::take(&mut self.typed_ahead) + later.typed.as_str();
        if let Some(said) = self.said.take() {
            let Said { answer, inside, tmux } = *said;
            *self = Caps::answered(answer.and(later), inside, tmux);
        }
        // The keys of earlier pieces were handed over.
        self.typed_ahead = typed;
    }
}

/// Cell size from the window's pixel size, where the terminal tells it.
fn cell() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
    let whole = size.ws_col > 0 && size.ws_row > 0 && size.ws_xpixel > 0 && size.ws_ypixel > 0;
    whole.then(|| (size.ws_xpixel / size.ws_col, size.ws_ypixel / size.ws_row)).filter(|c| c.0 > 1 && c.1 > 1)
}

/// What the environment says, for terminals that give no name, or not in time.
fn from_environment() -> Option<(Protocol, String)> {
    let known = [
        ("TERM_PROGRAM", "iterm", Protocol::Iterm),
        ("TERM_PROGRAM", "wezterm", Protocol::Iterm),
        ("TERM_PROGRAM", "mintty", Protocol::Iterm),
        ("TERM_PROGRAM", "ghostty", Protocol::Kitty),
        ("LC_TERMINAL", "iterm", Protocol::Iterm),
        ("LC_TERMINAL", "wezterm", Protocol::Iterm),
        ("TERM", "xterm-kitty", Protocol::Kitty),
        ("TERM", "xterm-ghostty", Protocol::Kitty),
        ("TERM", "foot", Protocol::Sixel),
    ];
    let found = known.into_iter().find(|(name, start, _)| var(name).to_lowercase().starts_with(start));
    found.filter(|_| multiplexer().is_none()).map(|(name, _, p)| (p, format!("{name}={}", var(name))))
}

/// The protocol that a setting asks for, and how errors and reports call that setting.
static CHOICE: Mutex<Option<(String, String)>> = Mutex::new(None);

/// Decides by hand: `kitty`, `iterm`, `sixel`, `blocks` or `none`; anything else asks the terminal. `label` says who decided.
pub fn choose(name: &str, label: &str) {
    *CHOICE.lock().unwrap_or_else(PoisonError::into_inner) = Some((name.into(), label.into()));
}

/// Reasons not to ask at all, and what is done then.
fn unasked() -> Option<Caps> {
    let chosen = CHOICE.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (choice, label) = chosen.unwrap_or_else(|| (var("SCUMBLE_GRAPHICS"), "SCUMBLE_GRAPHICS".into()));
    if let Some(protocol) = Protocol::ALL.into_iter().find(|p| p.name() == choice) {
        let mut caps = Caps::new(protocol, format!("{label}={choice}"));
        // Inside tmux it is kitty's protocol only by way of text cells.
        caps.placeholders = caps.multiplexer.is_some();
        if protocol != Protocol::Blocks {
            caps.claims.insert(0, protocol);
        }
        return Some(caps);
    }
    if !tty::is_terminal_out() {
        return Some(Caps::new(Protocol::None, "stdout is no terminal"));
    }
    if tty::is_dumb() {
        return Some(Caps::new(Protocol::None, "TERM is dumb"));
    }
    let caps = Caps::new(Protocol::Blocks, "");
    if caps.multiplexer == Some("screen") {
        return Some(Caps { reason: "inside screen, which passes no picture protocol on".into(), ..caps });
    }
    if is_mosh() {
        return Some(Caps {
            reason: "over mosh, which carries text and colors only".into(),
            links: false,
            ..caps
        });
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
    None
}

/// Finds out what the terminal can show. `SCUMBLE_GRAPHICS=kitty|iterm|sixel|blocks|none` decides without asking.
pub fn probe(typing: Typing) -> Caps {
    if let Some(caps) = unasked() {
        return caps;
    }
    if !tty::is_foreground() || (typing == Typing::Leave && has_raw_input()) {
        return Caps::new(Protocol::Blocks, "the keyboard cannot be read now, so the terminal was not asked");
    }
    let inside = multiplexer();
    let tmux = inside.filter(|_| std::env::var_os("TMUX").is_some()).and_then(|_| tmux::ask());
    let remote = std::env::var_os("SSH_CONNECTION").is_some();
    let wait = match from_environment() {
        Some(_) => WAIT_KNOWN,
        None if remote => WAIT_REMOTE,
        None => WAIT,
    };
    let kitty = if inside.is_none() { QUESTION_KITTY } else { "" };
    let question = format!("{QUESTION}{kitty}{QUESTION_LAST}");
    let Some(mut answer) = listen(wait, Some(question.as_bytes()), "") else {
        return Caps::new(Protocol::Blocks, "/dev/tty cannot be opened, so the terminal was not asked");
    };
    if answer.ended
        && answer.sixel
        && inside.is_none()
        && Caps::answered(answer.clone(), inside, None).protocol == Protocol::Sixel
        && let Some(more) = listen(wait, Some(QUESTION_SIXEL.as_bytes()), &answer.rest)
    {
        let ended = more.ended;
        answer = Answer { ended, ..answer.and(more) };
    }
    Caps::answered(answer, inside, tmux)
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

/// Sends a question, if there is one, and reads until the answers are complete or the time is over. `begun` is the beginning
/// of an answer that came before.
fn listen(wait: Duration, question: Option<&[u8]>, begun: &str) -> Option<Answer> {
    raw(|terminal| {
        let sent = question.map_or(Ok(()), |q| terminal.write_all(q).and_then(|()| terminal.flush()));
        let mut bytes = begun.as_bytes().to_vec();
        let end = Instant::now() + wait;
        let mut buffer = [0u8; 256];
        while sent.is_ok() && !parse(&bytes).ended {
            let left = end.saturating_duration_since(Instant::now());
            let wait = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
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

/// Half-blocks and nothing else: for tests of what is built on it.
#[cfg(test)]
pub(super) fn plain() -> Caps {
    Caps::new(Protocol::Blocks, "a test")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kitty: bool, sixel: bool, brand: Option<&str>) -> Answer {
        Answer { kitty, sixel, ended: true, brand: brand.map(String::from), ..Answer::default() }
    }

    fn outside(kitty: bool, sixel: bool, name: Option<&str>) -> Caps {
        Caps::outside(&answer(kitty, sixel, name), name.and_then(brands::find), name)
    }

    #[test]
    fn the_brand_goes_before_the_answer() {
        assert_eq!(outside(true, false, None).protocol, Protocol::Kitty);
        assert_eq!(outside(true, true, Some("WezTerm 20240203")).protocol, Protocol::Iterm);
        assert_eq!(outside(false, false, Some("iTerm2 3.5.0")).protocol, Protocol::Iterm);
        assert_eq!(outside(true, false, Some("another 1.0")).protocol, Protocol::Kitty);
        let xterm = outside(false, true, Some("XTerm(379)"));
        assert_eq!((xterm.protocol, xterm.truecolor, xterm.links), (Protocol::Sixel, true, false));
    }

    #[test]
    fn tmux_shows_what_it_passes_on_or_draws() {
        let kitty = |features: &str, passthrough| Tmux {
            client: "kitty(0.35.2)".into(),
            features: features.split(',').map(String::from).collect(),
            passthrough,
        };
        let inside = |tmux: Option<Tmux>, sixel| {
            let brand = tmux.as_ref().and_then(|t| brands::find(&t.client));
            Caps::inside("tmux", &answer(false, sixel, None), tmux.as_ref(), brand)
        };
        let on = inside(Some(kitty("256,RGB,hyperlinks", true)), false);
        assert_eq!((on.protocol, on.placeholders, on.links), (Protocol::Kitty, true, true));
        let off = inside(Some(kitty("256,RGB", false)), false);
        assert_eq!(off.protocol, Protocol::Blocks);
        assert!(off.advice.is_some_and(|a| a.ends_with("tmux set -g allow-passthrough on")));
        assert_eq!(inside(None, true).protocol, Protocol::Sixel);
        assert_eq!(inside(None, false).protocol, Protocol::Blocks);
        assert_eq!(inside(None, false).advice, None);
        let plain = Tmux { client: "XTerm(379)".into(), ..Tmux::default() };
        assert!(inside(Some(plain), false).truecolor);
        let unknown = Tmux { client: "st 0.9".into(), ..Tmux::default() };
        assert!(!inside(Some(unknown), false).truecolor, "the colors are turned into 256 here, not by tmux");
    }

    #[test]
    fn what_was_said_before_a_late_answer_still_counts() {
        let first = Answer { ended: false, brand: Some("kitty(0.35.2)".into()), ..answer(true, false, None) };
        let last = Answer { typed: " = 1".into(), ..answer(false, false, None) };
        let mut caps = Caps::answered(Answer { typed: "let x".into(), ..first.clone() }, None, None);
        assert!(caps.late && caps.typed_ahead == "let x");
        caps.typed_ahead.clear();
        caps.learn(last.clone());
        assert_eq!((caps.protocol, caps.late), (Protocol::Kitty, false), "{}", caps.reason);
        assert_eq!((caps.brand.as_deref(), &*caps.typed_ahead), (Some("kitty(0.35.2)"), " = 1"));
        // Inside tmux it is tmux that answers, and passes pictures on.
        let tmux = Tmux { client: "kitty(0.35.2)".into(), features: vec!["RGB".into()], passthrough: true };
        let nothing = Answer { ended: false, ..answer(false, false, None) };
        let mut caps = Caps::answered(nothing, Some("tmux"), Some(tmux));
        assert_eq!((caps.protocol, caps.placeholders), (Protocol::Kitty, true));
        caps.learn(last);
        assert_eq!((caps.protocol, caps.placeholders, caps.late), (Protocol::Kitty, true, false));
    }

    #[test]
    fn every_protocol_has_the_name_that_chooses_it() {
        assert_eq!(Protocol::ALL.map(Protocol::name), ["kitty", "iterm", "sixel", "blocks", "none"]);
    }
}
