//! The frames of responses: numbered, and each about an item or about the response with all its items.

use bytes::Bytes;
use serde_json::{Value, json};

use super::named;
use crate::chat::Usage;
use crate::chat::begun::{BegunContent, BegunPiece};
use crate::gateway::tap::{Part, Seen, WirePiece};

pub(super) fn finish_with_calls(seen: &Seen, usage: Usage) -> Vec<Bytes> {
    let mut frames = Frames::after(seen);
    let last = frames.close_last();
    let mut response = response(seen, "completed");
    response["output"] = items(seen, last);
    response["usage"] = json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    });
    frames.push("response.completed", json!({"response": response}));
    frames.written
}

pub(super) fn close_frames(seen: &Seen) -> Vec<Bytes> {
    let mut frames = Frames::after(seen);
    frames.close_last();
    frames.written
}

/// A message gets the part that its text stands in; one whose text has ended already is ended.
pub(super) fn text_frames(seen: &Seen) -> Vec<Bytes> {
    let mut frames = Frames::after(seen);
    match seen.pieces().next_back().filter(|(last, _)| last.open) {
        Some((last, wire)) if wire.part == Part::None => {
            let part = json!({"type": "output_text", "text": "", "annotations": [], "logprobs": []});
            frames.push("response.content_part.added", of_part(last, wire, "content_index", 0, "part", part));
        }
        Some((_, wire)) if wire.part != Part::Open => drop(frames.close_last()),
        _ => {}
    }
    frames.written
}

pub(super) fn error_frames(seen: &Seen, message: &str) -> Vec<Bytes> {
    let mut frames = Frames::after(seen);
    if seen.response.is_none() {
        frames.push("error", json!({"code": "server_error", "message": message, "param": null}));
        return frames.written;
    }
    let open = seen.pieces().next_back().filter(|(last, _)| last.open);
    let mut response = response(seen, "failed");
    response["output"] = items(seen, open.and_then(|(last, wire)| item(last, wire, "incomplete")));
    response["error"] = json!({"code": "server_error", "message": message});
    frames.push("response.failed", json!({"response": response}));
    frames.written
}

/// Frames with their numbers, after those that the client has.
struct Frames<'a> {
    seen: &'a Seen,
    written: Vec<Bytes>,
}

impl<'a> Frames<'a> {
    fn after(seen: &'a Seen) -> Self {
        Self { seen, written: Vec::new() }
    }

    fn push(&mut self, kind: &str, fields: Value) {
        let mut event = json!({"type": kind, "sequence_number": self.seen.reply.frames + self.written.len()});
        if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
            event.extend(fields);
        }
        self.written.push(named(&event));
    }

    /// Ends the last item, if it is open; the item as it is then.
    fn close_last(&mut self) -> Option<Value> {
        let (last, wire) = self.seen.pieces().next_back().filter(|(last, _)| last.open)?;
        let mut wire = wire.clone();
        match &last.content {
            BegunContent::Text(text) => self.close_part(last, &wire, "content", text),
            BegunContent::Thinking(thoughts) => {
                if wire.part == Part::None {
                    // Thinking of which nothing was shown: an empty summary.
                    let fields = of_part(last, &wire, "summary_index", 0, "part", part("summary_text", ""));
                    self.push("response.reasoning_summary_part.added", fields);
                    wire = WirePiece { part: Part::Open, part_starts: vec![0], has_summary: true, ..wire };
                }
                let text = wire.part_starts.last().map_or("", |start| &thoughts[*start..]);
                self.close_part(last, &wire, if wire.has_summary { "summary" } else { "reasoning" }, text);
            }
            BegunContent::ToolCall { arguments, .. } if wire.part == Part::None => {
                let (kind, field) = match wire.is_custom {
                    true => ("response.custom_tool_call_input.done", "input"),
                    false => ("response.function_call_arguments.done", "arguments"),
                };
                let mut fields = json!({"item_id": last.id, "output_index": wire.index});
                fields[field] = arguments.as_str().into();
                self.push(kind, fields);
            }
            BegunContent::ToolCall { .. } | BegunContent::Other => {}
        }
        let is_broken_off = matches!(last.content, BegunContent::Thinking(_));
        let done = item(last, &wire, if is_broken_off { "incomplete" } else { "completed" })?;
        self.push("response.output_item.done", json!({"output_index": wire.index, "item": done}));
        Some(done)
    }

    /// Ends the last part of an item, as far as that has not been said.
    fn close_part(&mut self, piece: &BegunPiece, wire: &WirePiece, kind: &str, text: &str) {
        let (text_done, part_done, index_name, index, part_type) = match kind {
            "content" => ("response.output_text.done", "response.content_part.done", "content_index", 0, "output_text"),
            "summary" => (
                "response.reasoning_summary_text.done",
                "response.reasoning_summary_part.done",
                "summary_index",
                wire.part_starts.len().saturating_sub(1),
                "summary_text",
            ),
            _ => ("response.reasoning_text.done", "response.content_part.done", "content_index", 0, "reasoning_text"),
        };
        if wire.part == Part::Open {
            self.push(text_done, of_part(piece, wire, index_name, index, "text", text.into()));
        }
        if matches!(wire.part, Part::Open | Part::TextDone) {
            self.push(part_done, of_part(piece, wire, index_name, index, "part", part(part_type, text)));
        }
    }
}

/// The fields of an event about a part of an item, in their order.
fn of_part(piece: &BegunPiece, wire: &WirePiece, index_name: &str, index: usize, field: &str, value: Value) -> Value {
    let mut fields = json!({"item_id": piece.id, "output_index": wire.index});
    fields[index_name] = index.into();
    fields[field] = value;
    fields
}

fn part(kind: &str, text: &str) -> Value {
    match kind {
        "output_text" => json!({"type": kind, "text": text, "annotations": [], "logprobs": []}),
        _ => json!({"type": kind, "text": text}),
    }
}

/// The response as it was told first, in another state.
fn response(seen: &Seen, status: &str) -> Value {
    let begun = seen.response.as_deref().unwrap_or("{}");
    let mut response: Value = serde_json::from_str(begun).unwrap_or_else(|_| json!({}));
    response["status"] = status.into();
    response
}

/// Items that are done as they were told, and the last one as it is now.
fn items(seen: &Seen, last: Option<Value>) -> Value {
    let done = seen.pieces().filter(|(piece, _)| !piece.open).filter_map(|(_, wire)| serde_json::from_str(wire.item.as_deref()?).ok());
    done.chain(last).collect()
}

/// An item with what has come of it: what was told when it was added, filled.
fn item(piece: &BegunPiece, wire: &WirePiece, status: &str) -> Option<Value> {
    let mut item: Value = serde_json::from_str(wire.item.as_deref()?).ok()?;
    // Reasoning may come without one.
    if item.get("status").is_some() {
        item["status"] = status.into();
    }
    match &piece.content {
        BegunContent::Text(text) => item["content"] = json!([part("output_text", text)]),
        BegunContent::Thinking(thoughts) => {
            let ends = wire.part_starts.iter().skip(1).copied().chain([thoughts.len()]);
            let kind = if wire.has_summary { "summary_text" } else { "reasoning_text" };
            let parts: Value = wire.part_starts.iter().zip(ends).map(|(start, end)| part(kind, &thoughts[*start..end])).collect();
            item[if wire.has_summary || wire.part_starts.is_empty() { "summary" } else { "content" }] = parts;
            // What proves the whole of a thought does not prove half of it.
            if item.get("encrypted_content").is_some() {
                item["encrypted_content"] = Value::Null;
            }
        }
        BegunContent::ToolCall { arguments, .. } => item[if wire.is_custom { "input" } else { "arguments" }] = arguments.as_str().into(),
        BegunContent::Other => {}
    }
    Some(item)
}
