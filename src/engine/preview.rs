//! Quick small pictures of latents, one pixel per latent pixel: a linear map from channels to colors that was fitted once
//! for a model (`preview` in its `scumble.json`). No network runs.

use candle_core::{DType, Device};
use image::{Rgb, RgbImage};

use super::error::{Error, Result};
use super::latent::Latent;

/// How latents become colors: one row of red, green and blue per channel, then the bias. Values in 0..1.
#[derive(Clone, Debug, PartialEq)]
pub struct Preview {
    /// `rgb = sum over channels of z_c factors[c], + bias`.
    pub factors: Vec<[f64; 3]>,
    /// Added to every pixel.
    pub bias: [f64; 3],
}

impl Preview {
    /// The first `most` pictures of a batch `[n, c, h, w]`, detached from any graph, as plain pixels of the host.
    /// Errors: another number of channels than the model's.
    pub fn pictures(&self, z: &Latent, most: usize) -> Result<Vec<RgbImage>> {
        let (n, c, h, w) = z.dims();
        if c != self.factors.len() {
            return Err(Error::shape("preview", "the latent is not of this model")
                .expected(format!("{} channels", self.factors.len()))
                .got(format!("{c} channels")));
        }
        let n = n.min(most);
        let some = z.tensor().detach().narrow(0, 0, n)?;
        let values = some.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let plane = h * w;
        let picture = |of: &[f32]| {
            RgbImage::from_fn(w as u32, h as u32, |x, y| {
                let at = y as usize * w + x as usize;
                let mut rgb = self.bias;
                for (channel, factors) in self.factors.iter().enumerate() {
                    let v = f64::from(of.get(channel * plane + at).copied().unwrap_or(0.0));
                    rgb.iter_mut().zip(factors).for_each(|(sum, f)| *sum += v * f);
                }
                // A value that is no number becomes black.
                Rgb(rgb.map(|v| (v.clamp(0.0, 1.0) * 255.0).round() as u8))
            })
        };
        Ok(values.chunks_exact((c * plane).max(1)).map(picture).collect())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::*;

    #[test]
    fn channels_become_colors() {
        let preview = Preview { factors: vec![[1.0, 0.0, 0.0], [0.0, 0.5, 0.0]], bias: [0.0, 0.25, 1.0] };
        let z =
            Tensor::from_vec(vec![0f32, 1.0, -3.0, f32::NAN, 0.5, 0.0, 9.0, 0.0], (1, 2, 2, 2), &Device::Cpu)
                .unwrap();
        let pictures = preview.pictures(&Latent::new(z).unwrap(), 4).unwrap();
        let at = |x, y| pictures[0].get_pixel(x, y).0;
        assert_eq!((pictures.len(), at(0, 0), at(1, 0)), (1, [0, 128, 255], [255, 64, 255]));
        assert_eq!((at(0, 1), at(1, 1)), ([0, 255, 255], [0, 0, 0]));
    }

    #[test]
    fn a_latent_of_another_model_is_an_error() {
        let preview = Preview { factors: vec![[1.0; 3]; 4], bias: [0.0; 3] };
        let z = Latent::new(Tensor::zeros((3, 16, 2, 2), DType::F32, &Device::Cpu).unwrap()).unwrap();
        assert!(preview.pictures(&z, 1).is_err());
        let z = Latent::new(Tensor::zeros((3, 4, 2, 2), DType::F32, &Device::Cpu).unwrap()).unwrap();
        assert_eq!(preview.pictures(&z, 2).unwrap().len(), 2);
    }
}
