//! VGG16's features, the perceptual loss and its gradient, beside PyTorch's on small random weights (tests/parity/vgg.py).

use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use scumble::engine::nets::vgg::{Lpips, Vgg16};
use scumble::engine::weights::Weights;
use scumble::engine::weights::read::TensorFile;

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn features_loss_and_gradient_are_torchs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/vgg.safetensors");
    let weights = Weights::load(&[TensorFile::open(&path).unwrap()], DType::F32, &Device::Cpu).unwrap();
    let get = |name: &str| weights.tensors()[name].clone();
    let net = Vgg16::new(&weights.scope()).unwrap();
    let x = Var::from_tensor(&get("x")).unwrap();
    let (a, b) = (net.forward(x.as_tensor()).unwrap(), net.forward(&get("y")).unwrap());
    let means: Vec<f32> = a.iter().map(|t| t.mean_all().unwrap().to_scalar::<f32>().unwrap()).collect();
    for (mine, theirs) in means.iter().zip(values(&get("means"))) {
        assert!((mine - theirs).abs() < 1e-4 * theirs.abs().max(1.0), "{means:?}");
    }
    let each = a.iter().zip(&b).map(|(p, q)| (p - q).unwrap().abs().unwrap().mean_all().unwrap());
    let loss = each.reduce(|p, q| (p + q).unwrap()).unwrap();
    let theirs = values(&get("loss"))[0];
    assert!((loss.to_scalar::<f32>().unwrap() - theirs).abs() < 1e-4 * theirs);
    let grads = loss.backward().unwrap();
    let (mine, theirs) = (values(grads.get(&x).unwrap()), values(&get("grad")));
    let most = theirs.iter().fold(0f32, |m, v| m.max(v.abs()));
    let apart = mine.iter().zip(&theirs).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(apart < 1e-3 * most, "{apart} of {most}");
}

#[test]
fn lpips_and_its_gradient_are_torchs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/lpips.safetensors");
    let weights = Weights::load(&[TensorFile::open(&path).unwrap()], DType::F32, &Device::Cpu).unwrap();
    let get = |name: &str| weights.tensors()[name].clone();
    let net = Lpips::new(Vgg16::new(&weights.scope()).unwrap(), &weights.scope()).unwrap();
    let x = Var::from_tensor(&get("x")).unwrap();
    let distance = net.distance(x.as_tensor(), &get("y")).unwrap();
    for (mine, theirs) in values(&distance).iter().zip(values(&get("distance"))) {
        assert!((mine - theirs).abs() < 1e-4 * theirs, "{mine} {theirs}");
    }
    let grads = distance.sum_all().unwrap().backward().unwrap();
    let (mine, theirs) = (values(grads.get(&x).unwrap()), values(&get("grad")));
    let most = theirs.iter().fold(0f32, |m, v| m.max(v.abs()));
    let apart = mine.iter().zip(&theirs).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(apart < 1e-3 * most, "{apart} of {most}");
    // The same picture: no distance, and a slope that is a number also where all channels are 0.
    let same = net.distance(x.as_tensor(), &get("x")).unwrap().sum_all().unwrap();
    assert_eq!(same.to_scalar::<f32>().unwrap(), 0.0);
    let grads = same.backward().unwrap();
    assert!(values(grads.get(&x).unwrap()).iter().all(|v| v.is_finite()));
    let error = net.distance(&get("x"), &get("x").narrow(3, 0, 24).unwrap()).unwrap_err().to_string();
    assert!(error.contains("one size"), "{error}");
}

#[test]
fn weights_of_another_lpips_are_told() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/lpips.safetensors");
    let weights = Weights::load(&[TensorFile::open(&path).unwrap()], DType::F32, &Device::Cpu).unwrap();
    let vgg = || Vgg16::new(&weights.scope()).unwrap();
    let error = Lpips::new(vgg(), &weights.scope().sub("features")).unwrap_err().to_string();
    assert!(error.contains("lin0.model.1.weight"), "{error}");
    let mut narrow = weights.tensors().clone();
    narrow
        .insert("lin2.model.1.weight".into(), Tensor::zeros((1, 5, 1, 1), DType::F32, &Device::Cpu).unwrap());
    let error = Lpips::new(vgg(), &Weights::new(narrow, "x").scope()).unwrap_err().to_string();
    assert!(error.contains("[1, 6, 1, 1]") && error.contains("[1, 5, 1, 1]"), "{error}");
    // The file of a perceptual loss may end with the tenth convolution; LPIPS needs all.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/vgg.safetensors");
    let short = Weights::load(&[TensorFile::open(&path).unwrap()], DType::F32, &Device::Cpu).unwrap();
    let error = Lpips::new(Vgg16::new(&short.scope()).unwrap(), &weights.scope()).unwrap_err().to_string();
    assert!(error.contains("features.28.weight"), "{error}");
}
