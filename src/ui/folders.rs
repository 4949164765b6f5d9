//! Where the program keeps its own files: XDG folders.

use std::path::PathBuf;

/// `init.rhai` in the configuration folder: run at the start of a prompt.
pub fn init_file() -> Option<PathBuf> {
    dirs::config_dir().map(|d| d.join("scumble").join("init.rhai"))
}

/// `config.toml` in the configuration folder: the settings, see [`super::config`].
pub fn config_file() -> Option<PathBuf> {
    dirs::config_dir().map(|d| d.join("scumble").join("config.toml"))
}

/// Where the history is kept.
pub fn history_file() -> Option<PathBuf> {
    state("history.txt")
}

/// The list of init files that were trusted, see [`super::trust`].
pub fn trusted_file() -> Option<PathBuf> {
    state("trusted.json")
}

/// A file in the state folder, which macOS does not have.
fn state(name: &str) -> Option<PathBuf> {
    dirs::state_dir().or_else(dirs::data_local_dir).map(|d| d.join("scumble").join(name))
}
