//! kitty's graphics protocol: PNG in chunks, scaled by the terminal to the cells given.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::RgbImage;

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

/// Places a picture at the cursor, `cells` wide and high; quiet, so that no answer comes back into the keyboard.
pub(super) fn write(out: &mut dyn Write, picture: &RgbImage, cells: (u16, u16)) -> io::Result<()> {
    let placed = PLACED.fetch_add(1, Ordering::Relaxed);
    let id = id(placed);
    if let Some(old) = placed.checked_sub(KEPT) {
        // The capital letter frees the picture's data as well.
        write!(out, "\x1b_Ga=d,d=I,i={},q=2\x1b\\", self::id(old))?;
    }
    let payload = STANDARD.encode(super::png(picture)?);
    let chunks: Vec<&str> =
        payload.as_bytes().chunks(CHUNK).filter_map(|c| std::str::from_utf8(c).ok()).collect();
    for (i, chunk) in chunks.iter().enumerate() {
        // The last chunk closes the picture, also when it is the only one.
        let more = u8::from(i + 1 < chunks.len());
        if i == 0 {
            write!(out, "\x1b_Ga=T,f=100,q=2,i={id},c={},r={},m={more};{chunk}\x1b\\", cells.0, cells.1)?;
        } else {
            write!(out, "\x1b_Gq=2,m={more};{chunk}\x1b\\")?;
        }
    }
    writeln!(out)?;
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
                id = key("i").unwrap().parse().unwrap();
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
            write(&mut out, &picture, (1, 1)).unwrap();
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
            write(&mut out, &picture, (32, 16)).unwrap();
            let (id, cells, arrived) = read(std::str::from_utf8(&out).unwrap());
            assert_eq!((cells, arrived), ((32, 16), picture), "{side}");
            assert!(ids.insert(id), "no id comes twice");
        }
    }
}
