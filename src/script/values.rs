//! What bindings return: Rust values as Rhai's, and how they fail.

use rhai::{Dynamic, EvalAltResult, Map};

use super::args::Either;
use super::types::Handle;
use crate::engine::error::Error;

/// What a binding may fail with.
pub enum Fail {
    /// An engine error: becomes a catchable map.
    Engine(Error),
    /// An error of a script callback: passed through.
    Rhai(Box<EvalAltResult>),
}

impl From<Error> for Fail {
    fn from(e: Error) -> Self {
        Fail::Engine(e)
    }
}

impl From<Box<EvalAltResult>> for Fail {
    fn from(e: Box<EvalAltResult>) -> Self {
        Fail::Rhai(e)
    }
}

/// A Rust type that a script function can return.
pub trait Value {
    /// The type as signatures show it; empty for nothing.
    fn type_name() -> String;
    /// Converts.
    fn into_dynamic(self) -> Dynamic;
}

impl<T: Handle> Value for T {
    fn type_name() -> String {
        T::NAME.into()
    }
    fn into_dynamic(self) -> Dynamic {
        Dynamic::from(self)
    }
}

macro_rules! plain_value {
    ($($type:ty, $name:literal, |$v:ident| $e:expr;)*) => {
        $(impl Value for $type {
            fn type_name() -> String { $name.into() }
            fn into_dynamic(self) -> Dynamic { let $v = self; $e }
        })*
    };
}

plain_value! {
    (), "", |_v| Dynamic::UNIT;
    bool, "true|false", |v| v.into();
    i64, "integer", |v| v.into();
    usize, "integer", |v| i64::try_from(v).unwrap_or(i64::MAX).into();
    f64, "number", |v| v.into();
    String, "string", |v| v.into();
    Map, "map", |v| v.into();
    Dynamic, "any", |v| v;
}

impl<T: Value> Value for Vec<T> {
    fn type_name() -> String {
        format!("[{}]", T::type_name())
    }
    fn into_dynamic(self) -> Dynamic {
        Dynamic::from_array(self.into_iter().map(Value::into_dynamic).collect())
    }
}

impl<A: Value, B: Value> Value for Either<A, B> {
    fn type_name() -> String {
        format!("{}|{}", A::type_name(), B::type_name())
    }
    fn into_dynamic(self) -> Dynamic {
        match self {
            Either::Left(a) => a.into_dynamic(),
            Either::Right(b) => b.into_dynamic(),
        }
    }
}

/// The return type of a binding: a [`Value`], or a `Result` of one.
pub trait Outcome {
    /// The type as signatures show it.
    fn type_name() -> String;
    /// Converts.
    fn finish(self) -> Result<Dynamic, Fail>;
}

impl<T: Value> Outcome for T {
    fn type_name() -> String {
        <T as Value>::type_name()
    }
    fn finish(self) -> Result<Dynamic, Fail> {
        Ok(self.into_dynamic())
    }
}

impl<T: Value, E: Into<Fail>> Outcome for Result<T, E> {
    fn type_name() -> String {
        T::type_name()
    }
    fn finish(self) -> Result<Dynamic, Fail> {
        self.map(Value::into_dynamic).map_err(Into::into)
    }
}
