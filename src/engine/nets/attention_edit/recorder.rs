//! Recorded attention: sums of maps by site, and the probabilities of the last call in full.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Tensor};

use super::among;
use crate::engine::error::{Error, Result};
use crate::engine::image::Picture;
use crate::engine::nets::hooks::{Site, SiteKind};
use crate::engine::weights::embedding::Embedding;

/// What a recorder keeps.
#[derive(Clone, Debug)]
pub struct RecordOptions {
    /// Self-attention beside cross-attention. One layer of 32 × 32 pixels and 8 heads holds 34 MB per picture, one of
    /// 64 × 64 holds 537 MB.
    pub self_attention: bool,
    /// Largest side of a feature map.
    pub side: usize,
    /// Site names, or the beginnings of their paths; empty: everywhere.
    pub sites: Vec<String>,
}

impl Default for RecordOptions {
    fn default() -> Self {
        RecordOptions { self_attention: false, side: 32, sites: Vec::new() }
    }
}

/// Bytes that the maps of single calls may hold: after that only sums and the last call are kept.
const HISTORY: usize = 32 << 20;

/// Where the words of the prompt were looked at, at one site in one call of the network.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The call, counted from 0: of a sampling run the step.
    pub call: usize,
    /// The site.
    pub path: Arc<str>,
    /// Height and width of the site's feature map.
    pub side: (usize, usize),
    /// `[queries, words]`: the mean over rows and heads.
    pub map: Tensor,
}

#[derive(Debug, Default)]
struct Recorded {
    text: Option<Embedding>,
    size: (usize, usize),
    /// Means over rows and heads, summed over calls, with their number; cross-attention only.
    sums: BTreeMap<String, (Tensor, usize)>,
    /// `[rows, heads, queries, keys]` of the last call.
    last: BTreeMap<String, Tensor>,
    /// Calls so far.
    calls: usize,
    /// Maps of single calls, as long as they fit.
    history: Vec<Seen>,
    /// Bytes of those.
    held: usize,
}

impl Recorded {
    /// Height and width of a feature map with so many positions. `None`: not a scaled latent.
    fn side(&self, queries: usize) -> Option<(usize, usize)> {
        let ratio = ((self.size.0 * self.size.1) as f64 / queries.max(1) as f64).sqrt();
        let scaled = |x: usize| (x as f64 / ratio).round() as usize;
        Some((scaled(self.size.0), scaled(self.size.1))).filter(|(h, w)| h * w == queries)
    }

    /// Keeps the map of this call, `[queries, keys]`: the columns of the prompt's words.
    fn remember(&mut self, path: &str, map: &Tensor) -> Result<()> {
        let words = self.text.as_ref().map_or(0, |t| t.words().len()).min(map.dim(1)?.saturating_sub(1));
        let Some(side) = self.side(map.dim(0)?) else { return Ok(()) };
        let bytes = side.0 * side.1 * words * size_of::<f32>();
        if words == 0 || self.held + bytes > HISTORY {
            return Ok(());
        }
        self.held += bytes;
        let map = map.narrow(1, 1, words)?.contiguous()?.to_dtype(DType::F32)?;
        let call = self.calls.saturating_sub(1);
        self.history.push(Seen { call, path: path.into(), side, map: map.detach() });
        Ok(())
    }
}

/// Shared state behind an [`super::Attention`] that records.
#[derive(Clone, Debug)]
pub struct Recorder {
    options: Arc<RecordOptions>,
    state: Arc<Mutex<Recorded>>,
}

impl Recorder {
    pub(super) fn new(options: RecordOptions) -> Self {
        Recorder { options: Arc::new(options), state: Arc::default() }
    }

    pub(super) fn options(&self) -> &RecordOptions {
        &self.options
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wants(&self, site: &Site, queries: usize) -> bool {
        let kind = match site.kind {
            SiteKind::CrossAttention => true,
            SiteKind::SelfAttention => self.options.self_attention,
            SiteKind::Activation => false,
        };
        kind && queries <= self.options.side * self.options.side && among(&self.options.sites, site)
    }

    /// Another prompt or size starts anew.
    pub(super) fn begin(&self, text: &Embedding, h: usize, w: usize) {
        let mut r = self.lock();
        if r.size != (h, w) || r.text.as_ref().is_none_or(|t| t.prompt() != text.prompt()) {
            *r = Recorded { text: Some(text.clone()), size: (h, w), ..Recorded::default() };
        }
        r.calls += 1;
    }

    pub(super) fn add(&self, site: &Site, probs: &Tensor) -> Result<()> {
        let mut r = self.lock();
        r.last.insert(site.path.clone(), probs.clone());
        if site.kind == SiteKind::CrossAttention {
            let map = probs.mean(1)?.mean(0)?;
            r.remember(&site.path, &map)?;
            let new = match r.sums.get(&site.path) {
                Some((sum, count)) if sum.dims() == map.dims() => ((sum + map)?, count + 1),
                _ => (map, 1),
            };
            r.sums.insert(site.path.clone(), new);
        }
        Ok(())
    }

    /// The maps of single calls, in the order in which they were made.
    pub(super) fn history(&self) -> Vec<Seen> {
        self.lock().history.clone()
    }

    pub(super) fn maps(&self) -> usize {
        self.lock().last.len()
    }

    pub(super) fn last(&self, path: &str) -> Option<Tensor> {
        self.lock().last.get(path).cloned()
    }

    pub(super) fn recorded(&self) -> Vec<(String, Tensor)> {
        self.lock().last.iter().map(|(path, probs)| (path.clone(), probs.clone())).collect()
    }

    /// Errors: nothing was recorded yet; the record is of another prompt than `source`.
    pub(super) fn ready(&self, source: Option<&str>) -> Result<()> {
        let r = self.lock();
        let Some(text) = r.text.as_ref().filter(|_| !r.last.is_empty()) else {
            return Err(nothing("attention"));
        };
        match source.filter(|s| *s != text.prompt()) {
            None => Ok(()),
            Some(source) => Err(Error::value("attention", "the record is of another prompt")
                .expected(format!("a record of \"{source}\""))
                .got(format!("a record of \"{}\"", text.prompt()))),
        }
    }

    /// The prompt that was recorded last.
    pub(super) fn text(&self) -> Option<Embedding> {
        self.lock().text.clone()
    }

    pub(super) fn heat(&self, word: &str, w: usize, h: usize) -> Result<Picture> {
        let r = self.lock();
        let Some(text) = r.text.as_ref().filter(|_| !r.sums.is_empty()) else {
            return Err(nothing("heat"));
        };
        let columns = text.columns(word)?;
        let mut total = vec![0f32; w * h];
        for (sum, count) in r.sums.values() {
            let Some((mh, mw)) = r.side(sum.dim(0)?) else { continue };
            let values = sum.to_dtype(DType::F32)?.to_vec2::<f32>()?;
            let map: Vec<f32> = values
                .iter()
                .map(|row| columns.iter().map(|&c| row[c]).sum::<f32>() / *count as f32)
                .collect();
            bilinear_add(&mut total, (w, h), &map, (mw, mh));
        }
        let most = total.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        total.iter_mut().for_each(|v| *v = (*v / most).max(0.0));
        let gray = Tensor::from_vec(total, (1, 1, h, w), &candle_core::Device::Cpu)?;
        Picture::from_tensor(gray.repeat((1, 3, 1, 1))?)
    }
}

fn nothing(op: &str) -> Error {
    Error::missing(op, "nothing was recorded yet").hint(
        "pass the recorder to a prediction first: m.guided(z, t, text, none, cfg, #{ attention: seen })",
    )
}

/// Adds `map`, scaled bilinearly (pixel centres aligned) to `size`, into `total`.
fn bilinear_add(total: &mut [f32], size: (usize, usize), map: &[f32], map_size: (usize, usize)) {
    let at = |i: usize, n: usize, m: usize| {
        let x = ((i as f32 + 0.5) * m as f32 / n as f32 - 0.5).clamp(0.0, (m - 1) as f32);
        let low = x as usize;
        (low, (low + 1).min(m - 1), x - low as f32)
    };
    for y in 0..size.1 {
        let (y0, y1, fy) = at(y, size.1, map_size.1);
        for x in 0..size.0 {
            let (x0, x1, fx) = at(x, size.0, map_size.0);
            let p = |x: usize, y: usize| map[y * map_size.0 + x];
            let top = p(x0, y0) * (1.0 - fx) + p(x1, y0) * fx;
            let bottom = p(x0, y1) * (1.0 - fx) + p(x1, y1) * fx;
            total[y * size.0 + x] += top * (1.0 - fy) + bottom * fy;
        }
    }
}
