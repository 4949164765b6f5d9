//! Number types of the kernels, and exp, sigmoid and the normal distribution in a form that the compiler turns into
//! vector code.
//!
//! In f32 these are branch-free approximations; their coefficients were fitted for this project by iteratively
//! reweighted least squares. f64 takes the exact functions: it serves gradient checks, not speed.

use std::cell::Cell;

use candle_core::WithDType;
use num_traits::Float;

/// A type that kernels compute in.
pub trait Element: WithDType + Float {
    /// `e^self`. In f32: relative error at most 2.1e-7, clamped to 2⁻¹²⁶..2¹²⁷·1.4 (no infinities); NaN stays NaN.
    fn exp_(self) -> Self;

    /// Distribution function and density of the standard normal distribution at `self`.
    /// In f32 the absolute errors are at most 2e-7.
    fn normal(self) -> (Self, Self);

    /// A number as this type.
    fn of(value: f64) -> Self;

    /// This number in f64.
    #[inline(always)]
    fn wide(self) -> f64 {
        WithDType::to_f64(self)
    }

    /// Scratch memory of the current thread.
    fn scratch() -> &'static std::thread::LocalKey<Cell<Vec<Vec<Self>>>>;

    /// `1 / (1 + e^-self)`.
    #[inline(always)]
    fn sigmoid(self) -> Self {
        Self::one() / (Self::one() + (-self).exp_())
    }

    /// The larger of the two; plain comparison, so that it vectorizes (NaN in `self` is passed on).
    #[inline(always)]
    fn at_least(self, other: Self) -> Self {
        if self < other { other } else { self }
    }

    /// The smaller of the two (NaN in `self` is passed on).
    #[inline(always)]
    fn at_most(self, other: Self) -> Self {
        if self > other { other } else { self }
    }
}

thread_local! {
    static SCRATCH_F32: Cell<Vec<Vec<f32>>> = const { Cell::new(Vec::new()) };
    static SCRATCH_F64: Cell<Vec<Vec<f64>>> = const { Cell::new(Vec::new()) };
}

impl Element for f32 {
    #[inline(always)]
    fn exp_(self) -> f32 {
        // Adding 1.5·2²³ rounds to an integer and leaves it in the low bits.
        const MAGIC: f32 = 12582912.0;
        let x = self.at_least(-87.33).at_most(88.37);
        let shifted = x * std::f32::consts::LOG2_E + MAGIC;
        let n = shifted - MAGIC;
        // ln 2 in two parts; the first has few bits, so that n times it is exact.
        let r = x - n * 0.693_359_4;
        let r = r + n * 2.121_944_4e-4;
        let p = 1.395_060_2e-3;
        let p = p * r + 8.368_954e-3;
        let p = p * r + 4.166_620_6e-2;
        let p = p * r + 0.166_665_18;
        let p = p * r + 0.5;
        let p = 1.0 + (r + r * r * p);
        p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
    }

    #[inline(always)]
    fn normal(self) -> (f32, f32) {
        // The tail is e^(-x²/2) times a smooth function of 1 / (1 + 0.35 |x|).
        let bell = (self * self * -0.5).exp_();
        let t = 1.0 / (1.0 + 0.35 * self.abs());
        let p = -2.914_571_8e-2;
        let p = p * t + 0.143_970_77;
        let p = p * t - 0.255_712_6;
        let p = p * t + 0.159_172_52;
        let p = p * t - 2.310_888_3e-2;
        let p = p * t + 0.105_507_67;
        let p = p * t + 0.119_832_93;
        let p = p * t + 0.139_861_87;
        let p = p * t + 0.139_621_4;
        let tail = p * t * bell;
        let cdf = if self > 0.0 { 1.0 - tail } else { tail };
        (cdf, bell * 0.398_942_3)
    }

    #[inline(always)]
    fn of(value: f64) -> f32 {
        value as f32
    }

    fn scratch() -> &'static std::thread::LocalKey<Cell<Vec<Vec<f32>>>> {
        &SCRATCH_F32
    }
}

impl Element for f64 {
    #[inline(always)]
    fn exp_(self) -> f64 {
        self.exp()
    }

    #[inline(always)]
    fn normal(self) -> (f64, f64) {
        let cdf = 0.5 * candle_core::cpu::erf::erfc_f64(-self * std::f64::consts::FRAC_1_SQRT_2);
        // 1 / √(2π)
        (cdf, (-0.5 * self * self).exp() * 0.398_942_280_401_432_7)
    }

    #[inline(always)]
    fn of(value: f64) -> f64 {
        value
    }

    fn scratch() -> &'static std::thread::LocalKey<Cell<Vec<Vec<f64>>>> {
        &SCRATCH_F64
    }
}

/// Lanes of the sums below: enough for four registers of AVX-512 f32.
const LANES: usize = 64;

/// Sum of `map(a, b)` over two slices of one length, in a fixed order.
#[inline(always)]
pub fn sum2<T: Element>(a: &[T], b: &[T], map: impl Fn(T, T) -> T) -> T {
    let mut lanes = [T::zero(); LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += map(*a, *b);
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += map(*a, *b);
    }
    fold(lanes, |a, b| a + b)
}

/// Sum of `map(a)`, in a fixed order.
#[inline(always)]
pub fn sum<T: Element>(a: &[T], map: impl Fn(T) -> T) -> T {
    let mut lanes = [T::zero(); LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    for a in chunks {
        for (lane, a) in lanes.iter_mut().zip(a) {
            *lane += map(*a);
        }
    }
    for (lane, a) in lanes.iter_mut().zip(rest) {
        *lane += map(*a);
    }
    fold(lanes, |a, b| a + b)
}

/// The same for values that `map` changes on the way.
#[inline(always)]
pub fn sum_mut<T: Element>(a: &mut [T], map: impl Fn(&mut T) -> T) -> T {
    let mut lanes = [T::zero(); LANES];
    let (chunks, rest) = a.as_chunks_mut::<LANES>();
    for a in chunks {
        for (lane, a) in lanes.iter_mut().zip(a) {
            *lane += map(a);
        }
    }
    for (lane, a) in lanes.iter_mut().zip(rest) {
        *lane += map(a);
    }
    fold(lanes, |a, b| a + b)
}

/// The largest value of a slice (the lowest number for an empty one).
#[inline(always)]
pub fn max<T: Element>(a: &[T]) -> T {
    let mut lanes = [T::min_value(); LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    for a in chunks {
        // A new array, not a change in place: that would become conditional stores.
        lanes = std::array::from_fn(|i| a[i].at_least(lanes[i]));
    }
    for (lane, a) in lanes.iter_mut().zip(rest) {
        *lane = a.at_least(*lane);
    }
    fold(lanes, |a, b| a.at_least(b))
}

#[inline(always)]
fn fold<T: Element>(mut lanes: [T; LANES], f: impl Fn(T, T) -> T) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Lends `len` values of scratch memory with unspecified contents to `f`. Every thread keeps what it once used, up
/// to 32 MiB a piece: kernels that run thousands of times do not fault in fresh pages every time.
pub fn with_scratch<T: Element, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    const KEEP: usize = 32 << 20;
    let mut buffer = T::scratch().with(|cell| {
        let mut stack = cell.take();
        let buffer = stack.pop().unwrap_or_default();
        cell.set(stack);
        buffer
    });
    if buffer.len() < len {
        buffer.resize(len, T::zero());
    }
    let result = f(&mut buffer[..len]);
    if buffer.capacity() * size_of::<T>() <= KEEP {
        T::scratch().with(|cell| {
            let mut stack = cell.take();
            stack.push(buffer);
            cell.set(stack);
        });
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every level gives the same functions.
    fn sweep(from: f32, to: f32) -> impl Iterator<Item = f32> {
        (0..=400_000).map(move |i| from + (to - from) * (i as f32 / 400_000.0))
    }

    #[test]
    fn exp_is_close() {
        for x in sweep(-87.0, 88.0) {
            let want = (x as f64).exp();
            assert!(((x.exp_() as f64 - want) / want).abs() < 2.1e-7, "exp({x})");
        }
        assert_eq!(0f32.exp_(), 1.0);
        assert!((-1e9f32).exp_() < 2e-38 && (-1e9f32).exp_() >= 0.0);
        assert!((1e9f32).exp_() > 1e38 && (1e9f32).exp_().is_finite());
        assert!(f32::NAN.exp_().is_nan());
    }

    #[test]
    fn normal_is_close() {
        for x in sweep(-12.0, 12.0) {
            let (cdf, pdf) = x.normal();
            let (want_cdf, want_pdf) = (x as f64).normal();
            assert!((cdf as f64 - want_cdf).abs() < 2e-7, "cdf({x}) = {cdf}, not {want_cdf}");
            assert!((pdf as f64 - want_pdf).abs() < 2e-7, "pdf({x}) = {pdf}, not {want_pdf}");
        }
        assert_eq!(40f32.normal().0, 1.0);
        assert!((-40f32).normal().0 < 1e-37);
    }

    #[test]
    fn sums_and_maxima() {
        for len in [0, 1, 5, 63, 64, 65, 200] {
            let a: Vec<f64> = (0..len).map(|i| ((i * 37) % 101) as f64 - 50.0).collect();
            assert_eq!(sum(&a, |x| x), a.iter().sum::<f64>());
            assert_eq!(sum2(&a, &a, |x, y| x * y), a.iter().map(|x| x * x).sum::<f64>());
            let want = a.iter().copied().fold(f64::MIN, f64::max);
            assert_eq!(max(&a), want);
        }
    }

    #[test]
    fn scratch_may_be_nested() {
        with_scratch::<f32, _>(4, |a| {
            a.fill(1.0);
            with_scratch::<f32, _>(8, |b| b.fill(2.0));
            assert_eq!(a, [1.0; 4]);
        });
    }
}
