//! What is no conversation: counts of tokens and lists of models, which the local model answers too, are held; files, batches and all that
//! nobody here knows go up as they come, and come down as they come.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::{HeaderMap, Method, Request};
use http_body_util::Full;
use tokio::time::{sleep_until, timeout};

use super::attempt::Original;
use super::circuit_breaker::{Asked, Outcome, Permit, ProbeId, Target};
use super::door::{Gateway, Tier};
use super::fault::Fault;
use super::forwarding;
use super::upstream::{Coming, Reply};
use crate::config::gateway::{Credential, Kind};

/// Nobody waits longer for a count; files and lists have their own patience.
const COUNT_LIMIT: Duration = Duration::from_secs(5);
const BYTES_MAX: usize = 64 << 20;

/// A request that is no conversation.
pub struct Plain<'a> {
    pub kind: Kind,
    pub method: &'a Method,
    pub path_and_query: &'a str,
    pub headers: &'a HeaderMap,
}

/// What it brings.
pub enum Upload {
    Held(Bytes),
    Coming { bytes: BoxStream<'static, io::Result<Bytes>>, length: Option<u64> },
}

impl Gateway {
    /// The whole reply of the upstream, whatever it says, and its name. `None`: there is no upstream of this kind, or it is not well. Nothing
    /// is tried twice: who knows what a second time does. The local model has an answer of its own, so that little patience is needed.
    pub async fn pass(&self, plain: &Plain<'_>, body: Bytes) -> Option<(Original, Arc<str>)> {
        let mut passing = self.permitted(plain)?;
        let limit = COUNT_LIMIT.min(self.limits().first_content);
        match timeout(limit, exchange(&passing.tier, plain, body)).await.unwrap_or(Err(Fault::FirstContentLimit)) {
            Ok(original) => {
                passing.answered(original.status);
                Some((original, passing.tier.name.clone()))
            }
            Err(fault) => {
                passing.tell(Outcome::Failed { fault, retry_after: None });
                None
            }
        }
    }

    /// The same as it comes, in both directions. What is held is sent once more where a kept connection turns out to be closed.
    pub async fn pass_through(&self, plain: &Plain<'_>, upload: Upload) -> Result<Passed, NotPassed> {
        let mut passing = self.permitted(plain).ok_or(NotPassed::NobodyAnswers)?;
        let limit = self.limits().whole_reply_max;
        let sent = match upload {
            Upload::Held(body) => {
                let request = request(&passing.tier, plain, Full::new(body)).map_err(|_| NotPassed::NobodyAnswers)?;
                timeout(limit, passing.tier.connections.send(request)).await.unwrap_or(Err(Fault::FirstContentLimit))
            }
            Upload::Coming { bytes, length } => {
                // Its end may still be on its way when the reply has come to its own.
                passing.is_kept = false;
                self.send_as_it_comes(&passing, plain, Coming { bytes, length }, limit).await?
            }
        };
        match sent {
            Ok(mut reply) => {
                let (status, headers) = (reply.status, std::mem::take(&mut reply.headers));
                if status >= 500 {
                    passing.answered(status);
                }
                passing.reply = Some(reply);
                Ok(Passed { status, headers, passing })
            }
            Err(fault) => {
                passing.tell(Outcome::Failed { fault, retry_after: None });
                Err(NotPassed::NobodyAnswers)
            }
        }
    }

    /// `limit`: for the upstream's head, from the last byte that the client had to say.
    async fn send_as_it_comes(
        &self,
        passing: &Passing,
        plain: &Plain<'_>,
        upload: Coming,
        limit: Duration,
    ) -> Result<Result<Reply, Fault>, NotPassed> {
        // When the client last said something, in milliseconds of the gateway's clock; [`BROKE_OFF`] once it has broken off.
        let said = Arc::new(AtomicU64::new(self.now().as_millis() as u64));
        let (saying, clock) = (said.clone(), self.clone());
        let bytes = upload.bytes.inspect(move |piece| {
            let now = if piece.is_ok() { clock.now().as_millis() as u64 } else { BROKE_OFF };
            saying.fetch_max(now, Ordering::Relaxed);
        });
        let coming = Coming { bytes: bytes.boxed(), length: upload.length };
        let request = request(&passing.tier, plain, coming).map_err(|_| NotPassed::NobodyAnswers)?;
        let sending = passing.tier.connections.send_once(request);
        tokio::pin!(sending);
        let sent = loop {
            let until = Duration::from_millis(said.load(Ordering::Relaxed).min(u64::from(u32::MAX))) + limit;
            tokio::select! {
                biased;
                sent = &mut sending => break sent,
                () = sleep_until(self.instant(until)) => {
                    if said.load(Ordering::Relaxed) as u128 + limit.as_millis() <= self.now().as_millis() {
                        break Err(Fault::FirstContentLimit);
                    }
                }
            }
        };
        let broke_off = said.load(Ordering::Relaxed) == BROKE_OFF && sent.is_err();
        if broke_off { Err(NotPassed::ClientBrokeOff) } else { Ok(sent) }
    }

    /// The upstream that may be asked.
    fn permitted(&self, plain: &Plain<'_>) -> Option<Passing> {
        let tier = self.0.tiers.iter().find(|tier| tier.config.kind == plain.kind)?;
        let of_client = tier.config.key == Credential::OfClient;
        if of_client && !tier.config.subscription_login && forwarding::is_subscription_login(plain.headers) {
            return None;
        }
        // The host is what these requests know of; its models are not asked.
        let target = Target { host: tier.host.clone(), upstream: tier.name.clone(), model: "".into(), credential: None };
        let permit = self.brain().breakers.permit(&target, Asked { human_turn: false }, self.now());
        let probe = if let Permit::Probe(probe) = permit { Some(probe) } else { None };
        let passing = Passing { gateway: self.clone(), tier: tier.clone(), target, probe, reply: None, is_kept: true, is_told: false };
        permit.allows().then_some(passing)
    }
}

const BROKE_OFF: u64 = u64::MAX;

/// Why there is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotPassed {
    /// There is no upstream of this kind, it is not well, or it failed.
    NobodyAnswers,
    ClientBrokeOff,
}

/// A reply whose body is on its way.
pub struct Passed {
    pub status: u16,
    pub headers: HeaderMap,
    pub passing: Passing,
}

/// A request that is no conversation, with its upstream. Dropped before its end, it speaks against nobody.
pub struct Passing {
    gateway: Gateway,
    tier: Arc<Tier>,
    target: Target,
    probe: Option<ProbeId>,
    reply: Option<Reply>,
    /// Its connection may serve others afterwards.
    is_kept: bool,
    is_told: bool,
}

impl Passing {
    pub fn upstream(&self) -> &Arc<str> {
        &self.tier.name
    }

    /// The next bytes; `None` at the end. Errors: it broke off, or says nothing for as long as a whole reply may take.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        let limit = self.gateway.limits().whole_reply_max;
        let Some(reply) = &mut self.reply else { return Ok(None) };
        match timeout(limit, reply.next()).await.unwrap_or(Err(Fault::ByteSilence)) {
            Ok(bytes) => {
                // Of a body with a length nobody asks for the end.
                if bytes.is_none() || reply.is_over() {
                    if let Some(reply) = self.reply.take().filter(|_| self.is_kept) {
                        self.tier.connections.keep(reply);
                    }
                    self.tell(Outcome::Neutral);
                }
                Ok(bytes)
            }
            Err(fault) => {
                self.reply = None;
                self.tell(Outcome::Failed { fault, retry_after: None });
                Err(fault)
            }
        }
    }

    fn answered(&mut self, status: u16) {
        self.tell(match status {
            ..500 => Outcome::Neutral,
            _ => Outcome::Failed { fault: Fault::Status(status), retry_after: None },
        });
    }

    fn tell(&mut self, outcome: Outcome) {
        if !std::mem::replace(&mut self.is_told, true) {
            let now = self.gateway.now();
            self.gateway.brain().breakers.report(&self.target, self.probe, outcome, now);
        }
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.tell(Outcome::Abandoned);
    }
}

fn request<B>(tier: &Tier, plain: &Plain<'_>, body: B) -> Result<Request<B>, Fault> {
    let mut request = Request::new(body);
    *request.method_mut() = plain.method.clone();
    let path = format!("{}{}", tier.config.base_path, plain.path_and_query);
    *request.uri_mut() = path.parse().map_err(|_| Fault::NotTheApi)?;
    *request.headers_mut() = forwarding::upwards(plain.headers, tier.config.kind, &tier.config.key);
    if let Ok(host) = tier.connections.origin().authority().parse() {
        request.headers_mut().insert(http::header::HOST, host);
    }
    Ok(request)
}

async fn exchange(tier: &Tier, plain: &Plain<'_>, body: Bytes) -> Result<Original, Fault> {
    let mut reply = tier.connections.send(request(tier, plain, Full::new(body))?).await?;
    let mut body = BytesMut::new();
    while let Some(bytes) = reply.next().await? {
        if body.len() + bytes.len() > BYTES_MAX {
            return Err(Fault::TooLarge);
        }
        body.extend_from_slice(&bytes);
    }
    let original = Original { status: reply.status, headers: std::mem::take(&mut reply.headers), body: body.freeze() };
    tier.connections.keep(reply);
    Ok(original)
}
