//! Gradients: of a loss that a closure computes, with respect to what it is given.

use candle_core::Tensor as Values;
use rhai::{Dynamic, FnPtr, Map, NativeCallContext};

use super::optimizers::State;
use super::tensor::Tensor;
use super::tree;
use crate::engine::error::{Error, Result};
use crate::engine::image::Picture;
use crate::engine::latent::Latent;
use crate::engine::observe::Event;
use crate::engine::ops;
use crate::engine::optimize::{Optimizer, Rule};
use crate::script::args::Opts;
use crate::script::host::Host;
use crate::script::registry::Registry;
use crate::script::tracking::{Gradient, Leaves, arrived};
use crate::script::types;
use crate::script::values::Fail;

/// A loss and its gradients.
pub(super) struct Found {
    /// The loss.
    pub value: f64,
    /// By whose gradients, with their places.
    pub leaves: Leaves,
    /// In the order of the leaves; `None`: none arrived.
    pub grads: Vec<Option<Values>>,
}

/// The loss as one tracked value. Errors: anything else.
pub(super) fn one_loss(op: &str, result: &Dynamic) -> Result<Values> {
    let bad = |what: &str| {
        Error::value(op, what)
            .expected("a Tensor of one value that was computed from x")
            .got(types::got(result))
    };
    let Some(total) = result.read_lock::<Tensor>().map(|t| t.0.clone()) else {
        return Err(bad("the closure must return the loss")
            .hint("a number has forgotten where it came from: mse(a, b) and sum(t) give Tensors"));
    };
    if total.elem_count() != 1 {
        return Err(bad("the loss must be one value").hint("sum(t), mse(a, b)"));
    }
    Ok(total.flatten_all()?.get(0)?)
}

/// Runs `loss(x, step)` with a graph and goes back.
pub(super) fn gradients(
    host: &Host,
    cx: &NativeCallContext,
    op: &str,
    x: &Dynamic,
    loss: &FnPtr,
    step: Option<usize>,
) -> std::result::Result<Found, Fail> {
    let given = tree::leaves(op, "x", x)?;
    if let Some((name, _)) = given.iter().find(|(_, v)| v.track_op()) {
        return Err(Error::value(op, format!("{name} was computed from what another gradient is taken of"))
            .expected("a value without a graph: a gradient of a gradient is not computed")
            .hint("detach(x), if it shall count as fixed there")
            .into());
    }
    let outer = host.gradients();
    let inside = host.track(Gradient::default());
    let gradient = &inside.gradient;
    let leaves: Leaves = given
        .into_iter()
        .map(|(name, v)| Ok((name, gradient.tape().variable(&v)?)))
        .collect::<Result<_>>()?;
    let tracked = tree::rebuild(x, &leaves.iter().map(|(_, v)| v.clone()).collect::<Vec<_>>())?;
    let (result, form) = match step {
        None => (loss.call_within_context::<Dynamic>(cx, (tracked,)), "one: |x| ..."),
        Some(i) => (loss.call_within_context::<Dynamic>(cx, (tracked, i as i64)), "two: |x, i| ..."),
    };
    let result = result.map_err(|e| tree::wrong_count(op, loss, form, e))?;
    let total = one_loss(op, &result)?;
    if !total.track_op() {
        return Err(Error::value(op, "the loss does not depend on x")
            .expected("a Tensor of one value that was computed from x")
            .hint("use the closure's own x, not the value outside")
            .into());
    }
    if gradient.is_foreign(&outer, &total) {
        return Err(Error::value(op, "the loss uses a value that another gradient is taken of")
            .expected("values without a graph: a gradient of a gradient is not computed")
            .hint("detach(x), if it shall count as fixed there")
            .into());
    }
    host.worked();
    let value = total.detach().to_dtype(candle_core::DType::F64).and_then(|t| t.to_scalar::<f64>());
    let grads = gradient.backward(host, cx, op, &total)?;
    let grads = arrived(&grads, &leaves);
    Ok(Found { value: value.map_err(Error::from)?, leaves, grads })
}

/// The same, and every value has got a gradient: what got none would be a silent zero.
fn all_gradients(
    host: &Host,
    cx: &NativeCallContext,
    op: &str,
    x: &Dynamic,
    loss: &FnPtr,
    step: Option<usize>,
) -> std::result::Result<(f64, Vec<Values>), Fail> {
    let found = gradients(host, cx, op, x, loss, step)?;
    let grads = found.leaves.iter().zip(found.grads).map(|((name, _), grad)| {
        grad.ok_or_else(|| {
            Error::value(op, format!("no gradient arrived at {name}"))
                .expected("a Tensor of one value that was computed from x")
                .hint("use the closure's own x, not the value outside; audit(x, |x| loss) shows what arrives where")
        })
    });
    Ok((found.value, grads.collect::<Result<_>>()?))
}

fn minimize(
    host: &Host,
    cx: &NativeCallContext,
    x: &Dynamic,
    o: &Opts,
    loss: &FnPtr,
) -> std::result::Result<Map, Fail> {
    let steps = o.or("steps", 100usize)?;
    let mut state = match o.get::<State>("optimizer")? {
        Some(_) if o.keys().any(|k| k == "lr" || k == "decay") => {
            return Err(Error::value("minimize", "lr and decay belong to the optimizer")
                .expected("either optimizer, or lr and decay")
                .hint("optimizer: adamw(#{ lr: 0.01, weight_decay: 0.1 })")
                .into());
        }
        Some(state) => state,
        None => {
            let decay = o.get::<f64>("decay")?.filter(|d| *d != 0.0);
            let rule = Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay };
            State::new(Optimizer::new("minimize", rule, o.or("lr", 0.01)?)?)
        }
    };
    let mut best = tree::detach(x)?;
    let mut losses = Vec::with_capacity(steps.min(1 << 16));
    for i in 0..steps {
        host.cancel().check("minimize")?;
        let (value, grads) = all_gradients(host, cx, "minimize", &best, loss, Some(i))?;
        if !value.is_finite() {
            let error =
                Error::value("minimize", format!("the loss is no finite number any more, at step {i}"));
            return Err(error.got(value.to_string()).hint("take a smaller lr").into());
        }
        losses.push(Dynamic::from(value));
        let grad = tree::rebuild(&best, &grads)?;
        (best, state) = state.step("minimize", &best, &grad)?;
        host.worked();
        if let Some(z) = best.read_lock::<Latent>() {
            host.preview("what is optimized", || Ok(z.clone()));
        }
        host.emit(Event::Loss { label: "optimizing", step: i + 1, loss: value });
        host.emit(Event::Step { label: "optimizing", done: i + 1, total: steps });
    }
    let mut map = Map::new();
    map.insert("x".into(), best);
    map.insert("losses".into(), Dynamic::from_array(losses));
    map.insert("optimizer".into(), Dynamic::from(state));
    Ok(map)
}

fn mse(a: &Dynamic, b: &Dynamic) -> Result<Tensor> {
    let numbers =
        |x: &Dynamic| tree::values(x).or_else(|| x.read_lock::<Picture>().map(|p| p.tensor().clone()));
    let (Some(p), Some(q)) = (numbers(a), numbers(b)) else {
        return Err(Error::value("mse", "these cannot be compared")
            .expected("two Latents, Tensors, Embeddings or Images")
            .got(format!("{} and {}", types::got(a), types::got(b))));
    };
    if p.dims() != q.dims() {
        return Err(Error::shape("mse", "the two differ in shape")
            .expected(format!("{:?}", p.dims()))
            .got(format!("{:?}", q.dims())));
    }
    let (p, q) = ops::on_one_device(&p, &q)?;
    let (p, q) = (p.to_dtype(candle_core::DType::F32)?, q.to_dtype(candle_core::DType::F32)?);
    Ok(Tensor((p - q)?.sqr()?.mean_all()?))
}

/// Binds them.
pub fn register(r: &mut Registry) {
    const SETUP: &str = "let m = load(\"emoji\");\nlet z = m.noise(0);\nlet text = m.encode(\"a dog\");\n";
    r.group(
        "Gradients",
        "Gradients of a loss that a closure computes. What they flow to is named: the closure's own first value.",
    );
    let host = r.host();
    r.def(
        "grad(x, |x| loss)",
        "The loss and its gradient with respect to `x` (a Latent, Tensor or Embedding, or a list or map of them), as \
         #{ value, grad }. The closure computes a Tensor of one value from its own `x`; models, steps and arithmetic are \
         differentiated through.",
    )
    .example("let t = tensor([1, 2, 3]);\ngrad(t, |t| sum(t * t)).grad.list() // => [2.0, 4.0, 6.0]")
    .example(&format!("{SETUP}grad(z, |z| mse(m.predict(z, 500, text), z)).grad.shape // => [1, 4, 16, 16]"))
    .example(
        "let g = grad(#{ a: tensor([2]), b: tensor([3]) }, |x| sum(x.a * x.b)).grad;\n\
         [g.a.list(), g.b.list()] // => [[3.0], [2.0]]",
    )
    .example("grad(tensor([1]), |t| t.mean) // error: a number has forgotten where it came from")
    .see(&["minimize", "chain", "audit", "mse", "sum", "detach"])
    .work()
    .bind(move |cx: &NativeCallContext, x: Dynamic, loss: FnPtr| -> std::result::Result<Map, Fail> {
        let (value, grads) = all_gradients(&host, cx, "grad", &x, &loss, None)?;
        let mut map = Map::new();
        map.insert("value".into(), Dynamic::from(value));
        map.insert("grad".into(), tree::rebuild(&x, &grads)?);
        Ok(map)
    });
    let host = r.host();
    r.def(
        "minimize(x, options, |x, i| loss)",
        "Follows the gradient by Adam (torch's update), or by another optimizer, from `x` on, and gives #{ x, losses, \
         optimizer }; `i` is the step. `x` and the loss are those of `grad`.",
    )
    .option("steps", "integer", "100")
    .option("lr", "number", "learning rate; 0.01")
    .option("decay", "number", "decoupled weight decay (AdamW); 0")
    .option("optimizer", "Optimizer", "instead of lr and decay: adam, adamw or sgd; one that has stepped goes on")
    .example(
        "let t = minimize(tensor([0, 0]), #{ steps: 200, lr: 0.1 }, |t, i| mse(t, tensor([1, -2]))).x;\n\
         distance(t.reshape([1, 2, 1, 1]).latent(), tensor([1, -2], [1, 2, 1, 1]).latent()) < 0.05 // => true",
    )
    .example(
        "let o = sgd(#{ lr: 0.25 });\n\
         minimize(tensor([0]), #{ steps: 2, optimizer: o }, |t, i| sum((t - 8).pow(2))).x.list() // => [6.0]",
    )
    .see(&["grad", "adam", "adamw", "sgd"])
    .work()
    .bind(move |cx: &NativeCallContext, x: Dynamic, o: Opts, loss: FnPtr| minimize(&host, cx, &x, &o, &loss));
    r.def("mse(a, b)", "The mean squared difference of two Latents, Tensors, Embeddings or Images of one shape, as a Tensor.")
        .example("mse(tensor([1, 2]), tensor([1, 4])).list() // => [2.0]")
        .see(&["grad", "distance"])
        .bind(|a: Dynamic, b: Dynamic| mse(&a, &b));
    r.def("sum(t)", "The sum of all values, as a Tensor of one value: for losses.")
        .example("sum(tensor([1, 2, 3])).list() // => [6.0]")
        .see(&["grad", "mse"])
        .bind(|t: Tensor| Ok::<_, Error>(Tensor(ops::wide(&t.0)?.sum_all()?)));
    r.def("detach(x)", "The same value (or list, or map) without the graph of a gradient: to keep it, or to count it as fixed in a loss.")
        .example("let kept = ();\ngrad(tensor([1, 2]), |t| { kept = detach(t); sum(t) });\nkept.list() // => [1.0, 2.0]")
        .example("let kept = ();\ngrad(tensor([1, 2]), |t| { kept = t; sum(t) });\nkept.list() // error: detach(x)")
        .see(&["grad"])
        .bind(|x: Dynamic| tree::detach(&x));
}
