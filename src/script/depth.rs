//! How deeply values lie inside each other. Rhai copies and drops values by recursion, and its limits count a list's
//! members but not its levels: `loop { let g = f; f = || g.call(); }` makes a chain of closures whose end would overflow
//! the stack when it is dropped, which no handler can catch. So the variables in sight are walked now and then, and a
//! script whose values go too deep is ended while they can still be dropped.

use std::any::TypeId;

use rhai::{Array, Dynamic, FnPtr, Map};

/// Levels of values inside each other. Between two walks a chain can grow by [`INTERVAL`] more at most; a level costs a
/// few hundred bytes of the stack of [`super::thread::STACK`].
pub const MAX_DEPTH: usize = 2_000;

/// Accesses to variables between two walks: each level needs at least one.
pub const INTERVAL: u32 = 4_096;

/// Values looked at in one walk.
const MAX_VALUES: usize = 2_000_000;

/// What a walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing to object to.
    Fine,
    /// Values lie inside each other too deeply.
    TooDeep,
    /// There are too many values to look at.
    TooMany,
}

/// Walks values, captured variables and what closures hold included.
pub fn walk<'a>(values: impl IntoIterator<Item = &'a Dynamic>) -> Found {
    let mut left = MAX_VALUES;
    values.into_iter().map(|v| look(v, 0, &mut left)).find(|f| *f != Found::Fine).unwrap_or(Found::Fine)
}

fn look(value: &Dynamic, depth: usize, left: &mut usize) -> Found {
    if *left == 0 {
        return Found::TooMany;
    }
    *left -= 1;
    // The type of a shared value that a call has locked cannot be asked for; a lock can be tried.
    if !value.is_shared() {
        let id = value.type_id();
        if id != TypeId::of::<Array>() && id != TypeId::of::<Map>() && id != TypeId::of::<FnPtr>() {
            return Found::Fine;
        }
    }
    if depth >= MAX_DEPTH {
        return Found::TooDeep;
    }
    if let Some(list) = value.read_lock::<Array>() {
        return all(list.iter(), depth, left);
    }
    if let Some(map) = value.read_lock::<Map>() {
        return all(map.values(), depth, left);
    }
    match value.read_lock::<FnPtr>() {
        Some(function) => all(function.curry().iter(), depth, left),
        None => Found::Fine,
    }
}

fn all<'a>(values: impl Iterator<Item = &'a Dynamic>, depth: usize, left: &mut usize) -> Found {
    for value in values {
        match look(value, depth + 1, left) {
            Found::Fine => {}
            found => return found,
        }
    }
    Found::Fine
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> Dynamic {
        (0..depth).fold(Dynamic::from_array(Vec::new()), |inner, _| Dynamic::from_array(vec![inner]))
    }

    #[test]
    fn levels_are_counted_through_lists_and_captured_values() {
        crate::script::thread::run(|| {
            assert_eq!(walk([&nested(100), &Dynamic::from(1_i64)]), Found::Fine);
            assert_eq!(walk([&Dynamic::from(1_i64), &nested(MAX_DEPTH + 1)]), Found::TooDeep);
            assert_eq!(walk([&nested(MAX_DEPTH + 1).into_shared()]), Found::TooDeep);
            let wide = Dynamic::from_array(vec![Dynamic::from_array(vec![Dynamic::UNIT; 50_000]); 50]);
            assert_eq!(walk([&wide]), Found::TooMany);
        });
    }
}
