//! Gradients through whole networks: every parameter and every input of a small UNet, VAE and both CLIP towers, in f64,
//! against directional differences. A gradient that is missing or zero is a failure.

use std::rc::Rc;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use scumble::engine::error::Error;
use scumble::engine::nets::clip_text::ClipText;
use scumble::engine::nets::clip_vision::ClipVision;
use scumble::engine::nets::hooks::Hooks;
use scumble::engine::nets::unet::{Context, Unet, UnetConfig};
use scumble::engine::nets::vae::{Vae, VaeConfig};
use scumble::engine::ops;
use scumble::engine::tape::Tape;
use scumble::engine::weights::{RandomWeights, Weights};
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

/// The variables that get no gradient, or one of zeros, except those of which zero is the true one.
fn missing(variables: &[(String, Var)], grads: &GradStore) -> Vec<String> {
    // A bias of keys moves all scores of a query alike: the softmax does not see it.
    let cancels = |path: &str| ["k_proj.bias", "attentions.0.key.bias"].iter().any(|p| path.ends_with(p));
    let reached = |var: &Var| {
        grads.get(var.as_tensor()).is_some_and(|g| {
            let g = g.to_dtype(DType::F64).unwrap().abs().unwrap();
            scalar(&g.flatten_all().unwrap().max(0).unwrap()) > 1e-12
        })
    };
    variables
        .iter()
        .filter(|(path, var)| !reached(var) && !cancels(path))
        .map(|(path, _)| path.clone())
        .collect()
}

/// Every variable gets a gradient, and its part along one random direction is the central difference.
fn check(name: &str, variables: &[(String, Var)], forward: &dyn Fn() -> Tensor) {
    let grads = loss(&forward()).backward().unwrap();
    let missing = missing(variables, &grads);
    assert!(missing.is_empty(), "{name}: no gradient, or zeros: {missing:?}");
    for (seed, (path, var)) in variables.iter().enumerate() {
        let Some(grad) = grads.get(var.as_tensor()) else { panic!("{name}: {path} got no gradient") };
        let direction = normal(1000 + seed as u64, var.dims());
        let direction = (&direction / (direction.elem_count() as f64).sqrt()).unwrap();
        let analytic = scalar(&(grad * &direction).unwrap().sum_all().unwrap());
        let start = var.as_tensor().copy().unwrap();
        let at = |step: f64| {
            ops::assign(var, &(&start + (&direction * step).unwrap()).unwrap()).unwrap();
            scalar(&loss(&forward()))
        };
        let numeric = (at(EPS) - at(-EPS)) / (2.0 * EPS);
        ops::assign(var, &start).unwrap();
        let scale = analytic.abs().max(numeric.abs());
        assert!(
            (analytic - numeric).abs() <= 1e-5 * scale.max(1e-2),
            "{name}: {path}: gradient {analytic:e}, difference {numeric:e}"
        );
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

/// The negative control: the same walk over candle's own Stable Diffusion finds the parameters that its gradients miss.
#[test]
fn the_walk_finds_what_candle_misses() {
    use candle_transformers::models::stable_diffusion::unet_2d::{
        BlockConfig, UNet2DConditionModel, UNet2DConditionModelConfig,
    };
    let block =
        |out_channels, cross| BlockConfig { out_channels, use_cross_attn: cross, attention_head_dim: 2 };
    let config = UNet2DConditionModelConfig {
        blocks: vec![block(32, Some(1)), block(64, None)],
        layers_per_block: 1,
        cross_attention_dim: 12,
        ..Default::default()
    };
    let map = candle_nn::VarMap::new();
    let vb = candle_nn::VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    let unet = UNet2DConditionModel::new(vb, 4, 4, false, config).unwrap();
    // The initial values have zeros among them, whose neighbours get zeros by right.
    let named: Vec<(String, Var)> =
        map.data().lock().unwrap().iter().map(|(n, v)| (n.clone(), v.clone())).collect();
    for (seed, (name, var)) in named.iter().enumerate() {
        let noise = normal(seed as u64, var.dims()).affine(0.1, 0.0).unwrap().to_dtype(DType::F32).unwrap();
        let shift = f64::from(name.contains("norm") && name.ends_with("weight"));
        ops::assign(var, &(noise + shift).unwrap()).unwrap();
    }
    let input = |seed, dims: &[usize]| normal(seed, dims).to_dtype(DType::F32).unwrap();
    let out = unet.forward(&input(1, &[1, 4, 8, 8]), 417.0, &input(2, &[1, 5, 12])).unwrap();
    let grads = loss(&out.to_dtype(DType::F64).unwrap()).backward().unwrap();
    let lost = missing(&named, &grads);
    println!("candle's own UNet: {} of {} parameters get no gradient", lost.len(), named.len());
    assert!(!lost.is_empty() && lost.len() < named.len());
    for part in ["to_q.weight", "to_k.weight", "norm1.weight"] {
        assert!(lost.iter().any(|n| n.ends_with(part)), "{part}: {lost:?}");
    }
}

/// Blocks that are computed again: the same gradients of inputs and parameters.
#[test]
fn checkpoints_change_no_gradient() {
    for tracked in [true, false] {
        let weights = RandomWeights::new(3, DType::F64, &Device::Cpu, tracked);
        let unet = Unet::new(&weights.scope(), unet_config(json!({}))).unwrap();
        let tape = Rc::new(Tape::default());
        let z = tape.variable(&normal(1, &[2, 4, 8, 4])).unwrap();
        let text = tape.variable(&normal(2, &[2, 5, 12])).unwrap();
        let run = |tape: Option<&Rc<Tape>>, text: &Tensor| {
            let mut hooks = Hooks::none().with_tape(tape.map(Rc::clone));
            loss(&unet.forward(&z, 417.0, &Context::new(text.clone()), &mut hooks).unwrap())
        };
        for text in [text.clone(), text.detach()] {
            let want = run(None, &text).backward().unwrap();
            let total = run(Some(&tape), &text);
            assert_eq!(tape.recorded() % 13, 0, "resnets, transformers, an upsampler");
            let mut none = |_, _: &[Tensor], _: &[Tensor]| -> Result<Vec<Tensor>, Error> { Ok(Vec::new()) };
            let grads = tape.backward(&total, &mut none, &|| Ok(())).unwrap();
            let mut all: Vec<(String, Tensor)> = vec![("z".into(), z.clone())];
            all.extend(text.is_variable().then(|| ("text".into(), text.clone())));
            all.extend(weights.made().into_iter().filter(|_| tracked));
            for (name, x) in &all {
                let (a, b) = (grads.get(x).unwrap(), want.get(x).unwrap());
                let most = |t: Tensor| scalar(&t.abs().unwrap().flatten_all().unwrap().max(0).unwrap());
                assert!(most((a - b).unwrap()) <= 1e-11 * most(b.clone()), "{name}");
            }
        }
    }
}

/// A network on detached views of variables, with kept weights and kept keys and values: each change in place shows.
#[test]
fn nothing_derived_from_weights_is_stale() {
    let weights = RandomWeights::new(3, DType::F64, &Device::Cpu, true);
    // Wide enough for the transformed convolutions.
    let config = || unet_config(json!({ "block_out_channels": [16, 16] }));
    Unet::new(&weights.scope(), config()).unwrap();
    let made: Vec<(String, Var)> = variables(&weights, &[]);
    let build = || {
        let views = made.iter().map(|(n, v)| (n.clone(), v.as_detached_tensor())).collect();
        Unet::new(&Weights::new(views, "test").scope(), config()).unwrap()
    };
    let (unet, text) = (build(), Context::new(normal(2, &[2, 5, 12])));
    let z = Var::from_tensor(&normal(1, &[2, 4, 16, 16])).unwrap();
    let both = |unet: &Unet, text: &Context| {
        let out = loss(&unet.forward(&z, 417.0, text, &mut Hooks::none()).unwrap());
        let grad = out.backward().unwrap().get(&z).unwrap().sqr().unwrap().sum_all().unwrap();
        (scalar(&out), scalar(&grad))
    };
    both(&unet, &text);
    for (name, var) in &made {
        let before = both(&unet, &text);
        ops::assign(var, &(var.as_tensor() * 1.1).unwrap()).unwrap();
        let after = both(&unet, &text);
        let fresh = both(&build(), &Context::new(text.states().clone()));
        assert!(
            (after.0 - fresh.0).abs() <= 1e-9 * fresh.0.abs().max(1.0),
            "{name}: {after:?}, not {fresh:?}"
        );
        assert!(
            (after.1 - fresh.1).abs() <= 1e-9 * fresh.1.abs().max(1.0),
            "{name}: {after:?}, not {fresh:?}"
        );
        assert!(after.0 != before.0, "{name} changes nothing");
    }
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
