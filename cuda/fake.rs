//! NVIDIA's libraries without a GPU, for cuda/check.sh: one shared library that stands for the driver, cuBLAS, cuRAND, cuDNN and
//! NVML. Memory of the GPU is main memory and copies are copies, but nothing is computed: results are zeros. A kernel's name
//! must stand in the text of the module, so that a kernel that candle has not compiled is an error, as it would be there.
//!
//! It shows that everything of a run finds its way to the GPU, on one device, with a kernel for its number type; and what is said when
//! the driver refuses. It says nothing about numbers or speed.
//!
//! FAKE_INIT=CODE      what cuInit answers (0)            FAKE_VERSION=12040   the driver's CUDA version (13000)
//! FAKE_GPUS=N         how many GPUs there are (1)        FAKE_CAP=80          their compute capability (90)
//! FAKE_FREE=2,40      GiB free on each of 80             FAKE_FULL=BYTES      memory that allocations may take in all
//! FAKE_CUBLAS=12      major version of cuBLAS (13); also FAKE_CURAND (10) and FAKE_CUDNN (9)
#![allow(non_snake_case, clippy::missing_safety_doc)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const GIB: usize = 1 << 30;
const TOTAL: usize = 80 * GIB;
/// The driver's codes.
const OUT_OF_MEMORY: c_int = 2;
const NOT_FOUND: c_int = 500;

static HELD: AtomicUsize = AtomicUsize::new(0);
/// Sizes of what is allocated, by address.
static BLOCKS: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());
static LAUNCHES: AtomicUsize = AtomicUsize::new(0);

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn visible() -> usize {
    let all = number("FAKE_GPUS", 1);
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(list) => list.split(',').filter(|i| i.trim().parse::<usize>().is_ok_and(|i| i < all)).count(),
        Err(_) => all,
    }
}

fn free(gpu: usize) -> usize {
    let list = std::env::var("FAKE_FREE").unwrap_or_default();
    let gib = list.split(',').nth(gpu).and_then(|v| v.parse::<usize>().ok()).unwrap_or(80);
    (gib * GIB).saturating_sub(HELD.load(Ordering::SeqCst))
}

/// Functions that only succeed.
macro_rules! succeed {
    ($($name:ident)*) => { $(#[unsafe(no_mangle)] pub extern "C" fn $name() -> c_int { 0 })* };
}

/// Functions that write a handle to their first argument.
macro_rules! create {
    ($($name:ident)*) => {
        $(#[unsafe(no_mangle)] pub unsafe extern "C" fn $name(out: *mut usize) -> c_int { unsafe { *out = 0x1000 }; 0 })*
    };
}

succeed! {
    cuDevicePrimaryCtxRelease_v2 cuCtxSetCurrent cuCtxSynchronize cuStreamSynchronize cuStreamWaitEvent cuStreamDestroy_v2
    cuEventRecord cuEventDestroy_v2 cuEventSynchronize cuEventQuery cuModuleUnload cuFuncSetAttribute cuMemHostFree
    cublasDestroy_v2 cublasSetStream_v2 cublasSetMathMode cublasSetWorkspace_v2 cublasSgemm_v2 cublasDgemm_v2 cublasGemmEx
    cublasSgemmStridedBatched cublasDgemmStridedBatched cublasGemmStridedBatchedEx cublasHgemm cublasHgemmStridedBatched
    curandDestroyGenerator curandSetPseudoRandomGeneratorSeed curandSetStream curandGenerateUniform curandGenerateNormal
    cudnnDestroy cudnnSetStream cudnnSetTensor4dDescriptor cudnnSetTensor4dDescriptorEx cudnnDestroyTensorDescriptor
    cudnnSetFilter4dDescriptor cudnnDestroyFilterDescriptor cudnnSetConvolution2dDescriptor cudnnSetConvolutionMathType
    cudnnSetConvolutionGroupCount cudnnDestroyConvolutionDescriptor cudnnConvolutionForward
    nvmlInit_v2 nvmlInitWithFlags nvmlShutdown
}

create! {
    cuDevicePrimaryCtxRetain cuCtxGetCurrent cuStreamCreate cuStreamCreateWithPriority cuEventCreate
    cublasCreate_v2 curandCreateGenerator cudnnCreate cudnnCreateTensorDescriptor cudnnCreateFilterDescriptor
    cudnnCreateConvolutionDescriptor
}

/// Functions that write their library's major version, if they are asked for that (0).
macro_rules! property {
    ($($name:ident $variable:literal $major:literal)*) => {
        $(#[unsafe(no_mangle)] pub unsafe extern "C" fn $name(which: c_int, out: *mut c_int) -> c_int {
            unsafe { *out = if which == 0 { number($variable, $major) as c_int } else { 0 } };
            0
        })*
    };
}

property! {
    cublasGetProperty "FAKE_CUBLAS" 13
    curandGetProperty "FAKE_CURAND" 10
    cudnnGetProperty "FAKE_CUDNN" 9
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_: u32) -> c_int {
    match number("FAKE_INIT", 0) {
        0 if visible() == 0 => 100,
        code => code as c_int,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(out: *mut c_int) -> c_int {
    unsafe { *out = number("FAKE_VERSION", 13000) as c_int };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(out: *mut c_int) -> c_int {
    unsafe { *out = visible() as c_int };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(out: *mut c_int, index: c_int) -> c_int {
    if index as usize >= visible() {
        return 101;
    }
    unsafe { *out = index };
    0
}

/// 75 and 76 are the compute capability, 115 memory pools.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(out: *mut c_int, attribute: c_int, _: c_int) -> c_int {
    let cap = number("FAKE_CAP", 90) as c_int;
    let value = match attribute {
        75 => cap / 10,
        76 => cap % 10,
        _ => 1,
    };
    unsafe { *out = value };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(out: *mut usize, _: c_int) -> c_int {
    unsafe { *out = TOTAL };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(out: *mut c_char, len: c_int, _: c_int) -> c_int {
    let name = c"no real GPU".to_bytes_with_nul();
    if (len as usize) < name.len() {
        return 1;
    }
    unsafe { std::ptr::copy_nonoverlapping(name.as_ptr().cast(), out, name.len()) };
    0
}

/// The first byte is the number of the GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(out: *mut [u8; 16], device: c_int) -> c_int {
    unsafe { *out = [0; 16] };
    unsafe { (*out)[0] = device as u8 };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(out: *mut usize, total: *mut usize) -> c_int {
    unsafe { (*out, *total) = (free(0), TOTAL) };
    0
}

fn take(bytes: usize) -> Result<usize, c_int> {
    let layout = std::alloc::Layout::from_size_align(bytes.max(1), 512).map_err(|_| OUT_OF_MEMORY)?;
    if HELD.load(Ordering::SeqCst) + bytes > number("FAKE_FULL", usize::MAX) {
        return Err(OUT_OF_MEMORY);
    }
    let at = unsafe { std::alloc::alloc_zeroed(layout) } as usize;
    HELD.fetch_add(bytes, Ordering::SeqCst);
    BLOCKS.lock().unwrap().push((at, bytes.max(1)));
    Ok(at)
}

fn give(at: usize) -> c_int {
    let mut blocks = BLOCKS.lock().unwrap();
    let Some(i) = blocks.iter().position(|b| b.0 == at) else { return 1 };
    let (_, bytes) = blocks.swap_remove(i);
    HELD.fetch_sub(bytes, Ordering::SeqCst);
    unsafe { std::alloc::dealloc(at as *mut u8, std::alloc::Layout::from_size_align_unchecked(bytes, 512)) };
    0
}

/// Whether `bytes` from `at` on lie in one block.
fn within(at: usize, bytes: usize) -> bool {
    BLOCKS.lock().unwrap().iter().any(|(from, len)| *from <= at && at + bytes <= from + len)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(out: *mut usize, bytes: usize, _: usize) -> c_int {
    match take(bytes) {
        Ok(at) => {
            unsafe { *out = at };
            0
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(out: *mut usize, bytes: usize) -> c_int {
    unsafe { cuMemAllocAsync(out, bytes, 0) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(at: usize, _: usize) -> c_int {
    give(at)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(at: usize) -> c_int {
    give(at)
}

unsafe fn copy(to: usize, from: usize, bytes: usize, on_gpu: &[usize]) -> c_int {
    if on_gpu.iter().any(|at| !within(*at, bytes)) {
        return 700;
    }
    unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(to: usize, from: *const c_void, bytes: usize, _: usize) -> c_int {
    unsafe { copy(to, from as usize, bytes, &[to]) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: usize, bytes: usize, _: usize) -> c_int {
    unsafe { copy(to as usize, from, bytes, &[from]) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoDAsync_v2(to: usize, from: usize, bytes: usize, _: usize) -> c_int {
    unsafe { copy(to, from, bytes, &[to, from]) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD8Async(at: usize, value: u8, bytes: usize, _: usize) -> c_int {
    if !within(at, bytes) {
        return 700;
    }
    unsafe { std::ptr::write_bytes(at as *mut u8, value, bytes) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(_: usize, out: *mut c_int) -> c_int {
    unsafe { *out = 0 };
    0
}

/// The module is its text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(out: *mut usize, text: *const c_char) -> c_int {
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    unsafe { *out = Box::into_raw(Box::new(text)) as usize };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(out: *mut usize, module: *const String, name: *const c_char) -> c_int {
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    let entry = format!(".entry {name}(");
    if !unsafe { &*module }.contains(&entry) {
        eprintln!("fake driver: there is no kernel {name}");
        return NOT_FOUND;
    }
    unsafe { *out = Box::into_raw(Box::new(name)) as usize };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernel(_: *const String, x: u32, y: u32, z: u32, bx: u32, by: u32, bz: u32) -> c_int {
    LAUNCHES.fetch_add(1, Ordering::SeqCst);
    // What the driver refuses as an invalid value.
    if [x, y, z, bx, by, bz].contains(&0) || bx * by * bz > 1024 || y > 65535 || z > 65535 { 1 } else { 0 }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(_: c_int, out: *mut *const c_char) -> c_int {
    unsafe { *out = c"as the fake driver was told".as_ptr() };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(_: c_int, out: *mut *const c_char) -> c_int {
    unsafe { *out = c"ERROR".as_ptr() };
    0
}

/// cudnnConvolutionFwdAlgoPerf_t: algorithm 0, status 0.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C" fn cudnnGetConvolutionForwardAlgorithm_v7(
    _: usize,
    _: usize,
    _: usize,
    _: usize,
    _: usize,
    _: c_int,
    count: *mut c_int,
    _: *mut c_void,
) -> c_int {
    unsafe { *count = 1 };
    0
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C" fn cudnnGetConvolutionForwardWorkspaceSize(
    _: usize,
    _: usize,
    _: usize,
    _: usize,
    _: usize,
    _: c_int,
    out: *mut usize,
) -> c_int {
    unsafe { *out = 64 };
    0
}

/// The number of a GPU stands in the first byte of its name, "GPU-07...".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, out: *mut usize) -> c_int {
    let uuid = unsafe { CStr::from_ptr(uuid) }.to_string_lossy().into_owned();
    match uuid.strip_prefix("GPU-").and_then(|u| u.get(..2)).and_then(|u| usize::from_str_radix(u, 16).ok()) {
        Some(index) => {
            unsafe { *out = index + 1 };
            0
        }
        None => 6,
    }
}

/// nvmlMemory_v2_t: version, total, reserved, free, used.
#[repr(C)]
pub struct Memory {
    version: u32,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: usize, out: *mut Memory) -> c_int {
    let free = free(device - 1);
    unsafe { ((*out).total, (*out).reserved, (*out).free, (*out).used) = (TOTAL as u64, 0, free as u64, (TOTAL - free) as u64) };
    0
}
