//! Transformed weights of convolutions and linear layers, kept beside layers whose weights do not change.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use candle_core::{Device, Result, Tensor, WithDType};

use super::host;
use super::kernels::conv::Sizes;
use super::kernels::winograd::Source;
use super::kernels::{bf16, linear, winograd};
use super::math::Element;
use super::versions;

/// Bytes that all kept weights together may take. Layers that come later transform theirs at every call, or do
/// without.
static BUDGET: AtomicUsize = AtomicUsize::new(1 << 30);

/// Tiles from which it pays to transform weights for one call.
const LEAST: usize = 12;

/// Bytes of transformed weights that no cache holds.
const MUCH: usize = 32 << 20;

/// Bytes that are kept now.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// Sets how many bytes the transformed copies of weights may take together, in all models (1 GiB unless told
/// otherwise; the program takes a sixth of the memory, at most 6 GiB). 0 is the lean mode: nothing is kept, and layers transform their weights at every call where that
/// still pays. Copies that exist stay until their model goes.
pub fn keep_transformed(bytes: usize) {
    BUDGET.store(bytes, Ordering::Relaxed);
}

/// Whether linear layers may round.
static ROUNDED: AtomicBool = AtomicBool::new(false);

/// Lets linear layers with constant f32 weights multiply in bfloat16 with f32 sums, in all models, where no gradient is
/// asked for; `false` if this processor cannot (it needs AVX-512 BF16). Each product is off by about 2e-3 of its size. The
/// rounded weights count as copies: in lean mode there are none, and everything stays exact.
pub fn round_products(on: bool) -> bool {
    ROUNDED.store(on && bf16::available(), Ordering::Relaxed);
    !on || bf16::available()
}

pub(super) fn rounds_products() -> bool {
    ROUNDED.load(Ordering::Relaxed)
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
struct Share(usize);

impl Share {
    /// Takes `bytes` of the budget, if they are left; for something that gains little, if three quarters are.
    fn take(bytes: usize, gains_little: bool) -> Option<Self> {
        let budget = BUDGET.load(Ordering::Relaxed);
        let budget = if gains_little { budget / 4 } else { budget };
        let grow = |kept: usize| kept.checked_add(bytes).filter(|sum| *sum <= budget);
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

/// The copy in `cell`, of `len` numbers, made at first use; `None` where the budget had no room for it.
fn kept<T: WithDType>(
    cell: &OnceLock<Option<Kept>>,
    len: usize,
    gains_little: bool,
    make: impl FnOnce() -> Result<Vec<T>>,
) -> Result<Option<&Tensor>> {
    if cell.get().is_none() {
        let made = match Share::take(len * size_of::<T>(), gains_little) {
            Some(_share) => Some(Kept { weights: Tensor::from_vec(make()?, len, &Device::Cpu)?, _share }),
            None => None,
        };
        // Another thread may have been faster: then this copy goes, and gives its share back.
        let _ = cell.set(made);
    }
    Ok(cell.get().and_then(Option::as_ref).map(|kept| &kept.weights))
}

/// What a convolution keeps: its weights for the way forward and for the way back, each made at first use.
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
        f: impl FnOnce(Source<'_, T>) -> Result<R>,
    ) -> Result<Option<R>> {
        self.with(&self.forward, s, weight, false, f)
    }

    /// The same for the way back; `s` is the reversed convolution.
    pub(super) fn back<T: Element, R>(
        &self,
        s: &Sizes,
        weight: &[T],
        f: impl FnOnce(Source<'_, T>) -> Result<R>,
    ) -> Result<Option<R>> {
        self.with(&self.back, s, weight, true, f)
    }

    fn with<T: Element, R>(
        &self,
        cell: &OnceLock<Option<Kept>>,
        s: &Sizes,
        weight: &[T],
        back: bool,
        f: impl FnOnce(Source<'_, T>) -> Result<R>,
    ) -> Result<Option<R>> {
        if !winograd::pays(s) {
            return Ok(None);
        }
        let (i, o) = (s.input[0], s.output[0]);
        let len = winograd::weights_len(i, o);
        let bytes = len * size_of::<T>();
        let tiles = s.n * s.output[1].div_ceil(4) * s.output[2].div_ceil(4);
        // Large weights that serve few tiles: reading them takes as long as the multiplications that they save.
        let gains_little = tiles < 16 && bytes > MUCH;
        if self.constant
            && !versions::has_changed(weight, self.since)
            && let Some(kept) = kept(cell, len, gains_little, || winograd::weights(weight, i, o, back))?
        {
            return host::with(kept, |weights| f(Source::Kept(weights))).map(Some);
        }
        // Transforming takes about as long as ten tiles.
        if tiles < LEAST {
            return Ok(None);
        }
        f(Source::Plain { weight, back }).map(Some)
    }
}

/// The panels of a linear layer's weight, made at first use, for weights that are constant (see [`Prepared`]).
#[derive(Debug)]
pub(super) struct PreparedMatrix {
    constant: bool,
    since: u64,
    panels: OnceLock<Option<Kept>>,
    rounded: OnceLock<Option<Kept>>,
}

impl PreparedMatrix {
    pub(super) fn new(weight: &Tensor) -> Self {
        let constant = !weight.track_op() && !weight.is_variable();
        PreparedMatrix { constant, since: versions::now(), panels: OnceLock::new(), rounded: OnceLock::new() }
    }

    /// Calls `f` with the panels of `weight [o, i]`, if it may keep them and they serve a product with that many rows.
    pub(super) fn with<T: Element, R>(
        &self,
        weight: &[T],
        (rows, i, o): (usize, usize, usize),
        f: impl FnOnce(Option<&[T]>) -> Result<R>,
    ) -> Result<R> {
        if !self.constant || !linear::pays(rows) || versions::has_changed(weight, self.since) {
            return f(None);
        }
        match kept(&self.panels, linear::panels_len(i, o), false, || linear::panels(weight, i, o))? {
            Some(panels) => host::with(panels, |panels| f(Some(panels))),
            None => f(None),
        }
    }

    /// Calls `f` with the panels of `weight [o, i]` in bfloat16, if it may keep them and they serve; else `None`.
    pub(super) fn with_rounded<R>(
        &self,
        weight: &[f32],
        (rows, i, o): (usize, usize, usize),
        f: impl FnOnce(&[u32]) -> Result<R>,
    ) -> Result<Option<R>> {
        if !self.constant || !linear::pays(rows) || versions::has_changed(weight, self.since) {
            return Ok(None);
        }
        match kept(&self.rounded, bf16::panels_len(i, o), false, || bf16::panels(weight, i, o))? {
            Some(panels) => host::with(panels, f).map(Some),
            None => Ok(None),
        }
    }
}
