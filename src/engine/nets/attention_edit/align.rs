//! Which words of one prompt stand for which of another: Prompt-to-Prompt's word swap and refinement (Hertz et al. 2022,
//! section 3.3), as a matrix over token positions.

use candle_core::Tensor;

use crate::engine::error::{Error, Result};
use crate::engine::weights::embedding::Embedding;

/// A matrix that moves attention from the columns of a source prompt to those of a target prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct WordMap {
    source: String,
    target: String,
    verb: &'static str,
    /// `[source, target]`: what share of a source column goes to a target column.
    matrix: Vec<f32>,
    /// What share of its own attention a target column keeps.
    keep: Vec<f32>,
    keys: usize,
}

impl WordMap {
    /// Word swap: word for word, in order; words that differ take over the attention of those they replace. Where their
    /// numbers of tokens differ, every token of the new word gets the same share.
    /// Errors: prompts of different numbers of words.
    pub fn replace(source: &Embedding, target: &Embedding) -> Result<Self> {
        let (a, b) = (words(source)?, words(target)?);
        if a.len() != b.len() {
            return Err(Error::value("replace", "the two prompts must have as many words")
                .expected(format!("{} words, as in \"{}\"", a.len(), source.prompt()))
                .got(format!("{} words, in \"{}\"", b.len(), target.prompt()))
                .hint("a.refine(seen, text) is for prompts with words added"));
        }
        let mut map = WordMap::empty(source, target, "replaced")?;
        map.set(0, 0, 1.0);
        let (mut i, mut j) = (1, 1);
        for (m, n) in a.iter().zip(&b) {
            for (p, q) in (0..*m).flat_map(|p| (0..*n).map(move |q| (p, q))) {
                match m == n {
                    true if p == q => map.set(i + p, j + q, 1.0),
                    true => {}
                    false => map.set(i + p, j + q, 1.0 / *n as f32),
                }
            }
            (i, j) = (i + m, j + n);
        }
        // The end and the padding follow in order.
        for q in j..map.keys {
            map.set((i + q - j).min(map.keys - 1), q, 1.0);
        }
        Ok(map)
    }

    /// Refinement: words that both prompts have, in order, take the source's attention; the others keep their own.
    pub fn refine(source: &Embedding, target: &Embedding) -> Result<Self> {
        let mut map = WordMap::empty(source, target, "refined")?;
        let ids = |e: &Embedding| -> Vec<u32> { e.tokens().iter().map(|t| t.id).collect() };
        let (a, b) = (ids(source), ids(target));
        let (a_end, b_end) = (1 + source.words().len(), 1 + target.words().len());
        map.keep = vec![1.0; map.keys];
        for (p, q) in common(&a[1..a_end], &b[1..b_end]) {
            map.set(p + 1, q + 1, 1.0);
            map.keep[q + 1] = 0.0;
        }
        map.set(0, 0, 1.0);
        map.keep[0] = 0.0;
        for q in b_end..map.keys {
            map.set((a_end + q - b_end).min(map.keys - 1), q, 1.0);
            map.keep[q] = 0.0;
        }
        Ok(map)
    }

    fn empty(source: &Embedding, target: &Embedding, verb: &'static str) -> Result<Self> {
        if source.len() != target.len() {
            return Err(Error::shape("attention", "the two prompts come from different text encoders")
                .expected(format!("{} positions", source.len()))
                .got(target.len().to_string()));
        }
        let keys = source.len();
        Ok(WordMap {
            source: source.prompt().into(),
            target: target.prompt().into(),
            verb,
            matrix: vec![0.0; keys * keys],
            keep: vec![0.0; keys],
            keys,
        })
    }

    fn set(&mut self, source: usize, target: usize, share: f32) {
        if source < self.keys && target < self.keys {
            self.matrix[source * self.keys + target] = share;
        }
    }

    /// The prompt whose attention is moved.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt that gets it.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// "replaced" or "refined".
    pub fn verb(&self) -> &'static str {
        self.verb
    }

    /// `theirs @ matrix + own * keep`, both `[n, heads, queries, keys]`.
    pub(super) fn apply(&self, theirs: &Tensor, own: &Tensor) -> Result<Tensor> {
        let (device, dtype, k) = (own.device(), own.dtype(), self.keys);
        let matrix = Tensor::from_slice(&self.matrix, (k, k), device)?.to_dtype(dtype)?;
        let keep = Tensor::from_slice(&self.keep, (1, 1, 1, k), device)?.to_dtype(dtype)?;
        let (n, heads, queries, _) = theirs.dims4()?;
        let moved = theirs.reshape((n * heads * queries, k))?.matmul(&matrix)?.reshape(own.dims())?;
        Ok((moved + own.broadcast_mul(&keep)?)?)
    }
}

/// How many tokens every word of the prompt has, in order, as far as they were kept.
fn words(e: &Embedding) -> Result<Vec<usize>> {
    let mut left = e.words().len();
    let mut counts = Vec::new();
    for word in e.prompt().split_whitespace() {
        let count = e.word_tokens(word)?.min(left);
        if count > 0 {
            counts.push(count);
        }
        left -= count;
    }
    Ok(counts)
}

/// Longest common subsequence: pairs of positions, in order.
fn common(a: &[u32], b: &[u32]) -> Vec<(usize, usize)> {
    let width = b.len() + 1;
    let mut best = vec![0u16; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            best[i * width + j] = if a[i] == b[j] {
                best[(i + 1) * width + j + 1] + 1
            } else {
                best[(i + 1) * width + j].max(best[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < a.len() && j < b.len() {
        if a[i] == b[j] {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if best[(i + 1) * width + j] >= best[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::weights::model::{LoadOptions, Model};

    #[test]
    fn common_words_keep_their_order() {
        assert_eq!(common(&[1, 2, 3], &[1, 9, 2, 3]), [(0, 0), (1, 2), (2, 3)]);
        assert_eq!(common(&[1, 2], &[3, 4]), []);
    }

    #[test]
    fn words_are_moved_as_hertz_et_al_do() {
        let m = Model::load("emoji", &LoadOptions::default()).unwrap();
        let text = |p: &str| m.encode_text(p).unwrap();
        let (dog, cat, red) =
            (text("a dog in the snow"), text("a cat in the snow"), text("a red dog in the snow"));
        let swap = WordMap::replace(&dog, &cat).unwrap();
        assert!(swap.keep.iter().all(|&k| k == 0.0));
        assert!((0..77).all(|i| swap.matrix[i * 77 + i] == 1.0), "words of one token each: the identity");
        let more = WordMap::refine(&dog, &red).unwrap();
        assert_eq!(
            (0..9).map(|q| more.keep[q]).collect::<Vec<_>>(),
            [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        );
        // "dog" is word 2 of the source and word 3 of the target.
        assert_eq!(more.matrix[2 * 77 + 3], 1.0);
        assert!(WordMap::replace(&dog, &red).unwrap_err().to_string().contains("as many words"));
        // Every target column gets what one column gave.
        for map in [&swap, &more] {
            for q in 0..77 {
                let got: f32 = (0..77).map(|p| map.matrix[p * 77 + q]).sum::<f32>() + map.keep[q];
                assert!((got - 1.0).abs() < 1e-6, "column {q} gets {got}");
            }
        }
    }
}
