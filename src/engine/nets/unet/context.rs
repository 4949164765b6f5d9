//! The prompt side of the UNet: states for every batch row, with the keys and values that each cross-attention makes of
//! them. They do not depend on the latent or the timestep, so a sampling run computes them once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;

use crate::engine::error::Result;

/// Prompt states `[rows, tokens, width]` and what was derived from them.
#[derive(Debug)]
pub struct Context {
    states: Tensor,
    derived: Mutex<HashMap<String, (Tensor, Tensor)>>,
}

impl Context {
    /// Nothing derived yet.
    pub fn new(states: Tensor) -> Self {
        Context { states, derived: Mutex::default() }
    }

    /// The states, `[rows, tokens, width]`.
    pub fn states(&self) -> &Tensor {
        &self.states
    }

    /// Keys and values of the site at `path`: computed by `make` once, kept unless either has a graph (then a gradient
    /// is wanted, or the weights are being trained and will change).
    pub(super) fn keys_values(
        &self,
        path: &str,
        make: impl FnOnce(&Tensor) -> Result<(Tensor, Tensor)>,
    ) -> Result<(Tensor, Tensor)> {
        let kept = self.derived.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let (k, v) = make(&self.states)?;
        if !k.track_op() && !v.track_op() {
            let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
            derived.insert(path.to_string(), (k.clone(), v.clone()));
        }
        Ok((k, v))
    }
}
