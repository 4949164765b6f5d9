//! Optimizers on plain tensors, with torch's update rules and their state in the open.

use candle_core::Tensor;

use super::error::{Error, Result};

/// Adam and its relatives (Kingma and Ba 2015; decoupled decay: Loshchilov and Hutter 2019), as torch.optim has them.
#[derive(Clone, Debug)]
pub struct Adam {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Decoupled weight decay (AdamW); 0: none.
    pub decay: f64,
    step: i32,
    moments: Option<(Tensor, Tensor)>,
}

impl Adam {
    /// torch's defaults beside the learning rate. Errors: a learning rate that is no positive number.
    pub fn new(lr: f64) -> Result<Self> {
        if !(lr > 0.0 && lr.is_finite()) {
            return Err(
                Error::value("minimize", "the learning rate must be a positive number").got(lr.to_string())
            );
        }
        Ok(Adam { lr, beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.0, step: 0, moments: None })
    }

    /// `x` after one step against the gradient `grad`, both of one shape; detached.
    pub fn step(&mut self, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let (x, grad) = (x.detach(), grad.detach());
        self.step += 1;
        let (m, v) = match &self.moments {
            Some((m, v)) => (m.clone(), v.clone()),
            None => (grad.zeros_like()?, grad.zeros_like()?),
        };
        let m = ((m * self.beta1)? + (&grad * (1.0 - self.beta1))?)?;
        let v = ((v * self.beta2)? + (grad.sqr()? * (1.0 - self.beta2))?)?;
        let correction1 = 1.0 - self.beta1.powi(self.step);
        let correction2 = 1.0 - self.beta2.powi(self.step);
        let root = ((&v / correction2)?.sqrt()? + self.eps)?;
        let change = ((&m / correction1)? / root)?;
        let decayed = if self.decay == 0.0 { x } else { (x * (1.0 - self.lr * self.decay))? };
        self.moments = Some((m, v));
        Ok((decayed - (change * self.lr)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// `torch.optim.Adam([x], lr=0.1)` on `(x - 3)^2` from 0: the first three values of x.
    #[test]
    fn steps_are_torchs() {
        let mut adam = Adam::new(0.1).unwrap();
        let mut x = Tensor::new(&[0f64], &Device::Cpu).unwrap();
        let mut seen = Vec::new();
        for _ in 0..3 {
            let grad = ((&x - 3.0).unwrap() * 2.0).unwrap();
            x = adam.step(&x, &grad).unwrap();
            seen.push(x.to_vec1::<f64>().unwrap()[0]);
        }
        for (ours, torch) in seen.iter().zip([0.099_999_999_8, 0.199_897_292_6, 0.299_618_476_5]) {
            assert!((ours - torch).abs() < 1e-9, "{seen:?}");
        }
        assert!(Adam::new(0.0).is_err() && Adam::new(f64::NAN).is_err());
    }
}
