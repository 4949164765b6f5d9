//! [`Shortcuts`]: what may be left out of a UNet pass at the price of another picture. Both are off unless asked for.

use crate::engine::error::{Error, Result};

/// Most steps for which deep features may serve.
pub const MAX_REUSE: usize = 50;
/// Largest share of tokens that can be merged: every destination is one of four.
pub const MAX_MERGE: f64 = 0.75;

/// Approximations of a UNet pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shortcuts {
    reuse: usize,
    merge: f64,
    merge_seed: u64,
}

impl Default for Shortcuts {
    fn default() -> Self {
        Shortcuts { reuse: 1, merge: 0.0, merge_seed: 0 }
    }
}

impl Shortcuts {
    /// `reuse`: the deep features of one pass serve for that many steps (DeepCache, Ma, Fang and Wang 2023, arXiv
    /// 2312.00858); 1 = off. `merge`: share of the tokens that self-attention at the finest level merges (token merging,
    /// Bolya and Hoffman 2023, arXiv 2303.17604); 0 = off. `merge_seed` chooses the tokens that others are merged into.
    /// Errors: reuse outside 1..50, merge outside 0..0.75.
    pub fn new(reuse: usize, merge: f64, merge_seed: u64) -> Result<Self> {
        if !(1..=MAX_REUSE).contains(&reuse) {
            return Err(Error::value("reuse", "option reuse is out of range")
                .expected(format!("steps that one full pass serves: 1 (off) to {MAX_REUSE}"))
                .got(reuse.to_string())
                .hint("#{ reuse: 3 }"));
        }
        if !(0.0..=MAX_MERGE).contains(&merge) {
            return Err(Error::value("merge", "option merge is out of range")
                .expected(format!("share of the tokens that are merged: 0 (off) to {MAX_MERGE}"))
                .got(merge.to_string())
                .hint("#{ merge: 0.5 }"));
        }
        Ok(Shortcuts { reuse, merge, merge_seed })
    }

    /// For how many steps the deep features of one pass serve; 1 = off.
    pub fn reuse(&self) -> usize {
        self.reuse
    }

    /// The share of the tokens that self-attention merges; 0 = off.
    pub fn merge(&self) -> f64 {
        self.merge
    }

    /// What the destinations of merged tokens are drawn with.
    pub fn merge_seed(&self) -> u64 {
        self.merge_seed
    }

    /// Whether nothing is left out.
    pub fn is_off(&self) -> bool {
        self.reuse == 1 && self.merge == 0.0
    }

    /// In a few words; empty where nothing is left out.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        if self.reuse > 1 {
            parts.push(format!("reuse {}", self.reuse));
        }
        if self.merge > 0.0 {
            parts.push(format!("merge {}", self.merge));
        }
        parts.join(", ")
    }
}
