//! [`create`]: the one place where a Rhai engine is put together.

use std::rc::Rc;

use rhai::{Dynamic, Engine, EvalAltResult, FuncRegistration, ImmutableString, Module, OptimizationLevel};

use super::errors::Stop;
use super::host::Host;
use super::options::Options;
use super::registry::Registry;
use super::types;
use super::{bind, builtins, catalog, check, depth, errors, modules};
use crate::engine::error::{Error, Kind};
use crate::engine::observe::Event;

/// Script functions inside each other.
pub const CALL_LEVELS: usize = 200;

/// Values in a list, fields in a map (nested ones counted). Rhai walks a list each time it is changed, so a list much
/// longer than this could not be filled one by one anyway.
pub const MAX_LIST: usize = 50_000;

/// Characters in a string.
pub const MAX_STRING: usize = 1 << 20;

/// An engine with every binding, the library, limits and hooks of `host`'s session.
///
/// It must be created, used and dropped on one thread (with a large stack, see [`super::thread`]).
pub fn create(host: &Rc<Host>) -> Engine {
    let mut engine = Engine::new();
    limits(&mut engine);
    bind::types(&mut engine);
    let mut registry = Registry::new(Rc::clone(host));
    bind::register(&mut registry);
    let (mut module, _, _) = registry.finish();
    properties(&mut module);
    engine.register_global_module(module.into());
    builtins::install(&mut engine, host);
    events(&mut engine, host);
    unknown_functions(&mut engine, host);
    modules::install(&mut engine, host);
    engine
}

/// Language settings and limits, stated explicitly (Rhai's debug and release defaults differ).
pub fn limits(engine: &mut Engine) {
    // `Full` would run calls with constant arguments while compiling.
    engine.set_optimization_level(OptimizationLevel::None);
    engine.set_strict_variables(true);
    engine.set_max_call_levels(CALL_LEVELS);
    engine.set_max_expr_depths(128, 64);
    engine.set_max_array_size(MAX_LIST);
    engine.set_max_map_size(MAX_LIST);
    engine.set_max_string_size(MAX_STRING);
    engine.set_max_variables(10_000);
    words(engine);
}

/// Rhai reserves some words that it has no use for. `st.with(z)` is ours.
pub fn words(engine: &mut Engine) {
    #[allow(deprecated, reason = "Rhai marks volatile interfaces this way; its version is pinned")]
    engine.on_parse_token(|token, _, _| match token {
        rhai::Token::Reserved(word) if word.as_str() == "with" => rhai::Token::Identifier(word),
        other => other,
    });
}

fn events(engine: &mut Engine, host: &Rc<Host>) {
    let h = Rc::clone(host);
    engine.on_print(move |text| h.emit(Event::Print(text.to_string())));
    let h = Rc::clone(host);
    engine.on_debug(move |text, source, position| {
        let place = source.map_or(String::new(), |s| format!("{s}, "));
        let line = position.line().map_or(String::new(), |l| format!("line {l}: "));
        h.emit(Event::Print(format!("{place}{line}{text}")));
    });
    let h = Rc::clone(host);
    engine.on_progress(move |_| h.progress());
    let h = Rc::clone(host);
    #[allow(deprecated, reason = "Rhai marks volatile interfaces this way; its version is pinned")]
    engine.on_var(move |name, _, cx| {
        if h.is_walk_due() {
            let variables = cx.scope().iter_raw().map(|(_, _, value)| value);
            match depth::walk(variables.chain(cx.this_ptr())) {
                depth::Found::Fine => {}
                depth::Found::TooDeep => return Err(h.stop(Stop::Deep)),
                depth::Found::TooMany => return Err(h.stop(Stop::Many)),
            }
        }
        // A variable that a closure captures is shared, and Rhai locks a shared receiver for the whole call: in
        // `m.tune(..., |x| m.predict(...))` the closure could not use `m`. Our own values never change, so that nothing
        // needs the lock: such a variable is handed out as the shared cell itself, to be read and assigned at any time.
        Ok(cx.scope().get(name).filter(|v| v.is_shared() && !v.is_locked() && types::is_handle(v)).cloned())
    });
}

/// Reading a property that a type does not have. Rhai asks an indexer before it gives up: this one takes every type,
/// serves the fields of [`Options`], and gives all others an error with the nearest name.
fn properties(module: &mut Module) {
    let func = rhai::RhaiFunc::Pure {
        func: rhai::Shared::new(|_: Option<rhai::NativeCallContext>, args: &mut [&mut Dynamic]| {
            let key = args[1].clone();
            read_property(args[0], &key)
        }),
        has_context: false,
        is_pure: true,
        is_volatile: true,
    };
    let any = std::any::TypeId::of::<Dynamic>();
    FuncRegistration::new_index_getter().set_into_module_raw(module, [any, any], func);
}

fn read_property(object: &Dynamic, key: &Dynamic) -> Result<Dynamic, Box<EvalAltResult>> {
    let ty = types::name(object);
    let Some(name) = key.read_lock::<ImmutableString>() else {
        return Err(errors::throw(
            Error::value("[ ]", format!("{ty} cannot be indexed")).got(format!("[{}]", types::got(key))),
        ));
    };
    if let Some(options) = object.read_lock::<Options>() {
        if name.as_str() == "model" {
            return Ok(options.0.model.as_str().into());
        }
        if let Some(value) = options.0.get(&name) {
            return Ok(value.to_dynamic());
        }
        let error = Error::new(Kind::Option, "options", format!("there is no option {}", name.as_str()))
            .expected(options.0.names().collect::<Vec<_>>().join(" "));
        return Err(errors::throw(match catalog::nearest(&name, options.0.names()) {
            Some(near) => error.hint(format!("did you mean {near}?")),
            None => error.hint("add it to the map of options(...)"),
        }));
    }
    let (message, list, hint) = super::explain::property_facts(&name, &ty);
    let error = Error::missing(ty.as_str(), message);
    let error = list.into_iter().fold(error, Error::expected);
    Err(errors::throw(hint.into_iter().fold(error, Error::hint)))
}

/// Rhai's "function not found" with a suggestion, as an error map that `try` can catch.
fn unknown_functions(engine: &mut Engine, host: &Rc<Host>) {
    let known = check::functions(engine);
    let host = Rc::clone(host);
    // The hook is asked after every failed native call: errors of functions that exist pass through.
    #[allow(deprecated, reason = "Rhai marks volatile interfaces this way; its version is pinned")]
    engine.on_missing_function(move |name, args, _method, _cx| {
        let symbolic = !name.starts_with(|c: char| c.is_alphabetic() || c == '_');
        if name.contains('$')
            || symbolic
            || known.get(name).is_some_and(|counts| counts.contains(&args.len()))
        {
            return Ok(None);
        }
        let defined = host.defined.borrow();
        let Some(report) = check::unknown_call(name, args.len(), &defined) else { return Ok(None) };
        Err(errors::throw(errors::to_engine(name, report)))
    });
}
