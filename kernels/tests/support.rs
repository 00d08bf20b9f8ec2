//! Numbers with a seed, and weights made of them.

use candle_core::{Device, Tensor};
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

/// A weight of random numbers.
pub fn weight(ty: GgmlType, rows: usize, cols: usize, seed: u64) -> Weight {
    let values = Random::new(seed).normals(rows * cols);
    let bytes = quantize::quantize(ty, &values).expect("whole blocks of finite numbers");
    Weight::new(bytes.into(), ty, rows, cols, &Device::Cpu).expect("sizes fit")
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
