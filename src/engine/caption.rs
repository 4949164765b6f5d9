//! Captions: BLIP (Li and others 2022, arXiv 2201.12086) from the user's own transformers folder, by candle-transformers.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Module, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::blip::{BlipForConditionalGeneration, Config};
use serde_json::{Value, json};

use super::error::{Error, Kind, Result};
use super::frozen::{Pixels, check_kind, open};
use super::image::Picture;
use super::observe::Cancel;

/// Most tokens of a caption.
const MOST: usize = 128;

const WORDS: &str = "text_decoder.bert.embeddings.word_embeddings.weight";
const LAST: &str = "text_decoder.cls.predictions.decoder.weight";

/// The captioner.
#[derive(Clone)]
pub struct Captioner(Arc<Inner>);

struct Inner {
    net: BlipForConditionalGeneration,
    tokenizer: tokenizers::Tokenizer,
    pixels: Pixels,
    side: usize,
    /// Of the picture encoder: places, width, heads, width of the feed-forward part.
    seen: [u64; 4],
    positions: usize,
    first: u32,
    last: u32,
    device: Device,
    bytes: usize,
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(Kind::File, "load_captioner", what.into())
        .hint("a transformers folder: Salesforce/blip-image-captioning-base and its like")
}

/// A part of config.json over transformers' defaults.
fn part(json: &Value, name: &str, mut defaults: Value) -> Value {
    if let (Some(all), Some(given)) = (defaults.as_object_mut(), json.get(name).and_then(Value::as_object)) {
        all.extend(given.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())));
    }
    defaults
}

impl Captioner {
    /// From a transformers folder with tokenizer.json. Errors: another kind of model, names or shapes that do not fit.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let (weights, json, pixels) = open("load_captioner", path, device)?;
        check_kind("load_captioner", &json, "blip")?;
        let text = part(
            &json,
            "text_config",
            json!({"vocab_size": 30524, "hidden_size": 768, "encoder_hidden_size": 768, "intermediate_size": 3072,
                "projection_dim": 768, "num_hidden_layers": 12, "num_attention_heads": 8, "max_position_embeddings": 512,
                "hidden_act": "gelu", "layer_norm_eps": 1e-12, "is_decoder": true, "bos_token_id": 30522, "sep_token_id": 102}),
        );
        let vision = part(
            &json,
            "vision_config",
            json!({"hidden_size": 768, "intermediate_size": 3072, "projection_dim": 512, "num_hidden_layers": 12,
                "num_attention_heads": 12, "image_size": 384, "patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-5}),
        );
        let whole = |from: &Value, key: &str| {
            let value = from.get(key).and_then(Value::as_u64).filter(|v| *v <= 1 << 20);
            value.ok_or_else(|| wrong(format!("{key} must be a whole number")))
        };
        let (side, patch) = (whole(&vision, "image_size")?, whole(&vision, "patch_size")?);
        let heads =
            |from: &Value| Ok::<_, Error>((whole(from, "hidden_size")?, whole(from, "num_attention_heads")?));
        for (width, heads) in [heads(&text)?, heads(&vision)?] {
            if heads == 0 || width % heads != 0 || patch == 0 || side < patch {
                return Err(wrong("sizes that do not divide each other"));
            }
        }
        let wide = |key: &str| whole(&vision, key);
        let seen = [
            (side / patch).pow(2) + 1,
            wide("hidden_size")?,
            wide("num_attention_heads")?,
            wide("intermediate_size")?,
        ];
        let positions = whole(&text, "max_position_embeddings")? as usize;
        let (first, last) = (whole(&text, "bos_token_id")? as u32, whole(&text, "sep_token_id")? as u32);
        let config = json!({"text_config": text, "vision_config": vision, "projection_dim": 512, "image_text_hidden_size": 256});
        let config: Config =
            serde_json::from_value(config).map_err(|e| wrong(format!("config.json: {e}")))?;
        let mut tensors = weights.tensors().clone();
        // Files leave out what is the same as the table of words.
        if let (false, Some(words)) = (tensors.contains_key(LAST), tensors.get(WORDS).cloned()) {
            tensors.insert(LAST.into(), words);
        }
        let vars = VarBuilder::from_tensors(tensors, DType::F32, device);
        let net = BlipForConditionalGeneration::new(&config, vars)
            .map_err(|e| wrong(format!("the weights do not fit config.json: {e}")))?;
        let file = path.join("tokenizer.json");
        let tokenizer =
            tokenizers::Tokenizer::from_file(&file).map_err(|e| wrong(format!("{}: {e}", file.display())))?;
        let own = json!({"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]});
        let pixels = Pixels::parse(if pixels.is_null() { &own } else { &pixels });
        let (side, device, bytes) = (side as usize, device.clone(), weights.bytes());
        Ok(Captioner(Arc::new(Inner {
            net,
            tokenizer,
            pixels,
            side,
            seen,
            positions,
            first,
            last,
            device,
            bytes,
        })))
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Bytes of its weights.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// Bytes that looking at a picture holds at once, roughly: the picture, hidden states, whole matrices of scores.
    pub fn working(&self) -> u64 {
        let [places, width, heads, inner] = self.0.seen;
        let states = places.saturating_mul(16 * width + 4 * inner);
        let scores = places.saturating_mul(places).saturating_mul(3 * heads);
        let picture = (self.0.side as u64).pow(2) * 10;
        states.saturating_add(scores).saturating_add(picture).saturating_mul(4)
    }

    /// What the first picture shows. `begin` are the caption's first words (may be empty), `most` bounds the tokens after them.
    /// The likeliest token at every place. Errors: more words than the decoder has positions, a stop.
    pub fn caption(&self, picture: &Picture, begin: &str, most: usize, cancel: &Cancel) -> Result<String> {
        let inner = &*self.0;
        let seen = picture.index(0)?.resize(inner.side, inner.side)?;
        let pixels = inner.pixels.normalize(&seen.tensor().clamp(0.0, 1.0)?.to_dtype(DType::F32)?)?;
        self.words(&self.states(&pixels.to_device(&inner.device)?)?, begin, most, cancel)
    }

    /// The picture encoder's hidden states: normalized pixels `[1, 3, side, side]` → `[1, 1 + patches, width]`.
    pub fn states(&self, pixels: &Tensor) -> Result<Tensor> {
        Ok(self.0.net.vision_model().forward(pixels)?)
    }

    /// The caption for hidden states of a picture; see [`Captioner::caption`].
    pub fn words(&self, states: &Tensor, begin: &str, most: usize, cancel: &Cancel) -> Result<String> {
        let inner = &*self.0;
        let encoded = inner.tokenizer.encode(begin, false);
        let encoded =
            encoded.map_err(|e| Error::value("caption", format!("the words cannot be read: {e}")))?;
        let mut ids = vec![inner.first];
        ids.extend_from_slice(encoded.get_ids());
        if ids.len() + 1 > inner.positions {
            return Err(Error::value("caption", "the caption begins with too many words")
                .expected(format!("at most {} tokens", inner.positions.saturating_sub(2)))
                .got((ids.len() - 1).to_string()));
        }
        let mut decoder = inner.net.clone();
        let mut fresh = ids.clone();
        for _ in 0..most.min(MOST).min(inner.positions - ids.len()) {
            cancel.check("caption")?;
            let input = Tensor::new(fresh.as_slice(), &inner.device)?.unsqueeze(0)?;
            let scores = decoder.text_decoder().forward(&input, states)?;
            let next = scores.narrow(1, fresh.len() - 1, 1)?.flatten_all()?.argmax(0)?.to_scalar::<u32>()?;
            if next == inner.last {
                break;
            }
            ids.push(next);
            fresh = vec![next];
        }
        let words = inner.tokenizer.decode(ids.get(1..).unwrap_or_default(), true);
        words.map_err(|e| Error::value("caption", format!("the tokens cannot be written: {e}")))
    }

    /// Scores of every token after each of `ids`, `[1, ids, vocabulary]`, for hidden states of a picture.
    pub fn scores(&self, ids: &[u32], states: &Tensor) -> Result<Tensor> {
        let input = Tensor::new(ids, &self.0.device)?.unsqueeze(0)?;
        Ok(self.0.net.clone().text_decoder().forward(&input, states)?)
    }
}
