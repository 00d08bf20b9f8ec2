//! Products with quantized weights for few rows on 256-bit registers: decoding, where reading the weights is what costs.
//!
//! Eight columns are computed side by side, and they are not neighbours: each begins a run of neighbouring columns that its lane works
//! through, so that a thread reads eight long streams. Of a chunk the heads of all eight are unpacked first (their latency hides
//! behind one another), then levels meet the rows in registers. What is left, eight partial sums a row and column, meets in one
//! register, a column a lane, where the chain of f32 operations that `scalar` defines goes on.

use std::arch::x86_64::*;
use std::cell::Cell;

use super::activation::{Activation, Activations};
use super::avx2::transpose;
use super::avx2_heads::Heads;
use super::column::{Column, Correction, Format, Levels};
use super::formats::{Visitor, visit};
use super::product::Block;
use super::scalar::chunk_bytes_max;
use super::target::Target;
use super::tile::prefetch;
use crate::Weight;

/// Rows up to which this body is the faster one.
pub(crate) const ROWS_MAX: usize = 6;

/// Columns that meet in a register, each from a run of neighbouring columns of its own.
pub(super) const COLUMNS: usize = 8;
/// Bytes of each column asked for ahead. Measured on 2026-11-27, two threads of a Zen 3, GB/s of one row with 0, 144, 288, 576, 1,152 and 2,304:
/// Q4_K 13.3, 14.4, 12.4, 15.5, 16.2, 13.2; Q6_K 7.9, 15.3, 15.6, 17.7, 13.7, 11.6.
const AHEAD: usize = 576;

thread_local! {
    /// Unpacked columns, kept between calls: clearing them was 6 % of the built-in model's decoding.
    static UNPACKED: Cell<Option<Box<[Column; COLUMNS]>>> = const { Cell::new(None) };
}

/// What eight columns leave of one chunk for `R` rows.
type Sums<const R: usize> = [[__m256i; COLUMNS]; R];

type ScalePlaces = [[[i16; 8]; 2]; 8];

/// Where in 16 bytes of a half the 16-bit scale of each run stands, for all lanes of the half.
static SCALE_OF_RUN: ScalePlaces = {
    let mut places = [[[0; 8]; 2]; 8];
    let mut run = 0;
    while run < 8 {
        places[run] = [[(2 * run + ((2 * run + 1) << 8)) as i16; 8]; 2];
        run += 1;
    }
    places
};

/// Outputs of `block`, of at most [`ROWS_MAX`] rows.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn quantized(weight: &Weight, x: &Activations, block: &Block, out: &mut Target<'_>) {
    struct Body<'a, 't>(&'a Weight, &'a Activations, &'a Block, &'a mut Target<'t>);
    impl Visitor for Body<'_, '_> {
        #[inline(always)]
        fn visit<F: Format>(self) {
            // SAFETY: called from a function that has the instruction set.
            unsafe {
                // Not a body for every number: the last row counts twice rather.
                match self.2.rows.len() {
                    0 => {}
                    1 => columns::<F, 1>(self.0, self.1, self.2, self.3),
                    2 => columns::<F, 2>(self.0, self.1, self.2, self.3),
                    3 | 4 => columns::<F, 4>(self.0, self.1, self.2, self.3),
                    5 | 6 => columns::<F, 6>(self.0, self.1, self.2, self.3),
                    7 | 8 => columns::<F, 8>(self.0, self.1, self.2, self.3),
                    rows => unreachable!("{rows} rows are not few"),
                }
            }
        }
    }
    visit(weight.ggml_type(), Body(weight, x, block, out));
}

#[target_feature(enable = "avx2,fma,f16c")]
fn columns<F: Format, const R: usize>(weight: &Weight, x: &Activations, block: &Block, out: &mut Target<'_>) {
    let ty = weight.ggml_type();
    let (blocks, chunk_bytes) = (weight.blocks(), chunk_bytes_max(ty));
    // Taken out and not borrowed: a closure handed to the standard library would be compiled without the instruction set.
    let mut unpacked = UNPACKED.take().unwrap_or_else(|| Box::new([Column::EMPTY; COLUMNS]));
    // Where the compiler sees these places it makes two shuffles of each.
    let places = std::hint::black_box(&SCALE_OF_RUN);
    let mut heads = Heads::empty();
    let mut sums: Sums<R> = [[_mm256_setzero_si256(); COLUMNS]; R];
    let count = block.rows.len();
    // Lane by lane a stream of its own: the hardware follows eight of them, and reads ahead in each.
    let each = block.columns.len().div_ceil(COLUMNS);
    for nth in 0..each {
        let mut rows: [&[u8]; COLUMNS] = [&[]; COLUMNS];
        for (lane, row) in rows.iter_mut().enumerate() {
            // Lanes beyond the last column repeat it; their results are not read.
            *row = blocks.row((block.columns.start + lane * each + nth).min(block.columns.end - 1));
        }
        let mut accs = [_mm256_setzero_ps(); R];
        for chunk in 0..x.chunks {
            let mut chunks: [&[u8]; COLUMNS] = [&[]; COLUMNS];
            for (chunk_of_row, row) in chunks.iter_mut().zip(&rows) {
                *chunk_of_row = &row[chunk * chunk_bytes..row.len().min((chunk + 1) * chunk_bytes)];
            }
            let block_rows = x.chunk(chunk, block.rows.start, count);
            let mut values = [&block_rows[0]; R];
            for (r, values) in values.iter_mut().enumerate() {
                *values = &block_rows[r.min(count - 1)];
            }
            // SAFETY: this function runs only where the CPU has the instruction set; the heads met are those just read.
            unsafe {
                let runs = F::heads_avx2(ty, &chunks, &mut unpacked, &mut heads);
                for lane in 0..COLUMNS {
                    prefetch(chunks[lane].as_ptr().wrapping_add(AHEAD), chunk_bytes);
                    meet::<F, R>(chunks[lane], &unpacked[lane], heads.scales[lane], places, &values, lane, &mut sums);
                }
                finish::<F, R>(&sums, &heads, &values, runs, &mut accs);
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
    UNPACKED.set(Some(unpacked));
}

/// Multiplies column `lane` with each row, and leaves eight partial sums for each, or the sums of its eight runs of 32.
///
/// # Safety
/// `F::heads_avx2` has had `bytes` and left `column` and `scales`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn meet<F: Format, const R: usize>(
    bytes: &[u8],
    column: &Column,
    scales: __m256i,
    places: &ScalePlaces,
    x: &[&Activation; R],
    lane: usize,
    sums: &mut Sums<R>,
) {
    // SAFETY: the caller's promise; columns and activations are read within their arrays of 256.
    unsafe {
        if F::RUNS == 0 {
            for r in 0..R {
                let mut dots = [_mm256_setzero_si256(); 8];
                pair_unscaled::<F, 0>(bytes, column, x[r], &mut dots);
                pair_unscaled::<F, 1>(bytes, column, x[r], &mut dots);
                pair_unscaled::<F, 2>(bytes, column, x[r], &mut dots);
                pair_unscaled::<F, 3>(bytes, column, x[r], &mut dots);
                sums[r][lane] = sum_each(&dots);
            }
            return;
        }
        let mut total = [_mm256_setzero_si256(); R];
        pair::<F, R, 0>(bytes, column, scales, places, x, &mut total);
        pair::<F, R, 1>(bytes, column, scales, places, x, &mut total);
        pair::<F, R, 2>(bytes, column, scales, places, x, &mut total);
        pair::<F, R, 3>(bytes, column, scales, places, x, &mut total);
        for r in 0..R {
            sums[r][lane] = total[r];
        }
    }
}

/// Adds the scaled dots of runs `2 * PAIR` and `2 * PAIR + 1`.
///
/// # Safety
/// As [`meet`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn pair<F: Format, const R: usize, const PAIR: usize>(
    bytes: &[u8],
    column: &Column,
    scales: __m256i,
    places: &ScalePlaces,
    x: &[&Activation; R],
    sums: &mut [__m256i; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let levels = F::levels_avx2::<PAIR>(bytes, column);
        for (i, w) in levels.into_iter().enumerate() {
            let run = 2 * PAIR + i;
            let scale = _mm256_shuffle_epi8(scales, load(places[run].as_ptr().cast()));
            for r in 0..R {
                let dot = dot::<F>(w, load(x[r].q.as_ptr().add(32 * run).cast()));
                sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(dot, scale));
            }
        }
    }
}

/// Sets dots `2 * PAIR` and `2 * PAIR + 1`.
///
/// # Safety
/// As [`meet`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn pair_unscaled<F: Format, const PAIR: usize>(bytes: &[u8], column: &Column, x: &Activation, dots: &mut [__m256i; 8]) {
    // SAFETY: the caller's promise.
    unsafe {
        for (i, w) in F::levels_avx2::<PAIR>(bytes, column).into_iter().enumerate() {
            let run = 2 * PAIR + i;
            dots[run] = _mm256_madd_epi16(dot::<F>(w, load(x.q.as_ptr().add(32 * run).cast())), _mm256_set1_epi16(1));
        }
    }
}

/// Sixteen sums of two products of 8-bit numbers: at most 2 * 63 * 127, signed 2 * 128 * 127.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn dot<F: Format>(w: __m256i, x: __m256i) -> __m256i {
    if F::LEVELS == Levels::Signed { _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)) } else { _mm256_maddubs_epi16(w, x) }
}

/// Goes on with the outputs of eight columns over a chunk of `runs` runs of 32.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn finish<F: Format, const R: usize>(sums: &Sums<R>, heads: &Heads, x: &[&Activation; R], runs: usize, accs: &mut [__m256; R]) {
    if F::RUNS == 0 {
        for r in 0..R {
            // SAFETY: registers only.
            let sums = unsafe { transpose(sums[r]) };
            for run in 0..runs.min(8) {
                let d_x = _mm256_set1_ps(x[r].d[run]);
                let total = i32::from(x[r].sums32[run]);
                let mut sum = sums[run];
                if let Correction::Offset(offset) = F::CORRECTION {
                    sum = _mm256_sub_epi32(sum, _mm256_set1_epi32(offset * total));
                }
                accs[r] = _mm256_fmadd_ps(_mm256_mul_ps(heads.d[run], d_x), _mm256_cvtepi32_ps(sum), accs[r]);
                if F::CORRECTION == Correction::Minima {
                    accs[r] = _mm256_fmadd_ps(_mm256_mul_ps(heads.m[run], d_x), _mm256_set1_ps(total as f32), accs[r]);
                }
            }
        }
        return;
    }
    for r in 0..R {
        let d_x = _mm256_set1_ps(x[r].d[0]);
        let mut total = _mm256_setzero_si256();
        if F::CORRECTION != Correction::None {
            let sums = if F::RUNS == 16 { x[r].sums16.as_ptr() } else { x[r].sums32.as_ptr() }.cast::<i32>();
            for (i, pairs) in heads.pairs.iter().enumerate().take(F::RUNS / 2) {
                // SAFETY: half as many pairs as sums.
                let two = unsafe { sums.add(i).read_unaligned() };
                total = _mm256_add_epi32(total, _mm256_madd_epi16(*pairs, _mm256_set1_epi32(two)));
            }
        }
        let mut sum = sum_each(&sums[r]);
        if let Correction::Offset(offset) = F::CORRECTION {
            sum = _mm256_sub_epi32(sum, _mm256_mullo_epi32(total, _mm256_set1_epi32(offset)));
        }
        accs[r] = _mm256_fmadd_ps(_mm256_mul_ps(heads.d[0], d_x), _mm256_cvtepi32_ps(sum), accs[r]);
        if F::CORRECTION == Correction::Minima {
            accs[r] = _mm256_fnmadd_ps(_mm256_mul_ps(heads.m[0], d_x), _mm256_cvtepi32_ps(total), accs[r]);
        }
    }
}

/// The sum of the eight numbers of register `i`, in lane `i`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sum_each(v: &[__m256i; 8]) -> __m256i {
    let two = |a, b| _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let four = |a, b| _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let low = four(two(v[0], v[1]), two(v[2], v[3]));
    let high = four(two(v[4], v[5]), two(v[6], v[7]));
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high))
}

/// # Safety
/// 32 bytes are there.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn load(at: *const u8) -> __m256i {
    // SAFETY: the caller's promise; the load needs no alignment.
    unsafe { _mm256_loadu_si256(at.cast()) }
}
