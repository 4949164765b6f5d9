//! `scumble doctor`: what was found on this machine, and why it is so.

use std::path::Path;

use crate::engine::device;
use crate::engine::weights::locate;
use crate::script::host::Settings;
use crate::script::{modules, types};
use crate::term::probe::Caps;
use crate::term::tty;

/// The report, one fact a line.
pub fn report(settings: &Settings, caps: &Caps) -> String {
    let mut lines: Vec<(&str, String)> = Vec::new();
    lines.push(("version", format!("{} ({})", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH)));
    lines.push((
        "device",
        match device::open(&settings.device) {
            Ok((_, line)) => line,
            Err(error) => error.to_string(),
        },
    ));
    lines.push(("cpu", format!("{}; {} threads", device::cpu_features().join(" "), threads(settings))));
    let size = |bytes: Option<u64>| bytes.map_or("unknown".into(), |b| types::size(b as usize));
    lines.push((
        "memory",
        format!("{} free of {}", size(device::memory_available()), size(device::memory_limit())),
    ));
    if let Some(limit) = settings.max_memory {
        lines.push(("budget", types::size(limit as usize)));
    }
    let (columns, rows) = tty::size();
    let color = if caps.truecolor { "true color" } else { "256 colors" };
    lines.push((
        "terminal",
        format!("{columns}x{rows}, {color}, TERM={}", std::env::var("TERM").unwrap_or_default()),
    ));
    lines.push(("pictures", format!("{:?}: {}", caps.protocol, caps.reason).to_lowercase()));
    if let Some((w, h)) = caps.cell {
        lines.push(("cell", format!("{w}x{h} pixels")));
    }
    lines.push(("model", settings.model.clone()));
    for cache in locate::caches() {
        lines.push(("hub cache", folder(&cache)));
    }
    lines.push(("results", folder(&settings.out)));
    if let Some(library) = modules::user_folder() {
        lines.push(("library", folder(&library)));
    }
    if let Some(file) = super::repl::init_file() {
        lines.push(("init file", folder(&file)));
    }
    if let Some(file) = super::repl::history_file() {
        lines.push(("history", folder(&file)));
    }
    let width = lines.iter().map(|(k, _)| k.len()).max().unwrap_or(0);
    lines.iter().map(|(k, v)| format!("{k:width$}  {v}")).collect::<Vec<_>>().join("\n")
}

fn threads(settings: &Settings) -> String {
    match settings.threads {
        Some(n) => format!("{n} (--threads)"),
        None => format!("{} (the least of affinity, cgroup and SLURM_CPUS_PER_TASK)", device::threads()),
    }
}

fn folder(path: &Path) -> String {
    format!("{}{}", path.display(), if path.exists() { "" } else { " (not there)" })
}
