//! `POST /v1/messages/count_tokens`: a prompt is rendered and encoded as for an answer, and then only counted.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::generate::read_aside;
use super::status::check_model;
use super::{AppState, Phase, body};
use crate::api::anthropic_count_tokens::{parse, reply};
use crate::api::anthropic_messages::AnthropicMessages;
use crate::api::errors::{ApiError, prepare_error_of};

/// Asks nothing of the engine, so a full queue is no hindrance.
pub async fn count_tokens(State(state): State<AppState>, request: Request) -> Response {
    match counted(&state, request).await {
        Ok(tokens) => Json(reply(tokens)).into_response(),
        Err(error) => error.into_response(),
    }
}

async fn counted(state: &AppState, request: Request) -> Result<usize, ApiError> {
    let (parts, body) = request.into_parts();
    let body = body::read(&parts.headers, body, state.config(), state.bodies()).await?;
    if state.phase() != Phase::Serving {
        return Err(ApiError::draining());
    }
    read_aside(state, body, count).await
}

fn count(state: &AppState, body: &[u8]) -> Result<usize, ApiError> {
    let (request, model) = parse(body)?;
    let served = state.served()?;
    check_model(state, model.as_deref(), &served.card.id)?;
    let tokens = served.text.prompt_tokens(&request, state.now_unix_s());
    tokens.map_err(prepare_error_of::<AnthropicMessages>)
}
