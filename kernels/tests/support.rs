//! Numbers with a seed, and weights made of them.

use candle_core::{Device, Tensor};
use half::f16;
use kernels::blocks::dequantize;
use kernels::{GgmlType, Weight, quantize};

/// A small generator (xorshift64*), so that a failure is replayed by its seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Roughly normal, variance 1: the sum of twelve uniform numbers, less 6.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() >> 40) as f32 / (1u64 << 24) as f32).sum::<f32>() - 6.0
    }

    pub fn normals(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.normal()).collect()
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 56) as u8).collect()
    }
}

/// Where in a block its half-precision numbers stand. IQ1_M's is in quarters, of which the last two bytes have the highest.
pub fn halves(ty: GgmlType) -> &'static [usize] {
    use GgmlType::*;
    match ty {
        Q8_0 | Q4_0 | Q5_0 | IQ4NL | IQ4XS | IQ3S | IQ3XXS | IQ2S | IQ2XS | IQ2XXS | IQ1S => &[0],
        Q4_1 | Q5_1 | Q4K | Q5K => &[0, 2],
        Q2K => &[80, 82],
        Q3K => &[108],
        Q6K => &[208],
        IQ1M => &[54],
        TQ1_0 => &[52],
        TQ2_0 => &[64],
        _ => &[],
    }
}

/// Sets the half-precision numbers of a block to those bits; of MXFP4, whose scale is a power of two, an exponent like theirs.
pub fn set_scale(ty: GgmlType, block: &mut [u8], scale: u16) {
    match ty {
        GgmlType::MXFP4 => block[0] = (scale >> 7) as u8,
        GgmlType::IQ1M => {
            for quarter in 0..4 {
                let high = &mut block[49 + 2 * quarter];
                *high = (*high & 15) | ((scale >> (4 * quarter)) as u8 & 15) << 4;
            }
        }
        _ => halves(ty).iter().for_each(|at| block[*at..*at + 2].copy_from_slice(&scale.to_le_bytes())),
    }
}

/// A weight of random numbers of variance 1: normal ones where there is a quantiser, else whatever random blocks hold.
pub fn weight(ty: GgmlType, rows: usize, cols: usize, seed: u64) -> Weight {
    let mut random = Random::new(seed);
    let bytes = if quantize::can_quantize(ty) {
        quantize::quantize(ty, &random.normals(rows * cols)).expect("whole blocks of finite numbers")
    } else {
        random_blocks(ty, rows * cols / ty.block_size(), &mut random)
    };
    Weight::new(bytes.into(), ty, rows, cols, &Device::Cpu).expect("sizes fit")
}

fn random_blocks(ty: GgmlType, count: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = random.bytes(count * ty.block_bytes());
    let mut scale_all = |scale: f32| -> f32 {
        let bits = f16::from_f32(scale).to_bits();
        bytes.chunks_exact_mut(ty.block_bytes()).for_each(|block| set_scale(ty, block, bits));
        let mut values = vec![0.0; count * ty.block_size()];
        dequantize(ty, &bytes, &mut values);
        (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt()
    };
    let deviation = scale_all(1.0);
    scale_all(1.0 / deviation);
    bytes
}

pub fn rows(rows: usize, cols: usize, seed: u64) -> Tensor {
    Tensor::from_vec(Random::new(seed).normals(rows * cols), (rows, cols), &Device::Cpu).expect("sizes fit")
}

pub fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().and_then(|x| x.to_vec1()).expect("f32 on the CPU")
}

/// Equal to the bit; any NaN equals any NaN.
#[track_caller]
pub fn assert_bits(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}: lengths");
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!(a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()), "{what}: element {i} is {a:e}, not {b:e}");
    }
}
