//! Attention edits as values: scale the columns of a word (MagicMix §3.3.2, Prompt-to-Prompt's reweight) and record maps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Tensor};

use super::hooks::{AttentionHook, Row, Site, SiteKind};
use crate::engine::error::{Error, Result};
use crate::engine::image::Picture;
use crate::engine::weights::embedding::Embedding;

/// Largest map that is recorded, in pixels of the feature map (32²).
const MAX_RECORDED: usize = 32 * 32;

#[derive(Clone, Debug)]
struct Reweight {
    prompt: Arc<str>,
    columns: Vec<usize>,
    scale: f64,
    word: String,
}

/// A set of attention edits. Immutable: every verb gives a new value. Only the recorder inside is shared state.
#[derive(Clone, Debug, Default)]
pub struct Attention {
    edits: Vec<Reweight>,
    recorder: Option<Recorder>,
}

impl Attention {
    /// No edits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Multiplies the probabilities of every token of `word` by `scale` after the softmax, without renormalizing: in
    /// every cross-attention, conditional rows only. `scale` 1 changes nothing; negative values push the word away.
    /// Errors: the word is not in the prompt; the scale is not finite.
    pub fn reweight(&self, text: &Embedding, word: &str, scale: f64) -> Result<Self> {
        if !scale.is_finite() {
            return Err(Error::value("reweight", "the scale must be a finite number").got(scale.to_string()));
        }
        let columns = text.columns(word)?;
        let mut new = self.clone();
        new.edits.push(Reweight { prompt: text.prompt().into(), columns, scale, word: word.to_string() });
        Ok(new)
    }

    /// Records cross-attention (maps up to 32²) of the conditional rows wherever the value is used; see
    /// [`Attention::heat`].
    pub fn record(&self) -> Self {
        Attention { edits: self.edits.clone(), recorder: Some(Recorder::default()) }
    }

    /// Whether it does nothing at all: no recorder, and every scale is 1.
    pub fn is_idle(&self) -> bool {
        self.recorder.is_none() && self.edits.iter().all(|e| e.scale == 1.0)
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        let mut parts: Vec<String> =
            self.edits.iter().map(|e| format!("\"{}\" x {}", e.word, e.scale)).collect();
        if let Some(recorder) = &self.recorder {
            parts.push(format!("recorder with {} maps", recorder.maps()));
        }
        if parts.is_empty() {
            "Attention without edits".into()
        } else {
            format!("Attention {}", parts.join(", "))
        }
    }

    /// Where the prompt's `word` was looked at, as a gray picture of `w` × `h` pixels: mean over sites, heads and steps,
    /// divided by its maximum. Errors: nothing was recorded; the word is not in the prompt.
    pub fn heat(&self, word: &str, w: usize, h: usize) -> Result<Picture> {
        let recorder = self.recorder.as_ref().ok_or_else(|| {
            Error::missing("heat", "this Attention records nothing").hint("make it with attention().record()")
        })?;
        recorder.heat(word, w, h)
    }

    /// The hook of one network call with this prompt in the conditional rows, for latents of `h` × `w`.
    /// `None` when there is nothing to do, so that the fused path runs.
    /// Errors: an edit that was made for another prompt.
    pub(crate) fn hook(&self, text: &Embedding, h: usize, w: usize) -> Result<Option<AttentionRun>> {
        for edit in &self.edits {
            if *edit.prompt != *text.prompt() {
                return Err(Error::value(
                    "attention",
                    format!("\"{}\" was reweighted in another prompt", edit.word),
                )
                .expected(format!("an edit of \"{}\"", text.prompt()))
                .got(format!("an edit of \"{}\"", edit.prompt))
                .hint("call attention().reweight(text, word, s) with the text that predicts"));
            }
        }
        if self.is_idle() {
            return Ok(None);
        }
        let mut factors = vec![1f32; text.len()];
        for edit in &self.edits {
            edit.columns.iter().for_each(|&c| factors[c] *= edit.scale as f32);
        }
        if let Some(recorder) = &self.recorder {
            recorder.begin(text, h, w);
        }
        let edited = factors.iter().any(|&f| f != 1.0);
        Ok(Some(AttentionRun { factors: edited.then_some(factors), recorder: self.recorder.clone() }))
    }
}

/// [`Attention`] at work inside one network call.
#[derive(Debug)]
pub(crate) struct AttentionRun {
    factors: Option<Vec<f32>>,
    recorder: Option<Recorder>,
}

impl AttentionHook for AttentionRun {
    fn wants_probs(&self, site: &Site, queries: usize, _keys: usize) -> bool {
        site.kind == SiteKind::CrossAttention
            && (self.factors.is_some() || (self.recorder.is_some() && queries <= MAX_RECORDED))
    }

    fn on_probs(&mut self, site: &Site, rows: &[Row], probs: &Tensor) -> Result<Option<Tensor>> {
        let (n, _, queries, keys) = probs.dims4()?;
        let conditional = |i: usize| rows.get(i).is_none_or(|r| *r == Row::Conditional);
        let changed = match &self.factors {
            None => None,
            Some(factors) if factors.len() == keys => {
                let ones = vec![1f32; keys];
                let all: Vec<f32> =
                    (0..n).flat_map(|i| if conditional(i) { factors } else { &ones }).copied().collect();
                let all = Tensor::from_vec(all, (n, 1, 1, keys), probs.device())?.to_dtype(probs.dtype())?;
                Some(probs.broadcast_mul(&all)?)
            }
            Some(factors) => {
                return Err(Error::shape(&site.path, "the edit and the keys differ in length")
                    .expected(factors.len().to_string())
                    .got(keys.to_string()));
            }
        };
        if let Some(recorder) = self.recorder.as_ref().filter(|_| queries <= MAX_RECORDED) {
            let seen = changed.as_ref().unwrap_or(probs);
            for i in (0..n).filter(|&i| conditional(i)) {
                recorder.add(&site.path, &seen.get(i)?.mean(0)?.detach())?;
            }
        }
        Ok(changed)
    }
}

#[derive(Debug, Default)]
struct Recorded {
    text: Option<Embedding>,
    size: (usize, usize),
    sums: BTreeMap<String, (Tensor, usize)>,
}

/// Sums of attention maps by site: shared state behind an [`Attention`] that records.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Recorded>>);

impl Recorder {
    fn lock(&self) -> std::sync::MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another prompt or size starts anew.
    fn begin(&self, text: &Embedding, h: usize, w: usize) {
        let mut r = self.lock();
        if r.size != (h, w) || r.text.as_ref().is_none_or(|t| t.prompt() != text.prompt()) {
            *r = Recorded { text: Some(text.clone()), size: (h, w), sums: BTreeMap::new() };
        }
    }

    fn add(&self, path: &str, map: &Tensor) -> Result<()> {
        let mut r = self.lock();
        let new = match r.sums.get(path) {
            Some((sum, count)) if sum.dims() == map.dims() => ((sum + map)?, count + 1),
            _ => (map.clone(), 1),
        };
        r.sums.insert(path.to_string(), new);
        Ok(())
    }

    fn maps(&self) -> usize {
        self.lock().sums.len()
    }

    fn heat(&self, word: &str, w: usize, h: usize) -> Result<Picture> {
        let r = self.lock();
        let Some(text) = r.text.as_ref().filter(|_| !r.sums.is_empty()) else {
            return Err(Error::missing("heat", "nothing was recorded yet")
                .hint("pass it to a prediction: m.guided(z, t, text, none, cfg, #{ attention: a })"));
        };
        let columns = text.columns(word)?;
        let mut total = vec![0f32; w * h];
        for (sum, count) in r.sums.values() {
            let queries = sum.dim(0)?;
            let ratio = ((r.size.0 * r.size.1) as f64 / queries as f64).sqrt();
            let (mh, mw) =
                ((r.size.0 as f64 / ratio).round() as usize, (r.size.1 as f64 / ratio).round() as usize);
            if mh * mw != queries {
                continue;
            }
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
