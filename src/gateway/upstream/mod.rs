//! The way to one upstream: connections that are kept, a request out, a reply's head in.
//!
//! A kept connection that its other end has closed meanwhile is nobody's fault: the request goes out once more on a new one.

mod body;
mod connect;
mod http2;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use tokio::time::{Instant, timeout};

use super::fault::Fault;
use crate::config::gateway::HttpVersion;
pub use body::Coming;
use body::Sending;
use connect::{Connected, Connection, Connector};
use http2::{Http2, Pool};

/// Connections kept for the next request. More than a person's agents use at once.
const IDLE_MAX: usize = 32;
/// Below what proxies and clouds keep (nginx: 60 s), so that it is rarely the other end that closes.
const IDLE_LIMIT: Duration = Duration::from_secs(50);
/// A connection whose reply has just ended is ready again within this, or never.
const READY_LIMIT: Duration = Duration::from_millis(1);

/// Where an upstream is and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub tls: bool,
    pub host: String,
    pub port: u16,
}

impl Origin {
    /// As a `Host` header has it.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let usual = if self.tls { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

/// Connections to one origin.
#[derive(Debug)]
pub struct Upstream {
    connector: Connector,
    idle: Mutex<VecDeque<Idle>>,
    /// Of HTTP/2, which many requests share.
    shared: Pool,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// A reply whose head is there. Dropping it before its end closes the connection, or in HTTP/2 resets the stream, which tells the upstream
/// to stop.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// For whoever takes them: nothing here needs them.
    pub headers: hyper::HeaderMap,
    body: Incoming,
    /// `None`: it broke, or is shared.
    connection: Option<Connection>,
    shared: Option<Arc<Http2>>,
}

impl Upstream {
    /// `connect_limit`: for a connection; names and handshakes have limits of the same size of their own.
    pub fn new(origin: Origin, connect_limit: Duration) -> Self {
        Self { connector: Connector::new(origin, connect_limit), idle: Mutex::default(), shared: Pool::default() }
    }

    pub fn speaking(self, version: HttpVersion) -> Self {
        Self { connector: self.connector.speaking(version), ..self }
    }

    pub fn origin(&self) -> &Origin {
        self.connector.origin()
    }

    /// Sends a request and waits for the head of its reply; how long is for the caller to bound, by dropping this.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Reply, Fault> {
        while let Some(mut connection) = self.take_idle() {
            if timeout(READY_LIMIT, connection.sender.ready()).await.is_ok_and(|ready| ready.is_ok()) {
                // Cloning is cheap: the body is counted, not copied.
                match connection.sender.send_request(request.clone().map(Sending::Held)).await {
                    Ok(response) => return Ok(Reply::new(response, connection)),
                    // Closed while it was idle, as far as anybody can tell. A new connection will show.
                    Err(error) if is_early_end(&error) => break,
                    Err(error) => return Err(fault_of(&error)),
                }
            }
        }
        if let Some(connection) = self.shared.take(IDLE_LIMIT) {
            match connection.send(request.clone().map(Sending::Held), self.origin()).await {
                Ok(response) => return Ok(Reply::shared(response, connection)),
                // Gone, or about to go, which it could not say in time; or it refuses this one. A new connection will show.
                Err(error) => self.of_http2(&error).filter(|fault| *fault != Fault::ClosedEarly).map_or(Ok(()), Err)?,
            }
        }
        // A connection is rarely made, and to make one takes a large future: boxed, it is not moved about with every request.
        Box::pin(self.send_anew(request.map(Sending::Held))).await
    }

    /// Sends a request whose body goes up as it comes, and can go up only once: on a connection that is certain to be there.
    pub async fn send_once(&self, request: Request<Coming>) -> Result<Reply, Fault> {
        self.send_anew(request.map(Sending::Coming)).await
    }

    async fn send_anew(&self, request: Request<Sending>) -> Result<Reply, Fault> {
        match self.connector.connect().await? {
            Connected::Http1(mut connection) => match connection.sender.send_request(request).await {
                Ok(response) => Ok(Reply::new(response, connection)),
                Err(error) => Err(fault_of(&error)),
            },
            Connected::Http2(connection) => {
                self.shared.put(&connection);
                match connection.send(request, self.origin()).await {
                    Ok(response) => Ok(Reply::shared(response, connection)),
                    Err(error) => Err(self.of_http2(&error).unwrap_or_else(|| fault_of(&error))),
                }
            }
        }
    }

    fn of_http2(&self, error: &hyper::Error) -> Option<Fault> {
        if http2::wants_http1(error) {
            self.connector.speak_http1();
        }
        http2::fault_of(error)
    }

    /// Takes a connection back whose reply was read to its end.
    pub fn keep(&self, reply: Reply) {
        if let Some(connection) = &reply.shared {
            return self.shared.used(connection);
        }
        let Some(connection) = reply.connection.filter(|connection| !connection.sender.is_closed()) else { return };
        let mut idle = lock(&self.idle);
        if idle.len() >= IDLE_MAX {
            idle.pop_front();
        }
        idle.push_back(Idle { connection, since: Instant::now() });
    }

    /// Forgets all kept connections: after a change of network or a sleep they lead nowhere.
    pub fn forget_connections(&self) {
        lock(&self.idle).clear();
        self.shared.clear();
    }

    /// The one used last: it is the likeliest to live.
    fn take_idle(&self) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        let now = Instant::now();
        idle.retain(|idle| !idle.connection.sender.is_closed() && now.duration_since(idle.since) < IDLE_LIMIT);
        idle.pop_back().map(|idle| idle.connection)
    }
}

impl Reply {
    fn new(response: Response<Incoming>, connection: Connection) -> Self {
        Self { connection: Some(connection), ..Self::of(response) }
    }

    fn shared(response: Response<Incoming>, connection: Arc<Http2>) -> Self {
        Self { shared: Some(connection), ..Self::of(response) }
    }

    fn of(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        Self { status: parts.status.as_u16(), headers: parts.headers, body, connection: None, shared: None }
    }

    /// All of the body has come: its end need not be waited for.
    pub fn is_over(&self) -> bool {
        self.body.is_end_stream()
    }

    /// The next bytes of the body; `None` at its end. A body that ends before its length or its last chunk is [`Fault::Cut`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                // A frame that is not data holds trailers.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(_)) => {
                    self.connection = None;
                    return Err(Fault::Cut);
                }
            }
        }
    }
}

/// The connection ended before a status line came.
fn is_early_end(error: &hyper::Error) -> bool {
    error.is_canceled() || error.is_closed() || error.is_incomplete_message() || is_broken_pipe(error)
}

fn is_broken_pipe(error: &hyper::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
            return matches!(io.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof);
        }
        source = error.source();
    }
    false
}

fn fault_of(error: &hyper::Error) -> Fault {
    if is_early_end(error) {
        Fault::ClosedEarly
    } else if error.is_parse_too_large() {
        Fault::TooLarge
    } else if error.is_parse() {
        Fault::NotTheApi
    } else {
        Fault::ClosedEarly
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
