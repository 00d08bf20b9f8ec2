//! Decides who computes how many tokens in the next step.
//!
//! One budget of rows a step. First every sequence that is one token short (a running stream) gets its row. Then waiting ones are
//! admitted, and whoever is further from its next token gets what is left: the more urgent first, in order of arrival, but an eighth
//! is kept for less urgent ones. Beside streams that are as urgent a prompt gets only so many rows that the step stays within
//! [`STREAM_DELAY_MAX`] of what it takes without, or within [`STREAM_STEP_S`]. Rows that no prompt wants may check drafted tokens, where that pays.
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
use std::ops::Range;
use std::time::Duration;

use kernels::BLOCK_TOKENS;

use super::block_manager::{BlockManager, BlockTable};
use super::drafter::{DRAFT_MAX, rows_worth_checking};
use super::plan::{BlockCopy, Chunk, Plan};
use super::prefix_cache::BlockId;
use super::sequence::{Sequence, SequenceId};
use super::step_times::{Load, StepTimes, Trust};
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
    /// Whether blocks can be copied, and so parts of them be shared.
    copies_blocks: bool,
    /// Steps until streams may have one to themselves again.
    steps_to_measurement: u32,
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

/// Nobody notices a step of so many seconds: fifty tokens a second are faster than anybody reads, and a prompt that a faster stream held
/// back to its own pace would take many times as long.
pub const STREAM_STEP_S: f64 = 0.02;

/// What streams take alone is measured at most once in so many steps, by leaving the prompts out of one: a thirty-second of their speed at most.
const STEPS_BETWEEN_MEASUREMENTS: u32 = 32;

/// Rows of prompts whose logits are wanted, of all sequences in one step: 16 of a vocabulary of 150,000 take 10 MB, as much as the drafts that
/// the memory plan has room for.
pub const SCORED_ROWS_MAX: usize = 16;

/// Of the rows for prompts one in so many is kept for less urgent ones, while there are any.
const ROWS_FOR_LESS_URGENT: usize = 8;

/// A sequence that is done and gone from the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    pub reason: FinishReason,
    pub usage: TokenUsage,
}

/// Smaller is served first.
pub(super) type Rank = (Priority, SequenceId);

impl Scheduler {
    pub fn new(limits: Limits, blocks: BlockManager) -> Self {
        assert!(
            limits.sequences_max > 0 && limits.sequences_max <= limits.tokens_per_step_max,
            "{limits:?} could leave a stream without a row"
        );
        Self {
            limits,
            blocks,
            running: Vec::new(),
            waiting: VecDeque::new(),
            pauses_total: 0,
            copies_blocks: false,
            steps_to_measurement: 0,
        }
    }

    /// With blocks that can be copied: what two prompts have in common is then computed once to the token.
    pub fn copying_blocks(self, copies_blocks: bool) -> Self {
        Self { copies_blocks, ..self }
    }

    /// A new sequence, younger than all before it. It must fit into the blocks when alone.
    pub fn add(&mut self, mut sequence: Sequence) {
        assert!(sequence.blocks_max() <= self.blocks.total(), "{:?} can never fit", sequence.id);
        let newest = self.waiting.back().map(|newest| newest.id).max(self.running.last().map(|newest| newest.id));
        assert!(newest.is_none_or(|newest| newest < sequence.id), "{:?} does not come last", sequence.id);
        sequence.expect_cached(self.expected_cached(sequence.shareable()));
        self.waiting.push_back(sequence);
    }

    /// Leading tokens of a prompt that its sequence will probably not have to compute: cached, or another's who is here already.
    pub fn expected_cached(&self, prompt: &[u32]) -> usize {
        let cached = self.blocks.longest_restart(prompt).len() * BLOCK_TOKENS;
        let others = self.running.iter().chain(&self.waiting);
        let shared =
            others.map(|other| prompt.iter().zip(other.tokens()).take_while(|(a, b)| a == b).count() / BLOCK_TOKENS * BLOCK_TOKENS);
        shared.max().unwrap_or(0).max(cached)
    }

    /// The decision at the time `now`. Empty only when nothing runs and nothing waits.
    pub fn schedule(&mut self, now: Duration, times: &StepTimes) -> Plan {
        let mut plan = Plan::default();
        self.undo_planned();
        let mut order: Vec<Rank> = self.running.iter().map(|sequence| rank(sequence, now)).collect();
        order.sort_unstable();
        self.plan_streams(&order, now, &mut plan);
        self.admit(now, &mut plan);
        self.steps_to_measurement = self.steps_to_measurement.saturating_sub(1);
        self.plan_prompts(now, times, &mut plan);
        let measures = self.steps_to_measurement == STEPS_BETWEEN_MEASUREMENTS;
        if !measures && plan.chunks.iter().all(|chunk| chunk.len == 1) && plan.chunks.len() <= self.limits.drafts_max {
            plan.may_draft = self.limits.drafts_max > 0;
            self.plan_drafts(times, &mut plan);
        }
        assert!(!plan.chunks.is_empty() || self.is_idle(), "somebody waits, nobody runs, and nothing is planned");
        plan
    }

    /// Gives a planned stream that has no draft one from elsewhere, or the beginning of it that has places and may come.
    pub fn set_draft(&mut self, chunk: &mut Chunk, tokens: &[u32]) {
        assert!(chunk.samples && chunk.len == 1, "{chunk:?} is no stream without a draft");
        let index = self.running_index(chunk.id).expect("a planned sequence runs until its result is in");
        let sequence = &mut self.running[index];
        sequence.set_draft(tokens);
        (chunk.drafts, chunk.len) = (sequence.draft().len(), 1 + sequence.draft().len());
        let may_be_undone = chunk.drafts > 0 || sequence.is_constrained();
        self.blocks.cover_step(&mut sequence.table, chunk.start, chunk.start + chunk.len, may_be_undone);
    }

    /// Of a planned draft only the first `drafts` tokens are to be checked.
    pub fn cut_draft(&mut self, chunk: &mut Chunk, drafts: usize) {
        let cut = chunk.drafts.saturating_sub(drafts);
        if cut > 0 {
            (chunk.len, chunk.drafts) = (chunk.len - cut, chunk.drafts - cut);
            let index = self.running_index(chunk.id).expect("a planned sequence runs until its result is in");
            self.running[index].cut_draft(chunk.drafts);
        }
    }

    /// The result: the chunk is computed and gave the tokens `sampled`: none if it does not sample, and all but the last as they were
    /// drafted. Returns the departure of a finished sequence.
    pub fn commit(&mut self, chunk: &Chunk, sampled: &[u32]) -> Option<Departure> {
        let index = self.running_index(chunk.id).expect("a planned sequence runs until its result is in");
        let sequence = &mut self.running[index];
        let wrong_drafts = (1 + chunk.drafts).saturating_sub(sampled.len()).min(chunk.drafts);
        sequence.computed_more(chunk.len - chunk.drafts);
        let reason = match sampled {
            [] => (sequence.distance() == 0 && !sequence.wants_token()).then_some(FinishReason::Length),
            sampled => sequence.accept_all(sampled),
        };
        // Only now: a block is found by others once its keys and values are written.
        let mut table = std::mem::take(&mut sequence.table);
        if wrong_drafts > 0 && self.blocks.groups().has_state() {
            // The state has seen them; keys and values may have been written, and are written once more.
            self.blocks.undo_step(&mut table);
            sequence.go_back(chunk.start);
        } else {
            self.blocks.step_done(&mut table);
        }
        let computed = sequence.computed();
        self.blocks.publish_with(&mut table, sequence.tokens(), computed, sequence.restarts());
        if let Some(restart) = sequence.restarts().iter().find(|restart| restart.position == computed) {
            self.blocks.checkpoint(&table, computed, restart.worth);
        }
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
        let mut table = std::mem::take(&mut sequence.table);
        self.release(&mut table, &sequence, sequence.computed());
        Some(sequence)
    }

    /// Blocks from elsewhere into the cache, see [`BlockManager::import`]. The decision does not change by it: a sequence finds them
    /// as it finds any other.
    pub fn import(&mut self, tokens: &[u32], blocks: Range<usize>, priority: Priority, fill: impl FnMut(usize, BlockId) -> bool) -> usize {
        self.blocks.import(tokens, blocks, priority, fill)
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
        self.blocks.check_groups(self.running.iter().map(|sequence| (&sequence.table, sequence.computed())))?;
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

    /// What was planned and never committed is as if it had not been.
    fn undo_planned(&mut self) {
        if self.blocks.groups().has_state() {
            self.running.iter_mut().for_each(|sequence| self.blocks.undo_step(&mut sequence.table));
        }
    }

    /// One row for each sequence that is one token short, in order of rank; who catches up has further rows while there are any.
    fn plan_streams(&mut self, order: &[Rank], now: Duration, plan: &mut Plan) {
        for &(_, id) in order {
            let Some(index) = self.running_index(id) else { continue };
            if self.running[index].is_stream() && self.make_room(id, now, plan) {
                self.plan_chunk(id, 1, plan);
            }
        }
        if !self.blocks.groups().has_state() {
            return;
        }
        let mut left = self.limits.tokens_per_step_max - plan.rows();
        for chunk in std::mem::take(&mut plan.chunks) {
            let more = (self.running(chunk.id).expect("it runs").distance() - chunk.len).min(left);
            left -= more;
            self.plan_chunk(chunk.id, chunk.len + more, plan);
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
                // Who was paused needs more than was free: admitting it, or who comes after it, would only hand its blocks round.
                if plan.paused.contains(&id) {
                    return;
                }
                let prompts =
                    || self.running.iter().filter(|sequence| !sequence.is_stream()).map(|sequence| (rank(sequence, now), sequence));
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
                let Some(table) = self.blocks.admit(sequence.shareable(), wanted, sequence.priority()) else { return };
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
        let no_room = usize::from(self.blocks.groups().room() == 0);
        if no_place.max(no_room) > count || self.blocks.shortage(sequence.shareable(), wanted) > blocks {
            return false;
        }
        loop {
            let head = self.waiting.binary_search_by_key(&id, |sequence| sequence.id).expect("it waits");
            let has_place = self.running.len() < self.limits.sequences_max && self.blocks.groups().room() > 0;
            if has_place && self.blocks.shortage(self.waiting[head].shareable(), wanted) == 0 {
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
        let ranks = |sequences: Vec<&Sequence>| sequences.into_iter().map(|sequence| rank(sequence, now)).collect::<Vec<Rank>>();
        let (streams, mut prompts) = (ranks(streams), ranks(prompts));
        prompts.sort_unstable();
        for index in (0..prompts.len()).rev() {
            if self.another_is_ahead(&prompts[..index], prompts[index].1) {
                prompts.remove(index);
            }
        }
        if self.copies_blocks && self.blocks.groups().is_empty() {
            prompts.iter().for_each(|&(_, id)| self.copy_part(id, plan));
        }
        let Some(&first) = prompts.first() else { return };
        let streams_load = plan.load();
        // Nobody is delayed for the less urgent.
        let step_s = |class: Priority| {
            let alone = times.seconds(streams_load, Trust::Old).filter(|_| streams.iter().any(|stream| stream.0 <= class))?;
            Some(step_limit_s(alone))
        };
        // What the streams take alone must be known as it is now.
        let matters = step_s(first.0).is_some_and(|seconds| seconds > STREAM_STEP_S);
        let may_measure = self.steps_to_measurement == 0 && streams.iter().any(|stream| *stream < first);
        if matters && may_measure && times.is_stale(streams.len()) {
            self.steps_to_measurement = STEPS_BETWEEN_MEASUREMENTS;
            return;
        }
        let rows_max = |&(class, id): &Rank| {
            let (rows_max, depth) = (self.limits.tokens_per_step_max, self.running(id).expect("it runs").computed());
            step_s(class).map_or(rows_max, |seconds| times.rows_within(seconds, streams_load, depth, rows_max).min(rows_max))
        };
        let wish = |&(class, id): &Rank| (class, self.running(id).expect("it runs").distance_to_restart());
        let wishes: Vec<(Priority, usize)> = prompts.iter().map(wish).collect();
        let mut shares = vec![0; prompts.len()];
        share_out(&wishes, rows_max(&first).saturating_sub(plan.rows()), &mut shares);
        let mut rows = plan.rows();
        let mut scored_left = SCORED_ROWS_MAX;
        for (share, rank) in shares.iter_mut().zip(&prompts) {
            *share = (*share).min(rows_max(rank).saturating_sub(rows));
            if self.running(rank.1).expect("it runs").scores_prompt() {
                *share = (*share).min(scored_left);
                scored_left -= *share;
            }
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
        if self.running[index].scores_prompt() {
            return false;
        }
        let mut table = std::mem::take(&mut self.running[index].table);
        self.blocks.adopt(&mut table, self.running[index].tokens());
        self.running[index].table = table;
        self.running[index].adopted();
        let sequence = &self.running[index];
        if self.blocks.groups().has_state() {
            return others.iter().any(|&(_, other)| will_leave_state(self.running(other).expect("it runs"), sequence));
        }
        let end = sequence.computed() + BLOCK_TOKENS;
        if !sequence.computed().is_multiple_of(BLOCK_TOKENS) || end >= sequence.total() {
            return false;
        }
        others.iter().any(|&(_, other)| {
            let other = self.running(other).expect("it runs");
            // One that scores its prompt is slow.
            !other.scores_prompt() && other.computed() < end && other.tokens().get(..end) == Some(&sequence.tokens()[..end])
        })
    }

    /// Takes over what another's block has in common with the one that the sequence would begin.
    fn copy_part(&mut self, id: SequenceId, plan: &mut Plan) {
        let index = self.running_index(id).expect("it runs");
        let sequence = &mut self.running[index];
        if sequence.scores_prompt() {
            return;
        }
        let mut table = std::mem::take(&mut sequence.table);
        if let Some((from, tokens)) = self.blocks.copy_part(&mut table, sequence.tokens()) {
            let to = *table.blocks().last().expect("the block for the copy");
            plan.copies.push(BlockCopy { id, from, to });
            sequence.copied(tokens);
        }
        sequence.table = table;
    }

    /// Lets streams check drafts in rows that nobody else wants.
    fn plan_drafts(&mut self, times: &StepTimes, plan: &mut Plan) {
        let mut load = plan.load();
        let mut left = self.limits.drafts_max.min(self.limits.tokens_per_step_max - load.rows);
        let mut expected = load.rows as f64;
        for index in 0..plan.chunks.len() {
            let chunk = plan.chunks[index];
            let sequence_index = self.running_index(chunk.id).expect("it runs");
            let sequence = &mut self.running[sequence_index];
            let most = sequence.draft_max().min(DRAFT_MAX).min(left);
            if most == 0 || !chunk.samples {
                continue;
            }
            let Some(drafter) = sequence.drafter().filter(|drafter| drafter.expects()) else { continue };
            let seconds = |more: usize| times.seconds(load.and(Load::of(chunk.start + 1, more)), Trust::Recent);
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
            let may_be_undone = drafts > 0 || sequence.is_constrained();
            self.blocks.cover_step(&mut sequence.table, chunk.start, end, may_be_undone);
            plan.chunks[index] = Chunk { len: 1 + drafts, drafts, ..chunk };
            load = load.and(Load::of(chunk.start + 1, drafts));
            left -= drafts;
            expected += likely;
        }
    }

    fn plan_chunk(&mut self, id: SequenceId, len: usize, plan: &mut Plan) {
        let index = self.running_index(id).expect("it runs");
        let sequence = &mut self.running[index];
        let start = sequence.computed();
        let samples = start + len == sequence.total() && sequence.wants_token();
        let may_be_undone = samples && sequence.is_constrained();
        self.blocks.cover_step(&mut sequence.table, start, start + len, may_be_undone);
        plan.chunks.push(Chunk { id, start, len, samples, drafts: 0 });
    }

    /// Sees to it that the sequence may take a block for its next token, pausing the last in rank while there is none.
    /// `false`: it was the last itself.
    fn make_room(&mut self, id: SequenceId, now: Duration, plan: &mut Plan) -> bool {
        loop {
            let Some(index) = self.running_index(id) else { return false };
            let sequence = &mut self.running[index];
            if sequence.table.reserved() * BLOCK_TOKENS >= sequence.total() || self.blocks.grow(&mut sequence.table) {
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
        let computed = sequence.computed();
        let mut table = sequence.pause();
        self.release(&mut table, &sequence, computed);
        self.pauses_total += 1;
        plan.chunks.retain(|chunk| chunk.id != id);
        plan.paused.push(id);
        let index = self.waiting.partition_point(|other| other.id < id);
        self.waiting.insert(index, sequence);
    }

    fn release(&mut self, table: &mut BlockTable, sequence: &Sequence, computed: usize) {
        match self.copies_blocks && self.blocks.groups().is_empty() {
            true => self.blocks.release_with_part(table, sequence.tokens(), computed),
            false => self.blocks.release(table),
        }
    }

    fn running_index(&self, id: SequenceId) -> Option<usize> {
        self.running.binary_search_by_key(&id, |sequence| sequence.id).ok()
    }
}

/// Whether `other` is about to compute a state that `sequence` can go on from.
fn will_leave_state(other: &Sequence, sequence: &Sequence) -> bool {
    let is_ahead = |position: usize| {
        (sequence.computed() + 1..sequence.total()).contains(&position)
            && other.computed() < position
            && other.tokens().get(..position) == Some(&sequence.tokens()[..position])
    };
    sequence.computed().is_multiple_of(BLOCK_TOKENS) && other.restarts().iter().any(|restart| is_ahead(restart.position))
}

/// What a step may take in which prompts ride along with streams that take so long alone.
pub(super) fn step_limit_s(alone_s: f64) -> f64 {
    (alone_s * STREAM_DELAY_MAX).max(STREAM_STEP_S)
}

pub(super) fn rank(sequence: &Sequence, now: Duration) -> Rank {
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
mod tests;
