//! Schedules: noise levels, forward noising, sampling steps.

use crate::engine::diffusion::schedule::Schedule;
use crate::engine::latent::Latent;
use crate::engine::observe::Event;
use crate::script::registry::Registry;
use crate::script::types::Handle;

impl Handle for Schedule {
    const NAME: &'static str = "Schedule";

    fn detail(&self) -> String {
        let t = self.timesteps();
        let ends = t.first().zip(t.last()).map_or(String::new(), |(a, b)| format!("  t {a} to {b}"));
        format!("ddim  {} steps{ends}", self.len())
    }
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
        .bind(|s: Schedule| s.timesteps().to_vec());
    r.def("s.t(i)", "The training timestep of step `i`, counted from 0.")
        .example(&example("s.t(20) // => 581"))
        .example(&example("s.t(50) // error: t"))
        .see(&["timesteps", "predict"])
        .bind(|s: Schedule, i: usize| s.t(i));
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
    let host = r.host();
    r.def("s.step(z, eps, i)", "One sampling step: from level `i` to level `i + 1`, with the predicted noise `eps`.")
        .example(&example("let z = m.noise(0);\nlet eps = m.predict(z, s.t(0), m.encode(\"a dog\"));\ns.step(z, eps, 0).shape // => [1, 4, 16, 16]"))
        .see(&["guided", "back", "x0"])
        .work()
        .bind(move |s: Schedule, z: Latent, eps: Latent, i: usize| {
            let next = s.step(&z, &eps, i)?;
            host.keep(&next);
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
            host.emit(Event::Step { label: "inverting", done: s.len() - i, total: s.len() });
            Ok::<_, crate::engine::Error>(next)
        });
    r.def("s.x0(z, eps, i)", "The clean latent that `z` at level `i` would be if `eps` were exactly its noise.")
        .example(&example("let x0 = m.encode(open(\"dog-flat.png\"));\nlet e = m.noise(0);\ndistance(s.x0(s.add_noise(x0, e, 20), e, 20), x0) < 0.01 // => true"))
        .see(&["step", "add_noise"])
        .bind(|s: Schedule, z: Latent, eps: Latent, i: usize| s.x0(&z, &eps, i));
}
