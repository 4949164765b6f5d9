//! Work on several threads, cut into pieces that do not depend on the number of threads: results are the same
//! bytes for any number.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use candle_core::Result;
use rayon::prelude::*;

/// Work (nanoseconds of one core) under which handing some to other threads costs more than it saves.
const FORK: usize = 40_000;

/// Nanoseconds for which the other threads look for more work before they sleep. To wake a sleeping one takes tens of
/// microseconds, some hundreds on a virtual machine whose idle core was given away: longer than most operations of a small model.
const AWAKE: u64 = 1_000_000;

/// How many threads stay awake at most: many of them in search of the same work get in each other's way.
const LOOKOUTS: usize = 15;

/// When the leading thread last had work for others, in nanoseconds of [`clock`].
static LAST: AtomicU64 = AtomicU64::new(0);

/// Jobs of [`look_out`] that have not ended.
static AWAKE_NOW: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static LOOKING: Cell<bool> = const { Cell::new(false) };
}

/// Nanoseconds since the first call.
fn clock() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Keeps the threads of the pool awake that the leading one (`device::lead_pool`) hands work to.
fn keep_awake() {
    if rayon::current_thread_index() != Some(0) {
        return;
    }
    LAST.store(clock(), Ordering::Relaxed);
    let wanted = (rayon::current_num_threads() - 1).min(LOOKOUTS);
    while AWAKE_NOW
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < wanted).then_some(n + 1))
        .is_ok()
    {
        rayon::spawn(|| {
            look_out();
            AWAKE_NOW.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Does what work there is until there has been none for a while.
fn look_out() {
    // The leading thread has work of its own; one that looks out already has taken this up on the way.
    if rayon::current_thread_index() == Some(0) || LOOKING.replace(true) {
        return;
    }
    while clock().saturating_sub(LAST.load(Ordering::Relaxed)) < AWAKE {
        if rayon::yield_now() != Some(rayon::Yield::Executed) {
            for _ in 0..16 {
                std::hint::spin_loop();
            }
            // Whoever else wants this core gets it.
            std::thread::yield_now();
        }
    }
    LOOKING.set(false);
}

/// Pieces that a call of some size is cut into at least, so that two threads, and four, have even shares.
const EVEN: usize = 4;

/// Multiplications and additions of such a piece: to hand it over costs a few microseconds.
const SMALLEST: usize = 1_500_000;

/// Pieces into which `work` multiplications and additions are worth cutting where they would make fewer than [`EVEN`].
pub fn shares(work: usize) -> usize {
    (work / SMALLEST).clamp(1, EVEN)
}

/// Whether work of about `nanos` nanoseconds is worth forking.
pub fn worth(nanos: usize) -> bool {
    nanos > FORK && rayon::current_num_threads() > 1
}

/// Runs `f` on every task, in parallel where the total of about `nanos` nanoseconds is worth it.
pub fn run<I: Send>(tasks: Vec<I>, nanos: usize, f: impl Fn(I) -> Result<()> + Sync + Send) -> Result<()> {
    if tasks.len() < 2 || !worth(nanos) {
        return tasks.into_iter().try_for_each(f);
    }
    keep_awake();
    tasks.into_par_iter().with_max_len(1).try_for_each(f)
}

/// Pieces of about `piece` elements of an output with their offsets; `f(offset, piece)` fills each.
pub fn pieces<T: Send>(out: &mut [T], piece: usize, nanos: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    let piece = piece.max(1);
    if out.len() <= piece || !worth(nanos) {
        out.chunks_mut(piece).enumerate().for_each(|(i, out)| f(i * piece, out));
    } else {
        keep_awake();
        out.par_chunks_mut(piece).with_max_len(1).enumerate().for_each(|(i, out)| f(i * piece, out));
    }
}

/// Cuts every row of `row` elements of `out` into segments of at most `segment` elements and gives each segment to
/// the group that `group(row, segment)` says: disjoint blocks of a matrix that threads may fill at the same time.
/// Within a group, segments come row by row.
pub fn blocks<T>(
    out: &mut [T],
    row: usize,
    segment: usize,
    groups: usize,
    group: impl Fn(usize, usize) -> usize,
) -> Vec<Vec<&mut [T]>> {
    let rows = out.len() / row.max(1);
    let mut result: Vec<Vec<&mut [T]>> = Vec::with_capacity(groups);
    let expected = rows * row.div_ceil(segment.max(1)) / groups.max(1) + 1;
    result.resize_with(groups, || Vec::with_capacity(expected));
    for (r, values) in out.chunks_mut(row.max(1)).enumerate() {
        for (s, values) in values.chunks_mut(segment.max(1)).enumerate() {
            result[group(r, s)].push(values);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_disjoint_and_whole() {
        let mut out = vec![0; 4 * 10];
        let groups = blocks(&mut out, 10, 4, 6, |row, segment| row / 2 * 3 + segment);
        assert_eq!(
            groups.iter().map(|g| g.iter().map(|s| s.len()).sum::<usize>()).collect::<Vec<_>>(),
            [8, 8, 4, 8, 8, 4]
        );
        for (i, group) in groups.into_iter().enumerate() {
            for segment in group {
                segment.fill(i + 1);
            }
        }
        assert_eq!(out[..10], [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]);
        assert_eq!(out[30..], [4, 4, 4, 4, 5, 5, 5, 5, 6, 6]);
    }

    #[test]
    fn errors_come_back() {
        let fail = |i: usize| if i == 3 { Err(candle_core::Error::Msg("three".into())) } else { Ok(()) };
        assert!(run((0..9).collect(), usize::MAX, fail).is_err());
        assert!(run((0..9).collect(), 0, fail).is_err());
        assert!(run((0..3).collect(), usize::MAX, fail).is_ok());
    }
}
