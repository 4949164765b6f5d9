//! The prompt side of the UNet: states for every batch row, with the keys and values that each cross-attention makes of
//! them. They do not depend on the latent or the timestep, so a sampling run computes them once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;

use crate::engine::error::Result;
use crate::engine::ops;

/// What a UNet has done since it was loaded: for tests, and for whoever wants to know what a setting saves.
#[derive(Debug, Default)]
pub struct Work {
    passes: AtomicU64,
    shallow: AtomicU64,
    rows: AtomicU64,
    keys: AtomicU64,
}

impl Work {
    /// Notes a pass over `rows` batch rows.
    pub(crate) fn pass(&self, rows: usize, shallow: bool) {
        self.passes.fetch_add(1, Ordering::Relaxed);
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.shallow.fetch_add(u64::from(shallow), Ordering::Relaxed);
    }

    /// Calls of the network.
    pub fn passes(&self) -> u64 {
        self.passes.load(Ordering::Relaxed)
    }

    /// Calls that ran the shallow branch alone.
    pub fn shallow(&self) -> u64 {
        self.shallow.load(Ordering::Relaxed)
    }

    /// Batch rows of all calls.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// How often the keys and values of a prompt were computed at one site.
    pub fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }
}

/// Keys and values, and the versions of the weights that made them.
type Derived = ([u64; 2], (Tensor, Tensor));

/// Prompt states `[rows, tokens, width]` and what was derived from them. Clones share both.
#[derive(Clone, Debug)]
pub struct Context {
    states: Tensor,
    derived: Arc<Mutex<HashMap<String, Derived>>>,
    work: Arc<Work>,
}

impl Context {
    /// Nothing derived yet.
    pub fn new(states: Tensor) -> Self {
        Self::counted(states, Arc::default())
    }

    /// The same, counting in `work`.
    pub(crate) fn counted(states: Tensor, work: Arc<Work>) -> Self {
        Context { states, derived: Arc::default(), work }
    }

    /// The states, `[rows, tokens, width]`.
    pub fn states(&self) -> &Tensor {
        &self.states
    }

    /// Keys and values of the site at `path`: computed by `make` once for each version of its two weights, kept unless
    /// either has a graph (then a gradient is wanted, or the weights are being trained and will change).
    pub(super) fn keys_values(
        &self,
        path: &str,
        weights: [&Tensor; 2],
        make: impl FnOnce(&Tensor) -> Result<(Tensor, Tensor)>,
    ) -> Result<(Tensor, Tensor)> {
        let versions = weights.map(ops::version);
        let kept = self.derived.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        if let Some((_, kept)) = kept.filter(|(made_from, _)| *made_from == versions) {
            return Ok(kept);
        }
        let (k, v) = make(&self.states)?;
        self.work.keys.fetch_add(1, Ordering::Relaxed);
        if !k.track_op() && !v.track_op() {
            let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
            derived.insert(path.to_string(), (versions, (k.clone(), v.clone())));
        }
        Ok((k, v))
    }
}
