//! Memory of this process as the system counts it, and its peak since a moment.

use std::sync::atomic::{AtomicU64, Ordering};

/// The highest peak before the last reset.
static BEFORE: AtomicU64 = AtomicU64::new(0);

/// Most bytes held since [`reset`], or since the start. `None` where unknown.
pub fn peak() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|l| l.starts_with("VmHWM"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Most bytes held since the start. `None` where unknown.
pub fn most() -> Option<u64> {
    peak().map(|now| now.max(BEFORE.load(Ordering::Relaxed)))
}

/// Begins to count the peak anew. Where the system does not let us, it goes on as it was.
pub fn reset() {
    if let Some(now) = peak() {
        BEFORE.fetch_max(now, Ordering::Relaxed);
    }
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_the_whole_is_kept() {
        let before = most().unwrap();
        reset();
        assert!(most().unwrap() >= before && peak().unwrap() <= most().unwrap());
    }
}
