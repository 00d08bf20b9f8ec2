//! A conversation as items: messages, calls, results of calls, reasoning, pointers to items of earlier replies. They become messages
//! of ours; what stands in no conversation of ours (searches, shells, images that were made elsewhere) is left out.

use serde_json::{Map, Value, json};

use super::custom_input;
use super::tools::Tools;
use crate::api::errors::{ApiError, ErrorKind};
use crate::api::fields::{Fields, quoted};
use crate::api::memory::{Memory, Recall};
use crate::chat::{Message, Part, Role, ToolCall};

/// The items of `input` at `place`, references resolved: a string is a message of the user.
pub fn read_input(fields: &Fields<'_>, memory: &dyn Memory) -> Result<Vec<Value>, ApiError> {
    match fields.get("input") {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![json!({"type": "message", "role": "user", "content": text})]),
        Some(Value::Array(items)) => {
            let place = |index: usize| fields.place(&format!("input[{index}]"));
            let resolved = |(index, item)| resolved(item, place(index), memory);
            items.iter().enumerate().map(resolved).collect()
        }
        Some(other) => Err(fields.wrong_kind("input", "a string or an array of items", other)),
    }
}

/// The item itself, or the one that an `item_reference` points at.
fn resolved(item: &Value, place: String, memory: &dyn Memory) -> Result<Value, ApiError> {
    let fields = Fields::of(item, place)?;
    if kind(&fields)? != "item_reference" {
        return Ok(item.clone());
    }
    fields.require("id")?;
    let id = fields.string("id")?.unwrap_or_default();
    let found = reply_of_item(id).and_then(|reply| match memory.recall(&reply) {
        Recall::Kept(exchanges) => exchanges.last().and_then(|exchange| {
            let items = exchange.input().into_iter().chain(output_of(&exchange.reply()));
            items.into_iter().find(|item| item["id"] == id)
        }),
        Recall::Unknown | Recall::Running => None,
    });
    found.ok_or_else(|| ApiError {
        param: Some("input".to_owned()),
        ..ApiError::new(ErrorKind::NotFound, format!("Item with id '{id}' not found. This server keeps a limited number of responses."))
    })
}

/// The items of a reply.
pub fn output_of(reply: &Value) -> Vec<Value> {
    reply["output"].as_array().cloned().unwrap_or_default()
}

/// `resp_X` of `msg_X_3`, if the id has that form.
fn reply_of_item(id: &str) -> Option<String> {
    let mut parts = id.split('_').skip(1);
    Some(format!("resp_{}", parts.next().filter(|name| !name.is_empty())?))
}

/// The type of an item; where none is said its fields tell.
fn kind<'a>(fields: &Fields<'a>) -> Result<&'a str, ApiError> {
    Ok(match fields.string("type")? {
        Some(kind) => kind,
        None if fields.get("role").is_some() => "message",
        None if fields.get("id").is_some() => "item_reference",
        None => return Err(fields.error("type", "is required")),
    })
}

/// Items as they are kept and listed: each with its type and an id, a message's content as parts.
pub fn for_keeping(items: &[Value], reply_name: &str) -> Vec<Value> {
    items.iter().enumerate().map(|(index, item)| item_for_keeping(item, index, reply_name)).collect()
}

fn item_for_keeping(item: &Value, index: usize, reply_name: &str) -> Value {
    let Value::Object(fields) = item else { return item.clone() };
    let kind = fields.get("type").and_then(Value::as_str).unwrap_or("message").to_owned();
    let own_id = fields.get("id").and_then(Value::as_str).filter(|id| !id.is_empty());
    let id = own_id.map_or_else(|| format!("{}_{reply_name}_in{index}", id_prefix(&kind)), str::to_owned);
    let mut kept = Map::new();
    kept.insert("id".into(), id.into());
    kept.insert("type".into(), kind.as_str().into());
    kept.extend(
        fields.iter().filter(|(name, _)| !matches!(name.as_str(), "id" | "type")).map(|(name, value)| (name.clone(), value.clone())),
    );
    if kind == "message" {
        if let Some(Value::String(text)) = fields.get("content") {
            let part = match fields.get("role").and_then(Value::as_str) {
                Some("assistant") => json!({"type": "output_text", "text": text, "annotations": []}),
                _ => json!({"type": "input_text", "text": text}),
            };
            kept.insert("content".into(), json!([part]));
        }
        kept.entry("status").or_insert_with(|| "completed".into());
    }
    Value::Object(kept)
}

/// What ids of items of a type begin with.
fn id_prefix(kind: &str) -> &'static str {
    match kind {
        "message" => "msg",
        "function_call" => "fc",
        "function_call_output" => "fco",
        "custom_tool_call" => "ctc",
        "custom_tool_call_output" => "ctco",
        "reasoning" => "rs",
        _ => "item",
    }
}

/// Tools that stand among the items (`additional_tools`), in their order.
pub fn read_tools(items: &[Value], place: &str, tools: &mut Tools) -> Result<(), ApiError> {
    for (index, item) in items.iter().enumerate() {
        let fields = Fields::of(item, format!("{place}[{index}]"))?;
        if kind(&fields)? == "additional_tools" {
            tools.read(fields.array("tools")?.unwrap_or_default(), &fields.place("tools"))?;
        }
    }
    Ok(())
}

/// Items put together to messages: what the assistant thought, said and called in one turn is one message.
pub struct Messages<'a> {
    tools: &'a Tools,
    messages: Vec<Message>,
    /// The item before was the assistant's, so what follows of it belongs to the same turn.
    in_turn: bool,
}

impl<'a> Messages<'a> {
    pub fn new(tools: &'a Tools) -> Self {
        Self { tools, messages: Vec::new(), in_turn: false }
    }

    pub fn finish(self) -> Vec<Message> {
        self.messages
    }

    /// Text that comes before all items.
    pub fn instructions(&mut self, text: &str) {
        self.push(Message::text(Role::System, text));
    }

    /// Adds items that stand at `place`.
    pub fn read(&mut self, items: &[Value], place: &str) -> Result<(), ApiError> {
        items.iter().enumerate().try_for_each(|(index, item)| self.read_item(&Fields::of(item, format!("{place}[{index}]"))?))
    }

    fn read_item(&mut self, item: &Fields<'_>) -> Result<(), ApiError> {
        match kind(item)? {
            "message" => self.read_message(item),
            "function_call" => {
                let arguments = match item.get("arguments") {
                    None => "{}".to_owned(),
                    Some(Value::String(text)) if text.trim().is_empty() => "{}".to_owned(),
                    Some(Value::String(text)) => text.clone(),
                    Some(object @ Value::Object(_)) => object.to_string(),
                    Some(other) => return Err(item.wrong_kind("arguments", "a string of JSON", other)),
                };
                self.call(item, arguments)
            }
            "custom_tool_call" => {
                let arguments = custom_input::arguments(item.string("input")?.unwrap_or_default());
                self.call(item, arguments)
            }
            "function_call_output" | "custom_tool_call_output" => self.read_call_output(item),
            "reasoning" => self.read_reasoning(item),
            _ => Ok(()),
        }
    }

    fn push(&mut self, message: Message) {
        self.in_turn = false;
        self.messages.push(message);
    }

    /// The assistant's message that goes on, if `fits`, or a new one.
    fn turn(&mut self, fits: impl Fn(&Message) -> bool) -> &mut Message {
        let goes_on = self.in_turn && self.messages.last().is_some_and(fits);
        if !goes_on {
            self.messages.push(Message { content: Vec::new(), ..Message::text(Role::Assistant, "") });
        }
        self.in_turn = true;
        self.messages.last_mut().expect("one was pushed if there was none")
    }

    fn read_message(&mut self, item: &Fields<'_>) -> Result<(), ApiError> {
        item.require("role")?;
        let role = match item.string("role")?.unwrap_or_default() {
            "system" => Role::System,
            "developer" => Role::Developer,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            other => {
                return Err(item.error("role", format_args!("must be system, developer, user or assistant, not {}", quoted(other))));
            }
        };
        let content = read_content(item, "content", Foreign::Refused)?;
        if role == Role::Assistant {
            self.turn(|message| message.content.is_empty() && message.tool_calls.is_empty()).content = content;
        } else {
            self.push(Message { content, ..Message::text(role, "") });
        }
        Ok(())
    }

    fn read_reasoning(&mut self, item: &Fields<'_>) -> Result<(), ApiError> {
        let mut texts = Vec::new();
        // The content is the thought itself, the summary what may be shown of it.
        for name in ["content", "summary"] {
            let place = item.place(name);
            for (index, value) in item.array(name)?.unwrap_or_default().iter().enumerate() {
                texts.extend(Fields::of(value, format!("{place}[{index}]"))?.string("text")?);
            }
            if !texts.is_empty() {
                break;
            }
        }
        if !texts.is_empty() {
            let thinking = texts.join("\n\n");
            let silent = |message: &Message| message.thinking.is_none() && message.content.is_empty() && message.tool_calls.is_empty();
            self.turn(silent).thinking = Some(thinking);
        }
        Ok(())
    }

    fn call(&mut self, item: &Fields<'_>, arguments: String) -> Result<(), ApiError> {
        item.require("name")?;
        item.require("call_id")?;
        let name = self.tools.shown_name(item.string("namespace")?, item.string("name")?.unwrap_or_default());
        let id = item.string("call_id")?.unwrap_or_default().to_owned();
        self.turn(|_| true).tool_calls.push(ToolCall { id, name, arguments });
        Ok(())
    }

    fn read_call_output(&mut self, item: &Fields<'_>) -> Result<(), ApiError> {
        item.require("call_id")?;
        let call_id = item.string("call_id")?.unwrap_or_default();
        let content = read_content(item, "output", Foreign::Named)?;
        let calls = self.messages.iter().rev().flat_map(|message| &message.tool_calls);
        let name = calls.into_iter().find(|call| call.id == call_id).map(|call| call.name.clone());
        self.push(Message { content, tool_call_id: Some(call_id.to_owned()), name, ..Message::text(Role::Tool, "") });
        Ok(())
    }
}

/// What becomes of content that is no text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Foreign {
    /// The user has to know that the model does not see it.
    Refused,
    /// A tool's result has to be answered all the same: the model is told what it cannot see.
    Named,
}

/// A string, an array of parts, or nothing.
fn read_content(item: &Fields<'_>, name: &str, foreign: Foreign) -> Result<Vec<Part>, ApiError> {
    match item.get(name) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![Part::Text(text.clone())]),
        Some(Value::Array(parts)) => {
            let place = item.place(name);
            parts.iter().enumerate().map(|(index, part)| read_part(part, format!("{place}[{index}]"), foreign)).collect()
        }
        // Tools that answer with an object, from clients that do not write it out.
        Some(object @ Value::Object(_)) if foreign == Foreign::Named => Ok(vec![Part::Text(object.to_string())]),
        Some(other) => Err(item.wrong_kind(name, "a string or an array of parts", other)),
    }
}

fn read_part(part: &Value, place: String, foreign: Foreign) -> Result<Part, ApiError> {
    if let Value::String(text) = part {
        return Ok(Part::Text(text.clone()));
    }
    let fields = Fields::of(part, place.clone())?;
    let text = match fields.string("type")?.unwrap_or("text") {
        "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text" => {
            fields.require("text")?;
            fields.string("text")?.unwrap_or_default().to_owned()
        }
        "refusal" => fields.string("refusal")?.unwrap_or_default().to_owned(),
        kind if foreign == Foreign::Named => format!("[{kind} left out: this model reads text only]"),
        kind => {
            return Err(ApiError::invalid(place.clone(), format!("`{place}` is of type {}, but this model reads text only", quoted(kind))));
        }
    };
    Ok(Part::Text(text))
}
