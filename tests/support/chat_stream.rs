//! A strict reader of chat completion streams: what the grammar of `chat.completion.chunk` forbids is a failed test. What it reads it
//! folds, so that a stream can be compared with a whole reply.

use serde_json::{Map, Value, json};

use super::http_client::{Reply, Sse};

/// What a stream added up to.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    /// As in a whole reply: `{"message": ..., "logprobs": ..., "finish_reason": ...}`.
    pub choices: Vec<Value>,
    pub usage: Option<Value>,
    /// Text deltas in order, of all choices.
    pub deltas: Vec<String>,
    /// Chunks that say nothing, sent so that the stream is not taken for dead.
    pub keep_alives: usize,
}

#[derive(Default)]
struct Choice {
    opened: bool,
    content: String,
    tool_calls: Vec<Value>,
    logprobs: Vec<Value>,
    finish: Option<String>,
}

/// Reads a finished stream. `choices`: how many there must be.
#[track_caller]
pub fn read_chat_stream(reply: &Reply, choices: usize) -> Folded {
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    let mut data: Vec<String> =
        reply.events().into_iter().filter_map(|event| if let Sse::Data(data) = event { Some(data) } else { None }).collect();
    assert_eq!(data.pop().as_deref(), Some("[DONE]"), "a stream ends with [DONE]");
    let chunks: Vec<Value> = data.iter().map(|data| serde_json::from_str(data).expect("a chunk is JSON")).collect();
    let mut folded: Vec<Choice> = (0..choices).map(|_| Choice::default()).collect();
    let (mut usage, mut deltas, mut keep_alives) = (None, Vec::new(), 0);
    let with_usage = chunks[0].get("usage").is_some();
    let continuous = with_usage && !chunks[0]["usage"].is_null();
    for (index, chunk) in chunks.iter().enumerate() {
        check_head(chunk, &chunks[0]);
        let entries = chunk["choices"].as_array().expect("choices is an array");
        if entries.is_empty() {
            assert!(with_usage && index + 1 == chunks.len(), "only the last chunk, and only if asked for, has no choices");
            usage = Some(chunk["usage"].clone());
            continue;
        }
        assert_eq!(entries.len(), 1);
        if continuous {
            assert!(chunk["usage"]["prompt_tokens"].is_u64(), "usage is told in each chunk");
        } else {
            assert_eq!(chunk.get("usage"), with_usage.then_some(&Value::Null), "usage is null until the last chunk, or never there");
        }
        if entries[0]["delta"] == json!({}) && entries[0]["finish_reason"].is_null() {
            keep_alives += 1;
            continue;
        }
        let number = entries[0]["index"].as_u64().expect("a choice has an index") as usize;
        read_entry(&entries[0], &mut folded[number], &mut deltas);
    }
    assert_eq!(usage.is_some(), with_usage);
    Folded { choices: folded.into_iter().enumerate().map(whole).collect(), usage, deltas, keep_alives }
}

fn check_head(chunk: &Value, first: &Value) {
    let keys: Vec<&str> =
        chunk.as_object().expect("a chunk is an object").keys().map(String::as_str).filter(|key| *key != "usage").collect();
    assert_eq!(keys, ["id", "object", "created", "model", "choices"]);
    assert_eq!(chunk["object"], "chat.completion.chunk");
    assert!(chunk["id"].as_str().expect("an id is text").starts_with("chatcmpl-"));
    for same in ["id", "created", "model"] {
        assert_eq!(chunk[same], first[same], "{same} is the same in all chunks");
    }
}

fn read_entry(entry: &Value, choice: &mut Choice, deltas: &mut Vec<String>) {
    let keys: Vec<&str> = entry.as_object().expect("a choice is an object").keys().map(String::as_str).collect();
    assert_eq!(keys, ["index", "delta", "logprobs", "finish_reason"]);
    let delta = entry["delta"].as_object().expect("a delta is an object");
    if !choice.opened {
        choice.opened = true;
        assert_eq!(Value::Object(delta.clone()), json!({"role": "assistant", "content": ""}), "a choice opens with its role");
        return;
    }
    assert_eq!(choice.finish, None, "nothing comes after the finish");
    if let Some(tokens) = entry["logprobs"].get("content") {
        choice.logprobs.extend(tokens.as_array().expect("logprobs are an array").clone());
    }
    if let Some(reason) = entry["finish_reason"].as_str() {
        assert!(delta.is_empty(), "the last delta is empty");
        choice.finish = Some(reason.to_owned());
        return;
    }
    match (delta.len(), delta.get("content"), delta.get("tool_calls")) {
        (1, Some(text), None) => {
            let text = text.as_str().expect("content is text");
            choice.content.push_str(text);
            deltas.push(text.to_owned());
        }
        (1, None, Some(calls)) => read_tool_call(&calls[0], choice),
        _ => panic!("{delta:?} is no delta of ours"),
    }
}

fn read_tool_call(call: &Value, choice: &mut Choice) {
    let index = call["index"].as_u64().expect("a call has an index") as usize;
    if index == choice.tool_calls.len() {
        assert_eq!(call["type"], "function");
        assert!(call["id"].as_str().expect("a call has an id").starts_with("call_"));
        assert!(!call["function"]["name"].as_str().expect("a call has a name").is_empty());
        assert_eq!(call["function"]["arguments"], "");
        let mut call = call.clone();
        call.as_object_mut().expect("a call is an object").remove("index");
        return choice.tool_calls.push(call);
    }
    assert_eq!(index + 1, choice.tool_calls.len(), "pieces belong to the call begun last");
    let keys: Vec<&String> = call.as_object().expect("a call is an object").keys().collect();
    assert_eq!(keys, ["index", "function"]);
    let arguments = &mut choice.tool_calls[index]["function"]["arguments"];
    *arguments = (arguments.as_str().expect("text").to_owned() + call["function"]["arguments"].as_str().expect("text")).into();
}

fn whole((index, choice): (usize, Choice)) -> Value {
    let finish = choice.finish.unwrap_or_else(|| panic!("choice {index} never finishes"));
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    let silent = choice.content.is_empty() && !choice.tool_calls.is_empty();
    message.insert("content".into(), if silent { Value::Null } else { choice.content.into() });
    message.insert("refusal".into(), Value::Null);
    if !choice.tool_calls.is_empty() {
        message.insert("tool_calls".into(), choice.tool_calls.into());
    }
    let logprobs = if choice.logprobs.is_empty() { Value::Null } else { json!({"content": choice.logprobs, "refusal": null}) };
    json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish})
}
