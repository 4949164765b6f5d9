//! What a terminal answers, told from what a person types meanwhile.

/// What came back from the terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// kitty's graphics protocol is there.
    pub kitty: bool,
    /// The device attributes say that sixel pictures are understood.
    pub sixel: bool,
    /// The device attributes came: every terminal sends them, and sends them last.
    pub ended: bool,
    /// Name and version.
    pub brand: Option<String>,
    /// Whether a 24-bit color that was set is a 24-bit color when asked for, or the terminal says that it has them.
    pub truecolor: bool,
    /// Width and height of a cell in pixels.
    pub cell: Option<(u16, u16)>,
    /// Colors of a sixel picture.
    pub registers: Option<u16>,
    /// The keys that were typed.
    pub typed: String,
    /// The beginning of an answer whose end has not come yet.
    pub rest: String,
}

/// Tells answers from typed keys. Keys that edit the line are obeyed, arrows and the like have nowhere to go.
pub(super) fn parse(bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes);
    let mut answer = Answer::default();
    let mut rest = &*text;
    while let Some(first) = rest.chars().next() {
        // What may become an answer. Alone it is Esc, which edits nothing.
        if matches!(rest, "\x1b" | "\x1b_" | "\x1bO") {
            break;
        }
        if let Some(body) = rest.strip_prefix("\x1b_G") {
            let Some(end) = body.find("\x1b\\") else { break };
            answer.kitty |= body[..end].contains("i=31") && body[..end].ends_with(";OK");
            rest = &body[end + 2..];
        } else if let Some(body) = rest.strip_prefix("\x1bP") {
            let Some(end) = body.find("\x1b\\") else { break };
            answer.string(&body[..end]);
            rest = &body[end + 2..];
        } else if let Some(body) = rest.strip_prefix("\x1b[") {
            let Some(end) = body.find(|c: char| c.is_ascii_alphabetic() || c == '~') else { break };
            answer.sequence(&body[..end], &body[end..end + 1]);
            rest = &body[end + 1..];
        } else if let Some(body) = rest.strip_prefix("\x1bO") {
            rest = body.get(1..).unwrap_or_default();
        } else {
            answer.key(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    answer.rest = rest.to_string();
    answer
}

/// Numbers between semicolons.
fn numbers(text: &str) -> Vec<u16> {
    text.split(';').filter_map(|n| n.parse().ok()).collect()
}

impl Answer {
    /// This, and what came later.
    pub(super) fn and(self, later: Answer) -> Answer {
        Answer {
            kitty: self.kitty || later.kitty,
            sixel: self.sixel || later.sixel,
            ended: self.ended || later.ended,
            brand: later.brand.or(self.brand),
            truecolor: self.truecolor || later.truecolor,
            cell: later.cell.or(self.cell),
            registers: later.registers.or(self.registers),
            typed: self.typed + later.typed.as_str(),
            rest: later.rest,
        }
    }

    /// A device control string: the name, the color that was asked for, or a capability.
    fn string(&mut self, body: &str) {
        if let Some(name) = body.strip_prefix(">|") {
            self.brand = Some(name.to_string()).filter(|n| !n.is_empty()).or(self.brand.take());
        } else if let Some(color) = body.strip_prefix("1$r") {
            // 48:2::1:2:3 with or without the empty field, or with semicolons.
            let plain = color.replace("::", ":").replace(':', ";");
            self.truecolor |= plain.contains("48;2;1;2;3");
        } else if let Some(capability) = body.strip_prefix("1+r") {
            // "RGB" in hexadecimal digits.
            self.truecolor |= capability.to_ascii_uppercase().starts_with("524742");
        }
    }

    /// A control sequence with its last letter.
    fn sequence(&mut self, body: &str, last: &str) {
        match (body.strip_prefix('?'), last) {
            (Some(attributes), "c") => {
                self.ended = true;
                // The first number is a class of terminals, not an attribute.
                self.sixel |= numbers(attributes).iter().skip(1).any(|n| *n == 4);
            }
            // Color registers (1), asked and answered (0).
            (Some(graphics), "S") => {
                if let [1, 0, n] = numbers(graphics)[..] {
                    self.registers = Some(n);
                }
            }
            (None, "t") => match numbers(body)[..] {
                [6, h, w] if w > 1 && h > 1 => self.cell = Some((w, h)),
                _ => {}
            },
            _ => {}
        }
    }

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
        Answer { kitty, ended, typed: typed.into(), ..Answer::default() }
    }

    #[test]
    fn answers_are_told_from_typing() {
        assert_eq!(parse(b"\x1b_Gi=31;OK\x1b\\\x1b[?62;c"), answer(true, true, ""));
        assert_eq!(parse(b"\x1b[?1;2c"), answer(false, true, ""));
        assert_eq!(parse(b"let\x1b_Gi=31;OK\x1b\\ x\x1b[?62;c = 1\r"), answer(true, true, "let x = 1\n"));
        assert_eq!(parse(b"\x1b_Gi=31;ENOTSUPPORTED\x1b\\\x1b[?6c"), answer(false, true, ""));
        assert_eq!(parse(b"\x1b_Gi=31;O"), Answer { rest: "\x1b_Gi=31;O".into(), ..Answer::default() });
        assert_eq!(parse(b"\x1b[A\x1bOA\x1b[?6c"), answer(false, true, ""));
        assert_eq!(parse(b""), answer(false, false, ""));
        assert_eq!(parse("ä\u{fffd}".as_bytes()).typed, "ä\u{fffd}");
    }

    #[test]
    fn an_answer_in_two_pieces_is_one() {
        let bytes = b"le\x1bP>|kitty(0.35.2)\x1b\\\x1b_Gi=31;OK\x1b\\\x1b[6;20;10tt\x1b[?62;4c x";
        let whole = parse(bytes);
        assert!(whole.ended && whole.kitty && whole.sixel && whole.typed == "let x", "{whole:?}");
        for cut in 0..bytes.len() {
            let first = parse(&bytes[..cut]);
            let mut second = first.rest.clone().into_bytes();
            second.extend_from_slice(&bytes[cut..]);
            assert_eq!(first.and(parse(&second)), whole, "cut at {cut}");
        }
    }

    #[test]
    fn the_name_of_the_terminal() {
        let a = parse(b"\x1bP>|kitty(0.35.2)\x1b\\\x1b_Gi=31;OK\x1b\\\x1b[?62;c");
        assert_eq!((a.brand.as_deref(), a.kitty, a.ended), (Some("kitty(0.35.2)"), true, true));
        assert_eq!(parse(b"\x1bP>|\x1b\\").brand, None);
    }

    #[test]
    fn sixel_is_an_attribute_and_no_class() {
        assert!(parse(b"\x1b[?62;4;22c").sixel);
        assert!(parse(b"\x1b[?63;1;2;4c").sixel);
        assert!(!parse(b"\x1b[?4;6c").sixel, "a VT132");
        assert!(!parse(b"\x1b[?62;22;14;44c").sixel);
    }

    #[test]
    fn colors_and_cells() {
        for yes in ["\x1bP1$r0;48:2::1:2:3m\x1b\\", "\x1bP1$r48;2;1;2;3m\x1b\\", "\x1bP1+r524742=38\x1b\\"] {
            assert!(parse(yes.as_bytes()).truecolor, "{yes:?}");
        }
        for no in ["\x1bP1$r0;48:5:16m\x1b\\", "\x1bP0$r\x1b\\", "\x1bP0+r524742\x1b\\", "48;2;1;2;3"] {
            assert!(!parse(no.as_bytes()).truecolor, "{no:?}");
        }
        assert_eq!(parse(b"\x1b[6;20;10t").cell, Some((10, 20)));
        assert_eq!(parse(b"\x1b[6;0;0t").cell, None);
        assert_eq!(parse(b"\x1b[?1;0;256S\x1b[?2;0;800;480S").registers, Some(256));
        assert_eq!(parse(b"\x1b[?1;3;0S").registers, None, "an error is no number");
    }

    #[test]
    fn editing_keys_are_obeyed() {
        assert_eq!(parse(b"let z\x7fx").typed, "let x");
        assert_eq!(parse(b"a\rwrong\x15b").typed, "a\nb");
        assert_eq!(parse(b"a\r\x7f").typed, "a\n");
    }
}
