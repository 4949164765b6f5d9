//! The command line: flags, modes, exit codes.

use std::fs::OpenOptions;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::engine::device;
use crate::engine::observe::Cancel;
use crate::report::Report;
use crate::script::host::Settings;
use crate::script::{catalog, options, recipes};
use crate::term::probe::{self, Caps, Protocol};
use crate::term::style::{ColorChoice, Style};
use crate::term::tty;
use crate::ui::interrupt::Interrupts;
use crate::ui::repl::Repl;
use crate::ui::reporter::{Mode, Reporter};
use crate::ui::worker::{Request, Worker};
use crate::ui::{doctor, meta, run};

/// An interactive terminal shell for diffusion models. Without a command: the prompt.
#[derive(Parser, Debug)]
#[command(name = "scumble", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    /// Evaluate code, print its value, exit
    #[arg(short = 'e', value_name = "CODE", allow_hyphen_values = true)]
    evaluate: Option<String>,

    #[command(flatten)]
    flags: Flags,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a recipe: a built-in name or a file
    #[command(disable_help_flag = true)]
    Run {
        /// Name or file (none: list the built-in ones)
        recipe: Option<String>,
        /// Options of the recipe
        #[arg(value_name = "key=value")]
        options: Vec<String>,
        /// Show what the recipe does, its options and examples
        #[arg(short, long)]
        help: bool,
    },
    /// Find unknown names, options and wrong argument counts without running
    Check {
        /// Names or files
        #[arg(required = true)]
        recipes: Vec<String>,
    },
    /// Show the function reference, or one entry of it
    Doc {
        /// A function, method or type; two words search
        name: Vec<String>,
        /// The whole reference as Markdown
        #[arg(long)]
        markdown: bool,
    },
    /// Say what was found on this machine: device, memory, terminal, folders
    Doctor,
    /// Print the licences of what ships inside the program
    Licenses,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Args, Debug)]
struct Flags {
    /// Model: emoji, a diffusers folder, or org/name from the Hugging Face cache
    #[arg(long, global = true, default_value = "emoji", value_name = "NAME|DIR|HUB-ID")]
    model: String,
    /// auto, cpu, cuda, cuda:N or metal
    #[arg(long, global = true, default_value = "auto")]
    device: String,
    /// Type to compute in: f32, f16 or bf16
    #[arg(long, global = true, default_value = "f32")]
    dtype: String,
    /// Folder for results
    #[arg(long, global = true, default_value = "out", value_name = "DIR")]
    out: PathBuf,
    /// Threads to compute with [default: the least of affinity, cgroup and SLURM_CPUS_PER_TASK]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Most memory to hold, like 2G or 500M [default: what the machine or the cgroup has]
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size)]
    max_memory: Option<u64>,
    /// Longest time for a cell or recipe, like 90s, 5m or 1h
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_time)]
    max_time: Option<Duration>,
    /// Folder that recipes may read, besides the working folder (may be repeated)
    #[arg(long, global = true, value_name = "DIR")]
    allow_read: Vec<PathBuf>,
    /// Folder that recipes may write, besides --out (may be repeated)
    #[arg(long, global = true, value_name = "DIR")]
    allow_write: Vec<PathBuf>,
    /// Finish a run even when the terminal hangs up
    #[arg(long, global = true)]
    keep_going: bool,
    /// Append everything that is printed to a file
    #[arg(long, global = true, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Events as JSON lines on stdout
    #[arg(long, global = true)]
    json: bool,
    /// No progress and no remarks
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Colors
    #[arg(long, global = true, value_enum, default_value = "auto")]
    color: Color,
    /// Do not run init files
    #[arg(long, global = true)]
    no_init: bool,
}

/// Parses the command line and does what it says; the exit code.
pub fn main() -> ExitCode {
    tty::save_initial();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors. A closed pipe is none either.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    ExitCode::from(dispatch(cli))
}

fn dispatch(cli: Cli) -> u8 {
    let flags = &cli.flags;
    let mut ui = match reporter(flags) {
        Ok(ui) => ui,
        Err(text) => {
            eprintln!("error: {text}");
            return 2;
        }
    };
    if let Err(report) = validate(flags) {
        ui.report(&report);
        return report.exit.code();
    }
    let interactive = cli.command.is_none() && cli.evaluate.is_none() && tty::is_terminal_in();
    let settings = settings(flags, interactive);
    start_threads(&settings);
    match cli.command {
        Some(Command::Run { recipe: None, .. }) => {
            ui.out(&recipe_list());
            0
        }
        Some(Command::Run { recipe: Some(name), help: true, .. }) => recipe_help(&name, &settings, &mut ui),
        Some(Command::Run { recipe: Some(name), options, help: false }) => match meta::pairs(&options) {
            Ok(pairs) => once(&settings, flags, ui, Request::Run(name, pairs)),
            Err(why) => {
                ui.report(&Report::usage(why).hint(format!("scumble run {name} --help shows its options")));
                2
            }
        },
        Some(Command::Check { recipes }) => check(&recipes, &mut ui),
        Some(Command::Doc { name, markdown }) => doc(&name.join(" "), markdown, &mut ui),
        Some(Command::Doctor) => {
            let caps = ui.caps().cloned().unwrap_or_else(probe::probe);
            ui.out(&doctor::report(&settings, &caps));
            0
        }
        Some(Command::Licenses) => {
            ui.out(include_str!("../models/LICENSES.md").trim_end());
            0
        }
        None => match cli.evaluate {
            Some(code) => once(&settings, flags, ui, Request::Eval(code)),
            None if interactive && tty::is_terminal_out() && !flags.json => prompt(&settings, flags, ui),
            None => from_stdin(&settings, flags, ui),
        },
    }
}

fn reporter(flags: &Flags) -> Result<Reporter, String> {
    let mode = match (flags.json, tty::is_terminal_out()) {
        (true, _) => Mode::Json,
        (false, true) => Mode::Terminal,
        (false, false) => Mode::Plain,
    };
    let choice = match flags.color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    };
    let log = match &flags.log {
        Some(path) => Some(
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|e| format!("--log {}: {e}", path.display()))?,
        ),
        None => None,
    };
    let caps = (mode == Mode::Terminal)
        .then(probe::probe)
        .filter(|c| c.protocol != Protocol::None || !tty::is_terminal_out());
    let style = Style::auto(choice, tty::is_terminal_out());
    let style_err = Style::auto(choice, tty::is_terminal_err());
    Ok(Reporter::new(mode, style, style_err, flags.quiet, caps, log))
}

/// Values that clap cannot judge: told before anything runs.
fn validate(flags: &Flags) -> Result<(), Report> {
    if !matches!(flags.dtype.as_str(), "f32" | "f16" | "bf16") {
        return Err(
            Report::usage(format!("--dtype {}: no such type", flags.dtype)).expected("f32, f16 or bf16")
        );
    }
    device::open(&flags.device).map(|_| ()).map_err(|e| {
        let report = Report::usage(format!("--device: {}", e.message()));
        let report = e.expected_text().into_iter().fold(report, |r, t| r.expected(t));
        e.hint_text().into_iter().fold(report, |r, t| r.hint(t))
    })
}

fn settings(flags: &Flags, interactive: bool) -> Settings {
    Settings {
        model: flags.model.clone(),
        device: flags.device.clone(),
        dtype: flags.dtype.clone(),
        out: flags.out.clone(),
        allow_read: flags.allow_read.clone(),
        allow_write: flags.allow_write.clone(),
        max_memory: flags.max_memory.or_else(device::memory_limit),
        max_time: flags.max_time,
        threads: flags.threads.map(usize::from),
        no_init: flags.no_init,
        interactive,
    }
}

fn start_threads(settings: &Settings) {
    let threads = settings.threads.unwrap_or_else(device::threads);
    // The pool is made once per process; a second call would fail and changes nothing.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
}

/// Runs one request and leaves.
fn once(settings: &Settings, flags: &Flags, mut ui: Reporter, request: Request) -> u8 {
    let cancel = Cancel::default();
    let (worker, interrupts) = match engine(settings, flags, &cancel) {
        Ok(pair) => pair,
        Err(e) => {
            ui.report(&Report::new("internal", format!("the evaluation thread cannot be started: {e}")));
            return 1;
        }
    };
    let finished = run::run(&worker, &interrupts, &mut ui, request);
    if interrupts.exit().is_some() && finished.snapshot.is_some() {
        run::rescue(&worker, &mut ui);
    }
    if finished.code == 0 && ui.failed() { 1 } else { finished.code }
}

fn engine(settings: &Settings, flags: &Flags, cancel: &Cancel) -> std::io::Result<(Worker, Interrupts)> {
    let interrupts = Interrupts::install(cancel, flags.keep_going)?;
    Ok((Worker::start(settings.clone(), cancel)?, interrupts))
}

fn prompt(settings: &Settings, flags: &Flags, mut ui: Reporter) -> u8 {
    let typed: String = ui.caps().map(|c: &Caps| c.typed_ahead.clone()).unwrap_or_default();
    let cancel = Cancel::default();
    let (worker, interrupts) = match engine(settings, flags, &cancel) {
        Ok(pair) => pair,
        Err(e) => {
            ui.report(&Report::new("internal", format!("the evaluation thread cannot be started: {e}")));
            return 1;
        }
    };
    match Repl::new(&worker, &interrupts, &mut ui, settings) {
        Ok(repl) => repl.run(&typed),
        Err(e) => {
            ui.report(&Report::new("internal", format!("the prompt cannot be opened: {e}")));
            1
        }
    }
}

fn from_stdin(settings: &Settings, flags: &Flags, mut ui: Reporter) -> u8 {
    let mut code = String::new();
    if let Err(e) = std::io::stdin().read_to_string(&mut code) {
        ui.report(
            &Report::usage(format!("stdin cannot be read: {e}"))
                .hint("give a script as UTF-8 text, or -e CODE"),
        );
        return 2;
    }
    once(settings, flags, ui, Request::Eval(code))
}

fn recipe_list() -> String {
    let mut out = String::from("Recipes (scumble run NAME --help shows the options):\n");
    for name in recipes::names() {
        let header = recipes::find(name).map(|r| r.header).unwrap_or_default();
        let about = header.lines().next().unwrap_or_default();
        out.push_str(&format!("  {name:<16} {about}\n"));
    }
    out.trim_end().to_string()
}

fn recipe_help(name: &str, settings: &Settings, ui: &mut Reporter) -> u8 {
    match recipes::find(name) {
        Ok(recipe) => {
            let column = options::Column::of_model(&settings.model, &recipe.name);
            ui.out(recipes::help(&recipe, column.as_ref()).trim_end());
            0
        }
        Err(report) => {
            ui.report(&report);
            report.exit.code()
        }
    }
}

fn check(names: &[String], ui: &mut Reporter) -> u8 {
    let mut code = 0;
    for name in names {
        let reports = recipes::check(name);
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

fn doc(name: &str, markdown: bool, ui: &mut Reporter) -> u8 {
    if markdown {
        ui.out(catalog::reference_markdown().trim_end());
        return 0;
    }
    let width = usize::from(tty::size().0).min(100);
    if name.is_empty() {
        ui.out(overview().trim_end());
        return 0;
    }
    match catalog::help(name, width) {
        Some(text) => {
            ui.out(text.trim_end());
            0
        }
        None => {
            ui.report(
                &Report::usage(format!("nothing is called \"{name}\"")).hint("scumble doc lists all names"),
            );
            2
        }
    }
}

/// Every name of the reference by group, one line each.
fn overview() -> String {
    let mut out = String::new();
    let mut group = "";
    for entry in catalog::all() {
        if entry.group != group {
            group = &entry.group;
            out.push_str(&format!("\n{group}\n"));
        }
        let sentence = entry.doc.split_inclusive(". ").next().unwrap_or_default().trim_end();
        out.push_str(&format!("  {:<28} {}\n", entry.call, sentence));
    }
    out.push_str("\nscumble doc NAME shows one entry; two words search.");
    out.trim_start().to_string()
}

/// `500M`, `2G`, `1.5GiB`, plain bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: f64 = match unit.trim().to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 1.0,
        "k" => 1024.0,
        "m" => 1024.0 * 1024.0,
        "g" => 1024.0 * 1024.0 * 1024.0,
        "t" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err("a size is a number with K, M, G or T, like 2G".into()),
    };
    match number.parse::<f64>() {
        Ok(n) if n > 0.0 && n.is_finite() => Ok((n * factor) as u64),
        _ => Err("a size is a number with K, M, G or T, like 2G".into()),
    }
}

/// `90s`, `5m`, `1h`, `250ms`, plain seconds.
fn parse_time(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("a time is a number with s, m or h, like 90s".into()),
    };
    match number.parse::<f64>() {
        Ok(n) if n > 0.0 && n * factor < 1e9 => Ok(Duration::from_secs_f64(n * factor)),
        _ => Err("a time is a number with s, m or h, like 90s".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_flags_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!(parse_size("2G"), Ok(2 << 30));
        assert_eq!(parse_size("1.5 KiB"), Ok(1536));
        assert_eq!(parse_size("100"), Ok(100));
        assert!(parse_size("lots").is_err() && parse_size("-1G").is_err() && parse_size("0").is_err());
        assert_eq!(parse_time("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_time("2h"), Ok(Duration::from_secs(7200)));
        assert!(parse_time("soon").is_err() && parse_time("0").is_err());
    }
}
