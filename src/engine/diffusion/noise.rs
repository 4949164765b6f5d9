//! Noise, made on the host, so that a seed means the same on every device.
//!
//! [`TorchNoise`] follows torch's CPU generator (mt19937 and its normal transform): the numbers that diffusers with a
//! CPU generator and ComfyUI draw for the same seed, to 1e-6 (torch's vectorized log and cos differ in the last bit).

use rand_mt::Mt;

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

    fn uniform(&mut self) -> f32 {
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

    #[test]
    fn high_bits_of_the_seed_do_not_count() {
        assert_eq!(TorchNoise::new(5).normal(20), TorchNoise::new((1 << 32) + 5).normal(20));
        assert_ne!(TorchNoise::new(5).normal(20), TorchNoise::new(6).normal(20));
    }
}
