//! A request on its way through one upstream, and what it says of that upstream in the end.

use std::sync::Arc;
use std::time::Duration;

use super::asked::About;
use super::circuit_breaker::{Outcome, ProbeId, Target};
use super::door::{Gateway, Tier};
use super::fault::Fault;
use super::history::Author;
use super::journal::line::Evidence;
use super::latency::{LatencyKey, SizeBucket};
use super::tap::Seen;

/// A request on its way through one upstream. What became of it is told once; dropped before, it speaks against nobody.
#[derive(Debug)]
pub struct Passage {
    pub(super) gateway: Gateway,
    pub(super) tier: Arc<Tier>,
    /// Its place in the order.
    pub(super) index: usize,
    pub(super) target: Target,
    pub(super) probe: Option<ProbeId>,
    pub(super) latency: LatencyKey,
    pub(super) stream: bool,
    /// When this upstream was first asked.
    pub(super) began: Duration,
    pub(super) is_told: bool,
    /// What the upstream's last reply says of itself.
    pub(super) evidence: Evidence,
}

impl Passage {
    /// To an upstream at its place in the order, with the permit that the breakers gave for this target.
    pub(super) fn begin(
        gateway: &Gateway,
        (index, tier): (usize, &Arc<Tier>),
        (target, probe): (Target, Option<ProbeId>),
        about: &About,
    ) -> Self {
        let size = SizeBucket::of_tokens(about.rough_tokens as u64);
        Self {
            latency: LatencyKey { upstream: tier.name.clone(), model: target.model.clone(), size },
            gateway: gateway.clone(),
            tier: tier.clone(),
            index,
            target,
            probe,
            stream: about.stream,
            began: gateway.now(),
            is_told: false,
            evidence: Evidence::default(),
        }
    }

    pub fn upstream(&self) -> &Arc<str> {
        &self.tier.name
    }

    pub fn tier(&self) -> &Arc<Tier> {
        &self.tier
    }

    /// A stream that came to its end.
    pub fn streamed(&mut self, seen: Option<&Seen>) {
        self.succeeded(seen.into_iter().flat_map(Seen::signatures));
    }

    /// `signatures`: of what the upstream thought, so that it is known when it comes back.
    pub fn succeeded<'a>(&mut self, signatures: impl Iterator<Item = &'a str>) {
        self.tell(Outcome::Success { whole_stream: self.stream });
        let now = self.gateway.now();
        if let Some(credential) = self.target.credential {
            self.gateway.brain().auth.worked(credential, now);
        }
        let mut ledger = self.gateway.ledger();
        signatures.for_each(|signature| ledger.note(signature, Author::Upstream(self.index)));
    }

    pub fn failed(&mut self, fault: Fault, retry_after: Option<Duration>) {
        self.tell(Outcome::Failed { fault, retry_after });
    }

    pub(super) fn tell(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.is_told, true) {
            return;
        }
        let now = self.gateway.now();
        let mut brain = self.gateway.brain();
        brain.breakers.report(&self.target, self.probe, outcome, now);
        if matches!(outcome, Outcome::Failed { .. }) {
            brain.failed_at = Some(now);
        }
        drop(brain);
        let probe = self.probe.map(|_| now.saturating_sub(self.began));
        self.gateway.note_outcome(&self.tier, outcome, probe, std::mem::take(&mut self.evidence));
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.tell(Outcome::Abandoned);
    }
}
