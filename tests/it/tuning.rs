//! The recipes that train, at a few steps: what they save, that a stage that is left out is left out, and their bad values.

use std::path::Path;
use std::sync::Arc;

use scumble::engine::observe::{Cancel, Event, Observer};
use scumble::engine::weights::read::TensorFile;
use scumble::script::{Session, Settings, thread};

use crate::recipes::{pixels, run};
use crate::script::{Ear, session};

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

/// Models of other families, one that predicts v among them, whose sizes are not those of the embedded one.
#[test]
fn models_of_other_families_are_trained() {
    let picture = "images=[\"dog-flat.png\"]";
    for name in ["tiny-sd1", "tiny-sd2"] {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity").join(name);
        let cases: [(&str, &[&str], Option<&str>); 3] = [
            (
                "imagic",
                &[
                    "image=dog-flat.png",
                    "target=a dog",
                    "seeds=1",
                    "eta=[0.0, 1.0]",
                    "embed_steps=3",
                    "tune_steps=12",
                ],
                None,
            ),
            (
                "dreambooth",
                &[picture, "instance=a sks dog", "class=a dog", "priors=2", "train_steps=12"],
                Some("dreambooth-weights"),
            ),
            ("textual_inversion", &[picture, "init=a", "train_steps=12"], Some("textual_inversion-token")),
        ];
        for (recipe, more, weights) in cases {
            let dir = tempfile::tempdir().unwrap();
            let args: Vec<(String, String)> = [more, &["steps=2", "size=32"]]
                .concat()
                .iter()
                .filter_map(|a| a.split_once('='))
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect();
            let (outcome, losses) = thread::run(|| {
                let ear = Arc::new(Ear::default());
                let settings = Settings {
                    model: model.display().to_string(),
                    out: dir.path().to_path_buf(),
                    no_init: true,
                    ..Settings::default()
                };
                let mut session =
                    Session::new(settings, Arc::clone(&ear) as Arc<dyn Observer>, Cancel::default());
                let outcome = session.run(recipe, &args).map_err(|e| e.render(false, 200));
                let events = ear.0.lock().unwrap();
                let losses = events.iter().filter_map(|e| match e {
                    Event::Loss { label: "tuning", loss, .. } => Some(*loss),
                    _ => None,
                });
                (outcome, losses.collect::<Vec<f64>>())
            });
            let outcome = outcome.unwrap_or_else(|e| panic!("{name} {recipe}: {e}"));
            assert!(
                losses.len() == 12 && losses.iter().all(|l| l.is_finite()),
                "{name} {recipe}: {losses:?}"
            );
            assert!(
                outcome.saved.iter().any(|p| p.extension().is_some_and(|e| e == "png")),
                "{name} {recipe}"
            );
            let kept = weights.is_none_or(|w| outcome.saved.iter().any(|p| p.to_string_lossy().contains(w)));
            assert!(kept, "{name} {recipe}: {:?}", outcome.saved);
        }
    }
}

/// The loss of training is that of the network's own target: it falls where a model that predicts v learns one picture by heart.
#[test]
fn a_model_that_predicts_v_learns() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/tiny-sd2");
    let code = format!(
        "let m = load(\"{}\");\nlet x0 = m.noise(3) * 0.5;\nlet text = m.encode(\"a dog\");\n\
         let at = |m| {{ let sum = 0.0; for i in 0..8 {{ sum += train::loss(m, [x0], [text], 100 + i, 4).mean; }} sum / 8 }};\n\
         let m2 = m.tune(#{{ steps: 40, lr: 0.01 }}, |m, i| train::loss(m, [x0], [text], i, 4));\n[at.call(m), at.call(m2)]",
        model.display()
    );
    let dir = tempfile::tempdir().unwrap();
    let said = thread::run(|| match crate::script::session(dir.path()).0.eval(&code) {
        Ok(outcome) => outcome.text.unwrap_or_default(),
        Err(report) => panic!("{}", report.render(false, 200)),
    });
    let numbers: Vec<f64> = said.trim_matches(['[', ']']).split(", ").map(|n| n.parse().unwrap()).collect();
    assert!(numbers[1] < 0.8 * numbers[0], "{said}");
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

/// A checkpoint and a file of weights that were cut short: told by name, and nothing is written over them.
#[test]
fn files_cut_short_are_told_and_stay() {
    thread::run(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut session = session(dir.path()).0;
        let setup = "let m = load(\"emoji\"); let z = m.noise(0); let text = m.encode(\"a dog\"); \
                     let loss = |m, i| mse(m.predict(z, 500, text), z); \
                     let o = #{ what: \"conv_out\", steps: 1, file: \"run\" }; let t = m.tune(o, loss); save(t, \"weights\")";
        session.eval(setup).unwrap();
        let cut = |name: &str| {
            let path = dir.path().join(name);
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
            (path, whole.len() - 5)
        };
        let (run, length) = cut("run.safetensors");
        let e = session.eval("m.tune(o + #{ resume: true, steps: 2 }, loss)").unwrap_err().to_string();
        assert!(e.contains("no whole checkpoint") && e.contains("run.safetensors"), "{e}");
        assert_eq!(std::fs::metadata(run).unwrap().len(), length as u64);
        let (weights, _) = cut("weights.safetensors");
        let e = session.eval(&format!("m.with_weights(\"{}\")", weights.display())).unwrap_err().to_string();
        assert!(e.contains("weights.safetensors"), "{e}");
    });
}
