//! [`super::column::Format::head_avx2`] and the levels, for the formats that most files are made of.
//!
//! Each does what the plain function does; the bodies that use one or the other are tested against each other.

use std::arch::x86_64::*;

use super::column::Column;
use crate::blocks::tables::{IQ4_VALUES, MXFP4_VALUES, e8m0_half};

/// Q4_K, see [`crate::blocks::KBlock::q4_k`]: scales and minima.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q4_k_head(block: &[u8; 144], column: &mut Column) {
    scales_and_minima(block[..16].try_into().expect("sixteen bytes"), column);
}

/// Q4_K: 64 levels from 32 bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q4_k_levels<const PAIR: usize>(block: &[u8; 144]) -> [__m256i; 2] {
    let packed = load(block[16 + 32 * PAIR..][..32].try_into().expect("32 bytes"));
    [low_nibbles(packed), low_nibbles(_mm256_srli_epi16::<4>(packed))]
}

/// Q5_K, see [`crate::blocks::KBlock::q5_k`]: scales and minima.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q5_k_head(block: &[u8; 176], column: &mut Column) {
    scales_and_minima(block[..16].try_into().expect("sixteen bytes"), column);
}

/// Q5_K: 64 levels; the fifth bits of pair `PAIR` are bits `2 * PAIR` and the next of 32 bytes that all share.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q5_k_levels<const PAIR: usize>(block: &[u8; 176]) -> [__m256i; 2] {
    let fifth = load(block[16..48].try_into().expect("32 bytes"));
    let packed = load(block[48 + 32 * PAIR..][..32].try_into().expect("32 bytes"));
    let bit = _mm256_set1_epi8(16);
    let (first, second) = match PAIR {
        0 => (_mm256_slli_epi16::<4>(fifth), _mm256_slli_epi16::<3>(fifth)),
        1 => (_mm256_slli_epi16::<2>(fifth), _mm256_slli_epi16::<1>(fifth)),
        2 => (fifth, _mm256_srli_epi16::<1>(fifth)),
        _ => (_mm256_srli_epi16::<2>(fifth), _mm256_srli_epi16::<3>(fifth)),
    };
    let (low, high) = (low_nibbles(packed), low_nibbles(_mm256_srli_epi16::<4>(packed)));
    [_mm256_or_si256(low, _mm256_and_si256(first, bit)), _mm256_or_si256(high, _mm256_and_si256(second, bit))]
}

/// Q6_K, see [`crate::blocks::KBlock::q6_k`]: scales.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q6_k_head(block: &[u8; 210], column: &mut Column) {
    let scales = load_128(block[192..208].try_into().expect("sixteen bytes"));
    column.pairs = words(_mm256_cvtepi8_epi16(scales));
    for (scales, eight) in column.scales.as_chunks_mut::<8>().0.iter_mut().zip([scales, _mm_srli_si128::<8>(scales)]) {
        *scales = words(twice(_mm256_cvtepi8_epi32(eight)));
    }
    column.d[0] = half(block[208..].try_into().expect("two bytes"));
}

/// Q6_K: 64 levels of the 128 that share 64 bytes of low nibbles, then of high ones, and 32 bytes of upper bits.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q6_k_levels<const PAIR: usize>(block: &[u8; 210]) -> [__m256i; 2] {
    let half = PAIR / 2;
    let upper = load(block[128 + 32 * half..][..32].try_into().expect("32 bytes"));
    let (a, b) =
        (load(block[64 * half..][..32].try_into().expect("32 bytes")), load(block[64 * half + 32..][..32].try_into().expect("32 bytes")));
    let (a, b, a_upper, b_upper) = if PAIR.is_multiple_of(2) {
        (a, b, _mm256_slli_epi16::<4>(upper), _mm256_slli_epi16::<2>(upper))
    } else {
        (_mm256_srli_epi16::<4>(a), _mm256_srli_epi16::<4>(b), upper, _mm256_srli_epi16::<2>(upper))
    };
    let bits = _mm256_set1_epi8(0x30);
    [_mm256_or_si256(low_nibbles(a), _mm256_and_si256(a_upper, bits)), _mm256_or_si256(low_nibbles(b), _mm256_and_si256(b_upper, bits))]
}

/// Q8_0, up to eight blocks of 34 bytes: the scales.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q8_0_head(blocks: &[[u8; 34]], column: &mut Column) {
    let Ok(blocks) = <&[[u8; 34]; 8]>::try_from(blocks) else {
        for (block, d) in blocks.iter().zip(&mut column.d) {
            *d = half(block[..2].try_into().expect("two bytes"));
        }
        return;
    };
    let at = |i: usize| i16::from_le_bytes([blocks[i][0], blocks[i][1]]);
    let halves = _mm_setr_epi16(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7));
    // SAFETY: room for eight numbers; the store needs no alignment.
    unsafe { _mm256_storeu_ps(column.d.as_mut_ptr(), _mm256_cvtph_ps(halves)) };
}

/// Q8_0: the levels of two blocks of 34 bytes; of a block that is not there, zeros.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q8_0_levels<const PAIR: usize>(bytes: &[u8]) -> [__m256i; 2] {
    let levels = |run: usize| match bytes.get(34 * run + 2..34 * run + 34) {
        Some(levels) => load(levels.try_into().expect("32 bytes")),
        None => _mm256_setzero_si256(),
    };
    [levels(2 * PAIR), levels(2 * PAIR + 1)]
}

/// Q4_0, up to eight blocks of 18 bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q4_0(blocks: &[[u8; 18]], column: &mut Column) {
    for ((block, q), d) in blocks.iter().zip(column.q.as_chunks_mut::<32>().0).zip(&mut column.d) {
        *d = half(block[..2].try_into().expect("two bytes"));
        let packed = load_128(block[2..].try_into().expect("sixteen bytes"));
        store(q, low_nibbles(_mm256_set_m128i(_mm_srli_epi16::<4>(packed), packed)));
    }
}

/// IQ4_NL, up to eight blocks of 18 bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn iq4_nl(blocks: &[[u8; 18]], column: &mut Column) {
    for ((block, q), d) in blocks.iter().zip(column.q.as_chunks_mut::<32>().0).zip(&mut column.d) {
        *d = half(block[..2].try_into().expect("two bytes"));
        store(q, look_up(&IQ4_VALUES, block[2..].try_into().expect("sixteen bytes")));
    }
}

/// MXFP4, up to eight blocks of 17 bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn mxfp4(blocks: &[[u8; 17]], column: &mut Column) {
    for ((block, q), d) in blocks.iter().zip(column.q.as_chunks_mut::<32>().0).zip(&mut column.d) {
        *d = e8m0_half(block[0]);
        store(q, look_up(&MXFP4_VALUES, block[1..].try_into().expect("sixteen bytes")));
    }
}

/// The levels of IQ4_XS.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn iq4_xs(block: &[u8; 136], column: &mut Column) {
    for (packed, q) in block[8..].as_chunks::<16>().0.iter().zip(column.q.as_chunks_mut::<32>().0) {
        store(q, look_up(&IQ4_VALUES, packed));
    }
}

/// The values of 32 nibbles, low ones first.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn look_up(table: &[i8; 16], packed: &[u8; 16]) -> __m256i {
    // SAFETY: sixteen bytes are there; the load needs no alignment.
    let table = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
    let packed = load_128(packed);
    _mm256_shuffle_epi8(table, low_nibbles(_mm256_set_m128i(_mm_srli_epi16::<4>(packed), packed)))
}

/// The first sixteen bytes of a block of Q4_K or Q5_K: see [`crate::blocks::scales_and_mins`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales_and_minima(head: &[u8; 16], column: &mut Column) {
    let word = |i: usize| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
    let (a, b, c) = (word(4), word(8), word(12));
    const SIX: u32 = 0x3f3f_3f3f;
    const FOUR: u32 = 0x0f0f_0f0f;
    const TOP: u32 = 0x3030_3030;
    let eight = |low: u32, high: u32| _mm_cvtsi64_si128((u64::from(low) | (u64::from(high) << 32)) as i64);
    let scales = eight(a & SIX, (c & FOUR) | ((a >> 2) & TOP));
    let minima = eight(b & SIX, ((c >> 4) & FOUR) | ((b >> 2) & TOP));
    *column.scales.first_chunk_mut::<8>().expect("of sixteen") = words(twice(_mm256_cvtepu8_epi32(scales)));
    column.pairs = words(_mm256_cvtepu8_epi16(minima));
    let both = _mm_cvtph_ps(_mm_cvtsi32_si128(word(0) as i32));
    (column.d[0], column.m[0]) = (_mm_cvtss_f32(both), _mm_cvtss_f32(_mm_movehdup_ps(both)));
}

/// Each number, which fits 16 bits, in both halves of its 32.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn twice(v: __m256i) -> __m256i {
    _mm256_blend_epi16::<0xaa>(v, _mm256_slli_epi32::<16>(v))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn low_nibbles(v: __m256i) -> __m256i {
    _mm256_and_si256(v, _mm256_set1_epi8(15))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn half(bytes: &[u8; 2]) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(u16::from_le_bytes(*bytes)))))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes are there; the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_128(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: 16 bytes are there; the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn store(to: &mut [u8], v: __m256i) {
    let to: &mut [u8; 32] = to.try_into().expect("32 bytes");
    // SAFETY: room for 32 bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), v) }
}

#[inline(always)]
fn words(v: __m256i) -> [i32; 8] {
    // SAFETY: the same size, and any bits are an i32.
    unsafe { std::mem::transmute(v) }
}
