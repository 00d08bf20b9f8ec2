//! Every op against its reference and against itself on other paths: the one test binary of the crate.

mod attention;
mod attention_bits;
mod device;
mod formats;
mod linear;
mod moe;
mod norm;
mod profile;
mod rope;
mod same_bits;
mod softmax;
mod step;
mod support;
