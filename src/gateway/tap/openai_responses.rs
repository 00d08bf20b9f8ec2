//! Responses: numbered events about items, each added, filled and done.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::error_event::{self, ErrorFields};
use super::seen::{Obstacle, Part, Seen, WirePiece};
use super::text::{Text, str_of};
use super::{ContentKind, Told};
use crate::chat::begun::BegunContent;

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Text<'a>,
    #[serde(default)]
    sequence_number: Option<usize>,
    #[serde(default)]
    output_index: usize,
    #[serde(default)]
    content_index: usize,
    #[serde(borrow, default)]
    delta: Option<Text<'a>>,
    #[serde(borrow, default)]
    arguments: Option<Text<'a>>,
    #[serde(borrow, default)]
    input: Option<Text<'a>>,
    #[serde(borrow, default)]
    item: Option<&'a RawValue>,
    #[serde(borrow, default)]
    response: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow, default)]
    call_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
    #[serde(borrow, default)]
    encrypted_content: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow, default)]
    model: Option<Text<'a>>,
    /// Seconds; some write them with a point.
    #[serde(default)]
    created_at: Option<f64>,
    #[serde(borrow, default)]
    status: Option<Text<'a>>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    incomplete_details: Option<IncompleteDetails<'a>>,
}

#[derive(Deserialize)]
struct IncompleteDetails<'a> {
    #[serde(borrow, default)]
    reason: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    input_tokens: usize,
    #[serde(default)]
    output_tokens: usize,
    #[serde(default)]
    input_tokens_details: Option<InputDetails>,
    #[serde(default)]
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Deserialize)]
struct InputDetails {
    #[serde(default)]
    cached_tokens: usize,
}

#[derive(Deserialize)]
struct OutputDetails {
    #[serde(default)]
    reasoning_tokens: usize,
}

pub(super) fn read(seen: &mut Seen, text: &str) -> serde_json::Result<Told> {
    let event: Event<'_> = serde_json::from_str(text)?;
    if let Some(number) = event.sequence_number {
        seen.reply.frames = number.saturating_add(1);
    }
    let kind = event.kind.as_str();
    let Some(short) = kind.strip_prefix("response.") else {
        return Ok(match kind {
            "error" => top_level_error(text, event.error),
            "ping" | "keepalive" => Told::Ping,
            _ => event.error.map_or(Told::Unknown, error_event::told),
        });
    };
    Ok(match short {
        "output_text.delta"
        | "function_call_arguments.delta"
        | "custom_tool_call_input.delta"
        | "reasoning_summary_text.delta"
        | "reasoning_text.delta" => delta(seen, &event),
        "output_text.done" | "reasoning_summary_text.done" | "reasoning_text.done" => part(seen, &event, Part::TextDone),
        "function_call_arguments.done" => input_done(seen, &event, str_of(&event.arguments)),
        "custom_tool_call_input.done" => input_done(seen, &event, str_of(&event.input)),
        "content_part.added" | "reasoning_summary_part.added" => part(seen, &event, Part::Open),
        "content_part.done" | "reasoning_summary_part.done" => part(seen, &event, Part::Done),
        "output_item.added" => item_added(seen, &event)?,
        "output_item.done" => item_done(seen, &event)?,
        "refusal.delta" | "refusal.done" => {
            seen.is_refusal = true;
            Told::Content(ContentKind::Text)
        }
        "created" | "in_progress" | "queued" => begun(seen, &event)?,
        "completed" | "incomplete" | "cancelled" | "failed" => ended(seen, &event)?,
        _ => seen.lead_in(),
    })
}

/// `{"type": "error", "code", "message", ...}`, or with an object as in all other APIs.
fn top_level_error(text: &str, error: Option<&RawValue>) -> Told {
    match error {
        Some(error) => error_event::told(error),
        None => error_event::told_by(&ErrorFields { kind: None, ..serde_json::from_str(text).unwrap_or_default() }),
    }
}

/// A response that says that it has begun, or is still at it.
fn begun(seen: &mut Seen, event: &Event<'_>) -> serde_json::Result<Told> {
    let Some(raw) = event.response.filter(|_| seen.response.is_none()) else { return Ok(seen.nothing_new()) };
    let response: Response<'_> = serde_json::from_str(raw.get())?;
    str_of(&response.id).clone_into(&mut seen.reply.id);
    str_of(&response.model).clone_into(&mut seen.reply.model);
    seen.reply.created_unix_s = response.created_at.unwrap_or_default() as i64;
    seen.response = seen.keep_raw(raw.get());
    Ok(seen.nothing_new())
}

fn ended(seen: &mut Seen, event: &Event<'_>) -> serde_json::Result<Told> {
    let response = match event.response {
        Some(raw) => Some(serde_json::from_str::<Response<'_>>(raw.get())?),
        None => None,
    };
    let word = event.kind.as_str().trim_start_matches("response.");
    count(seen, response.as_ref().and_then(|response| response.usage));
    // Somebody who stopped a response on purpose gets this too.
    let is_cancelled = response.as_ref().is_some_and(|response| str_of(&response.status) == "cancelled");
    if word == "failed" && !is_cancelled {
        let error = response.as_ref().and_then(|response| response.error);
        return Ok(error.map_or_else(|| error_event::told_by(&ErrorFields::default()), error_event::told));
    }
    let incomplete = response.as_ref().and_then(|response| response.incomplete_details.as_ref());
    seen.is_refusal |= incomplete.is_some_and(|details| str_of(&details.reason) == "content_filter");
    seen.finish = Some(word.to_owned());
    seen.is_terminal = true;
    seen.close_all();
    Ok(Told::Terminal)
}

fn item_added(seen: &mut Seen, event: &Event<'_>) -> serde_json::Result<Told> {
    let Some(raw) = event.item else { return Ok(Told::Unknown) };
    let item: Item<'_> = serde_json::from_str(raw.get())?;
    let is_custom = item.kind.as_str() == "custom_tool_call";
    let (content, told) = match item.kind.as_str() {
        "message" => (BegunContent::Text(String::new()), seen.lead_in()),
        "reasoning" => (BegunContent::Thinking(String::new()), Told::Content(ContentKind::Thinking)),
        "function_call" | "custom_tool_call" => {
            let (call_id, name) = (str_of(&item.call_id).to_owned(), str_of(&item.name).to_owned());
            (BegunContent::ToolCall { call_id, name, arguments: String::new() }, Told::Content(ContentKind::ToolCall))
        }
        _ => (BegunContent::Other, Told::Content(ContentKind::Other)),
    };
    let wire = WirePiece { index: event.output_index, item: seen.keep_raw(raw.get()), is_custom, ..WirePiece::default() };
    seen.open_piece(item.id.as_ref().map(|id| id.as_str().to_owned()), content, wire);
    Ok(told)
}

fn item_done(seen: &mut Seen, event: &Event<'_>) -> serde_json::Result<Told> {
    let (Some(raw), Some(at)) = (event.item, seen.find(event.output_index)) else { return Ok(Told::Progress) };
    let item: Item<'_> = serde_json::from_str(raw.get())?;
    let kept = seen.keep_raw(raw.get());
    seen.wire[at].item = kept;
    str_of(&item.encrypted_content).clone_into(&mut seen.wire[at].signature);
    seen.close(at);
    Ok(Told::Progress)
}

fn delta(seen: &mut Seen, event: &Event<'_>) -> Told {
    let Some(at) = seen.find(event.output_index) else {
        seen.hinder(Obstacle::UnknownForm);
        return Told::Content(ContentKind::Other);
    };
    seen.append(at, str_of(&event.delta))
}

fn part(seen: &mut Seen, event: &Event<'_>, part: Part) -> Told {
    let Some(at) = seen.find(event.output_index) else { return Told::Unknown };
    seen.wire[at].part = part;
    match &seen.reply.pieces[at].content {
        BegunContent::Thinking(thoughts) if part == Part::Open => {
            seen.wire[at].part_starts.push(thoughts.len());
            seen.wire[at].has_summary = event.kind.as_str().contains("summary");
        }
        // A second part is text that would have to go elsewhere than where the first went.
        BegunContent::Text(_) if event.content_index > 0 => seen.hinder(Obstacle::UnknownForm),
        _ => {}
    }
    seen.lead_in()
}

/// The whole of a call's input. Servers may say only this, and no delta before.
fn input_done(seen: &mut Seen, event: &Event<'_>, whole: &str) -> Told {
    let Some(at) = seen.find(event.output_index) else { return Told::Unknown };
    seen.wire[at].part = Part::TextDone;
    let is_empty = matches!(&seen.reply.pieces[at].content, BegunContent::ToolCall { arguments, .. } if arguments.is_empty());
    if is_empty {
        seen.append(at, whole);
    }
    Told::Progress
}

pub(super) fn count(seen: &mut Seen, usage: Option<&RawValue>) {
    let Some(told) = usage.and_then(|usage| serde_json::from_str::<Usage>(usage.get()).ok()) else { return };
    let usage = &mut seen.reply.usage;
    usage.prompt_tokens = told.input_tokens;
    usage.completion_tokens = told.output_tokens;
    usage.cached_tokens = told.input_tokens_details.as_ref().map_or(0, |details| details.cached_tokens);
    usage.thinking_tokens = told.output_tokens_details.as_ref().map_or(0, |details| details.reasoning_tokens);
    seen.is_prompt_counted = true;
    seen.is_reply_counted = true;
}
