//! A value for each channel, added to all of its pixels.

use candle_core::{CpuStorage, CustomOp2, Layout, Result as CandleResult, Shape, Tensor};

use super::check;
use super::host::{self, by_dtype};
use crate::engine::error::Result;

/// `x [n, c, h, w]` plus `shift [n, c]`, or `[1, c]` for all. Unlike candle's broadcast sum it computes no gradient for a
/// shift that is not tracked, which would be as large as `x`.
pub fn add_channels(x: &Tensor, shift: &Tensor) -> Result<Tensor> {
    let op = "add_channels";
    check::rank(op, "the input", x, 4, "[n, channels, height, width]")?;
    let (n, c, _, _) = x.dims4()?;
    if shift.dims() != [n, c] && shift.dims() != [1, c] {
        return Err(check::wrong(op, "the shift", format!("[{n}, {c}] or [1, {c}]"), shift));
    }
    check::alike(op, x, &[("shift", shift)])?;
    if !host::has_kernel(x) || check::is_empty(x) {
        return Ok(x.broadcast_add(&shift.unsqueeze(2)?.unsqueeze(3)?)?);
    }
    Ok(x.contiguous()?.apply_op2(&shift.contiguous()?, Shift)?)
}

/// The sum as an operation of candle.
struct Shift;

impl CustomOp2 for Shift {
    fn name(&self) -> &'static str {
        "add_channels"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        shift: &CpuStorage,
        shift_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        let (_, _, h, w) = layout.shape().dims4()?;
        by_dtype!(x.dtype(), T => {
            let (x, shift) = (host::slice::<T>(x, layout)?, host::slice::<T>(shift, shift_layout)?);
            let mut y = Vec::with_capacity(x.len());
            for (plane, t) in x.chunks_exact(h * w).zip(shift.iter().cycle()) {
                y.extend(plane.iter().map(|v| *v + *t));
            }
            Ok((candle_core::WithDType::to_cpu_storage_owned(y), layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        shift: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let for_shift = match shift.track_op() {
            false => None,
            true if shift.dims()[0] == x.dims()[0] => Some(dy.sum((2, 3))?),
            true => Some(dy.sum((0, 2, 3))?.unsqueeze(0)?),
        };
        Ok((x.track_op().then(|| dy.clone()), for_shift))
    }
}

#[cfg(test)]
mod tests {
    use super::super::grad_check::{check, check_same, random64};
    use super::*;
    use crate::engine::error::Kind;

    #[test]
    fn gradients_are_right() {
        for rows in [1, 2] {
            let x = [random64(1, &[2, 3, 4, 5]), random64(2, &[rows, 3])];
            check(&x, |x| add_channels(&x[0], &x[1]));
            check_same(
                &x,
                |x| add_channels(&x[0], &x[1]),
                |x| x[0].broadcast_add(&x[1].unsqueeze(2)?.unsqueeze(3)?),
            );
        }
        check(&[random64(1, &[2, 4, 3, 5]), random64(2, &[3, 1])], |x| {
            add_channels(&x[0].transpose(1, 2)?, &x[1].t()?)
        });
    }

    #[test]
    fn wrong_shapes_are_told() {
        let x = random64(1, &[2, 3, 4, 5]);
        for dims in [&[3, 3][..], &[2, 2], &[3], &[2, 3, 1]] {
            assert_eq!(add_channels(&x, &random64(2, dims)).unwrap_err().kind(), Kind::Shape);
        }
        let none = add_channels(&random64(1, &[0, 3, 4, 5]), &random64(2, &[1, 3])).unwrap();
        assert_eq!(none.dims(), [0, 3, 4, 5]);
    }
}
