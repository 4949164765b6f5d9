//! Terminal modes: what happens to them when a process is stopped, told to end, or loses its terminal.

use std::time::Duration;

use crate::program::{Room, files, until};
use crate::terminal::Terminal;

const LONG: Duration = Duration::from_secs(60);

/// A shell with job control that runs a script; `$SCUMBLE` is the program.
fn shell(room: &Room, script: &str) -> Option<Terminal> {
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", &format!("set -m\n{script}")]).current_dir(room.path(""));
    command.env_clear().envs(room.environment()).env("SCUMBLE", env!("CARGO_BIN_EXE_scumble"));
    command.env("SCUMBLE_GRAPHICS", "none");
    Terminal::run(command)
}

#[test]
fn ctrl_z_gives_the_shell_its_terminal_and_the_run_goes_on_after_it() {
    let room = Room::new();
    let script = "\"$SCUMBLE\" run text2image steps=60; echo stopped $?; sleep 0.5; fg; echo ended $?";
    let Some(mut terminal) = shell(&room, script) else { return };
    terminal.shows("sampling");
    assert!(!terminal.echoes());
    terminal.types("\x1a");
    terminal.shows("stopped ");
    assert!(terminal.echoes(), "the shell has its modes back");
    until("quiet again", LONG, || !terminal.echoes());
    terminal.shows("sampling ");
    terminal.shows("ended 0");
    assert!(terminal.echoes());
    assert_eq!(files(&room.path("out")), ["text2image.png"]);
}
