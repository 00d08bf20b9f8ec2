//! Random weights, drawn as block bytes of each computed type. Fast and plain: levels are uniform, scales vary a little (of the
//! types with a codebook and the ternary ones: the scales inside a block are uniform, those of the blocks equal).

use std::io::{self, Write};

use half::{bf16, f16};
use kernels::GgmlType;
use kernels::blocks::dequantize;

/// SplitMix64 (Steele et al. 2014): 8 bytes in about a nanosecond, the same everywhere.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A stream of its own for each name.
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        Self { state: hash ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) }
    }

    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Mean 0, standard deviation 1, within sqrt(3) of 0.
    pub fn uniform(&mut self) -> f32 {
        ((self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0) * 3.0f32.sqrt()
    }

    fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// About `scale`, give or take a quarter.
    fn near(&mut self, scale: f32) -> f32 {
        scale * (1.0 + 0.25 / 3.0f32.sqrt() * self.uniform())
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Standard deviation of levels drawn uniformly from `count` neighbours.
fn level_deviation(count: f32) -> f32 {
    ((count * count - 1.0) / 12.0).sqrt()
}

/// `weights` weights of mean 0 and standard deviation `deviation` as blocks of `ty`.
///
/// Panics for a type that cannot be computed.
pub fn write_random_blocks(random: &mut Random, ty: GgmlType, weights: usize, deviation: f32, out: &mut dyn Write) -> io::Result<()> {
    let (block, block_bytes) = (ty.block_size(), ty.block_bytes());
    assert!(weights.is_multiple_of(block), "{weights} weights are not whole {ty:?} blocks");
    let unit = unit_deviation(ty);
    let mut buffer = vec![0; block_bytes * 4096];
    let mut left = weights / block;
    while left > 0 {
        let bytes = &mut buffer[..block_bytes * left.min(4096)];
        random.fill(bytes);
        bytes.chunks_exact_mut(block_bytes).for_each(|block| set_scales(random, ty, deviation / unit, block));
        out.write_all(bytes)?;
        left -= left.min(4096);
    }
    Ok(())
}

/// Root of the mean square of random blocks whose `d` is 1, for the types whose levels are not uniform; 1 for the others.
fn unit_deviation(ty: GgmlType) -> f32 {
    let Some(at) = codebook_scale(ty) else { return 1.0 };
    let mut bytes = vec![0; 1024 * ty.block_bytes()];
    Random::new(0, ty.name()).fill(&mut bytes);
    bytes.chunks_exact_mut(ty.block_bytes()).for_each(|block| settle_codebook_block(ty, at, block, 1.0));
    let mut weights = vec![0.0; 1024 * ty.block_size()];
    dequantize(ty, &bytes, &mut weights);
    (weights.iter().map(|weight| weight * weight).sum::<f32>() / weights.len() as f32).sqrt()
}

/// Where `d` stands in a block of a codebook or ternary type.
fn codebook_scale(ty: GgmlType) -> Option<usize> {
    use GgmlType::*;
    match ty {
        IQ3S | IQ3XXS | IQ2S | IQ2XS | IQ2XXS | IQ1S => Some(0),
        IQ1M => Some(48),
        TQ1_0 => Some(52),
        TQ2_0 => Some(64),
        _ => None,
    }
}

/// Sets `d`; of TQ2_0's levels of -1..=2 the last, which a quantiser never writes, becomes 0, so that their mean is 0.
fn settle_codebook_block(ty: GgmlType, at: usize, block: &mut [u8], d: f32) {
    if ty == GgmlType::TQ2_0 {
        block[..at].iter_mut().for_each(|four| *four &= !((*four & (*four << 1)) & 0xaa));
    }
    if ty != GgmlType::IQ1M {
        return put_half(&mut block[at..at + 2], d);
    }
    // A quarter of its bits on top of each of four numbers of 16 bits, the lowest first.
    let bits = f16::from_f32(d).to_bits();
    for quarter in 0..4 {
        let high = &mut block[at + 1 + 2 * quarter];
        *high = (*high & 15) | ((bits >> (4 * quarter)) as u8 & 15) << 4;
    }
}

/// Turns random bytes into a block of sane weights.
fn set_scales(random: &mut Random, ty: GgmlType, deviation: f32, block: &mut [u8]) {
    match ty {
        GgmlType::F32 => block.copy_from_slice(&(deviation * random.uniform()).to_le_bytes()),
        GgmlType::F16 => block.copy_from_slice(&f16::from_f32(deviation * random.uniform()).to_le_bytes()),
        GgmlType::BF16 => block.copy_from_slice(&bf16::from_f32(deviation * random.uniform()).to_le_bytes()),
        // d, 32 levels of -127..=127 (a quantiser never writes -128).
        GgmlType::Q8_0 => {
            block[2..].iter_mut().filter(|level| **level == 0x80).for_each(|level| *level = 0);
            put_half(&mut block[..2], random.near(deviation / level_deviation(255.0)));
        }
        // d, 32 levels of -8..=7, whose mean is not 0: the sign of d makes up for it.
        GgmlType::Q4_0 => {
            let scale = random.near(deviation / level_deviation(16.0));
            put_half(&mut block[..2], signed(random, scale));
        }
        // d, m, 32 levels of 0..=15 or 0..=31.
        GgmlType::Q4_1 => small_affine(random, deviation, 16.0, block),
        GgmlType::Q5_1 => small_affine(random, deviation, 32.0, block),
        // d, 32 levels of -16..=15.
        GgmlType::Q5_0 => {
            let scale = random.near(deviation / level_deviation(32.0));
            put_half(&mut block[..2], signed(random, scale));
        }
        // d, 32 nibbles of a table.
        GgmlType::IQ4NL => {
            let scale = random.near(deviation / IQ4_DEVIATION);
            put_half(&mut block[..2], signed(random, scale));
        }
        // The exponent of a power of two, 32 nibbles of a table: of two powers as often the larger as the deviation asks.
        GgmlType::MXFP4 => {
            let scale = deviation / MXFP4_DEVIATION;
            let exponent = scale.log2().floor();
            let larger = ((scale / exponent.exp2()).powi(2) - 1.0) / 3.0;
            let drawn = (random.next() >> 40) as f32 / (1 << 24) as f32;
            block[0] = (127.0 + exponent) as u8 + u8::from(drawn < larger);
        }
        // 16 scales and minimums of 4 bits, 256 levels of 0..=3, d, dmin. Alike, so that the mean is 0.
        GgmlType::Q2K => {
            block[..16].iter_mut().for_each(|scale| *scale = random.within(7, 9) as u8 * 17);
            let d = random.near(deviation / (level_deviation(4.0) * 8.0));
            put_half(&mut block[80..82], d);
            put_half(&mut block[82..], 1.5 * d);
        }
        // 256 levels of -4..=3, 16 scales of 6 bits, d.
        GgmlType::Q3K => {
            let codes: [u8; 16] = std::array::from_fn(|_| six_bit_scale(random));
            for i in 0..8 {
                block[96 + i] = (codes[i] & 15) | (codes[i + 8] & 15) << 4;
            }
            for i in 0..4 {
                block[104 + i] = (0..4).map(|s| (codes[4 * s + i] >> 4) << (2 * s)).sum();
            }
            // Squares of -4..=3 have the mean 5.5.
            put_half(&mut block[108..], random.near(deviation / (5.5f32.sqrt() * 16.0)));
        }
        // d, 8 scales of 6 bits, 256 nibbles of a table.
        GgmlType::IQ4XS => {
            let codes: [u8; 8] = std::array::from_fn(|_| six_bit_scale(random));
            let high: u16 = (0..8).map(|i| u16::from(codes[i] >> 4) << (2 * i)).sum();
            block[2..4].copy_from_slice(&high.to_le_bytes());
            for i in 0..4 {
                block[4 + i] = (codes[2 * i] & 15) | (codes[2 * i + 1] & 15) << 4;
            }
            put_half(&mut block[..2], random.near(deviation / (IQ4_DEVIATION * 16.0)));
        }
        // d, 8 scales and minimums of 6 bits, levels of 0..=15 or 0..=31.
        GgmlType::Q4K => affine_scales(random, deviation, 16.0, block),
        GgmlType::Q5K => affine_scales(random, deviation, 32.0, block),
        // Low and high bits of 256 levels of -32..=31, 16 scales of 8 bits, d.
        GgmlType::Q6K => {
            for scale in &mut block[192..208] {
                let size = random.within(32, 64) as i8;
                *scale = if random.next() & 1 == 0 { size } else { -size } as u8;
            }
            put_half(&mut block[208..], random.near(deviation / (level_deviation(64.0) * 49.0)));
        }
        // The levels' mean is not 0: the sign of d makes up for it.
        other => {
            let at = codebook_scale(other).unwrap_or_else(|| panic!("no random {other:?} blocks"));
            settle_codebook_block(other, at, block, signed(random, deviation));
        }
    }
}

/// Roots of the mean squares of the values of IQ4_NL and IQ4_XS, and of MXFP4's.
const IQ4_DEVIATION: f32 = 67.44;
const MXFP4_DEVIATION: f32 = 2.926;

fn small_affine(random: &mut Random, deviation: f32, levels: f32, block: &mut [u8]) {
    let d = random.near(deviation / level_deviation(levels));
    put_half(&mut block[..2], d);
    put_half(&mut block[2..4], d * (levels - 1.0) / -2.0);
}

/// 32 more than a scale of about 16 of either sign.
fn six_bit_scale(random: &mut Random) -> u8 {
    let size = random.within(14, 18) as u8;
    if random.next() & 1 == 0 { 32 + size } else { 32 - size }
}

/// Scales and minimums alike, so that `dmin` of the mean level times `d` makes the mean 0.
fn affine_scales(random: &mut Random, deviation: f32, levels: f32, block: &mut [u8]) {
    let d = random.near(deviation / (level_deviation(levels) * 32.0));
    put_half(&mut block[..2], d);
    put_half(&mut block[2..4], d * (levels - 1.0) / 2.0);
    let scales: [u8; 8] = std::array::from_fn(|_| random.within(24, 40) as u8);
    for index in 0..4 {
        // Six bits of scale `index`, above them the high two bits of scale `index + 4`; the same for the minimums; then the
        // low four bits of both.
        let packed = scales[index] | ((scales[index + 4] >> 4) << 6);
        block[4 + index] = packed;
        block[8 + index] = packed;
        block[12 + index] = (scales[index + 4] & 15) * 17;
    }
}

fn signed(random: &mut Random, value: f32) -> f32 {
    if random.next() & 1 == 0 { value } else { -value }
}

fn put_half(place: &mut [u8], value: f32) {
    place.copy_from_slice(&f16::from_f32(value).to_le_bytes());
}
