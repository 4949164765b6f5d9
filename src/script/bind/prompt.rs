//! Embeddings: prompts after the text encoder.

use crate::engine::error::{Error, Result};
use crate::engine::latent::Latent;
use crate::engine::weights::embedding::Embedding;
use crate::script::registry::Registry;
use crate::script::types::Handle;

impl Handle for Embedding {
    const NAME: &'static str = "Embedding";

    fn detail(&self) -> String {
        let cut = if self.cut().is_some() { "  cut" } else { "" };
        format!("{:?}  {} words{cut}", self.prompt(), self.words().len())
    }

    fn bytes(&self) -> usize {
        self.states().elem_count() * self.states().dtype().size_in_bytes()
    }
}

fn blend(a: &Embedding, b: &Embedding, x: f64) -> Result<Embedding> {
    // The same two products as for latents: x = 0 and x = 1 give the ends exactly.
    let lift = |e: &Embedding| Latent::new(e.states().unsqueeze(0)?);
    let mixed = Latent::blend(&lift(a)?, &lift(b)?, x)?;
    let near = if x < 0.5 { a } else { b };
    near.with_states(mixed.tensor().squeeze(0)?)
}

fn slerp(a: &Embedding, b: &Embedding, x: f64) -> Result<Embedding> {
    if !x.is_finite() || a.states().dims() != b.states().dims() {
        return Err(Error::value(
            "slerp",
            "the share of b must be a finite number, and both prompts from one model",
        )
        .got(x.to_string()));
    }
    let near = if x < 0.5 { a } else { b };
    near.with_states(Latent::slerp_rows(a.states(), b.states(), x, 1)?)
}

/// Binds them.
pub fn register(r: &mut Registry) {
    r.group("Prompts", "Words after the text encoder: one state per token, 77 in all.");
    r.def(
        "blend(a, b, x)",
        "`(1 - x) * a + x * b` of the states of two prompts; the words are those of the nearer one.",
    )
    .example("let m = load(\"emoji\");\nblend(m.encode(\"a dog\"), m.encode(\"a cat\"), 0.25).prompt // => \"a dog\"")
    .see(&["encode"])
    .bind(|a: Embedding, b: Embedding, x: f64| blend(&a, &b, x));
    r.def("slerp(a, b, x)", "From one prompt's states to another's on the arc between them, token by token.")
        .example("let m = load(\"emoji\");\nslerp(m.encode(\"a dog\"), m.encode(\"a cat\"), 0.25).prompt // => \"a dog\"")
        .see(&["blend"])
        .bind(|a: Embedding, b: Embedding, x: f64| slerp(&a, &b, x));
    r.prop("text.prompt", "The prompt as it was given.")
        .example("load(\"emoji\").encode(\"a dog\").prompt // => \"a dog\"")
        .bind(|text: Embedding| text.prompt().to_string());
    r.prop("text.tensor", "The states, as a Tensor: one row per token.")
        .example("load(\"emoji\").encode(\"a dog\").tensor.shape // => [1, 77, 128]")
        .see(&["encode", "mse"])
        .bind(|text: Embedding| super::Tensor(text.states().clone()));
    r.prop("text.words", "The pieces of the prompt that the tokenizer made, one per token.")
        .example("load(\"emoji\").encode(\"a dog\").words // => [\"a\", \"dog\"]")
        .see(&["columns", "cut"])
        .bind(|text: Embedding| text.words().into_iter().map(str::to_string).collect::<Vec<String>>());
    r.prop("text.tokens", "All tokens with the special ones: start, words, end, padding.")
        .example("load(\"emoji\").encode(\"a dog\").tokens.len() // => 77")
        .see(&["words"])
        .bind(|text: Embedding| text.tokens().iter().map(|t| t.text.clone()).collect::<Vec<String>>());
    r.prop("text.cut", "The end of a prompt that did not fit into the positions; empty if all of it did.")
        .example("load(\"emoji\").encode(\"a dog\").cut // => \"\"")
        .see(&["words"])
        .bind(|text: Embedding| text.cut().unwrap_or_default().to_string());
    r.def(
        "text.columns(word)",
        "The positions of every token of a word or phrase, wherever it stands in the prompt: the columns of attention that \
         `reweight` scales. A word that is not there is an error that lists the words there are.",
    )
    .example("load(\"emoji\").encode(\"a dog and a cat\").columns(\"a\") // => [1, 4]")
    .example("load(\"emoji\").encode(\"a dog\").columns(\"cat\") // error: not a word of the prompt")
    .see(&["reweight", "words"])
    .bind(|text: Embedding, word: String| text.columns(&word));
}
