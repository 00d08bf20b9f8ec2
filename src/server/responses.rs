//! `/v1/responses/...`: what can be done with a response by its id, and the length of a prompt. The responses themselves are made by
//! [`super::generate`].

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::status::check_model;
use super::{AppState, Phase, body};
use crate::api::Dialect;
use crate::api::errors::{ApiError, prepare_error};
use crate::api::memory::{Memory, Recall};
use crate::api::openai_responses::OpenAiResponses;
use crate::api::openai_responses::kept::{self, Page};

/// `GET`. One that runs says so and nothing of its output; its events are told once, to who asked for them.
pub async fn retrieve(State(state): State<AppState>, Path(id): Path<String>, Query(query): Query<Vec<(String, String)>>) -> Response {
    if query.iter().any(|(name, value)| name == "stream" && value != "false") {
        return ApiError::invalid("stream", "`stream` must be false: events of a response are not kept, only the response").into_response();
    }
    match state.replies().reply(&id) {
        Some(reply) => json_text(reply),
        None => kept::not_found(&id).into_response(),
    }
}

/// `DELETE`.
pub async fn delete(State(state): State<AppState>, Path(id): Path<String>) -> Response {
    if state.replies().delete(&id) { Json(kept::deleted(&id)).into_response() } else { kept::not_found(&id).into_response() }
}

/// `POST .../cancel`. Here any response that runs can be cancelled, not only one in the background; one that has ended stays as it is.
pub async fn cancel(State(state): State<AppState>, Path(id): Path<String>, request: Request) -> Response {
    body::discard(request.into_body()).await;
    let replies = state.replies();
    match replies.cancel(&id, |reply| kept::cancelled(reply).to_string()).or_else(|| replies.reply(&id)) {
        Some(reply) => json_text(reply),
        None => kept::not_found(&id).into_response(),
    }
}

/// `GET .../input_items`.
pub async fn input_items(State(state): State<AppState>, Path(id): Path<String>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let page = Page::read(&query).and_then(|page| match state.replies().recall(&id) {
        Recall::Kept(conversation) => page.of(&conversation),
        Recall::Running | Recall::Unknown => Err(kept::not_found(&id)),
    });
    page.map_or_else(IntoResponse::into_response, |page| Json(page).into_response())
}

/// `POST .../input_tokens`: the body of a response that is not wanted yet.
pub async fn input_tokens(State(state): State<AppState>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let counted = async {
        let body = body::read(&parts.headers, body, state.config(), state.bodies()).await?;
        if state.phase() != Phase::Serving {
            return Err(ApiError::draining());
        }
        super::generate::read_aside(&state, body, count).await
    };
    counted.await.map_or_else(IntoResponse::into_response, |tokens| Json(kept::input_tokens(tokens)).into_response())
}

fn count(state: &AppState, body: &[u8]) -> Result<usize, ApiError> {
    let call = OpenAiResponses::parse_with(body, state.replies())?;
    let served = state.served()?;
    check_model(state, call.model.as_deref(), &served.card.id)?;
    let tokens = served.text.prompt_tokens(&call.request, state.now_unix_s());
    tokens.map_err(|error| prepare_error(error, OpenAiResponses::PROMPT_FIELD))
}

/// What is JSON text already.
fn json_text(text: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], Body::from(text)).into_response()
}
