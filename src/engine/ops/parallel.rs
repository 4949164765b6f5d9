//! Work on several threads, cut into pieces that do not depend on the number of threads: results are the same
//! bytes for any number.

use candle_core::Result;
use rayon::prelude::*;

/// Work (nanoseconds of one core) under which waking other threads costs more than it saves.
const FORK: usize = 40_000;

/// Whether work of about `nanos` nanoseconds is worth forking.
pub fn worth(nanos: usize) -> bool {
    nanos > FORK && rayon::current_num_threads() > 1
}

/// Runs `f` on every task, in parallel where the total of about `nanos` nanoseconds is worth it.
pub fn run<I: Send>(tasks: Vec<I>, nanos: usize, f: impl Fn(I) -> Result<()> + Sync + Send) -> Result<()> {
    if tasks.len() < 2 || !worth(nanos) {
        return tasks.into_iter().try_for_each(f);
    }
    tasks.into_par_iter().with_max_len(1).try_for_each(f)
}

/// Pieces of about `piece` elements of an output with their offsets; `f(offset, piece)` fills each.
pub fn pieces<T: Send>(out: &mut [T], piece: usize, nanos: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    let piece = piece.max(1);
    if out.len() <= piece || !worth(nanos) {
        out.chunks_mut(piece).enumerate().for_each(|(i, out)| f(i * piece, out));
    } else {
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
