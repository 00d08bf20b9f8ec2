//! Requests that are no conversations, where there are upstreams: asked up there first, and of the local model where that has an answer.

use std::io;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use axum::http::{HeaderMap, Method, Uri, request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream::unfold;
use tokio::time::timeout;

use super::edge::{OWN_KEY, shows_our_key};
use super::front_door::{as_it_came, or_cut_off, relayed};
use super::relays::Relay;
use super::{AppState, body};
use crate::api::errors::{ApiError, ErrorKind};
use crate::config::gateway::Kind;
use crate::gateway::forwarding;
use crate::gateway::pass::{NotPassed, Passed, Passing, Plain, Upload};

/// A body up to this is held, so that it can go up once more on a new connection where a kept one turns out to be closed.
const HELD_BYTES_MAX: u64 = 1 << 20;

/// Around routes that the local model answers too.
pub async fn cloud_first(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let Some(gateway) = state.gateway().cloned().filter(|_| goes_up(&state, request.headers())) else { return next.run(request).await };
    let (parts, body) = request.into_parts();
    let body = match body::read(&parts.headers, body, state.config(), state.bodies()).await {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    match gateway.pass(&plain(&parts), body.bytes.clone()).await {
        // What it cannot say now, the local model can.
        Some((original, upstream)) if original.status < 500 => as_it_came(original, &upstream),
        _ => next.run(Request::from_parts(parts, Body::from(body.bytes))).await,
    }
}

/// For paths that are none of ours: up and down as it comes.
pub async fn unknown(State(state): State<AppState>, method: Method, uri: Uri, request: Request) -> Response {
    let is_api = uri.path().starts_with("/v1/");
    let Some(gateway) = state.gateway().cloned().filter(|_| is_api && goes_up(&state, request.headers())) else {
        return super::edge::not_found(method, uri).await;
    };
    let relay = state.relays().begin();
    let (parts, body) = request.into_parts();
    // Its share of the memory for bodies is given back with the reply's head.
    let (upload, _held) = match upload(&state, &parts.headers, body).await {
        Ok(upload) => upload,
        Err(error) => return error.into_response(),
    };
    let plain = plain(&parts);
    let Passed { status, headers, passing } = match or_cut_off(&state, gateway.pass_through(&plain, upload)).await {
        Some(Ok(passed)) => passed,
        Some(Err(NotPassed::ClientBrokeOff)) => {
            return ApiError::new(ErrorKind::Timeout, "the request's body stopped coming").into_response();
        }
        Some(Err(NotPassed::NobodyAnswers)) => {
            let message = format!("no upstream answers {method} {}, and the local model has no such thing", uri.path());
            return ApiError::new(ErrorKind::Unavailable, message).with_code("upstream_unavailable").with_retry_after_s(5).into_response();
        }
        None => return ApiError::draining().into_response(),
    };
    let upstream = passing.upstream().clone();
    relayed(status, forwarding::downwards(headers, true), down(state, passing, relay), &upstream)
}

/// With a key that is ours, it is meant for this machine.
fn goes_up(state: &AppState, headers: &HeaderMap) -> bool {
    headers.contains_key(OWN_KEY) || !shows_our_key(state, headers)
}

fn plain(parts: &request::Parts) -> Plain<'_> {
    let speaks_anthropic = parts.uri.path().starts_with("/v1/messages") || parts.headers.contains_key("anthropic-version");
    Plain {
        kind: if speaks_anthropic { Kind::Anthropic } else { Kind::Openai },
        method: &parts.method,
        path_and_query: parts.uri.path_and_query().map_or("/", |path| path.as_str()),
        headers: &parts.headers,
    }
}

async fn upload(state: &AppState, headers: &HeaderMap, body: Body) -> Result<(Upload, Option<body::HeldBody>), ApiError> {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let is_small = length.unwrap_or(0) <= HELD_BYTES_MAX && (length.is_some() || axum::body::HttpBody::is_end_stream(&body));
    if is_small && !headers.contains_key(CONTENT_ENCODING) {
        let held = body::read(headers, body, state.config(), state.bodies()).await?;
        return Ok((Upload::Held(held.bytes.clone()), Some(held)));
    }
    let pause_limit = state.config().body_pause_limit;
    let bytes = unfold(body.into_data_stream(), move |mut body| async move {
        let piece = match timeout(pause_limit, body.next()).await {
            Ok(piece) => piece?.map_err(io::Error::other),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        Some((piece, body))
    });
    Ok((Upload::Coming { bytes: bytes.boxed(), length }, None))
}

/// The reply's bytes as they come. One that breaks off is no whole reply, and the client sees it.
fn down(state: AppState, passing: Passing, relay: Relay) -> Body {
    Body::from_stream(unfold((state, passing, relay), |(state, mut passing, relay)| async move {
        let next = match or_cut_off(&state, passing.next()).await {
            Some(Ok(bytes)) => Ok(bytes?),
            Some(Err(fault)) => Err(io::Error::other(fault.name())),
            None => Err(io::Error::other("the server stops")),
        };
        Some((next, (state, passing, relay)))
    }))
}
