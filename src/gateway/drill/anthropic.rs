//! Anthropic's Messages, as the provider's side writes it.

use serde_json::{Value, json};

use super::answer::{ErrorKind, Stop};
use super::checks::signature;
use super::frames::{Frame, Mark, Told, pieces, words};

pub fn frames(told: &Told<'_>) -> Vec<Frame> {
    let mut frames = vec![message_start(told)];
    let mut index = 0;
    if let Some(thinking) = &told.reply.thinking {
        frames.push(block_start(index, &json!({"type": "thinking", "thinking": "", "signature": ""})));
        frames.push(ping());
        let delta = |word: &str| block_delta(index, &json!({"type": "thinking_delta", "thinking": word}), Mark::Thinking);
        frames.extend(words(thinking).map(delta));
        frames.push(block_delta(index, &json!({"type": "signature_delta", "signature": signature(thinking)}), Mark::Frame));
        frames.push(block_stop(index, Mark::Frame));
        index += 1;
    }
    if let Some(text) = &told.reply.text {
        frames.push(block_start(index, &json!({"type": "text", "text": ""})));
        frames.push(ping());
        frames.extend(words(text).map(|word| block_delta(index, &json!({"type": "text_delta", "text": word}), Mark::Text)));
        frames.push(block_stop(index, Mark::Frame));
        index += 1;
    }
    for (number, call) in told.reply.calls.iter().enumerate() {
        let id = told.call_id("toolu_", number);
        frames.push(block_start(index, &json!({"type": "tool_use", "id": id, "name": call.name, "input": {}})));
        // The real one sends an empty piece first.
        frames.push(block_delta(index, &json!({"type": "input_json_delta", "partial_json": ""}), Mark::Frame));
        frames.extend(pieces(&call.arguments, told.arguments_piece_bytes).map(|piece| {
            let mark = Mark::Arguments { call: number, bytes: piece.len() };
            block_delta(index, &json!({"type": "input_json_delta", "partial_json": piece}), mark)
        }));
        frames.push(block_stop(index, Mark::CallDone { call: number }));
        index += 1;
    }
    let delta = json!({"stop_reason": stop_reason(told.reply.stop()), "stop_sequence": null});
    let usage = json!({"output_tokens": told.output_tokens()});
    frames.push(Frame::named("message_delta", &json!({"type": "message_delta", "delta": delta, "usage": usage}), Mark::Finish));
    frames.push(Frame::named("message_stop", &json!({"type": "message_stop"}), Mark::End));
    frames
}

/// The reply in one piece.
pub fn whole(told: &Told<'_>) -> Value {
    let reply = told.reply;
    let thinking = reply.thinking.iter().map(|text| json!({"type": "thinking", "thinking": text, "signature": signature(text)}));
    let text = reply.text.iter().map(|text| json!({"type": "text", "text": text}));
    let calls = reply.calls.iter().enumerate().map(|(number, call)| {
        // A plan may ask for arguments that are no JSON; then they are an empty object, for there is no place for anything else.
        let input: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
        json!({"type": "tool_use", "id": told.call_id("toolu_", number), "name": call.name, "input": input})
    });
    json!({
        "id": message_id(told), "type": "message", "role": "assistant", "model": told.model(),
        "content": thinking.chain(text).chain(calls).collect::<Vec<_>>(),
        "stop_reason": stop_reason(reply.stop()), "stop_sequence": null,
        "usage": {"input_tokens": told.input_tokens, "output_tokens": told.output_tokens()},
    })
}

/// Keeps a connection awake and says nothing.
pub fn ping() -> Frame {
    Frame::named("ping", &json!({"type": "ping"}), Mark::Frame)
}

pub fn error_event(error: ErrorKind) -> Frame {
    Frame::named("error", &self::error(error, None), Mark::Frame)
}

/// The body of an error; `message` where the usual one does not say enough.
pub fn error(error: ErrorKind, message: Option<&str>) -> Value {
    let (kind, usual) = match error {
        ErrorKind::InvalidRequest => ("invalid_request_error", "messages: at least one message is required"),
        ErrorKind::ContextLength => ("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
        ErrorKind::ContentPolicy => ("invalid_request_error", "Output blocked by content filtering policy"),
        ErrorKind::Authentication => ("authentication_error", "invalid x-api-key"),
        ErrorKind::Permission => ("permission_error", "Your API key does not have permission to use the specified resource"),
        ErrorKind::TooLarge => ("request_too_large", "Request exceeds the maximum size"),
        ErrorKind::RateLimit => ("rate_limit_error", "This request would exceed your rate limit"),
        ErrorKind::QuotaSpent => ("rate_limit_error", "You have reached your specified API usage limits (enforced_spend_limit_reached)"),
        ErrorKind::Internal => ("api_error", "Internal server error"),
        ErrorKind::Unavailable => ("api_error", "Service unavailable"),
        ErrorKind::Overloaded => ("overloaded_error", "Overloaded"),
    };
    json!({"type": "error", "error": {"type": kind, "message": message.unwrap_or(usual)}})
}

fn message_start(told: &Told<'_>) -> Frame {
    let message = json!({
        "id": message_id(told), "type": "message", "role": "assistant", "model": told.model(), "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": told.input_tokens, "output_tokens": 1},
    });
    Frame::named("message_start", &json!({"type": "message_start", "message": message}), Mark::Start)
}

fn block_start(index: usize, block: &Value) -> Frame {
    let data = json!({"type": "content_block_start", "index": index, "content_block": block});
    Frame::named("content_block_start", &data, Mark::Frame)
}

fn block_delta(index: usize, delta: &Value, mark: Mark) -> Frame {
    Frame::named("content_block_delta", &json!({"type": "content_block_delta", "index": index, "delta": delta}), mark)
}

fn block_stop(index: usize, mark: Mark) -> Frame {
    Frame::named("content_block_stop", &json!({"type": "content_block_stop", "index": index}), mark)
}

fn message_id(told: &Told<'_>) -> String {
    format!("msg_{:016x}", told.id)
}

fn stop_reason(stop: Stop) -> &'static str {
    match stop {
        Stop::End => "end_turn",
        Stop::Calls => "tool_use",
        Stop::Length => "max_tokens",
        Stop::Refusal => "refusal",
    }
}
