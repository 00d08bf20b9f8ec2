//! Decides who computes how many tokens in the next step.
//!
//! One budget of rows a step. First every sequence that is one token short (a running stream) gets its row, then the others get
//! what is left in order of arrival, then waiting ones are admitted, in order of arrival and none skipped. When a stream needs a
//! block and none is free or cached, the newest running sequence is paused: its blocks go back, its tokens stay, and it waits at
//! the head of the queue. So running sequences are always older than waiting ones, the oldest is never paused for another, and
//! everybody becomes the oldest.
//!
//! A state machine: events in (`add`, `remove`), decision out (`schedule`), result in (`commit`). Knows no tensor, no client, no clock.
#![deny(clippy::disallowed_methods)]

use std::collections::VecDeque;
use std::ops::Range;

use super::block_manager::BlockManager;
use super::prefix_cache::BlockId;
use super::sequence::{Sequence, SequenceId};
use super::{FinishReason, TokenUsage};

#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    blocks: BlockManager,
    /// In order of arrival.
    running: Vec<Sequence>,
    /// In order of arrival; all newer than those running.
    waiting: VecDeque<Sequence>,
    pauses_total: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sequences that run at once; not more than the rows of a step, or a stream could be left out of one.
    pub sequences_max: usize,
    pub tokens_per_step_max: usize,
    /// Tokens of the answer for which admission reserves blocks beside the prompt; beyond them a sequence grows block by block.
    pub answer_tokens_reserved: usize,
}

/// [`Limits::answer_tokens_reserved`] of a server.
pub const ANSWER_TOKENS_RESERVED: usize = 512;

/// The decision for one step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Streams first, then the others; rows are laid out in this order.
    pub chunks: Vec<Chunk>,
    /// Paused to make room, newest first.
    pub paused: Vec<SequenceId>,
}

/// Tokens `start..start + len` of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    pub id: SequenceId,
    pub start: usize,
    pub len: usize,
    /// The chunk closes the distance: its last row gives the next token.
    pub samples: bool,
}

/// A sequence that is done and gone from the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    pub reason: FinishReason,
    pub usage: TokenUsage,
}

impl Scheduler {
    pub fn new(limits: Limits, blocks: BlockManager) -> Self {
        assert!(
            limits.sequences_max > 0 && limits.sequences_max <= limits.tokens_per_step_max,
            "{limits:?} could leave a stream without a row"
        );
        Self { limits, blocks, running: Vec::new(), waiting: VecDeque::new(), pauses_total: 0 }
    }

    /// A new sequence, younger than all before it. It must fit into the blocks when alone.
    pub fn add(&mut self, sequence: Sequence) {
        assert!(sequence.blocks_max() <= self.blocks.total(), "{:?} can never fit", sequence.id);
        let newest = self.waiting.back().or(self.running.last());
        assert!(newest.is_none_or(|newest| newest.id < sequence.id), "{:?} does not come last", sequence.id);
        self.waiting.push_back(sequence);
    }

    /// The decision. Empty only when nothing runs and nothing waits.
    pub fn schedule(&mut self) -> Plan {
        let mut plan = Plan::default();
        let mut rows_left = self.limits.tokens_per_step_max;
        self.plan_streams(&mut plan, &mut rows_left);
        self.plan_prompts(&mut plan, &mut rows_left);
        // Who was paused needs more than was free: admitting in the same step would only hand its blocks round.
        if plan.paused.is_empty() {
            self.admit(&mut plan, &mut rows_left);
        }
        assert!(!plan.chunks.is_empty() || self.is_idle(), "somebody waits, nobody runs, and nothing is planned");
        plan
    }

    /// The result: the chunk is computed and, if it samples, `token` came out. Returns the departure of a finished sequence.
    pub fn commit(&mut self, chunk: &Chunk, token: Option<u32>) -> Option<Departure> {
        let index = self.running_index(chunk.id).expect("a planned sequence runs until its result is in");
        let sequence = &mut self.running[index];
        sequence.computed_more(chunk.len);
        let computed = sequence.computed();
        // Only now: a block is found by others once its keys and values are written.
        let mut table = std::mem::take(&mut sequence.table);
        self.blocks.publish(&mut table, sequence.tokens(), computed);
        sequence.table = table;
        let reason = match token {
            Some(token) => sequence.accept(token),
            None => (sequence.distance() == 0 && !sequence.wants_token()).then_some(FinishReason::Length),
        }?;
        let sequence = self.remove(chunk.id).expect("it ran a moment ago");
        Some(Departure { reason, usage: sequence.usage() })
    }

    /// Cancelled or failed: the sequence is gone and its blocks are given back, unpublished ones without a trace.
    pub fn remove(&mut self, id: SequenceId) -> Option<Sequence> {
        let mut sequence = match self.running_index(id) {
            Some(index) => self.running.remove(index),
            None => {
                let index = self.waiting.binary_search_by_key(&id, |sequence| sequence.id).ok()?;
                self.waiting.remove(index)?
            }
        };
        self.blocks.release(&mut sequence.table);
        Some(sequence)
    }

    /// Blocks from elsewhere into the cache, see [`BlockManager::import`]. The decision does not change by it: a sequence finds them
    /// as it finds any other.
    pub fn import(&mut self, tokens: &[u32], blocks: Range<usize>, fill: impl FnMut(usize, BlockId) -> bool) -> usize {
        self.blocks.import(tokens, blocks, fill)
    }

    /// The sequence of a planned chunk.
    pub fn running(&self, id: SequenceId) -> Option<&Sequence> {
        self.running_index(id).map(|index| &self.running[index])
    }
    /// In order of arrival.
    pub fn all_running(&self) -> &[Sequence] {
        &self.running
    }
    /// In order of arrival.
    pub fn all_waiting(&self) -> impl Iterator<Item = &Sequence> {
        self.waiting.iter()
    }
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }
    pub fn blocks(&self) -> &BlockManager {
        &self.blocks
    }
    pub fn limits(&self) -> Limits {
        self.limits
    }
    pub fn pauses_total(&self) -> u64 {
        self.pauses_total
    }

    /// The promises of this file and of the block manager: for tests and the simulation.
    pub fn check(&self) -> Result<(), String> {
        self.blocks.check_tables(self.running.iter().map(|sequence| (&sequence.table, sequence.tokens())))?;
        if self.running.len() > self.limits.sequences_max {
            return Err(format!("{} sequences run, the limit is {}", self.running.len(), self.limits.sequences_max));
        }
        let arrivals = self.running.iter().chain(&self.waiting).map(|sequence| sequence.id);
        if !arrivals.is_sorted_by(|a, b| a < b) {
            return Err("running and waiting sequences are not in order of arrival".into());
        }
        for sequence in &self.running {
            let id = sequence.id;
            if sequence.distance() == 0 {
                return Err(format!("{id:?} has nothing left to compute and still runs"));
            }
            if sequence.table.blocks().len() * kernels::BLOCK_TOKENS < sequence.computed() {
                return Err(format!("{id:?} has computed {} tokens in {} blocks", sequence.computed(), sequence.table.blocks().len()));
            }
        }
        if let Some(sequence) = self.waiting.iter().find(|sequence| sequence.table.reserved() > 0 || sequence.computed() > 0) {
            return Err(format!("{:?} waits and holds blocks", sequence.id));
        }
        Ok(())
    }

    /// One row for each sequence that is one token short, the oldest first.
    fn plan_streams(&mut self, plan: &mut Plan, rows_left: &mut usize) {
        let mut index = 0;
        while index < self.running.len() {
            if self.running[index].distance() == 1 && self.make_room(index, plan) {
                self.plan_chunk(index, 1, plan, rows_left);
            }
            index += 1;
        }
    }

    /// Rows for those further from their next token. Their blocks were promised at admission.
    fn plan_prompts(&mut self, plan: &mut Plan, rows_left: &mut usize) {
        for index in 0..self.running.len() {
            let distance = self.running[index].distance();
            if distance > 1 && *rows_left > 0 {
                self.plan_chunk(index, distance.min(*rows_left), plan, rows_left);
            }
        }
    }

    fn admit(&mut self, plan: &mut Plan, rows_left: &mut usize) {
        while *rows_left > 0 && self.running.len() < self.limits.sequences_max {
            let Some(head) = self.waiting.front() else { break };
            let Some(table) = self.blocks.admit(head.tokens(), head.blocks_wanted(self.limits.answer_tokens_reserved)) else { break };
            let mut sequence = self.waiting.pop_front().expect("the head is there");
            sequence.start(table);
            let distance = sequence.distance();
            self.running.push(sequence);
            self.plan_chunk(self.running.len() - 1, distance.min(*rows_left), plan, rows_left);
        }
    }

    fn plan_chunk(&mut self, index: usize, len: usize, plan: &mut Plan, rows_left: &mut usize) {
        let sequence = &mut self.running[index];
        let start = sequence.computed();
        self.blocks.cover(&mut sequence.table, start + len);
        let samples = start + len == sequence.total() && sequence.wants_token();
        plan.chunks.push(Chunk { id: sequence.id, start, len, samples });
        *rows_left -= len;
    }

    /// Sees to it that the sequence may take a block for its next token, pausing the newest while there is none.
    /// `false`: it was the newest itself.
    fn make_room(&mut self, index: usize, plan: &mut Plan) -> bool {
        let sequence = &self.running[index];
        if sequence.table.reserved() * kernels::BLOCK_TOKENS > sequence.computed() {
            return true;
        }
        loop {
            if self.blocks.grow(&mut self.running[index].table) {
                return true;
            }
            self.pause_newest(plan);
            if index == self.running.len() {
                return false;
            }
        }
    }

    fn pause_newest(&mut self, plan: &mut Plan) {
        assert!(self.running.len() > 1, "a sequence alone does not fit, admission should have refused it");
        let mut sequence = self.running.pop().expect("checked above");
        let mut table = sequence.pause();
        self.blocks.release(&mut table);
        self.pauses_total += 1;
        plan.paused.push(sequence.id);
        self.waiting.push_front(sequence);
    }

    fn running_index(&self, id: SequenceId) -> Option<usize> {
        self.running.binary_search_by_key(&id, |sequence| sequence.id).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheduler(blocks: usize, sequences_max: usize, tokens_per_step_max: usize) -> Scheduler {
        let limits = Limits { sequences_max, tokens_per_step_max, answer_tokens_reserved: ANSWER_TOKENS_RESERVED };
        Scheduler::new(limits, BlockManager::new(blocks))
    }

    /// A sequence of `prompt` tokens that nobody else has.
    fn sequence(id: u64, prompt: usize, output_max: usize) -> Sequence {
        Sequence::new(SequenceId(id), (0..prompt as u32).map(|i| i + 1000 * id as u32).collect(), output_max, vec![])
    }

    /// Runs a step in which every sampled token is 7; returns `(id, start, len)` of the plan.
    fn step(scheduler: &mut Scheduler) -> Vec<(u64, usize, usize)> {
        let plan = scheduler.schedule();
        for chunk in &plan.chunks {
            scheduler.commit(chunk, chunk.samples.then_some(7));
        }
        scheduler.check().unwrap();
        plan.chunks.iter().map(|chunk| (chunk.id.0, chunk.start, chunk.len)).collect()
    }

    #[test]
    fn streams_come_first_and_prompts_share_what_is_left() {
        let mut scheduler = scheduler(100, 4, 16);
        scheduler.add(sequence(0, 10, 100));
        assert_eq!(step(&mut scheduler), [(0, 0, 10)]);
        scheduler.add(sequence(1, 40, 100));
        scheduler.add(sequence(2, 5, 100));
        assert_eq!(step(&mut scheduler), [(0, 10, 1), (1, 0, 15)]);
        assert_eq!(step(&mut scheduler), [(0, 11, 1), (1, 15, 15)]);
        assert_eq!(step(&mut scheduler), [(0, 12, 1), (1, 30, 10), (2, 0, 5)]);
        assert_eq!(step(&mut scheduler), [(0, 13, 1), (1, 40, 1), (2, 5, 1)]);
    }

    #[test]
    fn who_does_not_fit_beside_the_others_waits() {
        let mut scheduler = scheduler(3, 4, 64);
        scheduler.add(sequence(0, 31, 40));
        scheduler.add(sequence(1, 20, 40));
        // The first is promised all 3 blocks for its 71 tokens, though it uses one.
        assert_eq!(step(&mut scheduler), [(0, 0, 31)]);
        assert_eq!((scheduler.blocks().used(), scheduler.all_waiting().count()), (1, 1));
        scheduler.remove(SequenceId(0)).unwrap();
        assert_eq!(step(&mut scheduler), [(1, 0, 20)]);
    }

    #[test]
    fn growth_beyond_the_reservation_pauses_the_newest() {
        // Both reserve 17 of the 34 blocks: 16 tokens and 512 more. Neither may grow past that beside the other.
        let mut scheduler = scheduler(34, 4, 64);
        scheduler.add(sequence(0, 16, 1000));
        scheduler.add(sequence(1, 16, 1000));
        assert_eq!(step(&mut scheduler), [(0, 0, 16), (1, 0, 16)]);
        // 17 blocks hold 544 tokens.
        for _ in 16..544 {
            assert_eq!(step(&mut scheduler).len(), 2);
        }
        let plan = scheduler.schedule();
        assert_eq!(plan.paused, [SequenceId(1)]);
        assert_eq!(plan.chunks.iter().map(|chunk| chunk.id.0).collect::<Vec<_>>(), [0]);
        scheduler.commit(&plan.chunks[0], Some(7));
        scheduler.check().unwrap();
        assert_eq!(scheduler.blocks().cached(), 16, "of the 17 blocks of the paused one, the older took the last");
        while scheduler.running(SequenceId(0)).is_some() {
            assert_eq!(step(&mut scheduler).len(), 1, "the paused one is not resumed before it fits with 512 tokens to spare");
        }
        step(&mut scheduler);
        assert_eq!((scheduler.pauses_total(), scheduler.all_running()[0].id), (1, SequenceId(1)));
    }

    #[test]
    fn a_prompt_without_an_answer_is_computed_and_leaves() {
        let mut scheduler = scheduler(4, 2, 8);
        scheduler.add(sequence(0, 12, 0));
        let plan = scheduler.schedule();
        assert_eq!(scheduler.commit(&plan.chunks[0], None), None);
        let plan = scheduler.schedule();
        assert!(!plan.chunks[0].samples);
        assert_eq!(scheduler.commit(&plan.chunks[0], None).unwrap().reason, FinishReason::Length);
        assert!(scheduler.is_idle());
    }

    #[test]
    fn what_is_removed_in_the_middle_of_its_prompt_leaves_its_full_blocks_cached() {
        let mut scheduler = scheduler(10, 2, 40);
        scheduler.add(sequence(0, 100, 10));
        step(&mut scheduler);
        assert_eq!((scheduler.blocks().used(), scheduler.blocks().cached()), (2, 0));
        scheduler.remove(SequenceId(0)).unwrap();
        assert_eq!((scheduler.blocks().used(), scheduler.blocks().cached()), (0, 1));
        assert!(scheduler.remove(SequenceId(0)).is_none());
        scheduler.check().unwrap();
    }

    #[test]
    #[should_panic(expected = "can never fit")]
    fn what_can_never_fit_is_not_taken() {
        scheduler(2, 1, 8).add(sequence(0, 65, 1));
    }
}
