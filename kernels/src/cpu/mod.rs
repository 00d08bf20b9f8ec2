//! Fast bodies on the CPU, chosen at run time by instruction set.

pub mod isa;
pub mod pool;

pub(crate) mod activation;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
pub(crate) mod gate;
pub(crate) mod lanes;
pub(crate) mod product;
pub(crate) mod scalar;
pub(crate) mod shared_slice;
pub(crate) mod tile;
