//! What OpenAI's chat completions and completions look like on the wire. The OpenAPI document is made of these types.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::chat::{FinishReason, ScoredToken, TokenText};

/// JSON has no infinity; OpenAI writes this for "impossible".
const IMPOSSIBLE: f64 = -9999.0;

/// The reply of `POST /v1/chat/completions`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ChatCompletion<'a> {
    pub id: String,
    pub object: ChatCompletionObject,
    /// Seconds since 1970.
    pub created: i64,
    /// Who really speaks, whatever name was asked for.
    pub model: &'a str,
    pub choices: Vec<ChatChoice>,
    pub usage: Usage,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct ChatChoice {
    pub index: usize,
    pub message: ChatMessage,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: Option<Finish>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct ChatMessage {
    pub role: AssistantRole,
    /// `null` where the reply is nothing but tool calls.
    pub content: Option<String>,
    /// Always `null`: a refusal is a text like another.
    pub refusal: Option<String>,
    /// What the model thought before it spoke.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct ToolCall {
    pub id: String,
    pub r#type: FunctionType,
    pub function: FunctionCall,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct FunctionCall {
    pub name: String,
    /// JSON text, as the model wrote it.
    pub arguments: String,
}

/// An event of a stream of `POST /v1/chat/completions`; after the last comes `[DONE]`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ChatCompletionChunk<'a> {
    /// The same in all chunks of a stream.
    pub id: Id<'a>,
    pub object: ChatCompletionChunkObject,
    pub created: i64,
    pub model: &'a str,
    /// One; none in the last chunk, if the usage was asked for.
    pub choices: Vec<ChunkChoice<'a>>,
    /// Only with `stream_options.include_usage`: `null` until the last chunk, unless `continuous_usage_stats` asks for more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct ChunkChoice<'a> {
    pub index: usize,
    pub delta: Delta<'a>,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: Option<Finish>,
}

/// What has come; nothing at all in a chunk that only says that the stream lives.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<AssistantRole>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<[ToolCallDelta<'a>; 1]>,
}

/// `id`, `type` and the name come once, at the beginning of a call.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ToolCallDelta<'a> {
    /// Which of the reply's calls.
    pub index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<FunctionType>,
    pub function: FunctionDelta<'a>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct FunctionDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Cow<'a, str>>,
    pub arguments: Cow<'a, str>,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct ChatLogprobs {
    pub content: Vec<ChatLogprob>,
    pub refusal: Option<Vec<ChatLogprob>>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct ChatLogprob {
    #[serde(flatten)]
    pub token: TokenLogprob,
    /// Likeliest first.
    pub top_logprobs: Vec<TokenLogprob>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct TokenLogprob {
    pub token: String,
    /// Natural logarithm.
    pub logprob: f64,
    /// A token need not be whole characters.
    pub bytes: Vec<u8>,
}

/// The reply of `POST /v1/completions`, and every event of its stream.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Completion<'a> {
    pub id: Id<'a>,
    pub object: CompletionObject,
    pub created: i64,
    pub model: &'a str,
    pub choices: Vec<CompletionChoice<'a>>,
    /// In a stream as in [`ChatCompletionChunk`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct CompletionChoice<'a> {
    pub text: Cow<'a, str>,
    pub index: usize,
    pub logprobs: Option<CompletionLogprobs>,
    pub finish_reason: Option<Finish>,
}

/// A list each, as long as there are tokens.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CompletionLogprobs {
    pub tokens: Vec<String>,
    /// `null` for the first token of a prompt that is echoed: it follows nothing.
    pub token_logprobs: Vec<Option<f64>>,
    /// Of each token: its likeliest rivals and itself; `null` where it has no log-probability.
    pub top_logprobs: Option<Vec<Option<Map<String, Value>>>>,
    /// In characters, from the beginning of the choice's text.
    pub text_offset: Vec<usize>,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub total_tokens: usize,
    pub prompt_tokens_details: PromptTokensDetails,
    pub completion_tokens_details: CompletionTokensDetails,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct PromptTokensDetails {
    /// Taken from the prefix cache.
    pub cached_tokens: usize,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct CompletionTokensDetails {
    /// Spent on thinking.
    pub reasoning_tokens: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    Stop,
    Length,
    ToolCalls,
    ContentFilter,
}

/// `prefix` and the reply's own name.
#[derive(Debug, Clone, Copy)]
pub struct Id<'a> {
    pub prefix: &'static str,
    pub name: &'a str,
}

impl Serialize for Id<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}{}", self.prefix, self.name))
    }
}

impl JsonSchema for Id<'_> {
    fn schema_name() -> Cow<'static, str> {
        "Id".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        String::json_schema(generator)
    }
}

/// A field that always has the same value.
macro_rules! constant {
    ($name:ident, $value:literal) => {
        #[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
        pub enum $name {
            #[serde(rename = $value)]
            It,
        }
    };
}

constant!(ChatCompletionObject, "chat.completion");
constant!(ChatCompletionChunkObject, "chat.completion.chunk");
constant!(CompletionObject, "text_completion");
constant!(AssistantRole, "assistant");
constant!(FunctionType, "function");

impl From<&FinishReason> for Finish {
    fn from(reason: &FinishReason) -> Self {
        match reason {
            FinishReason::EndOfTurn | FinishReason::StopString(_) => Self::Stop,
            FinishReason::Length => Self::Length,
            FinishReason::ToolCalls => Self::ToolCalls,
            FinishReason::Refused => Self::ContentFilter,
        }
    }
}

impl From<&crate::chat::Usage> for Usage {
    fn from(usage: &crate::chat::Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens + usage.completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: usage.cached_tokens },
            completion_tokens_details: CompletionTokensDetails { reasoning_tokens: usage.thinking_tokens },
        }
    }
}

impl ChatLogprobs {
    /// `None`: there are no tokens to tell of.
    pub fn of(tokens: &[ScoredToken]) -> Option<Self> {
        let entry = |(token, logprob): (&TokenText, f32)| TokenLogprob {
            token: token.lossy(),
            logprob: finite(logprob),
            bytes: token.bytes.clone(),
        };
        // A chat shows no prompt: each of its tokens has one.
        let scored = tokens.iter().filter_map(|scored| Some((scored, scored.logprob?)));
        let content = scored.map(|(scored, logprob)| ChatLogprob {
            token: entry((&scored.token, logprob)),
            top_logprobs: scored.top.iter().map(|(token, logprob)| entry((token, *logprob))).collect(),
        });
        (!tokens.is_empty()).then(|| Self { content: content.collect(), refusal: None })
    }
}

/// A log-probability as JSON can hold it.
pub fn finite(logprob: f32) -> f64 {
    if logprob.is_finite() { f64::from(logprob) } else { IMPOSSIBLE }
}
