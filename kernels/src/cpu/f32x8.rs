//! Eight and sixteen f32 lanes, written once and compiled per instruction set.
//!
//! A kernel is generic over [`Lanes`] and [`run`] instantiates it for an instruction set. Every operation here is exactly
//! rounded (IEEE 754, fused multiply-add included) or spelled out lane by lane (the sums), so all sets give the same bits.
//! Knows no op.

#[cfg(target_arch = "aarch64")]
pub(super) mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod tests;

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
        Isa::Scalar => kernel.run::<Scalar>(),
        Isa::Emulated512 => kernel.run::<Plain<2>>(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => {
            assert!(Isa::Avx2.is_available(), "this CPU has no AVX2, FMA and F16C");
            // SAFETY: the features were found just above (a cached look-up).
            unsafe { x86::run_avx2(kernel) }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => {
            assert!(Isa::Avx512.is_available(), "this CPU has no AVX-512");
            // SAFETY: as above.
            unsafe { x86::run_avx512(kernel) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::AvxVnni | Isa::Avx512 => panic!("{isa} is for x86-64"),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::I8mm => kernel.run::<aarch64::Neon>(),
        #[cfg(not(target_arch = "aarch64"))]
        Isa::Neon | Isa::I8mm => panic!("{isa} is for 64-bit ARM"),
    }
}

/// Eight f32 values at a time, and sixteen where a register tile is built of them. Pointers need no alignment.
pub trait Lanes: Copy {
    type V: Copy;
    /// Sixteen lanes: one register or two.
    type Wide: Copy;
    /// Rows of the largest register tile worth compiling: 6 rows x 16 lanes fill 12 of AVX2's 16 registers,
    /// 12 rows x 32 lanes 24 of AVX-512's 32.
    const MICRO_ROWS_MAX: usize;
    /// [`Lanes::Wide`] values that such a tile may hold.
    const MICRO_WIDE_MAX: usize;

    /// Calls a kernel from within a kernel, as a function of its own: compiled once, not inlined where it is called.
    fn call<K: Kernel>(kernel: K) -> K::Output;

    fn splat(x: f32) -> Self::V;
    /// # Safety
    /// `from` must be readable for 8 values.
    unsafe fn load(from: *const f32) -> Self::V;
    /// # Safety
    /// `from` must be readable for 8 values.
    unsafe fn load_f16(from: *const f16) -> Self::V;
    /// Eight signed bytes, widened (exact).
    ///
    /// # Safety
    /// `from` must be readable for 8 values.
    unsafe fn load_i8(from: *const i8) -> Self::V;
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

    fn wide_splat(x: f32) -> Self::Wide;
    /// # Safety
    /// `from` must be readable for 16 values.
    unsafe fn wide_load(from: *const f32) -> Self::Wide;
    /// # Safety
    /// `from` must be readable for 16 values.
    unsafe fn wide_load_f16(from: *const f16) -> Self::Wide;
    /// # Safety
    /// `from` must be readable for 16 values.
    unsafe fn wide_load_i8(from: *const i8) -> Self::Wide;
    /// # Safety
    /// `to` must be writable for 16 values.
    unsafe fn wide_store(to: *mut f32, v: Self::Wide);
    fn wide_mul(a: Self::Wide, b: Self::Wide) -> Self::Wide;
    /// `a * b + c`, rounded once.
    fn wide_fma(a: Self::Wide, b: Self::Wide, c: Self::Wide) -> Self::Wide;

    /// Sum of 32 values in the one order used everywhere: `(v0 + v1) + (v2 + v3)`, then [`Lanes::sum_lanes`].
    #[inline(always)]
    fn sum32(v: [Self::V; 4]) -> f32 {
        Self::sum_lanes(Self::add(Self::add(v[0], v[1]), Self::add(v[2], v[3])))
    }
}

/// How many lanes a panel of a register tile has: the same code for sixteen and for what is left of eight.
pub trait Width<L: Lanes>: Copy {
    type V: Copy;
    const LANES: usize;

    fn splat(x: f32) -> Self::V;
    /// # Safety
    /// `from` must be readable for [`Width::LANES`] values; so in the other loads.
    unsafe fn load(from: *const f32) -> Self::V;
    /// # Safety
    /// As [`Width::load`].
    unsafe fn load_f16(from: *const f16) -> Self::V;
    /// # Safety
    /// As [`Width::load`].
    unsafe fn load_i8(from: *const i8) -> Self::V;
    /// # Safety
    /// `to` must be writable for [`Width::LANES`] values.
    unsafe fn store(to: *mut f32, v: Self::V);
    fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
}

#[derive(Debug, Clone, Copy)]
pub struct Eight;

#[derive(Debug, Clone, Copy)]
pub struct Sixteen;

// SAFETY (all blocks below): the same contracts.
impl<L: Lanes> Width<L> for Eight {
    type V = L::V;
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(x: f32) -> L::V {
        L::splat(x)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> L::V {
        // SAFETY: as above.
        unsafe { L::load(from) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> L::V {
        // SAFETY: as above.
        unsafe { L::load_f16(from) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> L::V {
        // SAFETY: as above.
        unsafe { L::load_i8(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: L::V) {
        // SAFETY: as above.
        unsafe { L::store(to, v) }
    }
    #[inline(always)]
    fn mul(a: L::V, b: L::V) -> L::V {
        L::mul(a, b)
    }
    #[inline(always)]
    fn fma(a: L::V, b: L::V, c: L::V) -> L::V {
        L::fma(a, b, c)
    }
}

// SAFETY (all blocks below): the same contracts.
impl<L: Lanes> Width<L> for Sixteen {
    type V = L::Wide;
    const LANES: usize = 16;

    #[inline(always)]
    fn splat(x: f32) -> L::Wide {
        L::wide_splat(x)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> L::Wide {
        // SAFETY: as above.
        unsafe { L::wide_load(from) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> L::Wide {
        // SAFETY: as above.
        unsafe { L::wide_load_f16(from) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> L::Wide {
        // SAFETY: as above.
        unsafe { L::wide_load_i8(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: L::Wide) {
        // SAFETY: as above.
        unsafe { L::wide_store(to, v) }
    }
    #[inline(always)]
    fn mul(a: L::Wide, b: L::Wide) -> L::Wide {
        L::wide_mul(a, b)
    }
    #[inline(always)]
    fn fma(a: L::Wide, b: L::Wide, c: L::Wide) -> L::Wide {
        L::wide_fma(a, b, c)
    }
}

/// Plain Rust, with register tiles of up to `ROWS` rows.
#[derive(Debug, Clone, Copy)]
pub struct Plain<const ROWS: usize>;

/// Plain code knows no register tiles; `Plain<2>` takes panels of 32 lanes as AVX-512 does, so that they are tested on any machine.
pub type Scalar = Plain<1>;

#[inline(always)]
fn map2(a: [f32; 8], b: [f32; 8], f: impl Fn(f32, f32) -> f32) -> [f32; 8] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl<const ROWS: usize> Lanes for Plain<ROWS> {
    type V = [f32; 8];
    type Wide = [[f32; 8]; 2];
    const MICRO_ROWS_MAX: usize = ROWS;
    const MICRO_WIDE_MAX: usize = if ROWS == 1 { 1 } else { 2 * ROWS };

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
    unsafe fn load_i8(from: *const i8) -> [f32; 8] {
        // SAFETY: as in `load`.
        unsafe { from.cast::<[i8; 8]>().read() }.map(f32::from)
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

    #[inline(always)]
    fn wide_splat(x: f32) -> Self::Wide {
        [Self::splat(x); 2]
    }
    #[inline(always)]
    unsafe fn wide_load(from: *const f32) -> Self::Wide {
        // SAFETY: readable for 16 values by the contract; so below.
        unsafe { [Self::load(from), Self::load(from.add(8))] }
    }
    #[inline(always)]
    unsafe fn wide_load_f16(from: *const f16) -> Self::Wide {
        // SAFETY: as above.
        unsafe { [Self::load_f16(from), Self::load_f16(from.add(8))] }
    }
    #[inline(always)]
    unsafe fn wide_load_i8(from: *const i8) -> Self::Wide {
        // SAFETY: as above.
        unsafe { [Self::load_i8(from), Self::load_i8(from.add(8))] }
    }
    #[inline(always)]
    unsafe fn wide_store(to: *mut f32, v: Self::Wide) {
        // SAFETY: writable for 16 values by the contract.
        unsafe {
            Self::store(to, v[0]);
            Self::store(to.add(8), v[1]);
        }
    }
    #[inline(always)]
    fn wide_mul(a: Self::Wide, b: Self::Wide) -> Self::Wide {
        [Self::mul(a[0], b[0]), Self::mul(a[1], b[1])]
    }
    #[inline(always)]
    fn wide_fma(a: Self::Wide, b: Self::Wide, c: Self::Wide) -> Self::Wide {
        [Self::fma(a[0], b[0], c[0]), Self::fma(a[1], b[1], c[1])]
    }
}
