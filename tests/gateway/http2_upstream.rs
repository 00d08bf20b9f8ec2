//! An upstream that speaks HTTP/2 and misbehaves in it. Its replies are those of a healthy upstream behind it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use understudy::gateway::drill::fault_upstream::FaultUpstream;
use understudy::gateway::drill::plan::Plan;
use understudy::gateway::drill::raw_client::{RawClient, RawRequest};

use crate::support::front_door::HANGS;

/// What becomes of a request; where there is a number, after so many events of its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    Nothing,
    /// RST_STREAM before a head.
    Refused(Reason),
    Reset(usize, Reason),
    Stalls(usize),
    /// GOAWAY, and all streams are ended as they should.
    GoesAway(usize),
    /// The connection is closed under all of its streams.
    Dies(usize),
    /// The connection is neither read nor written any more.
    Deaf(usize),
    /// The same event again, for 64 MiB.
    Floods(usize),
}

#[derive(Debug)]
struct Shared {
    behind: FaultUpstream,
    /// Of the next requests; the last one is for all that follow.
    wrongs: Mutex<VecDeque<Wrong>>,
    connections: AtomicUsize,
    requests: AtomicUsize,
    resets: AtomicUsize,
    flooded: AtomicUsize,
}

pub struct Http2Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

enum Order {
    GoAway,
    Die,
    BeDeaf,
}

impl Http2Upstream {
    pub fn start(wrongs: &[Wrong]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime starts");
        let behind = runtime.block_on(FaultUpstream::start(Plan::healthy())).expect("a loopback port is free");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            behind,
            wrongs: Mutex::new(wrongs.iter().copied().collect()),
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            resets: AtomicUsize::new(0),
            flooded: AtomicUsize::new(0),
        });
        let serving = shared.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, serving.clone()));
            }
        });
        Self { address, shared, _runtime: runtime }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Requests that came, refused ones included.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Streams that the other end has reset.
    pub fn resets(&self) -> usize {
        self.shared.resets.load(Ordering::Relaxed)
    }

    /// Bytes that went out to whoever is flooded.
    pub fn flooded(&self) -> usize {
        self.shared.flooded.load(Ordering::Relaxed)
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let Ok(mut connection): Result<Connection<TcpStream, Bytes>, _> = h2::server::handshake(stream).await else { return };
    let (orders, mut ordered) = unbounded_channel();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                // Questions of whether it is there are no requests of anybody's.
                let wrong = if request.method() == http::Method::GET { Wrong::Nothing } else { next(&shared) };
                let (orders, shared) = (orders.clone(), shared.clone());
                tokio::spawn(async move { answer(request, respond, wrong, &shared, &orders).await });
            }
            Some(order) = ordered.recv() => match order {
                Order::GoAway => connection.graceful_shutdown(),
                Order::Die => return,
                Order::BeDeaf => std::future::pending().await,
            },
        }
    }
}

fn next(shared: &Shared) -> Wrong {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let mut wrongs = shared.wrongs.lock().expect("nobody panics with it");
    if wrongs.len() > 1 { wrongs.pop_front() } else { wrongs.front().copied() }.unwrap_or(Wrong::Nothing)
}

/// `None`: the stream is over.
async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    wrong: Wrong,
    shared: &Shared,
    orders: &UnboundedSender<Order>,
) -> Option<()> {
    if let Wrong::Refused(reason) = wrong {
        respond.send_reset(reason);
        return None;
    }
    let (parts, mut body) = request.into_parts();
    assert!(parts.uri.authority().is_some() && !parts.headers.contains_key("host"), "whom it is for stands in :authority: {parts:?}");
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        body.flow_control().release_capacity(data.len()).ok()?;
        bytes.extend_from_slice(&data);
    }
    let mut raw = RawRequest { method: parts.method.to_string(), path: parts.uri.path().to_owned(), headers: Vec::new(), body: bytes };
    for name in ["content-type", "authorization", "x-api-key"] {
        if let Some(value) = parts.headers.get(name) {
            raw = raw.header(name, value.to_str().ok()?);
        }
    }
    let exchange = RawClient::exchange(shared.behind.address(), &raw, HANGS).await;
    let kind = exchange.header("content-type").unwrap_or("application/json").to_owned();
    let head = Response::builder().status(exchange.status()?).header("content-type", kind).body(()).expect("a head");
    let mut sending = respond.send_response(head, false).ok()?;
    let mut ends: Vec<usize> = exchange.events().iter().map(|event| event.end).collect();
    ends.extend(Some(exchange.body.len()).filter(|length| ends.last() != Some(length)));
    let mut from = 0;
    for (sent, &end) in ends.iter().enumerate() {
        let event = Bytes::copy_from_slice(&exchange.body[from..end]);
        match wrong {
            Wrong::Reset(after, reason) if after == sent => {
                sending.send_reset(reason);
                return None;
            }
            Wrong::Stalls(after) if after == sent => return wait(&mut sending, shared).await,
            Wrong::GoesAway(after) if after == sent => orders.send(Order::GoAway).ok()?,
            Wrong::Dies(after) if after == sent => orders.send(Order::Die).ok()?,
            Wrong::Deaf(after) if after == sent => orders.send(Order::BeDeaf).ok()?,
            Wrong::Floods(after) if after == sent => {
                // An event of words, as a client would take it.
                while shared.flooded.load(Ordering::Relaxed) < 64 << 20 {
                    send(&mut sending, event.clone(), shared).await?;
                    shared.flooded.fetch_add(event.len(), Ordering::Relaxed);
                }
            }
            _ => {}
        }
        send(&mut sending, event, shared).await?;
        from = end;
    }
    sending.send_data(Bytes::new(), true).ok()
}

/// Until the other end has had enough.
async fn wait(sending: &mut SendStream<Bytes>, shared: &Shared) -> Option<()> {
    let reset = std::future::poll_fn(|context| sending.poll_reset(context)).await;
    shared.resets.fetch_add(usize::from(reset.is_ok()), Ordering::Relaxed);
    None
}

async fn send(sending: &mut SendStream<Bytes>, mut bytes: Bytes, shared: &Shared) -> Option<()> {
    while !bytes.is_empty() {
        sending.reserve_capacity(bytes.len());
        let Some(Ok(capacity)) = std::future::poll_fn(|context| sending.poll_capacity(context)).await else {
            shared.resets.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let piece = bytes.split_to(capacity.min(bytes.len()));
        sending.send_data(piece, false).ok()?;
    }
    // The connection's own task writes it.
    tokio::task::yield_now().await;
    Some(())
}
