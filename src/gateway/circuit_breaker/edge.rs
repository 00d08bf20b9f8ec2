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

/// Where no request has come for so long, a host is asked less often: nobody waits for the answer.
const IDLE_AFTER: u32 = 120;
const IDLE_INTERVAL: u32 = 12;

#[derive(Debug, Default)]
pub struct Edges {
    hosts: BTreeMap<Arc<str>, Edge>,
}

#[derive(Debug)]
struct Edge {
    /// When a request last depended on the answer.
    wanted: Duration,
    asked: Option<Duration>,
    last: Option<(EdgeAnswer, Duration)>,
}

impl Edges {
    /// Of `wanted`, the hosts that are to be asked now: every `interval`, or every 12 where no request has come for 120 of them. All others
    /// are forgotten.
    pub fn due(&mut self, wanted: Vec<Arc<str>>, interval: Duration, now: Duration) -> Vec<Arc<str>> {
        self.hosts.retain(|host, _| wanted.contains(host));
        let mut due = Vec::new();
        for host in wanted {
            let edge = self.hosts.entry(host.clone()).or_insert(Edge { wanted: now, asked: None, last: None });
            let idle = now >= edge.wanted + interval * IDLE_AFTER;
            let pause = if idle { interval * IDLE_INTERVAL } else { interval };
            // Also where the last question was never answered: whoever asks has its own limit.
            if edge.asked.is_none_or(|asked| now >= asked + pause) {
                edge.asked = Some(now);
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
    pub fn lets_through(&mut self, host: &str, opened: Duration, trusted_for: Duration, now: Duration) -> bool {
        let Some(edge) = self.hosts.get_mut(host) else { return false };
        edge.wanted = now;
        match edge.last {
            Some((EdgeAnswer::Alive, at)) => at >= opened,
            // Some hosts have no such route and say it with a 500: after a long while the real request decides.
            Some((EdgeAnswer::ServerError, _)) => now >= opened + trusted_for,
            Some((EdgeAnswer::Unreachable, _)) | None => false,
        }
    }
}
