//! Edges of pictures: Sobel's gradient and Canny's thin lines, and the light and its opposite, for maps that guide sampling.
//!
//! Written here rather than taken from a crate: the two are some hundred lines, and the crates that have them bring linear
//! algebra and font drawing with them.

use candle_core::{DType, Tensor};

use super::error::{Error, Result};
use super::image::{Picture, no_gradient};

/// How edges are found. Thresholds are shares of the steepest slope that a picture can have (black beside white, along an
/// axis).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum How {
    /// The length of Sobel's gradient, 0..1; what lies below the threshold is black.
    Sobel {
        /// 0 keeps all.
        threshold: f64,
    },
    /// Canny 1986: the ridges of the gradient that are above `high`, and those above `low` that touch one.
    Canny {
        /// Gaussian smoothing before, in pixels; 0 = none.
        sigma: f64,
        /// Where a line may go on.
        low: f64,
        /// Where a line may begin.
        high: f64,
    },
}

/// Widest smoothing, pixels.
const MAX_SIGMA: f64 = 50.0;

impl How {
    /// Errors: a threshold outside 0..1, `low` above `high`, a smoothing outside 0..50.
    pub fn checked(self) -> Result<Self> {
        let share = |name: &str, x: f64| {
            if (0.0..=1.0).contains(&x) {
                return Ok(());
            }
            Err(Error::value("edges", format!("{name} is out of range"))
                .expected("0 to 1")
                .got(x.to_string()))
        };
        match self {
            How::Sobel { threshold } => share("threshold", threshold)?,
            How::Canny { sigma, low, high } => {
                share("low", low)?;
                share("high", high)?;
                if low > high {
                    return Err(
                        Error::value("edges", "low must not lie above high").got(format!("{low} and {high}"))
                    );
                }
                if !(0.0..=MAX_SIGMA).contains(&sigma) {
                    return Err(Error::value("edges", "sigma is out of range")
                        .expected(format!("0 to {MAX_SIGMA} pixels"))
                        .got(sigma.to_string()));
                }
            }
        }
        Ok(self)
    }
}

/// One channel of one picture.
struct Plane {
    values: Vec<f32>,
    w: usize,
    h: usize,
}

impl Plane {
    /// The value at a place; outside, that of the nearest pixel.
    fn at(&self, x: isize, y: isize) -> f32 {
        let inside = |v: isize, n: usize| v.clamp(0, n as isize - 1) as usize;
        self.values.get(inside(y, self.h) * self.w + inside(x, self.w)).copied().unwrap_or(0.0)
    }

    fn map(&self, f: impl Fn(&Plane, isize, isize) -> f32) -> Plane {
        let places = (0..self.h as isize).flat_map(|y| (0..self.w as isize).map(move |x| (x, y)));
        Plane { values: places.map(|(x, y)| f(self, x, y)).collect(), w: self.w, h: self.h }
    }

    fn blurred(&self, sigma: f64) -> Plane {
        if sigma <= 0.0 {
            return Plane { values: self.values.clone(), ..*self };
        }
        let radius = (3.0 * sigma).ceil() as isize;
        let weight = |d: isize| (-((d * d) as f64) / (2.0 * sigma * sigma)).exp();
        let total: f64 = (-radius..=radius).map(weight).sum();
        let kernel: Vec<(isize, f32)> = (-radius..=radius).map(|d| (d, (weight(d) / total) as f32)).collect();
        let across = self.map(|p, x, y| kernel.iter().map(|(d, k)| k * p.at(x + d, y)).sum());
        across.map(|p, x, y| kernel.iter().map(|(d, k)| k * p.at(x, y + d)).sum())
    }

    /// Sobel's slopes to the right and down; 1 is black beside white.
    fn slopes(&self) -> (Plane, Plane) {
        let side = |p: &Plane, x: isize, y: isize, (dx, dy): (isize, isize)| {
            // Along (dx, dy), smoothed across it.
            let row =
                |o: isize| p.at(x + dx * o + dy, y + dy * o + dx) + p.at(x + dx * o - dy, y + dy * o - dx);
            (row(1) + 2.0 * p.at(x + dx, y + dy) - row(-1) - 2.0 * p.at(x - dx, y - dy)) / 4.0
        };
        (self.map(|p, x, y| side(p, x, y, (1, 0))), self.map(|p, x, y| side(p, x, y, (0, 1))))
    }

    fn edges(&self, how: How) -> Plane {
        let (sigma, low) = match how {
            How::Sobel { threshold } => (0.0, threshold),
            How::Canny { sigma, low, .. } => (sigma, low),
        };
        let (dx, dy) = self.blurred(sigma).slopes();
        let steep = dx.map(|p, x, y| p.at(x, y).hypot(dy.at(x, y)));
        let How::Canny { high, .. } = how else {
            return steep.map(|p, x, y| if f64::from(p.at(x, y)) < low { 0.0 } else { p.at(x, y).min(1.0) });
        };
        // A ridge: no smaller than its neighbours uphill and downhill (equal ones count once).
        let ridges = steep.map(|p, x, y| {
            let (gx, gy, here) = (dx.at(x, y), dy.at(x, y), p.at(x, y));
            // Always forward, whichever way is uphill: of a plateau of equal values the first counts, also on a thin line.
            let slant = if (gx < 0.0) == (gy < 0.0) { 1 } else { -1 };
            // Eighths of a circle: tan 22.5°.
            const TAN: f32 = 0.414_213_56;
            let (ox, oy) = match (gx.abs(), gy.abs()) {
                (a, b) if b < a * TAN => (1, 0),
                (a, b) if a < b * TAN => (0, 1),
                _ => (1, slant),
            };
            if here > 0.0 && here > p.at(x - ox, y - oy) && here >= p.at(x + ox, y + oy) { here } else { 0.0 }
        });
        ridges.followed(low as f32, high as f32)
    }

    /// 1 where a ridge is above `high`, or above `low` and joined to such a one.
    fn followed(&self, low: f32, high: f32) -> Plane {
        let mut out = vec![0.0f32; self.values.len()];
        let mut open: Vec<usize> = Vec::new();
        for (i, v) in self.values.iter().enumerate() {
            if *v > 0.0 && *v >= high {
                open.push(i);
            }
        }
        while let Some(i) = open.pop() {
            match out.get_mut(i) {
                Some(o) if *o == 0.0 => *o = 1.0,
                _ => continue,
            }
            let (x, y) = (i % self.w, i / self.w);
            for ny in y.saturating_sub(1)..=(y + 1).min(self.h - 1) {
                for nx in x.saturating_sub(1)..=(x + 1).min(self.w - 1) {
                    let n = ny * self.w + nx;
                    if self.values.get(n).is_some_and(|v| *v > 0.0 && *v >= low) {
                        open.push(n);
                    }
                }
            }
        }
        Plane { values: out, ..*self }
    }
}

/// The light of every pixel, as three equal channels (Rec. 601: 0.299 red, 0.587 green, 0.114 blue). Has a gradient.
pub fn luminance(picture: &Picture) -> Result<Picture> {
    let weights = Tensor::new(&[0.299f32, 0.587, 0.114], picture.tensor().device())?.reshape((1, 3, 1, 1))?;
    let gray = picture.tensor().to_dtype(DType::F32)?.broadcast_mul(&weights)?.sum_keepdim(1)?;
    Picture::from_tensor(gray.repeat((1, 3, 1, 1))?)
}

/// White where it was black. Has a gradient.
pub fn invert(picture: &Picture) -> Result<Picture> {
    Picture::from_tensor(picture.tensor().affine(-1.0, 1.0)?)
}

/// Left and right exchanged. Has a gradient.
pub fn flip(picture: &Picture) -> Result<Picture> {
    let w = picture.width() as u32;
    let order = Tensor::from_vec((0..w).rev().collect(), w as usize, picture.tensor().device())?;
    Picture::from_tensor(picture.tensor().contiguous()?.index_select(&order, 3)?)
}

/// Edges of every picture, of its light: white on black. Not tracked. Errors: bad thresholds; a picture with a graph.
pub fn edges(picture: &Picture, how: How) -> Result<Picture> {
    let how = how.checked()?;
    if picture.tensor().track_op() {
        return Err(no_gradient("edges"));
    }
    let (n, w, h) = (picture.n(), picture.width(), picture.height());
    let light = luminance(picture)?.tensor().narrow(1, 0, 1)?.flatten_all()?.to_vec1::<f32>()?;
    let mut all = Vec::with_capacity(light.len());
    for values in light.chunks(w * h) {
        all.extend(Plane { values: values.to_vec(), w, h }.edges(how).values);
    }
    let one = Tensor::from_vec(all, (n, 1, h, w), picture.tensor().device())?;
    Picture::from_tensor(one.repeat((1, 3, 1, 1))?)
}

/// How well the white of two pictures agrees: the harmonic mean (F1) of the shares of either one's white pixels that have one of
/// the other's at most `tolerance` pixels away, along either axis. 1: the same; 0: nothing in common, or one is black.
/// Errors: sizes that differ, several pictures.
pub fn overlap(a: &Picture, b: &Picture, tolerance: usize) -> Result<f64> {
    if a.tensor().dims() != b.tensor().dims() || a.n() != 1 {
        return Err(Error::shape("overlap", "the two must be one picture each, of one size")
            .expected(format!("{:?}", a.tensor().dims()))
            .got(format!("{:?}", b.tensor().dims())));
    }
    let (w, h) = (a.width(), a.height());
    let white = |p: &Picture| -> Result<Vec<bool>> {
        let light = luminance(p)?.tensor().narrow(1, 0, 1)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(light.into_iter().map(|v| v > 0.5).collect())
    };
    let (a, b) = (white(a)?, white(b)?);
    let share = |of: &[bool], among: &[bool]| {
        let near = |i: usize| {
            let (x, y) = (i % w, i / w);
            let rows = y.saturating_sub(tolerance)..=y.saturating_add(tolerance).min(h - 1);
            rows.into_iter().any(|ny| {
                let from = ny * w + x.saturating_sub(tolerance);
                let to = ny * w + x.saturating_add(tolerance).min(w - 1);
                among.get(from..=to).is_some_and(|r| r.contains(&true))
            })
        };
        let all: Vec<usize> = of.iter().enumerate().filter(|(_, v)| **v).map(|(i, _)| i).collect();
        if all.is_empty() { 0.0 } else { all.iter().filter(|i| near(**i)).count() as f64 / all.len() as f64 }
    };
    let (p, r) = (share(&a, &b), share(&b, &a));
    Ok(if p + r == 0.0 { 0.0 } else { 2.0 * p * r / (p + r) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Black left of the middle, white right of it.
    fn halves(w: usize, h: usize) -> Picture {
        let row: Vec<f32> = (0..w).map(|x| if x < w / 2 { 0.0 } else { 1.0 }).collect();
        let t = Tensor::from_vec(row, (1, 1, 1, w), &Device::Cpu).unwrap();
        Picture::from_tensor(t.repeat((2, 3, h, 1)).unwrap()).unwrap()
    }

    fn row(p: &Picture, y: usize) -> Vec<f32> {
        p.tensor().get(1).unwrap().get(0).unwrap().get(y).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn canny_draws_one_thin_line_where_black_meets_white() {
        for sigma in [0.0, 1.0] {
            let e = edges(&halves(12, 7), How::Canny { sigma, low: 0.1, high: 0.2 }).unwrap();
            for y in 0..7 {
                assert_eq!(row(&e, y).iter().sum::<f32>(), 1.0, "sigma {sigma} row {y}");
            }
        }
        let turned =
            Picture::from_tensor(halves(12, 12).tensor().transpose(2, 3).unwrap().contiguous().unwrap());
        let e = edges(&turned.unwrap(), How::Canny { sigma: 1.0, low: 0.1, high: 0.2 }).unwrap();
        let lines = (0..12).filter(|y| row(&e, *y) == [1.0; 12]).count();
        assert_eq!(lines, 1);
    }

    /// Two equal gray columns have four equal slopes: the line must not vanish.
    #[test]
    fn a_thin_line_is_found_though_its_slopes_are_equal() {
        let row = [1.0, 1.0, 1.0, 0.2, 0.2, 1.0, 1.0, 1.0];
        let p = Plane { values: row.repeat(5), w: 8, h: 5 };
        let found = p.edges(How::Canny { sigma: 0.0, low: 0.1, high: 0.2 }).values;
        assert_eq!(found[16..24].iter().sum::<f32>(), 1.0, "{found:?}");
    }

    #[test]
    fn sobel_is_one_where_black_meets_white() {
        let e = edges(&halves(6, 4), How::Sobel { threshold: 0.0 }).unwrap();
        assert_eq!(row(&e, 2), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn weak_lines_stay_only_where_they_touch_a_strong_one() {
        let values = vec![0.0, 0.5, 0.2, 0.2, 0.0, 0.2];
        let p = Plane { values, w: 6, h: 1 };
        assert_eq!(p.followed(0.1, 0.4).values, [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn thresholds_are_checked() {
        let p = halves(4, 4);
        assert!(edges(&p, How::Canny { sigma: 1.0, low: 0.3, high: 0.2 }).is_err());
        assert!(edges(&p, How::Canny { sigma: f64::NAN, low: 0.1, high: 0.2 }).is_err());
        assert!(edges(&p, How::Sobel { threshold: 2.0 }).is_err());
    }
}
