//! [`Gradient`]: one gradient that is being computed. They lie in a stack, one for each `grad` inside another.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use candle_core::Tensor;
use rhai::NativeCallContext;

use super::host::Host;
use super::values::Fail;
use crate::engine::error::{Error, Result};
use crate::engine::tape::{Gradients, Tape};

/// A part of a computation that scripts run: again on the way back, from whatever call asks for the gradient.
pub type Step = dyn Fn(&NativeCallContext, &[Tensor]) -> std::result::Result<Vec<Tensor>, Fail>;

/// Operations in one graph, at most. candle goes through a graph, and drops it, by recursion: one that is some ten times
/// as long (an operation makes a few nodes) would overflow the stack.
const LONGEST: u32 = 20_000;

/// For how many operations a call of a model counts.
const MODEL: u32 = 100;

/// What one gradient needs to go back.
#[derive(Default)]
pub struct Gradient {
    tape: Rc<Tape>,
    steps: RefCell<Vec<Rc<Step>>>,
    length: Cell<u32>,
}

impl Gradient {
    /// For engine calls, which record parts of their own.
    pub fn tape(&self) -> &Rc<Tape> {
        &self.tape
    }

    /// The same, to go back once more.
    pub fn fork(&self) -> Gradient {
        Gradient { tape: Rc::new(self.tape.fork()), steps: self.steps.clone(), length: self.length.clone() }
    }

    /// Counts an operation of the script that gave a value with a graph. Errors: too many.
    pub fn grow(&self, op: &str, by_model: bool) -> Result<()> {
        let length = self.length.get().saturating_add(if by_model { MODEL } else { 1 });
        self.length.set(length);
        if length <= LONGEST {
            return Ok(());
        }
        Err(Error::new(crate::engine::Kind::Budget, op, "the graph of this gradient is too long")
            .expected(format!("at most {LONGEST} operations, a call of a model counting as {MODEL}"))
            .hint("chain(z, range, leaves, |z, i| ...) has a graph of one step at a time"))
    }

    /// Runs `step` without a graph; it will be run again on the way back.
    pub fn checkpoint(
        &self,
        cx: &NativeCallContext,
        inputs: &[Tensor],
        step: Rc<Step>,
    ) -> std::result::Result<Vec<Tensor>, Fail> {
        let outside = self.length.replace(0);
        let outputs = step(cx, &inputs.iter().map(Tensor::detach).collect::<Vec<_>>());
        self.length.set(outside);
        let outputs = outputs?;
        let number = self.steps.borrow().len();
        self.steps.borrow_mut().push(step);
        Ok(self.tape.checkpoint_outside(number, inputs, outputs)?)
    }

    /// The gradients of `loss`. Looks at the cancel token before every part.
    pub fn backward(
        &self,
        host: &Host,
        cx: &NativeCallContext,
        op: &str,
        loss: &Tensor,
    ) -> std::result::Result<Gradients, Fail> {
        let mut again = |number: usize, inputs: &[Tensor], before: &[Tensor]| {
            let step = self.steps.borrow().get(number).map(Rc::clone);
            let step = step.ok_or_else(|| Error::value(op, "a step of a chain is gone"))?;
            self.length.set(0);
            let outputs = step(cx, inputs)?;
            host.worked();
            same(op, before, &outputs)?;
            Ok::<_, Fail>(outputs)
        };
        self.tape.backward(loss, &mut again, &|| host.cancel().check(op))
    }

    /// Variables that are no part of this gradient, though `loss` was computed from them.
    pub fn is_foreign(&self, outer: &[Rc<Gradient>], loss: &Tensor) -> bool {
        outer.iter().any(|g| !Rc::ptr_eq(&g.tape, &self.tape) && g.tape.reaches(loss))
    }
}

/// A part that gives something else the second time has a gradient of something else.
fn same(op: &str, before: &[Tensor], after: &[Tensor]) -> Result<()> {
    for (a, b) in before.iter().zip(after) {
        let scale = if a.dims() == b.dims() { largest(a)?.max(1e-6) } else { 0.0 };
        // Anything but a small difference: one that is no number, too.
        let is_same = scale > 0.0 && largest(&(a.detach() - b.detach())?)? <= 1e-3 * scale;
        if !is_same {
            return Err(Error::value(op, "a step of a chain gave something else when it was run again")
                .expected("a closure that depends on its own values only, and changes nothing outside")
                .hint("take what differs (fresh noise, a counter) from a list made before the chain, by its step i"));
        }
    }
    Ok(())
}

fn largest(x: &Tensor) -> Result<f64> {
    let x = x.detach().flatten_all()?.to_dtype(candle_core::DType::F64)?;
    Ok(if x.elem_count() == 0 { 0.0 } else { x.abs()?.max(0)?.to_scalar::<f64>()? })
}

/// A gradient is being computed while this lives.
pub struct Tracking<'a> {
    stack: &'a RefCell<Vec<Rc<Gradient>>>,
    /// The gradient.
    pub gradient: Rc<Gradient>,
}

impl<'a> Tracking<'a> {
    /// Puts a gradient on the stack.
    pub fn begin(stack: &'a RefCell<Vec<Rc<Gradient>>>, gradient: Gradient) -> Self {
        let gradient = Rc::new(gradient);
        stack.borrow_mut().push(Rc::clone(&gradient));
        Tracking { stack, gradient }
    }
}

impl Drop for Tracking<'_> {
    fn drop(&mut self) {
        self.stack.borrow_mut().pop();
    }
}

/// Variables by which a gradient is asked for, with their places in the value that they belong to.
pub type Leaves = Vec<(String, Tensor)>;

/// The gradients of `leaves`; `None` for those that got none.
pub fn arrived(grads: &Gradients, leaves: &Leaves) -> Vec<Option<Tensor>> {
    leaves.iter().map(|(_, v)| grads.get(v).map(Tensor::detach)).collect()
}
