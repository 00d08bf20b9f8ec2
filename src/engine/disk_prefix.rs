//! Decides which requests wait for blocks from the disk, and which blocks go there.
//!
//! A long prompt of which the disk holds more than memory is held aside, before the scheduler knows of it; its blocks come a few a turn
//! and are put into the prefix cache, as if somebody had just computed them; then it goes to the scheduler, which finds them there.
//! Others are not held up. A long prompt that was computed is copied out a few blocks a turn, as long as they are cached.
//!
//! The store is somebody else's (`kv_store`), and so are its clock and its files: what it does not give is computed.
#![deny(clippy::disallowed_methods)]

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use kernels::BLOCK_TOKENS;

use super::ModelRunner;
use super::Priority;
use super::block_manager::BlockManager;
use super::engine_loop::Add;
use super::kv_store::chain::Chain;
use super::kv_store::{BlockStore, BlockToWrite, DiskStats, NextBlock};
use super::plan::Plan;
use super::scheduler::Scheduler;

/// When the disk is worth it, and how much of a turn it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLimits {
    /// Shorter prompts are neither kept nor looked for.
    pub prompt_tokens_min: usize,
    /// Blocks that the disk must have beyond memory for a request to wait for them.
    pub gain_blocks_min: usize,
    /// Copied into the cache in one turn, and out of it: others' steps wait as long. At 4 GB/s a copy of 16 MiB takes 4 ms.
    pub bytes_per_turn: usize,
}

impl Default for DiskLimits {
    fn default() -> Self {
        Self { prompt_tokens_min: 1024, gain_blocks_min: 8, bytes_per_turn: 16 << 20 }
    }
}

/// Prompts whose blocks wait to be copied out; beyond them the newest is not kept.
const EXPORTS_MAX: usize = 16;

pub(super) struct DiskPrefix {
    store: Box<dyn BlockStore>,
    limits: DiskLimits,
    block_bytes: usize,
    /// In order of arrival; the first one's blocks are coming.
    held: VecDeque<Held>,
    fetch: Option<Fetch>,
    /// In order of computation; the first is being copied.
    exports: VecDeque<Export>,
    /// Copied out, and the store had no room for it yet.
    refused: Option<BlockToWrite>,
    blocks_dropped: u64,
    /// After a bug of ours, for good.
    off: bool,
}

struct Held {
    add: Add,
    chain: Arc<Chain>,
}

struct Fetch {
    /// The place in the chain of the first of `come`.
    next: usize,
    end: usize,
    /// Read and checked, not yet in the cache.
    come: Vec<Vec<u8>>,
    no_more: bool,
}

struct Export {
    chain: Arc<Chain>,
    /// The next block to copy, and the time of use of all; `None` before the first.
    begun: Option<(usize, u64)>,
}

impl DiskPrefix {
    pub fn new(store: Box<dyn BlockStore>, limits: DiskLimits, block_bytes: usize) -> Self {
        let (held, exports) = (VecDeque::new(), VecDeque::new());
        Self { store, limits, block_bytes, held, fetch: None, exports, refused: None, blocks_dropped: 0, off: false }
    }

    /// Keeps the request until its blocks are there, or gives it back because the disk has nothing for it.
    pub fn hold(&mut self, add: Add, blocks: &BlockManager) -> Option<Add> {
        let Some(chain) = self.chain(&add.request.prompt) else { return Some(add) };
        if self.blocks_to_fetch(&chain, blocks).is_none() {
            return Some(add);
        }
        self.held.push_back(Held { add, chain });
        None
    }

    /// Leading tokens of a prompt that the disk has.
    pub fn tokens_kept(&self, prompt: &[u32]) -> usize {
        self.chain(prompt).map_or(0, |chain| self.leading_on_disk(&chain) * BLOCK_TOKENS)
    }

    /// Requests held whose stream was dropped.
    pub fn take_departed(&mut self) -> Vec<Add> {
        let is_closed = |held: &Held| held.add.events.is_closed();
        if self.held.front().is_some_and(is_closed) {
            self.end_fetch();
        }
        let (departed, held): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.held).into_iter().partition(is_closed);
        self.held = held;
        departed.into_iter().map(|held| held.add).collect()
    }

    /// A turn's share of the copying, in and out. Returns the requests that wait for the disk no more.
    pub fn turn(&mut self, scheduler: &mut Scheduler, runner: &mut dyn ModelRunner) -> Vec<Add> {
        let ready = self.import(scheduler, runner);
        self.export(scheduler.blocks(), runner);
        ready
    }

    /// The prompts that this step completes are to be kept: a look at the plan, before it is computed.
    pub fn note_prompts(&mut self, plan: &Plan, scheduler: &Scheduler) {
        for chunk in &plan.chunks {
            let Some(sequence) = scheduler.running(chunk.id) else { continue };
            let prompt_tokens = sequence.usage().prompt_tokens;
            let completes = (chunk.start..chunk.start + chunk.len).contains(&(prompt_tokens - 1));
            // Only then are names computed: they cost a hash a block.
            let Some(chain) = completes.then(|| self.chain(&sequence.tokens()[..prompt_tokens])).flatten() else { continue };
            if self.exports.len() == EXPORTS_MAX {
                self.blocks_dropped += chain.len() as u64;
                continue;
            }
            self.exports.push_back(Export { chain, begun: None });
        }
        self.tell_what_is_left();
    }

    /// How many requests wait here: while there are any, somebody has to turn the loop.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// There is something to do though nothing is to be computed.
    pub fn is_busy(&self) -> bool {
        !self.held.is_empty() || !self.exports.is_empty() || self.refused.is_some()
    }

    /// All there is to do is to copy out, and the store has no room.
    pub fn waits_for_room(&self) -> bool {
        self.held.is_empty() && self.refused.is_some()
    }

    /// For a loop that has nothing else to do: waits for a block that is to come, at most for `limit`.
    pub fn wait_for_block(&mut self, limit: Duration) {
        if let Some(fetch) = self.fetch.as_mut().filter(|fetch| fetch.come.is_empty() && !fetch.no_more) {
            fetch.take(self.store.next_block(limit));
        }
    }

    /// The engine starts over: what is held is computed, and the disk is left alone from now on, since it may have been its fault.
    pub fn switch_off(&mut self) {
        self.off = true;
        self.end_fetch();
        self.exports.clear();
        self.refused = None;
        self.store.left_to_write(0);
    }

    pub fn stats(&self) -> DiskStats {
        let stats = self.store.stats();
        DiskStats { dropped_total: stats.dropped_total + self.blocks_dropped, ..stats }
    }

    /// `None`: too short, or there is no disk.
    fn chain(&self, prompt: &[u32]) -> Option<Arc<Chain>> {
        if self.off || prompt.len() < self.limits.prompt_tokens_min {
            return None;
        }
        let chain = Chain::new(self.store.key()?, prompt);
        (!chain.is_empty()).then(|| Arc::new(chain))
    }

    /// Where memory ends and where the disk does, if that is far enough.
    fn blocks_to_fetch(&self, chain: &Chain, blocks: &BlockManager) -> Option<Range<usize>> {
        let on_disk = self.leading_on_disk(chain);
        let in_memory = blocks.prefix().longest_match(chain.tokens()).len();
        (on_disk >= in_memory + self.limits.gain_blocks_min.max(1)).then_some(in_memory..on_disk)
    }

    fn leading_on_disk(&self, chain: &Chain) -> usize {
        chain.names().iter().take_while(|name| self.store.contains(name)).count()
    }

    /// The first one's blocks into the cache, then the next one's.
    fn import(&mut self, scheduler: &mut Scheduler, runner: &mut dyn ModelRunner) -> Vec<Add> {
        let mut ready = Vec::new();
        let mut bytes_left = self.limits.bytes_per_turn;
        while let Some(held) = self.held.front() {
            let (chain, priority) = (held.chain.clone(), held.add.request.priority);
            if self.fetch.is_none() && !self.off {
                self.fetch = self.begin_fetch(&chain, scheduler.blocks());
            }
            // At least a block a turn, however large.
            while let Some(fetch) = self.fetch.as_mut().filter(|fetch| !fetch.no_more && bytes_left > 0) {
                let next = self.store.next_block(Duration::ZERO);
                if next == NextBlock::NotYet {
                    break;
                }
                fetch.take(next);
                bytes_left = bytes_left.saturating_sub(self.block_bytes);
            }
            match &mut self.fetch {
                Some(fetch) => {
                    fetch.put(&chain, priority, scheduler, runner);
                    if !fetch.no_more {
                        return ready;
                    }
                    self.end_fetch();
                }
                None => self.end_fetch(),
            }
            ready.extend(self.held.pop_front().map(|held| held.add));
        }
        ready
    }

    /// `None`: there is nothing to be had any more, or others had it computed meanwhile.
    fn begin_fetch(&mut self, chain: &Arc<Chain>, blocks: &BlockManager) -> Option<Fetch> {
        let wanted = self.blocks_to_fetch(chain, blocks)?;
        let (next, end) = (wanted.start, wanted.end);
        self.store.fetch(chain, wanted).then_some(Fetch { next, end, come: Vec::new(), no_more: false })
    }

    fn end_fetch(&mut self) {
        self.fetch = None;
        self.store.end_fetch();
    }

    /// The first one's blocks out of the cache, then the next one's: those that are still there.
    fn export(&mut self, blocks: &BlockManager, runner: &mut dyn ModelRunner) {
        let mut bytes_left = self.limits.bytes_per_turn;
        if let Some(block) = self.refused.take() {
            self.refused = self.store.write(block).err();
        }
        while self.refused.is_none() && bytes_left > 0 {
            let Some(export) = self.exports.front() else { break };
            let chain = export.chain.clone();
            let (mut next, used_at) = export.begun.unwrap_or_else(|| {
                let on_disk = self.leading_on_disk(&chain);
                (on_disk, self.store.used(&chain, on_disk))
            });
            let cached = blocks.prefix().longest_match(chain.tokens());
            while next < cached.len() && self.refused.is_none() && bytes_left > 0 {
                let mut payload = Vec::with_capacity(self.block_bytes);
                if let Err(message) = runner.read_block(cached[next], &mut payload) {
                    tracing::error!("a block of the cache cannot be copied: {message}");
                    break;
                }
                self.refused = self.store.write(BlockToWrite { chain: chain.clone(), index: next, payload, used_at }).err();
                bytes_left = bytes_left.saturating_sub(self.block_bytes);
                next += 1;
            }
            let pauses = next < cached.len() && (self.refused.is_some() || bytes_left == 0);
            match self.exports.front_mut() {
                Some(export) if pauses => export.begun = Some((next, used_at)),
                _ => {
                    // The rest was given up to make room, or never came to be.
                    self.blocks_dropped += chain.len().saturating_sub(next) as u64;
                    self.exports.pop_front();
                }
            }
        }
        self.tell_what_is_left();
    }

    fn tell_what_is_left(&mut self) {
        self.store.left_to_write(self.exports.len() + usize::from(self.refused.is_some()));
    }
}

impl Fetch {
    fn take(&mut self, next: NextBlock) {
        match next {
            NextBlock::Block(block) => self.come.push(block),
            NextBlock::NotYet => {}
            NextBlock::End => self.no_more = true,
        }
    }

    /// Puts what has come into the cache; where that fails, or all is there, no more is wanted.
    fn put(&mut self, chain: &Chain, priority: Priority, scheduler: &mut Scheduler, runner: &mut dyn ModelRunner) {
        if self.come.is_empty() {
            return;
        }
        let first = self.next;
        let come = std::mem::take(&mut self.come);
        self.next += come.len();
        let cached = scheduler.import(chain.tokens(), first..self.next, priority, |index, block| {
            let written = runner.write_block(block, &come[index - first]);
            written.inspect_err(|message| tracing::error!("a block from the disk cannot be put back: {message}")).is_ok()
        });
        self.no_more |= cached < self.next || self.next == self.end;
    }
}
