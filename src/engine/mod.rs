//! The engine's front: a request goes in, a stream of tokens comes out. Behind it one thread owns the model and all state.
//!
//! Invariant: the engine sees token ids; it knows no text.

mod admission;
pub mod batch;
pub mod block_manager;
mod client;
pub mod constraint;
pub mod disk_prefix;
pub mod draft_model;
pub mod draft_plan;
pub mod drafter;
pub mod engine_loop;
pub mod forecast;
pub mod kv_store;
pub mod layer_groups;
pub mod mask_workers;
pub mod meters;
pub mod model_runner;
pub mod plan;
pub mod prefix_cache;
pub mod sampler;
pub mod scheduler;
pub mod sequence;
pub mod state_pool;
pub mod step_times;
pub mod token_mask;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use models::Logits;
use tokio::sync::{mpsc, oneshot};

use admission::Shared;
use constraint::Constraint;
use disk_prefix::DiskLimits;
use draft_model::DraftModel;
use draft_plan::DraftStats;
use engine_loop::{Add, Command, EngineLoop};
use kv_store::{BlockStore, DiskStats};
use layer_groups::StatePools;
use meters::{Meters, SequenceClock};
use prefix_cache::BlockId;
use sequence::SequenceId;
use token_mask::TokenMask;

/// One sequence to generate.
#[derive(Debug, Clone, Default)]
pub struct GenerateRequest {
    pub prompt: Vec<u32>,
    /// Most tokens to generate; `None`: until the context is full. Beyond the context is no error: the reply ends with `Length`.
    /// 0 computes the prompt (it is cached then) and ends with `Length`.
    pub tokens_max: Option<usize>,
    /// Before so many tokens no stop token comes.
    pub tokens_min: usize,
    /// Tokens that end the sequence (not part of the text).
    pub stop_token_ids: Vec<u32>,
    pub sampling: SamplingParams,
    /// `Some(n)`: the log-probability of each token, and of the `n` likeliest (`n` may be 0).
    pub top_logprobs: Option<usize>,
    /// `Some(n)`: also of each token of the prompt but the first, see [`TokenStream::prompt_scores`]. All of the prompt is computed then,
    /// whatever the cache has of it.
    pub prompt_logprobs: Option<usize>,
    /// What the output may be; `None`: anything.
    pub constraint: Option<Arc<dyn Constraint>>,
    pub priority: Priority,
    pub landmarks: Landmarks,
}

/// Places in a prompt that other prompts are likely to part from it at, in tokens before them. A wrong one costs time, never an answer; only
/// models with windows or recurrent state look at them, and at the end of the prompt in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Landmarks {
    /// Where instructions and tools end.
    pub instructions_end: Option<usize>,
    /// Where the last message of a person begins.
    pub last_turn: Option<usize>,
}

/// Whom others wait for; the most urgent first. None waits for ever: after [`scheduler::PATIENCE`] everybody is urgent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody waits for the answer.
    #[default]
    Interactive,
    /// Titles, summaries, batches.
    Background,
    /// A conversation that somebody else answers, kept warm.
    Shadow,
}

/// How the next token is chosen from the logits.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the `k` likeliest; `None`: all.
    pub top_k: Option<usize>,
    /// Keep the most typical whose probabilities sum to this; 1: all (Meister et al. 2022).
    pub typical_p: f32,
    /// Keep the likeliest whose probabilities sum to this; 1: all.
    pub top_p: f32,
    /// Keep those at least this fraction of the likeliest; 0: all.
    pub min_p: f32,
    pub seed: u64,
    /// Over prompt and output, divides positive logits (multiplies negative); 1: off (CTRL, Keskar et al. 2019).
    pub repetition_penalty: f32,
    /// OpenAI's: over the output alone.
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    /// The last so many tokens of the sequence are all that these three look at; `None`: the whole.
    pub repeat_last_n: Option<usize>,
    pub dry: Option<Dry>,
    /// Added to the logit of a token.
    pub logit_bias: Vec<(u32, f32)>,
}

/// The "don't repeat yourself" penalty, see [`sampler::dry`].
#[derive(Debug, Clone, PartialEq)]
pub struct Dry {
    pub multiplier: f32,
    pub base: f32,
    /// Repetitions of fewer tokens cost nothing.
    pub allowed_length: usize,
    /// The last so many tokens of the sequence are looked at; `None`: all.
    pub last_n: Option<usize>,
    /// Tokens that end a repetition.
    pub breakers: Arc<TokenMask>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            typical_p: 1.0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repeat_last_n: None,
            dry: None,
            logit_bias: Vec::new(),
        }
    }
}

/// What a stream carries.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenEvent {
    Token(GeneratedToken),
    /// Always the last one, unless the receiver went away first.
    Finished {
        reason: FinishReason,
        usage: TokenUsage,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedToken {
    pub id: u32,
    pub logprobs: Option<TokenLogprobs>,
}

/// Natural logarithms of probabilities of the model's own distribution (before temperature and filters, after logit bias and penalties).
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    pub logprob: f32,
    /// Likeliest first.
    pub top: Vec<(u32, f32)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token came.
    Stop,
    /// `tokens_max` or the context is reached.
    Length,
    /// The model failed (a bug or the device): the message is for the log and the client.
    Failed(String),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenUsage {
    pub prompt_tokens: usize,
    /// Of these, taken from the prefix cache.
    pub cached_tokens: usize,
    /// As many as there were `Token` events: a stop token is not counted.
    pub completion_tokens: usize,
}

/// Why a request was not taken. Nothing has happened then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// `context_tokens` is the longest prompt that leaves room for one token of answer, in the context and in the cache.
    #[error("prompt is too long: {prompt_tokens} tokens > {context_tokens} maximum")]
    PromptTooLong { prompt_tokens: usize, context_tokens: usize },
    #[error("token id {id} is not in the vocabulary of {vocab}")]
    UnknownToken { id: u32, vocab: usize },
    #[error("{waiting} requests are waiting already")]
    QueueFull { waiting: usize, retry_after_s: u64 },
    #[error("the first token would come after about {predicted_s} s, and nobody is to wait longer than {max_s} s")]
    TooLongToWait { predicted_s: u64, max_s: u64, retry_after_s: u64 },
    #[error("the server is shutting down")]
    Draining,
    #[error("the engine has stopped")]
    Stopped,
}

/// Sizes the engine works within.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Blocks of the cache (32 tokens each).
    pub blocks: usize,
    /// Sequences that run at once (`--parallel`); at most `tokens_per_step_max`, so that each stream has a row in each step.
    pub sequences_max: usize,
    /// Rows of one step.
    pub tokens_per_step_max: usize,
    /// Requests that may wait beside `sequences_max` that run.
    pub queue_max: usize,
    /// Prompt plus output of one sequence, in tokens; at most what the blocks hold.
    pub context_max: usize,
    /// Rows of drafted tokens in one step, of all sequences; 0: nothing is drafted.
    pub drafts_max: usize,
    /// Whose first token is predicted to come later is refused, see [`TokenStream::admission`]; `None`: nobody is.
    pub first_token_max: Option<Duration>,
}

/// What runs a step: the loaded model, or a fake one in tests.
pub trait ModelRunner: Send + 'static {
    fn vocab(&self) -> usize;
    /// What its layers keep beside the blocks of full attention, as in [`kernels::Step::windows`] and [`kernels::Step::states`]. The same at
    /// any time.
    fn state_pools(&self) -> StatePools {
        StatePools::default()
    }
    /// Runs `token_ids [T]`; returns the logits of `step.logit_rows`.
    fn run(&mut self, token_ids: &[u32], step: &kernels::Step) -> Result<Logits, String>;

    /// Length of a block of the cache copied out; `None`, as here: this runner's blocks stay where they are.
    fn block_bytes(&self) -> Option<usize> {
        None
    }
    /// Appends what stands in `block`.
    fn read_block(&self, block: BlockId, _out: &mut Vec<u8>) -> Result<(), String> {
        Err(format!("{block:?} stays where it is"))
    }
    /// Puts back what [`ModelRunner::read_block`] gave, of any runner of the same model and settings.
    fn write_block(&mut self, block: BlockId, _bytes: &[u8]) -> Result<(), String> {
        Err(format!("{block:?} takes nothing from outside"))
    }
}

/// Numbers for the status page and metrics; read without stopping the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStats {
    pub running: usize,
    pub waiting: usize,
    pub blocks_used: usize,
    /// Not used by a running sequence, but their content can be found again.
    pub blocks_cached: usize,
    pub blocks_total: usize,
    /// Prompts of finished requests, and what of them came from the cache.
    pub prompt_tokens_total: u64,
    pub cached_tokens_total: u64,
    pub generated_tokens_total: u64,
    pub steps_total: u64,
    /// Sequences paused because no block was free, or for more urgent ones.
    pub pauses_total: u64,
    /// Drafts that the model checked, tokens in them, and those of them that were right.
    pub drafts_total: u64,
    pub drafted_tokens_total: u64,
    pub accepted_tokens_total: u64,
    /// Of requests that began to be computed: tokens looked for in the prefix cache, and those found.
    pub cache_queried_tokens_total: u64,
    pub cache_hit_tokens_total: u64,
    /// Prompts that are computed, of whatever became of their requests then; with what came from the cache.
    pub prefilled_tokens_total: u64,
    /// Requests that ended well: at a stop token, at their length, or because their reader had enough ([`TokenStream::finish`]).
    pub finished_total: u64,
    /// Of these, at their length.
    pub finished_at_length_total: u64,
    /// Requests whose stream was dropped before they were finished.
    pub cancelled_total: u64,
    /// Requests that ended with `Failed`.
    pub failed_total: u64,
    /// Requests refused because they would have waited too long.
    pub refused_total: u64,
    /// What a request of one token that came now would wait for it, as predicted; `None`: nothing was measured yet.
    pub first_token_in: Option<Duration>,
    /// All zero without a draft model. Its guesses are in `drafted_tokens_total` too, those of them that were checked.
    pub draft_model: DraftStats,
    /// All zero where nothing outlives the process. What is written meanwhile shows at the next step.
    pub disk: DiskStats,
}

/// Handle to the engine thread; clones share it. When the last one is dropped, the thread finishes what runs and ends.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Bounded by `sequences_max + queue_max`: `places_taken` admits no more requests than that, so it is never full.
    commands: SyncSender<Command>,
    shared: Arc<Shared>,
}

/// The tokens of one request; dropping it cancels the request within one step, and so does [`TokenStream::finish`].
#[derive(Debug)]
pub struct TokenStream {
    /// Bounded by the tokens the request may generate and the last event, so the engine never waits for a slow reader and nothing
    /// is lost; memory is taken as events come, not for the bound.
    events: mpsc::Receiver<TokenEvent>,
    /// What is known so far, should the engine stop without a last word.
    usage: TokenUsage,
    notes: Arc<StreamNotes>,
    /// Where a refusal comes; `None`: nobody is refused, or somebody else listens.
    refusal: Option<oneshot::Receiver<AdmissionError>>,
    finished: bool,
}

/// What the engine and the reader of a stream let each other know beside the events.
#[derive(Debug, Default)]
struct StreamNotes {
    /// Written by the engine before each token.
    cached_tokens: AtomicUsize,
    /// Written by the engine once: the sequence's id and 1; 0 while the request is not with the scheduler.
    sequence: AtomicU64,
    /// Written by the reader before it drops the stream.
    has_enough: AtomicBool,
    /// Written by the engine before the first token, or the end.
    prompt_scores: Mutex<PromptScores>,
    /// Written by the engine before a stream ends without a word.
    refusal: OnceLock<AdmissionError>,
    clock: SequenceClock,
}

#[derive(Debug, Default)]
struct PromptScores {
    /// So many tokens have been scored; the prompt bounds them.
    told: usize,
    untaken: Vec<TokenLogprobs>,
}

/// Whether a request is taken up.
#[derive(Debug)]
pub struct Admission(Option<oneshot::Receiver<AdmissionError>>);

impl Admission {
    /// Waits until the engine has taken the request up or refused it, one step at most.
    pub async fn decided(self) -> Result<(), AdmissionError> {
        let Some(refusal) = self.0 else { return Ok(()) };
        // Who is let in is told nothing.
        refusal.await.map_or(Ok(()), Err)
    }
}

impl TokenStream {
    /// The engine's decision, which is still to come where it may refuse: only it knows what of the prompt is cached.
    pub fn admission(&mut self) -> Admission {
        Admission(self.refusal.take())
    }

    /// The next event; `None` after `Finished`.
    pub async fn next(&mut self) -> Option<TokenEvent> {
        if self.finished {
            return None;
        }
        let event = self.events.recv().await;
        Some(self.note(event))
    }

    /// The next event if it is there already; `None` also after `Finished`.
    pub fn try_next(&mut self) -> Option<TokenEvent> {
        if self.finished {
            return None;
        }
        match self.events.try_recv() {
            Ok(event) => Some(self.note(Some(event))),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => Some(self.note(None)),
        }
    }

    /// Tokens of the prompt taken from the prefix cache: known from the first token on, 0 before. For who drops the stream before
    /// `Finished` tells it.
    pub fn cached_tokens(&self) -> usize {
        self.notes.cached_tokens.load(Ordering::Relaxed)
    }

    /// What was found out so far about the prompt, each score once: of its second token, its third, and so on; all of them are there when
    /// the first token is, or the end. None without [`GenerateRequest::prompt_logprobs`].
    pub fn prompt_scores(&self) -> Vec<TokenLogprobs> {
        std::mem::take(&mut self.notes.prompt_scores.lock().unwrap_or_else(PoisonError::into_inner).untaken)
    }

    /// Tells how long the request waited and was computed, also after the stream is gone.
    pub fn clock(&self) -> SequenceClock {
        self.notes.clock.clone()
    }

    /// The sequence that computes this request: `None` until the scheduler has it. For tests and the simulation.
    pub fn sequence(&self) -> Option<SequenceId> {
        self.notes.sequence.load(Ordering::Relaxed).checked_sub(1).map(SequenceId)
    }

    /// Ends a reply that is whole though the engine would go on: a stop string came, or all that was wanted. It counts as finished,
    /// where a stream that is merely dropped counts as cancelled.
    pub fn finish(self) {
        self.notes.has_enough.store(true, Ordering::Release);
    }

    /// Keeps count; a channel that ends without `Finished` is an engine that died, and the request gets its answer all the same.
    fn note(&mut self, event: Option<TokenEvent>) -> TokenEvent {
        let event = event.unwrap_or_else(|| {
            let refusal = self.notes.refusal.get().unwrap_or(&AdmissionError::Stopped);
            TokenEvent::Finished {
                reason: FinishReason::Failed(refusal.to_string()),
                usage: TokenUsage { cached_tokens: self.cached_tokens(), ..self.usage },
            }
        });
        match &event {
            TokenEvent::Token(_) => self.usage.completion_tokens += 1,
            TokenEvent::Finished { .. } => self.finished = true,
        }
        event
    }
}

impl Engine {
    /// Starts the thread.
    pub fn start(runner: Box<dyn ModelRunner>, config: EngineConfig) -> Self {
        let (engine, engine_loop) = Self::without_thread(runner, config);
        engine_loop.start();
        engine
    }

    /// As [`Self::start`], with long prefixes that outlive the process in `store`, and with guesses of a smaller model.
    pub fn start_with(
        runner: Box<dyn ModelRunner>,
        config: EngineConfig,
        store: Option<Box<dyn BlockStore>>,
        draft: Option<DraftModel>,
    ) -> Self {
        let (engine, engine_loop) = Self::without_thread(runner, config);
        let engine_loop = match store {
            Some(store) => engine_loop.with_store(store, DiskLimits::default()),
            None => engine_loop,
        };
        engine_loop.with_draft(draft).start();
        engine
    }

    /// The handle and the loop it speaks to; somebody has to turn it.
    pub fn without_thread(runner: Box<dyn ModelRunner>, config: EngineConfig) -> (Self, EngineLoop) {
        let config = config.within_its_own_bounds();
        let (commands, received) = std::sync::mpsc::sync_channel(config.places());
        let shared = Arc::new(Shared::new(config, runner.vocab()));
        let engine_loop = EngineLoop::new(runner, received, shared.clone());
        (Self { commands, shared }, engine_loop)
    }

    /// Whether one more request would be taken now. Somebody else may be faster: `generate` decides.
    pub fn room(&self) -> Result<(), AdmissionError> {
        let refusal = self.shared.refusal(&self.shared.occupancy.borrow());
        refusal.map_or(Ok(()), Err)
    }

    /// The longest prompt: it leaves room for one token of answer.
    pub fn prompt_tokens_max(&self) -> usize {
        self.shared.config.context_max - 1
    }

    pub fn generate(&self, request: GenerateRequest) -> Result<TokenStream, AdmissionError> {
        let Shared { config, vocab, .. } = &*self.shared;
        let prompt_tokens = request.prompt.len();
        if prompt_tokens == 0 {
            return Err(AdmissionError::EmptyPrompt);
        }
        if prompt_tokens > self.prompt_tokens_max() {
            return Err(AdmissionError::PromptTooLong { prompt_tokens, context_tokens: self.prompt_tokens_max() });
        }
        let biased = request.sampling.logit_bias.iter().map(|(token, _)| token);
        if let Some(&id) = request.prompt.iter().chain(biased).find(|&&id| id as usize >= *vocab) {
            return Err(AdmissionError::UnknownToken { id, vocab: *vocab });
        }
        let ticket = self.shared.take_place()?;

        let output_max = request.tokens_max.unwrap_or(usize::MAX).min(config.context_max - prompt_tokens);
        let (sender, events) = mpsc::channel(output_max + 1);
        let notes = Arc::new(StreamNotes::default());
        let usage = TokenUsage { prompt_tokens, ..TokenUsage::default() };
        let (refuse, refusal) = config.first_token_max.map(|_| oneshot::channel()).unzip();
        let stream = TokenStream { events, usage, notes: notes.clone(), refusal, finished: false };
        let add = Add { request, output_max, events: sender, notes, ticket, refuse, arrived: Instant::now() };
        match self.commands.try_send(Command::Add(Box::new(add))) {
            Ok(()) => Ok(stream),
            Err(TrySendError::Disconnected(_)) => Err(AdmissionError::Stopped),
            Err(TrySendError::Full(_)) => unreachable!("the channel has a place for every place taken"),
        }
    }

    pub fn stats(&self) -> EngineStats {
        let (stats, _) = self.shared.stats();
        let waiting = self.shared.occupancy.borrow().places_taken.saturating_sub(stats.running);
        EngineStats { waiting, ..stats }
    }

    /// Histograms of what requests took.
    pub fn meters(&self) -> &Meters {
        &self.shared.meters
    }

    /// As given to `start`, after `sequences_max` and `context_max` were cut to what the other sizes allow.
    pub fn config(&self) -> &EngineConfig {
        &self.shared.config
    }

    /// New requests are refused with `Draining`; running and waiting ones go on.
    pub fn drain(&self) {
        self.shared.occupancy.send_modify(|occupancy| occupancy.draining = true);
    }

    /// Waits until nothing runs and nothing waits.
    pub async fn drained(&self) {
        let mut occupancy = self.shared.occupancy.subscribe();
        let empty = occupancy.wait_for(|occupancy| occupancy.unanswered == 0 || occupancy.stopped).await;
        empty.expect("the sender lives in self");
    }
}

impl EngineConfig {
    fn within_its_own_bounds(self) -> Self {
        let Self { blocks, sequences_max, tokens_per_step_max, context_max, .. } = self;
        assert!(blocks > 0 && sequences_max > 0 && tokens_per_step_max > 0, "an engine of {self:?} can do nothing");
        let sequences_max = sequences_max.min(tokens_per_step_max);
        let context_max = context_max.min(blocks * kernels::BLOCK_TOKENS);
        Self { sequences_max, context_max, ..self }
    }

    /// Requests inside the engine at once.
    fn places(&self) -> usize {
        self.sequences_max.saturating_add(self.queue_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_contradict_each_other_are_cut() {
        let config = EngineConfig {
            blocks: 4,
            sequences_max: 100,
            tokens_per_step_max: 16,
            queue_max: 3,
            context_max: 1000,
            drafts_max: 0,
            first_token_max: None,
        };
        let config = config.within_its_own_bounds();
        assert_eq!((config.sequences_max, config.context_max, config.places()), (16, 128, 19));
    }
}
