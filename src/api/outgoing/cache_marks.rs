//! Marks for Anthropic's prompt cache, which caches nothing unasked: without them a client of another protocol pays for its whole
//! conversation with every turn. A prompt is tools, then system, then messages; each mark says that what stands up to here comes again.
//!
//! Four are allowed. The last tool and the end of the system prompt stay from one conversation to the next. The last two turns of the user go
//! with the conversation: what the earlier one marks was written the time before, and the cache is looked for only twenty blocks back from a
//! mark, fewer than one round of parallel calls may have. (Anthropic's guide to prompt caching, as of November 2026.)

use serde_json::{Value, json};

const TURNS_MARKED: usize = 2;

/// Of a body that [`super::anthropic_messages`] wrote, which has no marks yet.
pub fn add(body: &mut Value) {
    // Only a block of a list carries one.
    if let Some(text) = body["system"].as_str() {
        body["system"] = json!([{"type": "text", "text": text}]);
    }
    for list in ["tools", "system"] {
        mark_end(body.get_mut(list));
    }
    let turns = body.get_mut("messages").and_then(Value::as_array_mut).into_iter().flatten();
    for turn in turns.rev().filter(|turn| turn["role"] == "user").take(TURNS_MARKED) {
        mark_end(turn.get_mut("content"));
    }
}

fn mark_end(list: Option<&mut Value>) {
    if let Some(last) = list.and_then(Value::as_array_mut).and_then(|blocks| blocks.last_mut()) {
        last["cache_control"] = json!({"type": "ephemeral"});
    }
}
