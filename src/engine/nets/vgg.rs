//! VGG16's features (Simonyan and Zisserman 2014, arXiv 1409.1556; torchvision's `vgg16().features` by name), as
//! perceptual losses take them: after relu1_2, relu2_2, relu3_3 and relu4_3; and LPIPS, which weighs their differences.

use candle_core::{Device, Tensor};

use crate::engine::error::{Error, Result};
use crate::engine::fields::{Pooling, Window, pool};
use crate::engine::ops::{Conv2d, Padding, resize_bilinear};
use crate::engine::weights::Scope;

/// Numbers of torchvision's convolutions, slice by slice; a slice ends after its last ReLU, and the next begins with a
/// pool that halves the size.
const SLICES: [&[usize]; 5] = [&[0, 2], &[5, 7], &[10, 12, 14], &[17, 19, 21], &[24, 26, 28]];
/// Slices of a perceptual loss; LPIPS takes all.
const PERCEPTUAL: usize = 4;
/// Side of the pictures that it was trained on.
const SIDE: usize = 224;
/// ImageNet's colors.
const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const STD: [f64; 3] = [0.229, 0.224, 0.225];

/// The convolutions: all thirteen, or the first ten where the file has no more.
#[derive(Clone, Debug)]
pub struct Vgg16 {
    slices: Vec<Vec<Conv2d>>,
}

impl Vgg16 {
    /// From the root of a file with torchvision's names, `features.0.weight` on (or `0.weight` on). Widths are the file's
    /// own. Errors: a convolution missing or of another shape.
    pub fn new(w: &Scope) -> Result<Self> {
        let w = if w.has("features") { w.sub("features") } else { w.clone() };
        let mut from = 3;
        let mut slices = Vec::with_capacity(SLICES.len());
        for (slice, numbers) in SLICES.into_iter().enumerate() {
            if slice >= PERCEPTUAL && numbers.iter().all(|i| w.dims(&format!("{i}.weight")).is_none()) {
                break;
            }
            let mut convs = Vec::with_capacity(numbers.len());
            for i in numbers {
                let name = format!("{i}.weight");
                let to = match w.dims(&name) {
                    Some([to, ..]) => *to,
                    _ => {
                        return Err(Error::missing(
                            "perceptual",
                            format!("there is no tensor \"features.{name}\""),
                        )
                        .expected(
                            "torchvision's VGG16: features.0.weight to features.21.weight, as safetensors",
                        ));
                    }
                };
                let weight = w.get(&name, &[to, from, 3, 3])?;
                convs.push(Conv2d::new(
                    weight,
                    Some(w.get(&format!("{i}.bias"), &[to])?),
                    1,
                    Padding::all(1),
                )?);
                from = to;
            }
            slices.push(convs);
        }
        Ok(Vgg16 { slices })
    }

    /// Where its weights lie.
    pub fn device(&self) -> &Device {
        self.slices.first().and_then(|s| s.first()).map_or(&Device::Cpu, |conv| conv.weight().device())
    }

    /// Bytes of its weights.
    pub fn bytes(&self) -> usize {
        let all = self.slices.iter().flatten().map(Conv2d::weight);
        all.map(|w| w.elem_count() * w.dtype().size_in_bytes()).sum()
    }

    /// Side of the pictures that [`Vgg16::forward`] sees.
    pub fn side(&self) -> u64 {
        SIDE as u64
    }

    /// Values of all its maps together, per pixel of the picture.
    pub fn values(&self) -> u64 {
        let widths = |convs: &[Conv2d]| convs.iter().map(|c| c.weight().dims()[0] as u64).sum::<u64>();
        self.slices.iter().enumerate().map(|(i, convs)| widths(convs).div_ceil(1 << (2 * i))).sum()
    }

    /// Pixels `[n, 3, h, w]` in 0..1 → the four activations, with a graph; pictures are scaled bilinearly to 224 pixels,
    /// values outside of 0..1 count as the nearest inside.
    pub fn forward(&self, pixels: &Tensor) -> Result<Vec<Tensor>> {
        let (_, _, h, w) = pixels.dims4()?;
        let pixels = &pixels.to_device(self.device())?;
        let x =
            if (h, w) == (SIDE, SIDE) { pixels.contiguous()? } else { resize_bilinear(pixels, SIDE, SIDE)? };
        let x = x.clamp(0.0, 1.0)?.broadcast_sub(&row(&MEAN, pixels)?)?.broadcast_div(&row(&STD, pixels)?)?;
        self.taps(x, PERCEPTUAL)
    }

    /// Normalized colors `[n, 3, h, w]` → the activations after the first slices.
    fn taps(&self, mut x: Tensor, count: usize) -> Result<Vec<Tensor>> {
        let mut all = Vec::with_capacity(count);
        for (i, convs) in self.slices.iter().take(count).enumerate() {
            if i > 0 {
                // candle's own max_pool2d goes back with a quarter of the gradient.
                x = pool(&x, Pooling::Max, Window { size: 2, stride: 2, padding: 0 })?;
            }
            for conv in convs {
                x = conv.forward(&x)?.relu()?;
            }
            all.push(x.clone());
        }
        Ok(all)
    }
}

fn row(v: &[f64; 3], like: &Tensor) -> Result<Tensor> {
    Ok(Tensor::from_slice(v, (1, 3, 1, 1), like.device())?.to_dtype(like.dtype())?)
}

/// LPIPS's own colors, for values in -1..1.
const SHIFT: [f64; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f64; 3] = [0.458, 0.448, 0.450];
/// Under the root of an activation's length: where all channels are 0 there is no slope.
const LEAST: f64 = 1e-20;

/// The distance between pictures that people see (LPIPS; Zhang and others 2018, arXiv 1801.03924, version 0.1, on VGG16): of five
/// activations, brought to unit length place by place, the squared differences, weighed channel by channel.
#[derive(Clone, Debug)]
pub struct Lpips {
    vgg: Vgg16,
    /// `[1, c, 1, 1]` each.
    weights: Vec<Tensor>,
}

impl Lpips {
    /// With the weights of the package `lpips` for VGG: `lin0.model.1.weight [1, c, 1, 1]` to `lin4.model.1.weight`.
    /// Errors: a name missing, widths that are not the network's, a VGG16 of fewer than thirteen convolutions.
    pub fn new(vgg: Vgg16, w: &Scope) -> Result<Self> {
        if vgg.slices.len() < SLICES.len() {
            return Err(Error::missing("perceptual", "LPIPS needs all thirteen convolutions of VGG16")
                .expected("features.24.weight, features.26.weight and features.28.weight too"));
        }
        let weights = vgg.slices.iter().enumerate().map(|(i, convs)| {
            let width = convs.last().map_or(0, |c| c.weight().dims()[0]);
            let name = format!("lin{i}.model.1.weight");
            match w.dims(&name) {
                None => Err(Error::missing("perceptual", format!("there is no tensor \"{name}\""))
                    .expected("the weights of the package lpips for vgg: lin0.model.1.weight to lin4.model.1.weight, as safetensors")),
                Some(_) => w.get(&name, &[1, width, 1, 1]),
            }
        });
        Ok(Lpips { weights: weights.collect::<Result<_>>()?, vgg })
    }

    /// The features that LPIPS is made on.
    pub fn vgg(&self) -> &Vgg16 {
        &self.vgg
    }

    /// Colors in 0..1, both `[n, 3, h, w]` of one size with sides of 16 or more (nothing is scaled) → `[n]`, 0 = the same.
    /// With gradients to both. Errors: shapes that differ or are too small.
    pub fn distance(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let (n, c, h, w) = a.dims4()?;
        if a.dims() != b.dims() || c != 3 || h.min(w) < 16 {
            return Err(Error::shape(
                "lpips",
                "the two must be pictures of one size, at least 16 pixels a side",
            )
            .expected(format!("{:?}", a.dims()))
            .got(format!("{:?}", b.dims()))
            .hint("picture.fit(width, height)"));
        }
        let taps = |x: &Tensor| -> Result<Vec<Tensor>> {
            // Pictures lie in main memory.
            let x = x.to_device(self.vgg.device())?.affine(2.0, -1.0)?;
            let x = x.broadcast_sub(&row(&SHIFT, &x)?)?.broadcast_div(&row(&SCALE, &x)?)?;
            let unit = |x: Tensor| -> Result<Tensor> {
                let length = (x.sqr()?.sum_keepdim(1)? + LEAST)?.sqrt()?;
                Ok(x.broadcast_div(&(length + 1e-10)?)?)
            };
            self.vgg.taps(x, SLICES.len())?.into_iter().map(unit).collect()
        };
        let mut sum = Tensor::zeros(n, a.dtype(), self.vgg.device())?;
        for ((a, b), weight) in taps(a)?.iter().zip(&taps(b)?).zip(&self.weights) {
            let apart = (a - b)?.sqr()?.broadcast_mul(weight)?.sum(1)?;
            sum = (sum + apart.flatten_from(1)?.mean(1)?)?;
        }
        Ok(sum)
    }
}
