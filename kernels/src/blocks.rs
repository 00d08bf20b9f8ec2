//! The block formats: how the bits of a block lie, and what numbers they stand for.
//!
//! Plain scalar code, the only description of the formats in this crate; the vector bodies are tested against it.
//! Facts from ggml's format (`ggml-common.h`): all integers little-endian, scales in half precision.
//! Knows no matrix and no activation.

mod grid_points;
mod grids;
pub(crate) mod tables;

use half::{bf16, f16};

use crate::GgmlType;

/// Weights in a block of a K type, an IQ type other than IQ4_NL, or a TQ type.
pub(crate) const K_BLOCK: usize = 256;
/// Weights in a block of Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, MXFP4.
pub(crate) const SMALL_BLOCK: usize = 32;

/// The scales of 256 weights. With the levels `q` that come beside it and their offset, weight `i` is
/// `d * scales[i / 16] * (q[i] - offset) - dmin * mins[i * MINS / 256]`. Levels are unsigned, of 2 to 6 bits with the offset 0
/// (Q2_K, Q4_K, Q5_K), 4 (Q3_K) or 32 (Q6_K); those of [`signed_block`] are bytes of an i8.
pub(crate) struct KBlock<const MINS: usize = 8> {
    pub d: f32,
    /// 0 where a type has no minima.
    pub dmin: f32,
    /// 0 to 63 (Q4_K, Q5_K: equal in pairs, a scale there spans 32 weights), 0 to 15 (Q2_K), -32 to 31 (Q3_K, IQ4_XS), odd ones
    /// of 1 to 31 (the other IQ types), 1 (TQ types), any i8 (Q6_K).
    pub scales: [i16; 16],
    /// 0 to 63; 0 where a type has none.
    pub mins: [i16; MINS],
}

/// Reads a block: its scales, and its levels into the array.
pub(crate) type ReadBlock = fn(&[u8], &mut [u8; K_BLOCK]) -> KBlock;

/// How blocks of 256 signed levels are read; `None` for types that have none.
pub(crate) fn signed_block(ty: GgmlType) -> Option<ReadBlock> {
    Some(match ty {
        GgmlType::IQ4XS => tables::iq4_xs,
        GgmlType::IQ3S => grids::iq3_s,
        GgmlType::IQ3XXS => grids::iq3_xxs,
        GgmlType::IQ2S => grids::iq2_s,
        GgmlType::IQ2XS => grids::iq2_xs,
        GgmlType::IQ2XXS => grids::iq2_xxs,
        GgmlType::IQ1M => grids::iq1_m,
        GgmlType::IQ1S => grids::iq1_s,
        GgmlType::TQ1_0 => tables::tq1_0,
        GgmlType::TQ2_0 => tables::tq2_0,
        _ => return None,
    })
}

/// A half-precision number at the start of `bytes`, widened (exact). In plain code: the other function asks what the CPU can do, each time.
#[inline]
pub(crate) fn half_at(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32_const()
}

/// The eight 6-bit scales and eight 6-bit minima that Q4_K and Q5_K pack into 12 bytes: the low six bits of bytes 0..4
/// are scales 0..4, of bytes 4..8 minima 0..4; scales and minima 4..8 have their low four bits in the halves of bytes
/// 8..12 and their high two in the top bits of bytes 0..4 and 4..8.
#[inline]
pub(crate) fn scales_and_mins(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let word = |i: usize| u32::from_le_bytes([packed[i], packed[i + 1], packed[i + 2], packed[i + 3]]);
    let (a, b, c) = (word(0), word(4), word(8));
    const SIX: u32 = 0x3f3f_3f3f;
    const FOUR: u32 = 0x0f0f_0f0f;
    const TOP: u32 = 0x3030_3030;
    let halves = |low: u32, high: u32| {
        let mut out = [0; 8];
        out[..4].copy_from_slice(&low.to_le_bytes());
        out[4..].copy_from_slice(&high.to_le_bytes());
        out
    };
    (halves(a & SIX, (c & FOUR) | ((a >> 2) & TOP)), halves(b & SIX, ((c >> 4) & FOUR) | ((b >> 2) & TOP)))
}

/// Two-bit levels of halves of 128 weights: bits `2s` of byte `i` of a half are weight `32s + i` of that half.
#[inline(always)]
fn two_bits(packed: &[u8], q: &mut [u8; K_BLOCK]) {
    for (bytes, out) in packed.chunks_exact(32).zip(q.chunks_exact_mut(128)) {
        for s in 0..4 {
            for i in 0..32 {
                out[32 * s + i] = bytes[i] >> (2 * s) & 3;
            }
        }
    }
}

impl KBlock<16> {
    /// Q2_K, 84 bytes: 16 bytes of a scale (low nibble) and a minimum (high nibble) each, 64 bytes of two-bit levels, d, dmin.
    #[inline(always)]
    pub fn q2_k(block: &[u8], q: &mut [u8; K_BLOCK]) -> Self {
        two_bits(&block[16..80], q);
        Self {
            d: half_at(&block[80..]),
            dmin: half_at(&block[82..]),
            scales: std::array::from_fn(|i| i16::from(block[i] & 15)),
            mins: std::array::from_fn(|i| i16::from(block[i] >> 4)),
        }
    }
}

impl KBlock {
    /// Q3_K, 110 bytes: 32 bytes of third bits (bit `s` of byte `i` belongs to weight `32s + i`), 64 of the two lower ones, 12 of
    /// scales, d. The sixteen scales of six bits, 32 added, have their low four in the nibbles of bytes 0..8, low ones first, and
    /// their high two in bytes 8..12: bits `2s` of byte `8 + i` belong to scale `4s + i`.
    #[inline(always)]
    pub fn q3_k(block: &[u8], q: &mut [u8; K_BLOCK]) -> Self {
        let (third, packed) = (&block[..32], &block[96..108]);
        two_bits(&block[32..96], q);
        for (s, out) in q.chunks_exact_mut(32).enumerate() {
            for i in 0..32 {
                out[i] |= (third[i] >> s & 1) << 2;
            }
        }
        let scale = |i: usize| {
            let low = packed[i % 8] >> (4 * (i / 8)) & 15;
            let high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
            i16::from(low | high << 4) - 32
        };
        Self::without_mins(half_at(&block[108..]), std::array::from_fn(scale))
    }

    /// Q4_K, 144 bytes: d, dmin, 12 bytes of scales, 128 bytes of nibbles. Bytes `32c..32c+32` hold weights `64c..64c+32` low and the next 32 high.
    #[inline(always)]
    pub fn q4_k(block: &[u8], q: &mut [u8; K_BLOCK]) -> Self {
        for (nibbles, out) in block[16..144].as_chunks::<32>().0.iter().zip(q.as_chunks_mut::<64>().0) {
            // Values, not references, here and below: the compiler need not ask whether a store changes what is loaded next, and takes
            // many bytes at a time.
            out[..32].copy_from_slice(&nibbles.map(|byte| byte & 15));
            out[32..].copy_from_slice(&nibbles.map(|byte| byte >> 4));
        }
        Self::with_mins(block)
    }

    /// Q5_K, 176 bytes: as Q4_K, with 32 bytes of fifth bits before the nibbles: bit `s` of byte `i` belongs to weight `32s + i`.
    #[inline(always)]
    pub fn q5_k(block: &[u8], q: &mut [u8; K_BLOCK]) -> Self {
        let mut fifth: [u8; 32] = block[16..48].try_into().expect("thirty-two bytes");
        for (nibbles, out) in block[48..176].as_chunks::<32>().0.iter().zip(q.as_chunks_mut::<64>().0) {
            let mut both = [0; 64];
            for i in 0..32 {
                both[i] = (nibbles[i] & 15) | ((fifth[i] & 1) << 4);
                both[i + 32] = (nibbles[i] >> 4) | ((fifth[i] & 2) << 3);
            }
            *out = both;
            fifth = fifth.map(|bits| bits >> 2);
        }
        Self::with_mins(block)
    }

    /// Q6_K, 210 bytes: 128 of low nibbles, 64 of high pairs of bits, 16 scales (i8), d. Each half of 128 weights has four
    /// runs of 32: low nibbles of bytes 0..32, of 32..64, then their high nibbles; the high bits of run `r` are bits `2r` of the pair bytes.
    #[inline(always)]
    pub fn q6_k(block: &[u8], q: &mut [u8; K_BLOCK]) -> Self {
        for half in 0..2 {
            let low: [u8; 64] = block[64 * half..][..64].try_into().expect("of this length");
            let high: [u8; 32] = block[128 + 32 * half..][..32].try_into().expect("of this length");
            let mut out = [0; 128];
            for i in 0..32 {
                out[i] = (low[i] & 15) | ((high[i] & 3) << 4);
                out[i + 32] = (low[i + 32] & 15) | (((high[i] >> 2) & 3) << 4);
                out[i + 64] = (low[i] >> 4) | (((high[i] >> 4) & 3) << 4);
                out[i + 96] = (low[i + 32] >> 4) | ((high[i] >> 6) << 4);
            }
            q[128 * half..][..128].copy_from_slice(&out);
        }
        let scales = std::array::from_fn(|i| i16::from(block[192 + i] as i8));
        Self::without_mins(half_at(&block[208..]), scales)
    }

    #[inline(always)]
    fn without_mins(d: f32, scales: [i16; 16]) -> Self {
        Self { d, dmin: 0.0, scales, mins: [0; 8] }
    }

    #[inline(always)]
    fn with_mins(block: &[u8]) -> Self {
        let packed = block[4..16].try_into().expect("twelve bytes");
        let (scales, mins) = scales_and_mins(packed);
        Self {
            d: half_at(block),
            dmin: half_at(&block[2..]),
            scales: std::array::from_fn(|i| i16::from(scales[i / 2])),
            mins: mins.map(i16::from),
        }
    }
}

/// Q8_0, 34 bytes: d, then 32 signed bytes; weight = `d * q`.
#[inline(always)]
pub(crate) fn q8_0(block: &[u8]) -> (f32, [i8; SMALL_BLOCK]) {
    (half_at(block), std::array::from_fn(|i| block[2 + i] as i8))
}

/// Q4_0, 18 bytes: d, then 16 bytes: low nibbles are weights 0..16, high ones 16..32; weight = `d * (q - 8)`, `q` unsigned here.
#[inline(always)]
pub(crate) fn q4_0(block: &[u8]) -> (f32, [u8; SMALL_BLOCK]) {
    (half_at(block), nibbles(&block[2..]))
}

#[inline(always)]
fn nibbles(packed: &[u8]) -> [u8; SMALL_BLOCK] {
    std::array::from_fn(|i| if i < 16 { packed[i] & 15 } else { packed[i - 16] >> 4 })
}

/// Q4_1, 20 bytes: d, m, then nibbles as Q4_0's; `(d, m, q)`, weight = `d * q + m`.
#[inline(always)]
pub(crate) fn q4_1(block: &[u8]) -> (f32, f32, [u8; SMALL_BLOCK]) {
    (half_at(block), half_at(&block[2..]), nibbles(&block[4..]))
}

/// Q5_0, 22 bytes: d, four bytes with the fifth bit of each weight in turn, then nibbles as Q4_0's; weight = `d * (q - 16)`.
#[inline(always)]
pub(crate) fn q5_0(block: &[u8]) -> (f32, [u8; SMALL_BLOCK]) {
    (half_at(block), five_bits(&block[2..]))
}

/// Q5_1, 24 bytes: d, m, then fifth bits and nibbles as Q5_0's; `(d, m, q)`, weight = `d * q + m`.
#[inline(always)]
pub(crate) fn q5_1(block: &[u8]) -> (f32, f32, [u8; SMALL_BLOCK]) {
    (half_at(block), half_at(&block[2..]), five_bits(&block[4..]))
}

#[inline(always)]
fn five_bits(packed: &[u8]) -> [u8; SMALL_BLOCK] {
    let fifth = u32::from_le_bytes([packed[0], packed[1], packed[2], packed[3]]);
    let low = nibbles(&packed[4..]);
    std::array::from_fn(|i| low[i] | ((fifth >> i) as u8 & 1) << 4)
}

/// The numbers a run of whole blocks stands for, as f32, rounded as ggml's own `dequantize_row_*` round.
///
/// Panics where `bytes` is not whole blocks, `out` has not their number of weights, or the type is not computed.
pub fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) {
    assert!(ty.is_computed(), "{ty} is not computed");
    assert_eq!(bytes.len() % ty.block_bytes(), 0, "{} bytes are not whole {ty} blocks", bytes.len());
    assert_eq!(bytes.len() / ty.block_bytes() * ty.block_size(), out.len(), "the output has another number of weights");
    let blocks = bytes.chunks_exact(ty.block_bytes()).zip(out.chunks_exact_mut(ty.block_size()));
    match ty {
        GgmlType::F32 => blocks.for_each(|(b, o)| o[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        GgmlType::F16 => blocks.for_each(|(b, o)| o[0] = half_at(b)),
        GgmlType::BF16 => blocks.for_each(|(b, o)| o[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        GgmlType::Q8_0 => blocks.for_each(|(block, out)| small(q8_0(block), f32::from, out)),
        GgmlType::Q4_0 => blocks.for_each(|(block, out)| small(q4_0(block), |q| f32::from(q) - 8.0, out)),
        GgmlType::Q4_1 => blocks.for_each(|(block, out)| small_with_min(q4_1(block), out)),
        GgmlType::Q5_0 => blocks.for_each(|(block, out)| small(q5_0(block), |q| f32::from(q) - 16.0, out)),
        GgmlType::Q5_1 => blocks.for_each(|(block, out)| small_with_min(q5_1(block), out)),
        GgmlType::IQ4NL => blocks.for_each(|(block, out)| small(tables::iq4_nl(block), f32::from, out)),
        GgmlType::MXFP4 => blocks.for_each(|(block, out)| small(tables::mxfp4(block), f32::from, out)),
        GgmlType::Q2K => blocks.for_each(|(block, out)| expand(KBlock::q2_k, block, f32::from, out)),
        GgmlType::Q3K => blocks.for_each(|(block, out)| expand(KBlock::q3_k, block, |q| f32::from(q) - 4.0, out)),
        GgmlType::Q4K => blocks.for_each(|(block, out)| expand(KBlock::q4_k, block, f32::from, out)),
        GgmlType::Q5K => blocks.for_each(|(block, out)| expand(KBlock::q5_k, block, f32::from, out)),
        GgmlType::Q6K => blocks.for_each(|(block, out)| expand(KBlock::q6_k, block, |q| f32::from(q) - 32.0, out)),
        other => {
            let read = signed_block(other).expect("every computed type has its arm");
            blocks.for_each(|(block, out)| expand(read, block, |q| f32::from(q as i8), out));
        }
    }
}

fn small<Q>((d, q): (f32, [Q; SMALL_BLOCK]), level: impl Fn(Q) -> f32, out: &mut [f32]) {
    out.iter_mut().zip(q).for_each(|(out, q)| *out = d * level(q));
}

fn small_with_min((d, m, q): (f32, f32, [u8; SMALL_BLOCK]), out: &mut [f32]) {
    out.iter_mut().zip(q).for_each(|(out, q)| *out = d * f32::from(q) + m);
}

fn expand<const MINS: usize>(
    read: impl Fn(&[u8], &mut [u8; K_BLOCK]) -> KBlock<MINS>,
    block: &[u8],
    level: impl Fn(u8) -> f32,
    out: &mut [f32],
) {
    let mut q = [0; K_BLOCK];
    let block = read(block, &mut q);
    for (i, out) in out.iter_mut().enumerate() {
        let scale = block.d * f32::from(block.scales[i / 16]);
        *out = scale * level(q[i]) - block.dmin * f32::from(block.mins[i * MINS / K_BLOCK]);
    }
}
