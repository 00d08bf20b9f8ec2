//! A strict reader of streams of the Responses API: what the grammar forbids is a failed test. What it reads it folds, so that a stream
//! can be compared with a whole reply.

use serde_json::{Value, json};

use super::http_client::{Reply, Sse};
use super::test_app::TestApp;

/// What a stream added up to.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    /// Of the last event.
    pub response: Value,
    /// Types of all events, in order.
    pub events: Vec<String>,
    /// Deltas of text, thinking, arguments and inputs in order.
    pub deltas: Vec<String>,
    pub keep_alives: usize,
}

/// The fields of a response, in their order.
const RESPONSE: [&str; 29] = [
    "id",
    "object",
    "created_at",
    "status",
    "background",
    "error",
    "incomplete_details",
    "model",
    "output",
    "usage",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "store",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
];

/// Reads a finished stream.
#[track_caller]
pub fn read_response_stream(reply: &Reply) -> Folded {
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    fold(reply.events().into_iter().map(|event| match event {
        Sse::Named { event, data } => (event, data),
        other => panic!("{other:?} has no name"),
    }))
}

/// Reads the frames of a finished stream: names and data.
#[track_caller]
pub fn fold(frames: impl IntoIterator<Item = (String, String)>) -> Folded {
    let mut automaton = Automaton::default();
    for (name, data) in frames {
        let event: Value = serde_json::from_str(&data).expect("an event is JSON");
        automaton.read(&name, &event);
    }
    assert!(automaton.is_over, "the stream ends after {:?}", automaton.events.last());
    Folded { response: automaton.response, events: automaton.events, deltas: automaton.deltas, keep_alives: automaton.keep_alives }
}

/// What must be true of any response, whole or in an event.
#[track_caller]
pub fn check_response(response: &Value) {
    let keys: Vec<&str> = response.as_object().expect("a response is an object").keys().map(String::as_str).collect();
    assert_eq!(keys, RESPONSE);
    assert_eq!((&response["object"], &response["background"]), (&json!("response"), &json!(false)));
    let id = response["id"].as_str().expect("an id is text");
    let name = id.strip_prefix("resp_").expect("an id says what it is of");
    assert!(response["created_at"].is_i64() && response["model"].is_string());
    let status = response["status"].as_str().expect("a status is text");
    assert_eq!(response["error"].is_object(), status == "failed", "{response}");
    let reasons = [json!({"reason": "max_output_tokens"}), json!({"reason": "content_filter"})];
    let details = &response["incomplete_details"];
    assert!(if status == "incomplete" { reasons.contains(details) } else { details.is_null() }, "{response}");
    assert_eq!(response["usage"].is_object(), matches!(status, "completed" | "incomplete"), "{response}");
    if let Some(usage) = response["usage"].as_object() {
        let keys: Vec<&str> = usage.keys().map(String::as_str).collect();
        assert_eq!(keys, ["input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details", "total_tokens"]);
        let count = |name: &str| usage[name].as_u64().expect("a count");
        assert_eq!(count("input_tokens") + count("output_tokens"), count("total_tokens"));
    }
    let items = response["output"].as_array().expect("the output is an array");
    assert!(status != "in_progress" || items.is_empty());
    for (index, item) in items.iter().enumerate() {
        check_item(item, name, index);
        assert!(item["status"] == "completed" || item["status"] == "incomplete", "{item}");
    }
}

#[track_caller]
fn check_item(item: &Value, name: &str, index: usize) {
    let keys: Vec<&str> =
        item.as_object().expect("an item is an object").keys().map(String::as_str).filter(|key| *key != "namespace").collect();
    let (prefix, expected) = match item["type"].as_str().expect("an item has a type") {
        "message" => ("msg", ["id", "type", "status", "role", "content"].as_slice()),
        "reasoning" => ("rs", ["id", "type", "status", "summary"].as_slice()),
        "function_call" => ("fc", ["id", "type", "status", "arguments", "call_id", "name"].as_slice()),
        "custom_tool_call" => ("ctc", ["id", "type", "status", "input", "call_id", "name"].as_slice()),
        other => panic!("{other} is no type of ours"),
    };
    assert_eq!(keys, expected);
    assert_eq!(item["id"], format!("{prefix}_{name}_{index}"), "an item's id follows from the response's");
    if let Some(call_id) = item.get("call_id") {
        assert!(call_id.as_str().is_some_and(|id| id.starts_with("call_")), "{item}");
    }
}

#[derive(Default)]
struct Automaton {
    events: Vec<String>,
    deltas: Vec<String>,
    keep_alives: usize,
    /// Of the last event about the response as a whole.
    response: Value,
    done: Vec<Value>,
    open: Option<Open>,
    is_over: bool,
}

/// The item that is being filled.
struct Open {
    item: Value,
    text: String,
    logprobs: Vec<Value>,
    state: State,
}

#[derive(PartialEq, Debug)]
enum State {
    Added,
    /// Its part is there, or it needs none.
    Filling,
    /// Its text is done.
    TextDone,
    /// All but the end of the item.
    PartDone,
}

impl Automaton {
    #[track_caller]
    fn read(&mut self, name: &str, event: &Value) {
        assert!(!self.is_over, "{name} after the end");
        assert_eq!(event["type"], name, "an event's name is its type");
        assert_eq!(event["sequence_number"], self.events.len(), "numbers have no gaps");
        let keys: Vec<&str> = event.as_object().expect("an event is an object").keys().map(String::as_str).skip(2).collect();
        assert_eq!(keys, fields_of(name), "{name}");
        self.events.push(name.to_owned());
        match name {
            "response.created" | "response.in_progress" | "response.completed" | "response.incomplete" | "response.failed" => {
                self.lifecycle(name, &event["response"]);
            }
            _ => self.item_event(name, event),
        }
    }

    fn lifecycle(&mut self, name: &str, response: &Value) {
        check_response(response);
        match self.events.len() {
            1 => assert_eq!(name, "response.created"),
            2 => assert_eq!(name, "response.in_progress"),
            _ => assert_ne!(name, "response.created"),
        }
        if self.events.len() > 1 {
            for (field, value) in self.response.as_object().expect("a response came before") {
                if !["status", "error", "incomplete_details", "output", "usage"].contains(&field.as_str()) {
                    assert_eq!(response[field], *value, "{field} does not change");
                }
            }
        }
        let status = response["status"].as_str().expect("text");
        match name {
            "response.created" | "response.in_progress" => {
                assert_eq!(status, "in_progress");
                self.keep_alives += usize::from(self.events.len() > 2);
            }
            "response.failed" => {
                assert!(matches!(status, "failed" | "cancelled"), "{status}");
                let output = response["output"].as_array().expect("an array");
                assert_eq!(output[..self.done.len()], self.done, "items that were done");
                assert_eq!(output.len(), self.done.len() + usize::from(self.open.is_some()));
            }
            _ => {
                assert_eq!(format!("response.{status}"), name);
                assert!(self.open.is_none(), "an item is still open");
                assert_eq!(response["output"], Value::from(self.done.clone()), "the output is the items that were done");
                assert!(!self.done.is_empty(), "a reply is at least an empty message");
            }
        }
        self.is_over = !matches!(name, "response.created" | "response.in_progress");
        self.response = response.clone();
    }

    fn item_event(&mut self, name: &str, event: &Value) {
        assert!(self.events.len() > 2, "{name} before the response is in progress");
        assert_eq!(event["output_index"], self.done.len(), "one item after the other");
        if name == "response.output_item.added" {
            assert!(self.open.is_none(), "an item begins in another");
            let item = event["item"].clone();
            assert_eq!(item["status"], "in_progress");
            check_item(&item, self.response["id"].as_str().and_then(|id| id.strip_prefix("resp_")).expect("a name"), self.done.len());
            let (field, empty) = content_of(&item);
            assert_eq!(item[field], empty, "an item begins empty");
            let state = if empty.is_array() { State::Added } else { State::Filling };
            self.open = Some(Open { item, text: String::new(), logprobs: Vec::new(), state });
            return;
        }
        let open = self.open.as_mut().unwrap_or_else(|| panic!("{name} outside of an item"));
        if name == "response.output_item.done" {
            let open = self.open.take().expect("it is open");
            open.check_done(&event["item"]);
            self.done.push(event["item"].clone());
            return;
        }
        assert_eq!(event["item_id"], open.item["id"]);
        for zero in ["content_index", "summary_index"] {
            assert!(event.get(zero).is_none_or(|index| *index == 0), "an item of ours has one part");
        }
        let delta = open.fill(name, event);
        self.deltas.extend(delta);
    }
}

impl Open {
    /// The delta of the event, if it is one.
    fn fill(&mut self, name: &str, event: &Value) -> Option<String> {
        let kind = self.item["type"].as_str().expect("text");
        match (kind, name.strip_prefix("response.").expect("events of responses")) {
            ("message", "content_part.added") | ("reasoning", "reasoning_summary_part.added") => {
                self.next(State::Added, State::Filling);
                assert_eq!(event["part"], self.part(""));
                None
            }
            ("message", "output_text.delta")
            | ("reasoning", "reasoning_summary_text.delta")
            | ("function_call", "function_call_arguments.delta")
            | ("custom_tool_call", "custom_tool_call_input.delta") => {
                assert_eq!(self.state, State::Filling, "{name}");
                let delta = event["delta"].as_str().expect("a delta is text");
                let logprobs = event.get("logprobs").and_then(Value::as_array).cloned().unwrap_or_default();
                assert!(!delta.is_empty() || !logprobs.is_empty(), "a delta says something");
                self.text.push_str(delta);
                self.logprobs.extend(logprobs);
                Some(delta.to_owned())
            }
            ("message", "output_text.done") | ("reasoning", "reasoning_summary_text.done") => {
                self.next(State::Filling, State::TextDone);
                assert_eq!(event["text"], self.text.as_str());
                assert!(event.get("logprobs").is_none_or(|logprobs| *logprobs == Value::from(self.logprobs.clone())));
                None
            }
            ("message", "content_part.done") | ("reasoning", "reasoning_summary_part.done") => {
                self.next(State::TextDone, State::PartDone);
                assert_eq!(event["part"], self.part(&self.text));
                None
            }
            ("function_call", "function_call_arguments.done") => {
                self.next(State::Filling, State::PartDone);
                assert_eq!(event["arguments"], self.text.as_str());
                None
            }
            ("custom_tool_call", "custom_tool_call_input.done") => {
                self.next(State::Filling, State::PartDone);
                assert_eq!(event["input"], self.text.as_str());
                None
            }
            (kind, other) => panic!("{other} in a {kind}"),
        }
    }

    fn next(&mut self, from: State, to: State) {
        assert_eq!(self.state, from);
        self.state = to;
    }

    fn part(&self, text: &str) -> Value {
        match self.item["type"].as_str() {
            Some("message") => json!({"type": "output_text", "text": text, "annotations": [], "logprobs": self.logprobs}),
            _ => json!({"type": "summary_text", "text": text}),
        }
    }

    /// The item as it ends is what its events said.
    fn check_done(self, done: &Value) {
        assert_eq!(self.state, State::PartDone);
        let mut expected = self.item.clone();
        let (field, empty) = content_of(&self.item);
        expected[field] = if empty.is_array() { json!([self.part(&self.text)]) } else { self.text.clone().into() };
        expected["status"] = done["status"].clone();
        assert!(done["status"] == "completed" || done["status"] == "incomplete", "{done}");
        assert_eq!(*done, expected);
    }
}

/// Where an item keeps what it holds, and how that begins.
fn content_of(item: &Value) -> (&'static str, Value) {
    match item["type"].as_str().expect("text") {
        "message" => ("content", json!([])),
        "reasoning" => ("summary", json!([])),
        "function_call" => ("arguments", json!("")),
        _ => ("input", json!("")),
    }
}

/// After `type` and `sequence_number`.
fn fields_of(name: &str) -> &'static [&'static str] {
    match name {
        "response.created" | "response.in_progress" | "response.completed" | "response.incomplete" | "response.failed" => &["response"],
        "response.output_item.added" | "response.output_item.done" => &["output_index", "item"],
        "response.content_part.added" | "response.content_part.done" => &["item_id", "output_index", "content_index", "part"],
        "response.output_text.delta" => &["item_id", "output_index", "content_index", "delta", "logprobs"],
        "response.output_text.done" => &["item_id", "output_index", "content_index", "text", "logprobs"],
        "response.reasoning_summary_part.added" | "response.reasoning_summary_part.done" => {
            &["item_id", "output_index", "summary_index", "part"]
        }
        "response.reasoning_summary_text.delta" => &["item_id", "output_index", "summary_index", "delta"],
        "response.reasoning_summary_text.done" => &["item_id", "output_index", "summary_index", "text"],
        "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta" => &["item_id", "output_index", "delta"],
        "response.function_call_arguments.done" => &["item_id", "output_index", "arguments"],
        "response.custom_tool_call_input.done" => &["item_id", "output_index", "input"],
        other => panic!("{other} is no event of ours"),
    }
}

/// The same request as a stream and whole: equal in everything but names that are drawn and what the second found in the cache. The fold
/// of the stream is returned, its response masked as by [`masked`].
#[track_caller]
pub fn check_stream_equals_whole(app: &TestApp, body: &Value) -> Folded {
    let whole = app.ok("/v1/responses", body);
    check_response(&whole);
    let mut streaming = body.clone();
    streaming["stream"] = true.into();
    let mut folded = read_response_stream(&app.post("/v1/responses", &streaming));
    folded.response = masked(&folded.response);
    assert_eq!(folded.response, masked(&whole));
    folded
}

/// A response without what differs from one to the next: its name, ids of calls, tokens found in the cache.
pub fn masked(response: &Value) -> Value {
    let mut response = response.clone();
    if let Some(details) = response["usage"].get_mut("input_tokens_details") {
        details["cached_tokens"] = 0.into();
    }
    serde_json::from_str(&masked_text(&response.to_string(), &response)).expect("names are words")
}

/// The same of text that speaks of `response`.
pub fn masked_text(text: &str, response: &Value) -> String {
    let name = response["id"].as_str().and_then(|id| id.strip_prefix("resp_")).expect("a response has an id");
    let mut text = text.replace(name, "NAME");
    for (number, item) in response["output"].as_array().into_iter().flatten().enumerate() {
        if let Some(call_id) = item["call_id"].as_str() {
            text = text.replace(call_id, &format!("CALL_{number}"));
        }
    }
    text
}
