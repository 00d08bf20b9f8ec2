//! The pages of all layers.

use candle_core::{Device, Result};
use kernels::{KvDtype, KvLayer};

use crate::config::ModelConfig;

/// Keys and values of all layers: `blocks` pages of 32 tokens each.
#[derive(Debug)]
pub struct KvCache {
    pub layers: Vec<KvLayer>,
    pub blocks: usize,
}

impl KvCache {
    /// Bytes of one block in all layers: `2 * layers * kv_heads * head_dim * 32 * size_of(dtype)`.
    pub fn block_bytes(config: &ModelConfig, dtype: KvDtype) -> u64 {
        let size = match dtype {
            KvDtype::F16 => 2,
            KvDtype::F32 => 4,
        };
        (2 * config.layers * config.kv_heads * config.head_dim * kernels::BLOCK_TOKENS * size) as u64
    }
    pub fn new(config: &ModelConfig, blocks: usize, dtype: KvDtype, device: &Device) -> Result<Self> {
        let layers =
            (0..config.layers).map(|_| KvLayer::new(blocks, config.kv_heads, config.head_dim, dtype, device)).collect::<Result<_>>()?;
        Ok(Self { layers, blocks })
    }
}
