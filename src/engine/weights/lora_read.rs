//! Files of changes: adapters in the names of peft, diffusers and kohya, whole weights, vectors of tokens.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Tensor};
use serde_json::Value;

use super::changed::{Changes, TEXT, UNET};
use super::lora::Adapter;
use super::model::Model;
use super::read::TensorFile;
use crate::engine::error::{Error, Result};

/// What a tensor is to its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// The first matrix.
    Down,
    /// The second.
    Up,
    /// A kernel between two matrices.
    Mid,
    /// What the product is multiplied with, times the rank.
    Alpha,
}

/// The ends of names. Before the end comes the layer.
const ENDS: [(&str, Piece); 12] = [
    (".lora_A.weight", Piece::Down),
    (".lora_B.weight", Piece::Up),
    (".lora.down.weight", Piece::Down),
    (".lora.up.weight", Piece::Up),
    ("_lora.down.weight", Piece::Down),
    ("_lora.up.weight", Piece::Up),
    (".lora_linear_layer.down.weight", Piece::Down),
    (".lora_linear_layer.up.weight", Piece::Up),
    (".lora_down.weight", Piece::Down),
    (".lora_up.weight", Piece::Up),
    (".lora_mid.weight", Piece::Mid),
    (".alpha", Piece::Alpha),
];

/// Parts of names of adapters that are no product of two matrices.
const OTHERS: [(&str, &str); 5] = [
    (".hada_", "LoHa"),
    (".lokr_", "LoKr"),
    (".dora_scale", "DoRA"),
    (".lora_magnitude_vector", "DoRA"),
    (".oft_", "OFT"),
];

/// Most names that a message lists.
const LISTED: usize = 4;

/// The pieces of one layer.
#[derive(Default)]
struct Pieces {
    down: Option<Tensor>,
    up: Option<Tensor>,
    mid: Option<Tensor>,
    alpha: Option<f64>,
}

fn piece(name: &str) -> Option<(&str, Piece)> {
    if let Some(found) = ENDS.iter().find_map(|(end, piece)| Some((name.strip_suffix(end)?, *piece))) {
        return Some(found);
    }
    // peft's adapters may have a name: `X.lora_A.default.weight`.
    let named = |mark: &str| name.split_once(mark).filter(|(_, rest)| rest.ends_with(".weight"));
    let down = named(".lora_A.").map(|(layer, _)| (layer, Piece::Down));
    down.or_else(|| named(".lora_B.").map(|(layer, _)| (layer, Piece::Up)))
}

/// The weights of a model under the names that layers have in files.
struct Layers {
    known: Vec<String>,
    /// kohya's names have underscores in the place of dots.
    flat: HashMap<String, usize>,
}

impl Layers {
    fn new(model: &Model) -> Self {
        let known = model.weight_names();
        let flat = known.iter().enumerate().map(|(i, n)| {
            let short = n.strip_suffix(".weight").unwrap_or(n);
            let short = short.replacen(UNET, "lora_unet.", 1).replacen(TEXT, "lora_te.", 1);
            (short.replace('.', "_"), i)
        });
        Layers { flat: flat.collect(), known }
    }

    /// The full name of a layer's weight.
    fn weight(&self, layer: &str) -> Option<String> {
        if let Some(i) = self.flat.get(layer) {
            return self.known.get(*i).cloned();
        }
        let layer = layer.strip_prefix("base_model.model.").unwrap_or(layer);
        // The names of diffusers before 0.22.
        let mut layer = layer.replace(".processor.", ".");
        if layer.contains(".self_attn.to_") {
            layer = layer.replace(".to_out", ".out_proj");
            for which in ["q", "k", "v"] {
                layer = layer.replace(&format!(".to_{which}"), &format!(".{which}_proj"));
            }
        }
        if layer.ends_with(".to_out") {
            layer.push_str(".0");
        }
        let full = format!("{layer}.weight");
        let known = |n: &String| self.known.binary_search(n).is_ok();
        // peft saves each network by itself, without its name.
        [full.clone(), format!("{UNET}{full}"), format!("{TEXT}{full}")].into_iter().find(known)
    }
}

/// Some names, and how many more there are.
fn listed(names: &[String]) -> String {
    let first = names.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// What diffusers' own metadata (`lora_adapter_metadata`) says of the network that a layer belongs to.
fn said<'a>(metadata: &'a Value, layer: &str, key: &str) -> Option<&'a Value> {
    let (part, _) = layer.split_once('.')?;
    metadata.get(format!("{part}.{key}")).or_else(|| metadata.get(part)?.get(key))
}

/// What a layer's product is multiplied with by that metadata (lora_alpha and its patterns), as alpha: to be divided by the rank.
fn alpha_in(metadata: &Value, layer: &str) -> Option<f64> {
    let (_, path) = layer.split_once('.')?;
    let get = |key: &str| said(metadata, layer, key);
    let pattern = get("alpha_pattern").and_then(Value::as_object);
    let own = pattern.into_iter().flatten().find(|(k, _)| {
        path == k.as_str() || path.strip_suffix(k.as_str()).is_some_and(|rest| rest.ends_with('.'))
    });
    own.map_or_else(|| get("lora_alpha"), |(_, v)| Some(v)).and_then(Value::as_f64)
}

/// What the product of a layer is multiplied with, by its alpha: alpha / rank, and alpha / sqrt(rank) where the adapter was trained
/// so (Kalajdzievski 2023, arXiv 2312.03732).
fn strength(metadata: &Value, layer: &str, alpha: Option<f64>, rank: f64) -> f64 {
    let stable = said(metadata, layer, "use_rslora").and_then(Value::as_bool) == Some(true);
    let by = if stable { rank.sqrt() } else { rank };
    alpha.or_else(|| alpha_in(metadata, layer)).map_or(1.0, |alpha| alpha / by)
}

/// The changes that a file holds. Errors: half an adapter, layers or weights that the model lacks (named), adapters of another kind,
/// numbers of a type that is not read.
pub(super) fn read(model: &Model, file: &TensorFile, scale: f64) -> Result<Changes> {
    let layers = Layers::new(model);
    let mut changes = Changes::default();
    let mut found: BTreeMap<&str, Pieces> = BTreeMap::new();
    let bad = |what: String| {
        Error::file("load", Path::new(file.origin()), what).hint("is this file for another model?")
    };
    for name in file.names() {
        let whole = [".diff", ".diff_b"].iter().any(|end| name.ends_with(end));
        let other = OTHERS.iter().find(|(part, _)| name.contains(part)).map(|(_, kind)| *kind);
        if let Some(kind) = other.or(whole.then_some("whole differences")) {
            return Err(bad(format!("{name} belongs to {kind}, which is not read"))
                .expected("adapters of two matrices: lora_down and lora_up, lora_A and lora_B")
                .hint("merge it into a model with the program that made it"));
        }
        let piece = piece(name);
        if let Some((layer, Piece::Alpha)) = piece {
            // Some programs write it as an integer.
            let alpha = file.number(name)?.filter(|a| a.is_finite());
            let alpha = alpha.ok_or_else(|| bad(format!("{name} is no number")))?;
            found.entry(layer).or_default().alpha = Some(alpha);
            continue;
        }
        let own = name.starts_with(UNET) || name.starts_with(TEXT);
        let Some(tensor) = file.read(name, DType::F32, model.device())? else {
            // Positions are a buffer that old exports carry along; what belongs to nothing is not missed.
            if piece.is_none() && (!own || name.ends_with("position_ids")) {
                continue;
            }
            return Err(bad(format!("{name} is stored as {}, which is not read", file.stored(name)))
                .expected("F32, F16, BF16 or F64")
                .hint("save it in one of these with the program that made it"));
        };
        match piece {
            Some((layer, Piece::Down)) => found.entry(layer).or_default().down = Some(tensor),
            Some((layer, Piece::Up)) => found.entry(layer).or_default().up = Some(tensor),
            Some((layer, Piece::Mid)) => found.entry(layer).or_default().mid = Some(tensor),
            Some((_, Piece::Alpha)) => {}
            None if own => {
                changes.weights.insert(name.to_string(), tensor);
            }
            None => {
                let rows = if tensor.rank() == 1 { tensor.unsqueeze(0)? } else { tensor };
                if rows.rank() != 2 || rows.dim(1)? != model.text_width() {
                    return Err(bad(format!(
                        "{name} is neither an adapter, nor a weight, nor the vectors of a token"
                    )));
                }
                changes.tokens.push((name.to_string(), rows));
            }
        }
    }
    let unknown: Vec<String> =
        found.keys().filter(|layer| layers.weight(layer).is_none()).map(ToString::to_string).collect();
    if !unknown.is_empty() {
        let all = if unknown.len() == found.len() { "none of its layers is" } else { "some layers are not" };
        return Err(bad(format!("{all} in this model: {}", listed(&unknown))));
    }
    let metadata = file.metadata().get("lora_adapter_metadata");
    let metadata = metadata.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    for (layer, pieces) in found {
        let (Some(down), Some(up)) = (pieces.down, pieces.up) else {
            return Err(bad(format!("half of the adapter of {layer} is missing")));
        };
        let Some(weight) = layers.weight(layer) else { continue };
        let rank = down.dims().first().copied().unwrap_or(1).max(1) as f64;
        let down = match pieces.mid {
            None => down,
            Some(mid) => through(&down, &mid, model.weight(&weight)?.dims())
                .map_err(|e| bad(format!("{layer}: {}", e.message())))?,
        };
        let scale = scale * strength(&metadata, layer, pieces.alpha, rank);
        changes.adapters.insert(weight, Adapter { down, up, scale });
    }
    if changes.is_empty() {
        return Err(bad("the file holds nothing that could change a model".into()));
    }
    Ok(changes)
}

/// A first matrix `[r, in, 1, 1]` and a kernel `[r, r, k, k]` after it as one `[r, in, k, k]`, for a weight `[out, in, k, k]`.
fn through(down: &Tensor, mid: &Tensor, weight: &[usize]) -> Result<Tensor> {
    let (&[r, i, 1, 1], &[s, inner, h, w]) = (down.dims(), mid.dims()) else {
        return Err(Error::shape("load", "a kernel between two matrices has another shape"));
    };
    if inner != r || s != r {
        return Err(Error::shape("load", "a kernel between two matrices has another rank"));
    }
    // Before they are multiplied: the product may be as large as the two are small.
    if weight.get(1..) != Some(&[i, h, w][..]) {
        return Err(Error::shape("load", "a kernel between two matrices does not fit the layer"));
    }
    // [s h w, r] x [r, in]
    let kernel = mid.permute((0, 2, 3, 1))?.contiguous()?.reshape((s * h * w, r))?;
    let all = kernel.matmul(&down.reshape((r, i))?)?.reshape((s, h, w, i))?;
    Ok(all.permute((0, 3, 1, 2))?.contiguous()?)
}
