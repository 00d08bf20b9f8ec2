//! `POST /v1/messages/count_tokens`: how long the prompt of a request would be. The same reading as that of the request itself, so
//! that the two agree to the token.

use serde_json::{Value, json};

use super::anthropic_messages::read_request;
use super::errors::ApiError;
use super::fields::{Fields, parse_object};
use super::openai_shared::read_model;
use crate::chat::Request;

/// A request to count, and the model it names. It may hold anything that a request to answer may, and needs no `max_tokens`.
pub fn parse(body: &[u8]) -> Result<(Request, Option<String>), ApiError> {
    let body = parse_object(body)?;
    let fields = Fields::of_body(&body);
    Ok((read_request(&fields)?.0, read_model(&fields)?))
}

pub fn reply(tokens: usize) -> Value {
    json!({"input_tokens": tokens})
}
