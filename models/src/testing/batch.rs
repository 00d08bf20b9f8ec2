//! Steps by hand: which tokens of which sequence, and in which blocks they stand. Tests and examples that have no engine use it.

use kernels::{BLOCK_TOKENS, KvDtype, LogitRows, Step, StepBuilder};

use crate::kv_cache::KvCache;
use crate::model::{Logits, Model, ModelError};

/// The part one sequence has in a step.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Tokens to compute.
    pub tokens: &'a [u32],
    /// Tokens of the sequence that stand in the cache already.
    pub cached: usize,
    /// Its blocks, in order of position; at least enough for `cached + tokens.len()`.
    pub blocks: &'a [u32],
    pub logits: LogitRows,
}

/// The token ids and the step of `parts`, in this order.
pub fn step_of(parts: &[Part<'_>]) -> (Vec<u32>, Step) {
    let mut builder = StepBuilder::new();
    for part in parts {
        builder.push(part.cached, part.tokens.len(), part.blocks, part.logits).expect("blocks for all tokens");
    }
    (parts.iter().flat_map(|part| part.tokens).copied().collect(), builder.finish())
}

/// Logits of every position of `tokens`, computed alone, in chunks of `chunk` rows, in a cache of its own.
pub fn logits_of(model: &mut dyn Model, tokens: &[u32], chunk: usize, kv: KvDtype) -> Result<Logits, ModelError> {
    let blocks: Vec<u32> = (0..tokens.len().div_ceil(BLOCK_TOKENS) as u32).collect();
    let mut cache = KvCache::new(model.config(), blocks.len(), kv, &candle_core::Device::Cpu)?;
    let mut all = Logits { values: Vec::new(), vocab: model.config().vocab };
    for (index, tokens) in tokens.chunks(chunk).enumerate() {
        let (ids, step) = step_of(&[Part { tokens, cached: index * chunk, blocks: &blocks, logits: LogitRows::All }]);
        all.values.extend(model.forward(&ids, &step, &mut cache)?.values);
    }
    Ok(all)
}

/// The `count` likeliest tokens after `prompt`, one after the other.
pub fn greedy(model: &mut dyn Model, prompt: &[u32], count: usize, kv: KvDtype) -> Result<Vec<u32>, ModelError> {
    let blocks: Vec<u32> = (0..(prompt.len() + count).div_ceil(BLOCK_TOKENS) as u32).collect();
    let mut cache = KvCache::new(model.config(), blocks.len(), kv, &candle_core::Device::Cpu)?;
    let (mut cached, mut tokens, mut chosen) = (0, prompt.to_vec(), Vec::new());
    while chosen.len() < count {
        let (ids, step) = step_of(&[Part { tokens: &tokens, cached, blocks: &blocks, logits: LogitRows::Last }]);
        let next = likeliest(model.forward(&ids, &step, &mut cache)?.row(0));
        cached += tokens.len();
        tokens = vec![next];
        chosen.push(next);
    }
    Ok(chosen)
}

/// The first of the largest.
pub fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}
