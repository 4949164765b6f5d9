//! The report: its file, its sheets, what happens to a part that fails, and the case lists.

use std::path::Path;

use scumble::script::thread;

use crate::recipes::run;
use crate::script::session;

const TINY: [&str; 4] = ["steps=2", "cases=1", "seeds=1", "quick=true"];

/// The text of report.md that a run of these parts wrote below `dir`.
fn report(dir: &Path, more: &[&str]) -> String {
    let outcome = run(dir, "report", &[&TINY[..], more].concat()).unwrap_or_else(|e| panic!("{e}"));
    let file = outcome.saved.iter().find(|p| p.extension().is_some_and(|e| e == "md"));
    std::fs::read_to_string(file.unwrap()).unwrap()
}

/// Every file that a text in markdown shows as a picture.
fn pictures(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(name, _)| name).collect()
}

#[test]
fn a_report_names_its_sheets_and_they_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let text = report(dir.path(), &["part=heat"]);
    assert!(text.contains("scumble run report"), "{text}");
    assert!(text.contains("part=heat") && text.contains("1 of 1 parts"), "{text}");
    assert!(text.contains("| heat | finished |"), "{text}");
    let names = pictures(&text);
    assert!(!names.is_empty(), "{text}");
    for name in names {
        assert!(image::open(dir.path().join(name)).is_ok(), "{name}");
    }
    assert!(dir.path().join("report-heat-heat.csv").exists());
    // A second report stands beside the first and names its own sheets.
    let again = report(dir.path(), &["part=heat"]);
    assert!(pictures(&again)[0].contains("-2.png"), "{again}");
    assert!(dir.path().join("report-2.md").exists());
}

#[test]
fn every_part_finishes_at_tiny_settings() {
    let dir = tempfile::tempdir().unwrap();
    let text = report(dir.path(), &[]);
    assert!(!text.contains("failed"), "{text}");
    for part in ["dreambooth", "magicfusion", "prompt2prompt", "invert", "heat"] {
        assert!(text.contains(&format!("| {part} | finished |")), "{part}:\n{text}");
    }
    assert!(text.contains("A trial run"), "{text}");
    for name in pictures(&text) {
        assert!(image::open(dir.path().join(name)).is_ok(), "{name}");
    }
}

/// The embedded model's networks as a checkpoint that the program does not know: nobody's measured defaults, no predictor, no expert.
/// With a CLIP beside it, or without any.
fn checkpoint(dir: &Path, clip: bool) -> String {
    let folder = dir.join(if clip { "with-clip" } else { "without-clip" });
    let known = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/emoji");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(known.join("model_index.json"), folder.join("model_index.json")).unwrap();
    let parts = ["unet", "vae", "text_encoder", "tokenizer", "scheduler", "clip"];
    for part in parts.iter().filter(|p| clip || **p != "clip") {
        std::fs::create_dir(folder.join(part)).unwrap();
        for file in std::fs::read_dir(known.join(part)).unwrap().flatten() {
            std::fs::copy(file.path(), folder.join(part).join(file.file_name())).unwrap();
        }
    }
    folder.display().to_string()
}

#[test]
fn a_checkpoint_has_the_same_report() {
    let dir = tempfile::tempdir().unwrap();
    let model = format!("model={}", checkpoint(dir.path(), true));
    let text = report(dir.path(), &[&model]);
    let parts =
        ["imagic", "disentangle", "sketch", "dreambooth", "magicfusion", "prompt2prompt", "invert", "heat"];
    for part in parts {
        assert!(text.contains(&format!("| {part} | finished |")), "{part}:\n{text}");
    }
    // No expert of this model is known; another can be named.
    assert!(text.contains("Not run: this model's expert is not here"), "{text}");
    let named = ["expert=emoji/expert-ink", "style=3d", "part=magicfusion", &model];
    assert!(report(dir.path(), &named).contains("in its style, \"3d\""));
    // Nor does a predictor fit other weights: one is trained.
    let text = report(dir.path(), &["model=emoji/expert-ink", "part=sketch"]);
    assert!(text.contains("| sketch | finished |"), "{text}");
}

#[test]
fn without_a_clip_the_parts_that_need_none_run() {
    let dir = tempfile::tempdir().unwrap();
    let text = report(dir.path(), &[&format!("model={}", checkpoint(dir.path(), false))]);
    for part in ["invert", "heat"] {
        assert!(text.contains(&format!("| {part} | finished |")), "{part}:\n{text}");
    }
    assert_eq!(text.matches("put a transformers CLIP folder named clip").count(), 6, "{text}");
}

#[test]
fn what_the_report_does_not_take_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (given, wanted) in [("size=32", "the model's own size"), ("negative=a cat", "the empty prompt")] {
        let e = run(dir.path(), "report", &[given, "part=heat"]).unwrap_err().to_string();
        assert!(e.contains(wanted), "{e}");
    }
}

#[test]
fn a_part_that_fails_is_reported_and_the_others_run() {
    // A second module of the name stands in for one that cannot run on the model at hand.
    let dir = tempfile::tempdir().unwrap();
    let text = include_str!("../../scripts/report.rhai");
    let broken = text.replacen(
        "let names = report::chosen(o.part, order);",
        "parts.broken = |m, o| open(\"no-such-picture.png\");\nlet names = [\"broken\", \"heat\"];",
        1,
    );
    assert_ne!(text, broken);
    let recipe = dir.path().join("report.rhai");
    std::fs::write(&recipe, &broken).unwrap();
    let name = recipe.display().to_string();
    let saved = run(dir.path(), &name, &TINY).unwrap_or_else(|e| panic!("{e}")).saved;
    let text = std::fs::read_to_string(saved.iter().find(|p| p.ends_with("report.md")).unwrap()).unwrap();
    assert!(text.contains("| broken | failed |") && text.contains("| heat | finished |"), "{text}");
    assert!(text.contains("**This part failed:** open: ") && text.contains("no-such-picture.png"), "{text}");
    // Where nothing could run the recipe fails, and the report is there.
    std::fs::write(&recipe, broken.replacen("[\"broken\", \"heat\"]", "[\"broken\"]", 1)).unwrap();
    let e = run(dir.path(), &name, &TINY).unwrap_err();
    assert!(e.to_string().contains("every part failed"), "{e}");
    assert!(dir.path().join("report-2.md").exists());
}

#[test]
fn parts_are_named_by_lists_and_unknown_ones_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (given, wanted) in [("part=hat", "no part \"hat\""), ("part=,", "part is empty")] {
        let e = run(dir.path(), "report", &[given]).unwrap_err().to_string();
        assert!(e.contains(wanted), "{e}");
    }
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing was written");
}

#[test]
fn the_heat_of_a_word_lies_on_its_object() {
    let dir = tempfile::tempdir().unwrap();
    let code = "let m = load(\"emoji\");\nlet all = report_heat::scenes().map(|one| {\n\
                let part = heat::inside(report_heat::of(m, one.picture, one.word, 1, m.heat_sites), one.box);\n\
                part.mass / part.area });\nstats::mean(all)";
    let text = thread::run(|| session(dir.path()).0.eval(code).unwrap().text.unwrap());
    let mean: f64 = text.parse().unwrap();
    assert!(mean > 1.1, "the heat's share of the boxes is {mean} times chance");
}

#[test]
fn a_text_is_written_anew_only_by_the_run_that_wrote_it() {
    let dir = tempfile::tempdir().unwrap();
    let eval = |code: &str| thread::run(|| session(dir.path()).0.eval(code).map(|_| ()));
    eval("let p = save_text(\"one\", \"a.md\"); save_text(\"two\", p, #{ replace: true });").unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("a.md")).unwrap(), "two");
    let path = dir.path().join("a.md").display().to_string();
    let e = eval(&format!("save_text(\"three\", \"{path}\", #{{ replace: true }})")).unwrap_err();
    assert!(e.to_string().contains("this run has not written it"), "{e}");
    let e = eval("save_text(\"x\", \"../a.md\")").unwrap_err();
    assert!(e.to_string().contains("may only write below"), "{e}");
    eval("save_text(\"four\", \"a.md\")").unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("a.md")).unwrap(), "two");
    assert_eq!(std::fs::read_to_string(dir.path().join("a-2.md")).unwrap(), "four");
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 2, "no temporary file is left");
}
