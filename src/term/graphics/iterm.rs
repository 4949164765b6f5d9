//! iTerm2's inline images: one escape with a PNG file.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::RgbImage;

/// Places a picture at the cursor, `cells` wide and high.
pub(super) fn write(out: &mut dyn Write, picture: &RgbImage, cells: (u16, u16)) -> io::Result<()> {
    let (bytes, _) = super::png(picture)?;
    let (size, data) = (bytes.len(), STANDARD.encode(&bytes));
    writeln!(
        out,
        "\x1b]1337;File=inline=1;size={size};width={};height={};preserveAspectRatio=1:{data}\x07",
        cells.0, cells.1
    )?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_inside_is_the_picture() {
        let picture = RgbImage::from_fn(20, 10, |x, y| image::Rgb([x as u8 * 9, y as u8 * 20, 77]));
        let mut out = Vec::new();
        write(&mut out, &picture, (32, 8)).unwrap();
        let text = String::from_utf8(out).unwrap();
        let (head, data) = text.strip_prefix("\x1b]1337;File=").unwrap().split_once(':').unwrap();
        assert!(head.contains("width=32;height=8") && head.contains("inline=1"));
        let bytes = STANDARD.decode(data.trim_end_matches("\x07\n")).unwrap();
        assert!(head.contains(&format!("size={}", bytes.len())));
        assert_eq!(image::load_from_memory(&bytes).unwrap().to_rgb8(), picture);
    }
}
