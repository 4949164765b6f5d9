//! Homes that give trouble: full, read-only, absent, locked; and two sessions at once.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::program::Room;
use crate::terminal::Terminal;

/// The program with other folders than the room's.
fn with(room: &Room, variables: &[(&str, &Path)]) -> Option<Terminal> {
    let mut command = room.command(&[]);
    command.env("SCUMBLE_GRAPHICS", "none").env("SCUMBLE_MARKS", "off");
    for (name, value) in variables {
        if value.as_os_str().is_empty() {
            command.env_remove(name);
        } else {
            command.env(name, value);
        }
    }
    Terminal::run(command)
}

/// Works, and says once that nothing can be kept.
fn works(mut terminal: Terminal) {
    let started = Instant::now();
    terminal.prompts();
    let first = terminal.enters("let x = 6");
    let second = terminal.enters("x * 7");
    assert!(second.contains("42\r\n"), "{second}");
    terminal.enters("x * 8");
    let third = terminal.enters("x * 9");
    let told = terminal.text().matches("what is typed cannot be kept").count();
    assert_eq!(told, 1, "{first}{second}{third}");
    terminal.types(":quit\r");
    assert_eq!(terminal.ends(), 0);
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_home_that_cannot_be_written_has_no_history() {
    let room = Room::new();
    let none = Path::new("");
    // No folder can be made below a device, a file, or /proc, not even by root.
    let null = [("HOME", Path::new("/dev/null")), ("XDG_CONFIG_HOME", none), ("XDG_STATE_HOME", none)];
    let Some(terminal) = with(&room, &null) else { return };
    works(terminal);
    room.write("file", "");
    let file = room.path("file");
    let Some(terminal) = with(&room, &[("XDG_STATE_HOME", &file)]) else { return };
    works(terminal);
    let Some(terminal) = with(&room, &[("XDG_STATE_HOME", Path::new("/proc/1"))]) else { return };
    works(terminal);
    // A full disk: the history is a file that takes nothing.
    std::fs::create_dir_all(room.path("full/scumble")).unwrap();
    std::os::unix::fs::symlink("/dev/full", room.path("full/scumble/history.txt")).unwrap();
    let Some(terminal) = with(&room, &[("XDG_STATE_HOME", &room.path("full"))]) else { return };
    works(terminal);
}

#[test]
fn a_history_that_another_program_holds_is_not_waited_for() {
    let room = Room::new();
    room.write("state/scumble/history.txt", "#V2\nlet old = 1\n");
    let held = std::fs::File::open(room.path("state/scumble/history.txt")).unwrap();
    held.lock().unwrap();
    let started = Instant::now();
    let Some(mut terminal) = Terminal::start(&room, &["--no-init"]) else { return };
    terminal.prompts();
    terminal.types("\x1b[A");
    terminal.ends_with("scumble> let old = 1");
    terminal.types("\x15");
    (0..5).for_each(|i| drop(terminal.enters(&format!("let new{i} = 2"))));
    terminal.types(":quit\r");
    assert_eq!(terminal.ends(), 0);
    assert!(started.elapsed() < Duration::from_secs(20));
    let text = std::fs::read_to_string(room.path("state/scumble/history.txt")).unwrap();
    assert_eq!(text.lines().count(), 8, "{text}");
}

#[test]
fn two_sessions_keep_each_others_history() {
    let room = Room::new();
    let Some(mut one) = Terminal::start(&room, &["--no-init"]) else { return };
    let Some(mut two) = Terminal::start(&room, &["--no-init"]) else { return };
    one.prompts();
    two.prompts();
    for i in 0..5 {
        one.enters(&format!("let one{i} = 1"));
        two.enters(&format!("let two{i} = {{\n    2\n}}"));
    }
    for terminal in [&mut one, &mut two] {
        terminal.types("\x04");
        assert_eq!(terminal.ends(), 0);
    }
    let text = std::fs::read_to_string(room.path("state/scumble/history.txt")).unwrap();
    let mut lines: Vec<&str> = text.lines().skip(1).collect();
    lines.sort_unstable();
    assert_eq!(lines.len(), 10, "{text}");
    assert!(lines[..5].iter().all(|l| l.starts_with("let one")));
    assert!(lines[5..].iter().all(|l| l.contains("= {\\n")), "{text}");
    let Some(mut three) = Terminal::start(&room, &["--no-init"]) else { return };
    three.prompts();
    let list = three.enters(":hist let");
    for i in 0..5 {
        assert!(list.contains(&format!("let one{i}")) && list.contains(&format!("let two{i}")), "{list}");
    }
}

#[test]
fn settings_that_cannot_be_read_are_told_and_left_out() {
    let room = Room::new();
    std::fs::create_dir_all(room.path("config/scumble/config.toml")).unwrap();
    let done = room.run(&["-e", "6 * 7"]);
    assert_eq!((done.code, &*done.out), (0, "42\n"));
    assert!(done.err.contains("config.toml was not read"), "{}", done.err);
}
