//! Tensors in main memory as slices.

use candle_core::{CpuStorage, DType, Error, Layout, Result, Storage, Tensor, WithDType};

/// Whether the kernels can work on `x`: main memory, f32 or f64.
pub fn has_kernel(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64)
}

/// Two tensors, of which one may lie in main memory and the other on a GPU: both on the GPU. What a script makes from
/// numbers, and what it reads from files, lies in main memory.
pub fn on_one_device(a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
    Ok(match (a.device().is_cpu(), b.device().is_cpu()) {
        (true, false) => (a.to_device(b.device())?, b.clone()),
        (false, true) => (a.clone(), b.to_device(a.device())?),
        _ => (a.clone(), b.clone()),
    })
}

/// The elements of a contiguous operand of a custom operation.
pub fn slice<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let values = T::cpu_storage_as_slice(storage)?;
    layout
        .contiguous_offsets()
        .and_then(|(from, to)| values.get(from..to))
        .ok_or_else(|| Error::Msg("a kernel got a tensor that is not contiguous".into()))
}

/// Calls `f` with the elements of a tensor in main memory, copied first where they are not contiguous.
pub fn with<T: WithDType, R>(x: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(slice(storage, layout)?),
        _ => Err(Error::Msg("a kernel got a tensor that is not in main memory".into())),
    }
}

/// A tensor from the values of a kernel.
pub fn tensor<T: WithDType>(values: Vec<T>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.dims(), like.device())
}

/// Evaluates an expression with the type `$t` that `$dtype` names, f32 or f64.
macro_rules! by_dtype {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $t = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $t = f64;
                $body
            }
            other => Err(candle_core::Error::Msg(format!("no kernel for {}", other.as_str()))),
        }
    };
}
pub(crate) use by_dtype;
