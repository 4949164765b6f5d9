//! Half-blocks: two pixels a cell, by viuer, with its terminal queries off.

use std::io::{self, Write};

use image::{DynamicImage, RgbImage, imageops};

use super::palette;

/// Prints the picture, scaled to `cells` (two pixels a row). viuer writes to stdout itself.
pub(super) fn write(
    out: &mut dyn Write,
    picture: &RgbImage,
    cells: (u16, u16),
    truecolor: bool,
) -> io::Result<()> {
    out.flush()?;
    let (w, h) = (u32::from(cells.0), u32::from(cells.1) * 2);
    let mut scaled = scaled(picture, w, h);
    if !truecolor {
        scaled = palette::fixed(&scaled);
    }
    let config = viuer::Config {
        use_kitty: false,
        use_iterm: false,
        absolute_offset: false,
        truecolor,
        // Given, or viuer would scale to the whole window.
        width: Some(w),
        height: Some(h / 2),
        ..viuer::Config::default()
    };
    viuer::print(&DynamicImage::ImageRgb8(scaled), &config).map_err(io::Error::other)?;
    Ok(())
}

/// Enlarged pictures keep their pixels: a latent's cells are facts, not a blur.
fn scaled(picture: &RgbImage, w: u32, h: u32) -> RgbImage {
    let enlarge = w >= picture.width() && h >= picture.height();
    let filter = if enlarge { imageops::FilterType::Nearest } else { imageops::FilterType::CatmullRom };
    imageops::resize(picture, w, h, filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enlarging_makes_no_colors_and_reducing_does() {
        let picture = RgbImage::from_fn(4, 4, |x, y| image::Rgb([((x + y) % 2 * 255) as u8; 3]));
        assert!(scaled(&picture, 10, 10).pixels().all(|p| p.0[0] % 255 == 0));
        assert!(scaled(&picture, 3, 3).pixels().any(|p| p.0[0] % 255 != 0));
    }
}
