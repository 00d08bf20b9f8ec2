//! `POST /v1/responses`, as Codex and OpenAI's SDKs speak it: a conversation is a list of items, and a reply is one more of them.

pub mod items;
pub mod request;
pub mod tools;

pub mod custom_input;
pub mod stream;
pub mod wire;

pub mod kept;

use serde::Serialize;
use serde_json::{Value, json};

use super::errors::{ApiError, ErrorKind};
use super::fields::{Fields, parse_object};
use super::memory::{Exchange, Memory, NoMemory, Record};
use super::openai_shared::Began;
use super::{Call, Dialect, Frame, KeepAlive, ReplyHead, to_json};
use crate::chat::begun::BegunReply;
use crate::chat::reply::Reply;
use crate::chat::{Event, Usage};
use stream::{Context, Progress, Status};
use tools::Tools;

/// One request's way of answering.
#[derive(Debug)]
pub struct OpenAiResponses {
    tools: Tools,
    logprobs: bool,
    store: bool,
    input: Vec<Value>,
    previous: Option<String>,
    /// Fields of the reply that say how it was asked for, as JSON without the braces: instructions and tools can be long, and several
    /// events repeat them.
    echo: String,
    progress: Progress,
    /// When all is said.
    usage: Option<Usage>,
    /// `Some`: the response that goes on, which another server began.
    began: Option<Began>,
}

impl Dialect for OpenAiResponses {
    const NAME: &'static str = "openai-responses";
    const PROMPT_FIELD: &'static str = "input";
    const OUTPUT_FORMAT_FIELD: &'static str = "text.format";
    const TOOL_SCHEMA_FIELD: &'static str = "parameters";

    fn parse(body: &[u8]) -> Result<Call<Self>, ApiError> {
        Self::parse_with(body, &NoMemory)
    }

    fn parse_with(body: &[u8], memory: &dyn Memory) -> Result<Call<Self>, ApiError> {
        let body = parse_object(body)?;
        let asked = request::read(&Fields::of_body(&body), memory)?;
        let dialect = Self {
            tools: asked.tools,
            logprobs: asked.logprobs,
            store: asked.store,
            input: asked.input,
            previous: asked.previous,
            echo: without_braces(Value::Object(asked.echo).to_string()),
            progress: Progress::default(),
            usage: None,
            began: None,
        };
        Ok(Call { request: asked.request, stream: asked.stream, model: asked.model, dialect })
    }

    fn record(&self, head: &ReplyHead) -> Option<Record> {
        let input = if self.store { items::for_keeping(&self.input, self.name(head)) } else { Vec::new() };
        let exchange = Exchange { id: self.reply_id(head), input: Value::from(input).to_string(), reply: self.response(head) };
        Some(Record { exchange, previous: self.previous.clone(), keep: self.store })
    }

    fn so_far(&self, head: &ReplyHead) -> Option<String> {
        Some(self.response(head))
    }

    fn open(&mut self, head: &ReplyHead, frames: &mut Vec<Frame>) {
        let response = self.response(head);
        frames.extend(["response.created", "response.in_progress"].map(|event| self.progress.lifecycle(event, &response)));
    }

    fn resumes() -> bool {
        true
    }

    fn resume(&mut self, begun: &BegunReply) {
        self.began = Some(Began::of(begun));
        let name = begun.id.strip_prefix(PREFIX).unwrap_or(&begun.id);
        self.progress = Progress::of_begun(Context { name, tools: &self.tools, logprobs: self.logprobs }, begun);
    }

    fn event(&mut self, head: &ReplyHead, _: usize, event: Event, frames: &mut Vec<Frame>) {
        let name = self.name(head).to_owned();
        let Self { tools, logprobs, progress, .. } = self;
        progress.event(Context { name: &name, tools, logprobs: *logprobs }, event, frames);
    }

    fn close(&mut self, head: &ReplyHead, usage: Usage, frames: &mut Vec<Frame>) {
        self.usage = Some(usage);
        let event = if matches!(self.progress.status, Status::Incomplete(_)) { "response.incomplete" } else { "response.completed" };
        frames.push(self.lifecycle(event, head));
    }

    /// What Codex's timer counts as life; a comment it does not see.
    fn keep_alive(&mut self, head: &ReplyHead) -> KeepAlive {
        KeepAlive::Frame(self.lifecycle("response.in_progress", head))
    }

    fn fail(&mut self, head: &ReplyHead, error: &ApiError, frames: &mut Vec<Frame>) {
        self.progress.status = match error.code {
            Some(ApiError::CANCELLED) => Status::Cancelled,
            _ => Status::Failed(json!({"code": error_code(error), "message": error.message})),
        };
        frames.push(self.lifecycle("response.failed", head));
    }

    fn whole(&self, head: &ReplyHead, choices: Vec<Reply>, usage: Usage) -> String {
        let mut progress = Progress::default();
        let context = Context { name: &head.id, tools: &self.tools, logprobs: self.logprobs };
        let mut frames = Vec::new();
        for event in choices.into_iter().flat_map(Reply::into_events) {
            progress.event(context, event, &mut frames);
        }
        self.response_of(head, &progress, Some(usage))
    }
}

impl OpenAiResponses {
    /// A frame about the response as a whole.
    fn lifecycle(&mut self, event: &'static str, head: &ReplyHead) -> Frame {
        self.progress.lifecycle(event, &self.response(head))
    }

    fn reply_id(&self, head: &ReplyHead) -> String {
        self.began.as_ref().map_or_else(|| format!("{PREFIX}{}", head.id), |began| began.id.clone())
    }

    /// What its items are named after.
    fn name<'a>(&'a self, head: &'a ReplyHead) -> &'a str {
        self.began.as_ref().map_or(&head.id, |began| began.id.strip_prefix(PREFIX).unwrap_or(&began.id))
    }

    /// The response as far as it has come, as JSON.
    fn response(&self, head: &ReplyHead) -> String {
        self.response_of(head, &self.progress, self.usage)
    }

    fn response_of(&self, head: &ReplyHead, progress: &Progress, usage: Option<Usage>) -> String {
        let (created_at, model) = match &self.began {
            None => (head.created_unix_s, &head.model),
            Some(began) => (began.created_unix_s, &began.model),
        };
        let response = Response {
            id: &self.reply_id(head),
            object: "response",
            created_at,
            status: progress.status.word(),
            background: false,
            error: if let Status::Failed(error) = &progress.status { Some(error) } else { None },
            incomplete_details: if let Status::Incomplete(reason) = progress.status { Some(Incomplete { reason }) } else { None },
            model,
            output: progress,
            usage: usage.as_ref().map(usage_of),
        };
        let mut json = to_json(&response);
        json.truncate(json.len() - "}".len());
        json + "," + &self.echo + "}"
    }
}

/// A response but for its echo of the request.
#[derive(Serialize)]
struct Response<'a> {
    id: &'a str,
    object: &'static str,
    created_at: i64,
    status: &'static str,
    background: bool,
    error: Option<&'a Value>,
    incomplete_details: Option<Incomplete>,
    model: &'a str,
    output: &'a Progress,
    usage: Option<ResponseUsage>,
}

#[derive(Serialize)]
struct Incomplete {
    reason: &'static str,
}

#[derive(Serialize)]
struct ResponseUsage {
    input_tokens: usize,
    input_tokens_details: InputTokensDetails,
    output_tokens: usize,
    output_tokens_details: OutputTokensDetails,
    total_tokens: usize,
}

#[derive(Serialize)]
struct InputTokensDetails {
    cached_tokens: usize,
    cache_write_tokens: usize,
}

#[derive(Serialize)]
struct OutputTokensDetails {
    reasoning_tokens: usize,
}

fn without_braces(object: String) -> String {
    object[1..object.len() - 1].to_owned()
}

/// Of a response's id, before the name that its items share.
const PREFIX: &str = "resp_";

/// Codes that clients act on are kept; the others are our own.
fn error_code(error: &ApiError) -> &'static str {
    match (error.code, error.kind) {
        (Some("context_length_exceeded"), _) => "context_length_exceeded",
        (_, ErrorKind::InvalidRequest) => "invalid_prompt",
        _ => "server_error",
    }
}

fn usage_of(usage: &Usage) -> ResponseUsage {
    ResponseUsage {
        input_tokens: usage.prompt_tokens,
        // Writing to the cache costs nothing here, and is not counted.
        input_tokens_details: InputTokensDetails { cached_tokens: usage.cached_tokens, cache_write_tokens: 0 },
        output_tokens: usage.completion_tokens,
        output_tokens_details: OutputTokensDetails { reasoning_tokens: usage.thinking_tokens },
        total_tokens: usage.prompt_tokens + usage.completion_tokens,
    }
}
