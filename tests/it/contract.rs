//! The command line's contract, from outside: exit codes, what stands on stdout and stderr, bad input. Signals are in
//! `signals`, terminals in `prompt`.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::program::{Done, Room, files, wait};

const LONG: Duration = Duration::from_secs(60);

fn fails(done: &Done, code: i32, wanted: &[&str]) {
    assert_eq!(done.code, code, "{}", done.err);
    assert_eq!(done.out, "", "an error leaves stdout alone");
    for text in wanted {
        assert!(done.err.contains(text), "{text:?} is missing:\n{}", done.err);
    }
    let panicked = done.err.contains("panicked") || done.err.contains("scumble itself failed");
    assert!(!panicked, "{}", done.err);
    assert!(!done.err.contains('\x1b'), "no escapes without a terminal: {:?}", done.err);
}

#[test]
fn a_value_is_one_line_on_stdout() {
    let room = Room::new();
    let done = room.run(&["-e", "1 + 1"]);
    assert_eq!((done.code, &*done.out, &*done.err), (0, "2\n", ""));
    let done = room.run(&["-e", "print(\"a\"); [1, 0.5]"]);
    assert_eq!((done.code, &*done.out), (0, "a\n[1, 0.5]\n"));
    assert_eq!(room.run(&["-e", "1 + 1;"]).out, "");
    assert_eq!(room.run(&["-e", "-3 + 1"]).out, "-2\n");
}

#[test]
fn stdin_is_a_script() {
    let room = Room::new();
    let mut child = room.command(&[]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"let x = 20;\nfn f(x) { x * 2 }\nf(x) + 2").unwrap();
    let done = Done::from(child.wait_with_output().unwrap());
    assert_eq!((done.code, &*done.out), (0, "42\n"));
    let mut child = room.command(&[]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&[0xff, 0xfe, b'1']).unwrap();
    let done = Done::from(child.wait_with_output().unwrap());
    fails(&done, 2, &["stdin cannot be read", "UTF-8"]);
    assert_eq!(room.run(&[]).code, 0, "an empty script does nothing");
}

#[test]
fn a_script_that_fails_is_1() {
    let room = Room::new();
    fails(&room.run(&["-e", "throw \"no cats\""]), 1, &["no cats"]);
    fails(&room.run(&["-e", "let x = ;"]), 1, &["error", "line 1", "^"]);
    fails(&room.run(&["-e", "blennd(1)"]), 1, &["did you mean blend?"]);
    fails(&room.run(&["run", "magicmix", "layout=nowhere.png"]), 1, &["nowhere.png"]);
    fails(&room.run(&["-e", "open(\"nowhere.png\")"]), 1, &["nowhere.png", "no such file"]);
    room.write("text.png", "this is no picture");
    fails(&room.run(&["-e", "open(\"text.png\")"]), 1, &["text.png"]);
    fails(&room.run(&["-e", "fn f(x) { f(x) } f(1)"]), 1, &["error"]);
}

#[test]
fn wrong_usage_is_2() {
    let room = Room::new();
    fails(&room.run(&["--frobnicate"]), 2, &["--frobnicate"]);
    fails(&room.run(&["frobnicate"]), 2, &["frobnicate"]);
    fails(&room.run(&["magicmix"]), 2, &["scumble run magicmix"]);
    fails(&room.run(&["run", "magicmx"]), 2, &["did you mean magicmix?"]);
    fails(&room.run(&["run", "nowhere.rhai"]), 2, &["nowhere.rhai"]);
    fails(&room.run(&["run", "magicmix", "contnet=a"]), 2, &["contnet", "did you mean content?"]);
    fails(&room.run(&["run", "magicmix", "0.5"]), 2, &["key=value", "scumble run magicmix --help"]);
    fails(&room.run(&["run", "magicmix", "nu=3"]), 2, &["nu is out of range", "0.0", "1.0"]);
    fails(&room.run(&["run", "magicmix", "nu=lots"]), 2, &["nu"]);
    fails(&room.run(&["run", "text2image", "steps=0"]), 2, &["steps"]);
    fails(&room.run(&["--threads", "0", "-e", "1"]), 2, &["threads"]);
    fails(&room.run(&["--max-memory", "lots", "-e", "1"]), 2, &["2G"]);
    fails(&room.run(&["--max-time", "soon", "-e", "1"]), 2, &["90s"]);
    fails(&room.run(&["--device", "gpu", "-e", "1"]), 2, &["auto, cpu, cuda"]);
    fails(&room.run(&["--dtype", "f7", "-e", "1"]), 2, &["f32"]);
    fails(&room.run(&["--model", "emjoi", "-e", "1"]), 2, &["did you mean \"emoji\"?"]);
    fails(&room.run(&["--model", ".", "-e", "1"]), 2, &["model_index.json"]);
    fails(&room.run(&["--log", "no/where.log", "-e", "1"]), 2, &["--log no/where.log"]);
    fails(&room.run(&["doc", "qqqqqqq"]), 2, &["nothing is called"]);
    assert!(files(&room.path("out")).is_empty(), "nothing was written");
}

#[test]
fn the_result_is_the_last_line_and_nothing_is_overwritten() {
    let room = Room::new();
    let done = room.run(&["run", "text2image", "steps=10", "prompt=a dog"]);
    assert_eq!((done.code, &*done.out), (0, "out/text2image.png\n"), "{}", done.err);
    let progress: Vec<&str> = done.err.lines().filter(|l| l.starts_with("sampling ")).collect();
    assert!((2..=10).contains(&progress.len()), "{}", done.err);
    assert!(progress.last().unwrap().starts_with("sampling 10/10"), "{}", done.err);
    assert!(!done.err.contains('\x1b') && !done.err.contains('\r'), "{:?}", done.err);
    let picture = image::open(room.path("out/text2image.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (64, 64));
    let again = room.run(&["run", "text2image", "steps=2", "--quiet"]);
    assert_eq!((&*again.out, &*again.err), ("out/text2image-2.png\n", ""));
    let other = room.run(&["--out", "there", "run", "text2image", "steps=2", "--quiet"]);
    assert_eq!(other.last_line(), "there/text2image.png");
}

#[test]
fn the_path_stays_last_when_a_recipe_goes_on_talking() {
    let room = Room::new();
    room.write(
        "mine.rhai",
        "let o = options(args, #{});\nfinish(open(\"dog-flat.png\"), o);\nprint(\"done\");\n7",
    );
    let done = room.run(&["run", "mine.rhai"]);
    assert_eq!((done.code, &*done.out), (0, "done\n7\nout/mine.png\n"), "{}", done.err);
    // The result's, not that of a file beside it which is saved later.
    room.write(
        "both.rhai",
        "let o = options(args, #{});\nlet dog = open(\"dog-flat.png\");\nfinish(dog, o);\nsave(dog, \"both-mask.png\");",
    );
    assert_eq!(room.run(&["run", "both.rhai"]).out, "out/both-mask.png\nout/both.png\n");
}

#[test]
fn help_and_reference_go_to_stdout() {
    let room = Room::new();
    let done = room.run(&["run", "magicmix", "--help"]);
    assert_eq!((done.code, &*done.err), (0, ""));
    assert!(done.out.contains("0.0..1.0") && done.out.contains("emoji"), "{}", done.out);
    assert!(room.run(&["run"]).out.contains("magicmix"));
    assert!(room.run(&["--help"]).out.contains("--max-memory"));
    assert!(room.run(&["--version"]).out.starts_with("scumble 0."));
    assert!(room.run(&["doc", "blend"]).out.starts_with("blend("));
    assert!(room.run(&["doc"]).out.contains("encode"));
    assert!(room.run(&["doc", "--markdown"]).out.starts_with("# "));
    assert!(room.run(&["licenses"]).out.contains("Apache"));
    let doctor = room.run(&["doctor"]);
    for fact in ["device", "threads", "memory", "pictures", "stdout is no terminal", "hub cache", "history"] {
        assert!(doctor.out.contains(fact), "{fact}:\n{}", doctor.out);
    }
}

#[test]
fn check_finds_without_running() {
    let room = Room::new();
    assert_eq!(room.run(&["check", "magicmix", "sdedit", "text2image"]).code, 0);
    room.write("typo.rhai", "let m = load(\"emoji\");\nm.encoode(\"a\")");
    fails(&room.run(&["check", "typo.rhai"]), 1, &["encoode", "did you mean encode?", "line 2"]);
    fails(&room.run(&["check", "nowhere.rhai"]), 2, &["nowhere.rhai"]);
    fails(&room.run(&["check"]), 2, &["RECIPE"]);
}

#[test]
fn json_is_json() {
    let room = Room::new();
    let done = room.run(&["--json", "run", "text2image", "steps=3"]);
    assert_eq!((done.code, &*done.err), (0, ""));
    let events: Vec<serde_json::Value> =
        done.out.lines().map(|l| serde_json::from_str(l).expect(l)).collect();
    let of = |kind: &str| events.iter().filter(|e| e["event"] == kind).count();
    assert_eq!((of("step"), of("saved"), of("picture"), of("done")), (3, 1, 1, 1));
    let last = events.last().unwrap();
    assert_eq!((last["code"].as_i64(), last["saved"][0].as_str()), (Some(0), Some("out/text2image.png")));
    let done = room.run(&["--json", "-e", "nope()"]);
    assert_eq!(done.code, 1);
    let error: serde_json::Value = serde_json::from_str(done.out.lines().next().unwrap()).unwrap();
    assert_eq!((error["event"].as_str(), error["code"].as_i64()), (Some("error"), Some(1)));
}

#[test]
fn the_log_keeps_what_was_said() {
    let room = Room::new();
    room.run(&["--log", "a.log", "-e", "print(\"one\"); 2"]);
    room.run(&["--log", "a.log", "-e", "nope()"]);
    let log = std::fs::read_to_string(room.path("a.log")).unwrap();
    assert!(log.starts_with("one\n2\nerror: nope"), "{log}");
    let done = room.run(&["--log", "/dev/full", "-e", "print(\"one\"); print(\"two\")"]);
    assert_eq!((done.code, &*done.out), (0, "one\ntwo\n"));
    assert_eq!(done.err.lines().count(), 1, "{}", done.err);
    assert!(done.err.contains("--log /dev/full") && done.err.contains("the run goes on"), "{}", done.err);
    let done = room.run(&["--log", "/dev/full", "run", "text2image", "steps=2", "-q"]);
    assert_eq!((done.code, &*done.out, done.err.lines().count()), (0, "out/text2image.png\n", 1));
}

#[test]
fn colors_only_where_they_are_wanted() {
    let room = Room::new();
    assert!(room.run(&["--color", "always", "-e", "nope()"]).err.contains("\x1b[1;31m"));
    assert!(!room.run(&["-e", "nope()"]).err.contains('\x1b'));
    let forced = room.command(&["-e", "nope()"]).env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(Done::from(forced).err.contains('\x1b'));
    let never = room.command(&["--color=never", "-e", "nope()"]).env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(!Done::from(never).err.contains('\x1b'));
}

#[test]
fn an_endless_loop_ends_with_its_time() {
    let room = Room::new();
    let started = Instant::now();
    fails(&room.run(&["--max-time", "300ms", "-e", "loop { }"]), 1, &["--max-time"]);
    fails(
        &room.run(&["--max-time", "300ms", "-e", "let m = load(\"emoji\"); loop { m.encode(\"a\") }"]),
        1,
        &["--max-time"],
    );
    assert!(started.elapsed() < Duration::from_secs(20));
    fails(&room.run(&["-e", "let a = []; loop { a.push(1) }"]), 1, &["too large"]);
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let room = Room::new();
    // The reader leaves after one line of a script that never ends, wherever the script comes from.
    let endless = "loop { print(\"line\") }";
    for from_stdin in [false, true] {
        let args: &[&str] = if from_stdin { &[] } else { &["-e", endless] };
        let mut command = room.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut script = child.stdin.take().unwrap();
        script.write_all(if from_stdin { endless.as_bytes() } else { b"" }).unwrap();
        drop(script);
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, "line\n");
        drop(reader);
        let left = Instant::now();
        assert_eq!(wait(&mut child, LONG), 0);
        assert!(left.elapsed() < Duration::from_secs(5), "it stops soon");
        assert_eq!(said(&mut child), "");
    }
    // A recipe's result is a file: it is written although nobody reads the path.
    let mut child = room.spawn(&["run", "text2image", "steps=3", "--quiet"]);
    drop(child.stdout.take());
    assert_eq!(wait(&mut child, LONG), 0);
    assert_eq!(files(&room.path("out")), ["text2image.png"]);
    assert_eq!(said(&mut child), "");
    // However much it prints before.
    room.write(
        "wordy.rhai",
        "let o = options(args, #{});\nfor i in 0..5000 { print(i); }\nfinish(open(\"dog-flat.png\"), o);",
    );
    let mut child = room.spawn(&["run", "wordy.rhai"]);
    drop(child.stdout.take());
    assert_eq!(wait(&mut child, LONG), 0);
    assert_eq!(files(&room.path("out")), ["text2image.png", "wordy.png"]);
}

fn said(child: &mut Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_full_disk_is_told() {
    let room = Room::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let done = Done::from(room.command(&["-e", "1 + 1"]).stdout(full.try_clone().unwrap()).output().unwrap());
    fails(&done, 1, &["stdout cannot be written", "No space left"]);
    // The result is a file, and there all the same.
    let done =
        room.command(&["run", "text2image", "steps=2", "--quiet"]).stdout(full).output().unwrap().into();
    fails(&done, 1, &["stdout cannot be written"]);
    assert_eq!(files(&room.path("out")), ["text2image.png"]);
    fails(&room.run(&["--out", "/proc/out", "run", "text2image", "steps=1", "-q"]), 1, &["/proc/out"]);
}
