//! One line a request, written when its last byte is out or the client is gone. Numbers and names, never a word of a prompt.

use std::time::Instant;

use crate::api::errors::{ApiError, ErrorKind};
use crate::chat::Usage;

/// Collects what the line will say; dropping it writes the line.
#[derive(Debug)]
pub struct RequestLog {
    pub id: String,
    pub dialect: &'static str,
    pub stream: bool,
    pub outcome: Outcome,
    pub usage: Usage,
    started: Instant,
    pub first_token_at: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Until anything else is known: the connection went away first.
    ClientGone,
    Completed,
    /// Refused or failed. An error of the client's may quote the request, so its words are not kept; ours are.
    Error {
        status: u16,
        reason: String,
    },
}

impl Outcome {
    pub fn of(error: &ApiError) -> Self {
        let status = error.kind.status();
        let reason = match (error.kind, error.code, &error.param) {
            (ErrorKind::Internal, ..) => error.message.clone(),
            (_, Some(code), _) => code.to_owned(),
            (_, None, Some(param)) => format!("invalid {param}"),
            (kind, None, None) => format!("{kind:?}"),
        };
        Self::Error { status, reason }
    }
}

impl RequestLog {
    pub fn new(id: String, dialect: &'static str) -> Self {
        Self {
            id,
            dialect,
            stream: false,
            outcome: Outcome::ClientGone,
            usage: Usage::default(),
            started: Instant::now(),
            first_token_at: None,
        }
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        let total_ms = self.started.elapsed().as_millis() as u64;
        let (status, outcome) = match &self.outcome {
            Outcome::ClientGone => (499, "client gone"),
            Outcome::Completed => (200, "completed"),
            Outcome::Error { status, reason } => (*status, reason.as_str()),
        };
        let ttft_ms = self.first_token_at.map(|at| at.duration_since(self.started).as_millis() as u64);
        let Usage { prompt_tokens, cached_tokens, completion_tokens, .. } = self.usage;
        let (id, dialect, stream) = (self.id.as_str(), self.dialect, self.stream);
        if status >= 500 {
            tracing::warn!(id, dialect, stream, status, prompt_tokens, cached_tokens, completion_tokens, ttft_ms, total_ms, "{outcome}");
        } else {
            tracing::info!(id, dialect, stream, status, prompt_tokens, cached_tokens, completion_tokens, ttft_ms, total_ms, "{outcome}");
        }
    }
}
