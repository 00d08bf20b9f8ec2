//! The draft model beside the model: runs what `draft_plan` decides, and hands its guesses to the plan of the step.
//!
//! Guesses are drawn by the sequence's own sampler, so that a draft model of the same distribution is always right, sampled or greedy. What it
//! says never reaches anybody: the model checks it as it checks any draft. Should it fail it is asked no more, and nobody notices but by the
//! speed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use models::Logits;

use super::ModelRunner;
use super::batch::{Batch, SpanRows};
use super::client::Client;
use super::draft_plan::{DraftLimits, DraftPlan, DraftStats, Stream, Times, Work};
use super::engine_loop::Clock;
use super::engine_loop::start_over::message_of;
use super::plan::Plan;
use super::prefix_cache::BlockId;
use super::sampler::Scratch;
use super::scheduler::Scheduler;
use super::sequence::SequenceId;
use super::step_times::StepTimes;

pub struct DraftModel {
    runner: Box<dyn ModelRunner>,
    plan: DraftPlan,
    batch: Batch,
    scratch: Scratch,
    times: StepTimes,
    stats: DraftStats,
    has_failed: bool,
    /// Of the model.
    vocab: usize,
}

/// What the engine loop lends it.
pub(super) struct Turn<'a> {
    pub plan: &'a mut Plan,
    pub scheduler: &'a mut Scheduler,
    pub clients: &'a BTreeMap<SequenceId, Client>,
    /// Of the model.
    pub times: &'a StepTimes,
    pub clock: &'a mut Clock,
}

/// One sequence while it is guessed for.
struct Guessing<'a> {
    stream: Stream<'a>,
    wanted: usize,
    guess: Vec<u32>,
    /// The next guess would end the answer, or cannot be had.
    ends: bool,
}

impl DraftModel {
    /// `runner` has a cache of `limits.blocks` blocks of its own, and the model's vocabulary (rows beyond it are padding).
    pub fn new(runner: Box<dyn ModelRunner>, limits: DraftLimits) -> Self {
        Self {
            runner,
            plan: DraftPlan::new(limits),
            batch: Batch::default(),
            scratch: Scratch::default(),
            times: StepTimes::default(),
            stats: DraftStats::default(),
            has_failed: false,
            vocab: usize::MAX,
        }
    }

    /// Guesses are rows of the model's vocabulary, too.
    pub(super) fn within_vocab(self, vocab: usize) -> Self {
        Self { vocab, ..self }
    }

    /// Gives drafts to the streams of the plan that have none, where that pays.
    pub(super) fn extend(&mut self, turn: Turn<'_>) {
        let Turn { plan, scheduler, clients, times: model_times, clock } = turn;
        self.plan.retain(|id| scheduler.running(id).is_some());
        if !plan.may_draft || self.has_failed {
            return;
        }
        let limits = scheduler.limits();
        let drafted: usize = plan.chunks.iter().map(|chunk| chunk.drafts).sum();
        let rows_max = limits.drafts_max.saturating_sub(drafted).min(limits.tokens_per_step_max - plan.rows());
        let streams: Vec<Stream<'_>> = plan
            .chunks
            .iter()
            .filter(|chunk| chunk.samples && chunk.len == 1 && !clients[&chunk.id].sits_out)
            .map(|chunk| {
                let sequence = scheduler.running(chunk.id).expect("a planned sequence runs");
                let ((told, left), tokens) = (sequence.told_and_left(), sequence.tokens());
                let (guesses_max, stop_token_ids) = (sequence.draft_max(), sequence.stop_token_ids());
                Stream { id: chunk.id, tokens, told, left, guesses_max, stop_token_ids }
            })
            .collect();
        let times = Times { model: model_times, draft: &self.times };
        let work = self.plan.decide(&streams, plan.load(), rows_max, times);
        let guessed = self.work(&work, &streams, clients, clock).unwrap_or_else(|message| {
            tracing::error!("the draft model is asked no more: {message}");
            self.has_failed = true;
            self.plan.retain(|_| false);
            Vec::new()
        });
        for (id, guess) in guessed {
            let chunk = plan.chunks.iter_mut().find(|chunk| chunk.id == id).expect("it was planned");
            scheduler.set_draft(chunk, &guess);
            self.stats.guessed_total += chunk.drafts as u64;
        }
    }

    pub fn stats(&self) -> DraftStats {
        DraftStats { right_total: self.plan.right_total(), ..self.stats }
    }

    /// For tests and the simulation, between two turns.
    pub fn check(&self, scheduler: &Scheduler) -> Result<(), String> {
        // Those of the last step, of whom some may have ended in it.
        let (guests, most) = (self.plan.guests(), scheduler.limits().sequences_max);
        if guests > most {
            return Err(format!("the draft model keeps {guests} sequences of at most {most} that run"));
        }
        self.plan.check(|id| scheduler.running(id).map(|sequence| sequence.tokens()))
    }

    /// The guesses, none of which may be wrong in form: tokens of the vocabulary, and none that ends the answer.
    fn work(
        &mut self,
        work: &Work,
        streams: &[Stream<'_>],
        clients: &BTreeMap<SequenceId, Client>,
        clock: &mut Clock,
    ) -> Result<Vec<(SequenceId, Vec<u32>)>, String> {
        let stream_of = |id: SequenceId| *streams.iter().find(|stream| stream.id == id).expect("work is for streams");
        let guesses = work.guesses.iter();
        let mut all: Vec<Guessing<'_>> =
            guesses.map(|&(id, wanted)| Guessing { stream: stream_of(id), wanted, guess: Vec::new(), ends: false }).collect();
        let mut reads = work.reads.map(|(id, rows)| (stream_of(id), rows));
        loop {
            let guessing: Vec<usize> = (0..all.len()).filter(|&index| all[index].goes_on()).collect();
            if guessing.is_empty() && reads.is_none() {
                break;
            }
            let place = |stream: &Stream<'_>| self.plan.place(stream.id);
            let mut spans: Vec<SpanRows<'_>> = guessing.iter().map(|&index| all[index].rows(place(&all[index].stream))).collect();
            spans.extend(reads.iter().map(|(stream, rows)| {
                let (start, table) = place(stream);
                SpanRows {
                    start,
                    tokens: &stream.tokens[start..start + rows],
                    guessed: &[],
                    table,
                    groups: None,
                    scored_rows: 0,
                    logit_rows: 0,
                }
            }));
            self.batch.fill(0, spans.into_iter());
            let logits = self.run(clock)?;
            for (row, &index) in guessing.iter().enumerate() {
                let Guessing { stream, guess, ends, .. } = &mut all[index];
                let logits = logits.row(row);
                let sampler = &clients[&stream.id].sampler;
                let token = sampler.guess(&logits[..logits.len().min(self.vocab)], stream.tokens.len() + guess.len(), &mut self.scratch);
                match token.filter(|token| !stream.stop_token_ids.contains(token)) {
                    Some(token) => guess.push(token),
                    None => *ends = true,
                }
            }
            if let Some((stream, rows)) = reads.take() {
                self.plan.has_read(stream.id, rows, stream.tokens);
            }
        }
        for Guessing { stream, guess, .. } in &all {
            self.plan.has_guessed(stream.id, guess, stream.tokens);
        }
        Ok(all.into_iter().map(|guessing| (guessing.stream.id, guessing.guess)).collect())
    }

    fn run(&mut self, clock: &mut Clock) -> Result<Logits, String> {
        let (start, load) = (clock(), self.batch.load());
        let Batch { token_ids, step } = &self.batch;
        let logits = catch_unwind(AssertUnwindSafe(|| self.runner.run(token_ids, step)))
            .unwrap_or_else(|panic| Err(format!("it panicked: {}", message_of(&*panic))))?;
        let vocab = self.runner.vocab();
        if logits.values.len() != step.logit_rows.len() * vocab || (logits.vocab != vocab && !logits.values.is_empty()) {
            return Err(format!("it returned {} logits for {} rows of {vocab}", logits.values.len(), step.logit_rows.len()));
        }
        self.times.record(load, clock().saturating_sub(start).as_secs_f64());
        self.stats.rows_total += load.rows as u64;
        Ok(logits)
    }
}

impl Guessing<'_> {
    fn goes_on(&self) -> bool {
        !self.ends && self.guess.len() < self.wanted
    }

    /// What is missing of the sequence, or the last guess.
    fn rows<'a>(&'a self, (computed, table): (usize, &'a [BlockId])) -> SpanRows<'a> {
        let tokens = self.stream.tokens;
        match self.guess.split_last() {
            None => {
                SpanRows { start: computed, tokens: &tokens[computed..], guessed: &[], table, groups: None, scored_rows: 0, logit_rows: 1 }
            }
            Some((last, before)) => SpanRows {
                start: tokens.len() + before.len(),
                tokens: &[],
                guessed: std::slice::from_ref(last),
                table,
                groups: None,
                scored_rows: 0,
                logit_rows: 1,
            },
        }
    }
}
