//! Requests that may go up to a cloud first. The gateway decides; here its answer becomes the client's: bytes as they came, or the local
//! model's words, or the one after the other in one stream.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, unfold};
use serde_json::Value;

use super::body::HeldBody;
use super::continuation::{BrokenOff, by_another_cloud};
use super::edge::{OWN_KEY, shows_our_key};
use super::generate::{self, Opening, Rest};
use super::relays::Relay;
use super::request_id::RequestId;
use super::request_log::{Outcome, RequestLog};
use super::translated::{self, Asker, Source};
use super::{AppState, Phase as Life, body, shadow};
use crate::api::Dialect;
use crate::api::anthropic_messages::AnthropicMessages;
use crate::api::errors::{ApiError, ErrorKind};
use crate::api::openai_chat::OpenAiChat;
use crate::api::openai_completions::OpenAiCompletions;
use crate::api::openai_responses::OpenAiResponses;
use crate::chat::begun::BegunReply;
use crate::gateway::asked::About;
use crate::gateway::attempt::Original;
use crate::gateway::continuation::Handover;
use crate::gateway::door::{Answer, Asked, Away, Gateway, Said, Wanted};
use crate::gateway::forwarding;
use crate::gateway::protocol::Protocol;
use crate::gateway::relayed::{Interruption, Relayed, Step};
use crate::gateway::sessions::{SessionKey, is_human_turn, session_key};
use crate::gateway::takeover::Takeover;

pub const SERVED_BY: &str = "x-understudy-served-by";
pub const REASON: &str = "x-understudy-reason";

/// In which protocol a dialect's requests go up.
pub trait GoesUp: Dialect {
    const PROTOCOL: Protocol;
}

impl GoesUp for AnthropicMessages {
    const PROTOCOL: Protocol = Protocol::AnthropicMessages;
}

impl GoesUp for OpenAiChat {
    const PROTOCOL: Protocol = Protocol::OpenAiChat;
}

impl GoesUp for OpenAiCompletions {
    const PROTOCOL: Protocol = Protocol::OpenAiCompletions;
}

impl GoesUp for OpenAiResponses {
    const PROTOCOL: Protocol = Protocol::OpenAiResponses;
}

/// `POST` of a dialect: through the front door where there is one.
pub async fn generate<D: GoesUp>(State(state): State<AppState>, Extension(id): Extension<RequestId>, request: Request) -> Response {
    match state.gateway().cloned() {
        Some(gateway) => through::<D>(state, gateway, D::PROTOCOL, id, request).await,
        None => generate::generate::<D>(State(state), Extension(id), request).await,
    }
}

/// A request that came through the front door, as far as it is needed again.
struct Visitor {
    parts: request::Parts,
    body: HeldBody,
    about: About,
    session: SessionKey,
    human_turn: bool,
}

async fn through<D: Dialect>(state: AppState, gateway: Gateway, protocol: Protocol, id: RequestId, request: Request) -> Response {
    let mut log = RequestLog::new(id.0, D::NAME);
    // Counted before it is asked whether the server stops: who is let in is waited for.
    let relay = state.relays().begin();
    if state.phase() != Life::Serving {
        let error = ApiError::draining();
        log.outcome = Outcome::of(&error);
        body::discard(request.into_body()).await;
        return error.into_response();
    }
    let (parts, body) = request.into_parts();
    let body = match body::read(&parts.headers, body, state.config(), state.bodies()).await {
        Ok(body) => body,
        Err(error) => {
            log.outcome = Outcome::of(&error);
            return error.into_response();
        }
    };
    // What no API could read, and what is meant for this machine, does not go up.
    let read = About::read(&body.bytes).filter(|(about, _)| !is_ours(&state, &parts.headers, about));
    let read = read.map(|(about, members)| (about, session_key(&parts.headers, protocol, &members), is_human_turn(protocol, &members)));
    let Some((about, session, human_turn)) = read else {
        return Box::pin(generate::answer::<D>(state, &parts.headers, body, log, Opening::default())).await;
    };
    // What is relayed is held in this future, and moved with it: the ways that few go are not.
    let visitor = Visitor { parts, body, about, session, human_turn };
    match ask::<D>(&state, &gateway, protocol, &visitor).await {
        Answer::Stream { status, headers, relayed, translated: None } => {
            log.stream = true;
            let served_by = relayed.upstream().clone();
            let stream = FrontStream::<D> {
                state,
                gateway,
                visitor,
                _relay: relay,
                log: Some(log),
                phase: Phase::Relayed(relayed),
                seam: None,
                dialect: PhantomData,
            };
            let mut response = response(status, headers, stream.into_body());
            said_by(response.headers_mut(), &served_by, None);
            response
        }
        Answer::Stream { relayed, translated: Some(protocol), .. } => {
            let served_by = relayed.upstream().clone();
            let Visitor { parts, body, about, session, .. } = visitor;
            let asker = Asker { headers: parts.headers, about, prefill: shadow::prefill_request::<D> };
            let source = Source { protocol, gateway, session, relay, asker: Some(Arc::new(asker)) };
            let mut response = Box::pin(translated::stream::<D>(state, body, source, *relayed, log)).await;
            said_by(response.headers_mut(), &served_by, None);
            response
        }
        Answer::Whole { original, upstream, translated: Some(protocol) } if original.status == 200 => {
            let source = Source { protocol, gateway, session: visitor.session, relay, asker: None };
            let mut response = Box::pin(translated::whole::<D>(state, visitor.body, source, &original, &upstream, log)).await;
            said_by(response.headers_mut(), &upstream, None);
            response
        }
        Answer::Whole { original, upstream, translated } => {
            log.outcome = outcome(original.status);
            log.write_later();
            said(Said { original, upstream, translated })
        }
        Answer::Local(away) => Box::pin(local::<D>(state, gateway, visitor, away, log)).await,
        Answer::LoginNotRelayed { upstream } => {
            let message = format!(
                "the login of a subscription is not relayed to {upstream}; to have it relayed, set `relay_subscription_login = true` for this \
                 upstream, or use an API key"
            );
            let error = ApiError::new(ErrorKind::Forbidden, message).with_code("subscription_login_not_relayed");
            log.outcome = Outcome::of(&error);
            error.into_response()
        }
    }
}

/// Asked of the local model by its own name, or with a key that is ours: nothing of it is anybody else's business.
fn is_ours(state: &AppState, headers: &HeaderMap, about: &About) -> bool {
    let by_name = about.model == "local" || state.served().is_ok_and(|served| served.card.id == about.model);
    by_name || (!headers.contains_key(OWN_KEY) && shows_our_key(state, headers))
}

async fn ask<D: Dialect>(state: &AppState, gateway: &Gateway, protocol: Protocol, visitor: &Visitor) -> Answer {
    let translate = |wanted: Wanted<'_>| translated::request::<D>(state, &visitor.body.bytes, wanted);
    let asked = Asked {
        protocol,
        method: visitor.parts.method.clone(),
        path_and_query: visitor.parts.uri.path_and_query().map_or("/", |path| path.as_str()),
        headers: &visitor.parts.headers,
        body: visitor.body.bytes.clone(),
        about: &visitor.about,
        session: visitor.session,
        human_turn: visitor.human_turn,
        local: gateway.config().local && state.served().is_ok(),
        translate: &translate,
    };
    // Held while the cloud is waited for; dropped, it ends, and what it has computed stays in the cache.
    let mut prefill = None;
    let answer = gateway.ask(&asked, &mut || prefill = Some(shadow::prefill::<D>(state, visitor.body.bytes.clone()))).await;
    drop(prefill);
    answer
}

/// The local model answers in the cloud's place.
async fn local<D: Dialect>(state: AppState, gateway: Gateway, visitor: Visitor, away: Away, mut log: RequestLog) -> Response {
    let Away { reason, upstream, instead } = away;
    let Visitor { parts, body, session, .. } = visitor;
    if !gateway.config().local || state.served().is_err() {
        if let Some(instead) = instead {
            log.outcome = outcome(instead.original.status);
            return said(instead);
        }
        let error = match state.served() {
            Err(error) => error,
            Ok(_) => ApiError::new(ErrorKind::Unavailable, format!("no upstream answers ({}), and the local model may not", reason.name()))
                .with_retry_after_s(5),
        };
        log.outcome = Outcome::of(&error);
        return error.into_response();
    }
    let turn = gateway.local_turn(session, reason, upstream);
    let model = state.served().map(|served| served.card.id.clone()).unwrap_or_default();
    let (of_notice, of_word, since) = ((gateway.clone(), model.clone()), (gateway, model.clone()), Instant::now());
    let opening = Opening {
        notice: Some(Box::new(move || of_notice.0.take_notice(session, &of_notice.1))),
        first_word: Some(Box::new(move || of_word.0.note_local_turn(&turn, &of_word.1, since.elapsed()))),
    };
    let mut response = generate::answer::<D>(state, &parts.headers, body, log, opening).await;
    // Who cannot answer does not hide what the cloud said: it is the better word.
    if let Some(instead) = instead.filter(|_| !response.status().is_success()) {
        return said(instead);
    }
    said_by(response.headers_mut(), &model, Some(reason.name()));
    response
}

fn said_by(headers: &mut HeaderMap, who: &str, reason: Option<&str>) {
    if let Ok(who) = HeaderValue::from_str(who) {
        headers.insert(SERVED_BY, who);
    }
    if let Some(Ok(reason)) = reason.map(HeaderValue::from_str) {
        headers.insert(REASON, reason);
    }
}

fn response(status: u16, headers: HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    *response.headers_mut() = headers;
    response
}

/// An upstream's reply, whose body is on its way.
pub fn relayed(status: u16, headers: HeaderMap, body: Body, upstream: &str) -> Response {
    let mut response = response(status, headers, body);
    said_by(response.headers_mut(), upstream, None);
    response
}

/// An upstream's reply in one piece.
pub fn as_it_came(original: Original, upstream: &str) -> Response {
    relayed(original.status, forwarding::downwards(original.headers, true), Body::from(original.body), upstream)
}

/// What an upstream says in place of a reply.
fn said(said: Said) -> Response {
    match said.translated {
        None => as_it_came(said.original, &said.upstream),
        // Its words are in another protocol's shape.
        Some(_) => error_of(&said.original).into_response(),
    }
}

/// What an upstream of another protocol says against a request, in the client's shape.
fn error_of(original: &Original) -> ApiError {
    let body: Value = serde_json::from_slice(&original.body).unwrap_or_default();
    let message = body["error"]["message"].as_str().unwrap_or("the upstream refuses this request and gives no reason");
    let kind = match original.status {
        401 => ErrorKind::Unauthorized,
        403 => ErrorKind::Forbidden,
        404 => ErrorKind::NotFound,
        413 => ErrorKind::TooLarge,
        400..500 => ErrorKind::InvalidRequest,
        _ => ErrorKind::Unavailable,
    };
    ApiError::new(kind, message)
}

fn outcome(status: u16) -> Outcome {
    match status {
        200..300 => Outcome::Completed,
        status => Outcome::Error { status, reason: "said by the upstream".to_owned() },
    }
}

/// A stream that a cloud begins, and that another one or the local model ends where that cloud does not.
struct FrontStream<D> {
    state: AppState,
    gateway: Gateway,
    visitor: Visitor,
    /// A server that stops waits for it.
    _relay: Relay,
    /// `None`: whoever goes on has it.
    log: Option<RequestLog>,
    phase: Phase,
    /// Until the next word.
    seam: Option<Seam>,
    dialect: PhantomData<fn() -> D>,
}

/// Who broke off, why, who goes on, and since when.
struct Seam {
    handover: Handover,
    since: Instant,
}

enum Phase {
    Relayed(Box<Relayed>),
    /// Somebody else goes on.
    Rest(BoxStream<'static, Bytes>),
    /// Frames that end it.
    Last(std::vec::IntoIter<Bytes>),
    /// The connection ends without a last chunk.
    Broken,
    Over,
}

/// `None`: the server's time is up.
pub async fn or_cut_off<T>(state: &AppState, next: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        next = next => Some(next),
        () = state.reached(Life::CutOff) => None,
    }
}

impl<D: Dialect> FrontStream<D> {
    fn into_body(self) -> Body {
        // Each frame moves the state of an `unfold` in and out.
        Body::from_stream(unfold(Box::new(self), |mut stream| async move { stream.next().await.map(|bytes| (bytes, stream)) }))
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            match &mut self.phase {
                Phase::Relayed(relayed) => match or_cut_off(&self.state, relayed.next()).await {
                    None => {
                        self.ended(Outcome::of(&ApiError::draining()));
                        self.phase = Phase::Broken;
                    }
                    Some(Step::Bytes(bytes)) => return Some(Ok(bytes)),
                    Some(Step::End) => {
                        let reply = relayed.seen().map(|seen| &seen.reply);
                        shadow::follow::<D>(&self.state, &self.gateway, &self.visitor.body.bytes, reply);
                        self.ended(Outcome::Completed);
                        self.phase = Phase::Over;
                    }
                    Some(Step::Slow) => {
                        if let Some(bytes) = self.trickles().await {
                            return Some(Ok(bytes));
                        }
                    }
                    Some(Step::Interrupted(interruption)) => {
                        if let Some(bytes) = self.interrupted(interruption).await {
                            return Some(Ok(bytes));
                        }
                    }
                },
                Phase::Rest(bytes) => match bytes.next().await {
                    Some(bytes) => {
                        if let Some(Seam { handover, since }) = self.seam.take() {
                            self.gateway.note_takeover(&handover, Some(since.elapsed()));
                        }
                        return Some(Ok(bytes));
                    }
                    None => self.phase = Phase::Over,
                },
                Phase::Last(frames) => match frames.next() {
                    Some(bytes) => return Some(Ok(bytes)),
                    None => self.phase = Phase::Over,
                },
                Phase::Broken => {
                    self.phase = Phase::Over;
                    return Some(Err(io::Error::other("a reply that ends here is not whole, and looks like it")));
                }
                Phase::Over => return None,
            }
        }
    }

    fn ended(&mut self, outcome: Outcome) {
        if let Some(log) = &mut self.log {
            log.outcome = outcome;
        }
    }

    /// Chooses who goes on. What it returns goes to the client first.
    async fn interrupted(&mut self, interruption: Interruption) -> Option<Bytes> {
        let Interruption { fault, takeover, begun, failed } = interruption;
        let since = Instant::now();
        let broken_off = || Outcome::Error { status: 502, reason: fault.name().to_owned() };
        let first = match takeover {
            Takeover::Finish(frames) => {
                self.ended(Outcome::Completed);
                self.phase = Phase::Last(frames.into_iter());
                return None;
            }
            Takeover::InBandError(frames) => {
                self.ended(broken_off());
                self.phase = Phase::Last(frames.into_iter());
                return None;
            }
            Takeover::Abort => {
                self.gateway.aborted(self.visitor.session, fault);
                self.ended(broken_off());
                self.phase = Phase::Broken;
                return None;
            }
            Takeover::ContinueText { first } | Takeover::FreshText { first } => first,
            Takeover::PlainSwitch | Takeover::ContinueToolCall { .. } => Vec::new(),
        };
        let Phase::Relayed(relayed) = &self.phase else { unreachable!("only what is relayed is interrupted") };
        let upstream = relayed.upstream().clone();
        let Ok(GoesOn { by, name, rest }) = Box::pin(self.go_on(&upstream, begun)).await else {
            tracing::warn!(%upstream, fault = fault.name(), "nobody can go on with a reply that broke off");
            self.ended(broken_off());
            self.gateway.note_takeover(&Handover { upstream, fault, by: None }, None);
            self.phase = Phase::Last(failed.into_iter());
            return None;
        };
        let handover = Handover { upstream, fault, by };
        self.gateway.taken_over(self.visitor.session, &handover);
        Some(self.seam(Seam { handover, since }, &name, rest, &first))
    }

    /// Whoever is faster goes on with a text that trickles. Where nobody can, it is better than none.
    async fn trickles(&mut self) -> Option<Bytes> {
        let Phase::Relayed(relayed) = &mut self.phase else { return None };
        let Interruption { fault, begun, .. } = relayed.handed_over()?;
        let (upstream, since, body) = (relayed.upstream().clone(), Instant::now(), self.visitor.body.bytes.clone());
        let went_on = Box::pin(self.go_on(&upstream, begun)).await;
        let Phase::Relayed(relayed) = &mut self.phase else { return None };
        let Ok(GoesOn { by, name, rest }) = went_on else {
            relayed.put_up_with();
            self.visitor.body = HeldBody::uncounted(body);
            return None;
        };
        relayed.leave(fault);
        let handover = Handover { upstream, fault, by };
        self.gateway.taken_over(self.visitor.session, &handover);
        Some(self.seam(Seam { handover, since }, &name, rest, &[]))
    }

    /// A line that says who goes on, and the frames that lead over.
    fn seam(&mut self, seam: Seam, name: &str, rest: BoxStream<'static, Bytes>, first: &[Bytes]) -> Bytes {
        let fault = seam.handover.fault;
        self.seam = Some(seam);
        self.phase = Phase::Rest(rest);
        let mut bytes = format!(": understudy: {name} goes on from here ({})\n\n", fault.name()).into_bytes();
        first.iter().for_each(|frame| bytes.extend_from_slice(frame));
        Bytes::from(bytes)
    }

    /// Another cloud where one goes on, else the local model.
    async fn go_on(&mut self, upstream: &str, begun: BegunReply) -> Result<GoesOn, ()> {
        if !D::resumes() {
            return Err(());
        }
        let body = std::mem::replace(&mut self.visitor.body, HeldBody::empty());
        let read = generate::read_aside(&self.state, body, |state, body| D::parse_with(body, state.replies())).await;
        let call =
            read.inspect_err(|error| tracing::debug!(error = error.message.as_str(), "the request cannot be read here")).map_err(drop)?;
        let broken = BrokenOff {
            gateway: &self.gateway,
            upstream,
            headers: &self.visitor.parts.headers,
            about: &self.visitor.about,
            session: self.visitor.session,
            prefill: shadow::prefill_request::<D>,
            relay: self.state.relays().begin(),
        };
        let cloud = by_another_cloud(&self.state, broken, &call.request, &begun).await;
        let name = match &cloud {
            Some((by, _)) => by.to_string(),
            None if !self.gateway.config().local => return Err(()),
            None => self.state.served().map_err(drop)?.card.id.clone(),
        };
        let (by, listener) = cloud.unzip();
        let log = self.log.take().ok_or(())?;
        match generate::begin_with::<D>(&self.state, call, Rest { begun, by: listener }, log).await {
            Ok(rest) => Ok(GoesOn { by, name, rest: rest.boxed() }),
            Err(cannot) => {
                tracing::warn!(error = cannot.error.message.as_str(), "the local model cannot go on");
                Err(())
            }
        }
    }
}

/// Who goes on with a reply.
struct GoesOn {
    /// Another cloud; `None`: the local model.
    by: Option<Arc<str>>,
    name: String,
    rest: BoxStream<'static, Bytes>,
}
