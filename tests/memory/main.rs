//! What gradients hold in memory: counted by an allocator of its own, hence a binary of its own, one test at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use candle_core::{DType, Device, Tensor, Var};
use scumble::engine::nets::hooks::Hooks;
use scumble::engine::nets::unet::{Context, Unet, UnetConfig};
use scumble::engine::observe::{Cancel, Silent};
use scumble::engine::weights::RandomWeights;
use scumble::script::{Session, Settings, thread};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static MADE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it is; the counters touch no memory of its.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        MADE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise about `layout` is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `at` came from `alloc` above, with the same `layout`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static MEMORY: Counting = Counting;

fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What `f` gives, the most bytes that it held beyond those at its start, and all bytes that it asked for.
fn measure<T>(f: impl FnOnce() -> T) -> (T, usize, usize) {
    let (start, made) = (NOW.load(Ordering::SeqCst), MADE.load(Ordering::SeqCst));
    PEAK.store(start, Ordering::SeqCst);
    let result = f();
    let peak = PEAK.load(Ordering::SeqCst).saturating_sub(start);
    (result, peak, MADE.load(Ordering::SeqCst) - made)
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn in_session(f: impl FnOnce(&mut dyn FnMut(&str) -> usize) + Send) {
    thread::run(|| {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { out: dir.path().to_path_buf(), no_init: true, ..Settings::default() };
        let mut session = Session::new(settings, Arc::new(Silent), Cancel::default());
        let setup = "let m = load(\"emoji\"); let s = m.schedule(50); let z = m.noise(0); let none = m.encode(\"\"); \
                     let text = m.encode(\"a dog\"); let w = tensor([0.5, 0.5]);";
        session.eval(setup).unwrap_or_else(|e| panic!("{e}"));
        f(&mut |code| measure(|| session.eval(code).map(|_| ()).unwrap_or_else(|e| panic!("{code}: {e}"))).1);
    });
}

#[test]
fn a_chain_holds_one_step() {
    let _alone = alone();
    in_session(|peak| {
        let run = |n: usize, how: &str| {
            let step = "s.step(z, m.guided(z, s.t(i), text, none, 5), i)";
            let loss = match how {
                "chain" => format!("mse(chain(x, 0..{n}, [], |z, i| {step}), z)"),
                _ => format!("let y = z; let z = x; for i in 0..{n} {{ z = {step}; }} mse(z, y)"),
            };
            format!("grad(z, |x| {{ {loss} }}).value")
        };
        // What every thread keeps for its kernels, and the transformed weights.
        peak(&run(2, "chain"));
        let (five, fifty) = (peak(&run(5, "chain")), peak(&run(50, "chain")));
        let (one, plain) = (peak(&run(1, "loop")), peak(&run(5, "loop")));
        println!(
            "chain of 5 steps {:.2} MiB, of 50 {:.2} MiB ({:.3}); plain loop of 1 {:.2}, of 5 {:.2} MiB",
            mib(five),
            mib(fifty),
            fifty as f64 / five as f64,
            mib(one),
            mib(plain)
        );
        assert!(fifty as f64 <= 1.3 * five as f64, "{five} {fifty}");
        assert!(five * 2 < plain, "{five} {plain}");
    });
}

/// What the recipe `disentangle` goes through at every iteration: the run under a mix of prompts, the decoder, the perceptual
/// loss and CLIP's direction, back to one weight per step.
#[test]
fn disentanglement_holds_one_step() {
    let _alone = alone();
    in_session(|peak| {
        peak(
            "let eye = perceptual(m); let x0 = m.decode(z); let seen = eye.features(x0); let clip0 = m.clip(x0); \
             let c1 = m.encode(\"a dog in the snow\"); let turn = m.clip(\"a dog\") - m.clip(\"a dog in the snow\");",
        );
        let run = |n: usize| {
            format!(
                "s = m.schedule({n}); let list = []; for i in 0..{n} {{ list.push(0.5); }} \
                 grad(tensor(list), |lam| {{ \
                     let z = chain(z, 0..s.len, [lam], |z, i, lam| \
                         s.step(z, m.guided(z, s.t(i), blend(c1, text, lam.slice(0, i, 1)), none, 7), i)); \
                     let x = m.decode(z); \
                     0.05 * losses::perceptual_distance(eye.features(x), seen) + losses::direction(clip0 - m.clip(x), turn) \
                 }}).value"
            )
        };
        // What every thread keeps for its kernels, and the transformed weights.
        peak(&run(2));
        let (five, fifty) = (peak(&run(5)), peak(&run(50)));
        println!(
            "disentangle, 5 steps {:.2} MiB, 50 steps {:.2} MiB ({:.3})",
            mib(five),
            mib(fifty),
            fifty as f64 / five as f64
        );
        assert!(fifty as f64 <= 1.3 * five as f64, "{five} {fifty}");
    });
}

#[test]
fn checkpoints_hold_less() {
    let _alone = alone();
    in_session(|peak| {
        let run = |on: bool| {
            format!("grad(z, |z| mse(m.guided(z, 500, text, none, 5, #{{ checkpoint: {on} }}), z)).value")
        };
        for size in [64, 256] {
            peak(&format!("z = m.noise(0, #{{ size: {size} }});"));
            peak(&run(true));
            let (with, without) = (peak(&run(true)), peak(&run(false)));
            println!(
                "one guided prediction at {size} pixels: {:.2} MiB, with checkpoints {:.2} MiB ({:.2})",
                mib(without),
                mib(with),
                with as f64 / without as f64
            );
            assert!((with as f64) < 0.6 * without as f64, "{size}: {with} {without}");
        }
    });
}

/// A graph is made only of what is tracked; on the way back nothing is computed for weights that are not.
#[test]
fn frozen_weights_cost_nothing() {
    let _alone = alone();
    let config = UnetConfig::parse(&serde_json::json!({
        "in_channels": 4, "out_channels": 4, "block_out_channels": [32, 64], "layers_per_block": 1,
        "cross_attention_dim": 32, "attention_head_dim": [2, 4], "norm_num_groups": 8, "sample_size": 16,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    }))
    .unwrap();
    let input = |dims: &[usize]| Tensor::rand(-1f32, 1f32, dims, &Device::Cpu).unwrap();
    let (z, states) = (input(&[1, 4, 16, 16]), input(&[1, 7, 32]));
    let mut figures = Vec::new();
    for tracked in [false, true] {
        let weights = RandomWeights::new(1, DType::F32, &Device::Cpu, tracked);
        let unet = Unet::new(&weights.scope(), config.clone()).unwrap();
        let text = Context::new(states.clone());
        let bytes: usize = weights.made().values().map(|t| t.elem_count() * 4).sum();
        let count = weights.made().len();
        let forward = |z: &Tensor| unet.forward(z, 417.0, &text, &mut Hooks::none()).unwrap();
        let var = Var::from_tensor(&z).unwrap();
        let back = || forward(&var).sqr().unwrap().mean_all().unwrap().backward().unwrap();
        forward(&z);
        back();
        let held = NOW.load(Ordering::SeqCst);
        let out = forward(&z);
        let kept = NOW.load(Ordering::SeqCst) - held;
        let nodes = out.sorted_nodes().len();
        let loss = forward(&var).sqr().unwrap().mean_all().unwrap();
        let (grads, peak, made) = measure(|| loss.backward().unwrap());
        println!(
            "weights {} MiB tracked: {tracked}. Without a wish for gradients {nodes} nodes, {kept} bytes kept; \
             back: {} gradients, at most {:.2} MiB, {:.2} MiB in all",
            mib(bytes),
            grads.get_ids().count(),
            mib(peak),
            mib(made)
        );
        figures.push((nodes, kept, grads.get_ids().count(), peak, made));
        if !tracked {
            assert_eq!(nodes, 0, "no graph");
            assert!(kept < 16 << 10, "{kept} bytes");
            assert_eq!(grads.get_ids().count(), 1, "of the latent alone");
            assert!(peak < bytes, "{peak} {bytes}");
        } else {
            assert_eq!(grads.get_ids().count(), count + 1);
            let (_, _, _, frozen_peak, frozen_made) = figures[0];
            assert!(peak >= frozen_peak + bytes / 2 && made >= frozen_made + bytes, "{figures:?}");
        }
    }
}
