//! The engine's front: a request goes in, a stream of tokens comes out. Behind it one thread owns the model and all state.
//!
//! Invariant: the engine sees token ids; it knows no text.

use models::Logits;

/// One sequence to generate.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    pub prompt: Vec<u32>,
    /// Most tokens to generate; `None`: until the context is full. Beyond the context is no error: the reply ends with `Length`.
    pub tokens_max: Option<usize>,
    /// Tokens that end the sequence (not part of the text); empty with `ignore_eos`.
    pub stop_token_ids: Vec<u32>,
    pub sampling: SamplingParams,
    /// `Some(n)`: the log-probability of each token, and of the `n` likeliest (`n` may be 0).
    pub top_logprobs: Option<usize>,
}

/// How the next token is chosen from the logits.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the `k` likeliest; `None`: all.
    pub top_k: Option<usize>,
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
    /// Added to the logit of a token.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
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
    pub completion_tokens: usize,
}

/// Why a request was not taken. Nothing has happened then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    #[error("the prompt is empty")]
    EmptyPrompt,
    #[error("prompt is too long: {prompt_tokens} tokens > {context_tokens} maximum")]
    PromptTooLong { prompt_tokens: usize, context_tokens: usize },
    #[error("token id {id} is not in the vocabulary of {vocab}")]
    UnknownToken { id: u32, vocab: usize },
    #[error("{waiting} requests are waiting already")]
    QueueFull { waiting: usize, retry_after_s: u64 },
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
    /// Sequences that run at once (`--parallel`).
    pub sequences_max: usize,
    /// Rows of one step.
    pub tokens_per_step_max: usize,
    /// Requests that may wait.
    pub queue_max: usize,
    /// Prompt plus output of one sequence, in tokens.
    pub context_max: usize,
}

/// What runs a step: the loaded model, or a fake one in tests.
pub trait ModelRunner: Send + 'static {
    fn vocab(&self) -> usize;
    /// Runs `token_ids [T]`; returns the logits of `step.logit_rows`.
    fn run(&mut self, token_ids: &[u32], step: &kernels::Step) -> Result<Logits, String>;
}

/// Numbers for the status page and metrics; read without stopping the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStats {
    pub running: usize,
    pub waiting: usize,
    pub blocks_used: usize,
    pub blocks_total: usize,
    pub prompt_tokens_total: u64,
    pub cached_tokens_total: u64,
    pub generated_tokens_total: u64,
    pub steps_total: u64,
}

/// Handle to the engine thread; clones share it.
#[derive(Debug, Clone)]
pub struct Engine {}

/// The tokens of one request; dropping it cancels the request within one step.
#[derive(Debug)]
pub struct TokenStream {}

impl TokenStream {
    /// The next event; `None` after `Finished`.
    pub async fn next(&mut self) -> Option<TokenEvent> {
        None
    }
}

impl Engine {
    /// Starts the thread.
    pub fn start(_runner: Box<dyn ModelRunner>, _config: EngineConfig) -> Self {
        Self {}
    }
    pub fn generate(&self, _request: GenerateRequest) -> Result<TokenStream, AdmissionError> {
        Err(AdmissionError::Stopped)
    }
    pub fn stats(&self) -> EngineStats {
        EngineStats::default()
    }
    pub fn config(&self) -> &EngineConfig {
        unreachable!("seam")
    }
    /// New requests are refused with `Draining`; running and waiting ones go on.
    pub fn drain(&self) {}
    /// Waits until nothing runs and nothing waits.
    pub async fn drained(&self) {}
}
