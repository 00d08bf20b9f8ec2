//! A cloud's text that broke off, given to another cloud before it is given to the local model. Its words come as events of its own protocol
//! and go on in the client's stream like the local model's would.

use std::sync::Arc;

use axum::http::{HeaderMap, Method};
use bytes::Bytes;

use super::AppState;
use super::relays::Relay;
use super::run::Listener;
use super::shadow::Prefill;
use super::translated::{Remote, Source, head, outgoing_of};
use crate::api::outgoing::continuing;
use crate::chat;
use crate::chat::begun::BegunReply;
use crate::gateway::asked::About;
use crate::gateway::door::{Asked, Gateway, Wanted};
use crate::gateway::protocol::Protocol;
use crate::gateway::sessions::SessionKey;

/// A reply that broke off, and who has asked for it.
pub struct BrokenOff<'a> {
    pub gateway: &'a Gateway,
    pub upstream: &'a str,
    pub headers: &'a HeaderMap,
    pub about: &'a About,
    pub session: SessionKey,
    /// Has the local model read the request meanwhile.
    pub prefill: fn(&AppState, chat::Request) -> Prefill,
    /// Held for as long as the reply lasts.
    pub relay: Relay,
}

/// Another cloud, from where the text ends, once it has said something. `None`: none does, or not in time.
pub async fn by_another_cloud(
    state: &AppState,
    broken: BrokenOff<'_>,
    request: &chat::Request,
    begun: &BegunReply,
) -> Option<(Arc<str>, Listener)> {
    let BrokenOff { gateway, upstream, headers, about, session, prefill, relay } = broken;
    // Without marks for a cache: the next turn is not this cloud's, if all goes well.
    let translate = |wanted: Wanted<'_>| match continuing::write(outgoing_of(wanted.protocol)?, request, begun, wanted.model) {
        Ok(body) => Some(Bytes::from(body.to_string())),
        Err(cannot) => {
            tracing::debug!(%cannot, "this reply is not gone on with by another cloud");
            None
        }
    };
    let is_known = |protocol: Protocol, model: &str| outgoing_of(protocol).is_some_and(|protocol| continuing::is_known(protocol, model));
    let asked = Asked {
        // Nothing goes up as it came.
        protocol: Protocol::OpenAiChat,
        method: Method::POST,
        path_and_query: "/",
        headers,
        body: Bytes::new(),
        about,
        session,
        human_turn: false,
        local: gateway.config().local && state.served().is_ok(),
        translate: &translate,
    };
    let mut reading = None;
    let continued = gateway.continued(&asked, upstream, &is_known, &mut || reading = Some(prefill(state, request.clone()))).await;
    drop(reading);
    let continued = continued?;
    let by = continued.relayed.upstream().clone();
    let source = Source { protocol: continued.protocol, gateway: gateway.clone(), session, relay, asker: None };
    let head = head(state, "", &by);
    let remote = Remote::continuing(state.clone(), source, request, *continued.relayed, begun);
    Some((by, Listener::Remote { head, remote: Box::new(remote) }))
}
