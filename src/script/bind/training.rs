//! Following the loss of a closure for many steps: what `m.tune` and `net.tune` have in common.

use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use rhai::{Dynamic, FnPtr, NativeCallContext};

use super::grad::one_loss;
use super::optimizers::State as Rule;
use super::tree;
use crate::engine::error::{Error, Result};
use crate::engine::observe::Event;
use crate::engine::optimize::{Optimizer, Rule as Update};
use crate::engine::train::{About, Ended, Measured, State, Training};
use crate::script::args::Opts;
use crate::script::host::Host;
use crate::script::registry::Def;
use crate::script::tracking::{Gradient, Leaves, arrived};
use crate::script::values::Fail;

/// Most steps of one run.
const MOST_STEPS: i64 = 10_000_000;

/// What is trained: a model's weights, a network.
pub(super) trait Trained {
    /// How the closure is written: "two: |m, i| ...".
    const FORM: &'static str;
    /// What a loss shall depend on, for messages.
    const WHAT: &'static str;
    /// A loss that does.
    const EXAMPLE: &'static str;
    /// Why no gradient may have arrived at a value.
    const HINT: &'static str;

    /// What the closure gets: the trained value with `values` in place of those of the state.
    fn value(&self, state: &State, values: &[Tensor]) -> Result<Dynamic>;

    /// What the closure's runs have left behind, to be kept along with the state; see [`State::keeping`].
    fn kept(&self) -> Result<Option<Vec<Tensor>>> {
        Ok(None)
    }
}

/// The documentation of the options that [`Asked::read`] reads.
pub(super) fn options<'a>(def: Def<'a>, lr: &str) -> Def<'a> {
    def.option("steps", "integer", "100")
        .option("lr", "number", &format!("learning rate; {lr}. 0 changes nothing"))
        .option("optimizer", "Optimizer", "instead of lr and decay: adam, adamw or sgd")
        .option("decay", "number", "decoupled weight decay (AdamW); 0")
        .option("clip", "number", "largest norm of the whole gradient; longer ones are scaled down")
        .option("file", "string", "checkpoint below --out: weights, moments, step, losses")
        .option(
            "every",
            "integer",
            "a checkpoint after that many steps; without it at the end, and when the run is stopped",
        )
        .option("resume", "true|false", "go on from the file, if it is there")
}

/// A whole number of an option. Errors: out of range.
pub(super) fn whole(o: &Opts, key: &str, default: i64, lo: i64, hi: i64) -> Result<usize> {
    let x = o.or(key, default)?;
    if (lo..=hi).contains(&x) {
        return Ok(x as usize);
    }
    Err(Error::value("tune", format!("option {key} is out of range"))
        .expected(format!("{lo} to {hi}"))
        .got(x.to_string()))
}

/// How a run shall go.
pub(super) struct Asked {
    steps: usize,
    clip: Option<f64>,
    every: Option<usize>,
    file: Option<PathBuf>,
    resume: bool,
    /// What follows the gradient.
    pub optimizer: Optimizer,
}

impl Asked {
    /// Errors: options out of range, `every` or `resume` without a file, a file that may not be written.
    pub(super) fn read(host: &Host, o: &Opts, lr: f64) -> Result<Self> {
        let steps = whole(o, "steps", 100, 0, MOST_STEPS)?;
        let clip = o.get::<f64>("clip")?;
        if let Some(bad) = clip.filter(|c| !c.is_finite() || *c <= 0.0) {
            return Err(Error::value("tune", "option clip is out of range")
                .expected("a positive number: the largest norm of the gradient")
                .got(bad.to_string()));
        }
        let optimizer = optimizer(o, lr)?;
        let (file, resume) = checkpoint_path(host, o)?;
        let every = match o.get::<i64>("every")? {
            None => None,
            Some(_) => Some(whole(o, "every", 1, 1, MOST_STEPS)?),
        };
        Ok(Asked { steps, clip, every, file, resume, optimizer })
    }
}

fn optimizer(o: &Opts, lr: f64) -> Result<Optimizer> {
    let given = o.get::<Rule>("optimizer")?;
    if let Some(rule) = &given {
        if o.keys().any(|k| k == "lr" || k == "decay") {
            return Err(Error::value("tune", "lr and decay belong to the optimizer")
                .expected("either optimizer, or lr and decay")
                .hint("optimizer: adamw(#{ lr: 1e-5, weight_decay: 0.01 })"));
        }
        if rule.optimizer().steps() > 0 {
            return Err(Error::value("tune", "this optimizer has stepped with other values")
                .expected("a new one")
                .hint("a run goes on by its checkpoint: file and resume: true"));
        }
        return Ok(rule.optimizer().clone());
    }
    let decay = o.get::<f64>("decay")?.filter(|d| *d != 0.0);
    let rule = Update::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay };
    Optimizer::new("tune", rule, 1.0)?.with_lr("tune", o.or("lr", lr)?)
}

/// Where checkpoints go, and whether the run goes on from one.
fn checkpoint_path(host: &Host, o: &Opts) -> Result<(Option<PathBuf>, bool)> {
    let Some(name) = o.get::<String>("file")? else {
        if o.keys().any(|k| k == "resume" || k == "every") {
            return Err(Error::value("tune", "every and resume need a file")
                .expected("file: \"name.safetensors\", below --out"));
        }
        return Ok((None, false));
    };
    if name.trim().is_empty() {
        return Err(
            Error::value("tune", "the file name is empty").hint("file: \"tuned-checkpoint.safetensors\"")
        );
    }
    let path = if Path::new(&name).extension().is_some() { name } else { format!("{name}.safetensors") };
    Ok((Some(host.policy.borrow().writable("tune", Path::new(&path))?), o.or("resume", false)?))
}

/// Follows the loss from `fresh`, or from the checkpoint that it goes on from. `about` says whose run it is, besides its options.
/// A run that is stopped has saved its last good state, in its file or as NAME-tune.safetensors.
pub(super) fn follow<T: Trained>(
    host: &Host,
    cx: &NativeCallContext,
    what: &T,
    fresh: State,
    asked: Asked,
    mut about: About,
    loss: &FnPtr,
) -> std::result::Result<State, Fail> {
    let rule = fresh.optimizer();
    about.insert("optimizer".into(), format!("{:?} lr {}", rule.rule(), rule.lr()));
    about.insert("clip".into(), asked.clip.map_or("none".into(), |c| c.to_string()));
    let Asked { steps, clip, every, file, resume, .. } = asked;
    let training = Training { op: "tune", label: "tuning", steps, clip, every, file, about };
    let state = training.begin(fresh, resume)?;
    let observer = host.observer();
    let ended: Ended<Fail> = training.run(state, host.cancel(), &*observer, |state| {
        let measured = measure(host, cx, what, state, loss);
        host.worked();
        measured
    });
    if let Some(path) = training.file.as_ref().filter(|p| p.exists()) {
        host.note_saved(path);
    }
    match ended.stopped {
        None => Ok(ended.state),
        Some(fail) => {
            if training.file.is_none() && ended.state.step() > 0 {
                keep(host, &training, &ended.state);
            }
            Err(fail)
        }
    }
}

/// Saves where a run stopped that has no file of its own.
fn keep(host: &Host, training: &Training, state: &State) {
    let recipe = host.stopped_name();
    let name = format!("{}-tune.safetensors", if recipe.is_empty() { "cell" } else { &recipe });
    let saved = training.bytes(state).and_then(|bytes| {
        host.may_save("tune", bytes.len() as u64)?;
        host.policy.borrow().write_new("tune", Path::new(&name), &bytes)
    });
    match saved {
        Ok(path) => host.note_saved(&path),
        Err(e) => {
            host.emit(Event::Warn(format!("the state of step {} could not be saved: {e}", state.step())))
        }
    }
}

/// The loss of the closure for a state, and its gradients.
fn measure<T: Trained>(
    host: &Host,
    cx: &NativeCallContext,
    what: &T,
    state: &State,
    loss: &FnPtr,
) -> std::result::Result<Measured, Fail> {
    let inside = host.track(Gradient::default());
    let gradient = &inside.gradient;
    let leaves: Leaves = state
        .names()
        .iter()
        .zip(state.values())
        .map(|(name, v)| Ok((name.clone(), gradient.tape().variable(v)?)))
        .collect::<Result<_>>()?;
    let values: Vec<Tensor> = leaves.iter().map(|(_, v)| v.clone()).collect();
    let value = what.value(state, &values)?;
    // What the value of this step holds is none of the script's own.
    host.worked();
    let result = loss
        .call_within_context::<Dynamic>(cx, (value, state.step() as i64))
        .map_err(|e| tree::wrong_count("tune", loss, T::FORM, e))?;
    let total = one_loss("tune", &result)?;
    drop(result);
    if !total.track_op() {
        return Err(Error::value("tune", format!("the loss does not depend on {}", T::WHAT))
            .expected("a Tensor of one value, computed with what the closure gets")
            .hint(T::EXAMPLE)
            .into());
    }
    let loss = total.detach().to_dtype(DType::F64).and_then(|t| t.to_scalar::<f64>()).map_err(Error::from)?;
    if !loss.is_finite() {
        // The loop stops at it; there is nothing to go back for.
        return Ok(Measured { loss, grads: Vec::new(), kept: None });
    }
    // Before the way back, on which a tape runs parts of the closure again.
    let kept = what.kept()?;
    let grads = gradient.backward(host, cx, "tune", &total)?;
    let grads = leaves.iter().zip(arrived(&grads, &leaves)).map(|((name, _), grad)| {
        grad.ok_or_else(|| {
            Error::value("tune", format!("no gradient arrived at {name}"))
                .expected("a loss that depends on everything that is tuned")
                .hint(T::HINT)
        })
    });
    Ok(Measured { loss, grads: grads.collect::<Result<_>>()?, kept })
}
