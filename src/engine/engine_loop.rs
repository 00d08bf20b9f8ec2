//! The engine thread: drain commands, schedule, forward, sample, commit, send.
//!
//! Owns the model and all state; others send it commands and drop their streams. Decides nothing that the scheduler or the sampler
//! could: it carries what one says to the other, and sees to it that everybody gets an answer, whatever fails.

pub(super) mod start_over;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use kernels::profile;
use models::Logits;
use start_over::message_of;
use tokio::sync::{mpsc, oneshot};

use super::admission::{Shared, Ticket};
use super::batch::Batch;
use super::block_manager::BlockManager;
use super::client::{Client, Rows, Sampled, Then, output_of};
use super::constraint::{MaskJob, Masks};
use super::disk_prefix::{DiskLimits, DiskPrefix};
use super::draft_model::{DraftModel, Turn};
use super::forecast::{self, Newcomer};
use super::kv_store::BlockStore;
use super::layer_groups::StatePools;
use super::mask_workers::MaskWorkers;
use super::meters::Stopwatch;
use super::plan::{BlockCopy, Chunk, Plan};
use super::sampler::{Sampler, Scratch};
use super::scheduler::{ANSWER_TOKENS_RESERVED, Departure, Limits, Scheduler};
use super::sequence::{Sequence, SequenceId};
use super::step_times::StepTimes;
use super::{
    AdmissionError, EngineConfig, EngineStats, FinishReason, GenerateRequest, GeneratedToken, ModelRunner, Priority, StreamNotes,
    TokenEvent, TokenUsage,
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
    /// Where a refusal goes; dropped without one: the request is taken up. `None`: nobody is refused.
    pub refuse: Option<oneshot::Sender<AdmissionError>>,
    pub arrived: Instant,
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
    /// Taken out of the last plan: their masks are late.
    held_up: Vec<SequenceId>,
    mask_runner: MaskRunner,
    batch: Batch,
    scratch: Scratch,
    stats: EngineStats,
    times: StepTimes,
    clock: Clock,
    /// `None`: the cache ends with the process.
    disk: Option<DiskPrefix>,
    /// `None`: what a sequence has said itself is all that is guessed from.
    draft: Option<DraftModel>,
}

/// Time since some beginning; the simulation has one of its own.
pub type Clock = Box<dyn FnMut() -> Duration + Send>;

/// How masks are computed.
struct MaskRunner {
    run: Box<dyn FnMut(MaskJob) + Send>,
    /// How long a late mask is waited for while nobody else has anything to do; who comes or goes meanwhile is seen after it.
    patience: Duration,
}

/// How long a loop that waits for the disk alone does not look at anything else.
const DISK_WAIT: Duration = Duration::from_millis(5);

/// What a step has to say, in order.
type Outbox = Vec<(SequenceId, TokenEvent)>;

impl EngineLoop {
    pub(super) fn new(runner: Box<dyn ModelRunner>, commands: Receiver<Command>, shared: Arc<Shared>) -> Self {
        let mut workers = MaskWorkers::new();
        Self {
            scheduler: new_scheduler(&shared.config, &*runner),
            stats: EngineStats { blocks_total: shared.config.blocks, ..EngineStats::default() },
            commands,
            shared,
            runner,
            clients: BTreeMap::new(),
            next_id: SequenceId(0),
            plan: Plan::default(),
            held_up: Vec::new(),
            mask_runner: MaskRunner { run: Box::new(move |job| workers.run(job)), patience: Duration::from_millis(1) },
            batch: Batch::default(),
            scratch: Scratch::default(),
            times: StepTimes::default(),
            clock: {
                let start = Instant::now();
                Box::new(move || start.elapsed())
            },
            disk: None,
            draft: None,
        }
    }

    /// On a thread of its own.
    pub(super) fn start(self) {
        let thread = std::thread::Builder::new().name("engine".into());
        thread.spawn(move || self.run()).expect("the operating system gives no thread");
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
        self.turn_disk();
        self.drop_departed();
        self.plan = self.scheduler.schedule((self.clock)(), &self.times);
        self.copy_blocks();
        self.note_scheduled();
        let Self { plan, scheduler, clients, times, clock, draft, .. } = self;
        if let Some(draft) = draft {
            draft.extend(Turn { plan, scheduler, clients, times, clock });
        }
        self.ask_for_masks();
        // A step may take seconds: who looks meanwhile sees what runs in it.
        self.publish_stats();
        if self.plan.chunks.is_empty() {
            return true;
        }
        if let Some(disk) = &mut self.disk {
            disk.note_prompts(&self.plan, &self.scheduler);
        }
        let load = self.plan.load();
        let _timer = profile::step(load.rows);
        let start = (self.clock)();
        self.batch.lay_out(&self.plan, &self.scheduler);
        let outbox = match self.forward() {
            Ok(logits) => {
                let outbox = self.sample_and_commit(&logits);
                self.times.record(load, (self.clock)().saturating_sub(start).as_secs_f64());
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
        self.scheduler = scheduler.copying_blocks(self.runner.block_bytes().is_some());
        self
    }
    /// With another clock than the machine's.
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
    /// With masks computed by `run`, on whatever thread and whenever it likes, and nobody waiting for them: the simulation decides when.
    pub fn with_mask_runner(mut self, run: impl FnMut(MaskJob) + Send + 'static) -> Self {
        self.mask_runner = MaskRunner { run: Box::new(run), patience: Duration::ZERO };
        self
    }
    /// With long prefixes that outlive the process in `store`, where the runner's blocks can be copied and are all there is: what windows and
    /// recurrent layers keep is in no file, and without it nobody can go on from a block.
    pub fn with_store(mut self, store: Box<dyn BlockStore>, limits: DiskLimits) -> Self {
        if self.runner.state_pools() != StatePools::default() {
            return self;
        }
        self.disk = self.runner.block_bytes().map(|block_bytes| DiskPrefix::new(store, limits, block_bytes));
        self
    }
    /// With guesses of a smaller model, where a sequence has none of its own.
    pub fn with_draft(mut self, draft: Option<DraftModel>) -> Self {
        self.draft = draft.map(|draft| draft.within_vocab(self.shared.vocab));
        self
    }
    /// The draft model's promises: for tests and the simulation, between two turns.
    pub fn check_draft(&self) -> Result<(), String> {
        self.draft.as_ref().map_or(Ok(()), |draft| draft.check(&self.scheduler))
    }
    /// For tests and the simulation, between two turns.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }
    /// Requests that wait for the disk; the scheduler does not know them.
    pub fn held(&self) -> usize {
        self.disk.as_ref().map_or(0, DiskPrefix::held)
    }
    /// A turn would wait for a command.
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle() && !self.disk.as_ref().is_some_and(DiskPrefix::is_busy)
    }
    /// The plan of the last turn, without those held up.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
    /// Whose late masks kept them out of the last turn.
    pub fn held_up(&self) -> &[SequenceId] {
        &self.held_up
    }

    fn drain_commands(&mut self) -> bool {
        if self.scheduler.is_idle() {
            let command = match &mut self.disk {
                Some(disk) if disk.is_busy() => wait_for_disk(disk, &self.commands),
                _ => {
                    let Ok(command) = self.commands.recv() else { return false };
                    Some(command)
                }
            };
            if let Some(command) = command {
                // An idle time is no time between departures.
                self.shared.change_pace(|pace| pace.last_departure = Instant::now());
                self.accept(command);
            }
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.accept(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => {
                    return !self.scheduler.is_idle() || self.held() > 0;
                }
            }
        }
    }

    /// Straight to the scheduler, unless the disk has much of the prompt, or the first token would come too late.
    fn accept(&mut self, Command::Add(add): Command) {
        let Some(add) = self.let_in(*add) else { return };
        let add = match &mut self.disk {
            // Nothing of it comes from there.
            Some(_) if add.request.prompt_logprobs.is_some() => Some(add),
            Some(disk) => disk.hold(add, self.scheduler.blocks()),
            None => Some(add),
        };
        if let Some(add) = add {
            self.add(add);
        }
    }

    fn let_in(&mut self, mut add: Add) -> Option<Add> {
        let Some(refuse) = add.refuse.take() else { return Some(add) };
        let GenerateRequest { prompt, priority, .. } = &add.request;
        let on_disk = self.disk.as_ref().map_or(0, |disk| disk.tokens_kept(prompt));
        let cached_tokens = self.scheduler.expected_cached(prompt).max(on_disk).min(prompt.len() - 1);
        let newcomer = Newcomer { prompt_tokens: prompt.len(), cached_tokens, priority: *priority };
        let predicted = self.first_token_in(newcomer);
        let Some(refusal) = self.shared.refusal_of_wait(predicted) else { return Some(add) };
        self.stats.refused_total += 1;
        self.publish_stats();
        let _ = add.notes.refusal.set(refusal.clone());
        // Who hears it finds the place free again.
        drop(add);
        // Not there any more: nobody asks.
        let _ = refuse.send(refusal);
        None
    }

    fn first_token_in(&mut self, newcomer: Newcomer) -> Option<Duration> {
        forecast::first_token(&self.scheduler, newcomer, (self.clock)(), &self.times, self.shared.departure_interval())
    }

    /// Copies a few blocks, and lets go who waits for the disk no more.
    fn turn_disk(&mut self) {
        let Some(disk) = &mut self.disk else { return };
        let departed = disk.take_departed();
        let ready = disk.turn(&mut self.scheduler, &mut *self.runner);
        for add in &departed {
            match add.notes.has_enough.load(Ordering::Acquire) {
                true => self.stats.finished_total += 1,
                false => self.stats.cancelled_total += 1,
            }
        }
        if !departed.is_empty() {
            // Before they give back their places.
            self.publish_stats();
        }
        ready.into_iter().for_each(|add| self.add(add));
    }

    fn add(&mut self, add: Add) {
        let id = self.next_id;
        self.next_id = SequenceId(id.0 + 1);
        add.notes.sequence.store(self.next_id.0, Ordering::Relaxed);
        let Add { request, output_max, events, notes, ticket, refuse: _, arrived } = add;
        let GenerateRequest { prompt, tokens_max: _, tokens_min, stop_token_ids, sampling, constraint, priority, landmarks, .. } = request;
        let GenerateRequest { top_logprobs, prompt_logprobs, .. } = request;
        let first_stop = prompt.len().saturating_add(tokens_min);
        let sampler = Sampler::new(sampling, top_logprobs, &prompt).with_no_stop_before(first_stop, &stop_token_ids);
        let masks = constraint.map(|constraint| Masks::new(constraint, &stop_token_ids, self.shared.vocab));
        let watch = Stopwatch::new(arrived, notes.clock.clone());
        let prompt_tokens = prompt.len();
        let (drafts, is_constrained) = (self.scheduler.limits().drafts_max > 0, masks.is_some());
        self.clients.insert(id, Client { prompt_tokens, sampler, masks, sits_out: false, events, notes, watch, prompt_logprobs, ticket });
        let mut sequence = Sequence::new(id, prompt, output_max, stop_token_ids).arriving(priority, (self.clock)());
        if prompt_logprobs.is_some() {
            sequence = sequence.scoring();
        }
        if is_constrained {
            sequence = sequence.constrained();
        }
        if !self.scheduler.blocks().groups().is_empty() {
            sequence = sequence.with_restarts(landmarks);
        }
        self.scheduler.add(if drafts { sequence.drafting() } else { sequence });
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
                Some(sequence) => self.count_finished(id, &FinishReason::Stop, sequence.usage()),
                None => self.stats.cancelled_total += 1,
            }
        }
        self.publish_stats();
        for id in departed {
            self.clients.remove(&id);
        }
    }

    /// Before anything is written: the block that a copy is made of may have been given up for this very step.
    fn copy_blocks(&mut self) {
        let mut outbox = Outbox::new();
        for BlockCopy { id, from, to } in std::mem::take(&mut self.plan.copies) {
            let mut bytes = Vec::new();
            let copied = self.runner.read_block(from, &mut bytes).and_then(|()| self.runner.write_block(to, &bytes));
            if let Err(message) = copied {
                self.plan.chunks.retain(|chunk| chunk.id != id);
                self.fail(id, &format!("a block of the cache cannot be copied: {message}"), &mut outbox);
            }
        }
        if !outbox.is_empty() {
            self.send(outbox);
        }
    }

    /// Who is in a step for the first time has waited until now.
    fn note_scheduled(&mut self) {
        let now = Instant::now();
        for chunk in &self.plan.chunks {
            let client = self.clients.get_mut(&chunk.id).expect("every sequence has a client");
            if client.watch.scheduled(now) {
                let usage = self.scheduler.running(chunk.id).map(Sequence::usage).unwrap_or_default();
                self.stats.cache_queried_tokens_total += usage.prompt_tokens as u64;
                self.stats.cache_hit_tokens_total += usage.cached_tokens as u64;
            }
        }
    }

    /// Masks are computed while the model computes. One that is late holds up its own sequence alone: the row sits the step out, and the
    /// following ones until the mask is there. Waiting for it would hold up everybody; keeping the row's logits would copy a vocabulary to
    /// save the one row that is computed twice. Only where nobody else has anything to do the loop waits. Masks that are there already, for
    /// a row that has sat out, show which drafted tokens need not be computed.
    fn ask_for_masks(&mut self) {
        self.held_up.clear();
        for chunk in &mut self.plan.chunks {
            let client = self.clients.get_mut(&chunk.id).expect("every sequence has a client");
            let (Some(masks), Some(sequence)) = (&mut client.masks, self.scheduler.running(chunk.id)) else { continue };
            masks.ask(output_of(sequence), sequence.draft(), &mut *self.mask_runner.run);
            let verdicts = masks.verdicts(output_of(sequence), sequence.draft()).map(<[_]>::len);
            client.sits_out &= verdicts.is_none();
            if client.sits_out && chunk.samples {
                self.held_up.push(chunk.id);
            }
            self.scheduler.cut_draft(chunk, if client.sits_out { 0 } else { verdicts.map_or(chunk.drafts, |verdicts| verdicts - 1) });
        }
        if !self.held_up.is_empty() {
            self.plan.chunks.retain(|chunk| !self.held_up.contains(&chunk.id));
        }
        if let (Some(first), true) = (self.held_up.first(), self.plan.chunks.is_empty()) {
            let client = self.clients.get_mut(first).expect("every sequence has a client");
            client.wait_for_masks(self.mask_runner.patience);
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
        let now = Instant::now();
        let mut first_row = 0;
        for index in 0..self.plan.chunks.len() {
            let chunk = self.plan.chunks[index];
            let client = self.clients.get_mut(&chunk.id).expect("every sequence has a client");
            let sequence = self.scheduler.running(chunk.id).expect("a planned sequence runs");
            first_row += client.score(&chunk, sequence, Rows { logits, first: first_row }, &mut self.scratch);
            if chunk.samples && self.plan.chunks.len() == 1 {
                client.wait_for_masks(self.mask_runner.patience);
            }
            let Sampled { tokens, then } = match chunk.samples {
                true => client.sample(&chunk, sequence, Rows { logits, first: first_row }, &mut self.scratch),
                false => Sampled { tokens: Vec::new(), then: Then::GoesOn },
            };
            first_row += if chunk.samples { 1 + chunk.drafts } else { 0 };
            let goes_on = then == Then::Late || self.commit(&chunk, tokens, now, &mut outbox);
            match then {
                Then::Late => self.sit_out(chunk),
                Then::Ends if goes_on => self.end(chunk.id, &mut outbox),
                Then::Fails(message) if goes_on => self.fail(chunk.id, &message, &mut outbox),
                Then::GoesOn | Then::Ends | Then::Fails(_) => {}
            }
        }
        outbox
    }

    /// Whether the sequence goes on.
    fn commit(&mut self, chunk: &Chunk, mut sampled: Vec<GeneratedToken>, now: Instant, outbox: &mut Outbox) -> bool {
        self.stats.drafts_total += u64::from(chunk.drafts > 0);
        self.stats.drafted_tokens_total += chunk.drafts as u64;
        self.stats.accepted_tokens_total += sampled.len().saturating_sub(1) as u64;
        let ids: Vec<u32> = sampled.iter().map(|token| token.id).collect();
        let departure = self.scheduler.commit(chunk, &ids);
        // A stop token is no part of the answer.
        if matches!(departure, Some(Departure { reason: FinishReason::Stop, .. })) {
            sampled.pop();
        }
        let client = self.clients.get_mut(&chunk.id).expect("every sequence has a client");
        for token in sampled {
            if client.watch.token(now, &self.shared.meters) {
                self.stats.prefilled_tokens_total += client.prompt_tokens as u64;
            }
            self.stats.generated_tokens_total += 1;
            outbox.push((chunk.id, TokenEvent::Token(token)));
        }
        let Some(Departure { reason, usage }) = departure else { return true };
        self.count_finished(chunk.id, &reason, usage);
        outbox.push((chunk.id, TokenEvent::Finished { reason, usage }));
        false
    }

    /// Keeps what was computed but for the last row and the drafts behind it: it gives its token another time.
    fn sit_out(&mut self, mut chunk: Chunk) {
        self.clients.get_mut(&chunk.id).expect("every sequence has a client").sits_out = true;
        self.scheduler.cut_draft(&mut chunk, 0);
        // A state that has seen the last row cannot be told from one that has not: all of the chunk is computed another time.
        if chunk.len > 1 && !self.scheduler.blocks().groups().has_state() {
            self.scheduler.commit(&Chunk { len: chunk.len - 1, samples: false, ..chunk }, &[]);
        }
    }

    /// The sequence is whole as it is.
    fn end(&mut self, id: SequenceId, outbox: &mut Outbox) {
        let sequence = self.scheduler.remove(id).expect("what ends was running");
        let (reason, usage) = (FinishReason::Stop, sequence.usage());
        self.count_finished(id, &reason, usage);
        outbox.push((id, TokenEvent::Finished { reason, usage }));
    }

    fn count_finished(&mut self, id: SequenceId, reason: &FinishReason, usage: TokenUsage) {
        let watch = &self.clients[&id].watch;
        watch.finished(Instant::now(), usage, &self.shared.meters);
        if !watch.has_token() {
            self.stats.prefilled_tokens_total += usage.prompt_tokens as u64;
        }
        self.stats.finished_total += 1;
        self.stats.finished_at_length_total += u64::from(*reason == FinishReason::Length);
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
        self.stats.first_token_in = self.first_token_in(Newcomer { prompt_tokens: 1, cached_tokens: 0, priority: Priority::default() });
        if let Some(disk) = &self.disk {
            self.stats.disk = disk.stats();
        }
        self.stats.draft_model = self.draft.as_ref().map_or(self.stats.draft_model, DraftModel::stats);
        self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner).0 = self.stats;
    }
}

impl Drop for EngineLoop {
    /// Streams of whoever is left end with `Failed`, see `TokenStream`.
    fn drop(&mut self) {
        self.shared.occupancy.send_modify(|occupancy| occupancy.stopped = true);
    }
}

/// A command, should one come first; at most for a moment.
fn wait_for_disk(disk: &mut DiskPrefix, commands: &Receiver<Command>) -> Option<Command> {
    if disk.waits_for_room() {
        return commands.recv_timeout(DISK_WAIT).ok();
    }
    disk.wait_for_block(DISK_WAIT);
    None
}

fn new_scheduler(config: &EngineConfig, runner: &dyn ModelRunner) -> Scheduler {
    let &EngineConfig { sequences_max, tokens_per_step_max, drafts_max, .. } = config;
    let limits = Limits { sequences_max, tokens_per_step_max, answer_tokens_reserved: ANSWER_TOKENS_RESERVED, drafts_max };
    let blocks = BlockManager::new(config.blocks).with_pools(&runner.state_pools(), tokens_per_step_max);
    Scheduler::new(limits, blocks).copying_blocks(runner.block_bytes().is_some())
}
