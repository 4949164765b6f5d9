//! More of tensors: joining, products, choices, elementary functions, and activations as rows.

use candle_core::{DType, Tensor as Values};

use super::tensor::Tensor;
use crate::engine::error::{Error, Result};
use crate::engine::latent::Latent;
use crate::engine::ops;
use crate::script::args::Either;
use crate::script::registry::Registry;

fn at(op: &str, t: &Values, dim: i64) -> Result<usize> {
    let rank = t.rank() as i64;
    let i = if dim < 0 { rank + dim } else { dim };
    if (0..rank).contains(&i) {
        return Ok(i as usize);
    }
    Err(Error::shape(op, format!("there is no dimension {dim}"))
        .expected(format!("-{rank}..{}", rank - 1))
        .got(format!("a tensor of shape {:?}", t.dims())))
}

fn cat(list: &[Tensor], dim: i64) -> Result<Tensor> {
    let Some(first) = list.first() else { return Err(Error::value("cat", "the list is empty")) };
    let dim = at("cat", &first.0, dim)?;
    let others = |t: &Values| {
        t.dims().iter().enumerate().filter(|(i, _)| *i != dim).map(|(_, d)| *d).collect::<Vec<_>>()
    };
    for t in list {
        if t.0.rank() != first.0.rank() || others(&t.0) != others(&first.0) {
            return Err(Error::shape("cat", format!("the tensors differ in more than dimension {dim}"))
                .expected(format!("{:?}", first.0.dims()))
                .got(format!("{:?}", t.0.dims())));
        }
    }
    // One that lies on a GPU takes the others there.
    let device = list.iter().map(|t| t.0.device()).find(|d| !d.is_cpu()).unwrap_or(first.0.device());
    let like = |t: &Tensor| Ok(t.0.to_dtype(first.0.dtype())?.to_device(device)?);
    let all = list.iter().map(like).collect::<Result<Vec<_>>>()?;
    Ok(Tensor(Values::cat(&all, dim)?))
}

fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let bad = || {
        Error::shape("matmul", "the two do not fit").expected("[n, k] and [k, m]").got(format!(
            "{:?} and {:?}",
            a.0.dims(),
            b.0.dims()
        ))
    };
    match (a.0.dims(), b.0.dims()) {
        ([_, k], [l, _]) if k == l => {
            let (a, b) = ops::on_one_device(&a.0, &b.0)?;
            Ok(Tensor(a.contiguous()?.matmul(&b.to_dtype(a.dtype())?.contiguous()?)?))
        }
        _ => Err(bad()),
    }
}

fn dot(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.0.dims() != b.0.dims() {
        return Err(Error::shape("dot", "the two differ in shape")
            .expected(format!("{:?}", a.0.dims()))
            .got(format!("{:?}", b.0.dims())));
    }
    let (a, b) = ops::on_one_device(&a.0, &b.0)?;
    let a = ops::wide(&a)?;
    Ok(Tensor((&a * b.to_dtype(a.dtype())?)?.sum_all()?))
}

fn choose(mask: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (m, x, y) = (&mask.0, &a.0, &b.0);
    if m.dims() != x.dims() || x.dims() != y.dims() {
        return Err(Error::shape("where", "the three must have one shape")
            .expected(format!("{:?}", m.dims()))
            .got(format!("{:?} and {:?}", x.dims(), y.dims())));
    }
    let (x, y) = ops::on_one_device(x, y)?;
    let (m, x) = ops::on_one_device(&m.detach(), &x)?;
    Ok(Tensor(m.ne(0.0)?.where_cond(&x, &y.to_dtype(x.dtype())?.to_device(x.device())?)?))
}

/// The length of what every entry of the first dimension holds; its sizes become 1. That of half precision is f32: squares of small
/// gradients are no numbers of f16, and sums of many are none either.
fn norm(x: &Values) -> Result<Tensor> {
    let x = ops::wide(x)?;
    let first = x.dims().first().copied().unwrap_or(1);
    let mut shape = vec![1; x.rank().max(1)];
    if let Some(n) = shape.first_mut() {
        *n = first;
    }
    let rows = x.reshape((first, x.elem_count() / first.max(1)))?;
    Ok(Tensor(rows.sqr()?.sum(1)?.sqrt()?.reshape(shape)?))
}

fn rows(list: &[Latent], height: usize, width: usize) -> Result<Tensor> {
    let Some(first) = list.first() else { return Err(Error::value("rows", "the list is empty")) };
    let mut all = Vec::with_capacity(list.len());
    for f in list {
        let (n, c, h, w) = f.dims();
        if n != first.dims().0 {
            return Err(Error::shape("rows", "the activations belong to batches of different sizes")
                .expected(first.dims().0.to_string())
                .got(n.to_string()));
        }
        let x = f.tensor().to_dtype(DType::F32)?;
        let x = if (h, w) == (height, width) { x } else { ops::resize_bilinear(&x, height, width)? };
        all.push(x.permute((0, 2, 3, 1))?.contiguous()?.reshape((n * height * width, c))?);
    }
    Ok(Tensor(Values::cat(&all, 1)?))
}

/// Binds them.
pub fn register(r: &mut Registry) {
    const P: &str = "let t = tensor([1, 2, 3, 4], [2, 2]);\n";
    let example = |code: &str| format!("{P}{code}");
    r.def("cat(list, dim)", "Tensors joined along a dimension.")
        .example(&example("cat([t, t], 1).list() // => [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0]"))
        .example(&example("cat([t, tensor([1])], 0) // error: differ in more than dimension 0"))
        .see(&["slice", "put"])
        .bind(|list: Vec<Tensor>, dim: i64| cat(&list, dim));
    r.def("a.matmul(b)", "The product of two matrices, [n, k] and [k, m].")
        .example(&example("t.matmul(t).list() // => [7.0, 10.0, 15.0, 22.0]"))
        .see(&["dot"])
        .work()
        .bind(|a: Tensor, b: Tensor| matmul(&a, &b));
    r.def("a.dot(b)", "The sum of the products of all values, as a Tensor of one value.")
        .example(&example("t.dot(t).list() // => [30.0]"))
        .see(&["matmul", "norm"])
        .bind(|a: Tensor, b: Tensor| dot(&a, &b));
    r.def(
        "x.norm()",
        "The Euclidean length of what each entry of the first dimension holds: for a latent one number per picture, shape \
         [n, 1, 1, 1].",
    )
    .example("tensor([3, 4, 6, 8], [2, 2]).norm().list() // => [5.0, 10.0]")
    .example("load(\"emoji\").noise(0, #{ n: 2 }).norm().shape // => [2, 1, 1, 1]")
    .see(&["distance", "dot"])
    .bind(|x: Either<Tensor, Latent>| match x {
        Either::Left(t) => norm(&t.0),
        Either::Right(z) => norm(z.tensor()),
    });
    r.def(
        "t.argmax(dim)",
        "Where the largest values along a dimension stand, which stays with size 1. It has no gradient.",
    )
    .example(&example("t.argmax(-1).list() // => [1.0, 1.0]"))
    .see(&["max"])
    .bind(|t: Tensor, dim: i64| -> Result<Tensor> {
        if t.0.track_op() {
            return Err(crate::engine::image::no_gradient("argmax"));
        }
        Ok(Tensor(t.0.argmax_keepdim(at("argmax", &t.0, dim)?)?.to_dtype(DType::F32)?))
    });
    r.def(
        "mask.where(a, b)",
        "`a` where the mask is not 0, else `b`; gradients go to the one that was taken.",
    )
    .example(&example("tensor([1, 0, 0, 1], [2, 2]).where(t, t * 10).list() // => [1.0, 20.0, 30.0, 4.0]"))
    .bind(|mask: Tensor, a: Tensor, b: Tensor| choose(&mask, &a, &b));
    type Function = fn(&Values) -> candle_core::Result<Values>;
    let functions: [(&str, &str, Function, &str); 5] = [
        ("t.exp()", "e to the power of every value.", |x| x.exp(), "tensor([0]).exp().list() // => [1.0]"),
        (
            "t.log()",
            "The natural logarithm of every value.",
            |x| x.log(),
            "tensor([1]).log().list() // => [0.0]",
        ),
        (
            "t.sqrt()",
            "The square root of every value.",
            |x| x.sqrt(),
            "tensor([9]).sqrt().list() // => [3.0]",
        ),
        (
            "t.sin()",
            "The sine of every value, in radians.",
            |x| x.sin(),
            "tensor([0]).sin().list() // => [0.0]",
        ),
        (
            "t.cos()",
            "The cosine of every value, in radians.",
            |x| x.cos(),
            "tensor([0]).cos().list() // => [1.0]",
        ),
    ];
    for (signature, doc, f, code) in functions {
        r.def(signature, doc)
            .example(code)
            .see(&["pow", "abs"])
            .bind(move |t: Tensor| Ok::<_, Error>(Tensor(f(&t.0)?)));
    }
    r.def(
        "rows(activations, height, width)",
        "Activations of one pass as a Tensor with one row per pixel: each is scaled to that size (bilinear), and their channels \
         stand side by side: [pictures * height * width, channels]. For networks that judge every pixel by itself.",
    )
    .example(
        "let m = load(\"emoji\");\nlet p = m.predict(m.noise(0), 500, m.encode(\"a dog\"), #{ features: [\"input 2\", \"middle 0\"] });\n\
         rows(p.features, 16, 16).shape // => [256, 160]",
    )
    .see(&["predict", "mlp"])
    .work()
    .bind(|list: Vec<Latent>, height: usize, width: usize| {
        if height == 0 || width == 0 || height.saturating_mul(width) > 1 << 20 {
            return Err(Error::value("rows", "the size is out of range")
                .expected("1 to 1048576 pixels")
                .got(format!("{height}x{width}")));
        }
        rows(&list, height, width)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn lengths_in_half_precision_are_summed_in_f32() {
        for dtype in [DType::F16, DType::BF16] {
            for (value, count) in [(1e-5f32, 4), (200.0, 40_000)] {
                let x = Values::full(value, (1, count), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                let wanted = f64::from(value) * (count as f64).sqrt();
                let length = norm(&x).unwrap().0.to_dtype(DType::F64).unwrap();
                let length = length.flatten_all().unwrap().to_vec1::<f64>().unwrap()[0];
                assert!((length / wanted - 1.0).abs() < 0.01, "{dtype:?}: {length}, not {wanted}");
                let x = Tensor(x);
                let square = dot(&x, &x).unwrap().0.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap();
                assert!((square / wanted.powi(2) - 1.0).abs() < 0.02, "{dtype:?}: {square}");
            }
        }
    }
}
