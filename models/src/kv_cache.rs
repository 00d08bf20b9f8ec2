//! The pages of all layers. Who owns which page is the engine's matter.

use candle_core::{Device, Result, bail};
use kernels::{KvDtype, KvLayer};

use crate::config::ModelConfig;

/// Keys and values of all layers: `blocks` pages of 32 tokens each. Pages never move.
#[derive(Debug)]
pub struct KvCache {
    pub layers: Vec<KvLayer>,
    pub blocks: usize,
}

impl KvCache {
    /// Bytes of one block in all layers: `dtype.bytes(2 * layers * kv_heads * head_dim * 32)`.
    pub fn block_bytes(config: &ModelConfig, dtype: KvDtype) -> u64 {
        let values = [2, config.layers, config.kv_heads, config.head_dim, kernels::BLOCK_TOKENS]
            .into_iter()
            .fold(1, |product: u64, factor| product.saturating_mul(factor as u64));
        dtype.bytes(values)
    }

    /// Zeroed pages, `blocks * block_bytes` of them. Errors: more slots than a u32 can number, and the device's own.
    pub fn new(config: &ModelConfig, blocks: usize, dtype: KvDtype, device: &Device) -> Result<Self> {
        let slots = (blocks as u64).saturating_mul(kernels::BLOCK_TOKENS as u64);
        if slots > u64::from(u32::MAX) {
            bail!("a cache of {blocks} blocks has {slots} slots, more than {} can be numbered", u32::MAX);
        }
        let layer = || KvLayer::new(blocks, config.kv_heads, config.head_dim, dtype, device);
        Ok(Self { layers: (0..config.layers).map(|_| layer()).collect::<Result<_>>()?, blocks })
    }
}
