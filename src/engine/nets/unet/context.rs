//! The prompt side of the UNet: states for every batch row, with the keys and values that each cross-attention makes of
//! them. They do not depend on the latent or the timestep, so a sampling run computes them once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;

use crate::engine::error::Result;
use crate::engine::ops;

/// Keys and values, and the versions of the weights that made them.
type Derived = ([u64; 2], (Tensor, Tensor));

/// Prompt states `[rows, tokens, width]` and what was derived from them. Clones share both.
#[derive(Clone, Debug)]
pub struct Context {
    states: Tensor,
    derived: Arc<Mutex<HashMap<String, Derived>>>,
}

impl Context {
    /// Nothing derived yet.
    pub fn new(states: Tensor) -> Self {
        Context { states, derived: Arc::default() }
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
        if !k.track_op() && !v.track_op() {
            let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
            derived.insert(path.to_string(), (versions, (k.clone(), v.clone())));
        }
        Ok((k, v))
    }
}
