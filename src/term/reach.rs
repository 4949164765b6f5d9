//! What reaches beyond the text: links around paths, a word to the desktop, a file for the user's own machine.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::probe::{Caps, Protocol};

/// Largest file that is sent through the terminal, bytes.
pub const MOST_SENT: u64 = 64 << 20;

/// The bell.
pub const BELL: &str = "\x07";

/// A path as text that opens the file when it is clicked, where the terminal has links (OSC 8); as it is elsewhere.
pub fn link(caps: &Caps, path: &Path) -> String {
    let text = path.display().to_string();
    if !caps.links {
        return text;
    }
    let Ok(absolute) = std::path::absolute(path) else { return text };
    // The machine's name tells a terminal on another machine that the file is not its own.
    let target = encoded(&absolute.to_string_lossy());
    format!("\x1b]8;;file://{}{target}\x1b\\{text}\x1b]8;;\x1b\\", encoded(&host()))
}

/// The name of this machine.
pub fn host() -> String {
    static NAME: LazyLock<String> = LazyLock::new(|| {
        let asked = Command::new("uname").arg("-n").stderr(Stdio::null()).output();
        asked.map_or(String::new(), |o| String::from_utf8_lossy(&o.stdout).trim().to_string())
    });
    if NAME.is_empty() { "localhost".into() } else { NAME.clone() }
}

/// Text with everything that is special in an address written as `%XX`.
pub fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                out.push(byte.into())
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// What calls the user back after a long wait: a message of the desktop where the terminal has them (OSC 9), else the bell,
/// which tmux shows as a flag.
pub fn call(caps: &Caps, text: &str) -> String {
    if !caps.messages || caps.multiplexer.is_some() { BELL.into() } else { message(text) }
}

/// A message of the desktop (OSC 9).
pub fn message(text: &str) -> String {
    let plain: String = text.chars().filter(|c| !c.is_control()).take(120).collect();
    format!("\x1b]9;{plain}\x1b\\")
}

/// Whether the terminal takes files for the user's own machine.
pub fn takes_files(caps: &Caps) -> bool {
    let name = caps.brand.clone().unwrap_or_default().to_lowercase();
    let named = name.starts_with("iterm") || name.starts_with("wezterm");
    let by_environment = caps.protocol == Protocol::Iterm && caps.brand.is_none();
    (named || by_environment) && caps.multiplexer.is_none()
}

/// A file, to be saved in the downloads of the user's own machine, for a terminal that [`takes_files`]: iTerm2's escape.
pub fn file(name: &str, bytes: &[u8]) -> String {
    let (name, data) = (STANDARD.encode(name), STANDARD.encode(bytes));
    format!("\x1b]1337;File=name={name};size={};inline=0:{data}\x07", bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::term::probe;

    fn caps(links: bool, messages: bool, brand: &str) -> Caps {
        let caps = probe::plain();
        Caps { links, messages, brand: Some(brand.into()), multiplexer: None, ..caps }
    }

    #[test]
    fn links_open_the_file_and_show_the_path() {
        let text = link(&caps(true, false, "foot"), Path::new("out/a b.png"));
        assert!(text.starts_with("\x1b]8;;file://"), "{text:?}");
        assert!(text.contains("/out/a%20b.png\x1b\\out/a b.png\x1b]8;;\x1b\\"), "{text:?}");
        assert_eq!(link(&caps(false, false, "foot"), Path::new("out/a b.png")), "out/a b.png");
    }

    #[test]
    fn the_user_is_called_back() {
        assert_eq!(call(&caps(false, false, "XTerm(379)"), "done"), "\x07");
        assert_eq!(call(&caps(false, true, "kitty"), "done\x1b]\n"), "\x1b]9;done]\x1b\\");
        let inside = Caps { multiplexer: Some("tmux"), ..caps(false, true, "kitty") };
        assert_eq!(call(&inside, "done"), "\x07");
    }

    #[test]
    fn a_file_is_a_download() {
        let iterm = caps(true, true, "iTerm2 3.5.0");
        assert!(takes_files(&iterm) && !takes_files(&caps(true, true, "kitty(0.35.2)")));
        let text = file("a.png", b"xyz");
        let (head, data) = text.strip_prefix("\x1b]1337;File=").unwrap().split_once(':').unwrap();
        assert_eq!(head, "name=YS5wbmc=;size=3;inline=0");
        assert_eq!(STANDARD.decode(data.strip_suffix('\x07').unwrap()).unwrap(), b"xyz");
    }
}
