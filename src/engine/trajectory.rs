//! [`Trajectory`]: a sampling run as a value: every level's latent, state and prediction, and what it was steered by.
//! It can be rewound, forked, edited and continued; what was computed is shared between the forks.

use std::sync::Arc;

use super::diffusion::guidance::Guidance;
use super::diffusion::schedule::Schedule;
use super::diffusion::stepper::Stepper;
use super::error::{Error, Result};
use super::latent::Latent;
use super::nets::unet::Shortcuts;
use super::weights::embedding::Embedding;
use super::weights::model::Model;

/// What steers a step.
#[derive(Clone, Debug)]
pub struct Steering {
    /// The prompt.
    pub text: Embedding,
    /// The empty or negative prompt.
    pub none: Embedding,
    /// Guidance.
    pub cfg: Guidance,
    /// The edits of the attention, in words (empty: none).
    pub attention: String,
    /// Approximations of the network.
    pub shortcuts: Shortcuts,
}

impl Steering {
    /// Whether the network computes the same under both.
    fn is_as(&self, other: &Steering) -> bool {
        self.text.states().id() == other.text.states().id()
            && self.none.states().id() == other.none.states().id()
            && (&self.cfg, &self.attention, self.shortcuts) == (&other.cfg, &other.attention, other.shortcuts)
    }
}

/// One step that was taken.
#[derive(Clone, Debug)]
struct Taken {
    eps: Latent,
    by: Arc<Steering>,
    /// How many steps old the deep features were that it used; `None`: no features were kept.
    age: Option<usize>,
}

#[derive(Debug)]
struct Parts {
    model: Model,
    /// The state at every level.
    states: Vec<Stepper>,
    /// The step from every level but the last.
    steps: Vec<Taken>,
    /// Levels at which the latent was exchanged.
    edited: Vec<usize>,
    /// What the next steps are steered by unless something else is said.
    steering: Arc<Steering>,
}

/// A run, finished or not. Immutable, cheap to clone.
#[derive(Clone, Debug)]
pub struct Trajectory(Arc<Parts>);

impl Trajectory {
    /// A run that has not begun.
    pub fn new(model: &Model, start: Stepper, steering: Steering) -> Self {
        Trajectory(Arc::new(Parts {
            model: model.clone(),
            states: vec![start],
            steps: Vec::new(),
            edited: Vec::new(),
            steering: Arc::new(steering),
        }))
    }

    /// The model that it ran on.
    pub fn model(&self) -> &Model {
        &self.0.model
    }

    /// The schedule of its last state.
    pub fn schedule(&self) -> &Schedule {
        self.last().schedule()
    }

    /// What its next steps are steered by.
    pub fn steering(&self) -> &Steering {
        &self.0.steering
    }

    /// Levels at which the latent was exchanged.
    pub fn edited(&self) -> &[usize] {
        &self.0.edited
    }

    /// Number of levels that were reached, the first included.
    pub fn len(&self) -> usize {
        self.0.states.len()
    }

    /// Never: the first level is always there.
    pub fn is_empty(&self) -> bool {
        self.0.states.is_empty()
    }

    /// Whether no step is left.
    pub fn is_done(&self) -> bool {
        self.last().is_done()
    }

    /// The state that it has reached.
    pub fn last(&self) -> &Stepper {
        // There is always a first state.
        &self.0.states[self.0.states.len() - 1]
    }

    /// The first level, counted in the schedule (0 unless it began in the middle).
    pub fn first(&self) -> usize {
        self.0.states[0].i()
    }

    /// The state at level `i` of the schedule. Errors: a level that was not reached.
    pub fn state(&self, i: usize) -> Result<&Stepper> {
        let first = self.first();
        i.checked_sub(first).and_then(|k| self.0.states.get(k)).ok_or_else(|| {
            Error::value("trajectory", format!("there is no level {i}"))
                .expected(format!("{first}..{}", first + self.len() - 1))
                .hint("tr.len says how many levels there are; -1 is the last")
        })
    }

    fn taken(&self, i: usize) -> Option<&Taken> {
        i.checked_sub(self.first()).and_then(|k| self.0.steps.get(k))
    }

    /// The noise prediction with which level `i` was left. Errors: it was not.
    pub fn eps(&self, i: usize) -> Result<&Latent> {
        self.state(i)?;
        self.taken(i).map(|t| &t.eps).ok_or_else(|| {
            Error::value("trajectory", format!("level {i} was not left: it has no prediction"))
                .hint("all levels but the last have one")
        })
    }

    /// The clean latent that was predicted at level `i`. Errors: the level was not left.
    pub fn x0(&self, i: usize) -> Result<Latent> {
        let state = self.state(i)?;
        state.schedule().x0(state.z(), self.eps(i)?, i)
    }

    /// What the step from level `i` was steered by. Errors: the level was not left.
    pub fn steered(&self, i: usize) -> Result<&Steering> {
        self.eps(i)?;
        self.taken(i).map(|t| &*t.by).ok_or_else(|| Error::value("trajectory", "no such step"))
    }

    /// The run up to level `i`, to be continued in another way. Errors: a level that was not reached.
    pub fn fork(&self, i: usize) -> Result<Self> {
        self.state(i)?;
        let keep = i - self.first();
        let p = &self.0;
        Ok(Trajectory(Arc::new(Parts {
            model: p.model.clone(),
            states: p.states[..=keep].to_vec(),
            steps: p.steps[..keep].to_vec(),
            edited: p.edited.iter().copied().filter(|&e| e <= i).collect(),
            // From here it goes on as it did.
            steering: p.steps.get(keep).map_or_else(|| Arc::clone(&p.steering), |t| Arc::clone(&t.by)),
        })))
    }

    /// The same run with another latent at the level it has reached; a multistep sampler's memory is cleared.
    /// Errors: shapes that differ.
    pub fn with(&self, z: &Latent) -> Result<Self> {
        let p = &self.0;
        let mut states = p.states.clone();
        let last = states.len() - 1;
        states[last] = states[last].with(z)?;
        let mut edited = p.edited.clone();
        edited.push(states[last].i());
        edited.dedup();
        Ok(Trajectory(Arc::new(Parts {
            model: p.model.clone(),
            states,
            steps: p.steps.clone(),
            edited,
            steering: Arc::clone(&p.steering),
        })))
    }

    /// Goes on to level `to`, steered anew, under `schedule` (the same levels; its fresh noise may differ). `predict`
    /// gives the guided noise for a latent at a timestep; `seen` is told every state reached, with the state before and the
    /// prediction that led there. Deep features that the last step used are made again, by one more prediction, so that a
    /// fork goes on as the run did.
    /// Errors: a level behind or beyond; whatever `predict` fails with.
    pub fn extend<E: From<Error>>(
        &self,
        steering: Steering,
        schedule: &Schedule,
        to: usize,
        mut predict: impl FnMut(&Latent, f64) -> std::result::Result<Latent, E>,
        mut seen: impl FnMut(&Stepper, &Stepper, &Latent),
    ) -> std::result::Result<Self, E> {
        let here = self.last().i();
        if to < here || to > schedule.len() {
            return Err(Error::value(
                "trajectory",
                format!("level {to} cannot be reached from level {here}"),
            )
            .expected(format!("{here}..{}", schedule.len()))
            .hint("tr.fork(i) goes back to level i")
            .into());
        }
        let p = &self.0;
        let steering = Arc::new(steering);
        let (mut states, mut steps) = (p.states.clone(), p.steps.clone());
        let mut state = self.last().under(schedule)?;
        if let Some((old, age)) = self.features_at(&steering).filter(|_| state.i() < to) {
            let eps = predict(old.z(), old.t()?)?;
            state = state.with_kept_of(&eps, age);
        }
        while state.i() < to {
            let eps = predict(state.z(), state.t()?)?;
            let next = state.step(&eps)?;
            let before = std::mem::replace(&mut state, next);
            seen(&state, &before, &eps);
            let age = eps.kept().map(|k| k.age());
            // Features of every level would be many times the latents.
            steps.push(Taken { eps: eps.with_kept(None), by: Arc::clone(&steering), age });
            states.push(state.light());
        }
        Ok(Trajectory(Arc::new(Parts {
            model: p.model.clone(),
            states,
            steps,
            edited: p.edited.clone(),
            steering,
        })))
    }

    /// The state at which the deep features of the last step were made, and how many steps old they are, if the next step
    /// under `steering` may use them.
    fn features_at(&self, steering: &Steering) -> Option<(&Stepper, usize)> {
        let taken = self.0.steps.last().filter(|t| t.by.is_as(steering))?;
        let age = taken.age.filter(|age| age + 1 < steering.shortcuts.reuse())?;
        let made = self.0.steps.len().checked_sub(1 + age)?;
        Some((self.0.states.get(made)?, age))
    }

    /// Bytes of its latents and predictions (shared with its forks).
    pub fn bytes(&self) -> usize {
        let states: usize = self.0.states.iter().map(|s| s.z().bytes()).sum();
        states + self.0.steps.iter().map(|t| t.eps.bytes()).sum::<usize>()
    }

    /// What differs between two runs, as text: settings, the level from which the latents differ, and how far apart
    /// latents and predicted clean latents are at up to ten levels.
    /// Errors: latents of different shapes.
    pub fn diff(&self, other: &Trajectory) -> Result<String> {
        Latent::same_shape("diff", self.last().z(), other.last().z())?;
        let mut lines = Vec::new();
        let mut setting = |name: &str, a: String, b: String| {
            if a != b {
                lines.push(format!("{name:<10} {a}  |  {b}"));
            }
        };
        let levels =
            |t: &Self| format!("{}, {} steps", t.schedule().options().sampler.name(), t.schedule().len());
        setting("model", self.model().name().to_string(), other.model().name().to_string());
        setting("sampler", levels(self), levels(other));
        let noise = |t: &Self| {
            let o = t.schedule().options();
            if o.noise_eta == 0.0 {
                "none".to_string()
            } else {
                format!("eta {} seed {}", o.noise_eta, o.seed)
            }
        };
        setting("fresh noise", noise(self), noise(other));
        setting("reached", format!("level {}", self.last().i()), format!("level {}", other.last().i()));
        let edits = |t: &Self| format!("{:?}", t.0.edited);
        setting("edited at", edits(self), edits(other));
        let last =
            |t: &Self| t.0.steps.last().map_or_else(|| Arc::clone(&t.0.steering), |s| Arc::clone(&s.by));
        let (a, b) = (last(self), last(other));
        setting("prompt", format!("{:?}", a.text.prompt()), format!("{:?}", b.text.prompt()));
        setting("negative", format!("{:?}", a.none.prompt()), format!("{:?}", b.none.prompt()));
        setting("cfg", a.cfg.to_string(), b.cfg.to_string());
        setting("attention", a.attention.clone(), b.attention.clone());
        setting("left out", a.shortcuts.describe(), b.shortcuts.describe());
        if self.schedule().timesteps() != other.schedule().timesteps() {
            lines.push("the levels differ, so the latents are not compared level by level".into());
            lines.push(format!("distance at the end  {:.3}", self.last().z().distance(other.last().z())?));
            return Ok(lines.join("\n"));
        }
        self.compare(other, &mut lines)?;
        Ok(lines.join("\n"))
    }

    fn compare(&self, other: &Trajectory, lines: &mut Vec<String>) -> Result<()> {
        let from = self.first().max(other.first());
        let to = self.last().i().min(other.last().i());
        if from > to {
            lines.push("they have no level in common".into());
            return Ok(());
        }
        let mut begins = None;
        for i in from..=to {
            if self.state(i)?.z().distance(other.state(i)?.z())? > 0.0 {
                begins = Some(i);
                break;
            }
        }
        let Some(begins) = begins else {
            lines.push(format!("the latents are equal from level {from} to level {to}"));
            return Ok(());
        };
        lines.push(if begins == from {
            format!("the latents differ from the first level, {from}")
        } else {
            format!("the latents are equal up to level {}, and differ from level {begins}", begins - 1)
        });
        lines.push(format!("{:>5}  {:>6}  {:>12}  {:>15}", "level", "t", "distance", "distance of x0"));
        let rows = (to - begins + 1).min(10);
        for row in 0..rows {
            let i = if rows == 1 { begins } else { begins + row * (to - begins) / (rows - 1) };
            let (a, b) = (self.state(i)?, other.state(i)?);
            let t = a.t().map_or("end".into(), |t| format!("{t:.0}"));
            let clean = match (self.x0(i), other.x0(i)) {
                (Ok(a), Ok(b)) => format!("{:.3}", a.distance(&b)?),
                _ => String::new(),
            };
            lines.push(
                format!("{i:>5}  {t:>6}  {:>12.3}  {clean:>15}", a.z().distance(b.z())?)
                    .trim_end()
                    .to_string(),
            );
        }
        Ok(())
    }
}
