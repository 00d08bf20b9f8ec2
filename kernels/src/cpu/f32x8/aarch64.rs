//! The lanes of 64-bit ARM: NEON, which every such CPU has, eight lanes in two registers and sixteen in four.

use std::arch::aarch64::*;
use std::arch::asm;

use half::f16;

use super::{Kernel, Lanes};

/// NEON. Six rows of sixteen lanes fill 24 of the 32 registers.
#[derive(Debug, Clone, Copy)]
pub struct Neon;

type Four = float32x4_t;

#[inline(always)]
fn map<const N: usize>(a: [Four; N], f: impl Fn(Four) -> Four) -> [Four; N] {
    let mut out = a;
    for i in 0..N {
        out[i] = f(a[i]);
    }
    out
}

#[inline(always)]
fn map2<const N: usize>(a: [Four; N], b: [Four; N], f: impl Fn(Four, Four) -> Four) -> [Four; N] {
    let mut out = a;
    for i in 0..N {
        out[i] = f(a[i], b[i]);
    }
    out
}

// SAFETY (all blocks below): NEON is in every 64-bit ARM CPU; loads and stores need no alignment, and are of values that the caller's
// contract grants.

#[inline(always)]
fn splat<const N: usize>(x: f32) -> [Four; N] {
    // SAFETY: as above.
    [unsafe { vdupq_n_f32(x) }; N]
}

#[inline(always)]
fn mul<const N: usize>(a: [Four; N], b: [Four; N]) -> [Four; N] {
    // SAFETY: as above.
    map2(a, b, |a, b| unsafe { vmulq_f32(a, b) })
}

#[inline(always)]
fn fma<const N: usize>(a: [Four; N], b: [Four; N], c: [Four; N]) -> [Four; N] {
    let mut out = c;
    for i in 0..N {
        // SAFETY: as above.
        out[i] = unsafe { vfmaq_f32(c[i], a[i], b[i]) };
    }
    out
}

/// # Safety
/// `from` must be readable for `4 * N` values; so in the other loads, and for stores `to` writable.
#[inline(always)]
unsafe fn load<const N: usize>(from: *const f32) -> [Four; N] {
    let mut out = splat(0.0);
    for (i, out) in out.iter_mut().enumerate() {
        // SAFETY: as above.
        *out = unsafe { vld1q_f32(from.add(4 * i)) };
    }
    out
}

/// # Safety
/// As [`load`].
#[inline(always)]
unsafe fn load_f16<const N: usize>(from: *const f16) -> [Four; N] {
    let mut out = splat(0.0);
    for i in 0..N / 2 {
        // SAFETY: as above.
        (out[2 * i], out[2 * i + 1]) = unsafe { widen(vld1q_u16(from.add(8 * i).cast())) };
    }
    out
}

/// # Safety
/// As [`load`].
#[inline(always)]
unsafe fn load_i8<const N: usize>(from: *const i8) -> [Four; N] {
    let mut out = splat(0.0);
    for i in 0..N / 2 {
        // SAFETY: as above.
        unsafe {
            let eight = vmovl_s8(vld1_s8(from.add(8 * i)));
            out[2 * i] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(eight)));
            out[2 * i + 1] = vcvtq_f32_s32(vmovl_high_s16(eight));
        }
    }
    out
}

/// # Safety
/// As [`load`].
#[inline(always)]
unsafe fn store<const N: usize>(to: *mut f32, v: [Four; N]) {
    for (i, v) in v.into_iter().enumerate() {
        // SAFETY: as above.
        unsafe { vst1q_f32(to.add(4 * i), v) };
    }
}

/// Eight half-precision numbers. In assembly: the intrinsics are younger than the oldest Rust that is supported (1.90).
#[inline(always)]
pub(in crate::cpu) fn widen(halves: uint16x8_t) -> (Four, Four) {
    let (low, high): (Four, Four);
    // SAFETY: as above; nothing but registers.
    unsafe {
        asm!(
            "fcvtl {low:v}.4s, {halves:v}.4h",
            "fcvtl2 {high:v}.4s, {halves:v}.8h",
            low = out(vreg) low,
            high = lateout(vreg) high,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    (low, high)
}

/// To nearest, ties to even: the mode that Rust's numbers have everywhere.
#[inline(always)]
fn narrow(low: Four, high: Four) -> uint16x8_t {
    let halves: uint16x8_t;
    // SAFETY: as above; nothing but registers.
    unsafe {
        asm!(
            "fcvtn {halves:v}.4h, {low:v}.4s",
            "fcvtn2 {halves:v}.8h, {high:v}.4s",
            halves = out(vreg) halves,
            low = in(vreg) low,
            high = in(vreg) high,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    halves
}

impl Lanes for Neon {
    type V = [Four; 2];
    type Wide = [Four; 4];
    const MICRO_ROWS_MAX: usize = 6;
    const MICRO_WIDE_MAX: usize = 6;

    #[inline(never)]
    fn call<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Self>()
    }

    #[inline(always)]
    fn splat(x: f32) -> [Four; 2] {
        splat(x)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [Four; 2] {
        // SAFETY: the same contract; so below.
        unsafe { load(from) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> [Four; 2] {
        // SAFETY: as above.
        unsafe { load_f16(from) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> [Four; 2] {
        // SAFETY: as above.
        unsafe { load_i8(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: [Four; 2]) {
        // SAFETY: as above.
        unsafe { store(to, v) }
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut f16, v: [Four; 2]) {
        // SAFETY: writable for 8 values by the contract.
        unsafe { vst1q_u16(to.cast(), narrow(v[0], v[1])) }
    }
    #[inline(always)]
    fn prefetch(at: *const u8) {
        crate::cpu::tile::prefetch(at, 1);
    }
    #[inline(always)]
    fn add(a: [Four; 2], b: [Four; 2]) -> [Four; 2] {
        // SAFETY: as above.
        map2(a, b, |a, b| unsafe { vaddq_f32(a, b) })
    }
    #[inline(always)]
    fn sub(a: [Four; 2], b: [Four; 2]) -> [Four; 2] {
        // SAFETY: as above.
        map2(a, b, |a, b| unsafe { vsubq_f32(a, b) })
    }
    #[inline(always)]
    fn mul(a: [Four; 2], b: [Four; 2]) -> [Four; 2] {
        mul(a, b)
    }
    #[inline(always)]
    fn div(a: [Four; 2], b: [Four; 2]) -> [Four; 2] {
        // SAFETY: as above.
        map2(a, b, |a, b| unsafe { vdivq_f32(a, b) })
    }
    #[inline(always)]
    fn fma(a: [Four; 2], b: [Four; 2], c: [Four; 2]) -> [Four; 2] {
        fma(a, b, c)
    }
    /// Not `fmax`, which makes a NaN of one in `a`.
    #[inline(always)]
    fn max(a: [Four; 2], b: [Four; 2]) -> [Four; 2] {
        // SAFETY: as above.
        map2(a, b, |a, b| unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) })
    }
    #[inline(always)]
    fn round(a: [Four; 2]) -> [Four; 2] {
        // SAFETY: as above.
        map(a, |a| unsafe { vrndnq_f32(a) })
    }
    #[inline(always)]
    fn power_of_two(n: [Four; 2]) -> [Four; 2] {
        // SAFETY: as above.
        map(n, |n| unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)))) })
    }
    #[inline(always)]
    fn select_less(a: [Four; 2], b: [Four; 2], yes: [Four; 2], no: [Four; 2]) -> [Four; 2] {
        let mut out = no;
        for i in 0..2 {
            // SAFETY: as above.
            out[i] = unsafe { vbslq_f32(vcltq_f32(a[i], b[i]), yes[i], no[i]) };
        }
        out
    }
    #[inline(always)]
    fn max_lane(a: [Four; 2]) -> f32 {
        // SAFETY: as above.
        unsafe { vmaxnmvq_f32(vmaxnmq_f32(a[0], a[1])) }
    }
    #[inline(always)]
    fn sum_lanes(a: [Four; 2]) -> f32 {
        // SAFETY: as above.
        unsafe {
            let four = vaddq_f32(a[0], a[1]);
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }

    #[inline(always)]
    fn wide_splat(x: f32) -> [Four; 4] {
        splat(x)
    }
    #[inline(always)]
    unsafe fn wide_load(from: *const f32) -> [Four; 4] {
        // SAFETY: the same contract; so below.
        unsafe { load(from) }
    }
    #[inline(always)]
    unsafe fn wide_load_f16(from: *const f16) -> [Four; 4] {
        // SAFETY: as above.
        unsafe { load_f16(from) }
    }
    #[inline(always)]
    unsafe fn wide_load_i8(from: *const i8) -> [Four; 4] {
        // SAFETY: as above.
        unsafe { load_i8(from) }
    }
    #[inline(always)]
    unsafe fn wide_store(to: *mut f32, v: [Four; 4]) {
        // SAFETY: as above.
        unsafe { store(to, v) }
    }
    #[inline(always)]
    fn wide_mul(a: [Four; 4], b: [Four; 4]) -> [Four; 4] {
        mul(a, b)
    }
    #[inline(always)]
    fn wide_fma(a: [Four; 4], b: [Four; 4], c: [Four; 4]) -> [Four; 4] {
        fma(a, b, c)
    }
}
