//! What `avx512_few` asks of a format, and the formats that have it: levels 64 at a time in the order in which a block keeps them, heads of eight
//! columns at once.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::avx2_heads::{floats, minima_pairs, six_bits};
use super::column::Format;
use super::formats::{Q4K, Q5K, Q6K};

/// A format of 256 weights a block with integer scales and levels below 64.
///
/// # Safety
/// All methods: the CPU has AVX-512 F, BW, DQ, VL and what AVX2's bodies need; `block` points to [`Wide::BYTES`] readable bytes.
pub(super) trait Wide: Format {
    const BYTES: usize;
    /// Which runs of 32 weights stand in the halves of the four registers that [`Wide::levels`] gives of a block.
    const ORDER: [usize; 8];

    /// Of eight columns what is unpacked together.
    unsafe fn heads(blocks: &[*const u8; 8], heads: &mut Heads);
    /// The integer scales of two neighbouring columns as 16-bit numbers, those of the first and then of the second.
    unsafe fn scales(blocks: [*const u8; 2], heads: &Heads, pair: usize) -> __m512i;
    /// 128 levels.
    unsafe fn levels<const HALF: usize>(block: *const u8) -> [__m512i; 2];
}

/// What the heads of eight columns come to.
#[repr(C, align(64))]
pub(super) struct Heads {
    /// Of pairs of columns, where they are not read from the block.
    scales: [[i16; 16]; 4],
    /// Minima of runs `2 * i` and the next, a column a lane.
    pub pairs: [__m256i; 4],
    /// Of each column, a lane each.
    pub d: __m256,
    pub m: __m256,
}

impl Heads {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    pub fn empty() -> Self {
        Self { scales: [[0; 16]; 4], pairs: [_mm256_setzero_si256(); 4], d: _mm256_setzero_ps(), m: _mm256_setzero_ps() }
    }

    /// Q4_K and Q5_K, from the first sixteen bytes of each block.
    ///
    /// # Safety
    /// These are there.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn scales_and_minima(&mut self, blocks: &[*const u8; 8]) {
        let mut starts: [&[u8]; 8] = [&[]; 8];
        for (start, block) in starts.iter_mut().zip(blocks) {
            // SAFETY: the caller's promise.
            *start = unsafe { std::slice::from_raw_parts(*block, 16) };
        }
        let head = six_bits(&starts);
        // All eight of a column side by side: columns 0, 1 and 4, 5, then 2, 3 and 6, 7.
        let [low, high] = head.scales;
        let (a, b) = (_mm256_unpacklo_epi32(low, high), _mm256_unpackhi_epi32(low, high));
        let four = [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)];
        for (scales, four) in self.scales.as_chunks_mut::<2>().0.iter_mut().zip(four) {
            // SAFETY: room for 32 numbers of 16 bits.
            unsafe { _mm512_storeu_si512(scales.as_mut_ptr().cast(), _mm512_cvtepu8_epi16(four)) };
        }
        self.pairs = minima_pairs(head.minima);
        [self.d, self.m] = floats(head.d_and_m);
    }
}

/// Of each of the four registers of a block where in [`Wide::scales`] the scales of its levels stand: in each 128 bits four times that of the first
/// column, four times that of the second.
pub(super) struct Places<F>(PhantomData<F>);

impl<F: Wide> Places<F> {
    pub const OF: [[u16; 32]; 4] = {
        let mut places = [[0; 32]; 4];
        let mut at = 0;
        while at < 128 {
            let (register, part, column) = (at / 32, at % 32 / 8, at % 8 / 4);
            let run = F::ORDER[2 * register + part / 2];
            let scale = if F::RUNS == 16 { 2 * run + part % 2 } else { run };
            places[register][at % 32] = (column * F::RUNS + scale) as u16;
            at += 1;
        }
        places
    };
}

/// Of 64 nibbles the low ones are runs 0 and 2, the high ones 1 and 3.
const NIBBLES_ORDER: [usize; 8] = [0, 2, 1, 3, 4, 6, 5, 7];

impl Wide for Q4K {
    const BYTES: usize = 144;
    const ORDER: [usize; 8] = NIBBLES_ORDER;

    #[inline(always)]
    unsafe fn heads(blocks: &[*const u8; 8], heads: &mut Heads) {
        // SAFETY: the caller's promise.
        unsafe { heads.scales_and_minima(blocks) };
    }

    #[inline(always)]
    unsafe fn scales(_: [*const u8; 2], heads: &Heads, pair: usize) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { eight_of_two(&heads.scales[pair]) }
    }

    #[inline(always)]
    unsafe fn levels<const HALF: usize>(block: *const u8) -> [__m512i; 2] {
        // SAFETY: the caller's promise: 144 bytes.
        unsafe { nibbles(block.add(16 + 64 * HALF)) }
    }
}

impl Wide for Q5K {
    const BYTES: usize = 176;
    const ORDER: [usize; 8] = NIBBLES_ORDER;

    #[inline(always)]
    unsafe fn heads(blocks: &[*const u8; 8], heads: &mut Heads) {
        // SAFETY: the caller's promise.
        unsafe { heads.scales_and_minima(blocks) };
    }

    #[inline(always)]
    unsafe fn scales(_: [*const u8; 2], heads: &Heads, pair: usize) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { eight_of_two(&heads.scales[pair]) }
    }

    /// Bit `run` of each of 32 bytes is the fifth of a level of that run.
    #[inline(always)]
    unsafe fn levels<const HALF: usize>(block: *const u8) -> [__m512i; 2] {
        // SAFETY: the caller's promise: 176 bytes.
        unsafe {
            let (low, high) = if HALF == 0 { ([4, 2], [3, 1]) } else { ([0, -2], [-1, -3]) };
            with_upper_bits::<16>(nibbles(block.add(48 + 64 * HALF)), block.add(16), low, high)
        }
    }
}

impl Wide for Q6K {
    const BYTES: usize = 210;
    const ORDER: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

    #[inline(always)]
    unsafe fn heads(blocks: &[*const u8; 8], heads: &mut Heads) {
        // SAFETY: the caller's promise.
        unsafe { heads.d = q6_k_floats(blocks) };
    }

    #[inline(always)]
    unsafe fn scales(blocks: [*const u8; 2], _: &Heads, _: usize) -> __m512i {
        // SAFETY: the caller's promise: 210 bytes each.
        unsafe { sixteen_of_two(blocks.map(|block| block.add(192))) }
    }

    /// 32 bytes have the upper bits of 128 levels, two for each run.
    #[inline(always)]
    unsafe fn levels<const HALF: usize>(block: *const u8) -> [__m512i; 2] {
        // SAFETY: the caller's promise: 210 bytes.
        unsafe { with_upper_bits::<0x30>(nibbles(block.add(64 * HALF)), block.add(128 + 32 * HALF), [4, 2], [0, -2]) }
    }
}

/// # Safety
/// 64 bytes are there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
unsafe fn nibbles(at: *const u8) -> [__m512i; 2] {
    // SAFETY: the caller's promise; the load needs no alignment.
    let packed = unsafe { _mm512_loadu_si512(at.cast()) };
    let four = _mm512_set1_epi8(15);
    [_mm512_and_si512(packed, four), _mm512_and_si512(_mm512_srli_epi16::<4>(packed), four)]
}

/// Puts bits `BITS` of 32 bytes that both halves of both registers share above the nibbles, moved up by so many places for each half.
///
/// # Safety
/// 32 bytes are there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
unsafe fn with_upper_bits<const BITS: i8>(nibbles: [__m512i; 2], upper: *const u8, low: [i32; 2], high: [i32; 2]) -> [__m512i; 2] {
    // SAFETY: the caller's promise; the load needs no alignment.
    let upper = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(upper.cast()) });
    let bits = _mm512_set1_epi8(BITS);
    let with = |nibbles, [low, high]: [i32; 2]| {
        let places = _mm512_inserti64x4::<1>(_mm512_set1_epi32(low), _mm256_set1_epi32(high));
        // Rotated 32 at a time: what comes in from a neighbouring byte is none of the bits. Then `nibbles | (moved & bits)`.
        _mm512_ternarylogic_epi32::<0xf8>(nibbles, _mm512_rolv_epi32(upper, places), bits)
    };
    [with(nibbles[0], low), with(nibbles[1], high)]
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn eight_of_two(scales: &[i16; 16]) -> __m512i {
    // SAFETY: 32 bytes are there; the load needs no alignment.
    _mm512_castsi256_si512(unsafe { _mm256_loadu_si256(scales.as_ptr().cast()) })
}

/// # Safety
/// Sixteen bytes are at each.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
unsafe fn sixteen_of_two(at: [*const u8; 2]) -> __m512i {
    // SAFETY: the caller's promise; the loads need no alignment.
    let [a, b] = unsafe { at.map(|at| _mm256_cvtepi8_epi16(_mm_loadu_si128(at.cast()))) };
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b)
}

/// The scale at the end of each block of Q6_K.
///
/// # Safety
/// 210 bytes are there at each.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
unsafe fn q6_k_floats(blocks: &[*const u8; 8]) -> __m256 {
    let mut words = [_mm_setzero_si128(); 8];
    for (word, block) in words.iter_mut().zip(blocks) {
        // SAFETY: the caller's promise. The scale is in the upper two bytes.
        *word = _mm_cvtsi32_si128(unsafe { block.add(206).cast::<i32>().read_unaligned() });
    }
    let four = |at: usize| {
        let (a, b) = (_mm_unpacklo_epi32(words[at], words[at + 1]), _mm_unpacklo_epi32(words[at + 2], words[at + 3]));
        _mm_unpacklo_epi64(a, b)
    };
    let eight = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(four(0)), four(4));
    _mm256_cvtph_ps(_mm256_cvtepi32_epi16(_mm256_srli_epi32::<16>(eight)))
}
