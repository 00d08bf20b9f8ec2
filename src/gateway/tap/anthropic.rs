//! Anthropic's messages: a row of blocks, each started, filled and stopped.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::error_event;
use super::seen::{Obstacle, Seen, WirePiece};
use super::text::{Text, str_of};
use super::{ContentKind, Told};
use crate::chat::begun::BegunContent;

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Text<'a>,
    #[serde(default)]
    index: usize,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    content_block: Option<Block<'a>>,
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// Of a block, or of the message as a whole.
#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
    #[serde(borrow, default)]
    thinking: Option<Text<'a>>,
    #[serde(borrow, default)]
    signature: Option<Text<'a>>,
    #[serde(borrow, default)]
    partial_json: Option<Text<'a>>,
    #[serde(borrow, default)]
    stop_reason: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
    #[serde(borrow, default)]
    thinking: Option<Text<'a>>,
    #[serde(borrow, default)]
    signature: Option<Text<'a>>,
    #[serde(borrow, default)]
    data: Option<Text<'a>>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow, default)]
    model: Option<Text<'a>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    input_tokens: Option<usize>,
    #[serde(default)]
    cache_creation_input_tokens: Option<usize>,
    #[serde(default)]
    cache_read_input_tokens: Option<usize>,
    #[serde(default)]
    output_tokens: Option<usize>,
}

pub(super) fn read(seen: &mut Seen, text: &str) -> serde_json::Result<Told> {
    let event: Event<'_> = serde_json::from_str(text)?;
    Ok(match event.kind.as_str() {
        "content_block_delta" => block_delta(seen, &event),
        "content_block_start" => block_start(seen, &event),
        "content_block_stop" => block_stop(seen, &event),
        "message_start" => message_start(seen, &event),
        "message_delta" => message_delta(seen, &event),
        "message_stop" => {
            seen.is_terminal = true;
            Told::Terminal
        }
        "ping" => Told::Ping,
        _ => event.error.map_or(Told::Unknown, error_event::told),
    })
}

fn message_start(seen: &mut Seen, event: &Event<'_>) -> Told {
    if let Some(message) = &event.message {
        str_of(&message.id).clone_into(&mut seen.reply.id);
        str_of(&message.model).clone_into(&mut seen.reply.model);
        count(seen, message.usage);
        // What stands there at the beginning is no count of the reply yet.
        seen.is_reply_counted = false;
    }
    seen.lead_in()
}

fn block_start(seen: &mut Seen, event: &Event<'_>) -> Told {
    let Some(block) = &event.content_block else { return Told::Unknown };
    let mut wire = WirePiece { index: event.index, ..WirePiece::default() };
    let (id, content, filling) = match block.kind.as_str() {
        "text" => (None, BegunContent::Text(String::new()), str_of(&block.text)),
        "thinking" => {
            str_of(&block.signature).clone_into(&mut wire.signature);
            (None, BegunContent::Thinking(String::new()), str_of(&block.thinking))
        }
        "redacted_thinking" => {
            // What it holds only its author can read, and proves who that is.
            str_of(&block.data).clone_into(&mut wire.signature);
            (None, BegunContent::Thinking(String::new()), "")
        }
        "tool_use" => {
            let id = str_of(&block.id).to_owned();
            let name = str_of(&block.name).to_owned();
            // An input that stands in the start already: written by servers that do not stream it.
            let input = block.input.map_or("", RawValue::get);
            let filling = if input.bytes().filter(|byte| !byte.is_ascii_whitespace()).eq(*b"{}") { "" } else { input };
            (Some(id.clone()), BegunContent::ToolCall { call_id: id, name, arguments: String::new() }, filling)
        }
        _ => (block.id.as_ref().map(|id| id.as_str().to_owned()), BegunContent::Other, ""),
    };
    let begins = match &content {
        BegunContent::Text(_) if filling.is_empty() => seen.lead_in(),
        BegunContent::Text(_) => Told::Content(ContentKind::Text),
        BegunContent::Thinking(_) => Told::Content(ContentKind::Thinking),
        BegunContent::ToolCall { .. } => Told::Content(ContentKind::ToolCall),
        BegunContent::Other => Told::Content(ContentKind::Other),
    };
    seen.open_piece(id, content, wire);
    seen.append(seen.wire.len() - 1, filling);
    begins
}

fn block_delta(seen: &mut Seen, event: &Event<'_>) -> Told {
    let Some(delta) = &event.delta else { return Told::Unknown };
    let Some(at) = seen.find(event.index) else {
        seen.hinder(Obstacle::UnknownForm);
        return Told::Content(ContentKind::Other);
    };
    match str_of(&delta.kind) {
        "text_delta" => seen.append(at, str_of(&delta.text)),
        "thinking_delta" => seen.append(at, str_of(&delta.thinking)),
        "input_json_delta" => seen.append(at, str_of(&delta.partial_json)),
        "signature_delta" => {
            let signature = str_of(&delta.signature);
            if seen.keep(signature.len()) {
                seen.wire[at].signature.push_str(signature);
            }
            Told::Progress
        }
        _ => Told::Progress,
    }
}

fn block_stop(seen: &mut Seen, event: &Event<'_>) -> Told {
    if let Some(at) = seen.find(event.index) {
        seen.close(at);
    }
    seen.lead_in()
}

fn message_delta(seen: &mut Seen, event: &Event<'_>) -> Told {
    count(seen, event.usage);
    let Some(reason) = event.delta.as_ref().and_then(|delta| delta.stop_reason.as_ref()) else {
        return Told::Ping;
    };
    seen.is_refusal |= reason.as_str() == "refusal";
    seen.finish = Some(reason.as_str().to_owned());
    Told::Progress
}

/// Counts are of the whole message so far; what is not told again stays. Odd ones are no reason to miss the rest of an event.
pub(super) fn count(seen: &mut Seen, usage: Option<&RawValue>) {
    let Some(told) = usage.and_then(|usage| serde_json::from_str::<Usage>(usage.get()).ok()) else { return };
    let usage = &mut seen.reply.usage;
    if let Some(input) = told.input_tokens {
        usage.cached_tokens = told.cache_read_input_tokens.unwrap_or(usage.cached_tokens);
        seen.cache_written_tokens = told.cache_creation_input_tokens.unwrap_or(seen.cache_written_tokens);
        usage.prompt_tokens = input.saturating_add(usage.cached_tokens).saturating_add(seen.cache_written_tokens);
        seen.is_prompt_counted = true;
    }
    if let Some(output) = told.output_tokens {
        usage.completion_tokens = output;
        seen.is_reply_counted = true;
    }
}
