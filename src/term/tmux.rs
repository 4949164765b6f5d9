//! tmux, asked through its own command and never changed: what it passes on, and which terminal it runs in.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for tmux, which may hang with its server.
const WAIT: Duration = Duration::from_millis(400);

/// One line of tmux's configuration that lets pictures through.
pub const ADVICE: &str = "tmux set -g allow-passthrough on";

/// What tmux says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tmux {
    /// Name and version of the terminal that it runs in, as that terminal gave it.
    pub client: String,
    /// What it makes use of there.
    pub features: Vec<String>,
    /// Whether it passes escapes on that are meant for that terminal.
    pub passthrough: bool,
}

impl Tmux {
    /// Whether the terminal around has a feature, by tmux's name for it.
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|f| f == feature)
    }
}

/// Asks the tmux that we are inside of. `None`: there is none, or it does not answer in time.
pub(super) fn ask() -> Option<Tmux> {
    let format = "#{client_termtype}\t#{client_termfeatures}\t#{allow-passthrough}\t#{version}";
    let mut command = Command::new("tmux");
    command.args(["display-message", "-p"]);
    if let Some(pane) = std::env::var_os("TMUX_PANE") {
        command.arg("-t").arg(pane);
    }
    command.arg(format).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let end = Instant::now() + WAIT;
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut text = String::new();
    child.stdout.take()?.read_to_string(&mut text).ok()?;
    parse(&text)
}

fn parse(text: &str) -> Option<Tmux> {
    let fields: Vec<&str> = text.trim_end_matches('\n').split('\t').collect();
    let [client, features, passthrough, version] = fields[..] else { return None };
    // Before 3.3 there was no such option, and everything was passed on.
    let passes = match passthrough {
        "" | "0" => {
            version.starts_with(['1', '2']) || ["3.0", "3.1", "3.2"].iter().any(|v| version.starts_with(v))
        }
        value => matches!(value, "on" | "all" | "1" | "2"),
    };
    let features = features.split(',').filter(|f| !f.is_empty()).map(String::from).collect();
    Some(Tmux { client: client.to_string(), features, passthrough: passes })
}

/// An escape in the envelope in which tmux passes it on.
pub(super) fn wrap(escape: &str) -> String {
    format!("\x1bPtmux;{}\x1b\\", escape.replace('\x1b', "\x1b\x1b"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tmux_says() {
        let t = parse("kitty(0.35.2)\t256,RGB,title\ton\t3.4\n").unwrap();
        assert_eq!(
            (t.client.as_str(), t.passthrough, t.has("RGB"), t.has("sixel")),
            ("kitty(0.35.2)", true, true, false)
        );
        assert!(!parse("\t\toff\t3.3a\n").unwrap().passthrough);
        assert!(!parse("\t\t0\t3.3a\n").unwrap().passthrough);
        assert!(parse("\t\t1\t3.3a\n").unwrap().passthrough);
        assert!(parse("\t\t\t3.2a\n").unwrap().passthrough, "older than the option");
        assert_eq!(parse("no server running\n"), None);
    }

    #[test]
    fn escapes_are_doubled_in_the_envelope() {
        assert_eq!(wrap("\x1b_Ga=d\x1b\\"), "\x1bPtmux;\x1b\x1b_Ga=d\x1b\x1b\\\x1b\\");
    }
}
