//! Fully connected layer.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Result as CandleResult, Shape, Tensor};

use super::host::{self, by_dtype};
use super::kernels::{bf16, linear as kernel};
use super::prepared::{self, PreparedMatrix};
use super::{check, composed};
use crate::engine::error::Result;

/// `y = x · weightᵀ + bias` over the last dimension.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    prepared: Arc<PreparedMatrix>,
}

impl Linear {
    /// Weights that are no variables count as constant, as in [`Conv2d`](super::Conv2d::new).
    ///
    /// Fails with kind `Shape` unless `weight` is `[out, in]` and `bias` is `[out]`.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        check::rank("linear", "weight", &weight, 2, "[out, in]")?;
        check::float("linear", &weight)?;
        if let Some(bias) = &bias {
            check::vector("linear", "bias", bias, weight.dims()[0])?;
            check::alike("linear", &weight, &[("bias", bias)])?;
        }
        let prepared = Arc::new(PreparedMatrix::new(&weight));
        Ok(Linear { weight, bias, prepared })
    }

    /// `[out, in]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// `[out]`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The same layer with other weights (adapters, variables to train).
    pub fn with_weights(&self, weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Self::new(weight, bias)
    }

    /// `x [.., in]` → `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (o, i) = (self.weight.dims()[0], self.weight.dims()[1]);
        if x.dims().last() != Some(&i) {
            return Err(check::wrong("linear", "the input", format!("[.., {i}]"), x));
        }
        check::alike("linear", x, &[("weight", &self.weight)])?;
        if check::is_empty(x) || o == 0 {
            let mut dims = x.dims().to_vec();
            if let Some(last) = dims.last_mut() {
                *last = o;
            }
            let zeros = Tensor::zeros(dims, x.dtype(), x.device())?;
            return match &self.bias {
                Some(bias) if !check::is_empty(&zeros) => Ok(zeros.broadcast_add(bias)?),
                _ => Ok(zeros),
            };
        }
        if !host::has_kernel(x) {
            return Ok(composed::linear(x, &self.weight, self.bias.as_ref())?);
        }
        // A gradient is that of the exact product.
        let rounded = prepared::rounds_products() && x.dtype() == DType::F32 && !x.track_op();
        let prepared = Arc::clone(&self.prepared);
        let product = Product { rows: x.elem_count() / i, i, o, rounded, prepared };
        let (x, weight) = (x.contiguous()?, self.weight.contiguous()?);
        match &self.bias {
            None => Ok(x.apply_op2(&weight, product)?),
            Some(bias) => Ok(x.apply_op3(&weight, &bias.contiguous()?, product)?),
        }
    }
}

/// The kernel as an operation of candle, with and without bias: `[rows, i]` → `[rows, o]`.
struct Product {
    rows: usize,
    i: usize,
    o: usize,
    /// Whether both sides may be rounded to bfloat16.
    rounded: bool,
    prepared: Arc<PreparedMatrix>,
}

impl Product {
    fn run(
        &self,
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> CandleResult<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        let mut dims = x.1.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = self.o;
        }
        if self.rounded
            && let Some(y) = self.run_rounded(x, weight, bias)?
        {
            return Ok((CpuStorage::F32(y), Shape::from(dims)));
        }
        by_dtype!(x.0.dtype(), T => {
            let bias = bias.map(|(storage, layout)| host::slice::<T>(storage, layout)).transpose()?;
            let (x, weight) = (host::slice::<T>(x.0, x.1)?, host::slice::<T>(weight.0, weight.1)?);
            let sizes = (self.rows, self.i, self.o);
            let y = self.prepared.with(weight, sizes, |kept| kernel::forward(x, weight, kept, bias, sizes))?;
            Ok((candle_core::WithDType::to_cpu_storage_owned(y), Shape::from(dims)))
        })
    }

    fn run_rounded(
        &self,
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> CandleResult<Option<Vec<f32>>> {
        let bias = bias.map(|(storage, layout)| host::slice::<f32>(storage, layout)).transpose()?;
        let (x, weight) = (host::slice::<f32>(x.0, x.1)?, host::slice::<f32>(weight.0, weight.1)?);
        let sizes = (self.rows, self.i, self.o);
        self.prepared.with_rounded(weight, sizes, |panels| bf16::forward(x, panels, bias, sizes))
    }

    /// Gradients for the operands that are tracked.
    fn back(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        dy: &Tensor,
    ) -> CandleResult<[Option<Tensor>; 3]> {
        let sizes = (self.rows, self.i, self.o);
        by_dtype!(dy.dtype(), T => host::with::<T, _>(dy, |dy| {
            let for_x = match x.track_op() {
                true => Some(host::tensor(host::with(weight, |w| kernel::back_input(dy, w, sizes))?, x)?),
                false => None,
            };
            let for_weight = match weight.track_op() {
                true => Some(host::tensor(host::with(x, |x| kernel::back_weight(dy, x, sizes))?, weight)?),
                false => None,
            };
            let for_bias = match bias.filter(|b| b.track_op()) {
                Some(bias) => Some(host::tensor(kernel::back_bias(dy, self.o), bias)?),
                None => None,
            };
            Ok([for_x, for_weight, for_bias])
        }))
    }
}

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        self.run((x, x_layout), (weight, weight_layout), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let [x, weight, _] = self.back(x, weight, None, dy)?;
        Ok((x, weight))
    }
}

impl CustomOp3 for Product {
    fn name(&self) -> &'static str {
        "linear"
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
        self.run((x, x_layout), (weight, weight_layout), Some((bias, bias_layout)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, weight, bias] = self.back(x, weight, Some(bias), dy)?;
        Ok((x, weight, bias))
    }
}

#[cfg(test)]
mod tests {
    use super::super::grad_check::{check, check_same, check_values, random64};
    use super::*;
    use crate::engine::error::Kind;

    fn run(x: &[Tensor]) -> Result<Tensor> {
        Linear::new(x[1].clone(), x.get(2).cloned())?.forward(&x[0])
    }

    fn cases() -> Vec<Vec<Tensor>> {
        [(&[7, 5][..], 3), (&[5], 4), (&[2, 3, 6], 1), (&[1, 1], 8), (&[2, 2, 3, 9], 33), (&[70, 40], 50)]
            .into_iter()
            .map(|(dims, o)| {
                let i = dims[dims.len() - 1];
                vec![random64(1, dims), random64(2, &[o, i]), random64(3, &[o])]
            })
            .collect()
    }

    #[test]
    fn gradients_are_right() {
        for case in cases() {
            check(&case, run);
            check(&case[..2], run);
        }
        check(&[random64(1, &[4, 3, 5]), random64(2, &[5, 4])], |x| {
            run(&[x[0].transpose(1, 2)?.transpose(0, 2)?, x[1].t()?.narrow(1, 1, 4)?])
        });
    }

    #[test]
    fn agrees_with_composed() {
        for case in cases() {
            check_same(&case, run, |x| composed::linear(&x[0], &x[1], Some(&x[2])));
        }
    }

    #[test]
    fn composed_gradients_are_right() {
        for case in cases() {
            check_values(&case, &|x| Ok(composed::linear(&x[0], &x[1], Some(&x[2]))?));
        }
    }

    #[test]
    fn wrong_shapes_are_told_and_empty_inputs_pass() {
        let layer = Linear::new(random64(1, &[4, 3]), Some(random64(2, &[4]))).unwrap();
        assert_eq!(layer.forward(&random64(2, &[2, 5])).unwrap_err().kind(), Kind::Shape);
        assert_eq!(layer.forward(&random64(2, &[])).unwrap_err().kind(), Kind::Shape);
        assert_eq!(Linear::new(random64(1, &[4]), None).unwrap_err().kind(), Kind::Shape);
        assert_eq!(layer.forward(&random64(2, &[2, 0, 3])).unwrap().dims(), [2, 0, 4]);
        let bare = Linear::new(random64(1, &[4, 0]), Some(random64(2, &[4]))).unwrap();
        assert_eq!(bare.forward(&random64(2, &[2, 0])).unwrap().dims(), [2, 4]);
    }
}
