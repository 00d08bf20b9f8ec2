//! What requests look like, for the document. The dialects read bodies field by field, so that an error names the place; a test holds
//! that each field told of here is read: a value of the wrong kind is refused by its name.
//!
//! Bodies may hold more than this: fields that are not known are passed over.
// Only the schemas of these types are used.
#![allow(dead_code)]

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde_json::{Map, Value};

/// What chooses a token, in all dialects that have room for it.
#[derive(JsonSchema)]
pub struct Sampling {
    /// 0 takes the likeliest token.
    #[schemars(range(min = 0, max = 2))]
    temperature: Option<f64>,
    #[schemars(range(min = 0, max = 1))]
    top_p: Option<f64>,
    /// 0 and -1: all.
    #[schemars(range(min = -1))]
    top_k: Option<i64>,
    #[schemars(range(min = 0, max = 1))]
    min_p: Option<f64>,
    #[schemars(range(min = 0, max = 1))]
    typical_p: Option<f64>,
    seed: Option<i64>,
    #[schemars(range(min = -2, max = 2))]
    presence_penalty: Option<f64>,
    #[schemars(range(min = -2, max = 2))]
    frequency_penalty: Option<f64>,
    #[schemars(range(min = 0.01, max = 10))]
    repetition_penalty: Option<f64>,
    /// Added to logits, by token id.
    logit_bias: Option<BTreeMap<String, f64>>,
}

#[derive(JsonSchema)]
pub struct ChatCompletionRequest {
    /// Any name: the loaded model answers, and says its own.
    model: Option<String>,
    #[schemars(length(min = 1))]
    messages: Vec<ChatRequestMessage>,
    #[serde(flatten)]
    sampling: Sampling,
    #[schemars(range(min = 1))]
    max_tokens: Option<i64>,
    #[schemars(range(min = 1))]
    max_completion_tokens: Option<i64>,
    #[schemars(range(min = 1, max = 128))]
    n: Option<i64>,
    stop: Option<OneOrMany>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    logprobs: Option<bool>,
    #[schemars(range(min = 0, max = 20))]
    top_logprobs: Option<i64>,
    tools: Option<Vec<ChatTool>>,
    tool_choice: Option<ChatToolChoice>,
    parallel_tool_calls: Option<bool>,
    response_format: Option<ResponseFormat>,
    reasoning_effort: Option<ReasoningEffort>,
    /// Variables for the model's chat template.
    chat_template_kwargs: Option<Map<String, Value>>,
}

/// `content` may be absent in a message of the assistant's that calls tools.
#[derive(JsonSchema)]
pub struct ChatRequestMessage {
    role: ChatRole,
    content: Option<TextOrParts>,
    name: Option<String>,
    /// In a message of the role `tool`.
    tool_call_id: Option<String>,
    tool_calls: Option<Vec<ChatRequestToolCall>>,
    reasoning_content: Option<String>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChatRole {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

#[derive(JsonSchema)]
#[serde(untagged)]
pub enum TextOrParts {
    Text(String),
    Parts(Vec<TextPart>),
}

#[derive(JsonSchema)]
pub struct TextPart {
    r#type: TextPartType,
    text: String,
}

#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextPartType {
    Text,
}

#[derive(JsonSchema)]
pub struct ChatRequestToolCall {
    id: String,
    function: ChatRequestFunction,
}

#[derive(JsonSchema)]
pub struct ChatRequestFunction {
    name: String,
    arguments: String,
}

#[derive(JsonSchema)]
pub struct ChatTool {
    r#type: super::super::openai_types::FunctionType,
    function: FunctionDefinition,
}

#[derive(JsonSchema)]
pub struct FunctionDefinition {
    name: String,
    description: Option<String>,
    /// The JSON schema of its arguments.
    parameters: Option<Map<String, Value>>,
    strict: Option<bool>,
}

#[derive(JsonSchema)]
#[serde(untagged)]
pub enum ChatToolChoice {
    Word(ToolChoiceWord),
    /// One function, or `allowed_tools`.
    Object(Map<String, Value>),
}

#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoiceWord {
    Auto,
    None,
    Required,
}

#[derive(JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    Text,
    JsonObject,
    JsonSchema { json_schema: NamedSchema },
}

#[derive(JsonSchema)]
pub struct NamedSchema {
    name: Option<String>,
    schema: Map<String, Value>,
    strict: Option<bool>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReasoningEffort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    Xhigh,
}

#[derive(JsonSchema)]
pub struct StreamOptions {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

#[derive(JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(JsonSchema)]
pub struct CompletionRequest {
    model: Option<String>,
    prompt: CompletionPrompt,
    /// What comes after the text that is wanted.
    suffix: Option<String>,
    #[serde(flatten)]
    sampling: Sampling,
    #[schemars(range(min = 1))]
    max_tokens: Option<i64>,
    #[schemars(range(min = 1, max = 128))]
    n: Option<i64>,
    stop: Option<OneOrMany>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    echo: Option<bool>,
    #[schemars(range(min = 0, max = 20))]
    logprobs: Option<i64>,
    response_format: Option<ResponseFormat>,
}

#[derive(JsonSchema)]
#[serde(untagged)]
pub enum CompletionPrompt {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    ManyTokens(Vec<Vec<u32>>),
}

#[derive(JsonSchema)]
pub struct InfillRequest {
    input_prefix: Option<String>,
    input_suffix: Option<String>,
    /// What was typed on the line of the cursor.
    prompt: Option<String>,
    input_extra: Option<Vec<InfillExtra>>,
    #[serde(flatten)]
    sampling: Sampling,
    /// -1: to the end of the context; 0 computes the prompt and keeps it.
    #[schemars(range(min = -1))]
    n_predict: Option<i64>,
    stop: Option<OneOrMany>,
    stream: Option<bool>,
    response_fields: Option<Vec<String>>,
}

#[derive(JsonSchema)]
pub struct InfillExtra {
    filename: Option<String>,
    text: String,
}

#[derive(JsonSchema)]
pub struct MessagesRequest {
    model: Option<String>,
    /// 0 computes the prompt and keeps it.
    #[schemars(range(min = 0))]
    max_tokens: i64,
    #[serde(flatten)]
    prompt: MessagesPrompt,
    stream: Option<bool>,
}

#[derive(JsonSchema)]
pub struct CountTokensRequest {
    model: Option<String>,
    #[serde(flatten)]
    prompt: MessagesPrompt,
}

/// What a request of Anthropic's says beside the limits of its reply.
#[derive(JsonSchema)]
pub struct MessagesPrompt {
    system: Option<TextOrParts>,
    #[schemars(length(min = 1))]
    messages: Vec<AnthropicRequestMessage>,
    tools: Option<Vec<AnthropicTool>>,
    tool_choice: Option<AnthropicToolChoice>,
    thinking: Option<AnthropicThinking>,
    output_config: Option<Map<String, Value>>,
    stop_sequences: Option<Vec<String>>,
    #[schemars(range(min = 0, max = 2))]
    temperature: Option<f64>,
    #[schemars(range(min = 0, max = 1))]
    top_p: Option<f64>,
    #[schemars(range(min = -1))]
    top_k: Option<i64>,
}

#[derive(JsonSchema)]
pub struct AnthropicRequestMessage {
    role: AnthropicRole,
    content: AnthropicContent,
}

#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnthropicRole {
    User,
    Assistant,
    System,
}

#[derive(JsonSchema)]
#[serde(untagged)]
pub enum AnthropicContent {
    Text(String),
    /// Text, thinking, tool use, results of tools.
    Blocks(Vec<Map<String, Value>>),
}

#[derive(JsonSchema)]
pub struct AnthropicTool {
    name: String,
    description: Option<String>,
    input_schema: Map<String, Value>,
}

#[derive(JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AnthropicToolChoice {
    Auto { disable_parallel_tool_use: Option<bool> },
    Any { disable_parallel_tool_use: Option<bool> },
    Tool { name: String, disable_parallel_tool_use: Option<bool> },
    None,
}

#[derive(JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AnthropicThinking {
    Enabled { budget_tokens: Option<u64> },
    Adaptive,
    Disabled,
}

#[derive(JsonSchema)]
pub struct ResponsesRequest {
    model: Option<String>,
    input: ResponsesInput,
    instructions: Option<String>,
    previous_response_id: Option<String>,
    #[schemars(range(min = 1))]
    max_output_tokens: Option<i64>,
    #[schemars(range(min = 0, max = 2))]
    temperature: Option<f64>,
    #[schemars(range(min = 0, max = 1))]
    top_p: Option<f64>,
    #[schemars(range(min = 0, max = 20))]
    top_logprobs: Option<i64>,
    stream: Option<bool>,
    store: Option<bool>,
    tools: Option<Vec<Map<String, Value>>>,
    parallel_tool_calls: Option<bool>,
    text: Option<Map<String, Value>>,
    reasoning: Option<Reasoning>,
    metadata: Option<BTreeMap<String, String>>,
    include: Option<Vec<String>>,
}

#[derive(JsonSchema)]
#[serde(untagged)]
pub enum ResponsesInput {
    Text(String),
    /// Messages, calls and their results, reasoning, references.
    Items(Vec<Map<String, Value>>),
}

#[derive(JsonSchema)]
pub struct Reasoning {
    effort: Option<ReasoningEffort>,
    summary: Option<String>,
}

#[derive(JsonSchema)]
pub struct EmbeddingsRequest {
    model: Option<String>,
    input: CompletionPrompt,
    encoding_format: Option<EncodingFormat>,
    #[schemars(range(min = 1))]
    dimensions: Option<i64>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodingFormat {
    Float,
    Base64,
}

#[derive(JsonSchema)]
pub struct RerankRequest {
    model: Option<String>,
    query: String,
    #[schemars(length(min = 1))]
    documents: Vec<String>,
    #[schemars(range(min = 1))]
    top_n: Option<i64>,
    return_documents: Option<bool>,
}

#[derive(JsonSchema)]
pub struct TokenizeRequest {
    model: Option<String>,
    prompt: String,
    add_special_tokens: Option<bool>,
    with_pieces: Option<bool>,
    return_token_strs: Option<bool>,
}

#[derive(JsonSchema)]
pub struct DetokenizeRequest {
    model: Option<String>,
    tokens: Vec<u32>,
}

#[derive(JsonSchema)]
pub struct ApplyTemplateRequest {
    model: Option<String>,
    #[schemars(length(min = 1))]
    messages: Vec<ChatRequestMessage>,
    tools: Option<Vec<ChatTool>>,
    add_generation_prompt: Option<bool>,
}

#[derive(JsonSchema)]
pub struct UseRequest {
    r#use: Whom,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Whom {
    Auto,
    Cloud,
    Local,
}
