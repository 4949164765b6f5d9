//! Every operation on candle's own, with a backward that is right.
//!
//! candle 0.11 loses or falsifies gradients in some of its fused operations (`softmax_last_dim`, the fast layer
//! norm, `upsample_nearest2d`); here only those appear that were checked against finite differences.
//! Slow (several passes, whole score matrices, gradients for frozen weights too): the fallback for devices and
//! dtypes without a kernel, and the reference that the kernels are tested against.
//!
//! The functions trust their callers: shapes were checked by the operation of the same name one floor up.

use candle_core::{D, DType, Result, Tensor};

use super::conv::Padding;

/// The type in which half precision is summed and trained, f32: long sums in f16 overflow, and small steps are lost. Others stay.
pub fn wide(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    }
}

/// `x [n, i, h, w]` with `weight [o, i, kh, kw]` and `bias [o]` → `[n, o, h', w']`.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: Padding,
) -> Result<Tensor> {
    let Padding { top, left, bottom, right } = padding;
    let x = match (top, bottom) {
        (0, 0) => x.clone(),
        _ => x.pad_with_zeros(2, top, bottom)?,
    };
    let x = match (left, right) {
        (0, 0) => x,
        _ => x.pad_with_zeros(3, left, right)?,
    };
    // Rows and columns that no step of the kernel reaches: candle's backward takes their number from the height
    // alone and fails for pictures that are not square.
    let reached = |size: usize, kernel: usize| (size - kernel) / stride * stride + kernel;
    let (_, _, kh, kw) = weight.dims4()?;
    let x = x.narrow(2, 0, reached(x.dim(2)?, kh))?.narrow(3, 0, reached(x.dim(3)?, kw))?;
    let y = x.contiguous()?.conv2d(&weight.contiguous()?, 0, stride, 1, 1)?;
    match bias {
        None => Ok(y),
        Some(bias) => y.broadcast_add(&bias.reshape((1, bias.dim(0)?, 1, 1))?),
    }
}

/// `x [.., i]` with `weight [o, i]` and `bias [o]` → `[.., o]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (o, i) = weight.dims2()?;
    let mut dims = x.dims().to_vec();
    let rows = dims[..dims.len() - 1].iter().product::<usize>();
    let y = x.reshape((rows, i))?.matmul(&weight.t()?)?;
    let y = match bias {
        None => y,
        Some(bias) => y.broadcast_add(bias)?,
    };
    if let Some(last) = dims.last_mut() {
        *last = o;
    }
    y.reshape(dims)
}

/// `x [n, c, ..]` brought to mean 0 and variance 1 over each of `groups` groups of channels, then scaled and
/// shifted by `weight [c]` and `bias [c]`.
pub fn group_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    let dims = x.dims().to_vec();
    let (n, c) = (dims[0], dims[1]);
    let rest = dims[2..].iter().product::<usize>();
    let y = normalize(&wide(&x.reshape((n, groups, c / groups * rest))?)?, eps)?;
    let y = y.to_dtype(x.dtype())?.reshape((n, c, rest))?;
    y.broadcast_mul(&weight.reshape((1, c, 1))?)?.broadcast_add(&bias.reshape((1, c, 1))?)?.reshape(dims)
}

/// `x [.., c]` brought to mean 0 and variance 1 over the last dimension, then scaled and shifted.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    normalize(&wide(x)?, eps)?.to_dtype(x.dtype())?.broadcast_mul(weight)?.broadcast_add(bias)
}

fn normalize(x: &Tensor, eps: f64) -> Result<Tensor> {
    let centered = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
    centered.broadcast_div(&(variance + eps)?.sqrt()?)
}

/// Softmax over the last dimension. The maximum is a constant to the gradient, as it cancels.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let y = wide(x)?;
    let y = y.broadcast_sub(&y.max_keepdim(D::Minus1)?.detach())?.exp()?;
    y.broadcast_div(&y.sum_keepdim(D::Minus1)?)?.to_dtype(x.dtype())
}

/// `[b, n, heads·d]` → `[b, heads, n, d]`.
fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, n, c) = x.dims3()?;
    x.reshape((b, n, heads, c / heads))?.transpose(1, 2)?.contiguous()
}

/// `q [b, n, heads·d]`, `k [b, m, heads·d]` → probabilities `[b, heads, n, m]`.
pub fn attention_probs(q: &Tensor, k: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let (q, k) = (split_heads(q, heads)?, split_heads(k, heads)?);
    let (_, _, n, d) = q.dims4()?;
    let m = k.dim(2)?;
    let scores = (q * (1.0 / (d as f64).sqrt()))?.matmul(&k.t()?)?;
    let scores = match causal {
        false => scores,
        true => {
            // A finite floor, not -inf: -inf times a zero gradient would be NaN.
            let floor = if scores.dtype() == DType::F16 { -6e4 } else { -1e30 };
            let mask: Vec<f32> = (0..n * m).map(|at| if at % m > at / m { floor } else { 0.0 }).collect();
            let mask = Tensor::from_vec(mask, (n, m), scores.device())?.to_dtype(scores.dtype())?;
            scores.broadcast_add(&mask)?
        }
    };
    softmax(&scores)
}

/// `probs [b, heads, n, m]` with `v [b, m, heads·d]` → `[b, n, heads·d]`.
pub fn apply_probs(probs: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (b, heads, n, _) = probs.dims4()?;
    let width = v.dim(2)?;
    let y = probs.contiguous()?.matmul(&split_heads(v, heads)?)?;
    y.transpose(1, 2)?.contiguous()?.reshape((b, n, width))
}

/// Numbers in a score matrix, at most: a gigabyte in f32.
const SCORES: usize = 1 << 28;

/// Attention with the score matrix of as many queries at a time as [`SCORES`] lets.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    attention_within(SCORES, q, k, v, heads, causal)
}

fn attention_within(
    scores: usize,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    causal: bool,
) -> Result<Tensor> {
    let (b, n, _) = q.dims3()?;
    let most = (scores / (b * heads * k.dim(1)?).max(1)).max(1);
    if causal || n <= most {
        return apply_probs(&attention_probs(q, k, heads, causal)?, v);
    }
    let part = |from: usize| {
        let q = q.narrow(1, from, most.min(n - from))?;
        apply_probs(&attention_probs(&q, k, heads, false)?, v)
    };
    Tensor::cat(&(0..n).step_by(most).map(part).collect::<Result<Vec<_>>>()?, 1)
}

/// `1 / (1 + e^-x)`, by way of tanh, which overflows on neither side.
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    ((x * 0.5)?.tanh()? + 1.0)? * 0.5
}

/// `x · sigmoid(x)`.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    x.silu()
}

/// `x · Φ(x)` with the exact normal distribution function. Made from erf, since the backward of candle's own
/// `gelu_erf` and `gelu` has constants of six digits.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.mul(&(((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)?)
}

/// The tanh approximation of [`gelu`], as GPT-2 and some CLIPs have it.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    // 2 √(2/π), as (1 + tanh u) / 2 = sigmoid(2u).
    let inner = ((x.sqr()? * 0.044715)? + 1.0)?.mul(&(x * 1.595_769_121_605_730_8)?)?;
    x.mul(&sigmoid(&inner)?)
}

/// `x · sigmoid(1.702 x)`, the activation of OpenAI's CLIP.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    (x * 1.702)?.silu()? / 1.702
}

/// `x [.., 2c]` → first half times GELU of the second half, `[.., c]`.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let c = x.dim(D::Minus1)? / 2;
    let value = x.narrow(D::Minus1, 0, c)?;
    let gate = x.narrow(D::Minus1, c, c)?.contiguous()?;
    value.mul(&gelu(&gate)?)
}

/// `x [n, c, h, w]` → `[n, c, 2h, 2w]`, every value four times. candle's own `upsample_nearest2d` overwrites
/// gradients that its input already has.
pub fn upsample_nearest2x(x: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let y = x.reshape((n, c, h, 1, w, 1))?.broadcast_as((n, c, h, 2, w, 2))?;
    y.contiguous()?.reshape((n, c, 2 * h, 2 * w))
}

#[cfg(test)]
mod tests {
    use super::super::grad_check::{check_same, random64};
    use super::*;

    #[test]
    fn attention_in_parts_is_the_whole() {
        let x = [random64(1, &[2, 11, 6]), random64(2, &[2, 5, 6]), random64(3, &[2, 5, 6])];
        for scores in [1, 2 * 3 * 5 * 4] {
            check_same(
                &x,
                |x| Ok(attention_within(scores, &x[0], &x[1], &x[2], 3, false)?),
                |x| attention(&x[0], &x[1], &x[2], 3, false),
            );
        }
    }
}
