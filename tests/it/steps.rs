//! What a sampling step computes and what it leaves out: rows, keys and values, reused features, merged tokens.

use std::path::Path;

use candle_core::Var;
use scumble::engine::latent::Latent;
use scumble::engine::nets::hooks::SiteKind;
use scumble::engine::nets::unet::Shortcuts;
use scumble::engine::weights::model::{LoadOptions, Model, PredictOptions};
use scumble::script::thread;

use crate::recipes::{differ, pixels, run};
use crate::script::session;

fn model() -> Model {
    Model::load("emoji", &LoadOptions::default()).unwrap()
}

fn shortcuts(reuse: usize, merge: f64) -> PredictOptions {
    PredictOptions { shortcuts: Shortcuts::new(reuse, merge, 0).unwrap(), ..Default::default() }
}

fn cross_sites(m: &Model) -> u64 {
    m.sites().iter().filter(|s| s.kind == SiteKind::CrossAttention).count() as u64
}

/// What a recipe made the network do: passes, rows, keys and values over the number of their sites.
fn work(dir: &Path, recipe: &str, list: &[&str]) -> (u64, u64, u64) {
    let args: Vec<(String, String)> =
        list.iter().filter_map(|a| a.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
    let code = "let m = load(\"emoji\"); [m.work.passes, m.work.rows, m.work.keys]";
    let text = thread::run(|| {
        let (mut session, _) = session(dir);
        session.run(recipe, &args).unwrap_or_else(|e| panic!("{e}"));
        session.eval(code).unwrap().text.unwrap()
    });
    let list: Vec<u64> = text.trim_matches(['[', ']']).split(", ").map(|x| x.parse().unwrap()).collect();
    let sites = cross_sites(&model());
    assert_eq!(list[2] % sites, 0, "{recipe}: {text}");
    (list[0], list[1], list[2] / sites)
}

#[test]
fn guidance_is_one_call_and_the_row_without_prompt_is_left_out_where_it_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let of = |cfg: &str| work(dir.path(), "text2image", &["prompt=a dog", "steps=10", cfg]);
    assert_eq!(of("cfg=7"), (10, 20, 1));
    assert_eq!(of("cfg=1"), (10, 10, 1));
    assert_eq!(of("cfg=7@0..1"), (10, 20, 1));
    assert_eq!(of("cfg=7@0.5..0.5"), (10, 10, 1));
    // Six of the ten steps lie above 0.2 and at or below 0.8; the batch with and that without the row need keys.
    assert_eq!(of("cfg=7@0.2..0.8"), (10, 16, 2));
    assert_eq!(of("cfg=#{ scale: 7, low: 0.2, high: 0.8 }"), (10, 16, 2));
}

#[test]
fn keys_and_values_of_a_prompt_are_computed_once_in_every_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let keys = |recipe: &str, list: &[&str]| work(dir.path(), recipe, list).2;
    assert_eq!(keys("sdedit", &["image=rabbit-flat.png", "prompt=a tiger", "steps=10"]), 1);
    assert_eq!(keys("inpaint", &["image=rabbit-flat.png", "prompt=a tiger", "steps=6"]), 1);
    assert_eq!(
        keys("magicmix", &["layout=a rabbit", "content=a tiger", "steps=10"]),
        2,
        "layout and content"
    );
    assert_eq!(
        keys("compose", &["prompts=[\"a dog\", \"snow\", \"a hat\"]", "steps=6"]),
        4,
        "three and none"
    );
    for mode in ["switch", "alternate"] {
        let mode = format!("mode={mode}");
        assert_eq!(keys("interpolate", &["a=a dog", "b=a cat", "steps=8", &mode]), 2);
    }
    assert_eq!(keys("concept_removal", &["steps=6"]), 1);
}

#[test]
fn an_interval_over_all_levels_is_plain_guidance_and_an_empty_one_none() {
    let of = |cfg: &str| pixels("text2image", &["prompt=a tiger", "steps=10", cfg]);
    assert_eq!(of("cfg=7"), of("cfg=7@0..1"));
    assert_eq!(of("cfg=1"), of("cfg=7@0.4..0.4"));
    assert!(differ(&of("cfg=7"), &of("cfg=7@0.2..0.8")) > 2);
    // A recipe that weighs predictions itself takes the same forms.
    let compose = |cfg: &str| pixels("compose", &["prompts=[\"a tiger\"]", "steps=6", cfg]);
    assert_eq!(compose("cfg=7"), compose("cfg=7@0..1"));
}

#[test]
fn what_was_used_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let list = ["prompt=a dog", "steps=4", "cfg=7@.2..0.80", "reuse=2", "merge=0.5"];
    let outcome = run(dir.path(), "text2image", &list).unwrap();
    let bytes = std::fs::read(&outcome.saved[0]).unwrap();
    let record = scumble::record::png::read_record(&bytes).unwrap();
    assert_eq!(record.options["cfg"], "7@0.2..0.8");
    assert_eq!((&record.options["reuse"], &record.options["merge"]), (&2.into(), &0.5.into()));
    let told = record.parameters();
    assert!(told.contains("CFG scale: 7, CFG interval: 0.2..0.8, "), "{told}");
    assert!(told.contains("DeepCache interval: 2, Token merging ratio: 0.5, "), "{told}");
}

#[test]
fn off_is_bit_equal_and_more_moves_the_picture_further() {
    for (recipe, list) in [
        ("text2image", &["prompt=a tiger", "steps=10"][..]),
        ("sdedit", &["image=rabbit-flat.png", "prompt=a tiger", "steps=10"]),
        ("magicmix", &["layout=a rabbit", "content=a tiger", "steps=10"]),
    ] {
        let plain = pixels(recipe, list);
        assert_eq!(plain, pixels(recipe, &[list, &["reuse=1", "merge=0"]].concat()), "{recipe}");
        for set in ["reuse=3", "merge=0.5"] {
            assert_ne!(plain, pixels(recipe, &[list, &[set]].concat()), "{recipe} {set}");
        }
    }
    let m = model();
    let (text, none) = (m.encode_text("a tiger").unwrap(), m.encode_text("").unwrap());
    let s = m.schedule(20, Default::default()).unwrap();
    let end = |o: &PredictOptions, seed: u64| {
        let mut z = m.noise(Default::default(), seed, 1, None).unwrap();
        for i in 0..s.len() {
            let eps = m.guided(&z, s.t(i).unwrap(), &text, &none, 7.0, o).unwrap();
            z = s.step(&z, &eps, i).unwrap();
        }
        z
    };
    let exact: Vec<Latent> = (0..4).map(|seed| end(&Default::default(), seed)).collect();
    let moved = |o: &PredictOptions| -> f64 {
        (0..4u64).map(|seed| end(o, seed).distance(&exact[seed as usize]).unwrap()).sum()
    };
    let reuse = [1, 2, 5, 20].map(|n| moved(&shortcuts(n, 0.0)));
    assert!(reuse[0] == 0.0 && reuse[1] > 0.0 && reuse[1] < reuse[2] && reuse[2] < reuse[3], "{reuse:?}");
    let merge = [0.0, 0.1, 0.4, 0.75].map(|r| moved(&shortcuts(1, r)));
    assert!(merge[0] == 0.0 && merge[1] > 0.0 && merge[1] < merge[2] && merge[2] < merge[3], "{merge:?}");
}

#[test]
fn two_interleaved_runs_keep_their_own_features() {
    let m = model();
    let o = shortcuts(3, 0.0);
    let s = m.schedule(9, Default::default()).unwrap();
    let none = m.encode_text("").unwrap();
    let texts = [m.encode_text("a tiger").unwrap(), m.encode_text("a tiger").unwrap()];
    let start = |seed: u64| m.noise(Default::default(), seed, 1, None).unwrap();
    let next = |z: &Latent, i: usize, text: usize| {
        let eps = m.guided(z, s.t(i).unwrap(), &texts[text], &none, 7.0, &o).unwrap();
        s.step(z, &eps, i).unwrap()
    };
    let alone = |seed: u64, text: usize| (0..s.len()).fold(start(seed), |z, i| next(&z, i, text));
    // The same prompt for both, then different ones.
    for second in [0, 1] {
        let (mut a, mut b) = (start(1), start(2));
        let before = (m.work().passes(), m.work().shallow());
        for i in 0..s.len() {
            a = next(&a, i, 0);
            b = next(&b, i, second);
        }
        assert_eq!((m.work().passes() - before.0, m.work().shallow() - before.1), (18, 12));
        assert_eq!(a.distance(&alone(1, 0)).unwrap(), 0.0);
        assert_eq!(b.distance(&alone(2, second)).unwrap(), 0.0);
    }
}

#[test]
fn features_of_another_model_size_prompt_or_row_count_are_not_used() {
    let (m, twin) = (model(), model());
    let o = shortcuts(5, 0.0);
    let s = m.schedule(9, Default::default()).unwrap();
    let (text, none) = (m.encode_text("a tiger").unwrap(), m.encode_text("").unwrap());
    let other = m.encode_text("a bus").unwrap();
    let z = m.noise(Default::default(), 1, 1, None).unwrap();
    let eps = m.guided(&z, s.t(0).unwrap(), &text, &none, 7.0, &o).unwrap();
    let z = s.step(&z, &eps, 0).unwrap();
    let t = s.t(1).unwrap();
    let shallow = |m: &Model, z: &Latent, text, cfg: f64, o: &PredictOptions| {
        let before = m.work().shallow();
        m.guided(z, t, text, &none, cfg, o).unwrap();
        m.work().shallow() > before
    };
    assert!(shallow(&m, &z, &text, 7.0, &o), "the next step of the same run");
    assert!(!shallow(&twin, &z, &text, 7.0, &o), "another model");
    assert!(!shallow(&m, &z, &other, 7.0, &o), "another prompt");
    assert!(!shallow(&m, &z, &text, 1.0, &o), "another number of rows");
    assert!(!shallow(&m, &z, &text, 7.0, &shortcuts(1, 0.0)), "off");
    assert!(
        !shallow(&m, &z.scale(1.0).unwrap(), &text, 7.0, &o),
        "a latent that was computed in another way"
    );
}

#[test]
fn reuse_has_no_gradient_and_merging_has() {
    let m = model();
    let text = m.encode_text("a tiger").unwrap();
    let z = m.noise(Default::default(), 1, 1, None).unwrap();
    let var = Var::from_tensor(z.tensor()).unwrap();
    let tracked = Latent::new(var.as_tensor().clone()).unwrap();
    let e = m.predict(&tracked, 500.0, &text, &shortcuts(2, 0.0)).unwrap_err();
    assert!(e.to_string().contains("no gradient"), "{e}");
    assert!(e.hint_text().unwrap().contains("leave out reuse"));
    let loss = |z: &Latent| m.predict(z, 500.0, &text, &shortcuts(1, 0.5)).unwrap().0.tensor().sqr().unwrap();
    let grads = loss(&tracked).sum_all().unwrap().backward().unwrap();
    let grad = grads.get(&var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let largest = (0..grad.len()).max_by(|&a, &b| grad[a].abs().total_cmp(&grad[b].abs())).unwrap();
    let base = z.tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let at = |d: f32| {
        let mut v = base.clone();
        v[largest] += d;
        let t = candle_core::Tensor::from_vec(v, z.tensor().dims(), z.tensor().device()).unwrap();
        let sum = loss(&Latent::new(t).unwrap()).to_dtype(candle_core::DType::F64).unwrap();
        sum.sum_all().unwrap().to_scalar::<f64>().unwrap()
    };
    // Small enough that no token changes its partner.
    let wanted = (at(1e-3) - at(-1e-3)) / 2e-3;
    let got = f64::from(grad[largest]);
    assert!((wanted - got).abs() < 0.05 * got.abs(), "{wanted} by differences, {got} by gradient");
}

#[test]
fn a_stop_ends_a_shallow_pass_too() {
    let m = model();
    let cancel = scumble::engine::observe::Cancel::default();
    let options = LoadOptions { cancel: cancel.clone(), ..Default::default() };
    let stopped = Model::load("emoji", &options).unwrap();
    let s = m.schedule(9, Default::default()).unwrap();
    let text = stopped.encode_text("a tiger").unwrap();
    let z = m.noise(Default::default(), 1, 1, None).unwrap();
    let o = shortcuts(5, 0.5);
    let eps = stopped.predict(&z, s.t(0).unwrap(), &text, &o).unwrap().0;
    let z = s.step(&z, &eps, 0).unwrap();
    cancel.set();
    let e = stopped.predict(&z, s.t(1).unwrap(), &text, &o).unwrap_err();
    assert_eq!(e.kind(), scumble::engine::Kind::Cancelled);
}
