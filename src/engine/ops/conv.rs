//! Two-dimensional convolution.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result as CandleResult, Shape, Tensor};

use super::host::{self, by_dtype};
use super::kernels::conv::{self as kernel, Sizes};
use super::kernels::winograd;
use super::math::Element;
use super::prepared::Prepared;
use super::{check, composed};
use crate::engine::error::{Error, Result};

/// Rows and columns of zeros around the input of a convolution, each side for itself (the downsamplers of
/// Stable Diffusion's autoencoder pad below and on the right only).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Columns on the left.
    pub left: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns on the right.
    pub right: usize,
}

impl Padding {
    /// The same on all four sides.
    pub fn all(size: usize) -> Self {
        Padding { top: size, left: size, bottom: size, right: size }
    }
}

/// A convolution with weights `[o, i, kh, kw]` and an optional bias `[o]`, one stride for both directions.
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: usize,
    padding: Padding,
    prepared: Arc<Prepared>,
}

impl Conv2d {
    /// Weights that are no variables count as constant: what is derived from them is kept. A layer made from a
    /// detached view of a variable must be made anew after the variable was changed in place.
    ///
    /// Fails with kind `Shape` unless `weight` is `[o, i, kh, kw]` with a kernel of at least 1×1 and `bias` is
    /// `[o]`, with kind `Value` for a stride of 0.
    pub fn new(weight: Tensor, bias: Option<Tensor>, stride: usize, padding: Padding) -> Result<Self> {
        let expected = "[out, in, kernel height, kernel width]";
        check::rank("conv2d", "weight", &weight, 4, expected)?;
        check::float("conv2d", &weight)?;
        let dims = weight.dims();
        if dims[2] == 0 || dims[3] == 0 {
            return Err(check::wrong("conv2d", "weight", expected, &weight));
        }
        if let Some(bias) = &bias {
            check::vector("conv2d", "bias", bias, dims[0])?;
            check::alike("conv2d", &weight, &[("bias", bias)])?;
        }
        if stride == 0 {
            return Err(Error::value("conv2d", "stride must be at least 1").expected("1, 2, ..").got("0"));
        }
        let prepared = Arc::new(Prepared::new(&weight));
        Ok(Conv2d { weight, bias, stride, padding, prepared })
    }

    /// `[out, in, kernel height, kernel width]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// `[out]`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// Steps of the kernel, both directions.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Zeros around the input.
    pub fn padding(&self) -> Padding {
        self.padding
    }

    /// The same convolution with other weights (adapters, variables to train).
    pub fn with_weights(&self, weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Self::new(weight, bias, self.stride, self.padding)
    }

    /// Height and width of the result for an input of `h` × `w`; fails where the kernel is larger than the padded
    /// input.
    fn output_size(&self, x: &Tensor, h: usize, w: usize) -> Result<(usize, usize)> {
        let (kh, kw) = (self.weight.dims()[2], self.weight.dims()[3]);
        let Padding { top, left, bottom, right } = self.padding;
        let (h, w) = (h + top + bottom, w + left + right);
        if h < kh || w < kw {
            let expected = format!("at least {kh}x{kw} with padding");
            return Err(Error::shape("conv2d", "the input is smaller than the kernel")
                .expected(expected)
                .got(format!("{:?}, {h}x{w} with padding", x.dims())));
        }
        Ok(((h - kh) / self.stride + 1, (w - kw) / self.stride + 1))
    }

    /// `x [n, in, h, w]` → `[n, out, h', w']` with `h' = (h + top + bottom - kh) / stride + 1`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (out, channels) = (self.weight.dims()[0], self.weight.dims()[1]);
        let &[n, i, h, w] = x.dims() else {
            return Err(check::wrong("conv2d", "the input", format!("[n, {channels}, h, w]"), x));
        };
        if i != channels {
            return Err(check::wrong("conv2d", "the input", format!("[n, {channels}, h, w]"), x));
        }
        check::alike("conv2d", x, &[("weight", &self.weight)])?;
        let (oh, ow) = self.output_size(x, h, w)?;
        if n == 0 || out == 0 {
            return Ok(Tensor::zeros((n, out, oh, ow), x.dtype(), x.device())?);
        }
        if check::is_empty(x) {
            return self.padding_only((n, out, oh, ow), x);
        }
        if !host::has_kernel(x) {
            return Ok(composed::conv2d(x, &self.weight, self.bias.as_ref(), self.stride, self.padding)?);
        }
        let kernel = [self.weight.dims()[2], self.weight.dims()[3]];
        let (stride, padding) = (self.stride, self.padding);
        let sizes = Sizes { n, input: [i, h, w], output: [out, oh, ow], kernel, stride, padding };
        let convolution = Convolution { sizes, prepared: Arc::clone(&self.prepared) };
        let (x, weight) = (x.contiguous()?, self.weight.contiguous()?);
        match &self.bias {
            None => Ok(x.apply_op2(&weight, convolution)?),
            Some(bias) => Ok(x.apply_op3(&weight, &bias.contiguous()?, convolution)?),
        }
    }

    /// The result for an input without elements: the bias everywhere.
    fn padding_only(&self, shape: (usize, usize, usize, usize), x: &Tensor) -> Result<Tensor> {
        let zeros = Tensor::zeros(shape, x.dtype(), x.device())?;
        match &self.bias {
            None => Ok(zeros),
            Some(bias) => Ok(zeros.broadcast_add(&bias.reshape((1, shape.1, 1, 1))?)?),
        }
    }
}

/// The kernel as an operation of candle, with and without bias.
struct Convolution {
    sizes: Sizes,
    prepared: Arc<Prepared>,
}

impl Convolution {
    fn run(
        &self,
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> CandleResult<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        let s = &self.sizes;
        let [o, oh, ow] = s.output;
        let shape = Shape::from((s.n, o, oh, ow));
        by_dtype!(x.0.dtype(), T => {
            let bias = bias.map(|(storage, layout)| host::slice::<T>(storage, layout)).transpose()?;
            let (x, weight) = (host::slice::<T>(x.0, x.1)?, host::slice::<T>(weight.0, weight.1)?);
            let fast = self.prepared.forward(s, weight, |fast| winograd::forward(s, x, fast, bias))?;
            let y = match fast {
                Some(y) => y,
                None => kernel::forward(s, x, weight, bias)?,
            };
            Ok((candle_core::WithDType::to_cpu_storage_owned(y), shape))
        })
    }

    fn back_input<T: Element>(&self, dy: &[T], weight: &[T]) -> CandleResult<Vec<T>> {
        let fast = match winograd::reversed(&self.sizes) {
            Some(s) => self.prepared.back(&s, weight, |fast| winograd::forward(&s, dy, fast, None))?,
            None => None,
        };
        match fast {
            Some(dx) => Ok(dx),
            None => kernel::back_input(&self.sizes, dy, weight),
        }
    }

    /// Gradients for the operands that are tracked.
    fn back(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        dy: &Tensor,
    ) -> CandleResult<[Option<Tensor>; 3]> {
        let s = &self.sizes;
        by_dtype!(dy.dtype(), T => host::with::<T, _>(dy, |dy| {
            let for_x = match x.track_op() {
                true => Some(host::tensor(host::with(weight, |w| self.back_input(dy, w))?, x)?),
                false => None,
            };
            let for_weight = match weight.track_op() {
                true => Some(host::tensor(host::with(x, |x| kernel::back_weight(s, dy, x))?, weight)?),
                false => None,
            };
            let for_bias = match bias.filter(|b| b.track_op()) {
                Some(bias) => Some(host::tensor(kernel::back_bias(s, dy), bias)?),
                None => None,
            };
            Ok([for_x, for_weight, for_bias])
        }))
    }
}

impl CustomOp2 for Convolution {
    fn name(&self) -> &'static str {
        "conv2d"
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

impl CustomOp3 for Convolution {
    fn name(&self) -> &'static str {
        "conv2d"
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
    use super::super::grad_check::{check, check_same_within, check_values, distance, random64};
    use super::*;
    use crate::engine::error::Kind;
    use candle_core::DType;

    const ONE: Padding = Padding { top: 1, left: 1, bottom: 1, right: 1 };
    const NONE: Padding = Padding { top: 0, left: 0, bottom: 0, right: 0 };
    const BELOW: Padding = Padding { top: 0, left: 0, bottom: 1, right: 1 };
    const UNEVEN: Padding = Padding { top: 2, left: 0, bottom: 1, right: 3 };

    /// (input, weight, stride, padding)
    type Case = ([usize; 4], [usize; 4], usize, Padding);
    const CASES: [Case; 16] = [
        // Large enough for the fast transform, with tiles that fit, tiles that hang over, and every frame.
        ([2, 9, 8, 12], [10, 9, 3, 3], 1, ONE),
        ([1, 18, 13, 11], [17, 18, 3, 3], 1, ONE),
        ([3, 8, 10, 12], [8, 8, 3, 3], 1, NONE),
        ([2, 8, 11, 8], [9, 8, 3, 3], 1, Padding { top: 0, left: 2, bottom: 1, right: 2 }),
        ([5, 16, 8, 8], [33, 16, 3, 3], 1, BELOW),
        ([2, 3, 6, 5], [4, 3, 3, 3], 1, ONE),
        ([2, 3, 8, 8], [5, 3, 3, 3], 1, ONE),
        ([1, 17, 9, 7], [18, 17, 3, 3], 1, ONE),
        ([2, 3, 6, 6], [4, 3, 3, 3], 2, ONE),
        ([2, 3, 7, 6], [4, 3, 3, 3], 2, BELOW),
        ([1, 2, 5, 6], [3, 2, 3, 2], 1, UNEVEN),
        ([1, 2, 9, 9], [3, 2, 2, 3], 3, UNEVEN),
        ([2, 5, 4, 3], [6, 5, 1, 1], 1, NONE),
        ([2, 5, 4, 3], [6, 5, 1, 1], 2, NONE),
        ([2, 3, 5, 5], [4, 3, 3, 3], 1, NONE),
        ([3, 4, 1, 1], [2, 4, 3, 3], 1, ONE),
    ];

    fn inputs(case: &Case) -> Vec<Tensor> {
        vec![random64(1, &case.0), random64(2, &case.1), random64(3, &[case.1[0]])]
    }

    fn run(x: &[Tensor], stride: usize, padding: Padding) -> Result<Tensor> {
        Conv2d::new(x[1].clone(), x.get(2).cloned(), stride, padding)?.forward(&x[0])
    }

    #[test]
    fn gradients_are_right() {
        for case in &CASES {
            check(&inputs(case), |x| run(x, case.2, case.3));
            check(&inputs(case)[..2], |x| run(x, case.2, case.3));
        }
    }

    #[test]
    fn gradients_of_strided_inputs_are_right() {
        check(&[random64(1, &[2, 5, 4, 3]), random64(2, &[3, 4, 3, 3])], |x| {
            let moved = [x[0].transpose(1, 3)?, x[1].transpose(0, 1)?.narrow(1, 0, 3)?.transpose(2, 3)?];
            run(&moved, 1, ONE)
        });
        check(&[random64(1, &[4, 3, 6, 6]), random64(2, &[2, 3, 3, 3])], |x| {
            run(&[x[0].narrow(0, 1, 2)?.narrow(3, 1, 5)?, x[1].clone()], 2, ONE)
        });
    }

    #[test]
    fn agrees_with_composed() {
        for case in &CASES {
            let (stride, padding) = (case.2, case.3);
            check_same_within(
                6e-6,
                &inputs(case),
                |x| run(x, stride, padding),
                |x| composed::conv2d(&x[0], &x[1], Some(&x[2]), stride, padding),
            );
        }
    }

    /// The fast transform is used where it pays, and what it keeps is not used for variables.
    #[test]
    fn changed_variables_are_not_served_stale() {
        let case: Case = ([2, 9, 8, 12], [10, 9, 3, 3], 1, ONE);
        let x = inputs(&case);
        let sizes =
            Sizes { n: 2, input: [9, 8, 12], output: [10, 8, 12], kernel: [3, 3], stride: 1, padding: ONE };
        assert!(winograd::pays(&sizes));
        let var = candle_core::Var::from_tensor(&x[1]).unwrap();
        let conv = Conv2d::new(var.as_tensor().clone(), None, 1, ONE).unwrap();
        let before = conv.forward(&x[0]).unwrap();
        var.set(&(&x[1] * 2.0).unwrap()).unwrap();
        let after = conv.forward(&x[0]).unwrap();
        assert!(distance(&(before * 2.0).unwrap(), &after) < 1e-12);
    }

    /// A layer gives the same from weights that it kept as from weights that it meets for the first time.
    #[test]
    fn kept_weights_are_the_same() {
        for case in &CASES[..5] {
            let x = inputs(case);
            let conv = Conv2d::new(x[1].clone(), Some(x[2].clone()), case.2, case.3).unwrap();
            let first = conv.forward(&x[0]).unwrap();
            assert_eq!(distance(&first, &conv.forward(&x[0]).unwrap()), 0.0);
            let reference = composed::conv2d(&x[0], &x[1], Some(&x[2]), case.2, case.3).unwrap();
            assert!(distance(&first, &reference) < 1e-12);
            let input = candle_core::Var::from_tensor(&x[0]).unwrap();
            let gradient = || {
                let y = conv.forward(&input).unwrap();
                y.sqr().unwrap().sum_all().unwrap().backward().unwrap().get(&input).unwrap().clone()
            };
            assert_eq!(distance(&gradient(), &gradient()), 0.0);
        }
    }

    /// Sizes that are cut into many tasks, blocks and panels.
    #[test]
    fn agrees_with_composed_at_larger_sizes() {
        let cases: [Case; 6] = [
            ([2, 64, 8, 8], [64, 64, 3, 3], 1, ONE),
            ([1, 40, 30, 52], [70, 40, 3, 3], 1, ONE),
            ([2, 130, 16, 16], [200, 130, 3, 3], 1, ONE),
            ([3, 96, 33, 20], [40, 96, 3, 3], 2, ONE),
            ([3, 200, 4, 4], [130, 200, 3, 3], 1, ONE),
            ([1, 48, 40, 40], [100, 48, 1, 1], 1, NONE),
        ];
        for case in &cases {
            let (stride, padding) = (case.2, case.3);
            check_same_within(
                2e-5,
                &inputs(case),
                |x| run(x, stride, padding),
                |x| composed::conv2d(&x[0], &x[1], Some(&x[2]), stride, padding),
            );
        }
    }

    /// Weights that are transformed for one call give what kept ones give, block by block and panel by panel.
    #[test]
    fn weights_of_variables_are_the_same() {
        let cases: [Case; 4] = [
            ([2, 64, 8, 12], [64, 64, 3, 3], 1, ONE),
            ([2, 130, 16, 16], [200, 130, 3, 3], 1, ONE),
            ([3, 480, 8, 8], [500, 480, 3, 3], 1, ONE),
            ([1, 9, 130, 260], [70, 9, 3, 3], 1, ONE),
        ];
        for case in &cases {
            let x = inputs(case);
            let var = candle_core::Var::from_tensor(&x[1]).unwrap();
            let of = |weight: Tensor| {
                let input = candle_core::Var::from_tensor(&x[0]).unwrap();
                let conv = Conv2d::new(weight, Some(x[2].clone()), case.2, case.3).unwrap();
                let y = conv.forward(&input).unwrap();
                let dx = y.sqr().unwrap().sum_all().unwrap().backward().unwrap().remove(&input).unwrap();
                (y.detach(), dx)
            };
            let (kept, fresh) = (of(x[1].clone()), of(var.as_tensor().clone()));
            assert!(distance(&kept.0, &fresh.0) < 1e-12 && distance(&kept.1, &fresh.1) < 1e-12);
            let reference = composed::conv2d(&x[0], &x[1], Some(&x[2]), case.2, case.3).unwrap();
            assert!(distance(&fresh.0, &reference) < 1e-12);
        }
    }

    #[test]
    fn composed_gradients_are_right() {
        for case in &CASES {
            let (stride, padding) = (case.2, case.3);
            check_values(&inputs(case), &|x| {
                Ok(composed::conv2d(&x[0], &x[1], Some(&x[2]), stride, padding)?)
            });
        }
    }

    #[test]
    fn wrong_shapes_are_told() {
        let conv = Conv2d::new(random64(1, &[4, 3, 3, 3]), None, 1, NONE).unwrap();
        for dims in [&[1, 2, 8, 8][..], &[3, 8, 8], &[1, 3, 2, 8]] {
            let error = conv.forward(&random64(2, dims)).unwrap_err();
            assert_eq!(error.kind(), Kind::Shape, "{dims:?}");
            assert!(error.expected_text().is_some() && error.got_text().is_some());
        }
        assert_eq!(Conv2d::new(random64(1, &[4, 3, 3]), None, 1, ONE).unwrap_err().kind(), Kind::Shape);
        assert_eq!(Conv2d::new(random64(1, &[4, 3, 0, 3]), None, 1, ONE).unwrap_err().kind(), Kind::Shape);
        let bias = Some(random64(1, &[5]));
        assert_eq!(Conv2d::new(random64(1, &[4, 3, 3, 3]), bias, 1, ONE).unwrap_err().kind(), Kind::Shape);
        assert_eq!(Conv2d::new(random64(1, &[4, 3, 3, 3]), None, 0, ONE).unwrap_err().kind(), Kind::Value);
        let x = random64(2, &[1, 3, 8, 8]).to_dtype(DType::F32).unwrap();
        assert_eq!(conv.forward(&x).unwrap_err().kind(), Kind::Value);
    }

    #[test]
    fn empty_inputs_give_empty_results() {
        let conv = Conv2d::new(random64(1, &[4, 3, 3, 3]), Some(random64(2, &[4])), 1, ONE).unwrap();
        assert_eq!(conv.forward(&random64(2, &[0, 3, 8, 8])).unwrap().dims(), [0, 4, 8, 8]);
        assert_eq!(conv.forward(&random64(2, &[2, 3, 1, 0])).unwrap_err().kind(), Kind::Shape);
        let wide = Conv2d::new(random64(1, &[4, 3, 1, 2]), Some(random64(2, &[4])), 1, ONE).unwrap();
        assert_eq!(wide.forward(&random64(2, &[2, 3, 0, 1])).unwrap().dims(), [2, 4, 2, 2]);
        let none = Conv2d::new(random64(1, &[0, 3, 3, 3]), None, 1, ONE).unwrap();
        assert_eq!(none.forward(&random64(2, &[2, 3, 4, 4])).unwrap().dims(), [2, 0, 4, 4]);
    }
}
