//! VNNI on 256-bit registers: eight rows a panel as in `avx2`, and four byte products with their sum are one instruction, which does not
//! saturate. Signed weights pass as `w + 128`, as in `avx512`. For CPUs without AVX-512 (Alder Lake and later); and for five to eight rows on
//! those with it, where half of a panel of sixteen would be empty.
//!
//! Few rows and dense weights run on [`Avx2`]'s bodies. The algorithm is that of `row_lanes::Emulated`, which is tested on any machine.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::activation::Panels;
use super::avx2::Avx2;
use super::column::{Column, Format};
use super::product::Block;
use super::row_lanes::RowLanes;
use super::target::{Square, Target};
use super::tile;
use crate::{GgmlType, Weight};

/// The set, with one of the two codes that its one new instruction has.
pub(crate) struct Vnni<C>(PhantomData<C>);

/// AVX-VNNI, and what [`Avx2`] needs.
pub(crate) type AvxVnni = Vnni<Vex>;

/// The same on CPUs that have AVX-512 VL and VNNI.
pub(crate) type NarrowAvx512 = Vnni<Evex>;

pub(crate) trait Code {
    /// Adds to each sum four products of unsigned and signed bytes.
    ///
    /// # Safety
    /// The CPU has the instruction.
    unsafe fn dpbusd(sums: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i;
}

pub(crate) struct Vex;
pub(crate) struct Evex;

impl Code for Vex {
    #[inline(always)]
    unsafe fn dpbusd(sums: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_avx_epi32(sums, unsigned, signed) }
    }
}

impl Code for Evex {
    #[inline(always)]
    unsafe fn dpbusd(sums: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_epi32(sums, unsigned, signed) }
    }
}

/// [`tile::quantized`] with VNNI on 256-bit registers.
#[target_feature(enable = "avxvnni,avx2,fma,f16c")]
pub(crate) fn quantized(weight: &Weight, x: &Panels, block: &Block, out: &mut Target<'_>) {
    // SAFETY: this function runs only where the CPU has the instruction set.
    unsafe { tile::quantized::<AvxVnni>(weight, x, block, out) }
}

/// The same in AVX-512's code.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(crate) fn quantized_narrow(weight: &Weight, x: &Panels, block: &Block, out: &mut Target<'_>) {
    // SAFETY: this function runs only where the CPU has the instruction set.
    unsafe { tile::quantized::<NarrowAvx512>(weight, x, block, out) }
}

// SAFETY of all methods: the trait's contract gives the instruction set and the pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<C: Code> RowLanes for Vnni<C> {
    const ROWS: usize = 8;
    const PANELS: usize = 2;
    const COLUMNS: usize = 3;
    const DOTS: [usize; 3] = [8, 8, 4];
    const SIGNED_OFFSET: i32 = 128;
    type Part = __m256i;
    type Int = __m256i;
    type Float = __m256;

    #[inline(always)]
    unsafe fn unpack<F: Format>(ty: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        unsafe { F::unpack_avx2(ty, bytes, column) }
    }

    #[inline(always)]
    unsafe fn rows(at: *const i8) -> __m256i {
        unsafe { Avx2::rows(at) }
    }

    #[inline(always)]
    unsafe fn four(at: *const u8) -> __m256i {
        unsafe { Avx2::four(at) }
    }

    #[inline(always)]
    unsafe fn no_part() -> __m256i {
        unsafe { Avx2::zero() }
    }

    #[inline(always)]
    unsafe fn add_dot(part: __m256i, w: __m256i, x: __m256i) -> __m256i {
        unsafe { C::dpbusd(part, w, x) }
    }

    #[inline(always)]
    unsafe fn add_scaled(sum: __m256i, part: __m256i, scale: *const i32) -> __m256i {
        unsafe { Avx2::add_scaled_sum(sum, part, scale) }
    }

    #[inline(always)]
    unsafe fn unscaled(part: __m256i) -> __m256i {
        part
    }

    #[inline(always)]
    unsafe fn add_scaled_sum(sum: __m256i, dots: __m256i, scale: *const i32) -> __m256i {
        unsafe { Avx2::add_scaled_sum(sum, dots, scale) }
    }

    #[inline(always)]
    unsafe fn prepare_signed(column: &mut Column) {
        column.q.iter_mut().for_each(|q| *q ^= 128);
    }

    #[inline(always)]
    unsafe fn add_signed_dot(sum: __m256i, column: *const Column, group: usize, x: __m256i) -> __m256i {
        unsafe { Self::add_dot(sum, Self::four((&raw const (*column).q).cast::<u8>().add(4 * group)), x) }
    }

    #[inline(always)]
    unsafe fn add_pairs(sum: __m256i, a: __m256i, b: *const i32) -> __m256i {
        unsafe { Avx2::add_pairs(sum, a, b) }
    }

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        unsafe { Avx2::zero() }
    }

    #[inline(always)]
    unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
        unsafe { Avx2::add(a, b) }
    }

    #[inline(always)]
    unsafe fn load_int(at: *const i32) -> __m256i {
        unsafe { Avx2::load_int(at) }
    }

    #[inline(always)]
    unsafe fn minus_times(a: __m256i, b: __m256i, factor: i32) -> __m256i {
        unsafe { Avx2::minus_times(a, b, factor) }
    }

    #[inline(always)]
    unsafe fn to_float(a: __m256i) -> __m256 {
        unsafe { Avx2::to_float(a) }
    }

    #[inline(always)]
    unsafe fn float(value: f32) -> __m256 {
        unsafe { Avx2::float(value) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> __m256 {
        unsafe { <Avx2 as RowLanes>::load(at) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, a: __m256) {
        unsafe { <Avx2 as RowLanes>::store(at, a) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { Avx2::mul(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { <Avx2 as RowLanes>::fma(a, b, c) }
    }

    #[inline(always)]
    unsafe fn minus_fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { Avx2::minus_fma(a, b, c) }
    }

    #[inline(always)]
    unsafe fn turn(from: *const f32, from_stride: usize, to: &Square) {
        unsafe { Avx2::turn(from, from_stride, to) }
    }
}
