//! Root-mean-square norm with its learned weight.

use candle_core::Tensor;
use kernels::ops::norm::rms_norm;

use super::loader::Loader;
use crate::model::ModelError;

#[derive(Debug, Clone)]
pub struct Norm {
    /// `[hidden]`, f32.
    weight: Tensor,
    eps: f32,
}

impl Norm {
    /// The tensor `{name}.weight`.
    pub fn load(loader: &mut Loader<'_>, name: &str, width: usize, eps: f32) -> Result<Self, ModelError> {
        Ok(Self { weight: loader.vector(&format!("{name}.weight"), width)?, eps })
    }

    /// `[T, width]` -> `[T, width]`.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        rms_norm(x, &self.weight, self.eps)
    }
}
