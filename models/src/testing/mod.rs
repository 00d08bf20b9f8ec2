//! Random models with a working tokenizer, and steps by hand: for tests, benches and examples (feature `testing`).
//!
//! Invariant: nothing here is reachable from the product.

pub mod batch;

pub mod random_model;
pub mod tiny_encoder;

mod blocks;
mod vocabulary;

use std::sync::Arc;

use kernels::{GgmlType, SharedBytes};

use crate::families::Family;
use crate::gguf::Gguf;
use random_model::{Mix, RandomModel};

/// A random model of `family` with two layers and 320 tokens, all matrices of type `ty`, as the bytes of a GGUF file.
///
/// It has a byte-level tokenizer that covers every text and a ChatML template, and runs in a millisecond or so: made for tests of
/// what stands above the model. The same arguments give the same bytes.
pub fn tiny_gguf(family: Family, seed: u64, ty: GgmlType) -> Vec<u8> {
    RandomModel::tiny(family, Mix::All(ty), seed).writer().to_bytes()
}

/// [`tiny_gguf`], opened.
pub fn tiny(family: Family, seed: u64, ty: GgmlType) -> Gguf {
    Gguf::from_bytes(SharedBytes::new(Arc::new(tiny_gguf(family, seed, ty))), "tiny.gguf").expect("our own file can be read")
}
