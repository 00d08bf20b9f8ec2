//! One sequence on its way: its tokens, how many of them are computed, and when it is finished.
//!
//! There is no prefill phase and no decode phase: a sequence has `computed` and `total`, and each step closes some of the distance.
//! When the distance is closed, the last row's logits give the next token, and the distance is one. Drafted tokens may follow in the
//! same step: each that turns out to be what is sampled has closed the distance by one more, the rest leave no trace.
//!
//! Knows no text, no client and no clock.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

use kernels::BLOCK_TOKENS;

use super::block_manager::BlockTable;
use super::drafter::Drafter;
use super::layer_groups::RestartPoint;
use super::state_pool::Worth;
use super::{FinishReason, Landmarks, Priority, TokenUsage};

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
    /// Leading tokens that it will probably not have to compute, as foreseen when it came.
    expected_cached: usize,
    priority: Priority,
    /// On the scheduler's clock.
    arrived: Duration,
    /// `None`: nothing is drafted.
    drafter: Option<Drafter>,
    /// Tokens that follow `tokens` in the step that is planned, for the model to check.
    draft: Vec<u32>,
    /// The logits of all rows of the prompt are wanted, so none of them comes from the cache.
    scores_prompt: bool,
    /// Where somebody may go on from, in ascending order; in the prompt.
    restarts: Vec<RestartPoint>,
    /// Its mask may come late: then a row was computed in vain.
    is_constrained: bool,
    /// A draft was wrong, and the state before it is the last one known: the tokens since then are computed once more, as a stream.
    catches_up: bool,
}

impl Sequence {
    /// `output_max`: tokens to generate at most; 0 computes the prompt and ends.
    pub fn new(id: SequenceId, prompt: Vec<u32>, output_max: usize, stop_token_ids: Vec<u32>) -> Self {
        assert!(!prompt.is_empty(), "an empty prompt has no logits");
        let (prompt_tokens, total_max) = (prompt.len(), prompt.len() + output_max);
        Self {
            id,
            table: BlockTable::default(),
            tokens: prompt,
            prompt_tokens,
            total_max,
            stop_token_ids,
            computed: 0,
            computed_max: 0,
            cached_tokens: 0,
            expected_cached: 0,
            priority: Priority::default(),
            arrived: Duration::ZERO,
            drafter: None,
            draft: Vec::new(),
            scores_prompt: false,
            restarts: Vec::new(),
            is_constrained: false,
            catches_up: false,
        }
    }

    /// How urgent it is, and since when it is there.
    pub fn arriving(mut self, priority: Priority, now: Duration) -> Self {
        (self.priority, self.arrived) = (priority, now);
        self
    }

    /// It may be given drafts.
    pub fn drafting(mut self) -> Self {
        self.drafter = Some(Drafter::default());
        self
    }

    /// Each token of its prompt is told how likely it was.
    pub fn scoring(mut self) -> Self {
        self.scores_prompt = true;
        self
    }
    pub fn scores_prompt(&self) -> bool {
        self.scores_prompt
    }
    /// Of the rows from position `start` on, so many are to give the score of the prompt's token after them.
    pub fn scored_rows(&self, start: usize, len: usize) -> usize {
        match self.scores_prompt {
            true => (start + len).min(self.prompt_tokens - 1).saturating_sub(start),
            false => 0,
        }
    }

    /// Others may go on from the landmarks of its prompt and from the prompt's end: from the last whole block before each. For layers that can
    /// be gone on from at few places only.
    pub fn with_restarts(mut self, landmarks: Landmarks) -> Self {
        let Landmarks { instructions_end, last_turn } = landmarks;
        let places = [(instructions_end, Worth::Instructions), (last_turn, Worth::Turn), (Some(self.prompt_tokens - 1), Worth::Turn)];
        for (tokens, worth) in places {
            let position = tokens.unwrap_or(0).min(self.prompt_tokens - 1) / BLOCK_TOKENS * BLOCK_TOKENS;
            if position > 0 && self.restarts.iter().all(|restart| restart.position != position) {
                self.restarts.push(RestartPoint { position, worth });
            }
        }
        self.restarts.sort_unstable_by_key(|restart| restart.position);
        self
    }

    /// What it may say depends on masks, which may come late.
    pub fn constrained(mut self) -> Self {
        self.is_constrained = true;
        self
    }

    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
    /// What of it may be looked for in the cache.
    pub fn shareable(&self) -> &[u32] {
        if self.scores_prompt { &[] } else { &self.tokens }
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
    /// It has a row in every step.
    pub fn is_stream(&self) -> bool {
        self.distance() == 1 || self.catches_up
    }
    pub fn is_constrained(&self) -> bool {
        self.is_constrained
    }
    pub fn restarts(&self) -> &[RestartPoint] {
        &self.restarts
    }
    /// Tokens up to the next place where somebody may go on from, or to the end: no chunk is longer, so that the state there is seen.
    pub fn distance_to_restart(&self) -> usize {
        let next = self.restarts.iter().map(|restart| restart.position).find(|position| *position > self.computed);
        next.map_or(self.distance(), |position| position - self.computed)
    }
    /// Whether a token is sampled once the distance is closed.
    pub fn wants_token(&self) -> bool {
        self.tokens.len() < self.total_max
    }

    /// Fewer than there are: the last one is always computed.
    pub fn expect_cached(&mut self, tokens: usize) {
        self.expected_cached = tokens.min(self.tokens.len() - 1);
    }
    pub fn expected_cached(&self) -> usize {
        self.expected_cached
    }
    pub fn priority(&self) -> Priority {
        self.priority
    }
    pub fn arrived(&self) -> Duration {
        self.arrived
    }
    /// What follows the tokens in the planned step.
    pub fn draft(&self) -> &[u32] {
        &self.draft
    }
    /// Tokens that a draft may have: with all of them right and the one sampled after them the answer is not too long, and the
    /// blocks that it holds or was promised have places for them.
    pub fn draft_max(&self) -> usize {
        let answer = self.total_max.saturating_sub(self.tokens.len() + 1);
        answer.min((self.table.reserved() * BLOCK_TOKENS).saturating_sub(self.tokens.len()))
    }
    pub fn stop_token_ids(&self) -> &[u32] {
        &self.stop_token_ids
    }
    /// Tokens of output there are, and those that may still come.
    pub fn told_and_left(&self) -> (usize, usize) {
        (self.tokens.len() - self.prompt_tokens, self.total_max - self.tokens.len())
    }
    /// What may be drafted: its drafter, with all tokens there are noted. `None` while the prompt is not through, and where drafts
    /// are not wanted.
    pub fn drafter(&mut self) -> Option<&Drafter> {
        let told = self.tokens.len() - self.prompt_tokens;
        let drafter = self.drafter.as_mut().filter(|_| self.tokens.len() - self.computed == 1)?;
        drafter.observe(&self.tokens, told);
        Some(drafter)
    }
    /// Drafts as many tokens for the next step, or fewer: none beyond one that would end the answer.
    pub fn make_draft(&mut self, rows: usize) {
        let Some(drafter) = &self.drafter else { return };
        drafter.draft(&self.tokens, rows, &mut self.draft);
        let end = self.draft.iter().position(|token| self.stop_token_ids.contains(token));
        self.draft.truncate(end.unwrap_or(rows));
    }

    /// Takes what somebody else drafted for the next step, or the beginning of it: none beyond one that would end the answer.
    pub fn set_draft(&mut self, tokens: &[u32]) {
        let end = tokens.iter().position(|token| self.stop_token_ids.contains(token)).unwrap_or(tokens.len());
        self.draft.clear();
        self.draft.extend_from_slice(&tokens[..end.min(self.draft_max())]);
    }

    /// Leaves the first so many tokens of the draft.
    pub fn cut_draft(&mut self, tokens: usize) {
        self.draft.truncate(tokens);
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
        self.catches_up = false;
        self.draft.clear();
        std::mem::take(&mut self.table)
    }

    /// The state after `computed` tokens is the last one known; what follows is computed once more.
    pub fn go_back(&mut self, computed: usize) {
        assert!(computed <= self.computed, "{:?} goes back to what is not computed", self.id);
        (self.computed, self.catches_up) = (computed, true);
    }

    /// `tokens` more are computed.
    pub fn computed_more(&mut self, tokens: usize) {
        self.advance(self.computed + tokens, Source::Model);
    }

    /// The first `tokens` of its next block are copied from another.
    pub fn copied(&mut self, tokens: usize) {
        self.advance(self.computed + tokens, Source::Cache);
    }

    /// The blocks of the table, all of them others' work, hold its beginning.
    pub fn adopted(&mut self) {
        let computed = self.table.published() * BLOCK_TOKENS;
        if computed > self.computed {
            self.advance(computed, Source::Cache);
        }
    }

    /// What a step with a draft gave: the sampled tokens in order, each but the last as drafted. Returns why it ends, if it does.
    pub fn accept_all(&mut self, sampled: &[u32]) -> Option<FinishReason> {
        let draft = std::mem::take(&mut self.draft);
        assert!(sampled.len() <= draft.len() + 1, "{:?} was drafted {} tokens and given {}", self.id, draft.len(), sampled.len());
        let mut reason = None;
        for (index, &token) in sampled.iter().enumerate() {
            if index > 0 {
                assert!(draft[index - 1] == sampled[index - 1], "{:?} goes on after a draft that was wrong", self.id);
                self.computed_more(1);
            }
            reason = self.accept(token);
            if reason.is_some() {
                break;
            }
        }
        // Its memory is used again.
        self.draft = draft;
        self.draft.clear();
        reason
    }

    /// The sampled token is appended, unless it ends the sequence.
    fn accept(&mut self, token: u32) -> Option<FinishReason> {
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
        self.catches_up &= self.tokens.len() > computed + 1;
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
        assert_eq!(sequence.accept_all(&[4]), None);
        sequence.computed_more(1);
        assert_eq!(sequence.accept_all(&[5]), Some(FinishReason::Length));
        assert_eq!(sequence.usage(), TokenUsage { prompt_tokens: 3, cached_tokens: 0, completion_tokens: 2 });

        let mut sequence = Sequence::new(SequenceId(0), vec![1, 2, 3], 2, vec![9]);
        sequence.computed_more(3);
        assert_eq!(sequence.accept_all(&[9]), Some(FinishReason::Stop));
        assert_eq!(sequence.tokens(), [1, 2, 3], "the stop token is not part of the answer");
    }

    #[test]
    fn a_draft_is_accepted_as_far_as_it_is_right() {
        let mut blocks = BlockManager::new(8);
        let prompt = vec![1, 2, 3, 4, 5, 9, 1, 2, 3];
        let mut drafting = |output_max| {
            let mut sequence = Sequence::new(SequenceId(0), prompt.clone(), output_max, vec![9]).drafting();
            sequence.start(blocks.admit(&prompt, 1, Priority::Interactive).unwrap());
            sequence.computed_more(8);
            assert!(sequence.drafter().is_some());
            sequence.make_draft(2);
            assert_eq!(sequence.draft(), [4, 5]);
            sequence.computed_more(1);
            sequence
        };
        let mut sequence = drafting(20);
        assert_eq!(sequence.draft_max(), 19);
        assert_eq!(sequence.accept_all(&[4, 5, 6]), None);
        assert_eq!((&sequence.tokens()[9..], sequence.distance(), sequence.draft().len()), (&[4, 5, 6][..], 1, 0));
        let mut sequence = drafting(20);
        assert_eq!(sequence.accept_all(&[4, 7]), None);
        assert_eq!((&sequence.tokens()[9..], sequence.distance()), (&[4, 7][..], 1));
        let mut sequence = drafting(20);
        assert_eq!(sequence.accept_all(&[4, 9]), Some(FinishReason::Stop));
        assert_eq!(sequence.usage().completion_tokens, 1);
        // A draft ends before what would end the answer, and leaves room for the token after it.
        let mut sequence = drafting(3);
        assert_eq!(sequence.draft_max(), 2);
        assert_eq!(sequence.accept_all(&[4, 5, 8]), Some(FinishReason::Length));
        let mut sequence = drafting(20);
        sequence.make_draft(7);
        assert_eq!(sequence.draft(), [4, 5]);
        assert_eq!(sequence.accept_all(&[4]), None);
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
        let mut first = blocks.admit(&tokens, 4, Priority::Interactive).unwrap();
        blocks.cover(&mut first, 40);
        blocks.publish(&mut first, &tokens, 40);
        let mut sequence = Sequence::new(SequenceId(1), tokens.clone(), 10, vec![]);
        sequence.start(blocks.admit(&tokens, 4, Priority::Interactive).unwrap());
        assert_eq!((sequence.computed(), sequence.usage().cached_tokens), (32, 32));
        blocks.cover(&mut sequence.table, 64);
        sequence.computed_more(32);
        blocks.publish(&mut sequence.table, &tokens, 64);
        // Paused and resumed: 64 come from the cache, but 32 of them are its own work.
        let mut table = sequence.pause();
        blocks.release(&mut table);
        sequence.start(blocks.admit(&tokens, 4, Priority::Interactive).unwrap());
        assert_eq!((sequence.computed(), sequence.usage().cached_tokens), (64, 32));
    }
}
