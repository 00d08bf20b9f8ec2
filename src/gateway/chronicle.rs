//! What the front door tells its journal: outcomes, outages, switches, takeovers, returns. Nothing here waits, and nothing depends on it.

use std::sync::Arc;
use std::time::Duration;

use super::circuit_breaker::{BreakerState, EdgeAnswer, Outcome, ScopeKey};
use super::continuation::Handover;
use super::door::{Gateway, LocalTurn, Tier};
use super::fault::Fault;
use super::journal::line::{Event, Evidence, Outcome as Counted, ProbeKind};
use super::reason::Reason;
use super::sessions::{self, Switch};

impl Gateway {
    /// After what became of a request was told to the breakers. `probe`: it was one, and took so long.
    pub(super) fn note_outcome(&self, tier: &Tier, outcome: Outcome, probe: Option<Duration>, evidence: Evidence) {
        let journal = &self.0.journal;
        let counted = match outcome {
            Outcome::Success { .. } => Some(Counted::Good),
            Outcome::Failed { .. } => Some(Counted::Bad),
            Outcome::Neutral => Some(Counted::Clients),
            Outcome::Abandoned => None,
        };
        if let Some(counted) = counted {
            journal.count(&tier.name, counted);
        }
        if let (Some(took), Some(counted)) = (probe, counted) {
            let (well, took_ms) = (counted == Counted::Good, took.as_millis() as u64);
            journal.note(Event::Probe { upstream: tier.name.to_string(), kind: ProbeKind::Request, well, took_ms });
        }
        let fault = if let Outcome::Failed { fault, .. } = outcome { Some(fault) } else { None };
        self.note_outage(tier, fault, evidence);
    }

    /// Notes that an upstream is not asked any more, or is asked again.
    fn note_outage(&self, tier: &Tier, fault: Option<Fault>, evidence: Evidence) {
        let now = self.now();
        let mut brain = self.brain();
        let was_down = brain.down.contains(&tier.name);
        // Success of one that is well is the usual case, and costs nothing.
        if fault.is_none() && !was_down {
            return;
        }
        let is_down = brain.breakers.status(now).iter().any(|scope| {
            let concerns = match &scope.key {
                ScopeKey::Host(host) => *host == tier.host,
                ScopeKey::Model { upstream, .. } => *upstream == tier.name,
                ScopeKey::Credential(_) => false,
            };
            concerns && scope.state != BreakerState::Closed
        });
        let upstream = tier.name.to_string();
        match (was_down, is_down) {
            (false, true) => {
                brain.down.insert(tier.name.clone());
                let reason = fault.map_or("unknown", Fault::name).to_owned();
                tracing::warn!(upstream, reason, "an upstream is not asked any more");
                self.0.journal.note(Event::OutageBegin { upstream, reason, evidence });
            }
            (true, false) => {
                brain.down.remove(&tier.name);
                tracing::info!(upstream, "an upstream is asked again");
                self.0.journal.note(Event::OutageEnd { upstream });
            }
            _ => {}
        }
    }

    pub(super) fn note_edge(&self, tier: &Tier, answer: EdgeAnswer, took: Duration) {
        let event = Event::Probe {
            upstream: tier.name.to_string(),
            kind: ProbeKind::Edge,
            well: answer == EdgeAnswer::Alive,
            took_ms: took.as_millis() as u64,
        };
        self.0.journal.note(event);
    }

    /// After a reply whose speaker is another than the conversation's last. Towards the local model it is told with its first word.
    pub(super) fn note_return(&self, switch: Switch) {
        if let Switch::Back { to, .. } = switch {
            self.0.journal.note(Event::Return { upstream: self.name_of(to).to_string() });
        }
    }

    /// The local model has said its first word in the place of `upstream` (the first one, where it is nobody's fault), so long after the
    /// fault was there. `is_switch`: for the first time in a row in this conversation.
    pub fn note_local_turn(&self, turn: &LocalTurn, model: &str, after: Duration) {
        let LocalTurn { reason, ref upstream, is_switch } = *turn;
        let Some(upstream) = upstream.as_ref().or(self.0.tiers.first().map(|first| &first.name)) else { return };
        if matches!(reason, Reason::Failed(_) | Reason::Resting(_)) {
            self.0.journal.count(upstream, Counted::Saved);
        }
        if !is_switch {
            return;
        }
        self.0.journal.note(Event::Switch {
            from: upstream.to_string(),
            to: model.to_owned(),
            reason: reason.name().to_owned(),
            after_ms: Some(after.as_millis() as u64),
            evidence: Evidence::default(),
        });
    }

    /// A reply broke off, and somebody went on so long after it, or nobody could.
    pub fn note_takeover(&self, handover: &Handover, after: Option<Duration>) {
        let Handover { upstream, fault, by } = handover;
        if after.is_some() {
            self.0.journal.count(upstream, Counted::Saved);
        }
        self.0.journal.note(Event::Takeover {
            upstream: upstream.to_string(),
            reason: fault.name().to_owned(),
            by: by.as_ref().map(|by| by.to_string()),
            saved: after.is_some(),
            after_ms: after.map(|after| after.as_millis() as u64),
            evidence: Evidence::default(),
        });
    }

    fn name_of(&self, tier: sessions::Tier) -> Arc<str> {
        self.0.tiers.get(tier.0).map_or_else(|| "local".into(), |tier| tier.name.clone())
    }
}
