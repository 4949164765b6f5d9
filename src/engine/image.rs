//! [`Picture`]: a batch of RGB pictures in 0..1, read from files, decoded from latents, shown and saved.

use std::borrow::Cow;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use image::{DynamicImage, ImageReader, Rgb, RgbImage, imageops};

pub use super::sheet::{Place, grid, lay_out};

use super::error::{Error, Result};

/// Largest picture side that is read or made, in pixels: a bound on what a hostile file can make us allocate.
pub const MAX_SIDE: u32 = 16_384;

/// `n` RGB pictures of one size: `[n, 3, h, w]`, f32, 0..1. An immutable handle, cheap to clone.
#[derive(Clone, Debug)]
pub struct Picture {
    tensor: Tensor,
    /// Of a sheet: its cells.
    places: Option<Arc<Vec<Place>>>,
}

impl Picture {
    /// Wraps `[n, 3, h, w]` (or `[3, h, w]`), values nominally in 0..1. Errors: any other shape.
    pub fn from_tensor(tensor: Tensor) -> Result<Self> {
        let tensor = if tensor.rank() == 3 { tensor.unsqueeze(0)? } else { tensor };
        match *tensor.dims() {
            [_, 3, _, _] => Ok(Picture { tensor, places: None }),
            _ => Err(Error::shape("picture", "a picture has three channels")
                .expected("[n, 3, h, w]")
                .got(format!("{:?}", tensor.dims()))),
        }
    }

    /// From 8-bit pixels.
    pub fn from_rgb(rgb: &RgbImage, device: &Device) -> Result<Self> {
        let (w, h) = rgb.dimensions();
        let values: Vec<f32> = rgb.as_raw().iter().map(|&v| f32::from(v) / 255.0).collect();
        let t = Tensor::from_vec(values, (h as usize, w as usize, 3), device)?;
        Self::from_tensor(t.permute((2, 0, 1))?.contiguous()?)
    }

    /// Pictures laid out as one sheet that remembers its cells (see [`lay_out`]).
    pub fn sheet_of(pictures: &[RgbImage], columns: Option<usize>, labels: &[String]) -> Result<Self> {
        let (sheet, places) = lay_out(pictures, columns, labels)?;
        Ok(Picture { places: Some(Arc::new(places)), ..Self::from_rgb(&sheet, &Device::Cpu)? })
    }

    /// The cells of a sheet; none where it is another picture, or was changed since.
    pub fn places(&self) -> &[Place] {
        self.places.as_ref().map_or(&[], |p| p)
    }

    /// Reads a PNG, JPEG or WebP file; transparency is laid over white.
    /// Errors: missing file, not a picture, larger than [`MAX_SIDE`].
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| {
            Error::file("open", path, e)
                .hint("give a .png, .jpg or .webp file; relative paths start in the working directory")
        })?;
        Self::from_bytes(&bytes, &path.display().to_string(), device)
    }

    /// Width and height of the picture in the bytes of a file, without reading its pixels.
    /// Errors: not a picture, larger than [`MAX_SIDE`].
    pub fn size_in(bytes: &[u8], name: &str) -> Result<(u32, u32)> {
        let bytes = without_extras(bytes);
        let reader = ImageReader::new(Cursor::new(&bytes[..]))
            .with_guessed_format()
            .map_err(|e| unreadable(name, &e))?;
        let (w, h) = reader.into_dimensions().map_err(|e| unreadable(name, &e))?;
        if w.max(h) > MAX_SIDE {
            return Err(Error::new(super::Kind::File, "open", format!("{name}: the picture is too large"))
                .expected(format!("at most {MAX_SIDE} pixels a side"))
                .got(format!("{w}x{h}")));
        }
        Ok((w, h))
    }

    /// Reads a picture from the bytes of a file; `name` is for messages.
    pub fn from_bytes(bytes: &[u8], name: &str, device: &Device) -> Result<Self> {
        let bad = |e: &dyn std::fmt::Display| unreadable(name, e);
        let bytes = without_extras(bytes);
        let mut reader =
            ImageReader::new(Cursor::new(&bytes[..])).with_guessed_format().map_err(|e| bad(&e))?;
        let mut limits = image::Limits::default();
        limits.max_image_width = Some(MAX_SIDE);
        limits.max_image_height = Some(MAX_SIDE);
        reader.limits(limits);
        let decoded = reader.decode().map_err(|e| bad(&e))?;
        Self::from_rgb(&over_white(&decoded), device)
    }

    /// How many pictures there are.
    pub fn n(&self) -> usize {
        self.tensor.dims()[0]
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.tensor.dims()[3]
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.tensor.dims()[2]
    }

    /// `[n, 3, h, w]`, f32.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Picture `i` alone. Errors: `i` out of range.
    pub fn index(&self, i: usize) -> Result<Picture> {
        if i >= self.n() {
            return Err(Error::value("picture", format!("there is no picture {i} among {}", self.n())));
        }
        Self::from_tensor(self.tensor.narrow(0, i, 1)?)
    }

    /// Picture `i` as 8-bit pixels: clamped to 0..1, rounded to nearest.
    pub fn to_rgb(&self, i: usize) -> Result<RgbImage> {
        let one = self.index(i)?.tensor.squeeze(0)?.permute((1, 2, 0))?.to_dtype(DType::F32)?;
        let values = one.contiguous()?.flatten_all()?.to_vec1::<f32>()?;
        let bytes = values.iter().map(|v| (v.clamp(0.0, 1.0) * 255.0).round() as u8).collect();
        RgbImage::from_raw(self.width() as u32, self.height() as u32, bytes)
            .ok_or_else(|| Error::new(super::Kind::Internal, "picture", "pixel count does not fit the size"))
    }

    /// All pictures as 8-bit pixels.
    pub fn to_rgbs(&self) -> Result<Vec<RgbImage>> {
        (0..self.n()).map(|i| self.to_rgb(i)).collect()
    }

    /// One picture: itself; several: a sheet with `columns` columns (near square if not said).
    pub fn sheet(&self, columns: Option<usize>) -> Result<Arc<RgbImage>> {
        if self.n() == 1 {
            return Ok(Arc::new(self.to_rgb(0)?));
        }
        Ok(Arc::new(grid(&self.to_rgbs()?, columns, &[])?))
    }

    /// Scaled to `w` × `h` with a Lanczos filter on 8-bit pixels; not tracked. A picture of that size is returned as it is.
    pub fn resize(&self, w: usize, h: usize) -> Result<Picture> {
        if (self.width(), self.height()) == (w, h) {
            return Ok(self.clone());
        }
        if self.tensor.track_op() {
            return Err(no_gradient("resize"));
        }
        check_side("resize", w, h)?;
        let scaled: Vec<Tensor> = self
            .to_rgbs()?
            .iter()
            .map(|p| {
                let small = imageops::resize(p, w as u32, h as u32, imageops::FilterType::Lanczos3);
                Ok(Self::from_rgb(&small, self.tensor.device())?.tensor)
            })
            .collect::<Result<_>>()?;
        Self::from_tensor(Tensor::cat(&scaled, 0)?)
    }

    /// Cropped around the centre to the shape of `w` × `h`, then scaled to it.
    pub fn fit(&self, w: usize, h: usize) -> Result<Picture> {
        let (pw, ph) = (self.width(), self.height());
        check_side("fit", w, h)?;
        let (cw, ch) =
            if pw * h > ph * w { ((ph * w / h).max(1), ph) } else { (pw, (pw * h / w.max(1)).max(1)) };
        let cropped = self.tensor.narrow(2, (ph - ch) / 2, ch)?.narrow(3, (pw - cw) / 2, cw)?.contiguous()?;
        Self::from_tensor(cropped)?.resize(w, h)
    }
}

/// A PNG file without what is no pixel: texts and color profiles are compressed, and a few bytes of them may stand for
/// gigabytes that would all be unpacked. Other files stay as they are.
fn without_extras(bytes: &[u8]) -> Cow<'_, [u8]> {
    const SIGNATURE: usize = 8;
    if !bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return bytes.into();
    }
    let (head, mut rest) = bytes.split_at(SIGNATURE);
    let mut kept = head.to_vec();
    while let Some((length, kind)) = rest.first_chunk::<4>().zip(rest.get(4..8)) {
        // Length, kind, data, checksum. A chunk that is cut short is left to the decoder's message.
        let end = (u32::from_be_bytes(*length) as usize).saturating_add(12).min(rest.len());
        if [&b"IHDR"[..], b"PLTE", b"tRNS", b"IDAT", b"IEND"].contains(&kind) {
            kept.extend_from_slice(&rest[..end]);
        }
        rest = &rest[end..];
    }
    kept.into()
}

fn check_side(op: &str, w: usize, h: usize) -> Result<()> {
    if w.min(h) > 0 && w.max(h) <= MAX_SIDE as usize {
        return Ok(());
    }
    Err(Error::value(op, "the size is out of range")
        .expected(format!("1..{MAX_SIDE} pixels a side"))
        .got(format!("{w}x{h}")))
}

fn unreadable(name: &str, e: &dyn std::fmt::Display) -> Error {
    Error::new(super::Kind::File, "open", format!("{name}: this is not a picture that can be read: {e}"))
        .expected("a PNG, JPEG or WebP file")
}

/// An operation that would lose a gradient in silence.
pub fn no_gradient(op: &str) -> Error {
    Error::value(op, format!("{op} has no gradient"))
        .expected("a value outside of grad, or detached")
        .hint("detach(x), if it shall count as fixed")
}

/// Lays transparent pixels over white.
fn over_white(picture: &DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.to_rgb8();
    }
    let rgba = picture.to_rgba8();
    let mut out = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in out.pixels_mut().zip(rgba.pixels()) {
        let a = u32::from(from.0[3]);
        let mix = |v: u8| ((u32::from(v) * a + 255 * (255 - a) + 127) / 255) as u8;
        *to = Rgb([mix(from.0[0]), mix(from.0[1]), mix(from.0[2])]);
    }
    out
}
