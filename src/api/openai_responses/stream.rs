//! Events of a reply become its items, and the frames that tell of them: an item is added, filled and done before the next begins.

use serde::ser::{Serialize, SerializeSeq, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::custom_input::CustomInput;
use super::tools::{Identity, Kind, Tools};
use super::wire::{Item, ItemEvent, ItemKind, Part, Told};
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
    /// Items that are done; `None` for one of another server's that we do not know.
    items: Vec<Option<Box<RawValue>>>,
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
                progress.items.push(open.body.item(&open.id, status).map(|item| raw(&item)));
            }
        }
        progress
    }

    /// The next frame, about the item at `output_index`.
    fn tell(&mut self, output_index: usize, event: ItemEvent<'_>, frames: &mut Vec<Frame>) {
        let event = ItemEvent { sequence_number: self.sequence, output_index, ..event };
        self.sequence += 1;
        frames.push(Frame { event: Some(event.kind), ..Frame::of(&event) });
    }

    /// A frame about the response as a whole, of which `response` is the JSON: it is long, and the first two frames say the same.
    pub fn lifecycle(&mut self, kind: &'static str, response: &str) -> Frame {
        let data = format!("{{\"type\":\"{kind}\",\"sequence_number\":{},\"response\":{response}}}", self.sequence);
        self.sequence += 1;
        Frame { event: Some(kind), data }
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
        let is_open = matches!(self.open, Some(Open { body: Body::Reasoning { .. }, .. }));
        let mut open = if is_open { self.open.take() } else { None }.unwrap_or_else(|| {
            let open = self.begin(context, Body::Reasoning { text: String::new() }, frames);
            let part = Told::Part(Part::SummaryText { text: "" });
            self.tell(self.items.len(), part.event("response.reasoning_summary_part.added", Some(&open.id)).in_summary(), frames);
            open
        });
        if let Body::Reasoning { text } = &mut open.body {
            text.push_str(piece);
        }
        let delta = Told::Delta(piece).event("response.reasoning_summary_text.delta", Some(&open.id)).in_summary();
        self.tell(self.items.len(), delta, frames);
        self.open = Some(open);
    }

    fn text(&mut self, context: Context<'_>, delta: TextDelta, frames: &mut Vec<Frame>) {
        let is_open = matches!(self.open, Some(Open { body: Body::Message { .. }, .. }));
        // Tokens without text of their own belong to the message before them, and to none after a call.
        let tokens: Vec<Value> = if context.logprobs { delta.tokens.iter().map(scored).collect() } else { Vec::new() };
        if delta.text.is_empty() && (tokens.is_empty() || !is_open) {
            return;
        }
        let mut open = if is_open { self.open.take() } else { None }.unwrap_or_else(|| self.begin_message(context, frames));
        let event = Told::Delta(&delta.text).event("response.output_text.delta", Some(&open.id));
        self.tell(self.items.len(), event.in_content().with_logprobs(&tokens), frames);
        if let Body::Message { text, logprobs } = &mut open.body {
            text.push_str(&delta.text);
            logprobs.extend(tokens);
        }
        self.open = Some(open);
    }

    fn begin_message(&mut self, context: Context<'_>, frames: &mut Vec<Frame>) -> Open {
        let open = self.begin(context, Body::Message { text: String::new(), logprobs: Vec::new() }, frames);
        let part = Told::Part(Part::output_text("", &[])).event("response.content_part.added", Some(&open.id));
        self.tell(self.items.len(), part.in_content(), frames);
        open
    }

    fn call(&mut self, context: Context<'_>, call_id: String, name: &str, frames: &mut Vec<Frame>) {
        self.open = Some(self.begin(context, Body::call(context, call_id, name), frames));
    }

    fn arguments(&mut self, piece: &str, frames: &mut Vec<Frame>) {
        let Some(mut open) = self.open.take() else { return };
        if let Some((kind, delta)) = open.body.arguments(piece) {
            self.tell(self.items.len(), Told::Delta(&delta).event(kind, Some(&open.id)), frames);
        }
        self.open = Some(open);
    }

    fn finish(&mut self, context: Context<'_>, reason: &FinishReason, frames: &mut Vec<Frame>) {
        self.status = match reason {
            FinishReason::EndOfTurn | FinishReason::StopString(_) | FinishReason::ToolCalls => Status::Completed,
            FinishReason::Length => Status::Incomplete("max_output_tokens"),
            FinishReason::Refused => Status::Incomplete("content_filter"),
        };
        // Clients look for a message, and Codex for the end of one: silence is a message without words.
        if self.items.is_empty() && self.open.is_none() {
            self.open = Some(self.begin_message(context, frames));
        }
        self.close(self.status.word(), frames);
    }

    /// Begins an item, after the one before it is done.
    fn begin(&mut self, context: Context<'_>, body: Body, frames: &mut Vec<Frame>) -> Open {
        self.close("completed", frames);
        let index = self.items.len();
        let open = Open { id: body.id(context, index), body };
        if let Some(item) = open.body.begun(&open.id) {
            self.tell(index, Told::Item(item).event("response.output_item.added", None), frames);
        }
        open
    }

    /// Ends the item that is open, if one is.
    fn close(&mut self, status: &'static str, frames: &mut Vec<Frame>) {
        let Some(Open { id, mut body }) = self.open.take() else { return };
        let index = self.items.len();
        let status = body.status(status);
        let of = Some(id.as_str());
        match &mut body {
            Body::Reasoning { text } => {
                let part = Told::Part(Part::SummaryText { text });
                self.tell(index, Told::Text(text).event("response.reasoning_summary_text.done", of).in_summary(), frames);
                self.tell(index, part.event("response.reasoning_summary_part.done", of).in_summary(), frames);
            }
            Body::Message { text, logprobs } => {
                let part = Told::Part(Part::output_text(text, logprobs));
                let done = Told::Text(text).event("response.output_text.done", of).in_content();
                self.tell(index, done.with_logprobs(logprobs), frames);
                self.tell(index, part.event("response.content_part.done", of).in_content(), frames);
            }
            Body::Function { arguments, .. } => {
                self.tell(index, Told::Arguments(arguments).event("response.function_call_arguments.done", of), frames);
            }
            Body::Custom { input, .. } => {
                let rest = input.finish();
                if !rest.is_empty() {
                    self.tell(index, Told::Delta(&rest).event("response.custom_tool_call_input.delta", of), frames);
                }
                self.tell(index, Told::Input(input.text()).event("response.custom_tool_call_input.done", of), frames);
            }
            Body::Other => {}
        }
        let Some(item) = body.item(&id, status) else { return self.items.push(None) };
        let done = raw(&item);
        self.tell(index, Told::Item(item).event("response.output_item.done", None), frames);
        self.items.push(Some(done));
    }
}

/// The items so far; one that is not done is marked so. Until the end of the reply it tells nothing of them: the events do.
impl Serialize for Progress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut items = serializer.serialize_seq(None)?;
        if self.status != Status::InProgress {
            self.items.iter().flatten().try_for_each(|item| items.serialize_element(item))?;
            let open = self.open.as_ref().and_then(|open| open.body.item(&open.id, "incomplete"));
            open.iter().try_for_each(|item| items.serialize_element(item))?;
        }
        items.end()
    }
}

fn raw(item: &Item<'_>) -> Box<RawValue> {
    to_raw_value(item).expect("our wire types are JSON")
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
    fn begun<'a>(&'a self, id: &'a str) -> Option<Item<'a>> {
        let mut item = self.item(id, "in_progress")?;
        if let ItemKind::Reasoning { summary: parts, .. } | ItemKind::Message { content: parts, .. } = &mut item.kind {
            parts.clear();
        }
        Some(item)
    }

    /// `None`: it is another server's, of a kind that we do not know.
    fn item<'a>(&'a self, id: &'a str, status: &'a str) -> Option<Item<'a>> {
        let kind = match self {
            Self::Reasoning { text } => ItemKind::Reasoning { status, summary: vec![Part::SummaryText { text }] },
            Self::Message { text, logprobs } => {
                ItemKind::Message { status, role: "assistant", content: vec![Part::output_text(text, logprobs)] }
            }
            Self::Function { call_id, identity, arguments } => ItemKind::FunctionCall { status, arguments, call_id, tool: identity.told() },
            Self::Custom { call_id, identity, input } => {
                ItemKind::CustomToolCall { status, input: input.text(), call_id, tool: identity.told() }
            }
            Self::Other => return None,
        };
        Some(Item { id, kind })
    }
}

fn scored(token: &ScoredToken) -> Value {
    let entry = |token: &TokenText, value: f32| json!({"token": token.lossy(), "bytes": token.bytes, "logprob": finite(value)});
    let mut value = entry(&token.token, token.logprob.unwrap_or_default());
    value["top_logprobs"] = token.top.iter().map(|(token, logprob)| entry(token, *logprob)).collect();
    value
}
