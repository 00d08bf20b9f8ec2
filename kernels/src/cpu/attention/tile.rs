//! One tile of query rows against the pages of one key/value head: packs the queries, walks the splits, merges them, writes the
//! rows. What happens in registers is in [`super::micro`].
//!
//! A split is three passes: all its scores, then each row's softmax, then all its values. The maximum is known before the first
//! value is read, so nothing is rescaled inside a split. Tiles of many rows widen a piece of the split's pages to f32 before
//! their rows meet it, small enough for the first-level cache; few rows read the pages as they lie. Both read the same numbers.

use std::ops::Range;

use super::super::exp::exp2_one;
use super::super::f32x8::{Eight, Kernel, Lanes, Sixteen};
use super::super::page::{F32, Format};
use super::super::shared_slice::SharedSlice;
use super::micro::{Ahead, Scores, Values, call_rows, micro_tiles};
use super::softmax::SoftmaxRow;
use super::{SPLIT_BLOCKS, SPLIT_TOKENS, splits_of};
use crate::BLOCK_TOKENS;
use crate::ops::attention::AttentionSpec;

/// Tiles of so many rows widen pages first: below, the widening costs more than it saves.
const WIDEN_ROWS_MIN: usize = 24;
/// Elements of a widened panel of values at most: 256 tokens of 16 are 16 kB.
const PANEL_MAX: usize = 32;
/// What the scratch is aligned to, in f32: a cache line, so that no load crosses one.
const ALIGN: usize = 16;

/// What is the same for every tile of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Geometry<'a> {
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
    /// `[heads]`
    pub sinks: Option<&'a [f32]>,
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

/// A tile's softmax: maximum and sum `[rows]`, accumulator `[rows, head_dim]`. Row `position * group + head in group`.
/// A row that saw nothing has the sum 0.
pub struct Partial<'a> {
    pub max: &'a mut [f32],
    pub sum: &'a mut [f32],
    pub acc: &'a mut [f32],
}

impl<'a> Geometry<'a> {
    pub fn new(spec: &'a AttentionSpec) -> Self {
        let log2_e = std::f32::consts::LOG2_E;
        Self {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            group: spec.heads / spec.kv_heads,
            head_dim: spec.head_dim,
            window: spec.window,
            query_factor: spec.softcap.map_or(spec.scale * log2_e, |cap| spec.scale / cap),
            cap_factor: spec.softcap.map(|cap| cap * log2_e),
            sinks: spec.sinks.as_deref(),
        }
    }

    /// Positions that a row at `position` sees.
    pub fn sees(&self, position: usize) -> Range<usize> {
        let end = position + 1;
        self.window.map_or(0, |window| end.saturating_sub(window))..end
    }
}

impl Tile {
    pub fn rows(&self, geometry: &Geometry<'_>) -> usize {
        self.positions * geometry.group
    }

    /// Splits that at least one row sees.
    pub fn splits(&self, geometry: &Geometry<'_>) -> Range<usize> {
        splits_of(self.sees(geometry))
    }

    /// Blocks of a split that at least one row sees.
    fn blocks(&self, geometry: &Geometry<'_>, split: usize) -> Range<usize> {
        let sees = self.sees(geometry);
        let start = (split * SPLIT_BLOCKS).max(sees.start / BLOCK_TOKENS);
        start..((split + 1) * SPLIT_BLOCKS).min(sees.end.div_ceil(BLOCK_TOKENS))
    }

    fn sees(&self, geometry: &Geometry<'_>) -> Range<usize> {
        geometry.sees(self.first_position).start..self.first_position + self.positions
    }

    /// What a row sees of a split, counted from the split's first token.
    fn row_sees(&self, geometry: &Geometry<'_>, row: usize, split: usize) -> (usize, usize) {
        let (sees, start) = (geometry.sees(self.first_position + row / geometry.group), split * SPLIT_TOKENS);
        (sees.start.saturating_sub(start).min(SPLIT_TOKENS), sees.end.saturating_sub(start).min(SPLIT_TOKENS))
    }

    /// What at least one of `count` rows sees of a split: both ends of a row's range grow from row to row.
    fn rows_see(&self, geometry: &Geometry<'_>, (first, count): (usize, usize), split: usize) -> (usize, usize) {
        (self.row_sees(geometry, first, split).0, self.row_sees(geometry, first + count - 1, split).1)
    }
}

/// Length of the buffer behind a [`Partial`].
pub fn partial_len(rows: usize, head_dim: usize) -> usize {
    rows * (head_dim + 2)
}

impl<'a> Partial<'a> {
    pub fn new(buffer: &'a mut [f32], rows: usize) -> Self {
        let (acc, rest) = buffer.split_at_mut(buffer.len() - 2 * rows);
        let (max, sum) = rest.split_at_mut(rows);
        Self { max, sum, acc }
    }

    /// What the first split is merged into: nothing, or a row's sink, which weighs 1 at its own logit and has no value.
    pub fn start(&mut self, geometry: &Geometry<'_>, tile: &Tile) {
        self.acc.fill(0.0);
        match geometry.sinks {
            None => {
                self.max.fill(f32::NEG_INFINITY);
                self.sum.fill(0.0);
            }
            Some(sinks) => {
                let sinks = &sinks[tile.kv_head * geometry.group..][..geometry.group];
                for (row, max) in self.max.iter_mut().enumerate() {
                    *max = sinks[row % geometry.group] * std::f32::consts::LOG2_E;
                }
                self.sum.fill(1.0);
            }
        }
    }
}

/// Computes the given splits of a tile: into `partials` (one [`Partial`] a split) where given, else merged into the rows of `out`.
pub struct Compute<'a, F: Format> {
    pub geometry: &'a Geometry<'a>,
    pub tile: &'a Tile,
    pub table: &'a [u32],
    pub q: &'a [f32],
    pub k: &'a [F::Unit],
    pub v: &'a [F::Unit],
    pub splits: Range<usize>,
    pub scratch: &'a mut Vec<f32>,
    pub out: &'a SharedSlice<'a, f32>,
    pub partials: Option<&'a mut [f32]>,
}

impl<F: Format> Kernel for Compute<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { geometry, tile, table, q, k, v, splits, scratch, out, partials } = self;
        let (rows, head_dim) = (tile.rows(geometry), geometry.head_dim);
        let widens = rows >= WIDEN_ROWS_MIN;
        let len = partial_len(rows, head_dim).next_multiple_of(ALIGN);
        let wide_len = if widens { BLOCK_TOKENS * head_dim + SPLIT_TOKENS * PANEL_MAX } else { 0 };
        let scores_len = rows * SPLIT_TOKENS;
        let needed = rows * head_dim + scores_len + wide_len + 2 * len + 2 * ALIGN;
        if scratch.len() < needed {
            scratch.resize(needed, 0.0);
        }
        let start = scratch.as_ptr().align_offset(ALIGN * size_of::<f32>()).min(ALIGN);
        let (wide, rest) = scratch[start..].split_at_mut(wide_len);
        let (scores, rest) = rest.split_at_mut(scores_len);
        let (total, rest) = rest.split_at_mut(len);
        let (part, rest) = rest.split_at_mut(len);
        let packed = &mut rest[..rows * head_dim];
        pack_queries(geometry, tile, q, packed, L::MICRO_ROWS_MAX);
        let mut pass = Pass::<F> { geometry, tile, table, packed, k, v, scores, wide };
        let len = partial_len(rows, head_dim);
        if let Some(partials) = partials {
            assert_eq!(partials.len(), splits.len() * len, "one partial a split");
            for (split, partial) in splits.zip(partials.chunks_exact_mut(len)) {
                pass.split::<L>(split, &mut Partial::new(partial, rows));
            }
            return;
        }
        let (mut total, mut part) = (Partial::new(&mut total[..len], rows), Partial::new(&mut part[..len], rows));
        total.start(geometry, tile);
        for split in splits {
            pass.split::<L>(split, &mut part);
            merge::<L>(&mut total, &part, head_dim);
        }
        write_rows::<L>(geometry, tile, &total, out);
    }
}

/// `total` takes up `part`, the next split; rows that saw nothing of it stay as they are.
#[inline(always)]
pub fn merge<L: Lanes>(total: &mut Partial<'_>, part: &Partial<'_>, head_dim: usize) {
    for row in 0..total.max.len() {
        if part.sum[row] == 0.0 {
            continue;
        }
        let (old, new) = (total.max[row], part.max[row]);
        let max = if old > new { old } else { new };
        let (keep, add) = (exp2_one::<L>(old - max), exp2_one::<L>(new - max));
        total.max[row] = max;
        total.sum[row] = total.sum[row].mul_add(keep, part.sum[row] * add);
        let (keep, add) = (L::splat(keep), L::splat(add));
        let acc = total.acc[row * head_dim..][..head_dim].chunks_exact_mut(8);
        for (acc, part_acc) in acc.zip(part.acc[row * head_dim..][..head_dim].chunks_exact(8)) {
            // SAFETY: both chunks hold 8 values.
            unsafe { L::store(acc.as_mut_ptr(), L::fma(L::load(acc.as_ptr()), keep, L::mul(L::load(part_acc.as_ptr()), add))) };
        }
    }
}

/// Divides by the sums and writes the tile's rows of `out`.
#[inline(always)]
pub fn write_rows<L: Lanes>(geometry: &Geometry<'_>, tile: &Tile, total: &Partial<'_>, out: &SharedSlice<'_, f32>) {
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
fn pack_queries(geometry: &Geometry<'_>, tile: &Tile, q: &[f32], packed: &mut [f32], micro_rows_max: usize) {
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

/// One tile with its inputs and its room to work in.
struct Pass<'a, F: Format> {
    geometry: &'a Geometry<'a>,
    tile: &'a Tile,
    table: &'a [u32],
    packed: &'a [f32],
    k: &'a [F::Unit],
    v: &'a [F::Unit],
    /// `[rows, SPLIT_TOKENS]`: scores, then weights.
    scores: &'a mut [f32],
    /// Room for widened keys and values, or empty.
    wide: &'a mut [f32],
}

impl<'a, F: Format> Pass<'a, F> {
    /// One split from a fresh state.
    #[inline(always)]
    fn split<L: Lanes>(&mut self, split: usize, state: &mut Partial<'_>) {
        let (geometry, tile) = (self.geometry, self.tile);
        let blocks = tile.blocks(geometry, split);
        let widens = !self.wide.is_empty();
        if widens {
            self.scores_of_widened::<L>(split, blocks.clone())
        } else {
            self.scores::<L>(split, blocks.clone())
        };
        for (row, scores) in self.scores.chunks_exact_mut(SPLIT_TOKENS).enumerate() {
            let seen = tile.row_sees(geometry, row, split);
            (state.max[row], state.sum[row]) = if seen.0 < seen.1 {
                L::call(SoftmaxRow { row: scores, seen, cap_factor: geometry.cap_factor })
            } else {
                (f32::NEG_INFINITY, 0.0)
            };
        }
        state.acc.fill(0.0);
        if widens {
            self.values_of_widened::<L>(split, blocks, state.acc)
        } else {
            self.values::<L>(split, blocks, state.acc)
        };
    }

    /// Scores from the pages as they lie. While a page is read, the next one is asked for; behind the last key comes the first value.
    #[inline(always)]
    fn scores<L: Lanes>(&mut self, split: usize, blocks: Range<usize>) {
        let head_dim = self.geometry.head_dim;
        for block in blocks.clone() {
            let (first_token, page) = (block * BLOCK_TOKENS - split * SPLIT_TOKENS, self.page(self.k, block));
            let mut ahead = Ahead::of(if block + 1 < blocks.end { self.page(self.k, block + 1) } else { self.page(self.v, blocks.start) });
            for rows in micro_tiles(self.tile.rows(self.geometry), L::MICRO_ROWS_MAX) {
                if !overlap(self.tile.rows_see(self.geometry, rows, split), (first_token, first_token + BLOCK_TOKENS)) {
                    continue;
                }
                let q = &self.packed[rows.0 * head_dim..][..rows.1 * head_dim];
                let out = &mut self.scores[rows.0 * SPLIT_TOKENS + first_token..];
                call_rows::<L, _>(rows.1, Scores::<F, true> { q, page, head_dim, tokens: (0, BLOCK_TOKENS), out, ahead });
                ahead.bytes = 0;
            }
        }
    }

    /// Values from the pages as they lie.
    #[inline(always)]
    fn values<L: Lanes>(&mut self, split: usize, blocks: Range<usize>, acc: &mut [f32]) {
        let head_dim = self.geometry.head_dim;
        for block in blocks.clone() {
            let (first_token, page) = (block * BLOCK_TOKENS - split * SPLIT_TOKENS, self.page(self.v, block));
            // Behind the last value comes the first key of the next split, where there is one.
            let next = if block + 1 < blocks.end { Some((self.v, block + 1)) } else { Some((self.k, block + 1)) };
            let next = next.filter(|(_, block)| *block < self.table.len());
            let mut ahead = next.map_or(Ahead::NOTHING, |(pages, block)| Ahead::of(self.page(pages, block)));
            for rows in micro_tiles(self.tile.rows(self.geometry), L::MICRO_ROWS_MAX) {
                let acc = &mut acc[rows.0 * head_dim..][..rows.1 * head_dim];
                let piece = Piece { first_token, tokens: BLOCK_TOKENS, width: head_dim };
                self.values_of_rows::<L, F, true>(split, rows, page, piece, acc, ahead);
                ahead.bytes = 0;
            }
        }
    }

    /// As [`Pass::scores`], with each page widened once for all rows, and only as much of it at a time as a register tile takes.
    #[inline(always)]
    fn scores_of_widened<L: Lanes>(&mut self, split: usize, blocks: Range<usize>) {
        let head_dim = self.geometry.head_dim;
        let width = panel_width::<L>();
        for block in blocks.clone() {
            let (first_token, page) = (block * BLOCK_TOKENS - split * SPLIT_TOKENS, self.page(self.k, block));
            // The values of this very block are wanted soon, too: unasked for, each of their lines would be waited for.
            let next = self.page(self.k, (block + 1).min(blocks.end - 1));
            let ahead = [Ahead::of(next), Ahead::of(self.page(self.v, block))];
            let wide = &mut self.wide[..BLOCK_TOKENS * head_dim];
            L::call(WidenKeys::<F> { page, head_dim, ahead, out: wide });
            for start in (0..BLOCK_TOKENS).step_by(width) {
                for rows in micro_tiles(self.tile.rows(self.geometry), L::MICRO_ROWS_MAX) {
                    let first_token = first_token + start;
                    if !overlap(self.tile.rows_see(self.geometry, rows, split), (first_token, first_token + width)) {
                        continue;
                    }
                    let q = &self.packed[rows.0 * head_dim..][..rows.1 * head_dim];
                    let out = &mut self.scores[rows.0 * SPLIT_TOKENS + first_token..];
                    let (tokens, ahead) = ((start, start + width), Ahead::NOTHING);
                    call_rows::<L, _>(rows.1, Scores::<F32, false> { q, page: wide, head_dim, tokens, out, ahead });
                }
            }
        }
    }

    /// As [`Pass::values`], with a panel of some elements of all tokens widened once for all rows.
    #[inline(always)]
    fn values_of_widened<L: Lanes>(&mut self, split: usize, blocks: Range<usize>, acc: &mut [f32]) {
        let head_dim = self.geometry.head_dim;
        let first_token = blocks.start * BLOCK_TOKENS - split * SPLIT_TOKENS;
        let mut d = 0;
        while d < head_dim {
            let width = if d + panel_width::<L>() <= head_dim { panel_width::<L>() } else { 8 };
            let wide = &mut self.wide[BLOCK_TOKENS * head_dim..][..blocks.len() * BLOCK_TOKENS * width];
            for (block, out) in blocks.clone().zip(wide.chunks_exact_mut(BLOCK_TOKENS * width)) {
                let page = page_of::<F>(self.geometry, self.tile, self.table, self.v, block);
                L::call(WidenValues::<F> { page, head_dim, d, width, out });
            }
            let wide = &self.wide[BLOCK_TOKENS * head_dim..][..blocks.len() * BLOCK_TOKENS * width];
            for rows in micro_tiles(self.tile.rows(self.geometry), L::MICRO_ROWS_MAX) {
                let acc = &mut acc[rows.0 * head_dim..][..rows.1 * head_dim][d..];
                let piece = Piece { first_token, tokens: blocks.len() * BLOCK_TOKENS, width };
                self.values_of_rows::<L, F32, false>(split, rows, wide, piece, acc, Ahead::NOTHING);
            }
            d += width;
        }
    }

    /// Values of one register tile of rows. Keys that a row does not see are never multiplied in, so what stands in their slots cannot matter.
    #[inline(always)]
    fn values_of_rows<L: Lanes, G: Format, const AHEAD: bool>(
        &self,
        split: usize,
        rows: (usize, usize),
        page: &[G::Unit],
        piece: Piece,
        acc: &mut [f32],
        ahead: Ahead,
    ) {
        let Piece { first_token, tokens, width } = piece;
        let (first, count) = rows;
        let stride = self.geometry.head_dim;
        let sees = |row: usize| {
            let (start, end) = self.tile.row_sees(self.geometry, row, split);
            (start.saturating_sub(first_token).min(tokens), end.saturating_sub(first_token).min(tokens))
        };
        let weights = |row: usize| &self.scores[row * SPLIT_TOKENS + first_token..];
        let (earliest, latest) = (sees(first), sees(first + count - 1));
        let common = (latest.0, earliest.1);
        if earliest == latest {
            let values = Values::<G, AHEAD> { weights: weights(first), page, width, tokens: common, acc, stride, ahead };
            return call_rows::<L, _>(count, values);
        }
        // Rows that see different keys: each takes its own before the common ones, and after, in ascending order.
        let common = if common.0 < common.1 { common } else { (tokens, tokens) };
        let mut alone = |row: usize, tokens: (usize, usize)| {
            let (weights, acc) = (weights(row), &mut acc[(row - first) * stride..]);
            call_rows::<L, _>(1, Values::<G, false> { weights, page, width, tokens, acc, stride, ahead: Ahead::NOTHING });
        };
        (first..first + count).for_each(|row| alone(row, (sees(row).0, sees(row).1.min(common.0))));
        let values = Values::<G, AHEAD> { weights: weights(first), page, width, tokens: common, acc: &mut *acc, stride, ahead };
        call_rows::<L, _>(count, values);
        let mut alone = |row: usize, tokens: (usize, usize)| {
            let (weights, acc) = (weights(row), &mut acc[(row - first) * stride..]);
            call_rows::<L, _>(1, Values::<G, false> { weights, page, width, tokens, acc, stride, ahead: Ahead::NOTHING });
        };
        (first..first + count).for_each(|row| alone(row, (sees(row).0.max(common.1), sees(row).1)));
    }

    fn page(&self, pages: &'a [F::Unit], block: usize) -> &'a [F::Unit] {
        page_of::<F>(self.geometry, self.tile, self.table, pages, block)
    }
}

/// The page of a sequence's block `block`.
fn page_of<'a, F: Format>(geometry: &Geometry<'_>, tile: &Tile, table: &[u32], pages: &'a [F::Unit], block: usize) -> &'a [F::Unit] {
    let len = F::page_len(geometry.head_dim);
    &pages[(table[block] as usize * geometry.kv_heads + tile.kv_head) * len..][..len]
}

/// Which part of a split's values is at hand.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// Counted from the split's first.
    first_token: usize,
    tokens: usize,
    /// Elements of each token's value.
    width: usize,
}

fn overlap(a: (usize, usize), b: (usize, usize)) -> bool {
    a.0.max(b.0) < a.1.min(b.1)
}

/// Lanes of the panels that a tall register tile takes.
const fn panel_width<L: Lanes>() -> usize {
    if 2 * L::MICRO_ROWS_MAX <= L::MICRO_WIDE_MAX { 32 } else { 16 }
}

/// A page of keys as f32 `[head_dim, 32]`.
struct WidenKeys<'a, F: Format> {
    page: &'a [F::Unit],
    head_dim: usize,
    ahead: [Ahead; 2],
    out: &'a mut [f32],
}

impl<F: Format> Kernel for WidenKeys<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { page, head_dim, ahead, out } = self;
        assert!(page.len() == F::page_len(head_dim) && out.len() == BLOCK_TOKENS * head_dim, "a page into its room");
        let steps = ahead.map(|ahead| ahead.bytes / head_dim);
        let mut run = 0;
        while run < head_dim {
            // SAFETY: `run < head_dim`; the page is whole.
            let scales: [_; 2] = std::array::from_fn(|n| unsafe { F::key_scales::<L, Sixteen>(page.as_ptr(), head_dim, run, 16 * n) });
            for d in run..head_dim.min(run.saturating_add(F::RUN)) {
                for (ahead, step) in ahead.iter().zip(steps) {
                    L::prefetch(ahead.start.wrapping_add(d * step));
                }
                for (n, &scales) in scales.iter().enumerate() {
                    // SAFETY: `d < head_dim`; the page and its room are whole.
                    unsafe {
                        let keys = F::keys::<L, Sixteen>(page.as_ptr(), d, 16 * n, scales);
                        L::wide_store(out.as_mut_ptr().add(d * BLOCK_TOKENS + 16 * n), keys);
                    }
                }
            }
            run = run.saturating_add(F::RUN);
        }
    }
}

/// Elements `d..d + width` of a page of values as f32 `[32, width]`; `width` is 8 or a multiple of 16.
struct WidenValues<'a, F: Format> {
    page: &'a [F::Unit],
    head_dim: usize,
    d: usize,
    width: usize,
    out: &'a mut [f32],
}

impl<F: Format> Kernel for WidenValues<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { page, head_dim, d, width, out } = self;
        assert!(page.len() == F::page_len(head_dim) && d + width <= head_dim, "elements of a page");
        assert!(out.len() == BLOCK_TOKENS * width && (width == 8 || width.is_multiple_of(16)), "room for whole panels");
        let (page, out) = (page.as_ptr(), out.as_mut_ptr());
        let mut scales = [0.0; BLOCK_TOKENS];
        // What the next panel reads.
        let next = if d + 2 * width <= head_dim { d + width } else { d };
        // SAFETY: the extents were checked above.
        unsafe {
            F::value_scales::<L>(page, head_dim, d, &mut scales);
            for token in 0..BLOCK_TOKENS {
                L::prefetch(page.add(token * head_dim + next).cast());
                if width == 8 {
                    L::store(out.add(token * width), F::values::<L, Eight>(page, head_dim, token, d, &scales));
                }
                for panel in (0..width / 16 * 16).step_by(16) {
                    let lanes = F::values::<L, Sixteen>(page, head_dim, token, d + panel, &scales);
                    L::wide_store(out.add(token * width + panel), lanes);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks that a tile reads, over all its splits.
    fn blocks(geometry: &Geometry<'_>, tile: &Tile) -> Vec<usize> {
        tile.splits(geometry).flat_map(|split| tile.blocks(geometry, split)).collect()
    }

    #[test]
    fn only_blocks_that_a_row_sees_are_read_and_all_of_them() {
        let spec = AttentionSpec { scale: 1.0, heads: 4, kv_heads: 2, head_dim: 16, window: None, softcap: None, sinks: None };
        for window in [None, Some(1), Some(31), Some(32), Some(33), Some(256), Some(700)] {
            let spec = AttentionSpec { window, ..spec.clone() };
            let geometry = Geometry::new(&spec);
            for first_position in [0, 1, 31, 32, 255, 256, 257, 1000] {
                for positions in [1, 5, 32, 33, 48] {
                    let tile = Tile { span: 0, kv_head: 0, first_row: 0, first_position, positions };
                    let mut seen: Vec<usize> =
                        (0..positions).flat_map(|i| geometry.sees(first_position + i)).map(|key| key / BLOCK_TOKENS).collect();
                    seen.dedup();
                    seen.sort_unstable();
                    seen.dedup();
                    assert_eq!(blocks(&geometry, &tile), seen, "{window:?} {tile:?}");
                }
            }
        }
    }

    #[test]
    fn the_work_of_a_prefill_is_little_more_than_what_its_rows_see() {
        // 512 rows at 8,192 tokens, tiles of 48 positions, two heads each: scores that are computed, counted as the loops skip.
        let spec = AttentionSpec { scale: 1.0, heads: 16, kv_heads: 8, head_dim: 128, window: None, softcap: None, sinks: None };
        for (window, more) in [(None, 1.01), (Some(1024), 1.05), (Some(128), 1.35)] {
            let spec = AttentionSpec { window, ..spec.clone() };
            let geometry = Geometry::new(&spec);
            let (mut computed, mut seen) = (0, 0);
            for first in (0..512).step_by(48) {
                let positions = 48.min(512 - first);
                let tile = Tile { span: 0, kv_head: 0, first_row: first, first_position: 8192 + first, positions };
                seen += (0..positions).map(|i| geometry.sees(8192 + first + i).len() * geometry.group).sum::<usize>();
                for split in tile.splits(&geometry) {
                    for rows in micro_tiles(tile.rows(&geometry), 6) {
                        let sees = tile.rows_see(&geometry, rows, split);
                        let panels = (0..SPLIT_TOKENS).step_by(16).filter(|start| overlap(sees, (*start, start + 16)));
                        computed += 16 * panels.count() * rows.1;
                    }
                }
            }
            let ratio = computed as f64 / seen as f64;
            assert!((1.0..more).contains(&ratio), "{window:?}: {ratio}");
        }
    }
}
