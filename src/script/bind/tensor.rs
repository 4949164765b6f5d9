//! Tensors: attention probabilities, activations, and arithmetic on them.

use candle_core::{D, DType, Tensor as Values};

use crate::engine::diffusion::noise::TorchNoise;
use crate::engine::error::{Error, Result};
use crate::engine::latent::Latent;
use crate::engine::ops;
use crate::script::registry::Registry;
use crate::script::types::{self, Handle};

/// Numbers in any number of dimensions. Immutable, cheap to clone.
#[derive(Clone, Debug)]
pub struct Tensor(pub Values);

/// Values in a tensor that a script makes from a list, at most.
const MOST: usize = 1 << 24;

impl Tensor {
    fn flat(&self) -> Result<Vec<f64>> {
        Ok(self.0.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?)
    }

    fn mean(&self) -> Result<f64> {
        Ok(self.0.to_dtype(DType::F64)?.mean_all()?.to_scalar::<f64>()?)
    }

    fn std(&self) -> Result<f64> {
        let x = self.0.to_dtype(DType::F64)?;
        Ok(x.broadcast_sub(&x.mean_all()?)?.sqr()?.mean_all()?.sqrt()?.to_scalar::<f64>()?)
    }

    fn extreme(&self, op: &str, pick: fn(f64, f64) -> f64) -> Result<f64> {
        self.flat()?.into_iter().reduce(pick).ok_or_else(|| Error::value(op, "the tensor is empty"))
    }

    /// A dimension as scripts count them: negative from the end.
    fn dim(&self, op: &str, dim: i64) -> Result<usize> {
        let rank = self.0.rank() as i64;
        let at = if dim < 0 { rank + dim } else { dim };
        if (0..rank).contains(&at) {
            return Ok(at as usize);
        }
        Err(Error::shape(op, format!("there is no dimension {dim}"))
            .expected(format!("-{rank}..{}", rank - 1))
            .got(format!("a tensor of shape {:?}", self.0.dims())))
    }

    fn slice(&self, op: &str, dim: i64, from: usize, len: usize) -> Result<(usize, Values)> {
        let dim = self.dim(op, dim)?;
        let size = self.0.dim(dim)?;
        if len == 0 || from.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::shape(op, format!("{len} from {from} on do not fit into dimension {dim}"))
                .expected(format!("within 0..{size}"))
                .got(format!("{from}..{}", from.saturating_add(len))));
        }
        Ok((dim, self.0.narrow(dim, from, len)?))
    }

    fn put(&self, dim: i64, from: usize, part: &Tensor) -> Result<Tensor> {
        let at = self.dim("put", dim)?;
        let len = part.0.dims().get(at).copied().unwrap_or(0);
        let (at, old) = self.slice("put", dim, from, len)?;
        if old.dims() != part.0.dims() {
            return Err(Error::shape("put", "the part has another shape than its place")
                .expected(format!("{:?}", old.dims()))
                .got(format!("{:?}", part.0.dims())));
        }
        let end = from + len;
        let mut parts = Vec::with_capacity(3);
        if from > 0 {
            parts.push(self.0.narrow(at, 0, from)?);
        }
        parts.push(part.0.to_dtype(self.0.dtype())?.to_device(self.0.device())?);
        if end < self.0.dim(at)? {
            parts.push(self.0.narrow(at, end, self.0.dim(at)? - end)?);
        }
        Ok(Tensor(Values::cat(&parts, at)?))
    }

    fn softmax(&self, dim: i64) -> Result<Tensor> {
        let dim = self.dim("softmax", dim)?;
        let last = self.0.transpose(dim, D::Minus1)?.contiguous()?;
        Ok(Tensor(ops::softmax(&last)?.transpose(dim, D::Minus1)?.contiguous()?))
    }

    fn along(
        &self,
        op: &str,
        dim: i64,
        f: fn(&Values, usize) -> candle_core::Result<Values>,
    ) -> Result<Tensor> {
        Ok(Tensor(f(&self.0, self.dim(op, dim)?)?))
    }
}

impl Handle for Tensor {
    const NAME: &'static str = "Tensor";

    fn detail(&self) -> String {
        let shape: Vec<String> = self.0.dims().iter().map(ToString::to_string).collect();
        let statistics = match (self.mean(), self.std()) {
            (Ok(mean), Ok(std)) => format!("  mean {}  std {}", types::number(mean), types::number(std)),
            _ => String::new(),
        };
        format!("{}{statistics}", shape.join("x"))
    }

    fn bytes(&self) -> usize {
        self.0.elem_count() * self.0.dtype().size_in_bytes()
    }
}

fn both(
    op: &str,
    a: &Tensor,
    b: &Tensor,
    f: fn(&Values, &Values) -> candle_core::Result<Values>,
) -> Result<Tensor> {
    let (a, b) = ops::on_one_device(&a.0, &b.0)?;
    let b = b.to_dtype(a.dtype())?;
    match f(&a, &b) {
        Ok(x) => Ok(Tensor(x)),
        Err(_) => Err(Error::shape(op, "the two tensors do not fit")
            .expected("equal shapes, or 1 where they differ")
            .got(format!("{:?} and {:?}", a.dims(), b.dims()))),
    }
}

fn make(list: &[f64], shape: Option<Vec<usize>>) -> Result<Tensor> {
    let shape = shape.unwrap_or_else(|| vec![list.len()]);
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= MOST);
    if count != Some(list.len()) || list.is_empty() {
        return Err(Error::shape("tensor", "the shape does not hold as many values as the list has")
            .expected(format!("{} values, at least one", list.len()))
            .got(format!("shape {shape:?}")));
    }
    let values: Vec<f32> = list.iter().map(|&v| v as f32).collect();
    Ok(Tensor(Values::from_vec(values, shape, &candle_core::Device::Cpu)?))
}

fn powf(a: &Values, x: f64) -> Result<Tensor> {
    Ok(Tensor(a.powf(x)?))
}

const P: &str = "let t = tensor([1, 2, 3, 4], [2, 2]);\n";

/// Binds them.
pub fn register(r: &mut Registry) {
    let example = |code: &str| format!("{P}{code}");
    r.group(
        "Tensors",
        "Numbers in any shape: probabilities of attention, activations, and what is computed from them.",
    );
    r.def("tensor(list, shape)", "A tensor of the numbers of a list; without a shape, of one dimension.")
        .example("tensor([1, 2, 3, 4], [2, 2]) // => Tensor 2x2  mean 2.5  std 1.118")
        .example("tensor([1, 2, 3], [2, 2]) // error: does not hold as many")
        .see(&["list", "latent"])
        .bind(|list: Vec<f64>, shape: Option<Vec<usize>>| make(&list, shape));
    r.def(
        "uniform(seed, n)",
        "A list of `n` numbers of 0 to 1 (1 not included), drawn as torch's CPU generator does: to draw timesteps and the like.",
    )
    .example("uniform(0, 2) // => [0.49626, 0.76822]")
    .example("uniform(3, 2) == uniform(3, 2) // => true")
    .see(&["noise", "tensor"])
    .bind(|seed: u64, n: usize| {
        if n > 65536 {
            return Err(Error::value("uniform", "there are too many numbers").expected("at most 65536").got(n.to_string()));
        }
        let mut generator = TorchNoise::new(seed);
        Ok((0..n).map(|_| f64::from(generator.uniform())).collect::<Vec<f64>>())
    });
    r.def("t.list()", "All values in one list, the last dimension running fastest; at most 65536.")
        .example(&example("t.list() // => [1.0, 2.0, 3.0, 4.0]"))
        .bind(|t: Tensor| {
            if t.0.elem_count() > 65536 {
                return Err(Error::value("list", "the tensor is too large for a list")
                    .expected("at most 65536 values")
                    .got(t.0.elem_count().to_string())
                    .hint("t.slice(dim, from, len), t.mean(dim) make it smaller"));
            }
            t.flat()
        });
    r.prop("t.shape", "The size of every dimension.")
        .example(&example("t.shape // => [2, 2]"))
        .bind(|t: Tensor| t.0.dims().to_vec());
    r.prop("t.mean", "The mean of all values.")
        .example(&example("t.mean // => 2.5"))
        .bind(|t: Tensor| t.mean());
    r.prop("t.std", "The standard deviation of all values.")
        .example(&example("t.std // => 1.118"))
        .bind(|t: Tensor| t.std());
    r.prop("t.min", "The smallest value.")
        .example(&example("t.min // => 1.0"))
        .bind(|t: Tensor| t.extreme("min", f64::min));
    r.prop("t.max", "The largest value.")
        .example(&example("t.max // => 4.0"))
        .bind(|t: Tensor| t.extreme("max", f64::max));
    r.def(
        "t.mean(dim)",
        "Means along a dimension, which stays with size 1; negative dimensions count from the end.",
    )
    .example(&example("t.mean(-1).list() // => [1.5, 3.5]"))
    .example(&example("t.mean(2) // error: there is no dimension 2"))
    .see(&["sum"])
    .bind(|t: Tensor, dim: i64| t.along("mean", dim, |x, d| x.mean_keepdim(d)));
    r.def("t.sum(dim)", "Sums along a dimension, which stays with size 1.")
        .example(&example("(t / t.sum(-1)).sum(-1).list() // => [1.0, 1.0]"))
        .see(&["mean"])
        .bind(|t: Tensor, dim: i64| t.along("sum", dim, |x, d| x.sum_keepdim(d)));
    r.def("t.max(dim)", "The largest values along a dimension, which stays with size 1.")
        .example(&example("t.max(0).list() // => [3.0, 4.0]"))
        .bind(|t: Tensor, dim: i64| t.along("max", dim, |x, d| x.max_keepdim(d)));
    r.def("t.softmax(dim)", "Softmax along a dimension.")
        .example(&example("t.softmax(-1).sum(-1).list() // => [1.0, 1.0]"))
        .bind(|t: Tensor, dim: i64| t.softmax(dim));
    r.def("t.slice(dim, from, len)", "`len` places of a dimension, from place `from` on.")
        .example(&example("t.slice(1, 0, 1).list() // => [1.0, 3.0]"))
        .example(&example("t.slice(1, 1, 2) // error: do not fit"))
        .see(&["put"])
        .bind(|t: Tensor, dim: i64, from: usize, len: usize| {
            Ok::<_, Error>(Tensor(t.slice("slice", dim, from, len)?.1))
        });
    r.def(
        "t.put(dim, from, part)",
        "The tensor with `part` in the place of what stands in a dimension from `from` on.",
    )
    .example(&example("t.put(0, 1, tensor([7, 8], [1, 2])).list() // => [1.0, 2.0, 7.0, 8.0]"))
    .see(&["slice"])
    .bind(|t: Tensor, dim: i64, from: usize, part: Tensor| t.put(dim, from, &part));
    r.def("t.reshape(shape)", "The same values in another shape.")
        .example(&example("t.reshape([4, 1]).shape // => [4, 1]"))
        .bind(|t: Tensor, shape: Vec<usize>| {
            let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            if count != Some(t.0.elem_count()) {
                return Err(Error::shape("reshape", "the new shape holds another number of values")
                    .expected(format!("{} values", t.0.elem_count()))
                    .got(format!("{shape:?}")));
            }
            Ok(Tensor(t.0.reshape(shape)?))
        });
    r.def("t.swap(a, b)", "The tensor with two dimensions exchanged.")
        .example(&example("t.swap(0, 1).list() // => [1.0, 3.0, 2.0, 4.0]"))
        .bind(|t: Tensor, a: i64, b: i64| {
            Ok::<_, Error>(Tensor(t.0.transpose(t.dim("swap", a)?, t.dim("swap", b)?)?.contiguous()?))
        });
    r.def("t.abs()", "Every value without its sign.")
        .example(&example("(t - 3).abs().list() // => [2.0, 1.0, 0.0, 1.0]"))
        .bind(|t: Tensor| Ok::<_, Error>(Tensor(t.0.abs()?)));
    r.def("t.pow(x)", "Every value to the power `x`.")
        .example(&example("t.pow(2).list() // => [1.0, 4.0, 9.0, 16.0]"))
        .bind(|t: Tensor, x: f64| powf(&t.0, x));
    r.def("t.clamp(low, high)", "Every value, but none below `low` or above `high`.")
        .example(&example("t.clamp(2, 3).list() // => [2.0, 2.0, 3.0, 3.0]"))
        .bind(|t: Tensor, low: f64, high: f64| {
            if low.is_nan() || high.is_nan() || low > high {
                return Err(
                    Error::value("clamp", "low must not lie above high").got(format!("{low} and {high}"))
                );
            }
            Ok(Tensor(t.0.clamp(low, high)?))
        });
    r.def("t.latent()", "A tensor of four dimensions as a Latent.")
        .example("tensor([1, 2, 3, 4], [1, 4, 1, 1]).latent().shape // => [1, 4, 1, 1]")
        .see(&["tensor"])
        .bind(|t: Tensor| Latent::new(t.0));
    r.prop("z.tensor", "The values of a latent.")
        .example("load(\"emoji\").noise(0).tensor.shape // => [1, 4, 16, 16]")
        .see(&["latent"])
        .bind(|z: Latent| Tensor(z.tensor().clone()));
    operators(r);
}

fn operators(r: &mut Registry) {
    let example = |code: &str| format!("{P}{code}");
    r.op("+", "Sum, value by value; sizes of 1 are repeated.")
        .example(&example("(t + t).list() // => [2.0, 4.0, 6.0, 8.0]"))
        .bind(|a: Tensor, b: Tensor| both("+", &a, &b, |a, b| a.broadcast_add(b)));
    r.op("-", "Difference, value by value; sizes of 1 are repeated.")
        .example(&example("(t - t.mean(0)).mean // => 0.0"))
        .bind(|a: Tensor, b: Tensor| both("-", &a, &b, |a, b| a.broadcast_sub(b)));
    r.op("*", "Product, value by value; sizes of 1 are repeated.")
        .example(&example("(t * t).list() // => [1.0, 4.0, 9.0, 16.0]"))
        .bind(|a: Tensor, b: Tensor| both("*", &a, &b, |a, b| a.broadcast_mul(b)));
    r.op("/", "Quotient, value by value; sizes of 1 are repeated.")
        .example(&example("(t / t).list() // => [1.0, 1.0, 1.0, 1.0]"))
        .bind(|a: Tensor, b: Tensor| both("/", &a, &b, |a, b| a.broadcast_div(b)));
    r.op("+", "A number added to every value.")
        .example(&example("(t + 1).list() // => [2.0, 3.0, 4.0, 5.0]"))
        .bind(|a: Tensor, x: f64| Ok::<_, Error>(Tensor(a.0.affine(1.0, x)?)));
    r.op("-", "A number taken from every value.")
        .example(&example("(t - 1).list() // => [0.0, 1.0, 2.0, 3.0]"))
        .bind(|a: Tensor, x: f64| Ok::<_, Error>(Tensor(a.0.affine(1.0, -x)?)));
    r.op("*", "Every value times a number.")
        .example(&example("(t * 2).list() // => [2.0, 4.0, 6.0, 8.0]"))
        .bind(|a: Tensor, x: f64| Ok::<_, Error>(Tensor(a.0.affine(x, 0.0)?)));
    r.op("*", "Every value times a number.")
        .example(&example("(2 * t).list() // => [2.0, 4.0, 6.0, 8.0]"))
        .bind(|x: f64, a: Tensor| Ok::<_, Error>(Tensor(a.0.affine(x, 0.0)?)));
    r.op("/", "Every value divided by a number.")
        .example(&example("(t / 2).list() // => [0.5, 1.0, 1.5, 2.0]"))
        .bind(|a: Tensor, x: f64| Ok::<_, Error>(Tensor(a.0.affine(1.0 / x, 0.0)?)));
}
