//! Attention over the paged cache, and the write into it.

use candle_core::{Result, Tensor, bail};

use crate::{KvLayer, Step};

/// What attention needs to know of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionSpec {
    /// Usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Sliding window: a row sees at most this many tokens, itself included.
    pub window: Option<usize>,
    /// `cap * tanh(score / cap)` before the softmax (Gemma 2).
    pub softcap: Option<f32>,
}

/// Writes `k`, `v` `[T, Hkv*D]` f32 into the slots of the step, rounded to the cache's type.
pub fn kv_write_(_kv: &KvLayer, _k: &Tensor, _v: &Tensor, _step: &Step) -> Result<()> {
    bail!("seam")
}

/// Causal attention of `q [T, Hq*D]` over each sequence's pages -> `[T, Hq*D]`. Keys and values, also those of this very
/// step, are read from the cache only (after their rounding), so chunking cannot change a bit.
pub fn paged_attention(_q: &Tensor, _kv: &KvLayer, _step: &Step, _spec: &AttentionSpec) -> Result<Tensor> {
    bail!("seam")
}
