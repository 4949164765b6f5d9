//! The `:` commands: one table drives dispatch, `:help` and completion.

use std::ops::RangeInclusive;

use super::words;
use crate::script::{catalog, recipes};

/// Most turns of `:bench`.
const MOST_TURNS: usize = 1_000_000;

/// What the prompt should do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// List the commands.
    Commands,
    /// List the variables.
    Variables,
    /// Forget variables.
    Free(Vec<String>),
    /// Run a recipe again whenever its file is saved.
    Watch(String, Vec<(String, String)>),
    /// Run a recipe.
    Run(String, Vec<(String, String)>),
    /// List the recipes.
    Recipes,
    /// Show a recipe's options.
    RecipeHelp(String),
    /// Check recipes.
    Check(Vec<String>),
    /// Look at variables on the whole screen.
    View(Vec<String>),
    /// Save cells that worked as a recipe: the file, and the numbers of the cells (none: all).
    Save(String, Vec<RangeInclusive<usize>>),
    /// Open a cell, a function or a file in the editor.
    Edit(String),
    /// Evaluate a cell again.
    Again(String),
    /// Begin, end, or tell the log.
    Log(String),
    /// Show or change settings.
    Set(String),
    /// Models: in memory, and known.
    Models,
    /// Results, newest first.
    Results(String),
    /// Time many evaluations.
    Bench(usize, String),
    /// Show documentation; of everything if the name is empty.
    Help(String),
    /// Show a function's or recipe's source.
    Source(String),
    /// List earlier input that contains a text.
    History(String),
    /// Memory held.
    Memory,
    /// What this machine and terminal can do.
    Doctor,
    /// Show a test card.
    TestCard,
    /// Start or stop showing results to a browser: a port, `stop`, or nothing.
    Serve(String),
    /// Bring a picture to the user's own machine.
    Get(String),
    /// Trust this folder's init file, and run it.
    Trust,
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

const fn command(
    name: &'static str,
    arguments: &'static str,
    about: &'static str,
    action: fn(&str) -> Action,
) -> Command {
    Command { name, arguments, about, action }
}

/// All commands, in the order of `:help`.
pub const COMMANDS: &[Command] = &[
    command("help", "[name]", "this list, or what a name means (also ?name)", help),
    command("run", "recipe [key=value ...]", "run a recipe; with --help: its options and examples", run),
    command("watch", "recipe [key=value ...]", "run it again whenever it is saved; Ctrl-C ends that", watch),
    command("check", "recipe ...", "look for mistakes without running", check),
    command(
        "edit",
        "[cell|name|file]",
        "the last cell, another one, a function, a file in your editor",
        edit,
    ),
    command("again", "[cell]", "evaluate the last cell again, or the one of that number", again),
    command("save", "file.rhai [cells]", "save the cells that worked as a recipe; cells: 3-7 9", save),
    command("hist", "[text]", "earlier input, with that text in it", |t| Action::History(t.to_string())),
    command("vars", "", "variables: name, memory, value", |_| Action::Variables),
    command("free", "name ...", "forget variables", free),
    command("view", "name [name]", "a run, pictures, attention, curves or a model on the whole screen", view),
    command("get", "name|file", "a picture for your own machine: a download, or what to type there", get),
    command("serve", "[port|stop]", "show the results in your browser, through ssh", |t| {
        Action::Serve(t.to_string())
    }),
    command("models", "", "models in memory, and those that can be loaded", |_| Action::Models),
    command("mem", "", "memory: held, most so far, allowed, free", |_| Action::Memory),
    command("out", "[text]", "results, the newest first", |t| Action::Results(t.to_string())),
    command("time", "code", "evaluate and say how long it took", time),
    command("bench", "n code", "evaluate n times: median, min, max", bench),
    command("log", "[file|off]", "keep cells, values and errors in a file", |t| Action::Log(t.to_string())),
    command("set", "[name [value]]", "settings, and where they come from; change one", |t| {
        Action::Set(t.to_string())
    }),
    command("doctor", "[--pictures]", "what was found here and why; with --pictures: a test card", doctor),
    command("trust", "", "run this folder's .scumble/init.rhai, now and at each start", |_| Action::Trust),
    command("reset", "", "forget all variables, functions and models", |_| Action::Reset),
    command("sh", "command", "run a shell command (also :!command)", shell),
    command("quit", "", "leave (also Ctrl-D)", |_| Action::Quit),
];

/// Whether a line is for us rather than for the language. In Rhai `:` and `?` begin nothing.
pub fn is_meta(line: &str) -> bool {
    let line = line.trim();
    line.starts_with([':', '?']) || line.strip_suffix('?').is_some_and(|name| is_name(name.trim_end()))
}

fn is_name(text: &str) -> bool {
    let inner = text.trim_end_matches('?');
    !inner.is_empty() && inner.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | ':'))
}

/// What a line asks for. `None`: it belongs to the language.
pub fn parse(line: &str) -> Option<Action> {
    let line = line.trim();
    if !is_meta(line) {
        return None;
    }
    if let Some(name) = line.strip_prefix("??").or_else(|| line.strip_suffix("??")) {
        return Some(Action::Source(name.trim().to_string()));
    }
    if let Some(name) = line.strip_prefix('?').or_else(|| line.strip_suffix('?')) {
        return Some(Action::Help(name.trim().to_string()));
    }
    let body = line.strip_prefix(':').unwrap_or(line);
    if let Some(command) = body.strip_prefix('!') {
        return Some(shell(command.trim()));
    }
    let (word, rest) = body.split_once(char::is_whitespace).unwrap_or((body, ""));
    Some(match find(word) {
        Some(command) => (command.action)(rest.trim()),
        None => Action::Wrong(unknown(word)),
    })
}

/// A command by its name or a beginning that only it has.
pub(super) fn find(word: &str) -> Option<&'static Command> {
    let exact = COMMANDS.iter().find(|c| c.name == word);
    let mut starting = COMMANDS.iter().filter(|c| !word.is_empty() && c.name.starts_with(word));
    exact.or_else(|| starting.next().filter(|_| starting.next().is_none()))
}

fn unknown(word: &str) -> String {
    let starting = COMMANDS.iter().filter(|c| !word.is_empty() && c.name.starts_with(word));
    let starting: Vec<String> = starting.map(|c| format!(":{}", c.name)).collect();
    if starting.len() > 1 {
        return format!(":{word} could be {}", starting.join(", "));
    }
    match catalog::nearest(word, COMMANDS.iter().map(|c| c.name)) {
        Some(near) => format!("there is no command :{word}; did you mean :{near}?"),
        None => format!("there is no command :{word}; :help lists them"),
    }
}

/// What `:help` prints.
pub fn list() -> String {
    let mut out = String::new();
    for c in COMMANDS {
        out.push_str(&format!("  {:<29} {}\n", format!(":{} {}", c.name, c.arguments), c.about));
    }
    out.push_str(
        "  ?name                         what a name means; ??name its source; ?word searches\n\n\
         Everything else is evaluated: the value becomes ans, a final ; hides it.\n\
         Tab completes. Alt-Enter adds a line.\n\
         Up after some text finds input that begins so; Ctrl-R searches all of it.\n\
         Ctrl-C stops what runs after its step and keeps everything.\n",
    );
    let mut line = String::from("Recipes:");
    for name in recipes::names() {
        if line.chars().count() + name.len() > 78 {
            out.push_str(&line);
            line = String::from("\n        ");
        }
        line.push(' ');
        line.push_str(name);
    }
    out.push_str(&line);
    out
}

fn help(name: &str) -> Action {
    match name.trim_start_matches(['?', ':']) {
        "" => Action::Commands,
        name => Action::Help(name.to_string()),
    }
}

fn run(rest: &str) -> Action {
    recipe(rest, Action::Run)
}

fn watch(rest: &str) -> Action {
    match recipe(rest, Action::Watch) {
        Action::Recipes => Action::Wrong("watch what? :watch recipe.rhai".into()),
        action => action,
    }
}

fn recipe(rest: &str, make: fn(String, Vec<(String, String)>) -> Action) -> Action {
    let words = match words::split(rest) {
        Ok(words) => words,
        Err(why) => return Action::Wrong(why),
    };
    let Some((recipe, arguments)) = words.split_first() else { return Action::Recipes };
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        return Action::RecipeHelp(recipe.clone());
    }
    match words::pairs(arguments) {
        Ok(pairs) => make(recipe.clone(), pairs),
        Err(why) => Action::Wrong(format!("{why}; :run {recipe} --help shows the options")),
    }
}

fn names(rest: &str, missing: &str, make: fn(Vec<String>) -> Action) -> Action {
    let names: Vec<String> = rest.split_whitespace().map(String::from).collect();
    if names.is_empty() { Action::Wrong(missing.to_string()) } else { make(names) }
}

fn check(rest: &str) -> Action {
    names(rest, "check what? :check recipe.rhai", Action::Check)
}

fn view(rest: &str) -> Action {
    Action::View(rest.split_whitespace().map(String::from).collect())
}

fn free(rest: &str) -> Action {
    names(rest, "free what? :vars lists the variables", Action::Free)
}

fn doctor(rest: &str) -> Action {
    match rest {
        "" => Action::Doctor,
        "--pictures" | "pictures" => Action::TestCard,
        other => Action::Wrong(format!("there is no :doctor {other}; :doctor --pictures shows a test card")),
    }
}

fn get(rest: &str) -> Action {
    text(rest, "get what? :get x for an Image x, :get out/magicmix.png for a file", Action::Get)
}

fn text(rest: &str, missing: &str, make: fn(String) -> Action) -> Action {
    if rest.is_empty() { Action::Wrong(missing.to_string()) } else { make(rest.to_string()) }
}

fn save(rest: &str) -> Action {
    let words = match words::split(rest) {
        Ok(words) => words,
        Err(why) => return Action::Wrong(why),
    };
    let Some((file, cells)) = words.split_first() else {
        return Action::Wrong("save where? :save name.rhai".into());
    };
    let range = |word: &String| {
        let (from, to) = word.split_once('-').unwrap_or((word, word));
        Some(from.parse::<usize>().ok()?..=to.parse::<usize>().ok()?)
    };
    match cells.iter().map(range).collect() {
        Some(cells) => Action::Save(file.clone(), cells),
        None => Action::Wrong(format!("cells are given by number, like 3-7 9, not \"{}\"", cells.join(" "))),
    }
}

fn edit(rest: &str) -> Action {
    Action::Edit(words::split(rest).map_or_else(|_| rest.to_string(), |words| words.join(" ")))
}

fn again(rest: &str) -> Action {
    Action::Again(rest.to_string())
}

fn bench(rest: &str) -> Action {
    let (n, code) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    match n.parse::<usize>() {
        Ok(n) if (1..=MOST_TURNS).contains(&n) && !code.trim().is_empty() => {
            Action::Bench(n, code.trim().to_string())
        }
        _ => Action::Wrong(format!("how often, and what? :bench 20 m.decode(z)   (1 to {MOST_TURNS} times)")),
    }
}

fn time(rest: &str) -> Action {
    text(rest, "time what? :time m.decode(z);", Action::Time)
}

fn shell(rest: &str) -> Action {
    text(rest, "run what? :sh ls out", Action::Shell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_their_unique_beginnings() {
        assert_eq!(parse(":vars"), Some(Action::Variables));
        assert!(
            matches!(parse(":v"), Some(Action::Wrong(why)) if why.contains(":vars") && why.contains(":view"))
        );
        assert_eq!(parse(":vi a b"), Some(Action::View(vec!["a".into(), "b".into()])));
        assert_eq!(parse(":view"), Some(Action::View(Vec::new())));
        assert_eq!(parse(":va"), Some(Action::Variables));
        assert_eq!(parse("  :quit "), Some(Action::Quit));
        assert_eq!(parse(":free a b"), Some(Action::Free(vec!["a".into(), "b".into()])));
        assert!(
            matches!(parse(":r"), Some(Action::Wrong(why)) if why.contains(":run") && why.contains(":reset"))
        );
        assert!(matches!(parse(":vras"), Some(Action::Wrong(why)) if why.contains("did you mean :vars")));
        assert!(matches!(parse(":"), Some(Action::Wrong(_))));
        assert_eq!(parse(":!ls -l"), Some(Action::Shell("ls -l".into())));
        assert_eq!(parse("let x = 1"), None);
    }

    #[test]
    fn questions() {
        assert_eq!(parse("?blend"), Some(Action::Help("blend".into())));
        assert_eq!(parse("blend?"), Some(Action::Help("blend".into())));
        assert_eq!(parse("? noise level"), Some(Action::Help("noise level".into())));
        assert_eq!(parse("?"), Some(Action::Help(String::new())));
        assert_eq!(parse("??prompt::words"), Some(Action::Source("prompt::words".into())));
        assert_eq!(parse("words??"), Some(Action::Source("words".into())));
        assert_eq!(parse("a ?? b"), None);
        assert_eq!(parse("let a = \"what?\""), None);
    }

    #[test]
    fn runs() {
        let pair = |k: &str, v: &str| (k.to_string(), v.to_string());
        assert_eq!(
            parse(":run magicmix content=\"a lion\" nu=0.5"),
            Some(Action::Run("magicmix".into(), vec![pair("content", "a lion"), pair("nu", "0.5")]))
        );
        assert!(matches!(parse(":run magicmix nu"), Some(Action::Wrong(why)) if why.contains("key=value")));
        assert_eq!(parse(":run sdedit --help"), Some(Action::RecipeHelp("sdedit".into())));
        assert_eq!(parse(":run"), Some(Action::Recipes));
    }

    #[test]
    fn cells_by_number_and_turns_by_count() {
        assert_eq!(parse(":save a.rhai"), Some(Action::Save("a.rhai".into(), vec![])));
        assert_eq!(parse(":save a 3-7 9"), Some(Action::Save("a".into(), vec![3..=7, 9..=9])));
        assert!(matches!(parse(":save a b"), Some(Action::Wrong(why)) if why.contains("3-7 9")));
        assert_eq!(parse(":bench 20 f(1) + 2"), Some(Action::Bench(20, "f(1) + 2".into())));
        for wrong in [":bench", ":bench 5", ":bench f(1)", ":bench 0 f(1)"] {
            assert!(matches!(parse(wrong), Some(Action::Wrong(why)) if why.contains(":bench 20")), "{wrong}");
        }
        let pair = ("nu".to_string(), "1".to_string());
        assert_eq!(parse(":watch a.rhai nu=1"), Some(Action::Watch("a.rhai".into(), vec![pair])));
        assert!(matches!(parse(":watch"), Some(Action::Wrong(_))));
    }

    #[test]
    fn every_command_is_in_the_list() {
        let list = list();
        assert!(COMMANDS.iter().all(|c| list.contains(&format!(":{}", c.name)) && list.contains(c.about)));
        assert!(list.lines().all(|l| l.chars().count() < 100));
    }
}
