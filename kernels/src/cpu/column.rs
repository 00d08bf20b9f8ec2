//! A chunk of one row of a quantized matrix, unpacked: what every fast body multiplies, whatever the block format was.
//!
//! A format is its constants and one function in plain code, [`Format::unpack`], and where it pays the same again for 256-bit registers, cut
//! into head and levels; how rows of activations meet a [`Column`] is the bodies' matter.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256i, _mm256_loadu_si256};

#[cfg(target_arch = "x86_64")]
use super::avx2_heads::Heads;
use crate::GgmlType;

/// Up to 256 weights of one row of a matrix (one output, a column of the product).
#[repr(C, align(64))]
pub(crate) struct Column {
    /// Levels in their order in the row; of a signed format the bits of an i8.
    pub q: [u8; 256],
    /// Formats with integer scales: that of each run of 32 (then the first eight) or 16 weights, in both halves of 32 bits.
    pub scales: [i32; 16],
    /// Two i16 each, for runs `2i` and `2i + 1`: what meets the sums of the activations. Minima, or scales where an offset comes off.
    pub pairs: [i32; 8],
    /// The scale of each 32 weights; formats with integer scales have the block's in the first.
    pub d: [f32; 8],
    /// What `pairs` is multiplied by (the first), or the minimum of each 32 weights.
    pub m: [f32; 8],
    /// Magnitudes of signed levels, for a body that asks for them: see [`super::row_lanes::RowLanes::prepare_signed`].
    pub magnitudes: [u8; 256],
    /// This column and its neighbour side by side, for a body that multiplies two at a time.
    #[cfg(target_arch = "aarch64")]
    pub pair: super::i8mm::Pair,
}

impl Column {
    pub const EMPTY: Self = Self {
        q: [0; 256],
        scales: [0; 16],
        pairs: [0; 8],
        d: [0.0; 8],
        m: [0.0; 8],
        magnitudes: [0; 256],
        #[cfg(target_arch = "aarch64")]
        pair: super::i8mm::Pair::EMPTY,
    };
}

/// What the levels are, for the bodies that must not overflow 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Levels {
    /// Below 16.
    Four,
    /// Below 32.
    Five,
    /// Below 64.
    Six,
    /// Any i8.
    Signed,
}

/// What is done beside the products of levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Correction {
    None,
    /// The levels are this much too large.
    Offset(i32),
    /// Every run has a minimum (subtracted in formats with integer scales, added in the others).
    Minima,
}

/// A block format, as the bodies see it.
pub(crate) trait Format {
    const LEVELS: Levels;
    const CORRECTION: Correction;
    /// Integer scales a chunk, 8 or 16; 0: every 32 weights have a float scale, which meets that of 32 activations.
    const RUNS: usize;

    /// Unpacks a chunk of whole blocks of `ty`, and returns how many runs of 32 weights it had. What lies beyond them in `column` is
    /// unspecified.
    fn unpack(ty: GgmlType, bytes: &[u8], column: &mut Column) -> usize;

    /// Whether [`Format::head_avx2`] leaves the levels in the block.
    #[cfg(target_arch = "x86_64")]
    const LEVELS_APART: bool = false;

    /// All of [`Format::unpack`] but the levels where [`Format::LEVELS_APART`] says so; all of it elsewhere.
    ///
    /// # Safety
    /// The CPU has AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn head_avx2(ty: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        Self::unpack(ty, bytes, column)
    }

    /// The levels of runs `2 * PAIR` and `2 * PAIR + 1` of 32 weights, of a chunk whose head is in `column`.
    ///
    /// # Safety
    /// The CPU has AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn levels_avx2<const PAIR: usize>(_: &[u8], column: &Column) -> [__m256i; 2] {
        let at = column.q.as_ptr().cast::<__m256i>();
        // SAFETY: PAIR is below 4; the loads need no alignment.
        unsafe { [_mm256_loadu_si256(at.add(2 * PAIR)), _mm256_loadu_si256(at.add(2 * PAIR + 1))] }
    }

    /// [`Format::head_avx2`] of eight columns, and what it comes to. Formats with a way of their own leave `columns` alone.
    ///
    /// # Safety
    /// The CPU has AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn heads_avx2(ty: GgmlType, chunks: &[&[u8]; 8], columns: &mut [Column; 8], heads: &mut Heads) -> usize
    where
        Self: Sized,
    {
        // SAFETY: the caller's promise.
        unsafe {
            let mut runs = 0;
            for (bytes, column) in chunks.iter().zip(columns.iter_mut()) {
                runs = Self::head_avx2(ty, bytes, column);
            }
            heads.collect::<Self>(columns);
            runs
        }
    }

    /// The same as [`Format::unpack`], on 256-bit registers where a format has that.
    ///
    /// # Safety
    /// The CPU has AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn unpack_avx2(ty: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        // SAFETY: the caller's promise; four pairs of runs fill the 256 levels.
        unsafe {
            let runs = Self::head_avx2(ty, bytes, column);
            if Self::LEVELS_APART {
                let pairs = [
                    Self::levels_avx2::<0>(bytes, column),
                    Self::levels_avx2::<1>(bytes, column),
                    Self::levels_avx2::<2>(bytes, column),
                    Self::levels_avx2::<3>(bytes, column),
                ];
                column.q.as_mut_ptr().cast::<[__m256i; 8]>().write_unaligned(std::mem::transmute::<[[__m256i; 2]; 4], [__m256i; 8]>(pairs));
            }
            runs
        }
    }
}
