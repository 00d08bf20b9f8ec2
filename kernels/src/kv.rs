//! One layer's pages of keys and values.

use candle_core::{DType, Device, Result, Tensor, bail};
use half::f16;
use half::vec::HalfBitsVecExt;

use crate::BLOCK_TOKENS;
use crate::cpu::page::{Format, Q8_0};

mod block_bytes;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvDtype {
    #[default]
    F16,
    F32,
    /// Blocks of 32 elements of a head: signed bytes and a half-precision scale, ggml's Q8_0. On the CPU only.
    Q8_0,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown type of cache {0:?}: expected f16, f32 or q8_0")]
pub struct UnknownKvDtype(String);

impl KvDtype {
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::Q8_0 => "q8_0",
        }
    }

    /// What a head's size must be a multiple of.
    pub fn head_dim_multiple(self) -> usize {
        match self {
            Self::F16 | Self::F32 => 1,
            Self::Q8_0 => 32,
        }
    }

    /// Bytes of `values` elements, a multiple of [`KvDtype::head_dim_multiple`]: 2, 4 or 34/32 each. Saturates.
    pub fn bytes(self, values: u64) -> u64 {
        match self {
            Self::F16 => values.saturating_mul(2),
            Self::F32 => values.saturating_mul(4),
            Self::Q8_0 => values.saturating_add(values.div_ceil(32).saturating_mul(2)),
        }
    }

    /// The type of a tensor of pages.
    fn dtype(self) -> DType {
        match self {
            Self::F16 => DType::F16,
            Self::F32 => DType::F32,
            Self::Q8_0 => DType::U8,
        }
    }
}

impl std::fmt::Display for KvDtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for KvDtype {
    type Err = UnknownKvDtype;

    fn from_str(text: &str) -> std::result::Result<Self, UnknownKvDtype> {
        let all = [Self::F16, Self::F32, Self::Q8_0];
        all.into_iter().find(|dtype| dtype.name().eq_ignore_ascii_case(text)).ok_or_else(|| UnknownKvDtype(text.to_owned()))
    }
}

/// Keys and values of one layer, in pages of [`BLOCK_TOKENS`]. Pages never move; who owns which is the engine's matter.
///
/// The layout is private and the device's own:
/// - CPU: keys `[blocks, kv_heads, head_dim, 32]`, transposed so that the scores of a page are 32 lanes with one order of
///   accumulation on every instruction set; values `[blocks, kv_heads, 32, head_dim]`. With q8_0 a page `[head_dim * 34]` of
///   bytes: the quantised elements in that order, then the scales `[head_dim / 32, 32]`.
/// - elsewhere: both `[blocks, 32, kv_heads, head_dim]`, so that a row of `[T, kv_heads * head_dim]` is one copy; no q8_0.
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
    /// Zeroed pages: `dtype.bytes(2 * blocks * kv_heads * 32 * head_dim)` bytes. On the CPU `head_dim` must be a
    /// multiple of 8, and of 32 for q8_0; other devices have no q8_0.
    pub fn new(blocks: usize, kv_heads: usize, head_dim: usize, dtype: KvDtype, device: &Device) -> Result<Self> {
        if kv_heads == 0 || head_dim == 0 {
            bail!("a cache layer needs heads: kv_heads {kv_heads}, head_dim {head_dim}");
        }
        if !head_dim.is_multiple_of(dtype.head_dim_multiple()) {
            bail!("a cache of {dtype} needs heads of a multiple of {} elements, not {head_dim}", dtype.head_dim_multiple());
        }
        if !device.is_cpu() {
            if dtype == KvDtype::Q8_0 {
                bail!("a cache of q8_0 is for the CPU; this device takes f16 or f32");
            }
            let pages = || Tensor::zeros((blocks, BLOCK_TOKENS, kv_heads, head_dim), dtype.dtype(), device);
            return Ok(Self { k: pages()?, v: pages()?, blocks, kv_heads, head_dim, dtype });
        }
        if !head_dim.is_multiple_of(8) {
            bail!("head_dim {head_dim} is not a multiple of 8, which attention on the CPU needs");
        }
        let (k_page, v_page) = match dtype {
            KvDtype::F16 | KvDtype::F32 => ((head_dim, BLOCK_TOKENS), (BLOCK_TOKENS, head_dim)),
            KvDtype::Q8_0 => ((1, Q8_0::page_len(head_dim)), (1, Q8_0::page_len(head_dim))),
        };
        let pages = |(rows, cols)| zeros((blocks, kv_heads, rows, cols), dtype);
        Ok(Self { k: pages(k_page)?, v: pages(v_page)?, blocks, kv_heads, head_dim, dtype })
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
        if self.dtype == KvDtype::Q8_0 {
            return Ok((self.gather_q8_0(&self.k, true, table, tokens)?, self.gather_q8_0(&self.v, false, table, tokens)?));
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

    /// The numbers behind pages of bytes, written apart from the fast bodies: their tests read the cache through this.
    fn gather_q8_0(&self, pages: &Tensor, transposed: bool, table: &[u32], tokens: usize) -> Result<Tensor> {
        let head_dim = self.head_dim;
        let mut out = vec![0.0f32; self.kv_heads * tokens * head_dim];
        for (index, &block) in table.iter().enumerate() {
            let block: Vec<Vec<u8>> = pages.get(block as usize)?.squeeze(1)?.to_vec2()?;
            for (head, page) in block.iter().enumerate() {
                let (bytes, scales) = page.split_at(BLOCK_TOKENS * head_dim);
                for token in 0..BLOCK_TOKENS.min(tokens - index * BLOCK_TOKENS) {
                    let row = &mut out[(head * tokens + index * BLOCK_TOKENS + token) * head_dim..][..head_dim];
                    for (d, x) in row.iter_mut().enumerate() {
                        let q = bytes[if transposed { d * BLOCK_TOKENS + token } else { token * head_dim + d }] as i8;
                        let scale = &scales[2 * (d / 32 * BLOCK_TOKENS + token)..];
                        *x = f16::from_le_bytes([scale[0], scale[1]]).to_f32() * f32::from(q);
                    }
                }
            }
        }
        Tensor::from_vec(out, (self.kv_heads, tokens, head_dim), self.device())
    }
}

/// Zeros in the CPU's memory that cost none until they are written: Candle's own fill every page of a half-precision tensor.
fn zeros(shape: (usize, usize, usize, usize), dtype: KvDtype) -> Result<Tensor> {
    let len = shape.0 * shape.1 * shape.2 * shape.3;
    match dtype {
        KvDtype::F16 => Tensor::from_vec(vec![0u16; len].reinterpret_into::<f16>(), shape, &Device::Cpu),
        KvDtype::F32 => Tensor::from_vec(vec![0f32; len], shape, &Device::Cpu),
        KvDtype::Q8_0 => Tensor::from_vec(vec![0u8; len], shape, &Device::Cpu),
    }
}
