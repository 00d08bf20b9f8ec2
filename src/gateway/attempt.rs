//! One attempt at one upstream: the request goes out, and nothing is promised to the client before the reply has content. Whatever fails
//! until then is told to the caller, who may ask somebody else.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body_util::Full;
use tokio::time::{Instant, sleep_until, timeout};

use super::classify::{self, Expected, Head, ReplyKind, Verdict};
use super::fault::Fault;
use super::hold::{Hold, HoldLimits};
use super::journal::line::Evidence;
use super::pace::{Floor, Pace};
use super::protocol::Protocol;
use super::sse_splitter::{EVENT_BYTES_MAX, SseSplitter};
use super::tap::whole::{Whole, fold_whole};
use super::tap::{ContentKind, Tap, Told};
use super::upstream::{Reply, Upstream};

/// Of an error, or of a reply that is not streamed. More is held for nobody.
const ERROR_BYTES_MAX: usize = 1 << 20;
const WHOLE_BYTES_MAX: usize = 64 << 20;
/// Of a token, roughly: only a speed is made of it.
const BYTES_PER_TOKEN: f64 = 4.0;
/// How long the body of an error may take.
const ERROR_BODY_LIMIT: Duration = Duration::from_secs(2);

/// A reply as it came, whole.
#[derive(Debug, Clone)]
pub struct Original {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Original {
    /// The upstream asks that nobody tries again, as its own clients understand it.
    pub fn forbids_retries(&self) -> bool {
        self.headers.get("x-should-retry").is_some_and(|value| value == "false")
    }

    /// For a letter to the upstream's support.
    pub fn evidence(&self) -> Evidence {
        let name = |name: &str| self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Evidence { status: Some(self.status), request_id: name("request-id").or_else(|| name("x-request-id")) }
    }
}

/// What became of an attempt.
#[derive(Debug)]
pub enum Attempted {
    /// A stream that has content: it is the client's from now on.
    Stream(Box<Committed>),
    /// A whole reply. `whole`: what stands in it, where it was looked at.
    Whole {
        original: Original,
        whole: Option<Whole>,
    },
    /// The client's own mistake, a refusal: nobody else is asked.
    Clients(Original),
    /// Too long for this upstream's model.
    ContextTooLong(Original),
    Failed {
        fault: Fault,
        retry_after: Option<Duration>,
        original: Option<Original>,
    },
}

/// A stream from its first content on.
#[derive(Debug)]
pub struct Committed {
    pub status: u16,
    pub headers: HeaderMap,
    pub reply: Reply,
    /// `None`: the bytes are encoded in a way that is not read here, and go through as they are.
    pub reading: Option<Reading>,
    /// Events that the client has not been given.
    pub held: Vec<Bytes>,
    pub first_content_after: Duration,
    pub content: ContentKind,
}

/// What follows a stream.
#[derive(Debug)]
pub struct Reading {
    pub splitter: SseSplitter,
    pub tap: Tap,
}

/// What bounds an attempt, and who is told while it lasts.
pub struct Patience<'a> {
    /// Until the first content, from now on.
    pub first_content: Duration,
    pub whole_reply: Duration,
    /// Of the body of a whole reply, from its first byte on.
    pub whole_reply_floor: Floor,
    /// When it is time to prepare somebody else; `None`: that was said, or there is nobody.
    pub slow_at: Option<Instant>,
    pub slow: &'a mut (dyn FnMut() + Send),
}

impl Patience<'_> {
    /// Lets time pass before another attempt. It is part of what the client waits for.
    pub async fn pass(&mut self, time: Duration) {
        // Nothing but the time ends it.
        let _ = self.wait(Instant::now() + time, std::future::pending::<()>()).await;
    }

    /// The future's value, unless the deadline comes first.
    async fn wait<T>(&mut self, deadline: Instant, future: impl Future<Output = T>) -> Result<T, Fault> {
        tokio::pin!(future);
        loop {
            let slow_at = self.slow_at;
            tokio::select! {
                biased;
                value = &mut future => return Ok(value),
                () = sleep_until(deadline) => return Err(Fault::FirstContentLimit),
                () = sleep_until(slow_at.unwrap_or(deadline)), if slow_at.is_some() => {
                    self.slow_at = None;
                    (self.slow)();
                }
            }
        }
    }
}

/// What is asked, as far as the reply's reading depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Reads {
    pub protocol: Protocol,
    pub stream: bool,
    pub now_unix_s: u64,
}

pub async fn attempt(upstream: &Upstream, request: http::Request<Full<Bytes>>, reads: Reads, patience: &mut Patience<'_>) -> Attempted {
    let started = Instant::now();
    let limit = if reads.stream { patience.first_content } else { patience.whole_reply };
    match opened(upstream, request, reads, patience, started, started + limit).await {
        Ok(attempted) => attempted,
        // Of a reply in one piece the first content is the last.
        Err(Fault::FirstContentLimit) if !reads.stream => {
            Attempted::Failed { fault: Fault::WholeReplyLimit, retry_after: None, original: None }
        }
        Err(fault) => Attempted::Failed { fault, retry_after: None, original: None },
    }
}

async fn opened(
    upstream: &Upstream,
    request: http::Request<Full<Bytes>>,
    reads: Reads,
    patience: &mut Patience<'_>,
    started: Instant,
    deadline: Instant,
) -> Result<Attempted, Fault> {
    let reply = patience.wait(deadline, upstream.send(request)).await??;
    let is_success = (200..300).contains(&reply.status);
    if !is_success || !looks_right(&reply.headers, reads.stream) {
        return Ok(Box::pin(failed(upstream, reply, reads)).await);
    }
    if !reads.stream {
        return whole(upstream, reply, reads, patience, deadline).await;
    }
    committed(upstream, reply, reads, patience, started, deadline).await
}

/// Whether the head of a success announces what was asked for.
fn looks_right(headers: &HeaderMap, stream: bool) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim();
    if stream { kind.eq_ignore_ascii_case("text/event-stream") } else { kind.eq_ignore_ascii_case("application/json") }
}

/// Anything that is no success, and successes that are something else.
async fn failed(upstream: &Upstream, mut reply: Reply, reads: Reads) -> Attempted {
    // What an error says is worth a moment, not more: it may be the very thing that hangs.
    let body = match timeout(ERROR_BODY_LIMIT, read_all(&mut reply, ERROR_BYTES_MAX)).await {
        Ok(Ok(body)) => body,
        _ => Bytes::new(),
    };
    let original = Original { status: reply.status, headers: std::mem::take(&mut reply.headers), body };
    let head = Head { status: original.status, headers: &original.headers, body_start: &original.body, body_ended: true };
    let expected = if reads.stream { Expected::Stream } else { Expected::Json };
    let (verdict, is_page) = (classify::classify(&head, expected, reads.now_unix_s), classify::is_page(&head));
    // A server that fails may have answered before it read the request, and be deaf to what comes on this connection.
    if original.status < 500 {
        upstream.keep(reply);
    }
    match verdict {
        // A success whose head was not right, and a body that was: there is nobody to relay it to.
        Verdict::Relay(ReplyKind::Success) => Attempted::Failed { fault: Fault::NotTheApi, retry_after: None, original: None },
        Verdict::Relay(_) => Attempted::Clients(original),
        Verdict::ContextTooLong => Attempted::ContextTooLong(original),
        Verdict::Failed { fault, retry_after } => {
            // A page is no answer to anybody.
            let original = Some(original).filter(|_| fault != Fault::NotTheApi && !is_page);
            Attempted::Failed { fault, retry_after, original }
        }
    }
}

async fn whole(
    upstream: &Upstream,
    mut reply: Reply,
    reads: Reads,
    patience: &mut Patience<'_>,
    deadline: Instant,
) -> Result<Attempted, Fault> {
    let body = at_a_pace(&mut reply, patience, deadline).await?;
    let original = Original { status: reply.status, headers: std::mem::take(&mut reply.headers), body };
    let whole = if is_encoded(&original.headers) { None } else { Some(fold_whole(reads.protocol, &original.body)?) };
    upstream.keep(reply);
    Ok(Attempted::Whole { original, whole })
}

/// The body of a whole reply. One that has begun and then trickles is given up: the client has nothing of it.
async fn at_a_pace(reply: &mut Reply, patience: &mut Patience<'_>, deadline: Instant) -> Result<Bytes, Fault> {
    let began = Instant::now();
    let mut pace: Option<Pace> = None;
    let mut body = BytesMut::new();
    loop {
        let slow = pace.and_then(|pace| pace.deadline()).map(|slow| began + slow).filter(|slow| *slow < deadline);
        let waited = patience.wait(slow.unwrap_or(deadline), reply.next()).await;
        let waited = waited.map_err(|limit| if slow.is_some() { Fault::TooSlow } else { limit });
        let Some(bytes) = waited?? else { return Ok(body.freeze()) };
        if body.len() + bytes.len() > WHOLE_BYTES_MAX {
            return Err(Fault::TooLarge);
        }
        body.extend_from_slice(&bytes);
        // White space before a reply only keeps the connection open.
        let said = bytes.iter().filter(|byte| !byte.is_ascii_whitespace()).count();
        if said > 0 {
            let now = began.elapsed();
            pace.get_or_insert_with(|| Pace::new(patience.whole_reply_floor, now)).add(said as f64 / BYTES_PER_TOKEN, now);
        }
    }
}

async fn committed(
    upstream: &Upstream,
    mut reply: Reply,
    reads: Reads,
    patience: &mut Patience<'_>,
    started: Instant,
    deadline: Instant,
) -> Result<Attempted, Fault> {
    let (status, headers) = (reply.status, std::mem::take(&mut reply.headers));
    if is_encoded(&headers) {
        let held = patience.wait(deadline, reply.next()).await??.ok_or(Fault::Cut)?;
        let (first_content_after, content) = (started.elapsed(), ContentKind::Other);
        let committed = Committed { status, headers, reply, reading: None, held: vec![held], first_content_after, content };
        return Ok(Attempted::Stream(Box::new(committed)));
    }
    let mut reading = Reading { splitter: SseSplitter::new(EVENT_BYTES_MAX), tap: Tap::new(reads.protocol) };
    let mut hold = Hold::new(HoldLimits::default());
    loop {
        while let Some(event) = reading.splitter.next_event()? {
            let told = reading.tap.event(&event);
            if let Told::Error { fault, retry_after } = told {
                upstream.keep(reply);
                return Ok(Attempted::Failed { fault, retry_after, original: None });
            }
            if let Some(held) = hold.push(event.raw().clone(), &told) {
                let content = if let Told::Content(content) = told { content } else { ContentKind::Other };
                let first_content_after = started.elapsed();
                let committed = Committed { status, headers, reply, reading: Some(reading), held, first_content_after, content };
                return Ok(Attempted::Stream(Box::new(committed)));
            }
        }
        match patience.wait(deadline, reply.next()).await?? {
            Some(bytes) => reading.splitter.push(bytes),
            // A stream that ends before it has said anything.
            None => return Err(Fault::Cut),
        }
    }
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity")
}

async fn read_all(reply: &mut Reply, bytes_max: usize) -> Result<Bytes, Fault> {
    let mut body = BytesMut::new();
    while let Some(bytes) = reply.next().await? {
        if body.len() + bytes.len() > bytes_max {
            return Err(Fault::TooLarge);
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body.freeze())
}
