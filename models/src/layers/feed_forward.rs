//! Gated feed-forward (SwiGLU, Shazeer 2020): `down(silu(gate(x)) * up(x))`.

use candle_core::Tensor;
use kernels::Weight;
use kernels::ops::linear::{Activation, ffn_gated, linear_add_};

use super::loader::Loader;
use crate::model::ModelError;

/// The feed-forward layer of one block.
#[derive(Debug, Clone)]
pub struct FeedForward {
    gate: Weight,
    up: Weight,
    down: Weight,
    down_bias: Option<Tensor>,
}

impl FeedForward {
    pub fn load(loader: &mut Loader<'_>, prefix: &str, hidden: usize, width: usize) -> Result<Self, ModelError> {
        Ok(Self {
            gate: loader.weight(&format!("{prefix}.ffn_gate.weight"), width, hidden)?,
            up: loader.weight(&format!("{prefix}.ffn_up.weight"), width, hidden)?,
            down: loader.weight(&format!("{prefix}.ffn_down.weight"), hidden, width)?,
            down_bias: loader.optional_vector(&format!("{prefix}.ffn_down.bias"), hidden)?,
        })
    }

    /// `residual [T, hidden] += feed_forward(x [T, hidden])`, where `x` is the normed residual.
    pub fn forward_add_(&self, residual: &Tensor, x: &Tensor) -> candle_core::Result<()> {
        let inner = ffn_gated(x, &self.gate, &self.up, Activation::Silu)?;
        linear_add_(residual, &inner, &self.down, self.down_bias.as_ref())
    }
}
