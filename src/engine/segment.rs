//! Masks: SAM (Kirillov and others 2023, arXiv 2304.02643) from the user's own transformers folder.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor, TensorId};
use image::imageops::{self, FilterType};

use super::error::{Error, Result};
use super::frozen::{Pixels, check_kind, open};
use super::image::{Picture, no_gradient};
use super::nets::sam::{Corners, Point, Sam};
use super::observe::Cancel;
use super::ops;

/// Most points of one call.
const MOST_POINTS: usize = 1000;

/// A mask and the overlap (IoU) with the truth that the network expects of it, about 0..1.
#[derive(Clone, Debug)]
pub struct Mask {
    /// White inside, black outside, of the picture's size.
    pub picture: Picture,
    /// The expected overlap.
    pub score: f64,
}

/// The segmenter. Remembers what it saw in the last picture: other points on it cost little.
#[derive(Clone)]
pub struct Segmenter(Arc<Inner>);

struct Inner {
    net: Sam,
    pixels: Pixels,
    device: Device,
    bytes: usize,
    /// By the picture's tensor, which never changes.
    last: Mutex<Option<(TensorId, Tensor)>>,
}

impl fmt::Debug for Segmenter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Segmenter").field(&self.side()).finish()
    }
}

impl Segmenter {
    /// From a transformers folder (`facebook/sam-vit-base`). Errors: another kind of model, names or shapes that do not fit.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let (weights, json, pixels) = open("load_segmenter", path, device)?;
        check_kind("load_segmenter", &json, "sam")?;
        let net = Sam::new(&weights.scope(), &json)?;
        Ok(Segmenter(Arc::new(Inner {
            net,
            pixels: Pixels::parse(&pixels),
            device: device.clone(),
            bytes: weights.bytes(),
            last: Mutex::default(),
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

    /// Side of what the network sees, in pixels: the longer side of a picture is brought to it.
    pub fn side(&self) -> usize {
        self.0.net.side()
    }

    /// Bytes that a call holds at once, roughly.
    pub fn working(&self) -> u64 {
        self.0.net.working()
    }

    /// The four masks of one picture for points and a box, in its pixels: the single answer, then a part, more, and the whole.
    /// Errors: several pictures, one with a graph, a place outside of it, neither point nor box; a stop.
    pub fn masks(
        &self,
        picture: &Picture,
        points: &[Point],
        corners: Option<Corners>,
        cancel: &Cancel,
    ) -> Result<Vec<Mask>> {
        let (w, h) = (picture.width(), picture.height());
        check_places(w, h, points, corners)?;
        if picture.tensor().track_op() {
            return Err(no_gradient("segment"));
        }
        if picture.n() != 1 {
            return Err(Error::value("segment", "one picture at a time")
                .expected("1 picture")
                .got(picture.n().to_string())
                .hint("picture.pick(0)"));
        }
        let inner = &*self.0;
        let side = inner.net.side();
        let scale = side as f64 / w.max(h) as f64;
        let [columns, rows] = [w, h].map(|s| ((s as f64 * scale + 0.5) as usize).clamp(1, side));
        let seen = self.seen(picture, columns, rows, cancel)?;
        let (across, down) = (columns as f64 / w as f64, rows as f64 / h as f64);
        let points: Vec<Point> =
            points.iter().map(|p| Point { x: p.x * across, y: p.y * down, ..*p }).collect();
        let corners = corners.map(|[a, b, c, d]| [a * across, b * down, c * across, d * down]);
        let masks = inner.net.masks(&seen, &points, corners)?;
        let large = ops::resize_bilinear(&masks.logits.unsqueeze(0)?, side, side)?;
        let large = large.narrow(2, 0, rows)?.narrow(3, 0, columns)?.contiguous()?;
        let large = ops::resize_bilinear(&large, h, w)?.squeeze(0)?.to_device(&Device::Cpu)?;
        let white = large.gt(0.0)?.to_dtype(DType::F32)?;
        let one = |(i, score): (usize, &f32)| -> Result<Mask> {
            let plane = white.narrow(0, i, 1)?;
            let picture = Picture::from_tensor(Tensor::cat(&[&plane, &plane, &plane], 0)?)?;
            Ok(Mask { picture, score: f64::from(*score) })
        };
        masks.scores.iter().enumerate().map(one).collect()
    }

    /// The best of the three masks that may be of parts, by expected overlap; see [`Segmenter::masks`].
    pub fn best(
        &self,
        picture: &Picture,
        points: &[Point],
        corners: Option<Corners>,
        cancel: &Cancel,
    ) -> Result<Mask> {
        let masks = self.masks(picture, points, corners, cancel)?;
        let best = masks.into_iter().skip(1).reduce(|a, b| if b.score > a.score { b } else { a });
        best.ok_or_else(|| Error::new(super::Kind::Internal, "segment", "the network drew no masks"))
    }

    fn seen(&self, picture: &Picture, columns: usize, rows: usize, cancel: &Cancel) -> Result<Tensor> {
        let inner = &*self.0;
        let id = picture.tensor().id();
        let lock = || inner.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, seen)) = lock().as_ref().filter(|(last, _)| *last == id) {
            return Ok(seen.clone());
        }
        // As transformers does: linear, smoothed where it becomes smaller.
        let small = imageops::resize(&picture.to_rgb(0)?, columns as u32, rows as u32, FilterType::Triangle);
        let small = inner.pixels.normalize(Picture::from_rgb(&small, &inner.device)?.tensor())?;
        let side = inner.net.side();
        let pixels = small.pad_with_zeros(2, 0, side - rows)?.pad_with_zeros(3, 0, side - columns)?;
        let seen = inner.net.look(&pixels, cancel)?;
        *lock() = Some((id, seen.clone()));
        Ok(seen)
    }
}

fn check_places(w: usize, h: usize, points: &[Point], corners: Option<Corners>) -> Result<()> {
    let inside = |x: f64, y: f64| (0.0..=w as f64).contains(&x) && (0.0..=h as f64).contains(&y);
    let range = format!("x 0 to {w}, y 0 to {h}");
    if let Some(p) = points.iter().find(|p| !inside(p.x, p.y)) {
        return Err(Error::value("segment", "a point lies outside of the picture")
            .expected(range)
            .got(format!("[{}, {}]", p.x, p.y)));
    }
    if points.len() > MOST_POINTS {
        return Err(Error::value("segment", "there are too many points")
            .expected(format!("at most {MOST_POINTS}"))
            .got(points.len().to_string()));
    }
    match corners {
        Some([a, b, c, d]) if !(inside(a, b) && inside(c, d) && a < c && b < d) => {
            Err(Error::value("segment", "this is no box within the picture")
                .expected(format!("[left, top, right, bottom] with left < right and top < bottom, {range}"))
                .got(format!("[{a}, {b}, {c}, {d}]")))
        }
        None if points.is_empty() => Err(Error::value("segment", "there is neither a point nor a box")
            .expected("a point [x, y] on what is meant, in pixels, or a box")
            .hint("s.segment(picture, [32, 40])")),
        _ => Ok(()),
    }
}
