//! The frames of Anthropic's messages.

use bytes::Bytes;
use serde_json::json;

use super::named;
use crate::chat::Usage;
use crate::chat::begun::BegunContent;
use crate::gateway::history::local_signature;
use crate::gateway::tap::Seen;

pub(super) fn last_frames() -> Vec<Bytes> {
    vec![named(&json!({"type": "message_stop"}))]
}

pub(super) fn finish_with_calls(seen: &Seen, usage: Usage) -> Vec<Bytes> {
    let mut frames = close_frames(seen);
    let delta = json!({"stop_reason": "tool_use", "stop_sequence": null});
    let usage = json!({
        "input_tokens": usage.prompt_tokens.saturating_sub(usage.cached_tokens).saturating_sub(seen.cache_written_tokens),
        "cache_creation_input_tokens": seen.cache_written_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.thinking_tokens},
    });
    frames.push(named(&json!({"type": "message_delta", "delta": delta, "usage": usage})));
    frames.extend(last_frames());
    frames
}

/// Thinking that nobody has signed is signed as ours: a client sends it back, and it is known then as what must not go up.
pub(super) fn close_frames(seen: &Seen) -> Vec<Bytes> {
    let mut frames = Vec::new();
    let Some((last, wire)) = seen.pieces().next_back().filter(|(last, _)| last.open) else { return frames };
    if let BegunContent::Thinking(thoughts) = &last.content
        && wire.signature.is_empty()
    {
        let delta = json!({"type": "signature_delta", "signature": local_signature(thoughts)});
        frames.push(named(&json!({"type": "content_block_delta", "index": wire.index, "delta": delta})));
    }
    frames.push(named(&json!({"type": "content_block_stop", "index": wire.index})));
    frames
}

pub(super) fn error_frames(message: &str) -> Vec<Bytes> {
    vec![named(&json!({"type": "error", "error": {"type": "overloaded_error", "message": message}}))]
}
