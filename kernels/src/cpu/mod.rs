//! Fast bodies on the CPU, chosen at run time by instruction set.

pub mod isa;
pub mod pool;

pub(crate) mod activation;
pub(crate) mod gate;
pub(crate) mod product;
pub(crate) mod scalar;
pub(crate) mod shared_slice;
