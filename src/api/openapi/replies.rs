//! What replies look like, for the document, where the dialect that writes them has no types of its own (those of chat completions and
//! completions are in `openai_types.rs`). A test holds real replies against them.
// Only the schemas of these types are used.
#![allow(dead_code)]

use schemars::JsonSchema;
use serde_json::{Map, Value};

/// A constant of the wire: an enum of one word.
macro_rules! word {
    ($name:ident, $value:literal) => {
        #[derive(JsonSchema)]
        pub enum $name {
            #[serde(rename = $value)]
            It,
        }
    };
}

word!(MessageType, "message");
word!(ErrorType, "error");
word!(ResponseObject, "response");
word!(ListObject, "list");
word!(ModelObject, "model");

/// The reply of `POST /v1/messages`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AnthropicMessage {
    id: String,
    r#type: MessageType,
    role: super::super::openai_types::AssistantRole,
    model: String,
    content: Vec<ContentBlock>,
    stop_reason: Option<StopReason>,
    stop_sequence: Option<String>,
    usage: AnthropicUsage,
}

#[derive(JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentBlock {
    Text { text: String },
    Thinking { thinking: String, signature: String },
    ToolUse { id: String, name: String, input: Map<String, Value> },
}

#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    EndTurn,
    MaxTokens,
    StopSequence,
    ToolUse,
    ModelContextWindowExceeded,
}

/// `input_tokens` were computed, `cache_read_input_tokens` were known: together they are the prompt.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AnthropicUsage {
    input_tokens: u64,
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
    output_tokens: u64,
    output_tokens_details: OutputTokensDetails,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct OutputTokensDetails {
    thinking_tokens: u64,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct CountedTokens {
    input_tokens: u64,
}

/// An event of a stream of `POST /v1/messages`. A `message_delta` whose `stop_reason` is null only says that the stream lives.
#[derive(JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AnthropicEvent {
    MessageStart { message: AnthropicMessage },
    ContentBlockStart { index: u64, content_block: ContentBlock },
    ContentBlockDelta { index: u64, delta: BlockDelta },
    ContentBlockStop { index: u64 },
    MessageDelta { delta: MessageDelta, usage: Map<String, Value> },
    MessageStop,
    Error { error: AnthropicErrorBody },
}

#[derive(JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BlockDelta {
    TextDelta { text: String },
    ThinkingDelta { thinking: String },
    SignatureDelta { signature: String },
    InputJsonDelta { partial_json: String },
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct MessageDelta {
    stop_reason: Option<StopReason>,
    stop_sequence: Option<String>,
}

/// What goes wrong under `/v1/messages`, and for clients that send `anthropic-version`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AnthropicError {
    r#type: ErrorType,
    error: AnthropicErrorBody,
    request_id: String,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AnthropicErrorBody {
    r#type: String,
    message: String,
}

/// What goes wrong everywhere else.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct OpenAiError {
    error: OpenAiErrorBody,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct OpenAiErrorBody {
    message: String,
    r#type: String,
    /// The field it is about.
    param: Option<String>,
    code: Option<String>,
}

/// The reply of `POST /v1/responses`. It also repeats how it was asked for.
#[derive(JsonSchema)]
pub struct Response {
    id: String,
    object: ResponseObject,
    created_at: i64,
    status: ResponseStatus,
    model: String,
    output: Vec<OutputItem>,
    usage: Option<ResponseUsage>,
    error: Option<Map<String, Value>>,
    incomplete_details: Option<Map<String, Value>>,
    parallel_tool_calls: bool,
    tool_choice: Value,
    tools: Vec<Map<String, Value>>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResponseStatus {
    InProgress,
    Completed,
    Incomplete,
    Failed,
    Cancelled,
}

#[derive(JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    Message { id: String, status: String, role: super::super::openai_types::AssistantRole, content: Vec<Map<String, Value>> },
    FunctionCall { id: String, status: String, call_id: String, name: String, arguments: String, namespace: Option<String> },
    CustomToolCall { id: String, status: String, call_id: String, name: String, input: String },
    Reasoning { id: String, summary: Vec<Map<String, Value>> },
}

#[derive(JsonSchema)]
pub struct ResponseUsage {
    input_tokens: u64,
    input_tokens_details: Map<String, Value>,
    output_tokens: u64,
    output_tokens_details: Map<String, Value>,
    total_tokens: u64,
}

/// The reply of `POST /infill`: these fields, or those that `response_fields` chooses, each under its path.
#[derive(JsonSchema)]
pub struct Infill {
    content: Option<String>,
    stop: Option<bool>,
    model: Option<String>,
    tokens_predicted: Option<u64>,
    tokens_evaluated: Option<u64>,
    stop_type: Option<String>,
    timings: Option<Map<String, Value>>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ModelList {
    object: ListObject,
    data: Vec<Model>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Model {
    id: String,
    object: ModelObject,
    created: i64,
    owned_by: String,
    /// Prompt plus reply, in tokens.
    max_model_len: u64,
    meta: Map<String, Value>,
}

#[derive(JsonSchema)]
pub struct Embeddings {
    object: ListObject,
    model: String,
    data: Vec<Map<String, Value>>,
    usage: Map<String, Value>,
}

#[derive(JsonSchema)]
pub struct Ranking {
    model: String,
    /// Most relevant first.
    results: Vec<Map<String, Value>>,
}

#[derive(JsonSchema)]
pub struct Tokens {
    tokens: Vec<Value>,
    count: u64,
    max_model_len: u64,
}

/// Any JSON object.
#[derive(JsonSchema)]
#[schemars(transparent)]
pub struct AnyObject(Map<String, Value>);
