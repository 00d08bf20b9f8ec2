//! Mixture of experts: a router chooses a few gated feed-forward layers for each row, whose outputs are added up by weight.

use candle_core::Tensor;
use kernels::Weight;
use kernels::ops::linear::Activation;
use kernels::ops::moe::{Experts, MoeSpec, moe_ffn_add_};

use super::loader::Loader;
use crate::config::ExpertParameters;
use crate::model::ModelError;

/// The mixture of one block.
#[derive(Debug, Clone)]
pub struct MixtureOfExperts {
    router: Weight,
    experts: Experts,
    spec: MoeSpec,
}

impl MixtureOfExperts {
    /// Of experts of `width`, over rows of `hidden`.
    pub fn load(
        loader: &mut Loader<'_>,
        prefix: &str,
        (hidden, width): (usize, usize),
        parameters: ExpertParameters,
    ) -> Result<Self, ModelError> {
        let ExpertParameters { count, used, renormalise } = parameters;
        Ok(Self {
            router: loader.weight(&format!("{prefix}.ffn_gate_inp.weight"), count, hidden)?,
            experts: Experts::new(
                loader.stack(&format!("{prefix}.ffn_gate_exps.weight"), count, width, hidden)?,
                loader.stack(&format!("{prefix}.ffn_up_exps.weight"), count, width, hidden)?,
                loader.stack(&format!("{prefix}.ffn_down_exps.weight"), count, hidden, width)?,
            )?,
            spec: MoeSpec { used, renormalise, activation: Activation::Silu },
        })
    }

    /// `residual [T, hidden] += mixture(x [T, hidden])`, where `x` is the normed residual.
    pub fn forward_add_(&self, residual: &Tensor, x: &Tensor) -> candle_core::Result<()> {
        moe_ffn_add_(residual, x, &self.router, &self.experts, self.spec)
    }
}
