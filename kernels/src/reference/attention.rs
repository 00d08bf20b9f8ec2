//! Attention, norms and rotary embedding in plain Candle ops: the oracle of the CPU bodies, and what runs on CUDA and Metal.
//!
//! Right before fast: a loop over sequences, whole score matrices. The in-place ops compute aside and copy back.

use candle_core::{D, DType, Device, Result, Tensor};

use crate::ops::attention::AttentionSpec;
use crate::ops::rope::{QkNorm, RopeAngles, RopeStyle};
use crate::{BLOCK_TOKENS, KvLayer, Step};

/// `dst[..] = src`, same shape; `dst` contiguous and sharing no storage with `src`.
pub fn assign_(dst: &Tensor, src: &Tensor) -> Result<()> {
    if dst.elem_count() == 0 {
        return Ok(());
    }
    dst.slice_set(&src.contiguous()?, 0, 0)
}

/// [`crate::ops::norm::rms_norm`].
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f32) -> Result<Tensor> {
    let width = x.dim(D::Minus1)? as f64;
    let mean = (x.sqr()?.sum_keepdim(D::Minus1)? / width)?;
    x.broadcast_div(&(mean + f64::from(eps))?.sqrt()?)?.broadcast_mul(w)
}

/// [`crate::ops::norm::add_rms_norm_`].
pub fn add_rms_norm_(residual: &Tensor, delta: &Tensor, w: &Tensor, eps: f32) -> Result<Tensor> {
    let sum = (residual + delta)?;
    assign_(residual, &sum)?;
    rms_norm(&sum, w, eps)
}

/// [`crate::ops::rope::qk_norm_rope_`].
pub fn qk_norm_rope_(q: &Tensor, k: &Tensor, head_dim: usize, angles: &RopeAngles, norm: Option<QkNorm<'_>>) -> Result<()> {
    for (x, w) in [(q, norm.map(|norm| norm.q)), (k, norm.map(|norm| norm.k))] {
        let (rows, width) = x.dims2()?;
        if rows == 0 {
            continue;
        }
        let mut heads = x.reshape((rows, width / head_dim, head_dim))?.copy()?;
        if let (Some(w), Some(norm)) = (w, norm) {
            heads = rms_norm(&heads, w, norm.eps)?;
        }
        assign_(x, &rotate(&heads, angles)?.reshape((rows, width))?)?;
    }
    Ok(())
}

/// Rotates `x [T, heads, head_dim]`; elements beyond the rotary width pass through.
fn rotate(x: &Tensor, angles: &RopeAngles) -> Result<Tensor> {
    let (rows, heads, head_dim) = x.dims3()?;
    let half = angles.cos.dim(1)?;
    let (cos, sin) = (angles.cos.unsqueeze(1)?, angles.sin.unsqueeze(1)?);
    let turned = x.narrow(2, 0, 2 * half)?;
    let (first, second) = match angles.style {
        RopeStyle::Neox => (turned.narrow(2, 0, half)?, turned.narrow(2, half, half)?),
        RopeStyle::Interleaved => {
            let pairs = turned.contiguous()?.reshape((rows, heads, half, 2))?;
            (pairs.narrow(3, 0, 1)?.squeeze(3)?, pairs.narrow(3, 1, 1)?.squeeze(3)?)
        }
    };
    let new_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let new_second = (first.broadcast_mul(&sin)? + second.broadcast_mul(&cos)?)?;
    let turned = match angles.style {
        RopeStyle::Neox => Tensor::cat(&[&new_first, &new_second], 2)?,
        RopeStyle::Interleaved => Tensor::stack(&[&new_first, &new_second], 3)?.reshape((rows, heads, 2 * half))?,
    };
    if 2 * half == head_dim {
        return Ok(turned);
    }
    Tensor::cat(&[&turned, &x.narrow(2, 2 * half, head_dim - 2 * half)?], 2)
}

/// [`crate::ops::attention::kv_write_`] for the layout of the devices other than the CPU.
pub fn kv_write_(kv: &KvLayer, k: &Tensor, v: &Tensor, step: &Step) -> Result<()> {
    for (pages, rows) in [(&kv.k, k), (&kv.v, v)] {
        write_rows_(&pages.reshape((kv.blocks * BLOCK_TOKENS, kv.kv_heads * kv.head_dim))?, rows, &step.slots)?;
    }
    Ok(())
}

/// Row `slots[i]` of `pages` becomes row `i` of `rows`, rounded to the type of `pages`: one copy a run of neighbouring slots.
pub fn write_rows_(pages: &Tensor, rows: &Tensor, slots: &[u32]) -> Result<()> {
    let rows = rows.to_dtype(pages.dtype())?;
    let mut start = 0;
    while start < slots.len() {
        let breaks = |&i: &usize| slots[i] != slots[i - 1].wrapping_add(1);
        let end = (start + 1..slots.len()).find(breaks).unwrap_or(slots.len());
        pages.slice_set(&rows.narrow(0, start, end - start)?.copy()?, 0, slots[start] as usize)?;
        start = end;
    }
    Ok(())
}

/// [`crate::ops::attention::paged_attention`].
pub fn paged_attention(q: &Tensor, kv: &KvLayer, step: &Step, spec: &AttentionSpec) -> Result<Tensor> {
    let &AttentionSpec { heads, kv_heads, head_dim, .. } = spec;
    let group = heads / kv_heads;
    let mut outputs = Vec::with_capacity(step.spans.len());
    for span in &step.spans {
        let (k, v) = kv.gather(step.table(span), span.kv_len)?;
        // [q_len, kv_heads, group, D] -> [kv_heads, group * q_len, D]: query heads of one group lie side by side.
        let q = q.narrow(0, span.q_start, span.q_len)?.reshape((span.q_len, kv_heads, group, head_dim))?;
        let q = q.permute((1, 2, 0, 3))?.contiguous()?.reshape((kv_heads, group * span.q_len, head_dim))?;
        let mut scores = (q.matmul(&k.t()?.contiguous()?)? * f64::from(spec.scale))?;
        if let Some(cap) = spec.softcap {
            scores = ((scores / f64::from(cap))?.tanh()? * f64::from(cap))?;
        }
        scores = scores.reshape((kv_heads, group, span.q_len, span.kv_len))?;
        // A decoded token without a window in its way sees everything.
        if span.q_len > 1 || spec.window.is_some_and(|window| window < span.kv_len) {
            scores = scores.broadcast_add(&mask(span.q_len, span.kv_len, spec.window, q.device())?)?;
        }
        let weights = match &spec.sinks {
            None => softmax_last(&scores)?,
            Some(sinks) => {
                let sinks = Tensor::new(&sinks[..], q.device())?.reshape((kv_heads, group, 1, 1))?;
                let sinks = sinks.broadcast_as((kv_heads, group, span.q_len, 1))?;
                // One more key, of which no value is taken.
                softmax_last(&Tensor::cat(&[&scores, &sinks], 3)?)?.narrow(3, 0, span.kv_len)?
            }
        };
        let weights = weights.contiguous()?.reshape((kv_heads, group * span.q_len, span.kv_len))?;
        let out = weights.matmul(&v)?.reshape((kv_heads, group, span.q_len, head_dim))?;
        outputs.push(out.permute((2, 0, 1, 3))?.contiguous()?.reshape((span.q_len, heads * head_dim))?);
    }
    if outputs.is_empty() {
        return Tensor::zeros((0, heads * head_dim), DType::F32, q.device());
    }
    Tensor::cat(&outputs, 0)
}

/// `[q_len, kv_len]`: 0 where the row sees the key, minus infinity elsewhere.
fn mask(q_len: usize, kv_len: usize, window: Option<usize>, device: &Device) -> Result<Tensor> {
    let sees = |row: usize, key: usize| {
        let position = kv_len - q_len + row;
        key <= position && window.is_none_or(|window| position - key < window)
    };
    let values: Vec<f32> = (0..q_len * kv_len).map(|i| if sees(i / kv_len, i % kv_len) { 0.0 } else { f32::NEG_INFINITY }).collect();
    Tensor::from_vec(values, (q_len, kv_len), device)
}

fn softmax_last(scores: &Tensor) -> Result<Tensor> {
    let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)
}
