//! A test card: what a terminal makes of smooth colors, lines one pixel wide, small pictures and proportions.

use image::{Rgb, RgbImage};

/// Width and height of the card. Twice this on most screens would be too large, half of it too small for the lines.
const SIZE: (u32, u32) = (320, 192);

/// Four gradients (red, green, blue, gray), lines of one pixel and of two, a checkerboard, and a circle in a square.
pub fn card() -> RgbImage {
    let mut card = RgbImage::from_pixel(SIZE.0, SIZE.1, Rgb([24, 24, 28]));
    for y in 0..96 {
        for x in 0..SIZE.0 {
            let level = (x * 255 / (SIZE.0 - 1)) as u8;
            let color = match y / 24 {
                0 => [level, 0, 0],
                1 => [0, level, 0],
                2 => [0, 0, level],
                _ => [level; 3],
            };
            card.put_pixel(x, y, Rgb(color));
        }
    }
    for y in 104..184 {
        for x in 8..216 {
            // Upright, lying, of two pixels, and both.
            let on = match (x - 8) / 52 {
                0 => x % 2 == 0,
                1 => y % 2 == 0,
                2 => x / 2 % 2 == 0,
                _ => (x / 8 + y / 8) % 2 == 0,
            };
            card.put_pixel(x, y, Rgb(if on { [240; 3] } else { [16; 3] }));
        }
    }
    circle(&mut card, (268, 144), 40);
    card
}

/// A ring that touches the four sides of its square: where it looks like an egg, the size of a cell is not known.
fn circle(card: &mut RgbImage, center: (i32, i32), radius: i32) {
    for dy in -radius..=radius {
        for dx in -radius..=radius {
            let distance = f64::from(dx * dx + dy * dy).sqrt();
            let edge = dx.abs() == radius || dy.abs() == radius;
            let color = match () {
                () if (distance - f64::from(radius) + 2.0).abs() < 2.0 => [255, 176, 0],
                () if edge => [90, 140, 255],
                () => continue,
            };
            card.put_pixel((center.0 + dx) as u32, (center.1 + dy) as u32, Rgb(color));
        }
    }
}

/// Sixteen by sixteen pixels, each of another color, as small as the latents of a small model.
pub fn small() -> RgbImage {
    RgbImage::from_fn(16, 16, |x, y| {
        let dark = (x + y) % 2 == 1;
        let [r, g, b] = [x * 17, y * 17, 255 - (x + y) * 8];
        Rgb([r, g, b].map(|c| if dark { c * 3 / 4 } else { c } as u8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_card_holds_what_it_promises() {
        let card = card();
        assert_eq!(card.get_pixel(319, 5).0, [255, 0, 0]);
        assert_eq!(card.get_pixel(0, 80).0, [0, 0, 0]);
        assert_ne!(card.get_pixel(10, 120), card.get_pixel(11, 120), "upright lines");
        assert_ne!(card.get_pixel(70, 120), card.get_pixel(70, 121), "lying lines");
        // As wide as high.
        let ring = |x: u32, y: u32| card.get_pixel(x, y).0 == [255, 176, 0];
        assert!(ring(268 - 38, 144) && ring(268 + 38, 144) && ring(268, 144 - 38) && ring(268, 144 + 38));
        let colors: std::collections::BTreeSet<[u8; 3]> = small().pixels().map(|p| p.0).collect();
        assert_eq!(colors.len(), 256);
    }
}
