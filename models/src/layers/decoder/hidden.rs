//! The last hidden states of a whole text, without a place in anybody's cache.
//!
//! Layer by layer over all of the text, in pieces of a few rows: so one layer's pages do for all layers, scratch is that of a piece, and
//! whoever shares the machine gets a turn between two pieces.

use candle_core::Tensor;
use kernels::ops::embed::embed;
use kernels::{BLOCK_TOKENS, KvDtype, KvLayer, LogitRows, StepBuilder};

use super::{Decoder, Place};
use crate::embedding::{EmbeddingError, Pause, go_on};

/// Rows of a piece: a layer of it takes milliseconds, and 32 rows are worth reading the weights for.
pub(crate) const PIECE_ROWS: usize = 32;

impl Decoder {
    /// `[T, hidden]`, normed as before the output layer, row-major on the host; at least one token.
    pub(crate) fn hidden(&self, token_ids: &[u32], pause: &mut Pause<'_>) -> Result<Vec<f32>, EmbeddingError> {
        let blocks = token_ids.len().div_ceil(BLOCK_TOKENS);
        let table: Vec<u32> = (0..blocks as u32).collect();
        let pages = KvLayer::new(blocks, self.config.kv_heads, self.config.head_dim, KvDtype::F32, &self.device)?;
        let mut pieces = Vec::new();
        for (index, ids) in token_ids.chunks(PIECE_ROWS).enumerate() {
            let mut builder = StepBuilder::new();
            builder.push(index * PIECE_ROWS, ids.len(), &table, LogitRows::None).expect("the table holds the whole text");
            let step = builder.finish();
            let angles = self.rope.angles(&step, &self.device)?;
            pieces.push((embed(&self.embedding, ids)?, step, angles));
        }
        for block in &self.blocks {
            for (residual, step, angles) in &pieces {
                go_on(pause)?;
                let x = block.attention_norm.forward(residual)?;
                block.attention.forward_add_(residual, &x, Place { step, angles, pages: &pages })?;
                let x = block.feed_forward_norm.forward(residual)?;
                block.feed_forward.forward_add_(residual, &x)?;
            }
        }
        let mut states = Vec::with_capacity(token_ids.len() * self.config.hidden);
        for (residual, ..) in &pieces {
            let normed: Tensor = self.output.normed(residual)?;
            states.extend(normed.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(states)
    }
}
