//! Reads the error of a body, whichever provider wrote it, and says what kind of thing it speaks of.
//!
//! Codes and types are words of an API and are believed everywhere. Messages are prose, perhaps with the client's own words in it: they
//! are asked last, and for phrases that only providers write.

use serde_json::Value;

#[derive(Debug, Default)]
pub struct ErrorBody {
    /// `type`, `code`, `status` and what is like them, in lower case.
    names: Vec<String>,
    /// In lower case.
    message: String,
}

/// Error bodies are a few hundred bytes; whatever is longer says it at its beginning.
const MESSAGE_BYTES_MAX: usize = 2048;

const REFUSALS: &[&str] = &[
    "content_policy_violation",
    "content_policy",
    "content_filter",
    "content_filtered",
    "contentfilter",
    "policy_violation",
    "responsibleaipolicyviolation",
    "moderation_blocked",
    "invalid_prompt",
    "cyber_policy_violation",
    "safety",
    "refusal",
];
const REFUSAL_PHRASES: &[&str] =
    &["content policy", "content filtering policy", "content management policy", "usage policy", "usage policies", "safety system"];

const QUOTAS: &[&str] = &[
    "insufficient_quota",
    "quota_exceeded",
    "enforced_spend_limit_reached",
    "spend_limit_reached",
    "billing_error",
    "billing_hard_limit_reached",
    "billing_not_active",
    "usage_limit_reached",
    "usage_not_included",
    "insufficient_credits",
    "insufficient_balance",
];
const QUOTA_PHRASES: &[&str] = &[
    "credit balance",
    "usage limit",
    "spend limit",
    "spending limit",
    "exceeded your current quota",
    "billing details",
    "insufficient balance",
    "insufficient credits",
];

const CONTEXTS: &[&str] = &["context_length_exceeded", "exceed_context_size_error", "context_window_exceeded"];
const CONTEXT_PHRASES: &[&str] = &[
    "prompt is too long",
    "input is too long",
    "maximum context length",
    "exceed context limit",
    "exceeds the context window",
    "exceeds the available context size",
    "exceeds the model's context",
    "reduce the length of the messages",
];

const OVERLOADS: &[&str] = &["overloaded_error", "overloaded", "server_is_overloaded", "engine_overloaded", "slow_down"];
const RATE_LIMITS: &[&str] = &["rate_limit_error", "rate_limit_exceeded", "rate_limited", "too_many_requests", "tokens", "requests"];
const CLIENT_ERRORS: &[&str] =
    &["invalid_request_error", "not_found_error", "request_too_large", "model_not_found", "invalid_value", "unsupported_parameter"];

impl ErrorBody {
    pub fn read(body: &[u8]) -> Self {
        let Ok(value) = serde_json::from_slice::<Value>(body) else {
            // No JSON, or the beginning of some.
            let text = String::from_utf8_lossy(&body[..body.len().min(MESSAGE_BYTES_MAX)]);
            return Self { names: Vec::new(), message: text.to_lowercase() };
        };
        // One in a list, as Google's compatible endpoint sends it.
        let outer = value.as_array().and_then(|list| list.first()).unwrap_or(&value);
        let error = inner(outer);
        let mut read = Self::default();
        read.add(error);
        if !std::ptr::eq(outer, error) {
            // `{"type": "error", "error": {...}}` says nothing by its own type; others put their code beside.
            read.names.extend(name(&outer["code"]));
        }
        read
    }

    /// Whether a whole JSON body is an error, whatever its status says.
    pub fn is_error(body: &[u8]) -> bool {
        let Ok(value) = serde_json::from_slice::<Value>(body) else { return false };
        let outer = value.as_array().and_then(|list| list.first()).unwrap_or(&value);
        outer["type"] == "error" || outer["object"] == "error" || outer.get("error").is_some_and(|error| !error.is_null())
    }

    pub fn is_refusal(&self) -> bool {
        self.is(REFUSALS, REFUSAL_PHRASES)
    }

    /// By a code alone.
    pub fn is_named_refusal(&self) -> bool {
        self.is(REFUSALS, &[])
    }

    pub fn is_context_too_long(&self) -> bool {
        self.is(CONTEXTS, CONTEXT_PHRASES)
    }

    pub fn is_quota(&self) -> bool {
        self.is(QUOTAS, QUOTA_PHRASES)
    }

    pub fn is_overload(&self) -> bool {
        self.is(OVERLOADS, &[])
    }

    pub fn is_rate_limit(&self) -> bool {
        self.is(RATE_LIMITS, &[])
    }

    pub fn is_client_error(&self) -> bool {
        self.is(CLIENT_ERRORS, &[])
    }

    fn is(&self, names: &[&str], phrases: &[&str]) -> bool {
        let named = self.names.iter().any(|name| names.contains(&name.as_str()));
        named || phrases.iter().any(|phrase| self.message.contains(phrase))
    }

    fn add(&mut self, error: &Value) {
        if let Some(text) = error.as_str() {
            self.message = start_of(text).to_lowercase();
            self.names.push(self.message.clone());
            return;
        }
        self.names.extend([&error["type"], &error["code"], &error["status"], &error["innererror"]["code"]].into_iter().filter_map(name));
        let message = [&error["message"], &error["detail"]].into_iter().find_map(Value::as_str).unwrap_or_default();
        self.message = start_of(message).to_lowercase();
    }
}

/// `error`, or that of a response which failed; else the whole.
fn inner(value: &Value) -> &Value {
    let candidates = [&value["response"]["error"], &value["error"]];
    candidates.into_iter().find(|error| error.is_object() || error.is_string()).unwrap_or(value)
}

fn name(value: &Value) -> Option<String> {
    value.as_str().map(|text| start_of(text).to_lowercase())
}

fn start_of(text: &str) -> &str {
    let end = (0..=MESSAGE_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}
