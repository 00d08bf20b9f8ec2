//! Products with quantized weights for few rows on 256-bit registers: decoding, where reading the weights is what costs.
//!
//! Nothing is stored unpacked: eight columns are read side by side (eight streams from memory), the weights of each are
//! unpacked in registers and serve all rows, and the eight integer sums of a block meet in one register, a column a lane,
//! where the chain of f32 operations that `scalar` defines goes on.

use std::arch::x86_64::*;

use super::activation::{Activation, Activations};
use super::product::Block;
use super::scalar::chunk_bytes_max;
use crate::blocks::scales_and_mins;
use crate::{GgmlType, Weight};

/// Rows up to which this body is the faster one.
pub(crate) const ROWS_MAX: usize = 4;

/// Columns side by side.
const COLUMNS: usize = 8;

/// Outputs of `block`, of at most [`ROWS_MAX`] rows, into `out` (rows of `block.stride()`).
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn quantized(weight: &Weight, x: &Activations, block: &Block, out: &mut [f32]) {
    match block.rows.len() {
        0 => {}
        1 => rows::<1>(weight, x, block, out),
        2 => rows::<2>(weight, x, block, out),
        3 => rows::<3>(weight, x, block, out),
        4 => rows::<4>(weight, x, block, out),
        rows => unreachable!("{rows} rows are not few"),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rows<const R: usize>(weight: &Weight, x: &Activations, block: &Block, out: &mut [f32]) {
    match weight.ggml_type() {
        GgmlType::Q4K => columns::<R>(weight, x, block, out, |blocks, x, accs| with_mins::<R, false>(blocks, x, accs)),
        GgmlType::Q5K => columns::<R>(weight, x, block, out, |blocks, x, accs| with_mins::<R, true>(blocks, x, accs)),
        GgmlType::Q6K => columns::<R>(weight, x, block, out, |blocks, x, accs| q6_k::<R>(blocks, x, accs)),
        GgmlType::Q8_0 => columns::<R>(weight, x, block, out, |blocks, x, accs| q8_0::<R>(blocks, x, accs)),
        GgmlType::Q4_0 => columns::<R>(weight, x, block, out, |blocks, x, accs| q4_0::<R>(blocks, x, accs)),
        other => unreachable!("{other} is not a quantized type with a kernel"),
    }
}

/// The bytes of one chunk of eight columns, equally long.
type Eight<'a> = [&'a [u8]; COLUMNS];

/// Calls `chunk` for each chunk of each eight columns; it adds the products of `R` rows to `R` registers of outputs.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn columns<const R: usize>(
    weight: &Weight,
    x: &Activations,
    block: &Block,
    out: &mut [f32],
    chunk: impl Fn(&Eight<'_>, &[Activation; R], &mut [__m256; R]),
) {
    let stride = block.stride();
    let bytes_max = chunk_bytes_max(weight.ggml_type());
    for first in block.columns.clone().step_by(COLUMNS) {
        // Lanes beyond the last column repeat it; their results are not read.
        let columns: Eight<'_> = std::array::from_fn(|i| weight.row((first + i).min(block.columns.end - 1)));
        let mut accs = [_mm256_setzero_ps(); R];
        let mut blocks = columns;
        for index in 0..x.chunks {
            let rows = x.chunk(index, block.rows.start, R).try_into().expect("R rows were asked for");
            let bytes = index * bytes_max..columns[0].len().min((index + 1) * bytes_max);
            for (block, column) in blocks.iter_mut().zip(columns) {
                *block = &column[bytes.clone()];
            }
            chunk(&blocks, rows, &mut accs);
        }
        for (r, acc) in accs.into_iter().enumerate() {
            let out = &mut out[r * stride + first - block.columns.start..][..COLUMNS];
            // SAFETY: room for eight numbers.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), acc) };
        }
    }
}

/// Q4_K, and with `FIFTH` Q5_K.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn with_mins<const R: usize, const FIFTH: bool>(blocks: &Eight<'_>, x: &[Activation; R], accs: &mut [__m256; R]) {
    let mut sums = [[_mm256_setzero_si256(); COLUMNS]; R];
    let mut min_sums = [[_mm_setzero_si128(); COLUMNS]; R];
    let (four_bits, one_bit) = (_mm256_set1_epi8(15), _mm256_set1_epi8(1));
    for (c, block) in blocks.iter().enumerate() {
        let (scales, mins) = scales_and_mins(block[4..16].try_into().expect("twelve bytes"));
        let scales = _mm256_broadcastsi128_si256(_mm_cvtepu8_epi16(_mm_cvtsi64_si128(i64::from_le_bytes(scales))));
        let mins = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(i64::from_le_bytes(mins)));
        for r in 0..R {
            min_sums[r][c] = _mm_madd_epi16(mins, load_128(bytes_of(&x[r].sums32)));
        }
        let fifth = if FIFTH { load(&block[16..48]) } else { _mm256_setzero_si256() };
        let nibbles = if FIFTH { &block[48..176] } else { &block[16..144] };
        // Two bytes of scale `2 * quarter`, all over the register; one more pair of bytes is the next scale.
        let mut pick = _mm256_set1_epi16(0x0100);
        let next = _mm256_set1_epi16(0x0202);
        for quarter in 0..4 {
            let packed = load(&nibbles[32 * quarter..32 * quarter + 32]);
            let mut low = _mm256_and_si256(packed, four_bits);
            let mut high = _mm256_and_si256(_mm256_srli_epi16::<4>(packed), four_bits);
            if FIFTH {
                let count = _mm_cvtsi32_si128(2 * quarter as i32);
                let two = _mm256_srl_epi16(fifth, count);
                low = _mm256_or_si256(low, _mm256_slli_epi16::<4>(_mm256_and_si256(two, one_bit)));
                high = _mm256_or_si256(high, _mm256_slli_epi16::<4>(_mm256_and_si256(_mm256_srli_epi16::<1>(two), one_bit)));
            }
            let low_scale = _mm256_shuffle_epi8(scales, pick);
            pick = _mm256_add_epi8(pick, next);
            let high_scale = _mm256_shuffle_epi8(scales, pick);
            pick = _mm256_add_epi8(pick, next);
            for r in 0..R {
                let x = &x[r].q[64 * quarter..64 * quarter + 64];
                let a = _mm256_madd_epi16(_mm256_maddubs_epi16(low, load(signed(&x[..32]))), low_scale);
                let b = _mm256_madd_epi16(_mm256_maddubs_epi16(high, load(signed(&x[32..]))), high_scale);
                sums[r][c] = _mm256_add_epi32(sums[r][c], _mm256_add_epi32(a, b));
            }
        }
    }
    let (d_w, dmin_w) = (halves(blocks, 0), halves(blocks, 2));
    for r in 0..R {
        let d_x = _mm256_set1_ps(x[r].d[0]);
        let acc = _mm256_fmadd_ps(_mm256_mul_ps(d_w, d_x), _mm256_cvtepi32_ps(sum_each(&sums[r])), accs[r]);
        accs[r] = _mm256_fnmadd_ps(_mm256_mul_ps(dmin_w, d_x), _mm256_cvtepi32_ps(sum_each_128(&min_sums[r])), acc);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn q6_k<const R: usize>(blocks: &Eight<'_>, x: &[Activation; R], accs: &mut [__m256; R]) {
    let mut sums = [[_mm256_setzero_si256(); COLUMNS]; R];
    let (four_bits, two_bits) = (_mm256_set1_epi8(15), _mm256_set1_epi8(3));
    for (c, block) in blocks.iter().enumerate() {
        let scales = load_128(&block[192..208]);
        for r in 0..R {
            // The weights pass as q and not q - 32: 32 times the scaled sums of the activations come off first.
            let offset = _mm256_madd_epi16(_mm256_cvtepi8_epi16(scales), load(bytes_of(&x[r].sums16)));
            sums[r][c] = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32::<5>(offset));
        }
        // Scale 0 for the eight weights pairs of the lower half, scale 1 for the upper; two on for each run.
        let mut pick = _mm_set_epi64x(0x0101_0101_0101_0101, 0);
        let next = _mm_set1_epi8(2);
        for half in 0..2 {
            let low = [load(&block[64 * half..64 * half + 32]), load(&block[64 * half + 32..64 * half + 64])];
            let high = load(&block[128 + 32 * half..160 + 32 * half]);
            for run in 0..4 {
                let nibbles = if run < 2 { low[run] } else { _mm256_srli_epi16::<4>(low[run - 2]) };
                let pairs = _mm256_and_si256(_mm256_srl_epi16(high, _mm_cvtsi32_si128(2 * run as i32)), two_bits);
                let w = _mm256_or_si256(_mm256_and_si256(nibbles, four_bits), _mm256_slli_epi16::<4>(pairs));
                let scale = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, pick));
                pick = _mm_add_epi8(pick, next);
                for r in 0..R {
                    let x = load(signed(&x[r].q[128 * half + 32 * run..][..32]));
                    sums[r][c] = _mm256_add_epi32(sums[r][c], _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), scale));
                }
            }
        }
    }
    let d_w = halves(blocks, 208);
    for r in 0..R {
        let d = _mm256_mul_ps(d_w, _mm256_set1_ps(x[r].d[0]));
        accs[r] = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(sum_each(&sums[r])), accs[r]);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn q8_0<const R: usize>(blocks: &Eight<'_>, x: &[Activation; R], accs: &mut [__m256; R]) {
    let ones = _mm256_set1_epi16(1);
    for run in 0..blocks[0].len() / 34 {
        let mut sums = [[_mm256_setzero_si256(); COLUMNS]; R];
        for (c, block) in blocks.iter().enumerate() {
            let w = load(&block[34 * run + 2..34 * run + 34]);
            let magnitudes = _mm256_abs_epi8(w);
            for r in 0..R {
                let x = _mm256_sign_epi8(load(signed(&x[r].q[32 * run..32 * run + 32])), w);
                sums[r][c] = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitudes, x), ones);
            }
        }
        let d_w = halves(blocks, 34 * run);
        for r in 0..R {
            let d = _mm256_mul_ps(d_w, _mm256_set1_ps(x[r].d[run]));
            accs[r] = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(sum_each(&sums[r])), accs[r]);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn q4_0<const R: usize>(blocks: &Eight<'_>, x: &[Activation; R], accs: &mut [__m256; R]) {
    let (ones, four_bits) = (_mm256_set1_epi16(1), _mm256_set1_epi8(15));
    for run in 0..blocks[0].len() / 18 {
        let mut sums = [[_mm256_setzero_si256(); COLUMNS]; R];
        for (c, block) in blocks.iter().enumerate() {
            let packed = load_128(&block[18 * run + 2..18 * run + 18]);
            let w = _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(packed), packed), four_bits);
            for r in 0..R {
                let x = load(signed(&x[r].q[32 * run..32 * run + 32]));
                sums[r][c] = _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), ones);
            }
        }
        let d_w = halves(blocks, 18 * run);
        for r in 0..R {
            // The weights pass as q and not q - 8.
            let sum = _mm256_sub_epi32(sum_each(&sums[r]), _mm256_set1_epi32(8 * i32::from(x[r].sums32[run])));
            let d = _mm256_mul_ps(d_w, _mm256_set1_ps(x[r].d[run]));
            accs[r] = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(sum), accs[r]);
        }
    }
}

/// The half-precision number at `offset` of each column.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn halves(blocks: &Eight<'_>, offset: usize) -> __m256 {
    let bits: [i16; COLUMNS] = std::array::from_fn(|c| i16::from_le_bytes([blocks[c][offset], blocks[c][offset + 1]]));
    _mm256_cvtph_ps(_mm_set_epi16(bits[7], bits[6], bits[5], bits[4], bits[3], bits[2], bits[1], bits[0]))
}

/// The sum of the eight numbers of register `i`, in lane `i`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sum_each(v: &[__m256i; 8]) -> __m256i {
    let low = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    let high = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high))
}

/// The sum of the four numbers of register `i`, in lane `i`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sum_each_128(v: &[__m128i; 8]) -> __m256i {
    let low = _mm_hadd_epi32(_mm_hadd_epi32(v[0], v[1]), _mm_hadd_epi32(v[2], v[3]));
    let high = _mm_hadd_epi32(_mm_hadd_epi32(v[4], v[5]), _mm_hadd_epi32(v[6], v[7]));
    _mm256_set_m128i(high, low)
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load(bytes: &[u8]) -> __m256i {
    assert!(bytes.len() >= 32);
    // SAFETY: 32 bytes are there; the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_128(bytes: &[u8]) -> __m128i {
    assert!(bytes.len() >= 16);
    // SAFETY: 16 bytes are there; the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline(always)]
fn signed(x: &[i8]) -> &[u8] {
    // SAFETY: i8 and u8 have the same size and no invalid values.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) }
}

#[inline(always)]
fn bytes_of(x: &[i16]) -> &[u8] {
    // SAFETY: every byte of an i16 is a valid u8.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), 2 * x.len()) }
}
