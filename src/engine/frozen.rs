//! Networks beside the diffusion model, from the user's own folders, that are only read: depth, similarity of subjects.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::error::{Error, Kind, Result};
use super::image::Picture;
use super::nets::depth::Depth as DepthNet;
use super::nets::dino::{Dino as DinoNet, DinoConfig};
use super::ops;
use super::weights::Weights;
use super::weights::folder::Folder;

/// The largest side that pictures are brought to, in pixels.
const MAX_SIDE: usize = 2048;

/// What the encoders expect of pixels, from preprocessor_config.json; ImageNet's own values where it is silent.
#[derive(Clone, Debug)]
pub(super) struct Pixels {
    mean: [f64; 3],
    std: [f64; 3],
}

impl Pixels {
    pub(super) fn parse(json: &Value) -> Self {
        let triple = |key: &str, default: [f64; 3]| -> [f64; 3] {
            let list = json.get(key).and_then(Value::as_array);
            let numbers: Option<Vec<f64>> = list.and_then(|l| l.iter().map(Value::as_f64).collect());
            numbers.and_then(|l| l.try_into().ok()).unwrap_or(default)
        };
        Pixels {
            mean: triple("image_mean", [0.485, 0.456, 0.406]),
            std: triple("image_std", [0.229, 0.224, 0.225]),
        }
    }

    /// Values in 0..1 `[n, 3, h, w]`, normalized.
    pub(super) fn normalize(&self, pixels: &Tensor) -> Result<Tensor> {
        let row = |v: [f64; 3]| -> Result<Tensor> {
            Ok(Tensor::new(&v, pixels.device())?.to_dtype(pixels.dtype())?.reshape((1, 3, 1, 1))?)
        };
        Ok(pixels.broadcast_sub(&row(self.mean)?)?.broadcast_div(&row(self.std)?)?)
    }
}

/// A folder's weights and its two configuration files. Errors: no such folder, no weights in it.
pub(super) fn open(op: &str, path: &Path, device: &Device) -> Result<(Weights, Value, Value)> {
    let folder = Folder::Disk(path.to_path_buf());
    if !folder.has("config.json") {
        return Err(Error::missing(op, format!("{}: there is no transformers model", path.display()))
            .expected("a folder with config.json and model.safetensors")
            .hint("fetch one once, for example: hf download depth-anything/Depth-Anything-V2-Small-hf --local-dir depth"));
    }
    let json = folder.json("config.json")?;
    let pixels = match folder.has("preprocessor_config.json") {
        true => folder.json("preprocessor_config.json")?,
        false => Value::Null,
    };
    Ok((Weights::load(&folder.weights("model")?, DType::F32, device)?, json, pixels))
}

/// What the folder's config says that it holds must be `wanted`.
pub(super) fn check_kind(op: &str, json: &Value, wanted: &str) -> Result<()> {
    match json.get("model_type").and_then(Value::as_str) {
        Some(kind) if kind != wanted => {
            Err(Error::new(Kind::File, op, "the folder holds another kind of model")
                .expected(wanted)
                .got(kind))
        }
        _ => Ok(()),
    }
}

fn number(json: &Value, path: [&str; 2], default: usize) -> usize {
    let value = json.get(path[0]).and_then(|v| v.get(path[1])).and_then(Value::as_u64);
    value.map_or(default, |v| v as usize).clamp(1, MAX_SIDE)
}

/// A network with what its folder says of pictures.
#[derive(Debug)]
struct Frozen<N> {
    net: N,
    pixels: Pixels,
    size: [usize; 2],
    device: Device,
    bytes: usize,
}

/// DINOv2: whether pictures show the same subject.
#[derive(Clone, Debug)]
pub struct Dino(Arc<Frozen<DinoNet>>);

impl Dino {
    /// From a transformers folder (`facebook/dinov2-...`). Errors: see [`DinoNet::new`].
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let (weights, json, pixels) = open("load_dino", path, device)?;
        check_kind("load_dino", &json, "dinov2")?;
        let net = DinoNet::new(&weights.scope(), DinoConfig::parse(&json)?)?;
        let side = number(&pixels, ["crop_size", "height"], 224);
        let edge = number(&pixels, ["size", "shortest_edge"], 256).max(side);
        let (pixels, size) = (Pixels::parse(&pixels), [edge, side]);
        Ok(Dino(Arc::new(Frozen { net, pixels, size, device: device.clone(), bytes: weights.bytes() })))
    }

    /// Features of a picture.
    pub fn width(&self) -> usize {
        self.0.net.config().width
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Bytes of its weights.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// Bytes that looking at one picture holds at once, roughly.
    pub fn working(&self) -> u64 {
        let [edge, side] = self.0.size.map(|s| s.max(self.0.net.config().patch) as u64);
        self.0.net.working([side, side]).saturating_add(edge.pow(2) * 40)
    }

    /// The class token of every picture `[n, width]`, not of unit length. Pictures are cropped to their middle square.
    pub fn features(&self, picture: &Picture) -> Result<Tensor> {
        let Frozen { net, pixels, size: [edge, side], .. } = &*self.0;
        let patch = net.config().patch;
        let side = (side / patch).max(1) * patch;
        let edge = (*edge).max(side);
        let square = picture.fit(edge, edge)?;
        let from = (edge - side) / 2;
        let middle = square.tensor().narrow(2, from, side)?.narrow(3, from, side)?.contiguous()?;
        net.features(&pixels.normalize(&middle.clamp(0.0, 1.0)?)?)
    }

    /// Cosines of the pictures of `a` with the first picture of `b`, -1..1.
    pub fn similarity(&self, a: &Picture, b: &Picture) -> Result<Vec<f64>> {
        let unit = |x: Tensor| -> Result<Tensor> { Ok(x.broadcast_div(&x.sqr()?.sum_keepdim(1)?.sqrt()?)?) };
        let (a, b) = (unit(self.features(a)?)?, unit(self.features(&b.index(0)?)?)?);
        let cosines = a.matmul(&b.t()?)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(cosines.into_iter().map(f64::from).collect())
    }
}

/// Depth Anything: depth from one picture.
#[derive(Clone, Debug)]
pub struct Depth(Arc<Frozen<DepthNet>>);

impl Depth {
    /// From a transformers folder (`depth-anything/Depth-Anything-V2-...-hf`). Errors: see [`DepthNet::new`].
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let (weights, json, pixels) = open("load_depth", path, device)?;
        check_kind("load_depth", &json, "depth_anything")?;
        let net = DepthNet::new(&weights.scope(), &json)?;
        let size = [number(&pixels, ["size", "height"], 518), number(&pixels, ["size", "width"], 518)];
        let pixels = Pixels::parse(&pixels);
        Ok(Depth(Arc::new(Frozen { net, pixels, size, device: device.clone(), bytes: weights.bytes() })))
    }

    /// Whether values are metres (far is large); relative depth is large where it is near.
    pub fn is_metric(&self) -> bool {
        self.0.net.is_metric()
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Bytes of its weights.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// Bytes that a picture of `w` × `h` holds at once, roughly.
    pub fn working(&self, w: usize, h: usize) -> u64 {
        let own = sides([h.max(1), w.max(1)], self.0.size, self.0.net.patch());
        self.0.net.working(own.map(|s| s as u64))
    }

    /// Depth of every pixel `[n, 1, h, w]`, in main memory. The network sees the pictures one by one, brought to about its own size,
    /// sides in proportion.
    pub fn map(&self, picture: &Picture) -> Result<Tensor> {
        let Frozen { net, pixels, size, .. } = &*self.0;
        let (h, w) = (picture.height(), picture.width());
        let [rows, columns] = sides([h, w], *size, net.patch());
        let one = |i: usize| -> Result<Tensor> {
            let seen = picture.index(i)?.resize(columns, rows)?;
            let map = net.forward(&pixels.normalize(&seen.tensor().clamp(0.0, 1.0)?)?)?;
            Ok(ops::resize_bilinear(&map, h, w)?.to_device(&Device::Cpu)?)
        };
        let maps = (0..picture.n()).map(one).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&maps, 0)?)
    }

    /// The same as a grey picture, near is white, far is black, each picture over its own range.
    pub fn picture(&self, picture: &Picture) -> Result<Picture> {
        let map = self.map(picture)?;
        let flat = map.flatten_from(1)?;
        let (n, _) = flat.dims2()?;
        let (low, high) =
            (flat.min_keepdim(1)?.reshape((n, 1, 1, 1))?, flat.max_keepdim(1)?.reshape((n, 1, 1, 1))?);
        let range = ((&high - &low)? + 1e-9)?;
        let grey = if self.is_metric() { high.broadcast_sub(&map)? } else { map.broadcast_sub(&low)? };
        let grey = grey.broadcast_div(&range)?;
        Picture::from_tensor(Tensor::cat(&[&grey, &grey, &grey], 1)?)
    }
}

/// Sides for the network: the scale of the side that changes less, for both, in whole patches.
fn sides([h, w]: [usize; 2], [want_h, want_w]: [usize; 2], patch: usize) -> [usize; 2] {
    let (down, across) = (want_h as f64 / h as f64, want_w as f64 / w as f64);
    let scale = if (1.0 - across).abs() < (1.0 - down).abs() { across } else { down };
    [h, w].map(|side| {
        let patches =
            (side as f64 * scale / patch as f64).round().clamp(1.0, (MAX_SIDE / patch).max(1) as f64);
        patches as usize * patch
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_whole_patches_in_proportion() {
        assert_eq!(sides([480, 640], [518, 518], 14), [518, 686]);
        assert_eq!(sides([64, 64], [518, 518], 14), [518, 518]);
        assert_eq!(sides([1, 100_000], [518, 518], 14), [14, 518]);
    }
}
