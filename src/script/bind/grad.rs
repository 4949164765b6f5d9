//! Gradients: of a loss that a closure computes, with respect to one value.

use candle_core::{Tensor as Values, Var};
use rhai::{Dynamic, FnPtr, Map, NativeCallContext};

use super::tensor::Tensor;
use crate::engine::error::{Error, Result};
use crate::engine::image::Picture;
use crate::engine::latent::Latent;
use crate::engine::observe::Event;
use crate::engine::optimize::Adam;
use crate::engine::weights::embedding::Embedding;
use crate::script::args::Opts;
use crate::script::host::Host;
use crate::script::registry::Registry;
use crate::script::types;
use crate::script::values::Fail;

/// The values behind a handle, if it is of a kind that can have a gradient.
fn values(x: &Dynamic) -> Option<Values> {
    let latent = x.read_lock::<Latent>().map(|z| z.tensor().clone());
    let tensor = || x.read_lock::<Tensor>().map(|t| t.0.clone());
    let text = || x.read_lock::<Embedding>().map(|e| e.states().clone());
    latent.or_else(tensor).or_else(text)
}

/// A value of the same kind with other numbers.
fn like(x: &Dynamic, values: Values) -> Result<Dynamic> {
    if x.read_lock::<Latent>().is_some() {
        return Ok(Dynamic::from(Latent::new(values)?));
    }
    match x.read_lock::<Embedding>() {
        Some(e) => Ok(Dynamic::from(e.with_states(values)?)),
        None => Ok(Dynamic::from(Tensor(values))),
    }
}

/// Whether a value carries the graph of a gradient.
pub fn is_tracked(x: &Dynamic) -> bool {
    values(x).is_some_and(|v| v.track_op()) || x.read_lock::<Picture>().is_some_and(|p| p.tensor().track_op())
}

/// Value and gradient of `loss(x, more...)`.
fn gradient(
    host: &Host,
    cx: &NativeCallContext,
    op: &str,
    x: &Dynamic,
    loss: &FnPtr,
    step: Option<usize>,
) -> std::result::Result<(f64, Values), Fail> {
    let Some(numbers) = values(x) else {
        return Err(Error::value(op, format!("x cannot be {}", types::got(x)))
            .expected("x: Latent, Tensor or Embedding")
            .got(types::got(x))
            .into());
    };
    let var = Var::from_tensor(&numbers.detach()).map_err(Error::from)?;
    let leaf = like(x, var.as_tensor().clone())?;
    let inside = host.track();
    let result = match step {
        None => loss.call_within_context::<Dynamic>(cx, (leaf,)),
        Some(i) => loss.call_within_context::<Dynamic>(cx, (leaf, i as i64)),
    };
    drop(inside);
    let result = result?;
    let bad = |what: &str| {
        Error::value(op, what)
            .expected("a Tensor of one value that was computed from x")
            .got(types::got(&result))
    };
    let Some(total) = result.read_lock::<Tensor>().map(|t| t.0.clone()) else {
        let error = bad("the closure must return the loss");
        return Err(error
            .hint("a number has forgotten where it came from: mse(a, b) and sum(t) give Tensors")
            .into());
    };
    if total.elem_count() != 1 {
        return Err(bad("the loss must be one value").hint("sum(t), mse(a, b)").into());
    }
    if !total.track_op() {
        return Err(bad("the loss does not depend on x")
            .hint("use the closure's own x, not the value outside")
            .into());
    }
    host.worked();
    let total = total.flatten_all().and_then(|t| t.get(0)).map_err(Error::from)?;
    let grads = total.backward().map_err(Error::from)?;
    // What got none would be a silent zero.
    let Some(grad) = grads.get(&var) else {
        return Err(bad("no gradient arrived at x")
            .hint("use the closure's own x, not the value outside")
            .into());
    };
    let value =
        total.to_dtype(candle_core::DType::F64).and_then(|t| t.to_scalar::<f64>()).map_err(Error::from)?;
    Ok((value, grad.detach()))
}

fn minimize(
    host: &Host,
    cx: &NativeCallContext,
    x: &Dynamic,
    o: &Opts,
    loss: &FnPtr,
) -> std::result::Result<Map, Fail> {
    let steps = o.or("steps", 100usize)?;
    let mut adam = Adam::new(o.number("lr", 0.01, 0.0, 1e6)?)?;
    adam.decay = o.number("decay", 0.0, 0.0, 1e6)?;
    let mut best = x.clone();
    let mut losses = Vec::with_capacity(steps.min(1 << 16));
    for i in 0..steps {
        host.cancel().check("minimize")?;
        let (value, grad) = gradient(host, cx, "minimize", &best, loss, Some(i))?;
        if !value.is_finite() {
            let error =
                Error::value("minimize", format!("the loss is no finite number any more, at step {i}"));
            return Err(error.got(value.to_string()).hint("take a smaller lr").into());
        }
        losses.push(Dynamic::from(value));
        let Some(old) = values(&best) else { break };
        best = like(x, adam.step(&old, &grad)?)?;
        host.worked();
        host.emit(Event::Step { label: "optimizing", done: i + 1, total: steps });
    }
    let mut map = Map::new();
    map.insert("x".into(), best);
    map.insert("losses".into(), Dynamic::from_array(losses));
    Ok(map)
}

fn mse(a: &Dynamic, b: &Dynamic) -> Result<Tensor> {
    let numbers = |x: &Dynamic| values(x).or_else(|| x.read_lock::<Picture>().map(|p| p.tensor().clone()));
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
    Ok(Tensor((p - q.to_dtype(candle_core::DType::F32)?)?.sqr()?.mean_all()?))
}

/// Binds them.
pub fn register(r: &mut Registry) {
    const SETUP: &str = "let m = load(\"emoji\");\nlet z = m.noise(0);\nlet text = m.encode(\"a dog\");\n";
    r.group("Gradients", "Gradients of a loss that a closure computes. What they flow to is named: the closure's own first value.");
    let host = r.host();
    r.def(
        "grad(x, |x| loss)",
        "The loss and its gradient with respect to `x`, a Latent, Tensor or Embedding, as #{ value, grad }. The closure computes a \
         Tensor of one value from its own `x`; models, steps and arithmetic are differentiated through.",
    )
    .example("let t = tensor([1, 2, 3]);\ngrad(t, |t| sum(t * t)).grad.list() // => [2.0, 4.0, 6.0]")
    .example(&format!("{SETUP}grad(z, |z| mse(m.predict(z, 500, text), z)).grad.shape // => [1, 4, 16, 16]"))
    .example("grad(tensor([1]), |t| t.mean) // error: a number has forgotten where it came from")
    .see(&["minimize", "mse", "sum", "detach"])
    .work()
    .bind(move |cx: &NativeCallContext, x: Dynamic, loss: FnPtr| -> std::result::Result<Map, Fail> {
        let (value, grad) = gradient(&host, cx, "grad", &x, &loss, None)?;
        let mut map = Map::new();
        map.insert("value".into(), Dynamic::from(value));
        map.insert("grad".into(), like(&x, grad)?);
        Ok(map)
    });
    let host = r.host();
    r.def(
        "minimize(x, options, |x, i| loss)",
        "Follows the gradient by Adam (torch's update) from `x` on, and gives #{ x, losses }; `i` is the step. The loss is \
         computed as for `grad`.",
    )
    .option("steps", "integer", "100")
    .option("lr", "number", "learning rate; 0.01")
    .option("decay", "number", "decoupled weight decay (AdamW); 0")
    .example(
        "let t = minimize(tensor([0, 0]), #{ steps: 200, lr: 0.1 }, |t, i| mse(t, tensor([1, -2]))).x;\n\
         distance(t.reshape([1, 2, 1, 1]).latent(), tensor([1, -2], [1, 2, 1, 1]).latent()) < 0.05 // => true",
    )
    .see(&["grad"])
    .work()
    .bind(move |cx: &NativeCallContext, x: Dynamic, o: Opts, loss: FnPtr| minimize(&host, cx, &x, &o, &loss));
    r.def("mse(a, b)", "The mean squared difference of two Latents, Tensors, Embeddings or Images of one shape, as a Tensor.")
        .example("mse(tensor([1, 2]), tensor([1, 4])).list() // => [2.0]")
        .see(&["grad", "distance"])
        .bind(|a: Dynamic, b: Dynamic| mse(&a, &b));
    r.def("sum(t)", "The sum of all values, as a Tensor of one value: for losses.")
        .example("sum(tensor([1, 2, 3])).list() // => [6.0]")
        .see(&["grad", "mse"])
        .bind(|t: Tensor| Ok::<_, Error>(Tensor(t.0.sum_all()?)));
    r.def("detach(x)", "The same value without the graph of a gradient: to keep it, or to count it as fixed in a loss.")
        .example("let kept = ();\ngrad(tensor([1, 2]), |t| { kept = detach(t); sum(t) });\nkept.list() // => [1.0, 2.0]")
        .example("let kept = ();\ngrad(tensor([1, 2]), |t| { kept = t; sum(t) });\nkept.list() // error: detach(x)")
        .see(&["grad"])
        .bind(|x: Dynamic| -> Result<Dynamic> {
            if let Some(p) = x.read_lock::<Picture>() {
                return Ok(Dynamic::from(Picture::from_tensor(p.tensor().detach())?));
            }
            match values(&x) {
                Some(v) => like(&x, v.detach()),
                None => Ok(x),
            }
        });
}
