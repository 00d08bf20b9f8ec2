//! The 512-bit bodies: sixteen rows a panel, and four byte products with their sum are one instruction (VNNI), which
//! does not saturate. Signed weights pass as `w + 128`.
//!
//! Up to four rows run on `avx512_few`'s body or `avx2_few`'s, up to eight on `avx_vnni`'s. What these methods promise is what `row_lanes::Emulated` does; the algorithm above them is
//! tested with that one on any machine.

use std::arch::x86_64::*;

use super::activation::Panels;
use super::avx2::Avx2;
use super::column::{Column, Format};
use super::dense::{self, Chains};
use super::product::{Block, DenseRows};
use super::row_lanes::RowLanes;
use super::target::{Square, Target};
use super::tile;
use crate::{GgmlType, Weight};

/// AVX-512 F, BW, DQ, VL and VNNI, and what `Avx2` needs.
pub(crate) struct Avx512;

/// [`tile::quantized`] on 512-bit registers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(crate) fn quantized(weight: &Weight, x: &Panels, block: &Block, out: &mut Target<'_>) {
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
impl RowLanes for Avx512 {
    const ROWS: usize = 16;
    const PANELS: usize = 2;
    const COLUMNS: usize = 4;
    const DOTS: [usize; 3] = [8, 8, 4];
    const SIGNED_OFFSET: i32 = 128;
    type Part = __m512i;
    type Int = __m512i;
    type Float = __m512;

    #[inline(always)]
    unsafe fn unpack<F: Format>(ty: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        unsafe { F::unpack_avx2(ty, bytes, column) }
    }

    #[inline(always)]
    unsafe fn rows(at: *const i8) -> __m512i {
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    #[inline(always)]
    unsafe fn four(at: *const u8) -> __m512i {
        unsafe { _mm512_set1_epi32(at.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn no_part() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn add_dot(part: __m512i, w: __m512i, x: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(part, w, x) }
    }

    #[inline(always)]
    unsafe fn add_scaled(sum: __m512i, part: __m512i, scale: *const i32) -> __m512i {
        unsafe {
            let scale = _mm512_set1_epi32(i32::from(scale.read_unaligned() as i16));
            _mm512_add_epi32(sum, _mm512_mullo_epi32(part, scale))
        }
    }

    #[inline(always)]
    unsafe fn unscaled(part: __m512i) -> __m512i {
        part
    }

    #[inline(always)]
    unsafe fn add_scaled_sum(sum: __m512i, dots: __m512i, scale: *const i32) -> __m512i {
        unsafe { Self::add_scaled(sum, dots, scale) }
    }

    #[inline(always)]
    unsafe fn prepare_signed(column: &mut Column) {
        column.q.iter_mut().for_each(|q| *q ^= 128);
    }

    #[inline(always)]
    unsafe fn add_signed_dot(sum: __m512i, column: *const Column, group: usize, x: __m512i) -> __m512i {
        unsafe { Self::add_dot(sum, Self::four((&raw const (*column).q).cast::<u8>().add(4 * group)), x) }
    }

    #[inline(always)]
    unsafe fn add_pairs(sum: __m512i, a: __m512i, b: *const i32) -> __m512i {
        unsafe { _mm512_dpwssd_epi32(sum, a, _mm512_set1_epi32(b.read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn load_int(at: *const i32) -> __m512i {
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    #[inline(always)]
    unsafe fn minus_times(a: __m512i, b: __m512i, factor: i32) -> __m512i {
        unsafe { _mm512_sub_epi32(a, _mm512_mullo_epi32(b, _mm512_set1_epi32(factor))) }
    }

    #[inline(always)]
    unsafe fn to_float(a: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(a) }
    }

    #[inline(always)]
    unsafe fn float(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, a: __m512) {
        unsafe { _mm512_storeu_ps(at, a) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn minus_fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn turn(from: *const f32, from_stride: usize, to: &Square) {
        unsafe {
            Avx2::turn(from, from_stride, to);
        }
    }
}

// SAFETY of all methods: as above.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Chains for Avx512 {
    const REGISTERS: usize = 32;
    type Float = __m512;

    #[inline(always)]
    unsafe fn load(at: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, a: __m512) {
        unsafe { _mm512_storeu_ps(at, a) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u8) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast())))) }
    }
}
