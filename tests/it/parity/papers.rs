//! Whole runs of papers by the library's functions, beside the same in plain PyTorch (tests/parity/papers.py): the masks and latents
//! of MagicFusion, the weights that disentanglement finds, a sketch-guided chain.

use candle_core::Tensor;
use scumble::script::thread;
use serde_json::Value;

use super::{Fixture, close, difference};
use crate::script::session;

/// Evaluates a cell whose value is a list of numbers.
fn numbers(setup: &str, code: &str) -> Vec<f32> {
    let dir = tempfile::tempdir().unwrap();
    thread::run(|| {
        let (mut session, ear) = session(dir.path());
        session.eval(setup).unwrap_or_else(|e| panic!("{e}"));
        session
            .eval(&format!("let all = {code}; for x in all {{ print(x); }}"))
            .unwrap_or_else(|e| panic!("{e}"));
        ear.printed().lines().map(|x| x.parse().unwrap()).collect()
    })
}

fn like(values: Vec<f32>, wanted: &Tensor) -> Tensor {
    Tensor::from_vec(values, wanted.dims(), wanted.device()).unwrap()
}

const SETUP: &str = "let m = load(\"emoji\"); let none = m.encode(\"\"); \
    let flat = |t| { let n = 1; for k in t.shape { n *= k; } t.reshape([n]).list() };";

#[test]
fn the_masks_and_latents_of_magicfusion() {
    let f = Fixture::open("papers.safetensors");
    let runs = f.meta("fusions");
    assert_eq!(runs.as_object().unwrap().len(), 3);
    for (name, run) in runs.as_object().unwrap() {
        let word = |key: &str| run[key].as_str().unwrap();
        let official = run["official"].as_bool().unwrap();
        let (base, gain) = if official { ("general", "7") } else { ("own", "10") };
        let code = format!(
            "{{ let x = load(\"emoji/expert-ink\"); \
             let one = |m, words| #{{ m: m, text: m.encode(words), none: m.encode(\"\"), k: 1.0 }}; \
             let r = fuse::sample(m.schedule({}), m.noise({}), #{{ g: one.call(m, {}), e: one.call(x, {}), how: \"snb\", cfg: {}, \
             gain: {gain}, base: \"{base}\", window: {}, mode: \"{}\", alone: \"{}\" }}); \
             let all = flat.call(r.z.tensor); for s in r.steps {{ all += flat.call(s.mask); }} all }}",
            f.meta("fusion_steps"),
            run["seed"],
            run["general"],
            run["expert"],
            f.meta("cfg"),
            run["window"],
            word("mode"),
            word("alone"),
        );
        let mut all = numbers(SETUP, &code);
        let latent = f.get(&format!("fusion.{name}.latent"));
        let masks = all.split_off(latent.elem_count());
        let (wanted, masks) = (f.get(&format!("fusion.{name}.masks")), masks);
        // Where the two answers are nearly equal, rounding decides. The generator says how near they come.
        assert!(f.meta("ties")[name].as_f64().unwrap() > 1e-5, "{name}: choose another seed");
        assert_eq!(difference(&like(masks, wanted), wanted), 0.0, "{name}: the masks");
        close(name, &like(all, latent), latent, 1e-3);
    }
}

fn text(v: &Value, key: &str) -> String {
    v[key].to_string()
}

#[test]
fn the_weights_that_disentanglement_finds() {
    let f = Fixture::open("papers.safetensors");
    let run = f.meta("edit");
    let code = format!(
        "{{ let s = m.schedule({}); let e = #{{ m: m, s: s, c0: m.encode({}), c1: m.encode({}), none: none, cfg: {}, maps: [] }}; \
         let z = s.start(m.noise({})); \
         let x = |lam| m.decode(report_disentangle::run_of(e, z, lam)); \
         let one = #{{ neutral: {}, target: {}, keep: \"object\" }}; \
         let b = report_disentangle::base(m, x.call(report_disentangle::switched(s.len, s.len)), one); \
         let found = minimize(report_disentangle::switched(s.len, {}), #{{ steps: {}, lr: {} }}, \
         |lam, i| {{ let p = report_disentangle::parts(b, x.call(lam)); {} * p.keep + p.turn }}); \
         found.x.list() + found.losses }}",
        text(&run, "steps"),
        text(&run, "neutral"),
        text(&run, "target"),
        f.meta("cfg"),
        text(&run, "seed"),
        text(&run, "neutral"),
        text(&run, "target"),
        text(&run, "first"),
        text(&run, "iters"),
        text(&run, "lr"),
        text(&run, "perceptual"),
    );
    let mut all = numbers(SETUP, &code);
    let (weights, losses) = (f.get("edit.weights"), f.get("edit.losses"));
    let ours = all.split_off(weights.elem_count());
    close("losses", &like(ours, losses), losses, 1e-3);
    close("weights", &like(all, weights), weights, 1e-3);
}

#[test]
fn a_sketch_guided_chain() {
    let f = Fixture::open("papers.safetensors");
    let run = f.meta("sketch");
    let code = format!(
        "{{ let net = load_mlp(\"edges\", #{{ model: m }}); let map = lgp::sketch(net, open({}), \"lines\", \"auto\"); \
         flat.call(lgp::sample(m, net, m.schedule({}), m.noise({}), m.encode({}), none, {}, m.encode(map), {}, {}).tensor) }}",
        text(&run, "sketch"),
        text(&run, "steps"),
        text(&run, "seed"),
        text(&run, "prompt"),
        f.meta("cfg"),
        text(&run, "beta"),
        text(&run, "stop"),
    );
    let wanted = f.get("sketch.latent");
    close("sketch", &like(numbers(SETUP, &code), wanted), wanted, 1e-3);
}
