//! The `:` commands on a terminal.

use crate::program::Room;
use crate::terminal::Terminal;

fn prompt(room: &Room, variables: &[(&str, &str)]) -> Option<Terminal> {
    let mut command = room.command(&["--no-init"]);
    command.env("SCUMBLE_GRAPHICS", "none").env("SCUMBLE_MARKS", "off");
    command.envs(variables.iter().copied());
    let mut terminal = Terminal::run(command)?;
    terminal.prompts();
    Some(terminal)
}

#[test]
fn what_save_writes_runs_as_a_recipe() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room, &[]) else { return };
    terminal.enters("let m = load(\"emoji\")");
    terminal.enters("let wrong = nope()");
    terminal.enters("let z = m.sample(\"a dog\", #{ steps: 2 });");
    terminal.enters("fn half(x) { x / 2.0 }");
    terminal.enters("half(z.image.width)");
    terminal.enters("ans + 10");
    assert!(terminal.enters(":save mine").contains("5 cells saved: scumble run mine.rhai"));
    assert!(terminal.enters(":save mine").contains("there already"));
    assert_eq!(room.run(&["check", "mine.rhai"]).code, 0);
    let done = room.run(&["run", "mine.rhai", "-q"]);
    assert_eq!((done.code, &*done.out), (0, "42.0\n"), "{}", done.err);
    // Some of them, by their numbers.
    assert!(terminal.enters(":hist half").contains("   5  half(z.image.width)"));
    assert!(terminal.enters(":save part 4-4").contains("1 cell saved"));
    assert!(terminal.enters(":save none 2").contains("none of these cells has worked"));
    // What cannot run alone is told at once.
    let said = terminal.enters(":save torn.rhai 5 6");
    assert!(said.contains("does not run as it is") && said.contains("half"), "{said}");
}

#[test]
fn cells_can_be_done_again_and_timed() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room, &[]) else { return };
    assert!(terminal.enters(":again").contains("nothing was evaluated yet"));
    terminal.enters("let n = 1");
    terminal.enters("n += 1; n * 10");
    terminal.types(":again\r");
    terminal.shows("\r\n30\r\n");
    terminal.prompts();
    terminal.types(":again 2\r");
    terminal.shows("\r\n40\r\n");
    terminal.prompts();
    assert!(terminal.enters(":again 99").contains("there is no cell 99"));
    let said = terminal.enters(":bench 5 let k = 0; for i in 0..2000 { k += i }");
    assert!(said.contains("median ") && said.contains("(5 times"), "{said}");
    assert!(terminal.enters(":bench 5 nope()").contains("there is no such function"));
    // It leaves nothing behind.
    assert!(!terminal.enters(":vars").contains("k "));
}

/// A script that stands in for an editor.
fn editor(room: &Room, script: &str) -> String {
    room.write("editor.sh", script);
    format!("sh {}", room.path("editor.sh").display())
}

#[test]
fn edit_opens_the_last_cell_and_runs_what_is_written() {
    let room = Room::new();
    // As an editor it wants the terminal in its usual mode; it saves by putting a new file in the place of the old one.
    let script = "stty -a | grep -q ' icanon' && stty -a | grep -q ' echo ' || exit 3\n\
                  sed 's/1/40/' \"$1\" > \"$1.new\" && mv \"$1.new\" \"$1\"\n";
    let editor_line = editor(&room, script);
    let Some(mut terminal) = prompt(&room, &[("VISUAL", &editor_line)]) else { return };
    terminal.enters("1 + 2");
    terminal.types(":edit\r");
    terminal.shows("scumble> 40 + 2\r\n42\r\n");
    terminal.prompts();
    assert!(terminal.enters(":edit").contains("not changed: not run"));
    terminal.enters("fn f(x) {\n    x + 1\n}");
    terminal.types(":edit f\rf(2)\r");
    terminal.shows("x + 40");
    terminal.shows("\n42\r\n");
    terminal.prompts();
    assert!(terminal.enters(":edit nothing_like_it").contains("nothing is called"));
    // A built-in recipe becomes a file of one's own, which is checked.
    let said = terminal.enters(":edit text2image");
    assert!(said.contains("this is a copy, text2image.rhai") && said.contains("nothing found"), "{said}");
    assert!(room.path("text2image.rhai").is_file());
}

#[test]
fn an_editor_that_fails_changes_nothing() {
    let room = Room::new();
    let editor_line = editor(&room, "stty -echo\nexit 3\n");
    let Some(mut terminal) = prompt(&room, &[("EDITOR", &editor_line)]) else { return };
    terminal.enters("6 * 7");
    assert!(terminal.enters(":edit").contains("exit status: 3"));
    assert!(terminal.enters("ans").contains("42\r\n"));
    terminal.enters(":set editor no-such-editor-here");
    assert!(terminal.enters(":edit").contains("no-such-editor-here"));
    // The terminal is still ours: views are drawn.
    terminal.enters("let c = [1.0, 0.5, 0.2];");
    terminal.types(":view c\r");
    terminal.shows("c: 3 steps");
    terminal.types("q");
    terminal.shows("\x1b[?1049l");
    terminal.prompts();
    terminal.types(":quit\r");
    assert_eq!(terminal.ends(), 0);
    assert!(terminal.echoes(), "the terminal is as it was");
}

#[test]
fn settings_are_listed_with_their_origin_and_changed() {
    let room = Room::new();
    room.write("config/scumble/config.toml", "# mine\nnotify = \"off\"\nmodle = \"x\"\n");
    let Some(mut terminal) = prompt(&room, &[("SCUMBLE_PAGER", "off")]) else { return };
    assert!(terminal.text().contains("config.toml, line 3: there is no setting modle; did you mean model?"));
    let list = terminal.enters(":set");
    let line = |name: &str| list.lines().find(|l| l.starts_with(name)).unwrap().to_string();
    assert!(line("notify ").contains("off") && line("notify ").contains("config.toml:2"), "{list}");
    assert!(line("pager ").contains("variable") && line("no_init").contains("flag"), "{list}");
    assert!(line("model ").contains("default"), "{list}");
    assert!(terminal.enters(":set out elsewhere").contains("out is now elsewhere"));
    let said = terminal.enters("save(open(\"dog-flat.png\"), \"dog.png\")");
    assert!(said.contains("elsewhere/dog.png"), "{said}");
    assert!(terminal.enters(":out dog").contains("dog.png"));
    terminal.enters(":set max_time 300ms");
    assert!(terminal.enters(":set max-time").contains("max_time = 300ms  (:set)"));
    assert!(terminal.enters("loop { }").contains("--max-time"));
    assert!(terminal.enters(":set max_time none").contains("max_time is now none"));
    assert!(terminal.enters(":set max_time").contains("max_time = none  (default)"));
    assert!(terminal.enters(":set max_memory all").contains("max_memory is now all"));
    assert!(terminal.enters(":set threads 1").contains("from the start on"));
    assert!(terminal.enters(":set graphics crt").contains("kitty"));
    assert!(terminal.enters(":set grahpics").contains("did you mean graphics?"));
    assert!(terminal.enters(":set model emjoi").contains("did you mean"));
}

#[test]
fn what_a_strangers_file_says_is_shown_plainly() {
    let room = Room::new();
    let text = "// \x1b]0;title\x07 a paper\nlet o = options(args, #{ a: opt(1, \"doc\x1b[2J\"), b: opt(2, \"x\") });\n";
    room.write("stranger.rhai", text);
    let Some(mut terminal) = prompt(&room, &[]) else { return };
    let said = terminal.enters("??stranger.rhai");
    assert!(said.contains("a paper") && said.contains('\u{fffd}'), "{said:?}");
    assert!(!said.contains("\x1b]0;") && !said.contains("\x1b[2J"), "{said:?}");
    terminal.types(":run stranger.rhai \t");
    terminal.shows("doc\u{fffd}");
    assert!(!terminal.text().contains("\x1b[2J"));
}

#[test]
fn after_a_reset_no_number_of_a_cell_is_old() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room, &[]) else { return };
    terminal.enters("40 + 2");
    assert!(terminal.enters(":hist 40 +").contains("   1  40 + 2"));
    terminal.enters(":reset");
    assert!(terminal.enters("50 + 5").contains("55\r\n"));
    let said = terminal.enters(":hist 0 +");
    assert!(said.contains("      40 + 2") && said.contains("   1  50 + 5"), "{said}");
}

#[test]
fn the_log_begins_and_ends_when_told() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room, &[]) else { return };
    terminal.enters("1 + 1");
    assert!(terminal.enters(":log").contains("there is no log"));
    assert!(terminal.enters(":log no/where/a.log").contains("no/where/a.log"));
    terminal.enters(":log a.log");
    terminal.enters("2 + 2");
    assert!(terminal.enters(":log").contains("goes to a.log"));
    terminal.enters(":log off");
    terminal.enters("3 + 3");
    assert_eq!(std::fs::read_to_string(room.path("a.log")).unwrap(), "> 2 + 2\n4\n");
}

#[test]
fn models_tell_where_they_are() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room, &[]) else { return };
    assert!(terminal.enters(":models").contains("No model is in memory yet"));
    terminal.enters("let mine = load(\"emoji\");");
    let list = terminal.enters(":models");
    let line = list.lines().find(|l| l.contains("mine")).unwrap();
    assert!(line.contains("emoji") && line.contains("MiB") && line.contains("cpu"), "{list}");
}

#[test]
fn what_is_taller_than_the_screen_goes_through_a_pager() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room, &[("PAGER", "sed s/^/PAGED:/")]) else { return };
    assert!(terminal.enters("??magicmix").contains("PAGED:// MagicMix"));
    assert!(!terminal.enters("?distance").contains("PAGED:"), "what fits is simply printed");
    terminal.enters(":set pager off");
    assert!(!terminal.enters("??magicmix").contains("PAGED:"));
    // A pager that is not there.
    terminal.enters(":set pager no-such-pager-here");
    // A key for the rest, then one to leave it unread.
    for key in [" ", "q"] {
        terminal.types("??magicmix\r");
        terminal.shows("-- more");
        terminal.types(key);
        terminal.prompts();
    }
    assert!(terminal.enters("6 * 7").contains("42\r\n"), "no key is lost, none is left over");
}

#[test]
fn a_long_cell_says_that_it_ended_and_what_it_took() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room, &[("SCUMBLE_NOTIFY_AFTER", "1s")]) else { return };
    terminal.types("let s = 0; for i in 0..3000 { for k in 0..1000 { s += 1 } } \"busy \" + s\r");
    terminal.shows("busy 3000000");
    let after = terminal.prompts();
    if after.contains(" s, peak ") {
        assert!(after.contains('\x07') && after.contains("iB"), "{after:?}");
    }
    assert!(!terminal.enters("1 + 1").contains('\x07'));
}
