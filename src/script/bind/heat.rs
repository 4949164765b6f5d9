//! Where a run looked at a word, for any trajectory.

use candle_core::Tensor;
use rhai::Dynamic;

use super::size;
use crate::engine::error::{Error, Result};
use crate::engine::image::Picture;
use crate::engine::latent::Latent;
use crate::engine::nets::attention_edit::{Attention, RecordOptions};
use crate::engine::observe::Event;
use crate::engine::trajectory::Trajectory;
use crate::engine::weights::model::{Model, PredictOptions};
use crate::script::args::Opts;
use crate::script::host::Host;
use crate::script::registry::Registry;

/// Where a word's heat lies on its object, as measured on this model; empty: nothing was measured, so everywhere.
fn sites(m: &Model) -> Vec<String> {
    let measured = m.defaults().and_then(|d| d.option("heat", "sites")?.as_array().cloned());
    measured.unwrap_or_default().iter().filter_map(|v| v.as_str().map(str::to_string)).collect()
}

/// Heat of a word over all steps of the run whose prompt holds it.
fn heat(host: &Host, tr: &Trajectory, word: &str, o: &Opts) -> Result<Picture> {
    let m = tr.model();
    let (w, h) = size("heat", o.get::<Dynamic>("size")?.as_ref())?.unwrap_or((m.size(), m.size()));
    let steps = tr.last().i() - tr.first();
    let given: Vec<String> = o.or("sites", sites(m))?;
    m.known_sites(given.iter())?;
    let options = RecordOptions { sites: given, ..RecordOptions::default() };
    let mut pictures = Vec::new();
    for n in 0..tr.last().z().dims().0 {
        let seen = Attention::new().record(options.clone());
        let options = PredictOptions { attention: Some(seen.clone()), ..PredictOptions::default() };
        for i in tr.first()..tr.last().i() {
            host.cancel().check("heat")?;
            let state = tr.state(i)?;
            let text = &tr.steered(i)?.text;
            // A run that changed its prompt has words in some steps only.
            if text.columns(word).is_ok() {
                let z: Latent = state.z().index(n)?;
                m.predict(&z, state.t()?, text, &options)?;
            }
            host.worked();
            host.preview_picture(&format!("heat of {word}"), || seen.heat(word, w.min(64), h.min(64)));
            host.emit(Event::Step { label: "looking", done: i + 1 - tr.first(), total: steps });
        }
        if seen.recorded()?.is_empty() {
            return Err(match tr.steered(tr.first()).and_then(|s| s.text.columns(word)) {
                Err(e) => e,
                Ok(_) => Error::missing("heat", "the run has no steps yet").hint("tr.resume()"),
            });
        }
        pictures.push(seen.heat(word, w, h)?.tensor().clone());
    }
    Picture::from_tensor(Tensor::cat(&pictures, 0)?)
}

/// Binds it.
pub fn register(r: &mut Registry) {
    let host = r.host();
    r.def(
        "tr.heat(word)",
        "Where a run looked at a word of its prompt, as a gray picture (DAAM: Tang and others 2022, arXiv 2210.04885): the mean \
         of the cross-attention over layers, heads and steps, divided by its maximum. Every step's prediction under the prompt \
         is made once more, so any run can be asked.",
    )
    .option("size", "pixels|[w, h]", "of the picture; the model's own")
    .option("sites", "[string]", "site names of `m.sites()`, or the beginnings of their paths; `m.heat_sites` if not said")
    .example("load(\"emoji\").sample(\"a dog in the snow\", #{ steps: 4 }).heat(\"dog\") // => Image 64x64")
    .example("load(\"emoji\").sample(\"a dog\", #{ steps: 2 }).heat(\"cat\") // error: not a word of the prompt")
    .see(&["sample", "record", "heat"])
    .work()
    .bind(move |tr: Trajectory, word: String, o: Opts| heat(&host, &tr, &word, &o));
    r.prop(
        "m.heat_sites",
        "Where a word's heat lies on its object, as measured on this model (`heat` in its scumble.json): names of sites for `record`. \
         Empty where nothing was measured, which means everywhere.",
    )
    .example("load(\"emoji\").heat_sites.len() // => 3")
    .see(&["heat", "record"])
    .bind(|m: Model| sites(&m));
}
