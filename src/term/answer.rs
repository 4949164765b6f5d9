//! What a terminal answers, told from what a person types meanwhile.

/// What came back from the terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// kitty's graphics protocol is there.
    pub kitty: bool,
    /// The device attributes came: every terminal sends them, and sends them last.
    pub ended: bool,
    /// Name and version.
    pub brand: Option<String>,
    /// The keys that were typed.
    pub typed: String,
}

/// Tells answers from typed keys. Keys that edit the line are obeyed, arrows and the like have nowhere to go.
pub(super) fn parse(bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes);
    let mut answer = Answer::default();
    let mut rest = &*text;
    while let Some(first) = rest.chars().next() {
        if let Some(body) = rest.strip_prefix("\x1b_G") {
            let Some(end) = body.find("\x1b\\") else { break };
            answer.kitty |= body[..end].contains("i=31") && body[..end].ends_with(";OK");
            rest = &body[end + 2..];
        } else if let Some(body) = rest.strip_prefix("\x1bP") {
            let Some(end) = body.find("\x1b\\") else { break };
            let name = body[..end].strip_prefix(">|").unwrap_or_default();
            answer.brand = Some(name.to_string()).filter(|n| !n.is_empty()).or(answer.brand);
            rest = &body[end + 2..];
        } else if let Some(body) = rest.strip_prefix("\x1b[") {
            let Some(end) = body.find(|c: char| c.is_ascii_alphabetic() || c == '~') else { break };
            answer.ended |= body.starts_with('?') && body[end..].starts_with('c');
            rest = &body[end + 1..];
        } else if let Some(body) = rest.strip_prefix("\x1bO") {
            rest = body.get(1..).unwrap_or_default();
        } else {
            answer.key(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    answer
}

impl Answer {
    fn key(&mut self, key: char) {
        match key {
            '\r' | '\n' => self.typed.push('\n'),
            '\x7f' | '\x08' if !self.typed.ends_with('\n') => {
                self.typed.pop();
            }
            // Ctrl-U.
            '\x15' => self.typed.truncate(self.typed.rfind('\n').map_or(0, |i| i + 1)),
            c if !c.is_control() => self.typed.push(c),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kitty: bool, ended: bool, typed: &str) -> Answer {
        Answer { kitty, ended, typed: typed.into(), brand: None }
    }

    #[test]
    fn answers_are_told_from_typing() {
        assert_eq!(parse(b"\x1b_Gi=31;OK\x1b\\\x1b[?62;c"), answer(true, true, ""));
        assert_eq!(parse(b"\x1b[?1;2c"), answer(false, true, ""));
        assert_eq!(parse(b"let\x1b_Gi=31;OK\x1b\\ x\x1b[?62;4;c = 1\r"), answer(true, true, "let x = 1\n"));
        assert_eq!(parse(b"\x1b_Gi=31;ENOTSUPPORTED\x1b\\\x1b[?6c"), answer(false, true, ""));
        assert_eq!(parse(b"\x1b_Gi=31;O"), answer(false, false, ""));
        assert_eq!(parse(b"\x1b[A\x1bOA\x1b[?6c"), answer(false, true, ""));
        assert_eq!(parse(b""), answer(false, false, ""));
        assert_eq!(parse("ä\u{fffd}".as_bytes()).typed, "ä\u{fffd}");
    }

    #[test]
    fn the_name_of_the_terminal() {
        let a = parse(b"\x1bP>|kitty(0.35.2)\x1b\\\x1b_Gi=31;OK\x1b\\\x1b[?62;c");
        assert_eq!((a.brand.as_deref(), a.kitty, a.ended), (Some("kitty(0.35.2)"), true, true));
        assert_eq!(parse(b"\x1bP>|\x1b\\").brand, None);
    }

    #[test]
    fn editing_keys_are_obeyed() {
        assert_eq!(parse(b"let z\x7fx").typed, "let x");
        assert_eq!(parse(b"a\rwrong\x15b").typed, "a\nb");
        assert_eq!(parse(b"a\r\x7f").typed, "a\n");
    }
}
