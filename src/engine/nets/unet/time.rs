//! The timestep's encoding: sines and cosines of t, then two linear layers (diffusers `Timesteps`,
//! `TimestepEmbedding`).

use candle_core::{DType, Tensor};

use super::config::UnetConfig;
use crate::engine::error::Result;
use crate::engine::nets::layers::linear;
use crate::engine::ops::{self, Linear};
use crate::engine::weights::Scope;

#[derive(Clone, Debug)]
pub(super) struct TimeEmbedding {
    linear1: Linear,
    linear2: Linear,
    width: usize,
    flip: bool,
    shift: f64,
}

impl TimeEmbedding {
    pub(super) fn new(w: &Scope, config: &UnetConfig, temb: usize) -> Result<Self> {
        let width = config.widths[0];
        let w = w.sub("time_embedding");
        Ok(TimeEmbedding {
            linear1: linear(&w.sub("linear_1"), width, temb)?,
            linear2: linear(&w.sub("linear_2"), temb, temb)?,
            width,
            flip: config.flip_sin_to_cos,
            shift: config.freq_shift,
        })
    }

    /// SiLU of the embedding of `t`, `[1, temb]`, in the type and on the device of `like`. Every resnet starts with
    /// that SiLU, so it is done once.
    pub(super) fn forward(&self, t: f64, like: &Tensor) -> Result<Tensor> {
        let half = self.width / 2;
        // f32 like the reference: at t = 999 the rounding of the frequencies is visible in the fourth digit.
        let angle = |i: usize| {
            let exponent = -(10_000f32.ln()) * i as f32 / (half as f32 - self.shift as f32);
            t as f32 * exponent.exp()
        };
        let sines = (0..half).map(|i| angle(i).sin());
        let cosines = (0..half).map(|i| angle(i).cos());
        let mut values: Vec<f32> =
            if self.flip { cosines.chain(sines).collect() } else { sines.chain(cosines).collect() };
        values.resize(self.width, 0.0);
        let x = Tensor::from_vec(values, (1, self.width), like.device())?;
        let x = if like.dtype() == DType::F32 { x } else { x.to_dtype(like.dtype())? };
        ops::silu(&self.linear2.forward(&ops::silu(&self.linear1.forward(&x)?)?)?)
    }
}
