//! Products with quantized weights for few rows on 256-bit registers: decoding, where reading the weights is what costs.
//!
//! Eight columns are computed side by side, and they are not neighbours: each begins a run of neighbouring columns that its lane works
//! through, so that a thread reads eight long streams. Of a chunk the heads of all eight are unpacked first (their latency hides
//! behind one another), then levels meet the rows in registers. What is left, eight partial sums a row and column, meets in one
//! register, a column a lane, where the chain of f32 operations that `scalar` defines goes on.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::activation::{Activation, Activations};
use super::avx2::transpose;
use super::column::{Column, Correction, Format, Levels};
use super::formats::{Visitor, visit};
use super::product::Block;
use super::scalar::chunk_bytes_max;
use crate::Weight;

/// Rows up to which this body is the faster one.
pub(crate) const ROWS_MAX: usize = 8;

/// Columns that meet in a register, each from a run of neighbouring columns of its own.
const COLUMNS: usize = 8;

/// What eight columns leave of one chunk for `R` rows.
struct Left<const R: usize> {
    sums: [[__m256i; COLUMNS]; R],
    pairs: [[i32; 8]; COLUMNS],
    /// Formats with integer scales: those of the eight columns in the first; otherwise the eight of each column.
    d: [[f32; 8]; COLUMNS],
    m: [[f32; 8]; COLUMNS],
}

/// Outputs of `block`, of at most [`ROWS_MAX`] rows, into `out` (rows of `block.stride()`).
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn quantized(weight: &Weight, x: &Activations, block: &Block, out: &mut [f32]) {
    struct Body<'a>(&'a Weight, &'a Activations, &'a Block, &'a mut [f32]);
    impl Visitor for Body<'_> {
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
fn columns<F: Format, const R: usize>(weight: &Weight, x: &Activations, block: &Block, out: &mut [f32]) {
    let ty = weight.ggml_type();
    let chunk_bytes = chunk_bytes_max(ty);
    let mut heads = [Column::EMPTY; COLUMNS];
    let mut left = MaybeUninit::<Left<R>>::uninit();
    let (count, stride) = (block.rows.len(), block.stride());
    // Lane by lane a stream of its own: the hardware follows eight of them, and reads ahead in each.
    let each = block.columns.len().div_ceil(COLUMNS);
    for nth in 0..each {
        let mut rows: [&[u8]; COLUMNS] = [&[]; COLUMNS];
        for (lane, row) in rows.iter_mut().enumerate() {
            // Lanes beyond the last column repeat it; their results are not read.
            *row = weight.row((block.columns.start + lane * each + nth).min(block.columns.end - 1));
        }
        let mut accs = [_mm256_setzero_ps(); R];
        for chunk in 0..x.chunks {
            let bytes = |lane: usize| &rows[lane][chunk * chunk_bytes..rows[lane].len().min((chunk + 1) * chunk_bytes)];
            let block_rows = x.chunk(chunk, block.rows.start, count);
            let mut values = [&block_rows[0]; R];
            for (r, values) in values.iter_mut().enumerate() {
                *values = &block_rows[r.min(count - 1)];
            }
            let mut runs = 8;
            for (lane, head) in heads.iter_mut().enumerate() {
                // SAFETY: this function runs only where the CPU has the instruction set.
                runs = unsafe { F::head_avx2(ty, bytes(lane), head) };
            }
            for (lane, head) in heads.iter().enumerate() {
                // SAFETY: `left` is written lane by lane before it is read below; the place is there.
                unsafe { meet::<F, R>(bytes(lane), head, &values, left.as_mut_ptr(), lane) };
            }
            // SAFETY: all eight columns of this chunk were just written, as far as `finish` reads them.
            unsafe { finish::<F, R>(left.as_ptr(), &values, runs, &mut accs) };
        }
        for (r, acc) in accs.iter().enumerate().take(count) {
            let mut lanes = [0.0; COLUMNS];
            // SAFETY: room for eight numbers.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), *acc) };
            for (lane, value) in lanes.into_iter().enumerate() {
                // Past the last column lies what the next stride or nobody reads.
                if lane * each + nth < block.columns.len() {
                    out[r * stride + lane * each + nth] = value;
                }
            }
        }
    }
}

/// Multiplies a column with each row and leaves what `finish` needs as column `c` of `left`.
///
/// # Safety
/// `left` may be written, `c < 8`; `bytes` and `column` are what `F::head_avx2` had and left.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn meet<F: Format, const R: usize>(bytes: &[u8], column: &Column, x: &[&Activation; R], left: *mut Left<R>, c: usize) {
    // SAFETY: the caller's promise; columns and activations are read within their arrays of 256.
    unsafe {
        if F::RUNS == 0 {
            (&raw mut (*left).d[c]).write(column.d);
            if F::CORRECTION == Correction::Minima {
                (&raw mut (*left).m[c]).write(column.m);
            }
            for r in 0..R {
                let mut dots = [_mm256_setzero_si256(); 8];
                pair_unscaled::<F, 0>(bytes, column, x[r], &mut dots);
                pair_unscaled::<F, 1>(bytes, column, x[r], &mut dots);
                pair_unscaled::<F, 2>(bytes, column, x[r], &mut dots);
                pair_unscaled::<F, 3>(bytes, column, x[r], &mut dots);
                (&raw mut (*left).sums[r][c]).write(sum_each(&dots));
            }
            return;
        }
        (&raw mut (*left).d[0][c]).write(column.d[0]);
        if F::CORRECTION == Correction::Minima {
            (&raw mut (*left).m[0][c]).write(column.m[0]);
        }
        if F::CORRECTION != Correction::None {
            (&raw mut (*left).pairs[c]).write(column.pairs);
        }
        let mut sums = [_mm256_setzero_si256(); R];
        pair::<F, R, 0>(bytes, column, x, &mut sums);
        pair::<F, R, 1>(bytes, column, x, &mut sums);
        pair::<F, R, 2>(bytes, column, x, &mut sums);
        pair::<F, R, 3>(bytes, column, x, &mut sums);
        for r in 0..R {
            (&raw mut (*left).sums[r][c]).write(sums[r]);
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
    x: &[&Activation; R],
    sums: &mut [__m256i; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let levels = F::levels_avx2::<PAIR>(bytes, column);
        for (i, w) in levels.into_iter().enumerate() {
            let run = 2 * PAIR + i;
            let scale = if F::RUNS == 8 {
                _mm256_set1_epi32(column.scales[run])
            } else if F::CORRECTION == Correction::Minima {
                let (low, high) = (_mm256_set1_epi32(column.scales[2 * run]), _mm256_set1_epi32(column.scales[2 * run + 1]));
                _mm256_blend_epi32::<0xf0>(low, high)
            } else {
                // The pair of scales: the first in the low half, the second in the high one.
                let first_and_second = _mm256_set_m128i(_mm_set1_epi16(0x0302), _mm_set1_epi16(0x0100));
                _mm256_shuffle_epi8(_mm256_set1_epi32(column.pairs[run]), first_and_second)
            };
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
///
/// # Safety
/// `left` was written by `meet` for all eight columns.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn finish<F: Format, const R: usize>(left: *const Left<R>, x: &[&Activation; R], runs: usize, accs: &mut [__m256; R]) {
    // SAFETY: the caller's promise; only what `meet` writes for this format is read.
    unsafe {
        if F::RUNS == 0 {
            let d_w = transposed(&raw const (*left).d);
            let m_w = if F::CORRECTION == Correction::Minima { transposed(&raw const (*left).m) } else { d_w };
            for r in 0..R {
                let sums = transpose((&raw const (*left).sums[r]).read());
                for run in 0..runs.min(8) {
                    let d_x = _mm256_set1_ps(x[r].d[run]);
                    let total = i32::from(x[r].sums32[run]);
                    let mut sum = sums[run];
                    if let Correction::Offset(offset) = F::CORRECTION {
                        sum = _mm256_sub_epi32(sum, _mm256_set1_epi32(offset * total));
                    }
                    accs[r] = _mm256_fmadd_ps(_mm256_mul_ps(d_w[run], d_x), _mm256_cvtepi32_ps(sum), accs[r]);
                    if F::CORRECTION == Correction::Minima {
                        accs[r] = _mm256_fmadd_ps(_mm256_mul_ps(m_w[run], d_x), _mm256_set1_ps(total as f32), accs[r]);
                    }
                }
            }
            return;
        }
        let d_w = _mm256_loadu_ps((&raw const (*left).d[0]).cast());
        let pairs = match F::CORRECTION {
            Correction::None => [_mm256_setzero_si256(); 8],
            _ => std::mem::transmute::<[__m256; 8], [__m256i; 8]>(transposed((&raw const (*left).pairs).cast())),
        };
        for r in 0..R {
            let d_x = _mm256_set1_ps(x[r].d[0]);
            let mut total = _mm256_setzero_si256();
            if F::CORRECTION != Correction::None {
                let sums = if F::RUNS == 16 { x[r].sums16.as_ptr() } else { x[r].sums32.as_ptr() }.cast::<i32>();
                for (i, pairs) in pairs.iter().enumerate().take(F::RUNS / 2) {
                    total = _mm256_add_epi32(total, _mm256_madd_epi16(*pairs, _mm256_set1_epi32(sums.add(i).read_unaligned())));
                }
            }
            let mut sum = sum_each(&(*left).sums[r]);
            if let Correction::Offset(offset) = F::CORRECTION {
                sum = _mm256_sub_epi32(sum, _mm256_mullo_epi32(total, _mm256_set1_epi32(offset)));
            }
            accs[r] = _mm256_fmadd_ps(_mm256_mul_ps(d_w, d_x), _mm256_cvtepi32_ps(sum), accs[r]);
            if F::CORRECTION == Correction::Minima {
                let m_w = _mm256_loadu_ps((&raw const (*left).m[0]).cast());
                accs[r] = _mm256_fnmadd_ps(_mm256_mul_ps(m_w, d_x), _mm256_cvtepi32_ps(total), accs[r]);
            }
        }
    }
}

/// Eight rows of eight words, turned.
///
/// # Safety
/// They are there.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn transposed(rows: *const [[f32; 8]; COLUMNS]) -> [__m256; 8] {
    // SAFETY: the caller's promise; any bits are good for a register.
    unsafe {
        let mut words = [_mm256_setzero_si256(); 8];
        for (i, words) in words.iter_mut().enumerate() {
            *words = _mm256_loadu_si256(rows.cast::<__m256i>().add(i));
        }
        let turned = transpose(words);
        let mut out = [_mm256_setzero_ps(); 8];
        for (out, turned) in out.iter_mut().zip(turned) {
            *out = _mm256_castsi256_ps(turned);
        }
        out
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
