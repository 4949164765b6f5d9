//! Pictures on the terminal.

mod blocks;
mod iterm;
mod kitty;

use std::borrow::Cow;
use std::io::{self, Write};

use image::{RgbImage, imageops};

use super::probe::{Caps, Protocol};

/// Most cells that a picture may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// Cell size where the terminal does not tell.
const CELL: (u16, u16) = (8, 16);

/// Smallest width of a picture on the screen, in columns: 64 pixels would be a stamp.
const LEAST_COLUMNS: u16 = 32;

/// Draws a picture at the cursor and ends below it. `out` is where stdout goes.
pub fn show(out: &mut dyn Write, caps: &Caps, picture: &RgbImage, bounds: Bounds) -> io::Result<()> {
    if picture.width() == 0 || picture.height() == 0 {
        return Ok(());
    }
    // A half-block is a pixel: there the picture gets all the room it can use.
    let cell = if caps.protocol == Protocol::Blocks { Some((1, 2)) } else { caps.cell };
    let cells = cells(picture.dimensions(), &bounds, cell);
    match caps.protocol {
        Protocol::Kitty => kitty::write(out, &enlarged(picture, cells, caps.cell), cells),
        Protocol::Iterm => iterm::write(out, &enlarged(picture, cells, caps.cell), cells),
        Protocol::Blocks => blocks::write(out, picture, cells, caps.truecolor),
        Protocol::None => Ok(()),
    }
}

/// Columns and rows for a picture of so many pixels: its own size on the screen, but at least 32 columns wide, and within
/// the bounds; proportions are kept, a cell being `cell` pixels.
pub fn cells(picture: (u32, u32), bounds: &Bounds, cell: Option<(u16, u16)>) -> (u16, u16) {
    let cell = cell.unwrap_or(CELL);
    let (cw, ch) = (f64::from(cell.0), f64::from(cell.1));
    let (w, h) = (f64::from(picture.0.max(1)), f64::from(picture.1.max(1)));
    let wanted = (w / cw).max(f64::from(LEAST_COLUMNS));
    let rows_per_column = (h / w) * (cw / ch);
    let columns = wanted.min(f64::from(bounds.columns)).min(f64::from(bounds.rows) / rows_per_column);
    let rows = columns * rows_per_column;
    let whole = |x: f64, most: u16| (x.round() as u16).clamp(1, most.max(1));
    (whole(columns, bounds.columns), whole(rows, bounds.rows))
}

/// Small pictures by a whole factor, so that they keep their pixels: terminals blur what they enlarge.
fn enlarged(picture: &RgbImage, cells: (u16, u16), cell: Option<(u16, u16)>) -> Cow<'_, RgbImage> {
    let cell = cell.unwrap_or(CELL);
    let (w, h) = picture.dimensions();
    let times = |cells: u16, cell: u16, size: u32| u32::from(cells) * u32::from(cell) / size;
    match times(cells.0, cell.0, w).min(times(cells.1, cell.1, h)) {
        0 | 1 => Cow::Borrowed(picture),
        n => Cow::Owned(imageops::resize(picture, w * n, h * n, imageops::FilterType::Nearest)),
    }
}

/// The bytes of a PNG file.
fn png(picture: &RgbImage) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    picture.write_with_encoder(encoder).map_err(io::Error::other)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { columns: 60, rows: 20 };

    #[test]
    fn small_pictures_keep_their_pixels() {
        let picture = RgbImage::from_fn(8, 4, |x, y| image::Rgb([x as u8 * 30, y as u8 * 60, 7]));
        // 256 by 128 pixels on the screen.
        let large = enlarged(&picture, (32, 8), None);
        assert_eq!(large.dimensions(), (256, 128));
        assert!(large.enumerate_pixels().all(|(x, y, p)| p == picture.get_pixel(x / 32, y / 32)));
        assert_eq!(enlarged(&picture, (1, 1), Some((8, 16))).dimensions(), (8, 4));
        assert_eq!(enlarged(&picture, (3, 1), Some((10, 20))).dimensions(), (24, 12));
    }

    #[test]
    fn pictures_keep_their_proportions_within_the_bounds() {
        assert_eq!(cells((64, 64), &BOUNDS, None), (32, 16));
        assert_eq!(cells((16, 16), &BOUNDS, None), (32, 16));
        assert_eq!(cells((512, 512), &BOUNDS, None), (40, 20));
        assert_eq!(cells((1024, 256), &BOUNDS, None), (60, 8));
        assert_eq!(cells((64, 640), &BOUNDS, None), (4, 20));
        assert_eq!(cells((64, 64), &BOUNDS, Some((10, 20))), (32, 16));
        assert_eq!(cells((64, 64), &BOUNDS, Some((1, 2))), (40, 20));
        assert_eq!(cells((16, 16), &BOUNDS, Some((1, 2))), (32, 16));
        assert_eq!(cells((10_000, 1), &BOUNDS, None), (60, 1));
        assert_eq!(cells((64, 64), &Bounds { columns: 10, rows: 20 }, None), (10, 5));
    }
}
