//! Matrix products with GGUF weights.

use candle_core::{Result, Tensor, bail};

use crate::Weight;

/// Activation function of a gated feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Silu,
    GeluTanh,
}

/// `x [T, K] * w^T [K, N] + bias [N]` -> `[T, N]`.
pub fn linear(_x: &Tensor, _w: &Weight, _bias: Option<&Tensor>) -> Result<Tensor> {
    bail!("seam")
}

/// Several products of the same rows: one quantisation of `x`, one parallel region. Each bias may be absent.
pub fn linear_multi(_x: &Tensor, _ws: &[(&Weight, Option<&Tensor>)]) -> Result<Vec<Tensor>> {
    bail!("seam")
}

/// `residual += x * w^T + bias`, in place; `residual` must be contiguous and owned by the caller alone.
pub fn linear_add_(_residual: &Tensor, _x: &Tensor, _w: &Weight, _bias: Option<&Tensor>) -> Result<()> {
    bail!("seam")
}

/// `act(x * gate^T) * (x * up^T)` -> `[T, I]`.
pub fn ffn_gated(_x: &Tensor, _gate: &Weight, _up: &Weight, _act: Activation) -> Result<Tensor> {
    bail!("seam")
}
