//! `:watch` and `run --watch`.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use rustix::process::Signal;

use crate::program::{Room, send, until, wait};
use crate::terminal::Terminal;

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_recipe_runs_again_when_it_is_saved_and_ctrl_c_keeps_the_session() {
    let room = Room::new();
    room.write("mine.rhai", "print(\"first\");");
    let Some(mut terminal) = Terminal::start(&room, &["--no-init"]) else { return };
    terminal.prompts();
    terminal.enters("let kept = 6;");
    terminal.types(":watch mine.rhai\r");
    terminal.shows("first\r\n");
    terminal.shows("watching mine.rhai");
    // Saved in place.
    room.write("mine.rhai", "let o = options(args, #{ n: opt(1, 0..9, \"n\") });\nprint(\"n is \" + o.n);");
    terminal.shows("mine.rhai was saved");
    terminal.shows("n is 1\r\n");
    terminal.shows("watching");
    // Half of it, as an editor may leave it for a moment; then whole, in another file's place.
    room.write("mine.rhai", "print(\"half");
    terminal.shows("error:");
    terminal.shows("watching");
    room.write("new", "loop { let x = 1; }");
    std::fs::rename(room.path("new"), room.path("mine.rhai")).unwrap();
    terminal.shows("mine.rhai was saved");
    until("the loop runs", LONG, || !terminal.echoes());
    std::thread::sleep(Duration::from_millis(200));
    // A run that is under way makes room for the next one.
    std::fs::remove_file(room.path("mine.rhai")).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    room.write("mine.rhai", "print(\"last\");");
    terminal.shows("last\r\n");
    terminal.shows("watching");
    terminal.types("\x03");
    terminal.shows("watching has ended");
    terminal.prompts();
    assert!(terminal.enters("kept * 7").contains("42\r\n"));
    assert!(terminal.enters(":watch magicmix").contains("built in"));
    assert!(terminal.enters(":watch nowhere.rhai").contains("there is no recipe file"));
}

#[test]
fn without_a_terminal_it_watches_as_well() {
    let room = Room::new();
    room.write("mine.rhai", "print(\"first\");");
    let mut child = room.spawn(&["run", "mine.rhai", "--watch", "-q"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "first");
    room.write("mine.rhai", "print(\"second\");");
    assert_eq!(next(), "second");
    send(&child, Signal::INT);
    assert_eq!(wait(&mut child, LONG), 130);
}

#[test]
fn the_model_stays_in_memory() {
    let room = Room::new();
    let recipe = |word: &str| format!("let m = load(\"emoji\"); print(\"{word} \" + m.size);");
    room.write("mine.rhai", &recipe("first"));
    let Some(mut terminal) = Terminal::start(&room, &["--no-init"]) else { return };
    terminal.prompts();
    terminal.types(":watch mine.rhai\r");
    terminal.shows("first 64");
    terminal.shows("watching");
    room.write("mine.rhai", &recipe("second"));
    terminal.shows("second 64");
    terminal.shows("watching");
    terminal.types("\x03");
    terminal.prompts();
    assert!(terminal.enters(":models").contains("kept for the next use"));
}
