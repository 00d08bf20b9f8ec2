//! The bodies of 64-bit ARM with the dot-product instructions (Apple silicon, Cortex-A76 and later): four rows a panel. `sdot` takes
//! signed bytes on both sides and does not saturate, so levels pass as they are, unsigned ones below 64 included.
//!
//! The same body serves few rows: a panel of four costs one row little more than itself. Never run on an ARM CPU yet: the tests run it under
//! qemu (`.ci/check-neon`), and the algorithm is that of `row_lanes::Emulated`, tested on any machine.

use std::arch::aarch64::*;
use std::arch::asm;

use super::activation::Panels;
use super::column::{Column, Format};
use super::dense::Chains;
use super::f32x8::aarch64::widen;
use super::product::Block;
use super::row_lanes::{RowLanes, turn_one_by_one};
use super::target::{Square, Target};
use super::tile;
use crate::{GgmlType, Weight};

/// NEON with the dot-product instructions.
pub(crate) struct Neon;

/// [`tile::quantized`] on 128-bit registers.
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn quantized(weight: &Weight, x: &Panels, block: &Block, out: &mut Target<'_>) {
    // SAFETY: this function runs only where the CPU has the instruction set.
    unsafe { tile::quantized::<Neon>(weight, x, block, out) }
}

// SAFETY of all methods: the trait's contract gives the instruction set and the pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl RowLanes for Neon {
    const ROWS: usize = 4;
    const PANELS: usize = 2;
    const COLUMNS: usize = 4;
    const DOTS: [usize; 3] = [8, 8, 4];
    const SIGNED_OFFSET: i32 = 0;
    type Part = int32x4_t;
    type Int = int32x4_t;
    type Float = float32x4_t;

    #[inline(always)]
    unsafe fn unpack<F: Format>(ty: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        F::unpack(ty, bytes, column)
    }

    #[inline(always)]
    unsafe fn rows(at: *const i8) -> int32x4_t {
        unsafe { vreinterpretq_s32_s8(vld1q_s8(at)) }
    }

    #[inline(always)]
    unsafe fn four(at: *const u8) -> int32x4_t {
        unsafe { vdupq_n_s32(at.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn no_part() -> int32x4_t {
        unsafe { Self::zero() }
    }

    /// In assembly: the intrinsic is not stable yet (Rust 1.95).
    #[inline(always)]
    unsafe fn add_dot(part: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t {
        let mut sum = part;
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b",
                sum = inout(vreg) sum,
                w = in(vreg) w,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }

    #[inline(always)]
    unsafe fn add_scaled(sum: int32x4_t, part: int32x4_t, scale: *const i32) -> int32x4_t {
        unsafe { vmlaq_n_s32(sum, part, i32::from(scale.read_unaligned() as i16)) }
    }

    #[inline(always)]
    unsafe fn unscaled(part: int32x4_t) -> int32x4_t {
        part
    }

    #[inline(always)]
    unsafe fn add_scaled_sum(sum: int32x4_t, dots: int32x4_t, scale: *const i32) -> int32x4_t {
        unsafe { Self::add_scaled(sum, dots, scale) }
    }

    /// Nothing to do.
    #[inline(always)]
    unsafe fn prepare_signed(_column: &mut Column) {}

    #[inline(always)]
    unsafe fn add_signed_dot(sum: int32x4_t, column: *const Column, group: usize, x: int32x4_t) -> int32x4_t {
        unsafe { Self::add_dot(sum, Self::four((&raw const (*column).q).cast::<u8>().add(4 * group)), x) }
    }

    #[inline(always)]
    unsafe fn add_pairs(sum: int32x4_t, a: int32x4_t, b: *const i32) -> int32x4_t {
        unsafe {
            let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(vdupq_n_s32(b.read_unaligned())));
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
            vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(a, b)))
        }
    }

    #[inline(always)]
    unsafe fn zero() -> int32x4_t {
        unsafe { vdupq_n_s32(0) }
    }

    #[inline(always)]
    unsafe fn add(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vaddq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn load_int(at: *const i32) -> int32x4_t {
        unsafe { vld1q_s32(at) }
    }

    #[inline(always)]
    unsafe fn minus_times(a: int32x4_t, b: int32x4_t, factor: i32) -> int32x4_t {
        unsafe { vmlsq_n_s32(a, b, factor) }
    }

    #[inline(always)]
    unsafe fn to_float(a: int32x4_t) -> float32x4_t {
        unsafe { vcvtq_f32_s32(a) }
    }

    #[inline(always)]
    unsafe fn float(value: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(at) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, a: float32x4_t) {
        unsafe { vst1q_f32(at, a) }
    }

    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn minus_fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmsq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn turn(from: *const f32, from_stride: usize, to: &Square) {
        unsafe { turn_one_by_one(from, from_stride, to) }
    }
}

// SAFETY of all methods: as above.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Chains for Neon {
    /// Thirty-two of a quarter of the lanes.
    const REGISTERS: usize = 8;
    type Float = [float32x4_t; 4];

    #[inline(always)]
    unsafe fn load(at: *const f32) -> [float32x4_t; 4] {
        unsafe { [vld1q_f32(at), vld1q_f32(at.add(4)), vld1q_f32(at.add(8)), vld1q_f32(at.add(12))] }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, a: [float32x4_t; 4]) {
        for (i, a) in a.into_iter().enumerate() {
            unsafe { vst1q_f32(at.add(4 * i), a) };
        }
    }

    #[inline(always)]
    unsafe fn fma(a: [float32x4_t; 4], b: [float32x4_t; 4], c: [float32x4_t; 4]) -> [float32x4_t; 4] {
        unsafe { [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1]), vfmaq_f32(c[2], a[2], b[2]), vfmaq_f32(c[3], a[3], b[3])] }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> [float32x4_t; 4] {
        let ((a, b), (c, d)) = unsafe { (widen(vld1q_u16(at.cast())), widen(vld1q_u16(at.add(16).cast()))) };
        [a, b, c, d]
    }

    /// A bfloat16 is the upper half of an f32.
    #[inline(always)]
    unsafe fn load_bf16(at: *const u8) -> [float32x4_t; 4] {
        unsafe {
            let (zero, low, high) = (vdupq_n_u16(0), vld1q_u16(at.cast()), vld1q_u16(at.add(16).cast()));
            [vzip1q_u16(zero, low), vzip2q_u16(zero, low), vzip1q_u16(zero, high), vzip2q_u16(zero, high)]
                .map(|four| vreinterpretq_f32_u16(four))
        }
    }
}
