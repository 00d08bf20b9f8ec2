//! Streams of replies as upstreams write them, of what a script says, each frame with what it adds: what tap and takeover are tested with.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use understudy::gateway::sse_splitter::SseEvent;
use understudy::gateway::tap::{Protocol, Seen, Tap, Told};

/// A part of a reply, in the pieces in which it comes.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    Thinking(Vec<String>),
    Text(Vec<String>),
    Call(Vec<String>),
}

/// One server-sent event, and what it adds to which piece.
#[derive(Debug, Clone)]
pub struct Frame {
    pub raw: String,
    pub adds: Option<(usize, String)>,
}

pub const PROMPT_TOKENS: usize = 100;

impl Piece {
    pub fn text(&self) -> String {
        match self {
            Self::Thinking(deltas) | Self::Text(deltas) | Self::Call(deltas) => deltas.concat(),
        }
    }

    fn deltas(&self) -> &[String] {
        match self {
            Self::Thinking(deltas) | Self::Text(deltas) | Self::Call(deltas) => deltas,
        }
    }
}

/// The whole stream of a reply.
pub fn stream(protocol: Protocol, pieces: &[Piece]) -> Vec<Frame> {
    let mut writer = Writer { frames: Vec::new(), items: Vec::new() };
    match protocol {
        Protocol::AnthropicMessages => writer.messages(pieces),
        Protocol::OpenAiChat => writer.chat(pieces),
        Protocol::OpenAiCompletions => writer.completion(pieces),
        Protocol::OpenAiResponses => writer.responses(pieces),
    }
    writer.frames
}

/// Feeds frames to a tap.
pub fn tell<'a>(tap: &mut Tap, frames: impl IntoIterator<Item = &'a str>) -> Vec<Told> {
    frames.into_iter().map(|raw| tap.event(&SseEvent::new(Bytes::copy_from_slice(raw.as_bytes())))).collect()
}

/// What a local model does that goes on with text: more of it, then the end of the reply, in frames that fit what the client has.
pub fn go_on(seen: &Seen, more: &str) -> Vec<String> {
    let open = seen.pieces().next_back().filter(|(piece, _)| piece.open).map(|(_, wire)| wire.index);
    let next = seen.reply.pieces.len();
    let mut writer = Writer { frames: Vec::new(), items: Vec::new() };
    match seen.protocol {
        Protocol::AnthropicMessages => {
            if open.is_none() {
                writer.named(json!({"type": "content_block_start", "index": next, "content_block": {"type": "text", "text": ""}}));
            }
            let index = open.unwrap_or(next);
            writer.named(json!({"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": more}}));
            writer.named(json!({"type": "content_block_stop", "index": index}));
            writer.end_message("end_turn");
        }
        Protocol::OpenAiChat => {
            writer.chunk(choice(json!({"content": more}), Value::Null), None);
            writer.chunk(choice(json!({}), "stop".into()), None);
            writer.push("data: [DONE]\n\n".into(), None);
        }
        Protocol::OpenAiCompletions => {
            writer.completion_chunk(more, Value::Null, None);
            writer.completion_chunk("", "stop".into(), None);
            writer.push("data: [DONE]\n\n".into(), None);
        }
        Protocol::OpenAiResponses => {
            let before = if open.is_some() { next - 1 } else { next };
            let done = seen.wire[..before].iter().map(|wire| serde_json::from_str(wire.item.as_deref().expect("an item")).expect("JSON"));
            writer.items = done.collect();
            let mut text = match open {
                Some(_) => match &seen.reply.pieces[before].content {
                    understudy::chat::begun::BegunContent::Text(text) => text.clone(),
                    other => panic!("{other:?} is no text"),
                },
                None => String::new(),
            };
            // Numbers go on from those of before.
            writer.frames = vec![Frame { raw: String::new(), adds: None }; seen.reply.frames];
            if open.is_none() {
                writer.begin_message();
            }
            text.push_str(more);
            writer.event(
                "response.output_text.delta",
                at(&writer.id("msg"), before, json!({"content_index": 0, "delta": more, "logprobs": []})),
                None,
            );
            writer.end_text(&text);
            writer.end_response();
        }
    }
    writer.frames.into_iter().map(|frame| frame.raw).filter(|raw| !raw.is_empty()).collect()
}

struct Writer {
    frames: Vec<Frame>,
    /// Done, of a response.
    items: Vec<Value>,
}

impl Writer {
    fn push(&mut self, raw: String, adds: Option<(usize, String)>) {
        self.frames.push(Frame { raw, adds });
    }

    fn named(&mut self, event: Value) {
        self.named_adding(event, None);
    }

    fn named_adding(&mut self, event: Value, adds: Option<(usize, String)>) {
        self.push(format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("a type")), adds);
    }

    fn messages(&mut self, pieces: &[Piece]) {
        let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": message_usage(0)});
        self.named(json!({"type": "message_start", "message": message}));
        for (index, piece) in pieces.iter().enumerate() {
            let (block, kind, field) = match piece {
                Piece::Text(_) => (json!({"type": "text", "text": ""}), "text_delta", "text"),
                Piece::Thinking(_) => (json!({"type": "thinking", "thinking": "", "signature": ""}), "thinking_delta", "thinking"),
                Piece::Call(_) => {
                    let id = format!("toolu_{index}");
                    (json!({"type": "tool_use", "id": id, "name": "look", "input": {}}), "input_json_delta", "partial_json")
                }
            };
            self.named(json!({"type": "content_block_start", "index": index, "content_block": block}));
            for delta in piece.deltas() {
                let mut told = json!({"type": kind});
                told[field] = delta.as_str().into();
                let event = json!({"type": "content_block_delta", "index": index, "delta": told});
                self.named_adding(event, Some((index, delta.clone())));
            }
            if let Piece::Thinking(_) = piece {
                let delta = json!({"type": "signature_delta", "signature": format!("signed {index}")});
                self.named(json!({"type": "content_block_delta", "index": index, "delta": delta}));
            }
            self.named(json!({"type": "content_block_stop", "index": index}));
        }
        self.end_message(if pieces.iter().any(|piece| matches!(piece, Piece::Call(_))) { "tool_use" } else { "end_turn" });
    }

    fn end_message(&mut self, reason: &str) {
        let delta = json!({"stop_reason": reason, "stop_sequence": null});
        self.named(json!({"type": "message_delta", "delta": delta, "usage": message_usage(50)}));
        self.named(json!({"type": "message_stop"}));
    }

    fn chat(&mut self, pieces: &[Piece]) {
        self.chunk(choice(json!({"role": "assistant", "content": ""}), Value::Null), None);
        let mut calls = 0;
        for (index, piece) in pieces.iter().enumerate() {
            if let Piece::Call(_) = piece {
                let function = json!({"name": "look", "arguments": ""});
                let call = json!({"index": calls, "id": format!("call_{index}"), "type": "function", "function": function});
                self.chunk(choice(json!({"tool_calls": [call]}), Value::Null), Some((index, String::new())));
                calls += 1;
            }
            for delta in piece.deltas() {
                let told = match piece {
                    Piece::Text(_) => json!({"content": delta}),
                    Piece::Thinking(_) => json!({"reasoning_content": delta}),
                    Piece::Call(_) => json!({"tool_calls": [{"index": calls - 1, "function": {"arguments": delta}}]}),
                };
                self.chunk(choice(told, Value::Null), Some((index, delta.clone())));
            }
        }
        self.chunk(choice(json!({}), if calls > 0 { "tool_calls" } else { "stop" }.into()), None);
        self.push("data: [DONE]\n\n".into(), None);
    }

    fn chunk(&mut self, choice: Value, adds: Option<(usize, String)>) {
        let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "gpt", "choices": [choice]});
        self.push(format!("data: {chunk}\n\n"), adds);
    }

    fn completion(&mut self, pieces: &[Piece]) {
        for delta in pieces.iter().flat_map(Piece::deltas) {
            self.completion_chunk(delta, Value::Null, Some((0, delta.clone())));
        }
        self.completion_chunk("", "stop".into(), None);
        self.push("data: [DONE]\n\n".into(), None);
    }

    fn completion_chunk(&mut self, text: &str, finish: Value, adds: Option<(usize, String)>) {
        let choice = json!({"text": text, "index": 0, "logprobs": null, "finish_reason": finish});
        let chunk = json!({"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "gpt", "choices": [choice]});
        self.push(format!("data: {chunk}\n\n"), adds);
    }

    fn responses(&mut self, pieces: &[Piece]) {
        self.event("response.created", json!({"response": response("in_progress", json!([]))}), None);
        self.event("response.in_progress", json!({"response": response("in_progress", json!([]))}), None);
        for (index, piece) in pieces.iter().enumerate() {
            let text = piece.text();
            match piece {
                Piece::Text(deltas) => {
                    self.begin_message();
                    for delta in deltas {
                        let fields = json!({"content_index": 0, "delta": delta, "logprobs": []});
                        self.event("response.output_text.delta", at(&self.id("msg"), index, fields), Some((index, delta.clone())));
                    }
                    self.end_text(&text);
                }
                Piece::Thinking(deltas) => self.reasoning(deltas, &text),
                Piece::Call(deltas) => self.call(deltas, &text),
            }
        }
        if pieces.is_empty() {
            self.begin_message();
            self.end_text("");
        }
        self.end_response();
    }

    fn reasoning(&mut self, deltas: &[String], text: &str) {
        let (index, id) = (self.items.len(), self.id("rs"));
        let item = |status: &str, summary: Value| json!({"id": id, "type": "reasoning", "status": status, "summary": summary});
        self.add(item("in_progress", json!([])));
        let part = |text: &str| json!({"summary_index": 0, "part": {"type": "summary_text", "text": text}});
        self.event("response.reasoning_summary_part.added", at(&id, index, part("")), None);
        for delta in deltas {
            let fields = json!({"summary_index": 0, "delta": delta});
            self.event("response.reasoning_summary_text.delta", at(&id, index, fields), Some((index, delta.clone())));
        }
        self.event("response.reasoning_summary_text.done", at(&id, index, json!({"summary_index": 0, "text": text})), None);
        self.event("response.reasoning_summary_part.done", at(&id, index, part(text)), None);
        self.done(item("completed", json!([{"type": "summary_text", "text": text}])));
    }

    fn call(&mut self, deltas: &[String], text: &str) {
        let (index, id) = (self.items.len(), self.id("fc"));
        let item = |status: &str, arguments: &str| {
            let call_id = format!("call_{index}");
            json!({"id": id, "type": "function_call", "status": status, "arguments": arguments, "call_id": call_id, "name": "look"})
        };
        self.add(item("in_progress", ""));
        for delta in deltas {
            let fields = json!({"delta": delta});
            self.event("response.function_call_arguments.delta", at(&id, index, fields), Some((index, delta.clone())));
        }
        self.event("response.function_call_arguments.done", at(&id, index, json!({"arguments": text})), None);
        self.done(item("completed", text));
    }

    fn begin_message(&mut self) {
        let id = self.id("msg");
        self.add(json!({"id": id, "type": "message", "status": "in_progress", "role": "assistant", "content": []}));
        let fields = json!({"content_index": 0, "part": text_part("")});
        self.event("response.content_part.added", at(&id, self.items.len(), fields), None);
    }

    fn end_text(&mut self, text: &str) {
        let (index, id) = (self.items.len(), self.id("msg"));
        let fields = json!({"content_index": 0, "text": text, "logprobs": []});
        self.event("response.output_text.done", at(&id, index, fields), None);
        self.event("response.content_part.done", at(&id, index, json!({"content_index": 0, "part": text_part(text)})), None);
        let content = [text_part(text)];
        self.done(json!({"id": id, "type": "message", "status": "completed", "role": "assistant", "content": content}));
    }

    fn end_response(&mut self) {
        let mut response = response("completed", self.items.clone().into());
        response["usage"] = json!({"input_tokens": PROMPT_TOKENS, "input_tokens_details": {"cached_tokens": 10},
            "output_tokens": 50, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": PROMPT_TOKENS + 50});
        self.event("response.completed", json!({"response": response}), None);
    }

    fn id(&self, prefix: &str) -> String {
        format!("{prefix}_abc_{}", self.items.len())
    }

    fn add(&mut self, item: Value) {
        self.event("response.output_item.added", json!({"output_index": self.items.len(), "item": item}), None);
    }

    fn done(&mut self, item: Value) {
        self.event("response.output_item.done", json!({"output_index": self.items.len(), "item": item}), None);
        self.items.push(item);
    }

    fn event(&mut self, kind: &str, fields: Value, adds: Option<(usize, String)>) {
        let mut event = json!({"type": kind, "sequence_number": self.frames.len()});
        event.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        self.named_adding(event, adds);
    }
}

fn message_usage(output_tokens: usize) -> Value {
    json!({"input_tokens": PROMPT_TOKENS - 30, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 10,
        "output_tokens": output_tokens, "output_tokens_details": {"thinking_tokens": 0}})
}

fn choice(delta: Value, finish: Value) -> Value {
    json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish})
}

fn at(item_id: &str, output_index: usize, fields: Value) -> Value {
    let mut all = json!({"item_id": item_id, "output_index": output_index});
    all.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    all
}

fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn response(status: &str, output: Value) -> Value {
    json!({"id": "resp_abc", "object": "response", "created_at": 7, "status": status, "background": false, "error": null,
        "incomplete_details": null, "model": "gpt", "output": output, "usage": null, "instructions": null, "max_output_tokens": null,
        "max_tool_calls": null, "metadata": {}, "parallel_tool_calls": true, "previous_response_id": null, "prompt_cache_key": null,
        "reasoning": null, "safety_identifier": null, "service_tier": "default", "store": false, "temperature": 1.0, "text": {},
        "tool_choice": "auto", "tools": [], "top_logprobs": 0, "top_p": 1.0, "truncation": "disabled", "user": null})
}

fn deltas() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec("[a-z\"\\\\\n \u{E9}\u{1F600}]{1,6}", 1..4)
}

/// JSON of an object, cut into pieces anywhere.
fn arguments() -> impl Strategy<Value = Vec<String>> {
    let members = proptest::collection::btree_map("[a-z]{1,4}", "[a-z\"\\\\\n\u{E9}]{0,5}", 0..3);
    (members, proptest::collection::vec(1_usize..6, 1..8)).prop_map(|(members, cuts)| {
        let whole: Vec<char> = json!(members).to_string().chars().collect();
        let (mut rest, mut pieces, mut cuts) = (whole.as_slice(), Vec::new(), cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*cuts.next().expect("it cycles")).min(rest.len()));
            pieces.push(piece.iter().collect());
            rest = after;
        }
        pieces
    })
}

/// What a model may say in one reply. Two texts, or two thoughts, are one.
pub fn pieces(protocol: Protocol) -> impl Strategy<Value = Vec<Piece>> {
    let kinds = match protocol {
        // The strict reader of chats knows no thoughts.
        Protocol::OpenAiChat => 2_u8,
        Protocol::OpenAiCompletions => 1,
        _ => 3,
    };
    let piece = (0..kinds, deltas(), arguments()).prop_map(|(kind, deltas, arguments)| match kind {
        0 => Piece::Text(deltas),
        1 => Piece::Call(arguments),
        _ => Piece::Thinking(deltas),
    });
    proptest::collection::vec(piece, 0..5).prop_map(|mut pieces: Vec<Piece>| {
        pieces.dedup_by(|one, other| matches!((one, other), (Piece::Text(_), Piece::Text(_)) | (Piece::Thinking(_), Piece::Thinking(_))));
        pieces
    })
}
