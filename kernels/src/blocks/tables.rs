//! The types whose levels come from a small table: IQ4_NL, IQ4_XS and MXFP4 (sixteen values each), TQ1_0 and TQ2_0 (three).
//!
//! Facts from ggml's format (`ggml-common.h`); MXFP4 is that of the OCP Microscaling Formats specification 1.0. Knows no activation.

use super::{K_BLOCK, KBlock, SMALL_BLOCK, half_at};

/// What a nibble of IQ4_NL and IQ4_XS stands for.
pub(crate) const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// What a nibble of MXFP4 stands for, doubled: one sign, two bits of exponent, one of mantissa.
pub(crate) const MXFP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// IQ4_NL, 18 bytes: d, then 16 bytes: low nibbles are weights 0..16, high ones 16..32; weight = `d * IQ4_VALUES[nibble]`.
#[inline(always)]
pub(crate) fn iq4_nl(block: &[u8]) -> (f32, [i8; SMALL_BLOCK]) {
    (half_at(block), look_up(&IQ4_VALUES, &block[2..18]))
}

/// MXFP4, 17 bytes: an exponent, then nibbles as IQ4_NL's; weight = `e8m0_half(exponent) * MXFP4_VALUES[nibble]`.
#[inline(always)]
pub(crate) fn mxfp4(block: &[u8]) -> (f32, [i8; SMALL_BLOCK]) {
    (e8m0_half(block[0]), look_up(&MXFP4_VALUES, &block[1..17]))
}

/// Half of the power of two that an E8M0 number is, `2^(exponent - 128)`. The specification's NaN, 255, is a number to ggml, too.
#[inline(always)]
pub(crate) fn e8m0_half(exponent: u8) -> f32 {
    // The two smallest are below f32's normal numbers.
    let bits = if exponent < 2 { 0x0020_0000 << exponent } else { (u32::from(exponent) - 1) << 23 };
    f32::from_bits(bits)
}

/// The values of 32 nibbles: the low ones of 16 bytes, then the high ones.
#[inline(always)]
pub(crate) fn look_up(table: &[i8; 16], packed: &[u8]) -> [i8; SMALL_BLOCK] {
    std::array::from_fn(|i| table[usize::from(if i < 16 { packed[i] & 15 } else { packed[i - 16] >> 4 })])
}

/// d of an IQ4_XS block, and the scales of its eight runs of 32, -32 to 31: low four bits in bytes 4..8, high two in bytes 2..4,
/// 32 added.
#[inline(always)]
pub(crate) fn iq4_xs_scales(block: &[u8]) -> (f32, [i16; 8]) {
    let high = u16::from_le_bytes([block[2], block[3]]);
    let scale = |i: usize| {
        let low = block[4 + i / 2] >> (4 * (i % 2)) & 15;
        i16::from(low) + ((high >> (2 * i) & 3) << 4) as i16 - 32
    };
    (half_at(block), std::array::from_fn(scale))
}

/// IQ4_XS, 136 bytes: 8 of scales, then 16 bytes of nibbles for each 32 weights, as IQ4_NL's.
pub(super) fn iq4_xs(block: &[u8], q: &mut [u8; K_BLOCK]) -> KBlock {
    for (packed, q) in block[8..136].chunks_exact(16).zip(q.chunks_exact_mut(32)) {
        q.iter_mut().zip(look_up(&IQ4_VALUES, packed)).for_each(|(q, value)| *q = value as u8);
    }
    let (d, scales) = iq4_xs_scales(block);
    KBlock::without_mins(d, std::array::from_fn(|i| scales[i / 2]))
}

/// TQ1_0, 54 bytes: 48 and 4 of base-3 digits, d. A byte `b` holds five digits (the last four bytes: four), read from the top: digit `n` is
/// `3 * (b * 3^n mod 256) / 256`, and the weight `d * (digit - 1)`. The first 32 bytes have the first digits of weights 0..32, then
/// the second digits, and so on; then the next 16 bytes, then the last four.
pub(super) fn tq1_0(block: &[u8], q: &mut [u8; K_BLOCK]) -> KBlock {
    let mut at = 0;
    for (bytes, digits) in [(&block[..32], 5), (&block[32..48], 5), (&block[48..52], 4)] {
        let mut power = 1u8;
        for _ in 0..digits {
            for byte in bytes {
                let digit = ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as u8;
                q[at] = digit.wrapping_sub(1);
                at += 1;
            }
            power = power.wrapping_mul(3);
        }
    }
    KBlock::without_mins(half_at(&block[52..]), [1; 16])
}

/// TQ2_0, 66 bytes: 64 of two-bit levels, d; weight = `d * (level - 1)`. Bits `2s` of byte `i` of a half are weight `32s + i` of that half.
pub(super) fn tq2_0(block: &[u8], q: &mut [u8; K_BLOCK]) -> KBlock {
    super::two_bits(&block[..64], q);
    q.iter_mut().for_each(|q| *q = q.wrapping_sub(1));
    KBlock::without_mins(half_at(&block[64..]), [1; 16])
}
