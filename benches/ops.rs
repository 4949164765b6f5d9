//! Times the operations of `engine::ops` beside candle's own, in alternation; prints a table.
//!
//! `cargo bench --bench ops [-- FILTER]`; set `RAYON_NUM_THREADS` to choose the number of threads for both.
//! Wall time per call and processor time of all threads (which other work on the machine disturbs less),
//! each the best of many samples.
//! Rows marked `back` time the backward pass alone, to all operands that the row names.

#![allow(clippy::expect_used)]

use std::time::{Duration, Instant};

use candle_core::{D, Device, Result, Tensor, Var};
use candle_nn::Module;
use scumble::engine::ops;

/// Longest time for one row.
const ROW: Duration = Duration::from_millis(1200);

fn random(dims: &[usize]) -> Tensor {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let values: Vec<f32> = (0..dims.iter().product::<usize>())
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_vec(values, dims, &Device::Cpu).expect("random tensor")
}

/// Seconds: wall, processor.
type Times = [f64; 2];

/// Runs a call some times and gives the times of one.
type Run<'a> = Box<dyn Fn(usize) -> Result<Times> + 'a>;

/// Processor time of all threads in seconds.
fn processor() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn measured(count: usize, f: impl FnOnce() -> Result<()>) -> Result<Times> {
    let (cpu, start) = (processor(), Instant::now());
    f()?;
    let (wall, cpu) = (start.elapsed().as_secs_f64(), processor() - cpu);
    Ok([wall, cpu].map(|t| t / count as f64))
}

/// Times a call.
fn forward<'a>(f: impl Fn() -> Result<Tensor> + 'a) -> Run<'a> {
    Box::new(move |count| measured(count, || (0..count).try_for_each(|_| f().map(drop))))
}

/// Times the backward pass of a call.
fn backward<'a>(f: impl Fn() -> Result<Tensor> + 'a) -> Run<'a> {
    Box::new(move |count| {
        // The sum has the cheapest backward of all: a broadcast.
        let losses = (0..count).map(|_| f()?.sum_all()).collect::<Result<Vec<_>>>()?;
        measured(count, || losses.iter().try_for_each(|loss| loss.backward().map(drop)))
    })
}

struct Table {
    filter: String,
}

impl Table {
    fn row(&self, name: &str, shape: &str, ours: Run, theirs: Run) -> Result<()> {
        if !format!("{name} {shape}").contains(&self.filter) {
            return Ok(());
        }
        let runs = [ours, theirs];
        let mut best = [[f64::MAX; 2]; 2];
        // Enough calls per sample for the clock, few enough for many samples.
        let counts =
            [&runs[0], &runs[1]].map(|run| run(1).map(|[wall, _]| ((2e-3 / wall) as usize).clamp(1, 200)));
        let start = Instant::now();
        let mut samples = 0;
        while samples < 3 || (start.elapsed() < ROW && samples < 400) {
            for ((best, run), count) in best.iter_mut().zip(&runs).zip(&counts) {
                let count = count.as_ref().map_or(1, |c| *c);
                for (best, time) in best.iter_mut().zip(run(count)?) {
                    *best = best.min(time);
                }
            }
            samples += 1;
        }
        let [ours, theirs] = best.map(|times| times.map(|t| t * 1e6));
        println!(
            "{name:<22} {shape:<24} {:>10.1} {:>10.1} {:>6.2}   {:>10.1} {:>10.1} {:>6.2}",
            ours[0],
            theirs[0],
            theirs[0] / ours[0],
            ours[1],
            theirs[1],
            theirs[1] / ours[1]
        );
        Ok(())
    }
}

fn conv(
    table: &Table,
    n: usize,
    i: usize,
    o: usize,
    size: usize,
    kernel: usize,
    stride: usize,
) -> Result<()> {
    let pad = kernel / 2;
    let (x, w, b) = (random(&[n, i, size, size]), random(&[o, i, kernel, kernel]), random(&[o]));
    let shape = format!("{n}x{i}->{o} @{size} k{kernel} s{stride}");
    let layer = ops::Conv2d::new(w.clone(), Some(b.clone()), stride, ops::Padding::all(pad))?;
    let theirs =
        |x: &Tensor, w: &Tensor| x.conv2d(w, pad, stride, 1, 1)?.broadcast_add(&b.reshape((1, o, 1, 1))?);
    table.row("conv2d", &shape, forward(|| Ok(layer.forward(&x)?)), forward(|| theirs(&x, &w)))?;
    if n * i * o * size * size > 900_000_000 {
        return Ok(());
    }
    let (vx, vw) = (Var::from_tensor(&x)?, Var::from_tensor(&w)?);
    table.row("conv2d back x", &shape, backward(|| Ok(layer.forward(&vx)?)), backward(|| theirs(&vx, &w)))?;
    let layer = layer.with_weights(vw.as_tensor().clone(), Some(b.clone()))?;
    table.row("conv2d back x w", &shape, backward(|| Ok(layer.forward(&vx)?)), backward(|| theirs(&vx, &vw)))
}

fn linear(table: &Table, rows: usize, i: usize, o: usize) -> Result<()> {
    let (x, w, b) = (random(&[rows, i]), random(&[o, i]), random(&[o]));
    let shape = format!("{rows}x{i}->{o}");
    let ours = |x: &Tensor, w: &Tensor| Ok(ops::Linear::new(w.clone(), Some(b.clone()))?.forward(x)?);
    let theirs = |x: &Tensor, w: &Tensor| candle_nn::Linear::new(w.clone(), Some(b.clone())).forward(x);
    table.row("linear", &shape, forward(|| ours(&x, &w)), forward(|| theirs(&x, &w)))?;
    let (vx, vw) = (Var::from_tensor(&x)?, Var::from_tensor(&w)?);
    table.row("linear back x w", &shape, backward(|| ours(&vx, &vw)), backward(|| theirs(&vx, &vw)))
}

fn group_norm(table: &Table, n: usize, c: usize, size: usize, groups: usize) -> Result<()> {
    let (x, w, b) = (random(&[n, c, size, size]), random(&[c]), random(&[c]));
    let shape = format!("{n}x{c} @{size} g{groups}");
    let ours = |x: &Tensor| Ok(ops::GroupNorm::new(w.clone(), b.clone(), groups, 1e-5)?.forward_silu(x)?);
    let theirs =
        |x: &Tensor| candle_nn::GroupNorm::new(w.clone(), b.clone(), c, groups, 1e-5)?.forward(x)?.silu();
    table.row("group_norm+silu", &shape, forward(|| ours(&x)), forward(|| theirs(&x)))?;
    let x = Var::from_tensor(&x)?;
    table.row("group_norm+silu back x", &shape, backward(|| ours(&x)), backward(|| theirs(&x)))
}

fn layer_norm(table: &Table, rows: usize, c: usize) -> Result<()> {
    let (x, w, b) = (random(&[rows, c]), random(&[c]), random(&[c]));
    let ours = || Ok(ops::LayerNorm::new(w.clone(), b.clone(), 1e-5)?.forward(&x)?);
    let theirs = || candle_nn::LayerNorm::new(w.clone(), b.clone(), 1e-5).forward(&x);
    table.row("layer_norm", &format!("{rows}x{c}"), forward(ours), forward(theirs))
}

/// Attention as candle-transformers writes it, with the softmax that keeps gradients where they are wanted.
fn candle_attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, graph: bool) -> Result<Tensor> {
    let split = |x: &Tensor| {
        let (b, n, c) = x.dims3()?;
        x.reshape((b, n, heads, c / heads))?.transpose(1, 2)?.contiguous()
    };
    let (b, n, c) = q.dims3()?;
    let (q, k, v) = (split(q)?, split(k)?, split(v)?);
    let scores = (q.matmul(&k.t()?)? * (1.0 / ((c / heads) as f64).sqrt()))?;
    let probs = match graph {
        true => candle_nn::ops::softmax(&scores, D::Minus1)?,
        false => candle_nn::ops::softmax_last_dim(&scores)?,
    };
    probs.matmul(&v)?.transpose(1, 2)?.reshape((b, n, c))
}

fn attention(table: &Table, b: usize, n: usize, m: usize, heads: usize, size: usize) -> Result<()> {
    let c = heads * size;
    let (q, k, v) = (random(&[b, n, c]), random(&[b, m, c]), random(&[b, m, c]));
    let shape = format!("{b}x{n}x{m} h{heads} d{size}");
    let ours = |q: &Tensor, k: &Tensor, v: &Tensor| Ok(ops::attention(q, k, v, heads, false)?);
    let theirs = |graph| move |q: &Tensor, k: &Tensor, v: &Tensor| candle_attention(q, k, v, heads, graph);
    table.row("attention", &shape, forward(|| ours(&q, &k, &v)), forward(|| theirs(false)(&q, &k, &v)))?;
    if n * m > 5_000_000 {
        return Ok(());
    }
    let (q, k, v) = (Var::from_tensor(&q)?, Var::from_tensor(&k)?, Var::from_tensor(&v)?);
    table.row(
        "attention back q k v",
        &shape,
        backward(|| ours(&q, &k, &v)),
        backward(|| theirs(true)(&q, &k, &v)),
    )
}

fn geglu(table: &Table, rows: usize, c: usize) -> Result<()> {
    let x = random(&[rows, 2 * c]);
    let shape = format!("{rows}x{c}");
    let ours = |x: &Tensor| Ok(ops::geglu(x)?);
    let theirs = |x: &Tensor| x.narrow(1, 0, c)?.mul(&x.narrow(1, c, c)?.gelu_erf()?);
    table.row("geglu", &shape, forward(|| ours(&x)), forward(|| theirs(&x)))?;
    let x = Var::from_tensor(&x)?;
    table.row("geglu back", &shape, backward(|| ours(&x)), backward(|| theirs(&x)))
}

fn pointwise(table: &Table, dims: &[usize]) -> Result<()> {
    let x = random(dims);
    let shape = format!("{dims:?}");
    let quick = || x.mul(&candle_nn::ops::sigmoid(&(&x * 1.702)?)?);
    table.row("silu", &shape, forward(|| Ok(ops::silu(&x)?)), forward(|| x.silu()))?;
    table.row("gelu", &shape, forward(|| Ok(ops::gelu(&x)?)), forward(|| x.gelu_erf()))?;
    table.row("quick_gelu", &shape, forward(|| Ok(ops::quick_gelu(&x)?)), forward(quick))?;
    let softmax = || candle_nn::ops::softmax_last_dim(&x);
    table.row("softmax", &shape, forward(|| Ok(ops::softmax(&x)?)), forward(softmax))
}

fn upsample(table: &Table, n: usize, c: usize, size: usize) -> Result<()> {
    let x = random(&[n, c, size, size]);
    let ours = || Ok(ops::upsample_nearest2x(&x)?);
    let theirs = || x.upsample_nearest2d(2 * size, 2 * size);
    table.row("upsample_nearest2x", &format!("{n}x{c} @{size}"), forward(ours), forward(theirs))
}

fn main() -> Result<()> {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let table = Table { filter };
    println!("{} threads, {:?}, f32", rayon::current_num_threads(), ops::level());
    println!("{:<47} {:^29}   {:^29}", "", "wall us", "processor us");
    println!(
        "{:<22} {:<24} {:>10} {:>10} {:>6}   {:>10} {:>10} {:>6}",
        "operation", "shape", "ours", "candle", "ratio", "ours", "candle", "ratio"
    );

    // The embedded UNet and autoencoder.
    for (i, o, size) in [(4, 32, 16), (32, 32, 16), (96, 32, 16), (64, 64, 8), (192, 64, 8), (128, 128, 4)] {
        conv(&table, 2, i, o, size, 3, 1)?;
    }
    conv(&table, 2, 256, 128, 2, 3, 1)?;
    conv(&table, 2, 32, 32, 16, 3, 2)?;
    conv(&table, 2, 64, 64, 8, 1, 1)?;
    conv(&table, 1, 64, 32, 64, 3, 1)?;
    conv(&table, 1, 32, 3, 64, 3, 1)?;
    linear(&table, 512, 32, 256)?;
    linear(&table, 32, 128, 1024)?;
    linear(&table, 154, 128, 64)?;
    linear(&table, 2, 128, 128)?;
    group_norm(&table, 2, 32, 16, 16)?;
    group_norm(&table, 2, 128, 4, 16)?;
    group_norm(&table, 2, 128, 2, 16)?;
    group_norm(&table, 1, 64, 64, 8)?;
    layer_norm(&table, 512, 32)?;
    layer_norm(&table, 32, 128)?;
    attention(&table, 2, 256, 256, 2, 16)?;
    attention(&table, 2, 256, 77, 2, 16)?;
    attention(&table, 2, 64, 77, 2, 32)?;
    attention(&table, 2, 16, 77, 2, 64)?;
    attention(&table, 1, 256, 256, 1, 128)?;
    geglu(&table, 512, 128)?;
    pointwise(&table, &[2, 32, 16, 16])?;
    upsample(&table, 2, 64, 8)?;

    // Stable Diffusion 1.5.
    for (i, o, size) in [(320, 320, 64), (640, 640, 32), (1280, 1280, 16), (1280, 1280, 8)] {
        conv(&table, 2, i, o, size, 3, 1)?;
    }
    conv(&table, 2, 320, 320, 64, 3, 2)?;
    conv(&table, 2, 320, 320, 64, 1, 1)?;
    linear(&table, 8192, 320, 2560)?;
    linear(&table, 512, 1280, 1280)?;
    linear(&table, 77, 768, 3072)?;
    group_norm(&table, 2, 320, 64, 32)?;
    layer_norm(&table, 8192, 320)?;
    attention(&table, 2, 4096, 4096, 8, 40)?;
    attention(&table, 2, 1024, 1024, 8, 80)?;
    attention(&table, 2, 4096, 77, 8, 40)?;
    geglu(&table, 8192, 1280)?;
    pointwise(&table, &[2, 320, 64, 64])?;
    upsample(&table, 2, 640, 32)
}
