//! Adapters in the names of every program beside the weights that PyTorch merges from them (tests/parity/lora.py).

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use scumble::engine::diffusion::noise::Rng;
use scumble::engine::weights::changed::Changes;
use scumble::engine::weights::lora::Adapter;
use scumble::engine::weights::lora_file::Lora;
use scumble::engine::weights::model::{LoadOptions, Model, PredictOptions};
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

fn half(dtype: DType) -> Model {
    let options = LoadOptions { dtype, ..LoadOptions::default() };
    Model::load(data("tiny-sd1").to_str().unwrap(), &options).unwrap()
}

/// What a file holds is read in f32 and becomes what the model computes in: adapters, whole weights, vectors of a token.
#[test]
fn files_fit_models_in_half_precision() {
    let merged = Fixture::open("lora/merged.safetensors");
    for (dtype, most) in [(DType::F16, 2e-3), (DType::BF16, 2e-2)] {
        let m = half(dtype);
        let file = TensorFile::open(&data("lora/kohya.safetensors")).unwrap();
        let changed = m.with_file(&file, 1.0).unwrap();
        for (name, wanted) in merged.tensors.iter().filter_map(|(k, t)| Some((k.strip_prefix("kohya|")?, t)))
        {
            let weight = changed.weight(name).unwrap();
            assert_eq!(weight.dtype(), dtype, "{name}");
            close(&format!("{dtype:?} {name}"), &weight.to_dtype(DType::F32).unwrap(), wanted, most);
        }
        // A second one on top makes whole weights of them.
        let twice = changed.with_file(&file, 1.0).unwrap();
        assert!(twice.changes().weights.values().all(|w| w.dtype() == dtype));
        let dir = tempfile::tempdir().unwrap();
        let whole = m.weight("unet.conv_in.weight").unwrap().to_dtype(DType::F32).unwrap();
        let rows = Tensor::ones((2, 24), DType::F32, &Device::Cpu).unwrap();
        let own = [("unet.conv_in.weight", whole), ("<thing>", rows)];
        let changed = changed.with_file(&self::file(dir.path(), &own), 1.0).unwrap();
        assert_eq!(changed.changes().tokens[0].1.dtype(), dtype);
        assert_eq!(changed.weight("unet.conv_in.weight").unwrap().dtype(), dtype);
        if dtype == DType::F16 {
            // candle has products of f16 in main memory, and none of bf16.
            let text = changed.encode_text("a <thing>").unwrap();
            let z = changed.noise(Rng::default(), 0, 1, None).unwrap();
            let eps = changed.predict(&z, 501.0, &text, &PredictOptions::default()).unwrap().0;
            assert!(!eps.has_non_finite().unwrap() && eps.tensor().dtype() == dtype);
        }
    }
}

/// A gradient goes through the rounding to what is trained in f32.
#[test]
fn weights_in_half_precision_are_trained_in_f32() {
    let m = half(DType::F16);
    let name = "unet.conv_in.bias";
    let wide = Var::from_tensor(&m.weight(name).unwrap().to_dtype(DType::F32).unwrap()).unwrap();
    let weights = BTreeMap::from([(name.to_string(), wide.as_tensor().clone())]);
    let tracked = m.with_changes(&Changes { weights, ..Changes::default() }).unwrap();
    let text = tracked.encode_text("a dog").unwrap();
    let z = tracked.noise(Rng::default(), 0, 1, None).unwrap();
    let eps = tracked.predict(&z, 501.0, &text, &PredictOptions::default()).unwrap().0;
    let loss = eps.tensor().to_dtype(DType::F32).unwrap().sqr().unwrap().mean_all().unwrap();
    let grads = loss.backward().unwrap();
    let grad = grads.get(&wide).expect("a gradient");
    assert_eq!(grad.dtype(), DType::F32);
    assert!(grad.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() > 0.0);
    let fresh = Adapter::fresh("a", &m.weight("unet.conv_in.weight").unwrap(), 2, 0).unwrap().unwrap();
    assert_eq!((fresh.down.dtype(), fresh.up.dtype()), (DType::F32, DType::F32));
}

/// A file with one tensor of a type that candle has no tensors of, or as we write none.
fn raw(dir: &Path, tensors: &[(&str, &str, &[usize], Vec<u8>)], about: &[(&str, &str)]) -> TensorFile {
    let mut header = serde_json::Map::new();
    let about: BTreeMap<&str, &str> = about.iter().copied().collect();
    header.insert("__metadata__".into(), serde_json::json!(about));
    let mut all: Vec<u8> = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let at = [all.len(), all.len() + bytes.len()];
        all.extend(bytes);
        let entry = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": at });
        header.insert(name.to_string(), entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(all);
    let path = dir.join("raw.safetensors");
    std::fs::write(&path, bytes).unwrap();
    TensorFile::open(&path).unwrap()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The one adapter of a file for `proj_in`, whose two matrices are of ones.
fn scale_of(m: &Model, alpha: Option<(&str, Vec<u8>)>, about: &[(&str, &str)]) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let layer = "unet.down_blocks.0.attentions.0.proj_in";
    let names = ["lora_A.weight", "lora_B.weight", "alpha"].map(|end| format!("{layer}.{end}"));
    let mut all = vec![
        (names[0].as_str(), "F32", &[4, 8, 1, 1][..], floats(&[1.0; 32])),
        (names[1].as_str(), "F32", &[8, 4, 1, 1][..], floats(&[1.0; 32])),
    ];
    if let Some((dtype, bytes)) = alpha {
        all.push((names[2].as_str(), dtype, &[], bytes));
    }
    let changed = m.with_file(&raw(dir.path(), &all, about), 1.0).unwrap();
    changed.changes().adapters.values().next().unwrap().scale
}

#[test]
fn alphas_are_read_from_integers_and_rslora_divides_by_the_root() {
    let m = tiny();
    assert_eq!(scale_of(&m, None, &[]), 1.0);
    assert_eq!(scale_of(&m, Some(("F32", floats(&[2.0]))), &[]), 0.5);
    for (dtype, bytes) in
        [("I64", 8i64.to_le_bytes().to_vec()), ("I32", 8i32.to_le_bytes().to_vec()), ("U8", vec![8])]
    {
        assert_eq!(scale_of(&m, Some((dtype, bytes)), &[]), 2.0, "{dtype}");
    }
    let about = |stable: bool| {
        let text = format!("{{\"unet.r\": 4, \"unet.lora_alpha\": 8, \"unet.use_rslora\": {stable}}}");
        scale_of(&m, None, &[("lora_adapter_metadata", &text)])
    };
    assert_eq!((about(false), about(true)), (2.0, 4.0));
}

#[test]
fn adapters_in_types_that_are_not_read_are_told() {
    let (m, dir) = (tiny(), tempfile::tempdir().unwrap());
    for (name, dtype) in [
        ("lora_unet_conv_in.lora_down.weight", "F8_E4M3"),
        ("lora_unet_conv_in.lora_up.weight", "I8"),
        ("unet.conv_in.weight", "F8_E5M2"),
    ] {
        let file = raw(dir.path(), &[(name, dtype, &[2, 2], vec![0; 4])], &[]);
        let error = m.with_file(&file, 1.0).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(dtype), "{error}");
    }
    // An alpha that is none.
    let file = raw(dir.path(), &[("lora_unet_conv_in.alpha", "BOOL", &[], vec![1])], &[]);
    assert!(m.with_file(&file, 1.0).unwrap_err().to_string().contains("no number"));
}

/// peft saves each network by itself, and does not say which it is.
#[test]
fn a_text_encoder_saved_by_peft_is_found() {
    let (m, dir) = (tiny(), tempfile::tempdir().unwrap());
    let layer = "base_model.model.text_model.encoder.layers.0.self_attn.q_proj";
    let names = ["lora_A", "lora_B"].map(|which| format!("{layer}.{which}.weight"));
    let all = [
        (names[0].as_str(), "F32", &[1, 24][..], floats(&[1.0; 24])),
        (names[1].as_str(), "F32", &[24, 1][..], floats(&[1.0; 24])),
    ];
    let changed = m.with_file(&raw(dir.path(), &all, &[]), 1.0).unwrap();
    let found: Vec<&String> = changed.changes().adapters.keys().collect();
    assert_eq!(found, ["text_encoder.text_model.encoder.layers.0.self_attn.q_proj.weight"]);
}

/// A megabyte whose product would have forty thousand.
#[test]
fn a_kernel_between_two_matrices_is_compared_with_the_layer_first() {
    let (m, dir) = (tiny(), tempfile::tempdir().unwrap());
    let n = 100_000;
    let why = |down: [usize; 4], mid: [usize; 4]| {
        let ends = ["lora_down", "lora_mid", "lora_up"].map(|end| format!("lora_unet_conv_in.{end}.weight"));
        let zeros = |dims: &[usize]| vec![0; 4 * dims.iter().product::<usize>()];
        let up = [8, 1, 1, 1];
        let all = [
            (ends[0].as_str(), "F32", &down[..], zeros(&down)),
            (ends[1].as_str(), "F32", &mid[..], zeros(&mid)),
            (ends[2].as_str(), "F32", &up[..], zeros(&up)),
        ];
        m.with_file(&raw(dir.path(), &all, &[]), 1.0).unwrap_err().to_string()
    };
    let error = why([1, n, 1, 1], [n, 1, 1, 1]);
    assert!(error.contains("another rank"), "{error}");
    for (down, mid) in [([1, n, 1, 1], [1, 1, 3, 3]), ([1, 4, 1, 1], [1, 1, 3, n])] {
        let error = why(down, mid);
        assert!(error.contains("does not fit the layer") && error.contains("conv_in"), "{error}");
    }
}
