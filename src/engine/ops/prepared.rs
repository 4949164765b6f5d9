//! Transformed weights of convolutions, kept beside layers whose weights change seldom or never.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Result, Tensor};

use super::host;
use super::kernels::conv::Sizes;
use super::kernels::winograd;
use super::math::Element;

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

/// The version of the weights that it was made from, and what was made if the budget allowed it.
type Slot = Mutex<Option<(u64, Option<Arc<Kept>>)>>;

/// What a layer keeps: its weights for the way forward and for the way back, each made at first use and again after the
/// weights were changed in place ([`super::versions`]).
///
/// Nothing is kept for weights that are tracked: they change at every step of their training.
#[derive(Debug)]
pub(super) struct Prepared {
    constant: bool,
    forward: Slot,
    back: Slot,
}

impl Prepared {
    pub(super) fn new(weight: &Tensor) -> Self {
        // A view in another order is copied at each call, and the copy has no version.
        let constant = !weight.track_op() && !weight.is_variable() && weight.is_contiguous();
        Prepared { constant, forward: Slot::default(), back: Slot::default() }
    }

    /// Calls `f` with weights transformed for `s`, if that pays; `None` if not. `version` is that of the weights.
    pub(super) fn forward<T: Element, R>(
        &self,
        s: &Sizes,
        (weight, version): (&[T], u64),
        f: impl FnOnce(&[T]) -> Result<R>,
    ) -> Result<Option<R>> {
        self.with((&self.forward, version), s, weight, false, f)
    }

    /// The same for the way back; `s` is the reversed convolution.
    pub(super) fn back<T: Element, R>(
        &self,
        s: &Sizes,
        (weight, version): (&[T], u64),
        f: impl FnOnce(&[T]) -> Result<R>,
    ) -> Result<Option<R>> {
        self.with((&self.back, version), s, weight, true, f)
    }

    fn with<T: Element, R>(
        &self,
        (slot, version): (&Slot, u64),
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
        if self.constant {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = match slot.take() {
                Some((made_from, kept)) if made_from == version => kept,
                // The old copy has given its share back.
                _ => match Share::take(bytes) {
                    Some(_share) => {
                        let weights = winograd::weights(weight, i, o, back)?;
                        let weights = Tensor::from_vec(weights, len, &Device::Cpu)?;
                        Some(Arc::new(Kept { weights, _share }))
                    }
                    None => None,
                },
            };
            *slot = Some((version, kept.clone()));
            drop(slot);
            if let Some(kept) = kept {
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
