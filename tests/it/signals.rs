//! Signals, from outside: a run that is told to end ends soon, with the code that says why, and keeps what it can.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::program::{Done, Room, files, send, until, wait};

const LONG: Duration = Duration::from_secs(60);

/// The signals that end a process, and the exit codes that say so.
fn ending() -> Vec<(Signal, i32)> {
    let mut all = vec![(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)];
    all.retain(|(signal, _)| *signal != Signal::HUP || !under_nohup());
    all
}

/// Whether a process ignores hang-ups, or handles them, by the mask's name in /proc. `None` where there is no /proc.
fn hangups(process: &str, mask: &str) -> Option<bool> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let mask = status.lines().find_map(|l| l.strip_prefix(mask))?;
    Some(u64::from_str_radix(mask.trim(), 16).unwrap() & 1 == 1)
}

/// Whether hang-ups mean nothing here, to the tests and to what they start: under nohup.
fn under_nohup() -> bool {
    hangups("self", "SigIgn:") == Some(true)
}

/// Waits until a process has its signal handlers.
fn handles(child: &Child) {
    let process = child.id().to_string();
    until("signal handlers", LONG, || hangups(&process, "SigCgt:").unwrap_or(true));
    if hangups(&process, "SigCgt:").is_none() {
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Starts a run that would take minutes and waits until it samples.
fn sampling(room: &Room, more: &[&str]) -> Child {
    let args = ["run", "text2image", "steps=900", "n=8"];
    watched(room, &[&args, more].concat())
}

/// Starts the program and waits until it samples or tunes.
fn watched(room: &Room, args: &[&str]) -> Child {
    let mut child = room.spawn(args);
    let mut line = String::new();
    let mut reader = BufReader::new(child.stderr.take().unwrap());
    while !line.starts_with("sampling") && !line.starts_with("tuning") {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "it ended before it sampled");
    }
    // Whatever comes later is thrown away, so that the pipe does not fill.
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    child
}

#[test]
fn interrupted_is_130() {
    let room = Room::new();
    let mut child = sampling(&room, &[]);
    send(&child, Signal::INT);
    assert_eq!(wait(&mut child, LONG), 130);
    // While the program itself works in a loop of the language, too.
    let mut child = room.spawn(&["-e", "print(1); loop { }"]);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    send(&child, Signal::INT);
    assert_eq!(wait(&mut child, LONG), 130);
}

#[test]
fn a_training_run_that_is_terminated_saves_its_checkpoint() {
    let tune = |steps: usize, more: &str| {
        format!(
            "let m = load(\"emoji\"); let text = m.encode(\"a dog\"); let z = m.noise(0);\n\
             m.tune(#{{ what: \"conv_out\", steps: {steps}, lr: 0.001, file: \"run\"{more} }}, |m, i| mse(m.predict(z, 500, text), z));"
        )
    };
    let room = Room::new();
    let mut child = watched(&room, &["-e", &tune(100_000, "")]);
    send(&child, Signal::TERM);
    assert_eq!(wait(&mut child, LONG), 143);
    assert_eq!(files(&room.path("out")), ["run.safetensors"]);
    // It is whole: a run that goes less far says how far it got.
    let mut child = room.spawn(&["-e", &tune(0, ", resume: true")]);
    let mut text = String::new();
    std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut text).unwrap();
    assert_eq!(wait(&mut child, LONG), 1);
    assert!(text.contains("the checkpoint is further than"), "{text}");
}

#[test]
fn terminated_is_143_and_saves_the_last_latent() {
    let room = Room::new();
    let mut child = sampling(&room, &[]);
    send(&child, Signal::TERM);
    assert_eq!(wait(&mut child, LONG), 143);
    assert_eq!(files(&room.path("out")), ["text2image-latent.safetensors"]);
    // Code that is no recipe, too.
    let room = Room::new();
    let code = "sample::picture(load(\"emoji\"), \"a dog\", #{ steps: 900 })";
    let mut child = watched(&room, &["-e", code]);
    send(&child, Signal::TERM);
    assert_eq!(wait(&mut child, LONG), 143);
    assert_eq!(files(&room.path("out")), ["cell-latent.safetensors"]);
}

#[test]
fn a_hang_up_is_129_unless_it_shall_keep_going() {
    let room = Room::new();
    let mut child = sampling(&room, &[]);
    send(&child, Signal::HUP);
    if under_nohup() {
        child.kill().unwrap();
    }
    assert!(wait(&mut child, LONG) == 129 || under_nohup());
    assert!(files(&room.path("out")) == ["text2image-latent.safetensors"] || under_nohup());
    let room = Room::new();
    let mut child = room.spawn(&["--keep-going", "run", "text2image", "steps=300"]);
    let mut reader = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with("sampling"), "{line}");
    send(&child, Signal::HUP);
    std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
    assert_eq!(wait(&mut child, LONG), 0);
    until("the picture", LONG, || files(&room.path("out")) == ["text2image.png"]);
}

#[test]
fn a_signal_before_anything_runs_ends_at_once() {
    let room = Room::new();
    for (signal, code) in ending() {
        // It waits for a script that does not come.
        let mut child = room.command(&[]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        handles(&child);
        send(&child, signal);
        assert_eq!(wait(&mut child, LONG), code);
    }
}

#[test]
fn a_signal_while_a_run_starts_stops_it() {
    let room = Room::new();
    for (signal, code) in ending() {
        // The flags are read, the threads start, the model is loaded, the first step is taken.
        for pause in [0, 5, 10, 20, 40, 80, 160] {
            let mut child = room.spawn(&["-q", "run", "text2image", "steps=900", "n=4"]);
            handles(&child);
            std::thread::sleep(Duration::from_millis(pause));
            let sent = Instant::now();
            send(&child, signal);
            let ended = wait(&mut child, LONG);
            assert_eq!(ended, code, "{signal:?} after {pause} ms");
            assert!(sent.elapsed() < Duration::from_secs(10), "{signal:?} after {pause} ms");
        }
    }
}

#[test]
fn nohup_is_obeyed() {
    let room = Room::new();
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", "trap '' HUP; exec \"$SCUMBLE\" run text2image steps=100 --quiet"]);
    command.current_dir(room.path("")).env_clear().envs(room.environment());
    command.env("SCUMBLE", env!("CARGO_BIN_EXE_scumble")).stdin(Stdio::null()).stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    until("the program", LONG, || {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap_or("scumble".into());
        name.trim() == "scumble"
    });
    handles(&child);
    send(&child, Signal::HUP);
    let done = Done::from(child.wait_with_output().unwrap());
    assert_eq!((done.code, &*done.out), (0, "out/text2image.png\n"));
}
