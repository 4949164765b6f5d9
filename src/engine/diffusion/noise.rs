//! Noise, made on the host, so that a seed means the same on every device.
//!
//! [`PhiloxNoise`] follows torch's CUDA generator, which A1111 also offers on the CPU ("NV"). [`TorchNoise`] follows torch's CPU generator (mt19937 and its normal transform): the numbers that diffusers with a
//! CPU generator and ComfyUI draw for the same seed, to 1e-6 (torch's vectorized log and cos differ in the last bit).

use rand_mt::Mt;

use crate::engine::error::{Error, Result};

/// Whose numbers a seed stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rng {
    /// torch's CPU generator.
    #[default]
    Torch,
    /// torch's CUDA generator.
    Philox,
}

impl Rng {
    /// `torch` or `philox`. Errors: another name.
    pub fn parse(op: &str, name: &str) -> Result<Self> {
        match name {
            "torch" => Ok(Rng::Torch),
            "philox" => Ok(Rng::Philox),
            other => Err(Error::missing(op, format!("there is no generator {other}"))
                .expected("torch (its CPU generator) or philox (its CUDA generator)")),
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Rng::Torch => "torch",
            Rng::Philox => "philox",
        }
    }

    /// Draw number `draw` (counted from 0) of `n` standard normal values each, of the generator with this seed.
    pub fn draw(self, seed: u64, draw: usize, n: usize) -> Vec<f32> {
        match self {
            Rng::Torch => {
                let mut generator = TorchNoise::new(seed);
                for _ in 0..draw {
                    generator.normal(n);
                }
                generator.normal(n)
            }
            Rng::Philox => PhiloxNoise::new(seed).normal(draw as u32, n),
        }
    }
}

/// Philox 4x32-10 (Salmon et al. 2011) with the normal transform of torch's CUDA kernels. The values depend on seed, draw
/// and place alone. Equal to CUDA's while a tensor fits into one wave of its launch grid (a 4 x 64 x 64 latent does).
#[derive(Clone, Copy, Debug)]
pub struct PhiloxNoise {
    key: [u32; 2],
}

impl PhiloxNoise {
    /// Seeds it; all 64 bits count.
    pub fn new(seed: u64) -> Self {
        PhiloxNoise { key: [seed as u32, (seed >> 32) as u32] }
    }

    /// `n` standard normal values of draw number `draw`.
    pub fn normal(&self, draw: u32, n: usize) -> Vec<f32> {
        (0..n as u32)
            .map(|place| {
                let [a, b, ..] = self.block([draw, 0, place, 0]);
                let unit = 1.0 / 4_294_967_296.0;
                let u = f64::from(a) * unit + unit / 2.0;
                let turn = (f64::from(b) * unit + unit / 2.0) * std::f64::consts::TAU;
                ((-2.0 * u.ln()).sqrt() * turn.sin()) as f32
            })
            .collect()
    }

    fn block(&self, mut counter: [u32; 4]) -> [u32; 4] {
        let mut key = self.key;
        for _ in 0..10 {
            let a = u64::from(counter[0]) * 0xD251_1F53;
            let b = u64::from(counter[2]) * 0xCD9E_8D57;
            counter = [
                (b >> 32) as u32 ^ counter[1] ^ key[0],
                b as u32,
                (a >> 32) as u32 ^ counter[3] ^ key[1],
                a as u32,
            ];
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        counter
    }
}

/// Below this many values torch draws one at a time, in double precision.
const BLOCK: usize = 16;

/// A generator whose draws continue one another.
#[derive(Clone, Debug)]
pub struct TorchNoise {
    mt: Mt,
    cached: Option<f64>,
}

impl TorchNoise {
    /// Seeds it. Like torch, only the low 32 bits of the seed count.
    pub fn new(seed: u64) -> Self {
        TorchNoise { mt: Mt::new(seed as u32), cached: None }
    }

    /// The next `n` standard normal values, as `torch.randn(n, generator=g)` gives them.
    pub fn normal(&mut self, n: usize) -> Vec<f32> {
        if n < BLOCK {
            return (0..n).map(|_| self.one() as f32).collect();
        }
        let mut values: Vec<f32> = (0..n).map(|_| self.uniform()).collect();
        let whole = n - n % BLOCK;
        values[..whole].chunks_exact_mut(BLOCK).for_each(box_muller);
        if whole != n {
            // The last 16 are drawn and transformed anew, over values that were finished before.
            let tail = &mut values[n - BLOCK..];
            tail.iter_mut().for_each(|v| *v = uniform(&mut self.mt));
            box_muller(tail);
        }
        values
    }

    /// The next number of 0 to 1 (1 not included), as `torch.rand(n, generator=g)` gives them.
    pub fn uniform(&mut self) -> f32 {
        uniform(&mut self.mt)
    }

    fn one(&mut self) -> f64 {
        if let Some(value) = self.cached.take() {
            return value;
        }
        let u1 = self.double();
        let u2 = self.double();
        let radius = (-2.0 * (1.0 - u2).ln()).sqrt();
        let theta = 2.0 * std::f64::consts::PI * u1;
        self.cached = Some(radius * theta.sin());
        radius * theta.cos()
    }

    fn double(&mut self) -> f64 {
        let high = u64::from(self.mt.next_u32());
        let low = u64::from(self.mt.next_u32());
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }
}

fn uniform(mt: &mut Mt) -> f32 {
    (mt.next_u32() & ((1 << 24) - 1)) as f32 / (1u32 << 24) as f32
}

fn box_muller(block: &mut [f32]) {
    for j in 0..BLOCK / 2 {
        let u1 = 1.0 - block[j];
        let u2 = block[j + BLOCK / 2];
        let radius = (-2.0 * u1.ln()).sqrt();
        let theta = 2.0 * std::f32::consts::PI * u2;
        block[j] = radius * theta.cos();
        block[j + BLOCK / 2] = radius * theta.sin();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_moments_of_a_normal() {
        let x = TorchNoise::new(7).normal(65_536);
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64;
        let var = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 0.02 && (var - 1.0).abs() < 0.02, "{mean} {var}");
    }

    /// The known answer of Random123 for an all-zero counter and key, and the values that A1111's generator is known by.
    #[test]
    fn philox_known_answers() {
        let zero = PhiloxNoise::new(0);
        assert_eq!(zero.block([0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let known = [-0.924_662_59, -0.425_344_15, -2.643_845_7, 0.145_183_88, -0.120_866_47, -0.579_725_64];
        for (ours, theirs) in zero.normal(0, 12).iter().zip(known) {
            assert!((f64::from(*ours) - theirs).abs() < 1e-6, "{ours} {theirs}");
        }
        assert_ne!(zero.normal(1, 12), zero.normal(0, 12));
    }

    #[test]
    fn draws_continue_one_another() {
        let mut generator = TorchNoise::new(3);
        generator.normal(20);
        assert_eq!(Rng::Torch.draw(3, 1, 20), generator.normal(20));
    }

    #[test]
    fn high_bits_of_the_seed_do_not_count() {
        assert_eq!(TorchNoise::new(5).normal(20), TorchNoise::new((1 << 32) + 5).normal(20));
        assert_ne!(TorchNoise::new(5).normal(20), TorchNoise::new(6).normal(20));
    }
}
