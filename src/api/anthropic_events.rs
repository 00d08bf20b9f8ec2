//! The JSON of Anthropic's messages and of the events of their streams, written without a map of the fields between.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

use super::Frame;
use crate::chat;

/// An event of a stream.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamEvent<'a> {
    MessageStart { message: Message<'a> },
    ContentBlockStart { index: usize, content_block: Block<'a> },
    ContentBlockDelta { index: usize, delta: Delta<'a> },
    ContentBlockStop { index: usize },
    MessageDelta { delta: Stop<'a>, usage: DeltaUsage },
    MessageStop {},
}

impl StreamEvent<'_> {
    pub fn frame(&self) -> Frame {
        let event = match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop {} => "message_stop",
        };
        Frame { event: Some(event), ..Frame::of(self) }
    }
}

/// A whole reply, or one that begins.
#[derive(Debug, Serialize)]
pub struct Message<'a> {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub role: &'static str,
    pub model: &'a str,
    pub content: Vec<Block<'a>>,
    #[serde(flatten)]
    pub stop: Stop<'a>,
    pub usage: Usage,
}

/// Why a reply ended, and which of the client's stop sequences ended it.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Stop<'a> {
    pub stop_reason: Option<&'static str>,
    pub stop_sequence: Option<&'a str>,
}

/// A block of a reply's content.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block<'a> {
    Text { text: Cow<'a, str> },
    Thinking { thinking: &'a str, signature: String },
    ToolUse { id: String, name: &'a str, input: Value },
}

/// A piece of a block.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Delta<'a> {
    TextDelta { text: &'a str },
    ThinkingDelta { thinking: &'a str },
    SignatureDelta { signature: String },
    InputJsonDelta { partial_json: &'a str },
}

/// Anthropic's `input_tokens` are those that were computed: with what was read from the cache they add up to the prompt.
#[derive(Debug, Serialize)]
pub struct Usage {
    input_tokens: usize,
    cache_creation_input_tokens: usize,
    cache_read_input_tokens: usize,
    output_tokens: usize,
    output_tokens_details: OutputTokensDetails,
}

#[derive(Debug, Serialize)]
struct OutputTokensDetails {
    thinking_tokens: usize,
}

impl From<&chat::Usage> for Usage {
    fn from(usage: &chat::Usage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens - usage.cached_tokens,
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: usage.cached_tokens,
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokensDetails { thinking_tokens: usage.thinking_tokens },
        }
    }
}

/// What a `message_delta` says of it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum DeltaUsage {
    Whole(Usage),
    /// In the middle of a reply.
    SoFar {
        output_tokens: usize,
    },
}
