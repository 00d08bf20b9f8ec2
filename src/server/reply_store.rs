//! Replies that can be asked for by their ids: those that run, and the last of those that were given. In memory, bounded in number and
//! bytes, the oldest out first.
//!
//! A reply that goes on from another points at it, and what is pointed at stays, though nobody can ask for it any more: a
//! conversation whose last reply is known is known from its beginning.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::api::memory::{Exchange, Memory, Recall, Record};

/// What is kept at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub replies: usize,
    pub bytes: usize,
}

/// Clones share it.
#[derive(Debug, Clone)]
pub struct ReplyStore(Arc<Mutex<Store>>);

#[derive(Debug)]
struct Store {
    limits: Limits,
    /// By id; several where upstreams have named replies alike.
    running: HashMap<String, Vec<Running>>,
    /// Replies that began: the number of the last.
    begun: u64,
    kept: HashMap<String, Kept>,
    /// Ids of those that can be asked for, oldest first.
    listed: VecDeque<String>,
    /// Of all that are kept.
    bytes: usize,
}

#[derive(Debug)]
struct Running {
    /// Its own, whatever its id is.
    number: u64,
    named_by: NamedBy,
    /// Another has its id, or had it. Whoever asks by that id may mean either, so that neither is found by it.
    is_ambiguous: bool,
    record: Record,
    cancel: watch::Sender<bool>,
    /// Requests that hear this reply: one, or more where it was sent again.
    listeners: usize,
}

/// Whose word an id is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NamedBy {
    /// No two replies have it.
    Us,
    Upstream,
}

#[derive(Debug)]
struct Kept {
    exchange: Arc<Exchange>,
    previous: Option<String>,
    is_listed: bool,
    /// Replies, running or kept, that go on from this one.
    followers: usize,
}

impl ReplyStore {
    pub fn new(limits: Limits) -> Self {
        let store = Store { limits, running: HashMap::new(), begun: 0, kept: HashMap::new(), listed: VecDeque::new(), bytes: 0 };
        Self(Arc::new(Mutex::new(store)))
    }

    /// A reply begins that has its id from us, or is heard once more.
    pub fn begin(&self, record: Record) -> Registration {
        let mut store = self.lock();
        let id = record.exchange.id.clone();
        let is_over = store.listed(&id).is_some();
        let of_this_id = store.running.get_mut(&id).into_iter().flatten();
        let (number, cancelled) = match of_this_id.into_iter().find(|running| running.named_by == NamedBy::Us) {
            Some(running) => {
                running.listeners += 1;
                (running.number, running.cancel.subscribe())
            }
            // Whoever was to hear it once more came when it had just ended: it is kept, and this one has nothing to add.
            None if is_over => (0, watch::Sender::new(false).subscribe()),
            None => store.start(record, NamedBy::Us),
        };
        Registration { store: self.clone(), id, number, cancelled }
    }

    /// A reply goes on that an upstream has begun and named: another one of this id is another reply.
    pub fn begin_of_upstream(&self, record: Record) -> Registration {
        let mut store = self.lock();
        let id = record.exchange.id.clone();
        let (number, cancelled) = store.start(record, NamedBy::Upstream);
        Registration { store: self.clone(), id, number, cancelled }
    }

    /// The reply as the client got it, or as far as it is.
    pub fn reply(&self, id: &str) -> Option<String> {
        let store = self.lock();
        match store.running(id) {
            Some(running) => running.record.keep.then(|| running.record.exchange.reply.clone()),
            None => store.listed(id).map(|kept| kept.exchange.reply.clone()),
        }
    }

    /// Whether there was one to forget. One that runs goes on.
    pub fn delete(&self, id: &str) -> bool {
        let mut store = self.lock();
        if let Some(running) = store.running_mut(id) {
            return std::mem::take(&mut running.record.keep);
        }
        store.withdraw(id)
    }

    /// Tells a running reply to stop, and what it says of itself until it has: `as_cancelled` of what it says now. `None`: no reply of
    /// this id runs.
    pub fn cancel(&self, id: &str, as_cancelled: impl FnOnce(&str) -> String) -> Option<String> {
        let mut store = self.lock();
        let running = store.running_mut(id)?;
        if !running.cancel.send_replace(true) {
            running.record.exchange.reply = as_cancelled(&running.record.exchange.reply);
        }
        Some(running.record.exchange.reply.clone())
    }

    /// Replies kept, those that are only pointed at included, and their bytes.
    pub fn size(&self) -> (usize, usize) {
        let store = self.lock();
        (store.kept.len(), store.bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory for ReplyStore {
    fn recall(&self, id: &str) -> Recall {
        let store = self.lock();
        if store.running(id).is_some_and(|running| running.record.keep) {
            return Recall::Running;
        }
        let mut exchanges = Vec::new();
        let mut next = store.listed(id);
        while let Some(kept) = next {
            exchanges.push(kept.exchange.clone());
            next = kept.previous.as_ref().map(|previous| &store.kept[previous]);
        }
        exchanges.reverse();
        if exchanges.is_empty() { Recall::Unknown } else { Recall::Kept(exchanges) }
    }
}

impl Store {
    /// Its number, and what tells that it is cancelled.
    fn start(&mut self, mut record: Record, named_by: NamedBy) -> (u64, watch::Receiver<bool>) {
        if let Some(previous) = &record.previous {
            match self.kept.get_mut(previous) {
                Some(kept) => kept.followers += 1,
                // Forgotten since the request was read. A conversation is kept whole or not at all.
                None => (record.previous, record.keep) = (None, false),
            }
        }
        let id = record.exchange.id.clone();
        let is_ambiguous = self.withdraw(&id) || self.running.contains_key(&id);
        record.keep &= !is_ambiguous;
        let of_this_id = self.running.entry(id).or_default();
        for other in of_this_id.iter_mut() {
            (other.is_ambiguous, other.record.keep) = (true, false);
        }
        let cancel = watch::Sender::new(false);
        let cancelled = cancel.subscribe();
        self.begun += 1;
        of_this_id.push(Running { number: self.begun, named_by, is_ambiguous, record, cancel, listeners: 1 });
        (self.begun, cancelled)
    }

    /// The one that is meant by this id.
    fn running(&self, id: &str) -> Option<&Running> {
        self.running.get(id)?.first().filter(|running| !running.is_ambiguous)
    }

    fn running_mut(&mut self, id: &str) -> Option<&mut Running> {
        self.running.get_mut(id)?.first_mut().filter(|running| !running.is_ambiguous)
    }

    /// It runs no more.
    fn take(&mut self, id: &str, number: u64) -> Option<Running> {
        let of_this_id = self.running.get_mut(id)?;
        let at = of_this_id.iter().position(|running| running.number == number)?;
        let taken = of_this_id.swap_remove(at);
        if of_this_id.is_empty() {
            self.running.remove(id);
        }
        Some(taken)
    }

    /// A running reply has ended.
    fn end(&mut self, running: Running) {
        let Record { exchange, previous, keep } = running.record;
        let bytes = exchange.bytes();
        if !keep || bytes > self.limits.bytes || self.limits.replies == 0 {
            return self.let_go(previous);
        }
        let id = exchange.id.clone();
        if self.kept.contains_key(&id) {
            // An upstream has given it twice. Whoever asks for it may mean either, and neither is for everybody.
            self.withdraw(&id);
            return self.let_go(previous);
        }
        self.bytes += bytes;
        self.listed.push_back(id.clone());
        self.kept.insert(id, Kept { exchange: Arc::new(exchange), previous, is_listed: true, followers: 0 });
        while self.bytes > self.limits.bytes || self.kept.len() > self.limits.replies {
            let Some(oldest) = self.listed.pop_front() else { break };
            self.unlist(&oldest);
        }
    }

    fn listed(&self, id: &str) -> Option<&Kept> {
        self.kept.get(id).filter(|kept| kept.is_listed)
    }

    /// Whether it could be asked for. It cannot any more.
    fn withdraw(&mut self, id: &str) -> bool {
        let is_listed = self.listed(id).is_some();
        if is_listed {
            self.listed.retain(|listed| listed != id);
            self.unlist(id);
        }
        is_listed
    }

    /// It cannot be asked for any more.
    fn unlist(&mut self, id: &str) {
        self.kept.get_mut(id).expect("what is listed is kept").is_listed = false;
        self.forget_if_unneeded(id.to_owned());
    }

    /// One reply less goes on from `previous`.
    fn let_go(&mut self, previous: Option<String>) {
        let Some(id) = previous else { return };
        self.kept.get_mut(&id).expect("what others go on from is kept").followers -= 1;
        self.forget_if_unneeded(id);
    }

    /// Forgets what can neither be asked for nor is gone on from, and then perhaps what that one went on from.
    fn forget_if_unneeded(&mut self, id: String) {
        let mut next = Some(id);
        while let Some(id) = next {
            if self.kept[&id].is_listed || self.kept[&id].followers > 0 {
                return;
            }
            let kept = self.kept.remove(&id).expect("it was there a moment ago");
            self.bytes -= kept.exchange.bytes();
            if let Some(previous) = &kept.previous {
                self.kept.get_mut(previous).expect("what others go on from is kept").followers -= 1;
            }
            next = kept.previous;
        }
    }
}

/// One request's hold on the reply it hears. Dropped before the end, it was the client that went away: the reply is forgotten, but for
/// one that was cancelled by its id.
#[derive(Debug)]
pub struct Registration {
    store: ReplyStore,
    id: String,
    number: u64,
    cancelled: watch::Receiver<bool>,
}

impl Registration {
    /// Completes when somebody has cancelled the reply.
    pub async fn cancelled(&mut self) {
        if self.cancelled.wait_for(|cancelled| *cancelled).await.is_err() {
            // It has ended, and can no longer be cancelled.
            std::future::pending::<()>().await;
        }
    }

    /// The reply has ended; `reply` makes what is kept of it, if it is.
    pub fn finish(&self, reply: impl FnOnce() -> String) {
        let mut store = self.store.lock();
        // Another that heard it may have come to the end before.
        let Some(mut running) = store.take(&self.id, self.number) else { return };
        if running.record.keep {
            running.record.exchange.reply = reply();
        }
        store.end(running);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut store = self.store.lock();
        let of_this_id = store.running.get_mut(&self.id).into_iter().flatten();
        let Some(running) = of_this_id.into_iter().find(|running| running.number == self.number) else { return };
        running.listeners -= 1;
        if running.listeners > 0 {
            return;
        }
        let mut running = store.take(&self.id, self.number).expect("it was there a moment ago");
        running.record.keep &= *running.cancel.borrow();
        store.end(running);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn store(replies: usize, bytes: usize) -> ReplyStore {
        ReplyStore::new(Limits { replies, bytes })
    }

    fn record(id: &str, previous: Option<&str>) -> Record {
        let exchange = Exchange { id: id.into(), input: "[]".into(), reply: "{\"status\":\"running\"}".into() };
        Record { exchange, previous: previous.map(str::to_owned), keep: true }
    }

    /// A reply that begins and ends; it is 10 bytes beside its id.
    fn give(store: &ReplyStore, id: &str, previous: Option<&str>) {
        store.begin(record(id, previous)).finish(|| "{\"a\": 1}".into());
        check(store);
    }

    /// What must hold at all times.
    fn check(store: &ReplyStore) {
        let store = store.lock();
        assert_eq!(store.bytes, store.kept.values().map(|kept| kept.exchange.bytes()).sum::<usize>());
        let follows = |id: &String| {
            let kept = store.kept.values().filter(|kept| kept.previous.as_ref() == Some(id)).count();
            kept + store.running.values().flatten().filter(|running| running.record.previous.as_ref() == Some(id)).count()
        };
        for (id, kept) in &store.kept {
            assert_eq!(kept.followers, follows(id), "{id}");
            assert_eq!(kept.is_listed, store.listed.contains(id), "{id}");
            assert!(kept.is_listed || kept.followers > 0, "{id} is kept for nothing");
        }
    }

    /// The ids of the conversation that ends with `id`.
    fn conversation(store: &ReplyStore, id: &str) -> Vec<String> {
        match store.recall(id) {
            Recall::Kept(exchanges) => exchanges.iter().map(|exchange| exchange.id.clone()).collect(),
            Recall::Unknown | Recall::Running => Vec::new(),
        }
    }

    /// Upstreams name what they begin, and this one is short of names.
    #[test]
    fn an_id_that_comes_twice_is_nobody_s() {
        let store = store(3, 1000);
        let again = |id: &str, previous: Option<&str>| {
            store.begin_of_upstream(record(id, previous)).finish(|| "{\"a\": 1}".into());
            check(&store);
        };
        again("a", None);
        again("b", Some("a"));
        again("a", Some("b"));
        assert_eq!((store.reply("a"), store.reply("b").is_some()), (None, true));
        again("a", None);
        again("b", None);
        assert_eq!((store.reply("a"), store.reply("b"), store.size()), (None, None, (0, 0)));
        for id in ["a", "c", "d", "e", "f"] {
            give(&store, id, None);
        }
        assert_eq!((store.reply("a"), store.size().0), (None, 3));
    }

    /// Two clients hear two replies, of which the upstream has given both the same name.
    #[test]
    fn two_that_run_under_one_id_are_two() {
        let store = store(3, 1_000);
        let mut first = store.begin_of_upstream(record("a", None));
        assert_eq!(store.recall("a"), Recall::Running);
        let mut second = store.begin_of_upstream(record("a", None));
        assert_eq!((store.recall("a"), store.reply("a"), store.delete("a")), (Recall::Unknown, None, false));
        assert_eq!(store.cancel("a", |_| unreachable!("which one is meant?")), None);
        assert!(first.cancelled().now_or_never().is_none() && second.cancelled().now_or_never().is_none());
        // The first one's end is not the second's, and makes nobody's id of it either.
        first.finish(|| unreachable!("nobody can ask for it"));
        drop(first);
        assert_eq!((store.cancel("a", str::to_owned), store.reply("a")), (None, None));
        assert_eq!(store.lock().running["a"].len(), 1, "the second runs on");
        drop(second);
        check(&store);
        assert_eq!((store.reply("a"), store.size(), store.lock().running.len()), (None, (0, 0), 0));
    }

    #[test]
    fn one_that_begins_under_the_id_of_one_that_is_kept_is_another() {
        let store = store(3, 1_000);
        give(&store, "a", None);
        give(&store, "b", Some("a"));
        let second = store.begin_of_upstream(record("a", None));
        check(&store);
        assert_eq!((store.reply("a"), store.cancel("a", str::to_owned)), (None, None));
        second.finish(|| unreachable!("nobody can ask for it"));
        check(&store);
        assert_eq!(conversation(&store, "b"), ["a", "b"], "what others go on from stays");
    }

    #[test]
    fn the_oldest_goes_first() {
        let store = store(2, 1_000);
        for id in ["a", "b", "c"] {
            give(&store, id, None);
        }
        assert_eq!(["a", "b", "c"].map(|id| store.reply(id).is_some()), [false, true, true]);
        assert_eq!(store.size(), (2, 22));
    }

    #[test]
    fn bytes_are_bounded() {
        let store = store(100, 34);
        for id in ["a", "b", "c", "d"] {
            give(&store, id, None);
        }
        assert_eq!(["a", "b", "c", "d"].map(|id| store.reply(id).is_some()), [false, true, true, true]);
        // What would need all of it and more is not kept, and drives nobody out.
        store.begin(record("big", None)).finish(|| "x".repeat(30));
        check(&store);
        assert_eq!((store.reply("big"), store.size()), (None, (3, 33)));
    }

    #[test]
    fn a_conversation_is_known_from_its_beginning_or_not_at_all() {
        let store = store(3, 1_000);
        give(&store, "a", None);
        give(&store, "b", Some("a"));
        give(&store, "c", Some("b"));
        assert_eq!(conversation(&store, "c"), ["a", "b", "c"]);
        assert!(store.delete("a") && !store.delete("a"));
        check(&store);
        assert_eq!((store.reply("a"), conversation(&store, "a").len()), (None, 0));
        assert_eq!(conversation(&store, "c"), ["a", "b", "c"], "what it goes on from stays");
        // The fourth drives out the second, which the third still needs; so the third goes too, and all that it held.
        give(&store, "d", None);
        assert_eq!((conversation(&store, "c").len(), conversation(&store, "d").len(), store.size().0), (0, 1, 1));
    }

    #[test]
    fn what_runs_can_be_asked_for_and_holds_what_it_goes_on_from() {
        let store = store(1, 1_000);
        give(&store, "a", None);
        let running = store.begin(record("b", Some("a")));
        assert_eq!((store.recall("b"), store.reply("b")), (Recall::Running, Some("{\"status\":\"running\"}".into())));
        assert!(store.delete("a"));
        check(&store);
        running.finish(|| "{}".into());
        check(&store);
        assert_eq!(store.size().0, 0, "two are one too many");
    }

    #[test]
    fn what_was_forgotten_meanwhile_is_not_gone_on_from() {
        let store = store(2, 1_000);
        give(&store, "b", Some("a"));
        assert_eq!((store.reply("b"), store.size().0), (None, 0));
    }

    #[test]
    fn a_client_that_goes_away_leaves_nothing() {
        let store = store(2, 1_000);
        give(&store, "a", None);
        drop(store.begin(record("b", Some("a"))));
        check(&store);
        assert_eq!((store.reply("b"), conversation(&store, "a").len()), (None, 1));
    }

    #[test]
    fn one_that_is_heard_twice_ends_once() {
        let store = store(2, 1_000);
        let (first, second) = (store.begin(record("a", None)), store.begin(record("a", None)));
        drop(first);
        assert_eq!(store.recall("a"), Recall::Running);
        let third = store.begin(record("a", None));
        second.finish(|| "{\"by\": 2}".into());
        third.finish(|| "{\"by\": 3}".into());
        drop((second, third));
        check(&store);
        assert_eq!(store.reply("a"), Some("{\"by\": 2}".into()));
        // Somebody joined it while it ran, and is told here of it when it is over.
        let late = store.begin(record("a", None));
        late.finish(|| "{\"by\": 4}".into());
        drop(late);
        check(&store);
        assert_eq!(store.reply("a"), Some("{\"by\": 2}".into()), "it ended once");
    }

    #[test]
    fn what_is_not_to_be_kept_is_not_but_can_be_cancelled() {
        let store = store(2, 1_000);
        let running = store.begin(Record { keep: false, ..record("a", None) });
        assert_eq!((store.reply("a"), store.recall("a"), store.delete("a")), (None, Recall::Unknown, false));
        assert_eq!(store.cancel("a", |_| "{}".into()), Some("{}".into()));
        running.finish(|| unreachable!("nobody needs it"));
        assert_eq!((store.size(), store.cancel("a", str::to_owned)), ((0, 0), None));
    }

    #[test]
    fn one_that_is_deleted_while_it_runs_is_not_kept() {
        let store = store(2, 1_000);
        let running = store.begin(record("a", None));
        assert!(store.delete("a") && !store.delete("a"));
        running.finish(|| unreachable!("nobody needs it"));
        assert_eq!(store.size(), (0, 0));
    }

    #[test]
    fn one_that_is_cancelled_says_so_though_it_had_no_end() {
        let store = store(2, 1_000);
        let running = store.begin(record("a", None));
        let cancelled = "{\"status\":\"cancelled\"}".to_owned();
        assert_eq!(store.cancel("a", |_| cancelled.clone()), Some(cancelled.clone()));
        assert_eq!(store.cancel("a", |_| unreachable!("it is already")), Some(cancelled.clone()));
        drop(running);
        check(&store);
        assert_eq!(store.reply("a"), Some(cancelled));
    }
}
