//! A strict reader of streams as clients see them, whoever wrote them: a cloud, this machine, or the one after the other. What the grammar
//! of the protocol forbids is a failed test; fields that providers add are none of its business.

use std::collections::HashSet;

use serde_json::Value;
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::raw_client::{Exchange, SseEvent};

/// What a stream added up to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Told {
    /// Who began it.
    pub model: String,
    pub text: String,
    pub thinking: String,
    /// Names and arguments.
    pub calls: Vec<(String, String)>,
    pub usage: Value,
    pub end: StreamEnd,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub enum StreamEnd {
    /// Nothing says that it is over: no client takes it for a success.
    #[default]
    None,
    /// The reason.
    Finished(String),
    /// What it says went wrong.
    Error(Value),
}

/// Reads all events of a body, and that nothing is torn.
#[track_caller]
pub fn read(dialect: Dialect, exchange: &Exchange) -> Told {
    let body = exchange.text();
    let ends = body.trim_end_matches(['\r', '\n']);
    assert!(body.is_empty() || body.len() >= ends.len() + 2, "the stream ends in the middle of an event: {body}");
    let mut reader = Reader { dialect, ..Reader::default() };
    for event in exchange.events() {
        assert_eq!(reader.told.end, StreamEnd::None, "{event:?} comes after the end: {body}");
        match dialect {
            Dialect::AnthropicMessages => reader.message_event(&event),
            Dialect::OpenaiChat => reader.chunk(&event),
            Dialect::OpenaiResponses => reader.response_event(&event),
        }
    }
    reader.told
}

struct Reader {
    dialect: Dialect,
    told: Told,
    /// Events so far.
    count: u64,
    /// Ids, types and whatever else may not change.
    head: Option<Value>,
    /// The piece that is open, by its type, and what it says.
    open: Option<(String, String)>,
    pieces: u64,
    reason: Option<String>,
}

impl Default for Reader {
    fn default() -> Self {
        let (told, head, open, reason) = (Told::default(), None, None, None);
        Self { dialect: Dialect::AnthropicMessages, told, count: 0, head, open, pieces: 0, reason }
    }
}

impl Reader {
    fn message_event(&mut self, event: &SseEvent) {
        let json = event.json();
        let kind = event.event.clone().expect("an event of messages has a name");
        assert_eq!(json["type"], kind.as_str(), "an event's name is its type");
        self.count += 1;
        match kind.as_str() {
            "ping" => return,
            "error" => return self.told.end = StreamEnd::Error(json["error"].clone()),
            "message_start" => {
                assert!(self.head.is_none(), "a second message in one stream: {json}");
                self.told.model = text(&json["message"]["model"]);
                return self.head = Some(json["message"]["id"].clone());
            }
            _ => assert!(self.head.is_some(), "{kind} before message_start"),
        }
        match kind.as_str() {
            "content_block_start" => {
                assert!(self.open.is_none() && self.reason.is_none(), "a block begins in another: {json}");
                assert_eq!(json["index"], self.pieces, "blocks are counted from 0");
                let block = &json["content_block"];
                self.begin(&text(&block["type"]), &block["name"]);
            }
            "content_block_delta" => {
                assert_eq!(json["index"], self.pieces, "a delta belongs to the open block");
                let (open, field) = match json["delta"]["type"].as_str() {
                    Some("text_delta") => ("text", "text"),
                    Some("thinking_delta") => ("thinking", "thinking"),
                    Some("signature_delta") => return self.is_open("thinking"),
                    Some("input_json_delta") => ("tool_use", "partial_json"),
                    other => panic!("{other:?} is no delta: {json}"),
                };
                self.add(open, &json["delta"][field]);
            }
            "content_block_stop" => {
                assert_eq!(json["index"], self.pieces, "the open block ends");
                self.end();
            }
            "message_delta" => {
                self.told.usage = json["usage"].clone();
                let Some(reason) = json["delta"]["stop_reason"].as_str() else { return };
                assert!(self.open.is_none() && self.reason.is_none(), "the reason comes once, and after all blocks: {json}");
                self.reason = Some(reason.to_owned());
            }
            "message_stop" => self.finish("tool_use"),
            _ => panic!("{kind} is no event of messages"),
        }
    }

    fn chunk(&mut self, event: &SseEvent) {
        assert_eq!(event.event, None, "chunks have no names");
        if event.data == "[DONE]" {
            // In chats nothing else ends a piece.
            if self.open.is_some() {
                self.end();
            }
            return self.finish("tool_calls");
        }
        let json = event.json();
        if json.get("error").is_some() {
            return self.told.end = StreamEnd::Error(json["error"].clone());
        }
        assert_eq!(json["object"], "chat.completion.chunk", "{event:?}");
        let head = Value::from(vec![json["id"].clone(), json["created"].clone(), json["model"].clone()]);
        assert_eq!(*self.head.get_or_insert_with(|| head.clone()), head, "one stream is one completion");
        self.told.model = text(&json["model"]);
        self.count += 1;
        if json["usage"].is_object() {
            self.told.usage = json["usage"].clone();
        }
        let choices = json["choices"].as_array().expect("choices are a list");
        let Some(choice) = choices.first() else { return };
        let delta = &choice["delta"];
        assert_eq!(self.count == 1, delta["role"] == "assistant", "the role comes first, and once: {json}");
        let says =
            ["content", "reasoning_content", "tool_calls"].iter().any(|field| delta[field].as_str() != Some("") && !delta[field].is_null());
        assert!(!says || self.reason.is_none(), "nothing is said after the reason: {json}");
        for (field, kind) in [("content", "text"), ("reasoning_content", "thinking")] {
            if let Some(piece) = delta[field].as_str().filter(|piece| !piece.is_empty()) {
                self.begin_unless_open(kind);
                self.add(kind, &piece.into());
            }
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            if !call["id"].is_null() {
                assert_eq!(call["index"], self.told.calls.len(), "calls are counted from 0");
                if self.open.is_some() {
                    self.end();
                }
                self.begin("tool_use", &call["function"]["name"]);
            }
            self.add("tool_use", &call["function"]["arguments"]);
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            assert_eq!(self.reason.replace(reason.to_owned()), None, "the reason comes once");
        }
    }

    fn response_event(&mut self, event: &SseEvent) {
        let json = event.json();
        let kind = event.event.clone().expect("an event of responses has a name");
        assert_eq!(json["type"], kind.as_str(), "an event's name is its type");
        if kind == "error" {
            return self.told.end = StreamEnd::Error(json);
        }
        assert_eq!(json["sequence_number"], self.count, "numbers have no gaps: {json}");
        self.count += 1;
        assert_eq!(self.count == 1, kind == "response.created", "a stream opens with response.created, once: {kind}");
        if let Some(response) = json.get("response") {
            let head = Value::from(vec![response["id"].clone(), response["model"].clone()]);
            assert_eq!(*self.head.get_or_insert_with(|| head.clone()), head, "one stream is one response");
            self.told.model = text(&response["model"]);
        }
        match kind.as_str() {
            "response.created" | "response.in_progress" => {}
            "response.output_item.added" => {
                assert_eq!(json["output_index"], self.pieces, "items are counted from 0");
                assert!(self.open.is_none(), "an item begins in another: {json}");
                let kind = match json["item"]["type"].as_str() {
                    Some("message") => "text",
                    Some("reasoning") => "thinking",
                    _ => "tool_use",
                };
                self.begin(kind, &json["item"]["name"]);
            }
            "response.output_item.done" => {
                let (item, said) = (&json["item"], self.open.as_ref().expect("an item is open").1.clone());
                let whole = match item["type"].as_str() {
                    Some("message") => &item["content"][0]["text"],
                    Some("reasoning") => &item["summary"][0]["text"],
                    _ => &item["arguments"],
                };
                assert_eq!(whole.as_str().unwrap_or_default(), said, "an item is what its deltas said");
                self.end();
            }
            "response.output_text.delta" => self.add("text", &json["delta"]),
            "response.reasoning_summary_text.delta" => self.add("thinking", &json["delta"]),
            "response.function_call_arguments.delta" => self.add("tool_use", &json["delta"]),
            "response.completed" | "response.incomplete" => {
                assert!(self.open.is_none(), "an item is still open: {json}");
                let response = &json["response"];
                assert_eq!(response["output"].as_array().map(|items| items.len() as u64), Some(self.pieces), "all items: {json}");
                self.told.usage = response["usage"].clone();
                self.told.end = StreamEnd::Finished(text(&response["status"]));
            }
            "response.failed" => self.told.end = StreamEnd::Error(json["response"]["error"].clone()),
            _ => self.is_open(if kind.contains("reasoning") {
                "thinking"
            } else if kind.contains("arguments") {
                "tool_use"
            } else {
                "text"
            }),
        }
    }

    fn begin(&mut self, kind: &str, name: &Value) {
        if kind == "tool_use" {
            self.told.calls.push((text(name), String::new()));
        }
        self.open = Some((kind.to_owned(), String::new()));
    }

    fn begin_unless_open(&mut self, kind: &str) {
        if self.open.as_ref().is_some_and(|(open, _)| open != kind) {
            self.end();
        }
        if self.open.is_none() {
            self.begin(kind, &Value::Null);
        }
    }

    #[track_caller]
    fn is_open(&self, kind: &str) {
        assert_eq!(self.open.as_ref().map(|(open, _)| open.as_str()), Some(kind), "what is open is something else");
    }

    #[track_caller]
    fn add(&mut self, kind: &str, piece: &Value) {
        self.is_open(kind);
        let piece = piece.as_str().expect("a piece is text");
        self.open.as_mut().expect("it is open").1.push_str(piece);
        match kind {
            "text" => self.told.text.push_str(piece),
            "thinking" => self.told.thinking.push_str(piece),
            _ => self.told.calls.last_mut().expect("a call is open").1.push_str(piece),
        }
    }

    fn end(&mut self) {
        let (kind, said) = self.open.take().expect("what ends was open");
        self.pieces += 1;
        // Whoever gets this executes it.
        let is_object = |said: &str| serde_json::from_str::<Value>(said).is_ok_and(|json| json.is_object());
        assert!(kind != "tool_use" || said.is_empty() || is_object(&said), "a call with arguments that are no JSON was closed: {said}");
    }

    /// `calls`: the reason that asks for calls to be executed.
    fn finish(&mut self, calls: &str) {
        let reason = self.reason.clone().unwrap_or_else(|| panic!("{:?}: an end without its reason", self.dialect));
        assert!(reason != calls || !self.told.calls.is_empty(), "calls are asked for, and there are none");
        let names: HashSet<_> = self.told.calls.iter().map(|(name, _)| name.is_empty()).collect();
        assert!(!names.contains(&true), "a call has no name");
        self.told.end = StreamEnd::Finished(reason);
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
