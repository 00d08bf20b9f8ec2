//! A loaded model: token ids and a step in, logits out.

use candle_core::Device;
use kernels::{Step, StepError};

use crate::config::{ConfigError, ModelConfig};
use crate::embedding::{Embedder, Pooling};
use crate::families;
use crate::gguf::{Gguf, GgufError};
use crate::kv_cache::KvCache;
use crate::layers::loader::TensorError;
use crate::state::LayerGroup;

/// A model family over the ragged batch.
pub trait Model: Send {
    fn config(&self) -> &ModelConfig;
    /// What its layers remember.
    fn layer_groups(&self) -> &[LayerGroup];
    /// Runs `token_ids [T]` through the model, writes their keys and values into `kv`, and returns the logits of `step.logit_rows`. Where all
    /// layers have one window, `step` may have pages for it ([`Step::windows`]), which then are those of `kv`; else its own pages are.
    ///
    /// Errors: a token id beyond the vocabulary, a step that contradicts itself or the cache, and whatever the device fails with.
    fn forward(&mut self, token_ids: &[u32], step: &Step, kv: &mut KvCache) -> Result<Logits, ModelError>;

    /// The same weights, for vectors of texts of up to `tokens_max` tokens; it shares nothing else with the model, and may run on another
    /// thread. `None`: this family gives none.
    fn embedder(&self, pooling: Pooling, tokens_max: usize) -> Option<Box<dyn Embedder>>;
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

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("{file}: unknown architecture {name:?}; this build knows {}", families::known())]
    UnknownArchitecture { file: String, name: String },
    #[error("{file}: {problem}")]
    Config { file: String, problem: ConfigError },
    #[error("{file}: {problem}")]
    Tensor { file: String, problem: TensorError },
    #[error("a step that is none: {0}")]
    Step(#[from] StepError),
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl ModelError {
    pub(crate) fn config(gguf: &Gguf, problem: ConfigError) -> Self {
        Self::Config { file: gguf.name().to_owned(), problem }
    }
}

/// Builds the model the file holds. Weights stay where the file is mapped (CPU) or are uploaded (CUDA, Metal).
///
/// Errors: an architecture this build does not know, metadata that is missing, absurd or asks for what the family does not do, a
/// tensor that is missing, has another shape than the metadata says, or has no place in the architecture.
pub fn load(gguf: &Gguf, device: &Device) -> Result<Box<dyn Model>, ModelError> {
    let family = families::Family::of(gguf)?;
    Ok(Box::new(family.load(gguf, device)?))
}
