//! Gradients of the noise-prediction loss against PyTorch on the embedded model: to every weight of the UNet, to the prompt's
//! states; and that a changed model leaves the old one as it is.

use candle_core::{DType, Device, Tensor, Var};
use scumble::engine::diffusion::noise::TorchNoise;
use scumble::engine::latent::Latent;
use scumble::engine::weights::changed::{Changes, UNET};
use scumble::engine::weights::model::{LoadOptions, Model, PredictOptions};

use super::{Fixture, close, data, json};

const TOLERANCE: f64 = 1e-3;

fn normal(seed: u64, n: usize) -> Tensor {
    Tensor::from_vec(TorchNoise::new(seed).normal(n), n, &Device::Cpu).unwrap()
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_dtype(DType::F64).unwrap();
    (flat(a) * flat(b)).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
}

/// The loss of what the network says beside what it should say, for latents and noise of `side` places, and its gradients, beside
/// those of `name`.json and .safetensors.
fn check(m: &Model, name: &str, side: usize) {
    let want = json(&format!("{name}.json"));
    let latent =
        |seed| Latent::new(normal(seed, 4 * side * side).reshape((1, 4, side, side)).unwrap()).unwrap();
    let (x0, noise, t) = (latent(5), latent(6), 500.0);
    let ab = m.train_schedule().alpha_at("test", t).unwrap();
    let z = x0.scale(ab.sqrt()).unwrap().add(&noise.scale((1.0 - ab).sqrt()).unwrap()).unwrap();
    let names: Vec<String> = m.weight_names().into_iter().filter(|n| n.starts_with(UNET)).collect();
    let vars: Vec<Var> = names.iter().map(|n| Var::from_tensor(&m.weight(n).unwrap()).unwrap()).collect();
    let weights = names.iter().cloned().zip(vars.iter().map(|v| v.as_tensor().clone())).collect();
    let tracked = m.with_changes(&Changes { weights, ..Changes::default() }).unwrap();
    let text = m.encode_text("a dog").unwrap();
    let states = Var::from_tensor(text.states()).unwrap();
    let text = text.with_states(states.as_tensor().clone()).unwrap();
    let before = m.predict(&z, t, &m.encode_text("a dog").unwrap(), &PredictOptions::default()).unwrap().0;
    let said = tracked.predict(&z, t, &text, &PredictOptions::default()).unwrap().0.output().unwrap();
    let target = m.target(&x0, &noise, t).unwrap();
    let loss = (said.tensor() - target.tensor()).unwrap().sqr().unwrap().mean_all().unwrap();
    let value = f64::from(loss.to_scalar::<f32>().unwrap());
    assert!((value - want["loss"].as_f64().unwrap()).abs() < 1e-4 * value, "loss {value}");
    let grads = loss.backward().unwrap();
    let reference = want["weights"].as_object().unwrap();
    assert_eq!(reference.len(), names.len());
    // A bias of a normalization's input and the like have gradients of rounding errors alone.
    let largest = reference.values().map(|v| v[0].as_f64().unwrap()).fold(0.0, f64::max);
    for (i, (name, reference)) in reference.iter().enumerate() {
        let place = names.iter().position(|n| n.strip_prefix(UNET) == Some(name)).unwrap();
        let grad = grads.get(vars[place].as_tensor()).unwrap_or_else(|| panic!("{name} got no gradient"));
        let [norm, along] = [0, 1].map(|k| reference[k].as_f64().unwrap());
        let ours = dot(grad, grad).sqrt();
        let slack = TOLERANCE * norm + 1e-6 * largest;
        assert!((ours - norm).abs() <= slack, "{name}: norm {ours}, PyTorch {norm}");
        let ours = dot(grad, &normal(i as u64, grad.elem_count()));
        // A random direction: the product is as large as the norm.
        assert!((ours - along).abs() <= 2.0 * slack, "{name}: along {ours}, PyTorch {along}");
    }
    let fixture = Fixture::open(&format!("{name}.safetensors"));
    close("states", grads.get(states.as_tensor()).unwrap(), fixture.get("states"), TOLERANCE);
    // The old model is what it was, bit for bit.
    let after = m.predict(&z, t, &m.encode_text("a dog").unwrap(), &PredictOptions::default()).unwrap().0;
    let bits = |z: &Latent| z.tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(bits(&before).iter().zip(bits(&after)).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn gradients_of_the_training_loss_are_pytorchs() {
    let m = Model::load("emoji", &LoadOptions::default()).unwrap();
    check(&m, "gradients", m.size() / m.factor());
}

/// A model that was made to predict v is trained to predict v, whatever a script sees while it samples.
#[test]
fn gradients_of_v_prediction_are_pytorchs() {
    let m = Model::load(data("tiny-sd2").to_str().unwrap(), &LoadOptions::default()).unwrap();
    check(&m, "gradients-v", 8);
    // One latent and several noises, as a batch of training has them.
    let draw = |seed, n| Latent::new(normal(seed, n * 64).reshape((n, 4, 4, 4)).unwrap()).unwrap();
    let (x0, noise) = (draw(1, 1), draw(2, 3));
    let all = m.target(&x0, &noise, 300.0).unwrap();
    for i in 0..3 {
        let one = m.target(&x0, &noise.index(i).unwrap(), 300.0).unwrap();
        assert_eq!(one.distance(&all.index(i).unwrap()).unwrap(), 0.0);
    }
}
