//! Decides for whom the draft model guesses, how many tokens, and whose cache its own blocks hold.
//!
//! A draft model (Leviathan, Kalman, Matias, "Fast Inference from Transformers via Speculative Decoding", 2023) is a small one of the same
//! vocabulary. It is asked only where a sequence's own text has no guess (`drafter`), in steps of streams alone, and only where the time it
//! takes and the rows that check it bring more tokens a second than the step without. All of that is measured: how long its steps take,
//! how long the model's, and how often it was right. Model and draft together stay within what a step with a prompt beside streams may take,
//! so a stream never waits longer for guesses than for a newcomer.
//!
//! Before it can guess it must have read what stands there. That is worth its time where the rest of the answer is likely to give it back:
//! an answer that has said so much says as much again. Where guesses do not pay, a fiftieth of the time is spent on trying again.
//!
//! Its cache is its own: blocks found by content as the model's are, so that the next turn of a conversation finds what this one left, and
//! taken from whoever used them least recently. No block of the model is ever touched.
//!
//! Pure: knows no model, no client, no clock.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use kernels::BLOCK_TOKENS;

use super::Priority;
use super::block_manager::{BlockManager, BlockTable};
use super::drafter::rows_worth_checking;
use super::prefix_cache::BlockId;
use super::scheduler::step_limit_s;
use super::sequence::SequenceId;
use super::step_times::{Load, StepTimes, Trust};

/// Tokens guessed for one sequence in a step, at most: each takes a step of the draft model, and all before it must be right.
pub const GUESSES_MAX: usize = 8;
/// So few tokens are read together with the first guess; more are a matter of their own.
const READ_AT_ONCE: usize = 32;
/// Rows of the first step, of which nothing is known.
const ROWS_AT_FIRST: usize = 16;
/// An answer is taken to go on for as long as it has been going, and for so many tokens at least.
const ANSWER_AT_LEAST: usize = 128;
/// Of a sequence's time, what may be spent on finding out whether guessing pays by now.
const TRIES: f64 = 0.02;

/// What is taken for true of a draft model before anything is counted.
const RIGHT_AT_FIRST: f64 = 0.6;
/// So many guesses of its own a sequence needs to weigh as much as what is usual.
const USUAL_WEIGHT: f64 = 4.0;
/// Of the counts, with each new one: some thirty guesses of a sequence are remembered, some three hundred of all.
const REMEMBERED: f64 = 0.97;
const REMEMBERED_OF_ALL: f64 = 0.997;

/// What the draft model works within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DraftLimits {
    /// Blocks of its cache.
    pub blocks: usize,
    /// Tokens of one sequence that it can look at.
    pub context_max: usize,
    /// Rows of one of its steps.
    pub tokens_per_step_max: usize,
}

/// A stream that may be given guesses.
#[derive(Debug, Clone, Copy)]
pub struct Stream<'a> {
    pub id: SequenceId,
    /// Prompt and output; all but the last are computed by the model.
    pub tokens: &'a [u32],
    /// Tokens of output.
    pub told: usize,
    /// Tokens of output that may still come.
    pub left: usize,
    /// Guesses that it may be given.
    pub guesses_max: usize,
    pub stop_token_ids: &'a [u32],
}

/// How long steps take.
#[derive(Debug, Clone, Copy)]
pub struct Times<'a> {
    pub model: &'a StepTimes,
    pub draft: &'a StepTimes,
}

/// What the draft model does before the model's step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work {
    /// Who is guessed for, and how many tokens: at least one.
    pub guesses: Vec<(SequenceId, usize)>,
    /// Who is read a stretch of what it has not seen, and how many tokens; in the first of its steps.
    pub reads: Option<(SequenceId, usize)>,
}

/// Counted over all time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DraftStats {
    /// Tokens guessed by the draft model, and those of them that came.
    pub guessed_total: u64,
    pub right_total: u64,
    /// Rows that it computed, to read and to guess.
    pub rows_total: u64,
}

#[derive(Debug)]
pub struct DraftPlan {
    limits: DraftLimits,
    blocks: BlockManager,
    guests: BTreeMap<SequenceId, Guest>,
    /// Of all sequences there were.
    usual: Outcomes,
    turn: u64,
    right_total: u64,
}

/// What the draft model has of one sequence.
#[derive(Debug, Default)]
struct Guest {
    table: BlockTable,
    /// Leading tokens of the sequence whose keys and values stand in the table.
    computed: usize,
    /// What was guessed behind the first `computed` tokens; all but the last are written behind them.
    guess: Vec<u32>,
    outcomes: Outcomes,
    /// The turn in which it was planned for last.
    used: u64,
    /// Its share of the seconds of the model's steps so far, and the seconds of its tries.
    lived_s: f64,
    tried_s: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Outcomes {
    right: f64,
    seen: f64,
}

/// The step as planned so far.
struct Planned<'a> {
    times: Times<'a>,
    /// Of the model.
    load: Load,
    /// Tokens that it gives, probably.
    expected: f64,
    /// Of the draft model, step by step.
    draft_loads: Vec<Load>,
    limit_s: f64,
}

impl DraftPlan {
    pub fn new(limits: DraftLimits) -> Self {
        let DraftLimits { blocks, context_max, tokens_per_step_max } = limits;
        assert!(blocks > 0 && context_max > 0 && tokens_per_step_max >= READ_AT_ONCE, "a draft model of {limits:?} can do nothing");
        let usual = Outcomes { right: RIGHT_AT_FIRST * USUAL_WEIGHT, seen: USUAL_WEIGHT };
        Self { limits, blocks: BlockManager::new(blocks), guests: BTreeMap::new(), usual, turn: 0, right_total: 0 }
    }

    /// Lets go who runs no more; what it leaves can be found again until its place is needed.
    pub fn retain(&mut self, runs: impl Fn(SequenceId) -> bool) {
        let gone: Vec<SequenceId> = self.guests.keys().copied().filter(|&id| !runs(id)).collect();
        gone.into_iter().for_each(|id| self.let_go(id));
    }

    /// What to do before a step of `load`, of which `streams` have no draft; `rows_max`: drafted tokens that it has rows for. What is returned
    /// is to be done at once, and told by [`Self::has_read`] and [`Self::has_guessed`].
    pub fn decide(&mut self, streams: &[Stream<'_>], load: Load, mut rows_max: usize, times: Times<'_>) -> Work {
        self.turn += 1;
        let mut work = Work::default();
        let Some(alone_s) = times.model.seconds(load, Trust::Recent).filter(|seconds| *seconds > 0.0) else { return work };
        let (expected, limit_s) = (load.rows as f64, step_limit_s(alone_s));
        let mut planned = Planned { times, load, expected, draft_loads: Vec::new(), limit_s };
        for stream in streams {
            let guest = self.guests.entry(stream.id).or_default();
            // All of them together may spend what one alone may.
            guest.lived_s += alone_s / streams.len() as f64;
            self.see(stream);
            let most = stream.guesses_max.min(GUESSES_MAX).min(rows_max).min(self.limits.context_max.saturating_sub(stream.tokens.len()));
            if most == 0 || stream.tokens.len() + most > self.limits.blocks * BLOCK_TOKENS {
                continue;
            }
            let guesses = self.decide_one(stream, most, &mut planned, &mut work);
            rows_max -= guesses;
        }
        work
    }

    /// For one: how many guesses, which are noted as planned, or a stretch to read.
    fn decide_one(&mut self, stream: &Stream<'_>, most: usize, planned: &mut Planned<'_>, work: &mut Work) -> usize {
        let (total, likelihood) = (stream.tokens.len(), self.likelihood(stream.id));
        let computed = match self.guests[&stream.id].computed {
            // Another may have left it: better known before it is decided whether reading is worth its time.
            0 => self.blocks.prefix().longest_match(stream.tokens).len() * BLOCK_TOKENS,
            computed => computed,
        };
        let missing = total - computed;
        if planned.times.draft.seconds(Load::of(computed, 1), Trust::Old).is_none() {
            // A first step tells how long they take.
            if work.reads.is_none() {
                self.plan_read(stream, missing.min(ROWS_AT_FIRST), planned, work);
            }
            return 0;
        }
        let at_once = if missing > READ_AT_ONCE { 1 } else { missing };
        if planned.first_rows() + at_once > self.limits.tokens_per_step_max {
            return 0;
        }
        let worth = planned.worth(total, at_once, most, likelihood);
        let tries = worth == 0;
        let guesses = worth.max(1);
        let (without, Some(with)) = (planned.seconds(0, total, at_once), planned.seconds(guesses, total, at_once)) else { return 0 };
        let without = without.unwrap_or(0.0);
        // What reading and trying may cost.
        let guest = &self.guests[&stream.id];
        let allowed_s = match tries {
            true => TRIES * guest.lived_s - guest.tried_s - (with - without),
            false => {
                let likely: f64 = (1..=guesses as i32).map(|guess| likelihood.powi(guess)).sum();
                let saved_a_token = without - with / (1.0 + likely);
                saved_a_token * stream.left.min(stream.told.max(ANSWER_AT_LEAST)) as f64
            }
        };
        if missing > READ_AT_ONCE {
            let (rows, left_s) = (missing.min(self.limits.tokens_per_step_max), planned.limit_s - without);
            let stretch_s = planned.times.draft.seconds(Load::of(computed, rows), Trust::Old).unwrap_or(f64::INFINITY);
            let reading_s = stretch_s * missing as f64 / rows as f64;
            if work.reads.is_none() && left_s > 0.0 && reading_s <= allowed_s {
                let rows = planned.times.draft.rows_within(left_s, Load::default(), computed, rows);
                self.plan_read(stream, rows, planned, work);
                if tries {
                    self.guest(stream.id).tried_s += stretch_s.min(left_s);
                }
            }
            return 0;
        }
        if tries && allowed_s < 0.0 || !self.reserve(stream, total + guesses) {
            return 0;
        }
        if tries {
            self.guest(stream.id).tried_s += with - without;
        }
        planned.add(guesses, total, at_once, likelihood);
        work.guesses.push((stream.id, guesses));
        guesses
    }

    fn plan_read(&mut self, stream: &Stream<'_>, rows: usize, planned: &mut Planned<'_>, work: &mut Work) {
        if !self.reserve(stream, stream.tokens.len()) {
            return;
        }
        let computed = self.guests[&stream.id].computed;
        // The last one is left for the guess.
        let rows = rows.min(stream.tokens.len() - 1 - computed).min(self.limits.tokens_per_step_max - planned.first_rows());
        if rows > 0 {
            planned.read(Load::of(computed, rows));
            work.reads = Some((stream.id, rows));
        }
    }

    /// The next rows to be computed for a sequence begin here, in this table.
    pub fn place(&self, id: SequenceId) -> (usize, &[BlockId]) {
        let guest = &self.guests[&id];
        (guest.computed, guest.table.blocks())
    }

    /// `rows` more of `tokens`, the sequence's, are computed.
    pub fn has_read(&mut self, id: SequenceId, rows: usize, tokens: &[u32]) {
        let guest = self.guests.get_mut(&id).expect("who reads is a guest");
        guest.computed += rows;
        // Not a block with the last token: it may be read again, and nobody writes into what others see.
        self.blocks.publish(&mut guest.table, tokens, guest.computed.min(tokens.len() - 1));
    }

    /// All of `tokens`, the sequence's, and all but the last of `guess` behind them are computed.
    pub fn has_guessed(&mut self, id: SequenceId, guess: &[u32], tokens: &[u32]) {
        self.has_read(id, tokens.len() - self.guests[&id].computed, tokens);
        self.guest(id).guess.extend_from_slice(guess);
    }

    pub fn right_total(&self) -> u64 {
        self.right_total
    }

    pub fn blocks(&self) -> &BlockManager {
        &self.blocks
    }

    /// Whom its cache serves.
    pub fn guests(&self) -> usize {
        self.guests.len()
    }

    /// The promises of this file: for tests and the simulation. `tokens_of`: of those that still run. Who has ended in this step is let go in
    /// the next.
    pub fn check<'a>(&self, tokens_of: impl Fn(SequenceId) -> Option<&'a [u32]>) -> Result<(), String> {
        let mut tables = Vec::new();
        for (id, guest) in &self.guests {
            let Some(tokens) = tokens_of(*id) else { continue };
            if guest.computed > tokens.len() || guest.table.blocks().len() * BLOCK_TOKENS < guest.computed {
                return Err(format!("of {} tokens of {id:?} the draft model has computed {}", tokens.len(), guest.computed));
            }
            tables.push((&guest.table, tokens));
        }
        match tables.len() == self.guests.len() {
            true => self.blocks.check_tables(tables.into_iter()),
            // Tables of those that have ended hold blocks, too.
            false => Ok(()),
        }
    }

    /// Notes what became of the last guess.
    fn see(&mut self, stream: &Stream<'_>) {
        let guest = self.guests.get_mut(&stream.id).expect("it was just made");
        let guess = std::mem::take(&mut guest.guess);
        let said = &stream.tokens[stream.tokens.len().min(guest.computed)..];
        let right = guess.iter().zip(said).take_while(|(guessed, said)| guessed == said).count();
        for outcome in guess.iter().zip(said).take(right + 1).map(|(guessed, said)| guessed == said) {
            guest.outcomes.note(outcome, REMEMBERED);
            self.usual.note(outcome, REMEMBERED_OF_ALL);
        }
        self.right_total += right as u64;
        // The last guess was not written. The last token is read (again), for what follows it; the same bits are written then.
        let written = right.min(guess.len().saturating_sub(1));
        guest.computed = (guest.computed + written).min(stream.tokens.len() - 1);
        self.blocks.publish(&mut guest.table, stream.tokens, guest.computed);
    }

    /// Sees to it that the sequence has blocks for so many tokens, at the cost of who was not planned for in this turn. Takes over what is
    /// cached of its beginning.
    fn reserve(&mut self, stream: &Stream<'_>, tokens: usize) -> bool {
        let wanted = tokens.div_ceil(BLOCK_TOKENS);
        let mut guest = self.guests.remove(&stream.id).expect("it is a guest");
        let has_room = loop {
            if guest.computed == 0 && guest.table.reserved() == 0 {
                if let Some(table) = self.blocks.admit(stream.tokens, wanted, Priority::Interactive) {
                    guest.computed = table.blocks().len() * BLOCK_TOKENS;
                    guest.table = table;
                    continue;
                }
            } else if guest.table.reserved() >= wanted {
                break true;
            } else if self.blocks.grow(&mut guest.table) {
                continue;
            }
            let used = |guest: &Guest| (guest.table.reserved() > 0 && guest.used < self.turn).then_some(guest.used);
            let victim = self.guests.iter().filter_map(|(id, guest)| Some((used(guest)?, *id))).min();
            let Some((_, victim)) = victim else { break false };
            self.take_back(victim);
        };
        if has_room {
            self.blocks.adopt(&mut guest.table, stream.tokens);
            guest.computed = guest.computed.max(guest.table.published() * BLOCK_TOKENS);
            self.blocks.cover(&mut guest.table, tokens);
            guest.used = self.turn;
        }
        self.guests.insert(stream.id, guest);
        has_room
    }

    /// Takes a guest's blocks; what was counted of it stays.
    fn take_back(&mut self, id: SequenceId) {
        let guest = self.guests.get_mut(&id).expect("it is a guest");
        let mut table = std::mem::take(&mut guest.table);
        (guest.computed, guest.guess) = (0, Vec::new());
        self.blocks.release(&mut table);
    }

    fn let_go(&mut self, id: SequenceId) {
        self.take_back(id);
        self.guests.remove(&id);
    }

    fn guest(&mut self, id: SequenceId) -> &mut Guest {
        self.guests.get_mut(&id).expect("it is a guest")
    }

    /// That a guess is right, given that those before it are.
    fn likelihood(&self, id: SequenceId) -> f64 {
        let Outcomes { right, seen } = self.guests[&id].outcomes;
        (right + USUAL_WEIGHT * self.usual.right / self.usual.seen) / (seen + USUAL_WEIGHT)
    }
}

impl Outcomes {
    fn note(&mut self, right: bool, remembered: f64) {
        self.right = self.right * remembered + f64::from(u8::from(right));
        self.seen = self.seen * remembered + 1.0;
    }
}

impl Planned<'_> {
    /// The model's step and the draft's before it, with `guesses` more for a sequence of `total` tokens, of which the draft model has `missing`
    /// to read. `None`: not known, or longer than a step may take.
    fn seconds(&self, guesses: usize, total: usize, missing: usize) -> Option<f64> {
        let mut seconds = self.times.model.seconds(self.load.and(Load::of(total, guesses)), Trust::Recent)?;
        for step in 0..self.draft_loads.len().max(guesses) {
            let load = self.draft_loads.get(step).copied().unwrap_or_default();
            let more = if step < guesses { guess_load(step, total, missing) } else { Load::default() };
            seconds += self.times.draft.seconds(load.and(more), Trust::Recent)?;
        }
        (guesses == 0 || seconds <= self.limit_s).then_some(seconds)
    }

    fn worth(&self, total: usize, missing: usize, most: usize, likelihood: f64) -> usize {
        let seconds = |guesses| self.seconds(guesses, total, missing);
        rows_worth_checking(self.expected, std::iter::repeat(likelihood), most, seconds)
    }

    fn add(&mut self, guesses: usize, total: usize, missing: usize, likelihood: f64) {
        self.load = self.load.and(Load::of(total, guesses));
        self.expected += (1..=guesses as i32).map(|guess| likelihood.powi(guess)).sum::<f64>();
        self.draft_loads.resize(self.draft_loads.len().max(guesses), Load::default());
        for (step, load) in self.draft_loads.iter_mut().take(guesses).enumerate() {
            *load = load.and(guess_load(step, total, missing));
        }
    }

    fn first_rows(&self) -> usize {
        self.draft_loads.first().map_or(0, |load| load.rows)
    }

    fn read(&mut self, load: Load) {
        match self.draft_loads.first_mut() {
            Some(first) => *first = first.and(load),
            None => self.draft_loads.push(load),
        }
    }
}

/// The draft model's step number `step` towards guesses: first it reads what is missing, then each guess gives the next.
fn guess_load(step: usize, total: usize, missing: usize) -> Load {
    if step == 0 { Load::of(total - missing, missing) } else { Load::of(total + step - 1, 1) }
}

#[cfg(test)]
mod tests;
