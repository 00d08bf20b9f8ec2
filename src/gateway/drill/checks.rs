//! What a provider refuses in a request: a wrong key, history that it did not write. Pure.

use serde_json::Value;

use super::http::Head;
use super::plan::Expect;

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub message: String,
}

/// The signature of a thinking block: made of its text, so that a block that came from elsewhere or was changed is known.
pub fn signature(thinking: &str) -> String {
    let hash = blake3::derive_key("understudy drill 2026 thinking signature", thinking.as_bytes());
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("EqDrill{digits}")
}

/// The first thing that does not meet the expectations.
pub fn refusal(expect: &Expect, head: &Head, body: &Value) -> Option<Refusal> {
    let wrong_key = expect.credential.as_deref().filter(|credential| self::credential(head) != Some(credential));
    if wrong_key.is_some() {
        return Some(Refusal { status: 401, message: "invalid x-api-key".to_owned() });
    }
    if let Some(name) = expect.forbidden_headers.iter().find(|name| head.header(name).is_some()) {
        return Some(Refusal { status: 400, message: format!("header {name} must not come here") });
    }
    let no_messages = Vec::new();
    let messages = body["messages"].as_array().unwrap_or(&no_messages);
    if expect.no_prefill && messages.last().is_some_and(|message| message["role"] == "assistant") {
        let message = "This model does not support assistant message prefill. The conversation must end with a user message.";
        return Some(Refusal { status: 400, message: message.to_owned() });
    }
    let history = expect.strict_history.then(|| history_fault(messages)).flatten();
    history.map(|message| Refusal { status: 400, message })
}

/// The key that came along, in either form.
pub fn credential(head: &Head) -> Option<&str> {
    let bearer = head.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    head.header("x-api-key").or(bearer)
}

/// What Anthropic's API says of messages that it would not have written.
fn history_fault(messages: &[Value]) -> Option<String> {
    let no_blocks = Vec::new();
    let mut calls: Vec<&Value> = Vec::new();
    for (number, message) in messages.iter().enumerate() {
        let blocks = message["content"].as_array().unwrap_or(&no_blocks);
        if message["role"] == "assistant" {
            calls = blocks.iter().filter(|block| block["type"] == "tool_use").map(|block| &block["id"]).collect();
        }
        for (index, block) in blocks.iter().enumerate() {
            let fault = match block["type"].as_str().unwrap_or_default() {
                "thinking" if block["signature"] != signature(block["thinking"].as_str().unwrap_or_default()).as_str() => {
                    Some("Invalid `signature` in `thinking` block".to_owned())
                }
                "redacted_thinking" => Some("Invalid `data` in `redacted_thinking` block".to_owned()),
                "text" if block["text"] == "" => Some("text content blocks must be non-empty".to_owned()),
                "tool_result" if !calls.contains(&&block["tool_use_id"]) => {
                    Some(format!("unexpected `tool_use_id` found in `tool_result` blocks: {}", block["tool_use_id"]))
                }
                _ => None,
            };
            if let Some(fault) = fault {
                return Some(format!("messages.{number}.content.{index}: {fault}"));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn history_of_others_is_refused() {
        let own = json!({"type": "thinking", "thinking": "hm", "signature": signature("hm")});
        let call = json!({"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}});
        let result = |id: &str| json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "x"}]});
        let told = |block: Value| json!({"role": "assistant", "content": [block]});
        let good = [json!({"role": "user", "content": "hi"}), json!({"role": "assistant", "content": [own, call]}), result("toolu_1")];
        assert_eq!(history_fault(&good), None);
        for (bad, fault) in [
            (
                told(json!({"type": "thinking", "thinking": "hm!", "signature": signature("hm")})),
                "messages.0.content.0: Invalid `signature`",
            ),
            (told(json!({"type": "thinking", "thinking": "hm", "signature": "local:1"})), "Invalid `signature`"),
            (told(json!({"type": "thinking", "thinking": "hm"})), "Invalid `signature`"),
            (told(json!({"type": "text", "text": ""})), "non-empty"),
            (result("toolu_1"), "unexpected `tool_use_id`"),
        ] {
            let found = history_fault(std::slice::from_ref(&bad)).unwrap_or_default();
            assert!(found.contains(fault), "{bad}: {found:?}");
        }
    }
}
