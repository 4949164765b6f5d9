//! Terminal modes: what happens to them when a process is stopped, told to end, or loses its terminal.

use std::time::Duration;

use scumble::term::signals::ignores_hangup;

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

/// A run that takes minutes.
const LONG_RUN: &str = ":run text2image steps=900 n=4\r";

#[test]
fn a_lost_connection_ends_the_program_and_keeps_the_latent() {
    // At the prompt, and while something runs.
    for busy in [false, true] {
        let room = Room::new();
        let Some(mut terminal) = Terminal::start(&room, &["--no-init"]) else { return };
        if ignores_hangup() {
            return eprintln!("hang-ups are ignored here, as under nohup: not tested");
        }
        terminal.prompts();
        if busy {
            terminal.types(LONG_RUN);
            terminal.shows("sampling ");
        } else {
            terminal
                .enters("let m = load(\"emoji\"); let s = m.schedule(4); s.step(m.noise(1), m.noise(2), 0);");
        }
        terminal.hangs_up();
        assert_eq!(terminal.ends(), 129, "busy: {busy}");
        if busy {
            assert_eq!(files(&room.path("out")), ["text2image-latent.safetensors"]);
        }
    }
}

#[test]
fn a_run_that_keeps_going_finishes_without_its_terminal() {
    let room = Room::new();
    let args = ["--keep-going", "run", "text2image", "steps=60"];
    let Some(mut terminal) = Terminal::start(&room, &args) else { return };
    terminal.shows("sampling ");
    terminal.hangs_up();
    assert_eq!(terminal.ends(), 0);
    assert_eq!(files(&room.path("out")), ["text2image.png"]);
}

#[test]
fn the_third_ctrl_c_ends_the_program_at_once() {
    let room = Room::new();
    // A step that never ends.
    let Some(mut terminal) = faulty(&room, "stuck") else { return };
    terminal.shows("SCUMBLE_FAULT=stuck");
    for text in ["stopping after this step", "still stopping"] {
        terminal.types("\x03");
        terminal.shows(text);
    }
    terminal.types("\x03");
    assert_eq!(terminal.ends(), 130);
    assert!(terminal.echoes(), "the terminal is as it was");
}

#[test]
fn ctrl_z_in_a_view_stops_the_whole_job() {
    let room = Room::new();
    // The script would wait for the program if it was not stopped itself.
    let script =
        "sh -c '\"$SCUMBLE\" --no-init; echo script ends'; echo job stopped; sleep 2; fg; echo all ends";
    let Some(mut terminal) = shell(&room, script) else { return };
    terminal.prompts();
    terminal.enters("let c = [1.0, 0.5, 0.2];");
    terminal.types(":view c\r");
    terminal.shows("c: 3 steps");
    terminal.types("\x1a");
    terminal.shows("\x1b[?1049l");
    terminal.shows("job stopped");
    terminal.shows("\x1b[?1049h");
    terminal.shows("c: 3 steps");
    terminal.types("q");
    terminal.prompts();
    terminal.types(":quit\r");
    terminal.shows("script ends");
    terminal.shows("all ends");
}

#[test]
fn a_terminal_that_takes_nothing_for_a_while_still_gets_its_screen_back() {
    let room = Room::new();
    let Some(mut terminal) = Terminal::start(&room, &["--no-init"]) else { return };
    terminal.prompts();
    terminal.enters("let c = [1.0, 0.5, 0.2];");
    terminal.types(":view c\r");
    terminal.shows("c: 3 steps");
    terminal.stalls();
    terminal.types("q");
    std::thread::sleep(Duration::from_millis(500));
    terminal.flows();
    terminal.shows("\x1b[?1049l");
    terminal.prompts();
}

/// The program on a terminal, with a fault at the third step of a run.
fn faulty(room: &Room, thread: &str) -> Option<Terminal> {
    let mut command = room.command(&["--no-init"]);
    command.env("SCUMBLE_GRAPHICS", "none").env("SCUMBLE_FAULT", thread);
    let mut terminal = Terminal::run(command)?;
    terminal.prompts();
    terminal.types(":run text2image steps=200\r");
    Some(terminal)
}

#[test]
fn a_panic_of_the_main_thread_leaves_a_whole_terminal_and_the_latent() {
    let room = Room::new();
    let Some(mut terminal) = faulty(&room, "ui") else { return };
    let text = terminal.shows("scumble itself failed: SCUMBLE_FAULT=ui (src/ui/worker.rs:");
    assert!(!text.contains("stack backtrace"));
    terminal.shows("The history is kept. Please report");
    terminal.shows("the last latent was saved: out/text2image-latent.safetensors");
    assert_eq!(terminal.ends(), 1);
    assert!(terminal.echoes(), "the terminal is as it was");
    let history = std::fs::read_to_string(room.path("state/scumble/history.txt")).unwrap();
    assert!(history.contains(":run text2image steps=200"), "{history}");
}

#[test]
fn a_panic_of_the_evaluation_leaves_the_session_and_the_latent() {
    let room = Room::new();
    let Some(mut terminal) = faulty(&room, "evaluation") else { return };
    terminal.shows("scumble itself failed here: SCUMBLE_FAULT=evaluation");
    let text = terminal.prompts();
    assert!(text.contains("a panic at src/ui/worker.rs:") && text.contains("please report"), "{text}");
    assert!(terminal.enters("type_of(ans)").contains("Latent"));
    terminal.types(":quit\r");
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn after_a_panic_that_was_told_at_once_the_terminal_is_still_ours() {
    let room = Room::new();
    let mut command = room.command(&["--no-init"]);
    command.env("SCUMBLE_GRAPHICS", "none").env("SCUMBLE_FAULT", "evaluation").env("RUST_BACKTRACE", "1");
    let Some(mut terminal) = Terminal::run(command) else { return };
    terminal.prompts();
    terminal.types(":run text2image steps=200\r");
    terminal.shows("scumble itself failed: SCUMBLE_FAULT=evaluation");
    terminal.prompts();
    terminal.enters("let c = [1.0, 0.5, 0.2];");
    terminal.types(":view c\r");
    terminal.shows("c: 3 steps");
    terminal.types("q");
    terminal.prompts();
}
