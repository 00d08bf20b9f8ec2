//! The upstream that misbehaves: sockets on loopback, and a record of what came.
//!
//! It decides nothing: `plan` chooses, `script` writes, `connection` carries. Dropping it closes everything at once, as a host that dies does.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::connection::Connection;
use super::http::Head;
use super::plan::{Decider, Plan};

/// How often it is looked whether it is time to refuse or to listen again.
const REFUSAL_TICK: Duration = Duration::from_millis(2);

/// One request as it came, and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// From 1, in the order in which the heads came.
    pub number: u64,
    /// Requests of one connection share it; from 1.
    pub connection: u64,
    /// When its head had come, since the upstream's start.
    pub at: Duration,
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub model: String,
    /// The rule that answered; empty for none.
    pub rule: String,
    /// The expectation that it did not meet.
    pub refused: Option<String>,
    /// Bytes of the answer that the socket took.
    pub bytes_sent: u64,
    /// The client's end of the connection came before the answer's.
    pub client_left_at: Option<Duration>,
    /// The script was carried out to its end.
    pub finished_at: Option<Duration>,
    /// The plan's fault sits behind the end of the reply: nothing went wrong with it.
    pub fault_missed: bool,
}

impl Attempt {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A request for a reply, and not for models or a count.
    pub fn generates(&self) -> bool {
        super::http::generates(&self.path)
    }
}

/// A running upstream.
#[derive(Debug)]
pub struct FaultUpstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: watch::Sender<bool>,
    task: AbortHandle,
}

/// What its connections share.
#[derive(Debug)]
pub(super) struct Shared {
    /// A real upstream, which gives the replies.
    pub behind: Option<SocketAddr>,
    started: Instant,
    decider: Mutex<Decider>,
    attempts: Mutex<Vec<Attempt>>,
    /// Tells that an attempt came or changed.
    changed: watch::Sender<()>,
}

impl FaultUpstream {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start(plan: Plan) -> io::Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), plan, None).await
    }

    /// Its replies come from a real upstream, which speaks HTTP without TLS; what goes wrong is in the plan. Only bytes are counted
    /// there: a fault at a token or an event finds no place.
    pub async fn in_front_of(upstream: SocketAddr, plan: Plan) -> io::Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), plan, Some(upstream)).await
    }

    /// At an address that somebody was told of before.
    pub async fn start_at(address: SocketAddr, plan: Plan, behind: Option<SocketAddr>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            behind,
            started: Instant::now(),
            decider: Mutex::new(Decider::new(plan)),
            attempts: Mutex::default(),
            changed: watch::Sender::new(()),
        });
        let (listening, told) = watch::channel(true);
        let task = tokio::spawn(listen(address, listener, told, shared.clone())).abort_handle();
        Ok(Self { address, shared, listening, task })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Since its start, on the clock of [`Attempt::at`].
    pub fn elapsed(&self) -> Duration {
        self.shared.elapsed()
    }

    /// From the next request on. Counts of the old plan are forgotten; the clock goes on.
    pub fn set_plan(&self, plan: Plan) {
        *self.shared.decider() = Decider::new(plan);
        // It may be one that refuses.
        self.listening.send_modify(|_| {});
    }

    /// `false`: the port is closed, and connections that stood are gone. It comes into force a moment later.
    pub fn set_listening(&self, listening: bool) {
        let _ = self.listening.send(listening);
    }

    pub fn attempts(&self) -> Vec<Attempt> {
        self.shared.attempts().clone()
    }

    /// Those that asked for a reply.
    pub fn generations(&self) -> Vec<Attempt> {
        self.shared.attempts().iter().filter(|attempt| attempt.generates()).cloned().collect()
    }

    /// Waits until the attempts are so, and returns them. `None`: not within the limit.
    pub async fn attempts_when(&self, limit: Duration, holds: impl Fn(&[Attempt]) -> bool) -> Option<Vec<Attempt>> {
        let mut changed = self.shared.changed.subscribe();
        let waiting = async {
            loop {
                changed.borrow_and_update();
                let attempts = self.attempts();
                if holds(&attempts) {
                    return attempts;
                }
                // The sender lives as long as `self`.
                let _ = changed.changed().await;
            }
        };
        tokio::time::timeout(limit, waiting).await.ok()
    }
}

impl Drop for FaultUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn decider(&self) -> MutexGuard<'_, Decider> {
        self.decider.lock().expect("no thread panics while it decides")
    }

    fn attempts(&self) -> MutexGuard<'_, Vec<Attempt>> {
        self.attempts.lock().expect("no thread panics while it notes")
    }

    fn refuses(&self) -> bool {
        self.decider().plan().refuses(self.elapsed())
    }

    pub fn begin(&self, connection: u64, head: &Head) -> u64 {
        let (method, path) = head.request().unwrap_or_default();
        let mut attempts = self.attempts();
        let number = attempts.len() as u64 + 1;
        attempts.push(Attempt {
            number,
            connection,
            at: self.elapsed(),
            method: method.to_owned(),
            path: path.to_owned(),
            headers: head.headers.clone(),
            body: Vec::new(),
            model: String::new(),
            rule: String::new(),
            refused: None,
            bytes_sent: 0,
            client_left_at: None,
            finished_at: None,
            fault_missed: false,
        });
        drop(attempts);
        let _ = self.changed.send(());
        number
    }

    pub fn note(&self, number: u64, change: impl FnOnce(&mut Attempt)) {
        change(&mut self.attempts()[number as usize - 1]);
        let _ = self.changed.send(());
    }
}

/// Accepts while it is to; the connections go with the listener.
async fn listen(address: SocketAddr, listener: TcpListener, mut told: watch::Receiver<bool>, shared: Arc<Shared>) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        let wanted = *told.borrow_and_update() && !shared.refuses();
        match (&listener, wanted) {
            (Some(_), false) => {
                listener = None;
                connections.shutdown().await;
            }
            // The port is ours and free; should somebody have taken it, it is tried again at the next tick.
            (None, true) => listener = TcpListener::bind(address).await.ok(),
            _ => {}
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await.ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accepted => {
                if let Some((stream, _)) = accepted {
                    number += 1;
                    connections.spawn(Connection::new(stream, number, shared.clone()).serve());
                }
            }
            changed = told.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(REFUSAL_TICK), if listener.is_none() || shared.decider().plan().may_refuse() => {}
        }
        while connections.try_join_next().is_some() {}
    }
}
