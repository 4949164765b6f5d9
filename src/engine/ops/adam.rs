//! What optimizers ask of all weights in every step.

use candle_core::{DType, Tensor};

use super::host::{self, by_dtype};
use super::kernels::adam as kernel;
use super::math::Element;
use super::wide;
use crate::engine::error::Result;

/// The numbers of a step of Adam (Kingma and Ba 2015, algorithm 1).
#[derive(Clone, Copy, Debug)]
pub struct Adam {
    /// Decay of the mean of gradients, and of the mean of their squares.
    pub betas: [f64; 2],
    /// What the means are divided by: `1 - beta^step`.
    pub corrections: [f64; 2],
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Learning rate.
    pub lr: f64,
    /// What decoupled weight decay leaves of a value: `1 - lr * decay`.
    pub decayed: f64,
}

impl Adam {
    fn numbers<T: Element>(&self) -> kernel::Step<T> {
        let [first, second] = self.corrections;
        kernel::Step {
            keep: self.betas.map(T::of),
            take: self.betas.map(|beta| T::of(1.0 - beta)),
            scale: T::of(1.0 / second.sqrt()),
            eps: T::of(self.eps),
            rate: T::of(self.lr / first),
            decayed: T::of(self.decayed),
        }
    }

    /// `x`, its gradient and both means (none before the first step), all of one shape and type → new `x`, mean, mean of squares.
    pub fn step(&self, x: &Tensor, grad: &Tensor, means: Option<[&Tensor; 2]>) -> Result<[Tensor; 3]> {
        let [mean, square] = match means {
            Some(means) => means.map(Tensor::clone),
            None => [x.zeros_like()?, x.zeros_like()?],
        };
        if [x, grad, &mean, &square].iter().all(|t| host::has_kernel(t) && t.dtype() == x.dtype()) {
            return Ok(self.fused(x, grad, &mean, &square)?);
        }
        self.composed(x, grad, &mean, &square)
    }

    fn fused(
        &self,
        x: &Tensor,
        grad: &Tensor,
        mean: &Tensor,
        square: &Tensor,
    ) -> candle_core::Result<[Tensor; 3]> {
        by_dtype!(x.dtype(), T => {
            let [new, mean, square] = host::with::<T, _>(x, |x| {
                host::with(grad, |grad| {
                    host::with(mean, |mean| host::with(square, |square| kernel::step(self.numbers(), x, grad, mean, square)))
                })
            })?;
            Ok([host::tensor(new, x)?, host::tensor(mean, x)?, host::tensor(square, x)?])
        })
    }

    fn composed(&self, x: &Tensor, grad: &Tensor, mean: &Tensor, square: &Tensor) -> Result<[Tensor; 3]> {
        let average = |before: &Tensor, new: &Tensor, beta: f64| -> Result<Tensor> {
            Ok((before.affine(beta, 0.0)? + new.affine(1.0 - beta, 0.0)?)?)
        };
        let [first, second] = self.corrections;
        let mean = average(mean, grad, self.betas[0])?;
        let square = average(square, &grad.sqr()?, self.betas[1])?;
        let root = ((square.sqrt()? / second.sqrt())? + self.eps)?;
        let change = (&mean / root)?.affine(self.lr / first, 0.0)?;
        Ok([(x.affine(self.decayed, 0.0)? - change)?, mean, square])
    }
}

/// The sum of the squares of all elements, in f64.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    if host::has_kernel(x) {
        return Ok(by_dtype!(x.dtype(), T => host::with::<T, _>(x, |x| Ok(kernel::sum_of_squares(x))))?);
    }
    let sum = wide(x)?.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    if sum.is_finite() {
        return Ok(sum);
    }
    // Where f32 would not do.
    Ok(x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?)
}

#[cfg(test)]
mod tests {
    use super::super::grad_check::random;
    use super::*;

    #[test]
    fn one_pass_is_the_same_as_many() {
        for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-14)] {
            let adam =
                Adam { betas: [0.9, 0.99], corrections: [0.271, 0.03], eps: 1e-8, lr: 0.1, decayed: 0.97 };
            // Several pieces, and a last one that fills no register.
            let [x, grad, mean] = [1, 2, 3].map(|seed| random(seed, &[7, 5003], dtype));
            let square = random(4, &[7, 5003], dtype).sqr().unwrap();
            let fused = adam.step(&x, &grad, Some([&mean, &square])).unwrap();
            let composed = adam.composed(&x, &grad, &mean, &square).unwrap();
            for (a, b) in fused.iter().zip(&composed) {
                let apart = (a - b).unwrap().abs().unwrap().max_all().unwrap();
                let apart = apart.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap();
                assert!(apart < tolerance, "{dtype:?}: {apart}");
            }
            // Turned around in memory it is the same.
            let turned = adam.step(
                &x.t().unwrap(),
                &grad.t().unwrap(),
                Some([&mean.t().unwrap(), &square.t().unwrap()]),
            );
            let back = turned.unwrap()[0].t().unwrap();
            let values =
                |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            assert_eq!(values(&back), values(&fused[0]));
            let sum: f64 = values(&x).iter().map(|v| v * v).sum();
            assert!((sum_of_squares(&x).unwrap() / sum - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn squares_that_f32_does_not_have() {
        let x = Tensor::new(&[1e30f32, -2e30], &candle_core::Device::Cpu).unwrap();
        assert!((sum_of_squares(&x).unwrap() / 5e60 - 1.0).abs() < 1e-6);
        let nan = Tensor::new(&[f32::NAN, 1.0], &candle_core::Device::Cpu).unwrap();
        assert!(sum_of_squares(&nan).unwrap().is_nan());
    }
}
