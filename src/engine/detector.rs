//! Edges as networks see them, from the user's own weights: HED and PiDiNet, read only.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::error::{Error, Kind, Result};
use super::image::{Picture, no_gradient};
use super::nets::hed::{self, Hed};
use super::nets::pidinet::{self, Pidinet};
use super::weights::Weights;
use super::weights::folder::Folder;
use super::weights::read::TensorFile;

#[derive(Clone, Debug)]
enum Net {
    Hed(Box<Hed>),
    Pidinet(Box<Pidinet>),
}

/// A detector of edges.
#[derive(Clone, Debug)]
pub struct Detector(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    net: Net,
    device: Device,
    bytes: usize,
}

fn wrong(path: &Path, what: &str) -> Error {
    Error::new(Kind::File, "load_edges", format!("{}: {what}", path.display()))
        .expected("ControlNet's HED (ControlNetHED) or PiDiNet (table5_pidinet), as .safetensors")
        .hint("in Python: safetensors.torch.save_file(torch.load(\"ControlNetHED.pth\"), \"hed.safetensors\"); a .pth of PiDiNet holds its weights under \"state_dict\"")
}

impl Detector {
    /// From a .safetensors file, or a folder that holds one (`model.safetensors`, or its only one). Which network it is, is
    /// told by its names. Errors: another network, names or shapes that do not fit.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let file = match path.is_dir() {
            false => path.to_path_buf(),
            true => {
                let ends = |n: &String| n.to_lowercase().ends_with(".safetensors");
                let names: Vec<String> =
                    Folder::Disk(path.to_path_buf()).files().into_iter().filter(ends).collect();
                match &names[..] {
                    [one] => path.join(one),
                    [] => return Err(wrong(path, "there is no .safetensors file in this folder")),
                    many if many.iter().any(|n| n == "model.safetensors") => path.join("model.safetensors"),
                    _ => return Err(wrong(path, "there are several files in this folder: name one")),
                }
            }
        };
        let weights = Weights::load(&[TensorFile::open(&file)?], DType::F32, device)?;
        let scope = weights.scope();
        let net = if scope.has("block1.convs") {
            Net::Hed(Box::new(Hed::new(&scope)?))
        } else if scope.has("init_block") || scope.has("module.init_block") {
            Net::Pidinet(Box::new(Pidinet::new(&scope)?))
        } else {
            return Err(wrong(&file, "these are the weights of no edge detector that is known"));
        };
        Ok(Detector(Arc::new(Inner { net, device: device.clone(), bytes: weights.bytes() })))
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Bytes of its weights.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// Channels of the widest map, as if all were of the picture's size.
    pub fn widest(&self) -> u64 {
        match &self.0.net {
            Net::Hed(net) => net.widest(),
            Net::Pidinet(net) => net.widest(),
        }
    }

    /// HED or PiDiNet.
    pub fn name(&self) -> &'static str {
        match &self.0.net {
            Net::Hed(_) => "HED",
            Net::Pidinet(_) => "PiDiNet",
        }
    }

    /// How surely every pixel is an edge, 0..1: `[n, 1, h, w]`. Errors: a picture with a graph, one that is too small.
    pub fn map(&self, picture: &Picture) -> Result<Tensor> {
        let Inner { net, device, .. } = &*self.0;
        if picture.tensor().track_op() {
            return Err(no_gradient("edges"));
        }
        let least = if let Net::Hed(_) = net { hed::LEAST } else { pidinet::LEAST };
        let (w, h) = (picture.width(), picture.height());
        if w.min(h) < least {
            return Err(Error::value("edges", format!("the picture is too small for {}", self.name()))
                .expected(format!("at least {least} pixels a side"))
                .got(format!("{w}x{h}"))
                .hint("picture.resize(width, height)"));
        }
        let one = |i: usize| -> Result<Tensor> {
            let colors =
                picture.index(i)?.tensor().to_dtype(DType::F32)?.clamp(0.0, 1.0)?.to_device(device)?;
            match net {
                Net::Hed(net) => net.forward(&colors),
                Net::Pidinet(net) => net.forward(&colors),
            }
        };
        let maps = (0..picture.n()).map(one).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&maps, 0)?.to_device(&Device::Cpu)?)
    }

    /// The same as a picture, white on black; with a threshold black and white alone. Errors: a threshold outside 0..1.
    pub fn edges(&self, picture: &Picture, threshold: f64) -> Result<Picture> {
        if !(0.0..=1.0).contains(&threshold) {
            return Err(Error::value("edges", "threshold is out of range")
                .expected("0 to 1; 0 keeps all shades")
                .got(threshold.to_string()));
        }
        let map = self.map(picture)?;
        let map = if threshold == 0.0 { map } else { map.ge(threshold)?.to_dtype(DType::F32)? };
        Picture::from_tensor(Tensor::cat(&[&map, &map, &map], 1)?)
    }
}
