//! The frames of chat completions, and of completions.

use bytes::Bytes;
use serde_json::{Value, json};

use super::data;
use crate::chat::Usage;
use crate::gateway::tap::{Protocol, Seen};

const DONE: &[u8] = b"data: [DONE]\n\n";

/// The usage, if it was asked for and has not come, and the mark of the end.
pub(super) fn last_frames(seen: &Seen, usage: Usage) -> Vec<Bytes> {
    let mut frames = Vec::new();
    if seen.has_usage_field && !seen.is_reply_counted {
        let mut chunk = chunk(seen, json!([]));
        chunk["usage"] = json!({
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
        });
        frames.push(data(&chunk));
    }
    frames.push(Bytes::from_static(DONE));
    frames
}

pub(super) fn finish_with_calls(seen: &Seen, usage: Usage) -> Vec<Bytes> {
    let choice = json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": "tool_calls"});
    let mut frames = vec![data(&chunk(seen, json!([choice])))];
    frames.extend(last_frames(seen, usage));
    frames
}

/// Without the mark of the end: some clients take that for a success.
pub(super) fn error_frames(message: &str) -> Vec<Bytes> {
    let error = json!({"message": message, "type": "server_error", "param": null, "code": "upstream_failed"});
    vec![data(&json!({"error": error}))]
}

fn chunk(seen: &Seen, choices: Value) -> Value {
    let object = if seen.protocol == Protocol::OpenAiChat { "chat.completion.chunk" } else { "text_completion" };
    let reply = &seen.reply;
    let mut chunk = json!({"id": reply.id, "object": object, "created": reply.created_unix_s, "model": reply.model, "choices": choices});
    if seen.has_usage_field {
        chunk["usage"] = Value::Null;
    }
    chunk
}
