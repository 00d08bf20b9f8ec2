//! One line a request, written when its last byte is out or the client is gone, and a span around all that is said meanwhile. Numbers and
//! names, never a word of a prompt.

use std::time::{Duration, Instant};

use tracing::Span;
use tracing::field::Empty;

use crate::api::errors::{ApiError, ErrorKind};
use crate::chat::Usage;
use crate::engine::meters::{SequenceClock, SequenceTimes};

/// Collects what the line will say; dropping it writes the line.
#[derive(Debug)]
pub struct RequestLog {
    pub id: String,
    pub dialect: &'static str,
    pub stream: bool,
    /// It was sent again, and heard what was running already.
    pub joined: bool,
    pub outcome: Outcome,
    pub usage: Usage,
    started: Instant,
    pub first_token_at: Option<Instant>,
    /// Of each choice: how long it waited and was computed.
    pub clocks: Vec<SequenceClock>,
    /// At level debug: the line at the end says the same, and is there always.
    pub span: Span,
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
        let span = tracing::debug_span!(
            parent: None,
            "request",
            id,
            dialect,
            queue_ms = Empty,
            prefill_ms = Empty,
            decode_ms = Empty,
            prompt_tokens = Empty,
            cached_tokens = Empty,
            completion_tokens = Empty
        );
        Self {
            id,
            dialect,
            stream: false,
            joined: false,
            outcome: Outcome::ClientGone,
            usage: Usage::default(),
            started: Instant::now(),
            first_token_at: None,
            clocks: Vec::new(),
            span,
        }
    }

    /// Writes the line behind whatever this task does next, for a reply in one piece that is to go out first: to format a line and to
    /// wake its thread takes as long as much of the relay.
    pub fn write_later(self) {
        // Dropped without having run, it writes the line all the same.
        tokio::spawn(async move { drop(self) });
    }

    /// The longest of each stretch: the choices of a request run at the same time.
    fn times(&self) -> SequenceTimes {
        self.clocks.iter().map(SequenceClock::times).fold(SequenceTimes::default(), |longest, times| SequenceTimes {
            queue: longest.queue.max(times.queue),
            prefill: longest.prefill.max(times.prefill),
            decode: longest.decode.max(times.decode),
        })
    }
}

fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        let total_ms = milliseconds(self.started.elapsed());
        let (status, outcome) = match &self.outcome {
            Outcome::ClientGone => (499, "client gone"),
            Outcome::Completed => (200, "completed"),
            Outcome::Error { status, reason } => (*status, reason.as_str()),
        };
        let ttft_ms = self.first_token_at.map(|at| milliseconds(at.duration_since(self.started)));
        let SequenceTimes { queue, prefill, decode } = self.times();
        let [queue_ms, prefill_ms, decode_ms] = [queue, prefill, decode].map(|stretch| stretch.map(milliseconds));
        let Usage { prompt_tokens, cached_tokens, completion_tokens, .. } = self.usage;
        let (id, dialect, stream, joined) = (self.id.as_str(), self.dialect, self.stream, self.joined);
        self.span.record("queue_ms", queue_ms).record("prefill_ms", prefill_ms).record("decode_ms", decode_ms);
        self.span.record("prompt_tokens", prompt_tokens).record("cached_tokens", cached_tokens);
        self.span.record("completion_tokens", completion_tokens);
        macro_rules! write_line {
            ($level:ident) => {
                tracing::$level!(
                    parent: None,
                    id,
                    dialect,
                    stream,
                    joined,
                    status,
                    prompt_tokens,
                    cached_tokens,
                    completion_tokens,
                    queue_ms,
                    prefill_ms,
                    decode_ms,
                    ttft_ms,
                    total_ms,
                    "{outcome}"
                )
            };
        }
        if status >= 500 {
            write_line!(warn);
        } else {
            write_line!(info);
        }
    }
}
