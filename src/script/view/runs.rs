//! Sampling runs, level by level.

use std::sync::Arc;

use candle_core::DType;
use image::RgbImage;

use super::{Gap, Level, Run, Runs};
use crate::engine::error::{Error, Result};
use crate::engine::latent::Latent;
use crate::engine::trajectory::Trajectory;
use crate::report::plain;
use crate::script::types::Handle;

/// One run, or two beside each other. Errors: more than two; latents of different shapes.
pub(super) fn look(runs: &[(&str, Trajectory)]) -> Result<Runs> {
    if runs.len() > 2 {
        return Err(Error::value("view", "more than two runs cannot be seen beside each other")
            .expected("one Trajectory, or two")
            .got(runs.len().to_string()));
    }
    let mut gaps = Vec::new();
    let mut apart = None;
    if let [(_, a), (_, b)] = runs {
        match compare(a, b) {
            Ok(found) => gaps = found,
            Err(e) => apart = Some(e.message().to_string()),
        }
    }
    let runs = runs.iter().map(|(name, tr)| one(name, tr)).collect::<Result<_>>()?;
    Ok(Runs { runs, gaps, apart })
}

fn one(name: &str, tr: &Trajectory) -> Result<Run> {
    let levels = tr.first()..=tr.last().i();
    Ok(Run {
        name: name.to_string(),
        about: plain(&tr.detail()).replace('\n', " "),
        pictures: tr.last().z().dims().0,
        levels: levels.map(|i| level(tr, i)).collect::<Result<_>>()?,
    })
}

fn level(tr: &Trajectory, i: usize) -> Result<Level> {
    let state = tr.state(i)?;
    let x0 = tr.x0(i).ok();
    let shown = x0.as_ref().unwrap_or(state.z());
    let preview = tr.model().defaults().and_then(|d| d.preview.as_ref());
    let preview = preview.and_then(|p| p.pictures(shown, 1).ok()?.pop()).map(Arc::new);
    let prompt = tr.steered(i).ok().map(|s| plain(s.text.prompt()).replace('\n', " "));
    Ok(Level {
        i,
        t: state.t().ok(),
        noise: (1.0 - state.schedule().alpha_bar(i)?).max(0.0).sqrt(),
        z: rms(state.z())?,
        x0: x0.as_ref().map(rms).transpose()?,
        eps: tr.eps(i).ok().map(rms).transpose()?,
        prompt,
        edited: tr.edited().contains(&i),
        preview,
    })
}

/// Root mean square over all values.
fn rms(z: &Latent) -> Result<f64> {
    let mean = z.tensor().detach().to_dtype(DType::F32)?.sqr()?.mean_all()?;
    Ok(f64::from(mean.to_scalar::<f32>()?).sqrt())
}

fn compare(a: &Trajectory, b: &Trajectory) -> Result<Vec<Gap>> {
    Latent::same_shape("view", a.last().z(), b.last().z())?;
    if a.schedule().timesteps() != b.schedule().timesteps() {
        return Err(Error::value("view", "the two follow other levels"));
    }
    let from = a.first().max(b.first());
    let to = a.last().i().min(b.last().i());
    let gap = |i: usize| -> Result<Gap> {
        let x0 = match (a.x0(i), b.x0(i)) {
            (Ok(x), Ok(y)) => Some(x.distance(&y)?),
            _ => None,
        };
        Ok(Gap { i, z: a.state(i)?.z().distance(b.state(i)?.z())?, x0 })
    };
    (from..=to).map(gap).collect()
}

/// The picture of a level: the clean latent that was predicted there (at the end: the latent), of the first of a batch.
pub(super) fn decoded(tr: &Trajectory, i: usize) -> Result<RgbImage> {
    let z = match tr.x0(i) {
        Ok(x0) => x0,
        Err(_) => tr.state(i)?.z().clone(),
    };
    tr.model().decode(&z.index(0)?)?.to_rgb(0)
}
