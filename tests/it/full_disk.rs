//! A disk that fills up while a run trains: what is told, and that the last good checkpoint survives.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::program::{Done, Room};

/// A network of some 9000 numbers, a checkpoint of about 110 kB after every step.
const TRAIN: &str = r#"
let net = mlp([64, 128, 1], #{ seed: 3 });
let x = tensor(uniform(1, 512), [8, 64]);
let last = net.tune(#{ lr: 0.01, steps: STEPS, file: "run", every: 1, resume: true }, |n, i| mse(n.run(x + i * 0.1), x.mean(1).reshape([8, 1])));
print(last.run(x).list());
"#;

fn script(steps: usize) -> String {
    TRAIN.replace("STEPS", &steps.to_string())
}

/// A run below `dir` with the file system as `before` leaves it: a line of shell.
fn run(room: &Room, out: &Path, steps: usize, before: &str) -> Done {
    room.write("train.rhai", &script(steps));
    let line = format!("{before} exec \"$0\" run ./train.rhai --out \"$1\"");
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", &line, env!("CARGO_BIN_EXE_scumble")])
        .arg(out)
        .current_dir(room.path(""))
        .env_clear();
    command.envs(room.environment()).stdin(Stdio::null());
    command.output().unwrap().into()
}

fn left_over(dir: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(dir).unwrap().flatten().map(|e| e.path());
    all.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(".scumble-"))).collect()
}

#[test]
fn a_checkpoint_that_may_not_grow_is_told_and_the_last_good_one_survives() {
    let room = Room::new();
    let out = room.path("out");
    let whole = run(&room, &room.path("whole"), 4, "");
    assert_eq!(whole.code, 0, "{}", whole.err);
    let first = run(&room, &out, 2, "");
    assert_eq!(first.code, 0, "{}", first.err);
    let file = out.join("run.safetensors");
    let good = std::fs::read(&file).unwrap();
    // No file may grow beyond some kilobytes from here on.
    let cut = run(&room, &out, 4, "ulimit -f 16;");
    assert_eq!(cut.code, 0, "the run goes on: {}", cut.err);
    assert_eq!(cut.out.lines().next(), whole.out.lines().next(), "and comes to the same end");
    for step in [3, 4] {
        let told = format!("the checkpoint of step {step} could not be saved");
        assert!(cut.err.contains(&told) && cut.err.contains("run.safetensors"), "{}", cut.err);
    }
    assert!(
        cut.err.contains("ulimit -f") && cut.err.contains("what stood there before is whole"),
        "{}",
        cut.err
    );
    assert_eq!(std::fs::read(&file).unwrap(), good, "the checkpoint of step 2 is what it was");
    assert_eq!(left_over(&out), Vec::<PathBuf>::new());
    // From it the run goes on, and is the one that never stopped.
    let resumed = run(&room, &out, 4, "");
    assert_eq!((resumed.code, resumed.out.lines().next()), (0, whole.out.lines().next()), "{}", resumed.err);
}

/// The same on a disk that is really full: a small one of memory, which a process may mount in a space of its own where the
/// system allows it.
#[test]
fn a_full_disk_is_told_and_the_last_good_checkpoint_survives() {
    let room = Room::new();
    let out = room.path("small");
    std::fs::create_dir_all(&out).unwrap();
    let allowed = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "tmpfs"]).arg(&out).output();
    if !allowed.is_ok_and(|o| o.status.success()) {
        eprintln!("not run: no file system may be mounted here");
        return;
    }
    room.write("train.rhai", &script(2));
    room.write("more.rhai", &script(4));
    // The first checkpoint fits; beside it there is no room for the next.
    let line = "mount -t tmpfs -o size=192k tmpfs \"$1\" && \"$0\" run ./train.rhai --out \"$1\" && cp \"$1\"/run.safetensors good \
         && head -c 60000 /dev/zero > \"$1\"/filler && \"$0\" run ./more.rhai --out \"$1\" && cmp good \"$1\"/run.safetensors && ls -A \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["-rm", "/bin/sh", "-c", line, env!("CARGO_BIN_EXE_scumble")]).arg(&out);
    command.current_dir(room.path("")).env_clear().envs(room.environment()).stdin(Stdio::null());
    let done = Done::from(command.output().unwrap());
    assert_eq!(done.code, 0, "{}\n{}", done.out, done.err);
    assert!(done.err.contains("the checkpoint of step 4 could not be saved"), "{}", done.err);
    assert!(done.err.contains("the disk is full: make room"), "{}", done.err);
    assert!(done.out.ends_with("filler\nrun.safetensors\n"), "no rest of a file: {}", done.out);
}
