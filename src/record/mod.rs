//! What made a picture: a [`Record`] travels inside the PNG, as JSON for us and as a line that other tools show.

pub mod png;

use serde_json::{Map, Value, json};

/// Everything needed to make a picture again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// Name of the recipe, or how the code was given ("cell", "-e").
    pub recipe: String,
    /// All options by name, defaults included.
    pub options: Map<String, Value>,
    /// The model's name.
    pub model: String,
    /// The fingerprint of its weight files.
    pub fingerprint: String,
    /// What computed: device, type, threads.
    pub device: String,
    /// The script's own text, if it is not built in.
    pub source: Option<String>,
}

impl Record {
    /// The JSON that is written into the chunk `scumble`.
    pub fn to_json(&self) -> Value {
        let mut json = json!({
            "scumble": env!("CARGO_PKG_VERSION"),
            "recipe": self.recipe,
            "options": self.options,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "device": self.device,
        });
        if let (Some(map), Some(source)) = (json.as_object_mut(), &self.source) {
            map.insert("source".into(), source.clone().into());
        }
        json
    }

    /// Reads the JSON again. `None` if it is not ours.
    pub fn from_json(json: &Value) -> Option<Record> {
        json.get("scumble")?;
        let text = |key: &str| json.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
        Some(Record {
            recipe: text("recipe"),
            options: json.get("options").and_then(Value::as_object).cloned().unwrap_or_default(),
            model: text("model"),
            fingerprint: text("fingerprint"),
            device: text("device"),
            source: json.get("source").and_then(Value::as_str).map(String::from),
        })
    }

    /// The human line under the key `parameters`, in the layout that A1111 and its many readers use.
    pub fn parameters(&self) -> String {
        let text = |keys: &[&str]| {
            keys.iter()
                .find_map(|k| self.options.get(*k))
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_string()
        };
        let mut out = text(&["prompt", "content", "target"]);
        let negative = text(&["negative"]);
        if !negative.is_empty() {
            out.push_str(&format!("\nNegative prompt: {negative}"));
        }
        let mut facts = Vec::new();
        for (key, name) in [
            ("steps", "Steps"),
            ("sampler", "Sampler"),
            ("cfg", "CFG scale"),
            ("seed", "Seed"),
            ("size", "Size"),
            ("strength", "Denoising strength"),
        ] {
            if let Some(value) = self.options.get(key).filter(|v| !v.is_null()) {
                // Readers of this line expect a number; the interval of the guidance stands beside it.
                match value.as_str().filter(|_| key == "cfg").and_then(|v| v.split_once('@')) {
                    Some((scale, range)) => facts.push(format!("{name}: {scale}, CFG interval: {range}")),
                    None => facts.push(format!("{name}: {}", plain(value))),
                }
            }
        }
        // A1111's own word for the second; both only where the picture is another one for it.
        for (key, name, off) in [("reuse", "DeepCache interval", 1.0), ("merge", "Token merging ratio", 0.0)]
        {
            if let Some(x) = self.options.get(key).and_then(Value::as_f64).filter(|x| *x != off) {
                facts.push(format!("{name}: {x}"));
            }
        }
        facts.push(format!("Model: {}", self.model));
        facts.push(format!("Model hash: {}", self.fingerprint.get(..10).unwrap_or(&self.fingerprint)));
        facts.push("RNG: CPU".into());
        facts.push(format!("Recipe: {}", self.recipe));
        facts.push(format!("Version: scumble {}", env!("CARGO_PKG_VERSION")));
        out.push_str(&format!("\n{}", facts.join(", ")));
        out
    }
}

/// A value without quotes, unless it holds what separates the facts.
fn plain(value: &Value) -> String {
    match value {
        Value::String(s) if !s.contains([',', ':', '\n']) => s.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_goes_around() {
        let mut record = Record { recipe: "magicmix".into(), model: "emoji".into(), ..Record::default() };
        record.options.insert("nu".into(), json!(0.8));
        assert_eq!(Record::from_json(&record.to_json()), Some(record));
        assert_eq!(Record::from_json(&json!({"a": 1})), None);
    }

    #[test]
    fn parameters_are_one_block_of_facts() {
        let mut record = Record { recipe: "text2image".into(), model: "emoji".into(), ..Record::default() };
        record.options.insert("prompt".into(), json!("a dog"));
        record.options.insert("negative".into(), json!("a cat"));
        record.options.insert("seed".into(), json!(7));
        let text = record.parameters();
        assert!(text.starts_with("a dog\nNegative prompt: a cat\nSeed: 7, Model: emoji"), "{text}");
    }

    #[test]
    fn what_was_left_out_is_told() {
        let mut record = Record::default();
        for (key, value) in [("cfg", json!("7@0.2..0.8")), ("reuse", json!(3)), ("merge", json!(0.5))] {
            record.options.insert(key.into(), value);
        }
        let told = "CFG scale: 7, CFG interval: 0.2..0.8, DeepCache interval: 3, Token merging ratio: 0.5, ";
        assert!(record.parameters().contains(told), "{}", record.parameters());
        for (key, value) in [("cfg", json!(7.5)), ("reuse", json!(1)), ("merge", json!(0.0))] {
            record.options.insert(key.into(), value);
        }
        let text = record.parameters();
        assert!(text.contains("CFG scale: 7.5, Model") && !text.contains("DeepCache"), "{text}");
    }
}
