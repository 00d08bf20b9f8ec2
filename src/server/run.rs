//! A reply that is being generated, and who listens to it. Clients and proxies give up on a request they believe dead and send it again
//! while the first is still running: the second joins it, hears it from its beginning, and nothing is computed twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use axum::http::HeaderMap;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::choices::{Choices, Told};
use super::translated::Remote;
use crate::api::ReplyHead;
use crate::engine::meters::SequenceClock;

/// Headers by which clients name a request or the session it belongs to. Alone they say little (an agent's session has many requests, some
/// at once): together with the request itself they say that it is the same one again.
const IDENTITIES: [&str; 10] = [
    "idempotency-key",
    "x-idempotency-key",
    "x-client-request-id",
    "x-request-id",
    "x-claude-code-session-id",
    "x-claude-code-agent-id",
    "session-id",
    "x-session-id",
    "thread-id",
    "x-codex-window-id",
];

/// Who asks for what, and under which name: equal for two sendings of one request and for nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RunKey([u8; 32]);

/// The part of a [`RunKey`] that stands in the headers.
#[derive(Debug, Clone)]
pub struct Identity(Vec<u8>);

impl Identity {
    /// `None`: the request has no name, and is never the same as another.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut identity = Vec::new();
        for name in IDENTITIES {
            if let Some(value) = headers.get(name).filter(|value| !value.is_empty()) {
                add(&mut identity, name.as_bytes());
                add(&mut identity, value.as_bytes());
            }
        }
        if identity.is_empty() {
            return None;
        }
        // The credential, whichever way it is shown: nobody joins a stranger's request.
        for name in ["authorization", "x-api-key"] {
            add(&mut identity, headers.get(name).map_or(&[][..], |value| value.as_bytes()));
        }
        Some(Self(identity))
    }

    /// `dialect`: two dialects number their calls and name their replies differently. `request`: what is asked for, without how it is to
    /// be delivered: Claude Code asks again without `stream` for what it did not get with it.
    pub fn key(&self, dialect: &str, request: &crate::chat::Request) -> RunKey {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        hasher.update(dialect.as_bytes());
        hasher.update(format!("{request:?}").as_bytes());
        RunKey(*hasher.finalize().as_bytes())
    }
}

/// With its length, so that two pairs of texts never read the same.
fn add(identity: &mut Vec<u8>, text: &[u8]) {
    identity.extend((text.len() as u64).to_le_bytes());
    identity.extend(text);
}

/// Replies that can be joined.
#[derive(Debug, Default)]
pub struct Runs(Mutex<HashMap<RunKey, Weak<Run>>>);

impl Runs {
    /// The running reply of this key, or else one that is begun now: two sendings at the same moment begin one.
    pub fn join_or_begin<E>(&self, key: RunKey, begin: impl FnOnce() -> Result<(ReplyHead, Choices), E>) -> Result<(Listener, bool), E> {
        let mut runs = lock(&self.0);
        // One that is over answers nobody anew: it may have failed, and asking again is how a client mends that.
        if let Some(run) = runs.get(&key).and_then(Weak::upgrade).filter(|run| !lock(&run.heard).over) {
            return Ok((Listener::Shared { run, next: 0 }, true));
        }
        let (head, choices) = begin()?;
        let run = Run::begin(head, choices);
        // Those that have ended are few, for no more run at once than the engine holds; this keeps them so.
        runs.retain(|_, run| run.strong_count() > 0);
        runs.insert(key, Arc::downgrade(&run));
        Ok((Listener::Shared { run, next: 0 }, false))
    }
}

/// A reply that several may listen to. It goes on while one of them does.
#[derive(Debug)]
pub struct Run {
    head: ReplyHead,
    clocks: Vec<SequenceClock>,
    heard: Mutex<Heard>,
    more: Notify,
    task: Mutex<Option<AbortHandle>>,
}

#[derive(Debug, Default)]
struct Heard {
    /// All of them: whoever joins hears the whole. Their number is bounded by the reply's tokens.
    events: Vec<Told>,
    over: bool,
}

impl Run {
    fn begin(head: ReplyHead, mut choices: Choices) -> Arc<Self> {
        let clocks = choices.clocks();
        let run = Arc::new(Self { head, clocks, heard: Mutex::default(), more: Notify::new(), task: Mutex::default() });
        let told = Arc::downgrade(&run);
        // Its own task: a listener that does not read would hold up the others.
        let task = tokio::spawn(async move {
            loop {
                let next = choices.next().await;
                let Some(run) = told.upgrade() else { return };
                let over = next.is_none();
                let mut heard = lock(&run.heard);
                heard.events.extend(next);
                heard.over = over;
                drop(heard);
                run.more.notify_waiters();
                if over {
                    return;
                }
            }
        });
        *lock(&run.task) = Some(task.abort_handle());
        run
    }

    async fn next(&self, index: usize) -> Option<Told> {
        loop {
            // Before the look: what comes after it is not missed.
            let more = self.more.notified();
            {
                let heard = lock(&self.heard);
                match heard.events.get(index) {
                    Some(told) => return Some(told.clone()),
                    None if heard.over => return None,
                    None => {}
                }
            }
            more.await;
        }
    }
}

/// The last listener is gone: the task is stopped, which drops the choices, which cancels them.
impl Drop for Run {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

/// One client's way to a reply. Dropping it cancels the reply, unless others listen.
pub enum Listener {
    Alone {
        head: ReplyHead,
        choices: Choices,
    },
    Shared {
        run: Arc<Run>,
        next: usize,
    },
    /// It comes from a cloud.
    Remote {
        head: ReplyHead,
        remote: Box<Remote>,
    },
    /// Wants no more.
    Gone {
        head: ReplyHead,
    },
}

impl Listener {
    pub fn head(&self) -> &ReplyHead {
        match self {
            Self::Alone { head, .. } | Self::Remote { head, .. } | Self::Gone { head } => head,
            Self::Shared { run, .. } => &run.head,
        }
    }

    pub fn clocks(&self) -> Vec<SequenceClock> {
        match self {
            Self::Alone { choices, .. } => choices.clocks(),
            Self::Shared { run, .. } => run.clocks.clone(),
            Self::Remote { .. } | Self::Gone { .. } => Vec::new(),
        }
    }

    /// The next event; `None` when all choices have ended. Loses nothing when it is dropped half-way.
    pub async fn next(&mut self) -> Option<Told> {
        match self {
            Self::Alone { choices, .. } => choices.next().await,
            Self::Remote { remote, .. } => remote.next().await,
            Self::Shared { run, next } => {
                let told = run.next(*next).await;
                *next += usize::from(told.is_some());
                told
            }
            Self::Gone { .. } => None,
        }
    }

    pub fn leave(&mut self) {
        *self = Self::Gone { head: self.head().clone() };
    }
}

/// Held for the time of a look or a push, and by nobody who could panic meanwhile.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
