//! What a GPU computes beside the CPU: every stage, gradients, twice the same, and a session that outlives a full memory.
//! Where no GPU can be used every test prints why, and passes.
//!
//!     SCUMBLE_CARGO="test --test it" cuda/build.sh gpu -- --nocapture

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use scumble::engine::Kind;
use scumble::engine::device;
use scumble::engine::image::Picture;
use scumble::engine::latent::Latent;
use scumble::engine::observe::{Cancel, Silent};
use scumble::engine::weights::model::{LoadOptions, Model, PredictOptions};
use scumble::script::{Session, Settings, thread};

use crate::frozen::own;

fn gpu() -> Option<Device> {
    match device::open("cuda") {
        Ok((device, line)) => {
            println!("on {line}");
            Some(device)
        }
        Err(e) => {
            println!("skipped: {e}");
            None
        }
    }
}

fn model(device: &Device, dtype: DType) -> Model {
    Model::load("emoji", &LoadOptions { device: device.clone(), dtype, cancel: Cancel::default() }).unwrap()
}

/// How far `b` is from `a`, over the length of `a`.
fn apart(a: &Tensor, b: &Tensor) -> f64 {
    let home = |t: &Tensor| t.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    let (a, b) = (home(a), home(b));
    let length = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt();
    length(&(&a - b).unwrap()) / length(&a)
}

fn bytes(t: &Tensor) -> Vec<u32> {
    let home = t.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
    home.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

fn picture() -> Picture {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/emoji/pictures/dog-flat.png");
    Picture::from_bytes(&std::fs::read(file).unwrap(), "dog-flat.png", &Device::Cpu).unwrap()
}

fn noise(m: &Model, n: usize) -> Latent {
    m.noise(scumble::engine::diffusion::noise::Rng::default(), 3, n, None).unwrap()
}

/// What each stage gives, by name.
fn stages(m: &Model) -> Vec<(&'static str, Tensor)> {
    let (text, none) = (m.encode_text("a dog in the snow").unwrap(), m.encode_text("").unwrap());
    let z = noise(m, 2);
    let options = PredictOptions::default();
    let eps = m.predict(&z, 501.0, &text, &options).unwrap().0;
    let guided = m.guided(&z, 501.0, &text, &none, 7.0, &options).unwrap();
    let clean = m.encode_picture(&picture()).unwrap();
    vec![
        ("text states", text.states().clone()),
        ("prediction", eps.tensor().clone()),
        ("guided prediction", guided.tensor().clone()),
        ("latent of a picture", clean.tensor().clone()),
        ("picture of a latent", m.decode(&clean).unwrap().tensor().clone()),
        ("CLIP of a picture", m.picture_features(&picture()).unwrap()),
        ("CLIP of a text", m.text_features("a dog").unwrap()),
    ]
}

#[test]
fn gpu_stages_agree_with_the_cpu() {
    let Some(device) = gpu() else { return };
    let reference = stages(&model(&Device::Cpu, DType::F32));
    for (dtype, most) in [(DType::F32, 1e-3), (DType::F16, 2e-2)] {
        for ((name, want), (_, got)) in reference.iter().zip(stages(&model(&device, dtype))) {
            let off = apart(want, &got);
            println!("{dtype:?} {name}: {off:.1e}");
            assert!(off <= most, "{dtype:?} {name}: {off:.1e}");
        }
    }
}

/// To the latent and to the prompt's states, through the whole UNet.
fn gradients(m: &Model) -> Vec<Tensor> {
    let text = m.encode_text("a dog in the snow").unwrap();
    let z = Var::from_tensor(noise(m, 1).tensor()).unwrap();
    let states = Var::from_tensor(text.states()).unwrap();
    let prompt = text.with_states(states.as_tensor().clone()).unwrap();
    let latent = Latent::new(z.as_tensor().clone()).unwrap();
    let eps = m.predict(&latent, 501.0, &prompt, &PredictOptions::default()).unwrap().0;
    let loss = eps.tensor().sqr().unwrap().mean_all().unwrap();
    let grads = loss.backward().unwrap();
    [&z, &states].map(|v| grads.get(v).expect("a gradient").clone()).to_vec()
}

#[test]
fn gpu_gradients_agree_with_the_cpu() {
    let Some(device) = gpu() else { return };
    let reference = gradients(&model(&Device::Cpu, DType::F32));
    for (name, (want, got)) in
        ["latent", "states"].iter().zip(reference.iter().zip(gradients(&model(&device, DType::F32))))
    {
        let off = apart(want, &got);
        println!("gradient to the {name}: {off:.1e}");
        assert!(off <= 1e-3, "{name}: {off:.1e}");
    }
}

#[test]
fn gpu_results_are_the_same_twice() {
    let Some(device) = gpu() else { return };
    for dtype in [DType::F32, DType::F16] {
        let m = model(&device, dtype);
        for ((name, first), (_, second)) in stages(&m).iter().zip(stages(&m)) {
            assert!(bytes(first) == bytes(&second), "{dtype:?} {name}");
        }
    }
}

/// Everything that scripts make of numbers and files meets what lies on the GPU. Without one the lines run on the CPU.
#[test]
fn gpu_scripts_run() {
    let device = if gpu().is_some() { "cuda" } else { "cpu" };
    thread::run(|| {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            out: dir.path().to_path_buf(),
            device: device.into(),
            no_init: true,
            ..Settings::default()
        };
        let mut session = Session::new(settings, Arc::new(Silent), Cancel::default());
        let mut run = |code: &str| session.eval(code).unwrap_or_else(|e| panic!("{code}: {e}")).text;
        run("let m = load(\"emoji\"); let s = m.schedule(4); let z = m.noise(0); let none = m.encode(\"\");");
        run(
            "let text = m.encode(\"a dog\"); let snow = m.encode(\"a dog in the snow\"); let dog = open(\"dog-flat.png\");",
        );
        for code in [
            "m.decode(m.sample(\"a dog\", #{ steps: 2 }).latent)",
            "mix::magic(m, s, m.encode(dog), text, #{ noise: z, none: none })",
            "let net = load_mlp(\"edges\", #{ model: m }); lgp::guide(m, net, z, 500, text, none, 7, m.encode(dog)).grad",
            "minimize(text, #{ steps: 2, lr: 0.01 }, |e, i| mse(m.predict(z, 500, e), m.noise(i))).x",
            "m.tune(#{ what: \"unet\", steps: 2, lr: 0.0001 }, |m, i| mse(m.predict(z, 500, text), m.noise(i))).predict(z, 500, text)",
            "m.tune(#{ what: \"attention\", lora: 2, steps: 2 }, |m, i| mse(m.predict(z, 500, text), m.noise(i))).predict(z, 500, text)",
            "let eye = perceptual(m); let seen = eye.features(dog); let turn = m.clip(\"a dog\") - m.clip(\"a cat\"); let c = m.clip(dog);",
            "grad(tensor([0.5, 0.5]), |w| { let y = chain(z, 0..2, [w], |z, i, w| s.step(z, m.guided(z, s.t(i), \
             blend(text, snow, w.slice(0, i, 1)), none, 7), i)); let x = m.decode(y); \
             losses::perceptual_distance(eye.features(x), seen) + losses::direction(c - m.clip(x), turn) }).grad",
            "let seen = attention().record(#{ self: true }); m.predict(z, 500, text, #{ attention: seen });",
            "m.predict(z, 500, snow, #{ attention: attention().refine(seen, snow).inject(seen, #{ kind: \"self\" }) })",
            "m.predict(z, 500, text, #{ attention: attention().on_probs(|site, p| p * 0.5) })",
            "m.predict(z, 500, text, #{ merge: 0.5 })",
            "m.decode(m.sample(\"a dog\", #{ steps: 3, reuse: 2 }).latent)",
            "blend(z, m.noise(1), dog.resize(16, 16)) + (z.tensor * tensor([0.5])).latent()",
        ] {
            println!("{code}: {:?}", run(code));
        }
        // Networks from the user's files look at pictures in main memory, and give pictures there.
        let lpips = own(dir.path(), "lpips.safetensors");
        let hed = own(dir.path(), "hed.safetensors");
        let parity = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
        let parity = parity.display();
        for code in [
            format!("let p = perceptual(\"{lpips}\", #{{ lpips: \"{lpips}\" }}); p.features(dog).len()"),
            "let cat = open(\"cat-flat.png\"); [p.lpips(dog, dog).mean, p.lpips(dog, cat).mean > 0.01]"
                .into(),
            "grad(z, |z| p.lpips(m.decode(z), cat)).grad".into(),
            format!(
                "let d = load_depth(\"{parity}/tiny-depth\"); grid([d.depth(dog), dog]); d.map(dog).shape"
            ),
            format!("grid([load_edges(\"{hed}\").edges(dog), dog])"),
            format!("load_segmenter(\"{parity}/tiny-sam\").segment(dog, [32, 40])"),
            format!("load_dino(\"{parity}/tiny-dino\").similarity(dog, cat)"),
        ] {
            println!("{code}: {:?}", run(&code));
        }
    });
}

/// Training in each type, where a GPU computes in it: a loss goes down that steps in half precision would not move.
#[test]
fn gpu_trains_in_half_precision() {
    let Some(_) = gpu() else { return };
    for dtype in ["f32", "f16", "bf16"] {
        thread::run(|| {
            let dir = tempfile::tempdir().unwrap();
            let settings = Settings {
                out: dir.path().to_path_buf(),
                device: "cuda".into(),
                dtype: dtype.into(),
                no_init: true,
                ..Settings::default()
            };
            let mut session = Session::new(settings, Arc::new(Silent), Cancel::default());
            let mut run = |code: &str| session.eval(code).unwrap_or_else(|e| panic!("{code}: {e}")).text;
            run(
                "let m = load(\"emoji\"); let z = m.noise(0); let text = m.encode(\"a dog\"); let aim = m.noise(1);",
            );
            run("let far = |m| mse(m.predict(z, 500, text), aim).mean;");
            for what in ["what: \"attention\", lora: 2, lr: 0.01", "what: \"unet\", lr: 0.00002"] {
                let code = format!(
                    "let n = m.tune(#{{ {what}, steps: 10 }}, |m, i| mse(m.predict(z, 500, text), aim)); far.call(n) < far.call(m)"
                );
                assert_eq!(run(&code).as_deref(), Some("true"), "{dtype} {what}");
            }
            let code = "let found = minimize(z, #{ steps: 10, lr: 0.0001 }, |z, i| mse(z, aim)); found.losses[9] < found.losses[0]";
            assert_eq!(run(code).as_deref(), Some("true"), "{dtype}");
            let code = "let ink = m.with_lora(\"emoji/expert-ink\"); distance(ink.predict(z, 500, text), m.predict(z, 500, text)) > 0.1";
            assert_eq!(run(code).as_deref(), Some("true"), "{dtype}");
        });
    }
}

#[test]
fn gpu_memory_that_is_full_is_told_and_the_session_goes_on() {
    let Some(device) = gpu() else { return };
    let free = device::gpu_memory_free().unwrap() as usize;
    let error = Tensor::zeros(free / 4 + (1 << 30), DType::F32, &device).unwrap_err();
    let told = scumble::engine::Error::from(error);
    assert_eq!(told.kind(), Kind::Budget, "{told}");
    let m = model(&device, DType::F32);
    assert!(apart(&stages(&m)[0].1, &stages(&m)[0].1) == 0.0);
}
