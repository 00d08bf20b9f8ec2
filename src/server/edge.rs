//! What every request passes on its way in and every reply on its way out: an id, the Host and Origin checks, CORS, the key. Handlers
//! return errors as they are; here they are written in the shape that the client reads.

use std::panic::AssertUnwindSafe;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use super::request_id::RequestId;
use super::who_may_ask::{OriginVerdict, host_is_ours, judge_origin, presented_key};
use super::{AppState, body, load_headers};
use crate::api::errors::{ApiError, ErrorKind, ErrorShape};
use crate::gateway::local_token::LOCAL_TOKEN;

const REQUEST_ID: &str = "x-request-id";
/// Anthropic's name for it.
const REQUEST_ID_OF_ANTHROPIC: &str = "request-id";

/// Where a client shows our key when `Authorization` holds another's.
pub const OWN_KEY: &str = "x-understudy-key";

/// Who asks, as far as the key tells; handlers find it in the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// Has shown a key, or none is asked for.
    Known,
    /// Has not: may learn that the server is there and whether it is ready.
    Stranger,
}

/// The outermost layer.
pub async fn edge(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(text(request.headers(), REQUEST_ID));
    request.extensions_mut().insert(id.clone());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let shape = error_shape(&path, request.headers());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut allowed_origin = None;
    let mut response = match admit(&state, &request) {
        Ok(verdict) => {
            allowed_origin = origin.filter(|_| verdict == OriginVerdict::Allowed);
            if allowed_origin.is_some() && is_preflight(&request) {
                preflight(request.headers())
            } else {
                inner(&state, request, next).await
            }
        }
        Err(error) => refuse(request, error).await,
    };
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let said_inside = std::mem::take(response.headers_mut());
        response = written(&error, shape, &id.0);
        // Which methods a route takes, after a 405; how busy the server is.
        let kept = |name: &HeaderName| *name == header::ALLOW || load_headers::is_one(name);
        response.headers_mut().extend(said_inside.into_iter().filter(|(name, _)| name.as_ref().is_some_and(kept)));
    }
    if let Some(origin) = allowed_origin {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("x-request-id, request-id, retry-after, x-should-retry, x-understudy-served-by, x-understudy-reason"),
        );
    }
    tracing::debug!(id = id.0.as_str(), %method, path, status = response.status().as_u16(), "answered");
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        let headers = response.headers_mut();
        // An upstream's own is what its support asks for.
        if shape == ErrorShape::Anthropic && !headers.contains_key(REQUEST_ID_OF_ANTHROPIC) {
            headers.insert(REQUEST_ID_OF_ANTHROPIC, value.clone());
        }
        if !headers.contains_key(REQUEST_ID) {
            headers.insert(REQUEST_ID, value);
        }
    }
    response
}

/// Past Host and Origin: the key, then the handler. A handler that panics is our bug, and still answers.
async fn inner(state: &AppState, mut request: Request, next: Next) -> Response {
    match check_key(state, &request) {
        Ok(asker) => request.extensions_mut().insert(asker),
        Err(error) => return refuse(request, error).await,
    };
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => ApiError::new(ErrorKind::Internal, "the server failed to answer this request; its log says why").into_response(),
    }
}

fn admit(state: &AppState, request: &Request) -> Result<OriginVerdict, ApiError> {
    let headers = request.headers();
    let host = text(headers, header::HOST.as_str());
    // A request line may name a host too (`GET http://name/ HTTP/1.1`), and headers that are no text are nobody's name.
    let in_line = request.uri().authority().map(|authority| authority.as_str());
    let unreadable = headers.contains_key(header::HOST) && host.is_none();
    let ours = |host| host_is_ours(host, state.is_bound_to_loopback(), state.config());
    if unreadable || !ours(host) || !ours(in_line) {
        let message = "this server does not answer to that Host name; if it is yours, add it with --allow-host";
        return Err(ApiError::new(ErrorKind::Forbidden, message).with_code("host_not_allowed"));
    }
    let origin = headers.get(header::ORIGIN).map(|value| value.to_str().unwrap_or("null"));
    match judge_origin(origin, host, state.config()) {
        OriginVerdict::Refused => {
            let message = "pages of this web origin may not use this server; to allow them, add the origin to the CORS origins";
            Err(ApiError::new(ErrorKind::Forbidden, message).with_code("origin_not_allowed"))
        }
        verdict => Ok(verdict),
    }
}

fn check_key(state: &AppState, request: &Request) -> Result<Asker, ApiError> {
    let keys = &state.config().api_keys;
    if keys.is_empty() {
        return Ok(Asker::Known);
    }
    // Health checks carry no key, and the greeting is for everybody.
    let open = matches!(request.uri().path(), "/" | "/livez" | "/readyz" | "/health");
    let headers = request.headers();
    // Beside a credential that is meant for an upstream, ours has a header of its own.
    let ours = text(headers, OWN_KEY);
    match ours.or_else(|| presented_key(text(headers, header::AUTHORIZATION.as_str()), text(headers, "x-api-key"))) {
        Some(key) if keys.accept(key) => Ok(Asker::Known),
        _ if open => Ok(Asker::Stranger),
        Some(_) => Err(ApiError::new(ErrorKind::Unauthorized, "the API key is not valid").with_code("invalid_api_key")),
        None => {
            let message = "this server needs an API key: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`";
            Err(ApiError::new(ErrorKind::Unauthorized, message).with_code("missing_api_key"))
        }
    }
}

/// Whether the credential that a client shows is ours, and so nobody else's business.
pub fn shows_our_key(state: &AppState, headers: &HeaderMap) -> bool {
    let presented = presented_key(text(headers, header::AUTHORIZATION.as_str()), text(headers, "x-api-key"));
    presented.is_some_and(|key| key == LOCAL_TOKEN || state.config().api_keys.accept(key))
}

/// Answers without looking at the body, which is read all the same, so that the client gets to see the answer.
async fn refuse(request: Request, error: ApiError) -> Response {
    body::discard(request.into_body()).await;
    error.into_response()
}

fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn preflight(asked: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST, DELETE, OPTIONS"));
    let wanted = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let wanted = wanted.unwrap_or(HeaderValue::from_static("authorization, content-type, x-api-key"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    // A page on the public web that asks for a server on a private address (Private Network Access).
    if asked.contains_key("access-control-request-private-network") {
        headers.insert("access-control-allow-private-network", HeaderValue::from_static("true"));
    }
    response
}

pub async fn not_found(method: Method, uri: Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(ErrorKind::NotFound, format!("there is no {method} {path} here")).with_code("unknown_url").into_response()
}

pub async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let message = format!("{} does not take {method}", uri.path());
    ApiError::new(ErrorKind::MethodNotAllowed, message).with_code("method_not_allowed").into_response()
}

/// Carries the error to [`edge`], which writes it.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = status(&self).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Anthropic's clients speak to its paths, or say which version of its API they know.
fn error_shape(path: &str, headers: &HeaderMap) -> ErrorShape {
    let of_anthropic = path.starts_with("/v1/messages") || headers.contains_key("anthropic-version");
    if of_anthropic { ErrorShape::Anthropic } else { ErrorShape::OpenAi }
}

fn status(error: &ApiError) -> StatusCode {
    StatusCode::from_u16(error.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn written(error: &ApiError, shape: ErrorShape, request_id: &str) -> Response {
    let mut response = (status(error), Json(shape.body(error, request_id))).into_response();
    let headers = response.headers_mut();
    if let Some(seconds) = error.retry_after_s {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    // Both vendors' SDKs follow it against their own rules, which would try again after every 503.
    if error.kind == ErrorKind::Unavailable {
        let again = if error.retry_after_s.is_some() { "true" } else { "false" };
        headers.insert("x-should-retry", HeaderValue::from_static(again));
    }
    if error.kind == ErrorKind::Unauthorized {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
