//! What is no conversation (counts of tokens, lists of models, files, batches) goes up as it came and comes back in one piece.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use http_body_util::Full;
use tokio::time::timeout;

use super::attempt::Original;
use super::circuit_breaker::{Outcome, Permit, Target};
use super::door::{Gateway, Tier};
use super::fault::Fault;
use super::forwarding;
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
    pub body: Bytes,
    /// The local model has an answer of its own, so that little patience is needed.
    pub local: bool,
}

impl Gateway {
    /// The upstream's reply, whatever it says, and its name. `None`: there is no upstream of this kind, or it is not well. Nothing is tried twice: who
    /// knows what a second time does.
    pub async fn pass(&self, plain: &Plain<'_>) -> Option<(Original, Arc<str>)> {
        let tier = self.0.tiers.iter().find(|tier| tier.config.kind == plain.kind)?;
        let of_client = tier.config.key == Credential::OfClient;
        if of_client && !tier.config.subscription_login && forwarding::is_subscription_login(plain.headers) {
            return None;
        }
        // The host is what these requests know of; its models are not asked.
        let target = Target { host: tier.host.clone(), upstream: tier.name.clone(), model: "".into(), credential: None };
        let asks = super::circuit_breaker::Asked { human_turn: false };
        let permit = self.brain().breakers.permit(&target, asks, self.now());
        if !permit.allows() {
            return None;
        }
        let limit = if plain.local { COUNT_LIMIT.min(self.limits().first_content) } else { self.limits().whole_reply_max };
        let reply = timeout(limit, exchange(tier, plain)).await.unwrap_or(Err(Fault::FirstContentLimit));
        let outcome = match &reply {
            Ok(original) if original.status < 500 => Outcome::Neutral,
            Ok(original) => Outcome::Failed { fault: Fault::Status(original.status), retry_after: None },
            Err(fault) => Outcome::Failed { fault: *fault, retry_after: None },
        };
        let now = self.now();
        let probe = if let Permit::Probe(probe) = permit { Some(probe) } else { None };
        self.brain().breakers.report(&target, probe, outcome, now);
        reply.ok().map(|original| (original, tier.name.clone()))
    }
}

async fn exchange(tier: &Tier, plain: &Plain<'_>) -> Result<Original, Fault> {
    let mut request = http::Request::new(Full::new(plain.body.clone()));
    *request.method_mut() = plain.method.clone();
    let path = format!("{}{}", tier.config.base_path, plain.path_and_query);
    *request.uri_mut() = path.parse().map_err(|_| Fault::NotTheApi)?;
    *request.headers_mut() = forwarding::upwards(plain.headers, tier.config.kind, &tier.config.key);
    if let Ok(host) = tier.connections.origin().authority().parse() {
        request.headers_mut().insert(http::header::HOST, host);
    }
    let mut reply = tier.connections.send(request).await?;
    let mut body = BytesMut::new();
    while let Some(bytes) = reply.next().await? {
        if body.len() + bytes.len() > BYTES_MAX {
            return Err(Fault::TooLarge);
        }
        body.extend_from_slice(&bytes);
    }
    let original = Original { status: reply.status, headers: reply.headers.clone(), body: body.freeze() };
    tier.connections.keep(reply);
    Ok(original)
}
