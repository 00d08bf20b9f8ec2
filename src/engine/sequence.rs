//! One sequence on its way: its tokens, how many of them are computed, and when it is finished.
//!
//! There is no prefill phase and no decode phase: a sequence has `computed` and `total`, and each step closes some of the distance.
//! When the distance is closed, the last row's logits give the next token, and the distance is one.
//!
//! Knows no text, no client and no clock.
#![deny(clippy::disallowed_methods)]

use kernels::BLOCK_TOKENS;

use super::block_manager::BlockTable;
use super::{FinishReason, TokenUsage};

/// In order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

#[derive(Debug)]
pub struct Sequence {
    pub id: SequenceId,
    pub table: BlockTable,
    /// Prompt, then output.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// Most tokens of prompt and output together.
    total_max: usize,
    stop_token_ids: Vec<u32>,
    /// Leading tokens whose keys and values stand in the cache.
    computed: usize,
    /// The largest `computed` ever was: below it, a resumed sequence computes again what it had.
    computed_max: usize,
    cached_tokens: usize,
}

impl Sequence {
    /// `output_max`: tokens to generate at most; 0 computes the prompt and ends.
    pub fn new(id: SequenceId, prompt: Vec<u32>, output_max: usize, stop_token_ids: Vec<u32>) -> Self {
        assert!(!prompt.is_empty(), "an empty prompt has no logits");
        let (prompt_tokens, total_max) = (prompt.len(), prompt.len() + output_max);
        let table = BlockTable::default();
        Self { id, table, tokens: prompt, prompt_tokens, total_max, stop_token_ids, computed: 0, computed_max: 0, cached_tokens: 0 }
    }

    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
    pub fn total(&self) -> usize {
        self.tokens.len()
    }
    pub fn computed(&self) -> usize {
        self.computed
    }
    /// Tokens that stand between `computed` and the next one sampled; at least 1.
    pub fn distance(&self) -> usize {
        self.tokens.len() - self.computed
    }
    /// Whether a token is sampled once the distance is closed.
    pub fn wants_token(&self) -> bool {
        self.tokens.len() < self.total_max
    }

    /// Blocks it needs at its longest.
    pub fn blocks_max(&self) -> usize {
        self.total_max.div_ceil(BLOCK_TOKENS)
    }

    /// Blocks that admission reserves: for what there is and the next `answer_tokens`. A resumed sequence asks for as much beyond
    /// what it has, so that it is not paused again at once.
    pub fn blocks_wanted(&self, answer_tokens: usize) -> usize {
        self.total_max.min(self.tokens.len() + answer_tokens).div_ceil(BLOCK_TOKENS)
    }

    /// The sequence runs (again), with the cached prefix that `table` holds.
    pub fn start(&mut self, table: BlockTable) {
        assert!(self.computed == 0 && self.table.reserved() == 0, "{:?} runs already", self.id);
        self.table = table;
        self.advance(self.table.blocks().len() * BLOCK_TOKENS, Source::Cache);
    }

    /// The sequence is paused: its blocks are given back by the caller, its tokens stay.
    pub fn pause(&mut self) -> BlockTable {
        self.computed = 0;
        std::mem::take(&mut self.table)
    }

    /// `tokens` more are computed.
    pub fn computed_more(&mut self, tokens: usize) {
        self.advance(self.computed + tokens, Source::Model);
    }

    /// The sampled token is appended, unless it ends the sequence.
    pub fn accept(&mut self, token: u32) -> Option<FinishReason> {
        assert!(self.distance() == 0 && self.wants_token(), "{:?} is not ready for a token", self.id);
        if self.stop_token_ids.contains(&token) {
            return Some(FinishReason::Stop);
        }
        self.tokens.push(token);
        (!self.wants_token()).then_some(FinishReason::Length)
    }

    pub fn usage(&self) -> TokenUsage {
        TokenUsage {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            completion_tokens: self.tokens.len() - self.prompt_tokens,
        }
    }

    fn advance(&mut self, computed: usize, source: Source) {
        assert!(computed <= self.tokens.len(), "{:?} has computed more than there is", self.id);
        if source == Source::Cache {
            // What it had computed itself before a pause is no gift of the cache.
            self.cached_tokens += computed.min(self.prompt_tokens).saturating_sub(self.computed_max);
        }
        self.computed = computed;
        self.computed_max = self.computed_max.max(computed);
    }
}

#[derive(PartialEq)]
enum Source {
    Cache,
    Model,
}

#[cfg(test)]
mod tests {
    use super::super::block_manager::BlockManager;
    use super::*;

    #[test]
    fn it_ends_at_a_stop_token_or_at_its_length() {
        let mut sequence = Sequence::new(SequenceId(0), vec![1, 2, 3], 2, vec![9]);
        sequence.computed_more(3);
        assert_eq!(sequence.accept(4), None);
        sequence.computed_more(1);
        assert_eq!(sequence.accept(5), Some(FinishReason::Length));
        assert_eq!(sequence.usage(), TokenUsage { prompt_tokens: 3, cached_tokens: 0, completion_tokens: 2 });

        let mut sequence = Sequence::new(SequenceId(0), vec![1, 2, 3], 2, vec![9]);
        sequence.computed_more(3);
        assert_eq!(sequence.accept(9), Some(FinishReason::Stop));
        assert_eq!(sequence.tokens(), [1, 2, 3], "the stop token is not part of the answer");
    }

    #[test]
    fn reservation_is_the_prompt_and_the_start_of_the_answer() {
        let wanted = |prompt: usize, output| Sequence::new(SequenceId(0), vec![0; prompt], output, vec![]).blocks_wanted(512);
        assert_eq!(wanted(32, 0), 1);
        assert_eq!(wanted(32, 1), 2);
        assert_eq!(wanted(33, 31), 2);
        assert_eq!(wanted(32, 512), 17);
        assert_eq!(wanted(32, 100_000), 17);
    }

    #[test]
    fn cached_tokens_are_those_it_never_computed() {
        let mut blocks = BlockManager::new(8);
        let tokens: Vec<u32> = (0..100).collect();
        let mut first = blocks.admit(&tokens, 4).unwrap();
        blocks.cover(&mut first, 40);
        blocks.publish(&mut first, &tokens, 40);
        let mut sequence = Sequence::new(SequenceId(1), tokens.clone(), 10, vec![]);
        sequence.start(blocks.admit(&tokens, 4).unwrap());
        assert_eq!((sequence.computed(), sequence.usage().cached_tokens), (32, 32));
        blocks.cover(&mut sequence.table, 64);
        sequence.computed_more(32);
        blocks.publish(&mut sequence.table, &tokens, 64);
        // Paused and resumed: 64 come from the cache, but 32 of them are its own work.
        let mut table = sequence.pause();
        blocks.release(&mut table);
        sequence.start(blocks.admit(&tokens, 4).unwrap());
        assert_eq!((sequence.computed(), sequence.usage().cached_tokens), (64, 32));
    }
}
