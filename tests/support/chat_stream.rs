//! A strict reader of chat completion streams: what the grammar of `chat.completion.chunk` forbids is a failed test. What it reads it
//! folds, so that a stream can be compared with a whole reply.

use serde_json::{Map, Value, json};

use super::http_client::Reply;
use super::openai_stream::{Entries, read_entries};

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
    /// The stream ended with this, and not as it should.
    pub error: Option<Value>,
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
    let folded = fold(reply);
    assert_eq!((folded.choices.len(), &folded.error), (choices, &None));
    folded
}

/// Reads a finished stream, which may have failed.
#[track_caller]
pub fn fold(reply: &Reply) -> Folded {
    let Entries { entries, usage, error } = read_entries(reply, "chat.completion.chunk", "chatcmpl-");
    let mut choices: Vec<Choice> = Vec::new();
    let (mut deltas, mut keep_alives) = (Vec::new(), 0);
    for entry in entries {
        let index = entry["index"].as_u64().expect("a choice has an index") as usize;
        if choices.len() <= index {
            choices.resize_with(index + 1, Choice::default);
        }
        if entry["delta"] == json!({}) && entry["finish_reason"].is_null() {
            keep_alives += 1;
            continue;
        }
        read_entry(&entry, &mut choices[index], &mut deltas);
    }
    let unfinished = choices.iter().position(|choice| choice.finish.is_none());
    assert!(unfinished.is_none() || error.is_some(), "choice {unfinished:?} never finishes");
    assert!(!choices.is_empty() || error.is_some(), "a reply has a choice");
    Folded { choices: choices.into_iter().enumerate().map(whole).collect(), usage, deltas, keep_alives, error }
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
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    let silent = choice.content.is_empty() && !choice.tool_calls.is_empty();
    message.insert("content".into(), if silent { Value::Null } else { choice.content.into() });
    message.insert("refusal".into(), Value::Null);
    if !choice.tool_calls.is_empty() {
        message.insert("tool_calls".into(), choice.tool_calls.into());
    }
    let logprobs = if choice.logprobs.is_empty() { Value::Null } else { json!({"content": choice.logprobs, "refusal": null}) };
    json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish})
}
