//! From a GGUF file to logits: the reader, the tokenizer, the paged cache, the families.
//!
//! Invariant: knows token ids and tensors; knows no request, no chat and no HTTP.

pub mod gguf;
pub mod tokenizer;

pub mod config;
pub mod kv_cache;
pub mod model;

pub use gguf::{Gguf, GgufError};
pub use model::{Logits, Model, ModelError, load};
pub use tokenizer::{Detokenizer, Tokenizer, TokenizerError};
