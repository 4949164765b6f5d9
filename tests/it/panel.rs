//! The live panel on a terminal: what it leaves behind, and what it leaves alone.

use std::process::Stdio;
use std::time::Duration;

use scumble::term::signals::ignores_hangup;

use crate::program::{Room, files, until};
use crate::terminal::Terminal;

const LONG: Duration = Duration::from_secs(60);
/// A run that takes a while: more than the panel waits for.
const RUN: [&str; 3] = ["run", "text2image", "steps=50"];
const NONE: (&str, &str) = ("SCUMBLE_GRAPHICS", "none");
/// A cell that samples and prints on the way.
const PRINTS: &str = "let s = m.schedule(60); let z = m.noise(0); for i in 0..60 { \
                      z = s.step(z, m.guided(z, s.t(i), text, none, 7), i); print(\"line \" + i); }";

fn start(room: &Room, args: &[&str], more: &[(&str, &str)]) -> Option<Terminal> {
    let mut command = room.command(args);
    command.env("SCUMBLE_GRAPHICS", "blocks").envs(more.iter().copied());
    Terminal::run(command)
}

/// A prompt with a model.
fn prompt(room: &Room) -> Option<Terminal> {
    let mut terminal = start(room, &["--no-init"], &[])?;
    terminal.prompts();
    terminal.enters("let m = load(); let text = m.encode(\"a dog\"); let none = m.encode(\"\");");
    Some(terminal)
}

fn frames(lines: &[String]) -> usize {
    lines.iter().filter(|l| l.starts_with("── ")).count()
}

#[test]
fn the_last_frame_stays_and_the_prompt_is_clean() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room) else { return };
    terminal.enters(":run text2image steps=90");
    let lines = terminal.lines();
    assert_eq!(frames(&lines), 1, "{lines:#?}");
    let frame = lines.iter().position(|l| l.starts_with("── text2image: sampling")).unwrap();
    assert!(lines[frame + 1].contains("step 90 of 90"), "{lines:#?}");
    assert!(lines[frame + 1].contains("▀▀▀▀▀▀▀▀"), "the preview is beside it: {lines:#?}");
    let path = lines.iter().position(|l| l == "out/text2image.png").unwrap();
    assert!(path > frame, "the result is below: {lines:#?}");
    assert_eq!(lines.last().map(String::as_str), Some("scumble>"), "{lines:#?}");
    assert!(terminal.echoes() || !terminal.text().contains("\x1b[?25l"), "the cursor is never hidden");
    assert!(!terminal.text().contains("\x1b[6n"), "the terminal is not asked where the cursor is");
    assert!(terminal.text().contains("\x1b[?2026h"), "frames are synchronized");
    // NO_COLOR is set here: that is for text, a picture is nothing but colors. Only the panel sets both in one escape.
    assert!(terminal.text().contains(";48;5;"), "the preview has colors");
}

#[test]
fn printed_lines_go_above_and_none_is_lost() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room) else { return };
    terminal.types(&format!("{PRINTS}\r"));
    terminal.shows("line 59\r\n");
    terminal.prompts();
    let lines = terminal.lines();
    let printed: Vec<&String> = lines.iter().filter(|l| l.starts_with("line ")).collect();
    assert_eq!(printed, (0..60).map(|i| format!("line {i}")).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    assert_eq!(frames(&lines), 1, "{lines:#?}");
    let frame = lines.iter().position(|l| l.starts_with("── sampling")).unwrap();
    assert_eq!(lines[frame - 1], "line 59");
}

#[test]
fn keys_typed_ahead_wait_for_the_prompt() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room) else { return };
    terminal.types(":run text2image steps=90\r");
    terminal.sees("step ");
    terminal.types("let ahead = 6 * 7\rahead\rahead + 1");
    terminal.shows("out/text2image.png");
    terminal.shows("\x1b\\42\r\n");
    terminal.shows("ahead + 1");
    terminal.types("\r");
    terminal.shows("\x1b\\43\r\n");
    let lines = terminal.lines();
    let frame = lines.iter().position(|l| l.starts_with("── text2image")).unwrap();
    let path = lines.iter().position(|l| l == "out/text2image.png").unwrap();
    assert!(lines[frame..path].iter().all(|l| !l.contains("ahead")), "nothing is echoed: {lines:#?}");
}

#[test]
fn ctrl_c_is_a_signal_and_stops_within_a_step() {
    let room = Room::new();
    let Some(mut terminal) = start(&room, &["run", "text2image", "steps=900"], &[]) else { return };
    terminal.sees("step ");
    terminal.types("\x03");
    assert_eq!(terminal.ends(), 130);
    assert!(terminal.echoes(), "the terminal is as it was");
    let lines = terminal.lines();
    assert!(
        lines.iter().any(|l| l.contains("stopping after this step") || l.contains("stopped: by you")),
        "{lines:#?}"
    );
    assert!(frames(&lines) <= 1, "{lines:#?}");
}

#[test]
fn a_window_that_changes_its_size_loses_nothing() {
    let room = Room::new();
    for (rows, columns) in [(40, 60), (40, 160), (20, 100)] {
        let Some(mut terminal) = prompt(&room) else { return };
        // Four pictures at once take long enough for the change to come in the middle.
        terminal.types(&format!("{}\r", PRINTS.replace("noise(0)", "noise(0, #{ n: 4 })")));
        terminal.shows("line 12\r\n");
        terminal.sees("step ");
        terminal.resizes(rows, columns);
        terminal.shows("line 59\r\n");
        terminal.prompts();
        let text = terminal.text();
        for i in 0..60 {
            assert!(text.contains(&format!("line {i}\r\n")), "line {i}");
        }
        let lines = terminal.lines();
        let printed = lines.iter().filter(|l| l.starts_with("line ")).count();
        assert_eq!(printed, 60, "{columns} x {rows}: {lines:#?}");
        // The panel of the new size is below the last line.
        let last = lines.iter().rposition(|l| l.starts_with("line ")).unwrap();
        assert!(lines[last + 1].starts_with("── sampling"), "{lines:#?}");
        assert_eq!(lines[last + 1].chars().count(), usize::from(columns) - 1);
        assert_eq!(lines.last().map(String::as_str), Some("scumble>"), "{lines:#?}");
    }
}

#[test]
fn where_there_can_be_no_panel_there_is_the_line_or_nothing() {
    let room = Room::new();
    // A dumb terminal: nothing is drawn over.
    let Some(mut terminal) = start(&room, &RUN, &[("TERM", "dumb"), NONE]) else { return };
    assert_eq!(terminal.ends(), 0);
    assert!(!terminal.text().contains('\x1b'), "{}", terminal.text());
    assert!(terminal.text().contains("sampling 50/50"), "{}", terminal.text());
    // Said so.
    let Some(mut terminal) = start(&room, &RUN, &[("SCUMBLE_PANEL", "off"), NONE]) else { return };
    assert_eq!(terminal.ends(), 0);
    assert!(!terminal.text().contains("── text2image") && terminal.text().contains("\r\x1b[Ksampling "));
    // A window that is too small.
    let Some(mut terminal) = start(&room, &RUN, &[NONE]) else { return };
    terminal.resizes(11, 100);
    assert_eq!(terminal.ends(), 0);
    assert!(terminal.text().contains("\r\x1b[Ksampling "), "{}", terminal.text());
    // No controlling terminal: it cannot be known whose it is.
    let mut command = room.command(&RUN);
    command.env("SCUMBLE_GRAPHICS", "none");
    let Some(mut terminal) = Terminal::with(command, false) else { return };
    assert_eq!(terminal.ends(), 0);
    assert!(!terminal.text().contains("── text2image"), "{}", terminal.text());
    // A pipe.
    let done = room.run(&RUN);
    assert!(!done.out.contains('\x1b') && !done.err.contains('\x1b') && done.err.contains("sampling "));
    assert_eq!(files(&room.path("out")).len(), 5);
}

#[test]
fn without_a_keyboard_the_panel_is_there() {
    let room = Room::new();
    let mut command = room.command(&["-c", "\"$SCUMBLE\" run text2image steps=90 < /dev/null"]);
    command = {
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(command.get_args()).current_dir(room.path("")).env_clear().envs(room.environment());
        shell.env("SCUMBLE", env!("CARGO_BIN_EXE_scumble")).env("SCUMBLE_GRAPHICS", "none");
        shell
    };
    command.stdin(Stdio::null());
    let Some(mut terminal) = Terminal::run(command) else { return };
    assert_eq!(terminal.ends(), 0);
    let lines = terminal.lines();
    assert!(lines.iter().any(|l| l.contains("step 90 of 90")), "{lines:#?}");
}

#[test]
fn a_terminal_that_goes_away_ends_the_run() {
    if ignores_hangup() {
        return eprintln!("hang-ups are ignored here, as under nohup: not tested");
    }
    let room = Room::new();
    let Some(mut terminal) = start(&room, &["run", "text2image", "steps=900"], &[]) else { return };
    terminal.sees("step ");
    terminal.hangs_up();
    assert_eq!(terminal.ends(), 129);
    until("the latent is saved", LONG, || !files(&room.path("out")).is_empty());
    assert_eq!(files(&room.path("out")), ["text2image-latent.safetensors"]);
}
