//! One handler for all dialects: bytes to a request, the request to the engine, its tokens to events, the events to a stream or a
//! whole reply. Dropping the reply, or the handler while it waits, drops the token streams, and that cancels.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::poll_fn;
use futures_util::stream::unfold;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use super::body::HeldBody;
use super::request_id::{RequestId, random, random_name};
use super::request_log::{Outcome, RequestLog};
use super::status::check_model;
use super::{AppState, Phase, body, sse};
use crate::api::errors::{ApiError, ErrorKind, admission_error, prepare_error};
use crate::api::{Call, Dialect, Frame, KeepAlive, ReplyHead};
use crate::chat::output::{Flow, Output};
use crate::chat::prepare::{Job, Surroundings};
use crate::chat::reply::{Reply, total_usage};
use crate::chat::{Event, Usage};
use crate::engine::meters::SequenceClock;
use crate::engine::{TokenEvent, TokenStream};

/// Bodies from this size on are parsed and tokenized away from the threads that serve sockets: 4 KiB take about a millisecond.
const LARGE_BODY_BYTES: usize = 4 << 10;

/// `POST` of any dialect.
pub async fn generate<D: Dialect>(State(state): State<AppState>, Extension(id): Extension<RequestId>, request: Request) -> Response {
    let mut log = RequestLog::new(id.0, D::NAME);
    let span = log.span.clone();
    let begun = match begin::<D>(&state, request).instrument(span.clone()).await {
        Ok(begun) => begun,
        Err(error) => {
            log.outcome = Outcome::of(&error);
            return error.into_response();
        }
    };
    (log.stream, log.clocks) = (begun.stream, begun.choices.clocks());
    if begun.stream { begun.into_stream(state, log) } else { begun.into_whole(state, log).instrument(span).await }
}

/// A request that the engine has taken.
struct Begun<D> {
    dialect: D,
    head: ReplyHead,
    stream: bool,
    choices: Choices,
    choices_per_prompt: usize,
}

async fn begin<D: Dialect>(state: &AppState, request: Request) -> Result<Begun<D>, ApiError> {
    let (parts, body) = request.into_parts();
    // Cheap, and before the work: a server that is full says so at once.
    if let Err(error) = state.served().map_or(Ok(()), |served| served.engine.room()) {
        body::discard(body).await;
        return Err(admission_error(error, D::PROMPT_FIELD));
    }
    let body = body::read(&parts.headers, body, state.config(), state.bodies()).await?;
    if state.phase() != Phase::Serving {
        return Err(ApiError::draining());
    }
    let (call, jobs) = read_aside(state, body, prepare::<D>).await?;
    let served = state.served()?;
    let prompts = jobs.iter().step_by(call.request.choices_per_prompt.max(1));
    let head = ReplyHead {
        id: random_name(),
        created_unix_s: state.now_unix_s(),
        model: served.card.id.clone(),
        choices: jobs.len(),
        prompt_tokens: prompts.map(|job| job.generate.prompt.len()).sum(),
    };
    let mut choices = Choices::with_capacity(jobs.len());
    for Job { generate, output } in jobs {
        // When one is refused, those taken before it are dropped, and so cancelled.
        let tokens = served.engine.generate(generate).map_err(|error| admission_error(error, D::PROMPT_FIELD))?;
        choices.add(tokens, output);
    }
    Ok(Begun { dialect: call.dialect, head, stream: call.stream, choices, choices_per_prompt: call.request.choices_per_prompt })
}

/// Reads a body with `read`; a large one away from the threads that serve sockets, and few of them at once.
pub async fn read_aside<T: Send + 'static>(
    state: &AppState,
    body: HeldBody,
    read: fn(&AppState, &[u8]) -> Result<T, ApiError>,
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

fn prepare<D: Dialect>(state: &AppState, body: &[u8]) -> Result<(Call<D>, Vec<Job>), ApiError> {
    let call = D::parse(body)?;
    let served = state.served()?;
    check_model(state, call.model.as_deref(), &served.card.id)?;
    let config = served.engine.config();
    let (asked, at_once) = (call.request.prompts.len() * call.request.choices_per_prompt, config.sequences_max + config.queue_max);
    if asked > at_once {
        return Err(ApiError::invalid("n", format!("{asked} replies are asked for at once; this server can hold {at_once}")));
    }
    let prompt_tokens_max = served.engine.prompt_tokens_max();
    let surroundings = Surroundings { now_unix_s: state.now_unix_s(), random: random(), prompt_tokens_max };
    let jobs = served.text.prepare(&call.request, surroundings).map_err(|error| prepare_error(error, D::PROMPT_FIELD))?;
    Ok((call, jobs))
}

impl<D: Dialect> Begun<D> {
    async fn into_whole(mut self, state: AppState, mut log: RequestLog) -> Response {
        let folded = tokio::select! {
            folded = self.fold(&mut log) => folded,
            () = state.reached(Phase::CutOff) => Err(ApiError::draining()),
        };
        match folded {
            Ok(replies) => {
                let usages: Vec<Usage> = replies.iter().map(|reply| reply.usage).collect();
                log.usage = total_usage(&usages, self.choices_per_prompt);
                log.outcome = Outcome::Completed;
                Json(self.dialect.whole(&self.head, replies, log.usage)).into_response()
            }
            Err(error) => {
                log.outcome = Outcome::of(&error);
                error.into_response()
            }
        }
    }

    async fn fold(&mut self, log: &mut RequestLog) -> Result<Vec<Reply>, ApiError> {
        let mut replies = vec![Reply::default(); self.head.choices];
        while let Some((choice, event)) = self.choices.next().await {
            log.first_token_at = self.choices.first_token_at;
            replies[choice].push(event).map_err(|message| ApiError::engine_failed(&message))?;
        }
        Ok(replies)
    }

    fn into_stream(mut self, state: AppState, log: RequestLog) -> Response {
        let mut frames = Vec::new();
        self.dialect.open(&self.head, &mut frames);
        let usages = vec![Usage::default(); self.head.choices];
        let stream = EventStream { begun: self, state, log, usages, frames, over: false };
        sse::response(unfold(stream, |mut stream| async move {
            let span = stream.log.span.clone();
            stream.next_bytes().instrument(span).await.map(|bytes| (Ok::<_, Infallible>(bytes), stream))
        }))
    }
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
    async fn next_bytes(&mut self) -> Option<Bytes> {
        let silent_until = Instant::now() + self.state.config().keep_alive_interval;
        while self.frames.is_empty() {
            if self.over {
                return None;
            }
            tokio::select! {
                biased;
                event = self.begun.choices.next() => self.event(event),
                () = self.state.reached(Phase::CutOff) => self.fail(&ApiError::draining()),
                () = sleep_until(silent_until) => return Some(self.sign_of_life()),
            }
        }
        Some(sse::encode(&std::mem::take(&mut self.frames)))
    }

    fn event(&mut self, event: Option<(usize, Event)>) {
        let Begun { dialect, head, choices, choices_per_prompt, .. } = &mut self.begun;
        let Some((choice, event)) = event else {
            self.over = true;
            self.log.outcome = Outcome::Completed;
            return dialect.close(head, total_usage(&self.usages, *choices_per_prompt), &mut self.frames);
        };
        self.log.first_token_at = choices.first_token_at;
        match event {
            Event::Failed(message) => return self.fail(&ApiError::engine_failed(&message)),
            Event::Finished { usage, .. } => {
                self.usages[choice] = usage;
                self.log.usage = total_usage(&self.usages, *choices_per_prompt);
            }
            _ => {}
        }
        dialect.event(head, choice, event, &mut self.frames);
    }

    /// A stream that has begun can only say so and end: its status line is out.
    fn fail(&mut self, error: &ApiError) {
        self.over = true;
        self.log.outcome = Outcome::of(error);
        self.begun.choices.cancel();
        self.begun.dialect.fail(&self.begun.head, error, &mut self.frames);
    }

    fn sign_of_life(&mut self) -> Bytes {
        match self.begun.dialect.keep_alive(&self.begun.head) {
            KeepAlive::Comment => sse::COMMENT,
            KeepAlive::Frame(frame) => sse::encode(&[frame]),
        }
    }
}

/// The choices of one reply, generated at the same time.
struct Choices {
    choices: Vec<Choice>,
    /// Events made and not yet taken.
    ready: VecDeque<(usize, Event)>,
    /// Whom to ask first, so that each gets its turn.
    turn: usize,
    /// When the engine's first token came, which is before the first event where text is held back.
    first_token_at: Option<std::time::Instant>,
}

struct Choice {
    /// `None`: it has ended.
    tokens: Option<TokenStream>,
    output: Output,
}

impl Choices {
    fn with_capacity(choices: usize) -> Self {
        Self { choices: Vec::with_capacity(choices), ready: VecDeque::new(), turn: 0, first_token_at: None }
    }

    fn add(&mut self, tokens: TokenStream, mut output: Output) {
        let mut events = Vec::new();
        output.open(&mut events);
        let index = self.choices.len();
        self.ready.extend(events.into_iter().map(|event| (index, event)));
        self.choices.push(Choice { tokens: Some(tokens), output });
    }

    fn clocks(&self) -> Vec<SequenceClock> {
        self.choices.iter().filter_map(|choice| choice.tokens.as_ref()).map(TokenStream::clock).collect()
    }

    /// Ends all that still run.
    fn cancel(&mut self) {
        self.choices.iter_mut().for_each(|choice| choice.tokens = None);
        self.ready.clear();
    }

    /// The next event of any choice; `None` when all have ended.
    async fn next(&mut self) -> Option<(usize, Event)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let (index, token) = self.next_token().await?;
            if matches!(token, Some(TokenEvent::Token(_))) {
                self.first_token_at.get_or_insert_with(std::time::Instant::now);
            }
            let events = self.choices[index].take(token);
            self.ready.extend(events.into_iter().map(|event| (index, event)));
        }
    }

    /// Polls every running stream; the future of a stream is made anew each time, which loses nothing: it only receives.
    async fn next_token(&mut self) -> Option<(usize, Option<TokenEvent>)> {
        let count = self.choices.len();
        poll_fn(|context| {
            let mut running = false;
            for offset in 0..count {
                let index = (self.turn + offset) % count;
                let Some(tokens) = &mut self.choices[index].tokens else { continue };
                running = true;
                if let Poll::Ready(event) = pin!(tokens.next()).poll(context) {
                    self.turn = (index + 1) % count;
                    return Poll::Ready(Some((index, event)));
                }
            }
            if running { Poll::Pending } else { Poll::Ready(None) }
        })
        .await
    }
}

impl Choice {
    fn take(&mut self, token: Option<TokenEvent>) -> Vec<Event> {
        let mut events = Vec::new();
        match token {
            Some(TokenEvent::Token(token)) => {
                let cached_tokens = self.tokens.as_ref().map_or(0, TokenStream::cached_tokens);
                if self.output.push(&token, cached_tokens, &mut events) == Flow::Done
                    && let Some(tokens) = self.tokens.take()
                {
                    tokens.finish();
                }
            }
            Some(TokenEvent::Finished { reason, usage }) => {
                self.tokens = None;
                self.output.finish(reason, usage, &mut events);
            }
            None => {
                self.tokens = None;
                events.push(Event::Failed("the engine stopped in the middle of the reply".to_owned()));
            }
        }
        events
    }
}
