//! The 256-bit bodies: eight rows a panel.
//!
//! `vpmaddubsw` multiplies unsigned weights by signed activations and adds two neighbours into 16 bits, saturating: the counts
//! in [`RowLanes::DOTS`] keep every such sum below 32,768 (two products of 15 * 127 eight times, of 31 * 127 four times, of
//! 63 * 127 twice). Of signed weights of eight bits only one product pair fits: it is widened at once.

use std::arch::x86_64::*;

use super::activation::Panels;
use super::column::{Column, Format};
use super::dense::{self, Chains};
use super::product::{Block, DenseRows};
use super::row_lanes::RowLanes;
use super::target::{Square, Target, Write};
use super::tile;
use crate::{GgmlType, Weight};

/// AVX2, FMA and F16C.
pub(crate) struct Avx2;

/// [`tile::quantized`] on 256-bit registers.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn quantized(weight: &Weight, x: &Panels, block: &Block, out: &mut Target<'_>) {
    // SAFETY: this function runs only where the CPU has the instruction set.
    unsafe { tile::quantized::<Avx2>(weight, x, block, out) }
}

/// [`dense::dense`] on 256-bit registers.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn dense(weight: &Weight, x: &DenseRows<'_>, block: &Block, out: &mut [f32]) {
    // SAFETY: this function runs only where the CPU has the instruction set.
    unsafe { dense::dense::<Avx2>(weight, x, block, out) }
}

// SAFETY of all methods: the trait's contract gives the instruction set and the pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl RowLanes for Avx2 {
    const ROWS: usize = 8;
    const PANELS: usize = 2;
    const COLUMNS: usize = 3;
    const DOTS: [usize; 3] = [8, 4, 2];
    const SIGNED_OFFSET: i32 = 0;
    /// Sixteen sums of two products; two neighbours belong to one row.
    type Part = __m256i;
    type Int = __m256i;
    type Float = __m256;

    #[inline(always)]
    unsafe fn unpack<F: Format>(ty: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        unsafe { F::unpack_avx2(ty, bytes, column) }
    }

    #[inline(always)]
    unsafe fn rows(at: *const i8) -> __m256i {
        unsafe { _mm256_loadu_si256(at.cast()) }
    }

    #[inline(always)]
    unsafe fn four(at: *const u8) -> __m256i {
        unsafe { _mm256_set1_epi32(at.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn no_part() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn add_dot(part: __m256i, w: __m256i, x: __m256i) -> __m256i {
        unsafe { _mm256_add_epi16(part, _mm256_maddubs_epi16(w, x)) }
    }

    #[inline(always)]
    unsafe fn add_scaled(sum: __m256i, part: __m256i, scale: *const i32) -> __m256i {
        unsafe { Self::add_pairs(sum, part, scale) }
    }

    #[inline(always)]
    unsafe fn unscaled(part: __m256i) -> __m256i {
        unsafe { _mm256_madd_epi16(part, _mm256_set1_epi16(1)) }
    }

    #[inline(always)]
    unsafe fn add_scaled_sum(sum: __m256i, dots: __m256i, scale: *const i32) -> __m256i {
        unsafe {
            let scale = _mm256_set1_epi32(i32::from(scale.read_unaligned() as i16));
            _mm256_add_epi32(sum, _mm256_mullo_epi32(dots, scale))
        }
    }

    #[inline(always)]
    unsafe fn prepare_signed(column: &mut Column) {
        unsafe {
            for i in 0..8 {
                let w = _mm256_loadu_si256(column.q.as_ptr().add(32 * i).cast());
                _mm256_storeu_si256(column.magnitudes.as_mut_ptr().add(32 * i).cast(), _mm256_abs_epi8(w));
            }
        }
    }

    /// The sign goes to the activations, which are never -128: 2 * 128 * 127 fits 16 bits, but not twice.
    #[inline(always)]
    unsafe fn add_signed_dot(sum: __m256i, column: *const Column, group: usize, x: __m256i) -> __m256i {
        unsafe {
            let w = Self::four((&raw const (*column).q).cast::<u8>().add(4 * group));
            let magnitudes = Self::four((&raw const (*column).magnitudes).cast::<u8>().add(4 * group));
            let two = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(x, w));
            _mm256_add_epi32(sum, _mm256_madd_epi16(two, _mm256_set1_epi16(1)))
        }
    }

    #[inline(always)]
    unsafe fn add_pairs(sum: __m256i, a: __m256i, b: *const i32) -> __m256i {
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, _mm256_set1_epi32(b.read_unaligned()))) }
    }

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn load_int(at: *const i32) -> __m256i {
        unsafe { _mm256_loadu_si256(at.cast()) }
    }

    #[inline(always)]
    unsafe fn minus_times(a: __m256i, b: __m256i, factor: i32) -> __m256i {
        unsafe { _mm256_sub_epi32(a, _mm256_mullo_epi32(b, _mm256_set1_epi32(factor))) }
    }

    #[inline(always)]
    unsafe fn to_float(a: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(a) }
    }

    #[inline(always)]
    unsafe fn float(value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, a: __m256) {
        unsafe { _mm256_storeu_ps(at, a) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn minus_fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn turn(from: *const f32, from_stride: usize, to: &Square) {
        unsafe {
            let at = |i: usize| _mm256_loadu_si256(from.add(i * from_stride).cast());
            for (i, row) in transpose([at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)]).into_iter().enumerate() {
                let (mut row, to_row) = (_mm256_castsi256_ps(row), to.to.add(i * to.stride));
                if let Some(bias) = to.bias {
                    row = _mm256_add_ps(row, _mm256_loadu_ps(bias));
                }
                if to.write == Write::Add {
                    row = _mm256_add_ps(_mm256_loadu_ps(to_row), row);
                }
                _mm256_storeu_ps(to_row, row);
            }
        }
    }
}

// SAFETY of all methods: as above.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Chains for Avx2 {
    const REGISTERS: usize = 16;
    type Float = [__m256; 2];

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::Float {
        unsafe { [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))] }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, a: Self::Float) {
        unsafe {
            _mm256_storeu_ps(at, a[0]);
            _mm256_storeu_ps(at.add(8), a[1]);
        }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> Self::Float {
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(at.cast())), _mm256_cvtph_ps(_mm_loadu_si128(at.add(16).cast()))] }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u8) -> Self::Float {
        unsafe {
            let widen = |at: *const u8| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()))));
            [widen(at), widen(at.add(16))]
        }
    }
}

/// Rows of eight 32-bit words to columns.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
pub(super) unsafe fn transpose(r: [__m256i; 8]) -> [__m256i; 8] {
    // SAFETY: the caller's promise; registers only.
    unsafe {
        let two = |a, b| (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let ((a0, a1), (b0, b1)) = (two(r[0], r[1]), two(r[2], r[3]));
        let ((c0, c1), (d0, d1)) = (two(r[4], r[5]), two(r[6], r[7]));
        let four = |a, b| (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
        let ((e0, e1), (e2, e3)) = (four(a0, b0), four(a1, b1));
        let ((f0, f1), (f2, f3)) = (four(c0, d0), four(c1, d1));
        let low = |a, b| _mm256_permute2x128_si256::<0x20>(a, b);
        let high = |a, b| _mm256_permute2x128_si256::<0x31>(a, b);
        [low(e0, f0), low(e1, f1), low(e2, f2), low(e3, f3), high(e0, f0), high(e1, f1), high(e2, f2), high(e3, f3)]
    }
}
