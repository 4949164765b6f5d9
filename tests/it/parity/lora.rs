//! Adapters in the names of every program beside the weights that PyTorch merges from them (tests/parity/lora.py).

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use scumble::engine::weights::lora_file::Lora;
use scumble::engine::weights::model::{LoadOptions, Model};
use scumble::engine::weights::read::TensorFile;
use scumble::engine::weights::write;

use super::{Fixture, close, data};

const EXACT: f64 = 1e-6;

fn tiny() -> Model {
    Model::load(data("tiny-sd1").to_str().unwrap(), &LoadOptions::default()).unwrap()
}

#[test]
fn adapters_of_every_program_give_the_weights_that_pytorch_merges() {
    let (m, merged) = (tiny(), Fixture::open("lora/merged.safetensors"));
    let counts = [("kohya", 13), ("peft", 13), ("default", 10), ("diffusers", 13), ("processor", 5)];
    for (name, count) in counts {
        let file = TensorFile::open(&data(&format!("lora/{name}.safetensors"))).unwrap();
        let (whole, half) = (m.with_file(&file, 1.0).unwrap(), m.with_file(&file, 0.5).unwrap());
        assert_eq!(whole.changes().adapters.len(), count, "{name}");
        let prefix = format!("{name}|");
        let wanted: Vec<(&str, &Tensor)> =
            merged.tensors.iter().filter_map(|(k, t)| Some((k.strip_prefix(&prefix)?, t))).collect();
        assert_eq!(wanted.len(), count, "{name}");
        for (weight, wanted) in wanted {
            close(&format!("{name} {weight}"), &whole.weight(weight).unwrap(), wanted, EXACT);
            let base = m.weight(weight).unwrap();
            let middle = ((wanted + &base).unwrap() * 0.5).unwrap();
            close(&format!("{name} {weight} half"), &half.weight(weight).unwrap(), &middle, EXACT);
        }
        // What a file does not name stays.
        let other = "unet.conv_out.weight";
        let same = (whole.weight(other).unwrap() - m.weight(other).unwrap()).unwrap().abs().unwrap();
        assert_eq!(same.max_all().unwrap().to_scalar::<f32>().unwrap(), 0.0, "{name}");
    }
}

/// `with_lora` finds the same file, and what is saved is read back as the same model.
#[test]
fn a_lora_is_saved_in_names_that_are_read_back() {
    let m = tiny();
    let path = data("lora/kohya.safetensors");
    let lora = Lora::find(path.to_str().unwrap()).unwrap().unwrap();
    let changed = m.with_lora(&lora, "tiny with a style", 0.7).unwrap();
    assert_eq!(changed.name(), "tiny with a style");
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("style.safetensors");
    let tensors = changed.changes().tensors();
    let bytes = write::encode(tensors.iter().map(|(n, t)| (n.as_str(), t)), &BTreeMap::new()).unwrap();
    write::replace("test", &saved, &bytes).unwrap();
    let back = m.with_file(&TensorFile::open(&saved).unwrap(), 1.0).unwrap();
    for name in changed.changes().adapters.keys() {
        close(name, &back.weight(name).unwrap(), &changed.weight(name).unwrap(), EXACT);
    }
}

fn file(dir: &Path, tensors: &[(&str, Tensor)]) -> TensorFile {
    let path = dir.join("made.safetensors");
    let bytes = write::encode(tensors.iter().map(|(n, t)| (*n, t)), &BTreeMap::new()).unwrap();
    write::replace("test", &path, &bytes).unwrap();
    TensorFile::open(&path).unwrap()
}

#[test]
fn keys_that_fit_no_layer_are_named() {
    let (m, dir) = (tiny(), tempfile::tempdir().unwrap());
    let zeros = |dims: &[usize]| Tensor::zeros(dims, candle_core::DType::F32, &Device::Cpu).unwrap();
    let why =
        |tensors: &[(&str, Tensor)]| m.with_file(&file(dir.path(), tensors), 1.0).unwrap_err().to_string();
    let pair = |layer: &'static str| -> Vec<(String, Tensor)> {
        vec![
            (format!("{layer}.lora_down.weight"), zeros(&[2, 8])),
            (format!("{layer}.lora_up.weight"), zeros(&[8, 2])),
        ]
    };
    let mut all = pair("lora_unet_conv_in");
    for layer in [
        "lora_unet_input_blocks_1",
        "lora_te2_layers_0",
        "lora_unet_a",
        "lora_unet_b",
        "lora_unet_c",
        "lora_unet_d",
    ] {
        all.extend(pair(layer));
    }
    let all: Vec<(&str, Tensor)> = all.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    let error = why(&all);
    assert!(error.contains("some layers are not in this model") && error.contains("and 2 more"), "{error}");
    assert!(error.contains("lora_te2_layers_0") && error.contains("another model"), "{error}");
    let error = why(&all[2..]);
    assert!(error.contains("none of its layers"), "{error}");
    let error = why(&all[..1]);
    assert!(error.contains("half of the adapter of lora_unet_conv_in"), "{error}");
    for (name, kind) in [
        ("lora_unet_conv_in.hada_w1_a", "LoHa"),
        ("lora_unet_conv_in.lokr_w1", "LoKr"),
        ("lora_unet_conv_in.dora_scale", "DoRA"),
        ("lora_unet_conv_in.diff", "whole differences"),
    ] {
        let error = why(&[(name, zeros(&[8, 8]))]);
        assert!(error.contains(name) && error.contains(kind), "{error}");
    }
    let error = why(&[
        ("lora_unet_conv_in.lora_down.weight", zeros(&[2, 9])),
        ("lora_unet_conv_in.lora_up.weight", zeros(&[8, 2])),
    ]);
    assert!(error.contains("does not fit") && error.contains("conv_in"), "{error}");
    let kernel = [
        ("lora_unet_conv_in.lora_down.weight", zeros(&[2, 4, 1, 1])),
        ("lora_unet_conv_in.lora_mid.weight", zeros(&[2, 3, 3, 3])),
        ("lora_unet_conv_in.lora_up.weight", zeros(&[8, 2, 1, 1])),
    ];
    let error = why(&kernel);
    assert!(error.contains("another rank"), "{error}");
}
