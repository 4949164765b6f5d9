//! [`Stepper`]: where a sampling run stands, as a value: the latent, the step, and what a multistep sampler remembers.

use std::sync::Arc;

use super::schedule::Schedule;
use crate::engine::error::{Error, Result};
use crate::engine::latent::Latent;

/// A sampling run at one level. Immutable: a step gives a new value, so that a run can be forked anywhere.
#[derive(Clone, Debug)]
pub struct Stepper {
    schedule: Schedule,
    z: Latent,
    i: usize,
    /// The clean latent predicted in the step before, with its level.
    before: Option<(Latent, usize)>,
}

impl Stepper {
    /// A run that stands at `level` with `z` (variance preserving). Errors: no such level.
    pub fn new(schedule: &Schedule, z: &Latent, level: usize) -> Result<Self> {
        schedule.alpha_bar(level).map_err(|e| e.op("stepper"))?;
        Ok(Stepper { schedule: schedule.clone(), z: z.clone(), i: level, before: None })
    }

    /// The schedule it follows.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The latent, `[n, c, h, w]`, variance preserving whatever the sampler works in.
    pub fn z(&self) -> &Latent {
        &self.z
    }

    /// The level: how many steps lie behind.
    pub fn i(&self) -> usize {
        self.i
    }

    /// Whether no step is left.
    pub fn is_done(&self) -> bool {
        self.i >= self.schedule.len()
    }

    /// Whether the next step uses a prediction from before.
    pub fn remembers(&self) -> bool {
        self.before.is_some()
    }

    /// The training timestep at which the next step wants its prediction. Errors: no step is left.
    pub fn t(&self) -> Result<f64> {
        self.left("t")?;
        self.schedule.t(self.i)
    }

    /// One step with the noise prediction `eps` for this latent and timestep.
    /// Errors: no step is left, shapes that differ.
    pub fn step(&self, eps: &Latent) -> Result<Self> {
        self.left("step")?;
        let s = &self.schedule;
        let x0 = s.x0(&self.z, eps, self.i)?;
        let noise = s.step_noise(&self.z, self.i)?;
        let mut z = s.advance(&self.z, eps, &x0, self.i, noise.as_ref())?;
        if let Some((before, from)) = &self.before
            && let Some(change) = s.second_order(&x0, before, *from, self.i)?
        {
            z = z.add(&change)?;
        }
        let before = s.options().sampler.is_multistep().then_some((x0, self.i));
        let z = z.with_kept(eps.kept().cloned());
        Ok(Stepper { schedule: s.clone(), z, i: self.i + 1, before })
    }

    /// The same level with another latent. What the sampler remembers belonged to the old one and is forgotten: the next
    /// step is of first order. Deep features of the network (see `Shortcuts`) stay, unless the new latent has its own:
    /// they are an approximation either way, and recipes that edit the latent at every step could not use any.
    /// Errors: shapes that differ.
    pub fn with(&self, z: &Latent) -> Result<Self> {
        Latent::same_shape("with", &self.z, z)?;
        let kept = z.kept().or(self.z.kept()).cloned();
        Ok(Stepper { z: z.clone().with_kept(kept), before: None, ..self.clone() })
    }

    /// The same without deep features of the network.
    pub(crate) fn light(&self) -> Self {
        Stepper { z: self.z.clone().with_kept(None), ..self.clone() }
    }

    /// The same with the deep features that `from` has, `age` steps old.
    pub(crate) fn with_kept_of(&self, from: &Latent, age: usize) -> Self {
        let kept = from.kept().map(|k| Arc::new(k.aged(age)));
        Stepper { z: self.z.clone().with_kept(kept), ..self.clone() }
    }

    /// The same state under another schedule of as many steps (fresh noise of another seed, say).
    /// Errors: a schedule with other levels.
    pub fn under(&self, schedule: &Schedule) -> Result<Self> {
        let same = schedule.len() == self.schedule.len()
            && schedule.options().sampler == self.schedule.options().sampler;
        if !same {
            return Err(Error::value("stepper", "the two schedules differ in their levels")
                .expected(format!(
                    "{} with {} steps",
                    self.schedule.options().sampler.name(),
                    self.schedule.len()
                ))
                .got(format!("{} with {} steps", schedule.options().sampler.name(), schedule.len())));
        }
        Ok(Stepper { schedule: schedule.clone(), ..self.clone() })
    }

    fn left(&self, op: &str) -> Result<()> {
        if !self.is_done() {
            return Ok(());
        }
        Err(Error::value(op, "no step is left").hint("while !st.done { ... }"))
    }
}
