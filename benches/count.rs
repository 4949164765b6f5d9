//! Runs one operation a few times and ends: what `benches/instructions.py` lets callgrind count.
//!
//! `count OPERATION ours|candle TIMES`; `count` alone lists the operations.

#![allow(clippy::expect_used, clippy::panic)]

use candle_core::{D, Device, Result, Tensor, Var};
use candle_nn::Module;
use scumble::engine::diffusion::noise::TorchNoise;
use scumble::engine::ops;

type Run = Box<dyn Fn() -> Result<Tensor>>;

type Ours = fn(&Tensor) -> scumble::engine::Result<Tensor>;
type Theirs = fn(&Tensor) -> Result<Tensor>;

/// Name, ours, candle's.
type Operation = (&'static str, Run, Run);

fn normal(seed: u64, dims: &[usize]) -> Tensor {
    let values = TorchNoise::new(seed).normal(dims.iter().product());
    Tensor::from_vec(values, dims, &Device::Cpu).expect("a tensor")
}

fn variable(seed: u64, dims: &[usize]) -> Tensor {
    Var::from_tensor(&normal(seed, dims)).expect("a variable").as_tensor().clone()
}

/// The backward pass with the forward pass that it needs.
fn both_ways(f: impl Fn() -> Result<Tensor> + 'static) -> Run {
    Box::new(move || {
        let y = f()?;
        y.sum_all()?.backward()?;
        Ok(y)
    })
}

fn conv(x: Tensor, w: Tensor, stride: usize) -> Result<[Run; 2]> {
    let pad = w.dim(2)? / 2;
    let layer = ops::Conv2d::new(w.clone(), None, stride, ops::Padding::all(pad))?;
    let y = x.clone();
    let tracked = x.track_op();
    let ours = move || Ok(layer.forward(&x)?);
    let theirs = move || y.conv2d(&w, pad, stride, 1, 1);
    Ok(if tracked { [both_ways(ours), both_ways(theirs)] } else { [Box::new(ours), Box::new(theirs)] })
}

fn linear(x: Tensor, w: Tensor) -> Result<[Run; 2]> {
    let (layer, other) = (ops::Linear::new(w.clone(), None)?, candle_nn::Linear::new(w, None));
    let y = x.clone();
    let tracked = x.track_op();
    let ours = move || Ok(layer.forward(&x)?);
    let theirs = move || other.forward(&y);
    Ok(if tracked { [both_ways(ours), both_ways(theirs)] } else { [Box::new(ours), Box::new(theirs)] })
}

/// Attention as candle-transformers writes it, with the softmax that keeps gradients where they are wanted.
fn candle_attention(q: &Tensor, k: &Tensor, heads: usize) -> Result<Tensor> {
    let split = |x: &Tensor| {
        let (b, n, c) = x.dims3()?;
        x.reshape((b, n, heads, c / heads))?.transpose(1, 2)?.contiguous()
    };
    let (b, n, c) = q.dims3()?;
    let (q, k) = (split(q)?, split(k)?);
    let scores = (q.matmul(&k.t()?)? * (1.0 / ((c / heads) as f64).sqrt()))?;
    let probs = match scores.track_op() {
        true => candle_nn::ops::softmax(&scores, D::Minus1)?,
        false => candle_nn::ops::softmax_last_dim(&scores)?,
    };
    probs.matmul(&k)?.transpose(1, 2)?.reshape((b, n, c))
}

fn operations() -> Result<Vec<Operation>> {
    let (image, kernel) = ([2, 64, 16, 16], [64, 64, 3, 3]);
    let mut all: Vec<Operation> = Vec::new();
    let mut pair = |name, [ours, candle]: [Run; 2]| all.push((name, ours, candle));
    pair("conv 3x3", conv(normal(1, &image), normal(2, &kernel), 1)?);
    pair("conv 3x3, stride 2", conv(normal(1, &image), normal(2, &kernel), 2)?);
    pair("conv 1x1", conv(normal(1, &image), normal(2, &[64, 64, 1, 1]), 1)?);
    pair("conv 3x3, both ways, to x", conv(variable(1, &image), normal(2, &kernel), 1)?);
    pair("conv 3x3, both ways, to x and w", conv(variable(1, &image), variable(2, &kernel), 1)?);
    pair("linear 154x256->256", linear(normal(1, &[154, 256]), normal(2, &[256, 256]))?);
    pair("linear, both ways, to x", linear(variable(1, &[154, 256]), normal(2, &[256, 256]))?);
    pair("linear, both ways, to x and w", linear(variable(1, &[154, 256]), variable(2, &[256, 256]))?);
    for (name, make) in [
        ("attention 2x256x256, 2 heads of 32", normal as fn(u64, &[usize]) -> Tensor),
        ("attention, both ways", variable),
    ] {
        let (q, k) = (make(1, &[2, 256, 64]), make(2, &[2, 256, 64]));
        let (q2, k2) = (q.clone(), k.clone());
        let ours = move || Ok(ops::attention(&q, &k, &k, 2, false)?);
        let theirs = move || candle_attention(&q2, &k2, 2);
        let runs: [Run; 2] = match name.contains("both") {
            true => [both_ways(ours), both_ways(theirs)],
            false => [Box::new(ours), Box::new(theirs)],
        };
        pair(name, runs);
    }
    for (name, x) in
        [("group norm + SiLU", normal(1, &image)), ("group norm + SiLU, both ways", variable(1, &image))]
    {
        let norm = ops::GroupNorm::new(normal(2, &[64]), normal(3, &[64]), 16, 1e-5)?;
        let other = candle_nn::GroupNorm::new(normal(2, &[64]), normal(3, &[64]), 64, 16, 1e-5)?;
        let y = x.clone();
        let ours = move || Ok(norm.forward_silu(&x)?);
        let theirs = move || other.forward(&y)?.silu();
        let runs: [Run; 2] = match name.contains("both") {
            true => [both_ways(ours), both_ways(theirs)],
            false => [Box::new(ours), Box::new(theirs)],
        };
        pair(name, runs);
    }
    let x = normal(1, &[512, 256]);
    let norm = ops::LayerNorm::new(normal(2, &[256]), normal(3, &[256]), 1e-5)?;
    let other = candle_nn::LayerNorm::new(normal(2, &[256]), normal(3, &[256]), 1e-5);
    let y = x.clone();
    pair("layer norm", [Box::new(move || Ok(norm.forward(&x)?)), Box::new(move || other.forward(&y))]);
    let curves: [(&str, Ours, Theirs); 4] = [
        ("SiLU", ops::silu, |x| x.silu()),
        ("GELU", ops::gelu, |x| x.gelu_erf()),
        ("GEGLU", ops::geglu, |x| {
            x.narrow(1, 0, 128)?.mul(&x.narrow(1, 128, 128)?.contiguous()?.gelu_erf()?)
        }),
        ("softmax", ops::softmax, candle_nn::ops::softmax_last_dim),
    ];
    for (name, ours, theirs) in curves {
        let (x, y) = (normal(1, &[512, 256]), normal(1, &[512, 256]));
        pair(name, [Box::new(move || Ok(ours(&x)?)), Box::new(move || theirs(&y))]);
    }
    let (x, y) = (normal(1, &image), normal(1, &image));
    pair(
        "nearest x2",
        [Box::new(move || Ok(ops::upsample_nearest2x(&x)?)), Box::new(move || y.upsample_nearest2d(32, 32))],
    );
    let (x, y) = (normal(1, &image), normal(1, &image));
    pair(
        "bilinear 16->40",
        [
            Box::new(move || Ok(ops::resize_bilinear(&x, 40, 40)?)),
            Box::new(move || y.upsample_bilinear2d(40, 40, false)),
        ],
    );
    Ok(all)
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let all = operations()?;
    let [name, side, times] = args.as_slice() else {
        all.iter().for_each(|(name, ..)| println!("{name}"));
        return Ok(());
    };
    let (_, ours, candle) = all.into_iter().find(|(n, ..)| n == name).expect("an operation of the list");
    let run = if side == "ours" { ours } else { candle };
    for _ in 0..times.parse::<usize>().expect("a number") {
        run()?;
    }
    Ok(())
}
