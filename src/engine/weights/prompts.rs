//! [`Prompts`]: the prompts of a batch with their keys and values, kept from call to call.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Tensor, TensorId};

use super::embedding::Embedding;
use crate::engine::error::Result;
use crate::engine::nets::unet::{Context, Work};

/// How many batches of prompts keep their keys and values. A recipe that predicts under several prompts in turn needs as
/// many; each costs about 17 MB for Stable Diffusion 1.5 with guidance.
const KEPT: usize = 8;

/// The prompts of a batch.
#[derive(Debug)]
pub(super) struct Prompts {
    /// One per row.
    pub ids: Vec<TensorId>,
    /// Their states, and what was derived from them.
    pub context: Context,
}

/// The batches that came last, newest first.
#[derive(Debug, Default)]
pub(super) struct PromptCache(Mutex<VecDeque<Arc<Prompts>>>);

impl PromptCache {
    /// The batch, with the keys and values that an earlier call with the same prompts has left. Prompts with a graph are
    /// never kept.
    pub(super) fn get(&self, prompts: &[&Embedding], work: &Arc<Work>) -> Result<Arc<Prompts>> {
        let states: Vec<&Tensor> = prompts.iter().map(|p| p.states()).collect();
        let ids: Vec<TensorId> = states.iter().map(|s| s.id()).collect();
        if states.iter().any(|s| s.track_op()) {
            return Ok(Arc::new(Prompts { ids, context: context(&states, work)? }));
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match kept.iter().position(|k| k.ids == ids).and_then(|i| kept.remove(i)) {
            Some(found) => found,
            None => Arc::new(Prompts { ids, context: context(&states, work)? }),
        };
        kept.push_front(Arc::clone(&found));
        kept.truncate(KEPT);
        Ok(found)
    }
}

fn context(states: &[&Tensor], work: &Arc<Work>) -> Result<Context> {
    Ok(Context::counted(Tensor::cat(states, 0)?, Arc::clone(work)))
}
