//! Trajectories: whole sampling runs as values.

use ::image::RgbImage;
use rhai::Dynamic;

use super::guidance::Cfg;
use super::hooks::{self, Edits, How};
use super::model;
use super::schedule::timestep;
use crate::engine::diffusion::guidance::Guidance;
use crate::engine::diffusion::schedule::Schedule;
use crate::engine::diffusion::stepper::Stepper;
use crate::engine::error::{Error, Result};
use crate::engine::image::Picture;
use crate::engine::latent::Latent;
use crate::engine::observe::Event;
use crate::engine::trajectory::{Steering, Trajectory};
use crate::engine::weights::embedding::Embedding;
use crate::engine::weights::model::Model;
use crate::script::args::{Either, Opts};
use crate::script::host::Host;
use crate::script::registry::Registry;
use crate::script::types::Handle;
use crate::script::values::Fail;

impl Handle for Trajectory {
    const NAME: &'static str = "Trajectory";

    fn detail(&self) -> String {
        let s = self.schedule();
        let state = if self.is_done() {
            "finished".into()
        } else {
            format!("at level {} of {}", self.last().i(), s.len())
        };
        let prompt = self.steering().text.prompt();
        format!("{:?}  {}  {} levels  {state}", prompt, s.options().sampler.name(), self.len())
    }

    fn bytes(&self) -> usize {
        Trajectory::bytes(self)
    }
}

/// One level of a trajectory, as `tr[i]`.
#[derive(Clone, Debug)]
pub struct Level {
    of: Trajectory,
    i: usize,
}

impl Handle for Level {
    const NAME: &'static str = "Level";

    fn detail(&self) -> String {
        let t = self.of.state(self.i).and_then(Stepper::t).map_or("the end".into(), |t| format!("t {t:.0}"));
        format!("{}  {t}", self.i)
    }
}

/// Steps taken when nothing is said.
const STEPS: usize = 30;
/// Guidance when nothing is said.
const CFG: Guidance = Guidance::Constant(7.5);

/// Words, or a prompt that was encoded before.
type Prompt = Either<String, Embedding>;

fn embedding(host: &Host, m: &Model, prompt: Prompt) -> Result<Embedding> {
    match prompt {
        Either::Left(words) => model::encode_text(host, m, &words),
        Either::Right(text) => Ok(text),
    }
}

fn steering(
    host: &Host,
    cx: &rhai::NativeCallContext,
    m: &Model,
    schedule: &Schedule,
    o: &Opts,
    before: Option<&Steering>,
) -> std::result::Result<Steering, Fail> {
    let or = |key: &str, known: Option<&Embedding>| -> Result<Embedding> {
        match (o.get::<Prompt>(key)?, known) {
            (Some(prompt), _) => embedding(host, m, prompt),
            (None, Some(known)) => Ok(known.clone()),
            (None, None) => model::encode_text(host, m, ""),
        }
    };
    let edits: Option<Edits> = o.get("attention")?;
    Ok(Steering {
        text: or("prompt", before.map(|b| &b.text))?,
        none: or("negative", before.map(|b| &b.none))?,
        cfg: match o.get::<Cfg>("cfg")? {
            Some(cfg) => cfg.over(cx, m, schedule)?,
            None => before.map_or(CFG, |b| b.cfg.clone()),
        },
        attention: edits.map_or(String::new(), |e| e.detail()),
        shortcuts: hooks::shortcuts(o, before.map_or_else(Default::default, |b| b.shortcuts))?,
    })
}

/// Goes on to `to` (the end if not said), with the edits of `o`.
fn run(
    host: &Host,
    cx: &rhai::NativeCallContext,
    tr: &Trajectory,
    steering: Steering,
    schedule: &Schedule,
    o: &Opts,
) -> std::result::Result<Trajectory, Fail> {
    let how = How { shortcuts: steering.shortcuts, ..How::read(o)? };
    let to = match o.get::<usize>("to")? {
        Some(level) => level,
        None => schedule.len(),
    };
    let (m, by) = (tr.model().clone(), steering.clone());
    let timesteps = m.train_schedule().len() as f64;
    tr.extend(
        steering,
        schedule,
        to,
        |z, t| {
            host.worked();
            host.cancel().check("sample")?;
            let cfg = by.cfg.at(t / timesteps);
            hooks::guided(cx, &m, z, t, (&by.text, &by.none, cfg), &how).map(|(eps, _)| eps)
        },
        |state, before, eps| {
            host.worked();
            host.keep(state.z());
            host.preview("prediction", || before.schedule().x0(before.z(), eps, before.i()));
            host.emit(Event::Step { label: "sampling", done: state.i(), total: schedule.len() });
        },
    )
}

fn sample(
    host: &Host,
    cx: &rhai::NativeCallContext,
    m: &Model,
    prompt: Prompt,
    o: &Opts,
) -> std::result::Result<Trajectory, Fail> {
    let seed = Either::Left(o.or("seed", 0u64)?);
    let s = model::schedule(m, &Either::Left(o.or("steps", STEPS)?), o)?;
    let from = o.or("from", 0usize)?;
    let z = match o.get::<Latent>("latent")? {
        Some(z) => z,
        None if from == 0 => s.start(&model::noise(m, &seed, o)?)?,
        None => {
            let error = Error::value("sample", "a run that begins in the middle needs its latent");
            return Err(error.hint("#{ from: 20, latent: s.add_noise(x0, noise, 20) }").into());
        }
    };
    let steering = Steering { text: embedding(host, m, prompt)?, ..steering(host, cx, m, &s, o, None)? };
    let begun = Trajectory::new(m, Stepper::new(&s, &z, from)?, steering.clone());
    run(host, cx, &begun, steering, &s, o)
}

fn resume(
    host: &Host,
    cx: &rhai::NativeCallContext,
    tr: &Trajectory,
    o: &Opts,
) -> std::result::Result<Trajectory, Fail> {
    let steering = steering(host, cx, tr.model(), tr.schedule(), o, Some(tr.steering()))?;
    let old = tr.schedule().options();
    let schedule = tr.schedule().with_noise(o.or("noise_eta", old.noise_eta)?, o.or("seed", old.seed)?)?;
    run(host, cx, tr, steering, &schedule, o)
}

/// A level as scripts count: from the end where negative.
fn level(tr: &Trajectory, i: i64) -> Result<usize> {
    let end = tr.last().i() as i64 + 1;
    let at = if i < 0 { end + i } else { i };
    tr.state(usize::try_from(at).unwrap_or(usize::MAX)).map(Stepper::i).map_err(|e| match i {
        0.. => e,
        _ => Error::value("trajectory", format!("there is no level {i}")).expected(format!(
            "-{}..{}",
            tr.len(),
            end - 1
        )),
    })
}

/// Predicted clean latents at `count` levels, evenly spread, and the last latent, decoded and labelled.
fn strip(tr: &Trajectory, count: usize) -> Result<Picture> {
    let steps = tr.len() - 1;
    if count == 0 || count > 64 {
        return Err(Error::value("strip", "the number of pictures is out of range")
            .expected("1..64")
            .got(count.to_string()));
    }
    let mut pictures: Vec<RgbImage> = Vec::new();
    let mut labels = Vec::new();
    let shown = count.min(steps);
    for k in 0..shown {
        let i = tr.first() + if shown == 1 { 0 } else { k * (steps - 1) / (shown - 1) };
        pictures.extend(tr.model().decode(&tr.x0(i)?.index(0)?)?.to_rgbs()?);
        labels.push(format!("{i}: t {:.0}", tr.state(i)?.t()?));
    }
    if tr.is_done() || pictures.is_empty() {
        pictures.extend(tr.model().decode(&tr.last().z().index(0)?)?.to_rgbs()?);
        labels.push(format!("{}: end", tr.last().i()));
    }
    let columns = pictures.len().min(8);
    Picture::sheet_of(&pictures, Some(columns), &labels)
}

/// Binds them.
pub fn register(r: &mut Registry) {
    const RUN: &str = "let m = load(\"emoji\");\nlet tr = m.sample(\"a dog\", #{ steps: 6 });\n";
    let example = |code: &str| format!("{RUN}{code}");
    r.group(
        "Trajectories",
        "A sampling run as a value: the latent, the prediction and the sampler's state at every level. Rewind it, fork it, \
         edit it, go on; what was computed is shared.",
    );
    let host = r.host();
    r.def(
        "m.sample(prompt)",
        "Samples from noise to the end, or from level `from` with `latent`, and keeps every level. `to` stops before the end.",
    )
    .option("seed", "integer", "of the noise; 0")
    .option("steps", "integer", "30")
    .option("cfg", "number|string|map|function", "guidance; 7.5, also by noise level: see `cfg_at`")
    .option("negative", "string|Embedding", "what the picture should not show")
    .option("sampler", "string", "as for `schedule`")
    .option("noise_eta", "number", "share of fresh noise per step of ddim or euler")
    .option("rng", "string", "torch or philox")
    .option("n", "integer", "how many pictures")
    .option("size", "pixels|[w, h]", "of the picture; 0 = the model's own")
    .option("attention", "Attention", "edits of the attention, or a recorder")
    .option("reuse", "integer", "the network's deep features serve that many steps; 1 = off (DeepCache, another picture)")
    .option("merge", "number", "share of the tokens that self-attention merges, 0 to 0.75; 0 = off (ToMe, another picture)")
    .option("merge_seed", "integer", "which tokens others are merged into; 0")
    .option("latent", "Latent", "begins with this one instead of noise")
    .option("from", "integer", "the level at which it begins; 0")
    .option("to", "integer", "the level at which it stops; the end")
    .example(&example("tr // => Trajectory \"a dog\"  ddim  7 levels  finished"))
    .example("load(\"emoji\").sample(\"a dog\", #{ steps: 6, to: 3 }).image // error: is not finished")
    .see(&["fork", "resume", "strip", "diff", "stepper"])
    .work()
    .bind(move |cx: &rhai::NativeCallContext, m: Model, prompt: Prompt, o: Opts| sample(&host, cx, &m, prompt, &o));
    r.prop("tr.len", "How many levels were reached, the first included: one more than steps were taken.")
        .example(&example("tr.len // => 7"))
        .bind(|tr: Trajectory| tr.len());
    r.prop("tr.done", "Whether no step is left.")
        .example(&example("tr.done // => true"))
        .bind(|tr: Trajectory| tr.is_done());
    r.prop("tr.latent", "The latent at the level it has reached.")
        .example(&example("distance(tr.latent, tr[-1].latent) // => 0.0"))
        .bind(|tr: Trajectory| tr.last().z().clone());
    r.prop("tr.image", "The picture of a finished run.")
        .example(&example("tr.image // => Image 64x64"))
        .see(&["strip", "decode"])
        .work()
        .bind(|tr: Trajectory| {
            if !tr.is_done() {
                return Err(Error::value("image", format!("the run is not finished: it stands at level {}", tr.last().i()))
                    .hint("tr.resume() goes on; tr.strip() shows what it predicts so far; m.decode(tr.latent) shows the noise"));
            }
            tr.model().decode(tr.last().z())
        });
    r.prop("tr.schedule", "The schedule that it follows.")
        .example(&example("tr.schedule.len // => 6"))
        .bind(|tr: Trajectory| tr.schedule().clone());
    r.prop("tr.state", "Where it stands, as a Stepper.")
        .example(&example("tr.state.done // => true"))
        .see(&["stepper"])
        .bind(|tr: Trajectory| tr.last().clone());
    r.op("[]", "Level `i` of a run; negative numbers count from the end.")
        .example(&example("tr[-1] // => Level 6  the end"))
        .example(&example("tr[7] // error: there is no level 7"))
        .bind(|tr: Trajectory, i: i64| Ok::<_, Error>(Level { i: level(&tr, i)?, of: tr }));
    let host = r.host();
    r.def(
        "tr.resume()",
        "Goes on from the level it has reached to the end, as before or steered in another way.",
    )
    .option("prompt", "string|Embedding", "from here on")
    .option("negative", "string|Embedding", "from here on")
    .option("cfg", "number|string|map|function", "from here on")
    .option("attention", "Attention", "edits of the attention, or a recorder")
    .option(
        "reuse",
        "integer",
        "the network's deep features serve that many steps; 1 = off (DeepCache, another picture)",
    )
    .option(
        "merge",
        "number",
        "share of the tokens that self-attention merges, 0 to 0.75; 0 = off (ToMe, another picture)",
    )
    .option("merge_seed", "integer", "which tokens others are merged into; 0")
    .option("noise_eta", "number", "share of fresh noise per step")
    .option("seed", "integer", "of the fresh noise")
    .option("to", "integer", "the level at which it stops; the end")
    .example(&example(
        "tr.fork(3).resume(#{ prompt: \"a cat\" }) // => Trajectory \"a cat\"  ddim  7 levels  finished",
    ))
    .example(&example("distance(tr.fork(3).resume().latent, tr.latent) // => 0.0"))
    .see(&["fork", "with", "sample"])
    .work()
    .bind(move |cx: &rhai::NativeCallContext, tr: Trajectory, o: Opts| resume(&host, cx, &tr, &o));
    r.def("tr.fork(i)", "The run up to level `i` (negative: from the end), to be continued in another way.")
        .example(&example("tr.fork(3) // => Trajectory \"a dog\"  ddim  4 levels  at level 3 of 6"))
        .see(&["resume", "with"])
        .bind(|tr: Trajectory, i: i64| tr.fork(level(&tr, i)?));
    r.def("tr.with(z)", "The same run with another latent at the level it has reached.")
        .example(&example("let half = tr.fork(3);\nhalf.with(half.latent * 0.9).resume() // => Trajectory \"a dog\"  ddim  7 levels  finished"))
        .see(&["fork", "resume"])
        .bind(|tr: Trajectory, z: Latent| tr.with(&z));
    r.def(
        "tr.strip(count)",
        "The clean pictures that were predicted on the way, `count` of them (8 if not said), and the last one; of the first \
         picture of a batch.",
    )
    .example(&example("tr.strip(3).width // => 262"))
    .see(&["sample", "show"])
    .work()
    .bind(|tr: Trajectory, count: Option<usize>| strip(&tr, count.unwrap_or(8)));
    r.def(
        "diff(a, b)",
        "What differs between two runs, as text: settings, where the latents part, and how far.",
    )
    .example(&example("diff(tr, tr.fork(6)) // => \"the latents are equal from level 0 to level 6\""))
    .example(&example("print(diff(tr, tr.fork(3).resume(#{ prompt: \"a cat\" })));"))
    .see(&["fork", "sample"])
    .bind(|a: Trajectory, b: Trajectory| a.diff(&b));
    r.prop("level.i", "The number of the level.")
        .example(&example("tr[2].i // => 2"))
        .bind(|level: Level| level.i);
    r.prop("level.t", "The training timestep of its prediction.")
        .example(&example("tr[2].t // => 499"))
        .bind(|level: Level| level.of.state(level.i)?.t().map(timestep));
    r.prop("level.latent", "The latent at the level.")
        .example(&example("tr[2].latent.shape // => [1, 4, 16, 16]"))
        .bind(|level: Level| Ok::<_, Error>(level.of.state(level.i)?.z().clone()));
    r.prop("level.eps", "The guided noise prediction with which it was left.")
        .example(&example("tr[2].eps.shape // => [1, 4, 16, 16]"))
        .example(&example("tr[6].eps // error: no prediction"))
        .bind(|level: Level| level.of.eps(level.i).cloned());
    r.prop("level.x0", "The clean latent that was predicted there.")
        .example(&example("tr[2].x0.shape // => [1, 4, 16, 16]"))
        .see(&["strip"])
        .bind(|level: Level| level.of.x0(level.i));
    r.prop("level.state", "The sampler's state there, as a Stepper.")
        .example(&example("distance(tr[2].state.step(tr[2].eps).z, tr[3].latent) // => 0.0"))
        .bind(|level: Level| level.of.state(level.i).cloned());
    r.prop("level.prompt", "The prompt that steered the step from there.")
        .example(&example("tr[2].prompt // => \"a dog\""))
        .bind(|level: Level| {
            Ok::<_, Error>(Dynamic::from(level.of.steered(level.i)?.text.prompt().to_string()))
        });
}
