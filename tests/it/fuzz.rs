//! A short run of the fuzzer, and its earlier findings.

use std::path::Path;
use std::time::{Duration, Instant};

use scumble::script::{Snapshot, thread};

#[path = "../fuzz/mod.rs"]
mod fuzzing;

use fuzzing::judge::{Judge, typed};
use fuzzing::{Corpus, Input, Way};

/// Longest time of the short run; a slow machine tries less.
const TIME: Duration = Duration::from_secs(10);

#[test]
fn some_thousand_inputs_find_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = Corpus::gather();
    let start = Instant::now();
    let (tried, faults) = thread::run(|| {
        let mut judge = Judge::new(dir.path());
        let (mut tried, mut faults) = (0, Vec::new());
        while tried < 3000 && start.elapsed() < TIME {
            let input = fuzzing::input(&corpus, 4711, tried);
            let typed = typed(&input.text, &Snapshot::default());
            if let Err(why) = typed.and_then(|()| judge.judge(&input).map(drop)) {
                faults.push(format!("input {tried}: {why}\n{}", input.text));
            }
            tried += 1;
        }
        (tried, faults)
    });
    assert!(faults.is_empty(), "{} of {tried} inputs:\n{}", faults.len(), faults.join("\n\n"));
    assert!(tried > 100, "only {tried} inputs");
}

#[test]
fn earlier_findings_stay_mended() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().flatten().map(|e| e.path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let dir = tempfile::tempdir().unwrap();
    let faults: Vec<String> = thread::run(|| {
        let mut judge = Judge::new(dir.path());
        let mut faults = Vec::new();
        for file in files {
            for cell in std::fs::read_to_string(&file).unwrap().split("\n// ---\n") {
                let input = Input { text: cell.to_string(), way: Way::Cell };
                let typed = typed(cell, &Snapshot::default());
                if let Err(why) = typed.and_then(|()| judge.judge(&input).map(drop)) {
                    faults.push(format!("{}: {why}", file.display()));
                }
            }
        }
        faults
    });
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}
