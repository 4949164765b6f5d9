//! What a call will hold in memory, estimated from its arguments, so that the budget refuses it before anything is made.
//!
//! One general rule for all functions, those to come included: a result is about as large as what goes in, with batches
//! made equal; where a model works on pictures, its activations count too. The few functions that make something large
//! from numbers (`resize(20000, 20000)`) are named. An estimate is not exact: it must never be far too small.

use candle_core::Device;
use rhai::{Array, Dynamic, Map};

use super::bind::{Perceptual, Tensor};
use super::options::{Options, Val};
use super::types;
use crate::engine::caption::Captioner;
use crate::engine::detector::Detector;
use crate::engine::frozen::{Depth, Dino};
use crate::engine::image::Picture;
use crate::engine::latent::Latent;
use crate::engine::segment::Segmenter;
use crate::engine::weights::embedding::Embedding;
use crate::engine::weights::model::Model;

/// Values that predicting, encoding and decoding hold at once, per pixel of the picture, roughly (the decoder's last
/// blocks are the largest).
const VALUES: u64 = 200;

/// Bytes of a pixel of a picture on its way: as bytes, as numbers, and once more in another order.
const PIXEL: u64 = 40;

/// Bytes of a pixel of a picture that is shown or saved: three times as bytes, and in the file's own form.
const SHOWN: u64 = 12;

/// Copies of its arguments that a function holds at once, its result included.
const COPIES: u64 = 4;

/// Bytes per pixel of the networks that find edges, at least: three maps of 64 channels, and what they are gathered into.
const EDGES: u64 = 4000;

/// Bytes per pixel and channel of the widest map of such a network.
const CHANNEL: u64 = 64;

/// Bytes of a value that VGG16 makes: of all its maps, and of what becomes of them; more where a graph keeps everything.
const VALUE: u64 = 12;
const VALUE_WITH_GRAPH: u64 = 16;

/// Bytes of a pixel of the masks that are made of one picture.
const MASKS: u64 = 160;

/// Bytes that a call will hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// In main memory.
    pub main: u64,
    /// On the GPU.
    pub gpu: u64,
}

impl Cost {
    /// All of it in one place.
    pub fn on(bytes: u64, gpu: bool) -> Self {
        if gpu { Cost { main: 0, gpu: bytes } } else { Cost { main: bytes, gpu: 0 } }
    }

    fn max(self, other: Cost) -> Self {
        Cost { main: self.main.max(other.main), gpu: self.gpu.max(other.gpu) }
    }
}

/// Bytes that a call of `op` will hold besides its arguments, and where; `work` says that it does more than look something up.
pub fn estimate(op: &str, args: &[Dynamic], work: bool) -> Cost {
    let mut sizes = Sizes::default();
    args.iter().for_each(|a| sizes.add(a));
    let plain = COPIES.saturating_mul(sizes.sum.max(sizes.batch.saturating_mul(sizes.largest)));
    // What one argument has on the GPU takes the others there, but what is shown, saved or listed comes home.
    let home = matches!(op, "grid" | "show" | "save" | "finish" | "list");
    let plain = Cost::on(plain, sizes.on_gpu && !home);
    let special = match op {
        "resize" | "fit" => {
            let side = |i: usize| args.get(i).and_then(whole).unwrap_or(0);
            // Scaling goes over a picture of the old width and the new height.
            let across = picture(sizes.widest, side(2), 1);
            Cost::on(picture(side(1), side(2), sizes.batch).saturating_add(across), false)
        }
        "grid" | "show" | "save" | "finish" => {
            // A cell may be as wide as the widest picture and as high as the highest; only a grid is made numbers again.
            let bytes = if op == "grid" { PIXEL } else { SHOWN };
            let cells = sizes.widest.saturating_mul(sizes.highest).saturating_mul(sizes.pictures);
            Cost::on(cells.saturating_mul(bytes), false)
        }
        "+" | "-" | "*" | "/" => Cost::on(broadcast(args).saturating_mul(COPIES), sizes.on_gpu),
        "heat" => Cost::on(wanted_size(args).map_or(0, |(w, h)| picture(w, h, 1)), false),
        // They name a size or a number of pictures, but make none.
        "schedule" => Cost::default(),
        _ => network_work(op, args, &sizes).unwrap_or_else(|| model_work(args, &sizes, work)),
    };
    plain.max(special)
}

/// A network from the user's own files that looks at pictures. Its widths and sizes are the files' own.
fn network_work(op: &str, args: &[Dynamic], sizes: &Sizes) -> Option<Cost> {
    let network = args.first()?;
    if sizes.pictures == 0 {
        return None;
    }
    let pixels = sizes.widest.saturating_mul(sizes.highest);
    let on = |bytes: u64, device: &Device| Some(Cost::on(bytes, !device.is_cpu()));
    // At its own size, picture by picture.
    if let Some(d) = network.read_lock::<Depth>() {
        return on(d.working(sizes.widest as usize, sizes.highest as usize), d.device());
    }
    if let Some(s) = network.read_lock::<Segmenter>() {
        let masks = pixels.saturating_mul(MASKS);
        let cost = on(s.working().saturating_add(masks), s.device())?;
        return Some(cost.max(Cost::on(masks, false)));
    }
    // The widest maps of the finest level, picture by picture.
    if let Some(e) = network.read_lock::<Detector>() {
        let each = EDGES.max(e.widest().saturating_mul(CHANNEL));
        return on(pixels.saturating_mul(each), e.device());
    }
    if let Some(d) = network.read_lock::<Dino>() {
        return on(d.working().saturating_mul(sizes.batch), d.device());
    }
    if let Some(c) = network.read_lock::<Captioner>() {
        return on(c.working(), c.device());
    }
    let p = network.read_lock::<Perceptual>()?;
    let value = if sizes.graph { VALUE_WITH_GRAPH } else { VALUE };
    let (pixels, each) = match p.vgg() {
        None => (pixels, VALUES * 4),
        Some(net) if op == "lpips" => (pixels, net.values().saturating_mul(value)),
        Some(net) => (net.side().pow(2), net.values().saturating_mul(value)),
    };
    on(pixels.saturating_mul(sizes.pictures).saturating_mul(each), p.device())
}

/// Bytes of what two tensors become together: sizes of 1 are repeated.
fn broadcast(args: &[Dynamic]) -> u64 {
    let [a, b] = args else { return 0 };
    let (Some(a), Some(b)) = (a.read_lock::<Tensor>(), b.read_lock::<Tensor>()) else { return 0 };
    let (a, b) = (a.0.dims(), b.0.dims());
    let rank = a.len().max(b.len());
    let side = |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |i| dims[i] as u64);
    (0..rank).fold(8, |n: u64, i| n.saturating_mul(side(a, i).max(side(b, i))))
}

/// Bytes of `n` pictures of a size while they are read or made.
pub fn picture(w: u64, h: u64, n: u64) -> u64 {
    w.saturating_mul(h).saturating_mul(n).saturating_mul(PIXEL)
}

/// A model that works on pictures or latents, or makes some of a given size.
fn model_work(args: &[Dynamic], sizes: &Sizes, work: bool) -> Cost {
    let Some(model) = args.first().and_then(|a| a.read_lock::<Model>()) else { return Cost::default() };
    let (asked_size, asked_n) = (wanted_size(args), wanted_n(args));
    let pictures = sizes.batch > 0;
    if !work && !pictures && asked_size.is_none() && asked_n.is_none() {
        return Cost::default();
    }
    let own = (model.size() as u64, model.size() as u64);
    let factor = model.factor() as u64;
    let (w, h) = match asked_size.or((!pictures).then_some(own)) {
        Some(size) => size,
        // A picture is brought to the model's size; a latent has its own.
        None => (
            sizes.latent_w.saturating_mul(factor).max(own.0),
            sizes.latent_h.saturating_mul(factor).max(own.1),
        ),
    };
    let n = asked_n.unwrap_or(1).max(sizes.batch);
    let bytes = w.saturating_mul(h).saturating_mul(n).saturating_mul(VALUES * 4);
    if model.device().is_cpu() {
        return Cost::on(bytes, false);
    }
    // Noise is made in main memory, and pictures lie there.
    Cost { main: picture(w, h, n), gpu: bytes }
}

/// What the arguments hold.
#[derive(Default)]
struct Sizes {
    /// Bytes in all.
    sum: u64,
    /// Bytes of the largest single picture or latent.
    largest: u64,
    /// The largest number of pictures in one value.
    batch: u64,
    /// Pictures in all.
    pictures: u64,
    widest: u64,
    highest: u64,
    latent_w: u64,
    latent_h: u64,
    /// Whether any of it lies on a GPU.
    on_gpu: bool,
    /// Whether any picture has the graph of a gradient.
    graph: bool,
}

impl Sizes {
    fn add(&mut self, value: &Dynamic) {
        if let Some(list) = value.read_lock::<Array>() {
            list.iter().for_each(|v| self.add(v));
        } else if let Some(map) = value.read_lock::<Map>() {
            map.values().for_each(|v| self.add(v));
        } else if let Some(z) = value.read_lock::<Latent>() {
            let (n, _, h, w) = z.dims();
            self.batch(n as u64, z.bytes() as u64);
            self.lies(z.tensor());
            self.latent_w = self.latent_w.max(w as u64);
            self.latent_h = self.latent_h.max(h as u64);
        } else if let Some(p) = value.read_lock::<Picture>() {
            let bytes = p.tensor().elem_count() * p.tensor().dtype().size_in_bytes();
            self.batch(p.n() as u64, bytes as u64);
            self.pictures += p.n() as u64;
            self.widest = self.widest.max(p.width() as u64);
            self.highest = self.highest.max(p.height() as u64);
            self.lies(p.tensor());
            self.graph |= p.tensor().track_op();
        } else if !is_network(value) {
            // Text, numbers, embeddings.
            self.sum = self.sum.saturating_add(types::bytes(value) as u64);
            if let Some(t) = value.read_lock::<Tensor>() {
                self.lies(&t.0);
            } else if let Some(e) = value.read_lock::<Embedding>() {
                self.lies(e.states());
            }
        }
    }

    fn lies(&mut self, values: &candle_core::Tensor) {
        self.on_gpu |= !values.device().is_cpu();
    }

    fn batch(&mut self, n: u64, bytes: u64) {
        self.sum = self.sum.saturating_add(bytes);
        self.batch = self.batch.max(n);
        self.largest = self.largest.max(bytes / n.max(1));
    }
}

/// Weights are not copied by those who work with them.
fn is_network(value: &Dynamic) -> bool {
    let helper = || value.read_lock::<Depth>().is_some() || value.read_lock::<Dino>().is_some();
    let maps = || value.read_lock::<Segmenter>().is_some() || value.read_lock::<Detector>().is_some();
    let eyes = || value.read_lock::<Captioner>().is_some() || value.read_lock::<Perceptual>().is_some();
    value.read_lock::<Model>().is_some() || helper() || maps() || eyes()
}

fn whole(value: &Dynamic) -> Option<u64> {
    let x = value.as_float().ok().or_else(|| value.as_int().ok().map(|i| i as f64))?;
    Some(x.max(0.0) as u64)
}

/// The value of an option, from a map of options or a recipe's.
fn asked(args: &[Dynamic], name: &str) -> Option<Dynamic> {
    args.iter().rev().find_map(|a| {
        if let Some(map) = a.read_lock::<Map>() {
            return map.get(name).filter(|v| !v.is_unit()).cloned();
        }
        a.read_lock::<Options>()?.0.get(name).map(Val::to_dynamic)
    })
}

fn wanted_n(args: &[Dynamic]) -> Option<u64> {
    whole(&asked(args, "n")?)
}

/// The size asked for; 0 stands for the model's own and is none.
fn wanted_size(args: &[Dynamic]) -> Option<(u64, u64)> {
    let value = asked(args, "size")?;
    let (w, h) = match value.read_lock::<Array>() {
        Some(list) => (list.first().and_then(whole)?, list.get(1).and_then(whole)?),
        None => (whole(&value)?, whole(&value)?),
    };
    (w > 0 || h > 0).then_some((w, h))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::nets::vgg::Vgg16;
    use crate::engine::weights::Weights;

    fn latent(n: usize, side: usize) -> Dynamic {
        let t = candle_core::Tensor::zeros(
            (n, 4, side, side),
            candle_core::DType::F32,
            &candle_core::Device::Cpu,
        );
        Dynamic::from(Latent::new(t.unwrap()).unwrap())
    }

    fn options(pairs: &[(&str, Dynamic)]) -> Dynamic {
        Dynamic::from_map(pairs.iter().map(|(k, v)| ((*k).into(), v.clone())).collect())
    }

    #[test]
    fn batches_are_made_equal() {
        let one_large = 4 * 256 * 256 * 4;
        let estimate = estimate("anything", &[latent(1, 256), latent(1000, 1)], true);
        assert!(estimate.main >= 1000 * one_large && estimate.gpu == 0, "{estimate:?}");
        assert_eq!(super::estimate("anything", &[1_i64.into(), "a".into()], true).main, 4);
    }

    #[test]
    fn a_column_times_a_row_is_a_table() {
        let side = |shape: (usize, usize)| {
            let t = candle_core::Tensor::zeros(shape, candle_core::DType::F32, &candle_core::Device::Cpu);
            Dynamic::from(Tensor(t.unwrap()))
        };
        let (column, row) = (side((30_000, 1)), side((1, 30_000)));
        assert!(estimate("*", &[column.clone(), row], false).main >= 30_000 * 30_000 * 4);
        assert!(estimate("*", &[column.clone(), column], false).main < 30_000 * 4 * 16);
    }

    #[test]
    fn sizes_that_are_asked_for_count() {
        let picture = Picture::from_rgb(&image::RgbImage::new(8, 8), &candle_core::Device::Cpu).unwrap();
        let p = Dynamic::from(picture);
        let estimate = |op: &str, args: &[Dynamic]| super::estimate(op, args, true).main;
        assert!(estimate("resize", &[p.clone(), 16_000_i64.into(), 16_000_i64.into()]) > 3 << 30);
        assert_eq!(estimate("resize", &[p.clone(), i64::MIN.into(), f64::NAN.into()]), 8 * 8 * 3 * 4 * 4);
        let list = Dynamic::from_array(vec![p; 5000]);
        assert!(estimate("grid", &[list]) > 5000 * 8 * 8 * 12);
        let huge = options(&[("size", Dynamic::from_array(vec![1e18.into(), 1e18.into()]))]);
        assert_eq!(estimate("heat", &[huge]), u64::MAX);
    }

    /// VGG16 with a first slice of another width: the estimate follows the file's own, and both pictures count.
    #[test]
    fn networks_are_estimated_by_their_own_widths() {
        let vgg = |first: usize| {
            let mut all = std::collections::HashMap::new();
            let mut from = 3;
            for i in [0, 2, 5, 7, 10, 12, 14, 17, 19, 21] {
                let to = if i < 5 { first } else { 8 };
                let zeros = |dims: &[usize]| {
                    candle_core::Tensor::zeros(dims, candle_core::DType::F32, &Device::Cpu).unwrap()
                };
                all.insert(format!("features.{i}.weight"), zeros(&[to, from, 3, 3]));
                all.insert(format!("features.{i}.bias"), zeros(&[to]));
                from = to;
            }
            Vgg16::new(&Weights::new(all, "test").scope()).unwrap()
        };
        let p = || {
            let picture = image::RgbImage::new(100, 50);
            Dynamic::from(Picture::from_rgb(&picture, &Device::Cpu).unwrap())
        };
        let cost = |net: Vgg16| {
            let net = Dynamic::from(Perceptual::Vgg(std::sync::Arc::new(net)));
            let two = estimate("lpips", &[net.clone(), p(), p()], true).main;
            (two, estimate("features", &[net, p()], true).main)
        };
        let (narrow, wide) = (cost(vgg(8)), cost(vgg(64)));
        // Two maps of the pictures' own size, of so many channels each.
        let two_maps = |pixels: u64, channels: u64| pixels * channels * 2 * 4;
        assert!(narrow.0 > two_maps(2 * 100 * 50, 8) && wide.0 > two_maps(2 * 100 * 50, 64), "{narrow:?}");
        assert!(narrow.1 > two_maps(224 * 224, 8) && wide.1 > two_maps(224 * 224, 64), "{wide:?}");
        assert!(wide.0 > 4 * narrow.0, "{wide:?} {narrow:?}");
    }
}
