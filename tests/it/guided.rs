//! Sketch-guided sampling: exact identities and refusals of the recipes, and that the shipped predictor reads edges.

use scumble::engine::weights::read::TensorFile;
use scumble::report::Exit;

use crate::recipes::{differ, pixels, run};

const CUP: [&str; 3] = ["sketch=sketch-cup.png", "prompt=a cup of coffee", "steps=6"];
const PLAIN: [&str; 2] = ["prompt=a cup of coffee", "steps=6"];

#[test]
fn without_a_push_the_picture_is_the_plain_one() {
    let plain = pixels("text2image", &PLAIN);
    assert!(plain == pixels("sketch_guided", &[&CUP[..], &["beta=0"]].concat()));
    assert!(plain == pixels("sketch_guided", &[&CUP[..], &["beta=2", "stop=1"]].concat()));
    assert!(differ(&plain, &pixels("sketch_guided", &[&CUP[..], &["beta=1.6"]].concat())) > 20);
}

#[test]
fn light_lines_mean_the_same_as_dark_ones() {
    let dark = pixels("sketch_guided", &[&CUP[..], &["polarity=dark"]].concat());
    assert!(dark == pixels("sketch_guided", &CUP));
}

#[test]
fn what_cannot_guide_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let white = dir.path().join("white.png");
    image::RgbImage::from_pixel(40, 30, image::Rgb([255; 3])).save(&white).unwrap();
    let white = format!("sketch={}", white.display());
    let tiny = dir.path().join("few.png");
    image::RgbImage::from_pixel(1, 1, image::Rgb([0; 3])).save(&tiny).unwrap();
    let tiny = format!("sketch={}", tiny.display());
    let whole = std::fs::read("models/emoji/predictors/edges.safetensors").unwrap();
    let cut = dir.path().join("cut.safetensors");
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let cut = format!("predictor={}", cut.display());
    let cases: [(&str, &[&str], Exit, &str); 8] = [
        ("sketch_guided", &[&white], Exit::Script, "shows no lines"),
        ("sketch_guided", &["predictor=nowhere"], Exit::Script, "nowhere"),
        ("sketch_guided", &["beta=-1"], Exit::Usage, "beta is out of range"),
        ("sketch_guided", &[&tiny], Exit::Script, "shows no lines"),
        ("sketch_guided", &[&cut], Exit::Script, "cut.safetensors"),
        ("train_lgp", &["map=depth"], Exit::Script, "no depth"),
        ("train_lgp", &["depth=nowhere"], Exit::Script, "belong together"),
        (
            "train_lgp",
            &["maps=[\"dog-flat.png\"]", "data=[\"dog-flat.png\", \"cat-flat.png\"]"],
            Exit::Script,
            "one for each",
        ),
    ];
    for (recipe, list, exit, text) in cases {
        let e = run(dir.path(), recipe, list).unwrap_err();
        assert_eq!(e.exit, exit, "{recipe} {list:?}");
        let said = format!("{e}");
        assert!(said.contains(text), "{recipe} {list:?}: {said}");
    }
}

/// Any size will do: the sketch is fitted into the picture.
#[test]
fn a_sketch_of_another_size_is_the_same_sketch() {
    let dir = tempfile::tempdir().unwrap();
    let lines = image::open("models/emoji/pictures/sketch-cup.png").unwrap();
    let scaled = |name: &str, w: u32, h: u32| {
        let path = dir.path().join(name);
        lines.resize_exact(w, h, image::imageops::FilterType::Triangle).save(&path).unwrap();
        format!("sketch={}", path.display())
    };
    let guided = |sketch: &str| pixels("sketch_guided", &[sketch, "prompt=a cup of coffee", "steps=2"]);
    let first = guided("sketch=sketch-cup.png");
    let second = guided(&scaled("large.png", 256, 256));
    let apart = first.iter().zip(&second).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>();
    assert!(apart / (first.len() as f64) < 12.0, "{apart}");
    assert_eq!(guided(&scaled("wide.png", 150, 70)).len(), first.len());
}

/// Other maps by the same code: luminance, what a depth estimator says, and maps in somebody's own hand after a predictor of edges.
#[test]
fn other_maps_are_learned_by_the_same_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["dog-flat.png", "cat-flat.png", "bus-flat.png"];
    let listed = |list: &[String]| list.iter().map(|f| format!("\"{f}\"")).collect::<Vec<_>>().join(", ");
    let data = format!("data=[{}]", listed(&files.map(String::from)));
    let few = [&data[..], "held_out=1", "own=0", "train_steps=2", "batch=2", "hidden=[8]"];
    let depth = format!("depth={}/tests/data/parity/tiny-depth", env!("CARGO_MANIFEST_DIR"));
    let hand = files.map(|f| {
        let path = dir.path().join(f);
        image::open(format!("models/emoji/pictures/{f}")).unwrap().grayscale().save(&path).unwrap();
        path.display().to_string()
    });
    let maps = format!("maps=[{}]", listed(&hand));
    let cases: [(&[&str], &str); 3] = [
        (&["map=luminance"], "train_lgp-luminance.safetensors"),
        (&["map=depth", &depth], "train_lgp-depth.safetensors"),
        (&["map=edges", &maps, "init=edges"], "train_lgp-edges.safetensors"),
    ];
    for (more, file) in cases {
        let outcome = run(dir.path(), "train_lgp", &[&few[..], more].concat())
            .unwrap_or_else(|e| panic!("{more:?}: {e}"));
        let path = outcome.saved.iter().find(|p| p.ends_with(file));
        let path = path.unwrap_or_else(|| panic!("no {file} in {:?}", outcome.saved));
        let predictor = format!("predictor={}", path.display());
        let made = pixels("sketch_guided", &[&predictor, "sketch=sketch-cup.png", "prompt=a cup", "steps=2"]);
        assert_eq!(made.len(), 64 * 64 * 3);
        // A detector finds edges, whatever else a predictor reads.
        if !file.contains("edges") {
            let e = run(dir.path(), "sketch_guided", &[&predictor, "detector=hed.safetensors", "steps=2"]);
            let said = e.unwrap_err().to_string();
            assert!(said.contains("detector finds edges, and"), "{said}");
        }
    }
}

/// Of a few pictures as many are held out as is said, and the others are learned from; where the maps are somebody's hand, from no
/// others, whichever way the hand draws.
#[test]
fn a_few_pictures_are_not_all_held_out() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["dog-flat.png", "cat-flat.png", "bus-flat.png", "rose-flat.png", "pig-flat.png"];
    let listed = |list: &[String]| list.iter().map(|f| format!("\"{f}\"")).collect::<Vec<_>>().join(", ");
    let data = format!("data=[{}]", listed(&files.map(String::from)));
    let learned = |maps: &str| {
        let list = [&data[..], maps, "train_steps=1", "batch=1", "hidden=[8]", "held_out=4"];
        let outcome = run(dir.path(), "train_lgp", &list).unwrap_or_else(|e| panic!("{e}"));
        let path = outcome.saved.iter().find(|p| p.extension().is_some_and(|e| e == "safetensors")).unwrap();
        let sheet = outcome.saved.iter().find(|p| p.extension().is_some_and(|e| e == "png")).unwrap();
        let file = TensorFile::open(path).unwrap();
        (file.metadata()["pictures"].clone(), image::open(sheet).unwrap().to_rgb8())
    };
    let drawn = |dark: bool| {
        let paths = files.map(|f| {
            let path = dir.path().join(format!("{dark}-{f}"));
            let lines = |x, y| x % 16 == 0 || y % 16 == 0;
            let at = |x, y| image::Luma([if lines(x, y) == dark { 0u8 } else { 255 }]);
            image::GrayImage::from_fn(64, 64, at).save(&path).unwrap();
            path.display().to_string()
        });
        format!("maps=[{}]", listed(&paths))
    };
    let (dark, light) = (learned(&drawn(true)), learned(&drawn(false)));
    for (known, sheet) in [&dark, &light] {
        // One picture, as it is and turned round.
        assert_eq!(known, "2");
        assert_eq!(
            sheet.height() / (sheet.width() / 5),
            4,
            "four held out: {}x{}",
            sheet.width(),
            sheet.height()
        );
    }
    assert!(dark.1 == light.1, "white lines on black are turned to dark ones on white");
}
