//! The IQ1, IQ2 and IQ3 types: groups of four or eight weights are points of a codebook, with signs or a shift beside them.
//!
//! All hold 256 weights, which are small integers with a scale for each 16 or 32; the odd numbers `2s + 1` that ggml writes as
//! `s + 1/2`, and its eighths, become integers here by halving or eighthing `d`, which is exact. Knows no activation.

use super::grid_points;
use super::{K_BLOCK, KBlock, half_at};

/// IQ2_XXS, 66 bytes: d, then eight bytes for each 32 weights: four places in the codebook; four times seven signs, and four bits of scale.
pub(super) fn iq2_xxs(block: &[u8], q: &mut [u8; K_BLOCK]) -> KBlock {
    let mut scales = [0; 16];
    for (run, bytes) in block[2..66].chunks_exact(8).enumerate() {
        let signs = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        for g in 0..4 {
            let point = &grid_points::IQ2_XXS[usize::from(bytes[g])];
            put(point, even_signs(signs >> (7 * g)), &mut q[32 * run + 8 * g..]);
        }
        scales[2 * run..2 * run + 2].fill(odd(signs >> 28));
    }
    KBlock::without_mins(half_at(block) * 0.125, scales)
}

/// IQ2_XS, 74 bytes: d, 32 numbers of 16 bits (nine of place, seven of signs), 16 scales of four bits.
pub(super) fn iq2_xs(block: &[u8], q: &mut [u8; K_BLOCK]) -> KBlock {
    for (code, q) in block[2..66].chunks_exact(2).zip(q.chunks_exact_mut(8)) {
        let code = u16::from_le_bytes([code[0], code[1]]);
        put(&grid_points::IQ2_XS[usize::from(code & 511)], even_signs(u32::from(code >> 9)), q);
    }
    KBlock::without_mins(half_at(block) * 0.125, nibble_scales(&block[66..74]))
}

/// IQ2_S, 82 bytes: d, low bytes of 32 places, 32 bytes of signs, high pairs of bits of the places, 16 scales of four bits.
pub(super) fn iq2_s(block: &[u8], q: &mut [u8; K_BLOCK]) -> KBlock {
    for (g, q) in q.chunks_exact_mut(8).enumerate() {
        let high = block[66 + g / 4] >> (2 * (g % 4)) & 3;
        put(&grid_points::IQ2_S[usize::from(block[2 + g]) | usize::from(high) << 8], block[34 + g], q);
    }
    KBlock::without_mins(half_at(block) * 0.125, nibble_scales(&block[74..82]))
}

/// IQ3_XXS, 98 bytes: d, 64 places for four weights each, then for each 32 weights four times seven signs and four bits of scale.
pub(super) fn iq3_xxs(block: &[u8], q: &mut [u8; K_BLOCK]) -> KBlock {
    let mut scales = [0; 16];
    for (run, bytes) in block[66..98].chunks_exact(4).enumerate() {
        let signs = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        for g in 0..4 {
            let places = &block[2 + 8 * run + 2 * g..][..2];
            let (low, high) = (&grid_points::IQ3_XXS[usize::from(places[0])], &grid_points::IQ3_XXS[usize::from(places[1])]);
            put(&both(low, high), even_signs(signs >> (7 * g)), &mut q[32 * run + 8 * g..]);
        }
        scales[2 * run..2 * run + 2].fill(odd(signs >> 28));
    }
    KBlock::without_mins(half_at(block) * 0.25, scales)
}

/// IQ3_S, 110 bytes: d, low bytes of 64 places, their ninth bits, 32 bytes of signs, eight scales of four bits.
pub(super) fn iq3_s(block: &[u8], q: &mut [u8; K_BLOCK]) -> KBlock {
    let point = |i: usize| {
        let ninth = block[66 + i / 8] >> (i % 8) & 1;
        &grid_points::IQ3_S[usize::from(block[2 + i]) | usize::from(ninth) << 8]
    };
    for (g, q) in q.chunks_exact_mut(8).enumerate() {
        put(&both(point(2 * g), point(2 * g + 1)), block[74 + g], q);
    }
    let scales = std::array::from_fn(|i| odd(u32::from(block[106 + i / 4] >> (4 * (i / 2 % 2)))));
    KBlock::without_mins(half_at(block), scales)
}

/// IQ1_S, 50 bytes: d, low bytes of 32 places, then for each 32 weights four times three high bits, three bits of scale, and the sign of
/// the shift: a weight is `d * (2s + 1) * (point +- 1/8)`, `point` of -1, 0, 1.
pub(super) fn iq1_s(block: &[u8], q: &mut [u8; K_BLOCK]) -> KBlock {
    let mut scales = [0; 16];
    for (run, high) in block[34..50].chunks_exact(2).enumerate() {
        let high = u16::from_le_bytes([high[0], high[1]]);
        for g in 0..4 {
            let place = usize::from(block[2 + 4 * run + g]) | usize::from(high >> (3 * g) & 7) << 8;
            put_shifted(place, high >> 15 == 1, &mut q[32 * run + 8 * g..]);
        }
        scales[2 * run..2 * run + 2].fill(odd(u32::from(high >> 12 & 7)));
    }
    KBlock::without_mins(half_at(block) * 0.125, scales)
}

/// IQ1_M, 56 bytes: low bytes of 32 places, a nibble for each with three high bits and the sign of its shift, then four numbers of 16
/// bits: four scales of three bits each, and a quarter of the bits of d, the lowest first.
pub(super) fn iq1_m(block: &[u8], q: &mut [u8; K_BLOCK]) -> KBlock {
    for (g, q) in q.chunks_exact_mut(8).enumerate() {
        let high = block[32 + g / 2] >> (4 * (g % 2));
        put_shifted(usize::from(block[g]) | usize::from(high & 7) << 8, high & 8 != 0, q);
    }
    let word = |i: usize| u16::from_le_bytes([block[48 + 2 * i], block[49 + 2 * i]]);
    let d: u16 = (0..4).map(|i| (word(i) >> 12) << (4 * i)).sum();
    let scales = std::array::from_fn(|i| odd(u32::from(word(i / 4) >> (3 * (i % 4)) & 7)));
    KBlock::without_mins(half_at(&d.to_le_bytes()) * 0.125, scales)
}

/// `2s + 1` of the low four bits.
#[inline(always)]
fn odd(s: u32) -> i16 {
    2 * (s & 15) as i16 + 1
}

#[inline(always)]
fn nibble_scales(packed: &[u8]) -> [i16; 16] {
    std::array::from_fn(|i| odd(u32::from(packed[i / 2] >> (4 * (i % 2)))))
}

/// Eight signs from seven: the eighth makes the number of minus signs even.
#[inline(always)]
fn even_signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | (seven.count_ones() as u8 & 1) << 7
}

#[inline(always)]
fn both(low: &[u8; 4], high: &[u8; 4]) -> [u8; 8] {
    std::array::from_fn(|i| if i < 4 { low[i] } else { high[i - 4] })
}

/// Eight signed levels to the start of `q`; a set bit is a minus.
#[inline(always)]
fn put(magnitudes: &[u8; 8], signs: u8, q: &mut [u8]) {
    for i in 0..8 {
        let minus = 0u8.wrapping_sub(signs >> i & 1);
        q[i] = (magnitudes[i] ^ minus).wrapping_sub(minus);
    }
}

/// Eight levels of IQ1, in eighths: `8 * point +- 1`.
#[inline(always)]
fn put_shifted(place: usize, minus: bool, q: &mut [u8]) {
    let shift = if minus { 9 } else { 7 };
    for (q, point) in q.iter_mut().zip(&grid_points::IQ1_S[place]) {
        *q = (8 * point).wrapping_sub(shift);
    }
}
