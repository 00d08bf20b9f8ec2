//! How much memory a model will need, from its file's header alone: the sum the memory contract starts from.

use kernels::KvDtype;

use crate::config::Hyperparameters;
use crate::families::Family;
use crate::gguf::Gguf;
use crate::kv_cache::KvCache;
use crate::layers::decoder::PIECE_ROWS;
use crate::model::ModelError;
use crate::state;

/// Bytes, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Weights: the tensors of the file, mapped (CPU) or uploaded (CUDA, Metal).
    pub weight_bytes: u64,
    /// Keys and values of one token in all layers that keep every token.
    pub kv_bytes_per_token: u64,
    /// What one running sequence takes in the others: its windows and its recurrent state. 0 where there are none.
    pub state_bytes_per_sequence: u64,
    /// The most that activations and logits of one step take at once.
    pub scratch_bytes: u64,
}

/// The largest step the engine will run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepSize {
    /// Rows of the step.
    pub tokens: usize,
    /// Rows whose logits are wanted.
    pub logit_rows: usize,
}

impl MemoryEstimate {
    /// Reads the metadata only; errors as [`crate::load`] gives for it.
    pub fn of(gguf: &Gguf, kv: KvDtype, step: StepSize) -> Result<Self, ModelError> {
        let hyper = Family::of(gguf)?.hyperparameters(gguf).map_err(|problem| ModelError::config(gguf, problem))?;
        let groups = hyper.layer_groups();
        let layer_block_bytes = KvCache::block_bytes(&hyper.model, kv) / hyper.model.layers as u64;
        Ok(Self {
            weight_bytes: gguf.tensor_bytes(),
            kv_bytes_per_token: layer_block_bytes * state::full_layers(&groups) as u64 / kernels::BLOCK_TOKENS as u64,
            state_bytes_per_sequence: state::bytes_per_sequence(&groups, layer_block_bytes, step.tokens),
            scratch_bytes: scratch_bytes(&hyper, step),
        })
    }

    /// Weights, scratch, and what one sequence of `tokens` tokens takes.
    pub fn total_bytes(&self, tokens: u64) -> u64 {
        let of_tokens = self.kv_bytes_per_token.saturating_mul(tokens);
        (self.weight_bytes + self.scratch_bytes).saturating_add(self.state_bytes_per_sequence).saturating_add(of_tokens)
    }
}

/// What [`crate::Model::embedder`] takes beside the weights for a text of `tokens`: the residual of every token and its norm, one layer's
/// keys and values in f32, the angles, and the scratch of a piece.
pub fn embedding_bytes(hyper: &Hyperparameters, tokens: usize) -> u64 {
    let model = &hyper.model;
    let row = 4 * (2 * model.hidden + 2 * model.kv_heads * model.head_dim + model.head_dim) as u64;
    tokens as u64 * row + scratch_bytes(hyper, StepSize { tokens: PIECE_ROWS, logit_rows: 0 })
}

/// The larger of the two moments when most rows are alive.
///
/// Attention: residual, normed residual, query, key, value, output; feed-forward: residual, normed residual, gate, up, product.
/// A mixture of experts: residual, normed residual, the router's logits, and for each expert a row uses its input (as f32 where
/// the weights are not quantized), the inner row and that once more quantised.
/// Each product also holds its input quantised to 8 bits (9/8 of a byte a value, with scales). Logits exist twice (device, host).
fn scratch_bytes(hyper: &Hyperparameters, step: StepSize) -> u64 {
    let hidden = hyper.model.hidden as u64;
    let (query, key) = (hyper.model.heads as u64 * hyper.model.head_dim as u64, hyper.model.kv_heads as u64 * hyper.model.head_dim as u64);
    let feed_forward = hyper.feed_forward as u64;
    let quantised = |width: u64| width * 9 / 8;
    let attention = 4 * (2 * hidden + 2 * query + 2 * key) + quantised(hidden.max(query));
    let gated = match hyper.experts {
        None => 4 * (2 * hidden + 3 * feed_forward) + quantised(hidden.max(feed_forward)),
        Some(experts) => {
            let each = 4 * (hidden + feed_forward) + quantised(feed_forward);
            4 * (2 * hidden + experts.count as u64) + quantised(hidden) + experts.used as u64 * each
        }
    };
    let logits = step.logit_rows as u64 * (4 * 2 * hyper.model.vocab as u64 + 8 * hidden);
    step.tokens as u64 * attention.max(gated) + logits
}
