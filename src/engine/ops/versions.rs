//! Which weights were changed in place, so that nothing derived from them is served stale.
//!
//! Only a variable can be changed in place, and [`assign`] is the one place where that is done. Layers on the variable
//! itself keep nothing; but a layer may hold a detached view of it, which shares its memory and does not look like a
//! variable. Whatever keeps something derived from weights keeps their [`version`] beside it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use candle_core::{Tensor, Var};

use crate::engine::error::Result;

/// Changes so far.
static CLOCK: AtomicU64 = AtomicU64::new(0);

/// When a piece of memory was changed last. An address that is used again has at worst the date of an older change.
static CHANGED: Mutex<Option<HashMap<usize, u64>>> = Mutex::new(None);

fn address(x: &Tensor) -> usize {
    let (storage, _) = x.storage_and_layout();
    std::ptr::from_ref(&*storage).addr()
}

/// Gives a variable other values, in place. Errors: another shape, values that share the variable's memory.
pub fn assign(var: &Var, values: &Tensor) -> Result<()> {
    let done = var.set(values);
    let mut changed = CHANGED.lock().unwrap_or_else(PoisonError::into_inner);
    let now = CLOCK.fetch_add(1, Ordering::AcqRel) + 1;
    changed.get_or_insert_default().insert(address(var), now);
    Ok(done?)
}

/// A number that is another one after the memory of `x` was changed.
pub fn version(x: &Tensor) -> u64 {
    if CLOCK.load(Ordering::Acquire) == 0 {
        return 0;
    }
    let address = address(x);
    let changed = CHANGED.lock().unwrap_or_else(PoisonError::into_inner);
    changed.as_ref().and_then(|c| c.get(&address).copied()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_change_shows_in_all_views() {
        let var = Var::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let other = Var::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let views = [var.as_detached_tensor(), var.t().unwrap(), var.narrow(0, 1, 1).unwrap().detach()];
        let before: Vec<u64> = views.iter().map(version).collect();
        let kept = version(&other);
        assign(&var, &other.affine(2.0, 0.0).unwrap()).unwrap();
        assert!(views.iter().zip(before).all(|(v, b)| version(v) != b));
        assert_eq!(version(&other), kept);
        assert!(assign(&var, &var.as_detached_tensor()).is_err());
    }
}
