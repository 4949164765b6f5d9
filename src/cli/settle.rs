//! The command line over the settings: what the file and the variables say are the flags' defaults.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, Error, FromArgMatches};

use super::flags::Cli;
use crate::ui::config::Config;
use crate::ui::config::keys::{KEYS, Takes};

/// Parses the command line. Flags that were given are noted in `config`, whose other values count where none was.
/// Errors: what cannot be parsed, and help and version, which are no errors.
pub fn parse<T: Into<OsString> + Clone>(
    config: &mut Config,
    words: impl IntoIterator<Item = T>,
) -> Result<Cli, Error> {
    let mut matches = with_defaults(Cli::command(), config).try_get_matches_from(words)?;
    for key in KEYS.iter().filter(|k| k.flag) {
        if given(&matches, key.name) {
            let text: Vec<String> = matches
                .get_raw(key.name)
                .into_iter()
                .flatten()
                .map(|v| v.to_string_lossy().into_owned())
                .collect();
            config.flag(key.name, text.join(":"));
        }
    }
    Cli::from_arg_matches_mut(&mut matches)
}

fn given(matches: &ArgMatches, name: &str) -> bool {
    matches.value_source(name) == Some(ValueSource::CommandLine)
}

fn with_defaults(mut command: Command, config: &Config) -> Command {
    for key in KEYS.iter().filter(|k| k.flag) {
        let Some(text) = config.beside_flags(key) else { continue };
        let values: Vec<String> = match key.takes {
            Takes::Paths => text.split(':').filter(|p| !p.is_empty()).map(String::from).collect(),
            _ => vec![text.to_string()],
        };
        if !values.is_empty() {
            command = command.mut_arg(key.name, |arg| arg.default_values(values));
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        format!("scumble {text}").split(' ').map(String::from).collect()
    }

    #[test]
    fn every_setting_with_a_flag_has_one() {
        let command = Cli::command();
        for key in KEYS {
            let arg = command.get_arguments().find(|a| a.get_id() == key.name);
            assert_eq!(arg.is_some(), key.flag, "{}", key.name);
            if let Some(arg) = arg {
                assert_eq!(arg.get_long(), Some(key.flag_name().as_str()));
            }
        }
    }

    #[test]
    fn settings_are_the_defaults_of_flags() {
        let mut config = Config::default();
        for (name, value) in [("dtype", "bf16"), ("threads", "3"), ("lean", "true"), ("allow_read", "a:b")] {
            config.set(name, value).unwrap();
        }
        let cli = parse(&mut config, words("run magicmix --threads 2 --allow-read c")).unwrap();
        assert_eq!((cli.flags.threads, cli.flags.lean), (Some(2), true));
        assert_eq!(cli.flags.allow_read, [std::path::Path::new("c")]);
        assert_eq!(config.label("threads"), "--threads");
        assert_eq!(config.label("dtype"), ":set dtype");
        assert!(matches!(cli.flags.dtype, super::super::flags::Dtype::Bf16));
        let cli = parse(&mut Config::default(), words("--lean=false -q run magicmix")).unwrap();
        assert!(!cli.flags.lean && cli.flags.quiet);
    }
}
