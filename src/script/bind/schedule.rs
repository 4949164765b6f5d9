//! Schedules: noise levels, forward noising, sampling steps.

use crate::engine::diffusion::schedule::Schedule;
use crate::engine::diffusion::stepper::Stepper;
use crate::engine::latent::Latent;
use crate::engine::observe::Event;
use crate::script::args::{Either, Opts};
use crate::script::registry::Registry;
use crate::script::types::{self, Handle};

impl Handle for Schedule {
    const NAME: &'static str = "Schedule";

    fn detail(&self) -> String {
        let t = self.timesteps();
        let show = |t: &f64| types::number(*t).trim_end_matches(".0").to_string();
        let ends =
            t.first().zip(t.last()).map_or(String::new(), |(a, b)| format!("  t {} to {}", show(a), show(b)));
        format!("{}  {} steps{ends}", self.options().sampler.name(), self.len())
    }
}

impl Handle for Stepper {
    const NAME: &'static str = "Stepper";

    fn detail(&self) -> String {
        let memory = if self.remembers() { "  second order next" } else { "" };
        format!(
            "{}  level {} of {}{memory}",
            self.schedule().options().sampler.name(),
            self.i(),
            self.schedule().len()
        )
    }

    fn bytes(&self) -> usize {
        self.z().bytes() * if self.remembers() { 2 } else { 1 }
    }
}

/// A timestep as scripts see it: whole where it is.
pub(super) fn timestep(t: f64) -> Either<i64, f64> {
    if t == t.trunc() { Either::Left(t as i64) } else { Either::Right(t) }
}

const SETUP: &str = "let m = load(\"emoji\");\nlet s = m.schedule(50);\n";

/// Binds them.
pub fn register(r: &mut Registry) {
    let example = |code: &str| format!("{SETUP}{code}");
    r.group(
        "Schedules",
        "The noise levels of a sampling run. Step 0 is the noisiest; level `s.len` is the end, where no step is left.",
    );
    r.prop("s.len", "How many steps there are.")
        .example(&example("s.len // => 50"))
        .bind(|s: Schedule| s.len());
    r.prop("s.timesteps", "The training timestep of every step, noisiest first.")
        .example(&example("s.timesteps[25] // => 481"))
        .see(&["t"])
        .bind(|s: Schedule| s.timesteps().iter().map(|&t| timestep(t)).collect::<Vec<_>>());
    r.prop("s.sampler", "The name of its sampler.")
        .example(&example("s.sampler // => \"ddim\""))
        .see(&["schedule"])
        .bind(|s: Schedule| s.options().sampler.name().to_string());
    r.def(
        "s.t(i)",
        "The training timestep of step `i`, counted from 0. Euler's may lie between two whole ones, if the model's config \
         spreads them evenly.",
    )
        .example(&example("s.t(20) // => 581"))
        .example(&example("s.t(50) // error: t"))
        .see(&["timesteps", "predict"])
        .bind(|s: Schedule, i: usize| s.t(i).map(timestep));
    r.def(
        "s.alpha_bar(i)",
        "The share of the signal's variance at level `i`; level `s.len` is the schedule's end.",
    )
    .example(&example("s.alpha_bar(0) < s.alpha_bar(50) // => true"))
    .see(&["add_noise"])
    .bind(|s: Schedule, i: usize| s.alpha_bar(i));
    r.def(
        "s.at_level(x)",
        "The step at noise level `x`: 1 is pure noise (step 0), 0 is clean (`s.len`, no step left). Shares of the schedule in \
         a paper (K_max = 0.6 T, strength 0.7) are noise levels.",
    )
    .example(&example("[s.at_level(1), s.at_level(0.6), s.at_level(0)] // => [0, 20, 50]"))
    .see(&["add_noise"])
    .bind(|s: Schedule, x: f64| s.at_level(x));
    r.def(
        "s.add_noise(x0, noise, i)",
        "Noises a clean latent to level `i`: `sqrt(alpha_bar) * x0 + sqrt(1 - alpha_bar) * noise`. One picture and n noises give \
         n latents.",
    )
    .example(&example("let x0 = m.encode(open(\"dog-flat.png\"));\ns.add_noise(x0, m.noise(0), 20).shape // => [1, 4, 16, 16]"))
    .see(&["noise", "at_level", "step"])
    .bind(|s: Schedule, x0: Latent, noise: Latent, i: usize| s.add_noise(&x0, &noise, i));
    r.def(
        "s.start(noise)",
        "The latent at level 0 that pure noise stands for, by the sampler's rule: the noise itself, or a little less where \
         Euler's levels end below pure noise.",
    )
    .example(&example("distance(s.start(m.noise(0)), m.noise(0)) // => 0.0"))
    .see(&["noise", "stepper"])
    .bind(|s: Schedule, noise: Latent| s.start(&noise));
    let host = r.host();
    r.def(
        "s.step(z, eps, i)",
        "One sampling step: from level `i` to level `i + 1`, with the predicted noise `eps`. A multistep sampler's step is \
         of first order here, because nothing is remembered: see `stepper`.",
    )
        .example(&example("let z = m.noise(0);\nlet eps = m.predict(z, s.t(0), m.encode(\"a dog\"));\ns.step(z, eps, 0).shape // => [1, 4, 16, 16]"))
        .see(&["guided", "back", "x0"])
        .work()
        .bind(move |s: Schedule, z: Latent, eps: Latent, i: usize| {
            if s.options().sampler.is_multistep() {
                host.warn_once(&format!(
                    "{}: s.step() remembers nothing and takes first-order steps; s.stepper() takes second-order ones",
                    s.options().sampler.name()
                ));
            }
            let next = s.step(&z, &eps, i)?;
            host.keep(&next);
            host.preview("prediction", || s.x0(&z, &eps, i));
            host.emit(Event::Step { label: "sampling", done: i + 1, total: s.len() });
            Ok::<_, crate::engine::Error>(next)
        });
    let host = r.host();
    r.def("s.back(z, eps, i)", "One step the other way (DDIM inversion): from level `i + 1` to the noisier level `i`.")
        .example(&example("let z = m.noise(0);\nlet eps = m.noise(1);\ndistance(s.back(s.step(z, eps, 20), eps, 20), z) < 0.01 // => true"))
        .see(&["step"])
        .work()
        .bind(move |s: Schedule, z: Latent, eps: Latent, i: usize| {
            let next = s.back(&z, &eps, i)?;
            host.keep(&next);
            host.preview("inverted", || Ok(next.clone()));
            host.emit(Event::Step { label: "inverting", done: s.len() - i, total: s.len() });
            Ok::<_, crate::engine::Error>(next)
        });
    r.def("s.x0(z, eps, i)", "The clean latent that `z` at level `i` would be if `eps` were exactly its noise.")
        .example(&example("let x0 = m.encode(open(\"dog-flat.png\"));\nlet e = m.noise(0);\ndistance(s.x0(s.add_noise(x0, e, 20), e, 20), x0) < 0.01 // => true"))
        .see(&["step", "add_noise"])
        .bind(|s: Schedule, z: Latent, eps: Latent, i: usize| s.x0(&z, &eps, i));
    stepper(r);
}

fn stepper(r: &mut Registry) {
    let example = |code: &str| format!("{SETUP}let st = s.stepper(m.noise(0));\n{code}");
    r.group(
        "Steppers",
        "Where a sampling run stands, as a value: the latent, the level, and what a multistep sampler remembers. A step gives \
         a new value; the old one can be stepped again in another way.",
    );
    r.def(
        "s.stepper(z)",
        "A run that stands at level 0, or at level `from`, with the latent `z`. Latents are variance preserving and \
         predictions are noise, whatever the sampler works in.",
    )
    .option("from", "integer", "the level; 0 if not said")
    .example(&format!(
        "{SETUP}let st = m.schedule(4, #{{ sampler: \"dpmpp_2m\" }}).stepper(m.noise(0));\nlet text = m.encode(\"a dog\");\n\
         while !st.done {{ st = st.step(m.predict(st.z, st.t, text)); }}\nm.decode(st.z) // => Image 64x64"
    ))
    .see(&["step", "with", "start"])
    .bind(|s: Schedule, z: Latent, o: Opts| Stepper::new(&s, &z, o.or("from", 0)?));
    r.prop("st.z", "The latent at its level.")
        .example(&example("st.z.shape // => [1, 4, 16, 16]"))
        .bind(|st: Stepper| st.z().clone());
    r.prop("st.i", "The level: how many steps of the schedule lie behind.")
        .example(&example("[st.i, st.step(m.noise(1)).i] // => [0, 1]"))
        .bind(|st: Stepper| st.i());
    r.prop("st.t", "The training timestep of the prediction that the next step wants.")
        .example(&example("st.t // => 981"))
        .see(&["predict", "guided"])
        .bind(|st: Stepper| st.t().map(timestep));
    r.prop("st.done", "Whether no step is left.")
        .example(&example("[st.done, s.stepper(m.noise(0), #{ from: 50 }).done] // => [false, true]"))
        .bind(|st: Stepper| st.is_done());
    let host = r.host();
    r.def("st.step(eps)", "The run after one step with the predicted noise `eps`.")
        .example(&example("distance(st.step(m.noise(1)).z, s.step(st.z, m.noise(1), 0)) // => 0.0"))
        .example("let m = load(\"emoji\");\nm.schedule(1).stepper(m.noise(0)).step(m.noise(1)).step(m.noise(1)) // error: no step is left")
        .see(&["stepper", "guided"])
        .work()
        .bind(move |st: Stepper, eps: Latent| {
            let next = st.step(&eps)?;
            host.keep(next.z());
            host.preview("prediction", || st.schedule().x0(st.z(), &eps, st.i()));
            host.emit(Event::Step { label: "sampling", done: next.i(), total: next.schedule().len() });
            Ok::<_, crate::engine::Error>(next)
        });
    r.def(
        "st.with(z)",
        "The same level with another latent. What a multistep sampler remembered belonged to the old latent and is forgotten; \
         features for `reuse` stay until their steps are over, unless the new latent has its own.",
    )
    .example(&example("let st = st.step(m.noise(1));\nst.with(st.z * 0.9).i // => 1"))
    .see(&["step"])
    .bind(|st: Stepper, z: Latent| st.with(&z));
}
