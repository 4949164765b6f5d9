//! Attention edits as values.

use rhai::{Array, Dynamic, FnPtr, Map};

use super::hooks::{Callback, Edits};
use super::size;
use super::tensor::Tensor;
use crate::engine::error::{Error, Result};
use crate::engine::nets::attention_edit::{InjectOptions, RecordOptions, WordMap};
use crate::engine::nets::hooks::SiteKind;
use crate::engine::weights::embedding::Embedding;
use crate::script::args::Opts;
use crate::script::registry::Registry;

fn sites(o: &Opts) -> Result<Vec<String>> {
    o.or("sites", Vec::new())
}

fn side(o: &Opts) -> Result<usize> {
    let side = o.or("side", RecordOptions::default().side)?;
    if (1..=1024).contains(&side) {
        return Ok(side);
    }
    Err(Error::value("attention", "the side of a feature map is out of range")
        .expected("1..1024")
        .got(side.to_string()))
}

fn inject_options(o: &Opts) -> Result<InjectOptions> {
    let kind = match o.or("kind", "cross".to_string())?.as_str() {
        "cross" => SiteKind::CrossAttention,
        "self" => SiteKind::SelfAttention,
        other => {
            return Err(Error::value("inject", "there is no such kind").expected("cross or self").got(other));
        }
    };
    Ok(InjectOptions { kind, side: side(o)?, sites: sites(o)? })
}

/// The words of the prompt that `seen` recorded, for those of `text`.
fn transfer(
    edits: Edits,
    seen: &Edits,
    text: &Embedding,
    o: &Opts,
    map: fn(&Embedding, &Embedding) -> Result<WordMap>,
) -> Result<Edits> {
    let source = o.get::<Embedding>("source")?.or(seen.attention.prompt()?);
    let source = source.ok_or_else(|| {
        Error::missing("replace", "nothing was recorded yet, so its words are not known")
            .hint("record a prediction first, or say #{ source: the embedding that will be recorded }")
    })?;
    let options = InjectOptions { side: side(o)?, sites: sites(o)?, ..InjectOptions::default() };
    let attention = edits.attention.transfer(&seen.attention, map(&source, text)?, options)?;
    Ok(edits.with(attention))
}

fn callback(f: FnPtr, o: &Opts) -> Result<Callback> {
    Ok(Callback { sites: sites(o)?, function: f })
}

const SITES: &str = "site names of `m.sites()`, or the beginnings of their paths; everywhere if not said";
const SIDE: &str = "largest side of a feature map; 32";

/// Binds them.
pub fn register(r: &mut Registry) {
    r.group(
        "Attention",
        "Edits of the attention between picture and prompt. Build a value, then give it to `predict`, `guided` or `sample` \
         as `#{ attention: ... }`. Edits work on the rows with the prompt, in the order of the chain.",
    );
    r.def("attention()", "No edits yet: the start of a chain of verbs.")
        .example("attention() // => Attention without edits")
        .see(&["reweight", "record", "inject", "on_probs"])
        .bind(Edits::default);
    r.def(
        "a.reweight(text, word, s)",
        "Multiplies the attention to every token of a word by `s`, in every cross-attention layer, after the softmax and \
         without renormalizing; only in the row with the prompt. 1 changes nothing, 2 strengthens, 0 silences, negative \
         values push the word away.",
    )
    .option("sites", "[string]", SITES)
    .example("let m = load(\"emoji\");\nlet text = m.encode(\"a tiger in the snow\");\nattention().reweight(text, \"snow\", -1) // => Attention \"snow\" x -1")
    .example(
        "let m = load(\"emoji\");\nlet text = m.encode(\"a dog\");\nlet z = m.noise(0);\nlet same = attention().reweight(text, \"dog\", 1);\n\
         distance(m.predict(z, 981, text, #{ attention: same }), m.predict(z, 981, text)) // => 0.0",
    )
    .example(
        "let m = load(\"emoji\");\nlet text = m.encode(\"a dog\");\nlet odd = attention().reweight(text, \"dog\", 2, #{ sites: [\"up_block.1\"] });\n\
         m.predict(m.noise(0), 981, text, #{ attention: odd }) // error: no site \"up_block.1\"",
    )
    .see(&["columns", "guided", "predict"])
    .bind(|a: Edits, text: Embedding, word: String, s: f64, o: Opts| {
        let attention = a.attention.reweight(&text, &word, s, &sites(&o)?)?;
        Ok::<_, Error>(a.with(attention))
    });
    r.def(
        "a.record()",
        "Records the attention to every word wherever the value is used; `heat` shows it, `maps` gives it as tensors, and \
         other predictions can take it over (`inject`, `replace`, `refine`).",
    )
    .option("self", "true|false", "self-attention as well; 34 MB per picture for a layer of 32 x 32 pixels and 8 heads")
    .option("side", "integer", SIDE)
    .option("sites", "[string]", SITES)
    .example(
        "let m = load(\"emoji\");\nlet text = m.encode(\"a dog\");\nlet seen = attention().record();\nlet eps = m.predict(m.noise(0), 981, text, \
         #{ attention: seen });\nseen.heat(\"dog\") // => Image 64x64",
    )
    .see(&["heat", "maps", "inject"])
    .bind(|a: Edits, o: Opts| {
        let options = RecordOptions { self_attention: o.or("self", false)?, side: side(&o)?, sites: sites(&o)? };
        let attention = a.attention.record(options);
        Ok::<_, Error>(a.with(attention))
    });
    r.def(
        "a.heat(word)",
        "Where the prompt's word was looked at, as a gray picture: the mean over layers, heads and steps, divided by its \
         maximum. The Attention must be one that records.",
    )
    .option("size", "pixels|[w, h]", "of the picture; 64 if not said")
    .example("attention().heat(\"dog\") // error: records nothing")
    .see(&["record"])
    .bind(|a: Edits, word: String, o: Opts| {
        let (w, h) = size("heat", o.get::<Dynamic>("size")?.as_ref())?.unwrap_or((64, 64));
        a.attention.heat(&word, w, h)
    });
    r.def(
        "a.maps()",
        "What was recorded in the last prediction: a list of #{ path, probs }, probs being a Tensor [rows, heads, queries, keys].",
    )
    .example(
        "let m = load(\"emoji\");\nlet seen = attention().record(#{ sites: [\"mid_block\"] });\n\
         m.predict(m.noise(0), 981, m.encode(\"a dog\"), #{ attention: seen });\nseen.maps()[0].probs.shape // => [1, 2, 4, 77]",
    )
    .see(&["record"])
    .bind(|a: Edits| -> Result<Array> {
        let maps = a.attention.recorded()?;
        let map = |(path, probs): (String, candle_core::Tensor)| {
            let mut map = Map::new();
            map.insert("path".into(), path.into());
            map.insert("probs".into(), Dynamic::from(Tensor(probs)));
            Dynamic::from_map(map)
        };
        Ok(maps.into_iter().map(map).collect())
    });
    transfers(r);
    functions(r);
}

fn transfers(r: &mut Registry) {
    const SEEN: &str = "let m = load(\"emoji\");\nlet z = m.noise(0);\nlet dog = m.encode(\"a dog in the snow\");\n\
        let seen = attention().record(#{ self: true });\nlet eps = m.predict(z, 981, dog, #{ attention: seen });\n";
    let example = |code: &str| format!("{SEEN}{code}");
    r.def(
        "a.inject(seen)",
        "Puts in the probabilities that `seen` recorded last, unchanged: of cross-attention, or of self-attention.",
    )
    .option("kind", "string", "cross or self; cross")
    .option("side", "integer", SIDE)
    .option("sites", "[string]", SITES)
    .example(&example(
        "let same = attention().inject(seen).inject(seen, #{ kind: \"self\" });\n\
         distance(m.predict(z, 981, dog, #{ attention: same }), eps) < 0.001 // => true",
    ))
    .example(&example("attention().inject(attention()) // error: records nothing"))
    .see(&["record", "replace", "refine"])
    .bind(|a: Edits, seen: Edits, o: Opts| {
        let attention = a.attention.inject(&seen.attention, inject_options(&o)?)?;
        Ok::<_, Error>(a.with(attention))
    });
    r.def(
        "a.replace(seen, text)",
        "Prompt-to-Prompt's word swap: the cross-attention that `seen` recorded last, for a prompt with as many words. A word \
         that differs takes over the attention of the one it replaces.",
    )
    .option("source", "Embedding", "the prompt that is recorded, if nothing was recorded yet")
    .option("side", "integer", SIDE)
    .option("sites", "[string]", SITES)
    .example(&example(
        "let cat = m.encode(\"a cat in the snow\");\nattention().replace(seen, cat) // => Attention words of \"a dog in the snow\" replaced",
    ))
    .example(&example("attention().replace(seen, m.encode(\"a red dog in the snow\")) // error: as many words"))
    .see(&["refine", "inject", "record"])
    .bind(|a: Edits, seen: Edits, text: Embedding, o: Opts| transfer(a, &seen, &text, &o, WordMap::replace));
    r.def(
        "a.refine(seen, text)",
        "Prompt-to-Prompt's refinement: words that both prompts have take the cross-attention that `seen` recorded last; \
         added words keep their own.",
    )
    .option("source", "Embedding", "the prompt that is recorded, if nothing was recorded yet")
    .option("side", "integer", SIDE)
    .option("sites", "[string]", SITES)
    .example(&example(
        "let red = m.encode(\"a red dog in the snow\");\nattention().refine(seen, red) // => Attention words of \"a dog in the snow\" refined",
    ))
    .see(&["replace", "inject", "record"])
    .bind(|a: Edits, seen: Edits, text: Embedding, o: Opts| transfer(a, &seen, &text, &o, WordMap::refine));
}

fn functions(r: &mut Registry) {
    r.def(
        "a.on_probs(|site, probs| ...)",
        "A function of your own on the probabilities [rows, heads, queries, keys] at the sites named, in every prediction. It \
         gives back a Tensor of that shape, or nothing. `site` is a map: path, kind, alias, heads, channels, height, width, and \
         `rows` with \"none\" or \"text\" for every row. Where no site is named the cost of the network without fused attention \
         is paid everywhere.",
    )
    .option("sites", "[string]", SITES)
    .example(
        "let m = load(\"emoji\");\nlet text = m.encode(\"a dog\");\nlet z = m.noise(0);\nlet flat = attention().on_probs(|site, p| p * 0 + 1 / 77.0, \
         #{ sites: [\"mid_block\"] });\ndistance(m.predict(z, 981, text, #{ attention: flat }), m.predict(z, 981, text)) > 0 // => true",
    )
    .example(
        "let m = load(\"emoji\");\nlet text = m.encode(\"a dog\");\nlet z = m.noise(0);\nlet same = attention().on_probs(|site, p| p);\n\
         distance(m.predict(z, 981, text, #{ attention: same }), m.predict(z, 981, text)) < 0.001 // => true",
    )
    .see(&["on_activation", "record", "sites"])
    .bind(|a: Edits, f: FnPtr, o: Opts| {
        let mut new = a;
        new.probs.push(callback(f, &o)?);
        Ok::<_, Error>(new)
    });
    r.def(
        "a.on_activation(|site, x| ...)",
        "A function of your own on the activations (a Latent [rows, channels, height, width]) at the sites named; it gives back \
         a Latent of that shape, or nothing.",
    )
    .option("sites", "[string]", SITES)
    .example(
        "let m = load(\"emoji\");\nlet text = m.encode(\"a dog\");\nlet z = m.noise(0);\nlet seen = [];\n\
         let watch = attention().on_activation(|site, x| { seen.push(site.path); }, #{ sites: [\"middle 0\"] });\n\
         m.predict(z, 981, text, #{ attention: watch });\nseen // => [\"mid_block.resnets.0\"]",
    )
    .see(&["on_probs", "predict", "sites"])
    .bind(|a: Edits, f: FnPtr, o: Opts| {
        let mut new = a;
        new.activations.push(callback(f, &o)?);
        Ok::<_, Error>(new)
    });
}
