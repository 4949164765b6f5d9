//! Changed models, and models that share latents.

use crate::engine::error::Error;
use crate::engine::weights::lora_file::Lora;
use crate::engine::weights::model::Model;
use crate::script::args::Opts;
use crate::script::registry::Registry;

/// Binds them.
pub fn register(r: &mut Registry) {
    let host = r.host();
    r.def(
        "m.with_lora(name)",
        "A new model with a LoRA merged into its weights; `m` stays as it is. The LoRA is a .safetensors file in diffusers' or \
         kohya's naming, a folder with pytorch_lora_weights.safetensors, or `emoji/expert-ink`, which comes with scumble and \
         draws plain captions in ink.",
    )
    .option("scale", "number", "how much of it; 1")
    .example("load(\"emoji\").with_lora(\"emoji/expert-ink\", #{ scale: 0.5 }).name // => \"emoji/expert-ink\"")
    .example(
        "let m = load(\"emoji\");\nlet ink = m.with_lora(\"emoji/expert-ink\");\nlet text = m.encode(\"a dog\");\nlet z = m.noise(0);\n\
         distance(ink.predict(z, 500, text), m.predict(z, 500, text)) > 0.1 // => true",
    )
    .example("load(\"emoji\").with_lora(\"emoji/expert-oil\") // error: there is no LoRA")
    .see(&["load", "same_latents"])
    .work()
    .bind(move |m: Model, name: String, o: Opts| {
        let path = std::path::Path::new(&name);
        if path.exists() {
            let policy = host.policy.borrow();
            if path.is_dir() { policy.readable_tree("with_lora", path)? } else { policy.readable("with_lora", path)? };
        }
        let lora = Lora::find(&name)?.ok_or_else(|| {
            Error::missing("with_lora", format!("there is no LoRA \"{name}\""))
                .expected("a .safetensors file, a folder with pytorch_lora_weights.safetensors, or emoji/expert-ink")
        })?;
        m.with_lora(&lora, &name, o.or("scale", 1.0)?)
    });
    r.def(
        "m.same_latents(other)",
        "Makes sure that latents mean the same in two models: channels, sizes, noise levels, and the latent of a test picture. \
         An error says what differs. The text encoders may differ: each model encodes prompts of its own.",
    )
    .example("load(\"emoji\").same_latents(load(\"emoji/expert-ink\"));")
    .see(&["load", "with_lora"])
    .work()
    .bind(|m: Model, other: Model| m.same_latents(&other));
}
