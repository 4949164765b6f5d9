//! Token merging in self-attention (Bolya and Hoffman 2023, arXiv 2303.17604, over Bolya et al. 2023, arXiv 2210.09461).
//!
//! One token of every 2x2 cell is a destination, drawn from a seed; of the others, those most similar to their nearest
//! destination are merged into it (the mean), attention runs on what is left, and each merged token gets its
//! destination's result. Which tokens go together is a constant for the gradient; the merging itself is differentiable.

use candle_core::{DType, Tensor};

use crate::engine::error::Result;

/// What self-attention is asked to merge in one network call.
#[derive(Clone, Copy, Debug)]
pub struct Merge {
    /// Share of the tokens, 0..0.75.
    pub ratio: f64,
    /// What the destinations are drawn with; all rows of a batch have the same ones.
    pub seed: u64,
}

/// Which token goes where, for a batch `[b, n, c]`.
#[derive(Debug)]
pub(super) struct Plan {
    /// For every token of every row, the row of `[b * left, c]` that it goes to.
    to: Tensor,
    /// One over how many went there, `[b * left, 1]`.
    share: Tensor,
    left: usize,
}

/// SplitMix64's mixing: well spread bits from a counter.
pub(crate) fn spread(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The destination of every whole 2x2 cell, as token numbers in rising order.
fn destinations(h: usize, w: usize, seed: u64) -> Vec<usize> {
    let cells = (0..h / 2).flat_map(|y| (0..w / 2).map(move |x| (y, x)));
    let mut list: Vec<usize> = cells
        .map(|(y, x)| {
            let corner = spread(seed ^ spread((y * w + x) as u64)) as usize & 3;
            (2 * y + corner / 2) * w + 2 * x + corner % 2
        })
        .collect();
    list.sort_unstable();
    list
}

impl Plan {
    /// For tokens `x [b, h * w, c]` of a feature map. `None` where nothing would be merged. `site` makes the
    /// destinations of two places differ.
    pub(super) fn new(x: &Tensor, (h, w): (usize, usize), merge: Merge, site: &str) -> Result<Option<Self>> {
        let (b, n, _) = x.dims3()?;
        let place = site.bytes().fold(merge.seed, |s, byte| spread(s ^ u64::from(byte)));
        let dst = destinations(h, w, place);
        let gone = ((n as f64 * merge.ratio) as usize).min(n - dst.len());
        if gone == 0 || dst.is_empty() {
            return Ok(None);
        }
        let mut slot = vec![None; n];
        for (i, &token) in dst.iter().enumerate() {
            slot[token] = Some(i);
        }
        let src: Vec<usize> = (0..n).filter(|&i| slot[i].is_none()).collect();
        let nearest = nearest(x, &src, &dst)?;
        let left = n - gone;
        let mut to = vec![0u32; b * n];
        let mut count = vec![0f64; b * left];
        for (row, best) in nearest.iter().enumerate() {
            let mut order: Vec<usize> = (0..src.len()).collect();
            // The order of equals is that of the tokens: the same plan on every machine.
            order.sort_by(|&p, &q| best[q].1.total_cmp(&best[p].1).then(p.cmp(&q)));
            let kept = left - dst.len();
            let (merged, stays) = order.split_at(gone);
            let mut put = |token: usize, place: usize| {
                to[row * n + token] = (row * left + place) as u32;
                count[row * left + place] += 1.0;
            };
            stays.iter().enumerate().for_each(|(place, &s)| put(src[s], place));
            dst.iter().enumerate().for_each(|(i, &token)| put(token, kept + i));
            merged.iter().for_each(|&s| put(src[s], kept + best[s].0));
        }
        let share: Vec<f64> = count.into_iter().map(|k| 1.0 / k).collect();
        Ok(Some(Plan {
            to: Tensor::from_vec(to, b * n, x.device())?,
            share: Tensor::from_vec(share, (b * left, 1), x.device())?.to_dtype(x.dtype())?,
            left,
        }))
    }

    /// `[b, n, c]` → `[b, left, c]`: means of what goes together.
    pub(super) fn merge(&self, x: &Tensor) -> Result<Tensor> {
        let (b, n, c) = x.dims3()?;
        let sums = Tensor::zeros((b * self.left, c), x.dtype(), x.device())?;
        let sums = sums.index_add(&self.to, &x.contiguous()?.reshape((b * n, c))?, 0)?;
        Ok(sums.broadcast_mul(&self.share)?.reshape((b, self.left, c))?)
    }

    /// `[b, left, c]` → `[b, n, c]`: every token gets what its destination has.
    pub(super) fn split(&self, y: &Tensor) -> Result<Tensor> {
        let (b, left, c) = y.dims3()?;
        let n = self.to.dim(0)? / b;
        let flat = y.contiguous()?.reshape((b * left, c))?;
        Ok(flat.index_select(&self.to, 0)?.reshape((b, n, c))?)
    }
}

/// For every row and source token the nearest destination (its number in `dst`) and their cosine.
fn nearest(x: &Tensor, src: &[usize], dst: &[usize]) -> Result<Vec<Vec<(usize, f32)>>> {
    let x = x.detach().to_dtype(DType::F32)?;
    let norm = x.sqr()?.sum_keepdim(2)?.sqrt()?.clamp(1e-12, f64::INFINITY)?;
    let x = x.broadcast_div(&norm)?;
    let pick = |list: &[usize]| -> Result<Tensor> {
        let rows: Vec<u32> = list.iter().map(|&i| i as u32).collect();
        Ok(x.index_select(&Tensor::from_vec(rows, list.len(), x.device())?, 1)?)
    };
    let scores = pick(src)?.matmul(&pick(dst)?.transpose(1, 2)?.contiguous()?)?.flatten_to(1)?;
    let best = |row: Vec<f32>| {
        row.into_iter().enumerate().fold((0, f32::NEG_INFINITY), |a, b| if b.1 > a.1 { b } else { a })
    };
    let best: Vec<(usize, f32)> = scores.to_vec2::<f32>()?.into_iter().map(best).collect();
    Ok(best.chunks(src.len()).map(<[_]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn tokens(b: usize, n: usize, c: usize) -> Tensor {
        let values: Vec<f64> =
            (0..b * n * c).map(|i| (spread(i as u64) >> 11) as f64 / (1u64 << 53) as f64 - 0.5).collect();
        Tensor::from_vec(values, (b, n, c), &Device::Cpu).unwrap()
    }

    #[test]
    fn one_destination_in_every_cell() {
        let list = destinations(6, 9, 7);
        assert_eq!(list.len(), 3 * 4);
        let mut cells: Vec<(usize, usize)> = list.iter().map(|t| (t / 9 / 2, t % 9 / 2)).collect();
        cells.sort_unstable();
        cells.dedup();
        assert_eq!(cells.len(), 12);
        assert_eq!(list, destinations(6, 9, 7));
        assert_ne!(list, destinations(6, 9, 8));
        assert!(destinations(1, 9, 7).is_empty());
    }

    #[test]
    fn a_share_is_merged_and_means_are_kept() {
        let x = tokens(2, 64, 8);
        for (ratio, left) in [(0.25, 48), (0.5, 32), (0.75, 16)] {
            let plan = Plan::new(&x, (8, 8), Merge { ratio, seed: 3 }, "a").unwrap().unwrap();
            let y = plan.merge(&x).unwrap();
            assert_eq!(y.dims(), [2, left, 8]);
            let back = plan.split(&y).unwrap();
            assert_eq!(back.dims(), x.dims());
            // Every token gets the mean of its group: the sum over all is what it was.
            let sum = |t: &Tensor| t.sum_all().unwrap().to_scalar::<f64>().unwrap();
            assert!((sum(&back) - sum(&x)).abs() < 1e-9, "{ratio}");
            let again = plan.split(&plan.merge(&back).unwrap()).unwrap();
            let moved = (again - back).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(moved < 1e-12);
        }
        assert!(Plan::new(&x, (8, 8), Merge { ratio: 0.0, seed: 3 }, "a").unwrap().is_none());
        assert!(Plan::new(&x, (1, 64), Merge { ratio: 0.5, seed: 3 }, "a").unwrap().is_none());
    }

    #[test]
    fn equal_tokens_merge_without_loss() {
        let x = tokens(1, 4, 8).repeat((1, 16, 1)).unwrap();
        let plan = Plan::new(&x, (8, 8), Merge { ratio: 0.5, seed: 0 }, "a").unwrap().unwrap();
        let back = plan.split(&plan.merge(&x).unwrap()).unwrap();
        let moved = (back - x).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
        assert!(moved < 1e-12, "{moved}");
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let x = Var::from_tensor(&tokens(1, 16, 4)).unwrap();
        let weight = tokens(1, 16, 4).affine(3.0, 0.1).unwrap();
        // One plan: which tokens go together is a constant.
        let plan = Plan::new(x.as_tensor(), (4, 4), Merge { ratio: 0.5, seed: 1 }, "a").unwrap().unwrap();
        let loss = |x: &Tensor| {
            let y = plan.split(&plan.merge(x).unwrap().sqr().unwrap()).unwrap();
            (y * &weight).unwrap().sum_all().unwrap()
        };
        let grads = loss(x.as_tensor()).backward().unwrap();
        let grad = grads.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let base = x.as_tensor().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for i in 0..base.len() {
            let at = |d: f64| {
                let mut v = base.clone();
                v[i] += d;
                loss(&Tensor::from_vec(v, (1, 16, 4), &Device::Cpu).unwrap()).to_scalar::<f64>().unwrap()
            };
            let wanted = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((wanted - grad[i]).abs() < 1e-7, "{i}: {wanted} and {}", grad[i]);
        }
    }
}
