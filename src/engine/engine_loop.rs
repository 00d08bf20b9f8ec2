//! The engine thread: drain commands, schedule, forward, sample, commit, send.
//!
//! Owns the model and all state; others send it commands and drop their streams. Decides nothing that the scheduler or the sampler
//! could: it carries what one says to the other, and sees to it that everybody gets an answer, whatever fails.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use kernels::profile::{self, Cost, Key, Op};
use models::Logits;
use tokio::sync::mpsc;

use super::batch::Batch;
use super::block_manager::BlockManager;
use super::sampler::{Sampler, Scratch};
use super::scheduler::{ANSWER_TOKENS_RESERVED, Chunk, Departure, Limits, Plan, Scheduler};
use super::sequence::{Sequence, SequenceId};
use super::step_times::StepTimes;
use super::{
    EngineConfig, EngineStats, FinishReason, GenerateRequest, GeneratedToken, ModelRunner, Shared, StreamNotes, Ticket, TokenEvent,
    TokenUsage,
};

/// What handles ask of the thread. There is no command to cancel: the thread sees that a stream is dropped.
#[derive(Debug)]
pub(super) enum Command {
    Add(Box<Add>),
}

#[derive(Debug)]
pub(super) struct Add {
    pub request: GenerateRequest,
    pub output_max: usize,
    pub events: mpsc::Sender<TokenEvent>,
    pub notes: Arc<StreamNotes>,
    pub ticket: Ticket,
}

pub struct EngineLoop {
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    runner: Box<dyn ModelRunner>,
    scheduler: Scheduler,
    /// Of every sequence in the scheduler, running or waiting. In order, so that a simulation does the same each time.
    clients: BTreeMap<SequenceId, Client>,
    next_id: SequenceId,
    plan: Plan,
    batch: Batch,
    scratch: Scratch,
    stats: EngineStats,
    times: StepTimes,
    clock: Clock,
}

/// Time since some beginning; the simulation has one of its own.
pub type Clock = Box<dyn FnMut() -> Duration + Send>;

/// Where the tokens of one sequence come from and go to.
struct Client {
    sampler: Sampler,
    events: mpsc::Sender<TokenEvent>,
    notes: Arc<StreamNotes>,
    /// Returned when the client is dropped, after its events were sent.
    ticket: Ticket,
}

/// What a step has to say, in order.
type Outbox = Vec<(SequenceId, TokenEvent)>;

impl EngineLoop {
    pub(super) fn new(runner: Box<dyn ModelRunner>, commands: Receiver<Command>, shared: Arc<Shared>) -> Self {
        Self {
            scheduler: new_scheduler(&shared.config),
            stats: EngineStats { blocks_total: shared.config.blocks, ..EngineStats::default() },
            commands,
            shared,
            runner,
            clients: BTreeMap::new(),
            next_id: SequenceId(0),
            plan: Plan::default(),
            batch: Batch::default(),
            scratch: Scratch::default(),
            times: StepTimes::default(),
            clock: {
                let start = Instant::now();
                Box::new(move || start.elapsed())
            },
        }
    }

    /// Until all handles are dropped and everything is answered.
    pub fn run(mut self) {
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.turn())) {
                Ok(true) => {}
                Ok(false) => return,
                Err(panic) => self.start_over(&message_of(&*panic)),
            }
        }
    }

    /// One step; waits for a command when there is nothing to do. `false`: nothing will ever come.
    pub fn turn(&mut self) -> bool {
        if !self.drain_commands() {
            return false;
        }
        self.drop_departed();
        self.plan = self.scheduler.schedule((self.clock)(), &self.times);
        // A step may take seconds: who looks meanwhile sees what runs in it.
        self.publish_stats();
        if self.plan.chunks.is_empty() {
            return true;
        }
        let rows = self.plan.rows();
        let _timer = profile::step(rows);
        let start = (self.clock)();
        self.batch.lay_out(&self.plan, &self.scheduler);
        let outbox = match self.forward() {
            Ok(logits) => {
                let outbox = self.sample_and_commit(&logits);
                self.times.record(rows, (self.clock)().saturating_sub(start).as_secs_f64());
                outbox
            }
            Err(message) => self.fail_step(&message),
        };
        self.stats.steps_total += 1;
        self.send(outbox);
        true
    }

    /// With a scheduler of the caller's making: the simulation wants small reservations and a bad hash.
    pub fn with_scheduler(mut self, scheduler: Scheduler) -> Self {
        self.scheduler = scheduler;
        self
    }
    /// With another clock than the machine's.
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
    /// For tests and the simulation, between two turns.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }
    /// The plan of the last turn.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    fn drain_commands(&mut self) -> bool {
        if self.scheduler.is_idle() {
            let Ok(command) = self.commands.recv() else { return false };
            // An idle time is no time between departures.
            self.shared.change_pace(|pace| pace.last_departure = Instant::now());
            self.accept(command);
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.accept(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return !self.scheduler.is_idle(),
            }
        }
    }

    fn accept(&mut self, Command::Add(add): Command) {
        let id = self.next_id;
        self.next_id = SequenceId(id.0 + 1);
        let Add { request, output_max, events, notes, ticket } = *add;
        let GenerateRequest { prompt, tokens_max: _, stop_token_ids, sampling, top_logprobs, priority } = request;
        self.clients.insert(id, Client { sampler: Sampler::new(sampling, top_logprobs, &prompt), events, notes, ticket });
        let sequence = Sequence::new(id, prompt, output_max, stop_token_ids).arriving(priority, (self.clock)());
        self.scheduler.add(if self.scheduler.limits().drafts_max > 0 { sequence.drafting() } else { sequence });
    }

    /// Takes out the sequences whose stream is dropped, running or waiting: cancelled, or at an end that the engine cannot see.
    fn drop_departed(&mut self) {
        let departed: Vec<_> = self.clients.iter().filter(|(_, client)| client.events.is_closed()).map(|(&id, _)| id).collect();
        if departed.is_empty() {
            return;
        }
        for &id in &departed {
            let sequence = self.scheduler.remove(id);
            let has_enough = self.clients[&id].notes.has_enough.load(Ordering::Acquire);
            match sequence.filter(|_| has_enough) {
                Some(sequence) => self.count_finished(sequence.usage()),
                None => self.stats.cancelled_total += 1,
            }
        }
        self.publish_stats();
        for id in departed {
            self.clients.remove(&id);
        }
    }

    /// `Err` also when the runner panics or returns what was not asked for.
    fn forward(&mut self) -> Result<Logits, String> {
        let Batch { token_ids, step } = &self.batch;
        let logits = catch_unwind(AssertUnwindSafe(|| self.runner.run(token_ids, step)))
            .unwrap_or_else(|panic| Err(format!("the model panicked: {}", message_of(&*panic))))?;
        let expected = (step.logit_rows.len() * self.shared.vocab, self.shared.vocab);
        let got = (logits.values.len(), logits.vocab);
        if got.0 != expected.0 || (got.1 != expected.1 && got.0 > 0) {
            return Err(format!(
                "the model returned {} logits of a vocabulary of {}, expected {} of {}",
                got.0, got.1, expected.0, expected.1
            ));
        }
        Ok(logits)
    }

    fn sample_and_commit(&mut self, logits: &Logits) -> Outbox {
        let mut outbox = Outbox::new();
        let mut row = 0;
        for index in 0..self.plan.chunks.len() {
            let chunk = self.plan.chunks[index];
            let sampled = self.sample(&chunk, logits, row);
            row += if chunk.samples { 1 + chunk.drafts } else { 0 };
            match sampled {
                Ok(sampled) => self.commit(&chunk, sampled, &mut outbox),
                Err(message) => self.fail(chunk.id, &message, &mut outbox),
            }
        }
        outbox
    }

    /// The tokens that a chunk gives, whose logits begin at `first_row`: none, one, or with a draft one after the other for as long
    /// as they are those that were drafted.
    fn sample(&mut self, chunk: &Chunk, logits: &Logits, first_row: usize) -> Result<Vec<GeneratedToken>, String> {
        if !chunk.samples {
            return Ok(Vec::new());
        }
        let client = self.clients.get_mut(&chunk.id).expect("every sequence has a client");
        let sequence = self.scheduler.running(chunk.id).expect("a planned sequence runs");
        client.notes.cached_tokens.store(sequence.usage().cached_tokens, Ordering::Relaxed);
        let _timer = profile::op(|| (Key::of(Op::Sampling), Cost::default()));
        let mut sampled = Vec::with_capacity(1 + chunk.drafts);
        let first_position = chunk.start + chunk.len - chunk.drafts;
        for (row, position) in (first_row..=first_row + chunk.drafts).zip(first_position..) {
            let token = client.sampler.sample(logits.row(row), position, &mut self.scratch).map_err(|error| error.to_string())?;
            // A stop token too: nothing is sampled after it.
            client.sampler.observe(token.id);
            let goes_on = sequence.draft().get(sampled.len()) == Some(&token.id);
            sampled.push(token);
            if !goes_on {
                break;
            }
        }
        Ok(sampled)
    }

    fn commit(&mut self, chunk: &Chunk, mut sampled: Vec<GeneratedToken>, outbox: &mut Outbox) {
        self.stats.drafted_tokens_total += chunk.drafts as u64;
        self.stats.accepted_tokens_total += sampled.len().saturating_sub(1) as u64;
        let ids: Vec<u32> = sampled.iter().map(|token| token.id).collect();
        let departure = self.scheduler.commit(chunk, &ids);
        // A stop token is no part of the answer.
        if matches!(departure, Some(Departure { reason: FinishReason::Stop, .. })) {
            sampled.pop();
        }
        self.stats.generated_tokens_total += sampled.len() as u64;
        outbox.extend(sampled.into_iter().map(|token| (chunk.id, TokenEvent::Token(token))));
        if let Some(Departure { reason, usage }) = departure {
            self.count_finished(usage);
            outbox.push((chunk.id, TokenEvent::Finished { reason, usage }));
        }
    }

    fn count_finished(&mut self, usage: TokenUsage) {
        self.stats.finished_total += 1;
        self.stats.prompt_tokens_total += usage.prompt_tokens as u64;
        self.stats.cached_tokens_total += usage.cached_tokens as u64;
    }

    /// Nobody knows what a failed step has written: all in it fail. Blocks that others see are full and were not written.
    fn fail_step(&mut self, message: &str) -> Outbox {
        let mut outbox = Outbox::new();
        for index in 0..self.plan.chunks.len() {
            self.fail(self.plan.chunks[index].id, message, &mut outbox);
        }
        outbox
    }

    fn fail(&mut self, id: SequenceId, message: &str, outbox: &mut Outbox) {
        tracing::error!(sequence = id.0, "{message}");
        let sequence = self.scheduler.remove(id).expect("what fails was running");
        self.stats.failed_total += 1;
        outbox.push((id, TokenEvent::Finished { reason: FinishReason::Failed(message.into()), usage: sequence.usage() }));
    }

    /// Places and numbers first: who sees its last event may look at them.
    fn send(&mut self, outbox: Outbox) {
        self.publish_stats();
        let is_last = |event: &TokenEvent| matches!(event, TokenEvent::Finished { .. });
        for (id, _) in outbox.iter().filter(|(_, event)| is_last(event)) {
            self.clients.get_mut(id).expect("every sequence has a client").ticket.leave_place();
        }
        for (id, event) in outbox {
            let last = is_last(&event);
            // Closed: the stream is dropped, and `drop_departed` sees to it. Full it cannot be, see `TokenStream::events`.
            let sent = self.clients[&id].events.try_send(event);
            assert!(!matches!(sent, Err(mpsc::error::TrySendError::Full(_))), "{id:?} generated more than it may");
            if last {
                self.clients.remove(&id);
            }
        }
    }

    fn publish_stats(&mut self) {
        let blocks = self.scheduler.blocks();
        self.stats.running = self.scheduler.all_running().len();
        self.stats.blocks_used = blocks.used();
        self.stats.blocks_cached = blocks.cached();
        self.stats.pauses_total = self.scheduler.pauses_total();
        self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner).0 = self.stats;
    }

    /// A bug of ours: what runs and waits fails, the books are opened anew, and the cache is forgotten with them. Whatever else goes
    /// wrong here, the thread lives on.
    fn start_over(&mut self, message: &str) {
        // A log that panics, perhaps for the second time now, must not keep anybody from an answer.
        let _ = catch_unwind(|| tracing::error!("the engine panicked and starts over: {message}"));
        if catch_unwind(AssertUnwindSafe(|| self.fail_all(message))).is_err() {
            // Who has heard nothing hears it from the stream that ends.
            self.clients.clear();
            self.scheduler = new_scheduler(&self.shared.config);
        }
    }

    fn fail_all(&mut self, message: &str) {
        let reason = FinishReason::Failed(format!("the engine panicked: {message}"));
        let mut outbox = Outbox::new();
        for &id in self.clients.keys() {
            let sequence = self.scheduler.all_running().iter().chain(self.scheduler.all_waiting()).find(|sequence| sequence.id == id);
            let usage = sequence.map(|sequence| sequence.usage()).unwrap_or_default();
            outbox.push((id, TokenEvent::Finished { reason: reason.clone(), usage }));
        }
        self.scheduler = new_scheduler(&self.shared.config);
        self.stats.failed_total += outbox.len() as u64;
        self.send(outbox);
    }
}

impl Drop for EngineLoop {
    /// Streams of whoever is left end with `Failed`, see `TokenStream`.
    fn drop(&mut self) {
        self.shared.occupancy.send_modify(|occupancy| occupancy.stopped = true);
    }
}

fn new_scheduler(config: &EngineConfig) -> Scheduler {
    let &EngineConfig { sequences_max, tokens_per_step_max, drafts_max, .. } = config;
    let limits = Limits { sequences_max, tokens_per_step_max, answer_tokens_reserved: ANSWER_TOKENS_RESERVED, drafts_max };
    Scheduler::new(limits, BlockManager::new(config.blocks))
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
