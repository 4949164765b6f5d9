//! [`Native`]: Rust closures that scripts can call, with their signature as data.

use std::any::TypeId;

use rhai::{Dynamic, NativeCallContext};

use super::args::{self, Arg};
use super::catalog::Param;
use super::types;
use super::values::{Fail, Outcome};
use crate::engine::error::Error;

/// A closure that can be bound: implemented for `Fn(A, B, ..) -> R` with [`Arg`]s and an [`Outcome`].
pub trait Native<Marker>: 'static {
    /// Type name and whether it may be left out, per parameter.
    fn params() -> Vec<(String, bool)>;
    /// Type tests, per parameter.
    fn accepts() -> Vec<fn(&Dynamic) -> bool>;
    /// Exact Rhai types that each parameter stands for.
    fn type_ids() -> Vec<Vec<TypeId>>;
    /// The return type.
    fn returns() -> String;
    /// Converts the arguments and calls. `names[i]` is the parameter's name, for errors.
    fn invoke(
        &self,
        op: &str,
        cx: &NativeCallContext,
        names: &[Param],
        args: &[Dynamic],
    ) -> Result<Dynamic, Fail>;
}

/// Marks a closure that takes the call context first (to call script functions back).
pub struct WithContext;

fn read<T: Arg>(op: &str, i: usize, params: &[Param], args: &[Dynamic]) -> Result<T, Fail> {
    let value = args.get(i).unwrap_or(&Dynamic::UNIT);
    match T::read(value) {
        Ok(v) => Ok(args::name_options(op, v)),
        Err(m) => {
            let name = params.get(i).map_or("argument", |p| p.name.as_str());
            let error = Error::value(op, format!("{name} cannot be {}", types::got(value)))
                .expected(format!("{name}: {}", m.expected))
                .got(types::got(value));
            Err(Fail::Engine(match m.hint {
                Some(hint) => error.hint(hint),
                None => error.hint(format!("see ?{op}")),
            }))
        }
    }
}

macro_rules! natives {
    ($($A:ident $i:literal),*) => {
        impl<Func, R, $($A),*> Native<($($A,)*)> for Func
        where Func: Fn($($A),*) -> R + 'static, R: Outcome, $($A: Arg),* {
            fn params() -> Vec<(String, bool)> { vec![$(($A::type_name(), $A::OPTIONAL)),*] }
            fn accepts() -> Vec<fn(&Dynamic) -> bool> { vec![$($A::accepts),*] }
            fn type_ids() -> Vec<Vec<TypeId>> { vec![$($A::type_ids()),*] }
            fn returns() -> String { R::type_name() }
            fn invoke(&self, _op: &str, _: &NativeCallContext, _names: &[Param], _args: &[Dynamic])
                -> Result<Dynamic, Fail> {
                self($(read::<$A>(_op, $i, _names, _args)?),*).finish()
            }
        }
        impl<Func, R, $($A),*> Native<(WithContext, $($A,)*)> for Func
        where Func: Fn(&NativeCallContext, $($A),*) -> R + 'static, R: Outcome, $($A: Arg),* {
            fn params() -> Vec<(String, bool)> { vec![$(($A::type_name(), $A::OPTIONAL)),*] }
            fn accepts() -> Vec<fn(&Dynamic) -> bool> { vec![$($A::accepts),*] }
            fn type_ids() -> Vec<Vec<TypeId>> { vec![$($A::type_ids()),*] }
            fn returns() -> String { R::type_name() }
            fn invoke(&self, _op: &str, cx: &NativeCallContext, _names: &[Param], _args: &[Dynamic])
                -> Result<Dynamic, Fail> {
                self(cx, $(read::<$A>(_op, $i, _names, _args)?),*).finish()
            }
        }
    };
}

natives!();
natives!(A 0);
natives!(A 0, B 1);
natives!(A 0, B 1, C 2);
natives!(A 0, B 1, C 2, D 3);
natives!(A 0, B 1, C 2, D 3, E 4);
natives!(A 0, B 1, C 2, D 3, E 4, F 5);
natives!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
natives!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
