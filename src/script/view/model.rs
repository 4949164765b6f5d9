//! A model from inside: sites, weights, what hooks can reach.

use super::{Inside, SiteRow, WeightRow};
use crate::engine::nets::hooks::SiteKind;
use crate::engine::weights::changed::UNET;
use crate::engine::weights::model::Model;
use crate::script::types;

pub(super) fn look(name: &str, m: &Model) -> Inside {
    let changes = m.changes();
    let weights: Vec<WeightRow> = m
        .weight_names()
        .into_iter()
        .filter_map(|name| {
            let tensor = m.weight(&name).ok()?;
            let note = match (changes.weights.contains_key(&name), changes.adapters.contains_key(&name)) {
                (true, _) => "tuned",
                (_, true) => "LoRA",
                _ => "",
            };
            Some(WeightRow { shape: format!("{:?}", tensor.dims()), count: tensor.elem_count(), note, name })
        })
        .collect();
    let side = m.size() / m.factor();
    let under = |path: &str| {
        let inside = |name: &str| {
            name.strip_prefix(UNET)
                .and_then(|n| n.strip_prefix(path))
                .is_some_and(|rest| rest.starts_with('.'))
        };
        weights.iter().filter(|w| inside(&w.name)).map(|w| w.count).sum()
    };
    let sites = m.sites().into_iter().map(|site| {
        let side = side.div_ceil(m.reduction(site));
        let (kind, shape, hooks) = match site.kind {
            SiteKind::CrossAttention => (
                "cross-attention",
                format!("{} heads, {} x {}", site.heads, side * side, m.positions()),
                "on_probs record inject reweight",
            ),
            SiteKind::SelfAttention => (
                "self-attention",
                format!("{} heads, {} x {}", site.heads, side * side, side * side),
                "on_probs record inject merge",
            ),
            SiteKind::Activation => {
                ("activation", format!("{} x {side} x {side}", site.channels), "on_activation features")
            }
        };
        let alias = site.alias.clone().unwrap_or_default();
        SiteRow { path: site.path.clone(), kind, alias, shape, weights: under(&site.path), hooks }
    });
    let sites = sites.collect();
    Inside { name: name.to_string(), facts: facts(m), sites, weights }
}

fn facts(m: &Model) -> Vec<(String, String)> {
    let changes = m.changes();
    let changed = match changes.is_empty() {
        true => "nothing".to_string(),
        false => format!(
            "{} weights, {} adapters, {} tokens",
            changes.weights.len(),
            changes.adapters.len(),
            changes.tokens.len()
        ),
    };
    let fact = |name: &str, value: String| (name.to_string(), value);
    vec![
        fact("model", m.name().to_string()),
        fact("weights", format!("{:.1} M, {}", m.parameters() as f64 / 1e6, types::size(m.bytes()))),
        fact("pictures", format!("{0}x{0}, latents {1}x{1}", m.size(), m.size() / m.factor())),
        fact("prompt", format!("{} positions, {} wide", m.positions(), m.text_width())),
        fact("schedule", format!("{} timesteps", m.train_schedule().len())),
        fact("changed", changed),
        fact("CLIP", if m.has_clip() { "beside it" } else { "none" }.to_string()),
        fact(
            "preview",
            if m.defaults().is_some_and(|d| d.preview.is_some()) { "yes" } else { "none" }.into(),
        ),
        fact("fingerprint", m.fingerprint().to_string()),
    ]
}
