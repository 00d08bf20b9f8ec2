//! Tells whether a request comes from a person who has spoken, or from a client in the middle of its tools.

use serde_json::Value;

use super::super::protocol::Protocol;

/// Whether the last message is a person's and carries no result of a tool. What cannot be read is taken for a person's.
///
/// System messages that clients put behind it are passed over. A request that ends with the assistant's own words goes on with them.
pub fn is_human_turn(protocol: Protocol, body: &Value) -> bool {
    let list = match protocol {
        Protocol::AnthropicMessages | Protocol::OpenAiChat => &body["messages"],
        Protocol::OpenAiResponses => &body["input"],
        // A text has no turns.
        Protocol::OpenAiCompletions => return true,
    };
    let mut from_the_last = list.as_array().into_iter().flatten().rev();
    let Some(last) = from_the_last.find(|message| !is_system(message)) else { return true };
    match protocol {
        Protocol::AnthropicMessages => last["role"] != "assistant" && !has_tool_result(&last["content"]),
        Protocol::OpenAiChat => !matches!(last["role"].as_str(), Some("assistant" | "tool" | "function")),
        // Items of other types than messages are the model's own, or what its calls came to.
        Protocol::OpenAiCompletions => true,
        Protocol::OpenAiResponses => matches!(last["type"].as_str(), None | Some("message")) && last["role"] != "assistant",
    }
}

fn is_system(message: &Value) -> bool {
    matches!(message["role"].as_str(), Some("system" | "developer"))
}

fn has_tool_result(content: &Value) -> bool {
    let mut kinds = content.as_array().into_iter().flatten().filter_map(|block| block["type"].as_str());
    kinds.any(|kind| kind.ends_with("tool_result"))
}
