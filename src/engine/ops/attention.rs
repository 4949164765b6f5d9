//! Attention over heads that lie side by side in the last dimension.

use candle_core::{CpuStorage, CustomOp3, Layout, Result as CandleResult, Shape, Storage, Tensor, WithDType};

use super::host::{self, by_dtype};
use super::kernels::attention::{self as kernel, Operand, Sizes};
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
    if !host::has_kernel(q) {
        return Ok(composed::attention(q, k, v, heads, causal)?);
    }
    let (batch, queries, width) = q.dims3()?;
    let sizes = Sizes { batch, queries, keys: k.dims()[1], heads, size: width / heads, causal };
    Ok(rows(q)?.apply_op3(&rows(k)?, &rows(v)?, Attention(sizes))?)
}

/// The tensor itself if its last dimension is contiguous (a slice of a fused projection is), else a copy.
fn rows(x: &Tensor) -> CandleResult<Tensor> {
    if x.stride().last() == Some(&1) { Ok(x.clone()) } else { x.contiguous() }
}

/// The kernel as an operation of candle.
struct Attention(Sizes);

fn operand<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> CandleResult<Operand<'a, T>> {
    let data = T::cpu_storage_as_slice(storage)?;
    let outside = || candle_core::Error::Msg("attention got a tensor outside its storage".into());
    let data = data.get(layout.start_offset()..).ok_or_else(outside)?;
    Ok(Operand { data, batch: layout.stride()[0], row: layout.stride()[1] })
}

/// Calls `f` with a tensor in main memory whose last dimension is contiguous.
fn with<T: WithDType, R>(x: &Tensor, f: impl FnOnce(Operand<'_, T>) -> CandleResult<R>) -> CandleResult<R> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(operand(storage, layout)?),
        _ => Err(candle_core::Error::Msg("attention got a tensor that is not in main memory".into())),
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        by_dtype!(q.dtype(), T => {
            let (k, v) = (operand::<T>(k, k_layout)?, operand(v, v_layout)?);
            let y = kernel::forward(&self.0, operand(q, q_layout)?, k, v)?;
            Ok((WithDType::to_cpu_storage_owned(y), q_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let want = [q.track_op(), k.track_op(), v.track_op()];
        by_dtype!(dy.dtype(), T => {
            let [dq, dk, dv] = host::with::<T, _>(dy, |dy| {
                with(q, |q| with(k, |k| with(v, |v| kernel::backward(&self.0, q, k, v, dy, want))))
            })?;
            let give = |values: Vec<T>, like: &Tensor| match like.track_op() {
                true => host::tensor(values, like).map(Some),
                false => Ok(None),
            };
            Ok((give(dq, q)?, give(dk, k)?, give(dv, v)?))
        })
    }
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

#[cfg(test)]
mod tests {
    use super::super::grad_check::{check, check_same, check_values, distance, random64};
    use super::*;
    use crate::engine::error::Kind;

    /// Queries and keys three times larger than the values, so that the softmax is not flat.
    fn inputs(b: usize, n: usize, m: usize, c: usize) -> Vec<Tensor> {
        let q = (random64(1, &[b, n, c]) * 3.0).unwrap();
        let k = (random64(2, &[b, m, c]) * 3.0).unwrap();
        vec![q, k, random64(3, &[b, m, c])]
    }

    /// (batch, queries, keys, width, heads, causal)
    const CASES: [(usize, usize, usize, usize, usize, bool); 8] = [
        (2, 5, 7, 6, 2, false),
        (1, 6, 6, 8, 2, true),
        (2, 1, 3, 4, 1, false),
        (1, 70, 9, 6, 3, false),
        (1, 9, 70, 6, 3, false),
        (2, 67, 67, 4, 2, true),
        (1, 3, 1, 4, 4, false),
        (1, 1, 1, 3, 1, true),
    ];

    #[test]
    fn gradients_are_right() {
        for (b, n, m, c, heads, causal) in CASES {
            if m == 1 {
                // One key: the probabilities are 1 and only the value has a gradient.
                let all = inputs(b, n, m, c);
                check(&all[2..], |x| attention(&all[0], &all[1], &x[0], heads, causal));
                continue;
            }
            let x = inputs(b, n, m, c);
            check(&x, |x| attention(&x[0], &x[1], &x[2], heads, causal));
            check(&x, |x| apply_probs(&attention_probs(&x[0], &x[1], heads, causal)?, &x[2], heads));
            check_values(&x, &|x| Ok(composed::attention(&x[0], &x[1], &x[2], heads, causal)?));
        }
    }

    #[test]
    fn gradients_of_strided_inputs_are_right() {
        // One projection for all three, as CLIP's fused weights give it.
        check(&[random64(1, &[2, 5, 3 * 6])], |x| {
            let part = |i: usize| x[0].narrow(2, 6 * i, 6);
            attention(&part(0)?, &part(1)?, &part(2)?, 2, false)
        });
        check(&[random64(1, &[6, 5, 2])], |x| {
            let t = x[0].transpose(0, 2)?;
            attention(&t, &t, &t, 3, true)
        });
    }

    #[test]
    fn agrees_with_composed() {
        let large = [(1, 300, 77, 64, 2, false), (1, 130, 1100, 16, 1, false), (2, 77, 77, 64, 4, true)];
        for (b, n, m, c, heads, causal) in CASES.into_iter().chain(large) {
            check_same(
                &inputs(b, n, m, c),
                |x| attention(&x[0], &x[1], &x[2], heads, causal),
                |x| composed::attention(&x[0], &x[1], &x[2], heads, causal),
            );
        }
    }

    #[test]
    fn the_two_halves_make_the_whole() {
        let x = inputs(2, 20, 30, 12);
        let probs = attention_probs(&x[0], &x[1], 3, false).unwrap();
        assert_eq!(probs.dims(), [2, 3, 20, 30]);
        let sums = probs.sum(3).unwrap();
        assert!(distance(&sums, &sums.ones_like().unwrap()) < 1e-12);
        let halves = apply_probs(&probs, &x[2], 3).unwrap();
        let whole = attention(&x[0], &x[1], &x[2], 3, false).unwrap();
        assert!(distance(&halves, &whole) < 1e-12);
    }

    #[test]
    fn causal_queries_see_no_later_key() {
        let x = inputs(1, 6, 6, 4);
        let y = attention(&x[0], &x[1], &x[2], 2, true).unwrap();
        let cut = |t: &Tensor| t.narrow(1, 0, 3).unwrap();
        let short = attention(&cut(&x[0]), &cut(&x[1]), &cut(&x[2]), 2, true).unwrap();
        assert!(distance(&cut(&y), &short) < 1e-12);
        let first = x[2].narrow(1, 0, 1).unwrap();
        assert!(distance(&y.narrow(1, 0, 1).unwrap(), &first) < 1e-12);
    }

    /// Scores of thousands neither overflow nor give NaN.
    #[test]
    fn large_scores_are_safe() {
        let x: Vec<Tensor> = inputs(1, 4, 5, 4)
            .iter()
            .map(|x| (x * 1e3).unwrap().to_dtype(candle_core::DType::F32).unwrap())
            .collect();
        let y: Vec<f32> =
            attention(&x[0], &x[1], &x[2], 2, false).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert!(y.iter().all(|v| v.is_finite()));
    }

    #[test]
    fn wrong_shapes_are_told_and_empty_inputs_pass() {
        let x = inputs(2, 5, 7, 6);
        let kind = |q: &Tensor, k: &Tensor, v: &Tensor, heads, causal| {
            attention(q, k, v, heads, causal).unwrap_err().kind()
        };
        assert_eq!(kind(&x[0], &x[1], &x[2], 4, false), Kind::Value);
        assert_eq!(kind(&x[0], &x[1], &x[2], 0, false), Kind::Value);
        assert_eq!(kind(&x[0], &x[1], &x[2], 2, true), Kind::Shape);
        assert_eq!(kind(&x[0], &x[1], &x[0], 2, false), Kind::Shape);
        assert_eq!(kind(&x[0], &random64(1, &[2, 7, 4]), &x[2], 2, false), Kind::Shape);
        assert_eq!(kind(&random64(1, &[5, 6]), &x[1], &x[2], 2, false), Kind::Shape);
        assert_eq!(kind(&x[0], &random64(1, &[2, 0, 6]), &random64(1, &[2, 0, 6]), 2, false), Kind::Shape);
        let none = random64(1, &[2, 0, 6]);
        assert_eq!(attention(&none, &x[1], &x[2], 2, false).unwrap().dims(), [2, 0, 6]);
        assert_eq!(attention_probs(&none, &x[1], 2, false).unwrap().dims(), [2, 2, 0, 7]);
        let probs = random64(1, &[2, 2, 5, 7]);
        assert_eq!(apply_probs(&probs, &x[0], 2).unwrap_err().kind(), Kind::Shape);
        assert_eq!(apply_probs(&probs, &x[2], 3).unwrap_err().kind(), Kind::Shape);
    }
}
