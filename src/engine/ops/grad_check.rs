//! Gradient checks in f64: backward against central differences, and what frozen operands must not get.

use candle_core::{DType, Device, Result as CandleResult, Tensor, Var};

use crate::engine::error::Result;

/// Step of the central differences: truncation about 1e-10, rounding about 1e-11 in f64.
const STEP: f64 = 1e-5;
/// Largest difference, relative to the largest gradient of the operand (or 1).
const TOLERANCE: f64 = 1e-6;
/// Elements tried per operand; larger operands are sampled evenly.
const SAMPLES: usize = 64;

/// Reproducible numbers in -1..1 that look random enough to break symmetries.
pub fn random(seed: u64, dims: &[usize], dtype: DType) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    let count: usize = dims.iter().product();
    let values: Vec<f64> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let word = (state >> 33) ^ (state >> 13);
            ((word & 0xffff_ffff) as f64 / 4294967296.0) * 2.0 - 1.0
        })
        .collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// [`random`] in f64.
pub fn random64(seed: u64, dims: &[usize]) -> Tensor {
    random(seed, dims, DType::F64)
}

fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest absolute difference of two tensors of one shape, relative to the largest value of `b` (or 1).
pub fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (values(a), values(b));
    let scale = b.iter().fold(1.0, |s: f64, v| s.max(v.abs()));
    a.iter()
        .zip(&b)
        .fold(0.0, |d: f64, (a, b)| if a.is_nan() != b.is_nan() { f64::NAN } else { d.max((a - b).abs()) })
        / scale
}

/// A scalar that depends on every element of `y` with another weight.
fn loss(y: &Tensor) -> CandleResult<Tensor> {
    y.mul(&random(77, y.dims(), y.dtype()))?.sum_all()
}

fn loss_value(inputs: &[Tensor], f: &dyn Fn(&[Tensor]) -> Result<Tensor>) -> f64 {
    loss(&f(inputs).unwrap()).unwrap().to_dtype(DType::F64).unwrap().to_scalar().unwrap()
}

/// The gradients of a fixed weighting of `f(inputs)` for every input, all of them tracked.
pub fn gradients(inputs: &[Tensor], f: &dyn Fn(&[Tensor]) -> Result<Tensor>) -> Vec<Tensor> {
    let vars: Vec<Var> = inputs.iter().map(|x| Var::from_tensor(x).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let grads = loss(&f(&tensors).unwrap()).unwrap().backward().unwrap();
    tensors
        .iter()
        .enumerate()
        .map(|(i, x)| grads.get(x).unwrap_or_else(|| panic!("input {i} got no gradient")).clone())
        .collect()
}

/// [`check_values`], and an input alone among frozen ones gets the same gradient while the frozen ones get none.
pub fn check(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    for (i, gradient) in check_values(inputs, &f).iter().enumerate() {
        check_alone(inputs, i, gradient, &f);
    }
}

/// Panics unless backward agrees with central differences for every input (f64) and no gradient is all zero;
/// returns the gradients.
pub fn check_values(inputs: &[Tensor], f: &dyn Fn(&[Tensor]) -> Result<Tensor>) -> Vec<Tensor> {
    let full = gradients(inputs, f);
    for (i, input) in inputs.iter().enumerate() {
        assert_eq!(full[i].dims(), input.dims(), "shape of gradient {i}");
        let got = values(&full[i]);
        let scale = got.iter().fold(0.0, |s: f64, v| s.max(v.abs()));
        assert!(scale > 1e-4, "the gradient of input {i} is zero");
        let base = values(input);
        let stride = base.len().div_ceil(SAMPLES).max(1);
        for at in (0..base.len()).step_by(stride) {
            let moved = |by: f64| {
                let mut changed = base.clone();
                changed[at] += by;
                let mut all = inputs.to_vec();
                all[i] = Tensor::from_vec(changed, input.dims(), &Device::Cpu).unwrap();
                loss_value(&all, f)
            };
            let want = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            let off = (want - got[at]).abs();
            assert!(
                off <= TOLERANCE * scale.max(1.0),
                "input {i}, element {at}: backward {}, differences {want}",
                got[at]
            );
        }
    }
    full
}

/// Only input `i` is tracked: same gradient, and none for the others.
fn check_alone(inputs: &[Tensor], i: usize, want: &Tensor, f: &dyn Fn(&[Tensor]) -> Result<Tensor>) {
    let var = Var::from_tensor(&inputs[i]).unwrap();
    let mut all: Vec<Tensor> = inputs.iter().map(|x| x.copy().unwrap()).collect();
    all[i] = var.as_tensor().clone();
    let grads = loss(&f(&all).unwrap()).unwrap().backward().unwrap();
    let got = grads.get(&all[i]).unwrap_or_else(|| panic!("input {i} alone got no gradient"));
    let off = distance(got, want);
    assert!(off < 1e-12, "the gradient of input {i} changes by {off} when the others are frozen");
    for (j, other) in all.iter().enumerate().filter(|(j, _)| *j != i) {
        assert!(grads.get(other).is_none(), "frozen input {j} got a gradient");
    }
}

/// Panics unless `f` and `reference` agree forward and backward on f32 and f64 copies of `inputs`.
pub fn check_same(
    inputs: &[Tensor],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
    reference: impl Fn(&[Tensor]) -> CandleResult<Tensor>,
) {
    check_same_within(2e-6, inputs, f, reference);
}

/// [`check_same`] with another tolerance for f32.
pub fn check_same_within(
    tolerance: f64,
    inputs: &[Tensor],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
    reference: impl Fn(&[Tensor]) -> CandleResult<Tensor>,
) {
    let reference = |x: &[Tensor]| Ok(reference(x)?);
    for (dtype, tolerance) in [(DType::F32, tolerance), (DType::F64, 1e-12)] {
        let inputs: Vec<Tensor> = inputs.iter().map(|x| x.to_dtype(dtype).unwrap()).collect();
        let (a, b) = (f(&inputs).unwrap(), reference(&inputs).unwrap());
        assert_eq!(a.dtype(), dtype);
        let off = distance(&a, &b);
        assert!(off <= tolerance, "forward differs by {off} in {dtype:?}");
        let pairs = gradients(&inputs, &f).into_iter().zip(gradients(&inputs, &reference));
        for (i, (a, b)) in pairs.enumerate() {
            let off = distance(&a, &b);
            assert!(off <= 4.0 * tolerance, "gradient {i} differs by {off} in {dtype:?}");
        }
    }
}

mod itself {
    use super::*;

    #[test]
    fn a_right_backward_passes() {
        check(&[random64(1, &[3, 4])], |x| Ok((x[0].sqr()? * 3.0)?));
    }

    #[test]
    #[should_panic(expected = "differences")]
    fn a_wrong_backward_is_caught() {
        // The detached factor hides half of the gradient of x².
        check(&[random64(1, &[3, 4])], |x| Ok(x[0].mul(&x[0].detach())?));
    }

    #[test]
    #[should_panic(expected = "no gradient")]
    fn a_cut_graph_is_caught() {
        check(&[random64(1, &[3, 4])], |x| Ok(x[0].detach().sqr()?));
    }
}
