//! What a client asks for and what it gets back, in our own words: requests, messages, tools, events. Every dialect of `api/` is
//! translated to these and from these.
//!
//! Invariant: knows no provider's wire format and no HTTP; clock and randomness are arguments.
#![deny(clippy::disallowed_methods)]

pub mod prepare;

pub mod grammar;

pub mod begun;
pub mod begun_arguments;
pub mod partial_json;
pub mod reply_so_far;
pub mod schema_check;
pub mod token_healing;

pub mod chat_template;
pub mod control_text;
pub mod landmarks;
pub mod python_values;
pub mod sequence_breakers;
pub mod template_helpers;
pub mod template_messages;

pub mod output;
pub mod reasoning_parser;
pub mod reply;
pub mod scored_prompt;
pub mod stop_strings;
pub mod thinking_budget;
pub mod tool_formats;

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::engine::Priority;
use begun::BegunReply;

/// One request, whatever the dialect it came in.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Request {
    /// What to continue; a conversation comes alone, `/v1/completions` may bring several prompts. Choice `p * n + i` is the
    /// `i`-th of prompt `p`.
    pub prompts: Vec<Prompt>,
    /// `n`: replies wanted for each prompt.
    pub choices_per_prompt: usize,
    /// `None`: until the context is full.
    pub tokens_max: Option<usize>,
    /// The model does not end its turn before so many.
    pub tokens_min: usize,
    /// The reply ends before the first of these.
    pub stop: Vec<String>,
    /// Tokens that end the reply beside the model's own ends of turn.
    pub stop_token_ids: Vec<u32>,
    pub sampling: SamplingOptions,
    /// What the text of the reply must be.
    pub output_format: OutputFormat,
    /// `Some(n)`: log-probabilities of each token and of the `n` likeliest.
    pub top_logprobs: Option<usize>,
    /// The reply begins with the prompt's own text, and with the log-probabilities of that, where some are asked for.
    pub echo: bool,
    pub priority: Priority,
    /// Go on after an end-of-turn token, up to `tokens_max`.
    pub ignore_end_of_turn: bool,
    /// Somebody else has begun the reply, and the client has that: of one choice of one conversation.
    pub begun: Option<BegunReply>,
}

/// What the model is to continue.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    Conversation(Conversation),
    /// Text as it stands; control tokens written in it are control tokens.
    Text(String),
    Tokens(Vec<u32>),
    /// The model writes what stands between the two, with its own fill-in-the-middle tokens.
    FillInTheMiddle {
        prefix: String,
        suffix: String,
        /// Pieces of other files that may help.
        files: Vec<ContextFile>,
    },
}

/// A piece of a file of the same repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextFile {
    pub name: Option<String>,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conversation {
    pub messages: Vec<Message>,
    pub tools: Vec<ToolDefinition>,
    pub tool_choice: ToolChoice,
    /// `false`: at most one tool call in the reply.
    pub parallel_tool_calls: bool,
    pub thinking: Thinking,
    /// The last message is the assistant's and is not finished: the reply goes on where it ends ("prefill").
    pub continues_last: bool,
    /// Extra variables for the chat template (`enable_thinking`, ...).
    pub template_variables: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    System,
    /// Rendered as `system` where the model's template does not know it.
    Developer,
    User,
    Assistant,
    Tool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub role: Role,
    pub content: Vec<Part>,
    /// What the assistant thought before it spoke.
    pub thinking: Option<String>,
    /// Calls the assistant made.
    pub tool_calls: Vec<ToolCall>,
    /// In a message of [`Role::Tool`]: the call it answers.
    pub tool_call_id: Option<String>,
    pub name: Option<String>,
}

/// A piece of a message's content.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Text(String),
}

impl Message {
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self { role, content: vec![Part::Text(text.into())], thinking: None, tool_calls: Vec::new(), tool_call_id: None, name: None }
    }

    /// All text parts, a line break between them: one part reads the same as a plain string.
    pub fn joined_text(&self) -> String {
        let texts: Vec<&str> = self.content.iter().map(|Part::Text(text)| text.as_str()).collect();
        texts.join("\n")
    }
}

/// A function the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolDefinition {
    pub name: String,
    pub description: Option<String>,
    /// JSON schema of the arguments.
    pub parameters: Option<Value>,
    /// The arguments must follow the schema exactly.
    pub strict: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// The tools are not shown to the model.
    None,
    /// Some tool must be called.
    Required,
    /// This tool must be called.
    Named(String),
    /// Only these may be called, though the model is shown all (so that the prompt stays the same); `required`: one of them must be.
    Allowed { names: Vec<String>, required: bool },
}

impl ToolChoice {
    /// Whether this tool may be called if any may.
    pub fn includes(&self, tool: &str) -> bool {
        match self {
            Self::Auto | Self::None | Self::Required => true,
            Self::Named(name) => name == tool,
            Self::Allowed { names, .. } => names.iter().any(|name| name == tool),
        }
    }
}

/// What the text of a reply must be, from its first character to its last. Thinking and tool calls are not part of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum OutputFormat {
    #[default]
    Text,
    /// Some JSON object.
    JsonObject,
    /// JSON that follows this schema.
    JsonSchema(Value),
    /// A text that the whole of this expression matches (the syntax of Rust's `regex`).
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A grammar in llguidance's dialect of Lark.
    Lark(String),
}

/// Whether and how long the model thinks before it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Thinking {
    /// `None`: as the model's template has it.
    pub wanted: Option<bool>,
    /// Tokens after which thinking is ended for the model.
    pub budget_tokens: Option<usize>,
    pub effort: Option<Effort>,
}

/// How hard to think, for templates that ask (gpt-oss).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    Low,
    Medium,
    High,
}

/// A call the assistant made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// JSON text, as the model wrote it: digits, spaces and order of fields included.
    pub arguments: String,
}

/// What the request says about sampling; what it leaves open is filled from [`SamplingDefaults`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SamplingOptions {
    pub temperature: Option<f32>,
    pub top_k: Option<usize>,
    pub typical_p: Option<f32>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub seed: Option<u64>,
    pub repetition_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    /// Tokens these three look back on; `None`: all.
    pub repeat_last_n: Option<usize>,
    pub dry: Option<DryOptions>,
    pub logit_bias: Vec<(u32, f32)>,
}

/// The "don't repeat yourself" penalty, see `engine::sampler::dry`.
#[derive(Debug, Clone, PartialEq)]
pub struct DryOptions {
    pub multiplier: f32,
    pub base: f32,
    pub allowed_length: usize,
    /// Tokens it looks back on; `None`: all.
    pub last_n: Option<usize>,
    /// Strings that end a repetition; `None`: the usual ones.
    pub breakers: Option<Vec<String>>,
}

/// What may be asked for, whoever asks: a request, the command line, the model's file.
impl SamplingOptions {
    pub const TEMPERATURE: RangeInclusive<f64> = 0.0..=2.0;
    pub const TYPICAL_P: RangeInclusive<f64> = 0.0..=1.0;
    pub const TOP_P: RangeInclusive<f64> = 0.0..=1.0;
    pub const MIN_P: RangeInclusive<f64> = 0.0..=1.0;
    pub const REPETITION_PENALTY: RangeInclusive<f64> = 0.01..=10.0;
    pub const PRESENCE_PENALTY: RangeInclusive<f64> = -2.0..=2.0;
    pub const FREQUENCY_PENALTY: RangeInclusive<f64> = -2.0..=2.0;
    pub const DRY_MULTIPLIER: RangeInclusive<f64> = 0.0..=100.0;
    /// Below 1 a longer repetition would cost less.
    pub const DRY_BASE: RangeInclusive<f64> = 1.0..=100.0;
    pub const LOGIT_BIAS: RangeInclusive<f64> = -100.0..=100.0;
}

/// What the model's file or the user's configuration recommends; `None` leaves it to OpenAI's defaults (temperature 1, top_p 1).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SamplingDefaults {
    pub temperature: Option<f32>,
    pub top_k: Option<usize>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
}

/// What happens in one choice of a reply, in order. `Finished` or `Failed` comes last, once.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Text(TextDelta),
    Thinking(String),
    /// `index` counts the calls of this choice from 0.
    ToolCallStarted {
        index: usize,
        id: String,
        name: String,
    },
    /// The next piece of the arguments' JSON text.
    ToolCallArguments {
        index: usize,
        json: String,
    },
    ToolCallEnded {
        index: usize,
    },
    Finished {
        reason: FinishReason,
        usage: Usage,
    },
    /// The model failed; the message is for the client and the log.
    Failed(String),
}

/// Text that became certain, and the tokens that begin in it (only when log-probabilities were asked for).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TextDelta {
    pub text: String,
    pub tokens: Vec<ScoredToken>,
}

/// A token with its log-probability and its rivals.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredToken {
    pub token: TokenText,
    /// Natural logarithm; `None`: the first token of a prompt, which follows nothing.
    pub logprob: Option<f32>,
    /// Likeliest first.
    pub top: Vec<(TokenText, f32)>,
    /// Where its text begins, in characters from the start of the choice's text.
    pub text_offset: usize,
}

/// The bytes a token stands for; they need not be whole characters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenText {
    pub bytes: Vec<u8>,
}

impl TokenText {
    /// The text, with U+FFFD for what is no character by itself.
    pub fn lossy(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn.
    EndOfTurn,
    /// One of the request's stop strings came.
    StopString(String),
    /// `tokens_max` or the context is reached.
    Length,
    /// The reply calls tools and waits for their results.
    ToolCalls,
    /// A provider's filter ended it, or its model would not answer. Only replies of other servers end so.
    Refused,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: usize,
    /// Of these, taken from the prefix cache.
    pub cached_tokens: usize,
    pub completion_tokens: usize,
    /// Of the completion, spent on thinking.
    pub thinking_tokens: usize,
}
