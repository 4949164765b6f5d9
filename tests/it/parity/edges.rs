//! HED and PiDiNet beside plain PyTorch on small random weights (tests/parity/edges.py); and what other files say.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use scumble::engine::detector::Detector;
use scumble::engine::image::Picture;
use scumble::engine::nets::hed::Hed;
use scumble::engine::nets::pidinet::Pidinet;
use scumble::engine::weights::read::TensorFile;
use scumble::engine::weights::{Weights, write};

use super::{Fixture, close, data};

const EXACT: f64 = 1e-5;

fn weights(name: &str) -> Weights {
    Weights::load(&[TensorFile::open(&data(name)).unwrap()], DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn hed_is_that_of_pytorch() {
    let fixture = Fixture::open("hed.safetensors");
    let net = Hed::new(&weights("hed.safetensors").scope()).unwrap();
    close("hed", &net.forward(fixture.get("x")).unwrap(), fixture.get("edges"), EXACT);
}

/// As trained the file holds kernels of differences, converted it holds plain ones: both are the same network.
#[test]
fn pidinet_is_that_of_pytorch_as_trained_and_converted() {
    let fixture = Fixture::open("pidinet.safetensors");
    let all = weights("pidinet.safetensors");
    let mut plain = all.tensors().clone();
    for (name, kernel) in all.tensors() {
        if let Some(name) = name.strip_prefix("converted.") {
            plain.insert(name.to_string(), kernel.clone());
        }
    }
    for (kind, all) in [("trained", all), ("converted", Weights::new(plain, "converted"))] {
        let net = Pidinet::new(&all.scope()).unwrap();
        close(kind, &net.forward(fixture.get("x")).unwrap(), fixture.get("edges"), EXACT);
    }
}

fn file(dir: &std::path::Path, name: &str, from: &str, keep: impl Fn(&str) -> bool) -> std::path::PathBuf {
    let all = weights(from);
    let kept = all.tensors().iter().filter(|(n, _)| keep(n));
    let bytes = write::encode(kept.map(|(n, t)| (n.as_str(), t)), &BTreeMap::new()).unwrap();
    let path = dir.join(name);
    write::replace("test", &path, &bytes).unwrap();
    path
}

#[test]
fn a_file_says_by_its_names_which_network_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let own = |n: &str| n != "x" && n != "edges" && !n.starts_with("converted.");
    let hed = file(dir.path(), "hed.safetensors", "hed.safetensors", own);
    let picture = Picture::open(&data("../../../models/emoji/pictures/dog-flat.png"), &Device::Cpu).unwrap();
    // A folder with one file is that file; with two, one must be named.
    let net = Detector::load(dir.path(), &Device::Cpu).unwrap();
    assert_eq!(net.name(), "HED");
    let soft = net.edges(&picture, 0.0).unwrap();
    assert_eq!(soft.tensor().dims(), picture.tensor().dims());
    let line = soft.tensor().mean_all().unwrap().to_scalar::<f32>().unwrap();
    let sharp = net.edges(&picture, f64::from(line)).unwrap().tensor().flatten_all().unwrap();
    let sharp = sharp.to_vec1::<f32>().unwrap();
    assert!(sharp.iter().all(|v| *v == 0.0 || *v == 1.0) && sharp.contains(&0.0) && sharp.contains(&1.0));
    let pidi = file(dir.path(), "pidinet.safetensors", "pidinet.safetensors", own);
    assert_eq!(Detector::load(&pidi, &Device::Cpu).unwrap().name(), "PiDiNet");
    let why = |path: &std::path::Path| Detector::load(path, &Device::Cpu).unwrap_err().to_string();
    assert!(why(dir.path()).contains("several files"), "{}", why(dir.path()));
    let cut = file(dir.path(), "cut.safetensors", "hed.safetensors", |n| {
        own(n) && !n.starts_with("block4.convs.1")
    });
    assert!(why(&cut).contains("block4.convs.1.weight"), "{}", why(&cut));
    assert!(why(&data("vgg.safetensors")).contains("no edge detector"), "{}", why(&data("vgg.safetensors")));
    let small =
        Picture::from_tensor(Tensor::zeros((1, 3, 12, 40), DType::F32, &Device::Cpu).unwrap()).unwrap();
    for (path, least) in [(&hed, "16"), (&pidi, "8")] {
        let net = Detector::load(path, &Device::Cpu).unwrap();
        let error = net.edges(&small.resize(40, 6).unwrap(), 0.0).unwrap_err().to_string();
        assert!(error.contains(&format!("at least {least} pixels")), "{error}");
        assert!(net.edges(&picture, 1.5).is_err() && net.edges(&picture, f64::NAN).is_err());
    }
    let tracked = candle_core::Var::from_tensor(picture.tensor()).unwrap();
    let tracked = Picture::from_tensor(tracked.as_tensor().clone()).unwrap();
    let error = Detector::load(&hed, &Device::Cpu).unwrap().edges(&tracked, 0.0).unwrap_err().to_string();
    assert!(error.contains("has no gradient"), "{error}");
}
