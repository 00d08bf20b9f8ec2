//! Every quantized type as a [`Format`]: what is unpacked of a chunk of a row. What the numbers are is said in [`crate::blocks`].
//!
//! Levels that are small unsigned numbers with an offset or a minimum pass unsigned; those from a table or a codebook pass signed.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m256i;

#[cfg(target_arch = "x86_64")]
use super::avx2_heads::Heads;
#[cfg(target_arch = "x86_64")]
use super::avx2_unpack;
use super::column::{Column, Correction, Format, Levels};
use crate::GgmlType;
use crate::blocks::tables::{IQ4_VALUES, MXFP4_VALUES, e8m0_half, iq4_xs_scales, look_up};
use crate::blocks::{KBlock, half_at, q4_0, q4_1, q5_0, q5_1, signed_block};

/// Something to do with a format that is known only at run time.
pub(crate) trait Visitor {
    fn visit<F: Format>(self);
}

/// Calls `visitor` with the format of `ty`, a quantized type with products.
#[inline(always)]
pub(crate) fn visit(ty: GgmlType, visitor: impl Visitor) {
    match ty {
        GgmlType::Q2K => visitor.visit::<Q2K>(),
        GgmlType::Q3K => visitor.visit::<Q3K>(),
        GgmlType::Q4K => visitor.visit::<Q4K>(),
        GgmlType::Q5K => visitor.visit::<Q5K>(),
        GgmlType::Q6K => visitor.visit::<Q6K>(),
        GgmlType::Q4_0 => visitor.visit::<Q4_0>(),
        GgmlType::Q4_1 => visitor.visit::<Q4_1>(),
        GgmlType::Q5_0 => visitor.visit::<Q5_0>(),
        GgmlType::Q5_1 => visitor.visit::<Q5_1>(),
        GgmlType::Q8_0 => visitor.visit::<Q8_0>(),
        GgmlType::IQ4NL | GgmlType::MXFP4 => visitor.visit::<SignedRuns>(),
        GgmlType::IQ4XS => visitor.visit::<IQ4XS>(),
        other => {
            debug_assert!(signed_block(other).is_some(), "{other} is not a quantized type with a kernel");
            visitor.visit::<Signed>();
        }
    }
}

/// Two bits, a scale and a minimum for 16.
pub(crate) struct Q2K;

impl Format for Q2K {
    const LEVELS: Levels = Levels::Four;
    const CORRECTION: Correction = Correction::Minima;
    const RUNS: usize = 16;

    #[inline(always)]
    fn unpack(_: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        let block = KBlock::q2_k(bytes, &mut column.q);
        (column.d[0], column.m[0]) = (block.d, block.dmin);
        column.scales = block.scales.map(|scale| pair(scale, scale));
        column.pairs = std::array::from_fn(|i| pair(block.mins[2 * i], block.mins[2 * i + 1]));
        8
    }
}

/// Three bits less 4, a scale for 16.
pub(crate) struct Q3K;

impl Format for Q3K {
    const LEVELS: Levels = Levels::Four;
    const CORRECTION: Correction = Correction::Offset(4);
    const RUNS: usize = 16;

    #[inline(always)]
    fn unpack(_: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        scales_of_16(&KBlock::q3_k(bytes, &mut column.q), column)
    }
}

/// Four bits, a scale and a minimum for 32.
pub(crate) struct Q4K;

impl Format for Q4K {
    const LEVELS: Levels = Levels::Four;
    const CORRECTION: Correction = Correction::Minima;
    const RUNS: usize = 8;

    #[inline(always)]
    fn unpack(_: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        with_minima(&KBlock::q4_k(bytes, &mut column.q), column)
    }

    #[cfg(target_arch = "x86_64")]
    const LEVELS_APART: bool = true;

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn head_avx2(_: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        // SAFETY: the caller's promise.
        unsafe { avx2_unpack::q4_k_head(bytes.try_into().expect("one block"), column) };
        8
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn heads_avx2(_: GgmlType, chunks: &[&[u8]; 8], _: &mut [Column; 8], heads: &mut Heads) -> usize {
        // SAFETY: the caller's promise.
        unsafe { heads.scales_and_minima(chunks) };
        8
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn levels_avx2<const PAIR: usize>(bytes: &[u8], _: &Column) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe { avx2_unpack::q4_k_levels::<PAIR>(bytes.try_into().expect("one block")) }
    }
}

/// Five bits, a scale and a minimum for 32.
pub(crate) struct Q5K;

impl Format for Q5K {
    const LEVELS: Levels = Levels::Five;
    const CORRECTION: Correction = Correction::Minima;
    const RUNS: usize = 8;

    #[inline(always)]
    fn unpack(_: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        with_minima(&KBlock::q5_k(bytes, &mut column.q), column)
    }

    #[cfg(target_arch = "x86_64")]
    const LEVELS_APART: bool = true;

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn head_avx2(_: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        // SAFETY: the caller's promise.
        unsafe { avx2_unpack::q5_k_head(bytes.try_into().expect("one block"), column) };
        8
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn heads_avx2(_: GgmlType, chunks: &[&[u8]; 8], _: &mut [Column; 8], heads: &mut Heads) -> usize {
        // SAFETY: the caller's promise.
        unsafe { heads.scales_and_minima(chunks) };
        8
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn levels_avx2<const PAIR: usize>(bytes: &[u8], _: &Column) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe { avx2_unpack::q5_k_levels::<PAIR>(bytes.try_into().expect("one block")) }
    }
}

/// Six bits less 32, a scale for 16.
pub(crate) struct Q6K;

impl Format for Q6K {
    const LEVELS: Levels = Levels::Six;
    const CORRECTION: Correction = Correction::Offset(32);
    const RUNS: usize = 16;

    #[inline(always)]
    fn unpack(_: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        scales_of_16(&KBlock::q6_k(bytes, &mut column.q), column)
    }

    #[cfg(target_arch = "x86_64")]
    const LEVELS_APART: bool = true;

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn head_avx2(_: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        // SAFETY: the caller's promise.
        unsafe { avx2_unpack::q6_k_head(bytes.try_into().expect("one block"), column) };
        8
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn heads_avx2(_: GgmlType, chunks: &[&[u8]; 8], _: &mut [Column; 8], heads: &mut Heads) -> usize {
        let mut blocks = [&[0; 210]; 8];
        blocks.iter_mut().zip(chunks).for_each(|(block, bytes)| *block = (*bytes).try_into().expect("one block"));
        // SAFETY: the caller's promise.
        unsafe { heads.q6_k(&blocks) };
        8
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn levels_avx2<const PAIR: usize>(bytes: &[u8], _: &Column) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe { avx2_unpack::q6_k_levels::<PAIR>(bytes.try_into().expect("one block")) }
    }
}

/// Four bits less 8.
pub(crate) struct Q4_0;

impl Format for Q4_0 {
    const LEVELS: Levels = Levels::Four;
    const CORRECTION: Correction = Correction::Offset(8);
    const RUNS: usize = 0;

    #[inline(always)]
    fn unpack(_: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        for ((block, q), d) in bytes.chunks_exact(18).zip(column.q.as_chunks_mut::<32>().0).zip(&mut column.d) {
            (*d, *q) = q4_0(block);
        }
        bytes.len() / 18
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn head_avx2(_: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        let blocks = bytes.as_chunks().0;
        // SAFETY: the caller's promise.
        unsafe { avx2_unpack::q4_0(blocks, column) };
        blocks.len()
    }
}

/// Four bits and a minimum.
pub(crate) struct Q4_1;

impl Format for Q4_1 {
    const LEVELS: Levels = Levels::Four;
    const CORRECTION: Correction = Correction::Minima;
    const RUNS: usize = 0;

    #[inline(always)]
    fn unpack(_: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        for ((block, q), (d, m)) in bytes.chunks_exact(20).zip(column.q.as_chunks_mut::<32>().0).zip(column.d.iter_mut().zip(&mut column.m))
        {
            (*d, *m, *q) = q4_1(block);
        }
        bytes.len() / 20
    }
}

/// Five bits less 16.
pub(crate) struct Q5_0;

impl Format for Q5_0 {
    const LEVELS: Levels = Levels::Five;
    const CORRECTION: Correction = Correction::Offset(16);
    const RUNS: usize = 0;

    #[inline(always)]
    fn unpack(_: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        for ((block, q), d) in bytes.chunks_exact(22).zip(column.q.as_chunks_mut::<32>().0).zip(&mut column.d) {
            (*d, *q) = q5_0(block);
        }
        bytes.len() / 22
    }
}

/// Five bits and a minimum.
pub(crate) struct Q5_1;

impl Format for Q5_1 {
    const LEVELS: Levels = Levels::Five;
    const CORRECTION: Correction = Correction::Minima;
    const RUNS: usize = 0;

    #[inline(always)]
    fn unpack(_: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        for ((block, q), (d, m)) in bytes.chunks_exact(24).zip(column.q.as_chunks_mut::<32>().0).zip(column.d.iter_mut().zip(&mut column.m))
        {
            (*d, *m, *q) = q5_1(block);
        }
        bytes.len() / 24
    }
}

/// Eight bits, signed.
pub(crate) struct Q8_0;

impl Format for Q8_0 {
    const LEVELS: Levels = Levels::Signed;
    const CORRECTION: Correction = Correction::None;
    const RUNS: usize = 0;

    #[inline(always)]
    fn unpack(_: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        for ((block, q), d) in bytes.as_chunks::<34>().0.iter().zip(column.q.as_chunks_mut::<32>().0).zip(&mut column.d) {
            *d = half_at(block);
            q.copy_from_slice(&block[2..]);
        }
        bytes.len() / 34
    }

    #[cfg(target_arch = "x86_64")]
    const LEVELS_APART: bool = true;

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn head_avx2(_: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        let blocks = bytes.as_chunks().0;
        // SAFETY: the caller's promise.
        unsafe { avx2_unpack::q8_0_head(blocks, column) };
        blocks.len()
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn levels_avx2<const PAIR: usize>(bytes: &[u8], _: &Column) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe { avx2_unpack::q8_0_levels::<PAIR>(bytes) }
    }
}

/// The types of 32 signed levels from a table: IQ4_NL and MXFP4.
pub(crate) struct SignedRuns;

impl Format for SignedRuns {
    const LEVELS: Levels = Levels::Signed;
    const CORRECTION: Correction = Correction::None;
    const RUNS: usize = 0;

    #[inline(always)]
    fn unpack(ty: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        let bytes_each = ty.block_bytes();
        for ((block, q), d) in bytes.chunks_exact(bytes_each).zip(column.q.as_chunks_mut::<32>().0).zip(&mut column.d) {
            let levels = if ty == GgmlType::MXFP4 {
                *d = e8m0_half(block[0]);
                look_up(&MXFP4_VALUES, &block[1..])
            } else {
                *d = half_at(block);
                look_up(&IQ4_VALUES, &block[2..])
            };
            *q = levels.map(|level| level as u8);
        }
        bytes.len() / bytes_each
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn head_avx2(ty: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        // SAFETY: the caller's promise.
        unsafe {
            if ty == GgmlType::MXFP4 {
                avx2_unpack::mxfp4(bytes.as_chunks().0, column);
            } else {
                avx2_unpack::iq4_nl(bytes.as_chunks().0, column);
            }
        }
        bytes.len() / ty.block_bytes()
    }
}

/// Values from a table, a scale for 32.
pub(crate) struct IQ4XS;

impl Format for IQ4XS {
    const LEVELS: Levels = Levels::Signed;
    const CORRECTION: Correction = Correction::None;
    const RUNS: usize = 8;

    #[inline(always)]
    fn unpack(_: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        for (packed, q) in bytes[8..136].chunks_exact(16).zip(column.q.as_chunks_mut::<32>().0) {
            *q = look_up(&IQ4_VALUES, packed).map(|level| level as u8);
        }
        iq4_xs_head(bytes, column)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn head_avx2(_: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        // SAFETY: the caller's promise.
        unsafe { avx2_unpack::iq4_xs(bytes.try_into().expect("one block"), column) };
        iq4_xs_head(bytes, column)
    }
}

#[inline(always)]
fn iq4_xs_head(bytes: &[u8], column: &mut Column) -> usize {
    let (d, scales) = iq4_xs_scales(bytes);
    column.d[0] = d;
    for (to, scale) in column.scales.iter_mut().zip(scales) {
        *to = pair(scale, scale);
    }
    for (to, two) in column.pairs.iter_mut().zip(scales.as_chunks::<2>().0) {
        *to = pair(two[0], two[1]);
    }
    8
}

/// Any type of 256 signed levels with a scale for 16, unpacked by plain code: the codebook and ternary types.
pub(crate) struct Signed;

impl Format for Signed {
    const LEVELS: Levels = Levels::Signed;
    const CORRECTION: Correction = Correction::None;
    const RUNS: usize = 16;

    fn unpack(ty: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        let read = signed_block(ty).expect("a type of signed levels");
        scales_of_16(&read(bytes, &mut column.q), column)
    }
}

#[inline(always)]
fn with_minima(block: &KBlock, column: &mut Column) -> usize {
    (column.d[0], column.m[0]) = (block.d, block.dmin);
    for (i, scale) in column.scales[..8].iter_mut().enumerate() {
        *scale = pair(block.scales[2 * i], block.scales[2 * i]);
    }
    for (i, two) in column.pairs[..4].iter_mut().enumerate() {
        *two = pair(block.mins[2 * i], block.mins[2 * i + 1]);
    }
    8
}

/// Scales, and as pairs the same, for what an offset of the levels adds.
#[inline(always)]
fn scales_of_16(block: &KBlock, column: &mut Column) -> usize {
    column.d[0] = block.d;
    column.scales = block.scales.map(|scale| pair(scale, scale));
    column.pairs = std::array::from_fn(|i| pair(block.scales[2 * i], block.scales[2 * i + 1]));
    8
}

#[inline(always)]
fn pair(low: i16, high: i16) -> i32 {
    i32::from(low as u16) | (i32::from(high) << 16)
}
