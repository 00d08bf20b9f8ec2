//! What is asked and said of responses that were given before.

use std::sync::Arc;

use serde_json::{Value, json};

use super::request::{exchange_items, short};
use super::stream::Status;
use crate::api::errors::{ApiError, ErrorKind};
use crate::api::fields::quoted;
use crate::api::memory::Exchange;

/// `GET /v1/responses/{id}/input_items`: which of the items to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub limit: usize,
    pub newest_first: bool,
    /// The id of the item before the first.
    pub after: Option<String>,
}

impl Page {
    /// OpenAI's bounds.
    const LIMIT_MAX: usize = 100;
    const LIMIT: usize = 20;

    /// From the query of a URL, taken apart.
    pub fn read(query: &[(String, String)]) -> Result<Self, ApiError> {
        let mut page = Self { limit: Self::LIMIT, newest_first: true, after: None };
        for (name, value) in query {
            match name.as_str() {
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=Self::LIMIT_MAX).contains(limit));
                    let problem = || format!("`limit` must be between 1 and {}, not {}", Self::LIMIT_MAX, quoted(value));
                    page.limit = limit.ok_or_else(|| ApiError::invalid("limit", problem()))?;
                }
                "order" => {
                    page.newest_first = match value.as_str() {
                        "asc" => false,
                        "desc" => true,
                        other => {
                            let problem = format!("`order` must be asc or desc, not {}", quoted(other));
                            return Err(ApiError::invalid("order", problem));
                        }
                    };
                }
                "after" => page.after = Some(value.clone()),
                _ => {}
            }
        }
        Ok(page)
    }

    /// The page of a response's input: the items of the responses it goes on from, and then its own.
    pub fn of(&self, conversation: &[Arc<Exchange>]) -> Result<Value, ApiError> {
        let (last, earlier) = conversation.split_last().expect("a conversation has an exchange");
        let mut items: Vec<Value> = earlier.iter().flat_map(|exchange| exchange_items(exchange)).collect();
        items.extend(last.input());
        if self.newest_first {
            items.reverse();
        }
        let start = match &self.after {
            None => 0,
            Some(after) => match items.iter().position(|item| item["id"] == after.as_str()) {
                Some(index) => index + 1,
                None => return Err(ApiError::invalid("after", format!("`after` names no item of this response: {}", quoted(after)))),
            },
        };
        let rest = &items[start..];
        let data = &rest[..rest.len().min(self.limit)];
        let id = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
        Ok(json!({
            "object": "list",
            "data": data,
            "first_id": id(data.first()),
            "last_id": id(data.last()),
            "has_more": rest.len() > data.len(),
        }))
    }
}

/// `DELETE /v1/responses/{id}`.
pub fn deleted(id: &str) -> Value {
    json!({"id": id, "object": "response", "deleted": true})
}

/// A response that was told to stop, as it is told before it has stopped.
pub fn cancelled(reply: &str) -> Value {
    let mut reply: Value = serde_json::from_str(reply).expect("what is kept was written by us");
    reply["status"] = Status::Cancelled.word().into();
    reply
}

/// No response of this id is kept.
pub fn not_found(id: &str) -> ApiError {
    let message = format!("Response with id '{}' not found.", short(id));
    ApiError { param: Some("id".to_owned()), ..ApiError::new(ErrorKind::NotFound, message) }
}

/// `POST /v1/responses/input_tokens`.
pub fn input_tokens(tokens: usize) -> Value {
    json!({"object": "response.input_tokens", "input_tokens": tokens})
}
