//! A few query rows against one block of 32 keys: scores, weights, values.
//!
//! Per row: scores (one chain of fused multiply-adds over the head for each key), the block's maximum, weights
//! `2^(score - maximum)`, their sum in [`Lanes::sum32`]'s order, then the values, key by key in ascending order. Keys that
//! a row does not see are never multiplied in, so what stands in their slots cannot matter. Rows that share a register tile
//! do so without touching each other's arithmetic.

use super::super::exp::{exp2, exp2_one, tanh};
use super::super::f32x8::{Element, Kernel, Lanes};
use super::tile::{Geometry, Partial, Pass};
use crate::BLOCK_TOKENS;

/// A block of 32 keys and the first of the rows that meet it.
pub struct Block<'a, E> {
    pub pass: &'a Pass<'a, E>,
    /// Position of the block's first key.
    pub start: usize,
    /// `[head_dim, 32]`
    pub k: &'a [E],
    /// `[32, head_dim]`
    pub v: &'a [E],
    pub first: usize,
    /// Pages of keys and values that will be wanted next: asked for while this block is computed.
    pub ahead: [*const E; 2],
}

/// `R` rows against one block.
pub struct Micro<'a, 's, E, const R: usize> {
    pub block: Block<'a, E>,
    pub state: &'a mut Partial<'s>,
}

impl<E: Element, const R: usize> Kernel for Micro<'_, '_, E, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Block { pass, start, k, v, first, ahead } = self.block;
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
                scores::<L, E, R, 4, 2>(packed.as_ptr(), k.as_ptr(), head_dim, ahead, out);
            } else {
                scores::<L, E, R, 2, 1>(packed.as_ptr(), k.as_ptr(), head_dim, [ahead[0]], out);
                scores::<L, E, R, 2, 1>(packed.as_ptr(), k.as_ptr().add(16), head_dim, [ahead[1]], out.add(16));
            }
        }
        let mut keep = [1.0f32; R];
        for (i, ((row, keep), &seen)) in weights.iter_mut().zip(&mut keep).zip(&seen).enumerate() {
            if seen.0 < seen.1 {
                let (max, sum) = (&mut state.max[first + i], &mut state.sum[first + i]);
                *keep = L::call(SoftmaxBlock { row, seen, cap_factor, max, sum });
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

/// `out[r][j] = sum_d q[d][r] * k[d][j]` for `8 * N` keys, `d` ascending. Asks for the pages `ahead` on the way.
///
/// # Safety
/// `q` holds `head_dim * R` values; `k` has `head_dim` rows of stride 32 with `8 * N` values each; `out` `R` rows of stride 32.
#[inline(always)]
unsafe fn scores<L: Lanes, E: Element, const R: usize, const N: usize, const P: usize>(
    q: *const f32,
    k: *const E,
    head_dim: usize,
    ahead: [*const E; P],
    out: *mut f32,
) {
    let mut sums = [[L::splat(0.0); N]; R];
    for d in 0..head_dim {
        for page in ahead {
            // 64 bytes a step cover a page of f16, and half of one of f32: its other half comes by the hardware's own prefetch.
            L::prefetch(page.cast::<u8>().wrapping_add(d * BLOCK_TOKENS * size_of::<E>()));
        }
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
        let keep = if new == old { 1.0 } else { exp2_one::<L>(old - new) };
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
        for (r, (sums, keep)) in sums.iter_mut().zip(keep).enumerate() {
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = L::mul(L::load(acc.add(r * head_dim + 8 * n)), L::splat(keep));
            }
        }
        for j in keys.0..keys.1 {
            let mut lanes = [L::splat(0.0); N];
            for (n, lanes) in lanes.iter_mut().enumerate() {
                *lanes = E::load::<L>(v.add(j * head_dim + 8 * n));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = L::splat(*weights.add(r * BLOCK_TOKENS + j));
                for (sum, &lanes) in sums.iter_mut().zip(&lanes) {
                    *sum = L::fma(weight, lanes, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (n, &sum) in sums.iter().enumerate() {
                L::store(acc.add(r * head_dim + 8 * n), sum);
            }
        }
    }
}
