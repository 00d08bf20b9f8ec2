//! How a page of the CPU's cache lies: 32 tokens of one key/value head, in each type of cache.
//!
//! Keys lie transposed, so that the scores of a page are 32 lanes with one order of accumulation on every instruction set;
//! values lie token by token. A number is rounded once, when it is written; what is read is exact in f32 in every type, so
//! how many rows share a read, and whether a page is widened first, cannot matter. Knows no op.

use half::f16;

use super::f32x8::{Lanes, Width};
use crate::BLOCK_TOKENS;

/// A type of cache. The pages of one layer are `[blocks, kv_heads, page]`.
pub trait Format: Copy + 'static {
    type Unit: Copy + Send + Sync;
    /// Neighbouring elements of a head that share [`Format::KeyScales`] and [`Format::value_scales`].
    const RUN: usize;
    /// The scales of some tokens' keys, ready for use.
    type KeyScales<L: Lanes, W: Width<L>>: Copy;

    /// Units of one page; `head_dim` is a multiple of 8, and of [`Format::HEAD_DIM_MULTIPLE`].
    fn page_len(head_dim: usize) -> usize;
    const HEAD_DIM_MULTIPLE: usize = 8;

    /// Rounds a token's key `[head_dim]` into its place.
    fn write_key<L: Lanes>(page: &mut [Self::Unit], token: usize, key: &[f32]);
    /// Rounds a token's value `[head_dim]` into its place.
    fn write_value<L: Lanes>(page: &mut [Self::Unit], token: usize, value: &[f32]);

    /// Scales of tokens `token..` in the run that begins at element `d`.
    ///
    /// # Safety
    /// `page` is a whole page, `d < head_dim`, `token + W::LANES <= 32`; so in the other reads.
    unsafe fn key_scales<L: Lanes, W: Width<L>>(page: *const Self::Unit, head_dim: usize, d: usize, token: usize) -> Self::KeyScales<L, W>;
    /// Element `d` of the keys of tokens `token..`.
    ///
    /// # Safety
    /// As [`Format::key_scales`].
    unsafe fn keys<L: Lanes, W: Width<L>>(page: *const Self::Unit, d: usize, token: usize, scales: Self::KeyScales<L, W>) -> W::V;
    /// Scales of all 32 tokens' values in the run that begins at element `d`; types without scales leave `scales` alone.
    ///
    /// # Safety
    /// As [`Format::key_scales`].
    unsafe fn value_scales<L: Lanes>(page: *const Self::Unit, head_dim: usize, d: usize, scales: &mut [f32; BLOCK_TOKENS]);
    /// Elements `d..` of a token's value.
    ///
    /// # Safety
    /// `page` is a whole page, `token < 32`, `d + W::LANES <= head_dim`, `scales` from [`Format::value_scales`] of this run.
    unsafe fn values<L: Lanes, W: Width<L>>(
        page: *const Self::Unit,
        head_dim: usize,
        token: usize,
        d: usize,
        scales: &[f32; BLOCK_TOKENS],
    ) -> W::V;
}

/// Keys `[head_dim, 32]`, values `[32, head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct F32;

/// As [`F32`], rounded to nearest, ties to even.
#[derive(Debug, Clone, Copy)]
pub struct F16;

/// Blocks of 32 elements of one token, `scale * q` with a half-precision scale and a signed byte, as in ggml's Q8_0. A page is
/// the bytes, `[head_dim, 32]` (keys) or `[32, head_dim]` (values), and behind them the scales `[head_dim / 32, 32 tokens]`:
/// 34 bytes for 32 numbers.
///
/// `scale * q` has at most 18 significant bits, so it is exact in f32.
#[derive(Debug, Clone, Copy)]
pub struct Q8_0;

/// Elements of one scale.
pub const Q8_0_BLOCK: usize = 32;

impl Format for F32 {
    type Unit = f32;
    const RUN: usize = usize::MAX;
    type KeyScales<L: Lanes, W: Width<L>> = ();

    fn page_len(head_dim: usize) -> usize {
        BLOCK_TOKENS * head_dim
    }

    #[inline(always)]
    fn write_key<L: Lanes>(page: &mut [f32], token: usize, key: &[f32]) {
        page[token..].iter_mut().step_by(BLOCK_TOKENS).zip(key).for_each(|(to, x)| *to = *x);
    }

    #[inline(always)]
    fn write_value<L: Lanes>(page: &mut [f32], token: usize, value: &[f32]) {
        page[token * value.len()..][..value.len()].copy_from_slice(value);
    }

    #[inline(always)]
    unsafe fn key_scales<L: Lanes, W: Width<L>>(_page: *const f32, _head_dim: usize, _d: usize, _token: usize) {}

    #[inline(always)]
    unsafe fn keys<L: Lanes, W: Width<L>>(page: *const f32, d: usize, token: usize, (): ()) -> W::V {
        // SAFETY: inside the page by the contract.
        unsafe { W::load(page.add(d * BLOCK_TOKENS + token)) }
    }

    #[inline(always)]
    unsafe fn value_scales<L: Lanes>(_page: *const f32, _head_dim: usize, _d: usize, _scales: &mut [f32; BLOCK_TOKENS]) {}

    #[inline(always)]
    unsafe fn values<L: Lanes, W: Width<L>>(
        page: *const f32,
        head_dim: usize,
        token: usize,
        d: usize,
        _scales: &[f32; BLOCK_TOKENS],
    ) -> W::V {
        // SAFETY: inside the page by the contract.
        unsafe { W::load(page.add(token * head_dim + d)) }
    }
}

impl Format for F16 {
    type Unit = f16;
    const RUN: usize = usize::MAX;
    type KeyScales<L: Lanes, W: Width<L>> = ();

    fn page_len(head_dim: usize) -> usize {
        BLOCK_TOKENS * head_dim
    }

    #[inline(always)]
    fn write_key<L: Lanes>(page: &mut [f16], token: usize, key: &[f32]) {
        for (from, to) in key.chunks_exact(8).zip(page.chunks_exact_mut(8 * BLOCK_TOKENS)) {
            let mut rounded = [f16::ZERO; 8];
            // SAFETY: `from` and `rounded` hold 8 values.
            unsafe { L::store_f16(rounded.as_mut_ptr(), L::load(from.as_ptr())) };
            for (i, value) in rounded.into_iter().enumerate() {
                to[i * BLOCK_TOKENS + token] = value;
            }
        }
    }

    #[inline(always)]
    fn write_value<L: Lanes>(page: &mut [f16], token: usize, value: &[f32]) {
        for (from, to) in value.chunks_exact(8).zip(page[token * value.len()..].chunks_exact_mut(8)) {
            // SAFETY: both chunks hold 8 values.
            unsafe { L::store_f16(to.as_mut_ptr(), L::load(from.as_ptr())) };
        }
    }

    #[inline(always)]
    unsafe fn key_scales<L: Lanes, W: Width<L>>(_page: *const f16, _head_dim: usize, _d: usize, _token: usize) {}

    #[inline(always)]
    unsafe fn keys<L: Lanes, W: Width<L>>(page: *const f16, d: usize, token: usize, (): ()) -> W::V {
        // SAFETY: inside the page by the contract.
        unsafe { W::load_f16(page.add(d * BLOCK_TOKENS + token)) }
    }

    #[inline(always)]
    unsafe fn value_scales<L: Lanes>(_page: *const f16, _head_dim: usize, _d: usize, _scales: &mut [f32; BLOCK_TOKENS]) {}

    #[inline(always)]
    unsafe fn values<L: Lanes, W: Width<L>>(
        page: *const f16,
        head_dim: usize,
        token: usize,
        d: usize,
        _scales: &[f32; BLOCK_TOKENS],
    ) -> W::V {
        // SAFETY: inside the page by the contract.
        unsafe { W::load_f16(page.add(token * head_dim + d)) }
    }
}

impl Format for Q8_0 {
    type Unit = u8;
    const RUN: usize = Q8_0_BLOCK;
    const HEAD_DIM_MULTIPLE: usize = Q8_0_BLOCK;
    type KeyScales<L: Lanes, W: Width<L>> = W::V;

    fn page_len(head_dim: usize) -> usize {
        BLOCK_TOKENS * (head_dim + 2 * (head_dim / Q8_0_BLOCK))
    }

    #[inline(always)]
    fn write_key<L: Lanes>(page: &mut [u8], token: usize, key: &[f32]) {
        let (bytes, scales) = page.split_at_mut(BLOCK_TOKENS * key.len());
        for (block, key) in key.chunks_exact(Q8_0_BLOCK).enumerate() {
            let (scale, q) = round_block(key);
            scales[2 * (block * BLOCK_TOKENS + token)..][..2].copy_from_slice(&scale.to_le_bytes());
            let to = bytes[block * Q8_0_BLOCK * BLOCK_TOKENS + token..].iter_mut().step_by(BLOCK_TOKENS);
            to.zip(q).for_each(|(to, q)| *to = q as u8);
        }
    }

    #[inline(always)]
    fn write_value<L: Lanes>(page: &mut [u8], token: usize, value: &[f32]) {
        let (bytes, scales) = page.split_at_mut(BLOCK_TOKENS * value.len());
        let bytes = bytes[token * value.len()..].chunks_exact_mut(Q8_0_BLOCK);
        for (block, (value, bytes)) in value.chunks_exact(Q8_0_BLOCK).zip(bytes).enumerate() {
            let (scale, q) = round_block(value);
            scales[2 * (block * BLOCK_TOKENS + token)..][..2].copy_from_slice(&scale.to_le_bytes());
            bytes.iter_mut().zip(q).for_each(|(to, q)| *to = q as u8);
        }
    }

    #[inline(always)]
    unsafe fn key_scales<L: Lanes, W: Width<L>>(page: *const u8, head_dim: usize, d: usize, token: usize) -> W::V {
        // SAFETY: inside the page by the contract; the load needs no alignment.
        unsafe { W::load_f16(scales_at(page, head_dim, d).add(token)) }
    }

    #[inline(always)]
    unsafe fn keys<L: Lanes, W: Width<L>>(page: *const u8, d: usize, token: usize, scales: W::V) -> W::V {
        // SAFETY: inside the page by the contract.
        unsafe { W::mul(W::load_i8(page.add(d * BLOCK_TOKENS + token).cast()), scales) }
    }

    #[inline(always)]
    unsafe fn value_scales<L: Lanes>(page: *const u8, head_dim: usize, d: usize, scales: &mut [f32; BLOCK_TOKENS]) {
        for (i, scales) in scales.chunks_exact_mut(8).enumerate() {
            // SAFETY: inside the page by the contract; the chunk holds 8 values.
            unsafe { L::store(scales.as_mut_ptr(), L::load_f16(scales_at(page, head_dim, d).add(8 * i))) };
        }
    }

    #[inline(always)]
    unsafe fn values<L: Lanes, W: Width<L>>(
        page: *const u8,
        head_dim: usize,
        token: usize,
        d: usize,
        scales: &[f32; BLOCK_TOKENS],
    ) -> W::V {
        // SAFETY: inside the page by the contract.
        unsafe { W::mul(W::load_i8(page.add(token * head_dim + d).cast()), W::splat(*scales.as_ptr().add(token))) }
    }
}

/// The 32 tokens' scales of the block that holds element `d`. Little-endian, as every machine here is; may be unaligned.
///
/// # Safety
/// `page` is a whole page, `d < head_dim`.
#[inline(always)]
unsafe fn scales_at(page: *const u8, head_dim: usize, d: usize) -> *const f16 {
    const { assert!(cfg!(target_endian = "little"), "scales are read as they lie") };
    // SAFETY: the scales begin behind `32 * head_dim` bytes.
    unsafe { page.add(BLOCK_TOKENS * head_dim + 2 * (d / Q8_0_BLOCK) * BLOCK_TOKENS).cast() }
}

/// 32 numbers as a scale and signed bytes: `|x - scale * q| <= scale / 2`, where the scale is `max|x| / 127` rounded up to half
/// precision, so at most `2^-10` of itself or `2^-24` larger. `q` is the nearest whole number, halves to even.
///
/// A block with an infinity, a NaN, or beyond `127 * 65504` gets the scale NaN: what depends on it is NaN, and not a plausible number.
#[inline(always)]
fn round_block(x: &[f32]) -> (f16, [i8; Q8_0_BLOCK]) {
    // Magnitudes order like their bits, NaN above infinity: one integer maximum finds the largest and any non-finite value.
    let largest = x.iter().fold(0i32, |largest, x| largest.max((x.to_bits() & 0x7fff_ffff) as i32));
    let exact = f32::from_bits(largest as u32) / 127.0;
    let nearest = f16::from_f32(exact);
    // The next larger one: positive halves order like their bits.
    let scale = if nearest.to_f32() < exact { f16::from_bits(nearest.to_bits() + 1) } else { nearest };
    let mut q = [0i8; Q8_0_BLOCK];
    if !scale.is_finite() {
        return (f16::NAN, [1; Q8_0_BLOCK]);
    }
    let divisor = scale.to_f32();
    if divisor == 0.0 {
        return (f16::ZERO, q);
    }
    // Adding 1.5 * 2^23 leaves the nearest whole number (halves to even) in the low bits.
    const ROUND: f32 = 12_582_912.0;
    for (q, x) in q.iter_mut().zip(x) {
        *q = ((x / divisor + ROUND).to_bits() as i32 - ROUND.to_bits() as i32) as i8;
    }
    (scale, q)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_bytes_is_within_half_a_scale() {
        let mut state = 7u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        for magnitude in [1.0, 3.7, 100.0, 60000.0, 8e6, 1e-2, 1e-4, 1e-6, 1e-8, 1e-12, 0.0] {
            let x: [f32; Q8_0_BLOCK] = std::array::from_fn(|_| next() * magnitude);
            let (scale, q) = round_block(&x);
            let largest = x.iter().fold(0.0f32, |a, x| a.max(x.abs()));
            let scale = f64::from(scale.to_f32());
            let exact = f64::from(largest) / 127.0;
            assert!(
                scale >= exact * (1.0 - 1e-7) && scale <= exact * (1.0 + 1.0 / 1024.0) + 2f64.powi(-24),
                "{magnitude}: {scale}, {exact}"
            );
            for (x, q) in x.iter().zip(q) {
                // The quotient is rounded to f32 before it is rounded to a whole number: a billionth of 127 beside a half.
                assert!((f64::from(*x) - scale * f64::from(q)).abs() <= 0.500_01 * scale, "{magnitude}: {x} as {q}");
            }
        }
    }

    #[test]
    fn whole_numbers_stay_and_what_is_no_number_is_seen() {
        let mut x = [0.0; Q8_0_BLOCK];
        x[..6].copy_from_slice(&[-127.0, 0.5, 1.5, -2.5, 126.0, 3.0]);
        let (scale, q) = round_block(&x);
        assert_eq!((scale.to_f32(), &q[..6]), (1.0, &[-127, 0, 2, -2, 126, 3][..]));
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e7] {
            x[9] = wrong;
            let (scale, q) = round_block(&x);
            assert!(scale.is_nan() && (scale.to_f32() * f32::from(q[0])).is_nan(), "{wrong}");
        }
    }
}
