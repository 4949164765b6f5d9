//! `scumble doctor`: what was found on this machine, and why it is so.

use std::path::Path;

use super::config::Config;
use super::folders;
use super::trust::{self, FolderInit, Standing};
use crate::engine::device;
use crate::engine::ops::{self, Level};
use crate::engine::weights::locate;
use crate::script::{Settings, modules, recipes, types};
use crate::term::probe::Caps;
use crate::term::tty;

/// The report, one fact a line.
pub fn report(settings: &Settings, config: &Config, caps: &Caps) -> String {
    let mut lines: Vec<(&str, String)> = Vec::new();
    let mut fact = |name: &'static str, text: String| lines.push((name, text));
    let size = |bytes: Option<u64>| bytes.map_or("unknown".into(), |b| types::size(b as usize));
    let target = format!("{} {}", std::env::consts::ARCH, std::env::consts::OS);
    fact("scumble", format!("{} for {target}", env!("CARGO_PKG_VERSION")));
    // Before one is opened: what is held then is others'.
    device::gpus().into_iter().for_each(|gpu| fact("gpu", gpu));
    fact("device", device::open(&settings.device).map_or_else(|e| e.to_string(), |d| d.1));
    fact("cpu", format!("has {}; kernels use {}", device::cpu_features().join(" "), level()));
    fact("threads", threads(settings));
    fact(
        "memory",
        format!(
            "{} free, {} for this process{}",
            size(device::memory_available()),
            size(device::memory_limit()),
            settings
                .max_memory
                .map_or(String::new(), |b| format!(", at most {} to be held", types::size(b as usize)))
        ),
    );
    let (columns, rows) = tty::size();
    let color = if caps.truecolor { "24-bit colors" } else { "256 colors" };
    let brand = caps.brand.clone().map_or(String::new(), |b| format!("{b}, "));
    let term = std::env::var("TERM").unwrap_or_default();
    fact("terminal", format!("{brand}{columns}x{rows}, {color}, TERM={term}"));
    fact("pictures", format!("{}: {}", caps.protocol.name(), caps.reason));
    if let Some(advice) = &caps.advice {
        fact("", advice.clone());
    }
    let others = caps.claims.iter().filter(|p| **p != caps.protocol).map(|p| p.name());
    let others = others.collect::<Vec<_>>().join(", ");
    if !others.is_empty() {
        fact("", format!("also here: {others}; scumble doctor --pictures shows all"));
    }
    if let Some((w, h)) = caps.cell {
        fact("cell", format!("{w}x{h} pixels"));
    }
    fact("model", model(settings));
    for cache in locate::caches() {
        fact("hub cache", folder(&cache));
    }
    fact("results", folder(&settings.out));
    let own = [
        ("recipes", recipes::user_folder()),
        ("library", modules::user_folder()),
        ("settings", folders::config_file()),
        ("init file", folders::init_file()),
        ("history", folders::history_file()),
    ];
    for (name, path) in own {
        fact(name, path.map_or("no home folder".into(), |p| folder(&p)));
    }
    let folder_init = std::env::current_dir().and_then(|d| FolderInit::read(&d));
    if let Ok(Some(init)) = folder_init {
        let standing = match init.standing(folders::trusted_file().as_deref()) {
            Standing::Trusted => "trusted, runs at each start",
            Standing::Changed => "not run: changed since it was trusted",
            Standing::New => "not run: never trusted",
        };
        lines.push(("folder init", format!("{} ({standing})", trust::FILE)));
    }
    lines.extend(config.notes.iter().map(|note| ("note", note.clone())));
    let width = lines.iter().map(|(k, _)| k.len()).max().unwrap_or(0);
    lines.iter().map(|(k, v)| format!("{k:width$}  {v}")).collect::<Vec<_>>().join("\n")
}

/// The vector instructions that the kernels were dispatched to.
fn level() -> &'static str {
    match ops::level() {
        Level::Avx512 => "avx512",
        Level::Avx2 => "avx2 and fma",
        Level::Portable => "what every such processor has",
    }
}

fn threads(settings: &Settings) -> String {
    if let Some(n) = settings.threads {
        return format!("{n} (--threads)");
    }
    let machine = std::fs::read_to_string("/proc/cpuinfo")
        .map(|text| text.lines().filter(|l| l.starts_with("processor")).count())
        .ok()
        .filter(|n| *n > 0);
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    let machine = machine.map_or(String::new(), |n| format!("of {n} cores "));
    let slurm = std::env::var("SLURM_CPUS_PER_TASK").unwrap_or("not set".into());
    format!(
        "{} ({machine}affinity and cgroup leave {usable}, SLURM_CPUS_PER_TASK is {slurm})",
        device::threads()
    )
}

fn model(settings: &Settings) -> String {
    match locate::locate(&settings.model) {
        Ok(_) => format!("{}, {}", settings.model, settings.dtype),
        Err(error) => error.to_string(),
    }
}

fn folder(path: &Path) -> String {
    format!("{}{}", path.display(), if path.exists() { "" } else { " (not there)" })
}
