//! Fast bodies on the CPU, chosen at run time by instruction set.

pub mod isa;
pub mod peak;
pub mod pool;

pub(crate) mod activation;
mod affinity;
pub(crate) mod attention;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2_few;
#[cfg(target_arch = "x86_64")]
mod avx2_heads;
#[cfg(target_arch = "x86_64")]
mod avx2_unpack;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512_few;
#[cfg(target_arch = "x86_64")]
mod avx512_unpack;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx_vnni;
pub(crate) mod column;
pub(crate) mod dense;
pub(crate) mod exp;
pub(crate) mod experts;
pub(crate) mod f32x8;
pub(crate) mod formats;
pub(crate) mod gate;
#[cfg(target_arch = "aarch64")]
pub(crate) mod i8mm;
pub(crate) mod kv_write;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod norm;
pub(crate) mod page;
pub(crate) mod product;
pub(crate) mod rope;
pub(crate) mod router;
pub(crate) mod row_lanes;
pub(crate) mod scalar;
pub(crate) mod shared_slice;
pub(crate) mod softmax;
pub(crate) mod sums;
mod target;
pub(crate) mod tile;
