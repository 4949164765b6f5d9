//! DINOv2 and Depth Anything beside transformers, on small random weights; and what bad folders say.

use candle_core::{DType, Device, Tensor, Var};
use scumble::engine::caption::Captioner;
use scumble::engine::detector::Detector;
use scumble::engine::frozen::{Depth, Dino};
use scumble::engine::image::Picture;
use scumble::engine::nets::depth::Depth as DepthNet;
use scumble::engine::nets::dino::{Dino as DinoNet, DinoConfig};
use scumble::engine::nets::sam::{Point, Sam};
use scumble::engine::observe::Cancel;
use scumble::engine::segment::Segmenter;
use scumble::engine::weights::Weights;
use scumble::engine::weights::read::TensorFile;
use scumble::script::types::Handle;

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

/// PyTorch's own rounding is 3e-5 of the largest logit here.
const MASKS: f64 = 1e-4;

#[test]
fn masks_are_those_of_transformers() {
    let all = weights("tiny-sam");
    let scope = all.scope();
    let net = Sam::new(&scope, &json("tiny-sam/config.json")).unwrap();
    let left: Vec<String> = scope.unused().into_iter().filter(|n| !n.contains("mask_embed.")).collect();
    assert!(left.is_empty(), "everything is read but what rough masks need: {left:?}");
    let fixture = Fixture::open("tiny-sam/reference.safetensors");
    let seen = net.look(fixture.get("pixels"), &Cancel::default()).unwrap();
    close("seen", &seen, fixture.get("seen"), EXACT);
    let at = |x, y, inside| Point { x, y, inside };
    let corners = Some([5.0, 8.0, 40.0, 61.0]);
    let cases = [
        ("point", vec![at(20.0, 31.5, true)], None),
        ("points", vec![at(20.0, 31.5, true), at(50.0, 4.0, false), at(9.0, 60.0, true)], None),
        ("box", vec![], corners),
        ("both", vec![at(30.0, 30.0, true), at(6.0, 10.0, false)], corners),
    ];
    for (name, points, corners) in cases {
        let masks = net.masks(&seen, &points, corners).unwrap();
        close(name, &masks.logits, fixture.get(name), MASKS);
        let scores = Tensor::new(masks.scores, &Device::Cpu).unwrap();
        close(&format!("{name} scores"), &scores, fixture.get(&format!("{name}.scores")), MASKS);
    }
    let cancel = Cancel::default();
    cancel.set();
    assert!(net.look(fixture.get("pixels"), &cancel).is_err(), "a stop is seen between layers");
}

/// A picture of another shape goes the way of transformers' processor: scaled, filled up, and the mask scaled back.
#[test]
fn a_mask_has_the_pictures_size() {
    let fixture = Fixture::open("tiny-sam/reference.safetensors");
    let picture = Picture::from_tensor(fixture.get("shown").clone()).unwrap();
    let segmenter = Segmenter::load(&data("tiny-sam"), &Device::Cpu).unwrap();
    let cancel = Cancel::default();
    let point = |x, y| [Point { x, y, inside: true }];
    let masks = segmenter.masks(&picture, &point(30.0, 12.0), None, &cancel).unwrap();
    let theirs = fixture.get("shown.logits");
    assert_eq!(masks.len(), 4);
    for (i, mask) in masks.iter().skip(1).enumerate() {
        assert_eq!(mask.picture.tensor().dims(), [1, 3, 40, 56]);
        let ours =
            mask.picture.tensor().narrow(1, 0, 1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let theirs = theirs.get(i).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        // Pixels are scaled by another program's bilinear filter: a border may move by a pixel.
        let apart = ours.iter().zip(&theirs).filter(|(a, b)| (**a > 0.5) != (**b > 0.0)).count();
        assert!(apart * 100 <= ours.len(), "mask {i}: {apart} of {} pixels differ", ours.len());
    }
    let best = segmenter.best(&picture, &point(30.0, 12.0), None, &cancel).unwrap();
    let most = masks.iter().skip(1).map(|m| m.score).fold(f64::MIN, f64::max);
    assert_eq!(best.score, most);
    // The second look at a picture is remembered, a look at another is not: the same either way.
    let other = Picture::from_tensor((fixture.get("shown") * 0.5).unwrap()).unwrap();
    let fresh = || Segmenter::load(&data("tiny-sam"), &Device::Cpu).unwrap();
    let scores = |s: &Segmenter, p: &Picture| -> Vec<f64> {
        s.masks(p, &point(9.0, 9.0), None, &cancel).unwrap().iter().map(|m| m.score).collect()
    };
    assert_eq!(scores(&segmenter, &other), scores(&fresh(), &other));
    assert_eq!(scores(&segmenter, &picture), scores(&fresh(), &picture));
}

#[test]
fn places_outside_of_the_picture_are_told() {
    let picture = Picture::from_tensor(Tensor::full(0.5f32, (1, 3, 40, 56), &Device::Cpu).unwrap()).unwrap();
    let segmenter = Segmenter::load(&data("tiny-sam"), &Device::Cpu).unwrap();
    let why = |points: &[Point], corners| {
        segmenter.masks(&picture, points, corners, &Cancel::default()).unwrap_err().to_string()
    };
    for (x, y) in [(57.0, 3.0), (-1.0, 3.0), (3.0, 40.5), (f64::NAN, 3.0), (f64::INFINITY, 1.0)] {
        let error = why(&[Point { x, y, inside: true }], None);
        assert!(
            error.contains("outside of the picture") && error.contains("x 0 to 56, y 0 to 40"),
            "{error}"
        );
    }
    for corners in
        [[9.0, 9.0, 3.0, 20.0], [0.0, 0.0, 60.0, 20.0], [f64::NAN, 0.0, 5.0, 5.0], [4.0, 4.0, 4.0, 9.0]]
    {
        assert!(why(&[], Some(corners)).contains("no box within"), "{corners:?}");
    }
    assert!(why(&[], None).contains("neither a point nor a box"));
    let two = Picture::from_tensor(Tensor::full(0.5f32, (2, 3, 40, 56), &Device::Cpu).unwrap()).unwrap();
    let point = [Point { x: 1.0, y: 1.0, inside: true }];
    assert!(segmenter.masks(&two, &point, None, &Cancel::default()).is_err());
    let tracked = Var::from_tensor(picture.tensor()).unwrap();
    let tracked = Picture::from_tensor(tracked.as_tensor().clone()).unwrap();
    let error = segmenter.masks(&tracked, &point, None, &Cancel::default()).unwrap_err().to_string();
    assert!(error.contains("has no gradient"), "{error}");
}

#[test]
fn wrong_folders_are_told() {
    let error = Dino::load(&data("tiny-depth"), &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("another kind") && error.contains("depth_anything"), "{error}");
    let error = Depth::load(&data("tiny-dino"), &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("another kind") && error.contains("dinov2"), "{error}");
    assert!(Captioner::load(&data("tiny-dino"), &Device::Cpu).is_err());
    let error = Segmenter::load(&data("tiny-dino"), &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("another kind") && error.contains("dinov2"), "{error}");
    for (part, key, value) in [
        ("vision_config", "hidden_size", 25),
        ("vision_config", "window_size", 4),
        ("vision_config", "patch_size", 7),
        ("vision_config", "num_hidden_layers", 4),
        ("prompt_encoder_config", "hidden_size", 32),
        ("mask_decoder_config", "num_attention_heads", 3),
        ("mask_decoder_config", "num_multimask_outputs", 2),
    ] {
        let mut config = json("tiny-sam/config.json");
        config[part][key] = value.into();
        assert!(Sam::new(&weights("tiny-sam").scope(), &config).is_err(), "{part} {key} {value}");
    }
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

/// A few hundred bytes of config.json that ask for any amount of memory, where no weight says otherwise.
#[test]
fn windows_and_places_of_masks_are_bounded() {
    let all = weights("tiny-sam");
    let with = |values: &[(&str, serde_json::Value)]| {
        let mut config = json("tiny-sam/config.json");
        values.iter().for_each(|(key, value)| config["vision_config"][*key] = value.clone());
        Sam::new(&all.scope(), &config)
    };
    let error = with(&[("use_rel_pos", false.into()), ("window_size", 1_048_575.into())]).unwrap_err();
    assert!(error.message().contains("window_size"), "{error}");
    for (side, patch) in [(1_048_575, 1), (257 * 8, 8)] {
        let values =
            [("use_abs_pos", false.into()), ("patch_size", patch.into()), ("image_size", side.into())];
        let error = with(&values).unwrap_err();
        assert!(error.message().contains("image_size / patch_size"), "{error}");
    }
    // Of eight places, windows of five are filled up to ten.
    let working = |window: i64| {
        with(&[("use_rel_pos", false.into()), ("window_size", window.into())]).unwrap().working()
    };
    assert!(working(5) > working(4) && working(0) == working(8));
    // 64 x 64 colors, and eight times eight states of 24 values.
    assert!(working(4) > 4 * (3 * 64 * 64 + 10 * 8 * 8 * 24), "{}", working(4));
}

#[test]
fn networks_say_what_they_hold() {
    let sum = |name: &str| weights(name).bytes();
    let cpu = &Device::Cpu;
    assert_eq!(Handle::bytes(&Segmenter::load(&data("tiny-sam"), cpu).unwrap()), sum("tiny-sam"));
    assert_eq!(Handle::bytes(&Captioner::load(&data("tiny-blip"), cpu).unwrap()), sum("tiny-blip"));
    let dino = Dino::load(&data("tiny-dino"), cpu).unwrap();
    assert_eq!(Handle::bytes(&dino), sum("tiny-dino"));
    let depth = Depth::load(&data("tiny-depth"), cpu).unwrap();
    assert_eq!(Handle::bytes(&depth), sum("tiny-depth"));
    // A picture that is twice as wide has twice as many patches, up to the largest side.
    assert!(depth.working(2000, 1000) > depth.working(1000, 1000) * 3 / 2);
    assert!(depth.working(usize::MAX, 1) <= depth.working(2048, 1));
    assert!(dino.working() > 224 * 224 * 12);
    let hed = Detector::load(&data("hed.safetensors"), cpu).unwrap();
    assert!(Handle::bytes(&hed) > 0 && hed.widest() > 0);
    let pidinet = Detector::load(&data("pidinet.safetensors"), cpu).unwrap();
    assert!(Handle::bytes(&pidinet) > 0 && pidinet.widest() > 0);
}
