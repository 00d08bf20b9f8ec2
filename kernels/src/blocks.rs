//! The block formats: how the bits of a block lie, and what numbers they stand for.
//!
//! Plain scalar code, the only description of the formats in this crate; the vector bodies are tested against it.
//! Facts from ggml's format (`ggml-common.h`): all integers little-endian, scales in half precision.
//! Knows no matrix and no activation.

use half::{bf16, f16};

use crate::GgmlType;

/// Weights in a block of a K type.
pub(crate) const K_BLOCK: usize = 256;
/// Weights in a block of Q8_0 and Q4_0.
pub(crate) const SMALL_BLOCK: usize = 32;

/// The scales of a block of Q4_K, Q5_K or Q6_K. With the levels `q` that come beside it, unsigned, of 4, 5 or 6 bits, and
/// the offset 0, 0 or 32, weight `i` is `d * scales[i / 16] * (q[i] - offset) - dmin * mins[i / 32]`.
pub(crate) struct KBlock {
    pub d: f32,
    /// 0 for Q6_K.
    pub dmin: f32,
    /// 0 to 63 (Q4_K, Q5_K: equal in pairs, a scale there spans 32 weights), any i8 (Q6_K).
    pub scales: [i16; 16],
    /// 0 to 63; 0 for Q6_K.
    pub mins: [i16; 8],
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

impl KBlock {
    /// Q4_K, 144 bytes: d, dmin, 12 bytes of scales, 128 bytes of nibbles. Bytes `32c..32c+32` hold weights `64c..64c+32` low and the next 32 high.
    #[inline(always)]
    pub fn q4_k(block: &[u8], q: &mut [u8; K_BLOCK]) -> Self {
        let nibbles = &block[16..144];
        for (chunk, out) in nibbles.chunks_exact(32).zip(q.chunks_exact_mut(64)) {
            for i in 0..32 {
                out[i] = chunk[i] & 15;
                out[i + 32] = chunk[i] >> 4;
            }
        }
        Self::with_mins(block)
    }

    /// Q5_K, 176 bytes: as Q4_K, with 32 bytes of fifth bits before the nibbles: bit `s` of byte `i` belongs to weight `32s + i`.
    #[inline(always)]
    pub fn q5_k(block: &[u8], q: &mut [u8; K_BLOCK]) -> Self {
        let (fifth, nibbles) = (&block[16..48], &block[48..176]);
        for (c, (chunk, out)) in nibbles.chunks_exact(32).zip(q.chunks_exact_mut(64)).enumerate() {
            for i in 0..32 {
                out[i] = (chunk[i] & 15) | (((fifth[i] >> (2 * c)) & 1) << 4);
                out[i + 32] = (chunk[i] >> 4) | (((fifth[i] >> (2 * c + 1)) & 1) << 4);
            }
        }
        Self::with_mins(block)
    }

    /// Q6_K, 210 bytes: 128 of low nibbles, 64 of high pairs of bits, 16 scales (i8), d. Each half of 128 weights has four
    /// runs of 32: low nibbles of bytes 0..32, of 32..64, then their high nibbles; the high bits of run `r` are bits `2r` of the pair bytes.
    #[inline(always)]
    pub fn q6_k(block: &[u8], q: &mut [u8; K_BLOCK]) -> Self {
        for half in 0..2 {
            let (low, high) = (&block[64 * half..][..64], &block[128 + 32 * half..][..32]);
            let out = &mut q[128 * half..][..128];
            for i in 0..32 {
                out[i] = (low[i] & 15) | ((high[i] & 3) << 4);
                out[i + 32] = (low[i + 32] & 15) | (((high[i] >> 2) & 3) << 4);
                out[i + 64] = (low[i] >> 4) | (((high[i] >> 4) & 3) << 4);
                out[i + 96] = (low[i + 32] >> 4) | ((high[i] >> 6) << 4);
            }
        }
        let scales = std::array::from_fn(|i| i16::from(block[192 + i] as i8));
        Self { d: half_at(&block[208..]), dmin: 0.0, scales, mins: [0; 8] }
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
    (half_at(block), std::array::from_fn(|i| if i < 16 { block[2 + i] & 15 } else { block[2 + i - 16] >> 4 }))
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
        GgmlType::Q8_0 => blocks.for_each(|(block, out)| {
            let (d, q) = q8_0(block);
            out.iter_mut().zip(q).for_each(|(o, q)| *o = d * f32::from(q));
        }),
        GgmlType::Q4_0 => blocks.for_each(|(block, out)| {
            let (d, q) = q4_0(block);
            out.iter_mut().zip(q).for_each(|(o, q)| *o = d * (f32::from(q) - 8.0));
        }),
        GgmlType::Q4K => blocks.for_each(|(block, out)| expand(KBlock::q4_k, block, 0.0, out)),
        GgmlType::Q5K => blocks.for_each(|(block, out)| expand(KBlock::q5_k, block, 0.0, out)),
        GgmlType::Q6K => blocks.for_each(|(block, out)| expand(KBlock::q6_k, block, 32.0, out)),
        _ => unreachable!("checked above"),
    }
}

fn expand(read: impl Fn(&[u8], &mut [u8; K_BLOCK]) -> KBlock, block: &[u8], offset: f32, out: &mut [f32]) {
    let mut q = [0; K_BLOCK];
    let block = read(block, &mut q);
    for (i, out) in out.iter_mut().enumerate() {
        let scale = block.d * f32::from(block.scales[i / 16]);
        *out = scale * (f32::from(q[i]) - offset) - block.dmin * f32::from(block.mins[i / 32]);
    }
}
