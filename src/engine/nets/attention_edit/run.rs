//! Attention edits at work inside one network call.

use candle_core::{DType, Tensor};

use super::{Edit, Inject, Recorder, Reweight, among};
use crate::engine::error::{Error, Result};
use crate::engine::nets::hooks::{AttentionHook, Row, Site, SiteKind};

/// The edits and the recorder of an [`super::Attention`].
#[derive(Debug)]
pub(crate) struct AttentionRun {
    edits: Vec<Edit>,
    recorder: Option<Recorder>,
    keys: usize,
}

impl AttentionRun {
    pub(super) fn new(edits: Vec<Edit>, recorder: Option<Recorder>, keys: usize) -> Self {
        AttentionRun { edits, recorder, keys }
    }
}

impl Edit {
    fn works_at(&self, site: &Site, queries: usize) -> bool {
        match self {
            Edit::Reweight(r) => {
                site.kind == SiteKind::CrossAttention && r.scale != 1.0 && among(&r.sites, site)
            }
            Edit::Inject(i) => site.kind == i.kind && queries <= i.side * i.side && among(&i.sites, site),
        }
    }

    /// New probabilities for rows `[n, heads, queries, keys]` with the prompt.
    fn apply(&self, site: &Site, probs: &Tensor) -> Result<Tensor> {
        match self {
            Edit::Reweight(r) => r.apply(probs),
            Edit::Inject(i) => i.apply(site, probs),
        }
    }
}

impl Reweight {
    fn apply(&self, probs: &Tensor) -> Result<Tensor> {
        let keys = probs.dim(3)?;
        let mut factors = vec![1f64; keys];
        for &column in self.columns.iter().filter(|&&c| c < keys) {
            factors[column] = self.scale;
        }
        let factors = Tensor::from_vec(factors, (1, 1, 1, keys), probs.device())?.to_dtype(probs.dtype())?;
        Ok(probs.broadcast_mul(&factors)?)
    }
}

impl Inject {
    fn apply(&self, site: &Site, probs: &Tensor) -> Result<Tensor> {
        let Some(theirs) = self.from.last(&site.path) else {
            return Err(Error::missing("attention", format!("nothing was recorded at {}", site.path))
                .expected("a record of the same kind of attention, at the same places")
                .hint("attention().record(#{ self: true, side: 32 }) records more than cross-attention"));
        };
        let mut theirs = theirs.to_dtype(probs.dtype())?;
        let (n, ..) = probs.dims4()?;
        if theirs.dim(0)? == 1 && n > 1 {
            theirs = Tensor::cat(&vec![&theirs; n], 0)?;
        }
        if theirs.dims() != probs.dims() {
            return Err(Error::shape(
                "attention",
                format!("what was recorded at {} has another shape", site.path),
            )
            .expected(format!("{:?}", probs.dims()))
            .got(format!("{:?}", theirs.dims()))
            .hint("record and put in with latents of one size and number"));
        }
        match &self.words {
            None => Ok(theirs),
            Some(words) => words.apply(&theirs, probs),
        }
    }
}

impl AttentionHook for AttentionRun {
    fn wants_probs(&self, site: &Site, queries: usize, _keys: usize) -> bool {
        self.edits.iter().any(|e| e.works_at(site, queries))
            || self.recorder.as_ref().is_some_and(|r| r.wants(site, queries))
    }

    fn on_probs(&mut self, site: &Site, rows: &[Row], probs: &Tensor) -> Result<Option<Tensor>> {
        let (n, _, queries, keys) = probs.dims4()?;
        if site.kind == SiteKind::CrossAttention && keys != self.keys {
            return Err(Error::shape(&site.path, "the edit and the keys differ in length")
                .expected(self.keys.to_string())
                .got(keys.to_string()));
        }
        // The rows with the prompt stand together, after those without.
        let conditional = |i: &usize| rows.get(*i).is_none_or(|r| *r != Row::Unconditional);
        let Some(first) = (0..n).find(conditional) else { return Ok(None) };
        let count = n - first;
        let mut mine = probs.narrow(0, first, count)?;
        let mut changed = false;
        for edit in self.edits.iter().filter(|e| e.works_at(site, queries)) {
            mine = edit.apply(site, &mine)?;
            changed = true;
        }
        if let Some(recorder) = self.recorder.as_ref().filter(|r| r.wants(site, queries)) {
            recorder.add(site, &mine.to_dtype(DType::F32)?.detach())?;
        }
        Ok(match (changed, first) {
            (false, _) => None,
            (true, 0) => Some(mine),
            (true, _) => Some(Tensor::cat(&[&probs.narrow(0, 0, first)?, &mine], 0)?),
        })
    }
}
