//! Pictures on the terminal.

mod blocks;
pub mod card;
mod iterm;
mod kitty;
mod palette;
mod placeholder;
mod sixel;

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

/// The number of the nearest color of a terminal that has 256.
pub fn color_number(color: [u8; 3]) -> u8 {
    palette::number(color)
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
    let (width, height) = caps.cell.unwrap_or(CELL);
    let (width, height) = (f64::from(width), f64::from(height));
    let cells = match caps.protocol {
        Protocol::Blocks => block_cells(picture.dimensions(), &bounds, height / width),
        _ => cells(picture.dimensions(), &bounds, (width, height)),
    };
    match caps.protocol {
        Protocol::Kitty => {
            let place = match caps.cell {
                _ if caps.placeholders && caps.multiplexer.is_some() => kitty::Place::Text,
                // Where pixels are known to be pixels nothing is scaled: lines stay sharp.
                Some(_) => kitty::Place::Pixels,
                None => kitty::Place::Cells,
            };
            kitty::write(out, &on_screen(picture, cells, caps.cell), cells, place)
        }
        Protocol::Iterm => iterm::write(out, &on_screen(picture, cells, caps.cell), cells),
        Protocol::Sixel => {
            let picture = on_screen(picture, cells, caps.cell);
            let rows = picture.height().div_ceil(caps.cell.unwrap_or(CELL).1.into());
            sixel::write(out, &picture, rows, caps.registers)
        }
        Protocol::Blocks => blocks::write(out, picture, cells, caps.truecolor),
        Protocol::None => Ok(()),
    }
}

/// Columns and rows for a picture of so many pixels: its own size on the screen, but at least 32 columns wide, and within
/// the bounds; proportions are kept, a cell being `cell` pixels.
pub fn cells(picture: (u32, u32), bounds: &Bounds, (cw, ch): (f64, f64)) -> (u16, u16) {
    let (w, h) = (f64::from(picture.0.max(1)), f64::from(picture.1.max(1)));
    let wanted = (w / cw).max(f64::from(LEAST_COLUMNS));
    let rows_per_column = (h / w) * (cw / ch);
    let columns = wanted.min(f64::from(bounds.columns)).min(f64::from(bounds.rows) / rows_per_column);
    let rows = columns * rows_per_column;
    let whole = |x: f64, most: u16| (x.round() as u16).clamp(1, most.max(1));
    (whole(columns, bounds.columns), whole(rows, bounds.rows))
}

/// The same for half-blocks, which are pixels: a small picture has whole numbers of them for each of its own, a large one
/// gets all the room it can use. `aspect`: height of a cell by its width.
fn block_cells((w, h): (u32, u32), bounds: &Bounds, aspect: f64) -> (u16, u16) {
    let most = (u32::from(bounds.columns) / w).min(u32::from(bounds.rows) * 2 / h);
    let times = most.min(u32::from(LEAST_COLUMNS).div_ceil(w));
    match times {
        0 => cells((w, h), bounds, (1.0, aspect)),
        n => ((w * n) as u16, (h * n).div_ceil(2) as u16),
    }
}

/// The picture in the pixels that it has on the screen. Small ones grow by a whole factor, so that they keep their
/// pixels: terminals blur what they enlarge. Large ones shrink: what is not seen need not travel.
fn on_screen(picture: &RgbImage, cells: (u16, u16), cell: Option<(u16, u16)>) -> Cow<'_, RgbImage> {
    let cell = cell.unwrap_or(CELL);
    let (w, h) = picture.dimensions();
    let room = (u32::from(cells.0) * u32::from(cell.0), u32::from(cells.1) * u32::from(cell.1));
    // Cells are rounded: half of one more is room as well.
    let wide = (room.0 + u32::from(cell.0) / 2, room.1 + u32::from(cell.1) / 2);
    match (wide.0 / w).min(wide.1 / h) {
        0 => {
            let share = (f64::from(room.0) / f64::from(w)).min(f64::from(room.1) / f64::from(h));
            let size = |x: u32| ((f64::from(x) * share).round() as u32).max(1);
            Cow::Owned(imageops::resize(picture, size(w), size(h), imageops::FilterType::CatmullRom))
        }
        1 => Cow::Borrowed(picture),
        n => Cow::Owned(imageops::resize(picture, w * n, h * n, imageops::FilterType::Nearest)),
    }
}

/// Most bytes of a picture's file on the wire, before base64 makes four of three: a slow line shows it within seconds.
const MOST_BYTES: usize = 220_000;

/// The bytes of a PNG file, and whether it has all pixels: a picture that would be too large, which only noise is, loses some.
fn png(picture: &RgbImage) -> io::Result<(Vec<u8>, bool)> {
    use image::codecs::png::{CompressionType, FilterType, PngEncoder};
    let mut picture = Cow::Borrowed(picture);
    loop {
        let mut bytes = Vec::new();
        let encoder =
            PngEncoder::new_with_quality(&mut bytes, CompressionType::Default, FilterType::Adaptive);
        picture.write_with_encoder(encoder).map_err(io::Error::other)?;
        let (w, h) = picture.dimensions();
        if bytes.len() <= MOST_BYTES || w.min(h) < 16 {
            return Ok((bytes, matches!(picture, Cow::Borrowed(_))));
        }
        // A little less than the share of pixels that would fit.
        let share = (MOST_BYTES as f64 / bytes.len() as f64).sqrt() * 0.97;
        let size = |x: u32| ((f64::from(x) * share) as u32).max(1);
        picture = Cow::Owned(imageops::resize(&*picture, size(w), size(h), imageops::FilterType::Triangle));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { columns: 60, rows: 20 };

    #[test]
    fn small_pictures_keep_their_pixels() {
        let picture = RgbImage::from_fn(8, 4, |x, y| image::Rgb([x as u8 * 30, y as u8 * 60, 7]));
        // 256 by 128 pixels on the screen.
        let large = on_screen(&picture, (32, 8), None);
        assert_eq!(large.dimensions(), (256, 128));
        assert!(large.enumerate_pixels().all(|(x, y, p)| p == picture.get_pixel(x / 32, y / 32)));
        assert_eq!(on_screen(&picture, (1, 1), Some((8, 16))).dimensions(), (8, 4));
        assert_eq!(on_screen(&picture, (3, 1), Some((10, 20))).dimensions(), (32, 16));
        // 14 rows of 19 pixels are 266; 13 would be 247, and the picture a quarter smaller.
        let square = RgbImage::new(64, 64);
        assert_eq!(on_screen(&square, (32, 13), Some((8, 19))).dimensions(), (256, 256));
    }

    #[test]
    fn pictures_keep_their_proportions_within_the_bounds() {
        assert_eq!(cells((64, 64), &BOUNDS, (8.0, 16.0)), (32, 16));
        assert_eq!(cells((16, 16), &BOUNDS, (8.0, 16.0)), (32, 16));
        assert_eq!(cells((512, 512), &BOUNDS, (8.0, 16.0)), (40, 20));
        assert_eq!(cells((1024, 256), &BOUNDS, (8.0, 16.0)), (60, 8));
        assert_eq!(cells((64, 640), &BOUNDS, (8.0, 16.0)), (4, 20));
        assert_eq!(cells((64, 64), &BOUNDS, (10.0, 20.0)), (32, 16));
        assert_eq!(block_cells((64, 64), &BOUNDS, 2.0), (40, 20));
        assert_eq!(block_cells((64, 64), &BOUNDS, 2.4), (48, 20));
        assert_eq!(block_cells((16, 16), &BOUNDS, 2.4), (32, 16));
        assert_eq!(block_cells((16, 16), &Bounds { columns: 60, rows: 8 }, 2.4), (16, 8));
        assert_eq!(block_cells((40, 5), &BOUNDS, 2.0), (40, 3));
        assert_eq!(cells((10_000, 1), &BOUNDS, (8.0, 16.0)), (60, 1));
        assert_eq!(cells((64, 64), &Bounds { columns: 10, rows: 20 }, (8.0, 16.0)), (10, 5));
    }
}
