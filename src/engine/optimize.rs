//! Optimizers on plain tensors, with torch's update rules. An [`Optimizer`] is a value: a step gives the new one.
//!
//! Values in half precision are followed in f32 and rounded when they are handed out: a step is smaller than their last digit, and
//! squares of gradients are smaller than the least number of f16.

use candle_core::{Tensor, TensorId};

use super::error::{Error, Result};
use super::ops::{self, wide};

/// What a step does with a gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Adam (Kingma and Ba 2015), and with `decay` AdamW (Loshchilov and Hutter 2019), as torch.optim has them.
    Adam {
        /// Decay of the mean of gradients.
        beta1: f64,
        /// Decay of the mean of their squares.
        beta2: f64,
        /// Added to the root of the mean square.
        eps: f64,
        /// Decoupled weight decay; `None`: plain Adam.
        decay: Option<f64>,
    },
    /// Gradient descent with torch's momentum (the first step's is the gradient itself).
    Sgd {
        /// Share of the last step's direction that stays; 0: none is kept.
        momentum: f64,
    },
}

/// Rule, learning rate and what was remembered of the steps so far.
#[derive(Clone, Debug)]
pub struct Optimizer {
    rule: Rule,
    lr: f64,
    steps: i32,
    /// Per kind of moment, one tensor for each value that is optimized.
    moments: Vec<Vec<Tensor>>,
    /// Of values in half precision: what the last step handed out, and that before it was rounded.
    exact: Vec<Option<(TensorId, Tensor)>>,
}

impl Optimizer {
    /// No step taken. Errors, of `op`: numbers outside the ranges of the rule.
    pub fn new(op: &str, rule: Rule, lr: f64) -> Result<Self> {
        let within = |name: &str, x: f64, ok: bool, expected: &str| {
            let error =
                || Error::value(op, format!("{name} is out of range")).expected(expected).got(x.to_string());
            if ok && x.is_finite() { Ok(()) } else { Err(error()) }
        };
        within("lr", lr, lr > 0.0, "a positive number")?;
        match rule {
            Rule::Adam { beta1, beta2, eps, decay } => {
                within("beta1", beta1, (0.0..1.0).contains(&beta1), "0 or more, less than 1")?;
                within("beta2", beta2, (0.0..1.0).contains(&beta2), "0 or more, less than 1")?;
                within("eps", eps, eps > 0.0, "a positive number")?;
                let decay = decay.unwrap_or(0.0);
                within("weight_decay", decay, decay >= 0.0, "0 or more")?;
            }
            Rule::Sgd { momentum } => {
                within("momentum", momentum, (0.0..1.0).contains(&momentum), "0 or more, less than 1")?;
            }
        }
        Ok(Optimizer { rule, lr, steps: 0, moments: Vec::new(), exact: Vec::new() })
    }

    /// Its rule.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Its name: adam, adamw or sgd.
    pub fn name(&self) -> &'static str {
        match self.rule {
            Rule::Adam { decay: None, .. } => "adam",
            Rule::Adam { .. } => "adamw",
            Rule::Sgd { .. } => "sgd",
        }
    }

    /// The learning rate.
    pub fn lr(&self) -> f64 {
        self.lr
    }

    /// Steps taken.
    pub fn steps(&self) -> i32 {
        self.steps
    }

    /// What is remembered, by name: Adam's `mean` and `square`, momentum's `velocity`; nothing before the first step.
    pub fn moments(&self) -> impl Iterator<Item = (&'static str, &[Tensor])> {
        self.moment_names().iter().copied().zip(self.moments.iter().map(Vec::as_slice))
    }

    /// Bytes of what is remembered.
    pub fn bytes(&self) -> usize {
        let exact = self.exact.iter().flatten().map(|(_, x)| x);
        let all = self.moments.iter().flatten().chain(exact);
        all.map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum()
    }

    /// What is remembered after a step, by name.
    pub fn moment_names(&self) -> &'static [&'static str] {
        match self.rule {
            Rule::Adam { .. } => &["mean", "square"],
            Rule::Sgd { momentum } if momentum > 0.0 => &["velocity"],
            Rule::Sgd { .. } => &[],
        }
    }

    /// The same rule after `steps` steps, with what it remembered of them: one list per name of
    /// [`Optimizer::moment_names`].
    pub fn resumed(&self, steps: usize, moments: Vec<Vec<Tensor>>) -> Optimizer {
        let steps = i32::try_from(steps).unwrap_or(i32::MAX);
        Optimizer { steps, moments, exact: Vec::new(), ..*self }
    }

    /// The same with another learning rate; 0 leaves all values as they are.
    pub fn with_lr(&self, op: &str, lr: f64) -> Result<Optimizer> {
        if !lr.is_finite() || lr < 0.0 {
            return Err(Error::value(op, "lr is out of range").expected("0 or more").got(lr.to_string()));
        }
        Ok(Optimizer { lr, ..self.clone() })
    }

    /// The values after one step against their gradients, detached, and the optimizer that goes on from there. Values keep their
    /// type; moments of those in half precision are f32. Errors: other shapes than at the steps before, or than the gradients'.
    pub fn step(&self, x: &[Tensor], grads: &[Tensor]) -> Result<(Vec<Tensor>, Optimizer)> {
        let alike = |a: &[Tensor], b: &[Tensor]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.dims() == b.dims())
        };
        let shapes = |all: &[Tensor]| format!("{:?}", all.iter().map(Tensor::dims).collect::<Vec<_>>());
        if !alike(x, grads) {
            let error = Error::shape("step", "the gradient has another shape than x");
            return Err(error.expected(shapes(x)).got(shapes(grads)));
        }
        if let Some(kept) = self.moments.first().filter(|kept| !alike(kept, x)) {
            let error = Error::shape("step", "this optimizer has stepped with values of another shape");
            return Err(error.expected(shapes(kept)).got(shapes(x)).hint(format!(
                "a new one: {}(#{{ lr: {} }})",
                self.name(),
                self.lr
            )));
        }
        let steps = self.steps.saturating_add(1);
        let mut next = Optimizer { steps, moments: Vec::new(), exact: Vec::new(), ..*self };
        let mut made = Vec::with_capacity(x.len());
        for (i, (x, grad)) in x.iter().zip(grads).enumerate() {
            // Whoever goes on from another value than the one handed out means that value.
            let exact = self.exact.get(i).and_then(Option::as_ref).filter(|(id, _)| *id == x.id());
            let old = match exact {
                Some((_, exact)) => exact.clone(),
                None => wide(&x.detach())?,
            };
            let grad = grad.detach().to_dtype(old.dtype())?;
            let before = |kind: usize| self.moments.get(kind).and_then(|all| all.get(i));
            let (new, moments) = next.one(&old, &grad, before)?;
            let rounded = new.to_dtype(x.dtype())?;
            next.exact.push((new.dtype() != x.dtype()).then(|| (rounded.id(), new)));
            made.push(rounded);
            next.moments.resize_with(moments.len(), Vec::new);
            next.moments.iter_mut().zip(moments).for_each(|(all, m)| all.push(m));
        }
        Ok((made, next))
    }

    fn one<'a>(
        &self,
        x: &Tensor,
        grad: &Tensor,
        before: impl Fn(usize) -> Option<&'a Tensor>,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        match self.rule {
            Rule::Adam { beta1, beta2, eps, decay } => {
                let step = ops::Adam {
                    betas: [beta1, beta2],
                    corrections: [beta1, beta2].map(|beta| 1.0 - beta.powi(self.steps)),
                    eps,
                    lr: self.lr,
                    decayed: 1.0 - self.lr * decay.unwrap_or(0.0),
                };
                let means = before(0).zip(before(1)).map(|(mean, square)| [mean, square]);
                let [new, mean, square] = step.step(x, grad, means)?;
                Ok((new, vec![mean, square]))
            }
            Rule::Sgd { momentum } if momentum > 0.0 => {
                let velocity = match before(0) {
                    Some(v) => (v.affine(momentum, 0.0)? + grad)?,
                    None => grad.clone(),
                };
                Ok(((x - velocity.affine(self.lr, 0.0)?)?, vec![velocity]))
            }
            Rule::Sgd { .. } => Ok(((x - grad.affine(self.lr, 0.0)?)?, Vec::new())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    /// Name, rule, learning rate; `x` after one step and after five.
    type Case = (&'static str, Rule, f64, [f64; 2], [f64; 2]);

    /// torch.optim 2.15 in f64 on `(x0 - 3)^2 + 0.1 (x1 + 1)^2` from (0, 4).
    const TORCH: [Case; 5] = [
        (
            "adam",
            Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: None },
            0.1,
            [0.09999999983333333, 3.900000001],
            [0.4982205437727129, 3.5009829523915084],
        ),
        (
            "adam with others",
            Rule::Adam { beta1: 0.5, beta2: 0.9, eps: 1e-3, decay: None },
            0.05,
            [0.049991668055324116, 3.95004995004995],
            [0.24814578831882927, 3.751319606035281],
        ),
        (
            "adamw",
            Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: Some(0.3) },
            0.1,
            [0.09999999983333333, 3.780000001],
            [0.4692177773020684, 2.966400558819491],
        ),
        ("sgd", Rule::Sgd { momentum: 0.0 }, 0.05, [0.3, 3.95], [1.22853, 3.7549502495]),
        ("sgd with momentum", Rule::Sgd { momentum: 0.9 }, 0.05, [0.3, 3.95], [3.08748, 3.3581701295]),
    ];

    fn tensor(values: &[f64]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    fn slope(x: &Tensor) -> Tensor {
        ((x - tensor(&[3.0, -1.0])).unwrap() * tensor(&[2.0, 0.2])).unwrap()
    }

    #[test]
    fn steps_are_torchs() {
        for (name, rule, lr, first, fifth) in TORCH {
            let mut o = Optimizer::new(name, rule, lr).unwrap();
            let mut x = tensor(&[0.0, 4.0]);
            for i in 1..=5 {
                // The same values in two pieces, and the old state once more: it is untouched.
                let pieces = [x.narrow(0, 0, 1).unwrap(), x.narrow(0, 1, 1).unwrap()];
                let g = slope(&x);
                let slopes = [g.narrow(0, 0, 1).unwrap(), g.narrow(0, 1, 1).unwrap()];
                if i == 1 {
                    let (apart, _) = o.step(&pieces, &slopes).unwrap();
                    assert_eq!(apart[1].to_vec1::<f64>().unwrap()[0], first[1]);
                }
                let (new, next) = o.step(&[x], &[g]).unwrap();
                (x, o) = (new[0].clone(), next);
                let seen = x.to_vec1::<f64>().unwrap();
                let want = [Some(first), None, None, None, Some(fifth)][i - 1].unwrap_or([seen[0], seen[1]]);
                assert!(
                    seen.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-9),
                    "{name}: {seen:?}, not {want:?}"
                );
            }
            assert_eq!(o.steps(), 5);
        }
    }

    /// A step that is smaller than the last digit, and gradients whose squares f16 does not have.
    #[test]
    fn half_precision_is_followed_in_f32() {
        let adam = Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: None };
        for dtype in [DType::F16, DType::BF16] {
            let half = |v: f32| Tensor::new(&[v], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let value = |t: &Tensor| t.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap()[0];
            for (rule, lr, grad) in [(adam, 1e-4, 1e-4), (Rule::Sgd { momentum: 0.0 }, 1e-3, 0.1)] {
                let mut o = Optimizer::new("adam", rule, lr).unwrap();
                let mut x = half(1.0);
                for _ in 0..200 {
                    let (new, next) = o.step(&[x], &[half(grad)]).unwrap();
                    (x, o) = (new[0].clone(), next);
                }
                assert_eq!(x.dtype(), dtype);
                assert!((value(&x) - 0.98).abs() < 0.004, "{dtype:?} {rule:?}: {}", value(&x));
                assert!(o.moments().flat_map(|(_, m)| m).all(|m| m.dtype() == DType::F32));
                assert_eq!(o.bytes(), if rule == adam { 12 } else { 4 });
                // From another value it goes on from that.
                let (new, _) = o.step(&[half(2.0)], &[half(grad)]).unwrap();
                assert!((value(&new[0]) - 2.0).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn numbers_out_of_range_are_told() {
        let adam = |beta1, eps| Rule::Adam { beta1, beta2: 0.999, eps, decay: None };
        for (rule, lr) in [
            (adam(0.9, 1e-8), 0.0),
            (adam(0.9, 1e-8), f64::NAN),
            (adam(1.0, 1e-8), 0.1),
            (adam(0.9, 0.0), 0.1),
            (Rule::Sgd { momentum: 1.0 }, 0.1),
        ] {
            assert!(Optimizer::new("adam", rule, lr).is_err(), "{rule:?} {lr}");
        }
        let o = Optimizer::new("adam", adam(0.9, 1e-8), 0.1).unwrap();
        let (x, long) = ([tensor(&[1.0])], [tensor(&[1.0, 2.0])]);
        assert!(o.step(&x, &long).is_err());
        let (_, o) = o.step(&x, &x).unwrap();
        assert!(o.step(&long, &long).is_err());
    }
}
