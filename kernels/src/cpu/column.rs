//! A chunk of one row of a quantized matrix, unpacked: what every fast body multiplies, whatever the block format was.
//!
//! A format is its constants and one function, [`Format::unpack`]; how rows of activations meet a [`Column`] is the bodies'
//! matter. Plain code: inlined into a body it is compiled for that body's registers.

#[cfg(target_arch = "x86_64")]
use super::avx2_unpack;
use super::scalar::chunk_bytes_max;
use crate::GgmlType;
use crate::blocks::{KBlock, half_at, q4_0};

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
    /// Signed levels as a body wants them that multiplies 16-bit numbers: see [`super::row_lanes::RowLanes::widen`].
    pub wide: [i32; 128],
}

impl Column {
    pub const EMPTY: Self = Self { q: [0; 256], scales: [0; 16], pairs: [0; 8], d: [0.0; 8], m: [0.0; 8], wide: [0; 128] };
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
    const TYPE: GgmlType;
    const LEVELS: Levels;
    const CORRECTION: Correction;
    /// Integer scales a chunk, 8 or 16; 0: every 32 weights have a float scale, which meets that of 32 activations.
    const RUNS: usize;

    /// Bytes of 256 weights.
    const CHUNK_BYTES: usize = chunk_bytes_max(Self::TYPE);

    /// Unpacks a chunk of whole blocks, and returns how many runs of 32 weights it had. What lies beyond them in `column` is unspecified.
    fn unpack(bytes: &[u8], column: &mut Column) -> usize;

    /// The same, written for 256-bit registers where a format has that.
    ///
    /// # Safety
    /// The CPU has AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn unpack_avx2(bytes: &[u8], column: &mut Column) -> usize {
        Self::unpack(bytes, column)
    }
}

/// Something to do with a format that is known only at run time.
pub(crate) trait Visitor {
    fn visit<F: Format>(self);
}

/// Calls `visitor` with the format of `ty`, which must be one of them.
#[inline(always)]
pub(crate) fn visit(ty: GgmlType, visitor: impl Visitor) {
    match ty {
        GgmlType::Q4K => visitor.visit::<Q4K>(),
        GgmlType::Q5K => visitor.visit::<Q5K>(),
        GgmlType::Q6K => visitor.visit::<Q6K>(),
        GgmlType::Q8_0 => visitor.visit::<Q8_0>(),
        GgmlType::Q4_0 => visitor.visit::<Q4_0>(),
        other => unreachable!("{other} is not a quantized type with a kernel"),
    }
}

pub(crate) struct Q4K;
pub(crate) struct Q5K;
pub(crate) struct Q6K;
pub(crate) struct Q8_0;
pub(crate) struct Q4_0;

impl Format for Q4K {
    const TYPE: GgmlType = GgmlType::Q4K;
    const LEVELS: Levels = Levels::Four;
    const CORRECTION: Correction = Correction::Minima;
    const RUNS: usize = 8;

    #[inline(always)]
    fn unpack(bytes: &[u8], column: &mut Column) -> usize {
        with_minima(&KBlock::q4_k(bytes, &mut column.q), column)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn unpack_avx2(bytes: &[u8], column: &mut Column) -> usize {
        // SAFETY: the caller's promise.
        unsafe { avx2_unpack::q4_k(bytes.try_into().expect("one block"), column) };
        8
    }
}

impl Format for Q5K {
    const TYPE: GgmlType = GgmlType::Q5K;
    const LEVELS: Levels = Levels::Five;
    const CORRECTION: Correction = Correction::Minima;
    const RUNS: usize = 8;

    #[inline(always)]
    fn unpack(bytes: &[u8], column: &mut Column) -> usize {
        with_minima(&KBlock::q5_k(bytes, &mut column.q), column)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn unpack_avx2(bytes: &[u8], column: &mut Column) -> usize {
        // SAFETY: the caller's promise.
        unsafe { avx2_unpack::q5_k(bytes.try_into().expect("one block"), column) };
        8
    }
}

impl Format for Q6K {
    const TYPE: GgmlType = GgmlType::Q6K;
    const LEVELS: Levels = Levels::Six;
    const CORRECTION: Correction = Correction::Offset(32);
    const RUNS: usize = 16;

    #[inline(always)]
    fn unpack(bytes: &[u8], column: &mut Column) -> usize {
        let block = KBlock::q6_k(bytes, &mut column.q);
        column.d[0] = block.d;
        column.scales = block.scales.map(|scale| pair(scale, scale));
        column.pairs = std::array::from_fn(|i| pair(block.scales[2 * i], block.scales[2 * i + 1]));
        8
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn unpack_avx2(bytes: &[u8], column: &mut Column) -> usize {
        // SAFETY: the caller's promise.
        unsafe { avx2_unpack::q6_k(bytes.try_into().expect("one block"), column) };
        8
    }
}

impl Format for Q8_0 {
    const TYPE: GgmlType = GgmlType::Q8_0;
    const LEVELS: Levels = Levels::Signed;
    const CORRECTION: Correction = Correction::None;
    const RUNS: usize = 0;

    #[inline(always)]
    fn unpack(bytes: &[u8], column: &mut Column) -> usize {
        for ((block, q), d) in bytes.chunks_exact(34).zip(column.q.chunks_exact_mut(32)).zip(&mut column.d) {
            *d = half_at(block);
            q.copy_from_slice(&block[2..]);
        }
        bytes.len() / 34
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn unpack_avx2(bytes: &[u8], column: &mut Column) -> usize {
        let blocks = bytes.as_chunks().0;
        // SAFETY: the caller's promise.
        unsafe { avx2_unpack::q8_0(blocks, column) };
        blocks.len()
    }
}

impl Format for Q4_0 {
    const TYPE: GgmlType = GgmlType::Q4_0;
    const LEVELS: Levels = Levels::Four;
    const CORRECTION: Correction = Correction::Offset(8);
    const RUNS: usize = 0;

    #[inline(always)]
    fn unpack(bytes: &[u8], column: &mut Column) -> usize {
        for ((block, q), d) in bytes.chunks_exact(18).zip(column.q.chunks_exact_mut(32)).zip(&mut column.d) {
            let (scale, levels) = q4_0(block);
            *d = scale;
            q.copy_from_slice(&levels);
        }
        bytes.len() / 18
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn unpack_avx2(bytes: &[u8], column: &mut Column) -> usize {
        let blocks = bytes.as_chunks().0;
        // SAFETY: the caller's promise.
        unsafe { avx2_unpack::q4_0(blocks, column) };
        blocks.len()
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

#[inline(always)]
fn pair(low: i16, high: i16) -> i32 {
    i32::from(low as u16) | (i32::from(high) << 16)
}
