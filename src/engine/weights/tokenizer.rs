//! The CLIP tokenizer: byte-pair encoding by the folder's own files, start and end tokens, padding, and the map from
//! words to token positions that attention edits need.

use std::collections::HashMap;

use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::folder::Folder;
use crate::engine::error::{Error, Kind, Result};

/// CLIP's own pattern: contractions, runs of letters, single digits, runs of other signs.
const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// One token of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its number in the vocabulary.
    pub id: u32,
    /// The piece of the prompt it stands for; `<start>`, `<end>` and `<pad>` for the special ones.
    pub text: String,
}

/// A prompt as the text encoder takes it.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Exactly `positions` tokens: start, words, end, padding.
    pub tokens: Vec<Token>,
    /// Position of the end token.
    pub end: usize,
    /// The part of the prompt that did not fit, if any.
    pub cut: Option<String>,
}

/// Turns prompts into token numbers.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
    positions: usize,
    /// For tokens that were added, by their number in `inner`: the numbers of their vectors.
    added: HashMap<u32, std::ops::Range<u32>>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.inner.get_vocab_size(true))
    }
}

impl Tokenizer {
    /// From a tokenizer folder: `tokenizer.json`, or `vocab.json` with `merges.txt`.
    /// `positions` is the text encoder's length (77), `vocab` the number of rows of its embedding table.
    /// Errors: files missing or malformed, or a vocabulary larger than the table.
    pub fn load(folder: &Folder, positions: usize, vocab: usize) -> Result<Self> {
        let bad = |file: &str, e: &dyn std::fmt::Display| {
            Error::new(Kind::File, "load", format!("{}: not a CLIP tokenizer: {e}", folder.display(file)))
        };
        let mut inner = if folder.has("tokenizer.json") {
            let mut t = tokenizers::Tokenizer::from_bytes(folder.read("tokenizer.json")?)
                .map_err(|e| bad("tokenizer.json", &e))?;
            // Start, end and padding are ours: the file's own rules would do it twice.
            t.with_padding(None);
            t.with_truncation(None).map_err(|e| bad("tokenizer.json", &e))?;
            t.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
            t
        } else {
            from_vocab(folder).map_err(|e| bad("vocab.json", &e))?
        };
        let special = special_tokens(folder);
        let id = |key: &str, default: &str| -> Result<u32> {
            let text = special.get(key).map_or(default, String::as_str);
            inner
                .token_to_id(text)
                .ok_or_else(|| bad("tokenizer_config.json", &format!("no token \"{text}\" ({key})")))
        };
        let end = id("eos_token", "<|endoftext|>")?;
        let pad = if special.contains_key("pad_token") { id("pad_token", "")? } else { end };
        let start = id("bos_token", "<|startoftext|>")?;
        // Special tokens are matched wherever they stand in a prompt, the padding too: with SD 2.x's "!" as padding, an
        // exclamation mark becomes token 0, as it does in transformers.
        let names = [start, end, pad].into_iter().filter_map(|id| inner.id_to_token(id));
        let added: Vec<AddedToken> = names.map(|n| AddedToken::from(n, true)).collect();
        inner.add_special_tokens(added).map_err(|e| bad("tokenizer_config.json", &e))?;
        if inner.get_vocab_size(true) > vocab {
            return Err(bad(
                "tokenizer.json",
                &format!("{} tokens, but the text encoder has {vocab}", inner.get_vocab_size(true)),
            ));
        }
        if positions < 3 {
            return Err(bad("tokenizer.json", &format!("the text encoder has only {positions} positions")));
        }
        Ok(Tokenizer { inner, start, end, pad, positions, added: HashMap::new() })
    }

    /// The same with words of its own, each of which stands for `n` vectors: their numbers begin at `first`, in the order
    /// given. Errors: an empty word, one with a space, one that is a token already.
    pub fn with_words(&self, words: &[(&str, usize)], first: usize) -> Result<Self> {
        let mut new = self.clone();
        let mut next = first as u32;
        for (word, n) in words {
            let known = new.inner.token_to_id(word).is_some()
                || new.inner.token_to_id(&format!("{word}</w>")).is_some();
            if word.is_empty() || word.contains(char::is_whitespace) || known {
                return Err(Error::value("token", "this cannot be a new token")
                    .expected("one word that the tokenizer does not know")
                    .got(format!("\"{word}\""))
                    .hint("angle brackets make a word new: \"<thing>\""));
            }
            new.inner
                .add_special_tokens([AddedToken::from(*word, true).single_word(true)])
                .map_err(|e| Error::value("token", format!("the token cannot be added: {e}")))?;
            let id = new.inner.token_to_id(word);
            let id = id.ok_or_else(|| Error::value("token", "the token was not added").got(*word))?;
            let end = next + *n as u32;
            new.added.insert(id, next..end);
            next = end;
        }
        Ok(new)
    }

    /// Encodes a prompt to exactly the text encoder's number of positions; what does not fit is cut at a token and
    /// reported in [`Encoded::cut`].
    pub fn encode(&self, prompt: &str) -> Result<Encoded> {
        let pieces = self.pieces(prompt)?;
        let room = self.positions - 2;
        let kept = pieces.len().min(room);
        let cut = pieces
            .get(room)
            .map(|(_, range)| prompt.get(range.start..).unwrap_or_default().trim().to_string());
        let special = |id, text: &str| Token { id, text: text.to_string() };
        let mut tokens = Vec::with_capacity(self.positions);
        tokens.push(special(self.start, "<start>"));
        tokens.extend(pieces.into_iter().take(kept).map(|(id, range)| {
            let text = prompt.get(range).unwrap_or_default().trim().to_string();
            Token { id, text }
        }));
        let end = tokens.len();
        tokens.push(special(self.end, "<end>"));
        tokens.resize(self.positions, special(self.pad, "<pad>"));
        Ok(Encoded { tokens, end, cut })
    }

    /// The token numbers of a word or phrase alone, without start and end.
    pub fn word_ids(&self, word: &str) -> Result<Vec<u32>> {
        Ok(self.pieces(word)?.into_iter().map(|(id, _)| id).collect())
    }

    /// The number of the end token.
    pub fn end_id(&self) -> u32 {
        self.end
    }

    fn pieces(&self, text: &str) -> Result<Vec<(u32, std::ops::Range<usize>)>> {
        let encoding = self
            .inner
            .encode(text, false)
            .map_err(|e| Error::value("encode", format!("the prompt cannot be split into tokens: {e}")))?;
        let offsets = encoding.get_offsets().iter().map(|&(a, b)| a..b);
        let all = encoding.get_ids().iter().copied().zip(offsets);
        Ok(all
            .flat_map(|(id, place)| {
                let ids = self.added.get(&id).cloned().unwrap_or(id..id + 1);
                ids.map(move |id| (id, place.clone()))
            })
            .collect())
    }
}

/// Special tokens named in `special_tokens_map.json` or `tokenizer_config.json` (a string, or a map with `content`).
fn special_tokens(folder: &Folder) -> HashMap<String, String> {
    let mut found = HashMap::new();
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        let Ok(json) = folder.json(file) else { continue };
        for key in ["bos_token", "eos_token", "pad_token"] {
            let value = json.get(key);
            let text = value.and_then(Value::as_str).or_else(|| value?.get("content")?.as_str());
            if let Some(text) = text {
                found.insert(key.to_string(), text.to_string());
            }
        }
    }
    found
}

fn from_vocab(folder: &Folder) -> std::result::Result<tokenizers::Tokenizer, String> {
    let vocab = folder.json("vocab.json").map_err(|e| e.to_string())?;
    let vocab: HashMap<String, u32> = serde_json::from_value(vocab).map_err(|e| e.to_string())?;
    let merges = folder.read("merges.txt").map_err(|e| e.to_string())?;
    let merges = String::from_utf8(merges.into_owned()).map_err(|e| e.to_string())?;
    let merges = merges
        .lines()
        .filter(|l| !l.starts_with("#version") && !l.trim().is_empty())
        .map(|l| l.split_once(' ').map(|(a, b)| (a.to_string(), b.trim_end().to_string())))
        .collect::<Option<Vec<_>>>()
        .ok_or("merges.txt: a line without two parts")?;
    let bpe = BPE::builder()
        .vocab_and_merges(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .unk_token("<|endoftext|>".into())
        .end_of_word_suffix("</w>".into())
        .continuing_subword_prefix(String::new())
        .build()
        .map_err(|e| e.to_string())?;
    let mut t = tokenizers::Tokenizer::new(bpe);
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ").map_err(|e| e.to_string())?;
    t.with_normalizer(Some(Sequence::new(vec![NFC.into(), spaces.into(), Lowercase.into()])))
        .map_err(|e| e.to_string())?;
    let split = Split::new(SplitPattern::Regex(PATTERN.into()), SplitDelimiterBehavior::Removed, true)
        .map_err(|e| e.to_string())?;
    let bytes = ByteLevel::new(false, true, false);
    t.with_pre_tokenizer(Some(PreSequence::new(vec![
        PreTokenizerWrapper::Split(split),
        PreTokenizerWrapper::ByteLevel(bytes),
    ])));
    Ok(t)
}
