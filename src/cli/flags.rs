//! The table of flags and commands.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::{ArgValueCompleter, Shell};

use super::complete;
use crate::engine::device;
use crate::engine::ops;
use crate::engine::weights::locate;
use crate::report::Report;
use crate::script::Settings;
use crate::term::style::ColorChoice;
use crate::ui::config::Config;
use crate::ui::units;

/// An interactive terminal shell for diffusion models. Without a command: the prompt; a script on stdin is evaluated.
#[derive(Parser, Debug)]
#[command(name = "scumble", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Evaluate code, print its value, exit
    #[arg(short = 'e', value_name = "CODE", allow_hyphen_values = true)]
    pub evaluate: Option<String>,

    /// What applies to every command.
    #[command(flatten)]
    pub flags: Flags,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a recipe: a built-in name or a file
    #[command(disable_help_flag = true)]
    Run {
        /// Name or file (none: list the built-in ones)
        #[arg(add = ArgValueCompleter::new(complete::recipes))]
        recipe: Option<String>,
        /// Options of the recipe
        #[arg(value_name = "key=value", add = ArgValueCompleter::new(complete::options))]
        options: Vec<String>,
        /// Run it again whenever its file is saved, with the model kept in memory
        #[arg(short, long)]
        watch: bool,
        /// Show what the recipe does, its options and examples
        #[arg(short, long)]
        help: bool,
    },
    /// Find unknown names, options and wrong argument counts without running
    Check {
        /// Names or files
        #[arg(required = true, value_name = "RECIPE", add = ArgValueCompleter::new(complete::recipes))]
        recipes: Vec<String>,
    },
    /// Show the function reference, or one entry of it
    Doc {
        /// A function, method or type; two words search
        #[arg(add = ArgValueCompleter::new(complete::documented))]
        name: Vec<String>,
        /// The whole reference as Markdown
        #[arg(long)]
        markdown: bool,
    },
    /// Say what was found here: device, memory, threads, terminal, folders
    Doctor {
        /// Show a test card in each way that this terminal shows pictures
        #[arg(long)]
        pictures: bool,
    },
    /// Print what makes Tab complete flags, recipes and their options in your shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page: scumble man | man -l -
    Man,
    /// Print the licences and credits of what ships inside the program
    Licenses,
}

/// When to use colors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl From<Color> for ColorChoice {
    fn from(color: Color) -> Self {
        match color {
            Color::Auto => ColorChoice::Auto,
            Color::Always => ColorChoice::Always,
            Color::Never => ColorChoice::Never,
        }
    }
}

/// Types to compute in.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Dtype {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// Half precision with the exponents of single.
    Bf16,
}

/// What applies to every command.
#[derive(Args, Debug)]
pub struct Flags {
    /// Model: emoji, a diffusers folder, or org/name from the Hugging Face cache
    #[arg(long, global = true, default_value = "emoji", value_name = "NAME|DIR|HUB-ID",
          add = ArgValueCompleter::new(complete::models))]
    pub model: String,
    /// Device: auto, cpu, cuda, cuda:N or metal
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE")]
    pub device: String,
    /// Type to compute in
    #[arg(long, global = true, value_enum, default_value = "f32")]
    pub dtype: Dtype,
    /// Folder for results
    #[arg(long, global = true, default_value = "out", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
    /// Threads to compute with [default: the least of affinity, cgroup and SLURM_CPUS_PER_TASK]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Keep no transformed copies of the weights: less memory, somewhat slower
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_name = "BOOL")]
    pub lean: bool,
    /// Most memory to hold, like 2G or 500M [default: what the machine or the cgroup has]
    #[arg(long, global = true, value_name = "SIZE", value_parser = units::size)]
    pub max_memory: Option<u64>,
    /// Longest time for a cell or recipe, like 90s, 5m or 1h
    #[arg(long, global = true, value_name = "TIME", value_parser = units::time)]
    pub max_time: Option<Duration>,
    /// Folder that recipes may read, besides the working folder (may be repeated)
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub allow_read: Vec<PathBuf>,
    /// Folder that recipes may write, besides --out (may be repeated)
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub allow_write: Vec<PathBuf>,
    /// Finish a run even when the terminal hangs up
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_name = "BOOL")]
    pub keep_going: bool,
    /// Append cells, values, notes, paths and errors to a file
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub log: Option<PathBuf>,
    /// Events as JSON lines on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress and no remarks
    #[arg(short, long, global = true, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_name = "BOOL")]
    pub quiet: bool,
    /// When to use colors; alone: always
    #[arg(long, global = true, value_enum, value_name = "WHEN", num_args = 0..=1, default_value = "auto",
          default_missing_value = "always")]
    pub color: Color,
    /// Do not run init files
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_name = "BOOL")]
    pub no_init: bool,
}

impl Flags {
    /// What the session needs to know.
    pub fn settings(&self, interactive: bool) -> Settings {
        let dtype = match self.dtype {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        };
        Settings {
            model: self.model.clone(),
            device: self.device.clone(),
            dtype: dtype.to_string(),
            out: self.out.clone(),
            allow_read: self.allow_read.clone(),
            allow_write: self.allow_write.clone(),
            max_memory: self.max_memory.or_else(device::memory_limit),
            max_time: self.max_time,
            threads: self.threads.map(usize::from),
            no_init: self.no_init,
            interactive,
        }
    }

    /// Values that the table cannot judge.
    /// Errors (exit code 2): a device that is not here, a model that is not there.
    pub fn validate(&self, config: &Config) -> Result<(), Report> {
        let usage = |name: &str, e: &crate::engine::Error| {
            let mut report = Report::usage(format!("{}: {}", config.label(name), e.message()));
            report.kind = e.kind().name().to_string();
            report.expected = e.expected_text().map(String::from);
            report.got = e.got_text().map(String::from);
            report.hint = e.hint_text().map(String::from);
            report
        };
        ops::level_cap().map_err(|got| {
            let mut report =
                Report::usage(format!("{} names no level of vector instructions", ops::LEVEL_VARIABLE));
            report.expected = Some("portable, avx2 or avx512".into());
            report.got = Some(got);
            report
        })?;
        device::open(&self.device).map_err(|e| usage("device", &e))?;
        locate::locate(&self.model).map_err(|e| usage("model", &e))?;
        Ok(())
    }
}
