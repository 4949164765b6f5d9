//! Group normalization (alone and with SiLU) and layer normalization.

use candle_core::Tensor;

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
        if groups == 0 || c % groups != 0 {
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
        let y = composed::group_norm(x, &self.weight, &self.bias, self.groups, self.eps)?;
        if silu { Ok(composed::silu(&y)?) } else { Ok(y) }
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
        Ok(composed::layer_norm(x, &self.weight, &self.bias, self.eps)?)
    }
}
