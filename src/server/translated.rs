//! A cloud that speaks another protocol than its client: the request is written anew, and the reply's events go through the client's own
//! dialect. What breaks off, the local model goes on with.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::AppState;
use super::body::HeldBody;
use super::choices::Told;
use super::generate::{self, go_on};
use super::relays::Relay;
use super::request_id::random_name;
use super::request_log::{Outcome, RequestLog};
use super::run::Listener;
use crate::api::errors::{ApiError, ErrorKind};
use crate::api::outgoing::reply::Reader;
use crate::api::outgoing::{self, Protocol as Outgoing};
use crate::api::{Call, Dialect, ReplyHead};
use crate::chat::{self, Event, Prompt, ToolDefinition, Usage};
use crate::gateway::attempt::Original;
use crate::gateway::door::Gateway;
use crate::gateway::fault::Fault;
use crate::gateway::protocol::Protocol;
use crate::gateway::relayed::{Interruption, Relayed, Step};
use crate::gateway::sessions::SessionKey;
use crate::gateway::sse_splitter::SseEvent;
use crate::gateway::takeover::Takeover;

/// The request in another protocol; `None`: it cannot be said there, or is none.
pub fn request<D: Dialect>(state: &AppState, body: &[u8], protocol: Protocol, model: &str) -> Option<Bytes> {
    let call = D::parse_with(body, state.replies()).ok()?;
    match outgoing::write(outgoing_of(protocol)?, &call.request, model, call.stream) {
        Ok(body) => Some(Bytes::from(body.to_string())),
        Err(cannot) => {
            tracing::debug!(%cannot, "this request is not asked in another protocol");
            None
        }
    }
}

fn outgoing_of(protocol: Protocol) -> Option<Outgoing> {
    match protocol {
        Protocol::AnthropicMessages => Some(Outgoing::AnthropicMessages),
        Protocol::OpenAiChat => Some(Outgoing::OpenAiChat),
        Protocol::OpenAiCompletions | Protocol::OpenAiResponses => None,
    }
}

/// Where a translated reply comes from.
pub struct Source {
    pub protocol: Protocol,
    pub gateway: Gateway,
    pub session: SessionKey,
    /// It lives as long as the reply.
    pub relay: Relay,
}

/// A stream in the client's dialect.
pub async fn stream<D: Dialect>(state: AppState, body: HeldBody, source: Source, relayed: Relayed, log: RequestLog) -> Response {
    let read = generate::read_aside(&state, body, |state, body| D::parse_with(body, state.replies())).await;
    match read {
        Ok(call) => {
            let head = head(&state, relayed.seen().map_or("", |seen| seen.reply.model.as_str()), relayed.upstream());
            let remote = Remote::new::<D>(state.clone(), &call, source, Coming::Stream(Box::new(relayed)));
            respond(state, call, head, remote, log).await
        }
        Err(error) => failed(error, log),
    }
}

/// A whole reply in the client's dialect.
pub async fn whole<D: Dialect>(
    state: AppState,
    body: HeldBody,
    source: Source,
    original: &Original,
    upstream: &Arc<str>,
    log: RequestLog,
) -> Response {
    let read = generate::read_aside(&state, body, |state, body| D::parse_with(body, state.replies())).await;
    let call = match read {
        Ok(call) => call,
        Err(error) => return failed(error, log),
    };
    let Some(protocol) = outgoing_of(source.protocol) else { unreachable!("what was written in a protocol is read in it") };
    let events = match Reader::new(protocol).with_tools(tools(&call.request)).whole(&original.body) {
        Ok(events) => events,
        Err(error) => return failed(ApiError::new(ErrorKind::Unavailable, error.to_string()), log),
    };
    let model = serde_json::from_slice::<serde_json::Value>(&original.body).ok();
    let model = model.as_ref().and_then(|body| body["model"].as_str()).unwrap_or("");
    let head = head(&state, model, upstream);
    let mut remote = Remote::new::<D>(state.clone(), &call, source, Coming::Nothing);
    remote.ready.extend(events);
    respond(state, call, head, remote, log).await
}

fn failed(error: ApiError, mut log: RequestLog) -> Response {
    log.outcome = Outcome::of(&error);
    error.into_response()
}

async fn respond<D: Dialect>(state: AppState, call: Call<D>, head: ReplyHead, remote: Remote, log: RequestLog) -> Response {
    generate::respond(state, call, Listener::Remote { head, remote: Box::new(remote) }, log).await
}

fn head(state: &AppState, model: &str, upstream: &str) -> ReplyHead {
    let model = if model.is_empty() { upstream } else { model };
    ReplyHead { id: random_name(), created_unix_s: state.now_unix_s(), model: model.to_owned(), choices: 1, prompt_tokens: 0 }
}

fn tools(request: &chat::Request) -> &[ToolDefinition] {
    match &request.prompts[..] {
        [Prompt::Conversation(conversation)] => &conversation.tools,
        _ => &[],
    }
}

type GoOn = Box<dyn Fn(AppState, chat::Request) -> BoxFuture<'static, Result<Listener, ApiError>> + Send>;

/// The events of a reply from elsewhere.
pub struct Remote {
    state: AppState,
    source: Source,
    request: chat::Request,
    reader: Option<Reader>,
    ready: VecDeque<Event>,
    coming: Coming,
    usage: Usage,
    go_on: GoOn,
    /// Who broke off, why and when, until the local model's next word.
    seam: Option<(Arc<str>, Fault, Instant)>,
}

enum Coming {
    Stream(Box<Relayed>),
    /// The local model has taken over.
    Local(Box<Listener>),
    Nothing,
}

impl Remote {
    fn new<D: Dialect>(state: AppState, call: &Call<D>, source: Source, coming: Coming) -> Self {
        let reader = outgoing_of(source.protocol).map(|protocol| Reader::new(protocol).with_tools(tools(&call.request)));
        let go_on: GoOn = Box::new(|state, request| Box::pin(async move { go_on::<D>(&state, request).await }));
        let request = call.request.clone();
        Self { state, source, request, reader, ready: VecDeque::new(), coming, usage: Usage::default(), go_on, seam: None }
    }

    /// The next event; `None` when the reply has ended. Loses nothing when it is dropped half-way, but for a takeover that is being begun.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                if let Event::Finished { usage, .. } = &event {
                    self.usage = *usage;
                }
                return Some(Told { choice: 0, event, usage: self.usage, first_token_at: None });
            }
            match &mut self.coming {
                Coming::Nothing => return None,
                Coming::Local(listener) => {
                    let told = Box::pin(listener.next()).await;
                    if let Some((upstream, fault, since)) = self.seam.take() {
                        self.source.gateway.note_takeover(&upstream, fault, Some(since.elapsed()));
                    }
                    return told;
                }
                Coming::Stream(relayed) => match relayed.next().await {
                    Step::Bytes(bytes) => self.read(bytes),
                    Step::Slow => self.trickles().await,
                    Step::End => self.end(),
                    Step::Interrupted(interruption) => self.interrupted(interruption).await,
                },
            }
        }
    }

    fn read(&mut self, frame: Bytes) {
        let event = SseEvent::new(frame);
        let Some(data) = event.data().and_then(|data| std::str::from_utf8(data).ok()) else { return };
        let (Some(reader), data) = (&mut self.reader, data.to_owned()) else { return };
        let mut events = Vec::new();
        let read = reader.event(&data, &mut events);
        self.ready.extend(events);
        if let Err(error) = read {
            self.fail(error.to_string());
        }
    }

    fn end(&mut self) {
        let mut events = Vec::new();
        let ended = self.reader.as_mut().map_or(Ok(()), |reader| reader.finish(&mut events));
        self.ready.extend(events);
        match ended {
            Ok(()) => self.coming = Coming::Nothing,
            Err(error) => self.fail(error.to_string()),
        }
    }

    fn fail(&mut self, message: String) {
        self.ready.push_back(Event::Failed(message));
        self.coming = Coming::Nothing;
    }

    /// Whoever is faster goes on with a text that trickles. Where nobody can, it is better than none.
    async fn trickles(&mut self) {
        let Coming::Stream(relayed) = &mut self.coming else { return };
        let Some(Interruption { fault, begun, .. }) = relayed.handed_over() else { return };
        let (request, since) = (chat::Request { begun: Some(begun), ..self.request.clone() }, Instant::now());
        match (self.go_on)(self.state.clone(), request).await {
            Ok(listener) => {
                relayed.leave(fault);
                let upstream = relayed.upstream().clone();
                self.taken_over(upstream, fault, since, listener);
            }
            Err(error) => {
                tracing::debug!(error = error.message.as_str(), "nobody can go on with a reply that trickles");
                relayed.put_up_with();
            }
        }
    }

    async fn interrupted(&mut self, interruption: Interruption) {
        let Interruption { fault, takeover, begun, .. } = interruption;
        match takeover {
            Takeover::Finish(frames) => {
                frames.into_iter().for_each(|frame| self.read(frame));
                self.end();
            }
            Takeover::InBandError(_) | Takeover::Abort => self.fail(format!("the upstream broke off ({})", fault.name())),
            Takeover::PlainSwitch | Takeover::ContinueText { .. } | Takeover::ContinueToolCall { .. } | Takeover::FreshText { .. } => {
                let Coming::Stream(relayed) = &self.coming else { unreachable!("only a stream is interrupted") };
                let (upstream, since) = (relayed.upstream().clone(), Instant::now());
                let request = chat::Request { begun: Some(begun), ..self.request.clone() };
                match (self.go_on)(self.state.clone(), request).await {
                    Ok(listener) => self.taken_over(upstream, fault, since, listener),
                    Err(error) => {
                        self.source.gateway.note_takeover(&upstream, fault, None);
                        tracing::warn!(error = error.message.as_str(), "the local model cannot go on with a translated reply");
                        self.fail(format!("the upstream broke off ({}), and the local model cannot go on", fault.name()));
                    }
                }
            }
        }
    }

    fn taken_over(&mut self, upstream: Arc<str>, fault: Fault, since: Instant, listener: Listener) {
        self.source.gateway.taken_over(self.source.session, &upstream, fault);
        self.seam = Some((upstream, fault, since));
        self.coming = Coming::Local(Box::new(listener));
    }
}
