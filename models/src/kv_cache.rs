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

    /// Length of what [`Self::read_block`] appends; `None` on a device whose pages are not copied out.
    pub fn copied_block_bytes(&self) -> Option<usize> {
        self.layers.iter().map(KvLayer::block_bytes).sum()
    }

    /// Appends the keys and values of `block`, layer by layer, as they lie. Errors: a block beyond the cache, a device.
    pub fn read_block(&self, block: u32, out: &mut Vec<u8>) -> Result<()> {
        self.layers.iter().try_for_each(|layer| layer.read_block(block, out))
    }

    /// Puts back what [`Self::read_block`] gave for a cache of the same shape and type. Errors as there, and another length; then
    /// what stands in the block is nobody's content.
    pub fn write_block(&mut self, block: u32, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        for layer in &self.layers {
            let len = layer.block_bytes().unwrap_or(0);
            let Some((own, after)) = rest.split_at_checked(len) else { bail!("{} bytes are too few for a block", bytes.len()) };
            layer.write_block(block, own)?;
            rest = after;
        }
        if !rest.is_empty() {
            bail!("{} bytes are {} too many for a block", bytes.len(), rest.len());
        }
        Ok(())
    }
}
