//! Where the program keeps its own files: XDG folders.

use std::path::PathBuf;

/// `init.rhai` in the configuration folder: run at the start of a prompt.
pub fn init_file() -> Option<PathBuf> {
    dirs::config_dir().map(|d| d.join("scumble").join("init.rhai"))
}

/// Where the history is kept: the state folder, which macOS does not have.
pub fn history_file() -> Option<PathBuf> {
    dirs::state_dir().or_else(dirs::data_local_dir).map(|d| d.join("scumble").join("history.txt"))
}
