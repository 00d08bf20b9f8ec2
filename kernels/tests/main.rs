//! Every op against its reference and against itself on other paths: the one test binary of the crate.

mod linear;
mod support;
