//! The recipes that train, at a few steps: what they save, that a stage that is left out is left out, and their bad values.

use scumble::engine::weights::read::TensorFile;

use crate::recipes::{pixels, run};

const QUICK: [&str; 3] = ["steps=4", "seeds=1", "eta=[0.0, 1.0]"];
const FEW: [&str; 2] = ["embed_steps=2", "tune_steps=2"];

#[test]
fn imagic_without_steps_is_plain_sampling() {
    let all = |more: &[&str]| pixels("imagic", &[&QUICK[..], more].concat());
    let none = ["embed_steps=0", "tune_steps=0"];
    let plain = all(&[&none[..], &["stages=both"]].concat());
    assert_eq!(plain, all(&[&none[..], &["stages=embed"]].concat()));
    assert_eq!(plain, all(&[&FEW[..], &["embed_lr=0", "tune_lr=0"]].concat()));
    assert_ne!(plain, all(&[&FEW[..], &["stages=tune", "tune_lr=0.001"]].concat()));
}

#[test]
fn trained_weights_are_saved_beside_the_sheet() {
    let few = ["train_steps=2", "steps=2"];
    let cases: [(&str, &[&str], &str, &str); 3] = [
        (
            "dreambooth",
            &["priors=2", "adapter=lora"],
            "dreambooth-weights.safetensors",
            "attn1.to_q.lora_A.weight",
        ),
        ("finetune", &["filter=dog"], "finetune-weights.safetensors", "unet.conv_in.weight"),
        ("textual_inversion", &["vectors=2"], "textual_inversion-token.safetensors", "<thing>"),
    ];
    for (recipe, more, file, tensor) in cases {
        let dir = tempfile::tempdir().unwrap();
        let outcome =
            run(dir.path(), recipe, &[&few[..], more].concat()).unwrap_or_else(|e| panic!("{recipe}: {e}"));
        let path = outcome.saved.iter().find(|p| p.ends_with(file));
        let path = path.unwrap_or_else(|| panic!("{recipe}: no {file} in {:?}", outcome.saved));
        let file = TensorFile::open(path).unwrap();
        assert!(file.names().any(|n| n.contains(tensor)), "{recipe}: no {tensor}");
        assert!(outcome.saved.iter().any(|p| p.extension().is_some_and(|e| e == "png")), "{recipe}");
    }
}

#[test]
fn bad_values_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&str, &str, &str); 6] = [
        ("imagic", "seeds=0", "seeds"),
        ("imagic", "stages=none", "stages"),
        ("imagic", "tune_lr=-1", "tune_lr"),
        ("dreambooth", "prior=-1", "prior"),
        ("finetune", "filter=no such caption", "no caption in shipped"),
        ("textual_inversion", "token=dog", "cannot be a new token"),
    ];
    for (recipe, arg, wanted) in cases {
        let e = run(dir.path(), recipe, &[arg]).unwrap_err().to_string();
        assert!(e.contains(wanted), "{recipe} {arg}: {e}");
    }
}
