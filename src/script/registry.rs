//! One call per script function: binding, parameter names and types, documentation, example, related names.
//!
//! ```text
//! r.group("Latents", "What a diffusion model works on.");
//! r.def("blend(a, b, x)", "`(1 - x) * a + x * b`.")
//!     .example("blend(a, b, 0.25)")
//!     .see(&["Latent"])
//!     .bind(|a: Latent, b: Latent, x: f64| Latent::blend(&a, &b, x));
//! r.def("m.encode(what)", "...").bind(|m: Model, what: Either<String, Picture>| ...);
//! r.prop("z.shape", "...").bind(|z: Latent| z.shape_text());
//! ```
//!
//! Functions are registered with dynamic parameters and dispatched here (see [`super::args`]); receivers arrive by
//! value, as clones of cheap handles, because Rhai locks a `&mut` receiver for the whole call and a callback that uses
//! its own receiver would then fail.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use rhai::{Dynamic, EvalAltResult, FuncRegistration, Module, NativeCallContext, Shared};

use super::args;
use super::catalog::{Entry, OptionDoc, Param, What};
use super::errors;
use super::host::Host;
use super::native::Native;
use super::types;
use super::values::Fail;
use crate::engine::error::{Error, Kind};
use crate::engine::weights::model::Model;

type Call = dyn Fn(&NativeCallContext, &[Dynamic]) -> Result<Dynamic, Fail>;

/// One way to call a function.
struct Candidate {
    op: String,
    usage: String,
    params: Vec<Param>,
    accepts: Vec<fn(&Dynamic) -> bool>,
    options: Vec<String>,
    /// Whether the call does real work (told apart from an endless loop).
    work: bool,
    call: Box<Call>,
}

/// Collects functions, then becomes a module and a catalogue.
pub struct Registry {
    host: Rc<Host>,
    group: (String, String),
    groups: Vec<(String, String)>,
    entries: Vec<Entry>,
    functions: BTreeMap<(String, usize), Vec<Rc<Candidate>>>,
    exact: Vec<(String, Vec<TypeId>, Rc<Candidate>)>,
}

impl Registry {
    /// An empty registry; bindings may keep clones of `host`.
    pub fn new(host: Rc<Host>) -> Self {
        Registry {
            host,
            group: Default::default(),
            groups: Vec::new(),
            entries: Vec::new(),
            functions: BTreeMap::new(),
            exact: Vec::new(),
        }
    }

    /// What bindings keep to reach the session (events, cancel token, files).
    pub fn host(&self) -> Rc<Host> {
        Rc::clone(&self.host)
    }

    /// Starts a group of the reference; `about` is one sentence.
    pub fn group(&mut self, name: &str, about: &str) {
        self.group = (name.into(), about.into());
        self.groups.push(self.group.clone());
    }

    /// A function `blend(a, b, x)` or a method `m.encode(what)`; the names are those of the parameters.
    pub fn def(&mut self, call: &str, doc: &str) -> Def<'_> {
        Def::new(self, call, doc, if call.contains('.') { What::Method } else { What::Function })
    }

    /// A property `s.len`.
    pub fn prop(&mut self, call: &str, doc: &str) -> Def<'_> {
        Def::new(self, call, doc, What::Property)
    }

    /// An operator: `+`, `-`, `*`, `/`, or `[]` for `a[b]`. Matched by exact types.
    pub fn op(&mut self, symbol: &str, doc: &str) -> Def<'_> {
        Def::new(self, symbol, doc, What::Operator)
    }

    /// The module for the engine, and the documentation in order of definition.
    pub fn finish(self) -> (Module, Vec<Entry>, Vec<(String, String)>) {
        let mut module = Module::new();
        for ((name, arity), candidates) in self.functions {
            let host = Rc::clone(&self.host);
            let types = vec![TypeId::of::<Dynamic>(); arity];
            set(&mut module, FuncRegistration::new(name.as_str()), &types, move |cx, args| {
                dispatch(&host, &candidates, cx, args)
            });
        }
        for (name, types, candidate) in self.exact {
            let host = Rc::clone(&self.host);
            let candidates = vec![candidate];
            set(&mut module, FuncRegistration::new(name.as_str()), &types, move |cx, args| {
                dispatch(&host, &candidates, cx, args)
            });
        }
        (module, self.entries, self.groups)
    }
}

fn set(
    module: &mut Module,
    registration: FuncRegistration,
    types: &[TypeId],
    f: impl Fn(&NativeCallContext, Vec<Dynamic>) -> Result<Dynamic, Box<EvalAltResult>> + 'static,
) {
    let func = rhai::RhaiFunc::Pure {
        func: Shared::new(move |cx: Option<NativeCallContext>, args: &mut [&mut Dynamic]| {
            let Some(cx) = cx else { return Err("a call without context".into()) };
            // Shared (captured) values are read now: nothing stays locked while a callback runs.
            let args = args.iter_mut().map(|a| std::mem::take(*a).flatten()).collect();
            f(&cx, args)
        }),
        has_context: true,
        is_pure: true,
        is_volatile: true,
    };
    registration.in_global_namespace().set_into_module_raw(module, types, func);
}

fn dispatch(
    host: &Host,
    candidates: &[Rc<Candidate>],
    cx: &NativeCallContext,
    args: Vec<Dynamic>,
) -> Result<Dynamic, Box<EvalAltResult>> {
    // The first candidate that takes all the types; else the one that takes the most leading ones explains.
    let fit = |c: &Rc<Candidate>| {
        c.accepts
            .iter()
            .zip(args.iter().chain(std::iter::repeat(&Dynamic::UNIT)))
            .take_while(|(f, a)| f(a))
            .count()
    };
    let full = candidates.iter().find(|c| fit(c) == c.accepts.len());
    let Some(c) = full.or(candidates.first()) else { return Err("a function without candidates".into()) };
    if full.is_none() && candidates.len() > 1 {
        return Err(errors::throw(no_candidate(candidates, &args, &fit)));
    }
    if c.work {
        host.worked();
        host.cancel().check(&c.op).map_err(errors::throw)?;
    }
    let known: Vec<&str> = c.options.iter().map(String::as_str).collect();
    let options = c.params.iter().position(|p| p.ty == "#{...}").and_then(|i| args.get(i));
    let checked = options.map_or(Ok(()), |o| args::check_options(&c.op, o, &known));
    // What the call will hold is known from its arguments: refused before it is made.
    let checked =
        checked.and_then(|()| host.reserve_cost(&c.op, super::costs::estimate(&c.op, &args, c.work)));
    let checked = checked.and_then(|()| finished_graphs(host, &c.op, &args));
    let result = checked.map_err(Fail::Engine).and_then(|()| {
        catch_unwind(AssertUnwindSafe(|| (c.call)(cx, &args)))
            .unwrap_or_else(|panic| Err(Fail::Engine(crashed(&c.op, &*panic))))
    });
    if c.work {
        host.worked();
    }
    let result = result.and_then(|value| match host.gradient() {
        Some(gradient) if super::bind::is_tracked(&value) || value.is_map() => {
            let by_model = args.first().is_some_and(|a| a.type_id() == TypeId::of::<Model>());
            gradient.grow(&c.op, by_model).map(|()| value).map_err(Fail::Engine)
        }
        _ => Ok(value),
    });
    result.map_err(|fail| match fail {
        Fail::Rhai(e) => e,
        Fail::Engine(e) => {
            // The name that the user typed says more than that of a stage inside.
            errors::throw(e.op(c.op.clone()))
        }
    })
}

/// A value with the graph of a gradient that is finished would keep all of it in memory, and get no gradient ever again.
fn finished_graphs(host: &Host, op: &str, args: &[Dynamic]) -> Result<(), Error> {
    if host.is_tracking() || op == "detach" || !args.iter().any(super::bind::is_tracked) {
        return Ok(());
    }
    Err(Error::value(op, "this value still carries the graph of a gradient that is finished")
        .expected("a value from outside of grad, or detached")
        .hint("detach(x) inside the closure gives it without"))
}

/// Several overloads, and none takes the arguments: the first argument on which all have failed is told.
fn no_candidate(
    candidates: &[Rc<Candidate>],
    args: &[Dynamic],
    fit: &dyn Fn(&Rc<Candidate>) -> usize,
) -> Error {
    let most = candidates.iter().map(fit).max().unwrap_or(0);
    let near: Vec<&Param> =
        candidates.iter().filter(|c| fit(c) == most).filter_map(|c| c.params.get(most)).collect();
    let mut types: Vec<&str> = near.iter().map(|p| p.ty.as_str()).collect();
    types.dedup();
    let name = near.first().map_or("argument", |p| p.name.as_str());
    let got = types::got(args.get(most).unwrap_or(&Dynamic::UNIT));
    let ways: Vec<&str> = candidates.iter().map(|c| c.usage.as_str()).collect();
    Error::value(candidates[0].op.clone(), format!("{name} cannot be {got}"))
        .expected(format!("{name}: {}", types.join(" or ").replace('|', " or ")))
        .got(got)
        .hint(format!("ways to call it: {}", ways.join("; ")))
}

fn crashed(op: &str, panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    let error = Error::new(Kind::Internal, op, format!("scumble itself failed here: {text}"))
        .hint("a fault of scumble, not of the script: please report these lines and the script");
    match crate::report::place_of_panic() {
        Some(place) => error.got(place),
        None => error,
    }
}

/// One function being defined. Dropping it without [`Def::bind`] defines nothing.
pub struct Def<'a> {
    registry: &'a mut Registry,
    entry: Entry,
    names: Vec<String>,
    work: bool,
}

impl<'a> Def<'a> {
    fn new(registry: &'a mut Registry, call: &str, doc: &str, what: What) -> Self {
        let (head, list) = call.split_once('(').unwrap_or((call, ""));
        let mut names: Vec<String> = list
            .trim_end_matches(')')
            .split(',')
            .map(|s| s.trim().to_string())
            .filter(|s| !s.is_empty())
            .collect();
        let name = match (what, head.split_once('.')) {
            (What::Operator, _) => {
                names = vec!["a".into(), "b".into()];
                head.to_string()
            }
            (_, Some((receiver, name))) => {
                names.insert(0, receiver.into());
                name.to_string()
            }
            _ => head.to_string(),
        };
        let entry = Entry {
            name,
            owner: None,
            what,
            call: call.into(),
            params: Vec::new(),
            returns: String::new(),
            doc: doc.into(),
            options: Vec::new(),
            examples: Vec::new(),
            related: Vec::new(),
            group: registry.group.0.clone(),
            source: None,
        };
        Def { registry, entry, names, work: false }
    }

    /// An example: Rhai code. A last line `// => text` states the value's display line, `// error: text` a part of
    /// the error; the tests run it.
    pub fn example(mut self, code: &str) -> Self {
        self.entry.examples.push(code.trim().to_string());
        self
    }

    /// Related names.
    pub fn see(mut self, names: &[&str]) -> Self {
        self.entry.related.extend(names.iter().map(|n| (*n).to_string()));
        self
    }

    /// A key of the options map (the last parameter, [`super::args::Opts`]).
    pub fn option(mut self, name: &str, ty: &str, doc: &str) -> Self {
        self.entry.options.push(OptionDoc { name: name.into(), ty: ty.into(), doc: doc.into() });
        self
    }

    /// Says that a call does real work: it counts as progress where endless loops are looked for.
    pub fn work(mut self) -> Self {
        self.work = true;
        self
    }

    /// Binds the closure; parameter and return types come from its signature.
    pub fn bind<M, F: Native<M>>(self, f: F) {
        let Def { registry, mut entry, names, work } = self;
        entry.params = F::params()
            .into_iter()
            .enumerate()
            .map(|(i, (ty, optional))| Param {
                name: names
                    .get(i)
                    .cloned()
                    .unwrap_or_else(|| if ty == "#{...}" { "options".into() } else { format!("arg{i}") }),
                ty,
                optional,
            })
            .collect();
        entry.returns = F::returns();
        if matches!(entry.what, What::Method | What::Property) {
            entry.owner = entry.params.first().map(|p| p.ty.clone());
        }
        let op = entry.name.clone();
        let params = entry.params.clone();
        let candidate = Rc::new(Candidate {
            op: op.clone(),
            usage: entry.usage(),
            params: entry.params.clone(),
            accepts: F::accepts(),
            options: entry.options.iter().map(|o| o.name.clone()).collect(),
            work,
            call: Box::new(move |cx, args| f.invoke(&op, cx, &params, args)),
        });
        match entry.what {
            What::Operator => {
                for types in product(&F::type_ids()) {
                    // Rhai's own name for `a[b]`.
                    let name = if entry.name == "[]" { "index$get$" } else { &entry.name };
                    registry.exact.push((name.to_string(), types, Rc::clone(&candidate)));
                }
            }
            What::Property => {
                for types in product(&F::type_ids()) {
                    registry.exact.push((format!("get${}", entry.name), types, Rc::clone(&candidate)));
                }
            }
            _ => {
                let most = entry.params.len();
                let least = most - entry.params.iter().rev().take_while(|p| p.optional).count();
                for arity in least..=most {
                    let key = (entry.name.clone(), arity);
                    registry.functions.entry(key).or_default().push(Rc::clone(&candidate));
                }
            }
        }
        registry.entries.push(entry);
    }
}

/// All ways to take one of each.
fn product(sets: &[Vec<TypeId>]) -> Vec<Vec<TypeId>> {
    sets.iter().fold(vec![Vec::new()], |rows, set| {
        rows.iter()
            .flat_map(|row| {
                set.iter().map(move |t| {
                    let mut row = row.clone();
                    row.push(*t);
                    row
                })
            })
            .collect()
    })
}
