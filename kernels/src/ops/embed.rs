//! Rows of an embedding table, and rows of activations.

use candle_core::{Result, Tensor, bail};

use crate::Weight;

/// Rows `ids` of `w [V, H]`, dequantised: `[T, H]` f32. An id beyond the table is an error.
pub fn embed(_w: &Weight, _ids: &[u32]) -> Result<Tensor> {
    bail!("seam")
}

/// Rows `rows` of `x [T, H]`: `[rows.len(), H]`.
pub fn gather_rows(_x: &Tensor, _rows: &[u32]) -> Result<Tensor> {
    bail!("seam")
}
