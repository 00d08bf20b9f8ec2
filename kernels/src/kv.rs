//! One layer's pages of keys and values.

use candle_core::{DType, Device, Result, Tensor, bail};
use half::f16;
use half::vec::HalfBitsVecExt;

use crate::BLOCK_TOKENS;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvDtype {
    #[default]
    F16,
    F32,
}

impl KvDtype {
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    fn dtype(self) -> DType {
        match self {
            Self::F16 => DType::F16,
            Self::F32 => DType::F32,
        }
    }
}

/// Keys and values of one layer, in pages of [`BLOCK_TOKENS`]. Pages never move; who owns which is the engine's matter.
///
/// The layout is private and the device's own:
/// - CPU: keys `[blocks, kv_heads, head_dim, 32]`, transposed so that the scores of a page are 32 lanes with one order of
///   accumulation on every instruction set; values `[blocks, kv_heads, 32, head_dim]`.
/// - elsewhere: both `[blocks, 32, kv_heads, head_dim]`, so that a row of `[T, kv_heads * head_dim]` is one copy.
#[derive(Debug)]
pub struct KvLayer {
    pub(crate) k: Tensor,
    pub(crate) v: Tensor,
    pub(crate) blocks: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    dtype: KvDtype,
}

impl KvLayer {
    /// Zeroed pages: `2 * blocks * kv_heads * 32 * head_dim * dtype.size_bytes()` bytes. On the CPU `head_dim` must be a
    /// multiple of 8.
    pub fn new(blocks: usize, kv_heads: usize, head_dim: usize, dtype: KvDtype, device: &Device) -> Result<Self> {
        if kv_heads == 0 || head_dim == 0 {
            bail!("a cache layer needs heads: kv_heads {kv_heads}, head_dim {head_dim}");
        }
        let (k_shape, v_shape) = if device.is_cpu() {
            if !head_dim.is_multiple_of(8) {
                bail!("head_dim {head_dim} is not a multiple of 8, which attention on the CPU needs");
            }
            ((blocks, kv_heads, head_dim, BLOCK_TOKENS), (blocks, kv_heads, BLOCK_TOKENS, head_dim))
        } else {
            let shape = (blocks, BLOCK_TOKENS, kv_heads, head_dim);
            (shape, shape)
        };
        let (k, v) = (zeros(k_shape, dtype, device)?, zeros(v_shape, dtype, device)?);
        Ok(Self { k, v, blocks, kv_heads, head_dim, dtype })
    }

    pub fn blocks(&self) -> usize {
        self.blocks
    }

    pub fn dtype(&self) -> KvDtype {
        self.dtype
    }

    pub fn device(&self) -> &Device {
        self.k.device()
    }

    /// Keys and values of the first `tokens` tokens behind a block table, as attention sees them (rounded to the cache's type):
    /// `[kv_heads, tokens, head_dim]` f32 each.
    pub fn gather(&self, table: &[u32], tokens: usize) -> Result<(Tensor, Tensor)> {
        let needed = tokens.div_ceil(BLOCK_TOKENS);
        let Some(table) = table.get(..needed) else { bail!("{tokens} tokens need {needed} blocks, the table has {}", table.len()) };
        if let Some(block) = table.iter().find(|&&block| block as usize >= self.blocks) {
            bail!("block {block} is beyond the cache's {}", self.blocks);
        }
        let ids = Tensor::from_slice(table, needed, self.device())?;
        // To [kv_heads, needed, 32, head_dim] from either layout.
        let (k_order, v_order) = if self.device().is_cpu() { ([1, 0, 3, 2], [1, 0, 2, 3]) } else { ([2, 0, 1, 3], [2, 0, 1, 3]) };
        let pages = |pages: &Tensor, order: [usize; 4]| -> Result<Tensor> {
            let flat = (self.kv_heads, needed * BLOCK_TOKENS, self.head_dim);
            let picked = pages.index_select(&ids, 0)?.to_dtype(DType::F32)?;
            picked.permute(order)?.contiguous()?.reshape(flat)?.narrow(1, 0, tokens)?.contiguous()
        };
        Ok((pages(&self.k, k_order)?, pages(&self.v, v_order)?))
    }
}

/// Zeros that cost no memory until they are written: Candle's own fill every page of a half-precision tensor.
fn zeros(shape: (usize, usize, usize, usize), dtype: KvDtype, device: &Device) -> Result<Tensor> {
    if !device.is_cpu() {
        return Tensor::zeros(shape, dtype.dtype(), device);
    }
    let len = shape.0 * shape.1 * shape.2 * shape.3;
    match dtype {
        KvDtype::F16 => Tensor::from_vec(vec![0u16; len].reinterpret_into::<f16>(), shape, device),
        KvDtype::F32 => Tensor::from_vec(vec![0f32; len], shape, device),
    }
}
