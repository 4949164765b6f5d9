//! What terminals are known for: from the name that one gives itself, or from its environment, to what serves best there.
//!
//! A name that came as an answer (XTVERSION) is trusted before the environment, which travels through `ssh`, `sudo` and
//! `tmux` and may speak of another terminal.

use super::answer::Answer;
use super::probe::Protocol;

/// What has to be answered before a brand's protocol is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Nothing: all versions that give their name have it.
    Always,
    /// kitty's query.
    Kitty,
    /// The device attributes name sixel: it can be off.
    Sixel,
}

/// What a terminal is known for.
#[derive(Debug)]
pub(super) struct Brand {
    /// Beginning of its name, in lower case.
    name: &'static str,
    protocol: Protocol,
    when: When,
    /// Version from which on text cells can hold pieces of a picture (kitty's Unicode placeholders), so that pictures pass
    /// through tmux.
    placeholders: Option<(u32, u32)>,
    /// 24-bit colors.
    pub truecolor: bool,
    /// OSC 8 links.
    pub links: bool,
    /// OSC 9 messages to the desktop.
    pub messages: bool,
}

const fn brand(name: &'static str, protocol: Protocol, when: When) -> Brand {
    Brand { name, protocol, when, placeholders: None, truecolor: true, links: true, messages: false }
}

const BRANDS: &[Brand] = &[
    Brand { placeholders: Some((0, 28)), messages: true, ..brand("kitty", Protocol::Kitty, When::Always) },
    Brand { placeholders: Some((0, 0)), messages: true, ..brand("ghostty", Protocol::Kitty, When::Always) },
    brand("konsole", Protocol::Kitty, When::Kitty),
    // Answers kitty's query too; iTerm2's protocol is the one that it implements in full.
    Brand { messages: true, ..brand("wezterm", Protocol::Iterm, When::Always) },
    Brand { messages: true, ..brand("iterm", Protocol::Iterm, When::Always) },
    brand("mintty", Protocol::Iterm, When::Always),
    brand("rio", Protocol::Iterm, When::Always),
    // VS Code. Pictures are a setting there, and the attributes follow it; iTerm2's protocol keeps all colors.
    brand("xterm.js", Protocol::Iterm, When::Sixel),
    Brand { messages: true, ..brand("foot", Protocol::Sixel, When::Sixel) },
    brand("contour", Protocol::Sixel, When::Sixel),
    brand("mlterm", Protocol::Sixel, When::Sixel),
    brand("zellij", Protocol::Sixel, When::Sixel),
    // xterm takes any color and shows the nearest that it has, 24 bits in all builds of today. No links.
    Brand { links: false, ..brand("xterm(", Protocol::Sixel, When::Sixel) },
];

/// What is known of a terminal with this name.
pub(super) fn find(name: &str) -> Option<&'static Brand> {
    let lower = name.to_lowercase();
    BRANDS.iter().find(|b| lower.starts_with(b.name))
}

impl Brand {
    /// Whether the terminal of this name has placeholders.
    pub fn has_placeholders(&self, name: &str) -> bool {
        self.placeholders.is_some_and(|least| version(name) >= least)
    }

    /// What serves best, if what it needs was answered.
    pub fn protocol(&self, answer: &Answer) -> Option<Protocol> {
        let there = match self.when {
            When::Always => true,
            When::Kitty => answer.kitty,
            When::Sixel => answer.sixel,
        };
        there.then_some(self.protocol)
    }
}

/// The first two numbers of `kitty(0.35.2)`; 0 where there are none.
fn version(name: &str) -> (u32, u32) {
    let digits = name.find(|c: char| c.is_ascii_digit()).and_then(|at| name.get(at..)).unwrap_or_default();
    let mut numbers = digits.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Everything that a terminal can do, by its name and answers; the best first.
pub(super) fn claims(brand: Option<&Brand>, answer: &Answer) -> Vec<Protocol> {
    let mut all: Vec<Protocol> = brand.and_then(|b| b.protocol(answer)).into_iter().collect();
    all.extend(answer.kitty.then_some(Protocol::Kitty));
    all.extend(answer.sixel.then_some(Protocol::Sixel));
    all.push(Protocol::Blocks);
    let mut seen = Vec::new();
    all.retain(|p| {
        !seen.contains(p) && {
            seen.push(*p);
            true
        }
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(name: &str, kitty: bool, sixel: bool) -> Vec<Protocol> {
        let brand = (!name.is_empty()).then(|| find(name)).flatten();
        claims(brand, &Answer { kitty, sixel, ..Answer::default() })
    }

    #[test]
    fn the_table_from_terminal_to_protocol() {
        use Protocol::{Blocks, Iterm, Kitty, Sixel};
        let all: &[(&str, bool, bool, &[Protocol])] = &[
            ("kitty(0.35.2)", true, false, &[Kitty, Blocks]),
            ("ghostty 1.2.0", true, false, &[Kitty, Blocks]),
            ("Konsole 24.08.1", true, true, &[Kitty, Sixel, Blocks]),
            ("Konsole 21.12", false, false, &[Blocks]),
            ("WezTerm 20240203-110809", true, true, &[Iterm, Kitty, Sixel, Blocks]),
            ("iTerm2 3.5.0", false, true, &[Iterm, Sixel, Blocks]),
            ("mintty 3.7.0", false, true, &[Iterm, Sixel, Blocks]),
            ("xterm.js(5.6.0-beta.99)", false, true, &[Iterm, Sixel, Blocks]),
            ("xterm.js(5.6.0-beta.99)", false, false, &[Blocks]),
            ("foot(1.18.1)", false, true, &[Sixel, Blocks]),
            ("XTerm(379)", false, true, &[Sixel, Blocks]),
            ("XTerm(379)", false, false, &[Blocks]),
            ("another 1.0", true, true, &[Kitty, Sixel, Blocks]),
            ("", false, true, &[Sixel, Blocks]),
            ("", false, false, &[Blocks]),
        ];
        for (name, kitty, sixel, wanted) in all {
            assert_eq!(claimed(name, *kitty, *sixel), *wanted, "{name}");
        }
    }

    #[test]
    fn placeholders_came_with_a_version() {
        let has = |name: &str| find(name).is_some_and(|b| b.has_placeholders(name));
        assert!(has("kitty(0.28.0)") && has("kitty(0.35.2)") && has("kitty(1.0)") && has("ghostty 1.2.0"));
        assert!(!has("kitty(0.26.5)") && !has("WezTerm 20240203") && !has("XTerm(379)"));
    }

    #[test]
    fn xterm_and_the_one_in_javascript_are_two() {
        assert!(find("XTerm(379)").is_some_and(|b| !b.links));
        assert!(find("xterm.js(5.5.0)").is_some_and(|b| b.links));
        assert!(find("xtermish").is_none());
    }
}
