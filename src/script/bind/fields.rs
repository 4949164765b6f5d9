//! Tensors as maps: pooling, blurring, scaling, thresholds; as pictures and as masks.

use candle_core::DType;

use super::tensor::Tensor;
use crate::engine::error::{Error, Result};
use crate::engine::fields::{Pooling, Window, blur, pool, quantile};
use crate::engine::image::{Picture, no_gradient};
use crate::engine::latent::Latent;
use crate::engine::ops;
use crate::engine::weights::embedding::Embedding;
use crate::script::args::{Either, Opts};
use crate::script::registry::Registry;

/// Sides of a map that is made larger, at most.
const MOST: usize = 16_384;

fn pooled(t: &Tensor, o: &Opts) -> Result<Tensor> {
    let how = match o.or("how", "mean".to_string())?.as_str() {
        "mean" => Pooling::Mean,
        "max" => Pooling::Max,
        other => {
            return Err(Error::value("pool", "there is no such pool").expected("mean or max").got(other));
        }
    };
    let size = o.or("size", 2usize)?;
    let window = Window { size, stride: o.or("stride", size)?, padding: o.or("padding", 0)? };
    Ok(Tensor(pool(&t.0, how, window)?))
}

fn resize(t: &Tensor, h: usize, w: usize) -> Result<Tensor> {
    if h.max(w) > MOST {
        return Err(Error::value("resize", "the size is out of range")
            .expected(format!("1..{MOST} a side"))
            .got(format!("{h}x{w}")));
    }
    Ok(Tensor(ops::resize_bilinear(&t.0, h, w)?))
}

/// 1 where `a` is greater, else 0; without a gradient, as steps have none.
fn greater(t: &Tensor, than: &Either<f64, Tensor>) -> Result<Tensor> {
    let a = t.0.detach();
    let mask = match than {
        Either::Left(x) => a.gt(*x)?,
        Either::Right(b) => {
            let b = b.0.detach().to_dtype(a.dtype())?;
            a.broadcast_gt(&b).map_err(|_| {
                Error::shape("greater", "the two tensors do not fit")
                    .expected("equal shapes, or 1 where they differ")
                    .got(format!("{:?} and {:?}", a.dims(), b.dims()))
            })?
        }
    };
    Ok(Tensor(mask.to_dtype(DType::F32)?))
}

fn image(t: &Tensor) -> Result<Picture> {
    if t.0.track_op() {
        return Err(no_gradient("image"));
    }
    let x = t.0.to_dtype(DType::F32)?.clamp(0f32, 1f32)?;
    match *x.dims() {
        [n, 1, h, w] => Picture::from_tensor(x.broadcast_as((n, 3, h, w))?.contiguous()?),
        [_, 3, _, _] => Picture::from_tensor(x),
        _ => Err(Error::shape("image", "this is no map of a picture")
            .expected("[n, 1, height, width] for gray, [n, 3, height, width] for colors")
            .got(format!("{:?}", x.dims()))),
    }
}

fn fits(op: &str, a: &[usize], x: &Tensor) -> Result<()> {
    let x = x.0.dims();
    let same = x.len() <= a.len() && x.iter().rev().zip(a.iter().rev()).all(|(x, a)| x == a || *x == 1);
    if same {
        return Ok(());
    }
    Err(Error::shape(op, "the weights do not fit what they weigh")
        .expected(format!("{a:?}, or 1 in some places"))
        .got(format!("{x:?}")))
}

fn blend_latents(a: &Latent, b: &Latent, x: &Tensor) -> Result<Latent> {
    let n = a.dims().0.max(b.dims().0);
    let mut dims = a.tensor().dims().to_vec();
    if let Some(first) = dims.first_mut() {
        *first = n;
    }
    fits("blend", &dims, x)?;
    Latent::blend_mask(a, b, &x.0.to_device(b.tensor().device())?.to_dtype(b.tensor().dtype())?)
}

fn blend_prompts(a: &Embedding, b: &Embedding, x: &Tensor) -> Result<Embedding> {
    if a.states().dims() != b.states().dims() {
        return Err(Error::shape("blend", "the two prompts come from different text encoders")
            .expected(format!("{:?}", a.states().dims()))
            .got(format!("{:?}", b.states().dims())));
    }
    fits("blend", a.states().dims(), x)?;
    let x = x.0.to_dtype(a.states().dtype())?.to_device(a.states().device())?;
    let mixed = (a.states().broadcast_mul(&x.affine(-1.0, 1.0)?)? + b.states().broadcast_mul(&x)?)?;
    b.with_states(mixed)
}

const P: &str = "let t = tensor([1, 2, 3, 4], [1, 1, 2, 2]);\n";

/// Binds them.
pub fn register(r: &mut Registry) {
    let example = |code: &str| format!("{P}{code}");
    r.group(
        "Fields",
        "Tensors [n, channels, height, width] as maps over a picture: smoothed, scaled, compared.",
    );
    r.def(
        "t.pool()",
        "The mean or the largest value of a window that moves over a map: (height + 2 padding - size) / stride + 1 values a \
         side. Beyond the edge are zeros for the mean, nothing for the largest.",
    )
    .option("how", "string", "mean or max; mean")
    .option("size", "integer", "side of the window; 2")
    .option("stride", "integer", "how far it moves; its size")
    .option("padding", "integer", "places beyond each edge, at most half the size; 0")
    .example(&example("t.pool().list() // => [2.5]"))
    .example(&example("t.pool(#{ how: \"max\", size: 2, stride: 1, padding: 1 }).list() // => [1.0, 2.0, 2.0, 3.0, 4.0, 4.0, 3.0, 4.0, 4.0]"))
    .example(&example("t.pool(#{ size: 3 }) // error: does not fit the map"))
    .see(&["blur", "resize"])
    .bind(|t: Tensor, o: Opts| pooled(&t, &o));
    r.def(
        "t.blur(sigma)",
        "A map smoothed by a Gaussian with that standard deviation in places; edges are repeated.",
    )
    .example(&example("t.blur(0).list() // => [1.0, 2.0, 3.0, 4.0]"))
    .example(&example("t.blur(-1) // error: out of range"))
    .see(&["pool"])
    .bind(|t: Tensor, sigma: f64| Ok::<_, Error>(Tensor(blur(&t.0, sigma)?)));
    r.def("t.resize(height, width)", "A map scaled bilinearly, pixel centers aligned, edges repeated.")
        .example(&example("t.resize(1, 1).list() // => [2.5]"))
        .see(&["pool"])
        .bind(|t: Tensor, h: usize, w: usize| resize(&t, h, w));
    r.def("t.quantile(q)", "The value below which a share `q` of all values lies, 0 to 1.")
        .example(&example("[t.quantile(0), t.quantile(0.5), t.quantile(1)] // => [1.0, 2.5, 4.0]"))
        .example(&example("t.quantile(90) // error: out of range"))
        .see(&["greater"])
        .bind(|t: Tensor, q: f64| quantile(&t.0, q));
    r.def(
        "t.greater(u)",
        "A mask: 1 where the value is greater than `u` (a number or a Tensor), else 0; equal values give 0.",
    )
    .example(&example("t.greater(2).list() // => [0.0, 0.0, 1.0, 1.0]"))
    .example(&example("t.greater(t).max // => 0.0"))
    .see(&["quantile", "blend"])
    .bind(|t: Tensor, u: Either<f64, Tensor>| greater(&t, &u));
    r.def("t.image()", "A map [n, 1, height, width] as a gray picture, or [n, 3, height, width] as a colored one; 0 is black, 1 is white.")
        .example(&example("(t / 4).image() // => Image 2x2"))
        .see(&["show", "tensor"])
        .bind(|t: Tensor| image(&t));
    r.prop("p.tensor", "The values of a picture, [n, 3, height, width], 0 to 1.")
        .example("open(\"dog-flat.png\").tensor.shape // => [1, 3, 64, 64]")
        .see(&["image"])
        .bind(|p: Picture| Tensor(p.tensor().clone()));
    r.def("blend(a, b, mask)", "`(1 - mask) * a + mask * b` with a weight for every place, [1 or n, 1 or channels, height, width].")
        .example("let m = load(\"emoji\");\nlet a = m.noise(0);\ndistance(blend(a, m.noise(1), a.tensor.greater(9)), a) // => 0.0")
        .see(&["greater"])
        .bind(|a: Latent, b: Latent, x: Tensor| blend_latents(&a, &b, &x));
    r.def("blend(a, b, share)", "`(1 - share) * a + share * b` of the states of two prompts, the share being a Tensor that a gradient can reach.")
        .example("let m = load(\"emoji\");\nblend(m.encode(\"a dog\"), m.encode(\"a cat\"), tensor([0.25])).prompt // => \"a cat\"")
        .see(&["grad"])
        .bind(|a: Embedding, b: Embedding, x: Tensor| blend_prompts(&a, &b, &x));
}
