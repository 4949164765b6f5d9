//! The fuzzer of the script host: inputs from a grammar that knows the catalogue, and mutations of every script that
//! ships or is a test. Every input follows from a seed and its number, so that a fault can be made again.
//!
//! `tests/it/fuzz.rs` runs some thousand inputs as an ordinary test; `cargo bench --bench fuzz` runs many, in
//! processes of their own, and saves what ends one.
#![allow(dead_code, reason = "shared by the test and the example")]

pub mod grammar;
pub mod judge;
pub mod mutate;

use std::path::Path;

/// A small generator of random numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The generator of one input.
    pub fn new(seed: u64, number: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xbf58_476d_1ce4_e5b9))
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n` (0 for 0).
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of a list.
    pub fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
}

/// What to do with an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Evaluate it as a cell.
    Cell,
    /// Run it as a recipe, with these values.
    Recipe(Vec<(String, String)>),
}

/// One input.
#[derive(Clone, Debug)]
pub struct Input {
    /// The script.
    pub text: String,
    /// What to do with it.
    pub way: Way,
}

/// Scripts to start from.
pub struct Corpus {
    /// Recipes, which take long.
    pub recipes: Vec<String>,
    /// Everything else: tests, modules, examples of the reference, earlier findings.
    pub scripts: Vec<String>,
}

impl Corpus {
    /// All that ships, is a test, or stands in the reference.
    pub fn gather() -> Corpus {
        let recipes = scumble::script::recipes::BUILT_IN.iter().map(|(_, t)| (*t).to_string()).collect();
        let mut scripts: Vec<String> =
            scumble::script::modules::LIBRARY.iter().map(|(_, t)| (*t).to_string()).collect();
        for entry in scumble::script::catalog::all() {
            scripts.extend(entry.examples.iter().cloned());
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        for folder in ["rhai", "data/fuzz"] {
            let entries = std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
            let mut paths: Vec<_> = entries.map(|e| e.path()).collect();
            paths.sort();
            let texts = paths.iter().filter_map(|p| std::fs::read_to_string(p).ok());
            scripts.extend(texts.flat_map(|t| t.split("\n// ---\n").map(str::to_string).collect::<Vec<_>>()));
        }
        // What is long takes long: a fuzzer wants many.
        scripts.retain(|s| s.len() < 4000);
        Corpus { recipes, scripts }
    }
}

/// The input of a number.
pub fn input(corpus: &Corpus, seed: u64, number: u64) -> Input {
    let mut rng = Rng::new(seed, number);
    match rng.below(1000) {
        0..20 => {
            let start = corpus.recipes[rng.below(corpus.recipes.len())].clone();
            let text = mutate::mutate(&start, corpus, &mut rng);
            let mut args = vec![("steps".to_string(), "1".to_string())];
            if rng.chance(30) {
                args.push((grammar::word(&mut rng), grammar::argument(&mut rng)));
            }
            Input { text, way: Way::Recipe(args) }
        }
        20..450 => {
            let start = corpus.scripts[rng.below(corpus.scripts.len())].clone();
            Input { text: mutate::mutate(&start, corpus, &mut rng), way: Way::Cell }
        }
        _ => Input { text: grammar::Grammar::new(&mut rng).script(), way: Way::Cell },
    }
}
