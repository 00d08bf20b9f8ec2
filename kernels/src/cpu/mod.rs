//! Fast bodies on the CPU, chosen at run time by instruction set.

pub mod pool;
