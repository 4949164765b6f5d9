//! Attention edits as values: scale the columns of a word (MagicMix section 3.3.2, Prompt-to-Prompt's reweight), put in
//! the probabilities that another prediction had (Prompt-to-Prompt's replace and refine, injected self-attention), record.

mod align;
mod recorder;
mod run;

use std::sync::Arc;

pub use align::WordMap;
pub use recorder::{RecordOptions, Recorder, Seen};
pub(crate) use run::AttentionRun;

use super::hooks::{Site, SiteKind};
use crate::engine::error::{Error, Result};
use crate::engine::image::Picture;
use crate::engine::weights::embedding::Embedding;

/// One edit of the probabilities. Edits work on the rows with the prompt, one after the other.
#[derive(Clone, Debug)]
enum Edit {
    Reweight(Reweight),
    Inject(Inject),
}

#[derive(Clone, Debug)]
struct Reweight {
    prompt: Arc<str>,
    columns: Vec<usize>,
    scale: f64,
    word: String,
    sites: Vec<String>,
}

#[derive(Clone, Debug)]
struct Inject {
    from: Recorder,
    kind: SiteKind,
    /// Largest side of a feature map at which it works.
    side: usize,
    sites: Vec<String>,
    /// How the recorded prompt's words become those of the prompt that predicts; `None`: as they are.
    words: Option<Arc<WordMap>>,
}

/// Where and of what kind [`Attention::inject`] works.
#[derive(Clone, Debug)]
pub struct InjectOptions {
    /// Cross-attention or self-attention.
    pub kind: SiteKind,
    /// Largest side of a feature map.
    pub side: usize,
    /// Site names, or the beginnings of their paths; empty: everywhere.
    pub sites: Vec<String>,
}

impl Default for InjectOptions {
    fn default() -> Self {
        InjectOptions {
            kind: SiteKind::CrossAttention,
            side: RecordOptions::default().side,
            sites: Vec::new(),
        }
    }
}

/// A set of attention edits. Immutable: every verb gives a new value. Only recorders inside are shared state.
#[derive(Clone, Debug, Default)]
pub struct Attention {
    edits: Vec<Edit>,
    recorder: Option<Recorder>,
}

impl Attention {
    /// No edits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Multiplies the probabilities of every token of `word` by `scale` after the softmax, without renormalizing: in
    /// every cross-attention (or those that `sites` name), conditional rows only. `scale` 1 changes nothing; negative
    /// values push the word away. Errors: the word is not in the prompt; the scale is not finite.
    pub fn reweight(&self, text: &Embedding, word: &str, scale: f64, sites: &[String]) -> Result<Self> {
        if !scale.is_finite() {
            return Err(Error::value("reweight", "the scale must be a finite number").got(scale.to_string()));
        }
        let edit = Reweight {
            prompt: text.prompt().into(),
            columns: text.columns(word)?,
            scale,
            word: word.to_string(),
            sites: sites.to_vec(),
        };
        Ok(self.and(Edit::Reweight(edit)))
    }

    /// Puts in the probabilities that `from` recorded last, in conditional rows.
    /// Errors: `from` records nothing.
    pub fn inject(&self, from: &Attention, options: InjectOptions) -> Result<Self> {
        Ok(self.and(Edit::Inject(Inject {
            from: from.recorder("inject")?.clone(),
            kind: options.kind,
            side: options.side,
            sites: options.sites,
            words: None,
        })))
    }

    /// Puts in the cross-attention that `from` recorded last, moved from the words of the recorded prompt to those of
    /// another (Hertz et al. 2022, section 3.3). Errors: `from` records nothing.
    pub fn transfer(&self, from: &Attention, words: WordMap, options: InjectOptions) -> Result<Self> {
        Ok(self.and(Edit::Inject(Inject {
            from: from.recorder("replace")?.clone(),
            kind: SiteKind::CrossAttention,
            side: options.side,
            sites: options.sites,
            words: Some(Arc::new(words)),
        })))
    }

    /// Records the attention of the conditional rows wherever the value is used, after the edits before it.
    pub fn record(&self, options: RecordOptions) -> Self {
        Attention { edits: self.edits.clone(), recorder: Some(Recorder::new(options)) }
    }

    fn and(&self, edit: Edit) -> Self {
        let mut new = self.clone();
        new.edits.push(edit);
        new
    }

    fn recorder(&self, op: &str) -> Result<&Recorder> {
        self.recorder.as_ref().ok_or_else(|| {
            Error::missing(op, "this Attention records nothing").hint("make it with attention().record()")
        })
    }

    /// Whether it does nothing at all: no recorder, nothing put in, and every scale is 1.
    pub fn is_idle(&self) -> bool {
        self.recorder.is_none() && self.edits.iter().all(|e| matches!(e, Edit::Reweight(r) if r.scale == 1.0))
    }

    /// The names of sites that its edits were restricted to.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        let edits = self.edits.iter().flat_map(|e| match e {
            Edit::Reweight(r) => &r.sites,
            Edit::Inject(i) => &i.sites,
        });
        edits.chain(self.recorder.iter().flat_map(|r| &r.options().sites))
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        let mut parts: Vec<String> = self
            .edits
            .iter()
            .map(|e| match e {
                Edit::Reweight(r) => format!("\"{}\" x {}", r.word, r.scale),
                Edit::Inject(i) => match (&i.words, i.kind) {
                    (Some(words), _) => format!("words of {:?} {}", words.source(), words.verb()),
                    (None, SiteKind::SelfAttention) => "self-attention put in".into(),
                    (None, _) => "cross-attention put in".into(),
                },
            })
            .collect();
        if let Some(recorder) = &self.recorder {
            parts.push(format!("recorder with {} maps", recorder.maps()));
        }
        if parts.is_empty() {
            "Attention without edits".into()
        } else {
            format!("Attention {}", parts.join(", "))
        }
    }

    /// Where the prompt's `word` was looked at, as a gray picture of `w` × `h` pixels: mean over sites, heads and steps,
    /// divided by its maximum. Errors: nothing was recorded; the word is not in the prompt.
    pub fn heat(&self, word: &str, w: usize, h: usize) -> Result<Picture> {
        self.recorder("heat")?.heat(word, w, h)
    }

    /// What was recorded last, site by site: path and probabilities `[rows, heads, queries, keys]`.
    /// Errors: it records nothing.
    pub fn recorded(&self) -> Result<Vec<(String, candle_core::Tensor)>> {
        Ok(self.recorder("maps")?.recorded())
    }

    /// Where the prompt's words were looked at, call by call and site by site, as long as that took less than 32 MiB.
    /// Errors: it records nothing.
    pub fn history(&self) -> Result<Vec<Seen>> {
        Ok(self.recorder("view")?.history())
    }

    /// The prompt that was recorded last, if anything was. Errors: it records nothing.
    pub fn prompt(&self) -> Result<Option<Embedding>> {
        Ok(self.recorder("replace")?.text())
    }

    /// The hook of one network call with this prompt in the conditional rows, for latents of `h` × `w`.
    /// `None` when there is nothing to do, so that the fused path runs.
    /// Errors: an edit that was made for another prompt; nothing recorded yet where something is to be put in.
    pub(crate) fn hook(&self, text: &Embedding, h: usize, w: usize) -> Result<Option<AttentionRun>> {
        for edit in &self.edits {
            match edit {
                Edit::Reweight(r) if *r.prompt != *text.prompt() => {
                    return Err(other_prompt(&format!("\"{}\" was reweighted", r.word), &r.prompt, text)
                        .hint("call attention().reweight(text, word, s) with the text that predicts"));
                }
                Edit::Inject(i) => {
                    if let Some(words) = i.words.as_ref().filter(|w| w.target() != text.prompt()) {
                        return Err(other_prompt("the words were moved", words.target(), text)
                            .hint("call a.replace(seen, text) with the text that predicts"));
                    }
                    i.from.ready(i.words.as_deref().map(WordMap::source))?;
                }
                Edit::Reweight(_) => {}
            }
        }
        if self.is_idle() {
            return Ok(None);
        }
        if let Some(recorder) = &self.recorder {
            recorder.begin(text, h, w);
        }
        Ok(Some(AttentionRun::new(self.edits.clone(), self.recorder.clone(), text.len())))
    }
}

fn other_prompt(what: &str, of: &str, text: &Embedding) -> Error {
    Error::value("attention", format!("{what} in another prompt"))
        .expected(format!("an edit of \"{}\"", text.prompt()))
        .got(format!("an edit of \"{of}\""))
}

/// Whether a site is among the names (all are, if there are none).
fn among(sites: &[String], site: &Site) -> bool {
    sites.is_empty() || sites.iter().any(|name| site.is_in(name))
}
