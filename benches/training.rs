//! Steps of training as the recipes take them, on request: the scumble side of `benches/training.py`, which starts this
//! program and its PyTorch counterpart and lets them take turns.
//!
//! `training CASE MODEL SIZE PREDICTOR` prints `ready`, and then for every line on its standard input, a number of steps, takes
//! them and prints `WALL PROCESSOR PEAK CHECK`: seconds of wall time and of processor time of all threads per step, the
//! process's highest memory so far in MB, and a number by which the two sides are compared. Cases: embed tune sketch.

#![allow(clippy::expect_used, clippy::panic)]

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use scumble::engine::memory::Reuse;
use scumble::engine::observe::{Cancel, Silent};
use scumble::engine::{device, ops};
use scumble::script::{Session, Settings, thread};

/// As in the program.
#[global_allocator]
static MEMORY: Reuse = Reuse;

/// What all cases share: a clean latent and a noise, both drawn, at timestep 501, and two prompts.
const SETUP: &str = r#"
let s = m.schedule(999);
let z0 = m.noise(1, #{ size: size });
let noise = m.noise(2, #{ size: size });
let at = s.len - 501;
let t = s.t(at);
let zt = s.add_noise(z0, noise, at);
let text = m.encode("a dog in the snow");
let none = m.encode("");
let last = 0.0;
"#;

/// `steps.call(n)` takes n of them; `last` is what is compared: a loss, or a mean magnitude.
fn steps(case: &str) -> &'static str {
    match case {
        // Stage A of Imagic: one step of `minimize`, whose state goes on from call to call.
        "embed" => {
            r#"
            let e = text;
            let o = adam(#{ lr: 0.002 });
            let steps = |n| {
                for k in 0..n {
                    let g = grad(e, |e| mse(m.predict(s.add_noise(z0, noise, at), t, e), noise));
                    let next = o.step(e, g.grad);
                    e = next.x;
                    o = next.state;
                    last = g.value;
                }
            };"#
        }
        // Stage B: all weights of the UNet by Adam, from the model as it was loaded.
        "tune" => {
            r#"
            let steps = |n| {
                m.tune(#{ what: "unet", steps: n, lr: 0.0000005 }, |m, k| {
                    let loss = mse(m.predict(s.add_noise(z0, noise, at), t, text), noise);
                    last = loss.mean;
                    loss
                });
            };"#
        }
        // Sketch guidance: the prediction, the gradient of what a predictor reads in nine activations, and the push.
        "sketch" => {
            r#"
            let net = load_mlp(predictor);
            let steps = |n| {
                for k in 0..n {
                    let p = lgp::guide(m, net, zt, t, text, none, 7, z0);
                    let z = lgp::pushed(zt, s.step(zt, p.eps, at), p.grad, 1.6);
                    last = z.tensor.pow(2).mean;
                }
            };"#
        }
        other => panic!("unknown case {other}"),
    }
}

/// Processor time of all threads in seconds.
fn processor() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The process's highest resident memory so far, in MB (Linux; 0 elsewhere).
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1e3
}

fn main() {
    // Cargo appends `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [case, model, size, predictor] = args.as_slice() else {
        panic!("usage: training CASE MODEL SIZE PREDICTOR");
    };
    let threads = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok());
    let threads = threads.unwrap_or_else(device::threads);
    // SAFETY: no thread was started yet.
    unsafe { device::settle_candle(threads) };
    ops::keep_transformed(device::room_for_copies());
    thread::run(|| {
        device::lead_pool(threads, "compute");
        let settings = Settings {
            no_init: true,
            allow_read: vec![PathBuf::from("/")],
            max_memory: device::memory_limit(),
            ..Settings::default()
        };
        let mut session = Session::new(settings, Arc::new(Silent), Cancel::default());
        let mut run = |code: &str| session.eval(code).unwrap_or_else(|e| panic!("{e}")).text;
        run(&format!("let m = load({model:?}); let size = {size}; let predictor = {predictor:?};"));
        run(SETUP);
        run(steps(case));
        println!("ready {} threads, {:?}", rayon::current_num_threads(), ops::level());
        for line in std::io::stdin().lock().lines() {
            let Some(count) = line.ok().and_then(|l| l.trim().parse::<u32>().ok()) else { break };
            let (cpu, start) = (processor(), Instant::now());
            run(&format!("steps.call({count});"));
            let wall = start.elapsed().as_secs_f64() / f64::from(count);
            let cpu = (processor() - cpu) / f64::from(count);
            // A number is shown to five digits.
            let check = run("last * 1000000.0").and_then(|t| t.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e6;
            println!("{wall:.5} {cpu:.5} {:.0} {check:.9e}", peak());
            let _ = std::io::stdout().flush();
        }
    });
}
