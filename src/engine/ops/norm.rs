//! Group normalization (alone and with SiLU) and layer normalization.

use candle_core::{CpuStorage, CustomOp3, Layout, Result as CandleResult, Shape, Tensor};

use super::host::{self, by_dtype};
use super::kernels::norm::{self as kernel, Groups};
use super::{check, composed};
use crate::engine::error::{Error, Result};

/// Group normalization over `[n, c, ..]`: mean 0 and variance 1 over each group of `c / groups` channels of each
/// row, then a scale and a shift per channel.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// `weight [c]`, `bias [c]`; `groups` must divide `c`. `eps` is added to the variance.
    pub fn new(weight: Tensor, bias: Tensor, groups: usize, eps: f64) -> Result<Self> {
        check::rank("group_norm", "weight", &weight, 1, "[channels]")?;
        check::float("group_norm", &weight)?;
        let c = weight.dims()[0];
        check::vector("group_norm", "bias", &bias, c)?;
        check::alike("group_norm", &weight, &[("bias", &bias)])?;
        if groups == 0 || !c.is_multiple_of(groups) {
            return Err(Error::value("group_norm", "the groups must divide the channels")
                .expected(format!("a divisor of {c}"))
                .got(groups.to_string()));
        }
        Ok(GroupNorm { weight, bias, groups, eps })
    }

    /// The scale, `[c]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The shift, `[c]`.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// The same normalization with another scale and shift.
    pub fn with_weights(&self, weight: Tensor, bias: Tensor) -> Result<Self> {
        Self::new(weight, bias, self.groups, self.eps)
    }

    /// `x [n, c, ..]` → the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, false)
    }

    /// `silu(forward(x))` in one pass.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, true)
    }

    fn run(&self, x: &Tensor, silu: bool) -> Result<Tensor> {
        let c = self.weight.dims()[0];
        if x.rank() < 2 || x.dims()[1] != c {
            return Err(check::wrong("group_norm", "the input", format!("[n, {c}, ..]"), x));
        }
        check::alike("group_norm", x, &[("weight", &self.weight)])?;
        if check::is_empty(x) {
            return Ok(x.clone());
        }
        if !host::has_kernel(x) {
            let y = composed::group_norm(x, &self.weight, &self.bias, self.groups, self.eps)?;
            return if silu { Ok(composed::silu(&y)?) } else { Ok(y) };
        }
        let area = x.dims()[2..].iter().product();
        let groups = Groups { channels: c, groups: self.groups, area, eps: self.eps, silu };
        let (weight, bias) = (self.weight.contiguous()?, self.bias.contiguous()?);
        Ok(x.contiguous()?.apply_op3(&weight, &bias, GroupNormalization(groups))?)
    }
}

/// Layer normalization over the last dimension: mean 0 and variance 1, then a scale and a shift per position.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// `weight [c]`, `bias [c]`. `eps` is added to the variance.
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Result<Self> {
        check::rank("layer_norm", "weight", &weight, 1, "[channels]")?;
        check::float("layer_norm", &weight)?;
        check::vector("layer_norm", "bias", &bias, weight.dims()[0])?;
        check::alike("layer_norm", &weight, &[("bias", &bias)])?;
        Ok(LayerNorm { weight, bias, eps })
    }

    /// The scale, `[c]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The shift, `[c]`.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// The same normalization with another scale and shift.
    pub fn with_weights(&self, weight: Tensor, bias: Tensor) -> Result<Self> {
        Self::new(weight, bias, self.eps)
    }

    /// `x [.., c]` → the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let c = self.weight.dims()[0];
        if x.dims().last() != Some(&c) {
            return Err(check::wrong("layer_norm", "the input", format!("[.., {c}]"), x));
        }
        check::alike("layer_norm", x, &[("weight", &self.weight)])?;
        if check::is_empty(x) {
            return Ok(x.clone());
        }
        if !host::has_kernel(x) {
            return Ok(composed::layer_norm(x, &self.weight, &self.bias, self.eps)?);
        }
        let (weight, bias) = (self.weight.contiguous()?, self.bias.contiguous()?);
        Ok(x.contiguous()?.apply_op3(&weight, &bias, LayerNormalization { eps: self.eps })?)
    }
}

/// Group normalization as an operation of candle.
struct GroupNormalization(Groups);

impl CustomOp3 for GroupNormalization {
    fn name(&self) -> &'static str {
        if self.0.silu { "group_norm_silu" } else { "group_norm" }
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        by_dtype!(x.dtype(), T => {
            let (weight, bias) = (host::slice::<T>(weight, weight_layout)?, host::slice(bias, bias_layout)?);
            let y = kernel::group_norm(host::slice(x, x_layout)?, weight, bias, self.0);
            Ok((candle_core::WithDType::to_cpu_storage_owned(y), x_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        by_dtype!(dy.dtype(), T => host::with::<T, _>(dy, |dys| host::with(x, |xs| {
            host::with(weight, |weights| host::with(bias, |biases| {
                let (dx, dw, db) =
                    kernel::group_norm_back(xs, dys, weights, biases, self.0, x.track_op())?;
                Ok((wanted(dx, x)?, wanted(dw, weight)?, wanted(db, bias)?))
            }))
        })))
    }
}

/// Layer normalization as an operation of candle.
struct LayerNormalization {
    eps: f64,
}

impl CustomOp3 for LayerNormalization {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        by_dtype!(x.dtype(), T => {
            let (weight, bias) = (host::slice::<T>(weight, weight_layout)?, host::slice(bias, bias_layout)?);
            let y = kernel::layer_norm(host::slice(x, x_layout)?, weight, bias, self.eps);
            Ok((candle_core::WithDType::to_cpu_storage_owned(y), x_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let want_weight = weight.track_op() || bias.track_op();
        by_dtype!(dy.dtype(), T => host::with::<T, _>(dy, |dys| host::with(x, |xs| {
            host::with(weight, |weights| {
                let (dx, dw, db) =
                    kernel::layer_norm_back(xs, dys, weights, self.eps, x.track_op(), want_weight)?;
                Ok((wanted(dx, x)?, wanted(dw, weight)?, wanted(db, bias)?))
            })
        })))
    }
}

/// The gradient as a tensor, if its operand is tracked.
fn wanted<T: candle_core::WithDType>(values: Vec<T>, operand: &Tensor) -> CandleResult<Option<Tensor>> {
    if operand.track_op() { host::tensor(values, operand).map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::super::grad_check::{check, check_same, check_values, random64};
    use super::*;
    use crate::engine::error::Kind;

    fn group(x: &[Tensor], groups: usize, silu: bool) -> Result<Tensor> {
        let norm = GroupNorm::new(x[1].clone(), x[2].clone(), groups, 1e-5)?;
        if silu { norm.forward_silu(&x[0]) } else { norm.forward(&x[0]) }
    }

    fn layer(x: &[Tensor]) -> Result<Tensor> {
        LayerNorm::new(x[1].clone(), x[2].clone(), 1e-5)?.forward(&x[0])
    }

    fn inputs(dims: &[usize], c: usize) -> Vec<Tensor> {
        vec![random64(1, dims), random64(2, &[c]), random64(3, &[c])]
    }

    const GROUPED: [(&[usize], usize); 6] = [
        (&[2, 6, 3, 4], 3),
        (&[1, 4, 5, 5], 4),
        (&[2, 8, 2, 1], 1),
        (&[2, 4], 2),
        (&[1, 6, 7], 2),
        (&[1, 4, 9, 11], 2),
    ];

    #[test]
    fn gradients_of_group_norm_are_right() {
        for (dims, groups) in GROUPED {
            for silu in [false, true] {
                check(&inputs(dims, dims[1]), |x| group(x, groups, silu));
            }
        }
        check(&inputs(&[2, 3, 4, 6], 6), |x| {
            group(&[x[0].transpose(1, 3)?, x[1].clone(), x[2].clone()], 3, true)
        });
    }

    #[test]
    fn gradients_of_layer_norm_are_right() {
        for dims in [&[3, 4, 7][..], &[5, 20], &[8], &[2, 3, 2, 33]] {
            check(&inputs(dims, dims[dims.len() - 1]), layer);
        }
        check(&inputs(&[3, 8, 4], 8), |x| layer(&[x[0].transpose(1, 2)?, x[1].clone(), x[2].clone()]));
    }

    #[test]
    fn agrees_with_composed() {
        for (dims, groups) in GROUPED {
            check_same(
                &inputs(dims, dims[1]),
                |x| group(x, groups, true),
                |x| composed::silu(&composed::group_norm(&x[0], &x[1], &x[2], groups, 1e-5)?),
            );
            check_same(
                &inputs(dims, dims[1]),
                |x| group(x, groups, false),
                |x| composed::group_norm(&x[0], &x[1], &x[2], groups, 1e-5),
            );
        }
        for dims in [&[3, 4, 7][..], &[5, 320], &[8], &[2, 3, 2, 33]] {
            check_same(&inputs(dims, dims[dims.len() - 1]), layer, |x| {
                composed::layer_norm(&x[0], &x[1], &x[2], 1e-5)
            });
        }
    }

    #[test]
    fn composed_gradients_are_right() {
        check_values(&inputs(&[2, 6, 3, 4], 6), &|x| Ok(composed::group_norm(&x[0], &x[1], &x[2], 3, 1e-5)?));
        check_values(&inputs(&[3, 4, 7], 7), &|x| Ok(composed::layer_norm(&x[0], &x[1], &x[2], 1e-5)?));
    }

    /// A large mean with a small spread: the variance must not drown.
    #[test]
    fn keeps_precision_far_from_zero() {
        let exact: Vec<Tensor> = inputs(&[1, 4, 32, 32], 4);
        let exact = [(exact[0].clone() + 1000.0).unwrap(), exact[1].clone(), exact[2].clone()];
        let rough: Vec<Tensor> = exact.iter().map(|x| x.to_dtype(candle_core::DType::F32).unwrap()).collect();
        let again: Vec<Tensor> = rough.iter().map(|x| x.to_dtype(candle_core::DType::F64).unwrap()).collect();
        let off = super::super::grad_check::distance(
            &group(&rough, 2, false).unwrap(),
            &group(&again, 2, false).unwrap(),
        );
        assert!(off < 2e-4, "{off}");
    }

    #[test]
    fn wrong_shapes_are_told_and_empty_inputs_pass() {
        let x = inputs(&[2, 6, 3, 4], 6);
        let norm = GroupNorm::new(x[1].clone(), x[2].clone(), 3, 1e-5).unwrap();
        assert_eq!(norm.forward(&random64(1, &[2, 5, 3, 4])).unwrap_err().kind(), Kind::Shape);
        assert_eq!(norm.forward(&random64(1, &[6])).unwrap_err().kind(), Kind::Shape);
        assert_eq!(norm.forward_silu(&random64(1, &[0, 6, 3, 4])).unwrap().dims(), [0, 6, 3, 4]);
        assert_eq!(norm.forward(&random64(1, &[2, 6, 0])).unwrap().dims(), [2, 6, 0]);
        assert_eq!(GroupNorm::new(x[1].clone(), x[2].clone(), 4, 1e-5).unwrap_err().kind(), Kind::Value);
        assert_eq!(GroupNorm::new(x[1].clone(), x[2].clone(), 0, 1e-5).unwrap_err().kind(), Kind::Value);
        let norm = LayerNorm::new(x[1].clone(), x[2].clone(), 1e-5).unwrap();
        assert_eq!(norm.forward(&random64(1, &[2, 5])).unwrap_err().kind(), Kind::Shape);
        assert_eq!(norm.forward(&random64(1, &[0, 6])).unwrap().dims(), [0, 6]);
        assert_eq!(LayerNorm::new(x[1].clone(), x[0].clone(), 1e-5).unwrap_err().kind(), Kind::Shape);
    }
}
