//! Seconds per guided step on the embedded model after warm-up, one figure a line (five runs of 20 steps).

use std::time::Instant;

use scumble::engine::error::Result;
use scumble::engine::weights::model::{LoadOptions, Model, PredictOptions};

const STEPS: usize = 20;

fn main() -> Result<()> {
    let m = Model::load("emoji", &LoadOptions::default())?;
    let (text, none) = (m.encode_text("a dog in the snow")?, m.encode_text("")?);
    let s = m.schedule(STEPS, Default::default())?;
    for run in 0..6 {
        let mut z = m.noise(Default::default(), 0, 1, None)?;
        let started = Instant::now();
        for i in 0..STEPS {
            let eps = m.guided(&z, s.t(i)?, &text, &none, 7.0, &PredictOptions::default())?;
            z = s.step(&z, &eps, i)?;
        }
        // The first run warms caches up.
        if run > 0 {
            println!("{:.5}", started.elapsed().as_secs_f64() / STEPS as f64);
        }
    }
    Ok(())
}
