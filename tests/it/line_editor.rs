//! The line editor on a terminal: what keys do, what stands on the screen.

use std::time::Duration;

use crate::program::{Room, until};
use crate::terminal::Terminal;

const UP: &str = "\x1b[A";
const DOWN: &str = "\x1b[B";

/// A terminal whose first prompt is there.
fn prompt(room: &Room, args: &[&str]) -> Option<Terminal> {
    let mut terminal = Terminal::start(room, args)?;
    terminal.prompts();
    Some(terminal)
}

#[test]
fn up_after_some_text_finds_input_that_begins_with_it() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room, &["--no-init"]) else { return };
    for line in ["let alpha = 1", "let beta = 2", "alpha + beta"] {
        terminal.enters(line);
    }
    terminal.types(&format!("let{UP}"));
    terminal.ends_with("scumble> let beta = 2");
    terminal.types(UP);
    terminal.ends_with("scumble> let alpha = 1");
    terminal.types(DOWN);
    terminal.ends_with("scumble> let beta = 2");
    terminal.types(DOWN);
    terminal.ends_with("scumble> let");
    terminal.types(" gamma = 39");
    terminal.ends_with("scumble> let gamma = 39");
    terminal.enters("");
    // Without text it walks through everything.
    terminal.types(&format!("{UP}{UP}"));
    terminal.ends_with("scumble> alpha + beta");
    terminal.types(" + gamma\r");
    terminal.shows("\n42\r\n");
}

#[test]
fn ctrl_r_searches_and_entries_of_several_lines_come_back_whole() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room, &["--no-init"]) else { return };
    // Enter adds a line where the input is not whole; a closing bracket goes one level out.
    terminal.types("fn twice(x) {\rlet y = x;\ry * 2\r}");
    terminal.ends_with("         }");
    let screen = terminal.screen();
    let from = screen.iter().position(|l| l == "scumble> fn twice(x) {").unwrap();
    assert_eq!(screen[from + 1..], ["             let y = x;", "             y * 2", "         }"]);
    terminal.enters("");
    assert!(terminal.enters("twice(21)").contains("42\r\n"));
    terminal.types(":quit\r");
    assert_eq!(terminal.ends(), 0);
    let history = std::fs::read_to_string(room.path("state/scumble/history.txt")).unwrap();
    assert!(history.starts_with("#V2\nfn twice(x) {\\n"), "{history}");
    // Another session has it.
    let Some(mut terminal) = prompt(&room, &["--no-init"]) else { return };
    terminal.types("\x12let y");
    terminal.ends_with("         }");
    terminal.types("\r");
    terminal.prompts();
    terminal.prompts();
    assert!(terminal.enters("twice(4)").contains("8\r\n"));
}

#[test]
fn hints_and_slips_are_seen_while_typing() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room, &["--no-init", "--color", "always"]) else { return };
    terminal.types("distance(");
    terminal.shows("\x1b[2ma: Latent, b: Latent) -> number");
    terminal.ends_with("scumble> distance(a: Latent, b: Latent) -> number");
    terminal.types("\x15let x = blned(1");
    terminal.shows("\x1b[4;31mblned");
    terminal.types("\x15blend((1)");
    terminal.shows("\x1b[1;33m(\x1b[0m");
}

#[test]
fn tab_completes_names_members_options_and_paths() {
    let room = Room::new();
    room.write("pictures/one.png", "");
    let Some(mut terminal) = prompt(&room, &["--no-init"]) else { return };
    terminal.enters("let model_m = load(\"emoji\")");
    let completes = |terminal: &mut Terminal, typed: &str, wanted: &str| {
        terminal.types(&format!("{typed}\t"));
        terminal.ends_with(&format!("scumble> {wanted}"));
        terminal.types("\x15");
    };
    completes(&mut terminal, "mode", "model_m");
    completes(&mut terminal, "model_m.enc", "model_m.encode");
    completes(&mut terminal, "model_m.noise(1, #{ si", "model_m.noise(1, #{ size:");
    completes(&mut terminal, "open(\"dog-fl", "open(\"dog-flat.png");
    completes(&mut terminal, "open(\"pic", "open(\"pictures/");
    completes(&mut terminal, "open(\"pictures/o", "open(\"pictures/one.png");
    completes(&mut terminal, ":wat", ":watch");
    completes(&mut terminal, ":run magicmix lay", ":run magicmix layout=");
    completes(&mut terminal, ":run sdedit image=rabbit-f", ":run sdedit image=rabbit-flat.png");
    completes(&mut terminal, "?ble", "?blend");
    // Several: a list, and the line again below it.
    terminal.types("disent\x15:s\t");
    terminal.ends_with("scumble> :s");
    assert!(terminal.screen().iter().any(|l| l.starts_with("save ") && l.contains("recipe")));
}

#[test]
fn a_pasted_piece_of_a_session_runs_without_its_prompts_and_outputs() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room, &["--no-init"]) else { return };
    let piece = "scumble> let p = 6\nscumble> fn f(x) {\n             x * 7\n         }\nscumble> f(p)\n42\n";
    terminal.types(&format!("\x1b[200~{piece}\x1b[201~\r"));
    terminal.shows("scumble> f(p)\r\n42\r\n");
    terminal.prompts();
    // A script without prompts is one cell.
    terminal.types("\x1b[200~let q = 2;\nq * 4\n\x1b[201~\r");
    terminal.shows("\r\n8\r\n");
    assert!(!terminal.text().contains("error"), "{}", terminal.text());
}

#[test]
fn a_pasted_session_ends_at_a_cell_that_fails_or_is_stopped() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room, &["--no-init"]) else { return };
    let paste = |terminal: &mut Terminal, first: &str| {
        let piece = format!("scumble> {first}\nscumble> \"ran \" + \"on\"\nscumble> 1");
        terminal.types(&format!("\x1b[200~{piece}\x1b[201~\r"));
    };
    paste(&mut terminal, "nope()");
    terminal.shows("this cell failed, the 2 cells behind it were not run");
    terminal.prompts();
    paste(&mut terminal, "loop { let x = 1; }");
    until("the cell runs", Duration::from_secs(60), || !terminal.echoes());
    std::thread::sleep(Duration::from_millis(200));
    terminal.types("\x03");
    terminal.shows("this cell was stopped, the 2 cells behind it were not run");
    terminal.prompts();
    assert!(terminal.enters("6 * 7").contains("42\r\n"));
    assert!(!terminal.text().contains("ran on"), "{}", terminal.text());
}

#[test]
fn prompts_and_outputs_are_marked_for_the_terminal() {
    let room = Room::new();
    let mut command = room.command(&["--no-init"]);
    command.env("SCUMBLE_GRAPHICS", "none");
    let Some(mut terminal) = Terminal::run(command) else { return };
    terminal.shows("\x1b]133;A\x1b\\");
    terminal.prompts();
    terminal.types("6 * 7\r");
    terminal.shows("\x1b]133;C\x1b\\42\r\n\x1b]133;D;0\x1b\\");
    terminal.shows("\x1b]133;A\x1b\\");
    terminal.types("nope()\r");
    terminal.shows("\x1b]133;D;1\x1b\\");
    // They can be turned off, and are where a terminal would show them.
    terminal.types(":set marks off\r");
    terminal.shows("marks is now off");
    terminal.shows("scumble> ");
    terminal.types("1 + 1\r");
    assert!(!terminal.shows("\n2\r\n").contains("133;C"));
}

#[test]
fn a_semicolon_hides_and_ans_keeps() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room, &["--no-init"]) else { return };
    assert!(!terminal.enters("6 * 7;").contains("42"));
    assert!(terminal.enters("ans + 1").contains("\n43\r\n") || terminal.text().contains("\r\n43\r\n"));
}
