//! Pictures in cells: two pixels a cell, one above the other.

use image::{RgbImage, imageops};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::widgets::Widget;

use crate::term::graphics;

/// A picture, as large as fits into its area with its proportions, at the upper left.
pub struct Pixels<'a> {
    /// The picture.
    pub picture: &'a RgbImage,
    /// Whether the terminal has 24-bit colors.
    pub truecolor: bool,
}

/// Columns and rows that a picture takes within `room`. Enlarged by whole factors, so that pixels stay squares.
pub fn fitted(picture: (u32, u32), room: (u16, u16)) -> (u16, u16) {
    let (w, h) = (picture.0.max(1), picture.1.max(1));
    let (rw, rh) = (u32::from(room.0), u32::from(room.1) * 2);
    let times = (rw / w).min(rh / h);
    let (w, h) = match times {
        0 => {
            let share = (f64::from(rw) / f64::from(w)).min(f64::from(rh) / f64::from(h));
            ((f64::from(w) * share).round() as u32, (f64::from(h) * share).round() as u32)
        }
        n => (w * n, h * n),
    };
    (w.clamp(1, rw.max(1)) as u16, h.div_ceil(2).clamp(1, u32::from(room.1.max(1))) as u16)
}

impl Widget for Pixels<'_> {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let area = area.intersection(buffer.area);
        if area.is_empty() || self.picture.width() == 0 || self.picture.height() == 0 {
            return;
        }
        let (columns, rows) = fitted(self.picture.dimensions(), (area.width, area.height));
        let (w, h) = (u32::from(columns), u32::from(rows) * 2);
        // A picture of odd height leaves half a cell: stretching it by that is less than one sees.
        let enlarge = w >= self.picture.width();
        let filter = if enlarge { imageops::FilterType::Nearest } else { imageops::FilterType::Triangle };
        let scaled = imageops::resize(self.picture, w, h, filter);
        for y in 0..rows {
            for x in 0..columns {
                let color = |dy: u32| {
                    let p = scaled.get_pixel(u32::from(x), u32::from(y) * 2 + dy).0;
                    self::color(p, self.truecolor)
                };
                if let Some(cell) = buffer.cell_mut((area.x + x, area.y + y)) {
                    cell.set_symbol("▀").set_fg(color(0)).set_bg(color(1));
                }
            }
        }
    }
}

/// A color as the terminal has it: the nearest one, where it has not 24 bits.
pub fn color(rgb: [u8; 3], truecolor: bool) -> Color {
    if truecolor { Color::Rgb(rgb[0], rgb[1], rgb[2]) } else { Color::Indexed(graphics::color_number(rgb)) }
}

/// The color of a share of heat, 0..1: from dark blue by red and yellow to white, brighter all the way.
pub fn heat(x: f32) -> [u8; 3] {
    const STOPS: [[f32; 3]; 5] = [
        [8.0, 8.0, 40.0],
        [90.0, 20.0, 110.0],
        [200.0, 50.0, 70.0],
        [250.0, 160.0, 40.0],
        [255.0, 250.0, 210.0],
    ];
    let x = if x.is_finite() { x.clamp(0.0, 1.0) } else { 0.0 } * 4.0;
    let low = (x as usize).min(3);
    let share = x - low as f32;
    std::array::from_fn(|c| (STOPS[low][c] * (1.0 - share) + STOPS[low + 1][c] * share).round() as u8)
}

/// A map of shares as a picture, its largest value the hottest.
pub fn heat_map(values: &[f32], (h, w): (usize, usize), most: f32) -> RgbImage {
    let most = if most > 0.0 { most } else { 1.0 };
    RgbImage::from_fn(w as u32, h as u32, |x, y| {
        let v = values.get(y as usize * w + x as usize).copied().unwrap_or(0.0);
        image::Rgb(heat(v / most))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_keep_their_proportions() {
        assert_eq!(fitted((16, 16), (20, 8)), (16, 8));
        assert_eq!(fitted((16, 16), (40, 16)), (32, 16));
        assert_eq!(fitted((64, 64), (80, 10)), (20, 10));
        assert_eq!(fitted((64, 32), (16, 10)), (16, 4));
        assert_eq!(fitted((1, 5000), (16, 10)), (1, 10));
        assert_eq!(fitted((3, 3), (3, 2)), (3, 2));
    }

    #[test]
    fn two_pixels_stand_in_a_cell() {
        let picture = RgbImage::from_fn(2, 2, |x, y| image::Rgb([x as u8 * 255, y as u8 * 255, 0]));
        let mut buffer = Buffer::empty(Rect::new(0, 0, 3, 1));
        Pixels { picture: &picture, truecolor: true }.render(buffer.area, &mut buffer);
        let cell = &buffer[(1, 0)];
        assert_eq!((cell.fg, cell.bg), (Color::Rgb(255, 0, 0), Color::Rgb(255, 255, 0)));
        assert_eq!(buffer[(2, 0)].symbol(), " ");
        // Never outside of the buffer.
        Pixels { picture: &picture, truecolor: true }.render(Rect::new(2, 0, 50, 50), &mut buffer);
    }

    #[test]
    fn without_24_bits_the_nearest_color_is_taken() {
        assert_eq!(color([255, 0, 0], false), Color::Indexed(196));
        assert_eq!(color([128, 128, 128], false), Color::Indexed(244));
        assert_eq!(color([110, 70, 60], false), Color::Indexed(95), "as pictures in the text have it");
        assert_eq!(color([1, 2, 3], true), Color::Rgb(1, 2, 3));
    }

    #[test]
    fn heat_grows_brighter() {
        let light = |x: f32| heat(x).iter().map(|v| u32::from(*v)).sum::<u32>();
        let lights: Vec<u32> = (0..=20).map(|i| light(i as f32 / 20.0)).collect();
        assert!(lights.windows(2).all(|w| w[0] < w[1]), "{lights:?}");
        assert_eq!(heat(f32::NAN), heat(0.0));
    }
}
