//! [`Kept`]: the deep features of a pass, on their way to the next steps.

use std::sync::Arc;

use candle_core::{Tensor, TensorId};

/// Deep features of one pass. They travel with values: from a prediction, over the step, to the next latent. So two runs
/// cannot mix, a fork has its own, and a latent that was computed in another way has none.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// Whose features: compared by place, and held so that the place is not given to another model.
    model: Arc<()>,
    /// The prompt of every batch row.
    prompts: Vec<TensorId>,
    /// `[rows, c, h, w]`.
    features: Tensor,
    /// Steps since they were made.
    age: usize,
}

impl Kept {
    /// Just made.
    pub(crate) fn new(model: &Arc<()>, prompts: &[TensorId], features: Tensor) -> Self {
        Kept { model: Arc::clone(model), prompts: prompts.to_vec(), features, age: 0 }
    }

    /// Whether they may serve one more step of `reuse`: made by this model for these rows and this size.
    pub(crate) fn serves(
        &self,
        model: &Arc<()>,
        prompts: &[TensorId],
        (h, w): (usize, usize),
        reuse: usize,
    ) -> bool {
        Arc::ptr_eq(&self.model, model)
            && self.prompts == prompts
            && self.features.dims().get(2..) == Some(&[h, w][..])
            && self.age + 1 < reuse
    }

    /// `[rows, c, h, w]`.
    pub(crate) fn features(&self) -> &Tensor {
        &self.features
    }

    /// Steps since they were made.
    pub(crate) fn age(&self) -> usize {
        self.age
    }

    /// The same, `age` steps old.
    pub(crate) fn aged(&self, age: usize) -> Self {
        Kept { age, ..self.clone() }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.features.elem_count() * self.features.dtype().size_in_bytes()
    }
}
