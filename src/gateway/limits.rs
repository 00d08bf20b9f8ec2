//! Decides how long an upstream may take: to connect, to say its first word, to go on.
//!
//! Bytes are not progress: a dead upstream may go on to ping for ever. [`Progress`] follows one reply as a pure state machine.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

use super::fault::Fault;
use super::pace::{Floor, Pace};

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
    /// Of a whole reply whose body has begun to come: the client has seen nothing of it, so that somebody else may answer.
    pub whole_reply_floor: Floor,
    /// Of a text that the client has seen the beginning of. Slower is slower than anyone reads, and whoever can go on with it does.
    pub text_floor: Floor,
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
            whole_reply_floor: Floor { tokens_per_s: 2.0, window: Duration::from_secs(20) },
            text_floor: Floor { tokens_per_s: 1.0, window: Duration::from_secs(60) },
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
            whole_reply_floor: self.whole_reply_floor.scaled(divisor),
            text_floor: self.text_floor.scaled(divisor),
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
}

#[derive(Debug, Clone)]
enum Phase {
    Waiting {
        until: Duration,
    },
    Flowing {
        last_byte: Duration,
        last_content: Duration,
        kind: ContentKind,
        /// Of a text: thoughts are told in summaries, and arguments in one piece.
        pace: Option<Pace>,
    },
}

impl Progress {
    /// `first_content`: as [`Limits::first_content`] says.
    pub fn new(limits: Limits, first_content: Duration, now: Duration) -> Self {
        Self { limits, phase: Phase::Waiting { until: now + first_content } }
    }

    /// Anything at all. Before the first content it is no reason to wait longer.
    pub fn on_bytes(&mut self, now: Duration) {
        if let Phase::Flowing { last_byte, .. } = &mut self.phase {
            *last_byte = now;
        }
    }

    /// Text, a thought, a piece of a call, or the beginning of one. `tokens` may be a guess.
    pub fn on_content(&mut self, kind: ContentKind, tokens: f64, now: Duration) {
        let going_on = match self.phase {
            Phase::Flowing { kind: before, pace, .. } if before == kind => pace,
            Phase::Flowing { .. } | Phase::Waiting { .. } => None,
        };
        let mut pace = going_on.or_else(|| (kind == ContentKind::Text).then(|| Pace::new(self.limits.text_floor, now)));
        if let Some(pace) = &mut pace {
            pace.add(tokens, now);
        }
        self.phase = Phase::Flowing { last_byte: now, last_content: now, kind, pace };
    }

    /// The upstream is listened to again: what has passed since its last byte was the client's time.
    pub fn on_resumed(&mut self, now: Duration) {
        if let Phase::Flowing { last_byte, pace: Some(pace), .. } = &mut self.phase {
            pace.paused(now.saturating_sub(*last_byte));
        }
    }

    /// However slow it is, it is the best there is.
    pub fn put_up_with(&mut self) {
        self.limits.text_floor = Floor::NONE;
        if let Phase::Flowing { pace, .. } = &mut self.phase {
            *pace = None;
        }
    }

    pub fn has_content(&self) -> bool {
        matches!(self.phase, Phase::Flowing { .. })
    }

    /// The next time at which something is wrong if nothing comes, and what.
    pub fn next_deadline(&self) -> (Duration, Fault) {
        match self.phase {
            Phase::Waiting { until } => (until, Fault::FirstContentLimit),
            Phase::Flowing { last_byte, last_content, kind, pace } => {
                let silence = (last_byte + self.limits.byte_silence, Fault::ByteSilence);
                let progress = (last_content + self.limits.progress(kind), Fault::NoProgress);
                let too_slow = pace.and_then(|pace| pace.deadline()).map(|at| (at, Fault::TooSlow));
                let deadlines = [Some(silence), Some(progress), too_slow];
                deadlines.into_iter().flatten().min_by_key(|(at, _)| *at).expect("two of them are always there")
            }
        }
    }

    pub fn expired(&self, now: Duration) -> Option<Fault> {
        let (at, fault) = self.next_deadline();
        (now >= at).then_some(fault)
    }
}
