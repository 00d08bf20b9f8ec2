//! The register tiles: a few query rows against keys, and their weights against values.
//!
//! A score is one chain of fused multiply-adds over the head, an element of the result one chain over the keys of a split that
//! the row sees, both ascending. Rows share a tile without touching each other's arithmetic, so its height cannot matter.

use super::super::f32x8::{Eight, Kernel, Lanes, Sixteen, Width};
use super::super::page::Format;
use super::SPLIT_TOKENS;
use crate::BLOCK_TOKENS;

/// Work on `R` rows, compiled for 1 to 6 rows and for 12: other heights would only take longer to compile.
pub trait RowsKernel {
    fn run<L: Lanes, const R: usize>(self);
}

struct Fixed<K, const R: usize>(K);

impl<K: RowsKernel, const R: usize> Kernel for Fixed<K, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        self.0.run::<L, R>();
    }
}

/// Cuts `rows` into register tiles that [`call_rows`] knows: (first row, rows). As many of twelve as there are where twelve fit,
/// and what is left, or all, in tiles of nearly equal height.
pub fn micro_tiles(rows: usize, rows_max: usize) -> impl Iterator<Item = (usize, usize)> {
    let tall = if rows_max < 12 { 0 } else { rows / 12 };
    let (start, rest) = (12 * tall, rows - 12 * tall);
    let count = rest.div_ceil(rows_max.min(6));
    let cut = move |index: usize| start + index * rest / count;
    (0..tall).map(|index| (12 * index, 12)).chain((0..count).map(move |index| (cut(index), cut(index + 1) - cut(index))))
}

/// Runs `kernel` on `rows` rows, a height that [`micro_tiles`] gives.
#[inline(always)]
pub fn call_rows<L: Lanes, K: RowsKernel>(rows: usize, kernel: K) {
    match rows {
        1 => L::call(Fixed::<K, 1>(kernel)),
        2 if const { L::MICRO_ROWS_MAX > 1 } => L::call(Fixed::<K, 2>(kernel)),
        3 if const { L::MICRO_ROWS_MAX > 2 } => L::call(Fixed::<K, 3>(kernel)),
        4 if const { L::MICRO_ROWS_MAX > 2 } => L::call(Fixed::<K, 4>(kernel)),
        5 if const { L::MICRO_ROWS_MAX > 2 } => L::call(Fixed::<K, 5>(kernel)),
        6 if const { L::MICRO_ROWS_MAX > 2 } => L::call(Fixed::<K, 6>(kernel)),
        12 if const { L::MICRO_ROWS_MAX > 6 } => L::call(Fixed::<K, 12>(kernel)),
        _ => unreachable!("{rows} rows are no register tile"),
    }
}

/// Memory that will be wanted next: asked for while something else is computed. Empty: nothing is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Ahead {
    pub start: *const u8,
    pub bytes: usize,
}

impl Ahead {
    pub const NOTHING: Self = Self { start: std::ptr::null(), bytes: 0 };

    pub fn of<T>(page: &[T]) -> Self {
        Self { start: page.as_ptr().cast(), bytes: size_of_val(page) }
    }
}

/// `out[r][t] = sum_d q[d][r] * k[d][t]`, `d` ascending.
pub struct Scores<'a, F: Format, const AHEAD: bool> {
    /// `[head_dim, R]`
    pub q: &'a [f32],
    /// A page of keys.
    pub page: &'a [F::Unit],
    pub head_dim: usize,
    /// Tokens of the page, multiples of 16.
    pub tokens: (usize, usize),
    /// Rows of stride [`SPLIT_TOKENS`], beginning at the first token.
    pub out: &'a mut [f32],
    /// Ignored without `AHEAD`.
    pub ahead: Ahead,
}

impl<F: Format, const AHEAD: bool> RowsKernel for Scores<'_, F, AHEAD> {
    #[inline(always)]
    fn run<L: Lanes, const R: usize>(self) {
        let Self { q, page, head_dim, tokens: (start, end), out, ahead } = self;
        assert!(q.len() == R * head_dim && page.len() == F::page_len(head_dim), "whole queries and pages");
        assert!(end <= BLOCK_TOKENS && (end - start).is_multiple_of(16) && start.is_multiple_of(8), "whole panels");
        assert!(out.len() >= (R - 1) * SPLIT_TOKENS + end - start, "a place for each score");
        let step = ahead.bytes / (head_dim * (end - start) / if 2 * R <= L::MICRO_WIDE_MAX { 32 } else { 16 }).max(1);
        let (mut token, mut ahead) = (start, ahead.start);
        // SAFETY: the extents were checked above.
        unsafe {
            let mut at = out.as_mut_ptr();
            while 2 * R <= L::MICRO_WIDE_MAX && token + 32 <= end {
                scores::<L, F, R, 2, AHEAD>(q.as_ptr(), page.as_ptr(), head_dim, token, (ahead, step), at);
                (token, at, ahead) = (token + 32, at.add(32), ahead.wrapping_add(head_dim * step));
            }
            while token < end {
                scores::<L, F, R, 1, AHEAD>(q.as_ptr(), page.as_ptr(), head_dim, token, (ahead, step), at);
                (token, at, ahead) = (token + 16, at.add(16), ahead.wrapping_add(head_dim * step));
            }
        }
    }
}

/// [`Scores`] of `16 * N` tokens.
///
/// # Safety
/// `q` holds `head_dim * R` values; `page` is a whole page, `token + 16 * N <= 32`; `out` has `R` rows of stride
/// [`SPLIT_TOKENS`] with `16 * N` values each.
#[inline(always)]
unsafe fn scores<L: Lanes, F: Format, const R: usize, const N: usize, const AHEAD: bool>(
    q: *const f32,
    page: *const F::Unit,
    head_dim: usize,
    token: usize,
    (ahead, step): (*const u8, usize),
    out: *mut f32,
) {
    let mut sums = [[L::wide_splat(0.0); N]; R];
    let mut run = 0;
    while run < head_dim {
        // SAFETY: `run < head_dim`, and the contract.
        let scales: [_; N] = std::array::from_fn(|n| unsafe { F::key_scales::<L, Sixteen>(page, head_dim, run, token + 16 * n) });
        for d in run..head_dim.min(run.saturating_add(F::RUN)) {
            if AHEAD {
                L::prefetch(ahead.wrapping_add(d * step));
            }
            // SAFETY: `d < head_dim`, within the contract's extents.
            unsafe {
                let keys: [_; N] = std::array::from_fn(|n| F::keys::<L, Sixteen>(page, d, token + 16 * n, scales[n]));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = L::wide_splat(*q.add(d * R + r));
                    for (sum, &keys) in sums.iter_mut().zip(&keys) {
                        *sum = L::wide_fma(x, keys, *sum);
                    }
                }
            }
        }
        run = run.saturating_add(F::RUN);
    }
    for (r, sums) in sums.iter().enumerate() {
        for (n, &sum) in sums.iter().enumerate() {
            // SAFETY: as above.
            unsafe { L::wide_store(out.add(r * SPLIT_TOKENS + 16 * n), sum) };
        }
    }
}

/// `acc[r] += sum_t weights[r][t] * v[t]`, tokens ascending, fused.
pub struct Values<'a, F: Format, const AHEAD: bool> {
    /// Rows of stride [`SPLIT_TOKENS`], beginning at the page's first token.
    pub weights: &'a [f32],
    /// A page of values of `width` elements each; of a format without scales it may hold more than 32 tokens.
    pub page: &'a [F::Unit],
    pub width: usize,
    /// Tokens of the page.
    pub tokens: (usize, usize),
    /// `R` rows of stride `stride`, of `width` elements each.
    pub acc: &'a mut [f32],
    pub stride: usize,
    /// Ignored without `AHEAD`.
    pub ahead: Ahead,
}

impl<F: Format, const AHEAD: bool> RowsKernel for Values<'_, F, AHEAD> {
    #[inline(always)]
    fn run<L: Lanes, const R: usize>(self) {
        let Self { weights, page, width, tokens, acc, stride, ahead } = self;
        if tokens.0 >= tokens.1 {
            return;
        }
        let page_tokens = if F::RUN == usize::MAX { page.len() / width } else { BLOCK_TOKENS };
        assert!(width.is_multiple_of(8) && page.len() >= F::page_len(width) / BLOCK_TOKENS * page_tokens, "whole rows of values");
        assert!(tokens.1 <= page_tokens && weights.len() >= (R - 1) * SPLIT_TOKENS + tokens.1, "a weight for each token");
        assert!(width <= stride && acc.len() >= (R - 1) * stride + width, "a place for each element");
        let step = ahead.bytes / ((tokens.1 - tokens.0) * width.div_ceil(if 2 * R <= L::MICRO_WIDE_MAX { 32 } else { 16 }));
        let panel = Panel { weights: weights.as_ptr(), page: page.as_ptr(), width, tokens, stride, step };
        let (mut d, mut ahead) = (0, ahead.start);
        // SAFETY: `d + panel <= width` before each panel; the extents were checked above.
        unsafe {
            let acc = acc.as_mut_ptr();
            while 2 * R <= L::MICRO_WIDE_MAX && d + 32 <= width {
                values::<L, F, Sixteen, R, 2, AHEAD>(panel, d, acc.add(d), ahead);
                (d, ahead) = (d + 32, ahead.wrapping_add((tokens.1 - tokens.0) * step));
            }
            while d + 16 <= width {
                values::<L, F, Sixteen, R, 1, AHEAD>(panel, d, acc.add(d), ahead);
                (d, ahead) = (d + 16, ahead.wrapping_add((tokens.1 - tokens.0) * step));
            }
            while d + 8 <= width {
                values::<L, F, Eight, R, 1, AHEAD>(panel, d, acc.add(d), ahead);
                d += 8;
            }
        }
    }
}

/// What the panels of [`Values`] have in common.
struct Panel<U> {
    weights: *const f32,
    page: *const U,
    width: usize,
    tokens: (usize, usize),
    stride: usize,
    /// Bytes to ask for ahead with each token.
    step: usize,
}

impl<U> Clone for Panel<U> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<U> Copy for Panel<U> {}

/// [`Values`] for `N` panels of elements from `d`, which lie in one run.
///
/// # Safety
/// `weights` holds `R` rows of stride [`SPLIT_TOKENS`] with all tokens; `page` all tokens with `width` elements each, of which the
/// panels are some; `acc` `R` rows of stride `stride` with the panels' elements.
#[inline(always)]
unsafe fn values<L: Lanes, F: Format, W: Width<L>, const R: usize, const N: usize, const AHEAD: bool>(
    panel: Panel<F::Unit>,
    d: usize,
    acc: *mut f32,
    ahead: *const u8,
) {
    let Panel { weights, page, width, tokens, stride, step } = panel;
    let mut sums = [[W::splat(0.0); N]; R];
    let mut scales = [0.0; BLOCK_TOKENS];
    // SAFETY: rows below `R`, tokens of the range, elements of the panels: within the contract's extents.
    unsafe {
        F::value_scales::<L>(page, width, d, &mut scales);
        for (r, sums) in sums.iter_mut().enumerate() {
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = W::load(acc.add(r * stride + n * W::LANES));
            }
        }
        for t in tokens.0..tokens.1 {
            if AHEAD {
                L::prefetch(ahead.wrapping_add((t - tokens.0) * step));
            }
            let lanes: [_; N] = std::array::from_fn(|n| F::values::<L, W>(page, width, t, d + n * W::LANES, &scales));
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = W::splat(*weights.add(r * SPLIT_TOKENS + t));
                for (sum, &lanes) in sums.iter_mut().zip(&lanes) {
                    *sum = W::fma(weight, lanes, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (n, &sum) in sums.iter().enumerate() {
                W::store(acc.add(r * stride + n * W::LANES), sum);
            }
        }
    }
}
