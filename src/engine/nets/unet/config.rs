//! `unet/config.json`: the keys that change results, checked.

use serde_json::Value;

use crate::engine::error::{Error, Kind, Result};
use crate::engine::nets::clip::size;

/// Sizes of a UNet.
#[derive(Clone, Debug)]
pub struct UnetConfig {
    /// Channels of the latent (4; 9 for inpainting checkpoints).
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Channels per level.
    pub widths: Vec<usize>,
    /// Resnets per level on the way down (one more on the way up).
    pub layers: usize,
    /// Width of the prompt states.
    pub context: usize,
    /// Attention heads per level. diffusers' `attention_head_dim` is this number for all SD checkpoints.
    pub heads: Vec<usize>,
    /// Transformer blocks per attention, per level.
    pub depth: Vec<usize>,
    /// Whether each level going down attends to the prompt.
    pub attends_down: Vec<bool>,
    /// Whether each level going up attends to the prompt (from the deepest).
    pub attends_up: Vec<bool>,
    /// Linear `proj_in`/`proj_out` (SD 2.x) instead of 1×1 convolutions.
    pub linear_projection: bool,
    /// Groups of the group norms.
    pub groups: usize,
    /// Epsilon of the group norms outside the transformers.
    pub eps: f64,
    /// Cosine before sine in the timestep encoding.
    pub flip_sin_to_cos: bool,
    /// Shift of the timestep encoding's frequencies.
    pub freq_shift: f64,
    /// Divisor of the middle block's residual sums.
    pub mid_scale: f64,
    /// Side of the latent that the network was trained on.
    pub sample_size: usize,
}

fn bad(message: String) -> Error {
    Error::new(Kind::File, "load", format!("unet/config.json: {message}"))
}

impl UnetConfig {
    /// Reads and checks config.json. Errors: a key missing, or a feature that this network does not have.
    pub fn parse(json: &Value) -> Result<Self> {
        refuse(json)?;
        let widths = list(json, "block_out_channels")?;
        let levels = widths.len();
        let names = |key: &str| -> Result<Vec<String>> {
            let names: Vec<String> = json
                .get(key)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|v| Some(v.as_str()?.into()))
                .collect();
            if names.len() == levels {
                Ok(names)
            } else {
                Err(bad(format!("\"{key}\" must name {levels} blocks")))
            }
        };
        let attends = |key: &str, with: &str, without: &str| -> Result<Vec<bool>> {
            names(key)?
                .iter()
                .map(|n| match n.as_str() {
                    n if n == with => Ok(true),
                    n if n == without => Ok(false),
                    n => Err(bad(format!("unknown block type \"{n}\" in \"{key}\""))),
                })
                .collect()
        };
        let heads_key = if json.get("num_attention_heads").is_some_and(|v| !v.is_null()) {
            "num_attention_heads"
        } else {
            "attention_head_dim"
        };
        let config = UnetConfig {
            in_channels: size(json, "in_channels")?,
            out_channels: size(json, "out_channels")?,
            layers: size(json, "layers_per_block")?,
            context: size(json, "cross_attention_dim")?,
            heads: per_level(json, heads_key, 8, levels)?,
            depth: per_level(json, "transformer_layers_per_block", 1, levels)?,
            attends_down: attends("down_block_types", "CrossAttnDownBlock2D", "DownBlock2D")?,
            attends_up: attends("up_block_types", "CrossAttnUpBlock2D", "UpBlock2D")?,
            linear_projection: json.get("use_linear_projection").and_then(Value::as_bool).unwrap_or(false),
            groups: json.get("norm_num_groups").and_then(Value::as_u64).unwrap_or(32) as usize,
            eps: json.get("norm_eps").and_then(Value::as_f64).unwrap_or(1e-5),
            flip_sin_to_cos: json.get("flip_sin_to_cos").and_then(Value::as_bool).unwrap_or(true),
            freq_shift: json.get("freq_shift").and_then(Value::as_f64).unwrap_or(0.0),
            mid_scale: json.get("mid_block_scale_factor").and_then(Value::as_f64).unwrap_or(1.0),
            sample_size: size(json, "sample_size").unwrap_or(64),
            widths,
        };
        for (level, (&width, &heads)) in config.widths.iter().zip(&config.heads).enumerate() {
            if heads == 0 || width % heads != 0 {
                return Err(bad(format!(
                    "{heads} heads do not divide the {width} channels of level {level}"
                )));
            }
        }
        Ok(config)
    }
}

/// Features of diffusers' class that no SD 1.x or 2.x checkpoint uses: refused by name rather than ignored.
fn refuse(json: &Value) -> Result<()> {
    let off = |v: &Value| v.is_null() || *v == Value::Bool(false);
    for key in [
        "addition_embed_type",
        "class_embed_type",
        "num_class_embeds",
        "dual_cross_attention",
        "encoder_hid_dim",
        "time_cond_proj_dim",
        "only_cross_attention",
        "center_input_sample",
        "cross_attention_norm",
        "reverse_transformer_layers_per_block",
        "timestep_post_act",
        "time_embedding_act_fn",
        "resnet_skip_time_act",
        "class_embeddings_concat",
        "mid_block_only_cross_attention",
    ] {
        if let Some(value) = json.get(key).filter(|v| !off(v)) {
            return Err(bad(format!("\"{key}\": {value} is not supported"))
                .hint("UNets of Stable Diffusion 1.x and 2.x load; SDXL and others do not"));
        }
    }
    for (key, only) in [
        ("act_fn", "silu"),
        ("resnet_time_scale_shift", "default"),
        ("mid_block_type", "UNetMidBlock2DCrossAttn"),
        ("time_embedding_type", "positional"),
        ("attention_type", "default"),
    ] {
        let value = json.get(key).and_then(Value::as_str).unwrap_or(only);
        if value != only && !(key == "act_fn" && value == "swish") {
            return Err(bad(format!("\"{key}\": \"{value}\" is not supported")).expected(only));
        }
    }
    for (key, only) in [
        ("conv_in_kernel", 3.0),
        ("conv_out_kernel", 3.0),
        ("downsample_padding", 1.0),
        ("resnet_out_scale_factor", 1.0),
    ] {
        let value = json.get(key).and_then(Value::as_f64).unwrap_or(only);
        if value != only {
            return Err(bad(format!("\"{key}\": {value} is not supported")).expected(only.to_string()));
        }
    }
    Ok(())
}

fn list(json: &Value, key: &str) -> Result<Vec<usize>> {
    let numbers: Option<Vec<usize>> = json.get(key).and_then(Value::as_array).map(|l| {
        l.iter().filter_map(|v| v.as_u64().filter(|&v| v > 0 && v < 1 << 16).map(|v| v as usize)).collect()
    });
    match numbers {
        Some(numbers) if !numbers.is_empty() && numbers.len() <= 16 => Ok(numbers),
        _ => Err(bad(format!("\"{key}\" must be a list of positive numbers"))),
    }
}

/// One number for all levels, or one per level.
fn per_level(json: &Value, key: &str, default: usize, levels: usize) -> Result<Vec<usize>> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(vec![default; levels]),
        Some(Value::Array(_)) => {
            let numbers = list(json, key)?;
            if numbers.len() == levels {
                Ok(numbers)
            } else {
                Err(bad(format!("\"{key}\" must have {levels} entries")))
            }
        }
        Some(_) => Ok(vec![size(json, key)?; levels]),
    }
}
