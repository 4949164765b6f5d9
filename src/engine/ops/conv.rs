//! Two-dimensional convolution.

use candle_core::Tensor;

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
}

impl Conv2d {
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
        Ok(Conv2d { weight, bias, stride, padding })
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
        Ok(composed::conv2d(x, &self.weight, self.bias.as_ref(), self.stride, self.padding)?)
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
