//! The sampling schedule: which timesteps, how noisy each level is, and DDIM's step down and up.
//!
//! Level `i` of a schedule of `len` steps is the noise level before step `i`; level `len` is the end. Latents are
//! variance preserving: `z = sqrt(ab) x0 + sqrt(1 - ab) noise`.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::noise::TorchNoise;
use super::train_schedule::{Prediction, TrainSchedule};
use crate::engine::error::{Error, Result};
use crate::engine::latent::{Clean, Latent};

/// `n` sampling steps of DDIM (Song et al. 2021). Immutable, cheap to clone.
#[derive(Clone, Debug)]
pub struct Schedule {
    train: Arc<TrainSchedule>,
    timesteps: Arc<Vec<usize>>,
    even: bool,
    noise_eta: f64,
    seed: u64,
}

impl Schedule {
    /// `n` steps. `noise_eta` in 0..1 is DDIM's stochasticity; its noise comes from `seed`'s generator, continued
    /// after the starting noise, picture `i` of a batch from seed + i.
    /// Errors: n out of range, `noise_eta` outside 0..1.
    pub fn new(train: Arc<TrainSchedule>, n: usize, noise_eta: f64, seed: u64) -> Result<Self> {
        let timesteps = train.timesteps(n)?;
        if !(0.0..=1.0).contains(&noise_eta) {
            return Err(Error::value("schedule", "noise_eta is out of range")
                .expected("0..1")
                .got(noise_eta.to_string()));
        }
        let gaps: Vec<usize> = timesteps.windows(2).map(|w| w[0].saturating_sub(w[1])).collect();
        let even = gaps.windows(2).all(|w| w[0] == w[1]);
        Ok(Schedule { train, timesteps: Arc::new(timesteps), even, noise_eta, seed })
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.timesteps.len()
    }

    /// Never: a schedule has at least one step.
    pub fn is_empty(&self) -> bool {
        self.timesteps.is_empty()
    }

    /// All timesteps, noisiest first.
    pub fn timesteps(&self) -> &[usize] {
        &self.timesteps
    }

    /// The training timestep of step `i`, 0..T-1. Errors: `i` is not a step.
    pub fn t(&self, i: usize) -> Result<usize> {
        self.timesteps.get(i).copied().ok_or_else(|| self.no_step("t", i))
    }

    /// alpha_bar at level `i`; level `len` has the schedule's final alpha. Errors: `i` above `len`.
    pub fn alpha_bar(&self, i: usize) -> Result<f64> {
        match i.cmp(&self.len()) {
            std::cmp::Ordering::Less => Ok(self.train.alphas[self.timesteps[i]]),
            std::cmp::Ordering::Equal => Ok(self.train.final_alpha),
            std::cmp::Ordering::Greater => Err(Error::value("alpha_bar", format!("there is no level {i}"))
                .expected(format!("0..{} (level {} is the end)", self.len(), self.len()))),
        }
    }

    /// The level at which a share `x` of the noise is left, 0 (clean: level `len`) to 1 (level 0):
    /// `len - floor(x len + 1e-6)` for evenly spaced timesteps, else the first timestep at or below `x` T.
    /// Errors: x outside 0..1.
    pub fn at_level(&self, x: f64) -> Result<usize> {
        if !(0.0..=1.0).contains(&x) {
            return Err(Error::value("at_level", "a noise level lies between 0 (clean) and 1 (noise)")
                .got(x.to_string()));
        }
        let n = self.len();
        if self.even {
            return Ok(n - ((x * n as f64 + 1e-6).floor() as usize).min(n));
        }
        let limit = x * self.train.len() as f64;
        Ok(self.timesteps.iter().position(|&t| t as f64 <= limit + 1e-6).unwrap_or(n))
    }

    /// `sqrt(ab) x0 + sqrt(1 - ab) noise` at level `i`. Errors: no such level, shapes that differ.
    pub fn add_noise(&self, x0: &Latent, noise: &Latent, i: usize) -> Result<Latent> {
        let ab = self.alpha_bar(i)?;
        if x0.dims().1 != noise.dims().1 || x0.dims().2 != noise.dims().2 || x0.dims().3 != noise.dims().3 {
            Latent::same_shape("add_noise", x0, noise)?;
        }
        let x0 = x0.expand_batch("add_noise", noise.dims().0)?;
        Latent::same_shape("add_noise", &x0, noise)?;
        x0.scale(ab.sqrt())?.add(&noise.scale((1.0 - ab).sqrt())?)
    }

    /// The clean latent that `z` at level `i` and the noise prediction `eps` imply, clipped or thresholded as the
    /// config says.
    pub fn x0(&self, z: &Latent, eps: &Latent, i: usize) -> Result<Latent> {
        Latent::same_shape("step", z, eps)?;
        let ab = self.train.alphas[self.t(i)?];
        let x0 = match eps.clean() {
            Some(clean) if clean.of == z.tensor().id() && clean.alpha == ab => {
                Latent::new(clean.tensor.clone())?
            }
            _ => z.sub(&eps.scale((1.0 - ab).sqrt())?)?.scale(1.0 / ab.max(f64::MIN_POSITIVE).sqrt())?,
        };
        if let Some((ratio, most)) = self.train.threshold {
            return Latent::new(threshold(x0.tensor(), ratio, most)?);
        }
        match self.train.clip {
            Some(limit) => Latent::new(x0.tensor().clamp(-limit, limit)?),
            None => Ok(x0),
        }
    }

    /// DDIM step from level `i` to `i + 1`; with `noise_eta`, the noise comes from the seed.
    /// Errors: no such step, shapes that differ.
    pub fn step(&self, z: &Latent, eps: &Latent, i: usize) -> Result<Latent> {
        if self.noise_eta == 0.0 {
            return self.step_with(z, eps, i, None);
        }
        self.step_with(z, eps, i, Some(&self.step_noise(z, i)?))
    }

    /// [`Schedule::step`] with noise of the caller's own (`None`: none, whatever `noise_eta` says).
    pub fn step_with(&self, z: &Latent, eps: &Latent, i: usize, noise: Option<&Latent>) -> Result<Latent> {
        let x0 = self.x0(z, eps, i)?;
        let (ab, next) = (self.train.alphas[self.t(i)?], self.arrival(i)?);
        let variance = if ab < 1.0 { ((1.0 - next) / (1.0 - ab) * (1.0 - ab / next)).max(0.0) } else { 0.0 };
        let sigma = noise.map_or(0.0, |_| self.noise_eta * variance.sqrt());
        let direction = (1.0 - next - sigma * sigma).max(0.0).sqrt();
        let out = x0.scale(next.sqrt())?.add(&eps.scale(direction)?)?;
        match noise {
            Some(noise) => out.add(&noise.scale(sigma)?),
            None => Ok(out),
        }
    }

    /// DDIM inverse step, from level `i + 1` up to level `i`, with `eps` predicted at step `i`'s timestep:
    /// `step(back(z, eps, i), eps, i)` gives back `z` (without noise, clipping or thresholding).
    pub fn back(&self, z: &Latent, eps: &Latent, i: usize) -> Result<Latent> {
        Latent::same_shape("back", z, eps)?;
        let (ab, next) = (self.train.alphas[self.t(i)?], self.arrival(i)?);
        let x0 = z.sub(&eps.scale((1.0 - next).sqrt())?)?.scale(1.0 / next.sqrt())?;
        x0.scale(ab.sqrt())?.add(&eps.scale((1.0 - ab).sqrt())?)
    }

    /// alpha_bar where step `i` arrives: T / n timesteps lower, as diffusers steps, which for timesteps that are not
    /// evenly spaced is not quite level `i + 1`.
    fn arrival(&self, i: usize) -> Result<f64> {
        let back = self.train.len() / self.len();
        let t = self.t(i)?;
        Ok(if t >= back { self.train.alphas[t - back] } else { self.train.final_alpha })
    }

    /// The noise of step `i`: draw number `i + 1` of each picture's generator (draw 0 is its starting noise).
    fn step_noise(&self, like: &Latent, i: usize) -> Result<Latent> {
        let (n, c, h, w) = like.dims();
        let mut values = Vec::with_capacity(n * c * h * w);
        for picture in 0..n as u64 {
            let mut generator = TorchNoise::new(self.seed.wrapping_add(picture));
            for _ in 0..=i {
                generator.normal(c * h * w);
            }
            values.extend(generator.normal(c * h * w));
        }
        let z = like.tensor();
        Latent::new(Tensor::from_vec(values, (n, c, h, w), z.device())?.to_dtype(z.dtype())?)
    }

    fn no_step(&self, op: &str, i: usize) -> Error {
        Error::value(op, format!("there is no step {i}"))
            .expected(format!("0..{}", self.len() - 1))
            .hint("for i in start..s.len { ... }")
    }
}

/// The noise that a network's output `out` implies in `z`, whatever the network was trained to predict; `ab` is alpha_bar
/// at its timestep. The clean latent that the network meant travels along.
pub fn implied_noise(kind: Prediction, z: &Latent, out: Tensor, ab: f64) -> Result<Latent> {
    let out = Latent::new(out)?;
    let (signal, noise) = (ab.sqrt(), (1.0 - ab).sqrt());
    match kind {
        Prediction::Epsilon => Ok(out),
        Prediction::Velocity => {
            let eps = out.scale(signal)?.add(&z.scale(noise)?)?;
            let clean = z.scale(signal)?.sub(&out.scale(noise)?)?;
            Ok(eps.with_clean(Clean { tensor: clean.tensor().clone(), of: z.tensor().id(), alpha: ab }))
        }
        Prediction::Sample => {
            let eps = z.sub(&out.scale(signal)?)?.scale(1.0 / noise.max(1e-8))?;
            Ok(eps.with_clean(Clean { tensor: out.tensor().clone(), of: z.tensor().id(), alpha: ab }))
        }
    }
}

/// Dynamic thresholding (Saharia et al. 2022): per picture, clamp to the quantile of |x| (at least 1, at most `most`),
/// then divide by it.
fn threshold(x: &Tensor, ratio: f64, most: f64) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let flat = x.abs()?.flatten_from(1)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let pictures: Vec<Tensor> = flat
        .into_iter()
        .enumerate()
        .map(|(i, mut values)| {
            values.sort_by(f32::total_cmp);
            let at = ratio.clamp(0.0, 1.0) * (values.len() - 1) as f64;
            let (low, share) = (at.floor() as usize, at.fract());
            let high = (low + 1).min(values.len() - 1);
            let quantile = f64::from(values[low]) * (1.0 - share) + f64::from(values[high]) * share;
            let s = quantile.clamp(1.0, most.max(1.0));
            Ok(((x.narrow(0, i, 1)?.clamp(-s, s)?) / s)?)
        })
        .collect::<Result<_>>()?;
    Ok(Tensor::cat(&pictures, 0)?.reshape((n, c, h, w))?)
}
