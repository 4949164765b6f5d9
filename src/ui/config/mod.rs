//! Settings: `config.toml` in the configuration folder, `SCUMBLE_*` variables, flags, and what `:set` gave. Flags win over
//! variables, variables over the file. What is wrong in the file or a variable is told and left out, never fatal.

pub mod keys;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use self::keys::{KEYS, Key, Takes, find};
use super::{folders, units};
use crate::script::catalog::nearest;

/// Columns of the values that `:set` lists.
const VALUE: usize = 14;

/// A file that is longer is none of ours.
const LONGEST: u64 = 1 << 20;

/// Variables that are ours and no settings.
const OTHERS: &[&str] =
    &["SCUMBLE_FAULT", "SCUMBLE_SIMD", "SCUMBLE_UPDATE", "SCUMBLE_MODELS", "SCUMBLE_SD_FOLDERS"];

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of the file.
    File(usize),
    /// A `SCUMBLE_*` variable.
    Variable,
    /// The command line.
    Flag,
    /// `:set`.
    Prompt,
}

/// A value that somebody gave.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    text: String,
    origin: Origin,
}

/// All settings.
#[derive(Clone, Debug, Default)]
pub struct Config {
    given: BTreeMap<&'static str, Given>,
    file: Option<PathBuf>,
    /// What was wrong, one line each.
    pub notes: Vec<String>,
}

impl Config {
    /// From the file and the environment.
    pub fn load() -> Config {
        let file = folders::config_file();
        let mut config = match file.as_deref().map(|f| (f, text(f))) {
            Some((path, Ok(Some(text)))) => Config::read(path, &text),
            Some((path, Err(why))) => {
                Config { notes: vec![format!("{} was not read: {why}", path.display())], ..Config::default() }
            }
            _ => Config::default(),
        };
        config.file = file;
        let variables = std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v)));
        config.variables(variables.map(|(n, v)| (n, v.to_string_lossy().into_owned())));
        config
    }

    /// From the text of the file.
    fn read(path: &Path, text: &str) -> Config {
        let mut config = Config { file: Some(path.to_path_buf()), ..Config::default() };
        let line = |at: usize| text.get(..at).unwrap_or(text).matches('\n').count() + 1;
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut broken = BTreeSet::new();
        for error in errors {
            let line = error.span().map_or(1, |s| line(s.start));
            // One line is often wrong in several ways.
            if broken.insert(line) {
                config.note(line, &format!("{}; the line is left out", error.message()));
            }
        }
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            let at = line(name.span().start);
            let read = |key: &'static Key| key.read(&plain(key, value.get_ref())?);
            match (find(name.get_ref()), value.get_ref()) {
                (_, _) if broken.contains(&at) => {}
                (None, DeValue::Table(_)) => {
                    config.note(
                        at,
                        &format!("settings stand in no section, so [{}] is left out", name.get_ref()),
                    );
                }
                (None, _) => {
                    let text = unknown(name.get_ref());
                    config.note(at, &text);
                }
                (Some(key), _) => match read(key) {
                    Ok(text) => config.give(key, text, Origin::File(at)),
                    Err(why) => config.note(at, &why),
                },
            }
        }
        config
    }

    fn note(&mut self, line: usize, what: &str) {
        let file = self.file.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        self.notes.push(format!("{file}, line {line}: {what}"));
    }

    /// Takes the variables that are ours.
    fn variables(&mut self, variables: impl Iterator<Item = (String, String)>) {
        let ours = variables.filter(|(name, value)| name.starts_with("SCUMBLE_") && !value.is_empty());
        for (name, value) in ours {
            if let Some(key) = KEYS.iter().find(|k| k.variable() == name) {
                match key.read(&value) {
                    Ok(text) => self.give(key, text, Origin::Variable),
                    Err(why) => self.notes.push(format!("{name}: {why}")),
                }
            } else if !OTHERS.contains(&name.as_str()) {
                // Of another program perhaps: only what looks like a slip is told.
                let all: Vec<String> = KEYS.iter().map(Key::variable).collect();
                let near = all.iter().find(|v| strsim::damerau_levenshtein(v, &name) <= 2);
                let near = near.map(|near| format!("{name} is no setting; did you mean {near}?"));
                self.notes.extend(near);
            }
        }
    }

    /// Takes a value from the command line, which has judged it already.
    pub fn flag(&mut self, name: &'static str, text: String) {
        self.given.insert(name, Given { text, origin: Origin::Flag });
    }

    /// Takes a value that was typed at the prompt. Errors: there is no such setting, or not such a value.
    pub fn set(&mut self, name: &str, text: &str) -> Result<&'static Key, String> {
        let key = find(name).ok_or_else(|| unknown(name))?;
        let text = key.read(text)?;
        self.give(key, text, Origin::Prompt);
        Ok(key)
    }

    /// Takes a value. The word for "nothing" takes away what was given before.
    fn give(&mut self, key: &'static Key, text: String, origin: Origin) {
        if key.nothing() == Some(text.as_str()) {
            self.given.remove(key.name);
        } else {
            self.given.insert(key.name, Given { text, origin });
        }
    }

    /// What was given for a setting that is no flag or was not given as one. `None`: nobody said anything.
    pub fn beside_flags(&self, key: &Key) -> Option<&str> {
        self.given.get(key.name).map(|g| g.text.as_str())
    }

    /// A value, given or by default.
    pub fn get(&self, name: &str) -> &str {
        let default = || find(name).map_or("", |k| k.default);
        self.given.get(name).map_or_else(default, |g| g.text.as_str())
    }

    /// A time.
    pub fn time(&self, name: &str) -> Option<Duration> {
        units::time(self.get(name)).ok()
    }

    /// A whole number.
    pub fn whole(&self, name: &str) -> Option<usize> {
        self.get(name).parse().ok()
    }

    /// Where a value comes from, as an error about it may name it: `--model`, `SCUMBLE_MODEL`, `config.toml, line 3`.
    pub fn label(&self, name: &str) -> String {
        let Some(key) = find(name) else { return name.to_string() };
        match self.given.get(key.name).map(|g| &g.origin) {
            Some(Origin::File(line)) => format!("config.toml, line {line}: {name}"),
            Some(Origin::Variable) => key.variable(),
            Some(Origin::Prompt) => format!(":set {name}"),
            Some(Origin::Flag) | None => format!("--{}", key.flag_name()),
        }
    }

    /// All settings, their values and where they come from, as `:set` shows them.
    pub fn list(&self, width: usize) -> String {
        let names = KEYS.iter().map(|k| k.name.len()).max().unwrap_or(0);
        let longest = |texts: &dyn Fn(&Key) -> String| KEYS.iter().map(|k| texts(k).chars().count()).max();
        let values = longest(&|k| self.get(k.name).to_string()).unwrap_or(0).min(VALUE);
        let origins = longest(&|k| self.origin(k)).unwrap_or(0);
        let mut out = String::new();
        for key in KEYS {
            let (value, origin) = (self.get(key.name), self.origin(key));
            let head = format!("{:names$}  {value:values$}  {origin:origins$}  ", key.name);
            let room = width.saturating_sub(names + values + origins + 6);
            // Where a path has taken the room, what the setting is for is left out; `:set NAME` tells.
            let about = if head.chars().count() + key.about.len() <= width || room >= key.about.len() {
                key.about
            } else {
                ""
            };
            out.push_str(format!("{head}{about}").trim_end());
            out.push('\n');
        }
        let file = self.file.as_deref().map_or("no home folder".to_string(), |f| f.display().to_string());
        out.push_str(&format!(
            "\n:set NAME VALUE changes one for this session. To keep it: NAME = \"VALUE\" in\n{file}\nor the variable SCUMBLE_NAME. Flags win over variables, those over the file."
        ));
        out
    }

    /// One setting, its value, where it comes from, what it is for, what it takes.
    pub fn line(&self, key: &Key) -> String {
        let (value, origin) = (self.get(key.name), self.origin(key));
        format!("{} = {value}  ({origin})\n  {}; takes {}", key.name, key.about, key.expected())
    }

    fn origin(&self, key: &Key) -> String {
        match self.given.get(key.name).map(|g| &g.origin) {
            None => "default".to_string(),
            Some(Origin::File(line)) => format!("config.toml:{line}"),
            Some(Origin::Variable) => "variable".into(),
            Some(Origin::Flag) => "flag".into(),
            Some(Origin::Prompt) => ":set".into(),
        }
    }
}

fn unknown(name: &str) -> String {
    match nearest(name, KEYS.iter().map(|k| k.name)) {
        Some(near) => format!("there is no setting {name}; did you mean {near}?"),
        None => format!("there is no setting {name}; :set lists them"),
    }
}

/// The file's text. `None`: there is no such file. Errors: why it was not read.
fn text(path: &Path) -> Result<Option<String>, String> {
    let meta = match path.metadata() {
        Ok(meta) => meta,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    if !meta.is_file() || meta.len() > LONGEST {
        return Err("it is no text file of settings".into());
    }
    std::fs::read_to_string(path).map(Some).map_err(|e| e.to_string())
}

/// A value of the file as the same text that a variable would have. Errors: it is of a kind that no setting takes.
fn plain(key: &Key, value: &DeValue) -> Result<String, String> {
    let wrong = || format!("{} takes {}, not a {}", key.name, key.expected(), value.type_str());
    match value {
        DeValue::String(s) => Ok(s.to_string()),
        // Its digits come without 0x, 0o and 0b. What is too large for a number is none that a setting takes.
        DeValue::Integer(i) => {
            let number = i128::from_str_radix(i.as_str(), i.radix());
            Ok(number.map_or_else(|_| i.to_string(), |n| n.to_string()))
        }
        DeValue::Float(f) => Ok(f.as_str().to_string()),
        DeValue::Boolean(b) => Ok(b.to_string()),
        DeValue::Array(list) if key.takes == Takes::Paths => {
            let all: Option<Vec<&str>> = list.iter().map(|v| v.get_ref().as_str()).collect();
            Ok(all.ok_or_else(wrong)?.join(":"))
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Config {
        Config::read(Path::new("/home/x/config.toml"), text)
    }

    #[test]
    fn the_file_sets_values_and_keeps_their_lines() {
        let config = read(
            "# mine\nmodel = \"sd15\"\nthreads = 4\nlean = true\nmax-memory = \"4G\"\nallow_read = [\"a\", \"b\"]\n",
        );
        assert_eq!(config.notes, Vec::<String>::new());
        let all = ["model", "threads", "lean", "max_memory", "allow_read"].map(|k| config.get(k));
        assert_eq!(all, ["sd15", "4", "true", "4G", "a:b"]);
        assert_eq!(config.label("threads"), "config.toml, line 3: threads");
        assert_eq!(config.get("pager"), "auto");
        assert_eq!(config.label("device"), "--device");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_the_rest_counts() {
        let config = read("modle = \"x\"\nthreads = \"many\"\n[display]\npager = \"off\"\n");
        assert_eq!(
            config.notes,
            [
                "config.toml, line 1: there is no setting modle; did you mean model?",
                "config.toml, line 2: threads takes a whole number from 1 to 1024, or all, not \"many\"",
                "config.toml, line 3: settings stand in no section, so [display] is left out",
            ]
        );
        let config = read("threads = 3\nmodel = \nkeys = \"vi\"\n");
        assert_eq!(config.notes.len(), 1, "{:?}", config.notes);
        assert!(config.notes[0].starts_with("config.toml, line 2: "), "{:?}", config.notes);
        assert_eq!((config.get("threads"), config.get("model"), config.get("keys")), ("3", "emoji", "vi"));
        assert!(read("\u{0}\u{1}garbage [[[").notes[0].contains("line 1"));
    }

    #[test]
    fn every_broken_line_is_left_out() {
        let config = read("out = \"a\" b\nmodel = \nlog = \"l\" x\nkeys = \"vi\"\n");
        assert_eq!(config.notes.len(), 3, "{:?}", config.notes);
        assert_eq!(["out", "model", "log", "keys"].map(|k| config.get(k)), ["out", "emoji", "none", "vi"]);
    }

    #[test]
    fn numbers_are_what_they_are_in_every_base() {
        let config = read("threads = 0x10\nhistory = 0b1_01\nmax_time = 0o17\nmax_memory = 1_000\n");
        let all = ["threads", "history", "max_time", "max_memory"].map(|k| config.get(k));
        assert_eq!((config.notes.len(), all), (0, ["16", "5", "15", "1000"]), "{:?}", config.notes);
    }

    #[test]
    fn the_word_for_nothing_takes_back_what_was_given() {
        let mut config = read("max_time = \"5s\"\nthreads = 3\nmax_memory = \"all\"\nlog = \"none\"\n");
        assert_eq!((config.get("max_memory"), config.get("log")), ("all", "none"));
        let given = |config: &Config, name: &str| config.beside_flags(find(name).unwrap()).map(String::from);
        assert_eq!((given(&config, "max_memory"), given(&config, "log")), (None, None), "no flag reads it");
        let variable = [("SCUMBLE_THREADS".to_string(), "all".to_string())];
        config.variables(variable.into_iter());
        config.set("max_time", "none").unwrap();
        assert_eq!((given(&config, "threads"), given(&config, "max_time")), (None, None));
        assert_eq!(config.notes, Vec::<String>::new());
        config.set("max_time", "7s").unwrap();
        assert_eq!(config.get("max_time"), "7s");
    }

    #[test]
    fn variables_win_over_the_file_and_flags_over_both() {
        let mut config = read("out = \"a\"\nmodel = \"b\"\n");
        let pairs = [
            ("SCUMBLE_OUT", "c"),
            ("SCUMBLE_THREADS", "lots"),
            ("SCUMBLE_MODLE", "d"),
            ("SCUMBLE_NOTIFY", ""),
            ("SCUMBLE_TELESCOPE", "1"),
            ("SCUMBLE_UPDATE", "1"),
        ];
        config.variables(pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())));
        assert_eq!((config.get("out"), config.get("model")), ("c", "b"));
        assert_eq!(config.notes.len(), 2, "{:?}", config.notes);
        assert!(config.notes[0].starts_with("SCUMBLE_THREADS: threads takes"));
        assert!(config.notes[1].contains("did you mean SCUMBLE_MODEL?"));
        config.flag("out", "e".into());
        assert_eq!((config.get("out"), config.label("out").as_str()), ("e", "--out"));
        assert_eq!(config.set("out", "f").unwrap().name, "out");
        assert_eq!(config.get("out"), "f");
        assert!(config.set("otu", "f").unwrap_err().contains("did you mean out?"));
        let list = config.list(80);
        let line = |name: &str| list.lines().find(|l| l.starts_with(name)).unwrap().to_string();
        assert!(line("out ").contains(":set") && line("model ").contains("config.toml:2"), "{list}");
        assert!(list.lines().all(|l| l.chars().count() <= 80), "{list}");
    }
}
