//! The `:` commands: one table drives dispatch, `:help`, completion and the reference.

use crate::script::session::Snapshot;
use crate::script::{catalog, recipes};

/// What the prompt should do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Print this.
    Print(String),
    /// List the variables.
    Variables,
    /// Forget a variable.
    Free(String),
    /// Run a recipe.
    Run(String, Vec<(String, String)>),
    /// Show a recipe's options.
    RecipeHelp(String),
    /// Check recipes.
    Check(Vec<String>),
    /// Save the cells that worked as a recipe.
    Save(String),
    /// Show documentation.
    Help(String),
    /// Show a function's source.
    Source(String),
    /// List earlier input that contains a text.
    History(String),
    /// Memory held.
    Memory,
    /// What this machine and terminal can do.
    Doctor,
    /// Time an expression.
    Time(String),
    /// Forget all variables and models.
    Reset,
    /// Run a shell command.
    Shell(String),
    /// Leave.
    Quit,
    /// Something was typed wrong.
    Wrong(String),
}

/// One command.
pub struct Command {
    /// Its name without the colon.
    pub name: &'static str,
    /// Its arguments, as `:help` shows them.
    pub arguments: &'static str,
    /// One line.
    pub about: &'static str,
    action: fn(&str) -> Action,
}

/// All commands, in the order of `:help`.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "help",
        arguments: "[name]",
        about: "this list, or the documentation of a name (also ?name)",
        action: help,
    },
    Command {
        name: "run",
        arguments: "recipe [key=value ...]",
        about: "run a recipe; :run recipe --help shows its options",
        action: run,
    },
    Command {
        name: "check",
        arguments: "recipe ...",
        about: "look for mistakes without running",
        action: check,
    },
    Command {
        name: "vars",
        arguments: "",
        about: "variables: type, shape, memory",
        action: |_| Action::Variables,
    },
    Command { name: "free", arguments: "name ...", about: "forget variables", action: free },
    Command {
        name: "save",
        arguments: "file.rhai",
        about: "save the cells that worked as a recipe",
        action: save,
    },
    Command {
        name: "hist",
        arguments: "[text]",
        about: "earlier input",
        action: |t| Action::History(t.to_string()),
    },
    Command {
        name: "time",
        arguments: "expression",
        about: "evaluate and say how long it took",
        action: time,
    },
    Command { name: "mem", arguments: "", about: "memory held", action: |_| Action::Memory },
    Command {
        name: "doctor",
        arguments: "",
        about: "device, threads, terminal, folders: what was found and why",
        action: |_| Action::Doctor,
    },
    Command {
        name: "reset",
        arguments: "",
        about: "forget all variables and models",
        action: |_| Action::Reset,
    },
    Command { name: "sh", arguments: "command", about: "run a shell command", action: shell },
    Command { name: "quit", arguments: "", about: "leave (also Ctrl-D)", action: |_| Action::Quit },
];

/// Whether a line is for us rather than for the language.
pub fn is_meta(line: &str) -> bool {
    let line = line.trim();
    line.starts_with([':', '?']) || (line.ends_with('?') && is_name(line.trim_end_matches('?')))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | ':'))
}

/// What a line asks for. `None`: it belongs to the language.
pub fn parse(line: &str) -> Option<Action> {
    let line = line.trim();
    if !is_meta(line) {
        return None;
    }
    if let Some(name) = line.strip_prefix("??") {
        return Some(Action::Source(name.trim().to_string()));
    }
    if let Some(name) = line.strip_prefix('?') {
        return Some(Action::Help(name.trim().to_string()));
    }
    if let Some(name) = line.strip_suffix('?') {
        return Some(Action::Help(name.trim().to_string()));
    }
    let (word, rest) = line[1..].split_once(char::is_whitespace).unwrap_or((&line[1..], ""));
    // A command may directly follow its sign: `:!ls`.
    if let Some(command) = word.strip_prefix('!') {
        return Some(shell(format!("{command} {rest}").trim()));
    }
    let exact = COMMANDS.iter().find(|c| c.name == word);
    let mut starting = COMMANDS.iter().filter(|c| !word.is_empty() && c.name.starts_with(word));
    let chosen = exact.or_else(|| starting.next().filter(|_| starting.next().is_none()));
    Some(match chosen {
        Some(command) => (command.action)(rest.trim()),
        None => Action::Wrong(unknown(word)),
    })
}

fn unknown(word: &str) -> String {
    let starting: Vec<String> = COMMANDS
        .iter()
        .filter(|c| !word.is_empty() && c.name.starts_with(word))
        .map(|c| format!(":{}", c.name))
        .collect();
    if starting.len() > 1 {
        return format!(":{word} could be {}", starting.join(", "));
    }
    match catalog::nearest(word, COMMANDS.iter().map(|c| c.name)) {
        Some(near) => format!("there is no command :{word}; did you mean :{near}?"),
        None => format!("there is no command :{word}; :help lists them"),
    }
}

/// The list of commands.
pub fn list() -> String {
    let mut out = String::new();
    for c in COMMANDS {
        out.push_str(&format!("  {:<30} {}\n", format!(":{} {}", c.name, c.arguments), c.about));
    }
    out.push_str("  ?name                          documentation; ??name its source; ?two words search\n");
    out.push_str("Anything else is evaluated. A value becomes `ans`; a final ; hides it. Ctrl-C stops after the step.\n");
    out.push_str(&format!("Recipes: {}", recipes::names().join(", ")));
    out
}

fn help(name: &str) -> Action {
    if name.is_empty() {
        Action::Print(list())
    } else {
        Action::Help(name.trim_start_matches('?').to_string())
    }
}

fn run(rest: &str) -> Action {
    let words = match split(rest) {
        Ok(words) => words,
        Err(why) => return Action::Wrong(why),
    };
    let Some((recipe, arguments)) = words.split_first() else {
        return Action::Wrong(format!("run what? recipes: {}", recipes::names().join(", ")));
    };
    if arguments.iter().any(|a| a == "--help") {
        return Action::RecipeHelp(recipe.clone());
    }
    match pairs(arguments) {
        Ok(pairs) => Action::Run(recipe.clone(), pairs),
        Err(why) => Action::Wrong(why),
    }
}

/// `key=value` words. Errors: a word without `=`.
pub fn pairs(words: &[String]) -> Result<Vec<(String, String)>, String> {
    words
        .iter()
        .map(|w| match w.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_string(), value.to_string())),
            _ => Err(format!("options are given as key=value, not \"{w}\"")),
        })
        .collect()
}

/// Words as a shell splits them: quotes keep spaces, a backslash keeps the next character.
fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut letters = text.chars();
    while let Some(c) = letters.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (q, '\\') if q != Some('\'') => word.get_or_insert_default().extend(letters.next()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(q) = quote {
        return Err(format!("a quote {q} is not closed"));
    }
    words.extend(word);
    Ok(words)
}

fn names(rest: &str, what: &str, make: impl Fn(Vec<String>) -> Action) -> Action {
    let names: Vec<String> = rest.split_whitespace().map(String::from).collect();
    if names.is_empty() { Action::Wrong(what.to_string()) } else { make(names) }
}

fn check(rest: &str) -> Action {
    names(rest, "check what? a recipe's name or file", Action::Check)
}

fn free(rest: &str) -> Action {
    names(rest, "free what? :vars lists the variables", |n| Action::Free(n.join(" ")))
}

fn save(rest: &str) -> Action {
    if rest.is_empty() {
        Action::Wrong("save where? :save name.rhai".into())
    } else {
        Action::Save(rest.to_string())
    }
}

fn time(rest: &str) -> Action {
    if rest.is_empty() {
        Action::Wrong("time what? :time expression".into())
    } else {
        Action::Time(rest.to_string())
    }
}

fn shell(rest: &str) -> Action {
    if rest.is_empty() {
        Action::Wrong("run what? :sh command".into())
    } else {
        Action::Shell(rest.to_string())
    }
}

/// Candidates for the word at `pos` of a `:` or `?` line, and where it starts. `None`: not such a line.
pub fn complete(line: &str, pos: usize, snapshot: &Snapshot) -> Option<(usize, Vec<String>)> {
    let text = line.get(..pos)?;
    let variables = || snapshot.variables.iter().map(|v| v.0.clone());
    let matching = |all: Vec<String>, typed: &str| all.into_iter().filter(|n| n.starts_with(typed)).collect();
    if let Some(typed) = text.strip_prefix("??").or_else(|| text.strip_prefix('?')) {
        let all = catalog::all()
            .iter()
            .map(|e| e.name.clone())
            .chain(variables())
            .collect::<std::collections::BTreeSet<_>>();
        return Some((pos - typed.len(), matching(all.into_iter().collect(), typed)));
    }
    let rest = text.strip_prefix(':')?;
    let Some((command, arguments)) = rest.split_once(' ') else {
        return Some((1, matching(COMMANDS.iter().map(|c| c.name.to_string()).collect(), rest)));
    };
    let typed = arguments.rsplit(' ').next().unwrap_or_default();
    let all = match command {
        "run" | "check" if !arguments.contains(' ') || command == "check" => {
            recipes::names().into_iter().map(String::from).collect()
        }
        "run" => {
            let recipe = arguments.split(' ').next().unwrap_or_default();
            let specs = recipes::find(recipe).map(|r| r.specs).unwrap_or_default();
            specs.iter().map(|spec| format!("{}=", spec.name)).collect()
        }
        "free" => variables().collect(),
        "help" => catalog::all().iter().map(|e| e.name.clone()).collect(),
        _ => Vec::new(),
    };
    Some((pos - typed.len(), matching(all, typed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_their_unique_beginnings() {
        assert_eq!(parse(":vars"), Some(Action::Variables));
        assert_eq!(parse(":v"), Some(Action::Variables));
        assert_eq!(parse("  :quit "), Some(Action::Quit));
        assert_eq!(parse(":free a b"), Some(Action::Free("a b".into())));
        assert!(
            matches!(parse(":r"), Some(Action::Wrong(why)) if why.contains(":run") && why.contains(":reset"))
        );
        assert!(matches!(parse(":vras"), Some(Action::Wrong(why)) if why.contains("did you mean :vars")));
        assert_eq!(parse("let x = 1"), None);
        assert_eq!(parse("?blend"), Some(Action::Help("blend".into())));
        assert_eq!(parse("blend?"), Some(Action::Help("blend".into())));
        assert_eq!(parse("a ?? b"), None);
    }

    #[test]
    fn run_splits_like_a_shell() {
        let pairs = |k: &str, v: &str| (k.to_string(), v.to_string());
        assert_eq!(
            parse(r#":run magicmix content="a lion" layout='x y.png' nu=0.5"#),
            Some(Action::Run(
                "magicmix".into(),
                vec![pairs("content", "a lion"), pairs("layout", "x y.png"), pairs("nu", "0.5")]
            ))
        );
        assert!(matches!(parse(":run magicmix nu"), Some(Action::Wrong(why)) if why.contains("key=value")));
        assert!(
            matches!(parse(":run magicmix a=\"b"), Some(Action::Wrong(why)) if why.contains("not closed"))
        );
        assert_eq!(parse(":run sdedit --help"), Some(Action::RecipeHelp("sdedit".into())));
    }

    #[test]
    fn every_command_is_in_the_list() {
        let list = list();
        assert!(COMMANDS.iter().all(|c| list.contains(&format!(":{}", c.name)) && list.contains(c.about)));
    }
}
