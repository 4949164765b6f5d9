//! Fusion of two models, edits of prompts, inversion, disentanglement: exact identities of the recipes, and their messages.

use std::path::{Path, PathBuf};

use scumble::script::thread;

use crate::recipes::{differ, pixels, run};
use crate::script::session;

/// Runs a recipe: what it printed and the files that it saved.
fn printed(dir: &Path, recipe: &str, list: &[&str]) -> (String, Vec<PathBuf>) {
    thread::run(|| {
        let (mut session, ear) = session(dir);
        let args: Vec<(String, String)> =
            list.iter().filter_map(|a| a.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
        let outcome = session.run(recipe, &args).unwrap_or_else(|e| panic!("{e}"));
        (ear.printed(), outcome.saved)
    })
}

/// The first number after a word.
fn number(text: &str, after: &str) -> f64 {
    let rest = text.split_once(after).unwrap_or_else(|| panic!("{after} in {text}")).1;
    let digits: String =
        rest.trim_start().chars().take_while(|c| c.is_ascii_digit() || ".-".contains(*c)).collect();
    digits.parse().unwrap_or_else(|_| panic!("a number after {after} in {text}"))
}

#[test]
fn one_model_twice_is_that_model_whatever_k() {
    let plain = pixels("text2image", &["prompt=a dog", "steps=4"]);
    let twice = ["prompt_g=a dog", "prompt_e=a dog", "expert=emoji", "window=1", "mode=after", "steps=4"];
    for k in [["k_g=1", "k_e=1"], ["k_g=0.2", "k_e=30"]] {
        let fused = pixels("magicfusion", &[&twice[..], &k].concat());
        assert!(differ(&plain, &fused) <= 1, "{k:?}");
    }
}

#[test]
fn a_forced_mask_is_one_of_the_models() {
    let dir = tempfile::tempdir().unwrap();
    let common = ["prompt_g=a dog in the snow", "prompt_e=a dog", "window=1", "mode=after", "steps=4"];
    let fuse = |more: &[&str]| pixels("magicfusion", &[&common[..], more].concat());
    let (general, expert) = (fuse(&["how=general"]), fuse(&["how=expert"]));
    assert!(differ(&general, &pixels("text2image", &["prompt=a dog in the snow", "steps=4"])) <= 1);
    assert!(differ(&general, &expert) > 20);
    // Outside of the window, too.
    let whole =
        ["prompt_g=a dog in the snow", "prompt_e=a dog", "how=expert", "alone=general", "steps=4", "cfg=7"];
    let ink = pixels("text2image", &["model=emoji/expert-ink", "prompt=a dog", "steps=4", "cfg=7"]);
    for window in ["window=0.5", "window=0.85"] {
        assert!(differ(&pixels("magicfusion", &[&whole[..], &[window]].concat()), &ink) <= 1, "{window}");
    }
    for (name, value, alone) in [("black.png", 0u8, &general), ("white.png", 255, &expert)] {
        let path = dir.path().join(name);
        image::RgbImage::from_pixel(64, 64, image::Rgb([value; 3])).save(&path).unwrap();
        let masked = fuse(&["how=mask", &format!("mask={}", path.display())]);
        assert!(masked == *alone, "{name}");
    }
    let snb = fuse(&[]);
    assert!(differ(&snb, &general) > 20 && differ(&snb, &expert) > 20);
}

#[test]
fn a_fusion_saves_its_masks_and_says_what_they_cover() {
    let dir = tempfile::tempdir().unwrap();
    let (text, saved) = printed(dir.path(), "magicfusion", &["steps=5"]);
    let share = number(&text, "mean of");
    assert!(share >= 1.0, "{text}");
    let names: Vec<String> =
        saved.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["magicfusion-masks.png", "magicfusion-masks.csv", "magicfusion.png"]);
    let e = run(dir.path(), "magicfusion", &["steps=2", "how=mask"]).unwrap_err();
    assert!(e.to_string().contains("belong together"), "{e}");
    let e = run(dir.path(), "magicfusion", &["steps=2", "expert=emoji/expert-oil"]).unwrap_err();
    assert!(e.to_string().contains("expert-oil"), "{e}");
}

#[test]
fn equal_prompts_are_edited_to_the_same_picture_and_none_taken_over_is_re_prompting() {
    let dir = tempfile::tempdir().unwrap();
    let cells = |list: &[&str]| {
        let (_, saved) = printed(dir.path(), "prompt2prompt", &[list, &["steps=5"]].concat());
        let sheet = saved.iter().find(|p| p.to_string_lossy().contains("-sheet")).unwrap();
        let sheet = image::open(sheet).unwrap().to_rgb8();
        let step = (sheet.width() - 128) / 2;
        [0, 1, 2].map(|i| image::imageops::crop_imm(&sheet, i * step, 0, 128, 128).to_image().into_raw())
    };
    let same = cells(&["source=a dog in the snow", "target=a dog in the snow", "blend=dog"]);
    assert!(differ(&same[0], &same[2]) <= 1, "equal prompts");
    let free = cells(&["source=a dog", "target=a red cat", "edit=refine", "cross=0", "self=0"]);
    assert!(differ(&free[1], &free[2]) <= 1, "nothing taken over");
    assert!(differ(&free[0], &free[2]) > 20);
}

#[test]
fn weights_of_one_are_the_neutral_picture_and_of_zero_the_target() {
    let dir = tempfile::tempdir().unwrap();
    let common = ["neutral=a dog", "target=a cat", "steps=4", "iters=0"];
    let at = |more: &[&str]| {
        let saved = printed(dir.path(), "disentangle", &[&common[..], more].concat()).1;
        image::open(saved.last().unwrap()).unwrap().to_rgb8().into_raw()
    };
    assert!(at(&["prefix=1"]) == pixels("text2image", &["prompt=a dog", "steps=4"]));
    assert!(at(&["prefix=0"]) == pixels("text2image", &["prompt=a cat", "steps=4"]));
    // A real picture comes back exactly where nothing is changed.
    let real = at(&["prefix=1", "image=dog-flat.png"]);
    let trip = pixels("sdedit", &["image=dog-flat.png", "prompt=x", "strength=0", "steps=4"]);
    assert!(differ(&real, &trip) <= 1);
}

#[test]
fn weights_lower_the_loss_and_are_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let common = ["neutral=a dog", "target=a dog in the snow", "steps=4"];
    let (text, saved) = printed(dir.path(), "disentangle", &[&common[..], &["iters=3"]].concat());
    let losses = (number(&text, "loss"), number(&text, " to"));
    assert!(losses.1 < losses.0, "{text}");
    let table = saved.iter().find(|p| p.extension().is_some_and(|e| e == "csv")).unwrap();
    let file = format!("weights={}", table.display());
    let again = [&common[..], &[&file]].concat();
    let first = image::open(saved.last().unwrap()).unwrap().to_rgb8().into_raw();
    assert!(differ(&first, &pixels("disentangle", &again)) <= 1);
    let e = run(dir.path(), "disentangle", &[&again[..2], &["steps=5"], &again[3..]].concat()).unwrap_err();
    assert!(e.to_string().contains("steps=4"), "{e}");
}
