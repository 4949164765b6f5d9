//! Model folders that are broken in every way we could think of: each gives one clear error.

use std::path::{Path, PathBuf};

use scumble::engine::weights::model::{LoadOptions, Model};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A copy of the shipped model, changed; the error that loading it gives.
fn broken(change: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/emoji");
    for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
        copy(&root.join(part), &dir.path().join(part));
    }
    std::fs::copy(root.join("model_index.json"), dir.path().join("model_index.json")).unwrap();
    change(dir.path());
    match Model::load(dir.path().to_str().unwrap(), &LoadOptions::default()) {
        Ok(_) => panic!("a broken model was loaded"),
        Err(error) => error.to_string(),
    }
}

/// Changes the JSON header of a safetensors file; the length of the header stays.
fn edit_header(path: PathBuf, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let mut bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    assert!(header.contains(from), "the header has {from}");
    bytes[8..8 + length].copy_from_slice(header.replacen(from, to, 1).as_bytes());
    std::fs::write(path, bytes).unwrap();
}

fn edit_json(path: PathBuf, key: &str, value: serde_json::Value) {
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json[key] = value;
    std::fs::write(path, json.to_string()).unwrap();
}

fn says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "\"{part}\" is missing in: {error}");
    }
}

#[test]
fn an_unchanged_copy_loads() {
    let result = std::panic::catch_unwind(|| broken(|_| {}));
    assert!(result.is_err(), "the copy itself is a whole model");
}

#[test]
fn a_file_cut_short() {
    let error = broken(|dir| {
        let path = dir.join(UNET);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    });
    says(
        &error,
        &["diffusion_pytorch_model.safetensors", "not a whole safetensors file", "fetch the file again"],
    );
}

#[test]
fn an_empty_file() {
    let error = broken(|dir| std::fs::write(dir.join(UNET), b"").unwrap());
    says(&error, &["not a whole safetensors file", "0 bytes"]);
}

#[test]
fn a_renamed_tensor() {
    let error = broken(|dir| edit_header(dir.join(UNET), "\"conv_in.weight\"", "\"conv_on.weight\""));
    says(&error, &["there is no tensor \"conv_in.weight\"", "nearest name is \"conv_on.weight\""]);
}

#[test]
fn another_shape_than_the_config_says() {
    let error = broken(|dir| edit_json(dir.join("unet/config.json"), "cross_attention_dim", 96.into()));
    says(&error, &["another shape than the config says", "attn2.to_k.weight", "96", "128"]);
}

#[test]
fn a_config_of_another_family() {
    let error =
        broken(|dir| edit_json(dir.join("unet/config.json"), "addition_embed_type", "text_time".into()));
    says(&error, &["addition_embed_type", "not supported", "SDXL"]);
    let error = broken(|dir| edit_json(dir.join("unet/config.json"), "block_out_channels", "wide".into()));
    says(&error, &["block_out_channels"]);
    let error = broken(|dir| edit_json(dir.join("unet/config.json"), "norm_num_groups", 7.into()));
    says(&error, &["7 groups do not divide"]);
    let error = broken(|dir| {
        edit_json(dir.join("scheduler/scheduler_config.json"), "prediction_type", "magic".into())
    });
    says(&error, &["magic", "epsilon"]);
}

#[test]
fn missing_parts() {
    let error = broken(|dir| std::fs::remove_file(dir.join("vae/config.json")).unwrap());
    says(&error, &["vae/config.json"]);
    let error = broken(|dir| std::fs::remove_file(dir.join("model_index.json")).unwrap());
    says(&error, &["no diffusers model", "model_index.json"]);
    let error = broken(|dir| {
        std::fs::rename(dir.join(UNET), dir.join("unet/diffusion_pytorch_model.bin")).unwrap();
    });
    says(&error, &["pickle", "safe_serialization"]);
    let error = broken(|dir| std::fs::remove_dir_all(dir.join("tokenizer")).unwrap());
    says(&error, &["tokenizer"]);
    let error = broken(|dir| std::fs::write(dir.join("unet/config.json"), "{").unwrap());
    says(&error, &["unet/config.json", "not JSON"]);
}

#[test]
fn a_shard_that_leads_outside() {
    let error = broken(|dir| {
        std::fs::remove_file(dir.join(UNET)).unwrap();
        let index = r#"{"weight_map": {"conv_in.weight": "../vae/diffusion_pytorch_model.safetensors"}}"#;
        std::fs::write(dir.join("unet/diffusion_pytorch_model.safetensors.index.json"), index).unwrap();
    });
    says(&error, &["a shard lies outside"]);
}

#[test]
fn a_single_file_is_told_from_a_folder() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/emoji").join(UNET);
    let error = Model::load(path.to_str().unwrap(), &LoadOptions::default()).unwrap_err().to_string();
    says(&error, &["this is one file", "save_pretrained"]);
}
