//! Fast bodies on the CPU, chosen at run time by instruction set.

pub mod activation;
pub mod attention;
pub mod disjoint;
pub mod kv_write;
pub mod lanes;
pub mod norm;
pub mod pool;
pub mod rope;
pub mod softmax;
