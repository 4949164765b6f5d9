//! Half-blocks: two pixels a cell, by viuer, with its terminal queries off.

use std::io::{self, Write};

use image::{DynamicImage, RgbImage, imageops};

/// Prints the picture, scaled to `cells` (two pixels a row). viuer writes to stdout itself.
pub(super) fn write(
    out: &mut dyn Write,
    picture: &RgbImage,
    cells: (u16, u16),
    truecolor: bool,
) -> io::Result<()> {
    out.flush()?;
    let (w, h) = (u32::from(cells.0), u32::from(cells.1) * 2);
    // Enlarged pictures keep their pixels: a latent's cells are facts, not a blur.
    let enlarge = w >= picture.width() && h >= picture.height();
    let filter = if enlarge { imageops::FilterType::Nearest } else { imageops::FilterType::CatmullRom };
    let scaled = imageops::resize(picture, w, h, filter);
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
