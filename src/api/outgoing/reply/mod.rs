//! Reads an upstream's reply into our own events, be it a stream or whole. Lenient in what it reads, for many servers imitate these APIs,
//! and strict in what it makes of it: calls one after the other, each with an id and a name; an end only where the upstream told one.

pub mod chat_completions;
pub mod messages;
pub mod responses;

use serde_json::Value;

use super::{Protocol, names};
use crate::chat::{Event, FinishReason, ToolDefinition, Usage};
use chat_completions::ChatCompletions;
use messages::Messages;
use responses::Responses;

/// One reply, as far as it has come.
#[derive(Debug)]
pub struct Reader {
    format: Format,
    tools: Vec<ToolDefinition>,
}

#[derive(Debug)]
enum Format {
    ChatCompletions(ChatCompletions),
    Messages(Messages),
    Responses(Responses),
}

/// Why a reply cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The upstream says that it failed.
    #[error("the upstream reports {kind}: {message}")]
    Upstream {
        /// `overloaded_error`, `server_error`, a number: whatever it calls it.
        kind: String,
        message: String,
    },
    /// One event is no JSON object. Those after it can still be read.
    #[error("the upstream sent what is no JSON object: {0}")]
    NotJson(String),
    /// What it sends makes no sense, and whatever follows would be put in the wrong place.
    #[error("the upstream's reply is out of order: {0}")]
    OutOfOrder(&'static str),
    /// It ended, and no reason was told.
    #[error("the upstream's reply ended before its end")]
    Cut,
}

impl Reader {
    pub fn new(protocol: Protocol) -> Self {
        let format = match protocol {
            Protocol::OpenAiChat => Format::ChatCompletions(ChatCompletions::default()),
            Protocol::AnthropicMessages => Format::Messages(Messages::default()),
            Protocol::OpenAiResponses => Format::Responses(Responses::default()),
        };
        Self { format, tools: Vec::new() }
    }

    /// With the tools of the request, so that a call of one whose name was spelled anew has the client's name again.
    pub fn with_tools(self, tools: &[ToolDefinition]) -> Self {
        Self { tools: tools.iter().filter(|tool| names::tool_name(&tool.name) != tool.name).cloned().collect(), ..self }
    }

    /// Reads the data of one server-sent event. What it made certain is in `events` even where it ends in an error.
    pub fn event(&mut self, data: &str, events: &mut Vec<Event>) -> Result<(), ReadError> {
        let first = events.len();
        let read = match &mut self.format {
            Format::ChatCompletions(reply) => reply.data(data, events),
            Format::Messages(reply) => parse(data.as_bytes()).and_then(|event| reply.event(&event, events)),
            Format::Responses(reply) => parse(data.as_bytes()).and_then(|event| reply.event(&event, events)),
        };
        self.restore_names(&mut events[first..]);
        read
    }

    /// The stream has ended. Errors: not as a reply ends.
    pub fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), ReadError> {
        let first = events.len();
        let read = match &mut self.format {
            Format::ChatCompletions(reply) => reply.finish(events),
            Format::Messages(reply) => reply.finish(events),
            Format::Responses(reply) => reply.finish(events),
        };
        self.restore_names(&mut events[first..]);
        read
    }

    /// Whether the last event has been told: what follows changes nothing.
    pub fn is_finished(&self) -> bool {
        match &self.format {
            Format::ChatCompletions(reply) => reply.is_finished(),
            Format::Messages(reply) => reply.is_finished(),
            Format::Responses(reply) => reply.is_finished(),
        }
    }

    /// Reads the body of a reply that is no stream.
    pub fn whole(mut self, body: &[u8]) -> Result<Vec<Event>, ReadError> {
        let body = parse(body)?;
        let mut events = Vec::new();
        match &mut self.format {
            Format::ChatCompletions(reply) => reply.whole(&body, &mut events)?,
            Format::Messages(reply) => reply.whole(&body, &mut events)?,
            Format::Responses(reply) => reply.whole(&body, &mut events)?,
        }
        self.restore_names(&mut events);
        Ok(events)
    }

    fn restore_names(&self, events: &mut [Event]) {
        if self.tools.is_empty() {
            return;
        }
        for event in events {
            if let Event::ToolCallStarted { name, .. } = event {
                *name = names::client_tool_name(name, &self.tools);
            }
        }
    }
}

/// [`Reader::whole`] of a reply without tools of odd names.
pub fn whole(protocol: Protocol, body: &[u8]) -> Result<Vec<Event>, ReadError> {
    Reader::new(protocol).whole(body)
}

fn parse(data: &[u8]) -> Result<Value, ReadError> {
    match serde_json::from_slice(data) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(ReadError::NotJson("another value".to_owned())),
        Err(error) => Err(ReadError::NotJson(error.to_string())),
    }
}

/// The error that `error` tells of: an object, or only its message.
fn upstream_error(error: &Value) -> ReadError {
    let word = |name: &str| match &error[name] {
        Value::String(word) if !word.is_empty() => Some(word.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let kind = word("type").or_else(|| word("code")).unwrap_or_else(|| "error".to_owned());
    let message = word("message").or_else(|| error.as_str().map(str::to_owned)).unwrap_or_else(|| error.to_string());
    ReadError::Upstream { kind, message }
}

/// A text that says something.
fn text_of(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

fn count_of(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|count| usize::try_from(count).ok())
}

/// The last event. Upstreams differ in what they call the end of a reply that calls tools, and some count wrongly.
fn finished(reason: FinishReason, calls: usize, usage: Usage) -> Event {
    let reason = match reason {
        FinishReason::EndOfTurn if calls > 0 => FinishReason::ToolCalls,
        FinishReason::ToolCalls if calls == 0 => FinishReason::EndOfTurn,
        reason => reason,
    };
    let usage = Usage {
        cached_tokens: usage.cached_tokens.min(usage.prompt_tokens),
        thinking_tokens: usage.thinking_tokens.min(usage.completion_tokens),
        ..usage
    };
    Event::Finished { reason, usage }
}
