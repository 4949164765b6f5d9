//! Depth Anything (Yang and others 2024, arXiv 2401.10891 and 2406.09414): depth from one picture, in transformers' names.
//! Four depths of a DINOv2 encoder are brought to four sizes, fused from coarse to fine, and read by three convolutions.

use candle_core::Tensor;
use serde_json::Value;

use super::clip::size;
use super::dino::{Dino, DinoConfig};
use super::layers::{Grow, conv, conv1, conv3};
use crate::engine::error::{Error, Kind, Result};
use crate::engine::ops::{self, Conv2d, Interpolation, Padding};
use crate::engine::weights::Scope;

/// How a stage's map changes its size.
#[derive(Clone, Debug)]
enum Change {
    Grow(Grow),
    Keep,
    Shrink(Conv2d),
}

#[derive(Clone, Debug)]
struct Fusion {
    projection: Conv2d,
    residual: [[Conv2d; 2]; 2],
}

/// The network.
#[derive(Clone, Debug)]
pub struct Depth {
    dino: Dino,
    after: Vec<usize>,
    stages: Vec<(Conv2d, Change, Conv2d)>,
    fusion: Vec<Fusion>,
    /// Of each stage: its channels, and by how much its map is larger than the patches.
    maps: Vec<(usize, f64)>,
    head: [Conv2d; 3],
    /// Metres that 1 stands for; `None`: relative depth, without a unit.
    metres: Option<f64>,
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(Kind::File, "load", what.into()).hint("a transformers folder of Depth-Anything-V2-...-hf")
}

fn sizes(json: &Value, key: &str, default: [usize; 4]) -> Result<[usize; 4]> {
    let Some(list) = json.get(key).and_then(Value::as_array) else { return Ok(default) };
    let list: Option<Vec<usize>> =
        list.iter().map(|v| v.as_u64().filter(|v| (1..=65536).contains(v)).map(|v| v as usize)).collect();
    list.and_then(|l| l.try_into().ok()).ok_or_else(|| wrong(format!("{key} must be four sizes")))
}

impl Depth {
    /// From `backbone`, `neck`, `head` and config.json. Errors: names, shapes or sizes that do not fit.
    pub fn new(w: &Scope, json: &Value) -> Result<Self> {
        let inner = json.get("backbone_config").unwrap_or(&Value::Null);
        let config = DinoConfig::parse(inner)?;
        let last = config.layers;
        let after = sizes(
            inner,
            "out_indices",
            [last.saturating_sub(3), last.saturating_sub(2), last.saturating_sub(1), last],
        )?;
        if after.windows(2).any(|w| w[0] >= w[1]) || after.iter().any(|i| *i == 0 || *i > last) {
            return Err(wrong(format!("out_indices {after:?} do not name four layers of {last}, ascending")));
        }
        let channels = sizes(json, "neck_hidden_sizes", [48, 96, 192, 384])?;
        let factors = match json.get("reassemble_factors").and_then(Value::as_array) {
            None => vec![4.0, 2.0, 1.0, 0.5],
            Some(list) => list.iter().filter_map(Value::as_f64).collect(),
        };
        if factors.len() != 4 {
            return Err(wrong("reassemble_factors must be four numbers"));
        }
        let width = json.get("fusion_hidden_size").map_or(Ok(64), |_| size(json, "fusion_hidden_size"))?;
        let small = json.get("head_hidden_size").map_or(Ok(32), |_| size(json, "head_hidden_size"))?;
        let maps: Vec<(usize, f64)> = channels.into_iter().zip(factors).collect();
        let stages = maps.iter().enumerate().map(|(i, &(c, factor))| {
            let s = w.sub(format!("neck.reassemble_stage.layers.{i}"));
            let change = match factor {
                1.0 => Change::Keep,
                f if f > 1.0 && f <= 16.0 && f.fract() == 0.0 => {
                    Change::Grow(Grow::new(&s.sub("resize"), c, c, f as usize)?)
                }
                0.5 => Change::Shrink(conv(&s.sub("resize"), c, c, 3, 2, Padding::all(1))?),
                f => return Err(wrong(format!("a reassemble factor of {f}"))),
            };
            let bridge = w.sub(format!("neck.convs.{i}")).get("weight", &[width, c, 3, 3])?;
            let bridge = Conv2d::new(bridge, None, 1, Padding::all(1))?;
            Ok((conv1(&s.sub("projection"), config.width, c)?, change, bridge))
        });
        let stages = stages.collect::<Result<_>>()?;
        let fusion = (0..4).map(|i| {
            let w = w.sub(format!("neck.fusion_stage.layers.{i}"));
            let pair = |n: usize| -> Result<[Conv2d; 2]> {
                let w = w.sub(format!("residual_layer{n}"));
                Ok([
                    conv3(&w.sub("convolution1"), width, width)?,
                    conv3(&w.sub("convolution2"), width, width)?,
                ])
            };
            Ok(Fusion {
                projection: conv1(&w.sub("projection"), width, width)?,
                residual: [pair(1)?, pair(2)?],
            })
        });
        let metric = json.get("depth_estimation_type").and_then(Value::as_str) == Some("metric");
        let head = w.sub("head");
        Ok(Depth {
            dino: Dino::new(&w.sub("backbone"), config)?,
            after: after.to_vec(),
            stages,
            fusion: fusion.collect::<Result<_>>()?,
            maps,
            head: [
                conv3(&head.sub("conv1"), width, width / 2)?,
                conv3(&head.sub("conv2"), width / 2, small)?,
                conv1(&head.sub("conv3"), small, 1)?,
            ],
            metres: metric.then(|| json.get("max_depth").and_then(Value::as_f64).unwrap_or(1.0)),
        })
    }

    /// Pixels of a patch, on a side: the sides of pictures are multiples of it.
    pub fn patch(&self) -> usize {
        self.dino.config().patch
    }

    /// Whether the values are metres (far is large); relative depth is large where it is near.
    pub fn is_metric(&self) -> bool {
        self.metres.is_some()
    }

    /// Bytes that a picture of these sides holds at once, roughly: the encoder, the maps of all stages, the finest fusion twice as
    /// large as the finest map, and the head's two maps of the picture's size.
    pub fn working(&self, [h, w]: [u64; 2]) -> u64 {
        let out = |conv: &Conv2d| conv.weight().dims()[0] as u64;
        let patch = self.patch() as u64;
        let places = (h / patch + 1).saturating_mul(w / patch + 1);
        let [first, second, _] = &self.head;
        let width = self.fusion.first().map_or(0, |f| out(&f.projection));
        let stage = |(c, factor): &(usize, f64)| (factor * factor).ceil() as u64 * (2 * *c as u64 + width);
        let finest = self.maps.iter().map(|(_, f)| (4.0 * f * f).ceil() as u64).max().unwrap_or(0);
        let each = self.maps.iter().map(stage).sum::<u64>() + 3 * width * finest;
        let head = h.saturating_mul(w).saturating_mul(2 * out(first) + 3 * out(second));
        let maps = places.saturating_mul(each).saturating_add(head).saturating_mul(4);
        self.dino.working([h, w]).saturating_add(maps)
    }

    /// Normalized pixels `[n, 3, h, w]`, sides whole numbers of patches → `[n, 1, h, w]`.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let (n, _, h, w) = pixels.dims4()?;
        let (rows, columns) = (h / self.patch(), w / self.patch());
        let hidden = self.dino.hidden(pixels, &self.after)?;
        let mut maps = Vec::with_capacity(4);
        for (x, (projection, change, bridge)) in hidden.iter().zip(&self.stages) {
            let x = x.narrow(1, 1, rows * columns)?.transpose(1, 2)?.contiguous()?;
            let x = projection.forward(&x.reshape((n, self.dino.config().width, rows, columns))?)?;
            let x = match change {
                Change::Grow(grow) => grow.forward(&x)?,
                Change::Keep => x,
                Change::Shrink(conv) => conv.forward(&x)?,
            };
            maps.push(bridge.forward(&x)?);
        }
        let mut fused: Option<Tensor> = None;
        for (i, layer) in self.fusion.iter().enumerate() {
            let map = &maps[3 - i];
            let x = match fused {
                None => map.clone(),
                Some(x) => {
                    let (_, _, h, w) = x.dims4()?;
                    let map = if map.dims()[2..] == [h, w] {
                        map.clone()
                    } else {
                        ops::resize_bilinear(map, h, w)?
                    };
                    (x + residual(&layer.residual[0], &map)?)?
                }
            };
            let x = residual(&layer.residual[1], &x)?;
            let (_, _, h, w) = x.dims4()?;
            let (h, w) = if i < 3 { (maps[2 - i].dim(2)?, maps[2 - i].dim(3)?) } else { (2 * h, 2 * w) };
            let x = ops::resize(&x, h, w, Interpolation::LinearCorners)?;
            fused = Some(layer.projection.forward(&x)?);
        }
        let x = fused.ok_or_else(|| wrong("no stages"))?;
        let x = ops::resize(&self.head[0].forward(&x)?, h, w, Interpolation::LinearCorners)?;
        let x = self.head[2].forward(&self.head[1].forward(&x)?.relu()?)?;
        match self.metres {
            None => Ok(x.relu()?),
            Some(metres) => Ok((ops::sigmoid(&x)? * metres)?),
        }
    }
}

fn residual([first, second]: &[Conv2d; 2], x: &Tensor) -> Result<Tensor> {
    Ok((second.forward(&first.forward(&x.relu()?)?.relu()?)? + x)?)
}
