//! Decides whether a request may go to an upstream: circuit breakers for the host, for the model of the upstream, and for the credential.
//!
//! The narrowest thing that a fault speaks against is avoided: a spent quota does not keep another key away, and an overloaded model no other
//! model; a dead host keeps everything away. A request passes only where all three let it, and where one is half-open it is that one's probe.
//!
//! Pure: time is an argument, and the jitter comes from a generator with a seed. Sees no request, no reply and no credential: only names,
//! and what became of them.
#![deny(clippy::disallowed_methods)]

mod breaker;
mod edge;
mod window;

use std::sync::Arc;
use std::time::Duration;

use super::fault::{Fault, Scope};
use super::lru::Lru;
pub use super::status::Use;
use breaker::{Breaker, Door, Evidence, Gate, Moment, Probe, State};
pub use edge::EdgeAnswer;
use edge::Edges;

#[derive(Debug, Clone, PartialEq)]
pub struct BreakerConfig {
    /// So many failures one after the other open. A first-content limit is a failure like another; a rate limit is not.
    pub failures_in_a_row: u32,
    /// As does this share of failures among at least so many requests within the window.
    pub window: Duration,
    pub window_requests_min: u32,
    pub window_failure_share: f64,
    /// After the first opening; doubles with each that follows.
    pub cooldown_first: Duration,
    /// Where a failed probe makes somebody wait: silences in the middle, cuts, replies that are not streamed and do not come.
    pub cooldown_max: Duration,
    /// Where a failed probe costs nothing, or the few seconds that a stream may wait for its first content: people are back sooner. With its
    /// jitter and those seconds below 30 s.
    pub cooldown_max_cheap: Duration,
    /// Of the cooldown, up or down.
    pub jitter_share: f64,
    /// Longer ones are not believed.
    pub retry_after_max: Duration,
    pub quota_reset_max: Duration,
    /// A `Retry-After` beyond this opens by itself. What is shorter, the request waits out.
    pub retry_after_sat_out: Duration,
    /// A probe that has not reported by then is as good as lost. Longer than any reply usually takes.
    pub probe_deadline: Duration,
    pub successes_to_close: u32,
    /// `None`: hosts are not asked, and a cooldown alone decides.
    pub edge_probe_interval: Option<Duration>,
    /// For so long a host that answers 5xx to the free question is believed to answer the same to real ones.
    pub edge_errors_trusted: Duration,
    /// Hosts, models and credentials together; the least recently used is forgotten.
    pub scopes_max: usize,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures_in_a_row: 2,
            window: Duration::from_secs(60),
            window_requests_min: 5,
            window_failure_share: 0.5,
            cooldown_first: Duration::from_secs(5),
            cooldown_max: Duration::from_secs(60),
            cooldown_max_cheap: Duration::from_secs(22),
            jitter_share: 0.1,
            retry_after_max: Duration::from_secs(600),
            quota_reset_max: Duration::from_secs(24 * 3600),
            retry_after_sat_out: Duration::from_secs(3),
            probe_deadline: Duration::from_secs(300),
            successes_to_close: 2,
            edge_probe_interval: Some(Duration::from_secs(5)),
            edge_errors_trusted: Duration::from_secs(90 * 60),
            scopes_max: 1024,
        }
    }
}

impl BreakerConfig {
    /// All times divided: for tests with sockets.
    pub fn scaled(self, divisor: u32) -> Self {
        Self {
            window: self.window / divisor,
            cooldown_first: self.cooldown_first / divisor,
            cooldown_max: self.cooldown_max / divisor,
            cooldown_max_cheap: self.cooldown_max_cheap / divisor,
            retry_after_max: self.retry_after_max / divisor,
            quota_reset_max: self.quota_reset_max / divisor,
            retry_after_sat_out: self.retry_after_sat_out / divisor,
            probe_deadline: self.probe_deadline / divisor,
            edge_probe_interval: self.edge_probe_interval.map(|interval| interval / divisor),
            edge_errors_trusted: self.edge_errors_trusted / divisor,
            ..self
        }
    }

    fn cooldown(&self, fault: Fault, openings: u32) -> Duration {
        let max = if is_cheap(fault) { self.cooldown_max_cheap } else { self.cooldown_max };
        // Nothing of a quota comes back within seconds.
        let first = if fault == Fault::QuotaSpent { max } else { self.cooldown_first };
        first.saturating_mul(1 << openings.min(16)).min(max)
    }

    fn believed(&self, fault: Fault, retry_after: Option<Duration>) -> Option<Duration> {
        let max = if fault == Fault::QuotaSpent { self.quota_reset_max } else { self.retry_after_max };
        retry_after.map(|after| after.min(max))
    }
}

/// Whether a probe that fails so keeps nobody waiting for long.
fn is_cheap(fault: Fault) -> bool {
    use Fault::*;
    !matches!(fault, WholeReplyLimit | TooSlow | ByteSilence | NoProgress | Cut | Malformed | TooLarge)
}

/// A credential as it is known here: a hash under a key of this process alone, so that nothing leads back to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CredentialId(pub u64);

/// Where a request would go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Scheme, name and port: what a connection is made to.
    pub host: Arc<str>,
    /// Its name in the configuration.
    pub upstream: Arc<str>,
    pub model: Arc<str>,
    pub credential: Option<CredentialId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ScopeKey {
    Host(Arc<str>),
    Model { upstream: Arc<str>, model: Arc<str> },
    Credential(CredentialId),
}

impl ScopeKey {
    pub fn scope(&self) -> Scope {
        match self {
            Self::Host(_) => Scope::Host,
            Self::Model { .. } => Scope::Model,
            Self::Credential(_) => Scope::Credential,
        }
    }
}

impl Target {
    fn keys(&self) -> impl Iterator<Item = ScopeKey> + use<> {
        let model = ScopeKey::Model { upstream: self.upstream.clone(), model: self.model.clone() };
        [Some(ScopeKey::Host(self.host.clone())), Some(model), self.credential.map(ScopeKey::Credential)].into_iter().flatten()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Whether the conversation may change its speaker with this turn. Only such a turn begins to probe.
    pub human_turn: bool,
}

/// The probe of one or more half-open breakers; reported with what became of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProbeId(u64);

/// The answer to one request, for all attempts that it makes at this upstream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Permit {
    Closed,
    Probe(ProbeId),
    Open {
        scope: Scope,
        fault: Fault,
        /// End of the cooldown; `None`: it waits for a sign of life, for a human turn, or for the probe before it.
        until: Option<Duration>,
    },
    /// Somebody said `local`.
    ToldLocal,
}

impl Permit {
    pub fn probe(self) -> Option<ProbeId> {
        if let Self::Probe(id) = self { Some(id) } else { None }
    }

    pub fn allows(self) -> bool {
        matches!(self, Self::Closed | Self::Probe(_))
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    Success {
        /// It came to its end, streamed or not.
        whole_stream: bool,
    },
    Failed {
        fault: Fault,
        retry_after: Option<Duration>,
    },
    /// The client left before there was anything to judge.
    Abandoned,
    /// The client's own mistake, or a refusal: the upstream did its work.
    Neutral,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

/// A line of a status page.
#[derive(Debug, Clone, PartialEq)]
pub struct ScopeStatus {
    pub key: ScopeKey,
    pub state: BreakerState,
    /// When it left `Closed`.
    pub since: Option<Duration>,
    pub fault: Option<Fault>,
    /// Zero: it waits for a sign of life or for a human turn.
    pub cooldown_left: Option<Duration>,
    /// A request is under way that decides.
    pub probing: bool,
    /// The last answer to the free question.
    pub edge: Option<EdgeAnswer>,
}

#[derive(Debug)]
pub struct Breakers {
    config: BreakerConfig,
    scopes: Lru<ScopeKey, Scoped>,
    edges: Edges,
    used: Use,
    probes: u64,
    jitter: Jitter,
}

#[derive(Debug)]
struct Scoped {
    host: Arc<str>,
    breaker: Breaker,
}

impl Breakers {
    pub fn new(config: BreakerConfig, seed: u64) -> Self {
        let scopes = Lru::new(config.scopes_max);
        Self { config, scopes, edges: Edges::default(), used: Use::Auto, probes: 0, jitter: Jitter(seed) }
    }

    /// Asked once a request and upstream, not once an attempt.
    #[must_use]
    pub fn permit(&mut self, target: &Target, asked: Asked, now: Duration) -> Permit {
        if self.used == Use::Local {
            return Permit::ToldLocal;
        }
        let mut probed = Vec::new();
        for key in target.keys() {
            let Some(scoped) = self.scopes.get_mut(&key) else { continue };
            let edge_alive = match (&scoped.breaker.state, self.config.edge_probe_interval) {
                (State::Open(opened) | State::HalfOpen { opened, .. }, Some(_)) if key.scope() != Scope::Credential => {
                    self.edges.lets_through(&target.host, opened.at, self.config.edge_errors_trusted, now)
                }
                _ => true,
            };
            let gate = Gate { edge_alive, may_return: asked.human_turn, forced: self.used == Use::Cloud };
            match scoped.breaker.door(gate, now) {
                Door::Pass => {}
                Door::Probe => probed.push(key),
                Door::Shut { fault, until } => return Permit::Open { scope: key.scope(), fault, until },
            }
        }
        if probed.is_empty() {
            return Permit::Closed;
        }
        self.probes += 1;
        let probe = Probe { id: ProbeId(self.probes), deadline: now + self.config.probe_deadline };
        for key in &probed {
            self.scopes.get_mut(key).expect("looked at above").breaker.begin_probe(probe);
        }
        Permit::Probe(probe.id)
    }

    /// An attempt that failed and is made again at the same upstream under the same permit: it counts in the window, and decides nothing.
    pub fn retried(&mut self, target: &Target, fault: Fault, now: Duration) {
        self.hear(target, None, now, |scope| if scope == fault.scope() { Evidence::Soft { fault } } else { Evidence::Nothing });
    }

    /// What became of a request that had a permit, once a permit.
    pub fn report(&mut self, target: &Target, probe: Option<ProbeId>, outcome: Outcome, now: Duration) {
        let believed = |fault, retry_after| self.config.believed(fault, retry_after);
        let outcome = match outcome {
            Outcome::Failed { fault, retry_after } => Outcome::Failed { fault, retry_after: believed(fault, retry_after) },
            other => other,
        };
        let sat_out = self.config.retry_after_sat_out;
        self.hear(target, probe, now, |scope| evidence(outcome, scope, sat_out));
    }

    /// Hosts that are to be asked now whether they are alive, without a credential; the answer goes to [`Self::edge_probe_result`].
    /// Called every second or so, it names a host every `edge_probe_interval` while a breaker of it is not closed.
    pub fn edge_probes_due(&mut self, now: Duration) -> Vec<Arc<str>> {
        let Some(interval) = self.config.edge_probe_interval else { return Vec::new() };
        let not_closed = self.scopes.iter().filter(|(key, scoped)| {
            // Whether a credential is good again, the edge does not know.
            key.scope() != Scope::Credential && scoped.breaker.state != State::Closed
        });
        let mut wanted: Vec<Arc<str>> = not_closed.map(|(_, scoped)| scoped.host.clone()).collect();
        wanted.sort();
        wanted.dedup();
        self.edges.due(wanted, interval, now)
    }

    pub fn edge_probe_result(&mut self, host: &str, answer: EdgeAnswer, now: Duration) {
        if !self.edges.answered(host, answer, now) {
            return;
        }
        let of_host = self.scopes.iter_mut().filter(|(key, scoped)| key.scope() != Scope::Credential && &*scoped.host == host);
        of_host.for_each(|(_, scoped)| scoped.breaker.edge_came_back(now));
    }

    /// The last answer of a host, while one of its breakers is not closed.
    pub fn edge(&self, host: &str) -> Option<EdgeAnswer> {
        self.edges.last(host)
    }

    pub fn set_use(&mut self, used: Use) {
        self.used = used;
    }

    pub fn used(&self) -> Use {
        self.used
    }

    /// In the order of the keys.
    pub fn status(&self, now: Duration) -> Vec<ScopeStatus> {
        let mut lines: Vec<ScopeStatus> = self.scopes.iter().map(|(key, scoped)| self.status_of(key, scoped, now)).collect();
        lines.sort_by(|one, other| one.key.cmp(&other.key));
        lines
    }

    fn status_of(&self, key: &ScopeKey, scoped: &Scoped, now: Duration) -> ScopeStatus {
        let (state, opened, probe) = match scoped.breaker.state {
            State::Closed => (BreakerState::Closed, None, None),
            State::Open(opened) => (BreakerState::Open, Some(opened), None),
            State::HalfOpen { opened, probe, .. } => (BreakerState::HalfOpen, Some(opened), probe),
        };
        ScopeStatus {
            key: key.clone(),
            state,
            since: opened.map(|opened| opened.since),
            fault: opened.map(|opened| opened.fault),
            cooldown_left: opened.map(|opened| opened.until.saturating_sub(now)),
            probing: probe.is_some_and(|probe| now < probe.deadline),
            edge: self.edges.last(&scoped.host).filter(|_| key.scope() != Scope::Credential),
        }
    }

    fn hear(&mut self, target: &Target, probe: Option<ProbeId>, now: Duration, evidence: impl Fn(Scope) -> Evidence) {
        for key in target.keys() {
            let evidence = evidence(key.scope());
            let jitter = 1.0 + self.config.jitter_share * self.jitter.next();
            let moment = Moment { now, config: &self.config, jitter };
            let new = || Scoped { host: target.host.clone(), breaker: Breaker::new(&self.config) };
            self.scopes.get_or_insert_with(&key, new).breaker.hear(evidence, probe, moment);
        }
    }
}

/// What an outcome says about a scope.
fn evidence(outcome: Outcome, scope: Scope, sat_out: Duration) -> Evidence {
    let (fault, retry_after) = match outcome {
        Outcome::Success { whole_stream } => return Evidence::Success { whole_stream: whole_stream || scope == Scope::Host },
        Outcome::Failed { fault, retry_after } => (fault, retry_after),
        Outcome::Abandoned | Outcome::Neutral => return Evidence::Nothing,
    };
    let is_rate_limit = fault == Fault::RateLimited;
    match scope {
        _ if scope == fault.scope() && is_rate_limit && retry_after.is_none_or(|after| after <= sat_out) => Evidence::Soft { fault },
        _ if scope == fault.scope() => Evidence::Failure { fault, retry_after },
        // Whoever says that a model is overloaded, or a quota spent, is there.
        Scope::Host => Evidence::Success { whole_stream: true },
        // A model that was away and now has no room is not back.
        Scope::Model if matches!(fault, Fault::RateLimited | Fault::QuotaSpent) => Evidence::ProbeFailure { fault, retry_after: None },
        Scope::Model | Scope::Credential => Evidence::Nothing,
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough to keep clients from asking again all at once.
#[derive(Debug)]
struct Jitter(u64);

impl Jitter {
    /// In -1..1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}
