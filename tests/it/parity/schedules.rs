//! diffusers' DDIMScheduler: timesteps, alphas, steps, for every key of the config.

use std::sync::Arc;

use candle_core::Tensor;
use scumble::engine::diffusion::schedule::{Schedule, ScheduleOptions, implied_noise};
use scumble::engine::diffusion::train_schedule::{Prediction, TrainSchedule};
use scumble::engine::latent::Latent;
use serde_json::{Value, json};

use super::{Fixture, close};

fn weighted(list: &[usize]) -> u64 {
    list.iter().enumerate().map(|(i, t)| (i as u64 + 1) * *t as u64).sum()
}

fn whole(v: &Value) -> usize {
    v.as_u64().unwrap() as usize
}

#[test]
fn alphas_and_timesteps() {
    let all = super::json("schedules.json");
    let tolerance = all["alpha_tolerance"].as_f64().unwrap();
    for entry in all["configs"].as_array().unwrap() {
        let name = entry["name"].as_str().unwrap();
        let train = TrainSchedule::parse(&entry["config"]).unwrap();
        for (t, alpha) in entry["alphas"].as_object().unwrap() {
            let ours = train.alphas[t.parse::<usize>().unwrap()];
            assert!(
                (ours - alpha.as_f64().unwrap()).abs() <= tolerance,
                "{name}: alpha {t}: {ours} and {alpha}"
            );
        }
        assert!((train.final_alpha - entry["final_alpha"].as_f64().unwrap()).abs() <= tolerance, "{name}");
        for list in entry["lists"].as_array().unwrap() {
            let n = whole(&list["n"]);
            let ours = train.timesteps(n);
            if list["beyond"].as_bool().unwrap() {
                assert!(ours.is_err(), "{name} with {n} steps leaves the training range");
                continue;
            }
            let ours = ours.unwrap();
            assert_eq!(
                weighted(&ours),
                list["weighted"].as_u64().unwrap(),
                "{name} with {n} steps: {ours:?}"
            );
            if let Some(expected) = list["timesteps"].as_array() {
                assert_eq!(ours, expected.iter().map(whole).collect::<Vec<_>>(), "{name} with {n} steps");
            }
        }
    }
}

#[test]
fn every_number_of_steps() {
    let all = super::json("schedules.json");
    let base = &all["configs"][0]["config"];
    for entry in all["every"].as_array().unwrap() {
        let (spacing, sums) = (entry["spacing"].as_str().unwrap(), &entry["weighted"]);
        let mut config = base.clone();
        config["timestep_spacing"] = json!(spacing);
        let train = TrainSchedule::parse(&config).unwrap();
        let sums = sums.as_array().unwrap();
        assert_eq!(sums.len(), 1000);
        for (i, sum) in sums.iter().enumerate() {
            // null: diffusers' own list has one entry too many there, or leaves the training range.
            let Some(sum) = sum.as_u64() else { continue };
            let Ok(ours) = train.timesteps(i + 1) else { continue };
            assert_eq!(weighted(&ours), sum, "{spacing} with {} steps", i + 1);
        }
    }
}

#[test]
fn single_steps() {
    let all = super::json("schedules.json");
    let f = Fixture::open("schedules.safetensors");
    let eta = f.meta("eta").as_f64().unwrap();
    let latent = |t: &Tensor| Latent::new(t.clone()).unwrap();
    let (z, output, noise) = (latent(f.get("z")), f.get("output").clone(), latent(f.get("noise")));
    let mut compared = 0;
    for entry in all["configs"].as_array().unwrap() {
        let name = entry["name"].as_str().unwrap();
        let train = Arc::new(TrainSchedule::parse(&entry["config"]).unwrap());
        for (case, c) in entry["cases"].as_array().unwrap().iter().enumerate() {
            let (n, i, t) = (whole(&c["n"]), whole(&c["i"]), whole(&c["t"]));
            let s = Schedule::new(
                Arc::clone(&train),
                n,
                ScheduleOptions { noise_eta: eta, ..Default::default() },
            )
            .unwrap();
            assert_eq!(s.t(i).unwrap(), t as f64);
            let eps = implied_noise(train.prediction, &z, output.clone(), train.alphas[t]).unwrap();
            let mut check = |what: &str, ours: Latent| {
                if let Some(theirs) = f.tensors.get(&format!("{name}.{what}")) {
                    close(
                        &format!("{name}.{what} case {case}"),
                        ours.tensor(),
                        &theirs.get(case).unwrap(),
                        1e-4,
                    );
                    compared += 1;
                }
            };
            check("eps", eps.clone());
            check("x0", s.x0(&z, &eps, i).unwrap());
            check("next", s.step_with(&z, &eps, i, None).unwrap());
            check("next_eta", s.step_with(&z, &eps, i, Some(&noise)).unwrap());
            check("noised", s.add_noise(&z, &noise, i).unwrap());
            if train.prediction == Prediction::Epsilon {
                check("back", s.back(&z, &eps, i).unwrap());
            }
        }
    }
    assert!(compared > 100, "only {compared} comparisons");
}

#[test]
fn a_step_and_its_inverse_cancel() {
    let train = Arc::new(
        TrainSchedule::parse(&json!({"clip_sample": false, "steps_offset": 1, "set_alpha_to_one": false}))
            .unwrap(),
    );
    let f = Fixture::open("schedules.safetensors");
    let (z, eps) = (Latent::new(f.get("z").clone()).unwrap(), Latent::new(f.get("noise").clone()).unwrap());
    let s = Schedule::new(train, 20, ScheduleOptions::default()).unwrap();
    for i in 0..20 {
        let there = s.back(&z, &eps, i).unwrap();
        close("round trip", s.step(&there, &eps, i).unwrap().tensor(), z.tensor(), 1e-4);
    }
}
