//! One tile of query rows against the pages of one key/value head: packs the queries, walks the splits and their blocks,
//! merges the splits, writes the rows. What happens in a block is in [`super::micro`].

use std::ops::Range;

use super::super::exp::exp2_one;
use super::super::f32x8::{Element, Kernel, Lanes};
use super::super::shared_slice::SharedSlice;
use super::micro::{Block, Micro};
use super::{SPLIT_BLOCKS, splits_of};
use crate::BLOCK_TOKENS;
use crate::ops::attention::AttentionSpec;

/// What is the same for every tile of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Geometry {
    pub heads: usize,
    pub kv_heads: usize,
    /// Query heads that share a key/value head.
    pub group: usize,
    /// A multiple of 8.
    pub head_dim: usize,
    pub window: Option<usize>,
    /// Goes into the queries: scores come out in units of `log2`, or, with a cap, as the argument of its tanh.
    pub query_factor: f32,
    /// `cap * log2(e)`, where scores are capped.
    pub cap_factor: Option<f32>,
}

/// Neighbouring positions of one span, with all query heads of one key/value head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    pub span: usize,
    pub kv_head: usize,
    /// Row of the first position in the step.
    pub first_row: usize,
    /// Absolute position of that row.
    pub first_position: usize,
    pub positions: usize,
}

/// A tile's running softmax: maximum and sum `[rows]`, accumulator `[rows, head_dim]`. Row `position * group + head in group`.
pub struct Partial<'a> {
    pub max: &'a mut [f32],
    pub sum: &'a mut [f32],
    pub acc: &'a mut [f32],
}

impl Geometry {
    pub fn new(spec: &AttentionSpec) -> Self {
        let log2_e = std::f32::consts::LOG2_E;
        Self {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            group: spec.heads / spec.kv_heads,
            head_dim: spec.head_dim,
            window: spec.window,
            query_factor: spec.softcap.map_or(spec.scale * log2_e, |cap| spec.scale / cap),
            cap_factor: spec.softcap.map(|cap| cap * log2_e),
        }
    }

    /// Positions that a row at `position` sees.
    pub fn sees(&self, position: usize) -> Range<usize> {
        let end = position + 1;
        self.window.map_or(0, |window| end.saturating_sub(window))..end
    }
}

impl Tile {
    pub fn rows(&self, geometry: &Geometry) -> usize {
        self.positions * geometry.group
    }

    /// Splits that at least one row sees.
    pub fn splits(&self, geometry: &Geometry) -> Range<usize> {
        splits_of(self.sees(geometry))
    }

    fn sees(&self, geometry: &Geometry) -> Range<usize> {
        geometry.sees(self.first_position).start..self.first_position + self.positions
    }
}

/// Length of the buffer behind a [`Partial`].
pub fn partial_len(rows: usize, head_dim: usize) -> usize {
    rows * (head_dim + 2)
}

impl<'a> Partial<'a> {
    pub fn new(buffer: &'a mut [f32], rows: usize) -> Self {
        let (max, rest) = buffer.split_at_mut(rows);
        let (sum, acc) = rest.split_at_mut(rows);
        Self { max, sum, acc }
    }

    fn reset(&mut self) {
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.acc.fill(0.0);
    }
}

/// Computes the given splits of a tile: into `partials` (one [`Partial`] a split) where given, else merged into the rows of `out`.
pub struct Compute<'a, E> {
    pub geometry: &'a Geometry,
    pub tile: &'a Tile,
    pub table: &'a [u32],
    pub q: &'a [f32],
    pub k: &'a [E],
    pub v: &'a [E],
    pub splits: Range<usize>,
    pub scratch: &'a mut Vec<f32>,
    pub out: &'a SharedSlice<'a, f32>,
    pub partials: Option<&'a mut [f32]>,
}

impl<E: Element> Kernel for Compute<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { geometry, tile, table, q, k, v, splits, scratch, out, partials } = self;
        let (rows, head_dim) = (tile.rows(geometry), geometry.head_dim);
        let len = partial_len(rows, head_dim);
        let needed = rows * head_dim + 2 * len;
        if scratch.len() < needed {
            scratch.resize(needed, 0.0);
        }
        let (packed, rest) = scratch.split_at_mut(rows * head_dim);
        pack_queries(geometry, tile, q, packed, L::MICRO_ROWS_MAX);
        let pass = Pass { geometry, tile, table, packed, k, v };
        if let Some(partials) = partials {
            assert_eq!(partials.len(), splits.len() * len, "one partial a split");
            for (split, partial) in splits.zip(partials.chunks_exact_mut(len)) {
                pass.split::<L>(split, &mut Partial::new(partial, rows));
            }
            return;
        }
        let (total, part) = rest.split_at_mut(len);
        let (mut total, mut part) = (Partial::new(total, rows), Partial::new(&mut part[..len], rows));
        pass.split::<L>(splits.start, &mut total);
        for split in splits.start + 1..splits.end {
            pass.split::<L>(split, &mut part);
            merge::<L>(&mut total, &part, head_dim);
        }
        write_rows::<L>(geometry, tile, &total, out);
    }
}

/// `total` takes up `part`, the next split. Rows that saw nothing (maximum minus infinity) leave the other side as it is.
#[inline(always)]
pub fn merge<L: Lanes>(total: &mut Partial<'_>, part: &Partial<'_>, head_dim: usize) {
    for row in 0..total.max.len() {
        let acc = &mut total.acc[row * head_dim..][..head_dim];
        let part_acc = &part.acc[row * head_dim..][..head_dim];
        let (old, new) = (total.max[row], part.max[row]);
        if new == f32::NEG_INFINITY {
            continue;
        }
        if old == f32::NEG_INFINITY {
            (total.max[row], total.sum[row]) = (new, part.sum[row]);
            acc.copy_from_slice(part_acc);
            continue;
        }
        let max = if old > new { old } else { new };
        let (keep, add) = (exp2_one::<L>(old - max), exp2_one::<L>(new - max));
        total.max[row] = max;
        total.sum[row] = total.sum[row].mul_add(keep, part.sum[row] * add);
        let (keep, add) = (L::splat(keep), L::splat(add));
        for (acc, part_acc) in acc.chunks_exact_mut(8).zip(part_acc.chunks_exact(8)) {
            // SAFETY: both chunks hold 8 values.
            unsafe { L::store(acc.as_mut_ptr(), L::fma(L::load(acc.as_ptr()), keep, L::mul(L::load(part_acc.as_ptr()), add))) };
        }
    }
}

/// Divides by the sums and writes the tile's rows of `out`.
#[inline(always)]
pub fn write_rows<L: Lanes>(geometry: &Geometry, tile: &Tile, total: &Partial<'_>, out: &SharedSlice<'_, f32>) {
    let &Geometry { heads, group, head_dim, .. } = geometry;
    for row in 0..tile.rows(geometry) {
        let head = tile.kv_head * group + row % group;
        // SAFETY: no other task has this position and key/value head.
        let to = unsafe { out.run(((tile.first_row + row / group) * heads + head) * head_dim, head_dim) };
        let factor = L::splat(1.0 / total.sum[row]);
        for (to, acc) in to.chunks_exact_mut(8).zip(total.acc[row * head_dim..][..head_dim].chunks_exact(8)) {
            // SAFETY: both chunks hold 8 values.
            unsafe { L::store(to.as_mut_ptr(), L::mul(L::load(acc.as_ptr()), factor)) };
        }
    }
}

/// Scaled queries, one register tile after the other, each `[head_dim][its rows]`.
fn pack_queries(geometry: &Geometry, tile: &Tile, q: &[f32], packed: &mut [f32], micro_rows_max: usize) {
    let &Geometry { heads, group, head_dim, query_factor, .. } = geometry;
    for (first, count) in micro_tiles(tile.rows(geometry), micro_rows_max) {
        for row in first..first + count {
            let head = tile.kv_head * group + row % group;
            let from = &q[((tile.first_row + row / group) * heads + head) * head_dim..][..head_dim];
            for (to, x) in packed[first * head_dim..][..count * head_dim].chunks_exact_mut(count).zip(from) {
                to[row - first] = x * query_factor;
            }
        }
    }
}

/// Cuts `rows` into register tiles of nearly equal height: (first row, rows).
fn micro_tiles(rows: usize, rows_max: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = rows.div_ceil(rows_max);
    (0..count).map(move |index| {
        let first = index * rows / count;
        (first, (index + 1) * rows / count - first)
    })
}

/// One tile with its inputs.
pub struct Pass<'a, E> {
    pub geometry: &'a Geometry,
    pub tile: &'a Tile,
    table: &'a [u32],
    pub packed: &'a [f32],
    k: &'a [E],
    v: &'a [E],
}

impl<E: Element> Pass<'_, E> {
    /// One split from a fresh state.
    #[inline(always)]
    fn split<L: Lanes>(&self, split: usize, state: &mut Partial<'_>) {
        let &Geometry { kv_heads, head_dim, .. } = self.geometry;
        state.reset();
        let sees = self.tile.sees(self.geometry);
        let first = (split * SPLIT_BLOCKS).max(sees.start / BLOCK_TOKENS);
        let end = ((split + 1) * SPLIT_BLOCKS).min(sees.end.div_ceil(BLOCK_TOKENS));
        let page_len = BLOCK_TOKENS * head_dim;
        let page = |block: usize| (self.table[block] as usize * kv_heads + self.tile.kv_head) * page_len;
        for block in first..end {
            let (here, next) = (page(block), page((block + 1).min(end - 1)));
            let (k, v) = (&self.k[here..here + page_len], &self.v[here..here + page_len]);
            let ahead = [self.k[next..].as_ptr(), self.v[next..].as_ptr()];
            for (first, count) in micro_tiles(self.tile.rows(self.geometry), L::MICRO_ROWS_MAX) {
                let block = Block { pass: self, start: block * BLOCK_TOKENS, k, v, first, ahead };
                if L::MICRO_ROWS_MAX == 1 {
                    L::call(Micro::<'_, '_, E, 1> { block, state });
                    continue;
                }
                match count {
                    1 => L::call(Micro::<'_, '_, E, 1> { block, state }),
                    2 => L::call(Micro::<'_, '_, E, 2> { block, state }),
                    3 => L::call(Micro::<'_, '_, E, 3> { block, state }),
                    4 => L::call(Micro::<'_, '_, E, 4> { block, state }),
                    5 => L::call(Micro::<'_, '_, E, 5> { block, state }),
                    _ => L::call(Micro::<'_, '_, E, 6> { block, state }),
                }
            }
        }
    }
}
