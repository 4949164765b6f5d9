//! The program on a terminal: what is typed, what is stopped, what is trusted, what a background job leaves alone.

use std::time::Duration;

use rustix::process::Signal;
use scumble::term::signals::ignores_hangup;

use crate::program::{Room, files, send, until};
use crate::terminal::Terminal;

const LONG: Duration = Duration::from_secs(60);
/// A cell that takes a moment; its value is not in its text.
const BUSY: &str = "let s = 0; for i in 0..2000000 { s += 1 } \"busy \" + s";

#[test]
fn no_key_of_a_burst_is_lost() {
    let room = Room::new();
    let Some(mut terminal) = Terminal::start(&room, &["--no-init"]) else { return };
    terminal.prompts();
    let mut burst = String::from("let n = 0\nfn twice(x) {\n    x * 2\n}\n");
    (0..300).for_each(|i| burst.push_str(&format!("n += 1 // {i}\n")));
    // While a cell runs.
    terminal.types(&format!("{BUSY}\r"));
    std::thread::sleep(Duration::from_millis(100));
    terminal.types(&format!("{burst}print(\"twice \" + twice(n))\n"));
    terminal.shows("busy 2000000");
    terminal.shows("\ntwice 600");
    // While the prompt waits, and with the key that Enter is there.
    terminal.types(&format!("{burst}print(\"again \" + twice(n + 1))\n").replace('\n', "\r"));
    terminal.shows("\nagain 602");
    terminal.types("\x04");
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn ctrl_c_stops_the_cell_and_keeps_the_session() {
    let room = Room::new();
    let Some(mut terminal) = Terminal::start(&room, &["--no-init"]) else { return };
    terminal.prompts();
    terminal.enters("let kept = 6");
    terminal.types("loop { let x = 1; }\r");
    until("the cell runs", LONG, || !terminal.echoes());
    std::thread::sleep(Duration::from_millis(200));
    terminal.types("\x03");
    terminal.shows("stopped");
    terminal.prompts();
    assert!(terminal.enters("kept * 7").contains("42\r\n"));
    // At the prompt it clears the line.
    terminal.types("nonsense\x03");
    terminal.prompts();
    assert!(terminal.enters("kept * 8").contains("48\r\n"));
    terminal.types(":quit\r");
    assert_eq!(terminal.ends(), 0);
    assert!(terminal.echoes(), "the terminal is as it was");
}

#[test]
fn ctrl_c_ends_a_run_that_was_just_started() {
    let room = Room::new();
    for pause in [0, 30, 200] {
        let Some(mut terminal) = Terminal::start(&room, &["run", "text2image", "steps=900"]) else { return };
        until("the run begins", LONG, || !terminal.echoes());
        std::thread::sleep(Duration::from_millis(pause));
        terminal.types("\x03");
        assert_eq!(terminal.ends(), 130);
        assert!(terminal.echoes(), "the terminal is as it was");
    }
}

#[test]
fn a_signal_at_the_prompt_ends_it() {
    let room = Room::new();
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        if signal == Signal::HUP && ignores_hangup() {
            eprintln!("hang-ups are ignored here, as under nohup: not tested");
            continue;
        }
        let Some(mut terminal) = Terminal::start(&room, &["--no-init"]) else { return };
        terminal.prompts();
        send(&terminal.child, signal);
        assert_eq!(terminal.ends(), code);
        assert!(terminal.echoes(), "the terminal is as it was");
    }
}

#[test]
fn a_run_at_the_prompt_that_is_terminated_keeps_its_latent() {
    let room = Room::new();
    let Some(mut terminal) = Terminal::start(&room, &["--no-init"]) else { return };
    terminal.prompts();
    terminal.types(":run text2image steps=900 n=4\r");
    terminal.shows("sampling ");
    send(&terminal.child, Signal::TERM);
    terminal.shows("the last latent was saved");
    assert_eq!(terminal.ends(), 143);
    assert_eq!(files(&room.path("out")), ["text2image-latent.safetensors"]);
}

#[test]
fn the_init_file_of_a_folder_waits_for_trust() {
    let room = Room::new();
    room.write("config/scumble/init.rhai", "let mine = 11; print(\"own init\");");
    room.write(".scumble/init.rhai", "let theirs = 22; print(\"folder init\"); // one");
    let start = |args: &[&str]| {
        let mut terminal = Terminal::start(&room, args)?;
        let banner = terminal.prompts();
        Some((terminal, banner))
    };
    let Some((mut terminal, banner)) = start(&[]) else { return };
    assert!(banner.contains("own init\r\n"), "the user's own needs no trust: {banner}");
    assert!(!banner.contains("folder init\r\n"), "{banner}");
    assert_eq!(banner.matches("was not run: it came with this folder").count(), 1, "{banner}");
    assert!(banner.contains("type :trust"), "{banner}");
    assert!(terminal.enters("theirs").contains("theirs"));
    assert!(terminal.enters(":doctor").contains("never trusted"));
    assert!(terminal.enters(":trust").contains("folder init\r\n"));
    assert!(terminal.enters("mine + theirs").contains("33\r\n"));
    assert!(terminal.enters(":trust").contains("trusted already"));
    drop(terminal);
    // From now on it runs, until its text is another.
    let Some((mut terminal, banner)) = start(&[]) else { return };
    assert!(banner.contains("folder init\r\n") && !banner.contains("was not run"), "{banner}");
    assert!(terminal.enters("mine + theirs").contains("33\r\n"));
    drop(terminal);
    room.write(".scumble/init.rhai", "let theirs = 23; print(\"folder init\"); // two");
    let Some((mut terminal, banner)) = start(&[]) else { return };
    assert!(banner.contains("it changed since you trusted it") && !banner.contains("folder init\r\n"));
    assert!(terminal.enters(":trust").contains("folder init\r\n"));
    drop(terminal);
    let Some((_, banner)) = start(&["--no-init"]) else { return };
    assert!(!banner.contains("init"), "{banner}");
    // Without a prompt nothing of the kind runs.
    assert_eq!(room.run(&["-e", "1 + 1"]).out, "2\n");
    // A copy of the folder elsewhere, with the same text, is not trusted.
    room.write("copy/.scumble/init.rhai", "let theirs = 23; print(\"folder init\"); // two");
    let mut command = room.command(&[]);
    command.current_dir(room.path("copy")).env("SCUMBLE_GRAPHICS", "none");
    let Some(mut terminal) = Terminal::run(command) else { return };
    assert!(terminal.prompts().contains("it came with this folder"));
}

#[test]
fn trust_without_an_init_file_says_so() {
    let room = Room::new();
    let Some(mut terminal) = Terminal::start(&room, &[]) else { return };
    assert!(!terminal.prompts().contains("was not run"));
    assert!(terminal.enters(":trust").contains("there is no .scumble/init.rhai"));
}

/// A shell that runs a script.
fn shell(room: &Room, script: &str) -> Option<Terminal> {
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", script]).current_dir(room.path(""));
    command.env_clear().envs(room.environment()).env("SCUMBLE", env!("CARGO_BIN_EXE_scumble"));
    Terminal::run(command)
}

#[test]
fn a_background_job_leaves_the_terminal_alone() {
    // With job control, as people type it, and without, as scripts have it.
    for control in ["set -m", ":"] {
        let room = Room::new();
        let run = "\"$SCUMBLE\" run text2image steps=60 & echo begun; wait $!; echo ended $?";
        let Some(mut terminal) = shell(&room, &format!("{control}\n{run}")) else { return };
        terminal.shows("begun\r\n");
        let mut echoed = true;
        until("the job's end", LONG, || {
            echoed &= terminal.echoes();
            terminal.text().contains("ended")
        });
        let text = terminal.shows("ended 0");
        assert!(echoed, "the modes are the shell's: {control}");
        assert!(
            control == ":" || !text.contains("\x1b[K"),
            "nothing is drawn over the shell's line: {text:?}"
        );
        assert_eq!(terminal.ends(), 0);
        assert_eq!(files(&room.path("out")), ["text2image.png"]);
    }
}

#[test]
fn a_foreground_job_hides_what_is_typed_until_it_ends() {
    let room = Room::new();
    let script = "set -m\n\"$SCUMBLE\" run text2image steps=60; echo ended $?";
    let Some(mut terminal) = shell(&room, script) else { return };
    until("quiet", LONG, || !terminal.echoes());
    terminal.shows("ended 0");
    assert!(terminal.echoes());
}

#[test]
fn on_a_terminal_too_the_path_comes_last() {
    let room = Room::new();
    room.write(
        "mine.rhai",
        "let o = options(args, #{});\nfinish(open(\"dog-flat.png\"), o);\nprint(\"more\");",
    );
    let Some(mut terminal) = Terminal::start(&room, &["run", "mine.rhai"]) else { return };
    assert_eq!(terminal.ends(), 0);
    assert_eq!(terminal.shows("mine.png\r\n").replace("\r\n", "|"), "more|out/mine.png|");
}

#[test]
fn the_terminal_is_asked_what_it_can_show() {
    let room = Room::new();
    let mut command = room.command(&["--no-init"]);
    command.env("SCUMBLE_MARKS", "off");
    let Some(mut terminal) = Terminal::run(command) else { return };
    terminal.shows("\x1b[c");
    // What is typed meanwhile is not lost among the answers.
    terminal.types("let t = 4\rt\x1bP>|kitty(0.35.2)\x1b\\ * \x1b_Gi=31;OK\x1b\\\x1b[?62;c7\r");
    terminal.shows("pictures as kitty");
    terminal.shows("\n28\r\n");
    terminal.types("open(\"dog-flat.png\")\r");
    terminal.shows("\x1b_Ga=T,f=100,q=2,i=");
    terminal.types(":quit\r");
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn a_terminal_that_says_nothing_costs_no_time() {
    let room = Room::new();
    let Some(mut terminal) = Terminal::run(room.command(&["--no-init"])) else { return };
    let started = std::time::Instant::now();
    terminal.shows("pictures as blocks");
    assert!(started.elapsed() < Duration::from_secs(5));
    terminal.prompts();
    assert!(terminal.enters("5 * 5").contains("25\r\n"));
}
