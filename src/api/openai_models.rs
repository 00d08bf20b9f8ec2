//! `GET /v1/models`: which model is loaded, as OpenAI's clients read it, with what they otherwise guess.

use serde_json::{Map, Value, json};

/// The loaded model, for those who ask.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelCard {
    /// The name replies carry.
    pub id: String,
    pub created_unix_s: i64,
    /// Prompt plus reply, in tokens.
    pub context_tokens_max: usize,
    /// More that is worth knowing (`architecture`, `size_bytes`, ...).
    pub meta: Map<String, Value>,
}

pub fn model(card: &ModelCard) -> Value {
    json!({
        "id": card.id,
        "object": "model",
        "created": card.created_unix_s,
        "owned_by": "understudy",
        // vLLM's name for it, which several clients read.
        "max_model_len": card.context_tokens_max,
        "meta": card.meta,
    })
}

pub fn list(cards: &[ModelCard]) -> Value {
    json!({"object": "list", "data": cards.iter().map(model).collect::<Vec<_>>()})
}
