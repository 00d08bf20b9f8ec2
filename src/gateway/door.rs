//! The front door itself: which upstream is asked, how often, and when the local model answers instead. The decisions are in the pure
//! parts; here they are asked in their order, under one lock that is never held across a wait.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::asked::About;
use super::attempt::{Attempted, Original, Patience, Reads, attempt};
use super::auth_outage::AuthHistory;
use super::circuit_breaker::{self, Breakers, EdgeAnswer, Outcome, Permit};
use super::duty::Duty;
use super::fault::Fault;
use super::forwarding;
use super::history::{self, Departure, Ledger, UnknownThinking};
use super::journal::Journal;
use super::latency::Latencies;
use super::limits::{Delivery, Limits};
use super::passage::Passage;
use super::power;
use super::protocol::Protocol;
use super::reason::Reason;
use super::relayed::Relayed;
use super::retry::{Failure, Next, RetryBudget, RetryPolicy};
use super::rules::Rules;
use super::sessions::{self, SessionKey, Sessions, Spoken, Switch, Turn};
use super::status::Use;
use super::takeover::{TakeoverConfig, aborts_are_retried};
use super::up::Up;
use super::upstream::{Origin, Upstream};
use crate::config::gateway::{self as config, AuthOutage, Credential, Scheme};

/// How long an upstream that failed is not trusted to be well.
const DEGRADED_FOR: Duration = Duration::from_secs(600);
/// Thoughts whose authors are remembered: more than the conversations of a day have.
const LEDGER_MAX: usize = 65_536;
/// How soon a client asks again whose connection ended.
const ASKS_AGAIN_WITHIN: Duration = Duration::from_secs(60);
/// Of the time, for reading along.
const SHADOW_SHARE: f64 = 0.1;
const SHADOW_SAVED_MAX: Duration = Duration::from_secs(60);

/// The front door; clones share it.
#[derive(Debug, Clone)]
pub struct Gateway(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    config: config::Gateway,
    limits: Limits,
    retry: RetryPolicy,
    pub(super) tiers: Vec<Arc<Tier>>,
    brain: Mutex<Brain>,
    /// Beside the rest, because long conversations are looked through with it in hand.
    ledger: Mutex<Ledger>,
    pub(super) journal: Journal,
    started: Instant,
    notice: OnceLock<String>,
    pub(super) local_turns: AtomicU64,
    pub(super) takeovers: AtomicU64,
}

/// An upstream and the way to it.
#[derive(Debug)]
pub struct Tier {
    pub config: config::Upstream,
    pub connections: Upstream,
    pub(super) name: Arc<str>,
    pub(super) host: Arc<str>,
}

/// What is remembered between requests.
#[derive(Debug)]
pub(super) struct Brain {
    pub(super) breakers: Breakers,
    pub(super) latencies: Latencies,
    pub(super) sessions: Sessions,
    budget: RetryBudget,
    pub(super) auth: AuthHistory,
    duty: Duty,
    /// Who reads along.
    shadow: Option<AbortHandle>,
    /// When an upstream last failed.
    pub(super) failed_at: Option<Duration>,
    /// Upstreams whose outage the journal knows of.
    pub(super) down: BTreeSet<Arc<str>>,
    /// Conversations whose clients are about to ask again, why, and until when that is believed.
    aborted: Vec<(SessionKey, Fault, Duration)>,
    random: u64,
}

/// A request that may go up.
pub struct Asked<'a> {
    pub protocol: Protocol,
    pub method: Method,
    pub path_and_query: &'a str,
    pub headers: &'a HeaderMap,
    pub body: Bytes,
    pub about: &'a About,
    pub session: SessionKey,
    /// A person speaks, and no tool has just answered.
    pub human_turn: bool,
    /// A local model could answer.
    pub local: bool,
    /// The body in another protocol, for an upstream that speaks only that; `None`: it cannot be said there.
    pub translate: &'a (dyn Fn(Wanted<'_>) -> Option<Bytes> + Sync),
}

/// How a request is to be written anew.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub protocol: Protocol,
    pub model: &'a str,
    /// With marks for the prompt cache, where the protocol has them.
    pub cache_marks: bool,
}

/// Who answers.
#[derive(Debug)]
pub enum Answer {
    /// The upstream, as it speaks. `translated`: in another protocol than was asked.
    Stream { status: u16, headers: HeaderMap, relayed: Box<Relayed>, translated: Option<Protocol> },
    /// The upstream, in one piece: its reply, or what it says against the request.
    Whole { original: Original, upstream: Arc<str>, translated: Option<Protocol> },
    /// Nobody up there.
    Local(Away),
    /// It may not be relayed: a setting forbids it.
    LoginNotRelayed { upstream: Arc<str> },
}

/// Nobody up there answers.
#[derive(Debug)]
pub struct Away {
    pub reason: Reason,
    /// Whose fault that is, where it is somebody's.
    pub upstream: Option<Arc<str>>,
    /// What the last of them said, for when the local model cannot answer either.
    pub instead: Option<Said>,
}

impl Away {
    fn because(reason: Reason) -> Self {
        Self { reason, upstream: None, instead: None }
    }
}

/// A turn of the local model in an upstream's place.
#[derive(Debug)]
pub struct LocalTurn {
    pub reason: Reason,
    pub upstream: Option<Arc<str>>,
    /// Somebody else spoke before.
    pub is_switch: bool,
}

/// What an upstream says in place of a reply.
#[derive(Debug)]
pub struct Said {
    pub original: Original,
    pub upstream: Arc<str>,
    /// In another protocol than was asked.
    pub translated: Option<Protocol>,
}

impl Gateway {
    pub fn new(config: config::Gateway, rules: Rules, journal: Journal, seed: u64) -> Self {
        let Rules { limits, retry, breakers, sessions, latencies } = rules;
        let tiers = config.upstreams.iter().map(|upstream| Arc::new(Tier::new(upstream, limits.connect))).collect();
        let brain = Brain {
            breakers: Breakers::new(breakers, seed),
            latencies: Latencies::new(latencies),
            sessions: Sessions::new(sessions),
            budget: RetryBudget::default(),
            auth: AuthHistory::default(),
            duty: Duty::new(SHADOW_SHARE, SHADOW_SAVED_MAX),
            shadow: None,
            failed_at: None,
            down: BTreeSet::new(),
            aborted: Vec::new(),
            random: seed,
        };
        Self(Arc::new(Shared {
            config,
            limits,
            retry,
            tiers,
            brain: Mutex::new(brain),
            ledger: Mutex::new(Ledger::new(LEDGER_MAX)),
            journal,
            started: Instant::now(),
            notice: OnceLock::new(),
            local_turns: AtomicU64::new(0),
            takeovers: AtomicU64::new(0),
        }))
    }

    pub fn config(&self) -> &config::Gateway {
        &self.0.config
    }

    pub fn journal(&self) -> &Journal {
        &self.0.journal
    }

    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Since the start: the clock of all decisions.
    pub fn now(&self) -> Duration {
        self.0.started.elapsed()
    }

    pub(super) fn instant(&self, at: Duration) -> Instant {
        self.0.started + at
    }

    pub(super) fn brain(&self) -> MutexGuard<'_, Brain> {
        self.0.brain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the upstreams in their order. `slow` is called once, when it is time for the local model to read the prompt.
    pub async fn ask(&self, asked: &Asked<'_>, slow: &mut (dyn FnMut() + Send)) -> Answer {
        let began = Instant::now();
        let mut away = Away::because(Reason::NoUpstream);
        let mut is_prepared = false;
        let mut slow = || {
            if !std::mem::replace(&mut is_prepared, true) {
                slow();
            }
        };
        self.brain().budget.deposit(self.now());
        // Nobody up there is asked, so nothing about their logins is either.
        if self.brain().breakers.used() == Use::Local {
            return Answer::Local(Away::because(Reason::Told));
        }
        let decision = self.brain().sessions.decide(asked.session, Turn { human: asked.human_turn }, self.now());
        let may_return = decision.may_return;
        // Broken off in its thoughts a moment ago, and asked for again: whoever broke off is not asked a second time.
        if let Some(fault) = self.take_aborted(asked.session).filter(|_| asked.local) {
            return Answer::Local(Away::because(Reason::Failed(fault)));
        }
        // Whom the conversation left a moment ago is not asked, unless there is nobody after them.
        let first = if asked.local || decision.first.0 < self.0.tiers.len() { decision.first.0 } else { 0 };
        if first == self.0.tiers.len() {
            away.reason = Reason::Stays;
        }
        for (index, tier) in self.0.tiers.iter().enumerate().skip(self.told_cloud().map_or(first, |()| 0)) {
            let Some(up) = Up::of(tier, asked) else { continue };
            if tier.config.key == Credential::OfClient
                && !tier.config.subscription_login
                && forwarding::is_subscription_login(asked.headers)
            {
                return Answer::LoginNotRelayed { upstream: tier.name.clone() };
            }
            let target = up.target(tier, asked);
            let asks = circuit_breaker::Asked { human_turn: may_return };
            let permit = self.brain().breakers.permit(&target, asks, self.now());
            match permit {
                Permit::Closed | Permit::Probe(_) => {}
                Permit::Open { fault, .. } => {
                    // What just failed before the eyes of this request says more than what is resting.
                    if !matches!(away.reason, Reason::Failed(_)) {
                        (away.reason, away.upstream) = (Reason::Resting(fault), Some(tier.name.clone()));
                    }
                    continue;
                }
                Permit::ToldLocal => return Answer::Local(Away { reason: Reason::Told, upstream: None, ..away }),
            }
            let mut passage = Passage::begin(self, (index, tier), (target, permit.probe()), asked.about);
            match self.through(&mut passage, &up, asked, began, &mut slow).await {
                Through::Stream(mut committed) => {
                    let headers = forwarding::downwards(std::mem::take(&mut committed.headers), false);
                    let status = committed.status;
                    self.spoke(asked.session, sessions::Tier(index));
                    let user_agent = asked.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
                    let client =
                        Client { aborts_are_retried: aborts_are_retried(user_agent), prompt_tokens_estimate: asked.about.rough_tokens };
                    let relayed = Box::new(Relayed::new(self.clone(), passage, *committed, client));
                    return Answer::Stream { status, headers, relayed, translated: up.translated };
                }
                Through::Whole(original) => {
                    self.spoke(asked.session, sessions::Tier(index));
                    return Answer::Whole { original, upstream: tier.name.clone(), translated: up.translated };
                }
                Through::Failed { reason: failed, original } => {
                    (away.reason, away.upstream) = (failed, Some(tier.name.clone()));
                    let said = original.map(|original| Said { original, upstream: tier.name.clone(), translated: up.translated });
                    away.instead = said.or(away.instead);
                }
            }
        }
        Answer::Local(away)
    }

    /// The connection was ended on purpose, so that the client asks again.
    pub fn aborted(&self, session: SessionKey, fault: Fault) {
        let until = self.now() + ASKS_AGAIN_WITHIN;
        self.brain().aborted.retain(|(_, _, other)| *other + ASKS_AGAIN_WITHIN > until);
        self.brain().aborted.push((session, fault, until));
    }

    fn take_aborted(&self, session: SessionKey) -> Option<Fault> {
        let now = self.now();
        let mut brain = self.brain();
        let at = brain.aborted.iter().position(|(aborted, _, until)| *aborted == session && now < *until)?;
        Some(brain.aborted.swap_remove(at).1)
    }

    fn told_cloud(&self) -> Option<()> {
        (self.brain().breakers.used() == Use::Cloud).then_some(())
    }

    fn spoke(&self, session: SessionKey, tier: sessions::Tier) -> Switch {
        let now = self.now();
        let switch = self.brain().sessions.spoke(session, Spoken { began: tier, ended: tier }, now);
        self.note_return(switch);
        switch
    }

    pub(super) fn local_tier(&self) -> sessions::Tier {
        sessions::Tier(self.0.tiers.len())
    }

    /// One upstream, until it answers or is given up.
    async fn through(&self, passage: &mut Passage, up: &Up, asked: &Asked<'_>, began: Instant, slow: &mut (dyn FnMut() + Send)) -> Through {
        let started = Instant::now();
        let (limit, slow_after) = self.patience(passage, asked);
        for attempts in 1.. {
            let request = up.request(passage, asked);
            let spent = started.elapsed();
            let mut patience = Patience {
                first_content: limit.saturating_sub(spent),
                whole_reply: limit.saturating_sub(spent),
                whole_reply_floor: self.0.limits.whole_reply_floor,
                slow_at: asked.local.then_some(began + slow_after),
                slow: &mut *slow,
            };
            let reads = Reads { protocol: up.protocol, stream: asked.about.stream, now_unix_s: unix_s() };
            let (fault, retry_after, original) = match attempt(&passage.tier.connections, request, reads, &mut patience).await {
                Attempted::Stream(committed) => {
                    let now = self.now();
                    self.brain().latencies.record(&passage.latency, committed.first_content_after, now);
                    return Through::Stream(committed);
                }
                Attempted::Whole { original, whole } => {
                    passage.succeeded(whole.iter().flat_map(|whole| &whole.signatures).map(String::as_str));
                    return Through::Whole(original);
                }
                Attempted::Clients(original) if self.is_auth_outage(passage, original.status) => {
                    (Fault::Unauthorised(original.status), None, Some(original))
                }
                Attempted::Clients(original) => {
                    passage.tell(Outcome::Neutral);
                    return Through::Whole(original);
                }
                Attempted::ContextTooLong(original) => {
                    passage.tell(Outcome::Neutral);
                    return Through::Failed { reason: Reason::ContextTooLong, original: Some(original) };
                }
                Attempted::Failed { fault, retry_after, original } => (fault, retry_after, original),
            };
            passage.evidence = original.as_ref().map(Original::evidence).unwrap_or_default();
            let forbidden = original.as_ref().is_some_and(Original::forbids_retries);
            let failure = Failure { fault, retry_after, forbidden, attempts, elapsed: started.elapsed() };
            let now = self.now();
            let next = {
                let mut brain = self.brain();
                let random = brain.random();
                let policy = &self.0.retry;
                policy.next(failure, random, &mut brain.budget, now)
            };
            match next {
                Next::SameUpstream { after } => {
                    self.brain().breakers.retried(&passage.target, fault, now);
                    patience.pass(after).await;
                }
                Next::NextTier => {
                    passage.failed(fault, retry_after);
                    return Through::Failed { reason: Reason::Failed(fault), original };
                }
            }
        }
        unreachable!("the retry policy ends the loop")
    }

    /// How long the first content may take, and when the local model begins to read.
    fn patience(&self, passage: &Passage, asked: &Asked<'_>) -> (Duration, Duration) {
        let now = self.now();
        let mut brain = self.brain();
        let p95 = brain.latencies.quantile(&passage.latency, 0.95, now);
        let p75 = brain.latencies.quantile(&passage.latency, 0.75, now);
        let delivery = if asked.about.stream { Delivery::Stream } else { Delivery::Whole { tokens_max: asked.about.tokens_max } };
        let (limits, tokens) = (&self.0.limits, asked.about.rough_tokens as u64);
        match passage.probe {
            None => {
                let limit = limits.first_content(delivery, tokens, p95);
                (limit, limits.prefill_start(p75, limit))
            }
            // It is likelier than not to fail: the local model gets ready beside it.
            Some(_) => (limits.first_content_of_probe(delivery, tokens, p95), Duration::ZERO),
        }
    }

    fn is_auth_outage(&self, passage: &Passage, status: u16) -> bool {
        let now = self.now();
        let Some(credential) = passage.target.credential.filter(|_| matches!(status, 401 | 403)) else { return false };
        let mut brain = self.brain();
        let edge = brain.breakers.edge(&passage.tier.host);
        brain.auth.is_outage(credential, edge, now) && self.0.config.auth_outage == AuthOutage::Local
    }

    /// After a sleep or a change of network, connections that were kept lead nowhere.
    pub fn forget_connections(&self) {
        self.0.tiers.iter().for_each(|tier| tier.connections.forget_connections());
    }

    /// Upstreams to be asked now whether they are there.
    pub(super) fn edge_probes_due(&self) -> Vec<Arc<Tier>> {
        let now = self.now();
        let hosts = self.brain().breakers.edge_probes_due(now);
        hosts.iter().filter_map(|host| self.0.tiers.iter().find(|tier| tier.host == *host)).cloned().collect()
    }

    pub(super) fn edge_probe_result(&self, tier: &Tier, answer: EdgeAnswer, took: Duration) {
        self.note_edge(tier, answer, took);
        let now = self.now();
        self.brain().breakers.edge_probe_result(&tier.host, answer, now);
    }

    /// What the local model thought and announced is not for the cloud. All other bytes stay as they are.
    pub(super) fn without_local_words(&self, protocol: Protocol, body: &Bytes, upstream: usize) -> Bytes {
        let ledger = self.ledger();
        let notice = self.0.notice.get().map(String::as_str);
        let departure = Departure { protocol, upstream, ledger: &ledger, notice, unknown: UnknownThinking::Keep };
        match history::prepare(body, &departure).body {
            Cow::Borrowed(_) => body.clone(),
            Cow::Owned(changed) => Bytes::from(changed),
        }
    }

    /// The line that opens the first local text after a switch, once the local model is known; `None`: none does.
    /// Taken once a switch, and only for a text that may carry it.
    pub fn take_notice(&self, session: SessionKey, model: &str) -> Option<String> {
        self.notice(model).filter(|_| self.brain().sessions.take_notice(session)).map(str::to_owned)
    }

    fn notice(&self, model: &str) -> Option<&str> {
        let line = self.0.notice.get_or_init(|| self.0.config.notice.replace("{model}", model));
        Some(line.as_str()).filter(|line| !line.is_empty())
    }

    pub(super) fn takeover_config(&self) -> TakeoverConfig {
        TakeoverConfig { text: self.0.config.takeover, tool_calls: self.0.config.takeover }
    }

    /// The local model answers this request.
    pub fn local_turn(&self, session: SessionKey, reason: Reason, upstream: Option<Arc<str>>) -> LocalTurn {
        self.0.local_turns.fetch_add(1, Ordering::Relaxed);
        let tier = self.local_tier();
        let switch = self.spoke(session, tier);
        let is_switch = switch != Switch::None;
        tracing::info!(reason = reason.name(), is_switch, "the local model answers");
        LocalTurn { reason, upstream, is_switch }
    }

    /// Whether the local model may read along now: as it is configured, while an upstream is not well, on mains, within its balance.
    pub fn may_shadow(&self) -> bool {
        let wanted = match self.0.config.shadow {
            config::Shadow::Off => false,
            config::Shadow::OnDegraded => self.brain().failed_at.is_some_and(|at| self.now() < at + DEGRADED_FOR),
            config::Shadow::Always => true,
        };
        let now = self.now();
        wanted && self.0.config.local && !power::is_on_battery() && self.brain().duty.may_begin(now)
    }

    /// The local model has read along for so long.
    pub fn shadowed(&self, work: Duration) {
        self.brain().duty.spent(work);
    }

    /// Who reads along now. A conversation's next turn takes the place of the one before, and so does another conversation's.
    pub fn shadows(&self, task: AbortHandle) {
        if let Some(before) = self.brain().shadow.replace(task) {
            before.abort();
        }
    }
}

/// What matters of a client when its reply breaks off.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// A connection that ends early makes it ask again.
    pub aborts_are_retried: bool,
    pub prompt_tokens_estimate: usize,
}

/// What became of one upstream.
enum Through {
    Stream(Box<super::attempt::Committed>),
    Whole(Original),
    Failed { reason: Reason, original: Option<Original> },
}

impl Tier {
    fn new(config: &config::Upstream, connect_limit: Duration) -> Self {
        let origin = Origin { tls: config.scheme == Scheme::Https, host: config.host.clone(), port: config.port };
        let scheme = if origin.tls { "https" } else { "http" };
        let host = format!("{scheme}://{}", origin.authority()).into();
        Self {
            name: config.name.as_str().into(),
            host,
            connections: Upstream::new(origin, connect_limit).speaking(config.http),
            config: config.clone(),
        }
    }
}

impl Brain {
    /// In 0..1.
    fn random(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }
}

pub(super) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
