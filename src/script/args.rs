//! Conversion between Rhai's values and Rust's, so that a binding is a plain closure.
//!
//! Rhai matches argument types exactly (`blend(a, b, 1)` would not fit an `f64`), so every binding is registered with
//! dynamic parameters and converts here: integers and floats are both accepted everywhere, and a value of the wrong
//! type gives an error with expected, got and the signature, instead of "function not found".

use std::any::TypeId;

use rhai::{Array, Dynamic, FnPtr, ImmutableString, Map};

use super::types::{self, Handle};
use crate::engine::error::{Error, Kind};

/// Why a value cannot be an argument.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// What the parameter takes ("number", "whole number, 0 or more").
    pub expected: String,
    /// What to do about it, if there is more to say.
    pub hint: Option<String>,
}

impl Mismatch {
    fn new(expected: impl Into<String>) -> Self {
        Mismatch { expected: expected.into(), hint: None }
    }
}

/// A Rust type that can be a parameter of a script function.
pub trait Arg: Sized + 'static {
    /// A trailing parameter that may be left out.
    const OPTIONAL: bool = false;

    /// The type as signatures show it.
    fn type_name() -> String;

    /// Whether a value has the right type (its value may still be refused): decides between overloads.
    fn accepts(value: &Dynamic) -> bool;

    /// Converts. Captured variables (shared values) are read, never locked beyond the call.
    fn read(value: &Dynamic) -> Result<Self, Mismatch>;

    /// Rhai's exact types that this parameter stands for (used for operators, which are matched exactly).
    fn type_ids() -> Vec<TypeId> {
        vec![TypeId::of::<Self>()]
    }
}

impl Arg for Dynamic {
    fn type_name() -> String {
        "any".into()
    }
    fn accepts(_: &Dynamic) -> bool {
        true
    }
    fn read(value: &Dynamic) -> Result<Self, Mismatch> {
        Ok(value.flatten_clone())
    }
}

impl<T: Handle> Arg for T {
    fn type_name() -> String {
        T::NAME.into()
    }
    fn accepts(value: &Dynamic) -> bool {
        value.type_id() == TypeId::of::<T>()
    }
    fn read(value: &Dynamic) -> Result<Self, Mismatch> {
        value.read_lock::<T>().map(|v| v.clone()).ok_or_else(|| Mismatch::new(T::NAME))
    }
}

fn as_number(value: &Dynamic) -> Option<f64> {
    value.as_float().ok().or_else(|| value.as_int().ok().map(|i| i as f64))
}

impl Arg for f64 {
    fn type_name() -> String {
        "number".into()
    }
    fn accepts(value: &Dynamic) -> bool {
        as_number(value).is_some()
    }
    fn read(value: &Dynamic) -> Result<Self, Mismatch> {
        as_number(value).ok_or_else(|| Mismatch::new("number"))
    }
    fn type_ids() -> Vec<TypeId> {
        vec![TypeId::of::<f64>(), TypeId::of::<i64>()]
    }
}

fn as_whole(value: &Dynamic) -> Option<i64> {
    let x = as_number(value)?;
    value.as_int().ok().or_else(|| (x == x.trunc() && x.abs() < 9.0e15).then_some(x as i64))
}

impl Arg for i64 {
    fn type_name() -> String {
        "integer".into()
    }
    fn accepts(value: &Dynamic) -> bool {
        as_number(value).is_some()
    }
    fn read(value: &Dynamic) -> Result<Self, Mismatch> {
        as_whole(value).ok_or_else(|| Mismatch::new("whole number"))
    }
}

impl Arg for usize {
    fn type_name() -> String {
        "integer".into()
    }
    fn accepts(value: &Dynamic) -> bool {
        as_number(value).is_some()
    }
    fn read(value: &Dynamic) -> Result<Self, Mismatch> {
        as_whole(value)
            .and_then(|i| usize::try_from(i).ok())
            .ok_or_else(|| Mismatch::new("whole number, 0 or more"))
    }
}

impl Arg for u64 {
    fn type_name() -> String {
        "integer".into()
    }
    fn accepts(value: &Dynamic) -> bool {
        as_number(value).is_some()
    }
    fn read(value: &Dynamic) -> Result<Self, Mismatch> {
        as_whole(value)
            .and_then(|i| u64::try_from(i).ok())
            .ok_or_else(|| Mismatch::new("whole number, 0 or more"))
    }
}

impl Arg for bool {
    fn type_name() -> String {
        "true|false".into()
    }
    fn accepts(value: &Dynamic) -> bool {
        value.as_bool().is_ok()
    }
    fn read(value: &Dynamic) -> Result<Self, Mismatch> {
        value.as_bool().map_err(|_| Mismatch::new("true or false"))
    }
}

impl Arg for String {
    fn type_name() -> String {
        "string".into()
    }
    fn accepts(value: &Dynamic) -> bool {
        value.type_id() == TypeId::of::<ImmutableString>()
    }
    fn read(value: &Dynamic) -> Result<Self, Mismatch> {
        value.read_lock::<ImmutableString>().map(|s| s.to_string()).ok_or_else(|| Mismatch {
            hint: Some("write text in quotes: \"...\"".into()),
            ..Mismatch::new("string")
        })
    }
}

impl Arg for FnPtr {
    fn type_name() -> String {
        "function".into()
    }
    fn accepts(value: &Dynamic) -> bool {
        value.type_id() == TypeId::of::<FnPtr>()
    }
    fn read(value: &Dynamic) -> Result<Self, Mismatch> {
        value.read_lock::<FnPtr>().map(|f| f.clone()).ok_or_else(|| Mismatch {
            hint: Some("write a closure: |x| ...".into()),
            ..Mismatch::new("function")
        })
    }
}

impl Arg for Map {
    fn type_name() -> String {
        "map".into()
    }
    fn accepts(value: &Dynamic) -> bool {
        value.type_id() == TypeId::of::<Map>()
    }
    fn read(value: &Dynamic) -> Result<Self, Mismatch> {
        value.read_lock::<Map>().map(|m| m.clone()).ok_or_else(|| Mismatch {
            hint: Some("write a map as #{ name: value }".into()),
            ..Mismatch::new("map")
        })
    }
}

impl<T: Arg> Arg for Vec<T> {
    fn type_name() -> String {
        format!("[{}]", T::type_name())
    }
    fn accepts(value: &Dynamic) -> bool {
        value.type_id() == TypeId::of::<Array>()
    }
    fn read(value: &Dynamic) -> Result<Self, Mismatch> {
        let list = value.read_lock::<Array>().ok_or_else(|| Mismatch {
            hint: Some("write a list as [a, b]".into()),
            ..Mismatch::new(format!("list of {}", T::type_name()))
        })?;
        list.iter()
            .enumerate()
            .map(|(i, v)| {
                T::read(v).map_err(|m| Mismatch {
                    expected: format!("list of {}", m.expected),
                    hint: Some(format!("value {i} of the list is {}", types::got(v))),
                })
            })
            .collect()
    }
}

/// A parameter of one of two types.
#[derive(Clone, Debug)]
pub enum Either<A, B> {
    /// The first.
    Left(A),
    /// The second.
    Right(B),
}

impl<A: Arg, B: Arg> Arg for Either<A, B> {
    fn type_name() -> String {
        format!("{}|{}", A::type_name(), B::type_name())
    }
    fn accepts(value: &Dynamic) -> bool {
        A::accepts(value) || B::accepts(value)
    }
    fn read(value: &Dynamic) -> Result<Self, Mismatch> {
        if A::accepts(value) {
            A::read(value).map(Either::Left)
        } else if B::accepts(value) {
            B::read(value).map(Either::Right)
        } else {
            Err(Mismatch::new(format!("{} or {}", A::type_name(), B::type_name())))
        }
    }
    fn type_ids() -> Vec<TypeId> {
        A::type_ids().into_iter().chain(B::type_ids()).collect()
    }
}

impl<T: Arg> Arg for Option<T> {
    const OPTIONAL: bool = true;
    fn type_name() -> String {
        T::type_name()
    }
    fn accepts(value: &Dynamic) -> bool {
        value.is_unit() || T::accepts(value)
    }
    fn read(value: &Dynamic) -> Result<Self, Mismatch> {
        if value.is_unit() { Ok(None) } else { T::read(value).map(Some) }
    }
}

/// The options map at the end of a call. May be left out; its keys were checked against the documented ones.
#[derive(Clone, Debug, Default)]
pub struct Opts {
    op: String,
    map: Map,
}

impl Arg for Opts {
    const OPTIONAL: bool = true;
    fn type_name() -> String {
        "#{...}".into()
    }
    fn accepts(value: &Dynamic) -> bool {
        value.is_unit() || value.type_id() == TypeId::of::<Map>()
    }
    fn read(value: &Dynamic) -> Result<Self, Mismatch> {
        if value.is_unit() {
            return Ok(Opts::default());
        }
        Map::read(value)
            .map(|map| Opts { op: String::new(), map })
            .map_err(|m| Mismatch { expected: "map of options".into(), ..m })
    }
}

impl Opts {
    /// The value of an option, if given. Errors: wrong type.
    pub fn get<T: Arg>(&self, key: &str) -> Result<Option<T>, Error> {
        match self.map.get(key) {
            None => Ok(None),
            Some(v) if v.is_unit() => Ok(None),
            Some(v) => T::read(v).map(Some).map_err(|m| {
                let e = Error::value(&self.op, format!("option {key} cannot be {}", types::got(v)))
                    .expected(m.expected)
                    .got(types::got(v));
                m.hint.into_iter().fold(e, Error::hint)
            }),
        }
    }

    /// The value of an option, or `default`.
    pub fn or<T: Arg>(&self, key: &str, default: T) -> Result<T, Error> {
        Ok(self.get(key)?.unwrap_or(default))
    }

    /// A number within a range (both ends included).
    pub fn number(&self, key: &str, default: f64, lo: f64, hi: f64) -> Result<f64, Error> {
        let x = self.or(key, default)?;
        if (lo..=hi).contains(&x) {
            return Ok(x);
        }
        Err(Error::value(&self.op, format!("option {key} is out of range"))
            .expected(format!("{} to {}", types::number(lo), types::number(hi)))
            .got(types::number(x)))
    }

    /// The keys that were given.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(|k| k.as_str())
    }
}

/// An [`Opts`] that knows the call it belongs to, with its keys checked against `known`.
/// Errors: an unknown key, with the nearest known one.
pub fn check_options(op: &str, value: &Dynamic, known: &[&str]) -> Result<(), Error> {
    let Some(map) = value.read_lock::<Map>() else { return Ok(()) };
    for key in map.keys() {
        if !known.contains(&key.as_str()) {
            let error = Error::new(Kind::Option, op, format!("there is no option {key}"))
                .expected(known.join(", "))
                .got(key.to_string());
            return Err(match super::catalog::nearest(key, known.iter().copied()) {
                Some(near) => error.hint(format!("did you mean {near}?")),
                None => error.hint(format!("see ?{op}")),
            });
        }
    }
    Ok(())
}

/// Names the call in an options map, for its messages.
pub(super) fn name_options<T: Arg>(op: &str, value: T) -> T {
    let mut value = value;
    if let Some(opts) = (&mut value as &mut dyn std::any::Any).downcast_mut::<Opts>() {
        opts.op = op.to_string();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_floats_are_both_accepted() {
        assert_eq!(f64::read(&1_i64.into()).unwrap(), 1.0);
        assert_eq!(f64::read(&0.5.into()).unwrap(), 0.5);
        assert_eq!(usize::read(&7.0.into()).unwrap(), 7);
        assert!(usize::read(&7.5.into()).is_err());
        assert!(usize::read(&(-1_i64).into()).is_err());
        assert!(f64::read(&"1".into()).is_err());
        assert!(i64::read(&f64::NAN.into()).is_err());
    }

    #[test]
    fn captured_variables_are_read_through() {
        let shared = Dynamic::from(3_i64).into_shared();
        assert_eq!(f64::read(&shared).unwrap(), 3.0);
        let text = Dynamic::from("a").into_shared();
        assert_eq!(String::read(&text).unwrap(), "a");
        assert!(!Dynamic::read(&shared).unwrap().is_shared());
    }

    #[test]
    fn a_bad_list_names_the_place() {
        let list = Dynamic::from_array(vec![1_i64.into(), "x".into()]);
        let bad = Vec::<f64>::read(&list).unwrap_err();
        assert_eq!(bad.expected, "list of number");
        assert_eq!(bad.hint.unwrap(), "value 1 of the list is string \"x\"");
    }

    #[test]
    fn unknown_option_keys_are_errors_with_the_nearest() {
        let mut map = Map::new();
        map.insert("colums".into(), 2_i64.into());
        let e = check_options("grid", &map.into(), &["columns", "labels"]).unwrap_err();
        assert_eq!(e.kind(), Kind::Option);
        assert_eq!(e.hint_text(), Some("did you mean columns?"));
    }
}
