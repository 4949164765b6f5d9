//! Interpolation, composition, inpainting, concept removal: exact identities and errors. MagicMix's studies and the
//! trends on a part of their pairs, with few steps.

use std::path::Path;

use scumble::report::Exit;

use crate::recipes::{differ, pixels, run};
use crate::script::session;

/// What a script in the folder docs is called.
fn docs(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name).display().to_string()
}

#[test]
fn one_prompt_and_equal_halves_are_plain_guidance() {
    let plain = pixels("text2image", &["prompt=a tiger", "steps=6"]);
    assert!(differ(&plain, &pixels("compose", &["prompts=[\"a tiger\"]", "steps=6"])) <= 1);
    let halves = ["prompts=[\"a tiger\", \"a tiger\"]", "weights=[3.5, 3.5]", "cfg=7", "steps=6"];
    assert!(differ(&plain, &pixels("compose", &halves)) <= 1);
    assert!(differ(&plain, &pixels("compose", &["prompts=[\"a tiger\", \"snow\"]", "steps=6"])) > 20);
}

#[test]
fn the_ends_of_every_interpolation_are_the_prompts() {
    let ends = ["a tiger", "a panda"].map(|p| pixels("text2image", &[&format!("prompt={p}"), "steps=4"]));
    assert!(differ(&ends[0], &ends[1]) > 20);
    for mode in ["lerp", "slerp", "switch", "alternate"] {
        for (x, end) in [("x=0", &ends[0]), ("x=1", &ends[1])] {
            let list = ["a=a tiger", "b=a panda", x, &format!("mode={mode}"), "steps=4"];
            assert!(pixels("interpolate", &list) == *end, "{mode} {x}");
        }
    }
}

#[test]
fn inpainting_leaves_the_rest_pixel_by_pixel() {
    let dir = tempfile::tempdir().unwrap();
    let mask = dir.path().join("mask.png");
    let side = |x: u32| if x < 32 { image::Rgb([0; 3]) } else { image::Rgb([255; 3]) };
    image::RgbImage::from_fn(64, 64, |x, _| side(x)).save(&mask).unwrap();
    let mask = format!("mask={}", mask.display());
    let made = pixels("inpaint", &["image=dog-flat.png", "prompt=a red car", "steps=4", &mask]);
    let given = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/emoji/pictures/dog-flat.png");
    let given = image::open(given).unwrap().to_rgb8().into_raw();
    let black = (0..made.len()).filter(|i| i / 3 % 64 < 32);
    assert!(black.into_iter().all(|i| made[i] == given[i]), "the black half is the given picture");
    assert!(differ(&made, &given) > 20, "the white half is new");
}

#[test]
fn concept_removal_is_a_mix_with_its_own_word_pushed_away() {
    let common = ["word=rabbit", "s=-1", "nu=0.9", "k_max=0.7", "k_min=0.3", "steps=6"];
    let removed = ["image=rabbit-flat.png", "prompt=a rabbit"];
    let mixed = ["layout=rabbit-flat.png", "content=a rabbit"];
    let removed = pixels("concept_removal", &[&removed[..], &common].concat());
    assert!(removed == pixels("magicmix", &[&mixed[..], &common].concat()));
}

#[test]
fn errors_say_what_to_give() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&str, &[&str], Exit, &str); 8] = [
        ("compose", &["prompts=[]"], Exit::Script, "at least one prompt"),
        ("compose", &["prompts=[\"a\"]", "weights=[1.0, 2.0]"], Exit::Script, "one weight per prompt"),
        ("interpolate", &["mode=middle"], Exit::Usage, "lerp|slerp|switch|alternate"),
        ("interpolate", &["x=2"], Exit::Usage, "x is out of range"),
        ("inpaint", &["mask=nowhere.png"], Exit::Script, "names a file that is not there"),
        ("concept_removal", &["word=zebra"], Exit::Script, "not a word of the prompt"),
        ("concept_removal", &["k_min=0.8", "k_max=0.4"], Exit::Script, "k_min lies above k_max"),
        ("magicmix_grid", &["layout=dog-flat.png"], Exit::Script, "give layout and content"),
    ];
    for (recipe, list, exit, text) in cases {
        let e = run(dir.path(), recipe, list).unwrap_err();
        assert_eq!(e.exit, exit, "{recipe} {list:?}: {e}");
        assert!(e.to_string().contains(text), "{recipe} {list:?}: {e}");
    }
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing was written");
}

#[test]
fn every_study_and_every_application_runs() {
    let dir = tempfile::tempdir().unwrap();
    for study in ["k", "nu", "s", "seeds", "task", "progress"] {
        let outcome = run(dir.path(), "magicmix_grid", &[&format!("study={study}"), "steps=5"]);
        assert!(outcome.unwrap_or_else(|e| panic!("{study}: {e}")).saved.len() == 1);
    }
    for what in ["signs", "objects", "breeds", "removal", "text", "failures"] {
        let outcome = run(dir.path(), &docs("applications.rhai"), &[&format!("what={what}"), "steps=4"]);
        assert!(outcome.unwrap_or_else(|e| panic!("{what}: {e}")).saved.len() == 1);
    }
}

#[test]
fn nu_trades_the_layout_for_the_content() {
    // The script ends with an error unless the means follow.
    let dir = tempfile::tempdir().unwrap();
    let list = ["pairs=6", "nus=[0.1, 0.5, 0.8, 1.0]", "steps=10"];
    let outcome = run(dir.path(), &docs("trends.rhai"), &list);
    assert!(outcome.unwrap_or_else(|e| panic!("{e}")).saved.iter().any(|p| p.ends_with("trends.csv")));
}

#[test]
fn every_module_of_the_library_can_be_used() {
    let made = scumble::script::thread::run(|| {
        let dir = tempfile::tempdir().unwrap();
        session(dir.path())
            .0
            .eval("study::spread([draw(8, 8, \"white\"), draw(8, 8, \"black\")])")
            .unwrap()
            .text
    });
    assert_eq!(made.as_deref(), Some("1.0"));
}
