//! From the last residual to logits on the host, for the wanted rows only: of a prompt's 512 rows, one.

use candle_core::{DType, Tensor};
use kernels::Weight;
use kernels::ops::embed::gather_rows;
use kernels::ops::linear::linear;

use super::loader::Loader;
use super::norm::Norm;
use crate::config::Hyperparameters;
use crate::model::{Logits, ModelError};

/// Final norm and output layer.
#[derive(Debug, Clone)]
pub struct Output {
    norm: Norm,
    head: Weight,
    bias: Option<Tensor>,
}

impl Output {
    /// A file without `output.weight` ties the output to the embedding table.
    pub fn load(loader: &mut Loader<'_>, embedding: &Weight, hyper: &Hyperparameters) -> Result<Self, ModelError> {
        let (vocab, hidden) = (hyper.model.vocab, hyper.model.hidden);
        Ok(Self {
            norm: Norm::load(loader, "output_norm", hidden, hyper.norm_eps)?,
            head: match loader.has("output.weight") {
                true => loader.weight("output.weight", vocab, hidden)?,
                false => embedding.clone(),
            },
            bias: loader.optional_vector("output.bias", vocab)?,
        })
    }

    /// Every row of `residual [T, hidden]`, normed: the last hidden states.
    pub fn normed(&self, residual: &Tensor) -> candle_core::Result<Tensor> {
        self.norm.forward(residual)
    }

    /// Logits of `rows` of `residual [T, hidden]`.
    pub fn forward(&self, residual: &Tensor, rows: &[u32]) -> candle_core::Result<Logits> {
        let vocab = self.head.rows();
        if rows.is_empty() {
            return Ok(Logits { values: Vec::new(), vocab });
        }
        let wanted = gather_rows(residual, rows)?;
        let logits = linear(&self.norm.forward(&wanted)?, &self.head, self.bias.as_ref())?;
        Ok(Logits { values: logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?, vocab })
    }
}
