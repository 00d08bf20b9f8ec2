//! Decides who owns which block of the paged cache, and which cached block is given up first.
//!
//! A block is in exactly one of three places: free, owned (by one or more tables) or cached (published, owned by nobody, kept
//! until its place is needed). Cached blocks of less urgent requests go first, and of those the least recently used: a request for a
//! title never costs the conversation beside it its cache. What anybody urgent has used counts as urgent.
//! Reservations are counts, not blocks: a sequence is promised what
//! its prompt and the start of its answer need, and takes the blocks when it gets there, so that cached blocks live until then.
//!
//! These are the blocks of full attention. What other layers keep hangs on them (`layer_groups`): a prefix is taken as far as all groups
//! can go on from, and a block that is given up takes with it what hangs on it.
//!
//! Knows no sequence, no budget of rows and no tensor.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::ops::Range;

use kernels::BLOCK_TOKENS;

use super::Priority;
use super::layer_groups::{GroupTables, LayerGroups, RestartPoint, StatePools};
use super::prefix_cache::{BlockId, PrefixCache, Published};
use super::state_pool::Worth;

/// The blocks of all sequences.
#[derive(Debug)]
pub struct BlockManager {
    /// By block: how many tables hold it.
    owners: Vec<u32>,
    free: Vec<BlockId>,
    /// Published blocks without an owner, in the order in which they are given up.
    cached: BTreeMap<Keep, BlockId>,
    /// By block: its key in `cached`, where it is there.
    cached_since: Vec<Keep>,
    /// By published block: the most urgent of those who have held it.
    most_urgent: Vec<Priority>,
    tick: u64,
    /// Blocks promised to tables and not yet taken; never more than free and cached ones.
    promised: usize,
    prefix: PrefixCache,
    groups: LayerGroups,
}

/// What is smaller is given up first: the less urgent, then what its last owner left earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Keep {
    priority: std::cmp::Reverse<Priority>,
    tick: u64,
}

/// The blocks of one sequence, in order of position.
#[derive(Debug, Default)]
pub struct BlockTable {
    blocks: Vec<BlockId>,
    /// Blocks it may still take without asking.
    promised: usize,
    /// How many of the leading blocks are published.
    published: usize,
    /// A hash collision ended the chain: the rest of the sequence stays private.
    private: bool,
    priority: Priority,
    /// What it holds for layers of other groups.
    groups: GroupTables,
}

impl BlockTable {
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }
    /// Blocks held and promised.
    pub fn reserved(&self) -> usize {
        self.blocks.len() + self.promised
    }
    pub fn promised(&self) -> usize {
        self.promised
    }
    pub fn published(&self) -> usize {
        self.published
    }
    pub fn groups(&self) -> &GroupTables {
        &self.groups
    }
}

impl BlockManager {
    pub fn new(blocks: usize) -> Self {
        Self::with_prefix_cache(blocks, PrefixCache::new(blocks))
    }

    pub fn with_prefix_cache(blocks: usize, prefix: PrefixCache) -> Self {
        Self {
            owners: vec![0; blocks],
            // Taken from the back: the lowest number first.
            free: (0..blocks as u32).rev().map(BlockId).collect(),
            cached: BTreeMap::new(),
            cached_since: vec![Keep { priority: std::cmp::Reverse(Priority::default()), tick: 0 }; blocks],
            most_urgent: vec![Priority::Shadow; blocks],
            tick: 0,
            promised: 0,
            prefix,
            groups: LayerGroups::default(),
        }
    }

    /// With layers that keep something else than full attention does, for steps of up to `tokens_per_step_max` rows.
    pub fn with_pools(self, pools: &StatePools, tokens_per_step_max: usize) -> Self {
        let groups = LayerGroups::new(pools, self.total(), tokens_per_step_max);
        Self { groups, ..self }
    }

    /// The blocks of the longest prefix of `tokens` that all layers can go on from; never the last token.
    pub fn longest_restart(&self, tokens: &[u32]) -> Vec<BlockId> {
        let mut blocks = self.prefix.longest_match(tokens);
        blocks.truncate(self.groups.depth(&blocks));
        blocks
    }

    /// A table that holds the cached prefix of `tokens` and is promised the rest of `blocks_reserved`; `None` when there is no room.
    pub fn admit(&mut self, tokens: &[u32], blocks_reserved: usize, priority: Priority) -> Option<BlockTable> {
        let blocks = self.longest_restart(tokens);
        let promised = blocks_reserved.saturating_sub(blocks.len());
        let woken = blocks.iter().filter(|block| self.owners[block.index()] == 0).count();
        if promised + woken > self.available() || self.groups.room() == 0 {
            return None;
        }
        for &block in &blocks {
            self.acquire(block, priority);
        }
        self.promised += promised;
        let groups = self.groups.enter(&blocks, priority);
        Some(BlockTable { published: blocks.len(), blocks, promised, private: false, priority, groups })
    }

    /// Blocks that are missing for `admit` to succeed, beside room in the [`LayerGroups`].
    pub fn shortage(&self, tokens: &[u32], blocks_reserved: usize) -> usize {
        let blocks = self.longest_restart(tokens);
        let woken = blocks.iter().filter(|block| self.owners[block.index()] == 0).count();
        (blocks_reserved.saturating_sub(blocks.len()) + woken).saturating_sub(self.available())
    }

    /// Takes over what others have published meanwhile of `tokens`, beyond the blocks that the table holds: all of those must be
    /// published. Promises of the table that are not needed any more are returned.
    pub fn adopt(&mut self, table: &mut BlockTable, tokens: &[u32]) {
        if table.private || table.published < table.blocks.len() {
            return;
        }
        if !self.groups.is_empty() {
            return self.adopt_in_all(table, tokens);
        }
        while table.promised > 0
            && let Some(block) = self.prefix.next_match(table.blocks.last().copied(), tokens, table.blocks.len())
        {
            table.promised -= 1;
            self.promised -= 1;
            self.acquire(block, table.priority);
            table.blocks.push(block);
            table.published += 1;
        }
    }

    /// As [`Self::adopt`], as far as all groups can go on from.
    fn adopt_in_all(&mut self, table: &mut BlockTable, tokens: &[u32]) {
        let mut chain = table.blocks.clone();
        while chain.len() < table.reserved()
            && let Some(block) = self.prefix.next_match(chain.last().copied(), tokens, chain.len())
        {
            chain.push(block);
        }
        let depth = self.groups.depth(&chain);
        if depth <= table.blocks.len() {
            return;
        }
        chain.truncate(depth);
        for &block in &chain[table.blocks.len()..] {
            table.promised -= 1;
            self.promised -= 1;
            self.acquire(block, table.priority);
        }
        self.groups.jump(&mut table.groups, &chain, table.priority);
        (table.published, table.blocks) = (depth, chain);
    }

    /// Where the blocks that the table holds end, another may begin with what follows in `tokens`: then the table takes a block for a copy
    /// of it. Returns which block is to be copied into the table's last one, before anything is written, and how many tokens that is.
    /// Never the last one of `tokens`: somebody wants its logits.
    pub fn copy_part(&mut self, table: &mut BlockTable, tokens: &[u32]) -> Option<(BlockId, usize)> {
        if table.private || table.published < table.blocks.len() || table.promised == 0 {
            return None;
        }
        let start = table.blocks.len() * BLOCK_TOKENS;
        let end = (start + BLOCK_TOKENS).min(tokens.len() - 1);
        let (from, common) = self.prefix.longest_common_part(table.blocks.last().copied(), tokens.get(start..end)?)?;
        if self.owners(from) == 0 {
            // It was of use; and should its place be needed for the copy, nothing is lost.
            self.acquire(from, table.priority);
            self.leave(from);
        }
        self.cover(table, start + common);
        Some((from, common))
    }

    /// Promises the table one more block, if there is one.
    pub fn grow(&mut self, table: &mut BlockTable) -> bool {
        if self.available() == 0 {
            return false;
        }
        self.promised += 1;
        table.promised += 1;
        true
    }

    /// Takes promised blocks until the table covers `tokens` positions.
    pub fn cover(&mut self, table: &mut BlockTable, tokens: usize) {
        while table.blocks.len() * BLOCK_TOKENS < tokens {
            assert!(table.promised > 0, "a table of {} blocks takes one it was not promised", table.blocks.len());
            table.promised -= 1;
            self.promised -= 1;
            let block = self.free.pop().or_else(|| self.evict()).expect("a promised block is free or cached");
            self.owners[block.index()] = 1;
            table.blocks.push(block);
        }
    }

    /// As [`Self::cover`], in all groups, for a step that computes `start..end`. `may_be_undone`: see [`LayerGroups::cover`].
    pub fn cover_step(&mut self, table: &mut BlockTable, start: usize, end: usize, may_be_undone: bool) {
        self.cover(table, end);
        self.groups.cover(&mut table.groups, start, end, may_be_undone);
    }

    /// A step that was covered is computed. Before what it computed is published.
    pub fn step_done(&mut self, table: &mut BlockTable) {
        self.groups.step_done(&mut table.groups);
    }

    /// A step that was covered did not come about, or is to leave no trace.
    pub fn undo_step(&mut self, table: &mut BlockTable) {
        self.groups.undo(&mut table.groups);
    }

    /// What is published ends at `computed`, and that is one of the places to go on from: keeps the state for others.
    pub fn checkpoint(&mut self, table: &BlockTable, computed: usize, worth: Worth) {
        let index = (computed / BLOCK_TOKENS).checked_sub(1).filter(|index| *index + 1 == table.published);
        if let Some(node) = index.filter(|_| computed.is_multiple_of(BLOCK_TOKENS)).map(|index| table.blocks[index]) {
            self.groups.checkpoint(&table.groups, node, table.priority, worth);
        }
    }

    /// Publishes the blocks of `tokens[..computed]` that are full now. Where another sequence published the same content first,
    /// the table takes that block and gives its own back: both hold the same bits, and a block's parent outlives it.
    pub fn publish(&mut self, table: &mut BlockTable, tokens: &[u32], computed: usize) {
        self.publish_with(table, tokens, computed, &[]);
    }

    /// As [`Self::publish`], with the places where somebody may go on from.
    pub fn publish_with(&mut self, table: &mut BlockTable, tokens: &[u32], computed: usize, restarts: &[RestartPoint]) {
        while !table.private && (table.published + 1) * BLOCK_TOKENS <= computed {
            let index = table.published;
            let parent = index.checked_sub(1).map(|index| table.blocks[index]);
            let block = table.blocks[index];
            match self.prefix.publish(parent, &tokens[index * BLOCK_TOKENS..(index + 1) * BLOCK_TOKENS], block) {
                Published::Yes => self.most_urgent[block.index()] = table.priority,
                Published::Duplicate(first) => {
                    self.acquire(first, table.priority);
                    self.leave(block);
                    table.blocks[index] = first;
                }
                Published::Collision => {
                    table.private = true;
                    return;
                }
            }
            self.groups.publish(&table.groups, index, table.blocks[index], table.priority, restarts);
            table.published += 1;
        }
    }

    /// Takes blocks from elsewhere into the cache: `blocks` of `tokens`, counted in blocks, behind those that are there already. `fill`
    /// writes one; where it fails, there is no place, or the hash of one is taken, the rest is left out. Returns how many leading blocks
    /// of `tokens` are cached now: fewer than `blocks.start` where some were given up since, more where somebody has computed them.
    ///
    /// The chain is held meanwhile, so that it never makes room for itself, and let go at the end: most recently used, owned by nobody
    /// who did not own it before. They are as urgent as who wants them. Only where all layers are full attention: others would lack theirs.
    pub fn import(
        &mut self,
        tokens: &[u32],
        blocks: Range<usize>,
        priority: Priority,
        mut fill: impl FnMut(usize, BlockId) -> bool,
    ) -> usize {
        assert!(self.groups.is_empty(), "blocks from elsewhere lack what other layers keep");
        let Some(mut table) = self.admit(tokens, 0, priority) else { return 0 };
        let mut next = table.published;
        while blocks.contains(&next) && next == table.published && self.grow(&mut table) {
            self.cover(&mut table, (next + 1) * BLOCK_TOKENS);
            if !fill(next, table.blocks[next]) {
                break;
            }
            next += 1;
            self.publish(&mut table, tokens, next * BLOCK_TOKENS);
        }
        let cached = table.published;
        self.release(&mut table);
        cached
    }

    /// As [`BlockManager::release`], but a last block that is not full stays cached too, with what of `tokens[..computed]` is in it.
    pub fn release_with_part(&mut self, table: &mut BlockTable, tokens: &[u32], computed: usize) {
        let start = table.published * BLOCK_TOKENS;
        if let Some(&block) = table.blocks.get(table.published).filter(|_| !table.private && start < computed) {
            let parent = table.published.checked_sub(1).map(|index| table.blocks[index]);
            if self.prefix.keep_part(parent, &tokens[start..computed], block) {
                self.most_urgent[block.index()] = table.priority;
            }
        }
        self.release(table);
    }

    /// Takes everything back: published blocks stay cached, the others are free.
    pub fn release(&mut self, table: &mut BlockTable) {
        let mut table = std::mem::take(table);
        self.groups.release(&mut table.groups, &table.blocks[..table.published]);
        self.promised -= table.promised;
        // Last block first: in order of last use a block stands before its parent, so that a chain is evicted from its end.
        for &block in table.blocks.iter().rev() {
            self.leave(block);
        }
    }

    /// Blocks that may still be promised.
    pub fn available(&self) -> usize {
        self.free.len() + self.cached.len() - self.promised
    }
    /// Blocks with an owner.
    pub fn used(&self) -> usize {
        self.total() - self.free.len() - self.cached.len()
    }
    /// Blocks without an owner whose content can still be found.
    pub fn cached(&self) -> usize {
        self.cached.len()
    }
    pub fn total(&self) -> usize {
        self.owners.len()
    }
    pub fn owners(&self, block: BlockId) -> u32 {
        self.owners[block.index()]
    }
    pub fn prefix(&self) -> &PrefixCache {
        &self.prefix
    }
    pub fn groups(&self) -> &LayerGroups {
        &self.groups
    }

    /// The promises of this file: for tests and the simulation.
    pub fn check(&self) -> Result<(), String> {
        self.prefix.check()?;
        let mut places = vec![0u32; self.total()];
        for block in &self.free {
            places[block.index()] += 1;
            if self.prefix.is_published(*block) {
                return Err(format!("{block:?} is free and published"));
            }
        }
        for (&since, block) in &self.cached {
            places[block.index()] += 1;
            if !self.prefix.is_published(*block) {
                return Err(format!("{block:?} is cached but not published"));
            }
            if self.cached_since[block.index()] != since || since.priority.0 != self.most_urgent[block.index()] {
                return Err(format!("{block:?} is cached under the wrong tick"));
            }
            let parent = self.prefix.content(*block).and_then(|(parent, _)| parent);
            if let Some(parent) = parent.filter(|parent| self.owners(*parent) == 0)
                && self.cached_since[parent.index()] < since
            {
                return Err(format!("{parent:?} would be evicted before its child {block:?}"));
            }
        }
        for (index, in_lists) in places.iter().enumerate() {
            let owned = u32::from(self.owners[index] > 0);
            if in_lists + owned != 1 {
                return Err(format!("block {index} is in {} places: {} owners, {in_lists} lists", in_lists + owned, self.owners[index]));
            }
        }
        if self.promised > self.free.len() + self.cached.len() {
            return Err(format!("{} blocks are promised, {} free and {} cached", self.promised, self.free.len(), self.cached.len()));
        }
        Ok(())
    }

    /// Also compares what other groups keep for the running sequences, of which so many tokens are computed.
    pub fn check_groups<'a>(&self, tables: impl Iterator<Item = (&'a BlockTable, usize)>) -> Result<(), String> {
        let sequences = tables.map(|(table, computed)| (&table.groups, &table.blocks[..table.published], computed));
        self.groups.check(sequences, |node| self.prefix.is_published(node))
    }

    /// Also compares with the tables there are: `check`, and owners equal holders, promises add up, published content is theirs.
    pub fn check_tables<'a>(&self, tables: impl Iterator<Item = (&'a BlockTable, &'a [u32])>) -> Result<(), String> {
        self.check()?;
        let mut holders = vec![0u32; self.total()];
        let mut promised = 0;
        for (table, tokens) in tables {
            promised += table.promised;
            for (index, &block) in table.blocks.iter().enumerate() {
                holders[block.index()] += 1;
                let content = self.prefix.content(block);
                if content.is_some() != (index < table.published) {
                    return Err(format!("{block:?}, {index} of a table with {} published, is not as the table says", table.published));
                }
                let Some((parent, block_tokens)) = content else { continue };
                if tokens.get(index * BLOCK_TOKENS..(index + 1) * BLOCK_TOKENS) != Some(block_tokens) {
                    return Err(format!("{block:?} is published with other tokens than its owner's"));
                }
                if parent != index.checked_sub(1).map(|index| table.blocks[index]) {
                    return Err(format!("{block:?} is published after {parent:?}, which is not its owner's"));
                }
            }
        }
        if holders != self.owners {
            return Err(format!("owners {:?}, but tables hold {holders:?}", self.owners));
        }
        if promised != self.promised {
            return Err(format!("{} blocks are promised, tables were promised {promised}", self.promised));
        }
        Ok(())
    }

    fn acquire(&mut self, block: BlockId, priority: Priority) {
        if self.owners[block.index()] == 0 {
            let cached = self.cached.remove(&self.cached_since[block.index()]);
            assert!(cached == Some(block), "{block:?} has no owner and is not cached");
        }
        self.owners[block.index()] += 1;
        let most_urgent = &mut self.most_urgent[block.index()];
        *most_urgent = priority.min(*most_urgent);
    }

    fn leave(&mut self, block: BlockId) {
        let owners = &mut self.owners[block.index()];
        assert!(*owners > 0, "{block:?} is released but has no owner");
        *owners -= 1;
        if *owners > 0 {
            return;
        }
        if self.prefix.is_published(block) {
            self.tick += 1;
            let keep = Keep { priority: std::cmp::Reverse(self.most_urgent[block.index()]), tick: self.tick };
            self.cached_since[block.index()] = keep;
            self.cached.insert(keep, block);
        } else {
            self.free.push(block);
        }
    }

    /// Gives up the cached block that is least worth keeping.
    fn evict(&mut self) -> Option<BlockId> {
        let (_, block) = self.cached.pop_first()?;
        self.groups.forget(block);
        self.prefix.forget(block);
        Some(block)
    }
}

#[cfg(test)]
mod tests;
