//! Fully connected layer.

use candle_core::Tensor;

use super::{check, composed};
use crate::engine::error::Result;

/// `y = x · weightᵀ + bias` over the last dimension.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Fails with kind `Shape` unless `weight` is `[out, in]` and `bias` is `[out]`.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        check::rank("linear", "weight", &weight, 2, "[out, in]")?;
        check::float("linear", &weight)?;
        if let Some(bias) = &bias {
            check::vector("linear", "bias", bias, weight.dims()[0])?;
            check::alike("linear", &weight, &[("bias", bias)])?;
        }
        Ok(Linear { weight, bias })
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
        Ok(composed::linear(x, &self.weight, self.bias.as_ref())?)
    }
}
