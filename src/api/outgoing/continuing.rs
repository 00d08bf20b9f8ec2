//! A reply that one cloud has left in the middle of its text, for another one to go on with: the conversation, and at its end the words that
//! the client has as an assistant's message that is not finished (a "prefill").
//!
//! Only a text can be gone on with so, and only where nothing stands beside it: a cloud takes no half a call, and nobody's thoughts.

use serde_json::Value;

use super::model_names::Claude;
use super::{CannotTranslate, Protocol, anthropic_messages, openai_chat};
use crate::chat::begun::{BegunContent, BegunReply};
use crate::chat::{Message, OutputFormat, Prompt, Request, Role};

/// A token is about this many bytes, where nobody has counted.
const BYTES_A_TOKEN: usize = 4;

/// Whether a model goes on where an assistant's message ends, told by its name. OpenAI's do not; of others behind its API nobody knows.
pub fn is_known(protocol: Protocol, model: &str) -> bool {
    protocol == Protocol::AnthropicMessages && Claude::named(model).is_known_to_continue()
}

/// White space at the end of what the client has. Anthropic refuses a beginning that ends so, and other models go on worse from one, so it is
/// not shown; whoever goes on may say it again.
pub fn unshown(begun: &BegunReply) -> &str {
    match begun.open_piece() {
        Some(BegunContent::Text(text)) => &text[text.trim_end().len()..],
        _ => "",
    }
}

/// Of what the client has. Most clouds tell it at the end only, which did not come.
pub fn tokens_said(begun: &BegunReply) -> usize {
    let bytes: usize = begun.said().map(str::len).sum();
    begun.usage.completion_tokens.max(bytes / BYTES_A_TOKEN)
}

/// The body of a request to go on. Errors: these words cannot be gone on with there.
pub fn write(protocol: Protocol, request: &Request, begun: &BegunReply, model: &str) -> Result<Value, CannotTranslate> {
    let to = "a cloud that goes on";
    let cannot = |field, reason| CannotTranslate { field, to, reason };
    let mut said = begun.pieces.iter().filter(|piece| !matches!(piece.content, BegunContent::Thinking(_)));
    let text = match (said.next(), said.next()) {
        (Some(only), None) if only.open => match &only.content {
            BegunContent::Text(text) => Ok(text),
            _ => Err(cannot("tool_calls", "a call is gone on with under its schema")),
        },
        _ => Err(cannot("messages", "only within its one text can a reply be gone on with")),
    }?;
    let shown = text.trim_end();
    if shown.is_empty() {
        return Err(cannot("messages", "nothing has been said"));
    }
    if request.output_format != OutputFormat::Text {
        return Err(cannot("response_format", "half of it is there already"));
    }
    if request.top_logprobs.is_some() {
        return Err(cannot("logprobs", "they would be of a part"));
    }
    let [Prompt::Conversation(conversation)] = request.prompts.as_slice() else {
        return Err(cannot("prompt", "only a conversation can be"));
    };
    // Somebody's beginning at the end of the request is a part of the same message.
    let mut conversation = conversation.clone();
    match conversation.messages.last_mut().filter(|_| conversation.continues_last) {
        Some(last) => *last = Message::text(Role::Assistant, last.joined_text() + shown),
        None => conversation.messages.push(Message::text(Role::Assistant, shown)),
    }
    conversation.continues_last = true;
    let tokens_max = request.tokens_max.map(|most| most.saturating_sub(tokens_said(begun)));
    if tokens_max == Some(0) {
        return Err(cannot("max_tokens", "as much has been said"));
    }
    let request = Request { prompts: vec![Prompt::Conversation(conversation)], tokens_max, begun: None, ..request.clone() };
    match protocol {
        Protocol::OpenAiChat => openai_chat::write_continuing(&request, model),
        Protocol::OpenAiResponses => Err(cannot("messages", "a response does not go on where an assistant's message ends")),
        Protocol::AnthropicMessages => anthropic_messages::write_continuing(&request, model),
    }
}
