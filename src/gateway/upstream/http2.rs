//! HTTP/2: one connection for many requests at once.
//!
//! A connection says itself when it takes no more (GOAWAY), and a request that it did not begin may go out again; whatever else ends one is
//! the same to the gateway as the end of an HTTP/1.1 connection. Pings find out whether a connection that streams is still there; they are
//! the connection's own task's, so that no reply waits for one.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Origin;
use super::body::Sending;
use super::connect::HEAD_BYTES_MAX;
use crate::gateway::fault::Fault;

/// What is held of one reply that its client does not read. A reply whose client does is seldom a tenth of that behind.
const STREAM_WINDOW: u32 = 256 << 10;
/// At once on one connection: one more, and another connection is made.
const STREAMS_MAX: usize = 64;
/// As much as all of its streams together, so that no client that does not read holds up another's reply: 64 x 256 KiB = 16 MiB.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_MAX as u32;
/// Kept for later requests: 8 x 64 at once.
const CONNECTIONS_MAX: usize = 8;

/// A connection. It ends with the last who has it.
#[derive(Debug)]
pub struct Http2 {
    sender: SendRequest<Sending>,
    /// How many the other end takes at once.
    streams_max: Arc<AtomicUsize>,
    /// It has said that it takes no more, or failed a request.
    is_leaving: AtomicBool,
    task: AbortHandle,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Http2 {
    /// `ping`: how long a connection that streams may be silent before it is asked whether it is there; half of that for the answer.
    pub async fn handshake(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, ping: Duration) -> Result<Arc<Self>, Fault> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .keep_alive_interval(ping)
            .keep_alive_timeout(ping / 2);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|_| Fault::ClosedEarly)?;
        let streams_max = Arc::new(AtomicUsize::new(STREAMS_MAX));
        let (told, mut connection) = (streams_max.clone(), Box::pin(connection));
        let task = tokio::spawn(async move {
            let served = poll_fn(|context| {
                let polled = connection.as_mut().poll(context);
                told.store(connection.current_max_send_streams(), Ordering::Relaxed);
                polled
            });
            if let Err(error) = served.await {
                tracing::debug!(%error, "an HTTP/2 connection to an upstream broke");
            }
        });
        Ok(Arc::new(Self { sender, streams_max, is_leaving: AtomicBool::new(false), task: task.abort_handle() }))
    }

    pub async fn send(&self, request: Request<Sending>, origin: &Origin) -> hyper::Result<Response<Incoming>> {
        let sent = self.sender.clone().send_request(absolute(request, origin)).await;
        if sent.is_err() {
            // Streams that it has begun may come to their end; a new one is better off elsewhere.
            self.is_leaving.store(true, Ordering::Relaxed);
        }
        sent
    }

    fn takes_more(&self) -> bool {
        !self.is_leaving.load(Ordering::Relaxed) && !self.sender.is_closed()
    }
}

/// The request as HTTP/2 has it: whom it is for stands in its address.
fn absolute(mut request: Request<Sending>, origin: &Origin) -> Request<Sending> {
    request.headers_mut().remove(hyper::header::HOST);
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let scheme = if origin.tls { "https" } else { "http" };
    // An origin and a path that were good by themselves are good together.
    if let Ok(uri) = format!("{scheme}://{}{path}", origin.authority()).parse() {
        *request.uri_mut() = uri;
    }
    request
}

/// What the upstream says of a stream or a connection that it ends before the head of a reply.
pub fn fault_of(error: &hyper::Error) -> Option<Fault> {
    match reason_of(error)? {
        h2::Reason::ENHANCE_YOUR_CALM => Some(Fault::Overloaded),
        // Refused, or gone: another try on a new connection will show.
        _ => Some(Fault::ClosedEarly),
    }
}

/// The upstream will not be spoken to in HTTP/2.
pub fn wants_http1(error: &hyper::Error) -> bool {
    reason_of(error) == Some(h2::Reason::HTTP_1_1_REQUIRED)
}

fn reason_of(error: &hyper::Error) -> Option<h2::Reason> {
    std::error::Error::source(error)?.downcast_ref::<h2::Error>()?.reason()
}

/// Connections to one origin that take more requests.
#[derive(Debug, Default)]
pub struct Pool(Mutex<Vec<Pooled>>);

#[derive(Debug)]
struct Pooled {
    connection: Arc<Http2>,
    used: Instant,
}

impl Pooled {
    /// Each request in flight has one, and so has the pool.
    fn streams(&self) -> usize {
        Arc::strong_count(&self.connection) - 1
    }
}

impl Pool {
    /// One that has room, if there is any. `idle_limit`: one that was not used for so long is not trusted.
    pub fn take(&self, idle_limit: Duration) -> Option<Arc<Http2>> {
        let mut pool = self.lock();
        let now = Instant::now();
        pool.retain(|pooled| pooled.connection.takes_more() && (pooled.streams() > 0 || now.duration_since(pooled.used) < idle_limit));
        let has_room = |pooled: &&mut Pooled| {
            let streams_max = pooled.connection.streams_max.load(Ordering::Relaxed);
            pooled.streams() < STREAMS_MAX.min(streams_max)
        };
        let found = pool.iter_mut().find(has_room)?;
        found.used = now;
        Some(found.connection.clone())
    }

    pub fn put(&self, connection: &Arc<Http2>) {
        let mut pool = self.lock();
        if pool.len() < CONNECTIONS_MAX {
            pool.push(Pooled { connection: connection.clone(), used: Instant::now() });
        }
    }

    /// A reply has come to its end on it.
    pub fn used(&self, connection: &Arc<Http2>) {
        if let Some(pooled) = self.lock().iter_mut().find(|pooled| Arc::ptr_eq(&pooled.connection, connection)) {
            pooled.used = Instant::now();
        }
    }

    /// Those that stream come to their end by themselves.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Pooled>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
