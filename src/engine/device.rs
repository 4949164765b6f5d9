//! Which device computes, and what this machine has: cores, memory, CPU features.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(feature = "cuda", test))]
mod gpu;
#[cfg(any(feature = "cuda", test))]
mod libraries;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Device;

use super::error::{Error, Kind, Result};

/// Opens a device by name: `auto` (the GPU with the most free memory, else the CPU), `cpu`, `cuda` (that GPU), `cuda:1`, `metal`.
/// Returns it with a line that says what was chosen. A device is opened once: tensors of later calls fit those of earlier ones.
/// Errors: an unknown name, or a device that this build or machine does not have.
pub fn open(name: &str) -> Result<(Device, String)> {
    match name {
        "auto" => Ok(auto()),
        "cpu" => Ok((Device::Cpu, cpu())),
        "metal" => Device::new_metal(0)
            .map(|d| (d, "metal".into()))
            .map_err(|_| absent("metal", "this build has no Metal support")),
        _ => {
            let index = match name.strip_prefix("cuda") {
                Some("") => None,
                Some(rest) => {
                    Some(rest.strip_prefix(':').and_then(|n| n.parse().ok()).ok_or_else(|| unknown(name))?)
                }
                None => return Err(unknown(name)),
            };
            cuda(name, index)
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda(_: &str, index: Option<usize>) -> Result<(Device, String)> {
    cuda::open(index)
}

#[cfg(not(feature = "cuda"))]
fn cuda(name: &str, _: Option<usize>) -> Result<(Device, String)> {
    Err(absent(name, "this build has no CUDA support"))
}

fn auto() -> (Device, String) {
    #[cfg(feature = "cuda")]
    return cuda::open(None)
        .unwrap_or_else(|error| (Device::Cpu, format!("{}; no GPU: {}", cpu(), error.message())));
    #[cfg(not(feature = "cuda"))]
    (Device::Cpu, cpu())
}

/// What GPUs there are, one line each, with what others hold of their memory; why there are none, where this build
/// could use one.
pub fn gpus() -> Vec<String> {
    #[cfg(feature = "cuda")]
    return match cuda::list() {
        Ok(gpus) => gpus.iter().map(ToString::to_string).collect(),
        Err(error) => vec![format!("none: {}", error.message())],
    };
    #[cfg(not(feature = "cuda"))]
    Vec::new()
}

/// Bytes that are free on the GPU that this process has opened. `None`: it has opened none.
pub fn gpu_memory_free() -> Option<u64> {
    #[cfg(feature = "cuda")]
    return cuda::memory_free();
    #[cfg(not(feature = "cuda"))]
    None
}

/// What an error of the GPU means for the user, by the text that came with it.
pub(super) fn explain(text: &str) -> Option<Error> {
    #[cfg(feature = "cuda")]
    return gpu::of_text(text, gpu_memory_free());
    #[cfg(not(feature = "cuda"))]
    {
        let _ = text;
        None
    }
}

/// What computes on the CPU: results are the same bytes for any number of threads, but not at another level of vector
/// instructions.
fn cpu() -> String {
    // Not asked of rayon, which would start a pool of its own where there is none yet.
    let threads = match POOL.load(Ordering::Relaxed) {
        0 => threads(),
        started => started,
    };
    format!("cpu ({:?}, {threads} threads)", super::ops::level()).to_lowercase()
}

fn unknown(name: &str) -> Error {
    Error::new(Kind::Device, "device", format!("unknown device \"{name}\""))
        .expected("auto, cpu, cuda, cuda:N or metal")
}

fn absent(name: &str, why: &str) -> Error {
    Error::new(Kind::Device, "device", format!("{name} cannot be used: {why}"))
        .hint("--device cpu works everywhere")
}

/// Threads to compute with: the least of the cores this process may run on, the cgroup's CPU limit and
/// `SLURM_CPUS_PER_TASK`.
pub fn threads() -> usize {
    // `available_parallelism` knows affinity and cgroup quotas.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let slurm =
        std::env::var("SLURM_CPUS_PER_TASK").ok().and_then(|v| v.parse::<usize>().ok()).filter(|&n| n > 0);
    slurm.map_or(cores, |s| s.min(cores))
}

/// Compute threads that were started; 0 before.
static POOL: AtomicUsize = AtomicUsize::new(0);

/// Starts the compute threads, with the calling one as the first of them: what it hands out, it also works on, instead of
/// waiting for others to wake up. Their names begin with `name`. The pool is made once per process; a second call changes
/// nothing.
pub fn lead_pool(threads: usize, name: &'static str) {
    let made = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .use_current_thread()
        .thread_name(move |i| format!("{name}-{i}"))
        .build_global();
    if made.is_ok() {
        POOL.store(threads, Ordering::Relaxed);
    }
}

/// Makes candle's own pool, which serves its elementwise operations, as wide as ours, and lets its threads sleep as soon as
/// they have nothing to do: by default it takes all cores whatever `--threads` says, and spins between operations on
/// cores that our kernels want. Variables that the user set stay as they are.
///
/// # Safety
///
/// It sets environment variables: no other thread may run yet.
pub unsafe fn settle_candle(threads: usize) {
    for (name, value) in [("CANDLE_NUM_THREADS", threads), ("CANDLE_BARRIER_POOL_SPIN_LIMIT", 1)] {
        if std::env::var_os(name).is_none() {
            // SAFETY: the caller promises that this is the only thread.
            unsafe { std::env::set_var(name, value.to_string()) };
        }
    }
}

/// Bytes of memory this process may use: the cgroup's limit or the machine's, whichever is less. `None` where unknown.
pub fn memory_limit() -> Option<u64> {
    let number = |path: &str| std::fs::read_to_string(Path::new(path)).ok()?.trim().parse::<u64>().ok();
    // A job's own group may lie deep below the root (SLURM, systemd): the tightest limit on the way counts.
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|l| l.strip_prefix("0::/")).unwrap_or_default();
    let mut paths: Vec<String> = Path::new(own)
        .ancestors()
        .map(|p| Path::new("/sys/fs/cgroup").join(p).join("memory.max").display().to_string())
        .collect();
    paths.push("/sys/fs/cgroup/memory/memory.limit_in_bytes".into());
    let cgroup = paths.iter().filter_map(|p| number(p)).min();
    let total = meminfo("MemTotal");
    match (cgroup, total) {
        (Some(c), Some(t)) => Some(c.min(t)),
        (c, t) => c.or(t),
    }
}

/// Bytes that copies of weights in a faster order may take: a sixth of the memory, at most 6 GiB.
pub fn room_for_copies() -> usize {
    memory_limit().map_or(1 << 30, |bytes| (bytes / 6).min(6 << 30) as usize)
}

/// Bytes of memory that are free for use right now. `None` where unknown.
pub fn memory_available() -> Option<u64> {
    meminfo("MemAvailable")
}

fn meminfo(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The vector extensions of this CPU that matter to us.
pub fn cpu_features() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        for (name, has) in [
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
            ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
        ] {
            if has {
                found.push(name);
            }
        }
    }
    #[cfg(target_arch = "aarch64")]
    found.push("neon");
    found
}
