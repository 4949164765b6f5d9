//! Activations.

use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor};

use super::host::{self, by_dtype};
use super::kernels::pointwise::{self as kernel, Curve, Gelu, GeluTanh, QuickGelu, Sigmoid, Silu};
use super::{check, composed};
use crate::engine::error::Result;

macro_rules! activation {
    ($(#[$doc:meta])* $name:ident, $curve:ident) => {
        $(#[$doc])*
        pub fn $name(x: &Tensor) -> Result<Tensor> {
            check::float(stringify!($name), x)?;
            if check::is_empty(x) {
                return Ok(x.clone());
            }
            if !host::has_kernel(x) {
                return Ok(composed::$name(x)?);
            }
            Ok(x.contiguous()?.apply_op1(Map($curve))?)
        }
    };
}

activation! {
    /// `1 / (1 + e^-x)`, any shape.
    sigmoid, Sigmoid
}
activation! {
    /// `x · sigmoid(x)`, any shape.
    silu, Silu
}
activation! {
    /// `x · Φ(x)` with the exact normal distribution function (erf), any shape.
    gelu, Gelu
}
activation! {
    /// The tanh approximation of GELU, `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`, any shape.
    gelu_tanh, GeluTanh
}
activation! {
    /// `x · sigmoid(1.702 x)`, the activation of OpenAI's CLIP, any shape.
    quick_gelu, QuickGelu
}

/// A curve as an operation of candle.
struct Map<F>(F);

impl<F: Curve> CustomOp1 for Map<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        by_dtype!(x.dtype(), T => {
            let y = kernel::map(host::slice::<T>(x, layout)?, self.0);
            Ok((candle_core::WithDType::to_cpu_storage_owned(y), layout.shape().clone()))
        })
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> CandleResult<Option<Tensor>> {
        by_dtype!(dy.dtype(), T => {
            let dx = host::with::<T, _>(dy, |dy| host::with(x, |x| Ok(kernel::map_back(x, dy, self.0))))?;
            host::tensor(dx, x).map(Some)
        })
    }
}

/// The gated unit of diffusers' transformer blocks: `x [.., 2c]` → `x[.., ..c] · gelu(x[.., c..])`, `[.., c]`.
/// Fails with kind `Shape` where the last dimension is odd.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    check::float("geglu", x)?;
    let mut dims = x.dims().to_vec();
    match dims.last_mut() {
        Some(last) if *last % 2 == 0 => *last /= 2,
        _ => return Err(check::wrong("geglu", "the input", "[.., 2 * channels]", x)),
    }
    if check::is_empty(x) {
        return Ok(Tensor::zeros(dims, x.dtype(), x.device())?);
    }
    if !host::has_kernel(x) {
        return Ok(composed::geglu(x)?);
    }
    let channels = dims[dims.len() - 1];
    Ok(x.contiguous()?.apply_op1(Gated { channels })?)
}

/// The gated unit as an operation of candle, `channels` of output.
struct Gated {
    channels: usize,
}

impl CustomOp1 for Gated {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        let mut dims = layout.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = self.channels;
        }
        by_dtype!(x.dtype(), T => {
            let y = kernel::geglu(host::slice::<T>(x, layout)?, self.channels);
            Ok((candle_core::WithDType::to_cpu_storage_owned(y), Shape::from(dims)))
        })
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> CandleResult<Option<Tensor>> {
        by_dtype!(dy.dtype(), T => {
            let dx = host::with::<T, _>(dy, |dy| host::with(x, |x| Ok(kernel::geglu_back(x, dy, self.channels))))?;
            host::tensor(dx, x).map(Some)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::grad_check::{check, check_same, check_values, random64};
    use super::*;
    use crate::engine::error::Kind;
    use candle_core::{DType, Device};

    type Op = fn(&Tensor) -> Result<Tensor>;
    type Reference = fn(&Tensor) -> candle_core::Result<Tensor>;
    const OPS: [(&str, Op, Reference); 6] = [
        ("sigmoid", sigmoid, composed::sigmoid),
        ("silu", silu, composed::silu),
        ("gelu", gelu, composed::gelu),
        ("gelu_tanh", gelu_tanh, composed::gelu_tanh),
        ("quick_gelu", quick_gelu, composed::quick_gelu),
        ("geglu", geglu, composed::geglu),
    ];

    fn inputs() -> Vec<Tensor> {
        [&[3, 4][..], &[2], &[2, 3, 4, 38], &[5, 6, 2]]
            .into_iter()
            .map(|dims| (random64(1, dims) * 5.0).unwrap())
            .collect()
    }

    #[test]
    fn gradients_are_right() {
        for (_, op, reference) in OPS {
            for x in inputs() {
                check(std::slice::from_ref(&x), |x| op(&x[0]));
                check_values(&[x], &|x| Ok(reference(&x[0])?));
            }
            check(&[random64(4, &[4, 3])], |x| op(&x[0].t()?));
            check(&[random64(4, &[4, 6])], |x| op(&x[0].narrow(1, 1, 4)?));
        }
    }

    #[test]
    fn agrees_with_composed() {
        for (_, op, reference) in OPS {
            for x in inputs() {
                check_same(&[x], |x| op(&x[0]), |x| reference(&x[0]));
            }
        }
    }

    /// Values from Python's `math` (erfc, tanh, exp).
    #[test]
    fn known_values() {
        let x = Tensor::new(&[-3.0, -0.5, 0.0, 1.0, 2.5], &Device::Cpu).unwrap();
        let table: [(Op, [f64; 5]); 5] = [
            (sigmoid, [0.04742587317756678, 0.3775406687981454, 0.5, 0.7310585786300049, 0.9241418199787566]),
            (silu, [-0.14227761953270035, -0.1887703343990727, 0.0, 0.7310585786300049, 2.3103545499468914]),
            (
                gelu,
                [-0.004049694094890287, -0.15426876936299344, 0.0, 0.8413447460685429, 2.4844758366855597],
            ),
            (
                gelu_tanh,
                [-0.0036373920817729943, -0.15428599017485606, 0.0, 0.8411919906082768, 2.484915733910001],
            ),
            (
                quick_gelu,
                [-0.01807130970778597, -0.1496115633936199, 0.0, 0.8457957659328212, 2.46501383495143],
            ),
        ];
        for (i, (op, want)) in table.into_iter().enumerate() {
            let got: Vec<f64> = op(&x).unwrap().to_vec1().unwrap();
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() < 1e-9, "row {i}: {got} should be {want}");
            }
        }
    }

    /// Far out nothing overflows: the limits are 0 and x.
    #[test]
    fn the_tails_are_right() {
        let x = Tensor::new(&[-1e4f32, -200.0, -90.0, 90.0, 200.0, 1e4], &Device::Cpu).unwrap();
        for (name, op, _) in OPS.into_iter().filter(|(name, _, _)| *name != "geglu" && *name != "sigmoid") {
            let y: Vec<f32> = op(&x).unwrap().to_vec1().unwrap();
            assert!(y[..3].iter().all(|v| v.abs() < 1e-30), "{name}: {y:?}");
            for (got, want) in y[3..].iter().zip([90.0f32, 200.0, 1e4]) {
                assert!((got / want - 1.0).abs() < 2e-7, "{name}: {y:?}");
            }
            let var = candle_core::Var::from_tensor(&x).unwrap();
            let grads = op(&var).unwrap().sum_all().unwrap().backward().unwrap();
            let g: Vec<f32> = grads.get(&var).unwrap().to_vec1().unwrap();
            for (got, want) in g.iter().zip([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]) {
                assert!((got - want).abs() < 1e-6, "{name}: {g:?}");
            }
        }
    }

    #[test]
    fn wrong_shapes_are_told_and_empty_inputs_pass() {
        assert_eq!(geglu(&random64(1, &[2, 3])).unwrap_err().kind(), Kind::Shape);
        assert_eq!(geglu(&random64(1, &[])).unwrap_err().kind(), Kind::Shape);
        assert_eq!(geglu(&random64(1, &[0, 4])).unwrap().dims(), [0, 2]);
        for (_, op, _) in OPS {
            assert_eq!(op(&random64(1, &[3, 0])).unwrap().dims(), [3, 0]);
            let whole = Tensor::zeros((2, 2), DType::U32, &Device::Cpu).unwrap();
            assert_eq!(op(&whole).unwrap_err().kind(), Kind::Value);
        }
    }
}
