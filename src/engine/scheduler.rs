//! Decides who computes how many tokens in the next step.
//!
//! One budget of rows a step. First every sequence that is one token short (a running stream) gets its row. Then waiting ones are
//! admitted, and whoever is further from its next token gets what is left: the more urgent first, in order of arrival, but an eighth
//! is kept for less urgent ones. Beside streams that are as urgent a prompt gets only so many rows that the step stays within
//! [`STREAM_DELAY_MAX`] of what it takes without. Rows that no prompt wants may check drafted tokens, where that pays.
//!
//! Rank is urgency, then arrival; who has been here for [`PATIENCE`] is as urgent as anybody. When a stream needs a block and none is
//! free or cached, the running sequence of the last rank is paused: its blocks go back, its tokens stay, and it waits for its turn. A
//! sequence that waits may have those after it in rank paused. So the first in rank has a row in every step, and everybody becomes the
//! first.
//!
//! A state machine: events in (`add`, `remove`), decision out (`schedule`), result in (`commit`). Knows no tensor, no client, no
//! clock: what time it is and how long steps take are arguments.
#![deny(clippy::disallowed_methods)]

use std::collections::VecDeque;
use std::time::Duration;

use kernels::BLOCK_TOKENS;

use super::block_manager::BlockManager;
use super::drafter::{DRAFT_MAX, rows_worth_checking};
use super::sequence::{Sequence, SequenceId};
use super::step_times::{StepTimes, Trust};
use super::{FinishReason, Priority, TokenUsage};

#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    blocks: BlockManager,
    /// In order of arrival.
    running: Vec<Sequence>,
    /// In order of arrival.
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
    /// Rows of drafts in one step; beside more streams than this nothing is drafted.
    pub drafts_max: usize,
}

/// [`Limits::answer_tokens_reserved`] of a server.
pub const ANSWER_TOKENS_RESERVED: usize = 512;

/// Who has waited and run for so long is as urgent as anybody.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A step in which prompts ride along takes at most so many times what its streams take alone, as far as that is known: 3 is what
/// people are promised, and steps vary.
pub const STREAM_DELAY_MAX: f64 = 2.5;

/// Of the rows for prompts one in so many is kept for less urgent ones, while there are any.
const ROWS_FOR_LESS_URGENT: usize = 8;

/// The decision for one step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Streams first, then the others; rows are laid out in this order.
    pub chunks: Vec<Chunk>,
    /// Paused to make room, the last in rank first.
    pub paused: Vec<SequenceId>,
}

/// Tokens `start..start + len` of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    pub id: SequenceId,
    pub start: usize,
    /// Those of the draft included.
    pub len: usize,
    /// The chunk closes the distance: its last row gives the next token.
    pub samples: bool,
    /// So many tokens at the end are the sequence's draft. Each of their rows gives a token too, if all before it were right.
    pub drafts: usize,
}

/// A sequence that is done and gone from the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    pub reason: FinishReason,
    pub usage: TokenUsage,
}

/// Smaller is served first.
type Rank = (Priority, SequenceId);

impl Plan {
    pub fn rows(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len).sum()
    }
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
        let newest = self.waiting.back().map(|newest| newest.id).max(self.running.last().map(|newest| newest.id));
        assert!(newest.is_none_or(|newest| newest < sequence.id), "{:?} does not come last", sequence.id);
        self.waiting.push_back(sequence);
    }

    /// The decision at the time `now`. Empty only when nothing runs and nothing waits.
    pub fn schedule(&mut self, now: Duration, times: &StepTimes) -> Plan {
        let mut plan = Plan::default();
        let mut order: Vec<Rank> = self.running.iter().map(|sequence| rank(sequence, now)).collect();
        order.sort_unstable();
        self.plan_streams(&order, now, &mut plan);
        // Who was paused needs more than was free: admitting in the same step would only hand its blocks round.
        if plan.paused.is_empty() && !self.waiting.is_empty() {
            self.admit(now, &mut plan);
        }
        self.plan_prompts(now, times, &mut plan);
        if plan.chunks.iter().all(|chunk| chunk.len == 1) && plan.chunks.len() <= self.limits.drafts_max {
            self.plan_drafts(times, &mut plan);
        }
        assert!(!plan.chunks.is_empty() || self.is_idle(), "somebody waits, nobody runs, and nothing is planned");
        plan
    }

    /// The result: the chunk is computed and gave the tokens `sampled`: none if it does not sample, and all but the last as they were
    /// drafted. Returns the departure of a finished sequence.
    pub fn commit(&mut self, chunk: &Chunk, sampled: &[u32]) -> Option<Departure> {
        let index = self.running_index(chunk.id).expect("a planned sequence runs until its result is in");
        let sequence = &mut self.running[index];
        sequence.computed_more(chunk.len - chunk.drafts);
        let reason = match sampled {
            [] => (sequence.distance() == 0 && !sequence.wants_token()).then_some(FinishReason::Length),
            sampled => sequence.accept_all(sampled),
        };
        // Only now: a block is found by others once its keys and values are written.
        let computed = sequence.computed();
        let mut table = std::mem::take(&mut sequence.table);
        self.blocks.publish(&mut table, sequence.tokens(), computed);
        sequence.table = table;
        let reason = reason?;
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
        let in_order = |ids: &mut dyn Iterator<Item = SequenceId>| ids.is_sorted_by(|a, b| a < b);
        if !in_order(&mut self.running.iter().map(|sequence| sequence.id))
            || !in_order(&mut self.waiting.iter().map(|sequence| sequence.id))
        {
            return Err("running or waiting sequences are not in order of arrival".into());
        }
        for sequence in &self.running {
            let id = sequence.id;
            if sequence.distance() == 0 {
                return Err(format!("{id:?} has nothing left to compute and still runs"));
            }
            if sequence.table.blocks().len() * BLOCK_TOKENS < sequence.computed() {
                return Err(format!("{id:?} has computed {} tokens in {} blocks", sequence.computed(), sequence.table.blocks().len()));
            }
            if !sequence.draft().is_empty() {
                return Err(format!("{id:?} keeps a draft beyond its step"));
            }
        }
        if let Some(sequence) = self.waiting.iter().find(|sequence| sequence.table.reserved() > 0 || sequence.computed() > 0) {
            return Err(format!("{:?} waits and holds blocks", sequence.id));
        }
        Ok(())
    }

    /// One row for each sequence that is one token short, in order of rank.
    fn plan_streams(&mut self, order: &[Rank], now: Duration, plan: &mut Plan) {
        for &(_, id) in order {
            let Some(index) = self.running_index(id) else { continue };
            if self.running[index].distance() == 1 && self.make_room(id, now, plan) {
                self.plan_chunk(id, 1, plan);
            }
        }
    }

    /// Lets in who waits, class by class and in order of arrival, none skipped: while prompts leave rows to be had, and at least one
    /// prompt of each class. Who finds no place or no blocks has those after it in rank paused; if that is not enough, nobody after
    /// it gets in.
    fn admit(&mut self, now: Duration, plan: &mut Plan) {
        for class in [Priority::Interactive, Priority::Background, Priority::Shadow] {
            loop {
                let mut heads = self.waiting.iter().enumerate().filter(|(_, sequence)| rank(sequence, now).0 == class);
                let Some((head, sequence)) = heads.next() else { break };
                let id = sequence.id;
                if plan.paused.contains(&id) {
                    return;
                }
                let prompts =
                    || self.running.iter().filter(|sequence| sequence.distance() > 1).map(|sequence| (rank(sequence, now), sequence));
                let wanted: usize = prompts().filter(|(other, _)| *other < (class, id)).map(|(_, sequence)| sequence.distance()).sum();
                let class_has_prompt = prompts().any(|(other, _)| other.0 == class);
                if plan.rows() + wanted >= self.limits.tokens_per_step_max && class_has_prompt {
                    break;
                }
                if !self.make_place(head, (class, id), now, plan) {
                    return;
                }
                // Whoever was paused now waits, perhaps before it.
                let head = self.waiting.binary_search_by_key(&id, |sequence| sequence.id).expect("it waits");
                let sequence = &self.waiting[head];
                let wanted = sequence.blocks_wanted(self.limits.answer_tokens_reserved);
                let Some(table) = self.blocks.admit(sequence.tokens(), wanted, sequence.priority()) else { return };
                let mut sequence = self.waiting.remove(head).expect("it is there");
                sequence.start(table);
                let index = self.running.partition_point(|other| other.id < id);
                self.running.insert(index, sequence);
            }
        }
    }

    /// Pauses sequences after it in rank until the waiting one of index `head` has a place and blocks; none if that would not be
    /// enough.
    fn make_place(&mut self, head: usize, (class, id): Rank, now: Duration, plan: &mut Plan) -> bool {
        let sequence = &self.waiting[head];
        let wanted = sequence.blocks_wanted(self.limits.answer_tokens_reserved);
        let victims = self.running.iter().filter(|other| rank(other, now) > (class, id));
        let (count, blocks) = victims.fold((0, 0), |(count, blocks), victim| (count + 1, blocks + victim.table.reserved()));
        let no_place = usize::from(self.running.len() >= self.limits.sequences_max);
        if no_place > count || self.blocks.shortage(sequence.tokens(), wanted) > blocks {
            return false;
        }
        loop {
            let head = self.waiting.binary_search_by_key(&id, |sequence| sequence.id).expect("it waits");
            let has_place = self.running.len() < self.limits.sequences_max;
            if has_place && self.blocks.shortage(self.waiting[head].tokens(), wanted) == 0 {
                return true;
            }
            let last = self.last_in_rank(now);
            if last.is_none_or(|last| last <= (class, id)) {
                return false;
            }
            self.pause_last(now, plan);
        }
    }

    /// Rows for those further from their next token. Their blocks were promised at admission.
    fn plan_prompts(&mut self, now: Duration, times: &StepTimes, plan: &mut Plan) {
        let mut planned: Vec<SequenceId> = plan.chunks.iter().map(|chunk| chunk.id).collect();
        planned.sort_unstable();
        let is_planned = |sequence: &Sequence| planned.binary_search(&sequence.id).is_ok();
        let (streams, prompts): (Vec<&Sequence>, Vec<&Sequence>) = self.running.iter().partition(|sequence| is_planned(sequence));
        let streams: Vec<Priority> = streams.into_iter().map(|sequence| rank(sequence, now).0).collect();
        let mut prompts: Vec<Rank> = prompts.into_iter().map(|sequence| rank(sequence, now)).collect();
        prompts.sort_unstable();
        for index in (0..prompts.len()).rev() {
            if self.another_is_ahead(&prompts[..index], prompts[index].1) {
                prompts.remove(index);
            }
        }
        let Some(&(first_class, _)) = prompts.first() else { return };
        // Nobody is delayed for the less urgent.
        let rows_max = |class: Priority| {
            let rows_max = self.limits.tokens_per_step_max;
            let alone = times.seconds(streams.len(), Trust::Old).filter(|_| streams.iter().any(|stream| *stream <= class));
            alone.map_or(rows_max, |alone| times.rows_within(alone * STREAM_DELAY_MAX, streams.len() + 1, rows_max).min(rows_max))
        };
        let wish = |&(class, id): &Rank| (class, self.running(id).expect("it runs").distance());
        let wishes: Vec<(Priority, usize)> = prompts.iter().map(wish).collect();
        let mut shares = vec![0; prompts.len()];
        share_out(&wishes, rows_max(first_class).saturating_sub(plan.rows()), &mut shares);
        let mut rows = plan.rows();
        for (share, &(class, _)) in shares.iter_mut().zip(&wishes) {
            *share = (*share).min(rows_max(class).saturating_sub(rows));
            rows += *share;
        }
        for (&(_, id), share) in prompts.iter().zip(shares).filter(|(_, share)| *share > 0) {
            self.plan_chunk(id, share, plan);
        }
    }

    /// Takes over what others have computed meanwhile. Whether one of `others`, all before it in rank, is about to compute the block
    /// that the sequence would begin: then it is better to wait for it than to do the same again.
    fn another_is_ahead(&mut self, others: &[Rank], id: SequenceId) -> bool {
        let index = self.running_index(id).expect("it runs");
        let mut table = std::mem::take(&mut self.running[index].table);
        self.blocks.adopt(&mut table, self.running[index].tokens());
        self.running[index].table = table;
        self.running[index].adopted();
        let sequence = &self.running[index];
        let end = sequence.computed() + BLOCK_TOKENS;
        if !sequence.computed().is_multiple_of(BLOCK_TOKENS) || end >= sequence.total() {
            return false;
        }
        others.iter().any(|&(_, other)| {
            let other = self.running(other).expect("it runs");
            other.computed() < end && other.tokens().get(..end) == Some(&sequence.tokens()[..end])
        })
    }

    /// Lets streams check drafts in rows that nobody else wants.
    fn plan_drafts(&mut self, times: &StepTimes, plan: &mut Plan) {
        let mut rows = plan.rows();
        let mut left = self.limits.drafts_max.min(self.limits.tokens_per_step_max - rows);
        let mut expected = rows as f64;
        for index in 0..plan.chunks.len() {
            let chunk = plan.chunks[index];
            let sequence_index = self.running_index(chunk.id).expect("it runs");
            let sequence = &mut self.running[sequence_index];
            let most = sequence.draft_max().min(DRAFT_MAX).min(left);
            if most == 0 || !chunk.samples {
                continue;
            }
            let Some(drafter) = sequence.drafter().filter(|drafter| drafter.expects()) else { continue };
            let seconds = |more: usize| times.seconds(rows + more, Trust::Recent);
            let worth = rows_worth_checking(expected, drafter.likelihoods(), most, seconds);
            let likely: f64 = drafter
                .likelihoods()
                .take(worth)
                .scan(1.0, |all, next| {
                    *all *= next;
                    Some(*all)
                })
                .sum();
            sequence.make_draft(worth);
            let drafts = sequence.draft().len();
            let end = chunk.start + 1 + drafts;
            self.blocks.cover(&mut sequence.table, end);
            plan.chunks[index] = Chunk { len: 1 + drafts, drafts, ..chunk };
            rows += drafts;
            left -= drafts;
            expected += likely;
        }
    }

    fn plan_chunk(&mut self, id: SequenceId, len: usize, plan: &mut Plan) {
        let index = self.running_index(id).expect("it runs");
        let sequence = &mut self.running[index];
        let start = sequence.computed();
        self.blocks.cover(&mut sequence.table, start + len);
        let samples = start + len == sequence.total() && sequence.wants_token();
        plan.chunks.push(Chunk { id, start, len, samples, drafts: 0 });
    }

    /// Sees to it that the sequence may take a block for its next token, pausing the last in rank while there is none.
    /// `false`: it was the last itself.
    fn make_room(&mut self, id: SequenceId, now: Duration, plan: &mut Plan) -> bool {
        loop {
            let Some(index) = self.running_index(id) else { return false };
            let sequence = &mut self.running[index];
            if sequence.table.reserved() * BLOCK_TOKENS > sequence.computed() || self.blocks.grow(&mut sequence.table) {
                return true;
            }
            assert!(self.running.len() > 1, "a sequence alone does not fit, admission should have refused it");
            self.pause_last(now, plan);
        }
    }

    fn last_in_rank(&self, now: Duration) -> Option<Rank> {
        self.running.iter().map(|sequence| rank(sequence, now)).max()
    }

    fn pause_last(&mut self, now: Duration, plan: &mut Plan) {
        let (_, id) = self.last_in_rank(now).expect("somebody runs");
        let index = self.running_index(id).expect("it runs");
        let mut sequence = self.running.remove(index);
        let mut table = sequence.pause();
        self.blocks.release(&mut table);
        self.pauses_total += 1;
        plan.chunks.retain(|chunk| chunk.id != id);
        plan.paused.push(id);
        let index = self.waiting.partition_point(|other| other.id < id);
        self.waiting.insert(index, sequence);
    }

    fn running_index(&self, id: SequenceId) -> Option<usize> {
        self.running.binary_search_by_key(&id, |sequence| sequence.id).ok()
    }
}

fn rank(sequence: &Sequence, now: Duration) -> Rank {
    let is_patient = now.saturating_sub(sequence.arrived()) < PATIENCE;
    (if is_patient { sequence.priority() } else { Priority::Interactive }, sequence.id)
}

/// Shares `rows` out among `wishes`, in order of rank: the first class gets what it wishes, but an eighth is kept for the others
/// (one row at least, where there are two), who share it in the same way; what they leave is the first's.
fn share_out(wishes: &[(Priority, usize)], rows: usize, shares: &mut [usize]) {
    let Some(&(class, _)) = wishes.first() else { return };
    let others = wishes.partition_point(|wish| wish.0 == class);
    let wished_by_others: usize = wishes[others..].iter().map(|wish| wish.1).sum();
    let kept = (rows / ROWS_FOR_LESS_URGENT).max(usize::from(rows > 1)).min(wished_by_others);
    let mut left = rows - kept;
    for (share, &(_, wish)) in shares.iter_mut().zip(&wishes[..others]) {
        *share = wish.min(left);
        left -= *share;
    }
    share_out(&wishes[others..], left + kept, &mut shares[others..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn scheduler(blocks: usize, sequences_max: usize, tokens_per_step_max: usize) -> Scheduler {
        let limits = Limits { sequences_max, tokens_per_step_max, answer_tokens_reserved: ANSWER_TOKENS_RESERVED, drafts_max: 8 };
        Scheduler::new(limits, BlockManager::new(blocks))
    }

    /// A sequence of `prompt` tokens that nobody else has.
    fn sequence(id: u64, prompt: usize, output_max: usize) -> Sequence {
        Sequence::new(SequenceId(id), (0..prompt as u32).map(|i| i + 1000 * id as u32).collect(), output_max, vec![])
    }

    /// Runs a step in which every sampled token is 7; returns `(id, start, len)` of the plan.
    fn step(scheduler: &mut Scheduler) -> Vec<(u64, usize, usize)> {
        let plan = scheduler.schedule(NOW, &StepTimes::default());
        for chunk in &plan.chunks {
            scheduler.commit(chunk, if chunk.samples { &[7] } else { &[] });
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
        let plan = scheduler.schedule(NOW, &StepTimes::default());
        assert_eq!(plan.paused, [SequenceId(1)]);
        assert_eq!(plan.chunks.iter().map(|chunk| chunk.id.0).collect::<Vec<_>>(), [0]);
        scheduler.commit(&plan.chunks[0], &[7]);
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
        let plan = scheduler.schedule(NOW, &StepTimes::default());
        assert_eq!(scheduler.commit(&plan.chunks[0], &[]), None);
        let plan = scheduler.schedule(NOW, &StepTimes::default());
        assert!(!plan.chunks[0].samples);
        assert_eq!(scheduler.commit(&plan.chunks[0], &[]).unwrap().reason, FinishReason::Length);
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

    /// One row takes 50 ms, each further one 5.
    fn times() -> StepTimes {
        let mut times = StepTimes::default();
        for rows in [1, 2, 4, 8, 16, 64, 512] {
            times.record(rows, 0.045 + 0.005 * rows as f64);
        }
        times
    }

    /// `(id, len)` of a plan in which every sampled token is 7.
    fn step_at(scheduler: &mut Scheduler, seconds: u64, times: &StepTimes) -> (Vec<(u64, usize)>, Vec<u64>) {
        let plan = scheduler.schedule(Duration::from_secs(seconds), times);
        for chunk in &plan.chunks {
            scheduler.commit(chunk, if chunk.samples { &[7] } else { &[] });
        }
        scheduler.check().unwrap();
        (plan.chunks.iter().map(|chunk| (chunk.id.0, chunk.len)).collect(), plan.paused.iter().map(|id| id.0).collect())
    }

    fn of_priority(id: u64, prompt: usize, priority: Priority, arrived_s: u64) -> Sequence {
        sequence(id, prompt, 100).arriving(priority, Duration::from_secs(arrived_s))
    }

    #[test]
    fn a_long_prompt_delays_streams_by_a_bounded_time() {
        let mut scheduler = scheduler(1000, 4, 512);
        let times = times();
        scheduler.add(sequence(0, 10, 1000));
        scheduler.add(sequence(1, 10, 1000));
        assert_eq!(step_at(&mut scheduler, 0, &times).0, [(0, 10), (1, 10)]);
        scheduler.add(sequence(2, 16_000, 100));
        // Two streams take 55 ms; 2.5 times that are 137.5, which 18 rows stay within.
        assert_eq!(step_at(&mut scheduler, 0, &times).0, [(0, 1), (1, 1), (2, 16)]);
        // No stream waits any more, and nothing holds the prompt back.
        scheduler.remove(SequenceId(0)).unwrap();
        scheduler.remove(SequenceId(1)).unwrap();
        assert_eq!(step_at(&mut scheduler, 0, &times).0, [(2, 512)]);
        // For the less urgent it is not slowed down.
        let mut scheduler = self::scheduler(1000, 4, 512);
        scheduler.add(of_priority(0, 10, Priority::Background, 0));
        step_at(&mut scheduler, 0, &times);
        scheduler.add(of_priority(1, 16_000, Priority::Interactive, 0));
        assert_eq!(step_at(&mut scheduler, 0, &times).0, [(0, 1), (1, 511)]);
    }

    #[test]
    fn the_more_urgent_come_first_and_an_eighth_is_kept_for_the_others() {
        let mut scheduler = scheduler(1000, 4, 64);
        scheduler.add(of_priority(0, 300, Priority::Shadow, 0));
        assert_eq!(step(&mut scheduler), [(0, 0, 64)]);
        scheduler.add(of_priority(1, 300, Priority::Background, 0));
        scheduler.add(of_priority(2, 300, Priority::Interactive, 0));
        scheduler.add(of_priority(3, 300, Priority::Interactive, 0));
        // Of the eighth the background takes seven eighths. Two of one class: in order of arrival.
        assert_eq!(step(&mut scheduler), [(2, 0, 56), (1, 0, 7), (0, 64, 1)]);
        scheduler.remove(SequenceId(2)).unwrap();
        scheduler.remove(SequenceId(1)).unwrap();
        assert_eq!(step(&mut scheduler), [(3, 0, 56), (0, 65, 8)]);
        // Whoever needs less than is kept leaves it to the others.
        assert_eq!(
            (share_out_of(&[(Priority::Interactive, 100), (Priority::Background, 3)], 64), share_out_of(&[(Priority::Shadow, 9)], 4)),
            (vec![61, 3], vec![4])
        );
        assert_eq!(share_out_of(&[(Priority::Interactive, 9), (Priority::Background, 9)], 1), [1, 0]);
        assert_eq!(share_out_of(&[(Priority::Interactive, 9), (Priority::Background, 9)], 2), [1, 1]);
    }

    fn share_out_of(wishes: &[(Priority, usize)], rows: usize) -> Vec<usize> {
        let mut shares = vec![0; wishes.len()];
        share_out(wishes, rows, &mut shares);
        shares
    }

    #[test]
    fn who_is_urgent_finds_a_place_and_who_has_waited_long_is_urgent() {
        let mut scheduler = scheduler(1000, 2, 64);
        let times = StepTimes::default();
        scheduler.add(of_priority(0, 40, Priority::Background, 0));
        scheduler.add(of_priority(1, 10, Priority::Background, 0));
        assert_eq!(step_at(&mut scheduler, 0, &times).0, [(0, 40), (1, 10)]);
        scheduler.add(of_priority(2, 10, Priority::Interactive, 1));
        assert_eq!(step_at(&mut scheduler, 1, &times), (vec![(0, 1), (2, 10)], vec![1]));
        scheduler.add(of_priority(3, 10, Priority::Interactive, 2));
        assert_eq!(step_at(&mut scheduler, 2, &times), (vec![(2, 1), (3, 10)], vec![0]));
        assert_eq!(step_at(&mut scheduler, 3, &times), (vec![(2, 1), (3, 1)], vec![]));
        // After a minute the first two are as urgent as the others, and older.
        let (chunks, paused) = step_at(&mut scheduler, 60, &times);
        assert_eq!((chunks, paused), (vec![(0, 10), (1, 11)], vec![3, 2]));
    }

    #[test]
    fn blocks_are_taken_from_the_less_urgent_only_if_that_is_enough() {
        // Each of the two holds or was promised 4 of the 8 blocks.
        let mut scheduler = scheduler(8, 4, 64);
        scheduler.add(of_priority(0, 28, Priority::Interactive, 0));
        scheduler.add(of_priority(1, 28, Priority::Background, 0));
        assert_eq!(step(&mut scheduler), [(0, 0, 28), (1, 0, 28)]);
        scheduler.add(of_priority(2, 100, Priority::Interactive, 0));
        let times = StepTimes::default();
        assert_eq!(step_at(&mut scheduler, 0, &times), (vec![(0, 1), (1, 1)], vec![]), "seven blocks are not to be had");
        scheduler.remove(SequenceId(2)).unwrap();
        scheduler.add(of_priority(3, 20, Priority::Interactive, 0));
        assert_eq!(step_at(&mut scheduler, 0, &times), (vec![(0, 1), (3, 20)], vec![1]));
    }

    #[test]
    fn two_of_the_same_prompt_compute_it_once() {
        let mut scheduler = scheduler(100, 4, 400);
        let prompt: Vec<u32> = (0..150).collect();
        let twin = |id: u64, salt: u32| {
            let tokens = prompt.iter().copied().chain([1000 + salt]).collect();
            Sequence::new(SequenceId(id), tokens, 10, vec![])
        };
        scheduler.add(twin(0, 0));
        scheduler.add(twin(1, 5));
        scheduler.add(sequence(2, 20, 10));
        // The second leaves the rows to the third, and takes over what the first has computed.
        assert_eq!(step(&mut scheduler), [(0, 0, 151), (2, 0, 20)]);
        assert_eq!(step(&mut scheduler), [(0, 151, 1), (2, 20, 1), (1, 128, 23)]);
        let cached = |id| scheduler.running(SequenceId(id)).unwrap().usage().cached_tokens;
        assert_eq!((cached(0), cached(1)), (0, 128));
        // The one that computes goes away: the other goes on itself.
        let mut scheduler = self::scheduler(100, 4, 170);
        scheduler.add(twin(0, 0));
        scheduler.add(twin(1, 5));
        assert_eq!(step(&mut scheduler), [(0, 0, 151)]);
        scheduler.remove(SequenceId(0)).unwrap();
        assert_eq!(step(&mut scheduler), [(1, 128, 23)]);
        let mut scheduler = self::scheduler(100, 4, 170);
        scheduler.add(twin(0, 0));
        scheduler.add(twin(1, 5));
        let plan = scheduler.schedule(NOW, &StepTimes::default());
        assert_eq!(plan.chunks.len(), 1);
        scheduler.remove(SequenceId(0)).unwrap();
        assert_eq!(step(&mut scheduler), [(1, 0, 151)], "nothing of it was computed");
    }

    #[test]
    fn drafts_are_checked_where_they_pay_and_nobody_wants_the_rows() {
        let mut scheduler = scheduler(100, 4, 64);
        let repeating = |id: u64| {
            let tokens = (0..20).chain(0..10).map(|i| i + 100 * id as u32).collect();
            Sequence::new(SequenceId(id), tokens, 100, vec![]).drafting()
        };
        let times = times();
        scheduler.add(repeating(0));
        let plan = scheduler.schedule(NOW, &times);
        scheduler.commit(&plan.chunks[0], &[10]);
        let plan = scheduler.schedule(NOW, &times);
        let chunk = plan.chunks[0];
        assert!(chunk.drafts > 0 && chunk.len == 1 + chunk.drafts, "{chunk:?}");
        let draft = scheduler.running(SequenceId(0)).unwrap().draft().to_vec();
        assert_eq!(draft, (11..11 + draft.len() as u32).collect::<Vec<_>>());
        // All of it is right.
        let sampled: Vec<u32> = draft.iter().copied().chain([50]).collect();
        assert_eq!(scheduler.commit(&chunk, &sampled), None);
        scheduler.check().unwrap();
        assert_eq!(scheduler.running(SequenceId(0)).unwrap().total(), 31 + sampled.len());
        // A prompt beside it has the rows.
        let mut scheduler = self::scheduler(100, 4, 64);
        scheduler.add(repeating(0));
        let plan = scheduler.schedule(NOW, &times);
        scheduler.commit(&plan.chunks[0], &[10]);
        scheduler.add(sequence(1, 40, 10));
        assert!(scheduler.schedule(NOW, &times).chunks.iter().all(|chunk| chunk.drafts == 0));
        // Where a row more costs as much as the first, nothing is drafted.
        let mut dear = StepTimes::default();
        (1..20).for_each(|rows| dear.record(rows, 0.05 * rows as f64));
        let mut scheduler = self::scheduler(100, 4, 64);
        scheduler.add(repeating(0));
        let plan = scheduler.schedule(NOW, &dear);
        scheduler.commit(&plan.chunks[0], &[10]);
        assert_eq!(scheduler.schedule(NOW, &dear).chunks[0].drafts, 0);
    }
}
