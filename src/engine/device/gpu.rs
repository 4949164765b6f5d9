//! What is known of an NVIDIA GPU, which one to take, and what the driver's errors mean: nothing here calls the driver.

use std::fmt;

use crate::engine::error::{Error, Kind};

/// What works everywhere.
const OTHERWISE: &str = "--device cpu works everywhere";

/// A GPU that this process may use.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpu {
    /// Its number among those that CUDA_VISIBLE_DEVICES leaves.
    pub index: usize,
    /// As the driver calls it.
    pub name: String,
    /// Compute capability, major and minor: (8, 0) is an A100, (9, 0) an H100 or H200.
    pub capability: (u32, u32),
    /// Bytes of memory.
    pub total: u64,
    /// Bytes that nobody holds; `None` where the driver's library for that (NVML) is missing.
    pub free: Option<u64>,
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.capability;
        write!(f, "cuda:{} {}, compute capability {major}.{minor}, ", self.index, self.name)?;
        match self.free {
            Some(free) => {
                let held = self.total.saturating_sub(free);
                write!(f, "{} of {} free, {} held", gib(free), gib(self.total), gib(held))
            }
            None => write!(f, "{}", gib(self.total)),
        }
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

impl Gpu {
    /// What stands beside the model: number, name, free memory.
    pub fn short(&self) -> String {
        let free = self.free.map_or(String::new(), |f| format!(", {} free", gib(f)));
        format!("cuda:{} ({}{free})", self.index, self.name)
    }

    /// An error unless kernels for the capability `target` run on it.
    pub fn runs(&self, target: (u32, u32)) -> Result<(), Error> {
        if self.capability >= target {
            return Ok(());
        }
        let dotted = |(major, minor): (u32, u32)| format!("compute capability {major}.{minor}");
        let cap = self.capability.0 * 10 + self.capability.1;
        Err(unusable(&format!(
            "cuda:{} ({}) is older than what this program was built for",
            self.index, self.name
        ))
        .expected(format!("{} or newer", dotted(target)))
        .got(dotted(self.capability))
        .hint(format!("build it with CUDA_COMPUTE_CAP={cap} (docs/cuda.md); {OTHERWISE}")))
    }
}

/// The GPU with the most free memory among those that run kernels for `target`; the first of equals. The error is that of
/// the last one.
pub fn freest(gpus: &[Gpu], target: (u32, u32)) -> Result<&Gpu, Error> {
    let mut best: Option<&Gpu> = None;
    let mut refused = unusable("no GPU is here");
    for gpu in gpus {
        match gpu.runs(target) {
            Err(e) => refused = e,
            Ok(()) if best.is_none_or(|b| gpu.free > b.free) => best = Some(gpu),
            Ok(()) => {}
        }
    }
    best.ok_or(refused)
}

/// The capability that kernels were compiled for, from their text: `.target sm_80`.
pub fn target(ptx: &str) -> Option<(u32, u32)> {
    let line = ptx.lines().find_map(|l| l.trim().strip_prefix(".target"))?;
    let digits: String = line.trim().strip_prefix("sm_")?.chars().take_while(char::is_ascii_digit).collect();
    let cap: u32 = digits.parse().ok()?;
    Some((cap / 10, cap % 10))
}

/// A GPU that cannot be used, and why.
pub fn unusable(why: &str) -> Error {
    // Below the first line there may be a backtrace.
    let why = why.lines().next().unwrap_or(why);
    Error::new(Kind::Device, "device", format!("the GPU cannot be used: {why}")).hint(OTHERWISE)
}

/// A library that is missing; `packages` are those of PyPI that hold it.
pub fn missing(library: &str, packages: &str) -> Error {
    unusable(&format!("{library} was not found")).hint(format!(
        "install it, or pip install {packages} into the active environment, or name its folder with SCUMBLE_CUDA_LIBS; {OTHERWISE}"
    ))
}

/// A library of another version lies where the system's loader finds it first. `plain` is its name without a number, `wanted` that
/// with the number.
pub fn other_version(plain: &str, got: u32, wanted: &str) -> Error {
    unusable(&format!("{plain} is of another version")).expected(wanted).got(format!("version {got}")).hint(format!(
        "take the folder of {plain} out of LD_LIBRARY_PATH, or put that of {wanted} with its own {plain} first; {OTHERWISE}"
    ))
}

/// The driver's library is missing.
pub fn no_driver() -> Error {
    unusable("there is no NVIDIA driver (libcuda.so.1 was not found)")
        .hint(format!("install the driver; a container needs --gpus all; {OTHERWISE}"))
}

/// A driver that is older than the compiler of the kernels. Versions as CUDA counts: 12040 is 12.4.
pub fn old_driver(driver: u32, built: u32) -> Error {
    let dotted = |v: u32| format!("CUDA {}.{}", v / 1000, v % 1000 / 10);
    unusable("the driver is older than this program's kernels")
        .expected(format!("a driver that knows {}", dotted(built)))
        .got(dotted(driver))
        .hint(format!("update the driver, or build with an older toolkit (docs/cuda.md); {OTHERWISE}"))
}

/// What the driver's error `code` means when it starts. `visible` is CUDA_VISIBLE_DEVICES.
pub fn of_start(code: u32, visible: Option<&str>) -> Error {
    let (why, hint) = match (code, visible) {
        (100, Some(list)) => {
            let error = unusable("CUDA_VISIBLE_DEVICES hides every GPU").got(format!("\"{list}\""));
            return error.hint(format!("unset CUDA_VISIBLE_DEVICES, or set it to 0; {OTHERWISE}"));
        }
        (100, None) => ("the driver sees no GPU", "nvidia-smi lists them; a container needs --gpus all"),
        (34, _) => (
            "libcuda.so.1 is a stub for linking, not the driver",
            "take the folder named stubs out of LD_LIBRARY_PATH",
        ),
        (35 | 36, _) => {
            ("the driver is too old", "update the driver, or build with an older toolkit (docs/cuda.md)")
        }
        (46, _) => ("it is busy or reserved for another process", "try again later, or another one: cuda:N"),
        (101, _) => ("there is no GPU of that number", "scumble doctor lists them"),
        (802, _) => ("the system is not ready yet", "start nvidia-fabricmanager, or wait for it"),
        (803, _) => (
            "the driver's library and its kernel module are of different versions",
            "restart the machine after the driver's update",
        ),
        (804, _) => (
            "the driver's compatibility package does not support this GPU",
            "take /usr/local/cuda/compat out of LD_LIBRARY_PATH",
        ),
        _ => ("the driver does not start", "nvidia-smi may tell why"),
    };
    unusable(&format!("{why} (CUDA error {code})")).hint(format!("{hint}; {OTHERWISE}"))
}

/// What an error in the middle of the work means, by its text. `free`: bytes that are free on the GPU.
pub fn of_text(text: &str, free: Option<u64>) -> Option<Error> {
    let has = |words: &[&str]| words.iter().any(|w| text.contains(w));
    if has(&["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"]) {
        let error = Error::new(Kind::Budget, "device", "the GPU's memory is full")
            .hint("take a smaller size or n, --dtype f16, or free values (:free NAME) and other programs' memory; the session goes on");
        return Some(match free {
            Some(free) => error.expected(format!("at most {} more: what is free", gib(free))),
            None => error,
        });
    }
    if has(&["CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "CUDA_ERROR_INVALID_PTX", "CUDA_ERROR_NO_BINARY_FOR_GPU"])
    {
        let error = unusable("this program's kernels are not for this GPU and driver");
        return Some(error.hint(format!("update the driver, or build for them (docs/cuda.md); {OTHERWISE}")));
    }
    if has(&[
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "CUDA_ERROR_LAUNCH_FAILED",
        "CUDA_ERROR_ECC_UNCORRECTABLE",
        "CUDA_ERROR_ASSERT",
    ]) {
        let error = Error::new(Kind::Device, "device", "the GPU has stopped: what lies on it is lost");
        return Some(error.hint(format!("start scumble again; {OTHERWISE}")));
    }
    if has(&["CUDNN_STATUS_NOT_INITIALIZED", "CUDNN_STATUS_SUBLIBRARY"]) {
        let error = unusable("cuDNN does not start");
        return Some(error.hint(format!(
            "its libraries must be of one version and fit the driver (docs/cuda.md); {OTHERWISE}"
        )));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(index: usize, capability: (u32, u32), free: Option<u64>) -> Gpu {
        Gpu { index, name: "GPU".into(), capability, total: 80 << 30, free }
    }

    #[test]
    fn the_freest_gpu_that_runs_the_kernels_is_taken() {
        let all =
            [gpu(0, (8, 0), Some(3 << 30)), gpu(1, (7, 5), Some(70 << 30)), gpu(2, (9, 0), Some(40 << 30))];
        assert_eq!(freest(&all, (8, 0)).unwrap().index, 2);
        assert_eq!(freest(&all, (7, 0)).unwrap().index, 1);
        assert_eq!(freest(&[gpu(0, (8, 6), None), gpu(1, (8, 6), None)], (8, 0)).unwrap().index, 0);
        let error = freest(&all[1..2], (8, 0)).unwrap_err();
        assert!(error.hint_text().unwrap().contains("CUDA_COMPUTE_CAP=75"), "{error}");
        assert_eq!(freest(&[], (8, 0)).unwrap_err().kind(), Kind::Device);
    }

    #[test]
    fn kernels_say_what_they_were_compiled_for() {
        assert_eq!(target("//\n.version 9.0\n.target sm_80\n.address_size 64\n"), Some((8, 0)));
        assert_eq!(target(".target sm_100a, debug"), Some((10, 0)));
        assert_eq!(target(".version 9.0"), None);
    }

    #[test]
    fn every_error_says_what_to_do() {
        for code in [34, 35, 46, 100, 101, 802, 803, 804, 999] {
            let error = of_start(code, None);
            assert!(error.message().ends_with(&format!("(CUDA error {code})")), "{error}");
            assert!(error.hint_text().unwrap().ends_with(OTHERWISE), "{error}");
        }
        let hidden = of_start(100, Some(""));
        assert!(hidden.message().contains("CUDA_VISIBLE_DEVICES") && hidden.got_text() == Some("\"\""));
        let old = old_driver(12040, 13000);
        assert_eq!(
            (old.expected_text(), old.got_text()),
            (Some("a driver that knows CUDA 13.0"), Some("CUDA 12.4"))
        );
        let full =
            of_text("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")", Some(3 << 30)).unwrap();
        assert_eq!(
            (full.kind(), full.expected_text()),
            (Kind::Budget, Some("at most 3.0 GiB more: what is free"))
        );
        assert!(of_text("shape mismatch", None).is_none());
        let libraries = missing("cuDNN (libcudnn.so.9)", "nvidia-cudnn-cu13");
        assert!(libraries.hint_text().unwrap().contains("pip install nvidia-cudnn-cu13"), "{libraries}");
        assert!(no_driver().message().contains("libcuda.so.1"));
        let other = other_version("libcublas.so", 12, "libcublas.so.13");
        assert!(other.message().ends_with("libcublas.so is of another version"), "{other}");
        assert_eq!((other.expected_text(), other.got_text()), (Some("libcublas.so.13"), Some("version 12")));
        assert!(other.hint_text().unwrap().contains("LD_LIBRARY_PATH"), "{other}");
        for text in ["CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_INVALID_PTX", "CUDNN_STATUS_NOT_INITIALIZED"] {
            assert_eq!(of_text(text, None).unwrap().kind(), Kind::Device);
        }
    }

    #[test]
    fn a_gpu_is_one_line() {
        let line = gpu(1, (9, 0), Some(20 << 30)).to_string();
        assert_eq!(line, "cuda:1 GPU, compute capability 9.0, 20.0 GiB of 80.0 GiB free, 60.0 GiB held");
        assert_eq!(gpu(1, (9, 0), Some(20 << 30)).short(), "cuda:1 (GPU, 20.0 GiB free)");
        assert_eq!(gpu(0, (9, 0), None).short(), "cuda:0 (GPU)");
    }
}
