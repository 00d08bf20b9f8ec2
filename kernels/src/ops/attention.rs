//! Attention over the paged cache, and the write into it.

use std::sync::Arc;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, bail};

use super::{chosen_isa, rows_of};
use crate::cpu::attention::{self as cpu, Pages};
use crate::cpu::kv_write::{self, Part};
use crate::cpu::page::{F16, F32, Q8_0};
use crate::profile::{self, cost};
use crate::{BLOCK_TOKENS, KvLayer, Step, reference::attention as reference};

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
    /// `[heads]`: a learned score of each query head that takes part in its softmax and has no value (gpt-oss); not capped.
    pub sinks: Option<Arc<[f32]>>,
}

/// Writes `k`, `v` `[T, Hkv*D]` f32 into the slots of the step, rounded to the cache's type: f16 to nearest, ties to even; q8_0
/// within half of its block's scale, which is the block's largest magnitude over 127, rounded up to half precision. A q8_0 block
/// with a number that is not finite, or beyond `127 * 65504`, reads as NaN.
///
/// Errors on other shapes and on slots beyond the cache. No two rows may write the same slot.
pub fn kv_write_(kv: &KvLayer, k: &Tensor, v: &Tensor, step: &Step) -> Result<()> {
    let shape = (step.rows(), kv.kv_heads * kv.head_dim);
    let _timer = profile::op(|| cost::kv_write(step.rows(), kv.dtype().bytes(2 * shape.1 as u64)));
    if k.dims2()? != shape || v.dims2()? != shape {
        bail!("kv_write_ of keys {:?} and values {:?}; the step and cache want {shape:?}", k.shape(), v.shape());
    }
    if let Some(slot) = step.slots.iter().find(|&&slot| slot as usize >= kv.blocks * BLOCK_TOKENS) {
        bail!("slot {slot} is beyond the cache's {} blocks", kv.blocks);
    }
    if step.slots.len() != step.rows() {
        bail!("a step of {} rows has {} slots", step.rows(), step.slots.len());
    }
    if step.rows() == 0 {
        return Ok(());
    }
    if !kv.device().is_cpu() {
        return reference::kv_write_(kv, k, v, step);
    }
    kv.k.inplace_op1(&KvWrite { part: Part::Keys, rows: k, step, kv })?;
    kv.v.inplace_op1(&KvWrite { part: Part::Values, rows: v, step, kv })
}

/// Causal attention of `q [T, Hq*D]` over each sequence's pages -> `[T, Hq*D]`. Keys and values, also those of this very
/// step, are read from the cache only (after their rounding), so chunking cannot change a bit.
///
/// For a row at position `p`: `softmax_j(cap(scale * q.k_j)) v_j` over `max(0, p + 1 - window) <= j <= p`, by online softmax
/// (Milakov and Gimelshein 2018) in splits of 256 tokens at absolute positions, merged in ascending order. With a sink `s` the
/// softmax's denominator has the further term `e^s`: the first split is merged into the state (maximum `s`, sum 1, no value).
/// Scores, weights and sums are f32 in every type of cache. Error against f64 on the same rounded cache: about 1e-6 of the
/// largest value in the cache for scores up to 30 in magnitude.
pub fn paged_attention(q: &Tensor, kv: &KvLayer, step: &Step, spec: &AttentionSpec) -> Result<Tensor> {
    check_attention(q, kv, step, spec)?;
    let _timer = profile::op(|| cost::paged_attention(step, spec, kv.dtype()));
    if !kv.device().is_cpu() {
        return reference::paged_attention(q, kv, step, spec);
    }
    let isa = chosen_isa()?;
    let mut out = vec![0.0f32; q.elem_count()];
    let (k_storage, k_layout) = kv.k.storage_and_layout();
    let (v_storage, v_layout) = kv.v.storage_and_layout();
    let (k, v) = (pages(&k_storage, k_layout)?, pages(&v_storage, v_layout)?);
    rows_of(q, |q| cpu::attend(isa, &cpu::Inputs { q, k, v, step, spec }, &mut out))?;
    Tensor::from_vec(out, q.shape(), q.device())
}

/// Everything the bodies rely on for their memory safety.
fn check_attention(q: &Tensor, kv: &KvLayer, step: &Step, spec: &AttentionSpec) -> Result<()> {
    let &AttentionSpec { heads, kv_heads, head_dim, window, ref sinks, .. } = spec;
    if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) || kv_heads != kv.kv_heads || head_dim != kv.head_dim {
        bail!("{heads} query heads over {kv_heads} of {head_dim}; the cache has {} of {}", kv.kv_heads, kv.head_dim);
    }
    if window == Some(0) {
        bail!("a window of 0 tokens sees nothing");
    }
    if let Some(sinks) = sinks.as_ref().filter(|sinks| sinks.len() != heads) {
        bail!("{} sinks for {heads} query heads", sinks.len());
    }
    if q.dtype() != DType::F32 || q.dims2()? != (step.rows(), heads * head_dim) {
        bail!("queries are {:?} {:?}, expected f32 [{}, {}]", q.dtype(), q.shape(), step.rows(), heads * head_dim);
    }
    for span in &step.spans {
        let blocks = span.kv_len.div_ceil(BLOCK_TOKENS);
        let table_end = span.table_row.checked_mul(step.blocks_max).and_then(|start| start.checked_add(blocks));
        let fits = blocks <= step.blocks_max && table_end.is_some_and(|end| end <= step.tables.len());
        if !fits || span.q_len == 0 || span.kv_len < span.q_len || span.q_start + span.q_len > step.rows() {
            bail!("{span:?} does not fit a step of {} rows and tables of {}", step.rows(), step.blocks_max);
        }
        if let Some(block) = step.table(span).iter().find(|&&block| block as usize >= kv.blocks) {
            bail!("block {block} is beyond the cache's {}", kv.blocks);
        }
    }
    // Rows outside every span, or in two of them, would be left unwritten or written twice.
    let mut covered = 0;
    for span in &step.spans {
        if span.q_start != covered {
            bail!("{span:?} does not start at row {covered}");
        }
        covered += span.q_len;
    }
    if covered != step.rows() {
        bail!("the spans cover {covered} of {} rows", step.rows());
    }
    Ok(())
}

fn pages<'a>(storage: &'a Storage, layout: &Layout) -> Result<Pages<'a>> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("cache pages must be contiguous") };
    match storage {
        Storage::Cpu(CpuStorage::F16(values)) => Ok(Pages::F16(&values[start..end])),
        Storage::Cpu(CpuStorage::F32(values)) => Ok(Pages::F32(&values[start..end])),
        Storage::Cpu(CpuStorage::U8(bytes)) => Ok(Pages::Q8_0(&bytes[start..end])),
        _ => bail!("cache pages are f16, f32 or bytes on the CPU here"),
    }
}

struct KvWrite<'a> {
    part: Part,
    rows: &'a Tensor,
    step: &'a Step,
    kv: &'a KvLayer,
}

impl InplaceOp1 for KvWrite<'_> {
    fn name(&self) -> &'static str {
        "kv_write"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("cache pages must be contiguous") };
        let (isa, slots) = (chosen_isa()?, &self.step.slots);
        let shape = kv_write::Shape { part: self.part, kv_heads: self.kv.kv_heads, head_dim: self.kv.head_dim };
        rows_of(self.rows, |rows| match storage {
            CpuStorage::F16(pages) => kv_write::write::<F16>(isa, &mut pages[start..end], rows, slots, shape),
            CpuStorage::F32(pages) => kv_write::write::<F32>(isa, &mut pages[start..end], rows, slots, shape),
            CpuStorage::U8(pages) => kv_write::write::<Q8_0>(isa, &mut pages[start..end], rows, slots, shape),
            _ => unreachable!("a KvLayer on the CPU is f16, f32 or bytes"),
        })
    }
}
