//! The 256-bit bodies: sixteen lanes are two registers.
//!
//! `vpmaddubsw` multiplies unsigned weights by signed activations and adds two neighbours into 16 bits, saturating: the counts
//! in [`Lanes::DOTS`] keep every such sum below 32,768 (two products of 15 * 127 eight times, of 31 * 127 four times, of
//! 63 * 127 twice). Signed weights pass as `|w|` and activations with the sign of `w`: 2 * 128 * 127 fits as well.

use std::arch::x86_64::*;

use super::activation::Activations;
use super::lanes::Lanes;
use super::product::{Block, DenseRows};
use super::{dense, tile};
use crate::Weight;

/// AVX2, FMA and F16C.
pub(crate) struct Avx2;

/// [`tile::quantized`] on 256-bit registers.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn quantized(weight: &Weight, x: &Activations, block: &Block, out: &mut [f32]) {
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
impl Lanes for Avx2 {
    const ROWS: usize = 4;
    const DOTS: [usize; 3] = [8, 4, 2];
    const SIGNED_OFFSET: i32 = 0;
    const SIGNED_DOTS: usize = 1;
    type Weights = [__m256i; 2];
    /// Magnitudes, then the weights themselves for their signs.
    type SignedWeights = ([__m256i; 2], [__m256i; 2]);
    type Four = __m256i;
    /// Sixteen sums of two products a register; two neighbours belong to one column.
    type Part = [__m256i; 2];
    type Int = [__m256i; 2];
    type Float = [__m256; 2];

    /// Twice: one for each half of a column's part.
    #[inline(always)]
    fn pack_scale(scale: i16) -> i32 {
        i32::from(scale as u16) | (i32::from(scale) << 16)
    }

    #[inline(always)]
    unsafe fn weights(at: *const u8) -> Self::Weights {
        unsafe { [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast())] }
    }

    #[inline(always)]
    unsafe fn signed_weights(at: *const u8) -> Self::SignedWeights {
        unsafe {
            let w = Self::weights(at);
            ([_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])], w)
        }
    }

    #[inline(always)]
    unsafe fn four(at: *const i8) -> Self::Four {
        unsafe { _mm256_set1_epi32(at.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn first_dot(w: Self::Weights, x: Self::Four) -> Self::Part {
        unsafe { [_mm256_maddubs_epi16(w[0], x), _mm256_maddubs_epi16(w[1], x)] }
    }

    #[inline(always)]
    unsafe fn add_dot(part: Self::Part, w: Self::Weights, x: Self::Four) -> Self::Part {
        unsafe {
            let dot = Self::first_dot(w, x);
            [_mm256_add_epi16(part[0], dot[0]), _mm256_add_epi16(part[1], dot[1])]
        }
    }

    #[inline(always)]
    unsafe fn add_scaled(sum: Self::Int, part: Self::Part, scale: Self::Int) -> Self::Int {
        unsafe { Self::add_pairs(sum, part, scale) }
    }

    #[inline(always)]
    unsafe fn unscaled(part: Self::Part) -> Self::Int {
        unsafe {
            let ones = _mm256_set1_epi16(1);
            [_mm256_madd_epi16(part[0], ones), _mm256_madd_epi16(part[1], ones)]
        }
    }

    #[inline(always)]
    unsafe fn add_signed_dot(sum: Self::Int, w: Self::SignedWeights, x: Self::Four) -> Self::Int {
        unsafe { Self::add(sum, Self::unscaled(Self::first_signed_dot(w, x))) }
    }

    #[inline(always)]
    unsafe fn first_signed_dot((magnitudes, w): Self::SignedWeights, x: Self::Four) -> Self::Part {
        unsafe {
            let signed = [_mm256_sign_epi8(x, w[0]), _mm256_sign_epi8(x, w[1])];
            [_mm256_maddubs_epi16(magnitudes[0], signed[0]), _mm256_maddubs_epi16(magnitudes[1], signed[1])]
        }
    }

    #[inline(always)]
    unsafe fn add_signed_part(part: Self::Part, w: Self::SignedWeights, x: Self::Four) -> Self::Part {
        unsafe {
            let dot = Self::first_signed_dot(w, x);
            [_mm256_add_epi16(part[0], dot[0]), _mm256_add_epi16(part[1], dot[1])]
        }
    }

    #[inline(always)]
    unsafe fn add_pairs(sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int {
        unsafe { [_mm256_add_epi32(sum[0], _mm256_madd_epi16(a[0], b[0])), _mm256_add_epi32(sum[1], _mm256_madd_epi16(a[1], b[1]))] }
    }

    #[inline(always)]
    unsafe fn int(value: i32) -> Self::Int {
        unsafe { [_mm256_set1_epi32(value); 2] }
    }

    #[inline(always)]
    unsafe fn load_int(at: *const i32) -> Self::Int {
        unsafe { [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(8).cast())] }
    }

    #[inline(always)]
    unsafe fn add(a: Self::Int, b: Self::Int) -> Self::Int {
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn sub(a: Self::Int, b: Self::Int) -> Self::Int {
        unsafe { [_mm256_sub_epi32(a[0], b[0]), _mm256_sub_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn shift_left_5(a: Self::Int) -> Self::Int {
        unsafe { [_mm256_slli_epi32::<5>(a[0]), _mm256_slli_epi32::<5>(a[1])] }
    }

    #[inline(always)]
    unsafe fn to_float(a: Self::Int) -> Self::Float {
        unsafe { [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])] }
    }

    #[inline(always)]
    unsafe fn float(value: f32) -> Self::Float {
        unsafe { [_mm256_set1_ps(value); 2] }
    }

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
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    unsafe fn minus_fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        unsafe { [_mm256_fnmadd_ps(a[0], b[0], c[0]), _mm256_fnmadd_ps(a[1], b[1], c[1])] }
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

    #[inline(always)]
    unsafe fn look_up(table: &[i8; 16], packed: *const u8, out: *mut u8) {
        unsafe {
            let packed = _mm_loadu_si128(packed.cast());
            let nibbles = _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(packed), packed), _mm256_set1_epi8(15));
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            _mm256_storeu_si256(out.cast(), _mm256_shuffle_epi8(table, nibbles));
        }
    }

    /// Eight columns by eight groups at a time: an 8 x 8 transposition of 32-bit words.
    #[inline(always)]
    unsafe fn interleave(columns: *const [u8; 256], groups: *mut [u8; 64]) {
        unsafe {
            for half in 0..2 {
                for eight in 0..8 {
                    let at = |i: usize| _mm256_loadu_si256(columns.add(8 * half + i).cast::<u8>().add(32 * eight).cast());
                    let words = transpose([at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)]);
                    for (g, word) in words.into_iter().enumerate() {
                        _mm256_storeu_si256(groups.add(8 * eight + g).cast::<u8>().add(32 * half).cast(), word);
                    }
                }
            }
        }
    }
}

/// Rows of eight 32-bit words to columns.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn transpose(r: [__m256i; 8]) -> [__m256i; 8] {
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
