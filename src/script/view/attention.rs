//! Where the words of a prompt were looked at, word by layer by step.

use std::collections::BTreeMap;

use super::{Map, Maps};
use crate::engine::error::{Error, Result};
use crate::engine::nets::attention_edit::{Attention, Seen};
use crate::report::plain;

/// Errors: it records nothing, or nothing was recorded yet.
pub(super) fn look(attention: &Attention) -> Result<Maps> {
    let history = attention.history()?;
    let Some(text) = attention.prompt()?.filter(|_| !history.is_empty()) else {
        return Err(Error::missing("view", "this Attention has recorded no map of a word yet")
            .hint("pass it to a prediction first: m.sample(\"a dog\", #{ attention: seen })"));
    };
    let words: Vec<String> = text.words().iter().map(|w| plain(w).into_owned()).collect();
    let mut layers: Vec<String> = Vec::new();
    let mut found: BTreeMap<(usize, usize), Map> = BTreeMap::new();
    for seen in &history {
        let known = layers.iter().position(|l| **l == *seen.path);
        let layer = known.unwrap_or_else(|| {
            layers.push(seen.path.to_string());
            layers.len() - 1
        });
        found.insert((layer, seen.call), map(seen)?);
    }
    let steps = history.iter().map(|s| s.call + 1).max().unwrap_or(0);
    let maps = (0..layers.len()).map(|l| (0..steps).map(|s| found.remove(&(l, s))).collect()).collect();
    Ok(Maps { prompt: plain(text.prompt()).replace('\n', " "), words, layers, steps, maps })
}

fn map(seen: &Seen) -> Result<Map> {
    let values = seen.map.to_vec2::<f32>()?;
    let words = seen.map.dim(1)?;
    let column = |w: usize| values.iter().map(|row| row.get(w).copied().unwrap_or(0.0)).collect();
    Ok(Map { side: seen.side, words: (0..words).map(column).collect() })
}
