//! `GET /v1/models` for clients that say which version of Anthropic's API they know.

use serde_json::{Value, json};

use super::openai_models::ModelCard;
use crate::chat::template_helpers::strftime;

pub fn model(card: &ModelCard) -> Value {
    json!({
        "type": "model",
        "id": card.id,
        "display_name": card.id,
        "created_at": strftime("%FT%TZ", card.created_unix_s),
        "lifecycle": "active",
        "max_input_tokens": card.context_tokens_max,
        // A reply may take what the prompt leaves of the context.
        "max_tokens": card.context_tokens_max,
    })
}

/// All there are: `limit`, `after_id` and `before_id` have nothing to leave out.
pub fn list(cards: &[ModelCard]) -> Value {
    let id = |card: Option<&ModelCard>| card.map(|card| card.id.clone());
    json!({
        "data": cards.iter().map(model).collect::<Vec<_>>(),
        "has_more": false,
        "first_id": id(cards.first()),
        "last_id": id(cards.last()),
    })
}
