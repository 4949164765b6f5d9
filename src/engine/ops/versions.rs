//! Which weights were changed in place, so that nothing derived from them is served stale.
//!
//! Only a variable can be changed in place, and [`assign`] is the one place where that is done. Layers on the variable
//! itself keep nothing; but a layer may hold a detached view of it, which shares its memory and does not look like a
//! variable. So whatever keeps something derived from weights asks here whether their memory was changed since.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use candle_core::{Tensor, Var};

use super::host::{self, by_dtype};
use crate::engine::error::Result;

/// Changes so far.
static CLOCK: AtomicU64 = AtomicU64::new(0);

/// When memory was changed last. Memory that is used again for something else has the date of an older change: whoever
/// compares dates is on the safe side.
static CHANGED: Mutex<Option<Changed>> = Mutex::new(None);

#[derive(Default)]
struct Changed {
    /// By the address of candle's storage.
    storages: HashMap<usize, u64>,
    /// By where the numbers begin in main memory; where they end.
    numbers: HashMap<usize, (usize, u64)>,
}

fn with<R>(f: impl FnOnce(&mut Changed) -> R) -> R {
    f(CHANGED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

fn storage(x: &Tensor) -> usize {
    let (storage, _) = x.storage_and_layout();
    std::ptr::from_ref(&*storage).addr()
}

fn place<T>(numbers: &[T]) -> Range<usize> {
    let range = numbers.as_ptr_range();
    range.start.addr()..range.end.addr()
}

/// Gives a variable other values, in place. Errors: another shape, values that share the variable's memory.
pub fn assign(var: &Var, values: &Tensor) -> Result<()> {
    let done = var.set(values);
    let numbers = match host::has_kernel(var) {
        true => Some(by_dtype!(var.dtype(), T => host::with::<T, _>(var, |x| Ok(place(x))))?),
        // Kernels, and what they keep, are for main memory.
        false => None,
    };
    with(|changed| {
        let now = CLOCK.fetch_add(1, Ordering::AcqRel) + 1;
        changed.storages.insert(storage(var), now);
        changed.numbers.extend(numbers.map(|n| (n.start, (n.end, now))));
    });
    Ok(done?)
}

/// The date of the last change.
pub(super) fn now() -> u64 {
    CLOCK.load(Ordering::Acquire)
}

/// Whether these numbers, or a part of them, were changed after `since`.
pub(super) fn has_changed<T>(numbers: &[T], since: u64) -> bool {
    if now() <= since {
        return false;
    }
    let place = place(numbers);
    let touched = |from: usize, end: usize| from < place.end && place.start < end;
    with(|changed| changed.numbers.iter().any(|(from, (end, date))| *date > since && touched(*from, *end)))
}

/// A number that is another one after the memory of `x` was changed.
pub fn version(x: &Tensor) -> u64 {
    if now() == 0 {
        return 0;
    }
    let storage = storage(x);
    with(|changed| changed.storages.get(&storage).copied().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::super::grad_check::{distance, random64};
    use super::super::{Conv2d, Linear, Padding};
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_change_shows_in_all_views() {
        let var = Var::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let other = Var::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let views = [var.as_detached_tensor(), var.t().unwrap(), var.narrow(0, 1, 1).unwrap().detach()];
        let before: Vec<u64> = views.iter().map(version).collect();
        let (kept, since) = (version(&other), now());
        assign(&var, &other.affine(2.0, 0.0).unwrap()).unwrap();
        assert!(views.iter().zip(before).all(|(v, b)| version(v) != b));
        assert_eq!(version(&other), kept);
        let is_old = |x: &Tensor, since| host::with::<f32, _>(x, |x| Ok(has_changed(x, since))).unwrap();
        assert!(is_old(&views[0], since) && is_old(&views[2], since) && !is_old(&views[2], now()));
        assert!(!is_old(&other, since));
        assert!(assign(&var, &var.as_detached_tensor()).is_err());
    }

    /// A layer on a detached view, large enough for the fast transform: forward and back, after each change.
    #[test]
    fn changed_views_are_not_served_stale() {
        let one = Padding::all(1);
        let x = Var::from_tensor(&random64(1, &[2, 9, 8, 12])).unwrap();
        let weight = random64(2, &[10, 9, 3, 3]);
        let both = |conv: &Conv2d| {
            let y = conv.forward(&x).unwrap();
            (y.clone(), y.sum_all().unwrap().backward().unwrap().get(&x).unwrap().clone())
        };
        let is_times = |times: f64, a: &(Tensor, Tensor), b: &(Tensor, Tensor)| {
            assert!(distance(&(&a.0 * times).unwrap(), &b.0) < 1e-12);
            assert!(distance(&(&a.1 * times).unwrap(), &b.1) < 1e-12);
        };
        let views: [fn(&Var) -> Tensor; 2] =
            [|v| v.as_detached_tensor(), |v| v.transpose(2, 3).unwrap().detach()];
        for view in views {
            let var = Var::from_tensor(&weight).unwrap();
            let conv = Conv2d::new(view(&var), None, 1, one).unwrap();
            let before = both(&conv);
            for times in [2.0, 3.0] {
                assign(&var, &(&weight * times).unwrap()).unwrap();
                is_times(times, &before, &both(&conv));
            }
            let adapted = conv.with_weights((view(&var) * 2.0).unwrap(), None).unwrap();
            is_times(6.0, &before, &both(&adapted));
            is_times(3.0, &before, &both(&conv));
        }
    }

    #[test]
    fn changed_views_of_a_matrix_are_not_served_stale() {
        let x = random64(1, &[20, 33]);
        let weight = random64(2, &[70, 33]);
        let var = Var::from_tensor(&weight).unwrap();
        let layer = Linear::new(var.as_detached_tensor(), None).unwrap();
        let before = layer.forward(&x).unwrap();
        assign(&var, &(&weight * 2.0).unwrap()).unwrap();
        assert!(distance(&(&before * 2.0).unwrap(), &layer.forward(&x).unwrap()) < 1e-12);
    }
}
