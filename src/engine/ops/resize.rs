//! Changes of size.

use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor};

use super::host::{self, by_dtype};
use super::kernels::resize as kernel;
use super::{check, composed};
use crate::engine::error::{Error, Result};

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

/// How values between pixels are made, as in PyTorch's `interpolate`; nothing is smoothed when a picture becomes smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// Linear between pixel centres, edges repeated (`mode="bilinear", align_corners=False`).
    Linear,
    /// Linear with the corner pixels in the corners (`mode="bilinear", align_corners=True`).
    LinearCorners,
    /// Cubic convolution with a = -0.75 between pixel centres, edges repeated (`mode="bicubic", align_corners=False`).
    Cubic,
}

/// [`resize`] with [`Interpolation::Linear`].
pub fn resize_bilinear(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    resize(x, height, width, Interpolation::Linear)
}

/// `x [n, c, h, w]` → `[n, c, height, width]`. Two products with fixed matrices: right on every device, forward and back.
/// Errors: another rank, an empty size.
pub fn resize(x: &Tensor, height: usize, width: usize, how: Interpolation) -> Result<Tensor> {
    let op = "resize";
    check::float(op, x)?;
    check::rank(op, "the input", x, 4, "[n, channels, height, width]")?;
    let (n, c, h, w) = x.dims4()?;
    if height == 0 || width == 0 || h == 0 || w == 0 {
        return Err(Error::value(op, "a picture needs pixels")
            .expected("sizes of at least 1")
            .got(format!("{h}x{w} to {height}x{width}")));
    }
    if n == 0 || c == 0 {
        return Ok(Tensor::zeros((n, c, height, width), x.dtype(), x.device())?);
    }
    let along = |from: usize, to: usize| -> Result<Tensor> {
        Ok(Tensor::from_vec(weights(from, to, how), (to, from), x.device())?.to_dtype(x.dtype())?)
    };
    let rows = x.contiguous()?.reshape((n * c * h, w))?.matmul(&along(w, width)?.t()?)?;
    let columns =
        rows.reshape((n * c, h, width))?.transpose(1, 2)?.contiguous()?.reshape((n * c * width, h))?;
    let y = columns.matmul(&along(h, height)?.t()?)?.reshape((n * c, width, height))?;
    Ok(y.transpose(1, 2)?.contiguous()?.reshape((n, c, height, width))?)
}

/// The matrix `[to, from]` of an interpolation along one axis.
fn weights(from: usize, to: usize, how: Interpolation) -> Vec<f64> {
    let mut out = vec![0.0; to * from];
    let last = (from - 1) as f64;
    for (i, row) in out.chunks_exact_mut(from).enumerate() {
        let centre = (i as f64 + 0.5) * from as f64 / to as f64 - 0.5;
        let at = match how {
            Interpolation::Linear => centre.clamp(0.0, last),
            Interpolation::LinearCorners if to == 1 => 0.0,
            Interpolation::LinearCorners => i as f64 * last / (to - 1) as f64,
            Interpolation::Cubic => {
                let first = centre.floor();
                for tap in -1..=2i32 {
                    let place = (first + f64::from(tap)).clamp(0.0, last) as usize;
                    row[place] += cubic(centre - first - f64::from(tap));
                }
                continue;
            }
        };
        let first = (at as usize).min(from - 1);
        let share = at - first as f64;
        row[first] += 1.0 - share;
        row[(first + 1).min(from - 1)] += share;
    }
    out
}

/// The cubic convolution kernel (Keys 1981) with a = -0.75.
fn cubic(x: f64) -> f64 {
    let (a, x) = (-0.75, x.abs());
    match x {
        _ if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        _ if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
        _ => 0.0,
    }
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
    fn bilinear_is_that_of_torch() {
        // torch.nn.functional.interpolate(torch.arange(6.).reshape(1, 1, 2, 3), (3, 5), mode="bilinear")
        let x = Tensor::arange(0f64, 6.0, &Device::Cpu).unwrap().reshape((1, 1, 2, 3)).unwrap();
        let y: Vec<f64> = resize_bilinear(&x, 3, 5).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let rows = [0.0, 0.4, 1.0, 1.6, 2.0];
        let want: Vec<f64> = [0.0, 1.5, 3.0].iter().flat_map(|r| rows.map(|v| v + r)).collect();
        assert!(y.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-12), "{y:?}");
        let x = random64(1, &[2, 3, 5, 4]);
        let same: Tensor =
            (resize_bilinear(&x, 5, 4).unwrap() - &x).unwrap().abs().unwrap().sum_all().unwrap();
        assert!(same.to_scalar::<f64>().unwrap() < 1e-12);
        for (h, w) in [(7, 3), (2, 9), (1, 1), (10, 8)] {
            check(&[random64(1, &[2, 3, 5, 4])], |x| resize_bilinear(&x[0], h, w));
        }
        // A second use of the input keeps its gradient.
        check(&[random64(1, &[1, 2, 3, 3])], |x| {
            Ok(resize_bilinear(&x[0], 6, 6)?.sum_keepdim((2, 3))?.broadcast_mul(&x[0].sqr()?)?)
        });
        assert_eq!(resize_bilinear(&x, 0, 4).unwrap_err().kind(), Kind::Value);
        assert_eq!(resize_bilinear(&random64(1, &[3, 4, 4]), 2, 2).unwrap_err().kind(), Kind::Shape);
        assert_eq!(resize_bilinear(&random64(1, &[2, 0, 4, 4]), 2, 3).unwrap().dims(), [2, 0, 2, 3]);
    }

    /// torch.nn.functional.interpolate(torch.tensor([[[[0., 1., 4., 9.]]]]).expand(1, 1, 4, 4), (4, 7), mode="bicubic"), and
    /// (4, 3) with mode="bilinear", align_corners=True: the first rows.
    #[test]
    fn cubic_and_corners_are_those_of_torch() {
        let x = Tensor::new(&[0f64, 1.0, 4.0, 9.0], &Device::Cpu).unwrap();
        let x = x.reshape((1, 1, 1, 4)).unwrap().broadcast_as((1, 1, 4, 4)).unwrap();
        let row = |w, how| -> Vec<f64> {
            resize(&x, 4, w, how).unwrap().narrow(2, 0, 1).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
        let cubic = row(7, Interpolation::Cubic);
        assert!(near(&cubic, &[-0.09922, 0.15625, 0.80421, 2.125, 4.42466, 7.48078, 9.49608]), "{cubic:?}");
        assert!(near(&row(3, Interpolation::LinearCorners), &[0.0, 2.5, 9.0]));
        assert!(near(&row(1, Interpolation::LinearCorners), &[0.0]));
        for how in [Interpolation::Cubic, Interpolation::LinearCorners] {
            check(&[random64(1, &[2, 3, 5, 4])], |x| resize(&x[0], 7, 3, how));
        }
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
