//! Events of a reply become its items, and the frames that tell of them: an item is added, filled and done before the next begins.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::custom_input::CustomInput;
use super::tools::{Identity, Kind, Tools};
use crate::api::Frame;
use crate::api::openai_types::finite;
use crate::chat::begun::{BegunContent, BegunPiece, BegunReply};
use crate::chat::{Event, FinishReason, ScoredToken, TextDelta, TokenText};

/// What a reply's items depend on beside its events.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The unique part of the reply's id, which its items share.
    pub name: &'a str,
    pub tools: &'a Tools,
    pub logprobs: bool,
}

/// A reply as far as it has come.
#[derive(Debug, Default)]
pub struct Progress {
    /// Of the next frame.
    sequence: u64,
    /// Items that are done; nothing for one of another server's that we do not know.
    items: Vec<Value>,
    open: Option<Open>,
    pub status: Status,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub enum Status {
    #[default]
    InProgress,
    Completed,
    /// `max_output_tokens` (or the context is reached) or `content_filter`.
    Incomplete(&'static str),
    Cancelled,
    /// `{"code", "message"}`.
    Failed(Value),
}

impl Status {
    pub fn word(&self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete(_) => "incomplete",
            Self::Cancelled => "cancelled",
            Self::Failed(_) => "failed",
        }
    }
}

/// The item that is being filled.
#[derive(Debug)]
struct Open {
    id: String,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Reasoning {
        text: String,
    },
    Message {
        text: String,
        logprobs: Vec<Value>,
    },
    Function {
        call_id: String,
        identity: Identity,
        arguments: String,
    },
    Custom {
        call_id: String,
        identity: Identity,
        input: CustomInput,
    },
    /// Another server's, of a kind that we do not know.
    Other,
}

impl Progress {
    /// As if it had told of all this.
    pub fn of_begun(context: Context<'_>, begun: &BegunReply) -> Self {
        let mut progress = Self { sequence: begun.frames as u64, ..Self::default() };
        for (index, piece) in begun.pieces.iter().enumerate() {
            let open = Open::of_begun(context, piece, index);
            if piece.open {
                progress.open = Some(open);
            } else {
                let status = open.body.status("completed");
                progress.items.push(open.body.item(&open.id, status));
            }
        }
        progress
    }

    /// The frame of an event with these fields.
    pub fn frame(&mut self, kind: &'static str, fields: Value) -> Frame {
        let Value::Object(fields) = fields else { unreachable!("events are objects") };
        let mut event = Map::new();
        event.insert("type".into(), kind.into());
        event.insert("sequence_number".into(), self.sequence.into());
        event.extend(fields);
        self.sequence += 1;
        Frame::named(kind, &Value::Object(event))
    }

    /// A frame about the response as a whole, of which `response` is the JSON: it is long, and the first two frames say the same.
    pub fn lifecycle(&mut self, kind: &'static str, response: &str) -> Frame {
        let data = format!("{{\"type\":\"{kind}\",\"sequence_number\":{},\"response\":{response}}}", self.sequence);
        self.sequence += 1;
        Frame { event: Some(kind), data }
    }

    /// The items so far; one that is not done is marked so.
    pub fn output(&self) -> Vec<Value> {
        let open = self.open.as_ref().map(|open| open.body.item(&open.id, "incomplete"));
        self.items.iter().cloned().chain(open).filter(|item| !item.is_null()).collect()
    }

    pub fn event(&mut self, context: Context<'_>, event: Event, frames: &mut Vec<Frame>) {
        match event {
            Event::Thinking(text) => self.thinking(context, &text, frames),
            Event::Text(delta) => self.text(context, delta, frames),
            Event::ToolCallStarted { id, name, .. } => self.call(context, id, &name, frames),
            Event::ToolCallArguments { json, .. } => self.arguments(&json, frames),
            Event::ToolCallEnded { .. } => self.close("completed", frames),
            Event::Finished { reason, .. } => self.finish(context, &reason, frames),
            Event::Failed(_) => {}
        }
    }

    fn thinking(&mut self, context: Context<'_>, piece: &str, frames: &mut Vec<Frame>) {
        if piece.is_empty() {
            return;
        }
        if !matches!(self.open, Some(Open { body: Body::Reasoning { .. }, .. })) {
            let id = self.open(context, Body::Reasoning { text: String::new() }, frames);
            let part = json!({"type": "summary_text", "text": ""});
            let fields = json!({"item_id": id, "output_index": self.items.len(), "summary_index": 0, "part": part});
            frames.push(self.frame("response.reasoning_summary_part.added", fields));
        }
        if let Some(Open { id, body: Body::Reasoning { text } }) = &mut self.open {
            text.push_str(piece);
            let fields = json!({"item_id": id, "output_index": self.items.len(), "summary_index": 0, "delta": piece});
            frames.push(self.frame("response.reasoning_summary_text.delta", fields));
        }
    }

    fn text(&mut self, context: Context<'_>, delta: TextDelta, frames: &mut Vec<Frame>) {
        let is_open = matches!(self.open, Some(Open { body: Body::Message { .. }, .. }));
        // Tokens without text of their own belong to the message before them, and to none after a call.
        let tokens: Vec<Value> = if context.logprobs { delta.tokens.iter().map(scored).collect() } else { Vec::new() };
        if delta.text.is_empty() && (tokens.is_empty() || !is_open) {
            return;
        }
        if !is_open {
            self.open_message(context, frames);
        }
        if let Some(Open { id, body: Body::Message { text, logprobs } }) = &mut self.open {
            text.push_str(&delta.text);
            logprobs.extend(tokens.iter().cloned());
            let event = OutputTextDelta {
                kind: OutputTextDelta::KIND,
                sequence_number: self.sequence,
                item_id: id,
                output_index: self.items.len(),
                content_index: 0,
                delta: &delta.text,
                logprobs: &tokens,
            };
            self.sequence += 1;
            frames.push(Frame { event: Some(OutputTextDelta::KIND), ..Frame::of(&event) });
        }
    }

    fn open_message(&mut self, context: Context<'_>, frames: &mut Vec<Frame>) {
        let id = self.open(context, Body::Message { text: String::new(), logprobs: Vec::new() }, frames);
        let fields = json!({"item_id": id, "output_index": self.items.len(), "content_index": 0, "part": text_part("", &[])});
        frames.push(self.frame("response.content_part.added", fields));
    }

    fn call(&mut self, context: Context<'_>, call_id: String, name: &str, frames: &mut Vec<Frame>) {
        self.open(context, Body::call(context, call_id, name), frames);
    }

    fn arguments(&mut self, piece: &str, frames: &mut Vec<Frame>) {
        let Some(Open { id, body }) = &mut self.open else { return };
        if let Some((kind, delta)) = body.arguments(piece) {
            let fields = json!({"item_id": id, "output_index": self.items.len(), "delta": delta});
            frames.push(self.frame(kind, fields));
        }
    }

    fn finish(&mut self, context: Context<'_>, reason: &FinishReason, frames: &mut Vec<Frame>) {
        self.status = match reason {
            FinishReason::EndOfTurn | FinishReason::StopString(_) | FinishReason::ToolCalls => Status::Completed,
            FinishReason::Length => Status::Incomplete("max_output_tokens"),
            FinishReason::Refused => Status::Incomplete("content_filter"),
        };
        // Clients look for a message, and Codex for the end of one: silence is a message without words.
        if self.items.is_empty() && self.open.is_none() {
            self.open_message(context, frames);
        }
        self.close(self.status.word(), frames);
    }

    /// Begins an item, after the one before it is done; its id.
    fn open(&mut self, context: Context<'_>, body: Body, frames: &mut Vec<Frame>) -> String {
        self.close("completed", frames);
        let index = self.items.len();
        let id = body.id(context, index);
        let item = body.begun(&id);
        self.open = Some(Open { id: id.clone(), body });
        frames.push(self.frame("response.output_item.added", json!({"output_index": index, "item": item})));
        id
    }

    /// Ends the item that is open, if one is.
    fn close(&mut self, status: &'static str, frames: &mut Vec<Frame>) {
        let Some(Open { id, mut body }) = self.open.take() else { return };
        let index = self.items.len();
        let status = body.status(status);
        match &mut body {
            Body::Reasoning { text } => {
                let fields = json!({"item_id": id, "output_index": index, "summary_index": 0, "text": text});
                frames.push(self.frame("response.reasoning_summary_text.done", fields));
                let part = json!({"type": "summary_text", "text": text});
                let fields = json!({"item_id": id, "output_index": index, "summary_index": 0, "part": part});
                frames.push(self.frame("response.reasoning_summary_part.done", fields));
            }
            Body::Message { text, logprobs } => {
                let fields = json!({"item_id": id, "output_index": index, "content_index": 0, "text": text, "logprobs": logprobs});
                frames.push(self.frame("response.output_text.done", fields));
                let fields = json!({"item_id": id, "output_index": index, "content_index": 0, "part": text_part(text, logprobs)});
                frames.push(self.frame("response.content_part.done", fields));
            }
            Body::Function { arguments, .. } => {
                let fields = json!({"item_id": id, "output_index": index, "arguments": arguments});
                frames.push(self.frame("response.function_call_arguments.done", fields));
            }
            Body::Custom { input, .. } => {
                let rest = input.finish();
                if !rest.is_empty() {
                    let fields = json!({"item_id": id, "output_index": index, "delta": rest});
                    frames.push(self.frame("response.custom_tool_call_input.delta", fields));
                }
                let fields = json!({"item_id": id, "output_index": index, "input": input.text()});
                frames.push(self.frame("response.custom_tool_call_input.done", fields));
            }
            Body::Other => return self.items.push(Value::Null),
        }
        let item = body.item(&id, status);
        frames.push(self.frame("response.output_item.done", json!({"output_index": index, "item": item})));
        self.items.push(item);
    }
}

/// What comes once a token is written without a map of its fields.
#[derive(Serialize)]
struct OutputTextDelta<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    sequence_number: u64,
    item_id: &'a str,
    output_index: usize,
    content_index: usize,
    delta: &'a str,
    logprobs: &'a [Value],
}

impl OutputTextDelta<'_> {
    const KIND: &'static str = "response.output_text.delta";
}

impl Open {
    fn of_begun(context: Context<'_>, piece: &BegunPiece, index: usize) -> Self {
        let body = match &piece.content {
            BegunContent::Text(text) => Body::Message { text: text.clone(), logprobs: Vec::new() },
            BegunContent::Thinking(text) => Body::Reasoning { text: text.clone() },
            BegunContent::ToolCall { call_id, name, arguments } => {
                let mut body = Body::call(context, call_id.clone(), name);
                body.arguments(arguments);
                body
            }
            BegunContent::Other => Body::Other,
        };
        Self { id: piece.id.clone().unwrap_or_else(|| body.id(context, index)), body }
    }
}

impl Body {
    fn call(context: Context<'_>, call_id: String, name: &str) -> Self {
        let identity = context.tools.identity(name);
        match identity.kind {
            Kind::Function => Self::Function { call_id, identity, arguments: String::new() },
            Kind::Custom => Self::Custom { call_id, identity, input: CustomInput::default() },
        }
    }

    fn id(&self, context: Context<'_>, index: usize) -> String {
        let prefix = match self {
            Self::Reasoning { .. } => "rs",
            Self::Message { .. } => "msg",
            Self::Function { .. } => "fc",
            Self::Custom { .. } => "ctc",
            Self::Other => "item",
        };
        format!("{prefix}_{}_{index}", context.name)
    }

    /// Takes a piece of a call's arguments; the event that tells of it, and what is to be told.
    fn arguments(&mut self, piece: &str) -> Option<(&'static str, String)> {
        let (kind, delta) = match self {
            Self::Function { arguments, .. } => {
                arguments.push_str(piece);
                ("response.function_call_arguments.delta", piece.to_owned())
            }
            Self::Custom { input, .. } => ("response.custom_tool_call_input.delta", input.push(piece)),
            Self::Reasoning { .. } | Self::Message { .. } | Self::Other => return None,
        };
        (!delta.is_empty()).then_some((kind, delta))
    }

    /// Its status where it would have this one: a call that breaks off is known by its arguments.
    fn status(&self, status: &'static str) -> &'static str {
        let is_whole = match self {
            Self::Function { arguments, .. } => serde_json::from_str::<serde::de::IgnoredAny>(arguments).is_ok(),
            Self::Custom { input, .. } => input.is_whole(),
            Self::Reasoning { .. } | Self::Message { .. } | Self::Other => true,
        };
        if is_whole { status } else { "incomplete" }
    }

    /// The item as it is added: a message has no part yet, and reasoning none that could be shown.
    fn begun(&self, id: &str) -> Value {
        let mut item = self.item(id, "in_progress");
        match self {
            Self::Message { .. } => item["content"] = json!([]),
            Self::Reasoning { .. } => item["summary"] = json!([]),
            Self::Function { .. } | Self::Custom { .. } | Self::Other => {}
        }
        item
    }

    fn item(&self, id: &str, status: &str) -> Value {
        match self {
            Self::Reasoning { text } => {
                json!({"id": id, "type": "reasoning", "status": status, "summary": [{"type": "summary_text", "text": text}]})
            }
            Self::Message { text, logprobs } => {
                let content = [text_part(text, logprobs)];
                json!({"id": id, "type": "message", "status": status, "role": "assistant", "content": content})
            }
            Self::Function { call_id, identity, arguments } => {
                let item = json!({"id": id, "type": "function_call", "status": status, "arguments": arguments, "call_id": call_id});
                named(item, identity)
            }
            Self::Custom { call_id, identity, input } => {
                let item = json!({"id": id, "type": "custom_tool_call", "status": status, "input": input.text(), "call_id": call_id});
                named(item, identity)
            }
            Self::Other => Value::Null,
        }
    }
}

/// A call with what the client calls the tool.
fn named(mut item: Value, identity: &Identity) -> Value {
    item["name"] = identity.name.as_str().into();
    if let Some(namespace) = &identity.namespace {
        item["namespace"] = namespace.as_str().into();
    }
    item
}

fn text_part(text: &str, logprobs: &[Value]) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs})
}

fn scored(token: &ScoredToken) -> Value {
    let entry = |token: &TokenText, value: f32| json!({"token": token.lossy(), "bytes": token.bytes, "logprob": finite(value)});
    let mut value = entry(&token.token, token.logprob.unwrap_or_default());
    value["top_logprobs"] = token.top.iter().map(|(token, logprob)| entry(token, *logprob)).collect();
    value
}
