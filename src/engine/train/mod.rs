//! Training: named values follow the gradient of a loss for many steps, with checkpoints from which a run goes on bit for
//! bit as if it had never stopped.
//!
//! The loop knows nothing of networks: whoever trains gives named tensors and, for every step, the loss and its gradients.
//! A [`State`] is a value: steps taken, the tensors, the optimizer's memory, the losses so far. There is no hidden random
//! state: what is drawn in a step is drawn from the number of the step, so that number is all that a checkpoint needs.

mod checkpoint;

use std::path::PathBuf;

use candle_core::Tensor;

pub use checkpoint::About;

use super::error::{Error, Result};
use super::observe::{Cancel, Event, Observer};
use super::ops::{sum_of_squares, wide};
use super::optimize::Optimizer;

/// Where a run stands.
#[derive(Clone, Debug)]
pub struct State {
    names: Vec<String>,
    values: Vec<Tensor>,
    optimizer: Optimizer,
    losses: Vec<f64>,
    kept: Vec<(String, Tensor)>,
}

impl State {
    /// No step taken. Values in half precision are trained in f32: whoever computes with them rounds them anew at every step.
    /// Errors: no values, a name twice.
    pub fn new(op: &str, parameters: Vec<(String, Tensor)>, optimizer: Optimizer) -> Result<Self> {
        let names: Vec<String> = parameters.iter().map(|(n, _)| n.clone()).collect();
        let values = parameters.iter().map(|(_, v)| Ok(wide(&v.detach())?)).collect::<Result<Vec<_>>>()?;
        let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
        if names.is_empty() || distinct.len() < names.len() {
            return Err(Error::value(op, "there must be values to train, each with a name of its own")
                .got(format!("{} values, {} names", names.len(), distinct.len())));
        }
        Ok(State { names, values, optimizer, losses: Vec::new(), kept: Vec::new() })
    }

    /// The same with values that no gradient changes, but every step may: running means.
    pub fn keeping(self, kept: Vec<(String, Tensor)>) -> Self {
        State { kept: kept.into_iter().map(|(n, v)| (n, v.detach())).collect(), ..self }
    }

    /// The values that no gradient changes, by name.
    pub fn kept(&self) -> &[(String, Tensor)] {
        &self.kept
    }

    /// Names of the values.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The values, in the order of their names.
    pub fn values(&self) -> &[Tensor] {
        &self.values
    }

    /// Steps taken.
    pub fn step(&self) -> usize {
        self.losses.len()
    }

    /// The loss at every step taken.
    pub fn losses(&self) -> &[f64] {
        &self.losses
    }

    /// The optimizer with its memory.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    fn next(&self, loss: f64, grads: &[Tensor], kept: Option<Vec<Tensor>>) -> Result<State> {
        let (values, optimizer) = self.optimizer.step(&self.values, grads)?;
        let mut losses = self.losses.clone();
        losses.push(loss);
        let kept = match kept {
            None => self.kept.clone(),
            Some(new) => self.kept.iter().zip(new).map(|((n, _), v)| (n.clone(), v.detach())).collect(),
        };
        Ok(State { names: self.names.clone(), values, optimizer, losses, kept })
    }
}

/// A loss and its gradients, one per value of the state.
#[derive(Debug)]
pub struct Measured {
    /// The loss.
    pub loss: f64,
    /// Its gradients, in the order of the values.
    pub grads: Vec<Tensor>,
    /// What the state keeps from now on, in the order of [`State::kept`]; `None`: as before.
    pub kept: Option<Vec<Tensor>>,
}

/// How to train.
#[derive(Clone, Debug)]
pub struct Training {
    /// Whose call this is, for messages.
    pub op: &'static str,
    /// What the progress is called.
    pub label: &'static str,
    /// Steps in all, those of an earlier run included.
    pub steps: usize,
    /// Largest norm of all gradients together; longer ones are scaled down to it.
    pub clip: Option<f64>,
    /// A checkpoint after that many steps; `None`: at the end and when the run is stopped.
    pub every: Option<usize>,
    /// Where checkpoints go.
    pub file: Option<PathBuf>,
    /// What the run is: a checkpoint of another one is refused.
    pub about: About,
}

/// What a run came to. After a stop the state is the last good one.
#[derive(Debug)]
pub struct Ended<E> {
    /// The state.
    pub state: State,
    /// Why it ended early.
    pub stopped: Option<E>,
}

impl Training {
    /// The state from which to go on: that of the checkpoint, if `resume` and there is one, else `fresh`.
    /// Errors: a checkpoint that is cut short or belongs to another run; one that is there though nothing shall be resumed.
    pub fn begin(&self, fresh: State, resume: bool) -> Result<State> {
        let Some(path) = self.file.as_ref().filter(|p| p.exists()) else { return Ok(fresh) };
        if !resume {
            return Err(Error::file(self.op, path, "there is a file of that name already")
                .hint("resume: true goes on from it; or give another name, or delete it"));
        }
        let state = checkpoint::read(self.op, path, &self.about, &fresh)?;
        if state.step() > self.steps {
            return Err(Error::file(self.op, path, "the checkpoint is further than this run goes")
                .expected(format!("at most {} steps", self.steps))
                .got(format!("{} steps", state.step())));
        }
        Ok(state)
    }

    /// Takes the steps that are left. `measure` gives loss and gradients of a state; its step is the state's number of steps.
    /// A loss or gradient that is no finite number, the cancel token and an error of `measure` stop the run: the state so far
    /// is given back, and saved if there is a file. A checkpoint that cannot be written is told as a warning; the run goes on,
    /// and the one before stays.
    pub fn run<E: From<Error>>(
        &self,
        mut state: State,
        cancel: &Cancel,
        observer: &dyn Observer,
        mut measure: impl FnMut(&State) -> std::result::Result<Measured, E>,
    ) -> Ended<E> {
        // The state before the last step: good until the loss of the next one is known.
        let mut before: Option<State> = None;
        let mut saved = None;
        let mut stopped = None;
        while state.step() < self.steps {
            let step = state.step();
            let measured = cancel.check(self.op).map_err(E::from).and_then(|()| measure(&state));
            let measured = match measured {
                Ok(measured) => measured,
                Err(e) => {
                    stopped = Some(e);
                    break;
                }
            };
            let next = match self.checked(&state, measured) {
                Ok(m) => state.next(m.loss, &m.grads, m.kept),
                Err((e, is_loss)) => {
                    if is_loss && let Some(good) = before.take() {
                        state = good;
                    }
                    stopped = Some(self.kept(e, &state).into());
                    break;
                }
            };
            match next {
                Ok(next) => before = Some(std::mem::replace(&mut state, next)),
                Err(e) => {
                    stopped = Some(e.into());
                    break;
                }
            }
            if let Some(loss) = state.losses.last() {
                observer.event(Event::Loss { label: self.label, step: step + 1, loss: *loss });
            }
            observer.event(Event::Step { label: self.label, done: step + 1, total: self.steps });
            if self.every.is_some_and(|n| (step + 1).is_multiple_of(n)) && self.save(&state, observer) {
                saved = Some(step + 1);
            }
        }
        if saved != Some(state.step()) {
            self.save(&state, observer);
        }
        Ended { state, stopped }
    }

    /// A state as the bytes of a checkpoint.
    pub fn bytes(&self, state: &State) -> Result<Vec<u8>> {
        checkpoint::encode(&self.about, state)
    }

    /// Whether it was written.
    fn save(&self, state: &State, observer: &dyn Observer) -> bool {
        let Some(path) = &self.file else { return false };
        match checkpoint::write(self.op, path, &self.about, state) {
            Ok(()) => true,
            Err(e) => {
                let text = format!("the checkpoint of step {} could not be saved: {e}", state.step());
                observer.event(Event::Warn(text));
                false
            }
        }
    }

    /// Loss and gradients, clipped. Errors, with whether it is the loss: no finite number.
    fn checked(&self, state: &State, measured: Measured) -> std::result::Result<Measured, (Error, bool)> {
        let Measured { loss, grads, kept } = measured;
        let (op, step) = (self.op, state.step());
        if !loss.is_finite() {
            let error = Error::value(op, format!("the loss is no finite number any more, at step {step}"));
            return Err((error.got(loss.to_string()), true));
        }
        let mut sum = 0.0;
        for (name, grad) in state.names.iter().zip(&grads) {
            let part = sum_of_squares(grad).map_err(|e| (e, false))?;
            if !part.is_finite() {
                let message = format!("the gradient of {name} is no finite number any more, at step {step}");
                return Err((Error::value(op, message).got(format!("loss {loss}")), false));
            }
            sum += part;
        }
        let norm = sum.sqrt();
        match self.clip.filter(|most| norm > *most) {
            Some(most) => {
                // As torch's clip_grad_norm_ has it.
                let scale = most / (norm + 1e-6);
                let scaled = grads.iter().map(|g| Ok(g.affine(scale, 0.0)?)).collect::<Result<_>>();
                Ok(Measured { loss, grads: scaled.map_err(|e| (e, false))?, kept })
            }
            None => Ok(Measured { loss, grads, kept }),
        }
    }

    fn kept(&self, error: Error, state: &State) -> Error {
        let place = match &self.file {
            Some(file) => format!("the state of step {} is in {}", state.step(), file.display()),
            None => format!("the last good state is that of step {}", state.step()),
        };
        error.hint(format!("{place}; take a smaller lr, or clip"))
    }
}

#[cfg(test)]
mod tests;
