//! The transforms of kernels, inputs and outputs, 16 channels at a time.

use super::{Block, LANES, PANEL, Sizes, padded, place_step};
use crate::engine::ops::math::Element;
use crate::engine::ops::simd::vectorized;

/// One row of the kernel transform: 3 taps → 6 places.
#[inline(always)]
fn kernel_row<T: Element>([a, b, c]: [T; 3]) -> [T; 6] {
    let (quarter, sixth) = (T::of(0.25), T::of(1.0 / 6.0));
    let (twenty_fourth, twelfth) = (T::of(1.0 / 24.0), T::of(1.0 / 12.0));
    let outer = (a + c) * -sixth;
    let far = a * twenty_fourth + c * sixth;
    [a * quarter, outer - b * sixth, outer + b * sixth, far + b * twelfth, far - b * twelfth, c]
}

/// One row of the input transform: 6 inputs → 6 places.
#[inline(always)]
fn input_row<T: Element>([a, b, c, d, e, f]: [T; 6]) -> [T; 6] {
    let (two, four, five) = (T::of(2.0), T::of(4.0), T::of(5.0));
    let (even, odd) = (e - four * c, d - four * b);
    let (near_even, near_odd) = (e - c, two * (d - b));
    [
        four * a - five * c + e,
        even + odd,
        even - odd,
        near_even + near_odd,
        near_even - near_odd,
        four * b - five * d + f,
    ]
}

/// One row of the output transform: 6 places → 4 outputs.
#[inline(always)]
fn output_row<T: Element>([a, b, c, d, e, f]: [T; 6]) -> [T; 4] {
    let (two, four, eight) = (T::of(2.0), T::of(4.0), T::of(8.0));
    let (near, near_odd, far, far_odd) = (b + c, b - c, d + e, d - e);
    [a + near + far, near_odd + two * far_odd, near + four * far, near_odd + eight * far_odd + f]
}

vectorized! {
    /// Fills one panel of all places (`places[place]`: a row for every input channel) with transformed weights for
    /// the output channels from `first` on.
    pub(super) fn transform_weights<T>(
        weight: &'a [T], places: &'a mut [&'b mut [T]], first: usize, sizes: [usize; 2], back: bool,
    ) -> () {
        let [i, o] = sizes;
        let width = PANEL.min(padded(o) - first);
        for channel in 0..i {
            for from in (0..width).step_by(LANES) {
                let mut taps = [[T::zero(); LANES]; 9];
                let lanes = LANES.min(o - first - from);
                for (lane, other) in (first + from..first + from + lanes).enumerate() {
                    let kernel = if back { channel * o + other } else { other * i + channel };
                    for (tap, v) in weight[kernel * 9..][..9].iter().enumerate() {
                        taps[if back { 8 - tap } else { tap }][lane] = *v;
                    }
                }
                let mut half = [[[T::zero(); LANES]; 6]; 3];
                for (r, half) in half.iter_mut().enumerate() {
                    for lane in 0..LANES {
                        let v = kernel_row([taps[3 * r][lane], taps[3 * r + 1][lane], taps[3 * r + 2][lane]]);
                        half[0][lane] = v[0];
                        half[1][lane] = v[1];
                        half[2][lane] = v[2];
                        half[3][lane] = v[3];
                        half[4][lane] = v[4];
                        half[5][lane] = v[5];
                    }
                }
                for c in 0..6 {
                    let mut column = [[T::zero(); LANES]; 6];
                    for lane in 0..LANES {
                        let v = kernel_row([half[0][c][lane], half[1][c][lane], half[2][c][lane]]);
                        column[0][lane] = v[0];
                        column[1][lane] = v[1];
                        column[2][lane] = v[2];
                        column[3][lane] = v[3];
                        column[4][lane] = v[4];
                        column[5][lane] = v[5];
                    }
                    for (r, column) in column.iter().enumerate() {
                        places[r * 6 + c][channel * width + from..][..LANES].copy_from_slice(column);
                    }
                }
            }
        }
    }
}

/// Padded height and width of the inputs of a block, per picture.
fn band_size(block: Block) -> (usize, usize) {
    (4 * block.rows + 2, 4 * block.across + 2)
}

/// Scratch memory of [`transform_input`]: the band, and the quarters of its inside.
pub(super) fn input_scratch(s: &Sizes, block: Block) -> usize {
    let (height, width) = band_size(block);
    (height * width + height * s.input[2]) * LANES
}

/// Scratch memory of [`transform_output`].
pub(super) fn output_scratch(s: &Sizes, block: Block) -> usize {
    (16 * block.across + 4 * block.rows * s.output[2]) * LANES
}

/// Channels that are turned together: one of the quarters of [`LANES`].
const QUARTER: usize = LANES / 4;

/// Turns four rows to positions of four channels: a loop that becomes shuffles of whole registers.
#[inline(always)]
fn interleave<T: Element>([a, b, c, d]: [&[T]; QUARTER], out: &mut [[T; QUARTER]]) {
    for ((out, (a, b)), (c, d)) in out.iter_mut().zip(a.iter().zip(b)).zip(c.iter().zip(d)) {
        *out = [*a, *b, *c, *d];
    }
}

/// The reverse of [`interleave`].
#[inline(always)]
fn separate<T: Element>(positions: &[[T; QUARTER]], [a, b, c, d]: [&mut [T]; QUARTER]) {
    for ((v, (a, b)), (c, d)) in positions.iter().zip(a.iter_mut().zip(b)).zip(c.iter_mut().zip(d)) {
        [*a, *b, *c, *d] = *v;
    }
}

vectorized! {
    /// `out [36][tiles, padded(i)]`: the transformed inputs of a block. `band` is scratch memory.
    pub(super) fn transform_input<T>(s: &'a Sizes, x: &'a [T], block: Block, out: &'a mut [T], band: &'a mut [T]) -> () {
        let [i, h, w] = s.input;
        let wide = padded(i);
        let step = place_step(block.tiles(), wide);
        let (height, width) = band_size(block);
        let mut half = [[[T::zero(); LANES]; 6]; 6];
        let (band, quarters) = band.split_at_mut(height * width * LANES);
        let band = band.as_chunks_mut::<LANES>().0;
        // Rows of the picture that the block reaches, and the band's row of the first of them.
        let from = (4 * block.top).saturating_sub(s.padding.top).min(h);
        let to = (4 * block.top + height).saturating_sub(s.padding.top).clamp(from, h);
        let above = (from + s.padding.top).saturating_sub(4 * block.top);
        let inside = w.min(width - s.padding.left);
        let area = (to - from) * w;
        // The frame stays when the inside is overwritten.
        band.fill([T::zero(); LANES]);
        for p in 0..block.pictures {
            let planes = &x[(block.picture + p) * i * h * w..][..i * h * w];
            for first in (0..i).step_by(LANES) {
                for (four, quarter) in quarters.as_chunks_mut::<QUARTER>().0.chunks_exact_mut(area.max(1)).take(4).enumerate() {
                    // Channels that are not there get copies of the last one, which no product reads.
                    let row = |c: usize| &planes[((first + 4 * four + c).min(i - 1) * h + from) * w..][..area];
                    interleave([row(0), row(1), row(2), row(3)], quarter);
                    for (r, line) in quarter.chunks_exact(w).enumerate() {
                        let at = (above + r) * width + s.padding.left;
                        for (out, v) in band[at..at + inside].iter_mut().zip(line) {
                            if let Some(out) = out[4 * four..].first_chunk_mut::<QUARTER>() {
                                *out = *v;
                            }
                        }
                    }
                }
                for row in 0..block.rows {
                    for column in 0..block.across {
                        let corner = 4 * row * width + 4 * column;
                        let tile = (p * block.rows + row) * block.across + column;
                        transform_tile(&band[corner..], width, &mut out[tile * wide + first..], step, &mut half);
                    }
                }
            }
        }
    }
}

/// The 36 places of one tile, 16 channels: inputs at `band[r · width + c]`, results at `out[place · step..]`.
/// `half` is scratch memory.
#[inline(always)]
fn transform_tile<T: Element>(
    band: &[[T; LANES]],
    width: usize,
    out: &mut [T],
    step: usize,
    half: &mut [[[T; LANES]; 6]; 6],
) {
    for (r, half) in half.iter_mut().enumerate() {
        let Some(line) = band[r * width..].first_chunk::<6>() else { return };
        for lane in 0..LANES {
            let v =
                [line[0][lane], line[1][lane], line[2][lane], line[3][lane], line[4][lane], line[5][lane]];
            let v = input_row(v);
            half[0][lane] = v[0];
            half[1][lane] = v[1];
            half[2][lane] = v[2];
            half[3][lane] = v[3];
            half[4][lane] = v[4];
            half[5][lane] = v[5];
        }
    }
    for c in 0..6 {
        let mut column = [[T::zero(); LANES]; 6];
        for lane in 0..LANES {
            let v = [
                half[0][c][lane],
                half[1][c][lane],
                half[2][c][lane],
                half[3][c][lane],
                half[4][c][lane],
                half[5][c][lane],
            ];
            let v = input_row(v);
            column[0][lane] = v[0];
            column[1][lane] = v[1];
            column[2][lane] = v[2];
            column[3][lane] = v[3];
            column[4][lane] = v[4];
            column[5][lane] = v[5];
        }
        for (r, column) in column.iter().enumerate() {
            if let Some(out) = out[(r * 6 + c) * step..].first_chunk_mut::<LANES>() {
                *out = *column;
            }
        }
    }
}

/// The 4×4 outputs of one tile, 16 channels: places at `products[place · step..]`, results at `band[r · width + c]`.
/// `half` is scratch memory.
#[inline(always)]
fn transform_back<T: Element>(
    products: &[T],
    step: usize,
    shift: &[T; LANES],
    band: &mut [[T; LANES]],
    width: usize,
    half: &mut [[[T; LANES]; 6]; 4],
) {
    for c in 0..6 {
        let line = |r: usize| products[(r * 6 + c) * step..].first_chunk::<LANES>();
        let (Some(l0), Some(l1), Some(l2), Some(l3), Some(l4), Some(l5)) =
            (line(0), line(1), line(2), line(3), line(4), line(5))
        else {
            return;
        };
        for lane in 0..LANES {
            let v = output_row([l0[lane], l1[lane], l2[lane], l3[lane], l4[lane], l5[lane]]);
            half[0][c][lane] = v[0];
            half[1][c][lane] = v[1];
            half[2][c][lane] = v[2];
            half[3][c][lane] = v[3];
        }
    }
    for (r, half) in half.iter().enumerate() {
        let Some(out) = band[r * width..].first_chunk_mut::<4>() else { return };
        for lane in 0..LANES {
            let v =
                [half[0][lane], half[1][lane], half[2][lane], half[3][lane], half[4][lane], half[5][lane]];
            let v = output_row(v);
            out[0][lane] = v[0] + shift[lane];
            out[1][lane] = v[1] + shift[lane];
            out[2][lane] = v[2] + shift[lane];
            out[3][lane] = v[3] + shift[lane];
        }
    }
}

vectorized! {
    /// Turns `products [36][tiles, padded(channels)]` of a block to outputs. `segments[(picture, channel)]` are the
    /// output rows of the block. `band` is scratch memory for one row of tiles.
    pub(super) fn transform_output<T>(
        s: &'a Sizes, products: &'a [T], block: Block, bias: &'a [T], segments: &'a mut [&'b mut [T]],
        band: &'a mut [T],
    ) -> () {
        let ow = s.output[2];
        let channels = segments.len() / block.pictures;
        let wide = padded(channels);
        let step = place_step(block.tiles(), wide);
        let mut half = [[[T::zero(); LANES]; 6]; 4];
        let width = 4 * block.across;
        let (band, quarters) = band.split_at_mut(4 * width * LANES);
        let band = band.as_chunks_mut::<LANES>().0;
        let quarters = quarters.as_chunks_mut::<QUARTER>().0;
        let area = segments.first().map_or(0, |segment| segment.len());
        for p in 0..block.pictures {
            for first in (0..channels).step_by(LANES) {
                let mut shift = [T::zero(); LANES];
                for (shift, bias) in shift.iter_mut().zip(bias.iter().skip(first)) {
                    *shift = *bias;
                }
                for row in 0..block.rows {
                    for column in 0..block.across {
                        let tile = (p * block.rows + row) * block.across + column;
                        let at = &products[tile * wide + first..];
                        transform_back(at, step, &shift, &mut band[4 * column..], width, &mut half);
                    }
                    for (r, line) in band.chunks_exact(width).enumerate() {
                        let y = 4 * row + r;
                        if y * ow >= area {
                            break;
                        }
                        for (four, quarter) in quarters.chunks_exact_mut(area).take(4).enumerate() {
                            for (out, v) in quarter[y * ow..][..ow].iter_mut().zip(line) {
                                if let Some(v) = v[4 * four..].first_chunk::<QUARTER>() {
                                    *out = *v;
                                }
                            }
                        }
                    }
                }
                let mut rest = segments[p * channels..(p + 1) * channels].iter_mut().skip(first);
                for quarter in quarters.chunks_exact(area.max(1)).take(4) {
                    let mut next = || rest.next().map_or(&mut [][..], |segment| &mut **segment);
                    let rows = [next(), next(), next(), next()];
                    match rows.iter().all(|row| row.len() == area) {
                        true => separate(quarter, rows),
                        false => {
                            for (c, row) in rows.into_iter().enumerate() {
                                for (out, v) in row.iter_mut().zip(quarter) {
                                    *out = v[c];
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
