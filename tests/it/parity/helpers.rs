//! DINOv2 and Depth Anything beside transformers, on small random weights; and what bad folders say.

use candle_core::{DType, Device, Tensor, Var};
use scumble::engine::caption::Captioner;
use scumble::engine::frozen::{Depth, Dino};
use scumble::engine::image::Picture;
use scumble::engine::nets::depth::Depth as DepthNet;
use scumble::engine::nets::dino::{Dino as DinoNet, DinoConfig};
use scumble::engine::observe::Cancel;
use scumble::engine::weights::Weights;
use scumble::engine::weights::read::TensorFile;

use super::{Fixture, close, data, json};

const EXACT: f64 = 1e-5;

fn weights(name: &str) -> Weights {
    let file = TensorFile::open(&data(name).join("model.safetensors")).unwrap();
    Weights::load(&[file], DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn dino_is_that_of_transformers() {
    for name in ["tiny-dino", "tiny-swiglu"] {
        let config = DinoConfig::parse(&json(&format!("{name}/config.json"))).unwrap();
        let all = weights(name);
        let scope = all.scope();
        let net = DinoNet::new(&scope, config).unwrap();
        assert_eq!(
            scope.unused(),
            ["embeddings.mask_token"],
            "{name}: everything is read but the mask of training"
        );
        let fixture = Fixture::open(&format!("{name}/reference.safetensors"));
        for size in ["own", "other"] {
            let ours = net.hidden(fixture.get(size), &[4]).unwrap().remove(0);
            close(&format!("{name} {size}"), &ours, fixture.get(&format!("{size}.hidden")), EXACT);
        }
        // The class token's gradient reaches the pixels.
        let pixels = Var::from_tensor(&fixture.get("own").narrow(0, 0, 1).unwrap()).unwrap();
        let loss = net.features(&pixels).unwrap().sqr().unwrap().sum_all().unwrap();
        let gradient = loss.backward().unwrap().get(&pixels).unwrap().abs().unwrap();
        assert!(gradient.min_all().unwrap().to_scalar::<f32>().unwrap() > 0.0, "{name}");
    }
}

#[test]
fn depth_is_that_of_transformers() {
    let all = weights("tiny-depth");
    let net = DepthNet::new(&all.scope(), &json("tiny-depth/config.json")).unwrap();
    let fixture = Fixture::open("tiny-depth/reference.safetensors");
    let ours = net.forward(fixture.get("pixels")).unwrap().squeeze(1).unwrap();
    close("depth", &ours, fixture.get("depth"), EXACT);
    assert!(!net.is_metric());
}

#[test]
fn a_picture_has_a_depth_and_a_likeness() {
    let dog = Picture::open(&data("../../../models/emoji/pictures/dog-flat.png"), &Device::Cpu).unwrap();
    let cat = Picture::open(&data("../../../models/emoji/pictures/cat-flat.png"), &Device::Cpu).unwrap();
    let dino = Dino::load(&data("tiny-dino"), &Device::Cpu).unwrap();
    let (same, other) = (dino.similarity(&dog, &dog).unwrap()[0], dino.similarity(&dog, &cat).unwrap()[0]);
    assert!((same - 1.0).abs() < 1e-5 && other < 0.9999, "{same} {other}");
    let depth = Depth::load(&data("tiny-depth"), &Device::Cpu).unwrap();
    assert_eq!(depth.map(&dog).unwrap().dims(), [1, 1, 64, 64]);
    let shown = depth.picture(&dog).unwrap();
    let (low, high) = (shown.tensor().min_all().unwrap(), shown.tensor().max_all().unwrap());
    assert_eq!((low.to_scalar::<f32>().unwrap(), high.to_scalar::<f32>().unwrap()), (0.0, 1.0));
}

/// The scores of every word, and with them the caption word by word: what is kept between words must be what a whole pass gives.
#[test]
fn captions_are_those_of_transformers() {
    let captioner = Captioner::load(&data("tiny-blip"), &Device::Cpu).unwrap();
    let fixture = Fixture::open("tiny-blip/reference.safetensors");
    let ids = &fixture.ids("ids")[0];
    let states = captioner.states(fixture.get("pixels")).unwrap();
    close("states", &states, fixture.get("states"), EXACT);
    close("scores", &captioner.scores(ids, &states).unwrap(), fixture.get("scores"), EXACT);
    let tokenizer = tokenizers::Tokenizer::from_file(data("tiny-blip/tokenizer.json")).unwrap();
    let made = &fixture.ids("made")[0];
    let end = made.iter().position(|id| *id == 3).unwrap_or(made.len());
    let words = |most| captioner.words(&states, "a picture of", most, &Cancel::default()).unwrap();
    assert!(end > ids.len(), "the caption has words of its own");
    assert_eq!(words(8), tokenizer.decode(&made[1..end], true).unwrap());
    assert!(words(8).starts_with(&words(1)) && words(0) == "a picture of");
    let grey = Picture::from_tensor(Tensor::full(0.5f32, (1, 3, 50, 40), &Device::Cpu).unwrap()).unwrap();
    assert!(captioner.caption(&grey, "", 4, &Cancel::default()).is_ok());
    let error = captioner.caption(&grey, &"dog ".repeat(40), 8, &Cancel::default()).unwrap_err().to_string();
    assert!(error.contains("too many words"), "{error}");
}

#[test]
fn wrong_folders_are_told() {
    let error = Dino::load(&data("tiny-depth"), &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("another kind") && error.contains("depth_anything"), "{error}");
    let error = Depth::load(&data("tiny-dino"), &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("another kind") && error.contains("dinov2"), "{error}");
    assert!(Captioner::load(&data("tiny-dino"), &Device::Cpu).is_err());
    let error = Dino::load(&data("nowhere"), &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("nowhere") && error.contains("no transformers model"), "{error}");
    for (key, value) in
        [("hidden_size", "25"), ("num_hidden_layers", "5"), ("patch_size", "0"), ("image_size", "4")]
    {
        let mut config = json("tiny-dino/config.json");
        config[key] = value.parse::<i64>().unwrap().into();
        let found = DinoConfig::parse(&config).and_then(|c| DinoNet::new(&weights("tiny-dino").scope(), c));
        assert!(found.is_err(), "{key} {value}");
    }
    for (key, value) in [
        ("neck_hidden_sizes", serde_json::json!([6, 8, 12])),
        ("reassemble_factors", serde_json::json!([3.5, 2, 1, 0.5])),
        ("fusion_hidden_size", serde_json::json!(9)),
    ] {
        let mut config = json("tiny-depth/config.json");
        config[key] = value;
        assert!(DepthNet::new(&weights("tiny-depth").scope(), &config).is_err(), "{key}");
    }
    let mut config = json("tiny-depth/config.json");
    config["backbone_config"]["out_indices"] = serde_json::json!([1, 2, 3, 9]);
    assert!(DepthNet::new(&weights("tiny-depth").scope(), &config).is_err());
}
