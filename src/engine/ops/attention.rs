//! Attention over heads that lie side by side in the last dimension.

use candle_core::Tensor;

use super::{check, composed};
use crate::engine::error::{Error, Result};

/// The head size, after checking that `q [b, n, heads·d]` and `k [b, m, heads·d]` fit together.
fn check_pair(op: &str, q: &Tensor, k: &Tensor, heads: usize, causal: bool) -> Result<()> {
    check::float(op, q)?;
    check::rank(op, "the query", q, 3, "[batch, positions, heads * size]")?;
    check::rank(op, "the key", k, 3, "[batch, positions, heads * size]")?;
    check::alike(op, q, &[("key", k)])?;
    let (b, n, c) = (q.dims()[0], q.dims()[1], q.dims()[2]);
    if heads == 0 || c % heads != 0 {
        return Err(Error::value(op, "the heads must divide the width of the query")
            .expected(format!("a divisor of {c}"))
            .got(heads.to_string()));
    }
    if k.dims()[0] != b || k.dims()[2] != c {
        return Err(check::wrong(op, "the key", format!("[{b}, m, {c}]"), k));
    }
    if causal && k.dims()[1] != n {
        return Err(check::wrong(
            op,
            "the key",
            format!("[{b}, {n}, {c}] (causal: as many keys as queries)"),
            k,
        ));
    }
    Ok(())
}

fn empty_keys(op: &str) -> Error {
    Error::shape(op, "there are no keys to attend to").expected("at least 1 key").got("0")
}

/// `softmax(q kᵀ / √d) v` for every head. `q [b, n, heads·d]`, `k` and `v` `[b, m, heads·d]` → `[b, n, heads·d]`.
/// `causal`: query `i` sees keys `0..=i` only, and there must be as many keys as queries.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let op = "attention";
    check_pair(op, q, k, heads, causal)?;
    check::alike(op, q, &[("value", v)])?;
    if v.dims() != k.dims() {
        return Err(check::wrong(op, "the value", format!("{:?}", k.dims()), v));
    }
    if check::is_empty(q) {
        return Ok(q.clone());
    }
    if check::is_empty(k) {
        return Err(empty_keys(op));
    }
    Ok(composed::attention(q, k, v, heads, causal)?)
}

/// The probabilities alone, for sites where a hook reads or changes them: `[b, heads, n, m]`.
/// The whole matrix is made; [`apply_probs`] goes on from it.
pub fn attention_probs(q: &Tensor, k: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let op = "attention_probs";
    check_pair(op, q, k, heads, causal)?;
    let (b, n, m) = (q.dims()[0], q.dims()[1], k.dims()[1]);
    if check::is_empty(q) {
        return Ok(Tensor::zeros((b, heads, n, m), q.dtype(), q.device())?);
    }
    if check::is_empty(k) {
        return Err(empty_keys(op));
    }
    Ok(composed::attention_probs(q, k, heads, causal)?)
}

/// `probs [b, heads, n, m]` with `v [b, m, heads·d]` → `[b, n, heads·d]`.
pub fn apply_probs(probs: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let op = "apply_probs";
    check::float(op, v)?;
    check::rank(op, "the probabilities", probs, 4, "[batch, heads, queries, keys]")?;
    check::rank(op, "the value", v, 3, "[batch, keys, heads * size]")?;
    check::alike(op, v, &[("probabilities", probs)])?;
    let (b, m, c) = (v.dims()[0], v.dims()[1], v.dims()[2]);
    if heads == 0 || c % heads != 0 {
        return Err(Error::value(op, "the heads must divide the width of the value")
            .expected(format!("a divisor of {c}"))
            .got(heads.to_string()));
    }
    let n = probs.dims()[2];
    if probs.dims() != [b, heads, n, m] {
        return Err(check::wrong(op, "the probabilities", format!("[{b}, {heads}, queries, {m}]"), probs));
    }
    if check::is_empty(probs) || check::is_empty(v) {
        return Ok(Tensor::zeros((b, n, c), v.dtype(), v.device())?);
    }
    Ok(composed::apply_probs(probs, v)?)
}
