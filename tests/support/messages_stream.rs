//! A strict reader of Anthropic's streams of messages: what the grammar forbids is a failed test. What it reads it folds, so that a
//! stream can be compared with a whole reply.

use serde_json::{Map, Value, json};

use super::http_client::{Reply, Sse};

/// What a stream added up to.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    /// As a whole reply has it.
    pub message: Value,
    /// The usage of the opening event.
    pub opening_usage: Value,
    /// Text deltas in order.
    pub deltas: Vec<String>,
    pub keep_alives: usize,
    /// The stream ended with this, and not as it should.
    pub error: Option<Value>,
}

const USAGE: [&str; 5] =
    ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens", "output_tokens_details"];

/// Reads a finished stream.
#[track_caller]
pub fn read_messages_stream(reply: &Reply) -> Folded {
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    let frames = reply.events().into_iter().map(|event| match event {
        Sse::Named { event, data } => (event, data),
        other => panic!("{other:?} has no name"),
    });
    fold(frames)
}

/// Reads the frames of a finished stream: names and data.
#[track_caller]
pub fn fold(frames: impl IntoIterator<Item = (String, String)>) -> Folded {
    let mut automaton = Automaton::default();
    for (name, data) in frames {
        let mut event: Value = serde_json::from_str(&data).expect("an event is JSON");
        assert_eq!(event["type"], name, "an event's name is its type");
        event.as_object_mut().expect("an event is an object").shift_remove("type");
        automaton.read(&name, event);
    }
    automaton.finish()
}

#[derive(Default)]
struct Automaton {
    message: Map<String, Value>,
    opening_usage: Value,
    content: Vec<Value>,
    open: Option<Open>,
    deltas: Vec<String>,
    keep_alives: usize,
    /// As far as a sign of life has said.
    output_tokens: u64,
    ended: bool,
    stopped: bool,
    error: Option<Value>,
}

#[derive(Default)]
struct Open {
    /// Put together from the deltas.
    text: String,
    signature: Option<String>,
}

impl Automaton {
    fn read(&mut self, name: &str, mut event: Value) {
        assert!(!self.stopped && self.error.is_none(), "nothing comes after the end: {name}");
        assert_eq!(name == "message_start", self.message.is_empty(), "a stream opens with message_start, once: {name}");
        match name {
            "message_start" => self.start(take(&mut event, "message")),
            "content_block_start" => self.begin(&mut event),
            "content_block_delta" => self.delta(&mut event),
            "content_block_stop" => self.end(&mut event),
            "message_delta" => self.message_delta(&mut event),
            "message_stop" => {
                assert!(self.ended, "a stop reason comes before the stop");
                self.stopped = true;
            }
            "error" => {
                let error = take(&mut event, "error");
                assert_eq!(keys(&error), ["type", "message"]);
                self.error = Some(error);
            }
            other => panic!("{other} is no event of this grammar"),
        }
        assert_eq!(event, json!({}), "{name} holds more than it should");
    }

    fn start(&mut self, message: Value) {
        assert_eq!(keys(&message), ["id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"]);
        assert!(message["id"].as_str().is_some_and(|id| id.starts_with("msg_")), "{message}");
        assert_eq!((&message["type"], &message["role"]), (&json!("message"), &json!("assistant")));
        assert_eq!((&message["content"], &message["stop_reason"], &message["stop_sequence"]), (&json!([]), &Value::Null, &Value::Null));
        assert_eq!((keys(&message["usage"]), &message["usage"]["output_tokens"]), (USAGE.to_vec(), &json!(0)));
        self.opening_usage = message["usage"].clone();
        self.message = message.as_object().expect("an object").clone();
    }

    fn begin(&mut self, event: &mut Value) {
        assert!(self.open.is_none() && !self.ended, "blocks come one after the other");
        assert_eq!(index(event), self.content.len(), "blocks are counted from 0");
        let block = take(event, "content_block");
        let last = self.content.last().map(|block| block["type"].clone());
        assert!(block["type"] == "tool_use" || last.as_ref() != Some(&block["type"]), "one block after another of the same kind");
        match block["type"].as_str() {
            Some("text") => assert_eq!(block, json!({"type": "text", "text": ""})),
            Some("thinking") => assert_eq!(block, json!({"type": "thinking", "thinking": "", "signature": ""})),
            Some("tool_use") => {
                assert_eq!(keys(&block), ["type", "id", "name", "input"]);
                assert!(block["id"].as_str().is_some_and(|id| id.len() > 6 && id.starts_with("toolu_")), "{block}");
                assert!(block["name"].as_str().is_some_and(|name| !name.is_empty()), "{block}");
                assert_eq!(block["input"], json!({}));
            }
            _ => panic!("{block} is no block of this grammar"),
        }
        self.content.push(block);
        self.open = Some(Open::default());
    }

    fn delta(&mut self, event: &mut Value) {
        let Some(open) = &mut self.open else { panic!("a delta without a block: {event}") };
        assert_eq!(index(event) + 1, self.content.len(), "a delta belongs to the open block");
        let mut delta = take(event, "delta");
        let kind = delta["type"].as_str().expect("a delta has a type").to_owned();
        let block = self.content.last().expect("a block is open")["type"].as_str().expect("a type");
        let field = match (block, kind.as_str()) {
            ("text", "text_delta") => "text",
            ("thinking", "thinking_delta") => "thinking",
            ("thinking", "signature_delta") => "signature",
            ("tool_use", "input_json_delta") => "partial_json",
            _ => panic!("{kind} in a block of {block}"),
        };
        assert_eq!(keys(&delta), ["type", field]);
        let text = take(&mut delta, field).as_str().expect("a delta is text").to_owned();
        assert_eq!(open.signature, None, "nothing comes after the signature");
        assert!(!text.is_empty() || kind == "input_json_delta", "a delta that says nothing");
        if kind == "text_delta" {
            self.deltas.push(text.clone());
        }
        match kind.as_str() {
            "signature_delta" => open.signature = Some(text),
            _ => open.text.push_str(&text),
        }
    }

    fn end(&mut self, event: &mut Value) {
        let Some(open) = self.open.take() else { panic!("the end of no block: {event}") };
        assert_eq!(index(event) + 1, self.content.len());
        let block = self.content.last_mut().expect("a block is open");
        match block["type"].as_str() {
            Some("text") => {
                assert!(!open.text.is_empty(), "an empty text would be sent back by the client, and refused elsewhere");
                block["text"] = open.text.into();
            }
            Some("thinking") => {
                block["thinking"] = open.text.into();
                block["signature"] = open.signature.expect("thinking is signed").into();
            }
            _ if open.text.is_empty() => {}
            _ => {
                let input = serde_json::from_str(&open.text).ok().filter(Value::is_object);
                block["input"] = input.unwrap_or_else(|| json!({"__unparsedToolInput": open.text}));
            }
        }
    }

    fn message_delta(&mut self, event: &mut Value) {
        let (delta, usage) = (take(event, "delta"), take(event, "usage"));
        assert_eq!(keys(&delta), ["stop_reason", "stop_sequence"]);
        if delta["stop_reason"].is_null() {
            assert_eq!((&delta["stop_sequence"], keys(&usage)), (&Value::Null, vec!["output_tokens"]), "a sign of life says nothing else");
            self.keep_alives += 1;
            return self.count(&usage);
        }
        assert!(self.open.is_none() && !self.ended, "the reason comes once, after the last block");
        assert_eq!(keys(&usage), USAGE);
        self.count(&usage);
        let reason = delta["stop_reason"].as_str().expect("a reason is text");
        assert!(["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"].contains(&reason), "{reason}");
        assert_eq!(reason == "stop_sequence", delta["stop_sequence"].is_string());
        let calls = self.content.iter().any(|block| block["type"] == "tool_use");
        assert!(calls || reason != "tool_use", "no tool is used");
        let before = |usage: &Value| usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap();
        assert_eq!(before(&usage), before(&self.opening_usage), "the prompt is as long at the end as at the beginning");
        self.message.extend(delta.as_object().expect("an object").clone());
        self.message.insert("usage".into(), usage);
        self.ended = true;
    }

    fn count(&mut self, usage: &Value) {
        let tokens = usage["output_tokens"].as_u64().expect("a number");
        assert!(tokens >= self.output_tokens, "tokens are counted from the beginning");
        self.output_tokens = tokens;
    }

    fn finish(mut self) -> Folded {
        assert!(self.stopped || self.error.is_some(), "the stream just stops");
        self.message.insert("content".into(), self.content.into());
        let Self { message, opening_usage, deltas, keep_alives, error, .. } = self;
        Folded { message: Value::Object(message), opening_usage, deltas, keep_alives, error }
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("{value} is no object")).keys().map(String::as_str).collect()
}

fn take(event: &mut Value, field: &str) -> Value {
    let value = event.as_object_mut().and_then(|event| event.shift_remove(field));
    value.unwrap_or_else(|| panic!("{field} is missing in {event}"))
}

fn index(event: &mut Value) -> usize {
    take(event, "index").as_u64().expect("an index is a number") as usize
}
