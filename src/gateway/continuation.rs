//! Another cloud goes on where one broke off in the middle of its text: asked once, by a request that ends with what the client has, and
//! only where it is known to go on from there. Whatever is wrong before its first content leaves the reply to the local model.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::{Attempted, Original, Patience, Reads, attempt};
use super::circuit_breaker;
use super::door::{Asked, Client, Gateway, Tier, unix_s};
use super::fault::Fault;
use super::limits::Delivery;
use super::passage::Passage;
use super::protocol::Protocol;
use super::relayed::Relayed;
use super::sessions::{self, SessionKey, Spoken};
use super::up::{Up, spoken};

/// The rest of a reply, from its first content on.
#[derive(Debug)]
pub struct Continued {
    pub relayed: Box<Relayed>,
    /// What it speaks.
    pub protocol: Protocol,
}

impl Gateway {
    /// The next upstream behind `broken` that goes on with an assistant's words, says so in time, and has content. `asked.translate` writes
    /// the request to go on; `is_known`: whether a model does so, where the configuration does not say. `slow` is called at once: the local
    /// model gets ready beside it.
    pub async fn continued(
        &self,
        asked: &Asked<'_>,
        broken: &str,
        is_known: &(dyn Fn(Protocol, &str) -> bool + Sync),
        slow: &mut (dyn FnMut() + Send),
    ) -> Option<Continued> {
        let behind = self.0.tiers.iter().enumerate().skip_while(|(_, tier)| &*tier.name != broken).skip(1);
        let mut going_on = behind.filter(|(_, tier)| goes_on(tier, asked, is_known));
        let (tier, up, mut passage) = going_on.find_map(|(index, tier)| {
            let up = Up::anew(tier, asked)?;
            let target = up.target(tier, asked);
            // Nobody begins to find out in the middle of a sentence whether an upstream is well again.
            let permit = self.brain().breakers.permit(&target, circuit_breaker::Asked { human_turn: false }, self.now());
            let passage = permit.allows().then(|| Passage::begin(self, (index, tier), (target, permit.probe()), asked.about))?;
            Some((tier, up, passage))
        })?;
        let limit = self.patience_to_go_on(&passage, asked);
        let mut patience = Patience {
            first_content: limit,
            whole_reply: limit,
            whole_reply_floor: self.limits().whole_reply_floor,
            slow_at: asked.local.then(Instant::now),
            slow,
        };
        let reads = Reads { protocol: up.protocol, stream: true, now_unix_s: unix_s() };
        let (fault, retry_after, original) = match attempt(&tier.connections, up.request(&passage, asked), reads, &mut patience).await {
            Attempted::Stream(committed) => {
                // Ours is not what its clients end: nothing is asked again.
                let client = Client { aborts_are_retried: false, prompt_tokens_estimate: asked.about.rough_tokens };
                let relayed = Box::new(Relayed::new(self.clone(), passage, *committed, client));
                return Some(Continued { relayed, protocol: up.protocol });
            }
            Attempted::Failed { fault, retry_after, original } => (fault, retry_after, original),
            // It takes no such request: the client never hears of it, and it speaks against nobody.
            Attempted::Clients(original) | Attempted::ContextTooLong(original) => {
                tracing::info!(upstream = &*tier.name, status = original.status, "another cloud does not go on with a reply");
                passage.tell(circuit_breaker::Outcome::Neutral);
                return None;
            }
            Attempted::Whole { .. } => (Fault::NotTheApi, None, None),
        };
        passage.evidence = original.as_ref().map(Original::evidence).unwrap_or_default();
        passage.failed(fault, retry_after);
        None
    }

    /// As for a probe where the local model could go on instead: somebody sits before half a sentence.
    fn patience_to_go_on(&self, passage: &Passage, asked: &Asked<'_>) -> Duration {
        let now = self.now();
        let p95 = self.brain().latencies.quantile(&passage.latency, 0.95, now);
        let tokens = asked.about.rough_tokens as u64;
        match asked.local {
            true => self.limits().first_content_of_probe(Delivery::Stream, tokens, p95),
            false => self.limits().first_content(Delivery::Stream, tokens, p95),
        }
    }

    /// Somebody goes on with what an upstream began.
    pub fn taken_over(&self, session: SessionKey, handover: &Handover) {
        let Handover { upstream, fault, by } = handover;
        let place = |name: &str| self.0.tiers.iter().position(|tier| &*tier.name == name).unwrap_or(0);
        let ended = by.as_deref().map_or(self.local_tier(), |by| sessions::Tier(place(by)));
        let spoken = Spoken { began: sessions::Tier(place(upstream)), ended };
        let now = self.now();
        self.brain().sessions.spoke(session, spoken, now);
        if by.is_none() {
            self.0.takeovers.fetch_add(1, Ordering::Relaxed);
        }
        tracing::info!(%upstream, fault = fault.name(), by = by.as_deref().unwrap_or("local"), "somebody goes on with a reply that broke off");
    }
}

/// Who broke off, why, and who goes on.
#[derive(Debug, Clone)]
pub struct Handover {
    pub upstream: Arc<str>,
    pub fault: Fault,
    /// Another cloud; `None`: the local model, or nobody.
    pub by: Option<Arc<str>>,
}

/// Said so in the configuration, or known of its model.
fn goes_on(tier: &Tier, asked: &Asked<'_>, is_known: &(dyn Fn(Protocol, &str) -> bool + Sync)) -> bool {
    let (protocol, _) = spoken(&tier.config);
    let model = tier.config.model.as_deref().unwrap_or(&asked.about.model);
    tier.config.continues.unwrap_or_else(|| is_known(protocol, model))
}
