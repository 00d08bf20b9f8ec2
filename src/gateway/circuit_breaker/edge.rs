//! The free question whether anybody is at home: a request without credentials, every few seconds while a breaker of the host is open.
//!
//! A real request that fails costs a person their patience; this one costs nobody anything, so it goes first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What came of `GET /v1/models` without a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EdgeAnswer {
    /// A refusal is an answer, too.
    Alive,
    /// 5xx.
    ServerError,
    /// No answer within its limit, or somebody else's: the login page of a network.
    Unreachable,
}

impl EdgeAnswer {
    pub fn of_status(status: u16) -> Self {
        match status {
            200..300 | 400..500 => Self::Alive,
            500.. => Self::ServerError,
            _ => Self::Unreachable,
        }
    }
}

#[derive(Debug, Default)]
pub struct Edges {
    hosts: BTreeMap<Arc<str>, Edge>,
}

#[derive(Debug, Default)]
struct Edge {
    next_question: Duration,
    last: Option<(EdgeAnswer, Duration)>,
}

impl Edges {
    /// Of `wanted`, the hosts that are to be asked now. All others are forgotten.
    pub fn due(&mut self, wanted: Vec<Arc<str>>, interval: Duration, now: Duration) -> Vec<Arc<str>> {
        self.hosts.retain(|host, _| wanted.contains(host));
        let mut due = Vec::new();
        for host in wanted {
            let edge = self.hosts.entry(host.clone()).or_default();
            // Also where the last question was never answered: whoever asks has its own limit.
            if now >= edge.next_question {
                edge.next_question = now + interval;
                due.push(host);
            }
        }
        due
    }

    /// Whether the host was away before and answers now. Hosts that nobody asks about are not kept.
    pub fn answered(&mut self, host: &str, answer: EdgeAnswer, now: Duration) -> bool {
        let Some(edge) = self.hosts.get_mut(host) else { return false };
        let before = edge.last.replace((answer, now));
        answer == EdgeAnswer::Alive && before.is_some_and(|(before, _)| before != EdgeAnswer::Alive)
    }

    pub fn last(&self, host: &str) -> Option<EdgeAnswer> {
        self.hosts.get(host).and_then(|edge| edge.last).map(|(answer, _)| answer)
    }

    /// Whether a real request is worth its try, where something opened at `opened`.
    pub fn lets_through(&self, host: &str, opened: Duration, trusted_for: Duration, now: Duration) -> bool {
        match self.hosts.get(host).and_then(|edge| edge.last) {
            Some((EdgeAnswer::Alive, at)) => at >= opened,
            // Some hosts have no such route and say it with a 500: after a long while the real request decides.
            Some((EdgeAnswer::ServerError, _)) => now >= opened + trusted_for,
            Some((EdgeAnswer::Unreachable, _)) | None => false,
        }
    }
}
