//! Rows of an embedding table, and rows of activations.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::linear::with_values;
use crate::profile::{self, Cost, Key, Op, cost};
use crate::{Weight, blocks};

/// Rows `ids` of `w [V, H]`, dequantised exactly as `blocks::dequantize` does: `[T, H]` f32 on the weight's device.
/// An id beyond the table is an error.
///
/// On every device the few rows are taken from the blocks in host memory and sent over.
pub fn embed(w: &Weight, ids: &[u32]) -> Result<Tensor> {
    let _timer = profile::op(|| cost::embed(ids.len(), w));
    let mut out = vec![0.0; ids.len() * w.cols()];
    for (at, id) in ids.iter().enumerate() {
        let row = *id as usize;
        if row >= w.rows() {
            bail!("embed: id {id} is beyond the table of {} rows", w.rows());
        }
        blocks::dequantize(w.ggml_type(), w.row(row), &mut out[at * w.cols()..][..w.cols()]);
    }
    Tensor::from_vec(out, (ids.len(), w.cols()), w.device())
}

/// Rows `rows` of `x [T, H]` f32: `[rows.len(), H]`, in the order given; repeats are allowed, a row beyond `T` is an error.
pub fn gather_rows(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let _timer = profile::op(|| (Key::of(Op::GatherRows), Cost::default()));
    let (height, width) = x.dims2()?;
    if x.dtype() != DType::F32 {
        bail!("gather_rows: the rows are {:?}, not f32", x.dtype());
    }
    if let Some(beyond) = rows.iter().find(|row| **row as usize >= height) {
        bail!("gather_rows: row {beyond} of {height}");
    }
    if !x.device().is_cpu() {
        let ids = Tensor::new(rows, x.device())?;
        return x.contiguous()?.index_select(&ids, 0);
    }
    let mut out = Vec::with_capacity(rows.len() * width);
    with_values(x, |values| {
        rows.iter().for_each(|row| out.extend_from_slice(&values[*row as usize * width..][..width]));
        Ok(())
    })?;
    Tensor::from_vec(out, (rows.len(), width), &Device::Cpu)
}
