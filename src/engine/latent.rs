//! [`Latent`]: what a diffusion model works on. An immutable handle, cheap to clone.

use std::sync::Arc;

use candle_core::{D, DType, Tensor, TensorId};

use super::diffusion::train_schedule::Prediction;
use super::error::{Error, Result};
use super::nets::unet::Kept;
use super::ops;

/// A batch of latents (or of noise, or of predictions): `[n, c, h, w]`, f32.
#[derive(Clone, Debug)]
pub struct Latent {
    tensor: Tensor,
    raw: Option<Raw>,
    kept: Option<Arc<Kept>>,
}

/// What a network itself said, kept beside its noise prediction when it was not trained to predict noise: going through
/// the noise and back would lose digits, and everything where alpha_bar is 0 (zero terminal SNR). It holds for the latent
/// that it was predicted from; arithmetic on the prediction drops it.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    /// The network's output.
    pub tensor: Tensor,
    /// What that is.
    pub kind: Prediction,
    /// The latent it was predicted from.
    pub of: TensorId,
}

impl Latent {
    /// Wraps a tensor of rank 4. Errors: any other rank.
    pub fn new(tensor: Tensor) -> Result<Self> {
        if tensor.rank() != 4 {
            return Err(Error::shape("latent", "a latent has four dimensions")
                .expected("[n, c, h, w]")
                .got(format!("{:?}", tensor.dims())));
        }
        Ok(Latent { tensor, raw: None, kept: None })
    }

    /// The same values with the network's own output beside them.
    pub(crate) fn with_raw(mut self, raw: Raw) -> Self {
        self.raw = Some(raw);
        self
    }

    /// What the network itself said, of a prediction: its output before noise was made of it (v of a network that predicts v).
    /// For networks that predict noise, and for anything but a prediction as it came, the latent itself.
    pub fn output(&self) -> Result<Latent> {
        match &self.raw {
            Some(raw) => Latent::new(raw.tensor.clone()),
            None => Latent::new(self.tensor.clone()),
        }
    }

    /// The network's own output, if it was kept.
    pub(crate) fn raw(&self) -> Option<&Raw> {
        self.raw.as_ref()
    }

    /// The same values with deep features of the network beside them (`None`: without).
    pub(crate) fn with_kept(mut self, kept: Option<Arc<Kept>>) -> Self {
        self.kept = kept;
        self
    }

    /// Deep features that the next prediction may use. Arithmetic drops them; a step hands those of its prediction on.
    pub(crate) fn kept(&self) -> Option<&Arc<Kept>> {
        self.kept.as_ref()
    }

    /// The tensor, `[n, c, h, w]`.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Sizes `(n, c, h, w)`.
    pub fn dims(&self) -> (usize, usize, usize, usize) {
        let d = self.tensor.dims();
        (d[0], d[1], d[2], d[3])
    }

    /// Sizes as the user sees them: `1x4x16x16`.
    pub fn shape_text(&self) -> String {
        let (n, c, h, w) = self.dims();
        format!("{n}x{c}x{h}x{w}")
    }

    /// Bytes held by the values, and by what is kept beside them.
    pub fn bytes(&self) -> usize {
        let own = self.tensor.elem_count() * self.tensor.dtype().size_in_bytes();
        own + self.kept.as_ref().map_or(0, |k| k.bytes())
    }

    /// Mean of all values.
    pub fn mean(&self) -> Result<f64> {
        Ok(f64::from(self.tensor.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?))
    }

    /// Standard deviation of all values (population form).
    pub fn std(&self) -> Result<f64> {
        let x = self.tensor.to_dtype(DType::F32)?;
        let centred = x.broadcast_sub(&x.mean_all()?)?;
        Ok(f64::from(centred.sqr()?.mean_all()?.sqrt()?.to_scalar::<f32>()?))
    }

    /// `(1 - x) * a + x * b`, as two products, so that x = 0 and x = 1 give back `a` and `b` exactly. A batch of one
    /// is repeated. Errors: different shapes; x outside the finite numbers.
    pub fn blend(a: &Latent, b: &Latent, x: f64) -> Result<Latent> {
        let (a, b) = Self::same_batch("blend", a, b)?;
        if !x.is_finite() {
            return Err(Error::value("blend", "the share of b must be a finite number").got(x.to_string()));
        }
        Latent::new(((a.tensor() * (1.0 - x))? + (b.tensor() * x)?)?)
    }

    /// Spherical interpolation of the rows of two tensors (vectors along the last `dims` dimensions): from `a` to `b` on
    /// the arc between their directions, with the weights `sin((1 - x) angle) / sin(angle)` and `sin(x angle) / sin(angle)`.
    /// Vectors that are nearly parallel are blended. Same shapes.
    pub fn slerp_rows(a: &Tensor, b: &Tensor, x: f64, dims: usize) -> Result<Tensor> {
        if x == 0.0 || x == 1.0 {
            return Ok(if x == 0.0 { a.clone() } else { b.clone() });
        }
        if a.track_op() || b.track_op() {
            return Err(super::image::no_gradient("slerp"));
        }
        let rows = a.dims()[..a.rank().saturating_sub(dims)].iter().product::<usize>();
        let flat = |t: &Tensor| -> Result<Tensor> {
            Ok(t.reshape((rows, t.elem_count() / rows.max(1)))?.to_dtype(DType::F32)?)
        };
        let (p, q) = (flat(a)?, flat(b)?);
        let dot = (&p * &q)?.sum(1)?.to_vec1::<f32>()?;
        let (np, nq) = (p.sqr()?.sum(1)?.to_vec1::<f32>()?, q.sqr()?.sum(1)?.to_vec1::<f32>()?);
        let weights: Vec<(f32, f32)> = (0..rows)
            .map(|i| {
                let length = (f64::from(np[i]) * f64::from(nq[i])).sqrt();
                let cosine = if length > 0.0 { f64::from(dot[i]) / length } else { 1.0 };
                if cosine.abs() > 0.9995 {
                    return ((1.0 - x) as f32, x as f32);
                }
                let angle = cosine.acos();
                ((((1.0 - x) * angle).sin() / angle.sin()) as f32, ((x * angle).sin() / angle.sin()) as f32)
            })
            .collect();
        let column = |f: fn(&(f32, f32)) -> f32| {
            Tensor::from_vec(weights.iter().map(f).collect::<Vec<_>>(), (rows, 1), a.device())
        };
        let mixed = (p.broadcast_mul(&column(|w| w.0)?)? + q.broadcast_mul(&column(|w| w.1)?)?)?;
        Ok(mixed.reshape(a.dims())?.to_dtype(a.dtype())?)
    }

    /// [`Latent::slerp_rows`] of whole latents, picture by picture. Errors: different shapes; x not finite.
    pub fn slerp(a: &Latent, b: &Latent, x: f64) -> Result<Latent> {
        let (a, b) = Self::same_batch("slerp", a, b)?;
        if !x.is_finite() {
            return Err(Error::value("slerp", "the share of b must be a finite number").got(x.to_string()));
        }
        Latent::new(Self::slerp_rows(a.tensor(), b.tensor(), x, 3)?)
    }

    /// Blend with a weight per place: `mask` is `[1 or n, 1 or c, h, w]`, 1 takes `b`.
    pub fn blend_mask(a: &Latent, b: &Latent, mask: &Tensor) -> Result<Latent> {
        let (a, b) = Self::same_batch("blend", a, b)?;
        let inverse = mask.affine(-1.0, 1.0)?;
        Latent::new((a.tensor.broadcast_mul(&inverse)? + b.tensor.broadcast_mul(mask)?)?)
    }

    /// `a + b`, same shapes.
    pub fn add(&self, other: &Latent) -> Result<Latent> {
        let (a, b) = Self::pair("+", self, other)?;
        Latent::new((a + b)?)
    }

    /// `a - b`, same shapes.
    pub fn sub(&self, other: &Latent) -> Result<Latent> {
        let (a, b) = Self::pair("-", self, other)?;
        Latent::new((a - b)?)
    }

    /// Every value times `x`.
    pub fn scale(&self, x: f64) -> Result<Latent> {
        Latent::new((&self.tensor * x)?)
    }

    /// Picture `i` of the batch as a batch of one. Errors: `i` out of range.
    pub fn index(&self, i: usize) -> Result<Latent> {
        let n = self.dims().0;
        if i >= n {
            return Err(Error::value("latent", format!("there is no picture {i} in a batch of {n}"))
                .expected(format!("0..{}", n.saturating_sub(1))));
        }
        Latent::new(self.tensor.narrow(0, i, 1)?)
    }

    /// Euclidean distance of all values to those of another latent of the same shape.
    pub fn distance(&self, other: &Latent) -> Result<f64> {
        let (a, b) = Self::pair("distance", self, other)?;
        let d = ops::wide(&(a - b)?)?.sqr()?.sum_all()?.to_dtype(DType::F32)?;
        Ok(f64::from(d.to_scalar::<f32>()?).sqrt())
    }

    /// Repeats a batch of one `n` times; a batch of `n` stays. Errors: any other batch.
    pub fn expand_batch(&self, op: &str, n: usize) -> Result<Latent> {
        let have = self.dims().0;
        if have == n {
            return Ok(self.clone());
        }
        if have != 1 {
            return Err(Error::shape(op, "the batches differ")
                .expected(format!("1 or {n} pictures"))
                .got(format!("{have}")));
        }
        Latent::new(Tensor::cat(&vec![&self.tensor; n], 0)?)
    }

    pub(crate) fn same_batch(op: &str, a: &Latent, b: &Latent) -> Result<(Latent, Latent)> {
        // Before the batches are made one: a large picture repeated as often as a small one could be very large.
        if a.tensor.dims()[1..] != b.tensor.dims()[1..] {
            Self::same_shape(op, a, b)?;
        }
        let n = a.dims().0.max(b.dims().0);
        let (a, b) = (a.expand_batch(op, n)?, b.expand_batch(op, n)?);
        let (x, y) = Self::pair(op, &a, &b)?;
        Ok((Latent { tensor: x, ..a }, Latent { tensor: y, ..b }))
    }

    /// The tensors of two latents of one shape, on one device.
    fn pair(op: &str, a: &Latent, b: &Latent) -> Result<(Tensor, Tensor)> {
        Self::same_shape(op, a, b)?;
        Ok(ops::on_one_device(&a.tensor, &b.tensor)?)
    }

    /// An error of kind `Shape` unless both have the same shape.
    pub fn same_shape(op: &str, a: &Latent, b: &Latent) -> Result<()> {
        if a.tensor.dims() == b.tensor.dims() {
            return Ok(());
        }
        Err(Error::shape(op, "the two latents differ in size")
            .expected(format!("Latent {}", a.shape_text()))
            .got(format!("Latent {}", b.shape_text()))
            .hint("use pictures of one size, and the same n"))
    }

    /// Whether any value is NaN or infinite.
    pub fn has_non_finite(&self) -> Result<bool> {
        // The sum of squares is NaN or infinite as soon as one value is: one pass, no host copy of the values.
        let sum =
            self.tensor.to_dtype(DType::F32)?.flatten_all()?.sqr()?.max(D::Minus1)?.to_scalar::<f32>()?;
        let total = self.tensor.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
        Ok(!sum.is_finite() || !total.is_finite())
    }
}
