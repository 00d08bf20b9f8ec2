//! The state of the front door in words for people.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::circuit_breaker::{BreakerState, ScopeKey};
use super::door::{Gateway, Tier};
use super::status::{State, Status, UpstreamStatus, Use};

impl Gateway {
    pub fn status(&self, local_model: Option<String>) -> Status {
        let now = self.now();
        let brain = self.brain();
        let scopes = brain.breakers.status(now);
        let of = |tier: &Arc<Tier>| {
            // The worst of what is known of it: its host, its models, credentials at it are not its fault.
            let concerns = |key: &ScopeKey| match key {
                ScopeKey::Host(host) => *host == tier.host,
                ScopeKey::Model { upstream, .. } => *upstream == tier.name,
                ScopeKey::Credential(_) => false,
            };
            let rank = |state: BreakerState| match state {
                BreakerState::Open => 2,
                BreakerState::HalfOpen => 1,
                BreakerState::Closed => 0,
            };
            let worst = scopes.iter().filter(|scope| concerns(&scope.key)).max_by_key(|scope| rank(scope.state));
            let worst = worst.filter(|scope| scope.state != BreakerState::Closed);
            UpstreamStatus {
                name: tier.name.to_string(),
                state: match worst.map(|scope| scope.state) {
                    Some(BreakerState::Open) => State::Down,
                    Some(BreakerState::HalfOpen) => State::Trying,
                    Some(BreakerState::Closed) | None => State::Well,
                },
                for_s: now.saturating_sub(worst.and_then(|scope| scope.since).unwrap_or_default()).as_secs(),
                fault: worst.and_then(|scope| scope.fault).map(|fault| fault.name().to_owned()),
                next_try_in_s: worst.and_then(|scope| scope.cooldown_left).map(|left| left.as_secs()),
            }
        };
        Status {
            mode: brain.breakers.used(),
            upstreams: self.0.tiers.iter().map(of).collect(),
            local_model,
            local_turns: self.0.local_turns.load(Ordering::Relaxed),
            takeovers: self.0.takeovers.load(Ordering::Relaxed),
        }
    }

    pub fn set_use(&self, mode: Use) {
        self.brain().breakers.set_use(mode);
    }
}
