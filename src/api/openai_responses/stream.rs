//! Events of a reply become its items, and the frames that tell of them: an item is added, filled and done before the next begins.

use serde_json::{Map, Value, json};

use super::custom_input::CustomInput;
use super::tools::{Identity, Kind, Tools};
use crate::api::Frame;
use crate::api::openai_types::finite;
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
    /// Items that are done.
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
    Reasoning { text: String },
    Message { text: String, logprobs: Vec<Value> },
    Function { call_id: String, identity: Identity, arguments: String },
    Custom { call_id: String, identity: Identity, input: CustomInput },
}

impl Progress {
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

    /// The items so far; one that is not done is marked so.
    pub fn output(&self) -> Vec<Value> {
        let open = self.open.as_ref().map(|open| open.body.item(&open.id, "incomplete"));
        self.items.iter().cloned().chain(open).collect()
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
            let id = self.open(context, "rs", Body::Reasoning { text: String::new() }, frames);
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
            let (index, delta) = (self.items.len(), delta.text);
            let fields = json!({"item_id": id, "output_index": index, "content_index": 0, "delta": delta, "logprobs": tokens});
            frames.push(self.frame("response.output_text.delta", fields));
        }
    }

    fn open_message(&mut self, context: Context<'_>, frames: &mut Vec<Frame>) {
        let id = self.open(context, "msg", Body::Message { text: String::new(), logprobs: Vec::new() }, frames);
        let fields = json!({"item_id": id, "output_index": self.items.len(), "content_index": 0, "part": text_part("", &[])});
        frames.push(self.frame("response.content_part.added", fields));
    }

    fn call(&mut self, context: Context<'_>, call_id: String, name: &str, frames: &mut Vec<Frame>) {
        let identity = context.tools.identity(name);
        let (prefix, body) = match identity.kind {
            Kind::Function => ("fc", Body::Function { call_id, identity, arguments: String::new() }),
            Kind::Custom => ("ctc", Body::Custom { call_id, identity, input: CustomInput::default() }),
        };
        self.open(context, prefix, body, frames);
    }

    fn arguments(&mut self, piece: &str, frames: &mut Vec<Frame>) {
        let Some(Open { id, body }) = &mut self.open else { return };
        let (kind, delta) = match body {
            Body::Function { arguments, .. } => {
                arguments.push_str(piece);
                ("response.function_call_arguments.delta", piece.to_owned())
            }
            Body::Custom { input, .. } => ("response.custom_tool_call_input.delta", input.push(piece)),
            Body::Reasoning { .. } | Body::Message { .. } => return,
        };
        if !delta.is_empty() {
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
    fn open(&mut self, context: Context<'_>, prefix: &str, body: Body, frames: &mut Vec<Frame>) -> String {
        self.close("completed", frames);
        let index = self.items.len();
        let id = format!("{prefix}_{}_{index}", context.name);
        let item = body.begun(&id);
        self.open = Some(Open { id: id.clone(), body });
        frames.push(self.frame("response.output_item.added", json!({"output_index": index, "item": item})));
        id
    }

    /// Ends the item that is open, if one is.
    fn close(&mut self, status: &'static str, frames: &mut Vec<Frame>) {
        let Some(Open { id, mut body }) = self.open.take() else { return };
        let index = self.items.len();
        let mut status = status;
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
                // A call that breaks off is known by its arguments.
                if serde_json::from_str::<serde::de::IgnoredAny>(arguments).is_err() {
                    status = "incomplete";
                }
                let fields = json!({"item_id": id, "output_index": index, "arguments": arguments});
                frames.push(self.frame("response.function_call_arguments.done", fields));
            }
            Body::Custom { input, .. } => {
                if !input.is_whole() {
                    status = "incomplete";
                }
                let rest = input.finish();
                if !rest.is_empty() {
                    let fields = json!({"item_id": id, "output_index": index, "delta": rest});
                    frames.push(self.frame("response.custom_tool_call_input.delta", fields));
                }
                let fields = json!({"item_id": id, "output_index": index, "input": input.text()});
                frames.push(self.frame("response.custom_tool_call_input.done", fields));
            }
        }
        let item = body.item(&id, status);
        frames.push(self.frame("response.output_item.done", json!({"output_index": index, "item": item})));
        self.items.push(item);
    }
}

impl Body {
    /// The item as it is added: a message has no part yet, and reasoning none that could be shown.
    fn begun(&self, id: &str) -> Value {
        let mut item = self.item(id, "in_progress");
        match self {
            Self::Message { .. } => item["content"] = json!([]),
            Self::Reasoning { .. } => item["summary"] = json!([]),
            Self::Function { .. } | Self::Custom { .. } => {}
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
    let mut value = entry(&token.token, token.logprob);
    value["top_logprobs"] = token.top.iter().map(|(token, logprob)| entry(token, *logprob)).collect();
    value
}
