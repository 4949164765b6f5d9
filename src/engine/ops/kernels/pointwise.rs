//! Activations and the gated unit.

use crate::engine::ops::math::Element;
use crate::engine::ops::parallel;
use crate::engine::ops::simd::vectorized;

/// A function of one number and its derivative.
pub trait Curve: Copy + Send + Sync + 'static {
    /// Name in error messages.
    const NAME: &'static str;
    /// The function.
    fn value<T: Element>(x: T) -> T;
    /// Its derivative.
    fn slope<T: Element>(x: T) -> T;
}

/// `1 / (1 + e^-x)`.
#[derive(Clone, Copy)]
pub struct Sigmoid;
/// `x · sigmoid(x)`.
#[derive(Clone, Copy)]
pub struct Silu;
/// `x · Φ(x)`.
#[derive(Clone, Copy)]
pub struct Gelu;
/// The tanh approximation of [`Gelu`].
#[derive(Clone, Copy)]
pub struct GeluTanh;
/// `x · sigmoid(1.702 x)`.
#[derive(Clone, Copy)]
pub struct QuickGelu;

impl Curve for Sigmoid {
    const NAME: &'static str = "sigmoid";
    #[inline(always)]
    fn value<T: Element>(x: T) -> T {
        x.sigmoid()
    }
    #[inline(always)]
    fn slope<T: Element>(x: T) -> T {
        let s = x.sigmoid();
        s * (T::one() - s)
    }
}

impl Curve for Silu {
    const NAME: &'static str = "silu";
    #[inline(always)]
    fn value<T: Element>(x: T) -> T {
        x * x.sigmoid()
    }
    #[inline(always)]
    fn slope<T: Element>(x: T) -> T {
        let s = x.sigmoid();
        s * (T::one() + x * (T::one() - s))
    }
}

impl Curve for Gelu {
    const NAME: &'static str = "gelu";
    #[inline(always)]
    fn value<T: Element>(x: T) -> T {
        x * x.normal().0
    }
    #[inline(always)]
    fn slope<T: Element>(x: T) -> T {
        let (cdf, pdf) = x.normal();
        cdf + x * pdf
    }
}

/// The sigmoid that the tanh approximation amounts to, `(1 + tanh u) / 2 = sigmoid(2u)` with
/// `u = √(2/π) (x + 0.044715 x³)`, and the derivative of `2u`. Past ±15 both sides are flat: clamping there keeps
/// the cube finite.
#[inline(always)]
fn tanh_gate<T: Element>(x: T) -> (T, T) {
    let root = T::of(2.0 * 0.797_884_560_802_865_4);
    let cubic = T::of(0.044715);
    let x = x.at_least(T::of(-15.0)).at_most(T::of(15.0));
    let square = x * x;
    let gate = (root * x * (T::one() + cubic * square)).sigmoid();
    (gate, root * (T::one() + T::of(3.0) * cubic * square))
}

impl Curve for GeluTanh {
    const NAME: &'static str = "gelu_tanh";
    #[inline(always)]
    fn value<T: Element>(x: T) -> T {
        x * tanh_gate(x).0
    }
    #[inline(always)]
    fn slope<T: Element>(x: T) -> T {
        let (gate, inner) = tanh_gate(x);
        gate + x * gate * (T::one() - gate) * inner
    }
}

impl Curve for QuickGelu {
    const NAME: &'static str = "quick_gelu";
    #[inline(always)]
    fn value<T: Element>(x: T) -> T {
        x * (x * T::of(1.702)).sigmoid()
    }
    #[inline(always)]
    fn slope<T: Element>(x: T) -> T {
        let s = (x * T::of(1.702)).sigmoid();
        s + T::of(1.702) * x * s * (T::one() - s)
    }
}

/// Elements per task.
const PIECE: usize = 16384;

vectorized! {
    /// `out = curve(x)`.
    pub fn map_piece<T, F: Curve>(x: &'a [T], out: &'a mut [T], _curve: F) -> () {
        for (out, x) in out.iter_mut().zip(x) {
            *out = F::value(*x);
        }
    }
}

vectorized! {
    /// `out = dy · curve'(x)`.
    pub fn map_back_piece<T, F: Curve>(x: &'a [T], dy: &'a [T], out: &'a mut [T], _curve: F) -> () {
        for ((out, x), dy) in out.iter_mut().zip(x).zip(dy) {
            *out = *dy * F::slope(*x);
        }
    }
}

/// The curve at every element.
pub fn map<T: Element, F: Curve>(x: &[T], curve: F) -> Vec<T> {
    let mut out = vec![T::zero(); x.len()];
    parallel::pieces(&mut out, PIECE, x.len(), |at, out| map_piece(&x[at..at + out.len()], out, curve));
    out
}

/// The gradient of [`map`] for `x`.
pub fn map_back<T: Element, F: Curve>(x: &[T], dy: &[T], curve: F) -> Vec<T> {
    let mut out = vec![T::zero(); x.len()];
    parallel::pieces(&mut out, PIECE, x.len(), |at, out| {
        let range = at..at + out.len();
        map_back_piece(&x[range.clone()], &dy[range], out, curve)
    });
    out
}

vectorized! {
    /// `out = value · gelu(gate)` for rows `value | gate` of `2c` numbers.
    pub fn geglu_rows<T>(x: &'a [T], out: &'a mut [T], c: usize) -> () {
        for (x, out) in x.chunks_exact(2 * c).zip(out.chunks_exact_mut(c)) {
            let (value, gate) = x.split_at(c);
            for ((out, value), gate) in out.iter_mut().zip(value).zip(gate) {
                *out = *value * Gelu::value(*gate);
            }
        }
    }
}

vectorized! {
    /// The gradient of [`geglu_rows`] for `x`.
    pub fn geglu_back_rows<T>(x: &'a [T], dy: &'a [T], dx: &'a mut [T], c: usize) -> () {
        let rows = x.chunks_exact(2 * c).zip(dy.chunks_exact(c)).zip(dx.chunks_exact_mut(2 * c));
        for ((x, dy), dx) in rows {
            let (value, gate) = x.split_at(c);
            let (dvalue, dgate) = dx.split_at_mut(c);
            for ((((value, gate), dy), dvalue), dgate) in value.iter().zip(gate).zip(dy).zip(dvalue).zip(dgate) {
                let (cdf, pdf) = gate.normal();
                *dvalue = *dy * *gate * cdf;
                *dgate = *dy * *value * (cdf + *gate * pdf);
            }
        }
    }
}

/// `x [rows, 2c]` → `[rows, c]`.
pub fn geglu<T: Element>(x: &[T], c: usize) -> Vec<T> {
    let mut out = vec![T::zero(); x.len() / 2];
    let rows = (PIECE / c).max(1);
    parallel::pieces(&mut out, rows * c, x.len(), |at, out| {
        geglu_rows(&x[2 * at..2 * (at + out.len())], out, c)
    });
    out
}

/// The gradient of [`geglu`] for `x`.
pub fn geglu_back<T: Element>(x: &[T], dy: &[T], c: usize) -> Vec<T> {
    let mut out = vec![T::zero(); x.len()];
    let rows = (PIECE / c).max(1);
    parallel::pieces(&mut out, rows * 2 * c, 2 * x.len(), |at, out| {
        let end = at + out.len();
        geglu_back_rows(&x[at..end], &dy[at / 2..end / 2], out, c)
    });
    out
}
