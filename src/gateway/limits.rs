//! Decides how long an upstream may take: to connect, to say its first word, to go on.
//!
//! Bytes are not progress: a dead upstream may go on to ping for ever. [`Progress`] follows one reply as a pure state machine.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

use super::fault::Fault;

#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    pub connect: Duration,
    /// Until the first content of a stream, with nothing in the prompt.
    pub first_content: Duration,
    /// More, for every 10,000 tokens of it.
    pub first_content_per_10k_tokens: Duration,
    /// Times what is usual for this upstream and size, where that is more.
    pub first_content_p95_factor: u32,
    pub first_content_max: Duration,
    /// For a request that finds out whether an upstream is well again: somebody waits for it beside a local model that could answer.
    pub probe_first_content: Duration,
    /// A whole reply has its first content with its last; for each token that it may have.
    pub whole_reply_per_token: Duration,
    pub whole_reply_max: Duration,
    /// After the first content: pings count, too.
    pub byte_silence: Duration,
    pub progress_text: Duration,
    /// Thinking is summarised, and arguments of tools are often sent in one piece.
    pub progress_thinking: Duration,
    pub progress_tool: Duration,
    /// Slower than this over `speed_window` is slower than anyone reads. Only until the client has seen anything.
    pub tokens_per_s_min: f64,
    pub speed_window: Duration,
    /// The local model does not begin to prefill before this, nor later than half the limit.
    pub prefill_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            first_content: Duration::from_secs(12),
            first_content_per_10k_tokens: Duration::from_secs(1),
            first_content_p95_factor: 3,
            first_content_max: Duration::from_secs(45),
            probe_first_content: Duration::from_secs(4),
            whole_reply_per_token: Duration::from_millis(100),
            whole_reply_max: Duration::from_secs(300),
            byte_silence: Duration::from_secs(15),
            progress_text: Duration::from_secs(45),
            progress_thinking: Duration::from_secs(120),
            progress_tool: Duration::from_secs(120),
            tokens_per_s_min: 2.0,
            speed_window: Duration::from_secs(20),
            prefill_after: Duration::from_secs(2),
        }
    }
}

/// How the reply was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    Stream,
    /// In one piece; with the most tokens it may have, where the request says so.
    Whole {
        tokens_max: Option<u64>,
    },
}

impl Limits {
    /// All times divided, the speed multiplied: for tests with sockets.
    pub fn scaled(self, divisor: u32) -> Self {
        Self {
            connect: self.connect / divisor,
            first_content: self.first_content / divisor,
            first_content_per_10k_tokens: self.first_content_per_10k_tokens / divisor,
            first_content_p95_factor: self.first_content_p95_factor,
            first_content_max: self.first_content_max / divisor,
            probe_first_content: self.probe_first_content / divisor,
            whole_reply_per_token: self.whole_reply_per_token / divisor,
            whole_reply_max: self.whole_reply_max / divisor,
            byte_silence: self.byte_silence / divisor,
            progress_text: self.progress_text / divisor,
            progress_thinking: self.progress_thinking / divisor,
            progress_tool: self.progress_tool / divisor,
            tokens_per_s_min: self.tokens_per_s_min * f64::from(divisor),
            speed_window: self.speed_window / divisor,
            prefill_after: self.prefill_after / divisor,
        }
    }

    /// From the request's beginning to the first content. `p95`: what is usual for this upstream and size of prompt.
    pub fn first_content(&self, delivery: Delivery, input_tokens: u64, p95: Option<Duration>) -> Duration {
        let prompt = self.first_content_per_10k_tokens.mul_f64(input_tokens as f64 / 10_000.0);
        let usual = p95.unwrap_or_default().saturating_mul(self.first_content_p95_factor);
        let stream = (self.first_content + prompt).max(usual);
        match delivery {
            Delivery::Stream => stream.min(self.first_content_max),
            Delivery::Whole { tokens_max: None } => self.whole_reply_max,
            Delivery::Whole { tokens_max: Some(tokens) } => {
                let reply = self.whole_reply_per_token.saturating_mul(u32::try_from(tokens).unwrap_or(u32::MAX));
                stream.saturating_add(reply).min(self.whole_reply_max)
            }
        }
    }

    /// The same of a probe: short, but never short of what was usual before the outage; where that is not known, as of any other request.
    pub fn first_content_of_probe(&self, delivery: Delivery, input_tokens: u64, p95: Option<Duration>) -> Duration {
        let limit = self.first_content(delivery, input_tokens, p95);
        match (delivery, p95) {
            (Delivery::Stream, Some(p95)) => limit.min(self.probe_first_content.max(p95 + p95 / 2)),
            _ => limit,
        }
    }

    /// When the local model begins to read the prompt, just in case; `limit` is that of the first content.
    pub fn prefill_start(&self, p75: Option<Duration>, limit: Duration) -> Duration {
        self.prefill_after.max(p75.unwrap_or_default()).min(limit / 2)
    }

    fn progress(&self, kind: ContentKind) -> Duration {
        match kind {
            ContentKind::Text => self.progress_text,
            ContentKind::Thinking => self.progress_thinking,
            ContentKind::Tool => self.progress_tool,
        }
    }
}

/// What the upstream is in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContentKind {
    Text,
    Thinking,
    /// Calls of the client's tools, and of the provider's own.
    Tool,
}

/// One reply, from the request's beginning to its end.
#[derive(Debug, Clone)]
pub struct Progress {
    limits: Limits,
    phase: Phase,
    /// The client has seen some of it: a slow reply is now better than two.
    committed: bool,
}

#[derive(Debug, Clone)]
enum Phase {
    Waiting { until: Duration },
    Flowing { last_byte: Duration, last_content: Duration, kind: ContentKind, speed: Speed },
}

/// Tokens within one stretch of `speed_window` after the other.
#[derive(Debug, Clone, Copy)]
struct Speed {
    from: Duration,
    tokens: f64,
}

impl Progress {
    /// `first_content`: as [`Limits::first_content`] says.
    pub fn new(limits: Limits, first_content: Duration, now: Duration) -> Self {
        Self { limits, phase: Phase::Waiting { until: now + first_content }, committed: false }
    }

    /// Anything at all. Before the first content it is no reason to wait longer.
    pub fn on_bytes(&mut self, now: Duration) {
        if let Phase::Flowing { last_byte, .. } = &mut self.phase {
            *last_byte = now;
        }
    }

    /// Text, a thought, a piece of a call, or the beginning of one. `tokens` may be a guess.
    pub fn on_content(&mut self, kind: ContentKind, tokens: f64, now: Duration) {
        let mut speed = match self.phase {
            Phase::Waiting { .. } => Speed { from: now, tokens: 0.0 },
            Phase::Flowing { speed, .. } => speed,
        };
        // A stretch that had enough is over; one that had not is noticed at its deadline.
        while self.is_fast_enough(speed) && now >= speed.from + self.limits.speed_window {
            speed = Speed { from: speed.from + self.limits.speed_window, tokens: 0.0 };
        }
        speed.tokens += tokens;
        self.phase = Phase::Flowing { last_byte: now, last_content: now, kind, speed };
    }

    /// From now on the client sees it.
    pub fn on_commit(&mut self) {
        self.committed = true;
    }

    pub fn has_content(&self) -> bool {
        matches!(self.phase, Phase::Flowing { .. })
    }

    /// The next time at which something is wrong if nothing comes, and what.
    pub fn next_deadline(&self) -> (Duration, Fault) {
        match self.phase {
            Phase::Waiting { until } => (until, Fault::FirstContentLimit),
            Phase::Flowing { last_byte, last_content, kind, speed } => {
                let silence = (last_byte + self.limits.byte_silence, Fault::ByteSilence);
                let progress = (last_content + self.limits.progress(kind), Fault::NoProgress);
                // A stretch that had enough makes the next one the question.
                let stretches = if self.is_fast_enough(speed) { 2 } else { 1 };
                let too_slow = (speed.from + self.limits.speed_window * stretches, Fault::TooSlow);
                let deadlines = [Some(silence), Some(progress), (!self.committed).then_some(too_slow)];
                deadlines.into_iter().flatten().min_by_key(|(at, _)| *at).expect("two of them are always there")
            }
        }
    }

    pub fn expired(&self, now: Duration) -> Option<Fault> {
        let (at, fault) = self.next_deadline();
        (now >= at).then_some(fault)
    }

    fn is_fast_enough(&self, speed: Speed) -> bool {
        speed.tokens >= self.limits.tokens_per_s_min * self.limits.speed_window.as_secs_f64()
    }
}
