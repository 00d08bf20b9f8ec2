//! Completions of plain text: chunks with more of it.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::openai_chat;
use super::seen::{Obstacle, Seen, WirePiece};
use super::text::{Text, str_of};
use super::{Told, error_event};
use crate::chat::begun::BegunContent;

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
    #[serde(borrow, default, deserialize_with = "openai_chat::is_there")]
    usage: Option<Option<&'a RawValue>>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: usize,
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
    #[serde(borrow, default)]
    finish_reason: Option<Text<'a>>,
}

pub(super) fn read(seen: &mut Seen, text: &str) -> serde_json::Result<Told> {
    let chunk: Chunk<'_> = serde_json::from_str(text)?;
    if let Some(error) = chunk.error {
        return Ok(error_event::told(error));
    }
    openai_chat::head(seen, &chunk.id, &chunk.model, chunk.created);
    seen.has_usage_field |= chunk.usage.is_some();
    let counted = openai_chat::count(seen, chunk.usage.flatten());
    let mut told = if counted { seen.lead_in() } else { seen.nothing_new() };
    for choice in &chunk.choices {
        if choice.index > 0 {
            seen.hinder(Obstacle::SeveralChoices);
        }
        if !str_of(&choice.text).is_empty() {
            if seen.reply.pieces.is_empty() {
                seen.open_piece(None, BegunContent::Text(String::new()), WirePiece::default());
            }
            told = openai_chat::louder(told, seen.append(0, str_of(&choice.text)));
        }
        if let Some(reason) = &choice.finish_reason {
            openai_chat::finish(seen, reason.as_str());
            told = openai_chat::louder(told, Told::Progress);
        }
    }
    // Some count along with every chunk; only what is told after the end is the whole.
    seen.is_reply_counted |= counted && seen.finish.is_some();
    Ok(told)
}
