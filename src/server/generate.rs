//! One handler for all dialects: bytes to a request, the request to the engine, its tokens to events, the events to a stream or a
//! whole reply. Dropping the reply, or the handler while it waits, drops the token streams, and that cancels.

use std::future::ready;
use std::pin::Pin;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{Stream, unfold};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::Instrument;

use super::body::HeldBody;
use super::choices::{Choices, Told};
use super::reply_store::Registration;
use super::request_id::{RequestId, random, random_name};
use super::request_log::{Outcome, RequestLog};
use super::run::{Identity, Listener, RunKey};
use super::status::check_model;
use super::{AppState, Phase, body, load_headers, sse};
use crate::api::errors::{ApiError, ErrorKind, admission_error, prepare_error_of};
use crate::api::{Call, Dialect, Frame, KeepAlive, ReplyHead};
use crate::chat::begun::BegunReply;
use crate::chat::prepare::{Job, Surroundings};
use crate::chat::reply::{Reply, total_usage};
use crate::chat::{self, Event, FinishReason, OutputFormat, Usage};
use crate::engine::Admission;

/// Bodies from this size on are parsed and tokenized away from the threads that serve sockets: 4 KiB take about a millisecond.
const LARGE_BODY_BYTES: usize = 4 << 10;
/// Of a stream's events that are there together, so many go out before it is looked whether somebody has cancelled it.
const FRAMES_AT_ONCE: usize = 64;

/// `POST` of any dialect, answered by the local model.
pub async fn generate<D: Dialect>(State(state): State<AppState>, Extension(id): Extension<RequestId>, request: Request) -> Response {
    let mut log = RequestLog::new(id.0, D::NAME);
    let (parts, body) = request.into_parts();
    // Cheap, and before the work: a server that is full says so at once, but to one who may be asking again for what is running.
    let room = state.served().map_or(Ok(()), |served| served.engine.room());
    if let (Err(error), None) = (room, &Identity::of(&parts.headers)) {
        body::discard(body).await;
        let error = admission_error(error, D::PROMPT_FIELD);
        log.outcome = Outcome::of(&error);
        let mut response = error.into_response();
        load_headers::add(&state, response.headers_mut());
        return response;
    }
    match body::read(&parts.headers, body, state.config(), state.bodies()).await {
        Ok(body) => answer::<D>(state, &parts.headers, body, log, Opening::default()).await,
        Err(error) => {
            log.outcome = Outcome::of(&error);
            error.into_response()
        }
    }
}

/// What happens when the local model says its first word in somebody's place.
#[derive(Default)]
pub struct Opening {
    /// Asked for the line that opens its text, if it is to be text.
    pub notice: Option<Box<dyn FnOnce() -> Option<String> + Send>>,
    /// Is called then.
    pub first_word: Option<Box<dyn FnOnce() + Send>>,
}

impl Opening {
    fn at(&mut self, event: &mut Event) {
        if matches!(event, Event::Text(_) | Event::Thinking(_) | Event::ToolCallStarted { .. })
            && let Some(tell) = self.first_word.take()
        {
            tell();
        }
        if let Event::Text(delta) = event
            && let Some(notice) = self.notice.take().and_then(|ask| ask())
        {
            delta.text.insert_str(0, &format!("{notice}\n\n"));
        }
    }
}

/// The local model's answer to a request whose body is there.
pub async fn answer<D: Dialect>(state: AppState, headers: &HeaderMap, body: HeldBody, mut log: RequestLog, opening: Opening) -> Response {
    let span = log.span.clone();
    let mut response = match begin::<D>(&state, headers, body).instrument(span.clone()).await {
        Ok(begun) => {
            let notice = opening.notice.filter(|_| begun.is_free_text);
            let begun = Begun { opening: Opening { notice, ..opening }, ..begun };
            (log.stream, log.joined, log.clocks) = (begun.stream, begun.joined, begun.reply.clocks());
            if begun.stream { begun.into_stream(state.clone(), log) } else { begun.into_whole(state.clone(), log).instrument(span).await }
        }
        Err(error) => {
            log.outcome = Outcome::of(&error);
            error.into_response()
        }
    };
    load_headers::add(&state, response.headers_mut());
    response
}

/// A reply that somebody else has begun, and who goes on with it.
pub struct Rest {
    pub begun: BegunReply,
    /// Another cloud; `None`: the local model.
    pub by: Option<Listener>,
}

/// The rest of a reply as bytes of the stream that the client has been reading. Whether the call names this model is not asked.
pub async fn begin_with<D: Dialect>(
    state: &AppState,
    mut call: Call<D>,
    Rest { begun, by }: Rest,
    mut log: RequestLog,
) -> Result<impl Stream<Item = Bytes> + Send + use<D>, CannotGoOn> {
    assert!(D::resumes(), "{} resumes nothing", D::NAME);
    let (lacks_only_its_end, usage) = (begun.lacks_only_its_end(), begun.usage);
    call.dialect.resume(&begun);
    call.request.begun = Some(begun);
    let reply = match by {
        Some(by) => Ok(by),
        None if lacks_only_its_end => head(state, &[], 1).map(|head| Listener::Gone { head }),
        None => go_on::<D>(state, call.request).await,
    };
    let mut frames = Vec::new();
    let reply = reply.map_err(|error| {
        log.outcome = Outcome::of(&error);
        // What of a head a failure tells is the begun reply's.
        call.dialect.fail(&ReplyHead::default(), &error, &mut frames);
        CannotGoOn { error, told: sse::encode(&frames) }
    })?;
    (log.stream, log.clocks) = (true, reply.clocks());
    let registration = call.dialect.record(reply.head()).map(|record| state.replies().begin_of_upstream(record));
    let mut begun = Begun::from_elsewhere(call.dialect, true, reply, registration);
    let mut frames = Vec::new();
    if lacks_only_its_end {
        let finished = Event::Finished { reason: FinishReason::ToolCalls, usage };
        begun.dialect.event(begun.reply.head(), 0, finished, &mut frames);
    }
    Ok(EventStream { begun, state: state.clone(), log, usages: vec![usage], frames, over: false }.into_bytes())
}

/// A reply that somebody else has begun ends where it is.
#[derive(Debug)]
pub struct CannotGoOn {
    pub error: ApiError,
    /// The same as the client's stream says it.
    pub told: Bytes,
}

/// The local model, from where a request's begun reply ends.
pub async fn go_on<D: Dialect>(state: &AppState, request: chat::Request) -> Result<Listener, ApiError> {
    let turn = state.turn_to_prepare().await;
    let aside = state.clone();
    let task = tokio::task::spawn_blocking(move || {
        let jobs = jobs::<D>(&aside, &request);
        drop(turn);
        jobs
    });
    let jobs =
        task.await.map_err(|_| ApiError::new(ErrorKind::Internal, "the server failed to go on with this reply; its log says why"))??;
    let mut admissions = Vec::with_capacity(jobs.len());
    let (head, choices) = submit::<D>(state, jobs, 1, &mut admissions)?;
    for admission in admissions {
        admission.decided().await.map_err(|error| admission_error(error, D::PROMPT_FIELD))?;
    }
    Ok(Listener::Alone { head, choices })
}

/// A reply that comes from elsewhere, in the client's dialect.
pub async fn respond<D: Dialect>(state: AppState, call: Call<D>, reply: Listener, mut log: RequestLog) -> Response {
    log.stream = call.stream;
    let span = log.span.clone();
    let registration = call.dialect.record(reply.head()).map(|record| state.replies().begin(record));
    let Call { dialect, stream, .. } = call;
    let begun = Begun::from_elsewhere(dialect, stream, reply, registration);
    if stream { begun.into_stream(state, log) } else { begun.into_whole(state, log).instrument(span).await }
}

/// A request that the engine has taken.
struct Begun<D> {
    dialect: D,
    stream: bool,
    /// Somebody had asked for it already.
    joined: bool,
    reply: Listener,
    /// `None`: the reply cannot be asked for by an id.
    registration: Option<Registration>,
    choices_per_prompt: usize,
    is_free_text: bool,
    opening: Opening,
}

async fn begin<D: Dialect>(state: &AppState, headers: &HeaderMap, body: HeldBody) -> Result<Begun<D>, ApiError> {
    let identity = Identity::of(headers);
    if state.phase() != Phase::Serving {
        return Err(ApiError::draining());
    }
    let prepared = read_aside(state, body, move |state, body| prepare::<D>(state, body, identity.as_ref())).await?;
    let Prepared { call, jobs, key } = prepared;
    let mut admissions = Vec::with_capacity(jobs.len());
    let submit = || submit::<D>(state, jobs, call.request.choices_per_prompt, &mut admissions);
    let (reply, joined) = match key {
        Some(key) => state.runs().join_or_begin(key, submit)?,
        None => {
            let (head, choices) = submit()?;
            (Listener::Alone { head, choices }, false)
        }
    };
    // When one is refused, the reply is dropped, and so the others are cancelled. Who joins asked nothing of the engine.
    for admission in admissions {
        admission.decided().await.map_err(|error| admission_error(error, D::PROMPT_FIELD))?;
    }
    // A first token that is there once others had their turn goes out in one piece with the opening.
    tokio::task::yield_now().await;
    let choices_per_prompt = call.request.choices_per_prompt;
    let registration = call.dialect.record(reply.head()).map(|record| state.replies().begin(record));
    // A line of ours would be no JSON, and log-probabilities are counted by characters.
    let is_free_text = call.request.output_format == OutputFormat::Text && call.request.top_logprobs.is_none();
    Ok(Begun {
        dialect: call.dialect,
        stream: call.stream,
        joined,
        reply,
        registration,
        choices_per_prompt,
        is_free_text,
        opening: Opening::default(),
    })
}

/// A request as it goes to the engine.
struct Prepared<D> {
    call: Call<D>,
    jobs: Vec<Job>,
    /// `None`: nobody can ask for it again.
    key: Option<RunKey>,
}

/// Reads a body with `read`; a large one away from the threads that serve sockets, and few of them at once.
pub async fn read_aside<T: Send + 'static>(
    state: &AppState,
    body: HeldBody,
    read: impl FnOnce(&AppState, &[u8]) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if body.bytes.len() < LARGE_BODY_BYTES {
        return read(state, &body.bytes);
    }
    let turn = state.turn_to_prepare().await;
    let state = state.clone();
    let task = tokio::task::spawn_blocking(move || {
        let value = read(&state, &body.bytes);
        drop(turn);
        value
    });
    task.await.map_err(|_| ApiError::new(ErrorKind::Internal, "the server failed to read this request; its log says why"))?
}

fn prepare<D: Dialect>(state: &AppState, body: &[u8], identity: Option<&Identity>) -> Result<Prepared<D>, ApiError> {
    let call = D::parse_with(body, state.replies())?;
    check_model(state, call.model.as_deref(), &state.served()?.card.id)?;
    let jobs = jobs::<D>(state, &call.request)?;
    let key = identity.map(|identity| identity.key(D::NAME, &call.request));
    Ok(Prepared { call, jobs, key })
}

/// Reads the prompts of a request for nobody: what is computed of them stays in the cache. `None`: the engine has no room for it, or it
/// cannot be read.
pub fn read_prompts<D: Dialect>(state: &AppState, request: &chat::Request) -> Option<Choices> {
    let jobs = jobs::<D>(state, request).ok()?;
    submit::<D>(state, jobs, request.choices_per_prompt, &mut Vec::new()).ok().map(|(_, choices)| choices)
}

fn jobs<D: Dialect>(state: &AppState, request: &chat::Request) -> Result<Vec<Job>, ApiError> {
    let served = state.served()?;
    let config = served.engine.config();
    let (asked, at_once) = (request.prompts.len() * request.choices_per_prompt, config.sequences_max + config.queue_max);
    if asked > at_once {
        return Err(ApiError::invalid("n", format!("{asked} replies are asked for at once; this server can hold {at_once}")));
    }
    let prompt_tokens_max = served.engine.prompt_tokens_max();
    let surroundings = Surroundings { now_unix_s: state.now_unix_s(), random: random(), prompt_tokens_max };
    served.text.prepare(request, surroundings).map_err(prepare_error_of::<D>)
}

fn submit<D: Dialect>(
    state: &AppState,
    jobs: Vec<Job>,
    choices_per_prompt: usize,
    admissions: &mut Vec<Admission>,
) -> Result<(ReplyHead, Choices), ApiError> {
    let served = state.served()?;
    let head = head(state, &jobs, choices_per_prompt)?;
    let mut choices = Choices::with_capacity(jobs.len());
    for Job { generate, output } in jobs {
        // When one is refused, those taken before it are dropped, and so cancelled.
        let mut tokens = served.engine.generate(generate).map_err(|error| admission_error(error, D::PROMPT_FIELD))?;
        admissions.push(tokens.admission());
        choices.add(tokens, output);
    }
    Ok((head, choices))
}

fn head(state: &AppState, jobs: &[Job], choices_per_prompt: usize) -> Result<ReplyHead, ApiError> {
    let prompts = jobs.iter().step_by(choices_per_prompt.max(1));
    Ok(ReplyHead {
        id: random_name(),
        created_unix_s: state.now_unix_s(),
        model: state.served()?.card.id.clone(),
        choices: jobs.len(),
        prompt_tokens: prompts.map(|job| job.generate.prompt.len()).sum(),
    })
}

impl<D: Dialect> Begun<D> {
    /// A reply of one choice that the engine did not begin for this request alone.
    fn from_elsewhere(dialect: D, stream: bool, reply: Listener, registration: Option<Registration>) -> Self {
        let opening = Opening::default();
        Self { dialect, stream, joined: false, reply, registration, choices_per_prompt: 1, is_free_text: false, opening }
    }

    /// The reply when it is there. One that takes long is begun before: with spaces, which JSON allows before a value, so that nobody on
    /// the way takes the connection for dead.
    async fn into_whole(self, state: AppState, log: RequestLog) -> Response {
        let interval = state.config().keep_alive_interval;
        let mut whole: Pin<Box<dyn Future<Output = Result<Bytes, ApiError>> + Send>> = Box::pin(self.whole(state, log));
        match timeout(interval, &mut whole).await {
            Ok(Ok(json)) => json_response(Body::from(json)),
            Ok(Err(error)) => error.into_response(),
            Err(_) => {
                let first = Bytes::from_static(b" ");
                let stream = unfold((Some(whole), Some(first)), move |(whole, space)| async move {
                    let mut whole = whole?;
                    if let Some(space) = space {
                        return Some((Ok(space), (Some(whole), None)));
                    }
                    match timeout(interval, &mut whole).await {
                        Ok(Ok(json)) => Some((Ok(json), (None, None))),
                        // The status line said 200: to break off is the one way left to say that this is no reply.
                        Ok(Err(error)) => Some((Err(std::io::Error::other(error.message)), (None, None))),
                        Err(_) => Some((Ok(Bytes::from_static(b" ")), (Some(whole), None))),
                    }
                });
                json_response(Body::from_stream(stream))
            }
        }
    }

    async fn whole(mut self, state: AppState, mut log: RequestLog) -> Result<Bytes, ApiError> {
        let mut registration = self.registration.take();
        let folded = tokio::select! {
            folded = self.fold(&mut log) => folded,
            () = cancelled(&mut registration) => Err(ApiError::cancelled()),
            () = state.reached(Phase::CutOff) => Err(ApiError::draining()),
        };
        let replies = folded.inspect_err(|error| log.outcome = Outcome::of(error))?;
        let usages: Vec<Usage> = replies.iter().map(|reply| reply.usage).collect();
        log.usage = total_usage(&usages, self.choices_per_prompt);
        log.outcome = Outcome::Completed;
        let whole = self.dialect.whole(self.reply.head(), replies, log.usage);
        if let Some(registration) = &registration {
            registration.finish(|| whole.clone());
        }
        Ok(Bytes::from(whole))
    }

    async fn fold(&mut self, log: &mut RequestLog) -> Result<Vec<Reply>, ApiError> {
        let mut replies = vec![Reply::default(); self.reply.head().choices];
        while let Some(Told { choice, mut event, first_token_at, .. }) = self.reply.next().await {
            log.first_token_at = first_token_at;
            self.opening.at(&mut event);
            replies[choice].push(event).map_err(|message| ApiError::engine_failed(&message))?;
        }
        Ok(replies)
    }

    /// What the stream has come to is what is kept of it.
    fn keep(&self) {
        let so_far = || self.dialect.so_far(self.reply.head()).expect("a dialect that told of the reply's beginning tells of its end");
        if let Some(registration) = &self.registration {
            registration.finish(so_far);
        }
    }

    fn into_stream(mut self, state: AppState, log: RequestLog) -> Response {
        let mut frames = Vec::new();
        self.dialect.open(self.reply.head(), &mut frames);
        let usages = vec![Usage::default(); self.reply.head().choices];
        sse::response(EventStream { begun: self, state, log, usages, frames, over: false }.into_bytes())
    }
}

/// Completes when somebody has cancelled the reply by its id.
async fn cancelled(registration: &mut Option<Registration>) {
    match registration {
        Some(registration) => registration.cancelled().await,
        None => std::future::pending().await,
    }
}

fn json_response(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A reply that is being streamed.
struct EventStream<D> {
    begun: Begun<D>,
    state: AppState,
    log: RequestLog,
    usages: Vec<Usage>,
    /// Made and not yet sent.
    frames: Vec<Frame>,
    over: bool,
}

impl<D: Dialect> EventStream<D> {
    fn into_bytes(self) -> impl Stream<Item = Bytes> + Send + use<D> {
        // Boxed, since it changes hands twice an item.
        unfold(Box::new(self), |mut stream| async move {
            let span = stream.log.span.clone();
            stream.next_bytes().instrument(span).await.map(|bytes| (bytes, stream))
        })
    }

    async fn next_bytes(&mut self) -> Option<Bytes> {
        let silent_until = Instant::now() + self.state.config().keep_alive_interval;
        while self.frames.is_empty() {
            if self.over {
                return None;
            }
            tokio::select! {
                biased;
                () = cancelled(&mut self.begun.registration) => self.fail(&ApiError::cancelled()),
                told = self.begun.reply.next() => self.told(told),
                () = self.state.reached(Phase::CutOff) => self.fail(&ApiError::draining()),
                () = sleep_until(silent_until) => return Some(self.sign_of_life()),
            }
        }
        // What is there already goes out with it.
        while !self.over && self.frames.len() < FRAMES_AT_ONCE {
            tokio::select! {
                biased;
                told = self.begun.reply.next() => self.told(told),
                () = ready(()) => break,
            }
        }
        let bytes = sse::encode(&self.frames);
        self.frames.clear();
        Some(bytes)
    }

    fn told(&mut self, told: Option<Told>) {
        let Begun { dialect, reply, choices_per_prompt, opening, .. } = &mut self.begun;
        let Some(Told { choice, mut event, usage, first_token_at }) = told else {
            self.over = true;
            self.log.outcome = Outcome::Completed;
            dialect.close(reply.head(), total_usage(&self.usages, *choices_per_prompt), &mut self.frames);
            return self.begun.keep();
        };
        self.log.first_token_at = first_token_at;
        match event {
            Event::Failed(message) => return self.fail(&ApiError::engine_failed(&message)),
            Event::Finished { usage, .. } => {
                self.usages[choice] = usage;
                self.log.usage = total_usage(&self.usages, *choices_per_prompt);
            }
            _ => {}
        }
        opening.at(&mut event);
        dialect.progress(choice, usage);
        dialect.event(reply.head(), choice, event, &mut self.frames);
    }

    /// A stream that has begun can only say so and end: its status line is out.
    fn fail(&mut self, error: &ApiError) {
        self.over = true;
        self.log.outcome = Outcome::of(error);
        self.begun.reply.leave();
        self.begun.dialect.fail(self.begun.reply.head(), error, &mut self.frames);
        self.begun.keep();
    }

    fn sign_of_life(&mut self) -> Bytes {
        match self.begun.dialect.keep_alive(self.begun.reply.head()) {
            KeepAlive::Comment => sse::COMMENT,
            KeepAlive::Frame(frame) => sse::encode(&[frame]),
        }
    }
}
