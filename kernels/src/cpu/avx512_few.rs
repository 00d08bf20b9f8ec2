//! Products with Q4_K, Q5_K and Q6_K for few rows on 512-bit registers: `avx2_few` with half of its instructions inside a block.
//!
//! Columns, streams and the end of a chunk are as there. Between, 64 levels are unpacked at a time as they lie in the block, and the rows are
//! put into the order that this leaves them in ([`Wide::ORDER`]), once a chunk. `vpdpbusd` adds four products of levels and
//! activations, at most 4 * 63 * 127, so that such sums of two neighbouring columns fit one register of 16-bit numbers; `vpdpwssd`
//! multiplies these by their scales and adds two. An offset of the levels comes off beforehand: a sum begins with what is too much.

use std::arch::x86_64::*;

use super::activation::{Activation, Activations};
use super::avx2_few::{self, COLUMNS};
use super::avx512_unpack::{Heads, Places, Wide};
use super::column::Correction;
use super::formats::{Q4K, Q5K, Q6K};
use super::product::Block;
use super::sums::one_by_one;
use super::target::Target;
use super::tile::prefetch;
use crate::{GgmlType, Weight};

/// Rows up to which this body is the faster one.
pub(crate) const ROWS_MAX: usize = 4;

/// Bytes of each column asked for ahead. Measured on 2026-11-28, two threads of a Zen 4, GB/s with 0, 144, 288, 432, 576, 864 and 1,152, one row of
/// Q4_K: 34.2, 34.3, 36.1, 37.0, 36.6, 35.3, 34.6; of Q6_K: 29.2, 34.4, 35.1, 35.9, 33.4, 28.9, 26.8; four rows of Q6_K: 13.3, 21.5, 22.5, 24.2, 24.3, 22.6, 22.2.
const AHEAD: usize = 432;

/// Columns that share a register of sums.
const PAIRS: usize = COLUMNS / 2;

/// What pairs of columns leave of one chunk for `R` rows: in each 128 bits two sums of the first column and two of the second.
#[repr(C, align(64))]
struct Sums<const R: usize>([[__m512i; PAIRS]; R]);

/// A chunk of a row as the levels of a format meet it.
#[derive(Clone, Copy)]
struct Row {
    q: [__m512i; 4],
    /// What each sum of four products begins with; zeros where no offset comes off.
    start: [__m512i; 4],
}

/// Outputs of `block`, of at most [`ROWS_MAX`] rows; formats that this body has not pass on to AVX2's.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(crate) fn quantized(weight: &Weight, x: &Activations, block: &Block, out: &mut Target<'_>) {
    match weight.ggml_type() {
        GgmlType::Q4K => rows::<Q4K>(weight, x, block, out),
        GgmlType::Q5K => rows::<Q5K>(weight, x, block, out),
        GgmlType::Q6K => rows::<Q6K>(weight, x, block, out),
        _ => avx2_few::quantized(weight, x, block, out),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn rows<F: Wide>(weight: &Weight, x: &Activations, block: &Block, out: &mut Target<'_>) {
    // Not a body for every number: the last row counts twice rather.
    match block.rows.len() {
        0 => {}
        1 => columns::<F, 1>(weight, x, block, out),
        2 => columns::<F, 2>(weight, x, block, out),
        3 | 4 => columns::<F, 4>(weight, x, block, out),
        rows => unreachable!("{rows} rows are not few"),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn columns<F: Wide, const R: usize>(weight: &Weight, x: &Activations, block: &Block, out: &mut Target<'_>) {
    let blocks = weight.blocks();
    // Where the compiler sees these places it makes several shuffles of each.
    let places = std::hint::black_box(&Places::<F>::OF);
    let mut heads = Heads::empty();
    let mut sums = Sums([[_mm512_setzero_si512(); PAIRS]; R]);
    let count = block.rows.len();
    let each = block.columns.len().div_ceil(COLUMNS);
    for nth in 0..each {
        let mut at: [*const u8; COLUMNS] = [std::ptr::null(); COLUMNS];
        for (lane, at) in at.iter_mut().enumerate() {
            // Lanes beyond the last column repeat it; their results are not read.
            let row = blocks.row((block.columns.start + lane * each + nth).min(block.columns.end - 1));
            assert_eq!(row.len(), x.chunks * F::BYTES, "a row of as many blocks as the activations");
            *at = row.as_ptr();
        }
        let mut accs = [_mm256_setzero_ps(); R];
        for chunk in 0..x.chunks {
            let block_rows = x.chunk(chunk, block.rows.start, count);
            let mut values = [&block_rows[0]; R];
            for (r, values) in values.iter_mut().enumerate() {
                *values = &block_rows[r.min(count - 1)];
            }
            let mut rows = [Row { q: [_mm512_setzero_si512(); 4], start: [_mm512_setzero_si512(); 4] }; R];
            for (row, values) in rows.iter_mut().zip(&values) {
                *row = arranged::<F>(values);
            }
            // SAFETY: this function runs only where the CPU has the instruction set; each lane's row has a block for each chunk.
            unsafe {
                F::heads(&at, &mut heads);
                for (pair, at) in at.as_chunks::<2>().0.iter().enumerate() {
                    meet::<F, R>(*at, &heads, places, &rows, pair, &mut sums);
                }
                finish::<F, R>(&sums, &heads, &values, &mut accs);
                // In one go after everything else: among the products they cost a tenth of the time in cache (2026-11-28).
                one_by_one();
                for at in &mut at {
                    prefetch(at.wrapping_add(AHEAD), F::BYTES);
                    *at = at.add(F::BYTES);
                }
            }
        }
        for (r, acc) in accs.iter().enumerate().take(count) {
            let mut lanes = [0.0; COLUMNS];
            // SAFETY: room for eight numbers.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), *acc) };
            for (lane, value) in lanes.into_iter().enumerate() {
                if lane * each + nth < block.columns.len() {
                    out.put(r, lane * each + nth, value);
                }
            }
        }
    }
}

/// A row in the order of `F`'s levels.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn arranged<F: Wide>(x: &Activation) -> Row {
    let mut row = Row { q: [_mm512_setzero_si512(); 4], start: [_mm512_setzero_si512(); 4] };
    for (i, runs) in F::ORDER.as_chunks::<2>().0.iter().enumerate() {
        // SAFETY: runs of 32 of 256 values.
        let [low, high] = unsafe { runs.map(|run| _mm256_loadu_si256(x.q.as_ptr().add(32 * run).cast())) };
        row.q[i] = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
        if let Correction::Offset(offset) = F::CORRECTION {
            let none = _mm512_setzero_si512();
            row.start[i] = _mm512_sub_epi32(none, _mm512_dpbusd_epi32(none, _mm512_set1_epi8(offset as i8), row.q[i]));
        }
    }
    row
}

/// Multiplies the two columns of `pair` with each row.
///
/// # Safety
/// Blocks of `F` are at `blocks`, and `F::heads` has had them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
unsafe fn meet<F: Wide, const R: usize>(
    blocks: [*const u8; 2],
    heads: &Heads,
    places: &[[u16; 32]; 4],
    x: &[Row; R],
    pair: usize,
    sums: &mut Sums<R>,
) {
    // SAFETY: the caller's promise; a register has 32 places.
    unsafe {
        let scales = F::scales(blocks, heads, pair);
        let scales = |register: usize| _mm512_permutexvar_epi16(_mm512_loadu_si512(places[register].as_ptr().cast()), scales);
        let levels = [F::levels::<0>(blocks[0]), F::levels::<0>(blocks[1])];
        let (first, second) = (scales(0), scales(1));
        let mut totals = [_mm512_setzero_si512(); R];
        for r in 0..R {
            totals[r] = _mm512_madd_epi16(fours([levels[0][0], levels[1][0]], &x[r], 0), first);
            totals[r] = add_pairs(totals[r], fours([levels[0][1], levels[1][1]], &x[r], 1), second);
        }
        let levels = [F::levels::<1>(blocks[0]), F::levels::<1>(blocks[1])];
        let (first, second) = (scales(2), scales(3));
        for r in 0..R {
            totals[r] = add_pairs(totals[r], fours([levels[0][0], levels[1][0]], &x[r], 2), first);
            sums.0[r][pair] = add_pairs(totals[r], fours([levels[0][1], levels[1][1]], &x[r], 3), second);
        }
    }
}

/// Of register `register` of two columns the sums of four products each, as 16-bit numbers: in each 128 bits four of the first column, four of
/// the second.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn fours(levels: [__m512i; 2], x: &Row, register: usize) -> __m512i {
    let (start, q) = (x.start[register], x.q[register]);
    _mm512_packs_epi32(_mm512_dpbusd_epi32(start, levels[0], q), _mm512_dpbusd_epi32(start, levels[1], q))
}

/// `vpdpwssd`. In assembly: LLVM makes a multiplication and an addition of the intrinsic, which is shorter to wait for and more to do.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn add_pairs(mut sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: this function runs only where the CPU has the instruction set; registers only.
    unsafe {
        std::arch::asm!(
            "vpdpwssd {sums}, {a}, {b}",
            sums = inout(zmm_reg) sums, a = in(zmm_reg) a, b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Goes on with the outputs of eight columns.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn finish<F: Wide, const R: usize>(sums: &Sums<R>, heads: &Heads, x: &[&Activation; R], accs: &mut [__m256; R]) {
    for r in 0..R {
        let d_x = _mm256_set1_ps(x[r].d[0]);
        accs[r] = _mm256_fmadd_ps(_mm256_mul_ps(heads.d, d_x), _mm256_cvtepi32_ps(sum_each(&sums.0[r])), accs[r]);
        if F::CORRECTION == Correction::Minima {
            let mut total = _mm256_setzero_si256();
            for (pairs, two) in heads.pairs.iter().zip(x[r].sums32.as_chunks::<2>().0) {
                let two = i32::from(two[0] as u16) | (i32::from(two[1]) << 16);
                total = _mm256_add_epi32(total, _mm256_madd_epi16(*pairs, _mm256_set1_epi32(two)));
            }
            accs[r] = _mm256_fnmadd_ps(_mm256_mul_ps(heads.m, d_x), _mm256_cvtepi32_ps(total), accs[r]);
        }
    }
}

/// The sums of eight columns, a column a lane.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn sum_each(pairs: &[__m512i; PAIRS]) -> __m256i {
    let mut halves = [_mm256_setzero_si256(); PAIRS];
    for (half, pair) in halves.iter_mut().zip(pairs) {
        // From memory and not from the register: two loads are less than moving the upper half down.
        let at = std::ptr::from_ref(pair).cast::<__m256i>();
        // SAFETY: a register has two halves.
        *half = unsafe { _mm256_add_epi32(_mm256_load_si256(at), _mm256_load_si256(at.add(1))) };
    }
    // In both halves the sums of four columns.
    let four = |a, b| {
        let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
        let (even, odd) = (_mm256_shuffle_ps::<0x88>(a, b), _mm256_shuffle_ps::<0xdd>(a, b));
        _mm256_add_epi32(_mm256_castps_si256(even), _mm256_castps_si256(odd))
    };
    let (low, high) = (four(halves[0], halves[1]), four(halves[2], halves[3]));
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high))
}
