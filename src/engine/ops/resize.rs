//! Changes of size.

use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor};

use super::host::{self, by_dtype};
use super::kernels::resize as kernel;
use super::{check, composed};
use crate::engine::error::Result;

/// `x [n, c, h, w]` → `[n, c, 2h, 2w]`: every value becomes a square of four.
pub fn upsample_nearest2x(x: &Tensor) -> Result<Tensor> {
    let op = "upsample_nearest2x";
    check::float(op, x)?;
    check::rank(op, "the input", x, 4, "[n, channels, height, width]")?;
    if check::is_empty(x) {
        let (n, c, h, w) = x.dims4()?;
        return Ok(Tensor::zeros((n, c, 2 * h, 2 * w), x.dtype(), x.device())?);
    }
    if !host::has_kernel(x) {
        return Ok(composed::upsample_nearest2x(x)?);
    }
    Ok(x.contiguous()?.apply_op1(Double)?)
}

/// The kernel as an operation of candle.
struct Double;

impl CustomOp1 for Double {
    fn name(&self) -> &'static str {
        "upsample_nearest2x"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        let (n, c, h, w) = layout.shape().dims4()?;
        by_dtype!(x.dtype(), T => {
            let y = kernel::double(host::slice::<T>(x, layout)?, w);
            Ok((candle_core::WithDType::to_cpu_storage_owned(y), Shape::from((n, c, 2 * h, 2 * w))))
        })
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> CandleResult<Option<Tensor>> {
        let (_, _, _, w) = x.dims4()?;
        by_dtype!(dy.dtype(), T => {
            host::tensor(host::with::<T, _>(dy, |dy| Ok(kernel::double_back(dy, w)))?, x).map(Some)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::grad_check::{check, check_same, check_values, random64};
    use super::*;
    use crate::engine::error::Kind;
    use candle_core::Device;

    #[test]
    fn gradients_are_right() {
        for dims in [[2, 3, 4, 5], [1, 1, 1, 1], [1, 2, 9, 17]] {
            check(&[random64(1, &dims)], |x| upsample_nearest2x(&x[0]));
            check_values(&[random64(1, &dims)], &|x| Ok(composed::upsample_nearest2x(&x[0])?));
        }
        check(&[random64(1, &[2, 3, 4, 5])], |x| upsample_nearest2x(&x[0].transpose(1, 3)?));
        // The input has a second use: candle's own operation would overwrite what that one collected.
        check(&[random64(1, &[1, 2, 3, 3])], |x| {
            Ok(upsample_nearest2x(&x[0])?.sum_keepdim((2, 3))?.broadcast_mul(&x[0].sqr()?)?)
        });
    }

    #[test]
    fn agrees_with_composed() {
        let x = random64(1, &[2, 3, 4, 20]);
        check_same(&[x], |x| upsample_nearest2x(&x[0]), |x| composed::upsample_nearest2x(&x[0]));
    }

    #[test]
    fn every_value_becomes_a_square() {
        let x = Tensor::new(&[[[[1.0, 2.0], [3.0, 4.0]]]], &Device::Cpu).unwrap();
        let y: Vec<f64> = upsample_nearest2x(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(y, [1., 1., 2., 2., 1., 1., 2., 2., 3., 3., 4., 4., 3., 3., 4., 4.]);
    }

    #[test]
    fn wrong_shapes_are_told_and_empty_inputs_pass() {
        assert_eq!(upsample_nearest2x(&random64(1, &[3, 4, 4])).unwrap_err().kind(), Kind::Shape);
        assert_eq!(upsample_nearest2x(&random64(1, &[2, 0, 4, 4])).unwrap().dims(), [2, 0, 8, 8]);
    }
}
