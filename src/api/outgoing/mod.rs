//! Requests that go up to a cloud of another protocol than the client's, and the replies that come down. The dialects beside this
//! folder serve; this is their mirror: our own [`Request`] is written in an API's words, and its reply is read into our own events.
//!
//! What an API refuses is never sent. What only matters a little (a sampler it has not) is left out; what would change the meaning of
//! the reply is a [`CannotTranslate`], so that another upstream or the local model is asked instead.

pub mod anthropic_messages;
pub mod openai_chat;
pub mod openai_responses;
pub mod reply;

pub mod cache_marks;
pub mod continuing;

pub mod closed_schema;
pub mod model_names;
pub mod names;

use serde_json::Value;

use crate::chat::{Conversation, Message, Prompt, Request, Role, ToolChoice, ToolDefinition};

/// What an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    OpenAiChat,
    OpenAiResponses,
    AnthropicMessages,
}

impl Protocol {
    /// Where its requests go, below the host.
    pub fn path(self) -> &'static str {
        match self {
            Self::OpenAiChat => "/v1/chat/completions",
            Self::OpenAiResponses => "/v1/responses",
            Self::AnthropicMessages => "/v1/messages",
        }
    }
}

/// The request asks for something that the other API has no words for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` cannot be carried to {to}: {reason}")]
pub struct CannotTranslate {
    /// In the words of OpenAI's chat completions, or of the server that has it.
    pub field: &'static str,
    pub to: &'static str,
    pub reason: &'static str,
}

/// The body of a request to `model` of an upstream.
pub fn write(protocol: Protocol, request: &Request, model: &str, stream: bool) -> Result<Value, CannotTranslate> {
    match protocol {
        Protocol::OpenAiChat => openai_chat::write(request, model, stream),
        Protocol::OpenAiResponses => openai_responses::write(request, model, stream),
        Protocol::AnthropicMessages => anthropic_messages::write(request, model, stream),
    }
}

/// The conversation of a request that wants what any chat API gives: one reply, of text and calls.
fn conversation_of<'a>(request: &'a Request, to: &'static str) -> Result<&'a Conversation, CannotTranslate> {
    let cannot = |field, reason| Err(CannotTranslate { field, to, reason });
    let [Prompt::Conversation(conversation)] = request.prompts.as_slice() else {
        return cannot("prompt", "only a conversation can be");
    };
    if request.choices_per_prompt > 1 {
        return cannot("n", "one reply is read");
    }
    if request.tokens_max == Some(0) {
        return cannot("max_tokens", "0 asks for no reply");
    }
    if request.tokens_min > 0 {
        return cannot("min_tokens", "the end of a turn is not in the client's hand there");
    }
    if !request.stop_token_ids.is_empty() {
        return cannot("stop_token_ids", "its tokens are others");
    }
    if request.ignore_end_of_turn {
        return cannot("ignore_eos", "the end of a turn is not in the client's hand there");
    }
    if request.echo {
        return cannot("echo", "a reply does not begin with its prompt there");
    }
    let nameless = |message: &Message| {
        message.tool_calls.iter().any(|call| call.id.is_empty() || call.name.is_empty())
            || message.role == Role::Tool && message.tool_call_id.as_deref().unwrap_or_default().is_empty()
    };
    if conversation.messages.iter().any(nameless) {
        return cannot("tool_call_id", "calls and their results must name each other");
    }
    Ok(conversation)
}

/// Neither API everywhere has a list of what may be called: who may call only some tools is shown only those.
fn tools_and_choice(conversation: &Conversation) -> (Vec<&ToolDefinition>, ToolChoice) {
    let tools = conversation.tools.iter();
    match &conversation.tool_choice {
        choice @ ToolChoice::Allowed { required, .. } => {
            let shown = tools.filter(|tool| choice.includes(&tool.name)).collect();
            (shown, if *required { ToolChoice::Required } else { ToolChoice::Auto })
        }
        choice => (tools.collect(), choice.clone()),
    }
}

/// 0.7 as it was written, and not as its nearest single-precision neighbour reads in double precision.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}
