//! Attention edits as values.

use rhai::Dynamic;

use super::size;
use crate::engine::nets::attention_edit::Attention;
use crate::engine::weights::embedding::Embedding;
use crate::script::args::Opts;
use crate::script::registry::Registry;
use crate::script::types::Handle;

impl Handle for Attention {
    const NAME: &'static str = "Attention";

    fn detail(&self) -> String {
        self.describe().trim_start_matches("Attention ").to_string()
    }
}

/// Binds them.
pub fn register(r: &mut Registry) {
    r.group(
        "Attention",
        "Edits of the attention between picture and prompt. Build a value, then give it to `predict` or `guided` as \
         `#{ attention: ... }`.",
    );
    r.def("attention()", "No edits yet: the start of a chain of verbs.")
        .example("attention() // => Attention without edits")
        .see(&["reweight", "record"])
        .bind(Attention::new);
    r.def(
        "a.reweight(text, word, s)",
        "Multiplies the attention to every token of a word by `s`, in every cross-attention layer, after the softmax and \
         without renormalizing; only in the row with the prompt. 1 changes nothing, 2 strengthens, 0 silences, negative \
         values push the word away.",
    )
    .example("let m = load(\"emoji\");\nlet text = m.encode(\"a tiger in the snow\");\nattention().reweight(text, \"snow\", -1) // => Attention \"snow\" x -1")
    .example(
        "let m = load(\"emoji\");\nlet text = m.encode(\"a dog\");\nlet z = m.noise(0);\nlet same = attention().reweight(text, \"dog\", 1);\n\
         distance(m.predict(z, 981, text, #{ attention: same }), m.predict(z, 981, text)) // => 0.0",
    )
    .see(&["columns", "guided", "predict"])
    .bind(|a: Attention, text: Embedding, word: String, s: f64| a.reweight(&text, &word, s));
    r.def(
        "a.record()",
        "Records the attention to every word (maps up to 32 x 32) wherever the value is used; `heat` shows it.",
    )
    .example(
        "let m = load(\"emoji\");\nlet text = m.encode(\"a dog\");\nlet seen = attention().record();\nlet eps = m.predict(m.noise(0), 981, text, \
         #{ attention: seen });\nseen.heat(\"dog\") // => Image 64x64",
    )
    .see(&["heat"])
    .bind(|a: Attention| a.record());
    r.def(
        "a.heat(word)",
        "Where the prompt's word was looked at, as a gray picture: the mean over layers, heads and steps, divided by its \
         maximum. The Attention must be one that records.",
    )
    .option("size", "pixels|[w, h]", "of the picture; 64 if not said")
    .example("attention().heat(\"dog\") // error: records nothing")
    .see(&["record"])
    .bind(|a: Attention, word: String, o: Opts| {
        let (w, h) = size("heat", o.get::<Dynamic>("size")?.as_ref())?.unwrap_or((64, 64));
        a.heat(&word, w, h)
    });
}
