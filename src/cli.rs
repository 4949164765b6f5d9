//! The command line: modes and exit codes. The flags are in [`flags`].

pub mod complete;
pub mod flags;
pub mod man;
pub mod settle;

use std::io::Read;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, Shell};

use self::flags::{Cli, Command, Flags};
use crate::engine::device;
use crate::engine::observe::Cancel;
use crate::engine::ops;
use crate::report::{Exit, Report};
use crate::script::{Settings, catalog, recipes, thread};
use crate::term::probe::{self, Typing};
use crate::term::style::{Role, Style};
use crate::term::tty;
use crate::ui::actions::{recipe_help_text, recipe_list};
use crate::ui::config::Config;
use crate::ui::interrupt::Interrupts;
use crate::ui::output::Output;
use crate::ui::repl::Repl;
use crate::ui::reporter::{Mode, Reporter};
use crate::ui::worker::{Request, Worker};
use crate::ui::{doctor, pictures, run, watch, words};

/// Licences and credits of what ships inside the program.
const LICENSES: &str = include_str!("../models/LICENSES.md");

/// Parses the command line and does what it says; the exit code.
pub fn main() -> ExitCode {
    // A shell that asks how a line goes on.
    match CompleteEnv::with_factory(Cli::command)
        .try_complete(std::env::args_os(), std::env::current_dir().ok().as_deref())
    {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(error) => return ExitCode::from(refused(&error)),
    }
    tty::save_initial();
    let mut config = Config::load();
    let cli = match settle::parse(&mut config, std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(refused(&error)),
    };
    // SAFETY: nothing has started a thread yet.
    unsafe { device::settle_candle(cli.flags.threads.map_or_else(device::threads, usize::from)) };
    ops::keep_transformed(if cli.flags.lean { 0 } else { device::room_for_copies() });
    ExitCode::from(dispatch(cli, config))
}

/// Help and version, which are no errors; and what cannot be parsed.
fn refused(error: &clap::Error) -> u8 {
    // A closed pipe is no error either.
    let _ = error.print();
    if error.kind() == ErrorKind::InvalidSubcommand
        && let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand)
        && (name.ends_with(".rhai") || recipes::names().contains(&name.as_str()))
    {
        Output::default().err(&format!("\nA recipe is run with: scumble run {name}\n"));
    }
    if error.use_stderr() { Exit::Usage.code() } else { 0 }
}

fn dispatch(cli: Cli, config: Config) -> u8 {
    let flags = &cli.flags;
    let mut ui = match reporter(flags) {
        Ok(ui) => ui,
        Err(report) => {
            Output::default().err(&format!("{}\n", report.render(false, 100).trim_end()));
            return report.exit.code();
        }
    };
    if config.get("graphics") != "auto" {
        probe::choose(config.get("graphics"), &config.label("graphics"));
    }
    ui.want_panel(config.get("panel") != "false");
    for note in &config.notes {
        ui.remark(Role::Warn, &format!("note: {note}"));
    }
    let done = Interrupts::install(&Cancel::default(), flags.keep_going)
        .map_err(|e| Report::new("internal", format!("signals cannot be handled: {e}")))
        .and_then(|interrupts| mode(cli.command, cli.evaluate, (flags, config), &interrupts, &mut ui));
    let code = done.unwrap_or_else(|report| {
        ui.report(&report);
        report.exit.code()
    });
    ui.last_word(code)
}

/// Does what was asked. Errors: what was wrong before anything ran.
fn mode(
    command: Option<Command>,
    code: Option<String>,
    (flags, config): (&Flags, Config),
    interrupts: &Interrupts,
    ui: &mut Reporter,
) -> Result<u8, Report> {
    let usage = |why: String, name: &str| {
        Report::usage(why).hint(format!("scumble run {name} --help shows its options"))
    };
    match command {
        Some(Command::Run { recipe: None, .. }) => ui.out(&recipe_list()),
        Some(Command::Run { recipe: Some(name), help: true, .. }) => {
            ui.out(&recipe_help_text(&name, &flags.model)?)
        }
        Some(Command::Run { recipe: Some(name), options, help: false, watch }) => {
            let pairs = words::pairs(&options).map_err(|why| usage(why, &name))?;
            if watch {
                let worker = start(flags, &config, &flags.settings(false), interrupts)?;
                return watch::watch(&worker, interrupts, ui, (&name, &pairs), |_| ());
            }
            return once(flags, &config, interrupts, ui, Request::Run(name, pairs));
        }
        Some(Command::Check { recipes }) => return Ok(check(&recipes, ui)),
        Some(Command::Doc { markdown: true, .. }) => ui.out(catalog::reference_markdown().trim_end()),
        Some(Command::Doc { name, .. }) => doc(&name.join(" "), ui)?,
        Some(Command::Doctor { pictures: true }) => pictures::test_card(ui, Typing::Leave),
        Some(Command::Doctor { pictures: false }) => {
            let caps = ui.caps(Typing::Leave).clone();
            ui.out(&doctor::report(&flags.settings(false), &config, &caps));
        }
        Some(Command::Completions { shell }) => ui.out(completions(shell)?.trim_end()),
        Some(Command::Man) => {
            let page = man::page().map_err(|e| Report::new("internal", format!("the manual page: {e}")))?;
            ui.out(page.trim_end());
        }
        Some(Command::Licenses) => ui.out(LICENSES.trim_end()),
        None => match code {
            Some(code) => return once(flags, &config, interrupts, ui, Request::Eval(code)),
            None if tty::is_terminal_in() && ui.mode() == Mode::Terminal => {
                return prompt(flags, config, interrupts, ui);
            }
            None => {
                let script = from_stdin(ui)?;
                return once(flags, &config, interrupts, ui, Request::Eval(script));
            }
        },
    }
    Ok(0)
}

fn reporter(flags: &Flags) -> Result<Reporter, Report> {
    let mode = match (flags.json, tty::is_terminal_out()) {
        (true, _) => Mode::Json,
        (false, true) => Mode::Terminal,
        (false, false) => Mode::Plain,
    };
    let style = Style::auto(flags.color.into(), tty::is_terminal_out());
    let style_err = Style::auto(flags.color.into(), tty::is_terminal_err());
    Ok(Reporter::new(mode, style, style_err, flags.quiet, Output::open(flags.log.as_deref())?))
}

/// Starts what evaluates: compute threads, the evaluation thread.
fn start(
    flags: &Flags,
    config: &Config,
    settings: &Settings,
    interrupts: &Interrupts,
) -> Result<Worker, Report> {
    flags.validate(config)?;
    Worker::start(settings.clone(), interrupts.cancel())
        .map_err(|e| Report::new("internal", format!("the evaluation thread cannot be started: {e}")))
}

/// Runs one request and leaves.
fn once(
    flags: &Flags,
    config: &Config,
    interrupts: &Interrupts,
    ui: &mut Reporter,
    request: Request,
) -> Result<u8, Report> {
    let settings = flags.settings(false);
    let worker = start(flags, config, &settings, interrupts)?;
    let finished = run::run(&worker, interrupts, ui, request);
    if (interrupts.exit().is_some() || finished.fault) && finished.snapshot.is_some() {
        run::rescue(&worker, ui);
    }
    Ok(finished.code)
}

fn prompt(flags: &Flags, config: Config, interrupts: &Interrupts, ui: &mut Reporter) -> Result<u8, Report> {
    let settings = flags.settings(true);
    let worker = start(flags, &config, &settings, interrupts)?;
    interrupts.belong_to_prompt();
    let repl = Repl::new(&worker, interrupts, ui, settings, config)
        .map_err(|e| Report::new("internal", format!("the prompt cannot be opened: {e}")))?;
    Ok(repl.run())
}

fn from_stdin(ui: &mut Reporter) -> Result<String, Report> {
    if tty::is_terminal_in() {
        ui.remark(Role::Dim, "stdout is no terminal: type a script, Ctrl-D ends it");
    }
    let mut code = String::new();
    std::io::stdin().read_to_string(&mut code).map_err(|e| {
        Report::usage(format!("stdin cannot be read: {e}")).hint("give a script as UTF-8 text, or -e CODE")
    })?;
    Ok(code)
}

/// The text that a shell reads to complete our command lines. Errors (exit code 2): a shell that cannot.
fn completions(shell: Shell) -> Result<String, Report> {
    let name = shell.to_string();
    let shells = Shells::builtins();
    let writer =
        shells.completer(&name).ok_or_else(|| Report::usage(format!("nothing is known of {name}")))?;
    let mut text = Vec::new();
    // By its name, as it is found on the path then.
    writer
        .write_registration("COMPLETE", "scumble", "scumble", "scumble", &mut text)
        .map_err(|e| Report::new("internal", format!("completions: {e}")))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn check(names: &[String], ui: &mut Reporter) -> u8 {
    let mut code = 0;
    for name in names {
        let reports = thread::run(|| recipes::check(name));
        for report in &reports {
            ui.report(report);
            code = code.max(report.exit.code());
        }
        if reports.is_empty() {
            ui.out(&format!("{name}: nothing found"));
        }
    }
    code
}

fn doc(name: &str, ui: &mut Reporter) -> Result<(), Report> {
    let width = usize::from(tty::size().0).min(100);
    if name.is_empty() {
        ui.out(catalog::overview(width).trim_end());
        return Ok(());
    }
    let nothing =
        || Report::usage(format!("nothing is called \"{name}\"")).hint("scumble doc lists all names");
    let text = catalog::help(name, width).ok_or_else(nothing)?;
    ui.out(text.trim_end());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_flags_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_may_stand_before_and_after_the_command() {
        let parse = |words: &[&str]| settle::parse(&mut Config::default(), words).unwrap();
        let cli = parse(&["scumble", "--out", "a", "run", "magicmix", "s=-1.0", "--threads", "2"]);
        assert_eq!((cli.flags.out.to_str(), cli.flags.threads), (Some("a"), Some(2)));
        let Some(Command::Run { options, .. }) = cli.command else { panic!("no run") };
        assert_eq!(options, ["s=-1.0"]);
        assert_eq!(parse(&["scumble", "-e", "-1 + 2"]).evaluate.as_deref(), Some("-1 + 2"));
        assert_eq!(parse(&["scumble", "--color"]).flags.color, flags::Color::Always);
        assert_eq!(parse(&["scumble", "--color", "never"]).flags.color, flags::Color::Never);
    }
}
