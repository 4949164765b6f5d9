//! VGG16's features (Simonyan and Zisserman 2014, arXiv 1409.1556; torchvision's `vgg16().features` by name), as
//! perceptual losses take them: after relu1_2, relu2_2, relu3_3 and relu4_3.

use candle_core::Tensor;

use crate::engine::error::{Error, Result};
use crate::engine::fields::{Pooling, Window, pool};
use crate::engine::ops::{Conv2d, Padding, resize_bilinear};
use crate::engine::weights::Scope;

/// Numbers of torchvision's convolutions, slice by slice; a slice ends after its last ReLU, and the next begins with a
/// pool that halves the size.
const SLICES: [&[usize]; 4] = [&[0, 2], &[5, 7], &[10, 12, 14], &[17, 19, 21]];
/// Side of the pictures that it was trained on.
const SIDE: usize = 224;
/// ImageNet's colors.
const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const STD: [f64; 3] = [0.229, 0.224, 0.225];

/// The first ten convolutions.
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
        for numbers in SLICES {
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

    /// Pixels `[n, 3, h, w]` in 0..1 → the four activations, with a graph; pictures are scaled bilinearly to 224 pixels,
    /// values outside of 0..1 count as the nearest inside.
    pub fn forward(&self, pixels: &Tensor) -> Result<Vec<Tensor>> {
        let (_, _, h, w) = pixels.dims4()?;
        let x =
            if (h, w) == (SIDE, SIDE) { pixels.contiguous()? } else { resize_bilinear(pixels, SIDE, SIDE)? };
        let x = x.clamp(0.0, 1.0)?;
        let row = |v: &[f64; 3]| -> Result<Tensor> {
            Ok(Tensor::from_slice(v, (1, 3, 1, 1), x.device())?.to_dtype(x.dtype())?)
        };
        let mut x = x.broadcast_sub(&row(&MEAN)?)?.broadcast_div(&row(&STD)?)?;
        let mut all = Vec::with_capacity(self.slices.len());
        for (i, convs) in self.slices.iter().enumerate() {
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
