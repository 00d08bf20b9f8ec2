//! Tells whether a request comes from a person who has spoken, or from a client in the middle of its tools.

use super::super::json::Members;
use super::super::protocol::Protocol;

/// Whether the last message is a person's and carries no result of a tool. What cannot be read is taken for a person's.
///
/// System messages that clients put behind it are passed over. A request that ends with the assistant's own words goes on with them. Of a
/// long conversation only its end is read.
pub fn is_human_turn(protocol: Protocol, body: &Members<'_>) -> bool {
    let list = match protocol {
        Protocol::AnthropicMessages | Protocol::OpenAiChat => body.elements("messages"),
        Protocol::OpenAiResponses => body.elements("input"),
        // A text has no turns.
        Protocol::OpenAiCompletions => return true,
    };
    // What is no message has no role.
    let mut from_the_last = list.iter().flatten().rev().map(|message| Members::of(message.get()).unwrap_or_default());
    let Some(last) = from_the_last.find(|message| !is_system(message)) else { return true };
    let role = last.text("role");
    match protocol {
        Protocol::AnthropicMessages => role.as_deref() != Some("assistant") && !has_tool_result(&last),
        Protocol::OpenAiChat => !matches!(role.as_deref(), Some("assistant" | "tool" | "function")),
        // Items of other types than messages are the model's own, or what its calls came to.
        Protocol::OpenAiCompletions => true,
        Protocol::OpenAiResponses => matches!(last.text("type").as_deref(), None | Some("message")) && role.as_deref() != Some("assistant"),
    }
}

fn is_system(message: &Members<'_>) -> bool {
    matches!(message.text("role").as_deref(), Some("system" | "developer"))
}

fn has_tool_result(message: &Members<'_>) -> bool {
    let blocks = message.elements("content").unwrap_or_default();
    let blocks = blocks.iter().filter_map(|block| Members::of(block.get()));
    blocks.filter_map(|block| block.text("type")).any(|kind| kind.ends_with("tool_result"))
}
