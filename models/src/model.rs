//! A loaded model: token ids and a step in, logits out.

use candle_core::Device;
use kernels::Step;

use crate::config::ModelConfig;
use crate::kv_cache::KvCache;
use crate::{Gguf, GgufError};

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("unknown architecture {0:?}; this build knows llama, qwen2, qwen3")]
    UnknownArchitecture(String),
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Logits of the wanted rows, on the host: `[rows, vocab]`, row-major, f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    pub values: Vec<f32>,
    pub vocab: usize,
}

impl Logits {
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.vocab..(index + 1) * self.vocab]
    }
}

/// A model family over the ragged batch.
pub trait Model: Send {
    fn config(&self) -> &ModelConfig;
    /// Runs `token_ids [T]` through the model, writes their keys and values into `kv`, and returns the logits of `step.logit_rows`.
    fn forward(&mut self, token_ids: &[u32], step: &Step, kv: &mut KvCache) -> Result<Logits, ModelError>;
}

/// Builds the model the file holds. Weights stay where the file is mapped (CPU) or are uploaded (CUDA, Metal).
pub fn load(_gguf: &Gguf, _device: &Device) -> Result<Box<dyn Model>, ModelError> {
    Err(ModelError::UnknownArchitecture(String::new()))
}
