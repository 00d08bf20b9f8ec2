//! Who is there, and is it ready: health checks, the models list, the greeting.

use std::sync::LazyLock;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::edge::Asker;
use super::{AppState, Phase, load_headers};
use crate::api::errors::ApiError;
use crate::api::openai_models::ModelCard;
use crate::api::openapi;
use crate::api::{anthropic_models, openai_models};
use crate::engine::AdmissionError;

/// The document is the same for all who ask, and made for the first of them.
pub async fn openapi() -> Response {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| openapi::document(env!("CARGO_PKG_VERSION")).to_string());
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

/// The process answers. Nothing more is asked, so that a slow model never gets it killed.
pub async fn livez() -> &'static str {
    "ok\n"
}

#[derive(Deserialize)]
pub struct Readiness {
    /// Ready is who would give a short request its first token within so many milliseconds.
    max_wait_ms: Option<u64>,
}

/// A request sent now would be taken. Where keys are asked for, only who has one hears of the model.
pub async fn readyz(
    State(state): State<AppState>,
    Extension(asker): Extension<Asker>,
    query: Result<Query<Readiness>, QueryRejection>,
) -> Response {
    let Ok(Query(Readiness { max_wait_ms })) = query else {
        return ApiError::invalid("max_wait_ms", "max_wait_ms is not a number of milliseconds").into_response();
    };
    let ready = state.served().and_then(|served| match served.engine.room() {
        _ if state.phase() != Phase::Serving => Err(ApiError::draining()),
        Err(AdmissionError::Stopped) => Err(ApiError::engine_stopped()),
        // A full queue is no reason to be taken out of service: it tells each client when to come back.
        _ => match (served.engine.stats().first_token_in, max_wait_ms.map(Duration::from_millis)) {
            (Some(predicted), Some(max)) if predicted > max => Err(ApiError::too_long_to_wait(predicted, max)),
            _ => Ok(served),
        },
    });
    let mut response = match ready {
        Ok(_) if asker == Asker::Stranger => (StatusCode::OK, Json(json!({"status": "ok"}))).into_response(),
        Ok(served) => (StatusCode::OK, Json(json!({"status": "ok", "model": served.card.id}))).into_response(),
        Err(error) => error.into_response(),
    };
    load_headers::add(&state, response.headers_mut());
    response
}

pub async fn hello(State(state): State<AppState>, Extension(asker): Extension<Asker>) -> Response {
    let text = match state.served() {
        Ok(_) if asker == Asker::Stranger => "Understudy is here. Its API is at /v1 and asks for a key.\n".to_owned(),
        Ok(served) => format!("Understudy is here, with the model {}. Its API is at /v1.\n", served.card.id),
        Err(_) => "Understudy is here; its model is still loading.\n".to_owned(),
    };
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// In the shape of the API that the client speaks.
pub async fn models(State(state): State<AppState>, headers: HeaderMap) -> Response {
    let list: fn(&[ModelCard]) -> Value = if speaks_anthropic(&headers) { anthropic_models::list } else { openai_models::list };
    match state.served() {
        Ok(served) => Json(list(&served.cards().cloned().collect::<Vec<_>>())).into_response(),
        Err(error) => error.into_response(),
    }
}

/// Any name means the loaded model, unless names are strict; the reply tells its true one.
pub async fn model(State(state): State<AppState>, headers: HeaderMap, id: Result<Path<String>, PathRejection>) -> Response {
    let model: fn(&ModelCard) -> Value = if speaks_anthropic(&headers) { anthropic_models::model } else { openai_models::model };
    let Ok(Path(id)) = id else {
        return ApiError::invalid("model", "the model's name in the path is not UTF-8").into_response();
    };
    let found = state.served().and_then(|served| match served.cards().find(|card| card.id == id) {
        Some(card) => Ok(card),
        None => check_model(&state, Some(&id), &served.card.id).map(|()| &served.card),
    });
    match found {
        Ok(card) => Json(model(card)).into_response(),
        Err(error) => error.into_response(),
    }
}

fn speaks_anthropic(headers: &HeaderMap) -> bool {
    headers.contains_key("anthropic-version")
}

/// Errors: names are strict, and this is another one.
pub fn check_model(state: &AppState, asked: Option<&str>, served: &str) -> Result<(), ApiError> {
    match asked {
        Some(asked) if state.config().strict_model && asked != served => Err(ApiError::model_not_found(asked, served)),
        _ => Ok(()),
    }
}
