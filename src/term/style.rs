//! Colors by role, never by number at the place of use.

/// When to color.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR says otherwise.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a piece of text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Something failed.
    Error,
    /// Something to know.
    Warn,
    /// What to type next.
    Hint,
    /// Less important than the rest.
    Dim,
    /// Done.
    Good,
    /// A name that exists.
    Name,
    /// A number.
    Number,
    /// Text in quotes.
    Text,
    /// A word of the language.
    Keyword,
    /// A comment.
    Comment,
    /// A name that does not exist.
    Unknown,
    /// A bracket beside the cursor, and the one that belongs to it.
    Pair,
    /// The prompt.
    Prompt,
}

/// Whether to color at all.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Escapes are written only if set.
    pub color: bool,
}

impl Style {
    /// By choice, by what the stream is, and by NO_COLOR, CLICOLOR_FORCE and TERM.
    pub fn auto(choice: ColorChoice, is_terminal: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty() && v != "0");
        let color = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto if set("NO_COLOR") => false,
            ColorChoice::Auto if set("CLICOLOR_FORCE") => true,
            ColorChoice::Auto => is_terminal && !super::tty::is_dumb(),
        };
        Style { color }
    }

    /// The text in the color of its role.
    pub fn paint(self, role: Role, text: &str) -> String {
        if !self.color || text.is_empty() {
            return text.to_string();
        }
        let code = match role {
            Role::Error => "1;31",
            Role::Warn => "33",
            Role::Hint | Role::Name => "36",
            Role::Dim | Role::Comment => "2",
            Role::Good | Role::Text => "32",
            Role::Number => "35",
            Role::Keyword => "1;34",
            Role::Unknown => "4;31",
            Role::Pair => "1;33",
            Role::Prompt => "1;36",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_escape_without_color() {
        assert_eq!(Style { color: false }.paint(Role::Error, "x"), "x");
        assert_eq!(Style { color: true }.paint(Role::Error, "x"), "\x1b[1;31mx\x1b[0m");
        assert_eq!(Style { color: true }.paint(Role::Error, ""), "");
        assert!(!Style::auto(ColorChoice::Never, true).color);
        assert!(Style::auto(ColorChoice::Always, false).color);
    }
}
