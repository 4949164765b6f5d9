//! Hostile recipes: files, links, memory, output. What a cell can show alone stands in tests/rhai.

use std::path::Path;

use scumble::script::host::{Host, MAX_FILES, MAX_SAVED};
use scumble::script::{catalog, thread};

use crate::script::session;

/// Runs a recipe of this text in `dir` and returns what went wrong.
fn fails(dir: &Path, text: &str) -> String {
    let path = dir.join("hostile.rhai");
    std::fs::write(&path, text).unwrap();
    let name = path.display().to_string();
    thread::run(|| session(&dir.join("out")).0.run(&name, &[]).map(drop).unwrap_err().render(false, 300))
}

#[test]
fn nothing_outside_is_told() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("there.png"), "x").unwrap();
    let there = fails(dir.path(), &format!("open(\"{}\")", dir.path().join("there.png").display()));
    let gone = fails(dir.path(), &format!("open(\"{}\")", dir.path().join("thare.png").display()));
    assert!(there.contains("may not read outside") && gone.contains("may not read outside"), "{there}{gone}");
    assert!(!gone.contains("did you mean"), "{gone}");
    let model = fails(dir.path(), "load(\"/no-such-folder\")");
    assert!(model.contains("may not read outside"), "{model}");
}

#[cfg(unix)]
#[test]
fn a_model_folder_cannot_link_out() {
    let (dir, far) = (tempfile::tempdir_in(".").unwrap(), tempfile::tempdir().unwrap());
    std::fs::create_dir(dir.path().join("model")).unwrap();
    std::fs::write(dir.path().join("model/model_index.json"), "{}").unwrap();
    std::os::unix::fs::symlink(far.path(), dir.path().join("model/unet")).unwrap();
    let text = fails(dir.path(), &format!("load(\"{}\")", dir.path().join("model").display()));
    assert!(text.contains("a link that leads out of it"), "{text}");
}

#[test]
fn endless_work_in_an_imported_module_ends() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("forever.rhai"), "let i = 0; loop { i += 1; }").unwrap();
    let text = fails(dir.path(), "import \"forever\" as f;");
    assert!(text.contains("endless loop"), "{text}");
    std::fs::write(dir.path().join("long.rhai"), "// ".repeat(2 << 20)).unwrap();
    let text = fails(dir.path(), "import \"long\" as l;");
    assert!(text.contains("too long"), "{text}");
    std::fs::write(dir.path().join("bytes.rhai"), [0xff, 0xfe, 0x00]).unwrap();
    let text = fails(dir.path(), "import \"bytes\" as b;");
    assert!(text.contains("not a text") || text.contains("there is no module"), "{text}");
}

/// A PNG file of these chunks, checksums left at nought where no decoder looks at them.
fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let picture = image::RgbImage::new(8, 8);
    image::DynamicImage::from(picture)
        .write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png)
        .unwrap();
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    bytes
}

#[test]
fn pictures_that_claim_to_be_huge_are_refused() {
    let dir = tempfile::tempdir_in(".").unwrap();
    for (w, h) in [(0, 0), (1 << 30, 1 << 30), (60_000, 2), (16_000, 16_000)] {
        let file = dir.path().join("bomb.png");
        std::fs::write(&file, png(w, h)).unwrap();
        let text = fails(dir.path(), &format!("open(\"{}\")", file.display()));
        assert!(text.contains("error: open: "), "{w}x{h}: {text}");
        assert!(!text.contains("scumble itself"), "{w}x{h}: {text}");
    }
}

#[test]
fn help_of_a_hostile_recipe_is_plain() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.rhai");
    let text = "// \u{1b}]0;title\u{7} paper\nlet o = options(args, #{ a: opt(1, \"\u{1b}[2J\") });";
    std::fs::write(&path, text).unwrap();
    let recipe = scumble::script::recipes::find(&path.display().to_string()).unwrap();
    let (help, summary) =
        (scumble::script::recipes::help(&recipe, None), scumble::script::recipes::summary(&recipe));
    let help = format!("{help}{summary}");
    assert!(!help.contains(['\u{1b}', '\u{7}']) && help.contains("paper"), "{help}");
}

#[test]
fn a_report_of_a_long_line_is_made_at_once() {
    let start = std::time::Instant::now();
    for code in ["-".repeat(200_000) + "1", "(".repeat(100_000), "x".repeat(200_000)] {
        let dir = tempfile::tempdir().unwrap();
        let text = thread::run(|| session(dir.path()).0.eval(&code).unwrap_err().render(true, 80));
        assert!(text.len() < 10_000, "{} bytes", text.len());
    }
    assert!(start.elapsed().as_secs() < 30, "took {:?}", start.elapsed());
}

#[test]
fn every_function_that_calls_back_has_a_test_with_its_receiver() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rhai");
    let missing: Vec<String> = catalog::all()
        .iter()
        .filter(|e| e.params.iter().any(|p| p.ty.split('|').any(|t| t == "function")))
        .filter(|e| !tests.join(format!("callback_{}.rhai", e.name)).is_file())
        .map(|e| {
            format!("tests/rhai/callback_{}.rhai: a callback that uses the receiver of {}", e.name, e.path())
        })
        .collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[cfg(unix)]
#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let pipe = dir.path().join("pipe.png");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let start = std::time::Instant::now();
    let text = fails(dir.path(), &format!("open(\"{}\")", pipe.display()));
    assert!(text.contains("this is a device or a pipe"), "{text}");
    assert!(start.elapsed().as_secs() < 10, "it waited");
}

#[test]
fn saving_has_an_end_and_memory_a_limit_without_a_flag() {
    let host = Host::idle();
    host.may_save("save", 1 << 20).unwrap();
    let e = host.may_save("save", MAX_SAVED).unwrap_err();
    assert_eq!(e.kind().name(), "budget");
    assert!(e.to_string().contains("too many files"), "{e}");
    (0..MAX_FILES).for_each(|i| host.note_saved(Path::new(&format!("{i}.png"))));
    assert!(host.may_save("save", 1).is_err());
    host.begin();
    host.may_save("save", 1).unwrap();
    assert!(host.memory_limit().is_some_and(|l| l > 1 << 20));
    let e = host.reserve("noise", u64::MAX).unwrap_err();
    assert_eq!(e.kind().name(), "budget");
}
