//! What the threads of the store and its handles share: what is on the disk, what is under way, what was counted and told.
//!
//! Held for looks and notes, never while a file is touched: the engine's thread looks, too.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::DiskStats;
use super::chain::{BlockName, CacheKey};
use super::folder::Folder;
use super::index::Index;

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    pub folder: Folder,
}

#[derive(Debug)]
pub(super) struct State {
    pub phase: Phase,
    pub index: Index,
    pub stats: DiskStats,
    /// Handed over and not done.
    pub writing: usize,
    pub reading: usize,
    /// See [`BlockStore::left_to_write`].
    pub left: usize,
    /// What the log was told of already.
    told: BTreeSet<Trouble>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The key is being computed, the folder looked at.
    Starting,
    Ready(CacheKey),
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    Folder,
    Reading,
    Doubt,
    Writing,
    Deleting,
    Slow,
}

impl Shared {
    pub fn new(folder: Folder) -> Self {
        let state = State {
            phase: Phase::Starting,
            index: Index::default(),
            stats: DiskStats::default(),
            writing: 0,
            reading: 0,
            left: 0,
            told: BTreeSet::new(),
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), folder }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn stats(&self) -> DiskStats {
        let state = self.state();
        DiskStats { blocks: state.index.blocks() as u64, bytes: state.index.bytes(), ..state.stats }
    }

    pub fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let changed = change(&mut self.state());
        self.changed.notify_all();
        changed
    }

    pub fn wait(&self, limit: Duration, is_so: impl Fn(&State) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.state(), limit, |state| !is_so(state));
        is_so(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Once a kind of trouble: a broken disk has a line for every block.
    pub fn tell(&self, trouble: Trouble, message: impl Display) {
        if self.state().told.insert(trouble) {
            tracing::warn!("disk cache in {}: {message}", self.folder.path().display());
        }
    }

    pub fn delete(&self, name: &BlockName, depth: u32) {
        if let Err(error) = self.folder.remove(name, depth) {
            self.tell(Trouble::Deleting, format_args!("cannot delete: {error}"));
        }
    }
}
