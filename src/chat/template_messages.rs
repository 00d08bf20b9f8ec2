//! Messages and tools as chat templates want to see them: which fields they read, which roles they accept, where they are particular.

use serde_json::{Map, Value as Json, json};

use super::control_text::ControlText;
use super::output::split_mix;
use super::{Message, Role, ToolDefinition};

/// What a template's text says about what it reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peculiarities {
    pub knows_developer: bool,
    /// gpt-oss: thoughts are the message's `thinking`.
    reads_thinking: bool,
    /// Thoughts are the message's `reasoning`, and not its `reasoning_content`.
    reads_reasoning: bool,
    /// Mistral: ids of calls have nine letters and digits, or it throws.
    wants_short_ids: bool,
}

impl Peculiarities {
    pub fn of(source: &str) -> Self {
        // `message.thinking`, `message['thinking']`, `"thinking" in message`, whatever the message is called.
        let reads = |field: &str| {
            source.match_indices(field).any(|(at, _)| {
                let after = &source[at + field.len()..];
                source[..at].ends_with(['.', '\'', '"']) && !after.starts_with(|c: char| c.is_alphanumeric() || c == '_')
            })
        };
        Self {
            knows_developer: source.contains("developer"),
            reads_thinking: reads("thinking"),
            reads_reasoning: reads("reasoning"),
            wants_short_ids: source.contains("alphanumeric strings with length 9"),
        }
    }

    fn call_id(&self, id: &str) -> String {
        if !self.wants_short_ids || (id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())) {
            return id.to_owned();
        }
        // FNV-1a (Fowler, Noll, Vo): the same id is the same everywhere in a conversation, and in the next one.
        let hash = id.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
        let digits = format!("{:016x}", split_mix(hash));
        digits[..9].to_owned()
    }
}

/// One system message at the head instead of several: templates accept no other. Developer messages are system messages where the
/// template does not know the word.
pub fn folded(messages: &[Message], knows_developer: bool) -> Vec<Message> {
    let mut folded: Vec<Message> = Vec::with_capacity(messages.len());
    for message in messages {
        let mut message = message.clone();
        if message.role == Role::Developer && !knows_developer {
            message.role = Role::System;
        }
        match folded.as_mut_slice() {
            [head] if head.role == message.role && matches!(message.role, Role::System | Role::Developer) => {
                let text = format!("{}\n\n{}", head.joined_text(), message.joined_text());
                *head = Message::text(head.role, text);
            }
            _ => folded.push(message),
        }
    }
    folded
}

/// The same conversation with its system messages, but for the first `kept` messages, told by the user: in front of what the user says
/// next to them, for templates that want the roles in turns.
pub fn without_system_messages(messages: &[Message], kept: usize) -> Vec<Message> {
    let mut told: Vec<Message> = Vec::with_capacity(messages.len());
    // Whether the last message may be added to.
    let mut is_open = false;
    for (index, message) in messages.iter().enumerate() {
        let is_system = index >= kept && matches!(message.role, Role::System | Role::Developer);
        let message = match is_system {
            true => Message::text(Role::User, format!("<system>\n{}\n</system>", message.joined_text())),
            false => message.clone(),
        };
        match told.last_mut() {
            Some(last) if last.role == Role::User && message.role == Role::User && (is_system || is_open) => {
                *last = Message {
                    name: last.name.take(),
                    ..Message::text(Role::User, format!("{}\n\n{}", last.joined_text(), message.joined_text()))
                };
            }
            _ => told.push(message),
        }
        is_open = is_system;
    }
    told
}

pub fn message_value(message: &Message, peculiarities: &Peculiarities, control: &ControlText) -> Json {
    let role = match message.role {
        Role::System => "system",
        Role::Developer => "developer",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    };
    let mut value = Map::new();
    value.insert("role".into(), role.into());
    value.insert("content".into(), control.bracket(&message.joined_text()).into());
    if let Some(thinking) = &message.thinking {
        let thinking = control.bracket(thinking);
        // gpt-oss throws where a message with calls has both words and thoughts.
        if peculiarities.reads_thinking && (message.tool_calls.is_empty() || message.joined_text().is_empty()) {
            value.insert("thinking".into(), thinking.clone().into());
        }
        if peculiarities.reads_reasoning {
            value.insert("reasoning".into(), thinking.clone().into());
        }
        value.insert("reasoning_content".into(), thinking.into());
    }
    if let Some(name) = &message.name {
        value.insert("name".into(), control.bracket(name).into());
    }
    if let Some(id) = &message.tool_call_id {
        value.insert("tool_call_id".into(), control.bracket(&peculiarities.call_id(id)).into());
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            // Templates print the arguments with `tojson`: they want the object. What a model wrote and is no JSON stays text.
            let arguments = serde_json::from_str(&call.arguments).unwrap_or_else(|_| Json::String(call.arguments.clone()));
            let function = json!({"name": control.bracket(&call.name), "arguments": bracketed(&arguments, control)});
            json!({"id": control.bracket(&peculiarities.call_id(&call.id)), "type": "function", "function": function})
        });
        value.insert("tool_calls".into(), calls.collect());
    }
    Json::Object(value)
}

pub fn tool_value(tool: &ToolDefinition, control: &ControlText) -> Json {
    let mut function = Map::new();
    function.insert("name".into(), control.bracket(&tool.name).into());
    if let Some(description) = &tool.description {
        function.insert("description".into(), control.bracket(description).into());
    }
    if let Some(parameters) = &tool.parameters {
        function.insert("parameters".into(), bracketed(parameters, control));
    }
    json!({"type": "function", "function": function})
}

/// The same JSON with every string in it bracketed.
pub fn bracketed(value: &Json, control: &ControlText) -> Json {
    match value {
        Json::String(text) => Json::String(control.bracket(text)),
        Json::Array(items) => items.iter().map(|item| bracketed(item, control)).collect(),
        Json::Object(fields) => {
            Json::Object(fields.iter().map(|(name, field)| (control.bracket(name), bracketed(field, control))).collect())
        }
        other => other.clone(),
    }
}
