//! The wire formats: bytes of a request in, our own [`chat::Request`] out; our own events in, JSON out. One dialect a file.
//!
//! Invariant: pure. Knows no HTTP library, no clock and no engine; what it accepts is wide, what it emits is exact.
#![deny(clippy::disallowed_methods)]

pub mod anthropic_conversation;
pub mod anthropic_count_tokens;
pub mod anthropic_events;
pub mod anthropic_messages;
pub mod anthropic_models;
pub mod llama_infill;
pub mod openai_chat;
pub mod openai_completions;
pub mod openai_embeddings;
pub mod openai_models;
pub mod openai_responses;
pub mod openai_shared;
pub mod openai_tools;
pub mod openai_types;
pub mod outgoing;
pub mod output_format;
pub mod sampling_fields;
pub mod thinking_fields;

pub mod openapi;
pub mod rerank;
pub mod tokenize;

pub mod errors;
pub mod fields;
pub mod memory;

use serde_json::Value;

use crate::chat::begun::BegunReply;
use crate::chat::reply::Reply;
use crate::chat::{self, Event, Usage};
use errors::ApiError;
use memory::{Memory, Record};

/// One wire format of generation. A value of it is one request's: it remembers what the reply must look like.
pub trait Dialect: Sized + Send + 'static {
    /// Its name in the log.
    const NAME: &'static str;
    /// The field that holds the prompt, for errors about it.
    const PROMPT_FIELD: &'static str;
    /// The field that says what the text of the reply must be, for errors about it.
    const OUTPUT_FORMAT_FIELD: &'static str = "response_format";
    /// Where a tool has the schema of its arguments, within the tool.
    const TOOL_SCHEMA_FIELD: &'static str = "function.parameters";

    /// Reads a body. Errors name the field and the place.
    fn parse(body: &[u8]) -> Result<Call<Self>, ApiError>;

    /// The same of a body that may point at earlier replies, in dialects whose bodies do.
    fn parse_with(body: &[u8], _: &dyn Memory) -> Result<Call<Self>, ApiError> {
        Self::parse(body)
    }

    /// The reply as it begins, in dialects whose replies can be asked for by their ids.
    fn record(&self, _: &ReplyHead) -> Option<Record> {
        None
    }

    /// JSON of the reply as far as its stream has come, in those dialects.
    fn so_far(&self, _: &ReplyHead) -> Option<String> {
        None
    }

    /// Frames before the first event of any choice.
    fn open(&mut self, head: &ReplyHead, frames: &mut Vec<Frame>);

    /// Whether a reply of this dialect that somebody else has begun can be gone on with.
    fn resumes() -> bool {
        false
    }

    /// Goes on with a reply of one choice that the client has the beginning of, as if the dialect had written that, instead of
    /// [`Self::open`]. Which frames follow says who began it and not [`ReplyHead`]. Only where [`Self::resumes`].
    fn resume(&mut self, _: &BegunReply) {
        unreachable!("{} resumes nothing", Self::NAME)
    }

    /// How far a choice has come, said before each of its events.
    fn progress(&mut self, _choice: usize, _usage: Usage) {}

    /// Frames of one event of one choice.
    fn event(&mut self, head: &ReplyHead, choice: usize, event: Event, frames: &mut Vec<Frame>);

    /// Frames after the last event of all choices.
    fn close(&mut self, head: &ReplyHead, usage: Usage, frames: &mut Vec<Frame>);

    /// What a silent stream says every few seconds, so that the client does not take it for dead. It must be what the client's own
    /// timers count as life: a comment is not, for some.
    fn keep_alive(&mut self, head: &ReplyHead) -> KeepAlive;

    /// Frames that end a stream which cannot go on.
    fn fail(&mut self, head: &ReplyHead, error: &ApiError, frames: &mut Vec<Frame>);

    /// The whole reply, as JSON.
    fn whole(&self, head: &ReplyHead, choices: Vec<Reply>, usage: Usage) -> String;
}

/// A request as read: what to do, and how to answer.
#[derive(Debug)]
pub struct Call<D> {
    pub request: chat::Request,
    pub stream: bool,
    /// The model the client asked for.
    pub model: Option<String>,
    pub dialect: D,
}

/// What every frame of a reply repeats.
#[derive(Debug, Clone, Default)]
pub struct ReplyHead {
    /// Unique part of the reply's id; the dialect puts its prefix before it.
    pub id: String,
    pub created_unix_s: i64,
    /// The model that really speaks.
    pub model: String,
    pub choices: usize,
    /// Of all prompts; each is counted once, however many choices continue it.
    pub prompt_tokens: usize,
}

/// What a silent stream says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeepAlive {
    /// A line that every client skips.
    Comment,
    Frame(Frame),
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The `event:` line, in dialects that have one.
    pub event: Option<&'static str>,
    pub data: String,
}

impl Frame {
    pub fn data(data: impl Into<String>) -> Self {
        Self { event: None, data: data.into() }
    }

    pub fn json(value: &Value) -> Self {
        Self::data(value.to_string())
    }

    pub fn of(value: &impl serde::Serialize) -> Self {
        Self::data(to_json(value))
    }

    /// With an `event:` line.
    pub fn named(event: &'static str, value: &Value) -> Self {
        Self { event: Some(event), data: value.to_string() }
    }
}

fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("our wire types are JSON")
}
