//! Products with quantized weights for few rows on 256-bit registers: decoding, where reading the weights is what costs.
//!
//! Each column is read from its start for as many chunks as fit a scratch, so that memory delivers one long stream; the levels of
//! a chunk are unpacked once and multiplied with every row. What is left of a chunk, eight partial sums a row, waits until eight
//! columns are through; then they meet in one register, a column a lane, where the chain of f32 operations that `scalar` defines goes on.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::activation::{Activation, Activations};
use super::avx2::transpose;
use super::column::{Column, Correction, Format, Levels};
use super::formats::{Visitor, visit};
use super::product::Block;
use super::scalar::chunk_bytes_max;
use super::tile::prefetch;
use crate::Weight;

/// Rows up to which this body is the faster one.
pub(crate) const ROWS_MAX: usize = 8;

/// Columns that meet in a register.
const COLUMNS: usize = 8;
/// Bytes of a column asked for ahead (measured on 2026-11-26, one thread of a Zen 3, Q4_K: 10.5 GB/s with none, 12.8 with 2,048, 11.7 with 4,096).
const AHEAD: usize = 2048;

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
                // Not a body for every number: the last row counts twice rather. As many chunks as leave some 24 KB behind.
                match self.2.rows.len() {
                    0 => {}
                    1 => columns::<F, 1, 48>(self.0, self.1, self.2, self.3),
                    2 => columns::<F, 2, 32>(self.0, self.1, self.2, self.3),
                    3 | 4 => columns::<F, 4, 20>(self.0, self.1, self.2, self.3),
                    5 | 6 => columns::<F, 6, 12>(self.0, self.1, self.2, self.3),
                    7 | 8 => columns::<F, 8, 10>(self.0, self.1, self.2, self.3),
                    rows => unreachable!("{rows} rows are not few"),
                }
            }
        }
    }
    visit(weight.ggml_type(), Body(weight, x, block, out));
}

#[target_feature(enable = "avx2,fma,f16c")]
fn columns<F: Format, const R: usize, const SEGMENT: usize>(weight: &Weight, x: &Activations, block: &Block, out: &mut [f32]) {
    let mut left = [const { MaybeUninit::<Left<R>>::uninit() }; SEGMENT];
    let ty = weight.ggml_type();
    let chunk_bytes = chunk_bytes_max(ty);
    let mut column = Column::EMPTY;
    let count = block.rows.len();
    let rows_of = |chunk| {
        let rows = x.chunk(chunk, block.rows.start, count);
        std::array::from_fn(|r| &rows[r.min(count - 1)])
    };
    for first in block.columns.clone().step_by(COLUMNS) {
        let mut accs = [_mm256_setzero_ps(); R];
        for start in (0..x.chunks).step_by(SEGMENT) {
            let chunks = start..x.chunks.min(start + SEGMENT);
            let mut runs_last = 8;
            for c in 0..COLUMNS {
                // Lanes beyond the last column repeat it; their results are not read.
                let row = weight.row((first + c).min(block.columns.end - 1));
                for (chunk, left) in chunks.clone().zip(&mut left) {
                    let bytes = &row[chunk * chunk_bytes..row.len().min((chunk + 1) * chunk_bytes)];
                    prefetch(bytes.as_ptr().wrapping_add(AHEAD), chunk_bytes);
                    // SAFETY: this function runs only where the CPU has the instruction set.
                    runs_last = unsafe { F::unpack_avx2(ty, bytes, &mut column) };
                    let rows = &rows_of(chunk);
                    // SAFETY: `left` is written column by column before it is read below; the place is there.
                    unsafe { meet::<F, R>(&column, rows, left.as_mut_ptr(), c) };
                }
            }
            for (chunk, left) in chunks.zip(&left) {
                let rows = &rows_of(chunk);
                let runs = if chunk + 1 == x.chunks { runs_last } else { 8 };
                // SAFETY: all eight columns of this chunk were just written, as far as `finish` reads them.
                unsafe { finish::<F, R>(left.as_ptr(), rows, runs, &mut accs) };
            }
        }
        for (r, acc) in accs.into_iter().enumerate().take(count) {
            let out = &mut out[r * block.stride() + first - block.columns.start..][..COLUMNS];
            // SAFETY: room for eight numbers.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), acc) };
        }
    }
}

/// Multiplies a column with each row and leaves what `finish` needs as column `c` of `left`.
///
/// # Safety
/// `left` may be written, `c < 8`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn meet<F: Format, const R: usize>(column: &Column, x: &[&Activation; R], left: *mut Left<R>, c: usize) {
    // SAFETY: the caller's promise; columns and activations are read within their arrays of 256.
    unsafe {
        if F::RUNS == 0 {
            (&raw mut (*left).d[c]).write(column.d);
            if F::CORRECTION == Correction::Minima {
                (&raw mut (*left).m[c]).write(column.m);
            }
            for r in 0..R {
                let mut runs = [_mm256_setzero_si256(); 8];
                for (run, dots) in runs.iter_mut().enumerate() {
                    let w = load(column.q.as_ptr().add(32 * run));
                    *dots = _mm256_madd_epi16(dot::<F>(w, load(x[r].q.as_ptr().add(32 * run).cast())), _mm256_set1_epi16(1));
                }
                (&raw mut (*left).sums[r][c]).write(sum_each(&runs));
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
        for run in 0..8 {
            let w = load(column.q.as_ptr().add(32 * run));
            let scale = if F::RUNS == 16 {
                let (low, high) = (_mm256_set1_epi32(column.scales[2 * run]), _mm256_set1_epi32(column.scales[2 * run + 1]));
                _mm256_blend_epi32::<0xf0>(low, high)
            } else {
                _mm256_set1_epi32(column.scales[run])
            };
            for r in 0..R {
                let dot = dot::<F>(w, load(x[r].q.as_ptr().add(32 * run).cast()));
                sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(dot, scale));
            }
        }
        for r in 0..R {
            (&raw mut (*left).sums[r][c]).write(sums[r]);
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
