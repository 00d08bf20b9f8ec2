//! The lanes of x86-64: AVX2 with sixteen lanes in two registers, AVX-512 with sixteen in one.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use half::f16;

use super::{Kernel, Lanes};

/// # Safety
/// The machine must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
pub unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<X86<Two>>()
}

/// # Safety
/// The machine must have AVX-512 F, BW, DQ and VL besides AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
#[inline(never)]
pub unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<X86<One>>()
}

/// One `__m256` at a time, and sixteen lanes as `W` has them. Private: only `run_avx2` and `run_avx512` may name it, so
/// every method runs under their features.
#[derive(Debug, Clone, Copy)]
struct X86<W>(PhantomData<W>);

/// Sixteen lanes in two registers: AVX2.
#[derive(Debug, Clone, Copy)]
struct Two;

/// Sixteen lanes in one register: AVX-512.
#[derive(Debug, Clone, Copy)]
struct One;

/// What differs between the two. Contracts as in [`Lanes`], and the features of the set that has it.
trait Wide: Copy {
    type V: Copy;
    const ROWS: usize;
    const WIDE: usize;
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn load_f16(from: *const f16) -> Self::V;
    unsafe fn load_i8(from: *const i8) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
}

// SAFETY (all blocks below): `Two` and `One` are reachable through `run_avx2` and `run_avx512` alone, whose callers have
// found the features; loads and stores are unaligned ones over values that the method's contract grants.
impl Wide for Two {
    type V = [__m256; 2];
    const ROWS: usize = 6;
    const WIDE: usize = 6;

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: features as above.
        unsafe { run_avx2(kernel) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> [__m256; 2] {
        [X86::<Self>::splat(x); 2]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [__m256; 2] {
        // SAFETY: readable for 16 values by the contract; so below.
        unsafe { [X86::<Self>::load(from), X86::<Self>::load(from.add(8))] }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [X86::<Self>::load_f16(from), X86::<Self>::load_f16(from.add(8))] }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [X86::<Self>::load_i8(from), X86::<Self>::load_i8(from.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: [__m256; 2]) {
        // SAFETY: writable for 16 values by the contract.
        unsafe {
            X86::<Self>::store(to, v[0]);
            X86::<Self>::store(to.add(8), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn mul(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [X86::<Self>::mul(a[0], b[0]), X86::<Self>::mul(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn fma(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        [X86::<Self>::fma(a[0], b[0], c[0]), X86::<Self>::fma(a[1], b[1], c[1])]
    }
}

impl Wide for One {
    type V = __m512;
    const ROWS: usize = 12;
    const WIDE: usize = 24;

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: features as above.
        unsafe { run_avx512(kernel) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        // SAFETY: features as above.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: features as above; readable by the contract.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> __m512 {
        // SAFETY: features as above; readable by the contract.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> __m512 {
        // SAFETY: features as above; readable by the contract.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        // SAFETY: features as above; writable by the contract.
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: features as above.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: features as above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
}

// SAFETY (all blocks below): as above.
impl<W: Wide> Lanes for X86<W> {
    type V = __m256;
    type Wide = W::V;
    const MICRO_ROWS_MAX: usize = W::ROWS;
    const MICRO_WIDE_MAX: usize = W::WIDE;

    #[inline(always)]
    fn call<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: features as above.
        unsafe { W::call(kernel) }
    }

    #[inline(always)]
    fn wide_splat(x: f32) -> W::V {
        // SAFETY: features as above.
        unsafe { W::splat(x) }
    }
    #[inline(always)]
    unsafe fn wide_load(from: *const f32) -> W::V {
        // SAFETY: the same contract; so below.
        unsafe { W::load(from) }
    }
    #[inline(always)]
    unsafe fn wide_load_f16(from: *const f16) -> W::V {
        // SAFETY: as above.
        unsafe { W::load_f16(from) }
    }
    #[inline(always)]
    unsafe fn wide_load_i8(from: *const i8) -> W::V {
        // SAFETY: as above.
        unsafe { W::load_i8(from) }
    }
    #[inline(always)]
    unsafe fn wide_store(to: *mut f32, v: W::V) {
        // SAFETY: as above.
        unsafe { W::store(to, v) }
    }
    #[inline(always)]
    fn wide_mul(a: W::V, b: W::V) -> W::V {
        // SAFETY: features as above.
        unsafe { W::mul(a, b) }
    }
    #[inline(always)]
    fn wide_fma(a: W::V, b: W::V, c: W::V) -> W::V {
        // SAFETY: features as above.
        unsafe { W::fma(a, b, c) }
    }

    #[inline(always)]
    fn splat(x: f32) -> __m256 {
        // SAFETY: features as above.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: features as above; readable by the contract.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> __m256 {
        // SAFETY: features as above; readable by the contract.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> __m256 {
        // SAFETY: features as above; readable by the contract.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m256) {
        // SAFETY: features as above; writable by the contract.
        unsafe { _mm256_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut f16, v: __m256) {
        // SAFETY: features as above; writable by the contract.
        unsafe { _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    #[inline(always)]
    fn prefetch(at: *const u8) {
        // SAFETY: a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: features as above.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(a: __m256, b: __m256) -> __m256 {
        // SAFETY: features as above.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: features as above.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(a: __m256, b: __m256) -> __m256 {
        // SAFETY: features as above.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: features as above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(a: __m256, b: __m256) -> __m256 {
        // SAFETY: features as above.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn round(a: __m256) -> __m256 {
        // SAFETY: features as above.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn power_of_two(n: __m256) -> __m256 {
        // SAFETY: features as above.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)))) }
    }
    #[inline(always)]
    fn select_less(a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        // SAFETY: features as above.
        unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
    }
    #[inline(always)]
    fn max_lane(a: __m256) -> f32 {
        // SAFETY: features as above.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    fn sum_lanes(a: __m256) -> f32 {
        // SAFETY: features as above.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}
