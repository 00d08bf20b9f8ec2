//! Fast bodies on the CPU, chosen at run time by instruction set.

pub mod isa;
pub mod peak;
pub mod pool;

pub(crate) mod activation;
pub(crate) mod attention;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2_few;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod dense;
pub(crate) mod exp;
pub(crate) mod f32x8;
pub(crate) mod gate;
pub(crate) mod kv_write;
pub(crate) mod lanes;
pub(crate) mod norm;
pub(crate) mod product;
pub(crate) mod rope;
pub(crate) mod scalar;
pub(crate) mod shared_slice;
pub(crate) mod softmax;
pub(crate) mod tile;
pub(crate) mod tile_formats;
