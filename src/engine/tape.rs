//! [`Tape`]: gradients through parts that are computed again on the way back, so that their graphs never lie in memory
//! together (checkpointing; Chen et al. 2016, arXiv 1604.06174).
//!
//! A part runs once without a graph; what it gives is cut off as variables of its own. [`Tape::backward`] goes through the
//! parts from the last to the first: it runs a part again, now with a graph, and hands on what has arrived at its cut. Every
//! variable gets its gradient, those inside a part (weights that are tuned) included.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use candle_core::{Tensor, TensorId, Var};

use super::error::{Error, Result};

/// Gradients of variables, and of nothing else: candle's own store keeps those of constants, too.
#[derive(Debug, Default)]
pub struct Gradients(HashMap<TensorId, Tensor>);

impl Gradients {
    /// That of a variable, if any has arrived.
    pub fn get(&self, variable: &Tensor) -> Option<&Tensor> {
        self.0.get(&variable.id())
    }

    /// How many variables have got one.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none has got one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds those of one more value.
    fn collect(&mut self, total: &Tensor) -> Result<()> {
        let mut grads = total.backward()?;
        for node in total.sorted_nodes().into_iter().filter(|n| n.is_variable()) {
            let Some(new) = grads.remove(node) else { continue };
            let sum = match self.0.remove(&node.id()) {
                Some(old) => (old + new)?,
                None => new,
            };
            self.0.insert(node.id(), sum.detach());
        }
        Ok(())
    }
}

/// Runs a part of the tape's owner once more: its number, its inputs, what it gave the first time.
pub type Again<'a, E> = dyn FnMut(usize, &[Tensor], &[Tensor]) -> std::result::Result<Vec<Tensor>, E> + 'a;

type Block = dyn Fn(&[Tensor]) -> Result<Vec<Tensor>>;

/// How a part is computed again.
#[derive(Clone)]
enum Work {
    /// By the engine.
    Block(Rc<Block>),
    /// By whoever owns the tape; the number is theirs.
    Outside(usize),
}

#[derive(Clone)]
struct Part {
    work: Work,
    /// As they came, with the graph that leads to them.
    inputs: Vec<Tensor>,
    /// The cut.
    outputs: Vec<Tensor>,
}

/// The parts of one gradient, in the order in which they ran.
#[derive(Default)]
pub struct Tape {
    parts: RefCell<Vec<Part>>,
    own: RefCell<HashSet<TensorId>>,
    count: Cell<usize>,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape({} parts)", self.parts.borrow().len())
    }
}

impl Tape {
    /// A variable with the values of `x`, that belongs to this gradient.
    pub fn variable(&self, x: &Tensor) -> Result<Tensor> {
        let var = Var::from_tensor(&x.detach())?.into_inner();
        self.own.borrow_mut().insert(var.id());
        Ok(var)
    }

    /// Whether `x` was computed from a variable of this gradient.
    pub fn reaches(&self, x: &Tensor) -> bool {
        let own = self.own.borrow();
        x.track_op() && x.sorted_nodes().iter().any(|n| n.is_variable() && own.contains(&n.id()))
    }

    /// How many parts were recorded so far.
    pub fn recorded(&self) -> usize {
        self.count.get()
    }

    /// A tape with the same parts: to go back twice.
    pub fn fork(&self) -> Tape {
        Tape { parts: self.parts.clone(), own: self.own.clone(), count: self.count.clone() }
    }

    /// `f(inputs)`, which is run again on the way back. It must give the same every time.
    pub fn checkpoint(
        &self,
        inputs: &[Tensor],
        f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + 'static,
    ) -> Result<Vec<Tensor>> {
        let outputs = f(&inputs.iter().map(Tensor::detach).collect::<Vec<_>>())?;
        self.record(Work::Block(Rc::new(f)), inputs, outputs)
    }

    /// The same for a part that the tape's owner has run (on detached inputs) and will run again: `number` is theirs.
    pub fn checkpoint_outside(
        &self,
        number: usize,
        inputs: &[Tensor],
        outputs: Vec<Tensor>,
    ) -> Result<Vec<Tensor>> {
        self.record(Work::Outside(number), inputs, outputs)
    }

    fn record(&self, work: Work, inputs: &[Tensor], outputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        // Constants stay constants.
        if !inputs.iter().chain(&outputs).any(|t| t.track_op()) {
            return Ok(outputs);
        }
        let outputs: Vec<Tensor> = outputs.iter().map(|t| self.variable(t)).collect::<Result<_>>()?;
        self.count.set(self.count.get() + 1);
        self.parts.borrow_mut().push(Part { work, inputs: inputs.to_vec(), outputs: outputs.clone() });
        Ok(outputs)
    }

    /// The gradients of `loss`, by variable. `again` runs a part of the owner's once more. `check` is asked before every part, and may stop.
    pub fn backward<E: From<Error>>(
        &self,
        loss: &Tensor,
        again: &mut Again<E>,
        check: &dyn Fn() -> Result<()>,
    ) -> std::result::Result<Gradients, E> {
        let mut grads = Gradients::default();
        grads.collect(loss)?;
        loop {
            // A part that is run again may record parts inside itself: they come next.
            let next = self.parts.borrow_mut().pop();
            let Some(part) = next else { return Ok(grads) };
            check()?;
            let arrived: Vec<Option<Tensor>> = part.outputs.iter().map(|t| grads.0.remove(&t.id())).collect();
            if arrived.iter().all(Option::is_none) {
                continue;
            }
            let outputs = match &part.work {
                Work::Block(f) => f(&part.inputs)?,
                Work::Outside(number) => again(*number, &part.inputs, &part.outputs)?,
            };
            if let Some(total) = along(&outputs, &arrived)? {
                grads.collect(&total)?;
            }
        }
    }
}

/// The sum of the outputs, each weighted with what has arrived at it: its gradient is the vector-Jacobian product.
fn along(outputs: &[Tensor], arrived: &[Option<Tensor>]) -> Result<Option<Tensor>> {
    let mut total: Option<Tensor> = None;
    for (output, grad) in outputs.iter().zip(arrived) {
        let Some(grad) = grad.as_ref().filter(|_| output.track_op()) else { continue };
        let part = (output * grad.to_dtype(output.dtype())?)?.sum_all()?;
        total = Some(match total {
            Some(sum) => (sum + part)?,
            None => part,
        });
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn tensor(values: &[f64]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    fn back(tape: &Tape, loss: &Tensor) -> Gradients {
        let mut none = |_, _: &[Tensor], _: &[Tensor]| -> Result<Vec<Tensor>> { panic!("nothing outside") };
        tape.backward(loss, &mut none, &|| Ok(())).unwrap()
    }

    fn values(t: &Tensor) -> Vec<f64> {
        t.to_dtype(DType::F64).unwrap().to_vec1().unwrap()
    }

    /// Parts behind one another, inside one another, used twice, with a weight inside and a constant input.
    #[test]
    fn a_tape_gives_the_plain_gradient() {
        let weight = Var::from_tensor(&tensor(&[0.5, -2.0])).unwrap();
        let constant = tensor(&[3.0, 4.0]);
        let w = weight.as_tensor().clone();
        let first = move |t: &[Tensor]| -> Result<Vec<Tensor>> {
            Ok(vec![(&t[0] * &w)?.sin()?, (&t[0] * &t[1])?.exp()?])
        };
        let second = |t: &[Tensor]| -> Result<Vec<Tensor>> { Ok(vec![((&t[0] * &t[1])? + &t[0])?]) };
        let tape = Rc::new(Tape::default());
        // Parts inside of a part go to the tape that goes back now.
        let current = Rc::new(RefCell::new(Rc::clone(&tape)));
        let x = tape.variable(&tensor(&[0.3, 0.7])).unwrap();
        let outer = (&x * 2.0).unwrap();
        let run = |tape: Option<&Rc<Tape>>| -> Tensor {
            let inputs = [outer.clone(), constant.clone()];
            let a = match tape {
                Some(tape) => tape.checkpoint(&inputs, first.clone()).unwrap(),
                None => first(&inputs).unwrap(),
            };
            let b = match tape {
                Some(tape) => {
                    let current = Rc::clone(&current);
                    let nested = move |t: &[Tensor]| current.borrow().checkpoint(t, second);
                    tape.checkpoint(&a, nested).unwrap()
                }
                None => second(&a).unwrap(),
            };
            ((&b[0] + &a[0]).unwrap() * &x).unwrap().sum_all().unwrap()
        };
        let loss = run(Some(&tape));
        let fork = Rc::new(tape.fork());
        let plain = run(None);
        let want = plain.backward().unwrap();
        for tape in [&tape, &fork] {
            current.replace(Rc::clone(tape));
            let grads = back(tape, &loss);
            assert_eq!(grads.len(), 2, "of x and the weight alone");
            for var in [&x, weight.as_tensor()] {
                let (ours, plain) = (values(grads.get(var).unwrap()), values(want.get(var).unwrap()));
                assert!(
                    ours.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-12 * b.abs()),
                    "{ours:?} {plain:?}"
                );
            }
        }
        assert!(tape.reaches(&outer) && !tape.reaches(&constant) && !tape.reaches(weight.as_tensor()));
    }

    #[test]
    fn constants_are_not_recorded() {
        let tape = Tape::default();
        let y = tape.checkpoint(&[tensor(&[1.0])], |t| Ok(vec![(&t[0] * 2.0)?])).unwrap();
        assert!(!y[0].track_op() && tape.recorded() == 0);
    }

    #[test]
    fn a_stop_ends_it() {
        let tape = Tape::default();
        let x = tape.variable(&tensor(&[1.0])).unwrap();
        let y = tape.checkpoint(&[x], |t| Ok(vec![(&t[0] * 2.0)?])).unwrap();
        let mut none = |_, _: &[Tensor], _: &[Tensor]| -> Result<Vec<Tensor>> { Ok(Vec::new()) };
        let stop = || Err(Error::cancelled("grad"));
        assert!(tape.backward(&y[0].sum_all().unwrap(), &mut none, &stop).is_err());
    }
}
