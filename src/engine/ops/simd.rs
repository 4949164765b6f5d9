//! Run-time choice of vector instructions.
//!
//! Kernels are portable loops that the compiler vectorizes. [`vectorized!`](super::simd::vectorized) compiles such
//! a loop once per level and takes the best one that the processor has. Within one level results do not depend on
//! the number of threads; between levels sums may differ in the last bits, as lanes are added in another order.

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

#[cfg(target_arch = "x86_64")]
#[inline]
fn allowed(level: Level) -> bool {
    #[cfg(test)]
    {
        let cap = FORCED.load(Ordering::Relaxed);
        if cap != 0 && (level as u8) > cap {
            return false;
        }
    }
    let _ = level;
    true
}

/// Runs `op` compiled for the best level that the processor has.
#[inline]
pub fn dispatch<Op: pulp::WithSimd>(op: Op) -> Op::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if allowed(Level::Avx512)
            && let Some(simd) = pulp::x86::V4::try_new()
        {
            return pulp::Simd::vectorize(simd, op);
        }
        if allowed(Level::Avx2)
            && let Some(simd) = pulp::x86::V3::try_new()
        {
            return pulp::Simd::vectorize(simd, op);
        }
    }
    op.with_simd(pulp::Scalar)
}

/// Declares a function whose body is compiled for every level: the arguments name the lifetime `'a` themselves,
/// everything that the body calls must be `#[inline(always)]`.
macro_rules! vectorized {
    ($(#[$meta:meta])* pub fn $name:ident<$t:ident $(, $f:ident: $bound:path)?>(
        $($arg:ident: $ty:ty),* $(,)?
    ) -> $ret:ty $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        pub fn $name<'a, $t: $crate::engine::ops::math::Element $(, $f: $bound)?>($($arg: $ty),*) -> $ret {
            struct Call<'a, $t: $crate::engine::ops::math::Element $(, $f: $bound)?> {
                $($arg: $ty,)*
                marker: std::marker::PhantomData<(&'a $t, $($f)?)>,
            }
            impl<'a, $t: $crate::engine::ops::math::Element $(, $f: $bound)?> pulp::WithSimd
                for Call<'a, $t $(, $f)?>
            {
                type Output = $ret;
                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _simd: S) -> $ret {
                    let Call { $($arg,)* marker: _ } = self;
                    $body
                }
            }
            $crate::engine::ops::simd::dispatch(Call::<'a, $t $(, $f)?> {
                $($arg,)*
                marker: std::marker::PhantomData,
            })
        }
    };
}
pub(crate) use vectorized;
