//! What streams of chat completions and of completions have in common: heads, usage, and how they end. What the grammar forbids is a
//! failed test.

use serde_json::{Value, json};

use super::http_client::{Reply, Sse};

/// A stream without what its chunks repeat.
#[derive(Debug)]
pub struct Entries {
    /// The one choice of each chunk, in order.
    pub entries: Vec<Value>,
    pub usage: Option<Value>,
    /// The stream ended with this, and not as it should.
    pub error: Option<Value>,
}

/// Reads a finished stream whose chunks are of the type `object`, with ids that begin with `id_prefix`.
#[track_caller]
pub fn read_entries(reply: &Reply, object: &str, id_prefix: &str) -> Entries {
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    let data = reply.events().into_iter().filter_map(|event| match event {
        Sse::Data(data) => Some(data),
        Sse::Comment(comment) if comment == "keep-alive" => None,
        other => panic!("{other:?} is no event of this grammar"),
    });
    let mut data: Vec<String> = data.collect();
    let last = data.pop().expect("a stream says something");
    let error = (last != "[DONE]").then(|| read_error(&last));
    let chunks: Vec<Value> = data.iter().map(|data| serde_json::from_str(data).expect("a chunk is JSON")).collect();
    let with_usage = chunks.first().is_some_and(|chunk| chunk.get("usage").is_some());
    let continuous = with_usage && !chunks[0]["usage"].is_null();
    let (mut entries, mut usage) = (Vec::new(), None);
    for (number, chunk) in chunks.iter().enumerate() {
        check_head(chunk, &chunks[0], object, id_prefix);
        match chunk["choices"].as_array().expect("choices is an array").as_slice() {
            [] => {
                assert!(with_usage && number + 1 == chunks.len(), "only the last chunk, and only if asked for, has no choices");
                assert!(error.is_none(), "a stream that failed has no last chunk");
                check_usage(&chunk["usage"]);
                usage = Some(chunk["usage"].clone());
            }
            [entry] => {
                match continuous {
                    true => check_usage(&chunk["usage"]),
                    false => {
                        assert_eq!(chunk.get("usage"), with_usage.then_some(&Value::Null), "null until the last chunk, or never there")
                    }
                }
                entries.push(entry.clone());
            }
            _ => panic!("{chunk} speaks of several choices at once"),
        }
    }
    assert!(usage.is_some() == with_usage || error.is_some(), "the usage that was asked for never came");
    Entries { entries, usage, error }
}

/// The keys of an object, in order.
#[track_caller]
pub fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("{value} is no object")).keys().map(String::as_str).collect()
}

/// What OpenAI's dialects say when a stream cannot go on.
#[track_caller]
pub fn read_error(data: &str) -> Value {
    let event: Value = serde_json::from_str(data).unwrap_or_else(|_| panic!("{data:?} ends no stream"));
    assert_eq!(keys(&event), ["error"], "a stream ends with [DONE], or with an error");
    assert_eq!(keys(&event["error"]), ["message", "type", "param", "code"]);
    assert!(event["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{event}");
    event["error"].clone()
}

fn check_head(chunk: &Value, first: &Value, object: &str, id_prefix: &str) {
    let keys: Vec<&str> = keys(chunk).into_iter().filter(|key| *key != "usage").collect();
    assert_eq!(keys, ["id", "object", "created", "model", "choices"]);
    assert_eq!(chunk["object"], object);
    assert!(chunk["id"].as_str().is_some_and(|id| id.len() > id_prefix.len() && id.starts_with(id_prefix)), "{}", chunk["id"]);
    assert!(chunk["created"].is_i64() && chunk["model"].is_string(), "{chunk}");
    for same in ["id", "created", "model"] {
        assert_eq!(chunk[same], first[same], "{same} is the same in all chunks");
    }
}

#[track_caller]
pub fn check_usage(usage: &Value) {
    assert_eq!(
        keys(usage),
        ["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"],
        "{usage}"
    );
    let count = |name: &str| usage[name].as_u64().expect("a count");
    assert_eq!(count("prompt_tokens") + count("completion_tokens"), count("total_tokens"));
    assert!(usage["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count") <= count("prompt_tokens"), "{usage}");
    assert_ne!(usage["completion_tokens_details"], json!({}));
}
