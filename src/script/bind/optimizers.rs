//! Optimizers as values: a step gives the new `x` and the new state, the old state still works.

use rhai::{Dynamic, Map};

use super::tree;
use crate::engine::error::{Error, Result};
use crate::engine::optimize::{Optimizer, Rule};
use crate::script::args::Opts;
use crate::script::registry::Registry;
use crate::script::types::{self, Handle};

/// An optimizer, and a value of the form of what it has stepped with.
#[derive(Clone, Debug)]
pub struct State {
    optimizer: Optimizer,
    form: Option<Dynamic>,
}

impl State {
    /// No step taken.
    pub fn new(optimizer: Optimizer) -> Self {
        State { optimizer, form: None }
    }

    /// The rule with its memory.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// `x` after a step against the gradient, and the state that goes on.
    pub fn step(&self, op: &str, x: &Dynamic, grad: &Dynamic) -> Result<(Dynamic, State)> {
        let (values, grads) = (tree::leaves(op, "x", x)?, tree::leaves(op, "g", grad)?);
        let tracked = values.iter().chain(&grads).find(|(_, v)| v.track_op());
        if let Some((name, _)) = tracked {
            return Err(Error::value(op, format!("a step has no gradient, and {name} is part of one"))
                .expected("values outside of grad, or detached")
                .hint("detach(x), if it shall count as fixed"));
        }
        let numbers =
            |all: crate::script::tracking::Leaves| all.into_iter().map(|(_, v)| v).collect::<Vec<_>>();
        let (made, optimizer) = self.optimizer.step(&numbers(values), &numbers(grads))?;
        let new = tree::rebuild(x, &made)?;
        Ok((new.clone(), State { optimizer, form: Some(new) }))
    }

    fn moments(&self) -> Result<Map> {
        let Some(form) = &self.form else { return Ok(Map::new()) };
        self.optimizer.moments().map(|(name, all)| Ok((name.into(), tree::rebuild(form, all)?))).collect()
    }
}

impl Handle for State {
    const NAME: &'static str = "Optimizer";

    fn detail(&self) -> String {
        let steps = self.optimizer.steps();
        let s = if steps == 1 { "" } else { "s" };
        format!("{}  lr {}  {steps} step{s}", self.optimizer.name(), types::number(self.optimizer.lr()))
    }

    fn bytes(&self) -> usize {
        self.optimizer.bytes()
    }
}

fn adam(op: &str, o: &Opts, decay: Option<f64>) -> Result<State> {
    let rule = Rule::Adam {
        beta1: o.or("beta1", 0.9)?,
        beta2: o.or("beta2", 0.999)?,
        eps: o.or("eps", 1e-8)?,
        decay,
    };
    Ok(State::new(Optimizer::new(op, rule, o.or("lr", 1e-3)?)?))
}

/// Binds them.
pub fn register(r: &mut Registry) {
    r.group(
        "Optimizers",
        "Update rules with their memory, as values: a step gives a new one, and the old one can step again in another way.",
    );
    r.def("adam(options)", "Adam, with torch's update and defaults.")
        .option("lr", "number", "learning rate; 0.001")
        .option("beta1", "number", "decay of the mean of gradients; 0.9")
        .option("beta2", "number", "decay of the mean of their squares; 0.999")
        .option("eps", "number", "added to the root of the mean square; 1e-8")
        .example("adam(#{ lr: 0.1 }) // => Optimizer adam  lr 0.1  0 steps")
        .example(
            "let x = tensor([0, 4]);\nlet o = adam(#{ lr: 0.1 });\n\
             for i in 0..3 {\n    let next = o.step(x, grad(x, |x| sum((x - 3).pow(2))).grad);\n    x = next.x;\n    o = next.state;\n}\n\
             [o.steps, x.list()[0] > 0.29] // => [3, true]",
        )
        .example("adam(#{ lr: 0 }) // error: lr is out of range")
        .see(&["adamw", "sgd", "minimize", "step"])
        .bind(|o: Opts| adam("adam", &o, None));
    r.def("adamw(options)", "AdamW: Adam with decoupled weight decay, with torch's update and defaults.")
        .option("lr", "number", "learning rate; 0.001")
        .option("beta1", "number", "decay of the mean of gradients; 0.9")
        .option("beta2", "number", "decay of the mean of their squares; 0.999")
        .option("eps", "number", "added to the root of the mean square; 1e-8")
        .option("weight_decay", "number", "share of x that a step of lr 1 would take away; 0.01")
        .example("adamw(#{ lr: 0.1, weight_decay: 0.5 }).step(tensor([2]), tensor([0])).x.list() // => [1.9]")
        .see(&["adam", "minimize", "step"])
        .bind(|o: Opts| adam("adamw", &o, Some(o.or("weight_decay", 0.01)?)));
    r.def("sgd(options)", "Gradient descent, with torch's momentum if there is any.")
        .option("lr", "number", "learning rate; 0.001")
        .option("momentum", "number", "share of the last direction that stays; 0")
        .example("sgd(#{ lr: 0.5 }).step(tensor([1, 2]), tensor([1, -1])).x.list() // => [0.5, 2.5]")
        .see(&["adam", "minimize", "step"])
        .bind(|o: Opts| -> Result<State> {
            let rule = Rule::Sgd { momentum: o.or("momentum", 0.0)? };
            Ok(State::new(Optimizer::new("sgd", rule, o.or("lr", 1e-3)?)?))
        });
    const AFTER: &str = "let o = adam(#{ lr: 0.1 }).step(tensor([1, 2]), tensor([1, -1])).state;\n";
    let example = |code: &str| format!("{AFTER}{code}");
    r.def(
        "o.step(x, g)",
        "One step from `x` (a Latent, Tensor or Embedding, or a list or map of them) against its gradient `g`, as \
         #{ x, state }: the new values, and the optimizer that goes on from there. `o` itself stays as it is.",
    )
    .example("let a = sgd(#{ lr: 1 }).step(#{ x: tensor([1]), y: tensor([2]) }, #{ x: tensor([1]), y: tensor([0]) });\n[a.x.x.list(), a.x.y.list()] // => [[0.0], [2.0]]")
    .example("adam().step(tensor([1]), tensor([1, 2])) // error: the gradient has another shape than x")
    .see(&["adam", "grad", "minimize"])
    .bind(|o: State, x: Dynamic, g: Dynamic| -> Result<Map> {
        let (x, state) = o.step("step", &x, &g)?;
        Ok(Map::from([("x".into(), x), ("state".into(), Dynamic::from(state))]))
    });
    r.prop("o.steps", "How many steps lie behind.")
        .example(&example("o.steps // => 1"))
        .bind(|o: State| i64::from(o.optimizer.steps()));
    r.prop("o.lr", "The learning rate.")
        .example(&example("o.lr // => 0.1"))
        .bind(|o: State| o.optimizer.lr());
    r.prop(
        "o.moments",
        "What is remembered, in the form of `x`: Adam's #{ mean, square }, momentum's #{ velocity }; an empty map before the \
         first step.",
    )
    .example(&example("o.moments.mean.list() // => [0.1, -0.1]"))
    .see(&["adam", "sgd"])
    .bind(|o: State| o.moments());
}
