//! Where CUDA's libraries lie when the system's loader does not find them: in folders that the user names, in the
//! active Python environment (as PyTorch's packages bring them), in a toolkit.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Folders that the user names, as PATH does.
pub const VARIABLE: &str = "SCUMBLE_CUDA_LIBS";

/// The folders to look into, first those of the user's. `get` reads an environment variable.
pub fn folders(get: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        get(VARIABLE).map(|v| std::env::split_paths(&v).collect()).unwrap_or_default();
    for root in ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(&get).map(PathBuf::from) {
        all.extend(packages(&root));
        all.push(root.join("lib"));
    }
    for root in ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(&get).map(PathBuf::from) {
        all.extend(["lib64", "lib"].map(|f| root.join(f)));
    }
    all.push("/usr/local/cuda/lib64".into());
    all.retain(|f| f.is_dir());
    all
}

/// `lib/python*/site-packages/nvidia/*/lib` of a Python environment.
fn packages(root: &Path) -> Vec<PathBuf> {
    let inside = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut all: Vec<PathBuf> = entries.map(|e| e.path()).collect();
        all.sort();
        all
    };
    let python = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python"));
    let pythons = inside(&root.join("lib")).into_iter().filter(python);
    pythons.flat_map(|p| inside(&p.join("site-packages/nvidia"))).map(|p| p.join("lib")).collect()
}

/// Opens libraries ahead of cudarc, which then finds them by name: in the order given, those that others need first. Of each
/// entry the first name that opens counts. Those that the user names come before the system's.
#[cfg(all(feature = "cuda", unix))]
pub fn open_ahead(names: &[String]) {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: the initializers of NVIDIA's libraries set up themselves alone; nothing is called in them here.
    let open = |path: &Path| unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.ok();
    let folders = folders(|name| std::env::var_os(name));
    let own =
        std::env::var_os(VARIABLE).map_or(0, |v| std::env::split_paths(&v).filter(|f| f.is_dir()).count());
    let (own, others) = folders.split_at(own.min(folders.len()));
    for name in names {
        let within =
            |all: &[PathBuf]| all.iter().map(|f| f.join(name)).filter(|p| p.is_file()).find_map(|p| open(&p));
        let library = within(own).or_else(|| open(Path::new(name))).or_else(|| within(others));
        // It stays open for as long as the program runs.
        std::mem::forget(library);
    }
}

/// The major version of the library that opens under its plain name, `libcublas.so`: cudarc asks for that before any name with a
/// number, and what the loader finds under it comes before what was opened ahead. `None`: nothing opens, or it does not say.
#[cfg(all(cuda_loading, unix))]
pub fn plain_major(stem: &str) -> Option<u32> {
    use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
    use std::ffi::c_int;
    type Property = unsafe extern "C" fn(c_int, *mut c_int) -> c_int;
    let (name, symbol) = (format!("lib{stem}.so"), format!("{stem}GetProperty\0"));
    // SAFETY: as above.
    let library = unsafe { Library::open(Some(Path::new(&name)), RTLD_LAZY | RTLD_LOCAL) }.ok()?;
    let mut major: c_int = 0;
    // SAFETY: cuBLAS, cuRAND and cuDNN have this function since CUDA 8. 0 asks for the major version; one number is written.
    let code = unsafe { library.get::<Property>(symbol.as_bytes()).map(|ask| ask(0, &mut major)) };
    // What cudarc will open stays open: the initializers need not run twice.
    std::mem::forget(library);
    code.ok().filter(|code| *code == 0).and_then(|_| u32::try_from(major).ok())
}

/// On other systems the loader finds them, or nobody.
#[cfg(all(feature = "cuda", not(unix)))]
pub fn open_ahead(_: &[String]) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_packages_are_searched_after_what_the_user_names() {
        let dir = tempfile::tempdir().unwrap();
        let (own, env) = (dir.path().join("own"), dir.path().join("env"));
        let site = env.join("lib/python3.12/site-packages/nvidia");
        for folder in [own.clone(), site.join("cudnn/lib"), site.join("cu13/lib"), site.join("empty")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let get = |name: &str| match name {
            VARIABLE => Some(own.clone().into_os_string()),
            "VIRTUAL_ENV" => Some(env.clone().into_os_string()),
            _ => None,
        };
        let found = folders(get);
        assert_eq!(found[..4], [own.clone(), site.join("cu13/lib"), site.join("cudnn/lib"), env.join("lib")]);
        assert!(folders(|_| None).iter().all(|f| f.starts_with("/usr/local")));
    }
}
