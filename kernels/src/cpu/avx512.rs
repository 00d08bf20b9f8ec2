//! The 512-bit bodies: sixteen lanes are one register, and four byte products with their sum are one instruction (VNNI), which
//! does not saturate. Signed weights pass as `w + 128`.
//!
//! Few rows run on the 256-bit bodies. What these methods promise is what `lanes::Emulated` does; the algorithm above them is tested with that one on any machine.

use std::arch::x86_64::*;

use super::activation::Activations;
use super::avx2::Avx2;
use super::lanes::Lanes;
use super::product::{Block, DenseRows};
use super::{dense, tile};
use crate::Weight;

/// AVX-512 F, BW, DQ, VL and VNNI, and what [`Avx2`] needs.
pub(crate) struct Avx512;

/// [`tile::quantized`] on 512-bit registers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(crate) fn quantized(weight: &Weight, x: &Activations, block: &Block, out: &mut [f32]) {
    // SAFETY: this function runs only where the CPU has the instruction set.
    unsafe { tile::quantized::<Avx512>(weight, x, block, out) }
}

/// [`dense::dense`] on 512-bit registers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(crate) fn dense(weight: &Weight, x: &DenseRows<'_>, block: &Block, out: &mut [f32]) {
    // SAFETY: this function runs only where the CPU has the instruction set.
    unsafe { dense::dense::<Avx512>(weight, x, block, out) }
}

// SAFETY of all methods: the trait's contract gives the instruction set and the pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Avx512 {
    const ROWS: usize = 8;
    const DOTS: [usize; 3] = [8, 8, 4];
    const SIGNED_OFFSET: i32 = 128;
    const SIGNED_DOTS: usize = 8;
    type Weights = __m512i;
    type SignedWeights = __m512i;
    type Four = __m512i;
    type Part = __m512i;
    type Int = __m512i;
    type Float = __m512;

    #[inline(always)]
    fn pack_scale(scale: i16) -> i32 {
        i32::from(scale)
    }

    #[inline(always)]
    unsafe fn weights(at: *const u8) -> Self::Weights {
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    #[inline(always)]
    unsafe fn signed_weights(at: *const u8) -> Self::SignedWeights {
        unsafe { _mm512_xor_si512(Self::weights(at), _mm512_set1_epi8(-128)) }
    }

    #[inline(always)]
    unsafe fn four(at: *const i8) -> Self::Four {
        unsafe { _mm512_set1_epi32(at.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn first_dot(w: Self::Weights, x: Self::Four) -> Self::Part {
        unsafe { _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, x) }
    }

    #[inline(always)]
    unsafe fn add_dot(part: Self::Part, w: Self::Weights, x: Self::Four) -> Self::Part {
        unsafe { _mm512_dpbusd_epi32(part, w, x) }
    }

    #[inline(always)]
    unsafe fn add_scaled(sum: Self::Int, part: Self::Part, scale: Self::Int) -> Self::Int {
        unsafe { _mm512_add_epi32(sum, _mm512_mullo_epi32(part, scale)) }
    }

    #[inline(always)]
    unsafe fn unscaled(part: Self::Part) -> Self::Int {
        part
    }

    #[inline(always)]
    unsafe fn add_signed_dot(sum: Self::Int, w: Self::SignedWeights, x: Self::Four) -> Self::Int {
        unsafe { _mm512_dpbusd_epi32(sum, w, x) }
    }

    #[inline(always)]
    unsafe fn first_signed_dot(w: Self::SignedWeights, x: Self::Four) -> Self::Part {
        unsafe { _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, x) }
    }

    #[inline(always)]
    unsafe fn add_signed_part(part: Self::Part, w: Self::SignedWeights, x: Self::Four) -> Self::Part {
        unsafe { _mm512_dpbusd_epi32(part, w, x) }
    }

    #[inline(always)]
    unsafe fn add_pairs(sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int {
        unsafe { _mm512_dpwssd_epi32(sum, a, b) }
    }

    #[inline(always)]
    unsafe fn int(value: i32) -> Self::Int {
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn load_int(at: *const i32) -> Self::Int {
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    #[inline(always)]
    unsafe fn add(a: Self::Int, b: Self::Int) -> Self::Int {
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: Self::Int, b: Self::Int) -> Self::Int {
        unsafe { _mm512_sub_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn shift_left_5(a: Self::Int) -> Self::Int {
        unsafe { _mm512_slli_epi32::<5>(a) }
    }

    #[inline(always)]
    unsafe fn to_float(a: Self::Int) -> Self::Float {
        unsafe { _mm512_cvtepi32_ps(a) }
    }

    #[inline(always)]
    unsafe fn float(value: f32) -> Self::Float {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::Float {
        unsafe { _mm512_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, a: Self::Float) {
        unsafe { _mm512_storeu_ps(at, a) }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn minus_fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> Self::Float {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u8) -> Self::Float {
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast())))) }
    }

    #[inline(always)]
    unsafe fn look_up(table: &[i8; 16], packed: *const u8, out: *mut u8) {
        unsafe { Avx2::look_up(table, packed, out) }
    }

    #[inline(always)]
    unsafe fn interleave(columns: *const [u8; 256], groups: *mut [u8; 64]) {
        unsafe { Avx2::interleave(columns, groups) }
    }
}
