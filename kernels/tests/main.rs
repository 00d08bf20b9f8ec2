//! Every op against its reference and against itself on other paths: the one test binary of the crate.

mod formats;
mod linear;
mod same_bits;
mod support;
