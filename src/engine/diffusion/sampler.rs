//! Samplers: which timesteps they visit, and how noisy the levels between their steps are.
//!
//! Every sampler is described by the same four lists, in variance-preserving terms: an x in sigma space
//! (`x = x0 + sigma noise`, as Euler and k-diffusion write it) is the latent `x / sqrt(1 + sigma^2)`, and a sigma is the
//! level with `alpha_bar = 1 / (1 + sigma^2)`. The rules by which a config spreads timesteps differ between diffusers'
//! classes and are followed class by class.

use super::train_schedule::{Spacing, TrainSchedule, interpolate, linspace};
use crate::engine::error::{Error, Result};

/// How a step is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Song et al. 2021: deterministic, or with fresh noise.
    #[default]
    Ddim,
    /// Euler's method on the probability flow in sigma space (Karras et al. 2022, algorithm 2 without churn).
    Euler,
    /// Euler with as much fresh noise as keeps the variance (k-diffusion's ancestral step).
    EulerAncestral,
    /// DPM-Solver++(2M), Lu et al. 2022, algorithm 2: second order from the prediction before.
    DpmPp2m,
    /// Consistency steps (Luo et al. 2023): predict the clean latent, noise it again. For distilled models.
    Lcm,
}

impl Method {
    /// Whether it counts in sigmas and leaves predictions as they are.
    pub(super) fn is_euler(self) -> bool {
        matches!(self, Method::Euler | Method::EulerAncestral)
    }
}

/// A method, on its own levels or on those of Karras et al. 2022, eq. 5 (rho = 7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampler {
    /// How a step is computed.
    pub method: Method,
    /// Whether the levels are those of Karras et al.
    pub karras: bool,
}

/// Names, in the order of help texts.
const NAMES: [(&str, Method, bool); 7] = [
    ("ddim", Method::Ddim, false),
    ("euler", Method::Euler, false),
    ("euler_a", Method::EulerAncestral, false),
    ("euler_karras", Method::Euler, true),
    ("dpmpp_2m", Method::DpmPp2m, false),
    ("dpmpp_2m_karras", Method::DpmPp2m, true),
    ("lcm", Method::Lcm, false),
];

impl Sampler {
    /// The sampler of that name. Errors: no such name.
    pub fn parse(name: &str) -> Result<Self> {
        NAMES
            .iter()
            .find(|(n, ..)| *n == name)
            .map(|&(_, method, karras)| Sampler { method, karras })
            .ok_or_else(|| {
                Error::missing("schedule", format!("there is no sampler {name}"))
                    .expected(Self::names().collect::<Vec<_>>().join(", "))
            })
    }

    /// All names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(n, ..)| *n)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|&&(_, m, k)| (m, k) == (self.method, self.karras)).map_or("", |(n, ..)| n)
    }

    /// Whether a step also uses predictions from before it.
    pub fn is_multistep(self) -> bool {
        self.method == Method::DpmPp2m
    }
}

/// What a sampler makes of a training schedule and a number of steps.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Training timestep of every step, noisiest first; not always whole.
    pub timesteps: Vec<f64>,
    /// alpha_bar before every step, and at the end: one more than steps.
    pub levels: Vec<f64>,
    /// alpha_bar where every step arrives. For DDIM on timesteps that are not evenly spaced this is not quite the next
    /// level: diffusers steps T / n timesteps down, whatever comes next.
    pub arrivals: Vec<f64>,
    /// By what pure noise is multiplied to be the latent at level 0.
    pub start: f64,
}

impl Plan {
    pub fn new(train: &TrainSchedule, sampler: Sampler, n: usize) -> Result<Self> {
        match sampler.method {
            Method::Ddim => {
                let steps = train.timesteps(n)?;
                let back = train.len() / n;
                let arrive = |&t: &usize| if t >= back { train.alphas[t - back] } else { train.final_alpha };
                Ok(Self::at(train, &steps, steps.iter().map(arrive).collect()))
            }
            Method::Lcm => {
                let steps = lcm_timesteps(train, n)?;
                let mut plan = Self::at(train, &steps, Vec::new());
                plan.arrivals = plan.levels[1..].to_vec();
                Ok(plan)
            }
            Method::Euler | Method::EulerAncestral => euler(train, sampler, n),
            Method::DpmPp2m => dpm(train, sampler, n),
        }
    }

    fn at(train: &TrainSchedule, steps: &[usize], arrivals: Vec<f64>) -> Self {
        let mut levels: Vec<f64> = steps.iter().map(|&t| train.alphas[t]).collect();
        levels.push(train.final_alpha);
        Plan { timesteps: steps.iter().map(|&t| t as f64).collect(), levels, arrivals, start: 1.0 }
    }

    fn from_sigmas(timesteps: Vec<f64>, sigmas: &[f64], end: f64, start: f64) -> Self {
        let mut levels: Vec<f64> = sigmas.iter().map(|s| 1.0 / (1.0 + s * s)).collect();
        levels.push(end);
        let arrivals = levels[1..].to_vec();
        Plan { timesteps, levels, arrivals, start }
    }
}

/// diffusers' `EulerDiscreteScheduler` and `EulerAncestralDiscreteScheduler`: `linspace` is their default and keeps
/// fractions of timesteps.
fn euler(train: &TrainSchedule, sampler: Sampler, n: usize) -> Result<Plan> {
    let spacing = train.spacing.unwrap_or(Spacing::Linspace);
    let steps = match spacing {
        Spacing::Linspace => {
            let top = (train.len() - 1) as f64;
            if n == 0 || n > train.len() {
                return Err(train.wrong_count(n));
            }
            (0..n).rev().map(|i| if n == 1 { 0.0 } else { top * i as f64 / (n - 1) as f64 }).collect()
        }
        _ => train.spaced(spacing, n)?.iter().map(|&t| t as f64).collect::<Vec<_>>(),
    };
    let training = train.sigmas();
    let mut sigmas: Vec<f64> = steps.iter().map(|&t| interpolate(&training, t)).collect();
    let mut timesteps = steps;
    if sampler.karras {
        sigmas = karras(sigmas[0], sigmas[n - 1], n);
        timesteps = sigmas.iter().map(|&s| timestep_of(&training, s)).collect();
    }
    // Leading timesteps never reach the last one: the noise there counts as if the signal were added to it.
    let start = match spacing {
        Spacing::Leading => 1.0,
        Spacing::Trailing | Spacing::Linspace => {
            let most = sigmas.iter().copied().fold(0.0, f64::max);
            most / (1.0 + most * most).sqrt()
        }
    };
    let end = if sampler.method == Method::Euler { train.last_level() } else { 1.0 };
    Ok(Plan::from_sigmas(timesteps, &sigmas, end, start))
}

/// diffusers' `DPMSolverMultistepScheduler`: n + 1 points are laid out, and the cleanest is dropped.
fn dpm(train: &TrainSchedule, sampler: Sampler, n: usize) -> Result<Plan> {
    let total = train.len();
    if n == 0 || n >= total {
        return Err(train.wrong_count(n));
    }
    let training = train.sigmas();
    if sampler.karras {
        let sigmas = karras(training[total - 1], training[0], n);
        let exact = sigmas.iter().map(|&s| timestep_of(&training, s));
        let whole = if train.cosine { f64::floor } else { f64::round_ties_even };
        return Ok(Plan::from_sigmas(exact.map(whole).collect(), &sigmas, train.last_level(), 1.0));
    }
    // Timesteps whose log-SNR lies below the clip are never visited.
    let last = training.iter().take_while(|s| -s.ln() >= train.lambda_min).count().max(1);
    let steps: Vec<f64> = match train.spacing.unwrap_or(Spacing::Linspace) {
        Spacing::Linspace => {
            linspace(0.0, (last - 1) as f64, n + 1)[1..].iter().rev().map(|t| t.round_ties_even()).collect()
        }
        Spacing::Leading => (1..=n).rev().map(|i| (i * (last / (n + 1)) + train.offset) as f64).collect(),
        Spacing::Trailing => train.spaced(Spacing::Trailing, n)?.iter().map(|&t| t as f64).collect(),
    };
    if let Some(t) = steps.iter().find(|&&t| t >= total as f64) {
        return Err(train.beyond(n, *t as usize));
    }
    let sigmas: Vec<f64> = steps.iter().map(|&t| interpolate(&training, t)).collect();
    Ok(Plan::from_sigmas(steps, &sigmas, train.last_level(), 1.0))
}

/// diffusers' `LCMScheduler`: every so many of the timesteps that the model was distilled with.
fn lcm_timesteps(train: &TrainSchedule, n: usize) -> Result<Vec<usize>> {
    let distilled = train.lcm_steps.min(train.len());
    if n == 0 || n > distilled {
        return Err(Error::value("schedule", "the number of steps is out of range for lcm")
            .expected(format!("1..{distilled}, the steps it was distilled with"))
            .got(n.to_string())
            .hint("4 to 8 steps are usual"));
    }
    let stride = train.len() / distilled;
    // In floats, as numpy's linspace has it: what it rounds off decides which way a whole number goes.
    let skip = distilled as f64 / n as f64;
    Ok((0..n).map(|i| (distilled - (i as f64 * skip) as usize) * stride - 1).collect())
}

/// Karras et al. 2022, eq. 5, rho = 7.
fn karras(most: f64, least: f64, n: usize) -> Vec<f64> {
    let (from, to) = (most.powf(1.0 / 7.0), least.powf(1.0 / 7.0));
    let share = |i: usize| if n == 1 { 0.0 } else { i as f64 / (n - 1) as f64 };
    (0..n).map(|i| (from + share(i) * (to - from)).powi(7)).collect()
}

/// The fractional timestep of a sigma, linear in its logarithm between neighbours.
fn timestep_of(training: &[f64], sigma: f64) -> f64 {
    if training.len() < 2 {
        return 0.0;
    }
    let log = sigma.max(1e-10).ln();
    let low = training.iter().take_while(|s| s.ln() <= log).count().saturating_sub(1).min(training.len() - 2);
    let (a, b) = (training[low].ln(), training[low + 1].ln());
    low as f64 + ((log - a) / (b - a)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in Sampler::names() {
            assert_eq!(Sampler::parse(name).unwrap().name(), name);
        }
        assert!(Sampler::parse("dpm").is_err());
    }

    #[test]
    fn a_sigma_finds_its_timestep() {
        let training: Vec<f64> = (0..100).map(|i| 0.01 * 1.08f64.powi(i)).collect();
        for t in [0.0, 3.25, 50.0, 98.5] {
            let sigma = (training[0].ln() + t * 1.08f64.ln()).exp();
            assert!((timestep_of(&training, sigma) - t).abs() < 1e-9, "{t}");
        }
    }
}
