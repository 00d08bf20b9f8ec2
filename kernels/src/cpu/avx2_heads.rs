//! Scales and minima of a chunk of eight columns at once on 256-bit registers, for the body of few rows: turned, so that what is said of
//! each column stands in a lane.

use std::arch::x86_64::*;

use super::avx2::transpose;
use super::column::{Column, Correction, Format};

/// What the heads of eight columns come to.
pub(crate) struct Heads {
    /// Of each column its integer scales as 16-bit numbers: all eight in both halves; of sixteen those of even runs in the low half,
    /// of odd runs in the high one.
    pub scales: [__m256i; 8],
    /// [`Column::pairs`], a column a lane.
    pub pairs: [__m256i; 8],
    /// [`Column::d`], a column a lane; formats with integer scales have one.
    pub d: [__m256; 8],
    /// [`Column::m`], likewise.
    pub m: [__m256; 8],
}

impl Heads {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub fn empty() -> Self {
        let (none, zero) = ([_mm256_setzero_si256(); 8], [_mm256_setzero_ps(); 8]);
        Self { scales: none, pairs: none, d: zero, m: zero }
    }

    /// Those of any format, from unpacked columns.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub fn collect<F: Format>(&mut self, columns: &[Column; 8]) {
        if F::RUNS == 0 {
            self.d = as_floats(turned(columns, |column| &column.d));
            if F::CORRECTION == Correction::Minima {
                self.m = as_floats(turned(columns, |column| &column.m));
            }
            return;
        }
        for (to, column) in self.scales.iter_mut().zip(columns) {
            let mut scales = [0i16; 16];
            for run in 0..8 {
                let (low, high) = if F::RUNS == 16 { (2 * run, 2 * run + 1) } else { (run, run) };
                (scales[run], scales[8 + run]) = (column.scales[low] as i16, column.scales[high] as i16);
            }
            // SAFETY: sixteen numbers of 16 bits are there.
            *to = unsafe { _mm256_loadu_si256(scales.as_ptr().cast()) };
        }
        if F::CORRECTION != Correction::None {
            self.pairs = turned(columns, |column| &column.pairs);
        }
        let (mut d, mut m) = ([0.0; 8], [0.0; 8]);
        for (lane, column) in columns.iter().enumerate() {
            (d[lane], m[lane]) = (column.d[0], column.m[0]);
        }
        // SAFETY: eight numbers each.
        unsafe { (self.d[0], self.m[0]) = (_mm256_loadu_ps(d.as_ptr()), _mm256_loadu_ps(m.as_ptr())) };
    }

    /// Q4_K and Q5_K, from the first sixteen bytes of each block: see [`crate::blocks::scales_and_mins`].
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub fn scales_and_minima(&mut self, blocks: &[&[u8]; 8]) {
        let SixBits { scales, minima, d_and_m } = six_bits(blocks);
        // All eight of a column side by side: columns 0, 1 and 4, 5, then 2, 3 and 6, 7.
        let sides = [_mm256_unpacklo_epi32(scales[0], scales[1]), _mm256_unpackhi_epi32(scales[0], scales[1])];
        for (i, side) in sides.into_iter().enumerate() {
            for (j, two) in [_mm256_castsi256_si128(side), _mm256_extracti128_si256::<1>(side)].into_iter().enumerate() {
                let wide = _mm256_cvtepu8_epi16(two);
                self.scales[4 * j + 2 * i] = _mm256_permute4x64_epi64::<0x44>(wide);
                self.scales[4 * j + 2 * i + 1] = _mm256_permute4x64_epi64::<0xee>(wide);
            }
        }

        *self.pairs.first_chunk_mut().expect("of eight") = minima_pairs(minima);
        [self.d[0], self.m[0]] = floats(d_and_m);
    }

    /// Q6_K: see [`crate::blocks::KBlock::q6_k`].
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub fn q6_k(&mut self, blocks: &[&[u8; 210]; 8]) {
        let even_then_odd = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
        let mut d = [0u16; 8];
        for (lane, block) in blocks.iter().enumerate() {
            // SAFETY: sixteen bytes from 192 on; the load needs no alignment.
            let scales = unsafe { _mm_loadu_si128(block.as_ptr().add(192).cast()) };
            self.scales[lane] = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, even_then_odd));
            d[lane] = u16::from_le_bytes([block[208], block[209]]);
        }
        let mut slices: [&[u8]; 8] = [&[]; 8];
        slices.iter_mut().zip(blocks).for_each(|(slice, block)| *slice = *block);
        let within = within_fours();
        // To the upper byte of 16 bits, from where the sign comes down.
        let (first_two, last_two) = (_mm256_set1_epi32(0x0180_0080), _mm256_set1_epi32(0x0380_0280));
        // SAFETY: this function runs only where the CPU has the instruction set.
        for (i, four) in unsafe { words(&slices, 192) }.into_iter().enumerate() {
            let two = |places| _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(four, _mm256_add_epi8(places, within)));
            (self.pairs[2 * i], self.pairs[2 * i + 1]) = (two(first_two), two(last_two));
        }
        // SAFETY: eight numbers of 16 bits are there.
        self.d[0] = _mm256_cvtph_ps(unsafe { _mm_loadu_si128(d.as_ptr().cast()) });
    }
}

/// Of eight blocks of Q4_K or Q5_K, a column a lane: see [`crate::blocks::scales_and_mins`].
pub(super) struct SixBits {
    /// The first four of each column, then the other four, a byte each.
    pub scales: [__m256i; 2],
    /// Likewise.
    pub minima: [__m256i; 2],
    /// Of each 32 bits the low 16 are d, the high ones the minima's.
    pub d_and_m: __m256i,
}

/// From the first sixteen bytes of each block.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn six_bits(blocks: &[&[u8]; 8]) -> SixBits {
    // SAFETY: this function runs only where the CPU has the instruction set.
    let [d_and_m, a, b, c] = unsafe { words(blocks, 0) };
    let (six, four, top) = (_mm256_set1_epi8(0x3f), _mm256_set1_epi8(0x0f), _mm256_set1_epi8(0x30));
    let and = |a, b| _mm256_and_si256(a, b);
    let upper = |c, a| _mm256_or_si256(and(c, four), and(_mm256_srli_epi16::<2>(a), top));
    SixBits { scales: [and(a, six), upper(c, a)], minima: [and(b, six), upper(_mm256_srli_epi16::<4>(c), b)], d_and_m }
}

/// Minima of runs `2 * i` and the next as 16-bit numbers, a column a lane.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn minima_pairs(minima: [__m256i; 2]) -> [__m256i; 4] {
    let within = within_fours();
    let first_two = _mm256_add_epi8(_mm256_set1_epi32(0x8001_8000_u32 as i32), within);
    let last_two = _mm256_add_epi8(_mm256_set1_epi32(0x8003_8002_u32 as i32), within);
    let two = |four, places| _mm256_shuffle_epi8(four, places);
    [two(minima[0], first_two), two(minima[0], last_two), two(minima[1], first_two), two(minima[1], last_two)]
}

/// d and the minima's scale of each column, from [`SixBits::d_and_m`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn floats(d_and_m: __m256i) -> [__m256; 2] {
    let low = _mm256_and_si256(d_and_m, _mm256_set1_epi32(0xffff));
    let halves = _mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi32(low, _mm256_srli_epi32::<16>(d_and_m)));
    [_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves))]
}

/// What is added to places within 32 bits to make them places within a half.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn within_fours() -> __m256i {
    _mm256_setr_epi32(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c, 0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c)
}

/// Sixteen bytes of each block from `at` on, as four words of all eight columns. Inlined by force: left to itself the compiler calls it, and a call
/// costs the registers.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn words(blocks: &[&[u8]; 8], at: usize) -> [__m256i; 4] {
    // SAFETY: the caller's promise; sixteen bytes each; the loads need no alignment.
    unsafe {
        let two = |i: usize| {
            let (low, high) = (&blocks[i][at..at + 16], &blocks[i + 4][at..at + 16]);
            let low = _mm256_castsi128_si256(_mm_loadu_si128(low.as_ptr().cast()));
            _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(high.as_ptr().cast()))
        };
        let (x0, x1, x2, x3) = (two(0), two(1), two(2), two(3));
        let (a0, a1) = (_mm256_unpacklo_epi32(x0, x1), _mm256_unpackhi_epi32(x0, x1));
        let (b0, b1) = (_mm256_unpacklo_epi32(x2, x3), _mm256_unpackhi_epi32(x2, x3));
        [_mm256_unpacklo_epi64(a0, b0), _mm256_unpackhi_epi64(a0, b0), _mm256_unpacklo_epi64(a1, b1), _mm256_unpackhi_epi64(a1, b1)]
    }
}

/// Eight words of each column, a column a lane.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn turned<T>(columns: &[Column; 8], field: impl Fn(&Column) -> &[T; 8]) -> [__m256i; 8] {
    const { assert!(size_of::<T>() == 4) };
    let mut rows = [_mm256_setzero_si256(); 8];
    for (row, column) in rows.iter_mut().zip(columns) {
        // SAFETY: eight words of 32 bits are there; the load needs no alignment.
        *row = unsafe { _mm256_loadu_si256(field(column).as_ptr().cast()) };
    }
    // SAFETY: registers only, and this function has the instruction set.
    unsafe { transpose(rows) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn as_floats(words: [__m256i; 8]) -> [__m256; 8] {
    let mut floats = [_mm256_setzero_ps(); 8];
    floats.iter_mut().zip(words).for_each(|(float, words)| *float = _mm256_castsi256_ps(words));
    floats
}
