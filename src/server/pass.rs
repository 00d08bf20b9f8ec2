//! Requests that are no conversations, where there are upstreams: asked up there first, and of the local model where that has an answer.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Uri, request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::edge::{OWN_KEY, shows_our_key};
use super::front_door::as_it_came;
use super::{AppState, body};
use crate::api::errors::{ApiError, ErrorKind};
use crate::config::gateway::Kind;
use crate::gateway::door::Gateway;
use crate::gateway::pass::Plain;

/// Around routes that the local model answers too.
pub async fn cloud_first(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let Some(gateway) = state.gateway().cloned().filter(|_| goes_up(&state, request.headers())) else { return next.run(request).await };
    let (parts, body) = request.into_parts();
    let body = match body::read(&parts.headers, body, state.config(), state.bodies()).await {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    match passed(&gateway, &parts, body.bytes.clone(), true).await {
        // What it cannot say now, the local model can.
        Some(response) if response.status().as_u16() < 500 => response,
        _ => next.run(Request::from_parts(parts, axum::body::Body::from(body.bytes))).await,
    }
}

/// For paths that are none of ours.
pub async fn unknown(State(state): State<AppState>, method: Method, uri: Uri, request: Request) -> Response {
    let is_api = uri.path().starts_with("/v1/");
    let Some(gateway) = state.gateway().cloned().filter(|_| is_api && goes_up(&state, request.headers())) else {
        return super::edge::not_found(method, uri).await;
    };
    let (parts, body) = request.into_parts();
    let body = match body::read(&parts.headers, body, state.config(), state.bodies()).await {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    let failed = || {
        let message = format!("no upstream answers {method} {}, and the local model has no such thing", uri.path());
        ApiError::new(ErrorKind::Unavailable, message).with_code("upstream_unavailable").with_retry_after_s(5).into_response()
    };
    passed(&gateway, &parts, body.bytes, false).await.unwrap_or_else(failed)
}

/// With a key that is ours, it is meant for this machine.
fn goes_up(state: &AppState, headers: &HeaderMap) -> bool {
    headers.contains_key(OWN_KEY) || !shows_our_key(state, headers)
}

async fn passed(gateway: &Gateway, parts: &request::Parts, body: Bytes, local: bool) -> Option<Response> {
    let speaks_anthropic = parts.uri.path().starts_with("/v1/messages") || parts.headers.contains_key("anthropic-version");
    let plain = Plain {
        kind: if speaks_anthropic { Kind::Anthropic } else { Kind::Openai },
        method: &parts.method,
        path_and_query: parts.uri.path_and_query().map_or("/", |path| path.as_str()),
        headers: &parts.headers,
        body,
        local,
    };
    gateway.pass(&plain).await.map(|(original, upstream)| as_it_came(original, &upstream))
}
