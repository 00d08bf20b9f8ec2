//! Random traffic against the engine, one seed a run: arrivals with shared beginnings, cancels at any time, pools of a few blocks,
//! small budgets, bad hashes, failing and panicking models; a disk that keeps prefixes over restarts, and damages, loses and delays
//! them. Every promise is checked after every step.
//!
//! `SEED=1234 cargo test simulation` replays one seed and tells what happens; `SEEDS=2000 cargo test simulation` runs more.
//!
//! A simulation finds only what its checks state, so faults were planted on purpose: simulation/planted_faults.txt.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kernels::BLOCK_TOKENS;
use understudy::engine::block_manager::BlockManager;
use understudy::engine::constraint::{Ending, MaskJob};
use understudy::engine::engine_loop::EngineLoop;
use understudy::engine::prefix_cache::{BlockId, PrefixCache};
use understudy::engine::scheduler::{Limits, PATIENCE, Scheduler};
use understudy::engine::sequence::SequenceId;
use understudy::engine::token_mask::TokenMask;
use understudy::engine::{
    AdmissionError, Dry, Engine, EngineConfig, FinishReason, GenerateRequest, GeneratedToken, Priority, SamplingParams, TokenEvent,
    TokenStream, TokenUsage,
};

use crate::support::constraints::{by_turns, maze, refrain};
use crate::support::fake_groups::FakeGroups;
use crate::support::fake_model::FakeModel;
use crate::support::memory_store::MemoryDisk;
use crate::support::random::Random;

mod reached;
mod surroundings;

use reached::Reached;
use surroundings::{TURNS_LATE_MAX, clock, disk, draft, echo, groups, landmarks, tokens, when_the_weather_allows};

const VOCAB: usize = 61;

#[test]
fn random_traffic_keeps_every_promise() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")));
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(300),
    };
    let many = seeds.end - seeds.start >= 300;
    let mut reached = Reached::default();
    for seed in seeds {
        // Shown when the test fails.
        println!("SEED={seed}");
        run_lives(seed, &mut reached);
    }
    println!("{reached:?}");
    if many {
        reached.check();
    }
}

/// One engine; or, with a disk, one after the other, and each finds what those before it left there.
fn run_lives(seed: u64, reached: &mut Reached) {
    let mut lives = Random(seed ^ 0x11FE);
    if lives.chance(400) {
        Simulation::new(seed, None).run(reached);
        return;
    }
    let mut estate = Estate::default();
    for life in 0..lives.between(2, 5) {
        estate = Simulation::new(seed.wrapping_add(life * 0x1_0000_0001), Some(estate)).run(reached);
    }
}

/// What an engine leaves behind: the disk, and what people go on talking about.
#[derive(Clone, Default)]
struct Estate {
    disk: MemoryDisk,
    beginnings: VecDeque<Vec<u32>>,
    bricks: Vec<Vec<u32>>,
}

struct Simulation {
    random: Random,
    engine: Engine,
    engine_loop: EngineLoop,
    weather: Weather,
    /// Whether the model failed in the last step.
    step_failed: Arc<AtomicBool>,
    /// In order of acceptance.
    clients: Vec<Client>,
    disk: Option<MemoryDisk>,
    /// Texts that prompts begin with; answered conversations join them.
    beginnings: VecDeque<Vec<u32>>,
    /// Whole blocks, of which some prompts are built: the same block after different ones.
    bricks: Vec<Vec<u32>>,
    /// Masks asked for, and after how many turns they are computed.
    late_masks: Arc<Mutex<Vec<(usize, MaskJob)>>>,
    turn: usize,
    /// Milliseconds, by the engine's clock.
    now_ms: Arc<AtomicU64>,
}

/// No turn is shorter: so a sequence has waited for [`PATIENCE`] after so many turns.
const TURN_MS_MIN: u64 = 200;

/// What a seed has in store, in per mille a turn.
struct Weather {
    turns: usize,
    arrivals: u64,
    cancels: u64,
    fails: u64,
    panics: u64,
    /// Of the masks.
    late: u64,
    prompt_max: usize,
    output_max: usize,
    weak_hash: bool,
    /// Requests that are not urgent, in per mille.
    less_urgent: u64,
    script: Option<fn(&[u32]) -> u32>,
    groups: FakeGroups,
    disk_damages: u64,
}

struct Client {
    request: GenerateRequest,
    /// `None`: dropped.
    stream: Option<TokenStream>,
    received: Vec<GeneratedToken>,
    end: Option<(FinishReason, TokenUsage)>,
    /// Given by the scheduler's order: who waits for the disk gets one later than who came behind.
    id: Option<SequenceId>,
    /// A slow reader looks once in this many turns.
    reads_every: usize,
    arrived: usize,
    /// The turn after which it must have left: each turn computes at least a row of the oldest.
    last_turn: usize,
    /// Its stream was dropped and no turn has passed since: the engine cannot know yet, and it still holds its place.
    dropped_just_now: bool,
}

impl Client {
    fn is_live(&self) -> bool {
        self.stream.is_some() && self.end.is_none()
    }
}

impl Simulation {
    fn new(seed: u64, estate: Option<Estate>) -> Self {
        let mut random = Random(seed);
        let (blocks_max, prompt_max, output_max) = (random.either(8, 24), random.either(60, 300), random.either(60, 250));
        let blocks = random.between(3, blocks_max) as usize;
        let config = EngineConfig {
            blocks,
            sequences_max: random.between(1, 7) as usize,
            tokens_per_step_max: random.between(1, 90) as usize,
            queue_max: random.between(0, 6) as usize,
            context_max: random.between(48, 500) as usize,
            drafts_max: random.either(0, 9) as usize,
            first_token_max: None,
        };
        let stormy = |random: &mut Random, per_mille: u64| if random.chance(300) { random.below(per_mille) } else { 0 };
        let weather = Weather {
            turns: random.between(20, 150) as usize,
            arrivals: random.between(20, 700),
            cancels: stormy(&mut random, 200),
            fails: stormy(&mut random, 60),
            panics: stormy(&mut random, 30),
            late: stormy(&mut random, 700),
            prompt_max: random.between(2, prompt_max) as usize,
            output_max: random.between(1, output_max) as usize,
            weak_hash: random.chance(250),
            less_urgent: random.either(0, 500),
            script: random.chance(500).then_some(echo as fn(&[u32]) -> u32),
            groups: groups(&mut Random(seed ^ 0x6A0F), &config, estate.is_some()),
            disk_damages: if estate.is_some() { random.either(0, 200) } else { 0 },
        };
        let mut faults = Random(seed ^ 0xFA17);
        let (fails, panics) = (weather.fails, weather.panics);
        let step_failed = Arc::new(AtomicBool::new(false));
        let tell_failure = step_failed.clone();
        let model = FakeModel::new(VOCAB, blocks).with_fault(move |step, _| {
            let (panics, fails) = (faults.chance(panics), faults.chance(fails));
            tell_failure.store(panics || fails, Ordering::Relaxed);
            if panics {
                // A panic that tells nobody but its catcher: the test's output stays readable.
                std::panic::resume_unwind(Box::new(format!("step {step} panics")));
            }
            if fails { Err(format!("step {step} fails")) } else { Ok(()) }
        });
        let model = if let Some(script) = weather.script { model.with_script(script) } else { model };
        let model = model.with_groups(weather.groups.clone());
        let (engine, engine_loop) = Engine::without_thread(Box::new(model), config);
        let config = engine.config();
        let limits = Limits {
            sequences_max: config.sequences_max,
            tokens_per_step_max: config.tokens_per_step_max,
            // Small, so that sequences outgrow their reservations.
            answer_tokens_reserved: if random.chance(700) { random.below(10) } else { 512 } as usize,
            drafts_max: config.drafts_max,
        };
        let prefix = if weather.weak_hash {
            // One that hardly looks, and one that does not even look at what came before.
            PrefixCache::with_hash(
                blocks,
                if random.chance(500) { |parent, tokens| (parent + u64::from(tokens[0])) % 5 } else { |_, tokens| u64::from(tokens[0]) },
            )
        } else {
            PrefixCache::new(blocks)
        };
        let manager = BlockManager::with_prefix_cache(blocks, prefix).with_pools(&weather.groups.pools, config.tokens_per_step_max);
        let mut engine_loop = engine_loop.with_scheduler(Scheduler::new(limits, manager));
        if let Some(estate) = &estate {
            let (store, limits) = disk(&mut Random(seed ^ 0xD15C), &estate.disk);
            engine_loop = engine_loop.with_store(Box::new(store), limits);
        }
        let (now_ms, quick) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let engine_loop = engine_loop.with_clock(clock(seed, now_ms.clone(), quick.clone()));
        let engine_loop = engine_loop.with_draft(draft(seed, VOCAB, weather.script, quick));
        let late_masks = Arc::new(Mutex::new(Vec::new()));
        let engine_loop = engine_loop.with_mask_runner(when_the_weather_allows(seed, weather.late, late_masks.clone()));
        let mut beginnings: VecDeque<Vec<u32>> = (0..3).map(|_| tokens(&mut random, 200)).collect();
        let mut bricks: Vec<Vec<u32>> = (0..3).map(|_| tokens(&mut random, BLOCK_TOKENS)).collect();
        let disk = estate.as_ref().map(|estate| estate.disk.clone());
        if let Some(estate) = estate.filter(|estate| !estate.bricks.is_empty()) {
            (beginnings, bricks) = (estate.beginnings, estate.bricks);
        }
        let clients = Vec::new();
        Self { random, engine, engine_loop, weather, clients, disk, beginnings, bricks, step_failed, late_masks, turn: 0, now_ms }
    }

    fn run(mut self, reached: &mut Reached) -> Estate {
        while self.turn < self.weather.turns || self.clients.iter().any(Client::is_live) {
            if self.turn < self.weather.turns {
                self.arrive(reached);
                self.cancel(reached);
                self.damage();
            }
            self.turn(reached);
            self.compute_late_masks();
            self.read();
            self.turn += 1;
        }
        self.finish(reached)
    }

    fn compute_late_masks(&mut self) {
        let mut late = self.late_masks.lock().unwrap();
        late.iter_mut().for_each(|(turns, _)| *turns -= 1);
        let (due, rest) = std::mem::take(&mut *late).into_iter().partition(|(turns, _)| *turns == 0);
        *late = rest;
        due.into_iter().for_each(|(_, job): (usize, MaskJob)| job.compute().hand_over());
    }

    /// None, one, or a burst; all at once may not fit.
    fn arrive(&mut self, reached: &mut Reached) {
        if !self.random.chance(self.weather.arrivals) {
            return;
        }
        for _ in 0..self.random.between(1, 5) {
            let request = self.request();
            let config = self.engine.config();
            let places_taken = self.clients.iter().filter(|client| client.is_live() || client.dropped_just_now).count();
            match self.engine.generate(request.clone()) {
                Ok(stream) => {
                    assert!(places_taken < config.sequences_max + config.queue_max, "more are taken than there are places");
                    self.clients.push(Client {
                        // The disk answers once in a few turns; then the scheduler's own promise holds.
                        last_turn: self.turn + 2_000,
                        id: None,
                        stream: Some(stream),
                        received: Vec::new(),
                        end: None,
                        reads_every: if self.random.chance(200) { 1000 } else { self.random.between(1, 10) as usize },
                        arrived: self.turn,
                        dropped_just_now: false,
                        request,
                    });
                }
                Err(AdmissionError::QueueFull { retry_after_s, .. }) => {
                    assert_eq!(places_taken, config.sequences_max + config.queue_max, "refused with places left");
                    assert!(retry_after_s >= 1);
                    reached.refusals += 1;
                }
                Err(AdmissionError::PromptTooLong { prompt_tokens, context_tokens }) => {
                    assert!(prompt_tokens == request.prompt.len() && prompt_tokens > context_tokens);
                    assert_eq!(context_tokens, config.context_max - 1);
                }
                Err(other) => panic!("{other}"),
            }
        }
    }

    fn request(&mut self) -> GenerateRequest {
        let random = &mut self.random;
        let beginning = &self.beginnings[random.below(self.beginnings.len() as u64) as usize];
        let shared = random.below(beginning.len() as u64 + 1) as usize;
        let mut prompt = beginning[..shared.min(self.weather.prompt_max)].to_vec();
        if random.chance(200) {
            let bricks = random.between(1, 5);
            prompt = (0..bricks).flat_map(|_| self.bricks[random.below(3) as usize].clone()).collect();
        }
        if prompt.is_empty() || random.chance(700) {
            let own = random.between(1, 40) as usize;
            prompt.extend(tokens(random, own));
        }
        let (greedy, landmarks) = (random.chance(300), landmarks(random, prompt.len()));
        let last_n = |random: &mut Random| random.chance(500).then(|| random.below(80) as usize);
        GenerateRequest {
            prompt,
            tokens_min: if random.chance(200) { random.below(30) as usize } else { 0 },
            constraint: random.chance(300).then(|| {
                let end = random.below(120) as usize;
                match random.below(3) {
                    0 => maze(random.bits(), end),
                    1 => by_turns(random.bits(), random.between(1, 20) as usize, end),
                    _ => {
                        let length = random.between(1, 30) as usize;
                        refrain(tokens(random, length), Ending::Possible, end)
                    }
                }
            }),
            tokens_max: match random.below(20) {
                0 => None,
                1 => Some(0),
                _ => Some(random.between(1, self.weather.output_max as u64) as usize),
            },
            stop_token_ids: if random.chance(500) { tokens(random, 2) } else { vec![] },
            sampling: SamplingParams {
                temperature: if greedy { 0.0 } else { random.between(1, 20) as f32 / 10.0 },
                top_k: random.chance(300).then(|| random.between(1, 30) as usize),
                typical_p: if random.chance(200) { 0.7 } else { 1.0 },
                top_p: if random.chance(300) { 0.8 } else { 1.0 },
                min_p: if random.chance(200) { 0.05 } else { 0.0 },
                seed: random.below(4),
                repetition_penalty: if random.chance(200) { 1.3 } else { 1.0 },
                presence_penalty: if random.chance(200) { 0.5 } else { 0.0 },
                frequency_penalty: if random.chance(200) { 0.5 } else { 0.0 },
                repeat_last_n: last_n(random),
                dry: random.chance(250).then(|| Dry {
                    multiplier: 2.0,
                    base: 1.75,
                    allowed_length: random.between(1, 3) as usize,
                    last_n: last_n(random),
                    breakers: Arc::new(TokenMask::of(VOCAB, tokens(random, 2))),
                }),
                logit_bias: if random.chance(100) { vec![(7, 2.0)] } else { vec![] },
            },
            top_logprobs: random.chance(200).then(|| random.below(4) as usize),
            priority: match random.chance(self.weather.less_urgent) {
                false => Priority::Interactive,
                true if random.chance(700) => Priority::Background,
                true => Priority::Shadow,
            },
            prompt_logprobs: random.chance(50).then_some(1),
            landmarks,
        }
    }

    fn total_max(&self, request: &GenerateRequest) -> usize {
        self.engine.config().context_max.min(request.prompt.len() + request.tokens_max.unwrap_or(usize::MAX / 2))
    }

    fn cancel(&mut self, reached: &mut Reached) {
        for index in 0..self.clients.len() {
            if !self.clients[index].is_live() || !self.random.chance(self.weather.cancels) {
                continue;
            }
            let client = &self.clients[index];
            match client.id.and_then(|id| self.engine_loop.scheduler().running(id)) {
                None if client.id.is_none() && client.arrived < self.turn => reached.cancels_held += 1,
                None => reached.cancels_waiting += 1,
                Some(sequence) if sequence.distance() > 1 => reached.cancels_prompt += 1,
                Some(_) => reached.cancels_answer += 1,
            }
            self.read_client(index);
            let client = &mut self.clients[index];
            client.stream = None;
            client.dropped_just_now = client.end.is_none();
        }
    }

    fn damage(&mut self) {
        if let Some(disk) = self.disk.as_ref().filter(|_| self.random.chance(self.weather.disk_damages)) {
            disk.damage(&mut self.random);
        }
    }

    /// One turn of the engine, and all that must be true of it.
    fn turn(&mut self, reached: &mut Reached) {
        if self.engine_loop.is_idle() && self.engine.stats().waiting == 0 {
            return; // The thread would sleep.
        }
        let scheduler = self.engine_loop.scheduler();
        let streams: Vec<_> = scheduler.all_running().iter().filter(|sequence| sequence.is_stream()).map(|sequence| sequence.id).collect();
        let published_before = self.published();
        let live: Vec<usize> = (0..self.clients.len()).filter(|&index| self.clients[index].is_live()).collect();
        self.now_ms.fetch_add(self.random.between(TURN_MS_MIN, 2_000), Ordering::Relaxed);
        // Urgency may change in the middle of a turn; then nothing is said of it.
        let urgencies: Vec<(Priority, Priority)> = live.iter().map(|&index| (self.urgency(index, 0), self.urgency(index, 1_000))).collect();

        assert!(self.engine_loop.turn(), "the engine stopped");
        self.engine_loop.check_draft().unwrap_or_else(|broken| panic!("turn {}: {broken}", self.turn));
        self.note_ids();

        let scheduler = self.engine_loop.scheduler();
        scheduler.check().unwrap_or_else(|broken| panic!("turn {}: {broken}", self.turn));
        let plan = self.engine_loop.plan();
        let rows: usize = plan.chunks.iter().map(|chunk| chunk.len).sum();
        assert!(rows <= scheduler.limits().tokens_per_step_max, "{rows} rows are over the budget");
        let held_up = self.engine_loop.held_up();
        let planned = |id: SequenceId| plan.chunks.iter().any(|chunk| chunk.id == id) || held_up.contains(&id);
        reached.late_masks += held_up.len();
        let constrained = |id: SequenceId| self.clients.iter().any(|client| client.id == Some(id) && client.request.constraint.is_some());
        reached.constrained_drafts += plan.chunks.iter().filter(|chunk| chunk.drafts > 0 && constrained(chunk.id)).count();
        for &id in held_up {
            let constrained = |client: &Client| client.id == Some(id) && client.request.constraint.is_some();
            assert!(self.clients.iter().any(constrained), "{id:?} is held up by nothing");
        }
        for id in streams {
            let cancelled = self.clients.iter().any(|client| client.id == Some(id) && client.stream.is_none());
            assert!(cancelled || planned(id) || plan.paused.contains(&id), "turn {}: stream {id:?} was left out of {plan:?}", self.turn);
        }
        let ids: Vec<Option<SequenceId>> = live.iter().map(|&index| self.clients[index].id).collect();
        let ranks = || ids.iter().zip(&urgencies).filter_map(|(id, urgency)| id.map(|id| (id, *urgency)));
        let first = ranks().min_by_key(|(id, urgency)| (urgency.0, *id)).map(|(id, _)| id);
        let first_later = ranks().min_by_key(|(id, urgency)| (urgency.1, *id)).map(|(id, _)| id);
        reached.overtakings += usize::from(first != ranks().map(|(id, _)| id).min());
        reached.out_of_patience += usize::from(first != first_later);
        if let Some(first) = first.filter(|first| first_later == Some(*first)) {
            assert!(planned(first), "turn {}: the first in rank, {first:?}, was left out of {plan:?}", self.turn);
        }
        assert!(plan.paused.iter().all(|paused| !planned(*paused)), "one that was paused is planned: {plan:?}");
        let listens = |id: SequenceId| self.clients.iter().any(|client| client.id == Some(id) && client.stream.is_some());
        for sequence in scheduler.all_running().iter().chain(scheduler.all_waiting()) {
            assert!(listens(sequence.id), "{:?} was cancelled a turn ago and is still there", sequence.id);
        }
        let without_id = self.clients.iter().filter(|client| client.is_live() && client.id.is_none()).count();
        assert_eq!(self.engine_loop.held(), without_id, "who is neither with the scheduler nor with the disk?");
        self.clients.iter_mut().for_each(|client| client.dropped_just_now = false);
        let scheduler = self.engine_loop.scheduler();
        let plan = self.engine_loop.plan();
        if self.step_failed.swap(false, Ordering::Relaxed) {
            let still_there = plan.chunks.iter().find(|chunk| scheduler.running(chunk.id).is_some());
            assert!(still_there.is_none(), "the step failed, and {still_there:?} goes on");
        }
        reached.pauses += plan.paused.len();
        reached.evictions += published_before.iter().zip(self.published()).filter(|(before, after)| **before && !after).count();
        let private = scheduler.all_running().iter().filter(|sequence| sequence.table.published() < sequence.computed() / 32).count();
        assert!(self.weather.weak_hash || private == 0, "computed full blocks are not published");
        reached.collisions += private;
    }

    /// How urgent a client is after some milliseconds more: who has waited for long is as urgent as anybody.
    fn urgency(&self, index: usize, more_ms: u64) -> Priority {
        let now = Duration::from_millis(self.now_ms.load(Ordering::Relaxed) + more_ms);
        let (client, scheduler) = (&self.clients[index], self.engine_loop.scheduler());
        let sequence =
            client.id.and_then(|id| scheduler.running(id).or_else(|| scheduler.all_waiting().find(|sequence| sequence.id == id)));
        let is_old = sequence.is_some_and(|sequence| now.saturating_sub(sequence.arrived()) >= PATIENCE);
        if is_old { Priority::Interactive } else { client.request.priority }
    }

    /// Who got to the scheduler in this turn; from now on its promises hold.
    fn note_ids(&mut self) {
        let mut new: Vec<(SequenceId, usize)> = Vec::new();
        for (index, client) in self.clients.iter_mut().enumerate().filter(|(_, client)| client.id.is_none()) {
            client.id = client.stream.as_ref().and_then(TokenStream::sequence);
            new.extend(client.id.map(|id| (id, index)));
        }
        for (id, index) in new {
            let ahead = |client: &&Client| client.is_live() && client.id.is_some_and(|other| other < id);
            let ahead: Vec<&Client> = self.clients.iter().filter(ahead).collect();
            let request = &self.clients[index].request;
            // Until it is urgent. Then a turn for each token of each that is older, one for each that ends before its first; and its own
            // tokens, once more for each of the older that becomes urgent only now and has it paused.
            let patience = if request.priority == Priority::Interactive { 0 } else { PATIENCE.as_millis() as u64 / TURN_MS_MIN };
            let restarts = ahead.iter().filter(|client| client.request.priority != Priority::Interactive).count();
            let tokens =
                ahead.iter().map(|client| self.total_max(&client.request)).sum::<usize>() + (1 + restarts) * self.total_max(request);
            let turns_max = (patience as usize + tokens + self.clients.len() + 1) * self.weather.slowness();
            self.clients[index].last_turn = self.turn + turns_max;
        }
    }

    fn published(&self) -> Vec<bool> {
        let blocks = self.engine_loop.scheduler().blocks();
        (0..blocks.total() as u32).map(|block| blocks.prefix().is_published(BlockId(block))).collect()
    }

    fn read(&mut self) {
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            // Whether it is still live decides what the next turn must do: look behind the back of the slow reader.
            let scheduler = self.engine_loop.scheduler();
            let gone = |id| scheduler.running(id).is_none() && !scheduler.all_waiting().any(|sequence| sequence.id == id);
            let left = client.id.is_some_and(gone);
            if client.is_live() && (left || self.turn.is_multiple_of(client.reads_every)) {
                self.read_client(index);
            }
            let client = &self.clients[index];
            assert!(!left || !client.is_live(), "{index} left the scheduler without a last word");
            if client.is_live() {
                assert!(self.turn < client.last_turn, "{index} has waited {} turns", self.turn - client.arrived);
            }
        }
    }

    fn read_client(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let Some(stream) = &mut client.stream else { return };
        while let Some(event) = stream.try_next() {
            assert!(client.end.is_none(), "{index} hears {event:?} after its end");
            match event {
                TokenEvent::Token(token) => client.received.push(token),
                TokenEvent::Finished { reason, usage } => client.end = Some((reason, usage)),
            }
        }
        if let Some((FinishReason::Stop | FinishReason::Length, _)) = &client.end {
            // The conversation may go on from here.
            let said = client.received.iter().map(|token| token.id);
            let conversation: Vec<u32> = client.request.prompt.iter().copied().chain(said).collect();
            if self.beginnings.len() == 8 {
                self.beginnings.pop_front();
            }
            self.beginnings.push_back(conversation);
        }
    }

    /// Nothing is left, and everybody heard what the model alone would have said.
    fn finish(mut self, reached: &mut Reached) -> Estate {
        // Those that were dropped in the last turns, and what is still to be written.
        self.turn(reached);
        while !self.engine_loop.is_idle() {
            self.turn(reached);
        }
        let stats = self.engine.stats();
        let blocks = self.engine_loop.scheduler().blocks();
        assert!(self.engine_loop.scheduler().is_idle());
        assert_eq!((blocks.used(), blocks.available()), (0, blocks.total()), "blocks leaked");
        assert_eq!((stats.running, stats.waiting, stats.blocks_used), (0, 0, 0), "{stats:?}");
        let config = self.engine.config().clone();
        let (mut failed, mut cancelled, mut finished) = (0, 0, 0);
        for (index, client) in self.clients.iter().enumerate() {
            let (expected, expected_reason) =
                FakeModel::lone_run_of(VOCAB, &client.request, &config, self.weather.script, &self.weather.groups);
            match &client.end {
                None => {
                    assert!(client.stream.is_none(), "{index} was never answered");
                    cancelled += 1;
                }
                Some((FinishReason::Failed(message), _)) => {
                    assert!(message.contains("fails") || message.contains("panics"), "{index} failed: {message}");
                    failed += 1;
                }
                Some((reason, usage)) => {
                    assert_eq!((&client.received, reason), (&expected, &expected_reason), "{index} was told something else than alone");
                    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (client.request.prompt.len(), client.received.len()));
                    assert!(usage.cached_tokens < client.request.prompt.len(), "{usage:?}");
                    if client.request.prompt_logprobs.is_some() {
                        let scores = client.stream.as_ref().expect("it was read to its end").prompt_scores().len();
                        assert_eq!((scores + 1, usage.cached_tokens), (client.request.prompt.len(), 0), "{index} has scored its prompt");
                    }
                    finished += 1;
                    reached.answers += 1;
                    reached.constrained += usize::from(client.request.constraint.is_some());
                    reached.hits += usize::from(usage.cached_tokens > 0);
                    reached.note_hit(usage.cached_tokens, &self.weather.groups.pools);
                }
            }
            // Cancelled or failed in the middle: what came until then was right.
            assert_eq!(client.received, expected[..client.received.len()], "{index} was told something else than alone");
        }
        assert_eq!((stats.failed_total, stats.cancelled_total, stats.finished_total), (failed, cancelled, finished));
        assert!(config.drafts_max > 0 || stats.drafted_tokens_total == 0, "drafts were not wanted");
        reached.drafted += stats.drafted_tokens_total as usize;
        reached.accepted += stats.accepted_tokens_total as usize;
        reached.guessed += stats.draft_model.guessed_total as usize;
        reached.guessed_right += stats.draft_model.right_total as usize;
        if self.weather.groups.pools.state_slots.is_some() {
            reached.undone_drafts += (stats.drafted_tokens_total - stats.accepted_tokens_total) as usize;
        }
        reached.failures += failed as usize;
        reached.disk_reads += stats.disk.read_total as usize;
        reached.disk_writes += stats.disk.written_total as usize;
        reached.disk_damages += stats.disk.bad_total as usize;
        let Self { disk, beginnings, bricks, .. } = self;
        Estate { disk: disk.unwrap_or_default(), beginnings, bricks }
    }
}

impl Weather {
    /// Turns that a row may take: its own, and those in which its mask is late.
    fn slowness(&self) -> usize {
        // A state that has seen a wrong draft is computed again.
        let catching_up = if self.groups.pools.state_slots.is_some() { 3 } else { 1 };
        catching_up * if self.late > 0 { 2 + TURNS_LATE_MAX as usize } else { 1 }
    }
}
