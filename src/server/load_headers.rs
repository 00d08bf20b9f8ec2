//! How busy this server is, on each answer: what a balancer that reads headers needs to choose, without asking for it.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::AppState;

/// Requests that wait for a place.
pub const QUEUE_DEPTH: HeaderName = HeaderName::from_static("x-queue-depth");
/// Requests that would be computed at once if they came now.
pub const SLOTS_FREE: HeaderName = HeaderName::from_static("x-slots-free");
/// Milliseconds until a short request that came now had its first token, as predicted; absent before anything was measured.
pub const WAIT_MS: HeaderName = HeaderName::from_static("x-queue-wait-ms-est");

pub fn is_one(name: &HeaderName) -> bool {
    [QUEUE_DEPTH, SLOTS_FREE, WAIT_MS].contains(name)
}

/// Of the last step that the engine made. Nothing is said while the model loads.
pub fn add(state: &AppState, headers: &mut HeaderMap) {
    let Ok(served) = state.served() else { return };
    let stats = served.engine.stats();
    let slots_free = served.engine.config().sequences_max.saturating_sub(stats.running);
    headers.insert(QUEUE_DEPTH, HeaderValue::from(stats.waiting));
    headers.insert(SLOTS_FREE, HeaderValue::from(slots_free));
    if let Some(wait) = stats.first_token_in {
        headers.insert(WAIT_MS, HeaderValue::from(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)));
    }
}
