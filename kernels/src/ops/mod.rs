//! The ops, one a file: what it computes, which body runs where.
//! Activations are f32 `[T, width]`, contiguous.

pub mod attention;
pub mod embed;
pub mod linear;
pub mod norm;
pub mod rope;
