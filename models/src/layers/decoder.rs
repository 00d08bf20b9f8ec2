//! A stack of pre-norm blocks between an embedding table and an output layer: the shape all families here share.
//!
//! What a family adds (biases, norms of heads, the way of rotating) is data in [`DecoderLayout`]; a family whose flow differs
//! writes its own `forward` from the same layers.

mod hidden;

use candle_core::{Device, Tensor};
use kernels::ops::embed::embed;
use kernels::ops::rope::{Rope, RopeStyle};
use kernels::{Step, Weight};

use super::attention::{Attention, Place};
use super::feed_forward::FeedForward;
use super::loader::Loader;
use super::mixture_of_experts::MixtureOfExperts;
use super::norm::Norm;
use super::output::Output;
use crate::config::{FeedForwardKind, Hyperparameters, ModelConfig};
use crate::embedding::decoder::DecoderEmbedder;
use crate::embedding::{Embedder, Pooling};
use crate::gguf::Gguf;
use crate::kv_cache::KvCache;
use crate::model::{Logits, Model, ModelError};
use crate::state::LayerGroup;
pub(crate) use hidden::PIECE_ROWS;

/// What differs between the families, beyond numbers in the metadata.
#[derive(Debug, Clone, Copy)]
pub struct DecoderLayout {
    pub architecture: &'static str,
    pub rope_style: RopeStyle,
    /// Norms of each query and key head before the rotation.
    pub qk_norm: bool,
    /// Biases on query, key and value must be there; otherwise they are used where a file has them.
    pub qkv_bias_required: bool,
    pub feed_forward: FeedForwardKind,
}

/// A loaded stack.
#[derive(Debug, Clone)]
pub struct Decoder {
    config: ModelConfig,
    groups: Vec<LayerGroup>,
    device: Device,
    rope: Rope,
    embedding: Weight,
    blocks: Vec<Block>,
    output: Output,
}

#[derive(Debug, Clone)]
struct Block {
    attention_norm: Norm,
    attention: Attention,
    feed_forward_norm: Norm,
    feed_forward: AnyFeedForward,
}

/// One variant a [`FeedForwardKind`].
#[derive(Debug, Clone)]
enum AnyFeedForward {
    Dense(FeedForward),
    Experts(MixtureOfExperts),
}

impl Decoder {
    pub(crate) fn model_config(&self) -> &ModelConfig {
        &self.config
    }

    /// Takes every tensor of the file; one that is left over is an error.
    pub fn load(gguf: &Gguf, device: &Device, layout: DecoderLayout) -> Result<Self, ModelError> {
        let hyper =
            Hyperparameters::read(gguf, layout.architecture, layout.feed_forward).map_err(|problem| ModelError::config(gguf, problem))?;
        let mut loader = Loader::new(gguf, device, layout.architecture);
        let ModelConfig { layers, hidden, vocab, .. } = hyper.model;

        let factors = loader.optional_divisors("rope_freqs.weight", hyper.rope.rotary_dim / 2)?;
        let rope = hyper.rope.rope(layout.rope_style, factors.as_deref());
        let embedding = loader.weight("token_embd.weight", vocab, hidden)?;
        let blocks = (0..layers)
            .map(|layer| {
                let prefix = format!("blk.{layer}");
                Ok(Block {
                    attention_norm: Norm::load(&mut loader, &format!("{prefix}.attn_norm"), hidden, hyper.norm_eps)?,
                    attention: Attention::load(&mut loader, &prefix, &hyper, layout)?,
                    feed_forward_norm: Norm::load(&mut loader, &format!("{prefix}.ffn_norm"), hidden, hyper.norm_eps)?,
                    feed_forward: AnyFeedForward::load(&mut loader, &prefix, &hyper)?,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        let output = Output::load(&mut loader, &embedding, &hyper)?;
        loader.finish()?;
        Ok(Self { groups: hyper.layer_groups(), config: hyper.model, device: device.clone(), rope, embedding, blocks, output })
    }
}

impl AnyFeedForward {
    fn load(loader: &mut Loader<'_>, prefix: &str, hyper: &Hyperparameters) -> Result<Self, ModelError> {
        let (hidden, width) = (hyper.model.hidden, hyper.feed_forward);
        Ok(match hyper.experts {
            None => Self::Dense(FeedForward::load(loader, prefix, hidden, width)?),
            Some(experts) => Self::Experts(MixtureOfExperts::load(loader, prefix, (hidden, width), experts)?),
        })
    }

    fn forward_add_(&self, residual: &Tensor, x: &Tensor) -> candle_core::Result<()> {
        match self {
            Self::Dense(layer) => layer.forward_add_(residual, x),
            Self::Experts(layer) => layer.forward_add_(residual, x),
        }
    }
}

impl Model for Decoder {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn layer_groups(&self) -> &[LayerGroup] {
        &self.groups
    }

    fn forward(&mut self, token_ids: &[u32], step: &Step, kv: &mut KvCache) -> Result<Logits, ModelError> {
        assert_eq!(token_ids.len(), step.rows(), "a step has one position a token");
        assert_eq!(kv.layers.len(), self.blocks.len(), "the cache was made for another model");
        let of_window = (!step.windows.is_empty()).then(|| step.of_window(0));
        let step = of_window.as_ref().unwrap_or(step);
        step.check(kv.blocks)?;
        let residual: Tensor = embed(&self.embedding, token_ids)?;
        let angles = self.rope.angles(step, &self.device)?;
        for (block, pages) in self.blocks.iter().zip(&kv.layers) {
            let x = block.attention_norm.forward(&residual)?;
            block.attention.forward_add_(&residual, &x, Place { step, angles: &angles, pages })?;
            let x = block.feed_forward_norm.forward(&residual)?;
            block.feed_forward.forward_add_(&residual, &x)?;
        }
        Ok(self.output.forward(&residual, &step.logit_rows)?)
    }
    fn embedder(&self, pooling: Pooling, tokens_max: usize) -> Option<Box<dyn Embedder>> {
        Some(Box::new(DecoderEmbedder::new(self.clone(), pooling, tokens_max)))
    }
}
