//! The perceptron and the gradient that guides, beside PyTorch and diffusers (tests/parity/guidance.py).

use candle_core::{DType, Device, Tensor, Var};
use scumble::engine::latent::Latent;
use scumble::engine::nets::hooks::Extra;
use scumble::engine::nets::mlp::Mlp;
use scumble::engine::ops::resize_bilinear;
use scumble::engine::weights::model::{LoadOptions, Model, PredictOptions};
use scumble::engine::weights::read::TensorFile;

use super::{Fixture, close};

const TOLERANCE: f64 = 1e-5;

/// Forward, back and running values in both modes, at 1e-5.
#[test]
fn the_perceptron_is_torchs() {
    let f = Fixture::open("guidance.safetensors");
    let fresh = Mlp::new(&[5, 7, 6, 3], true, 0).unwrap();
    let vars: Vec<Var> =
        fresh.params().iter().map(|(n, _)| Var::from_tensor(f.get(&format!("mlp.{n}"))).unwrap()).collect();
    let values: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let mut net = fresh.with_params(&values).unwrap();
    for mode in ["train", "eval"] {
        let (watched, seen) = net.training(mode == "train").watched();
        let x = Var::from_tensor(f.get(&format!("{mode}.x"))).unwrap();
        let y = watched.run(&x).unwrap();
        close(mode, &y, f.get(&format!("{mode}.y")), TOLERANCE);
        let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        close("dx", grads.get(&x).unwrap(), f.get(&format!("{mode}.dx")), TOLERANCE);
        for ((name, _), var) in fresh.params().iter().zip(&vars) {
            let theirs = f.get(&format!("{mode}.d.{name}"));
            // What normalization takes out again has a gradient of rounding only; its size is that of nothing.
            if theirs.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() > 1e-4 {
                close(name, grads.get(var).unwrap(), theirs, TOLERANCE);
            }
        }
        net = watched.with_running(&seen);
        for (i, (mean, var)) in net.running().iter().enumerate() {
            close("mean", mean, f.get(&format!("{mode}.{i}.norm.running_mean")), TOLERANCE);
            close("var", var, f.get(&format!("{mode}.{i}.norm.running_var")), TOLERANCE);
        }
    }
}

/// The gradient of the guidance loss by z_t, through the shipped predictor and the UNet, at 1e-3.
#[test]
fn the_gradient_that_guides_is_torchs() {
    let f = Fixture::open("guidance.safetensors");
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/emoji/predictors/edges.safetensors");
    let net = Mlp::decode(&TensorFile::open(&path).unwrap()).unwrap();
    let m = Model::load(
        "emoji",
        &LoadOptions { device: Device::Cpu, dtype: DType::F32, ..LoadOptions::default() },
    )
    .unwrap();
    let text = m.encode_text("").unwrap().with_states(f.get("guide.states").clone()).unwrap();
    let names = [
        "input 2", "input 4", "input 8", "middle 0", "middle 1", "middle 2", "output 2", "output 4",
        "output 8",
    ];
    let options = PredictOptions { features: names.map(String::from).to_vec(), ..PredictOptions::default() };
    let z = Var::from_tensor(f.get("guide.z")).unwrap();
    let latent = Latent::new(z.as_tensor().clone()).unwrap();
    let (_, features) = m.predict_with(&latent, 701.0, &text, &options, &mut Extra::default()).unwrap();
    let rows = |t: &Tensor| {
        let c = t.dim(1).unwrap();
        t.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().reshape((256, c)).unwrap()
    };
    let mut all: Vec<Tensor> = features.iter().map(|x| rows(&resize_bilinear(x, 16, 16).unwrap())).collect();
    let u = 0.701f64;
    let level: Vec<f32> = std::iter::once(u as f32)
        .chain((0..10).map(|l| (std::f64::consts::TAU * u * f64::from(1 << l)).sin() as f32))
        .collect();
    all.push(Tensor::from_vec(level, (1, 11), &Device::Cpu).unwrap().repeat((256, 1)).unwrap());
    let said = net.run(&Tensor::cat(&all, 1).unwrap()).unwrap();
    let loss = (said - rows(f.get("guide.target"))).unwrap().sqr().unwrap().sum_all().unwrap();
    close("loss", &loss.reshape(1).unwrap(), f.get("guide.loss"), 1e-4);
    close("gradient", loss.backward().unwrap().get(&z).unwrap(), f.get("guide.grad"), 1e-3);
}
