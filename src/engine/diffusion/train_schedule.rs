//! The training schedule: `scheduler_config.json` and the cumulative products of alpha that follow from it.

use serde_json::Value;

use crate::engine::error::{Error, Kind, Result};

/// Steps that consistency models were distilled with, unless their config says otherwise.
const LCM_STEPS: usize = 50;

/// What the network was trained to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// The velocity, `sqrt(ab) noise - sqrt(1 - ab) x0` (Salimans and Ho 2022).
    Velocity,
    /// The clean latent.
    Sample,
}

/// How sampling timesteps are spread over the training timesteps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// `0, r, 2r, ...` plus the offset, r = T / n rounded down.
    Leading,
    /// From the last timestep downward in steps of T / n.
    Trailing,
    /// n points from 0 to T - 1, ends included.
    Linspace,
}

/// `scheduler_config.json`, read with DDIM's rules and defaults.
#[derive(Clone, Debug)]
pub struct TrainSchedule {
    /// Cumulative products of alpha, one per training timestep.
    pub alphas: Vec<f64>,
    /// Alpha of the end of sampling: 1, or the first product.
    pub final_alpha: f64,
    /// What the network predicts.
    pub prediction: Prediction,
    /// Spread of the sampling timesteps; where the config is silent, every sampler has a rule of its own.
    pub spacing: Option<Spacing>,
    /// Added to `Leading` timesteps.
    pub offset: usize,
    /// Clamp of the predicted clean latent, if on.
    pub clip: Option<f64>,
    /// Dynamic thresholding (Imagen): share of values and the largest threshold, if on.
    pub threshold: Option<(f64, f64)>,
    /// Whether sampling ends at the first training timestep's sigma instead of 0 (`final_sigmas_type`).
    pub ends_at_first: bool,
    /// Smallest log-SNR / 2 that DPM-Solver visits (`lambda_min_clipped`).
    pub lambda_min: f64,
    /// Whether the betas follow the cosine schedule.
    pub cosine: bool,
    /// Steps that a consistency model was distilled with (`original_inference_steps`).
    pub lcm_steps: usize,
    /// By what a consistency model's timesteps are multiplied in its boundary condition (`timestep_scaling`).
    pub lcm_scaling: f64,
}

impl TrainSchedule {
    /// Reads the config. Keys that are missing take diffusers' `DDIMScheduler` defaults.
    /// Errors: an unknown schedule or prediction type, betas outside 0..1.
    pub fn parse(json: &Value) -> Result<Self> {
        let bad = |m: String| Error::new(Kind::File, "load", format!("scheduler_config.json: {m}"));
        let number = |key: &str, default: f64| json.get(key).and_then(Value::as_f64).unwrap_or(default);
        let flag = |key: &str, default: bool| json.get(key).and_then(Value::as_bool).unwrap_or(default);
        let text = |key: &str, default: &'static str| {
            json.get(key).and_then(Value::as_str).unwrap_or(default).to_string()
        };
        // Only DDIM's own configs mean "clip" by silence: the others have no such key, and their latents exceed 1.
        let ddim = json.get("_class_name").and_then(Value::as_str).is_none_or(|c| c.starts_with("DDIM"));
        let steps = number("num_train_timesteps", 1000.0) as usize;
        if !(1..=100_000).contains(&steps) {
            return Err(bad("\"num_train_timesteps\" is out of range".into()).expected("1..100000"));
        }
        let (start, end) = (number("beta_start", 0.0001), number("beta_end", 0.02));
        let betas: Vec<f64> = match json.get("trained_betas").and_then(Value::as_array) {
            Some(list) => list.iter().filter_map(Value::as_f64).collect(),
            None => match text("beta_schedule", "linear").as_str() {
                "linear" => linspace(start, end, steps),
                "scaled_linear" => linspace(start.max(0.0).sqrt(), end.max(0.0).sqrt(), steps)
                    .iter()
                    .map(|b| b * b)
                    .collect(),
                "squaredcos_cap_v2" => cosine_betas(steps),
                other => {
                    return Err(bad(format!("unknown beta_schedule \"{other}\""))
                        .expected("linear, scaled_linear or squaredcos_cap_v2"));
                }
            },
        };
        if betas.is_empty() || betas.iter().any(|b| !(0.0..=1.0).contains(b)) {
            return Err(bad("the betas must lie between 0 and 1".into()));
        }
        let mut alphas: Vec<f64> = betas
            .iter()
            .scan(1.0, |product, beta| {
                *product *= 1.0 - beta;
                Some(*product)
            })
            .collect();
        if flag("rescale_betas_zero_snr", false) {
            zero_terminal_snr(&mut alphas);
        }
        Ok(TrainSchedule {
            ends_at_first: text("final_sigmas_type", "zero") == "sigma_min",
            lambda_min: number("lambda_min_clipped", f64::NEG_INFINITY),
            cosine: text("beta_schedule", "linear") == "squaredcos_cap_v2",
            lcm_steps: (number("original_inference_steps", LCM_STEPS as f64) as usize).max(1),
            lcm_scaling: number("timestep_scaling", 10.0),
            final_alpha: if flag("set_alpha_to_one", true) { 1.0 } else { alphas[0] },
            alphas,
            prediction: match text("prediction_type", "epsilon").as_str() {
                "epsilon" => Prediction::Epsilon,
                "v_prediction" => Prediction::Velocity,
                "sample" => Prediction::Sample,
                other => {
                    return Err(bad(format!("unknown prediction_type \"{other}\""))
                        .expected("epsilon, v_prediction or sample"));
                }
            },
            spacing: match text("timestep_spacing", "").as_str() {
                "" => None,
                "leading" => Some(Spacing::Leading),
                "trailing" => Some(Spacing::Trailing),
                "linspace" => Some(Spacing::Linspace),
                other => {
                    return Err(bad(format!("unknown timestep_spacing \"{other}\""))
                        .expected("leading, trailing or linspace"));
                }
            },
            offset: number("steps_offset", 0.0).max(0.0) as usize,
            clip: flag("clip_sample", ddim).then(|| number("clip_sample_range", 1.0)),
            threshold: flag("thresholding", false)
                .then(|| (number("dynamic_thresholding_ratio", 0.995), number("sample_max_value", 1.0))),
        })
    }

    /// Number of training timesteps, T.
    pub fn len(&self) -> usize {
        self.alphas.len()
    }

    /// Never: a schedule has at least one timestep.
    pub fn is_empty(&self) -> bool {
        self.alphas.is_empty()
    }

    /// The `n` sampling timesteps of DDIM, noisiest first, as diffusers' `set_timesteps` gives them.
    /// Errors: n is 0 or more than T.
    pub fn timesteps(&self, n: usize) -> Result<Vec<usize>> {
        self.spaced(self.spacing.unwrap_or(Spacing::Leading), n)
    }

    /// `n` whole timesteps, noisiest first, spread by `spacing`. Errors: n is 0 or more than T; an offset that leads
    /// past the last timestep.
    pub(super) fn spaced(&self, spacing: Spacing, n: usize) -> Result<Vec<usize>> {
        let total = self.len();
        if n == 0 || n > total {
            return Err(self.wrong_count(n));
        }
        // A float that is a half rounds to even, as numpy's does.
        let list: Vec<usize> = match spacing {
            Spacing::Leading => (0..n).rev().map(|i| i * (total / n) + self.offset).collect(),
            Spacing::Trailing => {
                // numpy's arange steps by (start + step) - start, whose rounding decides which way a half goes.
                let start = total as f64;
                let step = (start - start / n as f64) - start;
                (0..n)
                    .map(|i| ((start + i as f64 * step).round_ties_even() as usize).saturating_sub(1))
                    .collect()
            }
            Spacing::Linspace => linspace(0.0, (total - 1) as f64, n)
                .iter()
                .rev()
                .map(|t| t.round_ties_even() as usize)
                .collect(),
        };
        match list.iter().find(|&&t| t >= total) {
            None => Ok(list),
            Some(t) => Err(self.beyond(n, *t)),
        }
    }

    pub(super) fn wrong_count(&self, n: usize) -> Error {
        Error::value("schedule", "the number of steps is out of range")
            .expected(format!("1..{}", self.len()))
            .got(n.to_string())
    }

    pub(super) fn beyond(&self, n: usize, t: usize) -> Error {
        Error::value("schedule", format!("with {n} steps the offset leads past the last timestep: {t}"))
            .hint("take fewer steps")
    }

    /// Noise over signal, `sqrt((1 - ab) / ab)`, per training timestep. A schedule that ends in pure noise has a finite
    /// value there all the same (2^12, as diffusers' sigma samplers have it).
    pub(super) fn sigmas(&self) -> Vec<f64> {
        self.alphas
            .iter()
            .map(|&ab| {
                let ab = if ab == 0.0 { 2f64.powi(-24) } else { ab };
                ((1.0 - ab) / ab).sqrt()
            })
            .collect()
    }

    /// alpha_bar at the end of samplers that count in sigmas.
    pub(super) fn last_level(&self) -> f64 {
        if self.ends_at_first { self.alphas[0] } else { 1.0 }
    }

    /// alpha_bar at a training timestep, which may lie between two (then sigma is interpolated linearly).
    /// Errors: outside 0..T-1.
    pub fn alpha_at(&self, op: &str, t: f64) -> Result<f64> {
        let last = (self.len() - 1) as f64;
        if !(0.0..=last).contains(&t) {
            return Err(Error::value(op, "the timestep is outside the training schedule")
                .expected(format!("0..{last}"))
                .got(t.to_string())
                .hint("s.t(i) gives the timestep of step i"));
        }
        if t == t.trunc() {
            return Ok(self.alphas[t as usize]);
        }
        let sigma = interpolate(&self.sigmas(), t);
        Ok(1.0 / (1.0 + sigma * sigma))
    }
}

/// The value at a fractional index, linearly.
pub(super) fn interpolate(list: &[f64], at: f64) -> f64 {
    let low = (at.max(0.0) as usize).min(list.len() - 1);
    let high = (low + 1).min(list.len() - 1);
    let share = (at - low as f64).clamp(0.0, 1.0);
    if share == 0.0 { list[low] } else { list[low] * (1.0 - share) + list[high] * share }
}

/// numpy's linspace: multiples of one step, whose rounding decides which way a half goes later; the end is exact.
pub(super) fn linspace(from: f64, to: f64, n: usize) -> Vec<f64> {
    if n == 1 {
        return vec![from];
    }
    let step = (to - from) / (n - 1) as f64;
    (0..n).map(|i| if i + 1 == n { to } else { i as f64 * step + from }).collect()
}

/// Nichol and Dhariwal 2021, eq. 17, betas capped at 0.999.
fn cosine_betas(n: usize) -> Vec<f64> {
    let bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
    (0..n).map(|i| (1.0 - bar((i + 1) as f64 / n as f64) / bar(i as f64 / n as f64)).min(0.999)).collect()
}

/// Lin et al. 2023, algorithm 1: shifts and scales sqrt(alpha) so that the last timestep is pure noise.
fn zero_terminal_snr(alphas: &mut [f64]) {
    let (Some(first), Some(last)) = (alphas.first().map(|a| a.sqrt()), alphas.last().map(|a| a.sqrt()))
    else {
        return;
    };
    if first > last {
        alphas.iter_mut().for_each(|a| *a = ((a.sqrt() - last) * first / (first - last)).powi(2));
    }
}
