//! Reference bodies in plain Candle ops: the oracle of the fast ones, and the fallback on CUDA and Metal.

pub mod attention;
pub mod linear;
pub mod moe;
