//! PNG with text chunks.

use image::RgbImage;

use super::Record;
use crate::engine::error::{Error, Kind, Result};

/// The key of our own JSON chunk.
const OURS: &str = "scumble";

/// The bytes of a PNG file; with a record in the chunks `scumble` (JSON) and `parameters` (for people and other tools).
pub fn encode(picture: &RgbImage, record: Option<&Record>) -> Result<Vec<u8>> {
    let failed =
        |e: png::EncodingError| Error::new(Kind::Internal, "save", format!("the PNG cannot be written: {e}"));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width(), picture.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    if let Some(record) = record {
        // iTXt is UTF-8; tEXt is Latin-1 only and would refuse other prompts.
        encoder.add_itxt_chunk("parameters".into(), record.parameters()).map_err(failed)?;
        encoder.add_itxt_chunk(OURS.into(), record.to_json().to_string()).map_err(failed)?;
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(picture.as_raw()).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// The record inside a PNG file, if it has one of ours.
pub fn read_record(bytes: &[u8]) -> Option<Record> {
    let reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().ok()?;
    let chunk = reader.info().utf8_text.iter().find(|c| c.keyword == OURS)?;
    Record::from_json(&serde_json::from_str(&chunk.get_text().ok()?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_survives_the_file() {
        let mut record = Record { recipe: "sdedit".into(), ..Record::default() };
        record.options.insert("prompt".into(), "ein Käse 🧀".into());
        let picture = RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8 * 40, y as u8 * 80, 9]));
        let bytes = encode(&picture, Some(&record)).unwrap();
        assert_eq!(read_record(&bytes), Some(record));
        assert_eq!(image::load_from_memory(&bytes).unwrap().to_rgb8(), picture);
        assert_eq!(read_record(&encode(&picture, None).unwrap()), None);
    }
}
