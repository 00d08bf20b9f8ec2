//! Who speaks, and who is to: `understudy status`, `understudy use`, status bars.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::AppState;
use crate::api::errors::{ApiError, ErrorKind};
use crate::gateway::status::{Status, Use};

#[derive(Deserialize)]
pub struct Change {
    #[serde(rename = "use")]
    mode: Use,
}

pub async fn status(State(state): State<AppState>) -> Response {
    Json(now(&state)).into_response()
}

/// Answers with the status that follows from it.
pub async fn set_use(State(state): State<AppState>, change: Result<Json<Change>, JsonRejection>) -> Response {
    let Ok(Json(Change { mode })) = change else {
        return ApiError::invalid("use", "`use` must be one of auto, cloud, local").into_response();
    };
    let Some(gateway) = state.gateway() else {
        let message = "this server has no upstreams: the local model answers everything";
        return ApiError::new(ErrorKind::InvalidRequest, message).with_code("no_upstreams").into_response();
    };
    gateway.set_use(mode);
    Json(now(&state)).into_response()
}

fn now(state: &AppState) -> Status {
    let local_model = state.served().ok().map(|served| served.card.id.clone());
    match state.gateway() {
        Some(gateway) => gateway.status(local_model.filter(|_| gateway.config().local)),
        None => Status { mode: Use::Auto, upstreams: Vec::new(), local_model, local_turns: 0, takeovers: 0 },
    }
}
