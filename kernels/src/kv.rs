//! One layer's pages of keys and values.

use candle_core::{DType, Device, Result, Tensor};

use crate::BLOCK_TOKENS;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvDtype {
    #[default]
    F16,
    F32,
}

/// Keys and values of one layer, `[blocks, kv_heads, BLOCK_TOKENS, head_dim]` each. Pages never move; who owns which is the engine's matter.
#[derive(Debug)]
pub struct KvLayer {
    pub(crate) k: Tensor,
    pub(crate) v: Tensor,
}

impl KvLayer {
    /// Zeroed pages: `2 * blocks * kv_heads * 32 * head_dim * size_of(dtype)` bytes.
    pub fn new(blocks: usize, kv_heads: usize, head_dim: usize, dtype: KvDtype, device: &Device) -> Result<Self> {
        let shape = (blocks, kv_heads, BLOCK_TOKENS, head_dim);
        let dtype = match dtype {
            KvDtype::F16 => DType::F16,
            KvDtype::F32 => DType::F32,
        };
        Ok(Self { k: Tensor::zeros(shape, dtype, device)?, v: Tensor::zeros(shape, dtype, device)? })
    }
}
