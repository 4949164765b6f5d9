//! Products with both sides rounded to bfloat16 (8 bits of precision) and sums in f32, by AVX-512 BF16's dot products of
//! pairs: twice the multiplications of f32 per instruction and half the memory for weights.

use candle_core::Result;

use crate::engine::ops::parallel;

/// Columns of a panel: four registers of sixteen sums.
const PANEL: usize = 64;

/// Rows of the innermost block: 24 registers of sums.
const ROWS: usize = 6;

/// Rows per task.
const BLOCK: usize = 48;

/// Whether this processor has the instructions.
pub fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// The nearest bfloat16, ties to even, as its 16 bits. NaN stays NaN.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // Adding could carry a NaN over to infinity or zero.
    if x.is_nan() { (bits >> 16) | 0x40 } else { rounded }
}

/// Two neighbours in one word, the first in the low half.
#[inline(always)]
fn pair(a: f32, b: f32) -> u32 {
    round(a) | (round(b) << 16)
}

/// Words that [`panels`] makes of `weight [o, i]`.
pub fn panels_len(i: usize, o: usize) -> usize {
    i.div_ceil(2) * o.next_multiple_of(PANEL)
}

/// The panels of `weightᵀ`, `weight [o, i]`: for each 64 outputs a row of 64 words for every two inputs.
pub fn panels(weight: &[f32], i: usize, o: usize) -> Result<Vec<u32>> {
    let pairs = i.div_ceil(2);
    let mut out = vec![0; panels_len(i, o)];
    let tasks: Vec<_> = out.chunks_mut(pairs.max(1) * PANEL).enumerate().collect();
    parallel::run(tasks, i * o, |(p, out)| {
        for (c, row) in weight.chunks_exact(i).skip(p * PANEL).take(PANEL).enumerate() {
            for (k, both) in row.chunks(2).enumerate() {
                out[k * PANEL + c] = pair(both[0], both.get(1).copied().unwrap_or(0.0));
            }
        }
        Ok(())
    })?;
    Ok(out)
}

/// `x [r, i]` with the panels of `weight [o, i]` and `bias [o]` → `[r, o]`. Only where [`available`].
pub fn forward(
    x: &[f32],
    panels: &[u32],
    bias: Option<&[f32]>,
    (r, i, o): (usize, usize, usize),
) -> Result<Vec<f32>> {
    let pairs = i.div_ceil(2);
    let mut rows = vec![0u32; r * pairs];
    parallel::pieces(&mut rows, 64 * pairs, r * i, |at, out| {
        let first = at / pairs;
        for (row, out) in x[first * i..].chunks_exact(i).zip(out.chunks_exact_mut(pairs)) {
            for (both, out) in row.chunks(2).zip(out) {
                *out = pair(both[0], both.get(1).copied().unwrap_or(0.0));
            }
        }
    });
    let mut out = vec![0.0; r * o];
    let (down, across) = (r.div_ceil(BLOCK), o.div_ceil(PANEL));
    let groups = parallel::blocks(&mut out, o, PANEL, down * across, |row, s| row / BLOCK * across + s);
    let tasks: Vec<_> = groups.into_iter().enumerate().collect();
    parallel::run(tasks, r * i * o / 60, |(at, mut segments)| {
        let (first, panel) = (at / across * BLOCK, at % across);
        let b = &panels[panel * pairs * PANEL..][..pairs * PANEL];
        for (n, segments) in segments.chunks_mut(ROWS).enumerate() {
            let mut sums = [[0.0; PANEL]; ROWS];
            let a = &rows[(first + n * ROWS) * pairs..][..segments.len() * pairs];
            dots(a, b, pairs, &mut sums);
            for (segment, sums) in segments.iter_mut().zip(&sums) {
                let bias = bias.map(|bias| &bias[panel * PANEL..]);
                for (c, (out, sum)) in segment.iter_mut().zip(sums).enumerate() {
                    *out = *sum + bias.map_or(0.0, |bias| bias[c]);
                }
            }
        }
        Ok(())
    })?;
    Ok(out)
}

/// `sums = a · b` for up to six rows of `pairs` words each and a panel.
fn dots(a: &[u32], b: &[u32], pairs: usize, sums: &mut [[f32; PANEL]; ROWS]) {
    #[cfg(target_arch = "x86_64")]
    if available() {
        let rows = a.len() / pairs.max(1);
        assert!(rows <= ROWS && b.len() == pairs * PANEL && a.len() == rows * pairs);
        // SAFETY: the processor has the instructions, and the lengths were just checked.
        unsafe {
            match rows {
                1 => x86::dots::<1>(a, b, pairs, sums),
                2 => x86::dots::<2>(a, b, pairs, sums),
                3 => x86::dots::<3>(a, b, pairs, sums),
                4 => x86::dots::<4>(a, b, pairs, sums),
                5 => x86::dots::<5>(a, b, pairs, sums),
                6 => x86::dots::<6>(a, b, pairs, sums),
                _ => {}
            }
        }
        return;
    }
    let wide = |word: u32| [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)];
    for (a, sums) in a.chunks_exact(pairs.max(1)).zip(sums) {
        for (a, b) in a.iter().zip(b.chunks_exact(PANEL)) {
            for (sum, b) in sums.iter_mut().zip(b) {
                let (a, b) = (wide(*a), wide(*b));
                *sum += a[0] * b[0] + a[1] * b[1];
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{PANEL, ROWS};
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32,
        _mm512_setzero_ps, _mm512_storeu_ps,
    };
    use std::mem::transmute;

    /// # Safety
    ///
    /// The processor has AVX-512 F and BF16; `R <= ROWS`, `a` has `R * pairs` words, `b` has `pairs * PANEL`.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn dots<const R: usize>(a: &[u32], b: &[u32], pairs: usize, sums: &mut [[f32; PANEL]; ROWS]) {
        let mut registers: [[__m512; 4]; R] = [[_mm512_setzero_ps(); 4]; R];
        for k in 0..pairs {
            // SAFETY: k < pairs, so that the four reads of 16 words end at most at `pairs * PANEL`, and the words of
            // `a` lie below `R * pairs`. A register of 16 words has the size of one of 32 bfloat16, and any bits are valid.
            unsafe {
                let at = b.as_ptr().add(k * PANEL);
                let b: [__m512bh; 4] = std::array::from_fn(|j| {
                    transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.add(16 * j).cast()))
                });
                for (r, row) in registers.iter_mut().enumerate() {
                    let a = _mm512_set1_epi32(*a.get_unchecked(r * pairs + k) as i32);
                    let a = transmute::<__m512i, __m512bh>(a);
                    for (sum, b) in row.iter_mut().zip(b) {
                        *sum = _mm512_dpbf16_ps(*sum, a, b);
                    }
                }
            }
        }
        for (row, sums) in registers.iter().zip(sums) {
            for (j, register) in row.iter().enumerate() {
                // SAFETY: four times 16 numbers fill a row of 64.
                unsafe { _mm512_storeu_ps(sums.as_mut_ptr().add(16 * j), *register) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(seed: u64, len: usize) -> Vec<f32> {
        crate::engine::diffusion::noise::TorchNoise::new(seed).normal(len)
    }

    #[test]
    fn rounds_to_the_nearest() {
        for (x, want) in
            [(1.0, 0x3f80), (-2.0, 0xc000), (1.0 + 1.0 / 256.0, 0x3f80), (1.0 + 3.0 / 256.0, 0x3f82)]
        {
            assert_eq!(round(x), want, "{x}");
        }
        assert_eq!(round(f32::INFINITY), 0x7f80);
        assert!(f32::from_bits(round(f32::NAN) << 16).is_nan());
        assert!(f32::from_bits(round(f32::from_bits(0x7fff_ffff)) << 16).is_nan());
    }

    /// Against f64 on the rounded numbers (tight) and on the numbers themselves (what rounding costs).
    #[test]
    fn products_are_right() {
        for (r, i, o) in [(1, 1, 1), (5, 7, 3), (6, 64, 64), (50, 33, 70), (100, 320, 130)] {
            let (x, w, bias) = (numbers(1, r * i), numbers(2, o * i), numbers(3, o));
            let got = forward(&x, &panels(&w, i, o).unwrap(), Some(&bias), (r, i, o)).unwrap();
            let near = |v: f32| f64::from(f32::from_bits(round(v) << 16));
            for (at, got) in got.iter().enumerate() {
                let (row, column) = (&x[at / o * i..][..i], &w[at % o * i..][..i]);
                let terms = || row.iter().zip(column);
                let want: f64 =
                    terms().map(|(a, b)| near(*a) * near(*b)).sum::<f64>() + f64::from(bias[at % o]);
                assert!(
                    (f64::from(*got) - want).abs() < 1e-5 * (i as f64).sqrt().max(1.0) * 4.0,
                    "{r} {i} {o}: {got} {want}"
                );
                let exact: f64 = terms().map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
                    + f64::from(bias[at % o]);
                assert!((f64::from(*got) - exact).abs() < 0.02 * (i as f64).sqrt().max(1.0));
            }
        }
    }
}
