//! NVIDIA GPUs: everything that can be missing is asked for before cudarc is, which panics where a library is not there.

use std::sync::{Mutex, OnceLock, PoisonError};

use candle_core::Device;
use candle_core::cuda_backend::{cudarc, kernels};
use cudarc::driver::{result, sys};
use nvml_wrapper::Nvml;

use super::gpu::{self, Gpu};
use super::libraries;
use crate::engine::error::Result;

/// Devices that were opened, by number: candle takes two of the same GPU for different ones.
static OPENED: Mutex<Vec<(usize, Device)>> = Mutex::new(Vec::new());

/// Opens a GPU: that of `index`, or the one with the most free memory, which stays the choice.
pub fn open(index: Option<usize>) -> Result<(Device, String)> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = |i: usize| opened.iter().find(|(n, _)| *n == i);
    if let Some((i, device)) = index.map_or(opened.first(), known) {
        return Ok((device.clone(), line(*i)));
    }
    let gpus = list()?;
    let gpu = match index {
        None => gpu::freest(&gpus, target())?,
        Some(i) => {
            let gpu = gpus.get(i).ok_or_else(|| {
                gpu::unusable(&format!("there is no cuda:{i}"))
                    .expected(format!("cuda:0 to cuda:{}", gpus.len().saturating_sub(1)))
            })?;
            gpu.runs(target())?;
            gpu
        }
    };
    libraries_are_here()?;
    let i = gpu.index;
    let device = Device::new_cuda(i).map_err(|e| {
        let text = e.to_string();
        gpu::of_text(&text, gpu.free).unwrap_or_else(|| gpu::unusable(&text))
    })?;
    opened.push((i, device.clone()));
    Ok((device, line(i)))
}

fn line(index: usize) -> String {
    let found = list().ok().and_then(|all| all.into_iter().find(|g| g.index == index));
    found.map_or_else(|| format!("cuda:{index}"), |gpu| gpu.short())
}

/// The capability that candle's kernels were compiled for.
fn target() -> (u32, u32) {
    gpu::target(kernels::AFFINE.ptx()).unwrap_or((8, 0))
}

/// The GPUs that CUDA_VISIBLE_DEVICES leaves, in the driver's order.
pub fn list() -> Result<Vec<Gpu>> {
    ready()?;
    let failed = |e: cudarc::driver::DriverError| gpu::of_start(e.0 as u32, None);
    let count = result::device::get_count().map_err(failed)?;
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    if count < 1 {
        return Err(gpu::of_start(100, visible.as_deref()));
    }
    (0..count)
        .map(|i| {
            use sys::CUdevice_attribute::{
                CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
                CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
            };
            let device = result::device::get(i).map_err(failed)?;
            // SAFETY: the driver has just given this device.
            let (major, minor, total) = unsafe {
                (
                    result::device::get_attribute(device, MAJOR).map_err(failed)?,
                    result::device::get_attribute(device, MINOR).map_err(failed)?,
                    result::device::total_mem(device).map_err(failed)? as u64,
                )
            };
            let free = result::device::get_uuid(device).ok().and_then(|uuid| free(&uuid));
            Ok(Gpu {
                index: usize::try_from(i).unwrap_or(0),
                name: result::device::get_name(device).map_err(failed)?,
                capability: (major.unsigned_abs(), minor.unsigned_abs()),
                total,
                free,
            })
        })
        .collect()
}

/// What NVML says is free on a GPU, or on a part of one (MIG).
fn free(uuid: &sys::CUuuid) -> Option<u64> {
    static NVML: OnceLock<Option<Nvml>> = OnceLock::new();
    let open = || Nvml::builder().lib_path("libnvidia-ml.so.1".as_ref()).init().ok();
    let nvml = NVML.get_or_init(open).as_ref()?;
    let hex: Vec<String> = uuid.bytes.iter().map(|b| format!("{:02x}", *b as u8)).collect();
    let text =
        [&hex[..4], &hex[4..6], &hex[6..8], &hex[8..10], &hex[10..]].map(|part| part.concat()).join("-");
    let memory = |kind: &str| nvml.device_by_uuid(format!("{kind}-{text}")).ok()?.memory_info().ok();
    memory("GPU").or_else(|| memory("MIG")).map(|m| m.free)
}

/// Bytes that are free on the GPU that was opened first.
pub fn memory_free() -> Option<u64> {
    // Whoever holds the lock is about to open one.
    let opened = OPENED.try_lock().ok()?;
    let (_, device) = opened.first()?;
    let stream = device.as_cuda_device().ok()?.cuda_stream();
    stream.context().bind_to_thread().ok()?;
    result::mem_get_info().ok().map(|(free, _)| free as u64)
}

/// The driver is here, has started and is new enough.
fn ready() -> Result<()> {
    static READY: OnceLock<Result<()>> = OnceLock::new();
    READY.get_or_init(start).clone()
}

fn start() -> Result<()> {
    if !loaded(Library::Driver) {
        return Err(gpu::no_driver());
    }
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    result::init().map_err(|e| gpu::of_start(e.0 as u32, visible.as_deref()))?;
    let mut driver = 0;
    // SAFETY: the driver writes one number.
    let code = unsafe { sys::cuDriverGetVersion(&mut driver) };
    let built = sys::CUDA_VERSION;
    match u32::try_from(driver) {
        Ok(driver) if code == sys::CUresult::CUDA_SUCCESS && driver < built => {
            Err(gpu::old_driver(driver, built))
        }
        _ => Ok(()),
    }
}

#[derive(Clone, Copy)]
enum Library {
    Driver,
    Blas,
    Rand,
    Dnn,
}

/// Whether cudarc will find a library.
#[cfg(cuda_loading)]
fn loaded(library: Library) -> bool {
    // SAFETY: opens the library under the names that cudarc knows, and closes it again.
    unsafe {
        match library {
            Library::Driver => sys::is_culib_present(),
            Library::Blas => cudarc::cublas::sys::is_culib_present(),
            Library::Rand => cudarc::curand::sys::is_culib_present(),
            Library::Dnn => cudarc::cudnn::sys::is_culib_present(),
        }
    }
}

/// The program was linked with it, or it would not have started.
#[cfg(not(cuda_loading))]
fn loaded(_: Library) -> bool {
    true
}

fn libraries_are_here() -> Result<()> {
    let major = sys::CUDA_VERSION / 1000;
    let name = |stem: &str, version: u32| format!("lib{stem}.so.{version}");
    let (blas, rand, dnn) = (name("cublas", major), name("curand", 10), name("cudnn", 9));
    // cuRAND needs cudart, cuBLAS cublasLt; cuDNN needs both, and nvrtc for some of its kernels.
    libraries::open_ahead(&[
        name("cudart", major),
        name("cublasLt", major),
        blas.clone(),
        rand.clone(),
        name("nvrtc", major),
        dnn.clone(),
    ]);
    // Before cudarc opens them: it takes whatever has the plain name, and panics where that lacks a function.
    #[cfg(all(cuda_loading, unix))]
    for (stem, version, wanted) in [("cublas", major, &blas), ("curand", 10, &rand), ("cudnn", 9, &dnn)] {
        if let Some(got) = libraries::plain_major(stem).filter(|got| *got != version) {
            return Err(gpu::other_version(&format!("lib{stem}.so"), got, wanted));
        }
    }
    let suffix = if major >= 13 { "" } else { "-cu12" };
    for (library, what, package) in [
        (Library::Blas, format!("cuBLAS ({blas})"), format!("nvidia-cublas{suffix}")),
        (
            Library::Rand,
            format!("cuRAND ({rand})"),
            format!("nvidia-curand{suffix} nvidia-cuda-runtime{suffix}"),
        ),
        (Library::Dnn, format!("cuDNN ({dnn})"), format!("nvidia-cudnn-cu{major}")),
    ] {
        if !loaded(library) {
            return Err(gpu::missing(&what, &package));
        }
    }
    Ok(())
}
