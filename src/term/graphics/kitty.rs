//! kitty's graphics protocol: PNG in chunks, scaled by the terminal to the cells given.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::RgbImage;

use super::placeholder;
use crate::term::tmux;

/// Largest payload of one escape.
const CHUNK: usize = 4096;

/// Pictures that stay in the terminal's memory. Older ones are freed, far up in the scrollback as they are: without
/// that, a night of pictures fills the memory of a terminal that has no limit of its own.
const KEPT: u32 = 256;

/// How many pictures this process has placed.
static PLACED: AtomicU32 = AtomicU32::new(0);

/// The id of our picture number `n`: one that no picture of another process on this terminal is likely to have, and that
/// none of ours has had for long. A terminal replaces a picture whose id comes again, also in the scrollback.
fn id(n: u32) -> u32 {
    ((std::process::id() & 0x7_ffff) << 12) | (n & 0xfff) | 0x8000_0000
}

/// The same in the 24 bits of a color, for placeholders.
fn short_id(n: u32) -> u32 {
    ((std::process::id() & 0x7ff) << 12) | (n & 0xfff) | 0x80_0000
}

/// Where a picture goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At the cursor, in its own pixels.
    Pixels,
    /// At the cursor, scaled by the terminal to so many columns and rows.
    Cells,
    /// Into text cells, which go through tmux, the picture itself in the envelope that tmux passes on.
    Text,
}

/// Places a picture and ends below it; quiet, so that no answer comes back into the keyboard. `cells`: columns and rows.
pub(super) fn write(
    out: &mut dyn Write,
    picture: &RgbImage,
    cells: (u16, u16),
    place: Place,
) -> io::Result<()> {
    let placed = PLACED.fetch_add(1, Ordering::Relaxed);
    let text = place == Place::Text;
    let name = |n| if text { short_id(n) } else { id(n) };
    let id = name(placed);
    let mut send = |escape: &str| match text {
        true => out.write_all(tmux::wrap(escape).as_bytes()),
        false => out.write_all(escape.as_bytes()),
    };
    if let Some(old) = placed.checked_sub(KEPT) {
        // The capital letter frees the picture's data as well.
        send(&format!("\x1b_Ga=d,d=I,i={},q=2\x1b\\", name(old)))?;
    }
    let (bytes, whole) = super::png(picture)?;
    let payload = STANDARD.encode(bytes);
    let chunks: Vec<&str> =
        payload.as_bytes().chunks(CHUNK).filter_map(|c| std::str::from_utf8(c).ok()).collect();
    // A picture for text cells is not shown where the cursor is.
    let mut keys = String::from(if text { "U=1," } else { "" });
    if place != Place::Pixels || !whole {
        keys.push_str(&format!("c={},r={},", cells.0, cells.1));
    }
    for (i, chunk) in chunks.iter().enumerate() {
        // The last chunk closes the picture, also when it is the only one.
        let more = u8::from(i + 1 < chunks.len());
        match i {
            0 => send(&format!("\x1b_Ga=T,f=100,q=2,i={id},{keys}m={more};{chunk}\x1b\\"))?,
            _ => send(&format!("\x1b_Gq=2,m={more};{chunk}\x1b\\"))?,
        }
    }
    match text {
        true => out.write_all(placeholder::lines(id, cells).as_bytes())?,
        false => writeln!(out)?,
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the escapes again as a terminal would: id, cells, and the picture once a chunk says that it is the last.
    fn read(mut text: &str) -> (u32, (u16, u16), RgbImage) {
        let mut payload = String::new();
        let (mut id, mut cells) = (0, (0, 0));
        while let Some(rest) = text.strip_prefix("\x1b_G") {
            let (escape, after) = rest.split_once("\x1b\\").unwrap();
            let Some((keys, data)) = escape.split_once(';') else {
                // An old picture is freed.
                text = after;
                continue;
            };
            let key = |name: &str| {
                keys.split(',').find_map(|k| k.strip_prefix(&format!("{name}=")).map(String::from))
            };
            assert_eq!(key("q").as_deref(), Some("2"));
            assert!(data.len() <= CHUNK);
            if let (Some(c), Some(r)) = (key("c"), key("r")) {
                cells = (c.parse().unwrap(), r.parse().unwrap());
            }
            if let Some(first) = key("i") {
                id = first.parse().unwrap();
                assert_eq!(key("f").as_deref(), Some("100"));
            }
            payload.push_str(data);
            text = after;
            if key("m").as_deref() == Some("0") {
                let bytes = STANDARD.decode(&payload).unwrap();
                assert_eq!(text, "\n");
                return (id, cells, image::load_from_memory(&bytes).unwrap().to_rgb8());
            }
        }
        panic!("the picture was never closed");
    }

    #[test]
    fn old_pictures_are_freed() {
        let picture = RgbImage::new(1, 1);
        let mut out = Vec::new();
        for _ in 0..KEPT + 2 {
            out.clear();
            write(&mut out, &picture, (1, 1), Place::Pixels).unwrap();
        }
        let text = String::from_utf8(out).unwrap();
        let (freed, rest) = text.split_once("\x1b\\").unwrap();
        let freed: u32 =
            freed.strip_prefix("\x1b_Ga=d,d=I,i=").unwrap().strip_suffix(",q=2").unwrap().parse().unwrap();
        assert_eq!(freed, read(rest).0 - KEPT);
    }

    #[test]
    fn pictures_of_any_size_arrive_whole() {
        let mut ids = std::collections::BTreeSet::new();
        for side in [1u32, 16, 27, 64, 200] {
            let picture = RgbImage::from_fn(side, side, |x, y| {
                image::Rgb([(x * 37 + y * 91) as u8, (x * y) as u8, (y * 53) as u8])
            });
            let mut out = Vec::new();
            write(&mut out, &picture, (32, 16), Place::Cells).unwrap();
            let (id, cells, arrived) = read(std::str::from_utf8(&out).unwrap());
            assert_eq!((cells, arrived), ((32, 16), picture), "{side}");
            assert!(ids.insert(id), "no id comes twice");
        }
    }

    #[test]
    fn inside_tmux_the_picture_is_in_the_envelope_and_its_cells_are_text() {
        let picture =
            RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * 37 + y * 91) as u8, (x * y) as u8, 9]));
        let mut out = Vec::new();
        write(&mut out, &picture, (4, 2), Place::Text).unwrap();
        let text = String::from_utf8(out).unwrap();
        let end = text.find("\x1b[38;2;").unwrap();
        let (envelopes, cells) = text.split_at(end);
        let inside: String = envelopes
            .split("\x1bPtmux;")
            .skip(1)
            .map(|e| e.strip_suffix("\x1b\\").unwrap().replace("\x1b\x1b", "\x1b"))
            .collect();
        assert!(
            inside.starts_with("\x1b_Ga=T,f=100,q=2,i=") && inside.contains(",U=1,c=4,r=2,"),
            "{}",
            &inside[..60]
        );
        let (id, size, arrived) = read(&format!("{inside}\n"));
        assert_eq!((size, arrived), ((4, 2), picture));
        let [zero, r, g, b] = id.to_be_bytes();
        assert_eq!(zero, 0);
        assert!(cells.starts_with(&format!("\x1b[38;2;{r};{g};{b}m{}", placeholder::CELL)));
        assert_eq!(cells.lines().count(), 2);
    }

    #[test]
    fn a_picture_takes_its_own_pixels_unless_it_was_too_large_to_travel() {
        let smooth = RgbImage::from_fn(512, 512, |x, y| image::Rgb([(x / 2) as u8, (y / 2) as u8, 9]));
        let mut seed = 1u32;
        let noise = RgbImage::from_fn(512, 512, |_, _| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            image::Rgb([(seed >> 24) as u8, (seed >> 16) as u8, (seed >> 8) as u8])
        });
        for (picture, whole) in [(smooth, true), (noise, false)] {
            let mut out = Vec::new();
            write(&mut out, &picture, (40, 20), Place::Pixels).unwrap();
            assert!(out.len() <= 300_000, "{} bytes for 512 x 512 pixels", out.len());
            let (_, cells, arrived) = read(std::str::from_utf8(&out).unwrap());
            assert_eq!(arrived == picture, whole);
            assert_eq!(cells, if whole { (0, 0) } else { (40, 20) });
        }
    }
}
