//! Contact sheets: pictures side by side, each with a label in an 8×8 bitmap font.

use font8x8::UnicodeFonts;
use image::{Rgb, RgbImage, imageops};

use super::error::{Error, Result};
use super::image::MAX_SIDE;

/// Pixels between cells.
const GAP: u32 = 2;
/// Side of a character, in pixels.
const CHARACTER: u32 = 8;
/// Height of a line of text, in pixels.
const LINE: u32 = CHARACTER + 2;
/// Most lines of one label.
const LINES: usize = 4;

/// Where a picture stands in a sheet, and what is written under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The whole label, also where the sheet had to cut it.
    pub label: String,
    /// Left edge, upper edge, width and height in pixels.
    pub at: (u32, u32, u32, u32),
}

/// Pictures side by side on white; `columns` defaults to a near square. `labels` is empty or one per picture, wrapped to
/// the cell (at most four lines). Cells take the size of the largest picture.
/// Errors: no picture, or a sheet wider or higher than [`MAX_SIDE`].
pub fn grid(pictures: &[RgbImage], columns: Option<usize>, labels: &[String]) -> Result<RgbImage> {
    Ok(lay_out(pictures, columns, labels)?.0)
}

/// [`grid`], and where each picture stands in it.
pub fn lay_out(
    pictures: &[RgbImage],
    columns: Option<usize>,
    labels: &[String],
) -> Result<(RgbImage, Vec<Place>)> {
    if pictures.is_empty() {
        return Err(Error::value("grid", "there is no picture to lay out"));
    }
    let columns =
        columns.unwrap_or_else(|| (pictures.len() as f64).sqrt().ceil() as usize).clamp(1, pictures.len());
    let rows = pictures.len().div_ceil(columns);
    let cell_w = pictures.iter().map(RgbImage::width).max().unwrap_or(1);
    let picture_h = pictures.iter().map(RgbImage::height).max().unwrap_or(1);
    let wrapped: Vec<Vec<String>> =
        labels.iter().map(|l| wrap(l, ((cell_w - cell_w.min(4)) / CHARACTER).max(1) as usize)).collect();
    let text_h = wrapped.iter().map(Vec::len).max().unwrap_or(0) as u32 * LINE;
    let cell_h = picture_h + text_h;
    let width = u64::from(cell_w + GAP) * columns as u64 - u64::from(GAP);
    let height = u64::from(cell_h + GAP) * rows as u64 - u64::from(GAP);
    if width.max(height) > u64::from(MAX_SIDE) {
        return Err(Error::value("grid", "the sheet would be too large")
            .expected(format!("sides up to {MAX_SIDE} pixels"))
            .got(format!("{width}x{height}")));
    }
    let mut places = Vec::with_capacity(pictures.len());
    let mut sheet = RgbImage::from_pixel(width as u32, height as u32, Rgb([255, 255, 255]));
    for (i, picture) in pictures.iter().enumerate() {
        let x = (i % columns) as u32 * (cell_w + GAP);
        let y = (i / columns) as u32 * (cell_h + GAP);
        let inside = ((cell_w - picture.width()) / 2, (picture_h - picture.height()) / 2);
        imageops::replace(&mut sheet, picture, i64::from(x + inside.0), i64::from(y + inside.1));
        let at = (x + inside.0, y + inside.1, picture.width(), picture.height());
        places.push(Place { label: labels.get(i).cloned().unwrap_or_default(), at });
        for (line, text) in wrapped.get(i).into_iter().flatten().enumerate() {
            write(&mut sheet, text, x, y + picture_h + line as u32 * LINE + 1);
        }
    }
    Ok((sheet, places))
}

/// Breaks a label at spaces (within words that are too long) into at most [`LINES`] lines.
fn wrap(label: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in label.split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        for piece in letters.chunks(width) {
            let piece: String = piece.iter().collect();
            match lines.last_mut() {
                Some(line) if line.chars().count() + 1 + piece.chars().count() <= width => {
                    line.push(' ');
                    line.push_str(&piece);
                }
                _ => lines.push(piece),
            }
        }
    }
    lines.truncate(LINES);
    lines
}

fn write(sheet: &mut RgbImage, text: &str, x: u32, y: u32) {
    for (i, letter) in text.chars().enumerate() {
        let glyph = font8x8::BASIC_FONTS
            .get(letter)
            .or_else(|| font8x8::LATIN_FONTS.get(letter))
            .or_else(|| font8x8::GREEK_FONTS.get(letter))
            .or_else(|| font8x8::BASIC_FONTS.get('?'))
            .unwrap_or_default();
        for (dy, bits) in (0u32..).zip(glyph) {
            for dx in (0..CHARACTER).filter(|dx| bits >> dx & 1 == 1) {
                let at = (x + i as u32 * CHARACTER + dx, y + dy);
                if at.0 < sheet.width() && at.1 < sheet.height() {
                    sheet.put_pixel(at.0, at.1, Rgb([40, 40, 40]));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(w: u32, h: u32, v: u8) -> RgbImage {
        RgbImage::from_pixel(w, h, Rgb([v, v, v]))
    }

    #[test]
    fn cells_stand_in_rows_with_their_labels() {
        let sheet = grid(
            &[plain(64, 64, 10), plain(64, 64, 20), plain(64, 64, 30)],
            Some(2),
            &["a b", "c", "nu 0.5"].map(String::from),
        )
        .unwrap();
        assert_eq!(sheet.dimensions(), (130, 2 * 74 + 2));
        assert_eq!(sheet.get_pixel(5, 5).0[0], 10);
        assert_eq!(sheet.get_pixel(70, 5).0[0], 20);
        assert_eq!(sheet.get_pixel(5, 80).0[0], 30);
        let dark = |x: u32, y: u32| {
            (0..8)
                .flat_map(|dx| (0..8).map(move |dy| (dx, dy)))
                .filter(|(dx, dy)| sheet.get_pixel(x + dx, y + dy).0[0] == 40)
                .count()
        };
        let labels: Vec<String> = ["a", "b"].map(String::from).into();
        let (sheet_of_two, places) = lay_out(&[plain(64, 64, 1), plain(32, 64, 2)], None, &labels).unwrap();
        assert_eq!(places[1], Place { label: "b".into(), at: (66 + 16, 0, 32, 64) });
        assert_eq!(sheet_of_two.get_pixel(82, 0).0[0], 2);
        assert!(dark(0, 65) > 5, "the letter a stands under the first picture");
        assert_eq!(dark(8, 65), 0, "a space is empty");
    }

    #[test]
    fn labels_are_wrapped_and_bounded() {
        assert_eq!(wrap("a cup of coffee", 8), ["a cup of", "coffee"]);
        assert_eq!(wrap("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrap(&"x ".repeat(500), 1).len(), LINES);
    }

    #[test]
    fn too_much_is_an_error() {
        assert!(grid(&[], None, &[]).is_err());
        assert!(grid(&vec![plain(4000, 10, 0); 5], Some(5), &[]).is_err());
    }
}
