//! Gradients through whole networks: every parameter and every input of a small UNet, VAE and both CLIP towers, in f64,
//! against directional differences. A gradient that is missing or zero is a failure.

use std::rc::Rc;

use candle_core::{DType, Device, Tensor, Var};
use scumble::engine::nets::clip_text::ClipText;
use scumble::engine::nets::clip_vision::ClipVision;
use scumble::engine::nets::hooks::Hooks;
use scumble::engine::nets::unet::{Context, Unet, UnetConfig};
use scumble::engine::nets::vae::{Vae, VaeConfig};
use scumble::engine::weights::RandomWeights;
use serde_json::json;

const EPS: f64 = 1e-6;

fn normal(seed: u64, dims: &[usize]) -> Tensor {
    let values = scumble::engine::diffusion::noise::TorchNoise::new(seed).normal(dims.iter().product());
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
}

fn scalar(t: &Tensor) -> f64 {
    t.to_scalar::<f64>().unwrap()
}

/// A loss with a different weight on every output, so that no gradient cancels by symmetry.
fn loss(out: &Tensor) -> Tensor {
    (out * normal(99, out.dims())).unwrap().sum_all().unwrap()
}

/// Compares the gradient of each variable, along one random direction, with a central difference.
fn check(name: &str, variables: &[(String, Var)], forward: &dyn Fn() -> Tensor) {
    let grads = loss(&forward()).backward().unwrap();
    for (seed, (path, var)) in variables.iter().enumerate() {
        let grad = grads.get(var.as_tensor()).unwrap_or_else(|| panic!("{name}: {path} got no gradient"));
        let direction = normal(1000 + seed as u64, var.dims());
        let direction = (&direction / (direction.elem_count() as f64).sqrt()).unwrap();
        let analytic = scalar(&(grad * &direction).unwrap().sum_all().unwrap());
        let start = var.as_tensor().copy().unwrap();
        let at = |step: f64| {
            var.set(&(&start + (&direction * step).unwrap()).unwrap()).unwrap();
            scalar(&loss(&forward()))
        };
        let numeric = (at(EPS) - at(-EPS)) / (2.0 * EPS);
        var.set(&start).unwrap();
        // A bias before a norm or a softmax over keys has no effect on the output: its true gradient is 0.
        let scale = analytic.abs().max(numeric.abs());
        assert!(
            (analytic - numeric).abs() <= 1e-5 * scale.max(1e-2),
            "{name}: {path}: gradient {analytic:e}, difference {numeric:e}"
        );
        let cancels = ["k_proj.bias", "attentions.0.key.bias"].iter().any(|p| path.ends_with(p));
        assert!(cancels || scale > 1e-9, "{name}: {path}: the gradient is zero");
    }
}

fn variables(weights: &Rc<RandomWeights>, inputs: &[(&str, &Var)]) -> Vec<(String, Var)> {
    let inputs = inputs.iter().map(|(n, v)| (n.to_string(), (*v).clone()));
    let made = weights.made().into_iter().map(|(n, t)| (n, Var::from_tensor(&t).unwrap()));
    inputs.chain(made).collect()
}

fn unet_config(extra: serde_json::Value) -> UnetConfig {
    let mut config = json!({
        "in_channels": 4, "out_channels": 4, "block_out_channels": [8, 16], "layers_per_block": 1,
        "cross_attention_dim": 12, "attention_head_dim": [2, 4], "norm_num_groups": 4, "sample_size": 8,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    });
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    UnetConfig::parse(&config).unwrap()
}

fn check_unet(name: &str, extra: serde_json::Value) {
    let weights = RandomWeights::new(3, DType::F64, &Device::Cpu, true);
    let unet = Unet::new(&weights.scope(), unet_config(extra)).unwrap();
    let z = Var::from_tensor(&normal(1, &[2, 4, 8, 4])).unwrap();
    let text = Var::from_tensor(&normal(2, &[2, 5, 12])).unwrap();
    check(name, &variables(&weights, &[("z", &z), ("text", &text)]), &|| {
        let context = Context::new(text.as_tensor().clone());
        unet.forward(z.as_tensor(), 417.0, &context, &mut Hooks::none()).unwrap()
    });
}

#[test]
fn unet_of_sd1() {
    check_unet("unet sd1", json!({}));
}

#[test]
fn unet_of_sd2() {
    check_unet("unet sd2", json!({ "use_linear_projection": true, "transformer_layers_per_block": 2 }));
}

#[test]
fn vae_both_ways() {
    let weights = RandomWeights::new(4, DType::F64, &Device::Cpu, true);
    let config = json!({
        "block_out_channels": [8, 12], "layers_per_block": 1, "norm_num_groups": 4, "in_channels": 3, "out_channels": 3,
        "latent_channels": 4,
    });
    let vae = Vae::new(&weights.scope(), VaeConfig::parse(&config).unwrap()).unwrap();
    let x = Var::from_tensor(&normal(5, &[1, 3, 8, 8])).unwrap();
    let all = variables(&weights, &[("picture", &x)]);
    // One pass through both halves, so that every parameter of either takes part.
    check("vae", &all, &|| {
        let z = vae.encode_mean(x.as_tensor(), &mut Hooks::none()).unwrap();
        vae.decode(&z.affine(3.0, 0.0).unwrap(), &mut Hooks::none()).unwrap()
    });
}

fn tower() -> serde_json::Value {
    json!({
        "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "hidden_act": "quick_gelu", "vocab_size": 10, "max_position_embeddings": 6, "eos_token_id": 9,
        "image_size": 8, "patch_size": 4,
    })
}

#[test]
fn clip_text_tower() {
    for activation in ["quick_gelu", "gelu"] {
        let weights = RandomWeights::new(6, DType::F64, &Device::Cpu, true);
        let mut config = tower();
        config["hidden_act"] = activation.into();
        let text = ClipText::new(&weights.scope(), &config).unwrap();
        check(activation, &variables(&weights, &[]), &|| {
            text.forward(&[8, 3, 1, 4, 9, 9], &mut Hooks::none()).unwrap()
        });
    }
}

#[test]
fn clip_picture_tower() {
    let weights = RandomWeights::new(7, DType::F64, &Device::Cpu, true);
    let vision = ClipVision::new(&weights.scope(), &tower(), 6).unwrap();
    let x = Var::from_tensor(&normal(8, &[2, 3, 8, 8])).unwrap();
    check("clip vision", &variables(&weights, &[("pixels", &x)]), &|| {
        vision.forward(x.as_tensor(), &mut Hooks::none()).unwrap()
    });
}
