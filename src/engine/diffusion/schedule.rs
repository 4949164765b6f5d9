//! The sampling schedule: which timesteps, how noisy each level is, and the steps down and up.
//!
//! Level `i` of a schedule of `len` steps is the noise level before step `i`; level `len` is the end. Latents are
//! variance preserving, `z = sqrt(ab) x0 + sqrt(1 - ab) noise`, whatever the sampler works in. Between two levels every
//! first-order sampler takes the same step: to the predicted clean latent and back out to the next level. Euler in sigma
//! space differs from DDIM in its levels alone, and its ancestral form is DDIM with all the noise.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::noise::Rng;
use super::sampler::{Method, Plan, Sampler};
use super::train_schedule::{Prediction, TrainSchedule};
use crate::engine::error::{Error, Result};
use crate::engine::latent::{Latent, Raw};

/// What a schedule is made with, beside the number of steps.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScheduleOptions {
    /// How a step is computed.
    pub sampler: Sampler,
    /// Share of fresh noise in a step of DDIM or Euler, 0..1.
    pub noise_eta: f64,
    /// Whose generator, continued after the starting noise, gives that noise; picture `i` of a batch has seed + i.
    pub seed: u64,
    /// Which generator.
    pub rng: Rng,
}

/// `n` sampling steps. Immutable, cheap to clone.
#[derive(Clone, Debug)]
pub struct Schedule {
    train: Arc<TrainSchedule>,
    plan: Arc<Plan>,
    even: bool,
    options: ScheduleOptions,
}

impl Schedule {
    /// `n` steps. Errors: n out of the sampler's range; `noise_eta` outside 0..1, or with a sampler that has no use for it.
    pub fn new(train: Arc<TrainSchedule>, n: usize, options: ScheduleOptions) -> Result<Self> {
        let plan = Plan::new(&train, options.sampler, n)?;
        if !(0.0..=1.0).contains(&options.noise_eta) {
            return Err(Error::value("schedule", "noise_eta is out of range")
                .expected("0..1")
                .got(options.noise_eta.to_string()));
        }
        if options.noise_eta != 0.0 && !matches!(options.sampler.method, Method::Ddim | Method::Euler) {
            return Err(Error::value("schedule", format!("{} has no noise_eta", options.sampler.name()))
                .expected("0, or the sampler ddim, euler or euler_karras")
                .got(options.noise_eta.to_string())
                .hint("euler_a is the sampler with all the noise"));
        }
        let gaps: Vec<f64> = plan.timesteps.windows(2).map(|w| w[0] - w[1]).collect();
        let even = gaps.windows(2).all(|w| (w[0] - w[1]).abs() < 1e-6);
        Ok(Schedule { train, plan: Arc::new(plan), even, options })
    }

    /// What it was made with.
    pub fn options(&self) -> &ScheduleOptions {
        &self.options
    }

    /// The same levels with fresh noise of another seed and share: to go on from the middle in another way.
    /// Errors: as for [`Schedule::new`].
    pub fn with_noise(&self, noise_eta: f64, seed: u64) -> Result<Self> {
        Self::new(Arc::clone(&self.train), self.len(), ScheduleOptions { noise_eta, seed, ..self.options })
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.plan.timesteps.len()
    }

    /// Never: a schedule has at least one step.
    pub fn is_empty(&self) -> bool {
        self.plan.timesteps.is_empty()
    }

    /// All timesteps, noisiest first. Euler's lie between two training timesteps with some configs.
    pub fn timesteps(&self) -> &[f64] {
        &self.plan.timesteps
    }

    /// The training timestep of step `i`, 0..T-1. Errors: `i` is not a step.
    pub fn t(&self, i: usize) -> Result<f64> {
        self.plan.timesteps.get(i).copied().ok_or_else(|| self.no_step("t", i))
    }

    /// alpha_bar at level `i`; level `len` has the schedule's final alpha. Errors: `i` above `len`.
    pub fn alpha_bar(&self, i: usize) -> Result<f64> {
        self.plan.levels.get(i).copied().ok_or_else(|| {
            Error::value("alpha_bar", format!("there is no level {i}")).expected(format!(
                "0..{} (level {} is the end)",
                self.len(),
                self.len()
            ))
        })
    }

    /// The latent at level 0 that pure noise stands for, by the sampler's own rule (for most: the noise itself).
    pub fn start(&self, noise: &Latent) -> Result<Latent> {
        if self.plan.start == 1.0 { Ok(noise.clone()) } else { noise.scale(self.plan.start) }
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
        Ok(self.timesteps().iter().position(|&t| t <= limit + 1e-6).unwrap_or(n))
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
        self.t(i)?;
        let ab = self.alpha_bar(i)?;
        let (signal, noise) = (ab.sqrt(), (1.0 - ab).sqrt());
        let x0 = match eps.raw().filter(|raw| raw.of == z.tensor().id()) {
            Some(Raw { kind: Prediction::Sample, tensor, .. }) => Latent::new(tensor.clone())?,
            Some(Raw { kind: Prediction::Velocity, tensor, .. }) => {
                z.scale(signal)?.sub(&Latent::new(tensor.clone())?.scale(noise)?)?
            }
            _ => z.sub(&eps.scale(noise)?)?.scale(1.0 / ab.max(f64::MIN_POSITIVE).sqrt())?,
        };
        let method = self.options.sampler.method;
        if let Some((ratio, most)) = self.train.threshold.filter(|_| !method.is_euler()) {
            return Latent::new(threshold(x0.tensor(), ratio, most)?);
        }
        match self.train.clip.filter(|_| matches!(method, Method::Ddim | Method::Lcm)) {
            Some(limit) => Latent::new(x0.tensor().clamp(-limit, limit)?),
            None => Ok(x0),
        }
    }

    /// Step from level `i` to `i + 1`, of first order; fresh noise, if the sampler takes any, comes from the seed.
    /// Errors: no such step, shapes that differ.
    pub fn step(&self, z: &Latent, eps: &Latent, i: usize) -> Result<Latent> {
        let noise = self.step_noise(z, i)?;
        self.step_with(z, eps, i, noise.as_ref())
    }

    /// [`Schedule::step`] with noise of the caller's own (`None`: none, whatever the sampler).
    pub fn step_with(&self, z: &Latent, eps: &Latent, i: usize, noise: Option<&Latent>) -> Result<Latent> {
        let x0 = self.x0(z, eps, i)?;
        Ok(self.advance(z, eps, &x0, i, noise)?.with_kept(eps.kept().cloned()))
    }

    /// [`Schedule::step_with`] for a clean latent `x0` that is known already.
    pub(super) fn advance(
        &self,
        z: &Latent,
        eps: &Latent,
        x0: &Latent,
        i: usize,
        noise: Option<&Latent>,
    ) -> Result<Latent> {
        let (ab, next) = (self.alpha_bar(i)?, self.arrival(i)?);
        match self.options.sampler.method {
            Method::Lcm => return self.consistency(z, x0, i, noise),
            Method::DpmPp2m => {
                // In terms of the clean latent: a clipped one also changes what counts as noise.
                let down = ((1.0 - next) / (1.0 - ab).max(f64::MIN_POSITIVE)).sqrt();
                return z.scale(down)?.add(&x0.scale(next.sqrt() - ab.sqrt() * down)?);
            }
            Method::Ddim | Method::Euler | Method::EulerAncestral => {}
        }
        let variance = if ab < 1.0 { ((1.0 - next) / (1.0 - ab) * (1.0 - ab / next)).max(0.0) } else { 0.0 };
        let sigma = noise.map_or(0.0, |_| self.eta() * variance.sqrt());
        let direction = (1.0 - next - sigma * sigma).max(0.0).sqrt();
        let out = x0.scale(next.sqrt())?.add(&eps.scale(direction)?)?;
        match noise {
            Some(noise) => out.add(&noise.scale(sigma)?),
            None => Ok(out),
        }
    }

    /// Luo et al. 2023, algorithm 3, with the boundary condition of Song et al. 2023, eq. 5 (sigma_data = 0.5).
    fn consistency(&self, z: &Latent, x0: &Latent, i: usize, noise: Option<&Latent>) -> Result<Latent> {
        let scaled = self.t(i)? * self.train.lcm_scaling;
        let skip = 0.25 / (scaled * scaled + 0.25);
        let out = scaled / (scaled * scaled + 0.25).sqrt();
        let clean = x0.scale(out)?.add(&z.scale(skip)?)?;
        match noise.filter(|_| i + 1 < self.len()) {
            Some(noise) => {
                let next = self.arrival(i)?;
                clean.scale(next.sqrt())?.add(&noise.scale((1.0 - next).sqrt())?)
            }
            None => Ok(clean),
        }
    }

    /// Inverse step, from level `i + 1` up to level `i`, with `eps` predicted at step `i`'s timestep:
    /// `step(back(z, eps, i), eps, i)` gives back `z` (without noise, clipping or thresholding).
    /// Errors: no such step, shapes that differ, a sampler that cannot be inverted.
    pub fn back(&self, z: &Latent, eps: &Latent, i: usize) -> Result<Latent> {
        Latent::same_shape("back", z, eps)?;
        self.t(i).map_err(|e| e.op("back"))?;
        if self.options.sampler.method == Method::Lcm {
            return Err(Error::value("back", "consistency steps cannot be inverted")
                .hint("take a schedule with the sampler ddim"));
        }
        let (ab, next) = (self.alpha_bar(i)?, self.arrival(i)?);
        let x0 = z.sub(&eps.scale((1.0 - next).sqrt())?)?.scale(1.0 / next.sqrt())?;
        x0.scale(ab.sqrt())?.add(&eps.scale((1.0 - ab).sqrt())?)
    }

    /// alpha_bar where step `i` arrives.
    fn arrival(&self, i: usize) -> Result<f64> {
        self.plan.arrivals.get(i).copied().ok_or_else(|| self.no_step("step", i))
    }

    fn eta(&self) -> f64 {
        if self.options.sampler.method == Method::EulerAncestral { 1.0 } else { self.options.noise_eta }
    }

    /// What a multistep sampler adds to the first-order step `i` for the change since the clean latent `before`, which
    /// was predicted at level `from`. `None` where the step stays of first order.
    pub(super) fn second_order(
        &self,
        x0: &Latent,
        before: &Latent,
        from: usize,
        i: usize,
    ) -> Result<Option<Latent>> {
        // The last step is of first order where it ends in a clean latent, and with few steps.
        if i + 1 == self.len() && (self.arrival(i)? == 1.0 || self.len() < 15) {
            return Ok(None);
        }
        let log_snr = |ab: f64| 0.5 * (ab / (1.0 - ab)).ln();
        let (last, ab, next) = (self.alpha_bar(from)?, self.alpha_bar(i)?, self.arrival(i)?);
        let h = log_snr(next) - log_snr(ab);
        let before_h = log_snr(ab) - log_snr(last);
        let down = ((1.0 - next) / (1.0 - ab)).sqrt();
        let weight = 0.5 * (next.sqrt() - ab.sqrt() * down) * h / before_h;
        if !weight.is_finite() {
            return Ok(None);
        }
        Ok(Some(x0.sub(before)?.scale(weight)?))
    }

    /// The fresh noise of step `i`, if the sampler takes any: draw number `i + 1` of each picture's generator (draw 0 is
    /// its starting noise).
    pub(super) fn step_noise(&self, like: &Latent, i: usize) -> Result<Option<Latent>> {
        let wanted = match self.options.sampler.method {
            Method::Lcm => i + 1 < self.len(),
            _ => self.eta() != 0.0,
        };
        if !wanted {
            return Ok(None);
        }
        let (n, c, h, w) = like.dims();
        let values: Vec<f32> = (0..n as u64)
            .flat_map(|picture| {
                self.options.rng.draw(self.options.seed.wrapping_add(picture), i + 1, c * h * w)
            })
            .collect();
        let z = like.tensor();
        Ok(Some(Latent::new(Tensor::from_vec(values, (n, c, h, w), z.device())?.to_dtype(z.dtype())?)?))
    }

    fn no_step(&self, op: &str, i: usize) -> Error {
        Error::value(op, format!("there is no step {i}"))
            .expected(format!("0..{}", self.len() - 1))
            .hint("for i in start..s.len { ... }")
    }
}

/// The noise that a network's output `out` implies in `z`, whatever the network was trained to predict; `ab` is alpha_bar
/// at its timestep. What the network said itself travels along.
pub fn implied_noise(kind: Prediction, z: &Latent, out: Tensor, ab: f64) -> Result<Latent> {
    let raw = Raw { tensor: out.clone(), kind, of: z.tensor().id() };
    let out = Latent::new(out)?;
    let (signal, noise) = (ab.sqrt(), (1.0 - ab).sqrt());
    match kind {
        Prediction::Epsilon => Ok(out),
        Prediction::Velocity => Ok(out.scale(signal)?.add(&z.scale(noise)?)?.with_raw(raw)),
        Prediction::Sample => Ok(z.sub(&out.scale(signal)?)?.scale(1.0 / noise.max(1e-8))?.with_raw(raw)),
    }
}

/// Dynamic thresholding (Saharia et al. 2022): per picture, clamp to the quantile of |x| (at least 1, at most `most`),
/// then divide by it.
fn threshold(x: &Tensor, ratio: f64, most: f64) -> Result<Tensor> {
    if x.track_op() {
        return Err(crate::engine::image::no_gradient("thresholding"));
    }
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
