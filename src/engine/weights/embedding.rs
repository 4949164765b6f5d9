//! [`Embedding`]: a prompt after the text encoder, with its tokens and the words they came from.

use std::sync::Arc;

use candle_core::Tensor;

use super::tokenizer::{Encoded, Token, Tokenizer};
use crate::engine::error::{Error, Result};

/// A prompt's states, `[1, 77, d]`, and its tokens. Immutable, cheap to clone.
#[derive(Clone, Debug)]
pub struct Embedding {
    states: Tensor,
    prompt: Arc<str>,
    encoded: Arc<Encoded>,
    tokenizer: Arc<Tokenizer>,
}

impl Embedding {
    /// Joins what the text encoder gave with what the tokenizer knew.
    pub fn new(states: Tensor, prompt: &str, encoded: Encoded, tokenizer: Arc<Tokenizer>) -> Self {
        Embedding { states, prompt: prompt.into(), encoded: Arc::new(encoded), tokenizer }
    }

    /// The states, `[1, 77, d]`.
    pub fn states(&self) -> &Tensor {
        &self.states
    }

    /// The prompt as it was given.
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// All tokens: start, words, end, padding.
    pub fn tokens(&self) -> &[Token] {
        &self.encoded.tokens
    }

    /// Number of positions (77).
    pub fn len(&self) -> usize {
        self.encoded.tokens.len()
    }

    /// Whether the prompt has no words.
    pub fn is_empty(&self) -> bool {
        self.encoded.end <= 1
    }

    /// The part of the prompt that did not fit into the positions, if any.
    pub fn cut(&self) -> Option<&str> {
        self.encoded.cut.as_deref()
    }

    /// The words that were kept, as pieces of the prompt.
    pub fn words(&self) -> Vec<&str> {
        self.encoded.tokens[1..self.encoded.end].iter().map(|t| t.text.as_str()).collect()
    }

    /// How many tokens a word is cut into.
    pub fn word_tokens(&self, word: &str) -> Result<usize> {
        Ok(self.tokenizer.word_ids(word)?.len())
    }

    /// The same prompt with other states (after arithmetic on them).
    pub fn with_states(&self, states: Tensor) -> Result<Self> {
        if states.dims() != self.states.dims() {
            return Err(Error::shape("embedding", "the states have another shape")
                .expected(format!("{:?}", self.states.dims()))
                .got(format!("{:?}", states.dims())));
        }
        Ok(Embedding { states, ..self.clone() })
    }

    /// Positions of every token of a word or phrase, at every place where it stands in the prompt.
    /// Errors: the word is not there (the message lists the prompt's words), or was cut off.
    pub fn columns(&self, word: &str) -> Result<Vec<usize>> {
        let ids = self.tokenizer.word_ids(word)?;
        if ids.is_empty() {
            return Err(
                Error::value("word", "the word is empty").hint(format!("words: {}", self.words().join(" ")))
            );
        }
        let own: Vec<u32> = self.encoded.tokens[1..self.encoded.end].iter().map(|t| t.id).collect();
        let mut columns: Vec<usize> = own
            .windows(ids.len())
            .enumerate()
            .filter(|(_, window)| *window == ids.as_slice())
            .flat_map(|(at, _)| at + 1..at + 1 + ids.len())
            .collect();
        columns.dedup();
        if !columns.is_empty() {
            return Ok(columns);
        }
        let error = Error::missing("word", format!("\"{word}\" is not a word of the prompt"))
            .expected(format!("one of: {}", self.words().join(" ")))
            .got(format!("\"{word}\""));
        Err(match self.cut() {
            Some(cut) if cut.to_lowercase().contains(&word.to_lowercase()) => {
                error.hint("that part of the prompt did not fit and was cut: shorten the prompt")
            }
            _ => error.hint("give a whole word, or several in the order of the prompt"),
        })
    }
}
