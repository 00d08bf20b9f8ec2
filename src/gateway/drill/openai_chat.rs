//! OpenAI's chat completions, as the provider's side writes them.

use serde_json::{Value, json};

use super::answer::{ErrorKind, Stop};
use super::frames::{Frame, Mark, Told, pieces, words};

pub fn frames(told: &Told<'_>) -> Vec<Frame> {
    let chunk = |delta: Value, mark: Mark| Frame::data(&chunk(told, delta, None), mark);
    let mut frames = vec![chunk(json!({"role": "assistant", "content": ""}), Mark::Start)];
    let thinking = told.reply.thinking.iter().flat_map(|text| words(text));
    frames.extend(thinking.map(|word| chunk(json!({"reasoning_content": word}), Mark::Thinking)));
    let text = told.reply.text.iter().flat_map(|text| words(text));
    frames.extend(text.map(|word| chunk(json!({"content": word}), Mark::Text)));
    for (number, call) in told.reply.calls.iter().enumerate() {
        let function = json!({"name": call.name, "arguments": ""});
        let opening = json!({"index": number, "id": told.call_id("call_", number), "type": "function", "function": function});
        frames.push(chunk(json!({"tool_calls": [opening]}), Mark::Frame));
        frames.extend(pieces(&call.arguments, told.arguments_piece_bytes).map(|piece| {
            let more = json!({"index": number, "function": {"arguments": piece}});
            chunk(json!({"tool_calls": [more]}), Mark::Arguments { call: number, bytes: piece.len() })
        }));
    }
    frames.push(Frame::data(&self::chunk(told, json!({}), Some(finish_reason(told.reply.stop()))), Mark::Finish));
    if told.include_usage {
        let mut last = self::chunk(told, json!({}), None);
        last["choices"] = json!([]);
        last["usage"] = usage(told);
        frames.push(Frame::data(&last, Mark::Frame));
    }
    frames.push(Frame { event: None, data: "[DONE]".to_owned(), mark: Mark::End });
    frames
}

/// The reply in one piece.
pub fn whole(told: &Told<'_>) -> Value {
    let reply = told.reply;
    let mut message = json!({"role": "assistant", "content": reply.text});
    if let Some(thinking) = &reply.thinking {
        message["reasoning_content"] = json!(thinking);
    }
    if !reply.calls.is_empty() {
        let calls = reply.calls.iter().enumerate().map(|(number, call)| {
            let function = json!({"name": call.name, "arguments": call.arguments});
            json!({"id": told.call_id("call_", number), "type": "function", "function": function})
        });
        message["tool_calls"] = calls.collect();
    }
    json!({
        "id": completion_id(told), "object": "chat.completion", "created": CREATED_UNIX_S, "model": told.model(),
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish_reason(reply.stop())}],
        "usage": usage(told),
    })
}

pub fn error_event(error: ErrorKind) -> Frame {
    Frame::data(&self::error(error, None), Mark::Frame)
}

/// The body of an error; `message` where the usual one does not say enough.
pub fn error(error: ErrorKind, message: Option<&str>) -> Value {
    let (kind, code, usual) = match error {
        ErrorKind::InvalidRequest => ("invalid_request_error", None, "'messages' is a required property"),
        ErrorKind::ContextLength => {
            ("invalid_request_error", Some("context_length_exceeded"), "This model's maximum context length is 128000 tokens")
        }
        ErrorKind::ContentPolicy => {
            ("invalid_request_error", Some("content_policy_violation"), "Your request was rejected by our safety system")
        }
        ErrorKind::Authentication => ("invalid_request_error", Some("invalid_api_key"), "Incorrect API key provided"),
        ErrorKind::Permission => ("invalid_request_error", Some("model_not_allowed"), "This key may not use this model"),
        ErrorKind::TooLarge => ("invalid_request_error", Some("request_too_large"), "The request is too large"),
        ErrorKind::RateLimit => ("requests", Some("rate_limit_exceeded"), "Rate limit reached"),
        ErrorKind::QuotaSpent => ("insufficient_quota", Some("insufficient_quota"), "You exceeded your current quota"),
        ErrorKind::Internal => ("server_error", None, "The server had an error while processing your request"),
        ErrorKind::Unavailable => ("server_error", None, "The engine is currently unavailable"),
        ErrorKind::Overloaded => ("server_error", Some("overloaded"), "That model is currently overloaded with other requests"),
    };
    json!({"error": {"message": message.unwrap_or(usual), "type": kind, "param": null, "code": code}})
}

/// A time like any other; always the same, so that the same plan gives the same bytes.
pub const CREATED_UNIX_S: i64 = 1_790_000_000;

fn chunk(told: &Told<'_>, delta: Value, finish_reason: Option<&str>) -> Value {
    json!({
        "id": completion_id(told), "object": "chat.completion.chunk", "created": CREATED_UNIX_S, "model": told.model(),
        "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason}],
    })
}

fn usage(told: &Told<'_>) -> Value {
    let (input, output) = (told.input_tokens, told.output_tokens());
    json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output})
}

fn completion_id(told: &Told<'_>) -> String {
    format!("chatcmpl-{:016x}", told.id)
}

fn finish_reason(stop: Stop) -> &'static str {
    match stop {
        Stop::End => "stop",
        Stop::Calls => "tool_calls",
        Stop::Length => "length",
        Stop::Refusal => "content_filter",
    }
}
