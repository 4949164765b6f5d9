//! Full-screen views on a terminal: how they are entered and left.

use std::time::Duration;

use rustix::process::Signal;
use scumble::script::thread;
use scumble::script::view::View;
use scumble::term::signals::ignores_hangup;

use crate::program::{Room, files, send, stopped, until};
use crate::script::session;
use crate::terminal::Terminal;

const LONG: Duration = Duration::from_secs(60);
const ENTERED: &str = "\x1b[?1049h";
const LEFT: &str = "\x1b[?1049l";

/// A prompt with a run of six steps in `a`.
fn prompt(room: &Room) -> Option<Terminal> {
    let mut command = room.command(&["--no-init"]);
    command.env("SCUMBLE_GRAPHICS", "none");
    let mut terminal = Terminal::run(command)?;
    terminal.prompts();
    terminal.enters("let a = load().sample(\"a dog\", #{ steps: 6 });");
    Some(terminal)
}

#[test]
fn a_run_is_looked_through_and_forked_into_the_prompt() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room) else { return };
    let before = terminal.lines();
    terminal.types(":view a\r");
    terminal.shows(ENTERED);
    terminal.shows("level 6 of 6");
    terminal.sees("(decoded)");
    terminal.types("\x1b[H");
    terminal.sees("level 0 of 6");
    terminal.types("\x1b[C\x1b[C");
    terminal.sees("level 2 of 6");
    // Another size: everything is drawn anew.
    terminal.resizes(24, 100);
    until("the keys at the new lower edge", LONG, || {
        terminal.lines().last().is_some_and(|l| l.contains("f fork"))
    });
    terminal.types("f");
    terminal.shows(LEFT);
    terminal.shows("let fork = a.fork(2)");
    terminal.types("\rfork\r");
    terminal.shows("at level 2 of 6");
    terminal.prompts();
    let lines = terminal.lines();
    assert_eq!(lines[..before.len() - 1], before[..before.len() - 1], "the scrollback is as it was");
    assert!(lines.iter().any(|l| l.starts_with("seen: a")), "{lines:#?}");
    assert!(terminal.text().ends_with("scumble> ") || terminal.text().contains("scumble>"));
    terminal.types(":quit\r");
    assert_eq!(terminal.ends(), 0);
    assert!(terminal.echoes(), "the terminal is as it was");
}

#[test]
fn a_picture_of_a_sheet_is_saved() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room) else { return };
    terminal.enters("let sheet = a.strip(3);");
    terminal.types(":view sheet\r");
    terminal.shows("4 pictures");
    terminal.types("\x1b[Cs");
    terminal.shows("saved: out/");
    terminal.types("q");
    terminal.shows(LEFT);
    terminal.prompts();
    assert_eq!(files(&room.path("out")), ["2-t-499.png"]);
}

#[test]
fn what_cannot_be_viewed_is_said() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room) else { return };
    let said = terminal.enters(":view");
    assert!(
        said.contains(":view what?") && said.contains("a Trajectory (or two)") && said.contains(":view a"),
        "{said}"
    );
    let said = terminal.enters(":view aa");
    assert!(said.contains("there is no variable aa"), "{said}");
    terminal.enters("let z = a.latent;");
    let said = terminal.enters(":view z");
    assert!(said.contains("there is nothing to see in z") && said.contains("m.decode(z)"), "{said}");
    let said = terminal.enters(":view a z");
    assert!(said.contains("cannot be seen together"), "{said}");
    terminal.enters("let seen = attention().record();");
    let said = terminal.enters(":view seen");
    assert!(said.contains("has recorded no map"), "{said}");
    assert!(!terminal.text().contains(ENTERED), "none of these took the screen");
}

#[test]
fn every_kind_of_page_is_entered_and_left() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room) else { return };
    terminal.enters("let m = load(); let seen = attention().record();");
    terminal.enters("let b = m.sample(\"a dog in the snow\", #{ steps: 6, attention: seen });");
    terminal
        .enters("let l = minimize(tensor([0, 0]), #{ steps: 20, lr: 0.1 }, |t, i| mse(t, tensor([1, -2])));");
    for (names, shown) in [
        ("a b", "a and b, level by level"),
        ("seen", "attention of \"a dog in the snow\""),
        ("l", "l.losses: 20 steps"),
        ("m", "m  Model  12.8 M"),
    ] {
        terminal.types(&format!(":view {names}\r"));
        terminal.shows(ENTERED);
        terminal.shows(shown);
        terminal.types("\x1b");
        terminal.shows(LEFT);
        terminal.prompts();
    }
    // Ctrl-C leaves, too, and only the page.
    terminal.types(":view a\r");
    terminal.shows("level 6 of 6");
    terminal.types("\x03");
    terminal.shows(LEFT);
    terminal.prompts();
    assert!(terminal.enters("6 * 7").contains("42\r\n"));
}

#[test]
fn a_dumb_terminal_is_told() {
    let room = Room::new();
    let mut command = room.command(&["--no-init"]);
    command.env("SCUMBLE_GRAPHICS", "none").env("TERM", "dumb");
    let Some(mut terminal) = Terminal::run(command) else { return };
    terminal.prompts();
    terminal.types("let c = [1.0, 0.5, 0.2];\r");
    terminal.prompts();
    terminal.types(":view c\r");
    terminal.shows(":view needs a terminal that it can have to itself");
    terminal.shows("TERM=\"dumb\"");
    assert!(!terminal.text().contains('\x1b'));
}

#[test]
fn a_view_that_is_stopped_gives_the_screen_back_and_takes_it_again() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room) else { return };
    terminal.types(":view a\r");
    terminal.shows("level 6 of 6");
    send(&terminal.child, Signal::TSTP);
    terminal.shows(LEFT);
    until("the terminal's modes are back", LONG, || terminal.echoes());
    stopped(&terminal.child);
    send(&terminal.child, Signal::CONT);
    terminal.shows(ENTERED);
    terminal.shows("level 6 of 6");
    terminal.types("q");
    terminal.shows(LEFT);
    terminal.prompts();
}

#[test]
fn a_signal_in_a_view_ends_the_process_with_the_screen_as_it_was() {
    let room = Room::new();
    let Some(mut terminal) = prompt(&room) else { return };
    terminal.types(":view a\r");
    terminal.shows("level 6 of 6");
    send(&terminal.child, Signal::TERM);
    terminal.shows(LEFT);
    assert_eq!(terminal.ends(), 143);
    assert!(terminal.echoes());
}

#[test]
fn a_terminal_that_goes_away_ends_a_view() {
    if ignores_hangup() {
        return eprintln!("hang-ups are ignored here, as under nohup: not tested");
    }
    let room = Room::new();
    let Some(mut terminal) = prompt(&room) else { return };
    terminal.types(":view a\r");
    terminal.shows("level 6 of 6");
    terminal.hangs_up();
    assert_eq!(terminal.ends(), 129);
    // Nor does it spin where hang-ups are ignored.
    let mut command = room.command(&["--no-init", "--keep-going"]);
    command.env("SCUMBLE_GRAPHICS", "none");
    let Some(mut terminal) = Terminal::run(command) else { return };
    terminal.prompts();
    terminal.enters("let c = [1.0, 0.5, 0.2];");
    terminal.types(":view c\r");
    terminal.shows("c: 3 steps");
    terminal.hangs_up();
    assert_eq!(terminal.ends(), 129);
}

/// What there is to see in `names` after `code`.
fn seen(code: &'static str, names: &'static [&'static str]) -> Result<View, String> {
    thread::run(move || {
        let dir = tempfile::tempdir().unwrap();
        let (mut session, _) = session(dir.path());
        session.eval(code).map_err(|r| r.render(false, 100)).unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_string()).collect();
        session.view(&names).map_err(|r| r.render(false, 100))
    })
}

#[test]
fn a_run_is_seen_with_every_level() {
    let code =
        "let a = load().sample(\"a dog\", #{ steps: 6 }); let b = a.fork(3).resume(#{ prompt: \"a cat\" });";
    let Ok(View::Runs(runs)) = seen(code, &["a", "b"]) else { panic!("no runs") };
    let levels = &runs.runs[0].levels;
    assert_eq!((runs.runs.len(), levels.len()), (2, 7));
    assert!(levels.windows(2).all(|w| w[0].noise > w[1].noise), "less noise from level to level");
    assert!(levels[6].x0.is_none() && levels[6].t.is_none() && levels[5].x0.is_some());
    assert!(levels.iter().all(|l| l.preview.as_ref().is_some_and(|p| p.dimensions() == (16, 16))));
    assert_eq!(runs.runs[1].levels[4].prompt.as_deref(), Some("a cat"));
    assert!(runs.gaps[..4].iter().all(|g| g.z == 0.0) && runs.gaps[4].z > 0.0, "{:?}", runs.gaps);
    // Runs that follow other levels are shown, and not compared.
    let code = "let m = load(); let a = m.sample(\"a dog\", #{ steps: 3 }); let b = m.sample(\"a dog\", #{ steps: 4 });";
    let Ok(View::Runs(runs)) = seen(code, &["a", "b"]) else { panic!("no runs") };
    assert!(runs.gaps.is_empty() && runs.apart.is_some());
}

#[test]
fn the_preview_is_like_the_decoded_picture() {
    let code = "let a = load().sample(\"a dog in the snow\", #{ steps: 20, seed: 3 });";
    let (preview, decoded) = thread::run(move || {
        let dir = tempfile::tempdir().unwrap();
        let (mut session, _) = session(dir.path());
        session.eval(code).unwrap();
        let Ok(View::Runs(runs)) = session.view(&["a".into()]) else { panic!("no run") };
        (runs.runs[0].levels[20].preview.clone().unwrap(), session.view_level("a", 20).unwrap())
    });
    let small = image::imageops::resize(&*decoded, 16, 16, image::imageops::FilterType::Triangle);
    let apart: f64 = preview.iter().zip(small.iter()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>();
    let apart = apart / (16.0 * 16.0 * 3.0);
    assert!(apart < 40.0, "{apart} of 255 a pixel");
}

#[test]
fn pictures_come_with_what_is_known_of_them() {
    let code = "let dog = open(\"dog-flat.png\"); let list = [#{ image: dog, nu: 0.5, seed: 1 }, #{ image: dog, nu: 0.8, seed: 2 }]; \
                let sheet = grid([dog, dog.resize(32, 32)], #{ labels: [\"a label that is far too long for one line\", \"b\"] });";
    let Ok(View::Sheet(cells)) = seen(code, &["list"]) else { panic!("no sheet") };
    assert_eq!(
        cells.iter().map(|c| c.label.as_str()).collect::<Vec<_>>(),
        ["nu 0.5  seed 1", "nu 0.8  seed 2"]
    );
    let Ok(View::Sheet(cells)) = seen(code, &["sheet", "dog"]) else { panic!("no sheet") };
    let labels: Vec<&str> = cells.iter().map(|c| c.label.as_str()).collect();
    assert_eq!(labels, ["a label that is far too long for one line", "b", "dog"]);
    assert_eq!(cells[1].picture.dimensions(), (32, 32));
    assert_eq!(cells[0].picture, cells[2].picture, "a cell is the picture that was laid out");
}

#[test]
fn attention_is_seen_by_word_layer_and_step() {
    let code = "let seen = attention().record(); let a = load().sample(\"a dog in the snow\", #{ steps: 4, attention: seen });";
    let Ok(View::Attention(maps)) = seen(code, &["seen"]) else { panic!("no maps") };
    assert_eq!(maps.words, ["a", "dog", "in", "the", "snow"]);
    assert_eq!((maps.steps, maps.maps.len()), (4, maps.layers.len()));
    assert!(maps.layers.iter().all(|l| l.ends_with("attn2")), "{:?}", maps.layers);
    for map in maps.maps.iter().flatten() {
        let map = map.as_ref().unwrap();
        assert_eq!(map.words.len(), 5);
        assert!(map.words.iter().all(|w| w.len() == map.side.0 * map.side.1));
        let all: f32 = map.words.iter().map(|w| w[0]).sum();
        assert!((0.0..=1.001).contains(&all), "shares of one: {all}");
    }
}

#[test]
fn losses_are_seen_as_curves() {
    let code = "let l = #{ x: 1, losses: [3, 2.5, 2] }; let n = [1, 2, 3]; let both = [[1, 2], [3, 4, 5]]; let none = [\"a\"];";
    let names = |view| {
        let Ok(View::Curves(curves)) = view else { panic!("no curves") };
        curves.into_iter().map(|c| (c.name, c.values.len())).collect::<Vec<_>>()
    };
    assert_eq!(names(seen(code, &["l", "n"])), [("l.losses".to_string(), 3), ("n".to_string(), 3)]);
    assert_eq!(names(seen(code, &["both"])), [("both[0]".to_string(), 2), ("both[1]".to_string(), 3)]);
    assert!(seen(code, &["none"]).unwrap_err().contains("there is nothing to see in none"));
}

#[test]
fn a_model_is_seen_from_inside() {
    let Ok(View::Model(inside)) = seen("let m = load();", &["m"]) else { panic!("no model") };
    assert!(
        inside.sites.iter().any(|s| s.kind == "cross-attention" && s.weights > 0),
        "{:?}",
        inside.sites[0]
    );
    let whole: usize = inside.weights.iter().map(|w| w.count).sum();
    assert!(whole > 5_000_000, "{whole}");
    assert!(inside.facts.iter().any(|(n, v)| n == "weights" && v.contains("12.8 M")));
}

#[test]
fn commands_of_the_prompt_in_a_script_are_explained() {
    let room = Room::new();
    room.write("script.rhai", "let x = 1;\n:view x\n");
    let done = room.run(&["check", "script.rhai"]);
    assert!(done.code != 0 && done.err.contains("for the prompt of a terminal"), "{}", done.err);
}
