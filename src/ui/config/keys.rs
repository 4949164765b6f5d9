//! The table of settings. The file, the variables, the flags, `:set` and `scumble doctor` all read it.

use crate::ui::units;

/// What a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// `true` or `false`.
    Bool,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text but the empty one; what is meant by it.
    Text(&'static str),
    /// One of these words, or a command line.
    Command(&'static [&'static str]),
    /// Bytes, like `2G`.
    Size,
    /// A time, like `90s`.
    Time,
    /// A whole number from the first to the second.
    Whole(u64, u64),
    /// A file or folder; `~/` is the home folder.
    Path,
    /// Several folders: an array in the file, separated by `:` in a variable.
    Paths,
}

/// When a value that `:set` gives begins to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At once.
    Now,
    /// At the next start: it belongs into the file.
    Start,
}

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// As the file and `:set` call it; the flag has dashes, the variable is `SCUMBLE_NAME`.
    pub name: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// What holds where nobody says anything, as `:set` shows it.
    pub default: &'static str,
    /// One clause.
    pub about: &'static str,
    /// When `:set` has an effect.
    pub when: When,
    /// Whether the command line has a flag of that name.
    pub flag: bool,
}

const fn flag(
    name: &'static str,
    takes: Takes,
    default: &'static str,
    about: &'static str,
    when: When,
) -> Key {
    Key { name, takes, default, about, when, flag: true }
}

const fn key(
    name: &'static str,
    takes: Takes,
    default: &'static str,
    about: &'static str,
    when: When,
) -> Key {
    Key { name, takes, default, about, when, flag: false }
}

/// All settings, in the order in which `:set` lists them.
pub const KEYS: &[Key] = &[
    flag(
        "model",
        Takes::Text("a name, a folder or a hub id"),
        "emoji",
        "model of recipes and of load()",
        When::Now,
    ),
    flag("device", Takes::Text("auto, cpu, cuda, cuda:N or metal"), "auto", "what computes", When::Start),
    flag("dtype", Takes::Choice(&["f32", "f16", "bf16"]), "f32", "type to compute in", When::Start),
    flag("threads", Takes::Whole(1, 1024), "all", "threads to compute with", When::Start),
    flag("lean", Takes::Bool, "false", "no transformed copies of the weights", When::Start),
    flag("max_memory", Takes::Size, "all", "most memory to hold", When::Now),
    flag("max_time", Takes::Time, "none", "longest time for a cell or recipe", When::Now),
    flag("out", Takes::Path, "out", "folder for results", When::Now),
    flag("allow_read", Takes::Paths, "", "folders that recipes may read", When::Start),
    flag("allow_write", Takes::Paths, "", "folders that recipes may write", When::Start),
    flag("log", Takes::Path, "none", "file for cells, values, errors (:log)", When::Start),
    flag("keep_going", Takes::Bool, "false", "finish a run after a hang-up", When::Start),
    flag("quiet", Takes::Bool, "false", "no progress and no remarks", When::Start),
    flag("color", Takes::Choice(&["auto", "always", "never"]), "auto", "when to use colors", When::Start),
    flag("no_init", Takes::Bool, "false", "do not run init files", When::Start),
    key(
        "graphics",
        Takes::Choice(&["auto", "kitty", "iterm", "sixel", "blocks", "none"]),
        "auto",
        "how pictures reach the screen",
        When::Now,
    ),
    key("panel", Takes::Bool, "true", "the live panel; without it, a line", When::Now),
    key("pager", Takes::Command(&["auto", "off"]), "auto", "for what is taller than the screen", When::Now),
    key("editor", Takes::Command(&["auto"]), "auto", "auto: $VISUAL, $EDITOR, vi", When::Now),
    key(
        "notify",
        Takes::Choice(&["auto", "bell", "osc9", "off"]),
        "auto",
        "how a long cell says it has ended",
        When::Now,
    ),
    key("notify_after", Takes::Time, "10s", "what a long cell is", When::Now),
    key("marks", Takes::Choice(&["auto", "on", "off"]), "auto", "prompt marks (OSC 133)", When::Now),
    key("keys", Takes::Choice(&["emacs", "vi"]), "emacs", "keys of the line editor", When::Start),
    key("history", Takes::Whole(0, 1_000_000), "10000", "lines of input that are kept", When::Start),
];

/// The setting of that name; dashes are underscores.
pub fn find(name: &str) -> Option<&'static Key> {
    let name = name.trim().trim_start_matches("--").replace('-', "_").to_lowercase();
    KEYS.iter().find(|k| k.name == name)
}

impl Key {
    /// The variable that sets it.
    pub fn variable(&self) -> String {
        format!("SCUMBLE_{}", self.name.to_uppercase())
    }

    /// The flag that sets it, without dashes in front.
    pub fn flag_name(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The word that says that nothing is given, where a setting has one.
    pub fn nothing(&self) -> Option<&'static str> {
        Some(self.default).filter(|word| matches!(*word, "all" | "none"))
    }

    /// What it takes, for people.
    pub fn expected(&self) -> String {
        let values = match self.takes {
            Takes::Bool => "true or false".into(),
            Takes::Choice(words) => words.join(", "),
            Takes::Text(what) => what.into(),
            Takes::Command(words) => format!("{}, or a command", words.join(", ")),
            Takes::Size => "a size like 2G".into(),
            Takes::Time => "a time like 90s".into(),
            Takes::Whole(from, to) => format!("a whole number from {from} to {to}"),
            Takes::Path => "a path".into(),
            Takes::Paths => "folders".into(),
        };
        self.nothing().map_or_else(|| values.clone(), |word| format!("{values}, or {word}"))
    }

    /// The value in its usual form. Errors: what was expected instead.
    pub fn read(&self, text: &str) -> Result<String, String> {
        let text = text.trim();
        let wrong = || format!("{} takes {}, not \"{text}\"", self.name, self.expected());
        if text.is_empty() && self.takes != Takes::Paths {
            return Err(wrong());
        }
        if self.nothing() == Some(text) {
            return Ok(text.into());
        }
        match self.takes {
            Takes::Bool => match text.to_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Ok("true".into()),
                "false" | "no" | "off" | "0" => Ok("false".into()),
                _ => Err(wrong()),
            },
            Takes::Choice(words) => {
                let lower = text.to_lowercase();
                let word = words.iter().find(|w| **w == lower);
                word.map(|w| (*w).to_string()).ok_or_else(wrong)
            }
            Takes::Text(_) | Takes::Command(_) => Ok(text.into()),
            Takes::Size => units::size(text).map(|_| text.into()).map_err(|_| wrong()),
            Takes::Time => units::time(text).map(|_| text.into()).map_err(|_| wrong()),
            Takes::Whole(from, to) => {
                let number = text.parse::<u64>().ok().filter(|n| (from..=to).contains(n));
                number.map(|n| n.to_string()).ok_or_else(wrong)
            }
            Takes::Path => Ok(at_home(text)),
            Takes::Paths => {
                let all: Vec<String> = text.split(':').filter(|p| !p.is_empty()).map(at_home).collect();
                Ok(all.join(":"))
            }
        }
    }
}

/// `~/x` below the home folder.
fn at_home(text: &str) -> String {
    let home = || text.strip_prefix("~/").and_then(|rest| dirs::home_dir().map(|h| h.join(rest)));
    home().map_or_else(|| text.to_string(), |p| p.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_reads_its_values() {
        let read = |name: &str, text: &str| find(name).unwrap().read(text);
        assert_eq!(read("max-memory", "2G").as_deref(), Ok("2G"));
        assert!(read("max_memory", "lots").unwrap_err().contains("a size like 2G"));
        assert_eq!(read("lean", "Yes").as_deref(), Ok("true"));
        assert!(read("lean", "perhaps").unwrap_err().contains("true or false"));
        assert_eq!(read("graphics", "KITTY").as_deref(), Ok("kitty"));
        assert!(read("graphics", "crt").unwrap_err().contains("blocks"));
        assert_eq!(read("threads", "08").as_deref(), Ok("8"));
        assert!(read("threads", "0").is_err() && read("model", " ").is_err());
        let home = dirs::home_dir().unwrap().join("x").display().to_string();
        assert_eq!(read("out", "~/x").unwrap(), home);
        assert_eq!(read("allow_read", "a:~/x").unwrap(), format!("a:{home}"));
    }

    #[test]
    fn defaults_are_values() {
        for key in KEYS {
            assert_eq!(key.read(key.default).as_deref(), Ok(key.default), "{}", key.name);
        }
    }
}
