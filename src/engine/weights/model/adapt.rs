//! Whether two models share a latent space.

use candle_core::{D, DType, Device, Tensor};

use super::Model;
use crate::engine::error::{Error, Result};
use crate::engine::image::Picture;

/// By how much the latents of one picture may differ, as a share of their length, in two models that share a latent space:
/// autoencoders whose decoder alone was tuned give equal latents, others give unrelated ones.
const SAME: f64 = 0.05;

impl Model {
    /// Whether latents mean the same in both models: channels, sizes, noise levels, and the latent of a test picture. The
    /// text encoders may differ. Errors: what differs.
    pub fn same_latents(&self, other: &Model) -> Result<()> {
        let (a, b) = (&self.0, &other.0);
        let differ = |what: &str, one: String, two: String| {
            Error::value("same_latents", format!("{} and {} cannot share latents: {what}", a.name, b.name))
                .expected(one)
                .got(two)
                .hint("take two models that were tuned from the same one")
        };
        let (va, vb) = (a.vae.config(), b.vae.config());
        if (va.latent_channels, va.factor) != (vb.latent_channels, vb.factor) {
            let text = |c: usize, f: usize| format!("{c} channels, a {f}th of the picture's side");
            return Err(differ(
                "their shapes differ",
                text(va.latent_channels, va.factor),
                text(vb.latent_channels, vb.factor),
            ));
        }
        let (ta, tb) = (&a.train.alphas, &b.train.alphas);
        let levels = ta.len() == tb.len() && ta.iter().zip(tb).all(|(x, y)| (x - y).abs() < 1e-4);
        if !levels {
            return Err(differ(
                "their noise levels differ",
                format!("{} training steps", ta.len()),
                format!("{} with other levels", tb.len()),
            ));
        }
        let unit = self.unit().max(other.unit());
        let picture = test_picture(unit * 64usize.div_ceil(unit))?;
        let (za, zb) = (self.encode_picture(&picture)?, other.encode_picture(&picture)?);
        let length =
            za.tensor().to_dtype(DType::F32)?.flatten_all()?.sqr()?.sum(D::Minus1)?.to_scalar::<f32>()?;
        let apart = za.distance(&zb)? / f64::from(length).sqrt().max(1e-12);
        if apart > SAME {
            return Err(differ(
                "their autoencoders differ",
                format!("latents of one picture at most {SAME} apart"),
                format!("{apart:.2}"),
            ));
        }
        Ok(())
    }
}

/// Colors that change over the picture, and stripes.
fn test_picture(side: usize) -> Result<Picture> {
    let at = |c: usize, y: usize, x: usize| {
        let (y, x) = (y as f32 / side as f32, x as f32 / side as f32);
        [x, y, if ((x * 8.0) as usize).is_multiple_of(2) { 0.2 } else { 0.8 }]
            .get(c)
            .copied()
            .unwrap_or_default()
    };
    let places = (0..3).flat_map(|c| (0..side).flat_map(move |y| (0..side).map(move |x| (c, y, x))));
    let values: Vec<f32> = places.map(|(c, y, x)| at(c, y, x)).collect();
    Picture::from_tensor(Tensor::from_vec(values, (1, 3, side, side), &Device::Cpu)?)
}
