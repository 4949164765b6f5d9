//! The same convolution, output channels by output channels: the tiles of all pictures are transformed first, then every task
//! multiplies all of them with the weights of one panel of 64 output channels and turns the products to outputs.
//!
//! Large weights are read from memory once, not once per block of tiles; and weights that are not kept in transformed form
//! are transformed panel by panel, in scratch memory that the caches hold.

use candle_core::Result;

use super::transforms::{
    input_scratch, output_scratch, transform_input, transform_output, transform_weights,
};
use super::{PANEL, PLACES, Plan, Sizes, Source, padded, place_step};
use crate::engine::ops::gemm::{Grid, gemm};
use crate::engine::ops::math::{Element, with_scratch};
use crate::engine::ops::parallel;

/// Tiles of a block: as many rows as one product takes.
const TILES: usize = 48;

/// Numbers that the caches of a processor hold, about.
const CACHED: usize = 8_000_000;

fn plan(s: &Sizes) -> Plan {
    let tiles = s.tiles();
    // At least two blocks, so that both ways of work are shared.
    Plan::with_tiles(s, if tiles < 2 * TILES { tiles.div_ceil(2) } else { TILES })
}

/// Whether this order is the faster one: every panel reads all transformed inputs again, every block of the other order all
/// weights. Weights that are not kept are in a cache when a panel has just been transformed.
pub(super) fn pays<T>(s: &Sizes, source: &Source<'_, T>) -> bool {
    let ([i, _, _], [o, _, _]) = (s.input, s.output);
    let (weights, inputs) = (PLACES * i * padded(o), PLACES * padded(i) * s.tiles());
    match source {
        Source::Kept(_) => weights > CACHED && inputs <= weights,
        Source::Plain { .. } => inputs <= weights.max(CACHED / 2),
    }
}

/// See [`forward`](super::forward).
pub(super) fn forward<T: Element>(
    s: &Sizes,
    x: &[T],
    source: Source<'_, T>,
    bias: Option<&[T]>,
) -> Result<Vec<T>> {
    let [i, _, _] = s.input;
    let [o, oh, ow] = s.output;
    let plan = plan(s);
    let blocks: Vec<_> = (0..plan.blocks).map(|index| plan.block(s, index)).collect();
    let wide = padded(i);
    let nanos = s.tiles() * 10 * i;

    let mut transformed = vec![T::zero(); blocks.iter().map(|b| PLACES * place_step(b.tiles(), wide)).sum()];
    let mut rest = &mut transformed[..];
    let mut tasks = Vec::with_capacity(blocks.len());
    for block in &blocks {
        let (out, after) = rest.split_at_mut(PLACES * place_step(block.tiles(), wide));
        tasks.push((*block, out));
        rest = after;
    }
    parallel::run(tasks, nanos, |(block, out)| {
        with_scratch(input_scratch(s, block), |band| transform_input(s, x, block, out, band));
        Ok(())
    })?;

    let mut out = vec![T::zero(); s.n * o * oh * ow];
    let panels = o.div_ceil(PANEL);
    // Every panel's rows of outputs, picture by picture, channel by channel, part by part.
    let groups = parallel::blocks(&mut out, oh * ow, plan.rows * 4 * ow, panels, |row, _| row % o / PANEL);
    let tasks: Vec<_> = groups.into_iter().enumerate().collect();
    let nanos = s.tiles() * (PLACES * i * o / 40 + 10 * o);
    parallel::run(tasks, nanos, |(panel, segments)| {
        let first = panel * PANEL;
        let (channels, width) = (PANEL.min(o - first), PANEL.min(padded(o) - first));
        let steps: Vec<_> = blocks.iter().map(|b| place_step(b.tiles(), width)).collect();
        let own = if matches!(source, Source::Plain { .. }) { PLACES * i * width } else { 0 };
        with_scratch(own + PLACES * steps.iter().sum::<usize>(), |scratch| {
            let (own, products) = scratch.split_at_mut(own);
            if let Source::Plain { weight, back } = source {
                let mut places: Vec<_> = own.chunks_exact_mut(i * width).collect();
                transform_weights(weight, &mut places, first, [i, o], back);
            }
            for place in 0..PLACES {
                let weights = match source {
                    Source::Kept(all) => &all[place * i * padded(o) + first * i..][..i * width],
                    Source::Plain { .. } => &own[place * i * width..][..i * width],
                };
                let (mut a, mut dst) = (&transformed[..], &mut products[..]);
                for (block, step) in blocks.iter().zip(&steps) {
                    let (tiles, from) = (block.tiles(), place_step(block.tiles(), wide));
                    gemm(
                        (&mut dst[place * step..], Grid::rows(tiles, width, width)),
                        false,
                        T::one(),
                        (&a[place * from..], Grid::rows(tiles, i, wide)),
                        (weights, Grid::rows(i, width, width)),
                    )?;
                    a = &a[PLACES * from..];
                    dst = &mut dst[PLACES * step..];
                }
            }
            let bias = bias.map_or(&[][..], |b| &b[first..first + channels]);
            let mut by_block: Vec<Vec<&mut [T]>> = (0..blocks.len()).map(|_| Vec::new()).collect();
            for (at, segment) in segments.into_iter().enumerate() {
                let picture = at / (channels * plan.parts);
                by_block[picture / plan.pictures * plan.parts + at % plan.parts].push(segment);
            }
            let mut rest = &products[..];
            for ((block, step), mut segments) in blocks.iter().zip(&steps).zip(by_block) {
                with_scratch(output_scratch(s, *block), |band| {
                    transform_output(s, rest, *block, bias, &mut segments, band);
                });
                rest = &rest[PLACES * step..];
            }
            Ok(())
        })
    })?;
    Ok(out)
}
