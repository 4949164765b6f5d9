//! DEC's sixel: six rows at a time, color by color, in as many colors as the terminal has registers.

use std::fmt::Write as _;
use std::io::{self, Write};

use image::RgbImage;

use super::palette::{self, Indexed};

/// Rows of a band.
const BAND: usize = 6;

/// Draws a picture at the cursor, which ends below it. `rows`: of cells that the picture covers; `colors`: most that the
/// terminal shows at once, 2 to 256.
pub(super) fn write(out: &mut dyn Write, picture: &RgbImage, rows: u32, colors: u16) -> io::Result<()> {
    let data = encode(picture, usize::from(colors));
    // Terminals disagree on where the cursor is after a picture, and scroll where it meets the last line. So the room is
    // made first, and the cursor put below it by hand.
    for _ in 0..rows {
        out.write_all(b"\n")?;
    }
    write!(out, "\x1b[{rows}A\x1b7{data}\x1b8\x1b[{rows}B\r")?;
    out.flush()
}

/// The picture as one escape.
fn encode(picture: &RgbImage, colors: usize) -> String {
    let Indexed { palette, pixels } = palette::indexed(picture, colors);
    let (w, h) = (picture.width() as usize, picture.height() as usize);
    // Pixels are squares, and those that no color sets stay as they are.
    let mut out = format!("\x1bP0;1;0q\"1;1;{w};{h}");
    for (i, color) in palette.iter().enumerate() {
        let [r, g, b] = color.map(|c| (u32::from(c) * 100 + 127) / 255);
        let _ = write!(out, "#{i};2;{r};{g};{b}");
    }
    for band in pixels.chunks(w * BAND) {
        // For each color that the band has, which of the six rows it sets in each column.
        let mut columns: Vec<Option<Vec<u8>>> = vec![None; palette.len()];
        for (row, line) in band.chunks(w).enumerate() {
            for (x, color) in line.iter().enumerate() {
                let column = columns[usize::from(*color)].get_or_insert_with(|| vec![0; w]);
                column[x] |= 1 << row;
            }
        }
        for (color, bits) in columns.iter().enumerate().filter_map(|(i, c)| c.as_ref().map(|c| (i, c))) {
            let _ = write!(out, "#{color}");
            runs(&mut out, bits);
            out.push('$');
        }
        out.push('-');
    }
    out.push_str("\x1b\\");
    out
}

/// Columns as characters, equal ones counted; empty ones at the end are left out.
fn runs(out: &mut String, bits: &[u8]) {
    let end = bits.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
    for run in bits[..end].chunk_by(|a, b| a == b) {
        let character = char::from(b'?' + run.first().copied().unwrap_or_default());
        match run.len() {
            n if n > 3 => {
                let _ = write!(out, "!{n}{character}");
            }
            n => out.extend(std::iter::repeat_n(character, n)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Reads a picture again as a terminal would. Every pixel must have been set.
    pub fn decode(text: &str) -> RgbImage {
        let body = text.strip_prefix("\x1bP0;1;0q\"1;1;").unwrap().strip_suffix("\x1b\\").unwrap();
        let mut rest = body;
        let number = |rest: &mut &str| -> u32 {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let n = rest[..end].parse().unwrap();
            *rest = &rest[end..];
            n
        };
        let w = number(&mut rest);
        rest = rest.strip_prefix(';').unwrap();
        let h = number(&mut rest);
        let mut colors = std::collections::BTreeMap::new();
        let mut pixels: Vec<Option<[u8; 3]>> = vec![None; (w * h) as usize];
        let (mut x, mut y, mut color) = (0, 0, [0; 3]);
        while let Some(c) = rest.chars().next() {
            rest = &rest[1..];
            let mut times = 1;
            let mut sign = c;
            match c {
                '#' => {
                    let register = number(&mut rest);
                    if let Some(given) = rest.strip_prefix(";2;") {
                        rest = given;
                        let mut part = || {
                            let n = number(&mut rest);
                            rest = rest.strip_prefix(';').unwrap_or(rest);
                            assert!(n <= 100);
                            ((n * 255 + 50) / 100) as u8
                        };
                        colors.insert(register, [part(), part(), part()]);
                    }
                    color = colors[&register];
                    continue;
                }
                '$' => {
                    x = 0;
                    continue;
                }
                '-' => {
                    (x, y) = (0, y + 6);
                    continue;
                }
                '!' => {
                    times = number(&mut rest);
                    sign = rest.chars().next().unwrap();
                    rest = &rest[1..];
                }
                _ => {}
            }
            let bits = sign as u32 - '?' as u32;
            for _ in 0..times {
                for row in (0..6).filter(|row| bits >> row & 1 == 1) {
                    pixels[((y + row) * w + x) as usize] = Some(color);
                }
                x += 1;
            }
        }
        RgbImage::from_fn(w, h, |x, y| {
            image::Rgb(pixels[(y * w + x) as usize].expect("a pixel was left out"))
        })
    }

    fn farthest(a: &RgbImage, b: &RgbImage) -> u8 {
        let pairs = a.pixels().flat_map(|p| p.0).zip(b.pixels().flat_map(|p| p.0));
        pairs.map(|(x, y)| x.abs_diff(y)).max().unwrap()
    }

    #[test]
    fn a_picture_of_few_colors_comes_back_as_it_was() {
        for (w, h) in [(16, 16), (1, 1), (7, 13), (64, 6)] {
            let picture =
                RgbImage::from_fn(w, h, |x, y| image::Rgb([(x % 16 * 17) as u8, (y * 15) as u8, 128]));
            let read = decode(&encode(&picture, 256));
            assert_eq!(read.dimensions(), (w, h));
            // Colors are told in hundredths.
            assert!(farthest(&read, &picture) <= 2, "{w}x{h}");
        }
    }

    #[test]
    fn a_picture_of_many_colors_comes_back_alike() {
        let picture =
            RgbImage::from_fn(200, 120, |x, y| image::Rgb([x as u8, (y * 2) as u8, ((x * y) >> 7) as u8]));
        for (colors, most) in [(256, 40), (16, 120)] {
            let read = decode(&encode(&picture, colors));
            assert!(farthest(&read, &picture) <= most, "{colors}: {}", farthest(&read, &picture));
            let seen: std::collections::BTreeSet<_> = read.pixels().map(|p| p.0).collect();
            assert!(seen.len() <= colors && seen.len() >= colors / 2, "{}", seen.len());
        }
    }

    #[test]
    fn the_room_is_made_first() {
        let mut out = Vec::new();
        write(&mut out, &RgbImage::new(8, 8), 2, 256).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with("\n\n\x1b[2A\x1b7\x1bP") && text.ends_with("\x1b\\\x1b8\x1b[2B\r"),
            "{text:?}"
        );
    }
}
