//! Sketch-guided sampling: exact identities and refusals of the recipes, and that the shipped predictor reads edges.

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
    let cases: [(&str, &[&str], Exit, &str); 4] = [
        ("sketch_guided", &[&white], Exit::Script, "shows no lines"),
        ("sketch_guided", &["predictor=nowhere"], Exit::Script, "nowhere"),
        ("sketch_guided", &["beta=-1"], Exit::Usage, "beta is out of range"),
        ("train_lgp", &["map=depth"], Exit::Script, "no depth"),
    ];
    for (recipe, list, exit, text) in cases {
        let e = run(dir.path(), recipe, list).unwrap_err();
        assert_eq!(e.exit, exit, "{recipe} {list:?}");
        let said = format!("{e}");
        assert!(said.contains(text), "{recipe} {list:?}: {said}");
    }
}
