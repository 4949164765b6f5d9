//! Transformed weights of convolutions, kept beside layers whose weights do not change.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{Device, Result, Tensor};

use super::host;
use super::kernels::conv::Sizes;
use super::kernels::winograd;
use super::math::Element;
use super::versions;

/// Bytes that all kept weights together may take. Layers that come later transform theirs at every call, or do
/// without.
const BUDGET: usize = 1 << 30;

/// Bytes up to which weights that cannot be kept are transformed at every call.
const PER_CALL: usize = 64 << 20;

/// Bytes that are kept now.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// A part of the budget, given back when dropped.
#[derive(Debug)]
struct Share(usize);

impl Share {
    /// Takes `bytes` of the budget, if they are left.
    fn take(bytes: usize) -> Option<Self> {
        let grow = |kept: usize| kept.checked_add(bytes).filter(|sum| *sum <= BUDGET);
        KEPT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow).ok().map(|_| Share(bytes))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Transformed weights and the memory that they account for.
#[derive(Debug)]
struct Kept {
    weights: Tensor,
    _share: Share,
}

/// What a layer keeps: its weights for the way forward and for the way back, each made at first use.
///
/// Nothing is kept for weights that are tracked: an optimizer changes a variable in place, under the same tensor.
#[derive(Debug)]
pub(super) struct Prepared {
    constant: bool,
    /// What was kept is not used for weights that were changed in place after this.
    since: u64,
    forward: OnceLock<Option<Kept>>,
    back: OnceLock<Option<Kept>>,
}

impl Prepared {
    pub(super) fn new(weight: &Tensor) -> Self {
        // A view in another order is copied at each call, and the copy does not tell what it was made from.
        let constant = !weight.track_op() && !weight.is_variable() && weight.is_contiguous();
        Prepared { constant, since: versions::now(), forward: OnceLock::new(), back: OnceLock::new() }
    }

    /// Calls `f` with weights transformed for `s`, if that pays; `None` if not.
    pub(super) fn forward<T: Element, R>(
        &self,
        s: &Sizes,
        weight: &[T],
        f: impl FnOnce(&[T]) -> Result<R>,
    ) -> Result<Option<R>> {
        self.with(&self.forward, s, weight, false, f)
    }

    /// The same for the way back; `s` is the reversed convolution.
    pub(super) fn back<T: Element, R>(
        &self,
        s: &Sizes,
        weight: &[T],
        f: impl FnOnce(&[T]) -> Result<R>,
    ) -> Result<Option<R>> {
        self.with(&self.back, s, weight, true, f)
    }

    fn with<T: Element, R>(
        &self,
        cell: &OnceLock<Option<Kept>>,
        s: &Sizes,
        weight: &[T],
        back: bool,
        f: impl FnOnce(&[T]) -> Result<R>,
    ) -> Result<Option<R>> {
        if !winograd::pays(s) {
            return Ok(None);
        }
        let (i, o) = (s.input[0], s.output[0]);
        let len = winograd::weights_len(i, o);
        let bytes = len * size_of::<T>();
        if self.constant && !versions::has_changed(weight, self.since) {
            if cell.get().is_none() {
                let made = match Share::take(bytes) {
                    Some(_share) => {
                        let weights = winograd::weights(weight, i, o, back)?;
                        Some(Kept { weights: Tensor::from_vec(weights, len, &Device::Cpu)?, _share })
                    }
                    None => None,
                };
                // Another thread may have been faster: then this copy goes, and gives its share back.
                let _ = cell.set(made);
            }
            if let Some(Some(kept)) = cell.get() {
                return host::with(&kept.weights, f).map(Some);
            }
        }
        // Transforming takes about as long as eight tiles.
        let tiles = s.n * s.output[1].div_ceil(4) * s.output[2].div_ceil(4);
        if bytes > PER_CALL || tiles < 16 {
            return Ok(None);
        }
        f(&winograd::weights(weight, i, o, back)?).map(Some)
    }
}
