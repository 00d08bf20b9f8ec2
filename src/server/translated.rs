//! A cloud that speaks another protocol than its client: the request is written anew, and the reply's events go through the client's own
//! dialect. What breaks off, the local model goes on with.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::AppState;
use super::body::HeldBody;
use super::choices::Told;
use super::continuation::{BrokenOff, by_another_cloud};
use super::generate::{self, go_on};
use super::relays::Relay;
use super::request_id::random_name;
use super::request_log::{Outcome, RequestLog};
use super::run::Listener;
use super::shadow::Prefill;
use crate::api::errors::{ApiError, ErrorKind};
use crate::api::outgoing::reply::Reader;
use crate::api::outgoing::{self, Protocol as Outgoing};
use crate::api::outgoing::{cache_marks, continuing};
use crate::api::{Call, Dialect, ReplyHead};
use crate::chat::begun::BegunReply;
use crate::chat::{self, Event, Prompt, ToolDefinition, Usage};
use crate::gateway::asked::About;
use crate::gateway::attempt::Original;
use crate::gateway::continuation::Handover;
use crate::gateway::door::{Gateway, Wanted};
use crate::gateway::fault::Fault;
use crate::gateway::protocol::Protocol;
use crate::gateway::relayed::{Interruption, Relayed, Step};
use crate::gateway::sessions::SessionKey;
use crate::gateway::sse_splitter::SseEvent;
use crate::gateway::takeover::Takeover;

/// The request in another protocol; `None`: it cannot be said there, or is none.
pub fn request<D: Dialect>(state: &AppState, body: &[u8], wanted: Wanted<'_>) -> Option<Bytes> {
    let call = D::parse_with(body, state.replies()).ok()?;
    match outgoing::write(outgoing_of(wanted.protocol)?, &call.request, wanted.model, call.stream) {
        Ok(mut body) => {
            if wanted.cache_marks && wanted.protocol == Protocol::AnthropicMessages {
                cache_marks::add(&mut body);
            }
            Some(Bytes::from(body.to_string()))
        }
        Err(cannot) => {
            tracing::debug!(%cannot, "this request is not asked in another protocol");
            None
        }
    }
}

pub fn outgoing_of(protocol: Protocol) -> Option<Outgoing> {
    match protocol {
        Protocol::AnthropicMessages => Some(Outgoing::AnthropicMessages),
        Protocol::OpenAiChat => Some(Outgoing::OpenAiChat),
        Protocol::OpenAiResponses => Some(Outgoing::OpenAiResponses),
        Protocol::OpenAiCompletions => None,
    }
}

/// Where a translated reply comes from.
pub struct Source {
    pub protocol: Protocol,
    pub gateway: Gateway,
    pub session: SessionKey,
    /// It lives as long as the reply.
    pub relay: Relay,
    /// For another cloud that may go on; `None`: none may.
    pub asker: Option<Arc<Asker>>,
}

/// What another cloud is told of who asks.
pub struct Asker {
    pub headers: HeaderMap,
    pub about: About,
    pub prefill: fn(&AppState, chat::Request) -> Prefill,
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

pub fn head(state: &AppState, model: &str, upstream: &str) -> ReplyHead {
    let model = if model.is_empty() { upstream } else { model };
    ReplyHead { id: random_name(), created_unix_s: state.now_unix_s(), model: model.to_owned(), choices: 1, prompt_tokens: 0 }
}

fn tools(request: &chat::Request) -> &[ToolDefinition] {
    match &request.prompts[..] {
        [Prompt::Conversation(conversation)] => &conversation.tools,
        _ => &[],
    }
}

type GoOn = Arc<dyn Fn(AppState, chat::Request) -> BoxFuture<'static, Result<Listener, ApiError>> + Send + Sync>;

/// Who goes on with a reply: another cloud, or the local model.
type GoesOn = Result<(Option<Arc<str>>, Listener), ApiError>;

/// The events of a reply from elsewhere.
pub struct Remote {
    state: AppState,
    source: Source,
    request: chat::Request,
    reader: Option<Reader>,
    ready: VecDeque<Event>,
    coming: Coming,
    usage: Usage,
    /// The local model's way to go on; `None`: nobody may.
    go_on: Option<GoOn>,
    /// Who broke off, why, who goes on and since when, until the next word.
    seam: Option<(Handover, Instant)>,
    /// Of a reply that another cloud began: white space that the client has and that may come once more.
    unshown: String,
    /// And what was counted of it.
    before: Option<Usage>,
}

enum Coming {
    Stream(Box<Relayed>),
    /// Somebody is asked to go on with it.
    Asked(Box<Asked>),
    /// The local model has taken over, or another cloud.
    Local(Box<Listener>),
    Nothing,
}

/// A reply that broke off or trickles, and the question who goes on with it. It stays asked, however often nobody waits for the answer.
struct Asked {
    relayed: Box<Relayed>,
    fault: Fault,
    /// It is still there, and better than nothing.
    trickles: bool,
    since: Instant,
    answer: BoxFuture<'static, GoesOn>,
}

impl Remote {
    fn new<D: Dialect>(state: AppState, call: &Call<D>, source: Source, coming: Coming) -> Self {
        let reader = outgoing_of(source.protocol).map(|protocol| Reader::new(protocol).with_tools(tools(&call.request)));
        let go_on: GoOn = Arc::new(|state, request| Box::pin(async move { go_on::<D>(&state, request).await }));
        let request = call.request.clone();
        let (ready, usage) = (VecDeque::new(), Usage::default());
        Self { state, source, request, reader, ready, coming, usage, go_on: Some(go_on), seam: None, unshown: String::new(), before: None }
    }

    /// The rest of a reply that another cloud began. Nobody goes on with this one: once is enough.
    pub fn continuing(state: AppState, source: Source, request: &chat::Request, relayed: Relayed, begun: &BegunReply) -> Self {
        Self {
            reader: outgoing_of(source.protocol).map(|protocol| Reader::new(protocol).with_tools(tools(request))),
            state,
            source,
            request: request.clone(),
            ready: VecDeque::new(),
            coming: Coming::Stream(Box::new(relayed)),
            usage: begun.usage,
            go_on: None,
            seam: None,
            unshown: continuing::unshown(begun).to_owned(),
            before: Some(Usage { completion_tokens: continuing::tokens_said(begun), ..begun.usage }),
        }
    }

    /// The next event; `None` when the reply has ended. Loses nothing when it is dropped half-way.
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
                    if let Some((handover, since)) = self.seam.take() {
                        self.source.gateway.note_takeover(&handover, Some(since.elapsed()));
                    }
                    return told;
                }
                Coming::Stream(relayed) => match relayed.next().await {
                    Step::Bytes(bytes) => self.read(bytes),
                    Step::Slow => self.trickles(),
                    Step::End => self.end(),
                    Step::Interrupted(interruption) => self.interrupted(interruption),
                },
                Coming::Asked(asked) => {
                    let answer = (&mut asked.answer).await;
                    self.answered(answer);
                }
            }
        }
    }

    fn read(&mut self, frame: Bytes) {
        let event = SseEvent::new(frame);
        let Some(data) = event.data().and_then(|data| std::str::from_utf8(data).ok()) else { return };
        let (Some(reader), data) = (&mut self.reader, data.to_owned()) else { return };
        let mut events = Vec::new();
        let read = reader.event(&data, &mut events);
        self.take(events);
        if let Err(error) = read {
            self.fail(error.to_string());
        }
    }

    fn end(&mut self) {
        let mut events = Vec::new();
        let ended = self.reader.as_mut().map_or(Ok(()), |reader| reader.finish(&mut events));
        self.take(events);
        match ended {
            Ok(()) => self.coming = Coming::Nothing,
            Err(error) => self.fail(error.to_string()),
        }
    }

    /// Events of the reply, as they follow what the client has.
    fn take(&mut self, events: Vec<Event>) {
        for mut event in events {
            match &mut event {
                Event::Text(delta) if !self.unshown.is_empty() => {
                    let again = delta.text.bytes().zip(self.unshown.bytes()).take_while(|(one, other)| one == other).count();
                    // White space may be longer than a byte, and half of one is another.
                    let again = (0..=again).rev().find(|at| delta.text.is_char_boundary(*at)).unwrap_or(0);
                    let is_over = again < delta.text.len();
                    delta.text.drain(..again);
                    self.unshown.drain(..if is_over { self.unshown.len() } else { again });
                }
                Event::Finished { usage, .. } => {
                    if let Some(before) = self.before {
                        *usage = whole_usage(before, *usage);
                    }
                }
                _ => {}
            }
            self.ready.push_back(event);
        }
    }

    fn fail(&mut self, message: String) {
        self.ready.push_back(Event::Failed(message));
        self.coming = Coming::Nothing;
    }

    /// Whoever is faster goes on with a text that trickles. Where nobody can, it is better than none.
    fn trickles(&mut self) {
        let Coming::Stream(relayed) = &mut self.coming else { return };
        match relayed.handed_over().zip(self.go_on.clone()) {
            Some((Interruption { fault, begun, .. }, go_on)) => self.ask(go_on, fault, true, begun),
            None => relayed.put_up_with(),
        }
    }

    fn interrupted(&mut self, interruption: Interruption) {
        let Interruption { fault, takeover, begun, .. } = interruption;
        match takeover {
            Takeover::Finish(frames) => {
                frames.into_iter().for_each(|frame| self.read(frame));
                self.end();
            }
            Takeover::InBandError(_) | Takeover::Abort => self.fail(format!("the upstream broke off ({})", fault.name())),
            Takeover::PlainSwitch | Takeover::ContinueText { .. } | Takeover::ContinueToolCall { .. } | Takeover::FreshText { .. } => {
                match (self.go_on.clone(), &self.coming) {
                    (Some(go_on), _) => self.ask(go_on, fault, false, begun),
                    // A reply is taken over once.
                    (None, Coming::Stream(relayed)) => {
                        let problem = "which went on with this reply, broke off as well";
                        self.fail(format!("{}, {problem} ({})", relayed.upstream(), fault.name()));
                    }
                    (None, _) => unreachable!("only a stream is interrupted"),
                }
            }
        }
    }

    /// Asks somebody to go on with what the client has of the stream.
    fn ask(&mut self, go_on: GoOn, fault: Fault, trickles: bool, begun: BegunReply) {
        let Coming::Stream(relayed) = std::mem::replace(&mut self.coming, Coming::Nothing) else {
            unreachable!("only a stream breaks off")
        };
        let Source { gateway, session, asker, .. } = &self.source;
        let (gateway, session, asker) = (gateway.clone(), *session, asker.clone());
        let (state, request, upstream) = (self.state.clone(), self.request.clone(), relayed.upstream().clone());
        let answer = Box::pin(async move {
            if let Some(Asker { headers, about, prefill }) = asker.as_deref() {
                let relay = state.relays().begin();
                let broken = BrokenOff { gateway: &gateway, upstream: &upstream, headers, about, session, prefill: *prefill, relay };
                if let Some((by, listener)) = by_another_cloud(&state, broken, &request, &begun).await {
                    return Ok((Some(by), listener));
                }
            }
            if !gateway.config().local {
                return Err(ApiError::new(ErrorKind::Unavailable, "the local model may not go on"));
            }
            go_on(state, chat::Request { begun: Some(begun), ..request }).await.map(|listener| (None, listener))
        });
        self.coming = Coming::Asked(Box::new(Asked { relayed, fault, trickles, since: Instant::now(), answer }));
    }

    fn answered(&mut self, answer: GoesOn) {
        let Coming::Asked(asked) = std::mem::replace(&mut self.coming, Coming::Nothing) else { unreachable!("who answers was asked") };
        let Asked { mut relayed, fault, trickles, since, .. } = *asked;
        let upstream = relayed.upstream().clone();
        match answer {
            Ok((by, listener)) => {
                if trickles {
                    relayed.leave(fault);
                }
                self.taken_over(Handover { upstream, fault, by }, since, listener);
            }
            Err(error) if trickles => {
                tracing::debug!(error = error.message.as_str(), "nobody can go on with a reply that trickles");
                relayed.put_up_with();
                self.coming = Coming::Stream(relayed);
            }
            Err(error) => {
                self.source.gateway.note_takeover(&Handover { upstream, fault, by: None }, None);
                tracing::warn!(error = error.message.as_str(), "the local model cannot go on with a translated reply");
                self.fail(format!("the upstream broke off ({}), and the local model cannot go on", fault.name()));
            }
        }
    }

    fn taken_over(&mut self, handover: Handover, since: Instant, listener: Listener) {
        self.source.gateway.taken_over(self.source.session, &handover);
        self.seam = Some((handover, since));
        self.coming = Coming::Local(Box::new(listener));
    }
}

/// Of a reply that two wrote. The second one counts what it was shown of the first as its prompt.
fn whole_usage(before: Usage, rest: Usage) -> Usage {
    let prompt = match before.prompt_tokens {
        0 => Usage { prompt_tokens: rest.prompt_tokens.saturating_sub(before.completion_tokens), ..rest },
        _ => before,
    };
    Usage {
        completion_tokens: before.completion_tokens + rest.completion_tokens,
        thinking_tokens: before.thinking_tokens + rest.thinking_tokens,
        ..prompt
    }
}
