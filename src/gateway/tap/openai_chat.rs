//! Chat completions: chunks with deltas. Pieces have no ends of their own: one ends where the next begins, or with the reply.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::error_event;
use super::seen::{Obstacle, Seen, WirePiece};
use super::text::{Text, str_of};
use super::{ContentKind, Told};
use crate::chat::begun::{BegunContent, BegunPiece};

/// The number of pieces that are no calls: calls are counted from 0.
const NO_CALL: usize = usize::MAX;

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow, default)]
    model: Option<Text<'a>>,
    #[serde(default)]
    created: Option<f64>,
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    /// Told from `null`, which says that it will come.
    #[serde(borrow, default, deserialize_with = "is_there")]
    usage: Option<Option<&'a RawValue>>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: usize,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    finish_reason: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<Text<'a>>,
    /// DeepSeek's word, and ours.
    #[serde(borrow, default)]
    reasoning_content: Option<Text<'a>>,
    /// OpenRouter's.
    #[serde(borrow, default)]
    reasoning: Option<Text<'a>>,
    #[serde(borrow, default)]
    refusal: Option<Text<'a>>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
    /// What calls were before there could be several.
    #[serde(borrow, default)]
    function_call: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    #[serde(default)]
    index: Option<usize>,
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow, default)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
    #[serde(borrow, default)]
    arguments: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: usize,
    #[serde(default)]
    completion_tokens: usize,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(default)]
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<usize>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: Option<usize>,
}

pub(super) fn read(seen: &mut Seen, text: &str) -> serde_json::Result<Told> {
    let chunk: Chunk<'_> = serde_json::from_str(text)?;
    if let Some(error) = chunk.error {
        return Ok(error_event::told(error));
    }
    head(seen, &chunk.id, &chunk.model, chunk.created);
    seen.has_usage_field |= chunk.usage.is_some();
    let counted = count(seen, chunk.usage.flatten());
    let mut told = if counted { seen.lead_in() } else { seen.nothing_new() };
    for choice in &chunk.choices {
        if choice.index > 0 {
            seen.hinder(Obstacle::SeveralChoices);
        }
        if let Some(delta) = &choice.delta {
            told = louder(told, read_delta(seen, delta));
        }
        if let Some(reason) = &choice.finish_reason {
            finish(seen, reason.as_str());
            told = louder(told, Told::Progress);
        }
    }
    // Some count along with every chunk; only what is told after the end is the whole.
    seen.is_reply_counted |= counted && seen.finish.is_some();
    Ok(told)
}

/// What all chunks repeat; the first one counts.
pub(super) fn head(seen: &mut Seen, id: &Option<Text<'_>>, model: &Option<Text<'_>>, created: Option<f64>) {
    if seen.reply.id.is_empty() {
        str_of(id).clone_into(&mut seen.reply.id);
    }
    if seen.reply.model.is_empty() {
        str_of(model).clone_into(&mut seen.reply.model);
    }
    if let Some(created) = created {
        seen.reply.created_unix_s = created as i64;
    }
}

pub(super) fn finish(seen: &mut Seen, reason: &str) {
    seen.is_refusal |= reason == "content_filter";
    seen.finish = Some(reason.to_owned());
    seen.close_all();
}

/// Of two things that one chunk says, the one that decides.
pub(super) fn louder(one: Told, other: Told) -> Told {
    let rank = |told: &Told| match told {
        Told::Content(_) => 2,
        Told::Progress => 1,
        _ => 0,
    };
    if rank(&other) > rank(&one) { other } else { one }
}

fn read_delta(seen: &mut Seen, delta: &Delta<'_>) -> Told {
    let mut told = seen.nothing_new();
    for thoughts in [&delta.reasoning_content, &delta.reasoning].into_iter().flatten().take(1) {
        if !thoughts.as_str().is_empty() {
            let at = current(seen, |content| matches!(content, BegunContent::Thinking(_)), || BegunContent::Thinking(String::new()));
            told = louder(told, seen.append(at, thoughts.as_str()));
        }
    }
    if let Some(text) = delta.content.as_ref().filter(|text| !text.as_str().is_empty()) {
        let at = current(seen, |content| matches!(content, BegunContent::Text(_)), || BegunContent::Text(String::new()));
        told = louder(told, seen.append(at, text.as_str()));
    }
    if delta.refusal.as_ref().is_some_and(|refusal| !refusal.as_str().is_empty()) {
        seen.is_refusal = true;
        told = louder(told, Told::Content(ContentKind::Text));
    }
    if delta.function_call.is_some() {
        seen.hinder(Obstacle::UnknownForm);
        told = louder(told, Told::Content(ContentKind::ToolCall));
    }
    for call in delta.tool_calls.iter().flatten() {
        told = louder(told, read_call(seen, call));
    }
    told
}

/// The last piece if it is of this kind, else a new one.
fn current(seen: &mut Seen, is_kind: impl Fn(&BegunContent) -> bool, begin: impl Fn() -> BegunContent) -> usize {
    if !seen.reply.pieces.last().is_some_and(|piece| is_kind(&piece.content)) {
        seen.close_all();
        seen.open_piece(None, begin(), WirePiece { index: NO_CALL, ..WirePiece::default() });
    }
    seen.reply.pieces.len() - 1
}

fn read_call(seen: &mut Seen, call: &ToolCall<'_>) -> Told {
    let id = str_of(&call.id);
    let begun = match call.index {
        Some(index) => seen.find(index),
        // Servers that do not count send each call at once, with its id.
        None if id.is_empty() => seen.reply.pieces.len().checked_sub(1),
        None => None,
    };
    let (name, arguments) = call.function.as_ref().map_or(("", ""), |of| (str_of(&of.name), str_of(&of.arguments)));
    let Some(at) = begun else {
        seen.close_all();
        let content = BegunContent::ToolCall { call_id: id.to_owned(), name: name.to_owned(), arguments: String::new() };
        let index = call.index.unwrap_or_else(|| seen.wire.iter().filter(|wire| wire.index != NO_CALL).count());
        seen.open_piece(Some(id.to_owned()), content, WirePiece { index, ..WirePiece::default() });
        seen.append(seen.wire.len() - 1, arguments);
        return Told::Content(ContentKind::ToolCall);
    };
    if let BegunPiece { content: BegunContent::ToolCall { call_id, name: known, .. }, id: piece_id, .. } = &mut seen.reply.pieces[at] {
        // Some say these later, and some again and again.
        if call_id.is_empty() && !id.is_empty() {
            id.clone_into(call_id);
            *piece_id = Some(id.to_owned());
        }
        if known.is_empty() {
            name.clone_into(known);
        }
    }
    seen.append(at, arguments)
}

/// Whether there is a count. An odd one is no reason to miss the rest of a chunk.
pub(super) fn count(seen: &mut Seen, usage: Option<&RawValue>) -> bool {
    let Some(told) = usage.and_then(|usage| serde_json::from_str::<Usage>(usage.get()).ok()) else { return false };
    let usage = &mut seen.reply.usage;
    usage.prompt_tokens = told.prompt_tokens;
    usage.completion_tokens = told.completion_tokens;
    usage.cached_tokens = told.prompt_tokens_details.as_ref().and_then(|details| details.cached_tokens).unwrap_or(0);
    usage.thinking_tokens = told.completion_tokens_details.as_ref().and_then(|details| details.reasoning_tokens).unwrap_or(0);
    seen.is_prompt_counted = true;
    true
}

/// A field that is there, even if it is `null`.
pub(super) fn is_there<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<&'a RawValue>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}
