//! `/v1/responses/...`: what can be done with a response by its id, and the length of a prompt. The responses themselves are made by
//! [`super::generate`].

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::generate::read_aside;
use super::status::check_model;
use super::{AppState, Phase, body};
use crate::api::Dialect;
use crate::api::errors::{ApiError, prepare_error_of};
use crate::api::memory::{Memory, Recall};
use crate::api::openai_responses::OpenAiResponses;
use crate::api::openai_responses::kept::{self, Page};

/// `GET`. One that runs says so and nothing of its output; its events are told once, to who asked for them.
pub async fn retrieve(State(state): State<AppState>, id: IdInPath, query: QueryOfUrl) -> Result<Response, ApiError> {
    let (id, query) = (read_id(id)?, read_query(query)?);
    if query.iter().any(|(name, value)| name == "stream" && value != "false") {
        return Err(ApiError::invalid("stream", "`stream` must be false: events of a response are not kept, only the response"));
    }
    state.replies().reply(&id).map(json_text).ok_or_else(|| kept::not_found(&id))
}

/// `DELETE`.
pub async fn delete(State(state): State<AppState>, id: IdInPath) -> Result<Response, ApiError> {
    let id = read_id(id)?;
    if state.replies().delete(&id) { Ok(Json(kept::deleted(&id)).into_response()) } else { Err(kept::not_found(&id)) }
}

/// `POST .../cancel`. Here any response that runs can be cancelled, not only one in the background; one that has ended stays as it is.
pub async fn cancel(State(state): State<AppState>, id: IdInPath, request: Request) -> Result<Response, ApiError> {
    body::discard(request.into_body()).await;
    let (id, replies) = (read_id(id)?, state.replies());
    let cancelled = replies.cancel(&id, |reply| kept::cancelled(reply).to_string());
    cancelled.or_else(|| replies.reply(&id)).map(json_text).ok_or_else(|| kept::not_found(&id))
}

/// `GET .../input_items`.
pub async fn input_items(State(state): State<AppState>, id: IdInPath, query: QueryOfUrl) -> Result<Response, ApiError> {
    let (id, page) = (read_id(id)?, Page::read(&read_query(query)?)?);
    match state.replies().recall(&id) {
        Recall::Kept(conversation) => Ok(Json(page.of(&conversation)?).into_response()),
        Recall::Running | Recall::Unknown => Err(kept::not_found(&id)),
    }
}

/// `POST .../input_tokens`: the body of a response that is not wanted yet.
pub async fn input_tokens(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body = body::read(&parts.headers, body, state.config(), state.bodies()).await?;
    if state.phase() != Phase::Serving {
        return Err(ApiError::draining());
    }
    let tokens = read_aside(&state, body, count).await?;
    Ok(Json(kept::input_tokens(tokens)).into_response())
}

fn count(state: &AppState, body: &[u8]) -> Result<usize, ApiError> {
    let call = OpenAiResponses::parse_with(body, state.replies())?;
    let served = state.served()?;
    check_model(state, call.model.as_deref(), &served.card.id)?;
    let tokens = served.text.prompt_tokens(&call.request, state.now_unix_s());
    tokens.map_err(prepare_error_of::<OpenAiResponses>)
}

type IdInPath = Result<Path<String>, PathRejection>;
type QueryOfUrl = Result<Query<Vec<(String, String)>>, QueryRejection>;

fn read_id(id: IdInPath) -> Result<String, ApiError> {
    id.map(|Path(id)| id).map_err(|_| ApiError::invalid("id", "the response's id in the path is not UTF-8"))
}

fn read_query(query: QueryOfUrl) -> Result<Vec<(String, String)>, ApiError> {
    query.map(|Query(pairs)| pairs).map_err(|_| ApiError::invalid("query", "the query of the URL is not made of `name=value`"))
}

/// What is JSON text already.
fn json_text(text: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], Body::from(text)).into_response()
}
