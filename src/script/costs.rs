//! What a call will hold in memory, estimated from its arguments, so that the budget refuses it before anything is made.
//!
//! One general rule for all functions, those to come included: a result is about as large as what goes in, with batches
//! made equal; where a model works on pictures, its activations count too. The few functions that make something large
//! from numbers (`resize(20000, 20000)`) are named. An estimate is not exact: it must never be far too small.

use rhai::{Array, Dynamic, Map};

use super::bind::Tensor;
use super::options::{Options, Val};
use super::types;
use crate::engine::detector::Detector;
use crate::engine::frozen::Depth;
use crate::engine::image::Picture;
use crate::engine::latent::Latent;
use crate::engine::segment::Segmenter;
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

/// Bytes that the depth network holds at its own size: the large form's widest maps.
const DEPTH: u64 = 600 << 20;

/// Bytes per pixel of the networks that find edges: three maps of 64 channels, and what they are gathered into.
const EDGES: u64 = 4000;

/// Bytes that a call of `op` will hold besides its arguments; `work` says that it does more than look something up.
pub fn estimate(op: &str, args: &[Dynamic], work: bool) -> u64 {
    let mut sizes = Sizes::default();
    args.iter().for_each(|a| sizes.add(a));
    let plain = COPIES.saturating_mul(sizes.sum.max(sizes.batch.saturating_mul(sizes.largest)));
    let special = match op {
        "resize" | "fit" => {
            let side = |i: usize| args.get(i).and_then(whole).unwrap_or(0);
            // Scaling goes over a picture of the old width and the new height.
            let across = picture(sizes.widest, side(2), 1);
            picture(side(1), side(2), sizes.batch).saturating_add(across)
        }
        "grid" | "show" | "save" | "finish" => {
            // A cell may be as wide as the widest picture and as high as the highest; only a grid is made numbers again.
            let bytes = if op == "grid" { PIXEL } else { SHOWN };
            sizes.widest.saturating_mul(sizes.highest).saturating_mul(sizes.pictures).saturating_mul(bytes)
        }
        "+" | "-" | "*" | "/" => broadcast(args).saturating_mul(COPIES),
        "heat" => wanted_size(args).map_or(0, |(w, h)| picture(w, h, 1)),
        // The depth network works at its own size, picture by picture.
        "depth" | "map" if args.first().is_some_and(|a| a.read_lock::<Depth>().is_some()) => DEPTH,
        "segment" | "masks" => {
            args.first().and_then(|a| a.read_lock::<Segmenter>().map(|s| s.working())).unwrap_or(0)
        }
        // The widest maps of the finest level, picture by picture.
        "edges" if args.first().is_some_and(|a| a.read_lock::<Detector>().is_some()) => {
            sizes.widest.saturating_mul(sizes.highest).saturating_mul(EDGES)
        }
        // They name a size or a number of pictures, but make none.
        "schedule" => 0,
        _ => model_work(args, &sizes, work),
    };
    plain.max(special)
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
fn model_work(args: &[Dynamic], sizes: &Sizes, work: bool) -> u64 {
    let Some(model) = args.first().and_then(|a| a.read_lock::<Model>()) else { return 0 };
    let (asked_size, asked_n) = (wanted_size(args), wanted_n(args));
    let pictures = sizes.batch > 0;
    if !work && !pictures && asked_size.is_none() && asked_n.is_none() {
        return 0;
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
    w.saturating_mul(h).saturating_mul(n).saturating_mul(VALUES * 4)
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
            self.latent_w = self.latent_w.max(w as u64);
            self.latent_h = self.latent_h.max(h as u64);
        } else if let Some(p) = value.read_lock::<Picture>() {
            let bytes = p.tensor().elem_count() * p.tensor().dtype().size_in_bytes();
            self.batch(p.n() as u64, bytes as u64);
            self.pictures += p.n() as u64;
            self.widest = self.widest.max(p.width() as u64);
            self.highest = self.highest.max(p.height() as u64);
        } else if value.read_lock::<Model>().is_none() {
            // Text, numbers, embeddings; a model's weights are not copied.
            self.sum = self.sum.saturating_add(types::bytes(value) as u64);
        }
    }

    fn batch(&mut self, n: u64, bytes: u64) {
        self.sum = self.sum.saturating_add(bytes);
        self.batch = self.batch.max(n);
        self.largest = self.largest.max(bytes / n.max(1));
    }
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
        assert!(estimate >= 1000 * one_large, "{estimate}");
        assert_eq!(super::estimate("anything", &[1_i64.into(), "a".into()], true), 4);
    }

    #[test]
    fn a_column_times_a_row_is_a_table() {
        let side = |shape: (usize, usize)| {
            let t = candle_core::Tensor::zeros(shape, candle_core::DType::F32, &candle_core::Device::Cpu);
            Dynamic::from(Tensor(t.unwrap()))
        };
        let (column, row) = (side((30_000, 1)), side((1, 30_000)));
        assert!(estimate("*", &[column.clone(), row], false) >= 30_000 * 30_000 * 4);
        assert!(estimate("*", &[column.clone(), column], false) < 30_000 * 4 * 16);
    }

    #[test]
    fn sizes_that_are_asked_for_count() {
        let picture = Picture::from_rgb(&image::RgbImage::new(8, 8), &candle_core::Device::Cpu).unwrap();
        let p = Dynamic::from(picture);
        assert!(estimate("resize", &[p.clone(), 16_000_i64.into(), 16_000_i64.into()], true) > 3 << 30);
        assert_eq!(
            estimate("resize", &[p.clone(), i64::MIN.into(), f64::NAN.into()], true),
            8 * 8 * 3 * 4 * 4
        );
        let list = Dynamic::from_array(vec![p; 5000]);
        assert!(estimate("grid", &[list], true) > 5000 * 8 * 8 * 12);
        let huge = options(&[("size", Dynamic::from_array(vec![1e18.into(), 1e18.into()]))]);
        assert_eq!(estimate("heat", &[huge], true), u64::MAX);
    }
}
