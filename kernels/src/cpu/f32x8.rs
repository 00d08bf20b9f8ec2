//! Eight f32 lanes, written once and compiled per instruction set.
//!
//! A kernel is generic over [`Lanes`] and [`run`] instantiates it for an instruction set. Every operation here is exactly
//! rounded (IEEE 754, fused multiply-add included) or spelled out lane by lane (the sums), so all sets give the same bits.
//! Knows no op.

use half::f16;

use super::isa::Isa;

/// A computation over lanes. `run` and everything it calls with `L` must be `#[inline(always)]`: only code inlined into
/// the instantiation is compiled with the set's instructions.
pub trait Kernel {
    type Output;
    fn run<L: Lanes>(self) -> Self::Output;
}

/// Runs `kernel` with the instructions of `isa`, which this CPU must have.
pub fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        Isa::Scalar | Isa::Emulated512 => kernel.run::<Scalar>(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => {
            assert!(Isa::Avx2.is_available(), "this CPU has no AVX2, FMA and F16C");
            // SAFETY: the features were found just above (a cached look-up).
            unsafe { x86::run_avx2(kernel) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 => panic!("{isa} is for x86-64"),
    }
}

/// Eight f32 values at a time. Pointers need no alignment.
pub trait Lanes: Copy {
    type V: Copy;
    /// Rows of the largest register tile worth compiling: 6 rows x 16 lanes fill 12 of AVX2's 16 registers.
    const MICRO_ROWS_MAX: usize;

    /// Calls a kernel from within a kernel, as a function of its own: compiled once, not inlined where it is called.
    fn call<K: Kernel>(kernel: K) -> K::Output;

    fn splat(x: f32) -> Self::V;
    /// # Safety
    /// `from` must be readable for 8 values.
    unsafe fn load(from: *const f32) -> Self::V;
    /// # Safety
    /// `from` must be readable for 8 values.
    unsafe fn load_f16(from: *const f16) -> Self::V;
    /// # Safety
    /// `to` must be writable for 8 values.
    unsafe fn store(to: *mut f32, v: Self::V);
    /// Rounds to nearest, ties to even.
    ///
    /// # Safety
    /// `to` must be writable for 8 values.
    unsafe fn store_f16(to: *mut f16, v: Self::V);
    /// Asks for the cache line behind `at`, which may be any address.
    fn prefetch(at: *const u8);

    fn add(a: Self::V, b: Self::V) -> Self::V;
    fn sub(a: Self::V, b: Self::V) -> Self::V;
    fn mul(a: Self::V, b: Self::V) -> Self::V;
    fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a > b ? a : b` per lane.
    fn max(a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn round(a: Self::V) -> Self::V;
    /// `2^n` for whole `n` in -126..=127; other lanes hold anything.
    fn power_of_two(n: Self::V) -> Self::V;
    /// `a < b ? yes : no` per lane.
    fn select_less(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// The largest lane (no order matters); NaN lanes may be passed over.
    fn max_lane(a: Self::V) -> f32;
    /// `((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))` by lane number.
    fn sum_lanes(a: Self::V) -> f32;

    /// Sum of 32 values in the one order used everywhere: `(v0 + v1) + (v2 + v3)`, then [`Lanes::sum_lanes`].
    #[inline(always)]
    fn sum32(v: [Self::V; 4]) -> f32 {
        Self::sum_lanes(Self::add(Self::add(v[0], v[1]), Self::add(v[2], v[3])))
    }
}

/// What a page of the cache is made of.
pub trait Element: Copy + Default + Send + Sync {
    /// # Safety
    /// `from` must be readable for 8 values.
    unsafe fn load<L: Lanes>(from: *const Self) -> L::V;
    /// Rounds to nearest, ties to even.
    ///
    /// # Safety
    /// `to` must be writable for 8 values.
    unsafe fn store<L: Lanes>(to: *mut Self, v: L::V);
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const f32) -> L::V {
        // SAFETY: the same contract.
        unsafe { L::load(from) }
    }
    #[inline(always)]
    unsafe fn store<L: Lanes>(to: *mut f32, v: L::V) {
        // SAFETY: the same contract.
        unsafe { L::store(to, v) }
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const f16) -> L::V {
        // SAFETY: the same contract.
        unsafe { L::load_f16(from) }
    }
    #[inline(always)]
    unsafe fn store<L: Lanes>(to: *mut f16, v: L::V) {
        // SAFETY: the same contract.
        unsafe { L::store_f16(to, v) }
    }
}

/// Plain Rust.
#[derive(Debug, Clone, Copy)]
pub struct Scalar;

#[inline(always)]
fn map2(a: [f32; 8], b: [f32; 8], f: impl Fn(f32, f32) -> f32) -> [f32; 8] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Lanes for Scalar {
    type V = [f32; 8];
    const MICRO_ROWS_MAX: usize = 1;

    #[inline(never)]
    fn call<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Self>()
    }

    #[inline(always)]
    fn splat(x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 8] {
        // SAFETY: readable for 8 values by the contract; unaligned reads are asked for.
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> [f32; 8] {
        // SAFETY: as in `load`.
        unsafe { from.cast::<[f16; 8]>().read_unaligned() }.map(f16::to_f32)
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: [f32; 8]) {
        // SAFETY: writable for 8 values by the contract; an unaligned write is asked for.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut f16, v: [f32; 8]) {
        // SAFETY: as in `store`.
        unsafe { to.cast::<[f16; 8]>().write_unaligned(v.map(f16::from_f32)) }
    }
    #[inline(always)]
    fn prefetch(_at: *const u8) {}
    #[inline(always)]
    fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        map2(a, b, |x, y| x + y)
    }
    #[inline(always)]
    fn sub(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        map2(a, b, |x, y| x - y)
    }
    #[inline(always)]
    fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        map2(a, b, |x, y| x * y)
    }
    #[inline(always)]
    fn div(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        map2(a, b, |x, y| x / y)
    }
    #[inline(always)]
    fn fma(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        map2(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    fn round(a: [f32; 8]) -> [f32; 8] {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn power_of_two(n: [f32; 8]) -> [f32; 8] {
        n.map(|n| f32::from_bits((n as i32).wrapping_add(127).wrapping_shl(23) as u32))
    }
    #[inline(always)]
    fn select_less(a: [f32; 8], b: [f32; 8], yes: [f32; 8], no: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] < b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn max_lane(a: [f32; 8]) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    fn sum_lanes(a: [f32; 8]) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::f16;

    use super::{Kernel, Lanes};

    /// # Safety
    /// The machine must have AVX2, FMA and F16C.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline(never)]
    pub unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Avx2>()
    }

    /// One `__m256` at a time. Private: only `run_avx2` may name it, so every method runs under its features.
    #[derive(Debug, Clone, Copy)]
    struct Avx2;

    // SAFETY (all blocks below): `Avx2` is reachable through `run_avx2` alone, whose caller has found AVX2, FMA and F16C;
    // loads and stores are unaligned ones over 8 values that the method's contract grants.
    impl Lanes for Avx2 {
        type V = __m256;
        const MICRO_ROWS_MAX: usize = 6;

        #[inline(always)]
        fn call<K: Kernel>(kernel: K) -> K::Output {
            // SAFETY: features as above.
            unsafe { run_avx2(kernel) }
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
}
