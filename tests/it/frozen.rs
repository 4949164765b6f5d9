//! Networks from the user's own files in scripts and recipes, on small random weights: masks, edges, LPIPS.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use scumble::engine::observe::{Cancel, Silent};
use scumble::engine::weights::Weights;
use scumble::engine::weights::read::TensorFile;
use scumble::engine::weights::write;
use scumble::script::{Session, Settings, thread};

use crate::recipes::{pixels, run};
use crate::script::session;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity").join(name)
}

/// What the cell's last value shows, or what the error says.
fn eval(dir: &Path, code: &str) -> String {
    let code = code.replace("DATA", &data("").display().to_string());
    thread::run(|| match session(dir).0.eval(&code) {
        Ok(outcome) => outcome.text.unwrap_or_default(),
        Err(report) => report.render(false, 200),
    })
}

/// The weights of a fixture alone, as a user's file.
pub fn own(dir: &Path, name: &str) -> String {
    let all = Weights::load(
        &[TensorFile::open(&data(name)).unwrap()],
        candle_core::DType::F32,
        &candle_core::Device::Cpu,
    );
    let all = all.unwrap();
    let kept =
        all.tensors().iter().filter(|(n, _)| n.contains('.') && !n.starts_with("converted.") || *n == "norm");
    let bytes = write::encode(kept.map(|(n, t)| (n.as_str(), t)), &BTreeMap::new()).unwrap();
    let path = dir.join(name);
    write::replace("test", &path, &bytes).unwrap();
    path.display().to_string()
}

#[test]
fn a_mask_is_a_picture_and_a_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let setup = "let s = load_segmenter(\"DATAtiny-sam\");\nlet dog = open(\"dog-flat.png\");\n";
    let eval = |code: &str| eval(dir.path(), &format!("{setup}{code}"));
    assert_eq!(eval("s"), "Segmenter SAM  64x64");
    assert_eq!(eval("s.segment(dog, [32, 40])"), "Image 64x64");
    assert_eq!(eval("s.segment(dog.fit(50, 30), [[32, 20], [4, 4]]).tensor.shape"), "[1, 3, 30, 50]");
    assert_eq!(
        eval("let all = s.masks(dog, #{ box: [4, 4, 60.5, 60] }); [all.len(), all[0].mask]"),
        "[4, Image 64x64]"
    );
    // The best of the three is the one with the highest score, and `mask` chooses one.
    let best = "let at = #{ points: [[32, 40], [20, 20]], out: [2, 2] };\nlet all = s.masks(dog, at);\nlet best = 1;\n\
                for i in 2..4 { if all[i].score > all[best].score { best = i; } }\n\
                [distance(s.segment(dog, at), all[best].mask), distance(s.segment(dog, at, #{ mask: 0 }), all[0].mask)]";
    assert_eq!(eval(best), "[0.0, 0.0]");
    let blended = "let m = load(\"emoji\");\nlet z = m.noise(0);\nlet mask = s.segment(dog, [32, 40], #{ mask: 1 });\n\
                   let t = mask.tensor;\n[blend(z, z * 2, mask).shape, t.min == 0.0 && t.max == 1.0]";
    assert_eq!(eval(blended), "[[1, 4, 16, 16], true]");
    for (code, wanted) in [
        ("s.segment(dog, [99, 1])", "outside of the picture"),
        ("s.segment(dog, [1])", "this is no point"),
        ("s.segment(dog, \"dog\")", "these are no points"),
        ("s.segment(dog, [])", "neither a point nor a box"),
        ("s.segment(dog, #{ boxx: [1, 2, 3, 4] })", "did you mean box?"),
        ("s.segment(dog, #{ box: [1, 2, 3] })", "this is no box"),
        ("s.segment(dog, [1, 1], #{ mask: 4 })", "option mask is out of range"),
        (
            "let m = load(\"emoji\");\ngrad(m.noise(0), |z| sum(s.segment(m.decode(z), [9, 9]).tensor))",
            "segment has no gradient",
        ),
    ] {
        let said = eval(code);
        assert!(said.contains(wanted), "{code}: {said}");
    }
}

#[test]
fn a_saved_mask_serves_the_recipes() {
    let dir = tempfile::tempdir().unwrap();
    let code = "let s = load_segmenter(\"DATAtiny-sam\");\nsave(s.segment(open(\"dog-flat.png\"), [32, 40], #{ mask: 1 }), \"mask\")";
    let saved = eval(dir.path(), code);
    let mask = format!("mask={}", saved.trim_matches('"'));
    assert!(Path::new(saved.trim_matches('"')).is_file(), "{saved}");
    let few = ["steps=4", "prompt=a cat", "image=dog-flat.png", &mask];
    for recipe in ["inpaint", "sdedit"] {
        let (with, without) = (pixels(recipe, &few), pixels(recipe, &few[..3]));
        assert_ne!(with, without, "{recipe}");
    }
    let fusion =
        ["steps=4", "prompt_g=a dog", "prompt_e=a dog", "expert=emoji/expert-ink", "how=mask", &mask];
    assert!(!pixels("magicfusion", &fusion).is_empty());
}

#[test]
fn edges_of_a_network_train_and_guide() {
    let dir = tempfile::tempdir().unwrap();
    let (hed, pidinet) = (own(dir.path(), "hed.safetensors"), own(dir.path(), "pidinet.safetensors"));
    let code = format!(
        "let e = load_edges(\"{hed}\");\n[e, e.edges(open(\"dog-flat.png\"), #{{ threshold: 0.5 }})]"
    );
    assert_eq!(eval(dir.path(), &code), "[Edges HED, Image 64x64]");
    let out = dir.path().join("out");
    let detector = format!("detector={pidinet}");
    let train = ["train_steps=2", "batch=2", "hidden=[8]", "held_out=1", "own=0", "threshold=0.5", &detector];
    let outcome = run(&out, "train_lgp", &train).unwrap_or_else(|e| panic!("{e}"));
    let net = outcome.saved.iter().find(|p| p.extension().is_some_and(|e| e == "safetensors")).unwrap();
    let predictor = format!("predictor={}", net.display());
    let few = ["sketch=dog-flat.png", "prompt=a dog", "steps=4", &predictor, &detector];
    let pictures = ["", "picture", "lines"].map(|from| match from {
        "" => pixels("sketch_guided", &few),
        from => pixels("sketch_guided", &[&few[..4], &[&format!("from={from}")]].concat()),
    });
    assert!(
        pictures[0] != pictures[1] && pictures[0] != pictures[2],
        "the detector's edges are others than Canny's"
    );
    let error = run(&out, "train_lgp", &["map=luminance", &detector]).unwrap_err().to_string();
    assert!(error.contains("map=edges"), "{error}");
}

#[test]
fn lpips_can_be_followed_downhill() {
    let dir = tempfile::tempdir().unwrap();
    let file = own(dir.path(), "lpips.safetensors");
    let setup = format!(
        "let p = perceptual(\"{file}\", #{{ lpips: \"{file}\" }});\nlet a = open(\"dog-flat.png\");\nlet b = open(\"cat-flat.png\");\n"
    );
    let eval = |code: &str| eval(dir.path(), &format!("{setup}{code}"));
    assert_eq!(eval("p"), "Perceptual VGG16 with LPIPS");
    assert_eq!(
        eval("[p.lpips(a, a).list(), p.lpips(a, b).mean > 0.01, p.lpips(a, b).shape]"),
        "[[0.0], true, []]"
    );
    assert_eq!(eval("p.features(a).len()"), "4");
    let down = "let m = load(\"emoji\");\n\
                let found = minimize(m.encode(a), #{ steps: 5, lr: 0.02 }, |z, i| p.lpips(m.decode(z), b));\n\
                found.losses[4] < found.losses[0]";
    assert_eq!(eval(down), "true");
    let said = eval("perceptual(load(\"emoji\"), #{ lpips: \"x.safetensors\" })");
    assert!(said.contains("made on VGG16"), "{said}");
    let said = eval("p.lpips(a, b.resize(32, 32))");
    assert!(said.contains("one size"), "{said}");
}

/// Weights are counted before they are read.
#[test]
fn networks_that_do_not_fit_are_refused_before_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        out: dir.path().to_path_buf(),
        max_memory: Some(20_000),
        no_init: true,
        ..Settings::default()
    };
    for code in [
        "load_segmenter(\"DATAtiny-sam\")",
        "load_depth(\"DATAtiny-depth\")",
        "load_dino(\"DATAtiny-dino\")",
        "load_captioner(\"DATAtiny-blip\")",
        "load_edges(\"DATAhed.safetensors\")",
        "perceptual(\"DATAvgg.safetensors\")",
    ] {
        let code = code.replace("DATA", &data("").display().to_string());
        let settings = settings.clone();
        let said = thread::run(move || {
            let mut session = Session::new(settings, Arc::new(Silent), Cancel::default());
            session.eval(&code).map(|o| o.text).map_err(|e| e.render(false, 200))
        });
        assert!(said.as_ref().is_err_and(|e| e.contains("memory budget")), "{said:?}");
    }
}
