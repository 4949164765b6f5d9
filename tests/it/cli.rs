//! The program from outside: what people meet first, and the mistakes they make.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn scumble(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scumble"));
    command.current_dir(dir).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    scumble(dir.path()).args(args).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs, and checks the exit code and that stderr says each of the parts.
fn fails(code: i32, args: &[&str], parts: &[&str]) {
    let output = run(args);
    let text = err(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    for part in parts {
        assert!(text.contains(part), "{args:?}: \"{part}\" is missing in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_result_is_a_path_on_stdout_and_nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    for expected in ["out/magicmix.png", "out/magicmix-2.png"] {
        let output = scumble(dir.path()).args(["run", "magicmix", "steps=4"]).output().unwrap();
        assert!(output.status.success(), "{}", err(&output));
        assert_eq!(out(&output).trim_end(), expected);
        assert!(err(&output).contains("sampling"), "progress goes to stderr");
        let picture = image::open(dir.path().join(expected)).unwrap();
        assert_eq!((picture.width(), picture.height()), (64, 64));
    }
}

#[test]
fn a_lone_copied_binary_works() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("scumble");
    std::fs::copy(env!("CARGO_BIN_EXE_scumble"), &copy).unwrap();
    let output = Command::new(&copy)
        .args(["run", "text2image", "steps=2", "--quiet"])
        .current_dir(dir.path())
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(out(&output), "out/text2image.png\n");
    assert_eq!(err(&output), "");
}

#[test]
fn mistakes_in_the_call_are_usage_errors() {
    fails(2, &["--bogus"], &["--bogus", "--help"]);
    fails(2, &["run", "magicmxi"], &["magicmxi", "magicmix"]);
    fails(2, &["run", "magicmix", "nuu=1"], &["no option nuu", "did you mean nu?"]);
    fails(2, &["run", "magicmix", "nu=3"], &["nu is out of range", "0.0 to 1.0"]);
    fails(2, &["run", "magicmix", "steps=0"], &["steps is out of range"]);
    fails(2, &["run", "magicmix", "nu"], &["key=value"]);
    fails(2, &["run", "magicmix", "steps=many"], &["steps"]);
    fails(2, &["--dtype", "f8", "-e", "1"], &["f32, f16, bf16"]);
    fails(2, &["--device", "tpu", "-e", "1"], &["auto, cpu, cuda"]);
    fails(2, &["--max-memory", "lots", "-e", "1"], &["like 2G"]);
    fails(2, &["doc", "nothing_of_that_name"], &["scumble doc"]);
}

#[test]
fn failures_of_scripts_say_where_and_what_to_do() {
    fails(1, &["-e", "blned(1, 2)"], &["did you mean blend?", "^^^^^", "cell 1, line 1"]);
    fails(1, &["-e", "loop { }"], &["endless loop"]);
    fails(1, &["-e", "fn f(x) { f(x + 1) } f(0)"], &["too deeply"]);
    fails(1, &["-e", "let a = []; loop { a.push(1); }"], &["too large"]);
    fails(1, &["-e", "let s = \"ab\"; loop { s += s; }"], &["too large"]);
    fails(1, &["-e", "load(\"no-such-model\")"], &["no model", "emoji"]);
    fails(1, &["run", "sdedit", "image=missing.png"], &["missing.png", "not there"]);
    fails(1, &["run", "magicmix", "word=zebra", "s=2"], &["zebra", "not a word of the prompt", "lion"]);
    fails(
        1,
        &["--max-time", "300ms", "-e", "let m = load(\"emoji\"); loop { m.noise(1); }"],
        &["--max-time"],
    );
    fails(1, &["--out", "/dev/null/x", "run", "text2image", "steps=1"], &["/dev/null/x"]);
}

#[test]
fn a_picture_that_is_no_picture() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("fake.png"), "not a picture").unwrap();
    let output = scumble(dir.path()).args(["run", "sdedit", "image=fake.png"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("fake.png") && err(&output).contains("PNG, JPEG or WebP"),
        "{}",
        err(&output)
    );
}

/// Ten thousand latents of 64 KiB, made and dropped: memory stays flat. Kept, they do not fit.
#[test]
fn dropped_values_leave_no_memory_behind() {
    let start = "let z = load(\"emoji\").noise(0, #{ size: 256 });";
    let dropped = format!("{start} for i in 0..10000 {{ let y = z * 0.5; let k = y + z; }} 1");
    assert_eq!(out(&run(&["--max-memory", "300M", "-e", &dropped])), "1\n");
    let kept = format!("{start} let all = []; for i in 0..10000 {{ all.push(z * 0.5); }} 1");
    let output = run(&["--max-memory", "300M", "-e", &kept]);
    assert!(!output.status.success() && err(&output).contains("memory"), "{}", err(&output));
}

#[test]
fn values_prompts_and_scripts_from_stdin() {
    assert_eq!(out(&run(&["-e", "1 + 1"])), "2\n");
    assert_eq!(out(&run(&["-e", "1 + 1;"])), "");
    assert_eq!(out(&run(&["-e", "print(\"hello\")"])), "hello\n");
    let dir = tempfile::tempdir().unwrap();
    let mut child = scumble(dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"let x = 20;\nx * 2 + 2\n").unwrap();
    assert_eq!(out(&child.wait_with_output().unwrap()), "42\n");
    let long = format!("prompt={}", "dog ".repeat(500));
    let output = run(&["run", "text2image", "steps=1", &long]);
    assert!(output.status.success() && err(&output).contains("cut"), "{}", err(&output));
}

#[test]
fn half_precision_on_the_cpu_says_what_it_does() {
    let half = run(&["--dtype", "f16", "run", "text2image", "steps=1"]);
    assert!(half.status.success(), "{}", err(&half));
    assert!(err(&half).contains("the CPU computes in f32"), "{}", err(&half));
    // bfloat16 has a kernel where the processor has the instructions: near the exact picture, and said.
    let corner = |dtype: &str| {
        let code = "let m = load(\"emoji\"); print(m.similarity(m.sample(\"a dog\", #{ steps: 6 }).image, \"a dog\"))";
        let output = run(&["--dtype", dtype, "-e", code]);
        assert!(output.status.success(), "{}", err(&output));
        (out(&output).trim().parse::<f64>().unwrap(), err(&output))
    };
    let ((exact, _), (rounded, said)) = (corner("f32"), corner("bf16"));
    assert!((exact - rounded).abs() < 0.02, "{exact} {rounded}");
    match said.contains("multiply in bfloat16") {
        true => assert_ne!(exact, rounded),
        false => assert!(said.contains("the CPU computes in f32") && exact == rounded, "{said}"),
    }
}

/// Lean: the same picture to rounding, without copies of the weights.
#[test]
fn lean_changes_no_picture() {
    let score = |flags: &[&str]| {
        let code = "let m = load(\"emoji\"); print(m.similarity(m.sample(\"a dog\", #{ steps: 6 }).image, \"a dog\"))";
        let output = run(&[flags, &["-e", code]].concat());
        assert!(output.status.success(), "{}", err(&output));
        out(&output).trim().parse::<f64>().unwrap()
    };
    assert!((score(&[]) - score(&["--lean"])).abs() < 1e-5);
}

#[test]
fn help_names_every_option_with_both_columns() {
    let text = out(&run(&["run", "magicmix", "--help"]));
    for part in ["2210.16056", "paper", "emoji", "nu", "k_max", "k_min", "0.0..1.0", "example=1"] {
        assert!(text.contains(part), "\"{part}\" is missing in: {text}");
    }
    assert!(out(&run(&["run"])).contains("magicmix"));
    assert!(out(&run(&["doctor"])).contains("threads"));
    assert!(out(&run(&["licenses"])).contains("Microsoft"));
    assert!(out(&run(&["check", "magicmix"])).contains("nothing found"));
}
