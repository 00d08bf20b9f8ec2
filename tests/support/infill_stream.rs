//! A strict reader of streams of `POST /infill`: what the grammar forbids is a failed test. What it reads it folds, so that a stream can
//! be compared with a whole reply.

use serde_json::{Value, json};

use super::http_client::{Reply, Sse};
use super::openai_stream::{keys, read_error};

/// What a stream added up to.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    /// As a whole reply has it.
    pub reply: Value,
    /// Texts of the pieces, in order.
    pub deltas: Vec<String>,
    pub keep_alives: usize,
    /// The stream ended with this, and not as it should.
    pub error: Option<Value>,
}

const PIECE: [&str; 3] = ["index", "content", "stop"];
const LAST: [&str; 11] = [
    "index",
    "content",
    "stop",
    "model",
    "tokens_predicted",
    "tokens_evaluated",
    "tokens_cached",
    "truncated",
    "stop_type",
    "stopping_word",
    "timings",
];

/// Reads a finished stream, which may have failed.
#[track_caller]
pub fn read_infill_stream(reply: &Reply) -> Folded {
    let mut events = events(reply);
    let mut last = events.pop().expect("a stream says something");
    let error = last.get("error").map(|_| read_error(&last.to_string()));
    let (mut content, mut deltas, mut keep_alives) = (String::new(), Vec::new(), 0);
    for piece in &events {
        assert_eq!(keys(piece), PIECE);
        assert_eq!((&piece["index"], &piece["stop"]), (&json!(0), &json!(false)), "only the last event says that it is the last");
        match piece["content"].as_str().expect("content is text") {
            "" => keep_alives += 1,
            text => {
                content.push_str(text);
                deltas.push(text.to_owned());
            }
        }
    }
    if error.is_none() {
        assert_eq!(last["content"], "", "the last event has nothing new to say");
        last["content"] = content.into();
        check_infill(&last);
    }
    Folded { reply: last, deltas, keep_alives, error }
}

/// What must be true of any reply, whole or the last event of a stream.
#[track_caller]
pub fn check_infill(reply: &Value) {
    assert_eq!(keys(reply), LAST);
    assert_eq!((&reply["index"], &reply["stop"], &reply["truncated"]), (&json!(0), &json!(true), &json!(false)));
    assert!(reply["model"].is_string() && reply["content"].is_string(), "{reply}");
    let count = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value} is no count"));
    let (predicted, evaluated) = (count(&reply["tokens_predicted"]), count(&reply["tokens_evaluated"]));
    assert_eq!(count(&reply["tokens_cached"]), predicted + evaluated);
    let timings = &reply["timings"];
    assert_eq!(keys(timings), ["cache_n", "prompt_n", "predicted_n"]);
    assert_eq!(count(&timings["cache_n"]) + count(&timings["prompt_n"]), evaluated);
    assert_eq!(count(&timings["predicted_n"]), predicted);
    let stop_type = reply["stop_type"].as_str().expect("a reason is text");
    assert!(["eos", "limit", "word"].contains(&stop_type), "{stop_type}");
    assert_eq!(reply["stopping_word"].as_str().is_some_and(|word| !word.is_empty()), stop_type == "word", "{reply}");
}

/// Reads a finished stream of a client that chose its fields: it says nothing else, and in that order.
#[track_caller]
pub fn check_chosen_stream(reply: &Reply, fields: &[&str]) {
    let events = events(reply);
    let (last, pieces) = events.split_last().expect("a stream says something");
    if last.get("error").is_some() {
        read_error(&last.to_string());
        return;
    }
    for (event, known) in pieces.iter().map(|piece| (piece, PIECE.as_slice())).chain([(last, LAST.as_slice())]) {
        let wanted = fields.iter().filter(|field| known.contains(&field.split('/').next().expect("a first part")));
        let timings = ["timings", "timings/cache_n", "timings/prompt_n", "timings/predicted_n"];
        let expected: Vec<&str> = wanted.copied().filter(|field| !field.contains('/') || timings.contains(field)).collect();
        assert_eq!(keys(event), expected);
    }
}

fn events(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    let event = |event| match event {
        Sse::Data(data) => serde_json::from_str(&data).expect("an event is JSON"),
        other => panic!("{other:?} is no event of this grammar"),
    };
    reply.events().into_iter().map(event).collect()
}
