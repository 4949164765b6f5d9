//! Run-time choice of vector instructions.
//!
//! Kernels are portable loops that the compiler vectorizes. [`vectorized!`](super::simd::vectorized) compiles such
//! a loop once per level and takes the best one that the processor has. Within one level results do not depend on
//! the number of threads; between levels sums may differ in the last bits, as lanes are added in another order.

use std::sync::OnceLock;
#[cfg(test)]
use std::sync::atomic::{AtomicU8, Ordering};

/// Levels of vector instructions, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every processor of the target has (SSE2 on x86-64, NEON on ARM).
    Portable = 1,
    /// x86-64-v3: AVX2 and FMA.
    Avx2 = 2,
    /// x86-64-v4: AVX-512 F, BW, CD, DQ, VL.
    Avx512 = 3,
}

/// The level that tests force on all threads; 0: none.
#[cfg(test)]
static FORCED: AtomicU8 = AtomicU8::new(0);

/// Caps the level (tests only). `None` gives the choice back.
#[cfg(test)]
pub fn force(level: Option<Level>) {
    FORCED.store(level.map_or(0, |l| l as u8), Ordering::SeqCst);
}

/// The variable that caps the level of our own kernels (matrix products choose for themselves): for the results of a
/// lesser processor, and for tests.
pub const VARIABLE: &str = "SCUMBLE_SIMD";

/// The cap that [`VARIABLE`] sets. Errors: what it says, if that is no level.
pub fn cap() -> std::result::Result<Option<Level>, String> {
    match std::env::var(VARIABLE) {
        Ok(text) => match text.as_str() {
            "" => Ok(None),
            "portable" => Ok(Some(Level::Portable)),
            "avx2" => Ok(Some(Level::Avx2)),
            "avx512" => Ok(Some(Level::Avx512)),
            _ => Err(text),
        },
        Err(std::env::VarError::NotUnicode(text)) => Err(text.to_string_lossy().into_owned()),
        Err(std::env::VarError::NotPresent) => Ok(None),
    }
}

/// The cap as a number, read once; 0: none.
fn variable() -> u8 {
    static CAP: OnceLock<u8> = OnceLock::new();
    *CAP.get_or_init(|| cap().ok().flatten().map_or(0, |level| level as u8))
}

/// The level that kernels run at: the best that the processor has and [`VARIABLE`] allows.
#[inline]
pub fn level() -> Level {
    #[cfg(test)]
    let cap = match FORCED.load(Ordering::Relaxed) {
        0 => variable(),
        forced => forced,
    };
    #[cfg(not(test))]
    let cap = variable();
    let allowed = |level: Level| cap == 0 || level as u8 <= cap;
    #[cfg(target_arch = "x86_64")]
    {
        if allowed(Level::Avx512) && pulp::x86::V4::is_available() {
            return Level::Avx512;
        }
        if allowed(Level::Avx2) && pulp::x86::V3::is_available() {
            return Level::Avx2;
        }
    }
    let _ = allowed;
    Level::Portable
}

/// Runs `op` compiled for [`level`].
#[inline]
pub fn dispatch<Op: pulp::WithSimd>(op: Op) -> Op::Output {
    #[cfg(target_arch = "x86_64")]
    match level() {
        Level::Avx512 => {
            if let Some(simd) = pulp::x86::V4::try_new() {
                return pulp::Simd::vectorize(simd, op);
            }
        }
        Level::Avx2 => {
            if let Some(simd) = pulp::x86::V3::try_new() {
                return pulp::Simd::vectorize(simd, op);
            }
        }
        Level::Portable => {}
    }
    op.with_simd(pulp::Scalar)
}

/// Declares a function whose body is compiled for every level: the arguments name the lifetimes `'a` and `'b: 'a` themselves,
/// everything that the body calls must be `#[inline(always)]`.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$t:ident $(, $f:ident: $bound:path)?>(
        $($arg:ident: $ty:ty),* $(,)?
    ) -> $ret:ty $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, clippy::extra_unused_lifetimes)]
        $vis fn $name<'a, 'b: 'a, $t: $crate::engine::ops::math::Element $(, $f: $bound)?>($($arg: $ty),*) -> $ret {
            struct Call<'a, 'b: 'a, $t: $crate::engine::ops::math::Element $(, $f: $bound)?> {
                $($arg: $ty,)*
                marker: std::marker::PhantomData<(&'a $t, &'b $t, $($f)?)>,
            }
            impl<'a, 'b: 'a, $t: $crate::engine::ops::math::Element $(, $f: $bound)?> pulp::WithSimd
                for Call<'a, 'b, $t $(, $f)?>
            {
                type Output = $ret;
                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _simd: S) -> $ret {
                    let Call { $($arg,)* marker: _ } = self;
                    $body
                }
            }
            $crate::engine::ops::simd::dispatch(Call::<'a, 'b, $t $(, $f)?> {
                $($arg,)*
                marker: std::marker::PhantomData,
            })
        }
    };
}
pub(crate) use vectorized;

#[cfg(test)]
mod tests {
    use super::super::grad_check::{distance, random};
    use super::super::{Conv2d, GroupNorm, LayerNorm, Linear, Padding};
    use super::super::{attention, geglu, gelu, gelu_tanh, quick_gelu, silu, softmax, upsample_nearest2x};
    use super::*;
    use candle_core::{DType, Tensor, Var};

    /// Every operation once, forward and backward, at sizes that are cut into several pieces: all results.
    fn everything() -> Vec<Tensor> {
        let tensor = |seed, dims: &[usize]| random(seed, dims, DType::F32);
        let mut results = Vec::new();
        let mut run = |inputs: &[Tensor], f: &dyn Fn(&[Tensor]) -> crate::engine::error::Result<Tensor>| {
            let vars: Vec<Tensor> =
                inputs.iter().map(|x| Var::from_tensor(x).unwrap().as_tensor().clone()).collect();
            let y = f(&vars).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            results.push(y.detach());
            results.extend(vars.iter().map(|v| grads.get(v).unwrap().clone()));
        };
        let image = tensor(1, &[2, 32, 20, 24]);
        let conv = |c: &[Tensor], stride, padding| {
            Conv2d::new(c[1].clone(), Some(c[2].clone()), stride, Padding::all(padding))?.forward(&c[0])
        };
        run(&[image.clone(), tensor(2, &[48, 32, 3, 3]), tensor(3, &[48])], &|x| conv(x, 1, 1));
        run(&[image.clone(), tensor(2, &[48, 32, 3, 3]), tensor(3, &[48])], &|x| conv(x, 2, 1));
        run(&[image.clone(), tensor(2, &[48, 32, 1, 1]), tensor(3, &[48])], &|x| conv(x, 1, 0));
        run(&[tensor(4, &[3, 64, 4, 4]), tensor(5, &[70, 64, 3, 3]), tensor(3, &[70])], &|x| conv(x, 1, 1));
        run(&[tensor(4, &[3, 64, 2, 2]), tensor(5, &[70, 64, 3, 3]), tensor(3, &[70])], &|x| conv(x, 1, 1));
        let scales = [tensor(6, &[32]), tensor(7, &[32])];
        run(&[image.clone(), scales[0].clone(), scales[1].clone()], &|x| {
            GroupNorm::new(x[1].clone(), x[2].clone(), 8, 1e-5)?.forward_silu(&x[0])
        });
        run(&[tensor(8, &[700, 32]), scales[0].clone(), scales[1].clone()], &|x| {
            LayerNorm::new(x[1].clone(), x[2].clone(), 1e-5)?.forward(&x[0])
        });
        run(&[tensor(8, &[500, 64]), tensor(9, &[200, 64]), tensor(10, &[200])], &|x| {
            Linear::new(x[1].clone(), Some(x[2].clone()))?.forward(&x[0])
        });
        run(&[tensor(8, &[5, 640]), tensor(9, &[1200, 640]), tensor(10, &[1200])], &|x| {
            Linear::new(x[1].clone(), Some(x[2].clone()))?.forward(&x[0])
        });
        let heads = [tensor(11, &[2, 200, 64]), tensor(12, &[2, 90, 64]), tensor(13, &[2, 90, 64])];
        run(&heads, &|x| attention(&x[0], &x[1], &x[2], 2, false));
        run(&[tensor(14, &[1, 90, 40])], &|x| attention(&x[0], &x[0], &x[0], 5, true));
        let curves = [silu, gelu, gelu_tanh, quick_gelu, geglu, softmax];
        for curve in curves {
            run(&[(tensor(15, &[300, 150]) * 4.0).unwrap()], &|x| curve(&x[0]));
        }
        run(&[image], &|x| upsample_nearest2x(&x[0]));
        results
    }

    fn bits(results: &[Tensor]) -> Vec<Vec<u32>> {
        let words = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        results.iter().map(|x| words(x).into_iter().map(f32::to_bits).collect()).collect()
    }

    /// One test for both, because the forced level is shared by all threads.
    #[test]
    fn threads_change_no_bit_and_levels_only_the_last() {
        let usual = everything();
        for level in [Level::Portable, Level::Avx2, Level::Avx512] {
            force(Some(level));
            let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(everything);
            for threads in [2, 3, 7] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let several = pool.install(everything);
                for (i, (a, b)) in bits(&alone).iter().zip(bits(&several)).enumerate() {
                    assert!(*a == b, "result {i} depends on the number of threads at {level:?}");
                }
            }
            for (i, (a, b)) in alone.iter().zip(&usual).enumerate() {
                let off = distance(a, b);
                assert!(off < 2e-5, "result {i} differs by {off} at {level:?}");
            }
        }
        force(None);
        assert!(level() >= Level::Portable);
    }
}
