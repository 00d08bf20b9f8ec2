//! Grouped-query attention (Ainslie et al. 2023) over the paged cache, with rotary positions.

use candle_core::Tensor;
use kernels::ops::attention::{AttentionSpec, kv_write_, paged_attention};
use kernels::ops::linear::{linear_add_, linear_multi};
use kernels::ops::rope::{QkNorm, RopeAngles, qk_norm_rope_};
use kernels::{KvLayer, Step, Weight};

use super::decoder::DecoderLayout;
use super::loader::Loader;
use crate::config::Hyperparameters;
use crate::model::ModelError;

/// The attention of one block.
#[derive(Debug, Clone)]
pub struct Attention {
    query: Projection,
    key: Projection,
    value: Projection,
    output: Projection,
    head_norms: Option<HeadNorms>,
    spec: AttentionSpec,
}

/// A matrix and its bias, where it has one.
#[derive(Debug, Clone)]
struct Projection {
    weight: Weight,
    bias: Option<Tensor>,
}

/// `[head_dim]` each.
#[derive(Debug, Clone)]
struct HeadNorms {
    query: Tensor,
    key: Tensor,
    eps: f32,
}

/// Where a block's attention finds keys, values and positions.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub step: &'a Step,
    pub angles: &'a RopeAngles,
    /// The pages of this block's layer.
    pub pages: &'a KvLayer,
}

impl Attention {
    pub fn load(loader: &mut Loader<'_>, prefix: &str, hyper: &Hyperparameters, layout: DecoderLayout) -> Result<Self, ModelError> {
        let spec = hyper.attention.clone();
        let hidden = hyper.model.hidden;
        let (query_width, key_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let head_norms = match layout.qk_norm {
            true => Some(HeadNorms {
                query: loader.vector(&format!("{prefix}.attn_q_norm.weight"), spec.head_dim)?,
                key: loader.vector(&format!("{prefix}.attn_k_norm.weight"), spec.head_dim)?,
                eps: hyper.norm_eps,
            }),
            false => None,
        };
        let mut projection = |name: &str, rows, cols, bias_required| -> Result<Projection, ModelError> {
            let bias = format!("{prefix}.{name}.bias");
            Ok(Projection {
                weight: loader.weight(&format!("{prefix}.{name}.weight"), rows, cols)?,
                bias: if bias_required { Some(loader.vector(&bias, rows)?) } else { loader.optional_vector(&bias, rows)? },
            })
        };
        Ok(Self {
            query: projection("attn_q", query_width, hidden, layout.qkv_bias_required)?,
            key: projection("attn_k", key_width, hidden, layout.qkv_bias_required)?,
            value: projection("attn_v", key_width, hidden, layout.qkv_bias_required)?,
            output: projection("attn_output", hidden, query_width, false)?,
            head_norms,
            spec,
        })
    }

    /// `residual [T, hidden] += attention(x [T, hidden])`, where `x` is the normed residual; writes this step's keys and values.
    pub fn forward_add_(&self, residual: &Tensor, x: &Tensor, place: Place<'_>) -> candle_core::Result<()> {
        let Place { step, angles, pages } = place;
        let projections = [&self.query, &self.key, &self.value].map(|projection| (&projection.weight, projection.bias.as_ref()));
        let [query, key, value]: [Tensor; 3] = linear_multi(x, &projections)?.try_into().expect("three products of three weights");
        let norm = self.head_norms.as_ref().map(|norms| QkNorm { q: &norms.query, k: &norms.key, eps: norms.eps });
        qk_norm_rope_(&query, &key, self.spec.head_dim, angles, norm)?;
        kv_write_(pages, &key, &value, step)?;
        let mixed = paged_attention(&query, pages, step, &self.spec)?;
        linear_add_(residual, &mixed, &self.output.weight, self.output.bias.as_ref())
    }
}
