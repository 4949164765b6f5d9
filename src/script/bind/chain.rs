//! `chain`: a rollout whose gradient computes one step at a time again; and `audit`: what a gradient does not reach.

use std::ops::{Range, RangeInclusive};
use std::rc::Rc;

use candle_core::Tensor as Values;
#[allow(deprecated, reason = "Rhai marks volatile interfaces this way; its version is pinned")]
use rhai::NativeCallContextStore;
use rhai::{Array, Dynamic, FnPtr, Map, NativeCallContext};

use super::grad::{gradients, one_loss};
use super::tree;
use crate::engine::error::{Error, Result};
use crate::engine::latent::Latent;
use crate::engine::observe::Event;
use crate::script::args::Either;
use crate::script::host::Host;
use crate::script::registry::Registry;
use crate::script::tracking::{Gradient, Leaves, Step, arrived};
use crate::script::types;
use crate::script::values::Fail;

type Outcome<T> = std::result::Result<T, Fail>;

/// Steps of a chain, at most.
const MOST: usize = 10_000;

/// The numbers of the steps: of a range, or of a list.
fn indices(range: &Dynamic) -> Result<Vec<i64>> {
    let too_many =
        || Error::value("chain", format!("a chain has at most {MOST} steps")).got(types::got(range));
    let few = |from: i64, to: i64| {
        (to.saturating_sub(from) <= MOST as i64).then_some(from..to).ok_or_else(too_many)
    };
    if let Some(r) = range.read_lock::<Range<i64>>() {
        return Ok(few(r.start, r.end)?.collect());
    }
    if let Some(r) = range.read_lock::<RangeInclusive<i64>>() {
        return Ok(few(*r.start(), r.end().saturating_add(1))?.collect());
    }
    let list = range.read_lock::<Array>();
    let numbers = list.and_then(|l| l.iter().map(|v| v.as_int().ok()).collect::<Option<Vec<_>>>());
    match numbers {
        Some(n) if n.len() <= MOST => Ok(n),
        Some(_) => Err(too_many()),
        None => Err(Error::value("chain", format!("range cannot be {}", types::got(range)))
            .expected("a range of steps, 0..s.len, or a list of whole numbers")
            .got(types::got(range))),
    }
}

/// What a step's closure is called with besides the latent.
struct Given {
    f: FnPtr,
    i: i64,
    /// As the script gave them; a step fills in the numbers.
    leaves: Rc<Vec<Dynamic>>,
    /// How many numbers each of them holds.
    sizes: Rc<Vec<usize>>,
    form: Rc<str>,
}

impl Given {
    fn call(&self, cx: &NativeCallContext, z: &Values, leaves: &[Values]) -> Outcome<Values> {
        let mut args = vec![Dynamic::from(Latent::new(z.clone())?), self.i.into()];
        let mut rest = leaves;
        for (leaf, &n) in self.leaves.iter().zip(self.sizes.iter()) {
            let (own, more) = rest.split_at_checked(n).unwrap_or((rest, &[]));
            args.push(tree::rebuild(leaf, own)?);
            rest = more;
        }
        let result = self.f.call_raw(cx, None, args);
        let result = result.map_err(|e| tree::wrong_count("chain", &self.f, &self.form, e))?;
        let at =
            |what: &str| Error::value("chain", format!("step {}: {what}", self.i)).got(types::got(&result));
        let Some(next) = result.read_lock::<Latent>().map(|z| z.tensor().clone()) else {
            let error = at("the closure must return the next latent");
            return Err(error
                .expected("a Latent")
                .hint("t.latent() makes one of a Tensor of four dimensions")
                .into());
        };
        if next.dims() != z.dims() {
            let error = at("the closure returned a latent of another shape");
            return Err(error.expected(format!("{:?}", z.dims())).into());
        }
        if Latent::new(next.detach())?.has_non_finite()? {
            let error = at("the latent holds values that are no numbers (NaN or infinite)");
            return Err(error.expected("finite numbers").hint("a smaller cfg, or a smaller lr").into());
        }
        Ok(next)
    }
}

/// Where the chain was called, which sees the closure: the gradient may be asked for in another file.
#[allow(deprecated, reason = "Rhai marks volatile interfaces this way; its version is pinned")]
fn home(cx: &NativeCallContext) -> NativeCallContextStore {
    cx.store_data()
}

#[allow(deprecated, reason = "Rhai marks volatile interfaces this way; its version is pinned")]
fn context<'a>(cx: &'a NativeCallContext, home: &'a NativeCallContextStore) -> NativeCallContext<'a> {
    NativeCallContext::from_stored_data(cx.engine(), home)
}

fn chain(
    host: &Rc<Host>,
    cx: &NativeCallContext,
    z: &Latent,
    range: &Dynamic,
    leaves: Vec<Dynamic>,
    f: FnPtr,
) -> Outcome<Latent> {
    let steps = indices(range)?;
    let mut sizes = Vec::with_capacity(leaves.len());
    let mut numbers = vec![z.tensor().clone()];
    for (k, leaf) in leaves.iter().enumerate() {
        let own = tree::leaves("chain", &format!("leaves[{k}]"), leaf)?;
        sizes.push(own.len());
        numbers.extend(own.into_iter().map(|(_, v)| v));
    }
    let form: Rc<str> = format!("{}: |z, i{}| ...", 2 + leaves.len(), ", leaf".repeat(leaves.len())).into();
    let (leaves, sizes) = (Rc::new(leaves), Rc::new(sizes));
    let gradient = host.gradient();
    // What leads to the chain is gone through once at the end, not once for every step.
    let mut inputs = match &gradient {
        Some(gradient) => cut(gradient, &numbers)?,
        None => numbers,
    };
    let (total, forward) = (steps.len(), gradient.is_some());
    let home = Rc::new(home(cx));
    for (done, i) in steps.into_iter().enumerate() {
        host.cancel().check("chain")?;
        let given = Given {
            f: f.clone(),
            i,
            leaves: Rc::clone(&leaves),
            sizes: Rc::clone(&sizes),
            form: Rc::clone(&form),
        };
        let next = match &gradient {
            None => given.call(cx, &inputs[0], &inputs[1..])?,
            Some(gradient) => {
                let (watch, home) = (Rc::clone(host), Rc::clone(&home));
                let step: Rc<Step> = Rc::new(move |cx: &NativeCallContext, t: &[Values]| {
                    let Some((z, leaves)) = t.split_first() else { return Ok(Vec::new()) };
                    let next = given.call(&context(cx, &home), z, leaves)?;
                    if !t.iter().any(Values::track_op) {
                        undeclared(&watch, &next)?;
                    }
                    Ok(vec![next])
                });
                gradient.checkpoint(cx, &inputs, step)?.swap_remove(0)
            }
        };
        inputs[0] = next;
        host.worked();
        if forward {
            host.emit(Event::Step { label: "chain", done: done + 1, total });
        }
    }
    Ok(Latent::new(inputs.swap_remove(0))?)
}

/// Variables in the place of values that were computed from others.
fn cut(gradient: &Gradient, numbers: &[Values]) -> Result<Vec<Values>> {
    let computed: Vec<Values> =
        numbers.iter().filter(|v| v.track_op() && !v.is_variable()).cloned().collect();
    let mut variables = gradient.tape().checkpoint(&computed, |t| Ok(t.to_vec()))?.into_iter();
    let pick = |v: &Values| {
        if v.track_op() && !v.is_variable() {
            variables.next().unwrap_or_else(|| v.clone())
        } else {
            v.clone()
        }
    };
    Ok(numbers.iter().map(pick).collect())
}

/// All that a step is given is without a graph on the way there: what has one was captured.
fn undeclared(host: &Host, next: &Values) -> Result<()> {
    if !host.gradients().iter().any(|g| g.tape().reaches(next)) {
        return Ok(());
    }
    Err(Error::value("chain", "the closure uses a value that a gradient is taken of, but that is not named")
        .expected("every such value in the list: chain(z, range, [x], |z, i, x| ...)")
        .hint("name it there, or detach(x) before the chain, if it shall count as fixed"))
}

/// What arrives at named values.
fn report(names: &[String], grads: &[Option<Values>]) -> Result<Vec<Map>> {
    let mut rows = Vec::with_capacity(names.len());
    for (name, grad) in names.iter().zip(grads) {
        let norm = match grad {
            Some(g) => g.to_dtype(candle_core::DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt(),
            None => 0.0,
        };
        let word = match grad {
            None => "none",
            Some(_) if norm == 0.0 => "zero",
            Some(_) if !norm.is_finite() => "not finite",
            Some(_) => "arrives",
        };
        rows.push(Map::from([
            ("name".into(), name.as_str().into()),
            ("gradient".into(), word.into()),
            ("norm".into(), norm.into()),
        ]));
    }
    Ok(rows)
}

fn short(names: &Leaves) -> Vec<String> {
    names.iter().map(|(n, _)| n.strip_prefix("x.").unwrap_or(n).to_string()).collect()
}

fn audit_closure(host: &Host, cx: &NativeCallContext, x: &Dynamic, loss: &FnPtr) -> Outcome<Vec<Map>> {
    let found = gradients(host, cx, "audit", x, loss, None)?;
    Ok(report(&short(&found.leaves), &found.grads)?)
}

/// Inside of a closure that a gradient is taken of.
fn audit_loss(host: &Host, cx: &NativeCallContext, loss: &Dynamic, named: &Dynamic) -> Outcome<Vec<Map>> {
    let named = tree::leaves("audit", "x", named)?;
    if let Some((name, _)) = named.iter().find(|(_, v)| v.track_op() && !v.is_variable()) {
        return Err(Error::value("audit", format!("{name} was computed inside of the closure"))
            .expected("values that the closure was given")
            .hint("give it to grad as a part of x: grad(#{ a: ..., b: ... }, |x| ...)")
            .into());
    }
    let total = one_loss("audit", loss)?;
    let grads = match host.gradient().filter(|_| total.track_op()) {
        None => vec![None; named.len()],
        Some(gradient) => {
            // Going back uses the parts up; the gradient itself will need them.
            let again = host.track(gradient.fork());
            arrived(&again.gradient.backward(host, cx, "audit", &total)?, &named)
        }
    };
    Ok(report(&short(&named), &grads)?)
}

/// Binds them.
pub fn register(r: &mut Registry) {
    const SETUP: &str = "let m = load(\"emoji\");\nlet s = m.schedule(4);\nlet text = m.encode(\"a dog\");\nlet z = m.noise(0);\n";
    let host = r.host();
    r.def(
        "chain(z, range, leaves, |z, i, leaf| next)",
        "The latent after the steps of `range`. Inside of `grad` and `minimize` its gradient holds the graph of one step at a \
         time: the steps run without one, and each is computed again on the way back. What the gradient flows to is \
         named: `z`, and `leaves`, a list of values that the closure is given after `z` and `i`. The closure runs twice, and \
         must do the same both times.",
    )
    .example(&format!(
        "{SETUP}let run = |z| chain(z, 0..s.len, [], |z, i| s.step(z, m.predict(z, s.t(i), text), i));\n\
         grad(z, |z| mse(run.call(z), z)).grad.shape // => [1, 4, 16, 16]"
    ))
    .example(&format!(
        "{SETUP}let w = tensor([1, 1, 1, 1]);\n\
         grad(w, |w| sum(chain(z, 0..4, [w], |z, i, w| (z.tensor * w.slice(0, i, 1)).latent()).tensor)).grad.shape // => [4]"
    ))
    .example(&format!("{SETUP}grad(tensor([2]), |w| sum(chain(z, 0..4, [], |z, i| (z.tensor * w).latent()).tensor)) // error: not named"))
    .see(&["grad", "minimize", "step"])
    .work()
    .bind(move |cx: &NativeCallContext, z: Latent, range: Dynamic, leaves: Vec<Dynamic>, f: FnPtr| {
        chain(&host, cx, &z, &range, leaves, f)
    });
    let host = r.host();
    r.def(
        "audit(x, |x| loss)",
        "What the gradient of a loss reaches: for each value of `x` (see `grad`) a map #{ name, gradient, norm }, where `gradient` \
         is \"arrives\", \"zero\", \"not finite\" or \"none\". Inside of a closure `audit(loss, #{ name: value })` does the same for a \
         loss that is computed already.",
    )
    .example(
        "let x = #{ used: tensor([2]), lost: tensor([3]) };\nlet rows = audit(x, |x| sum(x.used * detach(x.lost)));\n\
         rows.filter(|r| r.gradient != \"arrives\").map(|r| r.name) // => [\"lost\"]",
    )
    .example("audit(tensor([1, 2]), |x| sum(x - x))[0].gradient // => \"zero\"")
    .see(&["grad", "table"])
    .work()
    .bind(move |cx: &NativeCallContext, x: Dynamic, loss: Either<FnPtr, Dynamic>| match loss {
        Either::Left(f) => audit_closure(&host, cx, &x, &f),
        Either::Right(named) => audit_loss(&host, cx, &x, &named),
    });
}
