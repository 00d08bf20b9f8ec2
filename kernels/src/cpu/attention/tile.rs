//! The arithmetic of attention: one tile of query rows against the pages of one key/value head.
//!
//! Per row and block of 32 keys: scores (one chain of fused multiply-adds over the head for each key), the block's maximum, weights
//! `2^(score - maximum)`, their sum in [`Lanes::sum32`]'s order, then the values, key by key in ascending order. Keys that
//! a row does not see are never multiplied in, so what stands in their slots cannot matter. Rows that share a register tile
//! do so without touching each other's arithmetic.

use std::ops::Range;

use super::super::activation::{exp2, tanh};
use super::super::disjoint::Disjoint;
use super::super::lanes::{Element, Kernel, Lanes};
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
    window: Option<usize>,
    /// Goes into the queries: scores come out in units of `log2`, or, with a cap, as the argument of its tanh.
    query_factor: f32,
    /// `cap * log2(e)`, where scores are capped.
    cap_factor: Option<f32>,
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
    max: &'a mut [f32],
    sum: &'a mut [f32],
    acc: &'a mut [f32],
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
    fn sees(&self, position: usize) -> Range<usize> {
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
    pub out: &'a Disjoint<'a, f32>,
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
        let (keep, add) = (exp2_of::<L>(old - max), exp2_of::<L>(new - max));
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
pub fn write_rows<L: Lanes>(geometry: &Geometry, tile: &Tile, total: &Partial<'_>, out: &Disjoint<'_, f32>) {
    let &Geometry { heads, group, head_dim, .. } = geometry;
    for row in 0..tile.rows(geometry) {
        let head = tile.kv_head * group + row % group;
        // SAFETY: no other task has this position and key/value head.
        let to = unsafe { out.part(((tile.first_row + row / group) * heads + head) * head_dim, head_dim) };
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
struct Pass<'a, E> {
    geometry: &'a Geometry,
    tile: &'a Tile,
    table: &'a [u32],
    packed: &'a [f32],
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
        for block in first..end {
            let page = (self.table[block] as usize * kv_heads + self.tile.kv_head) * page_len;
            let (k, v) = (&self.k[page..page + page_len], &self.v[page..page + page_len]);
            for (first, count) in micro_tiles(self.tile.rows(self.geometry), L::MICRO_ROWS_MAX) {
                let block = Block { pass: self, start: block * BLOCK_TOKENS, k, v, first };
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

/// A block of 32 keys and the first of the rows that meet it.
struct Block<'a, E> {
    pass: &'a Pass<'a, E>,
    /// Position of the block's first key.
    start: usize,
    k: &'a [E],
    v: &'a [E],
    first: usize,
}

/// `R` rows against one block.
struct Micro<'a, 's, E, const R: usize> {
    block: Block<'a, E>,
    state: &'a mut Partial<'s>,
}

impl<E: Element, const R: usize> Kernel for Micro<'_, '_, E, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Block { pass, start, k, v, first } = self.block;
        let (geometry, state) = (pass.geometry, self.state);
        let &Geometry { group, head_dim, cap_factor, .. } = geometry;
        // Which of the block's keys each row sees.
        let mut seen: [(usize, usize); R] = [(0, 0); R];
        for (i, seen) in seen.iter_mut().enumerate() {
            let sees = geometry.sees(pass.tile.first_position + (first + i) / group);
            *seen = (sees.start.saturating_sub(start).min(BLOCK_TOKENS), sees.end.saturating_sub(start).min(BLOCK_TOKENS));
        }
        if seen.iter().all(|seen| seen.0 >= seen.1) {
            return;
        }
        let packed = &pass.packed[first * head_dim..(first + R) * head_dim];
        assert!(k.len() == BLOCK_TOKENS * head_dim && v.len() == k.len() && head_dim.is_multiple_of(8), "whole pages");
        let mut weights = [[0.0f32; BLOCK_TOKENS]; R];
        // SAFETY: `packed` holds `R * head_dim` values, `k` a page, `weights` `R` rows of 32.
        unsafe {
            let out = weights.as_mut_ptr().cast::<f32>();
            if R <= 3 {
                scores::<L, E, R, 4>(packed.as_ptr(), k.as_ptr(), head_dim, out);
            } else {
                scores::<L, E, R, 2>(packed.as_ptr(), k.as_ptr(), head_dim, out);
                scores::<L, E, R, 2>(packed.as_ptr(), k.as_ptr().add(16), head_dim, out.add(16));
            }
        }
        let mut keep = [1.0f32; R];
        for i in 0..R {
            if seen[i].0 < seen[i].1 {
                let (max, sum) = (&mut state.max[first + i], &mut state.sum[first + i]);
                keep[i] = L::call(SoftmaxBlock { row: &mut weights[i], seen: seen[i], cap_factor, max, sum });
            }
        }
        let acc = &mut state.acc[first * head_dim..(first + R) * head_dim];
        if seen.iter().all(|&s| s == seen[0]) {
            return L::call(Values { weights: &weights, keep, v, keys: seen[0], acc });
        }
        // Rows that see different keys: each takes its own keys before the common ones, and after, in ascending order.
        let common = (seen.iter().fold(0, |a, s| a.max(s.0)), seen.iter().fold(BLOCK_TOKENS, |a, s| a.min(s.1)));
        let common = if common.0 < common.1 { common } else { (BLOCK_TOKENS, BLOCK_TOKENS) };
        for (i, acc) in acc.chunks_exact_mut(head_dim).enumerate() {
            let before = (seen[i].0, seen[i].1.min(common.0));
            L::call(Values { weights: &[weights[i]], keep: [keep[i]], v, keys: before, acc });
        }
        L::call(Values { weights: &weights, keep: [1.0; R], v, keys: common, acc: &mut *acc });
        for (i, acc) in acc.chunks_exact_mut(head_dim).enumerate() {
            let after = (seen[i].0.max(common.1), seen[i].1);
            L::call(Values { weights: &[weights[i]], keep: [1.0], v, keys: after, acc });
        }
    }
}

/// `out[r][j] = sum_d q[d][r] * k[d][j]` for `8 * N` keys, `d` ascending.
///
/// # Safety
/// `q` holds `head_dim * R` values; `k` has `head_dim` rows of stride 32 with `8 * N` values each; `out` `R` rows of stride 32.
#[inline(always)]
unsafe fn scores<L: Lanes, E: Element, const R: usize, const N: usize>(q: *const f32, k: *const E, head_dim: usize, out: *mut f32) {
    let mut sums = [[L::splat(0.0); N]; R];
    for d in 0..head_dim {
        // SAFETY: `d < head_dim`, within the contract's extents.
        unsafe {
            let mut keys = [L::splat(0.0); N];
            for (n, keys) in keys.iter_mut().enumerate() {
                *keys = E::load::<L>(k.add(d * BLOCK_TOKENS + 8 * n));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = L::splat(*q.add(d * R + r));
                for (sum, &keys) in sums.iter_mut().zip(&keys) {
                    *sum = L::fma(x, keys, *sum);
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (n, &sum) in sums.iter().enumerate() {
            // SAFETY: as above.
            unsafe { L::store(out.add(r * BLOCK_TOKENS + 8 * n), sum) };
        }
    }
}

/// Turns a row's 32 scores into weights, updates its maximum and sum, and returns the factor for what was accumulated before.
struct SoftmaxBlock<'a> {
    row: &'a mut [f32; BLOCK_TOKENS],
    /// Keys the row sees; the others get weight 0.
    seen: (usize, usize),
    cap_factor: Option<f32>,
    max: &'a mut f32,
    sum: &'a mut f32,
}

impl Kernel for SoftmaxBlock<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self) -> f32 {
        const INDEX: [f32; 8] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        let Self { row, seen, cap_factor, max, sum } = self;
        let hidden = L::splat(f32::NEG_INFINITY);
        let mut scores = [hidden; 4];
        for (n, scores) in scores.iter_mut().enumerate() {
            // SAFETY: `row` holds 32 values, `INDEX` 8.
            unsafe {
                *scores = L::load(row.as_ptr().add(8 * n));
                if let Some(factor) = cap_factor {
                    *scores = L::mul(tanh::<L>(*scores), L::splat(factor));
                }
                if seen != (0, BLOCK_TOKENS) {
                    let index = L::add(L::load(INDEX.as_ptr()), L::splat((8 * n) as f32));
                    let from_start = L::select_less(index, L::splat(seen.0 as f32), hidden, *scores);
                    *scores = L::select_less(index, L::splat(seen.1 as f32), from_start, hidden);
                }
            }
        }
        let block_max = L::max_lane(L::max(L::max(scores[0], scores[1]), L::max(scores[2], scores[3])));
        let old = *max;
        let new = if old > block_max { old } else { block_max };
        // `exp2(0)` is exactly 1, so the short cut changes nothing.
        let keep = if new == old { 1.0 } else { exp2_of::<L>(old - new) };
        let shift = L::splat(new);
        for scores in &mut scores {
            *scores = exp2::<L>(L::sub(*scores, shift));
        }
        for (n, &weights) in scores.iter().enumerate() {
            // SAFETY: `row` holds 32 values.
            unsafe { L::store(row.as_mut_ptr().add(8 * n), weights) };
        }
        *max = new;
        *sum = sum.mul_add(keep, L::sum32(scores));
        keep
    }
}

/// `acc[r] = acc[r] * keep[r] + sum_j weights[r][j] * v[j]`, keys `j` of the range ascending, fused.
struct Values<'a, E, const R: usize> {
    weights: &'a [[f32; BLOCK_TOKENS]; R],
    keep: [f32; R],
    /// `[32, head_dim]`
    v: &'a [E],
    /// May be empty: then only `keep` is applied.
    keys: (usize, usize),
    /// `[R, head_dim]`
    acc: &'a mut [f32],
}

impl<E: Element, const R: usize> Kernel for Values<'_, E, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { weights, keep, v, keys, acc } = self;
        let head_dim = acc.len() / R;
        assert!(v.len() == BLOCK_TOKENS * head_dim && acc.len() == R * head_dim && keys.1 <= BLOCK_TOKENS, "rows fit the page");
        let (weights, v, acc) = (weights.as_ptr().cast::<f32>(), v.as_ptr(), acc.as_mut_ptr());
        let mut d = 0;
        // SAFETY: `d + panel <= head_dim` before each panel; the extents were checked above.
        unsafe {
            if R <= 3 && L::MICRO_ROWS_MAX > 1 {
                while d + 32 <= head_dim {
                    values_panel::<L, E, R, 4>(weights, keep, v.add(d), head_dim, keys, acc.add(d));
                    d += 32;
                }
            }
            while d + 16 <= head_dim {
                values_panel::<L, E, R, 2>(weights, keep, v.add(d), head_dim, keys, acc.add(d));
                d += 16;
            }
            while d + 8 <= head_dim {
                values_panel::<L, E, R, 1>(weights, keep, v.add(d), head_dim, keys, acc.add(d));
                d += 8;
            }
        }
    }
}

/// [`Values`] for `8 * N` elements of the head.
///
/// # Safety
/// `weights` holds `R` rows of 32; `v` 32 and `acc` `R` rows of stride `head_dim` with `8 * N` values each; `keys` lies in 0..32.
#[inline(always)]
unsafe fn values_panel<L: Lanes, E: Element, const R: usize, const N: usize>(
    weights: *const f32,
    keep: [f32; R],
    v: *const E,
    head_dim: usize,
    keys: (usize, usize),
    acc: *mut f32,
) {
    let mut sums = [[L::splat(0.0); N]; R];
    // SAFETY: rows below `R`, keys below 32, lanes below `8 * N`: within the contract's extents.
    unsafe {
        for r in 0..R {
            let keep = L::splat(keep[r]);
            for n in 0..N {
                sums[r][n] = L::mul(L::load(acc.add(r * head_dim + 8 * n)), keep);
            }
        }
        for j in keys.0..keys.1 {
            let mut lanes = [L::splat(0.0); N];
            for (n, lanes) in lanes.iter_mut().enumerate() {
                *lanes = E::load::<L>(v.add(j * head_dim + 8 * n));
            }
            for r in 0..R {
                let weight = L::splat(*weights.add(r * BLOCK_TOKENS + j));
                for n in 0..N {
                    sums[r][n] = L::fma(weight, lanes[n], sums[r][n]);
                }
            }
        }
        for r in 0..R {
            for n in 0..N {
                L::store(acc.add(r * head_dim + 8 * n), sums[r][n]);
            }
        }
    }
}

#[inline(always)]
fn exp2_of<L: Lanes>(x: f32) -> f32 {
    let mut lanes = [0.0f32; 8];
    // SAFETY: the array holds 8 values.
    unsafe { L::store(lanes.as_mut_ptr(), exp2::<L>(L::splat(x))) };
    lanes[0]
}
