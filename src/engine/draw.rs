//! Plain shapes on a plain ground: signs, masks and sketches without a file.

use candle_core::{Device, Tensor};

use super::error::{Error, Result};
use super::image::{MAX_SIDE, Picture};

/// Red, green, blue in 0..1.
pub type Color = [f32; 3];

/// What is drawn; coordinates in pixels, from the upper left corner.
#[derive(Clone, Debug)]
pub enum Outline {
    /// A closed polygon, filled by the even-odd rule.
    Polygon(Vec<(f64, f64)>),
    /// A disc: center and radius.
    Circle((f64, f64), f64),
    /// A line through points, with its width.
    Line(Vec<(f64, f64)>, f64),
}

/// A filled outline.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Its outline.
    pub outline: Outline,
    /// Its color.
    pub fill: Color,
}

/// Samples of a pixel on a side: edges are smooth.
const SAMPLES: usize = 4;

/// Names of colors.
const NAMES: [(&str, u32); 14] = [
    ("white", 0xFF_FFFF),
    ("black", 0x00_0000),
    ("gray", 0x80_8080),
    ("red", 0xD6_2828),
    ("orange", 0xF7_7F00),
    ("yellow", 0xFC_CA3F),
    ("green", 0x2A_9D4A),
    ("blue", 0x1D_62C4),
    ("sky", 0x8E_CAE6),
    ("purple", 0x7B_2CBF),
    ("pink", 0xF4_97B6),
    ("brown", 0x8B_5A2B),
    ("beige", 0xE9_D8A6),
    ("turquoise", 0x2E_C4B6),
];

/// A color by name or as `#rrggbb`. Errors: neither.
pub fn color(text: &str) -> Result<Color> {
    let named = NAMES.iter().find(|(name, _)| *name == text).map(|(_, rgb)| *rgb);
    let hex = text.strip_prefix('#').filter(|h| h.len() == 6 && h.is_ascii());
    let rgb = named.or_else(|| hex.and_then(|h| u32::from_str_radix(h, 16).ok())).ok_or_else(|| {
        let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
        Error::value("draw", "there is no such color")
            .expected(format!("#rrggbb, or one of: {}", names.join(" ")))
            .got(format!("\"{text}\""))
    })?;
    Ok([16, 8, 0].map(|shift| ((rgb >> shift) & 255) as f32 / 255.0))
}

impl Outline {
    fn holds(&self, x: f64, y: f64) -> bool {
        match self {
            Outline::Circle((cx, cy), radius) => (x - cx).hypot(y - cy) <= *radius,
            Outline::Line(points, width) => {
                points.windows(2).any(|w| to_segment((x, y), w[0], w[1]) <= width / 2.0)
            }
            Outline::Polygon(points) => {
                let mut inside = false;
                for (i, a) in points.iter().enumerate() {
                    let b = points[(i + 1) % points.len()];
                    if (a.1 > y) != (b.1 > y) && x < (b.0 - a.0) * (y - a.1) / (b.1 - a.1) + a.0 {
                        inside = !inside;
                    }
                }
                inside
            }
        }
    }

    fn check(&self) -> Result<()> {
        let (points, least): (Vec<(f64, f64)>, usize) = match self {
            Outline::Circle(center, radius) => (vec![*center, (*radius, 0.0)], 2),
            Outline::Line(points, width) => ([points.as_slice(), &[(*width, 0.0)]].concat(), 3),
            Outline::Polygon(points) => (points.clone(), 3),
        };
        if points.len() < least || points.len() > 10_000 {
            return Err(Error::value("draw", "a polygon has at least three points, a line two"));
        }
        if points.iter().any(|(x, y)| !x.is_finite() || !y.is_finite()) {
            return Err(Error::value("draw", "coordinates must be finite numbers"));
        }
        Ok(())
    }
}

fn to_segment(p: (f64, f64), a: (f64, f64), b: (f64, f64)) -> f64 {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let length = dx * dx + dy * dy;
    let along =
        if length == 0.0 { 0.0 } else { (((p.0 - a.0) * dx + (p.1 - a.1) * dy) / length).clamp(0.0, 1.0) };
    (p.0 - a.0 - along * dx).hypot(p.1 - a.1 - along * dy)
}

/// A picture of `w` × `h` pixels: the shapes, in order, over the ground.
/// Errors: a size out of range, outlines without enough points, coordinates that are no numbers.
pub fn draw(w: usize, h: usize, ground: Color, shapes: &[Shape]) -> Result<Picture> {
    if w == 0 || h == 0 || w.max(h) > MAX_SIDE as usize / 4 {
        return Err(Error::value("draw", "the size is out of range")
            .expected(format!("1..{} pixels a side", MAX_SIDE / 4))
            .got(format!("{w}x{h}")));
    }
    shapes.iter().try_for_each(|s| s.outline.check())?;
    let mut values = vec![0f32; 3 * w * h];
    let step = 1.0 / SAMPLES as f64;
    for y in 0..h {
        for x in 0..w {
            let mut pixel = ground;
            for shape in shapes {
                let hits = (0..SAMPLES * SAMPLES)
                    .filter(|i| {
                        let at = |base: usize, k: usize| base as f64 + (k as f64 + 0.5) * step;
                        shape.outline.holds(at(x, i % SAMPLES), at(y, i / SAMPLES))
                    })
                    .count();
                let share = hits as f32 / (SAMPLES * SAMPLES) as f32;
                for (old, new) in pixel.iter_mut().zip(shape.fill) {
                    *old = *old * (1.0 - share) + new * share;
                }
            }
            for (c, v) in pixel.into_iter().enumerate() {
                values[(c * h + y) * w + x] = v;
            }
        }
    }
    Picture::from_tensor(Tensor::from_vec(values, (1, 3, h, w), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_right() {
        let mean = |outline: Outline| {
            let shapes = [Shape { outline, fill: [1.0; 3] }];
            let p = draw(64, 64, [0.0; 3], &shapes).unwrap();
            f64::from(p.tensor().mean_all().unwrap().to_scalar::<f32>().unwrap()) * 64.0 * 64.0
        };
        let square = vec![(8.0, 8.0), (40.0, 8.0), (40.0, 40.0), (8.0, 40.0)];
        assert!((mean(Outline::Polygon(square)) - 1024.0).abs() < 1.0);
        assert!((mean(Outline::Circle((32.0, 32.0), 20.0)) - 400.0 * std::f64::consts::PI).abs() < 5.0);
        let line = mean(Outline::Line(vec![(16.0, 32.0), (48.0, 32.0)], 4.0));
        assert!((line - 128.0 - 4.0 * std::f64::consts::PI).abs() < 3.0, "{line}");
        assert!(
            draw(64, 64, [0.0; 3], &[Shape { outline: Outline::Polygon(vec![]), fill: [1.0; 3] }]).is_err()
        );
    }

    #[test]
    fn colors_by_name_and_number() {
        assert_eq!(color("white").unwrap(), [1.0; 3]);
        assert_eq!(color("#ff0000").unwrap(), [1.0, 0.0, 0.0]);
        assert!(color("#ff00").is_err() && color("reddish").is_err() && color("#äö0").is_err());
    }
}
