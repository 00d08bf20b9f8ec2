//! Attention over the pages of the CPU's layout: cuts a step into tasks, and puts split results together.
//!
//! What a row computes depends on its position alone, never on the tiling: keys are taken in splits of [`SPLIT_BLOCKS`] blocks at
//! absolute positions, each from a fresh (maximum, sum, accumulator), and the splits are merged in ascending order into a state
//! that is empty or, where the head has a sink, holds that sink alone. Tiles and tasks only decide which rows share a read of the
//! cache. A tile's arithmetic is in [`tile`], [`softmax`] and [`micro`].

mod micro;
mod softmax;
mod tile;

use std::cell::RefCell;
use std::ops::Range;

use half::f16;

use self::tile::{Geometry, Partial, Tile, merge, partial_len};
use super::f32x8::{Kernel, Lanes, run};
use super::isa::Isa;
use super::page::{F16, F32, Format, Q8_0};
use super::pool::pool;
use super::shared_slice::SharedSlice;
use crate::ops::attention::AttentionSpec;
use crate::{BLOCK_TOKENS, Step};

/// Blocks of one split: 256 tokens.
pub const SPLIT_BLOCKS: usize = 8;
const SPLIT_TOKENS: usize = SPLIT_BLOCKS * BLOCK_TOKENS;
/// Query rows (positions times heads of a group) that share one pass over the cache.
///
/// 144 rows keep 144 KB of scores and 220 KB of queries and accumulators in a second-level cache of 512 KB, and widen a page two
/// thirds as often as 96 do.
const TILE_ROWS: usize = 144;
/// Taller tiles are not cut along the keys: their partial results would cost more than a late thread.
const CUT_ROWS_MAX: usize = 24;
/// Below so many multiply-adds a second thread costs more than it brings.
const SERIAL_WORK_MAX: usize = 128 * 1024;

/// The pages of one layer, `[blocks, kv_heads, page]`, as [`super::page`] describes them.
#[derive(Debug, Clone, Copy)]
pub enum Pages<'a> {
    F16(&'a [f16]),
    F32(&'a [f32]),
    Q8_0(&'a [u8]),
}

/// One call's inputs, checked by [`crate::ops::attention::paged_attention`].
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// `[T, heads * head_dim]`.
    pub q: &'a [f32],
    pub k: Pages<'a>,
    pub v: Pages<'a>,
    pub step: &'a Step,
    pub spec: &'a AttentionSpec,
}

/// Fills `out [T, heads * head_dim]`.
pub fn attend(isa: Isa, inputs: &Inputs<'_>, out: &mut [f32]) {
    assert_eq!(inputs.q.len(), out.len(), "one output a query");
    match (inputs.k, inputs.v) {
        (Pages::F16(k), Pages::F16(v)) => attend_typed::<F16>(isa, inputs, k, v, out),
        (Pages::F32(k), Pages::F32(v)) => attend_typed::<F32>(isa, inputs, k, v, out),
        (Pages::Q8_0(k), Pages::Q8_0(v)) => attend_typed::<Q8_0>(isa, inputs, k, v, out),
        _ => panic!("keys and values have one type"),
    }
}

fn attend_typed<F: Format>(isa: Isa, inputs: &Inputs<'_>, k: &[F::Unit], v: &[F::Unit], out: &mut [f32]) {
    let (step, spec) = (inputs.step, inputs.spec);
    let geometry = Geometry::new(spec);
    let threads = pool().threads();
    let tiles = tiles(step, spec, threads);
    let out = SharedSlice::new(out);
    let compute = |tile: &Tile, splits: Range<usize>, partials: Option<&mut [f32]>| {
        let table = step.table(&step.spans[tile.span]);
        SCRATCH.with_borrow_mut(|scratch| {
            run(isa, tile::Compute::<F> { geometry: &geometry, tile, table, q: inputs.q, k, v, splits, scratch, out: &out, partials });
        });
    };

    let work: usize = step.spans.iter().map(|span| span.q_len * span.kv_len).sum::<usize>() * spec.heads * spec.head_dim * 2;
    if work <= SERIAL_WORK_MAX || threads == 1 {
        return tiles.iter().for_each(|tile| compute(tile, tile.splits(&geometry), None));
    }
    // Too few tiles to keep every thread busy, as when one stream decodes at depth: the splits of a tile become tasks of their own.
    if tiles.len() >= 2 * threads || tiles.iter().any(|tile| tile.rows(&geometry) > CUT_ROWS_MAX) {
        return pool().run(tiles.len(), |index| compute(&tiles[index], tiles[index].splits(&geometry), None));
    }
    let mut tasks = Vec::new();
    let mut partials_len = 0;
    for (index, tile) in tiles.iter().enumerate() {
        for split in tile.splits(&geometry) {
            tasks.push((index, split, partials_len));
            partials_len += partial_len(tile.rows(&geometry), geometry.head_dim);
        }
    }
    let mut partials = vec![0.0f32; partials_len];
    let shared = SharedSlice::new(&mut partials);
    pool().run(tasks.len(), |index| {
        let (tile, split, start) = tasks[index];
        let len = partial_len(tiles[tile].rows(&geometry), geometry.head_dim);
        // SAFETY: every task has its own range.
        let partial = unsafe { shared.run(start, len) };
        compute(&tiles[tile], split..split + 1, Some(partial));
    });
    for (index, tile) in tiles.iter().enumerate() {
        let first = tasks.partition_point(|task| task.0 < index);
        let count = tasks[first..].partition_point(|task| task.0 == index);
        let len = partial_len(tile.rows(&geometry), geometry.head_dim);
        let own = &mut partials[tasks[first].2..][..len * count];
        run(isa, MergeTile { geometry: &geometry, tile, partials: own, out: &out });
    }
}

thread_local! {
    /// Kept between calls: a tile's scores, queries and accumulators are up to some 450 kB with heads of 128.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Cuts the spans into tiles, the dearest first.
fn tiles(step: &Step, spec: &AttentionSpec, threads: usize) -> Vec<Tile> {
    let group = spec.heads / spec.kv_heads;
    let fair_share = (step.rows() * spec.kv_heads).div_ceil(4 * threads);
    let positions_max = (TILE_ROWS / group).min(fair_share).max(1);
    let mut tiles = Vec::new();
    for (index, span) in step.spans.iter().enumerate() {
        for first in (0..span.q_len).step_by(positions_max) {
            let positions = positions_max.min(span.q_len - first);
            for kv_head in 0..spec.kv_heads {
                let (first_row, first_position) = (span.q_start + first, span.kv_len - span.q_len + first);
                tiles.push(Tile { span: index, kv_head, first_row, first_position, positions });
            }
        }
    }
    tiles.sort_by_key(|tile| std::cmp::Reverse(tile.positions * (tile.first_position + tile.positions)));
    tiles
}

/// Folds a tile's splits, each a [`Partial`], from the first to the last, and writes the rows.
struct MergeTile<'a> {
    geometry: &'a Geometry<'a>,
    tile: &'a Tile,
    partials: &'a mut [f32],
    out: &'a SharedSlice<'a, f32>,
}

impl Kernel for MergeTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (rows, head_dim) = (self.tile.rows(self.geometry), self.geometry.head_dim);
        let mut total = vec![0.0; partial_len(rows, head_dim)];
        let mut total = Partial::new(&mut total, rows);
        total.start(self.geometry, self.tile);
        for split in self.partials.chunks_exact_mut(partial_len(rows, head_dim)) {
            merge::<L>(&mut total, &Partial::new(split, rows), head_dim);
        }
        tile::write_rows::<L>(self.geometry, self.tile, &total, self.out);
    }
}

/// Splits that hold positions `positions`.
fn splits_of(positions: Range<usize>) -> Range<usize> {
    positions.start / SPLIT_TOKENS..positions.end.div_ceil(SPLIT_TOKENS)
}
