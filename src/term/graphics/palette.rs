//! A palette that fits a picture, and the picture in its colors, for protocols with few of them.
//!
//! Colors are told apart in Oklab (Ottosson 2020), where equal distances look equally large. The palette starts from boxes
//! that are cut where their variance is largest, as Wu (1991) does, and is refined by a few rounds of k-means. What the
//! nearest color misses is handed on to the neighbors (Floyd and Steinberg 1976).

use std::collections::HashMap;
use std::sync::LazyLock;

use image::RgbImage;

/// Rounds of k-means.
const ROUNDS: usize = 4;
/// How much of the error is handed on: all of it lets single wrong pixels wander far.
const DIFFUSED: f32 = 0.875;
/// How much more a wrong hue counts than a wrong lightness, where colors are few and far apart: brown is to stay brown.
const HUE: f32 = 2.5;

type Lab = [f32; 3];

/// A color of the picture and how many pixels have it, or a small box of colors.
#[derive(Clone, Copy)]
struct Sample {
    lab: Lab,
    weight: f32,
}

/// A picture in at most 256 colors.
pub(super) struct Indexed {
    pub palette: Vec<[u8; 3]>,
    /// For each pixel, row by row, its color.
    pub pixels: Vec<u8>,
}

/// The picture in at most `colors` (2 to 256) colors; exactly, if it has no more.
pub(super) fn indexed(picture: &RgbImage, colors: usize) -> Indexed {
    let colors = colors.clamp(2, 256);
    let mut exact: HashMap<[u8; 3], u8> = HashMap::new();
    for p in picture.pixels() {
        let next = exact.len();
        if next >= colors && !exact.contains_key(&p.0) {
            return fitted(picture, colors);
        }
        exact.entry(p.0).or_insert(next as u8);
    }
    let mut palette = vec![[0; 3]; exact.len()];
    exact.iter().for_each(|(color, i)| palette[usize::from(*i)] = *color);
    let pixels = picture.pixels().map(|p| exact.get(&p.0).copied().unwrap_or_default()).collect();
    Indexed { palette, pixels }
}

fn fitted(picture: &RgbImage, colors: usize) -> Indexed {
    let samples = samples(picture);
    let mut centers = cut(samples.clone(), colors);
    for _ in 0..ROUNDS {
        centers = refined(&samples, &centers);
    }
    let palette: Vec<[u8; 3]> = centers.iter().map(|c| rgb(*c)).collect();
    // The colors that will be seen, not those that were asked for.
    let centers: Vec<Lab> = palette.iter().map(|c| lab(c.map(f32::from))).collect();
    let pixels = diffused(picture, &palette, &centers);
    Indexed { palette, pixels }
}

/// Colors of the user's own, which stand before the fixed ones.
const OWN: u8 = 16;

/// The 240 fixed colors of terminals that have 256: a cube of six levels and 24 grays.
static FIXED: LazyLock<Vec<[u8; 3]>> = LazyLock::new(|| {
    const LEVELS: [u8; 6] = [0, 95, 135, 175, 215, 255];
    let cube = LEVELS.iter().flat_map(|r| LEVELS.iter().flat_map(move |g| LEVELS.map(|b| [*r, *g, b])));
    cube.chain((0..24).map(|i| [8 + 10 * i; 3])).collect()
});

/// Where they lie, as they are told apart.
static CENTERS: LazyLock<Vec<Lab>> = LazyLock::new(|| FIXED.iter().map(|c| weighed(*c)).collect());

fn weighed(color: [u8; 3]) -> Lab {
    let [l, a, b] = lab(color.map(f32::from));
    [l, a * HUE, b * HUE]
}

/// The number of the nearest color of terminals that have 256, one of the fixed ones.
pub(super) fn number(color: [u8; 3]) -> u8 {
    OWN + nearest(weighed(color), &CENTERS) as u8
}

/// The picture in the fixed colors of terminals that have 256.
pub(super) fn fixed(picture: &RgbImage) -> RgbImage {
    // Errors are not handed on: half-blocks are large enough to be seen one by one.
    let mut fixed = picture.clone();
    for pixel in fixed.pixels_mut() {
        pixel.0 = FIXED.get(usize::from(number(pixel.0) - OWN)).copied().unwrap_or(pixel.0);
    }
    fixed
}

/// The colors of a picture, those that share their upper five bits together.
fn samples(picture: &RgbImage) -> Vec<Sample> {
    let mut boxes: HashMap<[u8; 3], (Lab, f32)> = HashMap::new();
    for p in picture.pixels() {
        let (sum, n) = boxes.entry(p.0.map(|c| c >> 3)).or_default();
        (0..3).for_each(|i| sum[i] += f32::from(p.0[i]));
        *n += 1.0;
    }
    let mut all: Vec<([u8; 3], Sample)> = boxes
        .into_iter()
        .map(|(key, (sum, n))| (key, Sample { lab: lab(sum.map(|s| s / n)), weight: n }))
        .collect();
    // The same picture always has the same palette.
    all.sort_unstable_by_key(|(key, _)| *key);
    all.into_iter().map(|(_, s)| s).collect()
}

/// Mean and, by axis, the sum of squared distances from it.
fn spread(samples: &[Sample]) -> (Lab, Lab) {
    let weight: f32 = samples.iter().map(|s| s.weight).sum::<f32>().max(f32::MIN_POSITIVE);
    let sum = |i: usize| samples.iter().map(|s| s.lab[i] * s.weight).sum::<f32>() / weight;
    let mean = [sum(0), sum(1), sum(2)];
    let square = |i: usize| samples.iter().map(|s| (s.lab[i] - mean[i]).powi(2) * s.weight).sum::<f32>();
    (mean, [square(0), square(1), square(2)])
}

/// Cuts the samples into so many boxes, always the box with the largest spread, across its longest axis; their means.
fn cut(samples: Vec<Sample>, colors: usize) -> Vec<Lab> {
    let measured = |samples: Vec<Sample>| {
        let (mean, squares) = spread(&samples);
        (samples, mean, squares)
    };
    let mut boxes = vec![measured(samples)];
    while boxes.len() < colors {
        let total = |squares: &Lab| squares.iter().sum::<f32>();
        let widest = boxes.iter().enumerate().filter(|(_, b)| b.0.len() > 1);
        let Some((at, _)) = widest.max_by(|a, b| total(&a.1.2).total_cmp(&total(&b.1.2))) else { break };
        let (samples, mean, squares) = boxes.swap_remove(at);
        let axis = (0..3).max_by(|a, b| squares[*a].total_cmp(&squares[*b])).unwrap_or(0);
        let (low, high): (Vec<Sample>, Vec<Sample>) =
            samples.into_iter().partition(|s| s.lab[axis] < mean[axis]);
        // Rounding can leave one side empty: then that is one color.
        let empty = low.is_empty() || high.is_empty();
        boxes.extend([low, high].into_iter().filter(|b| !b.is_empty()).map(measured));
        if empty {
            break;
        }
    }
    boxes.into_iter().map(|b| b.1).collect()
}

fn nearest(color: Lab, centers: &[Lab]) -> usize {
    let distance = |c: &Lab| (0..3).map(|i| (c[i] - color[i]).powi(2)).sum::<f32>();
    let best = |best: (usize, f32), (i, c): (usize, &Lab)| {
        let d = distance(c);
        if d < best.1 { (i, d) } else { best }
    };
    centers.iter().enumerate().fold((0, f32::INFINITY), best).0
}

/// One round of k-means: each center moves to the mean of the samples that are nearest to it.
fn refined(samples: &[Sample], centers: &[Lab]) -> Vec<Lab> {
    let mut sums = vec![([0.0f32; 3], 0.0f32); centers.len()];
    for s in samples {
        let (sum, weight) = &mut sums[nearest(s.lab, centers)];
        (0..3).for_each(|i| sum[i] += s.lab[i] * s.weight);
        *weight += s.weight;
    }
    let moved = |((sum, weight), old): (&(Lab, f32), &Lab)| {
        if *weight > 0.0 { sum.map(|s| s / weight) } else { *old }
    };
    sums.iter().zip(centers).map(moved).collect()
}

/// Each pixel's nearest color, with what it misses handed on; every second row runs backwards.
fn diffused(picture: &RgbImage, palette: &[[u8; 3]], centers: &[Lab]) -> Vec<u8> {
    let (w, h) = (picture.width() as usize, picture.height() as usize);
    let mut pixels = vec![0u8; w * h];
    // Errors for this row and the next, with a margin on both sides.
    let mut rows = [vec![[0.0f32; 3]; w + 2], vec![[0.0f32; 3]; w + 2]];
    for y in 0..h {
        let back = y % 2 == 1;
        for step in 0..w {
            let x = if back { w - 1 - step } else { step };
            let given = picture.get_pixel(x as u32, y as u32).0;
            let wanted: [f32; 3] =
                std::array::from_fn(|i| (f32::from(given[i]) + rows[0][x + 1][i]).clamp(0.0, 255.0));
            let index = nearest(lab(wanted), centers);
            pixels[y * w + x] = index as u8;
            let error: [f32; 3] =
                std::array::from_fn(|i| (wanted[i] - f32::from(palette[index][i])) * DIFFUSED / 16.0);
            let (ahead, behind) = if back { (x, x + 2) } else { (x + 2, x) };
            for i in 0..3 {
                rows[0][ahead][i] += error[i] * 7.0;
                rows[1][behind][i] += error[i] * 3.0;
                rows[1][x + 1][i] += error[i] * 5.0;
                rows[1][ahead][i] += error[i];
            }
        }
        rows.swap(0, 1);
        rows[1].fill([0.0; 3]);
    }
    pixels
}

/// From sRGB, 0 to 255, to Oklab.
fn lab(rgb: [f32; 3]) -> Lab {
    let [r, g, b] = rgb.map(|c| {
        let c = c / 255.0;
        if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    });
    let l = (0.412_221_47 * r + 0.536_332_54 * g + 0.051_445_995 * b).cbrt();
    let m = (0.211_903_5 * r + 0.680_699_5 * g + 0.107_396_96 * b).cbrt();
    let s = (0.088_302_46 * r + 0.281_718_84 * g + 0.629_978_7 * b).cbrt();
    [
        0.210_454_26 * l + 0.793_617_8 * m - 0.004_072_047 * s,
        1.977_998_5 * l - 2.428_592_2 * m + 0.450_593_7 * s,
        0.025_904_037 * l + 0.782_771_77 * m - 0.808_675_77 * s,
    ]
}

fn rgb(lab: Lab) -> [u8; 3] {
    let [l, a, b] = lab;
    let [l, m, s] = [
        l + 0.396_337_78 * a + 0.215_803_76 * b,
        l - 0.105_561_346 * a - 0.063_854_17 * b,
        l - 0.089_484_18 * a - 1.291_485_5 * b,
    ]
    .map(|x| x.powi(3));
    [
        4.076_741_7 * l - 3.307_711_6 * m + 0.230_969_94 * s,
        -1.268_438 * l + 2.609_757_4 * m - 0.341_319_38 * s,
        -0.004_196_086_3 * l - 0.703_418_6 * m + 1.707_614_7 * s,
    ]
    .map(|c| {
        let c = if c <= 0.003_130_8 { c * 12.92 } else { 1.055 * c.powf(1.0 / 2.4) - 0.055 };
        (c * 255.0).round().clamp(0.0, 255.0) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient() -> RgbImage {
        RgbImage::from_fn(128, 96, |x, y| image::Rgb([(x * 2) as u8, (y * 2) as u8, ((x + y) / 2) as u8]))
    }

    /// Mean distance by channel between a picture and what came of it, in areas of `side` pixels, as an eye takes them.
    fn difference(picture: &RgbImage, made: &Indexed, side: u32) -> f64 {
        let (w, h) = picture.dimensions();
        let (mut sum, mut n) = (0.0, 0.0);
        for top in (0..h / side).map(|y| y * side) {
            for left in (0..w / side).map(|x| x * side) {
                for i in 0..3 {
                    let mut error = 0.0;
                    for (x, y) in (0..side * side).map(|k| (left + k % side, top + k / side)) {
                        let color = made.palette[usize::from(made.pixels[(y * w + x) as usize])];
                        error += f64::from(picture.get_pixel(x, y).0[i]) - f64::from(color[i]);
                    }
                    sum += (error / f64::from(side * side)).abs();
                    n += 1.0;
                }
            }
        }
        sum / n
    }

    #[test]
    fn few_colors_stay_what_they_are() {
        let picture = RgbImage::from_fn(32, 8, |x, y| image::Rgb([(x * 8) as u8, (y * 30) as u8, 7]));
        let made = indexed(&picture, 256);
        assert_eq!(made.palette.len(), 256);
        assert!(difference(&picture, &made, 1) == 0.0);
    }

    #[test]
    fn many_colors_are_near_and_on_average_right() {
        let picture = gradient();
        for (colors, near, right) in [(256, 4.0, 0.8), (16, 20.0, 6.0), (2, 50.0, 40.0)] {
            let made = indexed(&picture, colors);
            assert!(made.palette.len() <= colors);
            let (pixel, area) = (difference(&picture, &made, 1), difference(&picture, &made, 8));
            assert!(pixel < near && area < right, "{colors} colors: {pixel:.2} and {area:.2}");
        }
    }

    #[test]
    fn of_the_256_colors_the_nearest_in_hue_is_taken() {
        let one = |color| fixed(&RgbImage::from_pixel(1, 1, image::Rgb(color))).get_pixel(0, 0).0;
        for own in [[0, 95, 135], [255, 255, 255], [8, 8, 8], [238, 238, 238]] {
            assert_eq!(one(own), own);
        }
        assert_eq!(one([110, 70, 60]), [135, 95, 95], "brown stays brown");
        assert_eq!(one([250, 3, 2]), [255, 0, 0]);
        assert_eq!(one([100, 101, 100]), [98, 98, 98]);
        assert_eq!([[0, 0, 0], [255, 0, 0], [110, 70, 60], [238, 238, 238]].map(number), [16, 196, 95, 255]);
    }

    #[test]
    fn the_colors_of_oklab_come_back() {
        for color in [[0u8, 0, 0], [255, 255, 255], [255, 0, 0], [1, 200, 77], [12, 13, 250]] {
            assert_eq!(rgb(lab(color.map(f32::from))), color);
        }
        assert!((lab([255.0; 3])[0] - 1.0).abs() < 1e-4);
    }
}
