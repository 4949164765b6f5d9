//! Softmax.

use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor};

use super::host::{self, by_dtype};
use super::kernels::softmax as kernel;
use super::{check, composed};
use crate::engine::error::Result;

/// Softmax over the last dimension of `x [.., m]`.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    check::float("softmax", x)?;
    if x.rank() == 0 {
        return Err(check::wrong("softmax", "the input", "at least one dimension", x));
    }
    if check::is_empty(x) {
        return Ok(x.clone());
    }
    if !host::has_kernel(x) {
        return Ok(composed::softmax(x)?);
    }
    let size = x.dims()[x.rank() - 1];
    Ok(x.contiguous()?.apply_op1(Softmax { size })?)
}

/// The kernel as an operation of candle, over rows of `size`.
struct Softmax {
    size: usize,
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        by_dtype!(x.dtype(), T => {
            let y = kernel::forward(host::slice::<T>(x, layout)?, self.size);
            Ok((candle_core::WithDType::to_cpu_storage_owned(y), layout.shape().clone()))
        })
    }

    fn bwd(&self, _x: &Tensor, y: &Tensor, dy: &Tensor) -> CandleResult<Option<Tensor>> {
        by_dtype!(dy.dtype(), T => {
            let dx = host::with::<T, _>(dy, |dy| host::with(y, |y| Ok(kernel::backward(y, dy, self.size))))?;
            host::tensor(dx, y).map(Some)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::grad_check::{check, check_same, check_values, distance, random64};
    use super::*;
    use crate::engine::error::Kind;

    fn inputs() -> Vec<Tensor> {
        [&[3, 4][..], &[5], &[2, 3, 4, 37], &[70, 2]]
            .into_iter()
            .map(|dims| (random64(1, dims) * 5.0).unwrap())
            .collect()
    }

    #[test]
    fn gradients_are_right() {
        for x in inputs() {
            check(std::slice::from_ref(&x), |x| softmax(&x[0]));
            check_values(&[x], &|x| Ok(composed::softmax(&x[0])?));
        }
        check(&[random64(4, &[4, 3])], |x| softmax(&x[0].t()?));
    }

    #[test]
    fn agrees_with_composed() {
        for x in inputs() {
            check_same(&[x], |x| softmax(&x[0]), |x| composed::softmax(&x[0]));
        }
    }

    #[test]
    fn sums_to_one_however_large_the_scores() {
        let x = (random64(1, &[5, 33]) * 1e4).unwrap().to_dtype(candle_core::DType::F32).unwrap();
        let sums = softmax(&x).unwrap().sum(1).unwrap();
        assert!(distance(&sums, &sums.ones_like().unwrap()) < 1e-6);
    }

    #[test]
    fn wrong_shapes_are_told_and_empty_inputs_pass() {
        assert_eq!(softmax(&random64(1, &[])).unwrap_err().kind(), Kind::Shape);
        assert_eq!(softmax(&random64(1, &[3, 0])).unwrap().dims(), [3, 0]);
        assert_eq!(softmax(&random64(1, &[0, 3])).unwrap().dims(), [0, 3]);
    }
}
