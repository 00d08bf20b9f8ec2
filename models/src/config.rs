//! Hyperparameters of a model, read once from GGUF metadata.

/// What the rest of the program needs to know of a loaded model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub architecture: String,
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
    /// Context the model declares, in tokens.
    pub context_max: usize,
}
