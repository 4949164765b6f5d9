//! `config.toml`, `SCUMBLE_*` variables and flags, from outside.

use crate::program::{Done, Room};

const FILE: &str = "config/scumble/config.toml";

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let room = Room::new();
    room.write(FILE, "out = \"from-file\"\nquiet = true\n");
    let run = |args: &[&str], variable: Option<&str>| {
        let mut command = room.command(&[args, &["run", "text2image", "steps=1"]].concat());
        command.envs(variable.map(|v| ("SCUMBLE_OUT", v)));
        let done = Done::from(command.output().unwrap());
        assert_eq!((done.code, &*done.err), (0, ""), "quiet is set");
        done.out
    };
    assert_eq!(run(&[], None), "from-file/text2image.png\n");
    assert_eq!(run(&[], Some("from-variable")), "from-variable/text2image.png\n");
    assert_eq!(run(&["--out", "from-flag"], Some("from-variable")), "from-flag/text2image.png\n");
    let loud = room.run(&["--quiet=false", "run", "text2image", "steps=2"]);
    assert!(loud.err.contains("sampling 2/2"), "{}", loud.err);
}

#[test]
fn what_is_wrong_is_a_line_and_never_fatal() {
    let room = Room::new();
    room.write(FILE, "thraeds = 1\nmax_memory = \"lots\"\ndtype = \nout = \"there\"\n");
    let mut command = room.command(&["-e", "save(open(\"dog-flat.png\"), \"dog.png\");"]);
    let done = Done::from(command.env("SCUMBLE_MAX_TIME", "soon").output().unwrap());
    assert_eq!((done.code, &*done.out), (0, "there/dog.png\n"), "{}", done.err);
    for part in [
        "config.toml, line 1: there is no setting thraeds; did you mean threads?",
        "config.toml, line 2: max_memory takes a size like 2G",
        "config.toml, line 3: ",
        "SCUMBLE_MAX_TIME: max_time takes a time like 90s",
    ] {
        assert!(done.err.contains(part), "{part}:\n{}", done.err);
    }
    assert_eq!(done.err.lines().count(), 4, "{}", done.err);
    assert!(room.run(&["doctor"]).out.contains("did you mean threads?"));
    assert_eq!(room.run(&["--quiet", "-e", "1"]).err, "");
}

#[test]
fn an_error_says_who_set_the_value() {
    let room = Room::new();
    room.write(FILE, "\nmodel = \"emjoi\"\n");
    let done = room.run(&["-e", "1"]);
    assert_eq!(done.code, 2);
    assert!(done.err.contains("config.toml, line 2: model: there is no model \"emjoi\""), "{}", done.err);
    let flagged = room.run(&["--model", "emoji", "-e", "1"]);
    assert_eq!((flagged.code, &*flagged.err), (0, ""));
    let mut command = room.command(&["-e", "1"]);
    let done = Done::from(command.env("SCUMBLE_MODEL", "nothing").output().unwrap());
    assert!(done.err.contains("SCUMBLE_MODEL: there is no model"), "{}", done.err);
}
