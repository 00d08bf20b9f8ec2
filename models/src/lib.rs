//! From a GGUF file to logits: the reader, the tokenizer, the paged cache, the families.
//!
//! Invariant: knows token ids and tensors; knows no request, no chat and no HTTP.

pub mod gguf;
pub mod tokenizer;

pub mod config;
pub mod embedding;
pub mod families;
pub mod kv_cache;
pub mod layers;
pub mod memory;
pub mod metadata;
pub mod model;
pub mod rope;
pub mod state;

#[cfg(feature = "testing")]
pub mod testing;

pub use config::{ConfigError, ExpertParameters, FeedForwardKind, Hyperparameters, ModelConfig};
pub use families::Family;
pub use gguf::{Gguf, GgufError};
pub use kv_cache::KvCache;
pub use memory::{MemoryEstimate, StepSize};
pub use model::{Logits, Model, ModelError, load};
pub use state::{LayerGroup, LayerState};
pub use tokenizer::{Detokenizer, Tokenizer, TokenizerError, VocabularyDifference};
