//! VGG16's features, the perceptual loss and its gradient, beside PyTorch's on small random weights (tests/parity/vgg.py).

use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use scumble::engine::nets::vgg::Vgg16;
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
