//! Operations on maps `[n, c, h, w]`: pooling, Gaussian blur, quantiles. All but the quantile are differentiable on every
//! device: they are products with fixed matrices, or maxima of shifted copies.

use candle_core::{DType, Tensor};

use super::error::{Error, Result};

/// Largest window of a pool, and largest radius of a blur, in places.
const MOST: usize = 1024;

/// How a window becomes one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Its mean; places beyond the edge count as zeros (PyTorch's `avg_pool2d` with its defaults).
    Mean,
    /// Its largest value; places beyond the edge do not count.
    Max,
}

/// A window that moves over a map, in places.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Side of the window.
    pub size: usize,
    /// How far it moves.
    pub stride: usize,
    /// Places beyond each edge; at most half the side.
    pub padding: usize,
}

fn sides(op: &str, x: &Tensor) -> Result<(usize, usize, usize, usize)> {
    match *x.dims() {
        [n, c, h, w] if n * c * h * w > 0 => Ok((n, c, h, w)),
        _ => Err(Error::shape(op, "this works on maps")
            .expected("a tensor [n, channels, height, width] that is not empty")
            .got(format!("{:?}", x.dims()))
            .hint("t.reshape([1, 1, h, w])")),
    }
}

/// `rows [to_h, h] @ x @ columns^T [w, to_w]`, map by map.
fn between(x: &Tensor, rows: Vec<f64>, columns: Vec<f64>, to: (usize, usize)) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let matrix = |values: Vec<f64>, dims: (usize, usize)| -> Result<Tensor> {
        Ok(Tensor::from_vec(values, dims, &candle_core::Device::Cpu)?
            .to_dtype(x.dtype())?
            .to_device(x.device())?)
    };
    let (rows, columns) = (matrix(rows, (to.0, h))?, matrix(columns, (to.1, w))?);
    let y = x.contiguous()?.reshape((n * c * h, w))?.matmul(&columns.t()?)?;
    let y = y.reshape((n * c, h, to.1))?.transpose(1, 2)?.contiguous()?.reshape((n * c * to.1, h))?;
    let y = y.matmul(&rows.t()?)?.reshape((n * c, to.1, to.0))?;
    Ok(y.transpose(1, 2)?.contiguous()?.reshape((n, c, to.0, to.1))?)
}

/// A window over the two last dimensions: `(h + 2 padding - size) / stride + 1` places a side.
/// Errors: another rank; a window of no size or stride, larger than the padded map, padded by more than half its side.
pub fn pool(x: &Tensor, how: Pooling, window: Window) -> Result<Tensor> {
    let (_, _, h, w) = sides("pool", x)?;
    let Window { size, stride, padding } = window;
    let fits = |side: usize| side + 2 * padding >= size;
    if size == 0 || size > MOST || stride == 0 || padding > size / 2 || !fits(h) || !fits(w) {
        return Err(Error::value("pool", "the window does not fit the map")
            .expected(format!(
                "size 1..{}, stride 1 or more, padding at most half the size",
                (h.min(w) + 2 * padding).min(MOST)
            ))
            .got(format!("size {size}, stride {stride}, padding {padding} on {h}x{w}")));
    }
    let out = |side: usize| (side + 2 * padding - size) / stride + 1;
    let to = (out(h), out(w));
    if how == Pooling::Mean {
        let matrix = |from: usize, to: usize| {
            let mut m = vec![0.0; from * to];
            for i in 0..to {
                for at in i * stride..i * stride + size {
                    if let Some(at) = at.checked_sub(padding).filter(|at| *at < from) {
                        m[i * from + at] = 1.0 / size as f64;
                    }
                }
            }
            m
        };
        return between(x, matrix(h, to.0), matrix(w, to.1), to);
    }
    let mut y = x.clone();
    for (dim, side, to) in [(2, h, to.0), (3, w, to.1)] {
        let mut largest: Option<Tensor> = None;
        for k in 0..size {
            // Where the window leaves the map the nearest place inside is in the window already.
            let at = |i: usize| (i * stride + k).saturating_sub(padding).min(side - 1) as u32;
            let index = Tensor::from_vec((0..to).map(at).collect::<Vec<_>>(), to, x.device())?;
            let shifted = y.contiguous()?.index_select(&index, dim)?;
            largest = Some(match largest {
                Some(m) => m.maximum(&shifted)?,
                None => shifted,
            });
        }
        y = largest.unwrap_or(y);
    }
    Ok(y)
}

/// Gaussian blur with standard deviation `sigma` in places, cut at three deviations, edges repeated; 0 changes nothing.
/// Errors: another rank; a negative or unusably large deviation.
pub fn blur(x: &Tensor, sigma: f64) -> Result<Tensor> {
    let (_, _, h, w) = sides("blur", x)?;
    if !(0.0..=MOST as f64 / 3.0).contains(&sigma) {
        return Err(Error::value("blur", "the deviation is out of range")
            .expected(format!("0..{}", MOST / 3))
            .got(sigma.to_string()));
    }
    if sigma == 0.0 {
        return Ok(x.clone());
    }
    let radius = (3.0 * sigma).ceil() as i64;
    let weights: Vec<f64> = (-radius..=radius).map(|d| (-0.5 * (d as f64 / sigma).powi(2)).exp()).collect();
    let total: f64 = weights.iter().sum();
    let matrix = |side: usize| {
        let mut m = vec![0.0; side * side];
        for i in 0..side {
            for (d, weight) in (-radius..=radius).zip(&weights) {
                let at = (i as i64 + d).clamp(0, side as i64 - 1) as usize;
                m[i * side + at] += weight / total;
            }
        }
        m
    };
    between(x, matrix(h), matrix(w), (h, w))
}

/// The value below which a share `q` of all values lies, interpolated linearly between two of them (PyTorch's
/// `quantile`). Errors: `q` outside of 0..1, an empty tensor, values that are no numbers.
pub fn quantile(x: &Tensor, q: f64) -> Result<f64> {
    if !(0.0..=1.0).contains(&q) {
        return Err(Error::value("quantile", "the share is out of range")
            .expected("0..1")
            .got(q.to_string()));
    }
    let mut all = x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    if all.iter().any(|v| v.is_nan()) {
        return Err(Error::value("quantile", "the tensor holds values that are no numbers (NaN)"));
    }
    all.sort_by(f64::total_cmp);
    let at = q * (all.len().saturating_sub(1)) as f64;
    match (all.get(at.floor() as usize), all.get(at.ceil() as usize)) {
        (Some(low), Some(high)) => Ok(low + (high - low) * at.fract()),
        _ => Err(Error::value("quantile", "the tensor is empty")),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn map(side: usize) -> Tensor {
        let values: Vec<f32> = (0..side * side).map(|i| ((i * 7919) % 23) as f32 / 7.0 - 1.0).collect();
        Tensor::from_vec(values, (1, 1, side, side), &Device::Cpu).unwrap()
    }

    fn values(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The plain definition.
    fn slow(x: &Tensor, how: Pooling, w: Window) -> Vec<f32> {
        let side = x.dims()[3] as i64;
        let v = values(x);
        let out = (side + 2 * w.padding as i64 - w.size as i64) / w.stride as i64 + 1;
        let mut all = Vec::new();
        for (i, j) in (0..out).flat_map(|i| (0..out).map(move |j| (i, j))) {
            let (mut sum, mut most) = (0f32, f32::NEG_INFINITY);
            for (a, b) in (0..w.size as i64).flat_map(|a| (0..w.size as i64).map(move |b| (a, b))) {
                let (y, x) =
                    (i * w.stride as i64 + a - w.padding as i64, j * w.stride as i64 + b - w.padding as i64);
                if (0..side).contains(&y) && (0..side).contains(&x) {
                    sum += v[(y * side + x) as usize];
                    most = most.max(v[(y * side + x) as usize]);
                }
            }
            all.push(if how == Pooling::Mean { sum / (w.size * w.size) as f32 } else { most });
        }
        all
    }

    #[test]
    fn pools_are_what_they_say() {
        for (size, stride, padding) in [(4, 1, 1), (3, 1, 1), (2, 2, 0), (3, 2, 1), (8, 1, 0)] {
            let w = Window { size, stride, padding };
            for how in [Pooling::Mean, Pooling::Max] {
                let (got, want) = (values(&pool(&map(8), how, w).unwrap()), slow(&map(8), how, w));
                assert_eq!(got.len(), want.len(), "{w:?}");
                assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5), "{how:?} {w:?}");
            }
        }
        let bad = Window { size: 9, stride: 1, padding: 0 };
        assert!(pool(&map(8), Pooling::Mean, bad).unwrap_err().to_string().contains("does not fit"));
    }

    #[test]
    fn a_blur_keeps_the_mean_of_a_plain_map_and_spreads_a_dot() {
        let plain = Tensor::ones((1, 2, 8, 8), DType::F32, &Device::Cpu).unwrap();
        assert!(values(&blur(&plain, 1.3).unwrap()).iter().all(|v| (v - 1.0).abs() < 1e-6));
        let mut dot = vec![0f32; 17 * 17];
        dot[8 * 17 + 8] = 1.0;
        let dot = Tensor::from_vec(dot, (1, 1, 17, 17), &Device::Cpu).unwrap();
        let v = values(&blur(&dot, 1.0).unwrap());
        // Neighbors are exp(-1/2) of the center.
        assert!((v[8 * 17 + 9] / v[8 * 17 + 8] - (-0.5f32).exp()).abs() < 1e-5);
        assert_eq!(values(&blur(&dot, 0.0).unwrap()), values(&dot));
    }

    #[test]
    fn quantiles_are_interpolated() {
        let t = Tensor::new(&[3f32, 1.0, 2.0, 4.0], &Device::Cpu).unwrap();
        assert_eq!([0.0, 0.5, 1.0].map(|q| quantile(&t, q).unwrap()), [1.0, 2.5, 4.0]);
        assert!(quantile(&t, 1.5).is_err());
    }

    #[test]
    fn gradients_go_through() {
        let x = candle_core::Var::from_tensor(&map(8)).unwrap();
        let w = Window { size: 3, stride: 2, padding: 1 };
        let each: [&dyn Fn(&Tensor) -> Tensor; 3] =
            [&|x| pool(x, Pooling::Mean, w).unwrap(), &|x| pool(x, Pooling::Max, w).unwrap(), &|x| {
                blur(x, 1.0).unwrap()
            }];
        for f in each {
            let sum = |t: &Tensor| t.sum_all().unwrap().to_scalar::<f32>().unwrap();
            let g = f(&x).sum_all().unwrap().backward().unwrap();
            // All three grow linearly where every value grows by the same.
            let more = sum(&f(&(x.as_tensor() + 1.0).unwrap())) - sum(&f(&x));
            assert!((sum(g.get(&x).unwrap()) - more).abs() < 1e-3);
        }
    }
}
