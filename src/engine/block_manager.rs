//! Decides who owns which block of the paged cache, and which cached block is given up first.
//!
//! A block is in exactly one of three places: free, owned (by one or more tables) or cached (published, owned by nobody, kept
//! until its place is needed). Cached blocks of less urgent requests go first, and of those the least recently used: a request for a
//! title never costs the conversation beside it its cache. What anybody urgent has used counts as urgent.
//! Reservations are counts, not blocks: a sequence is promised what
//! its prompt and the start of its answer need, and takes the blocks when it gets there, so that cached blocks live until then.
//!
//! Knows no sequence, no budget of rows and no tensor.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::ops::Range;

use kernels::BLOCK_TOKENS;

use super::Priority;
use super::prefix_cache::{BlockId, PrefixCache, Published};

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
        }
    }

    /// A table that holds the cached prefix of `tokens` and is promised the rest of `blocks_reserved`; `None` when there is no room.
    pub fn admit(&mut self, tokens: &[u32], blocks_reserved: usize, priority: Priority) -> Option<BlockTable> {
        let blocks = self.prefix.longest_match(tokens);
        let promised = blocks_reserved.saturating_sub(blocks.len());
        let woken = blocks.iter().filter(|block| self.owners[block.index()] == 0).count();
        if promised + woken > self.available() {
            return None;
        }
        for &block in &blocks {
            self.acquire(block, priority);
        }
        self.promised += promised;
        Some(BlockTable { published: blocks.len(), blocks, promised, private: false, priority })
    }

    /// Blocks that are missing for `admit` to succeed.
    pub fn shortage(&self, tokens: &[u32], blocks_reserved: usize) -> usize {
        let blocks = self.prefix.longest_match(tokens);
        let woken = blocks.iter().filter(|block| self.owners[block.index()] == 0).count();
        (blocks_reserved.saturating_sub(blocks.len()) + woken).saturating_sub(self.available())
    }

    /// Takes over what others have published meanwhile of `tokens`, beyond the blocks that the table holds: all of those must be
    /// published. Promises of the table that are not needed any more are returned.
    pub fn adopt(&mut self, table: &mut BlockTable, tokens: &[u32]) {
        if table.private || table.published < table.blocks.len() {
            return;
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

    /// Publishes the blocks of `tokens[..computed]` that are full now. Where another sequence published the same content first,
    /// the table takes that block and gives its own back: both hold the same bits, and a block's parent outlives it.
    pub fn publish(&mut self, table: &mut BlockTable, tokens: &[u32], computed: usize) {
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
            table.published += 1;
        }
    }

    /// Takes blocks from elsewhere into the cache: `blocks` of `tokens`, counted in blocks, behind those that are there already. `fill`
    /// writes one; where it fails, there is no place, or the hash of one is taken, the rest is left out. Returns how many leading blocks
    /// of `tokens` are cached now: fewer than `blocks.start` where some were given up since, more where somebody has computed them.
    ///
    /// The chain is held meanwhile, so that it never makes room for itself, and let go at the end: most recently used, owned by nobody
    /// who did not own it before. They are as urgent as who wants them.
    pub fn import(
        &mut self,
        tokens: &[u32],
        blocks: Range<usize>,
        priority: Priority,
        mut fill: impl FnMut(usize, BlockId) -> bool,
    ) -> usize {
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

    /// Takes everything back: published blocks stay cached, the others are free.
    pub fn release(&mut self, table: &mut BlockTable) {
        let table = std::mem::take(table);
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
        self.prefix.forget(block);
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(tokens: usize, salt: u32) -> Vec<u32> {
        (0..tokens as u32).map(|i| i * 3 + salt).collect()
    }

    /// Admits `tokens`, computes and publishes all of them.
    fn run(manager: &mut BlockManager, tokens: &[u32]) -> BlockTable {
        let mut table = manager.admit(tokens, tokens.len().div_ceil(BLOCK_TOKENS), Priority::Interactive).expect("there is room");
        manager.cover(&mut table, tokens.len());
        manager.publish(&mut table, tokens, tokens.len());
        table
    }

    #[test]
    fn a_prefix_is_shared_and_outlives_its_owner() {
        let mut manager = BlockManager::new(8);
        let tokens = text(70, 0);
        let mut first = run(&mut manager, &tokens);
        let mut second = run(&mut manager, &tokens);
        assert_eq!(first.blocks()[..2], second.blocks()[..2]);
        assert_ne!(first.blocks()[2], second.blocks()[2], "the last, partial block is nobody else's");
        assert_eq!((manager.used(), manager.cached()), (4, 0));
        manager.check_tables([(&first, &tokens[..]), (&second, &tokens[..])].into_iter()).unwrap();
        manager.release(&mut first);
        manager.release(&mut second);
        assert_eq!((manager.used(), manager.cached(), manager.available()), (0, 2, 8));
        manager.check_tables(std::iter::empty()).unwrap();
        assert_eq!(manager.admit(&tokens, 3, Priority::Interactive).unwrap().blocks().len(), 2);
    }

    #[test]
    fn two_that_compute_the_same_at_once_end_with_one_copy() {
        let mut manager = BlockManager::new(8);
        let tokens = text(64, 0);
        let (mut a, mut b) =
            (manager.admit(&tokens, 2, Priority::Interactive).unwrap(), manager.admit(&tokens, 2, Priority::Interactive).unwrap());
        manager.cover(&mut a, 64);
        manager.cover(&mut b, 64);
        assert_eq!(manager.used(), 4);
        manager.publish(&mut a, &tokens, 64);
        manager.publish(&mut b, &tokens, 64);
        assert_eq!(a.blocks(), b.blocks());
        assert_eq!(manager.used(), 2);
        manager.check_tables([(&a, &tokens[..]), (&b, &tokens[..])].into_iter()).unwrap();
    }

    #[test]
    fn the_least_recently_used_goes_first_and_ends_before_beginnings() {
        let mut manager = BlockManager::new(4);
        let (old, new) = (text(64, 0), text(64, 1000));
        let (mut a, mut b) = (run(&mut manager, &old), run(&mut manager, &new));
        manager.release(&mut a);
        manager.release(&mut b);
        assert_eq!((manager.cached(), manager.available()), (4, 4));
        // One block is needed: the second of `old` goes, its first stays.
        let other = text(20, 5000);
        let mut table = run(&mut manager, &other);
        let hits = |manager: &BlockManager, tokens: &[u32]| manager.prefix().longest_match(&[tokens, &[0]].concat()).len();
        assert_eq!((hits(&manager, &old), hits(&manager, &new)), (1, 2));
        manager.check_tables([(&table, &other[..])].into_iter()).unwrap();
        manager.release(&mut table);
        // The place of `other` was never published: it is free, nothing more is evicted.
        let table = run(&mut manager, &other);
        assert_eq!((hits(&manager, &old), hits(&manager, &new)), (1, 2));
        manager.check_tables([(&table, &other[..])].into_iter()).unwrap();
    }

    #[test]
    fn the_less_urgent_goes_first_and_what_is_shared_counts_as_urgent() {
        let mut manager = BlockManager::new(6);
        let held = |manager: &BlockManager, tokens: &[u32]| manager.prefix().longest_match(&[tokens, &[0]].concat()).len();
        let (conversation, title) = (text(64, 0), [&text(32, 0)[..], &text(64, 5000)].concat());
        let mut first = run(&mut manager, &conversation);
        manager.release(&mut first);
        let mut second = manager.admit(&title, 3, Priority::Background).unwrap();
        assert_eq!(second.published(), 1, "it begins as the conversation does");
        manager.cover(&mut second, 96);
        manager.publish(&mut second, &title, 96);
        manager.release(&mut second);
        manager.check().unwrap();
        // Four are cached and two free. The title was used last, and goes first all the same: its own two blocks.
        let mut third = manager.admit(&text(128, 9000), 4, Priority::Background).unwrap();
        manager.cover(&mut third, 128);
        assert_eq!((held(&manager, &conversation), held(&manager, &title)), (2, 1));
        manager.check().unwrap();
        let fourth = text(32, 7000);
        let mut table = manager.admit(&fourth, 1, Priority::Shadow).unwrap();
        manager.cover(&mut table, 32);
        assert_eq!(held(&manager, &conversation), 1, "where nothing else is left, anybody gets a block");
    }

    #[test]
    fn what_another_has_computed_meanwhile_is_taken_over() {
        let mut manager = BlockManager::new(8);
        let tokens = text(100, 0);
        let mut slow = manager.admit(&tokens, 4, Priority::Interactive).unwrap();
        let mut fast = run(&mut manager, &tokens[..80]);
        manager.adopt(&mut slow, &tokens);
        assert_eq!((slow.blocks(), slow.promised(), slow.published()), (&fast.blocks()[..2], 2, 2));
        manager.cover(&mut slow, 70);
        manager.publish(&mut fast, &tokens, 80);
        manager.adopt(&mut slow, &tokens);
        assert_eq!(slow.blocks().len(), 3, "it has begun the third block itself");
        manager.check_tables([(&slow, &tokens[..]), (&fast, &tokens[..80])].into_iter()).unwrap();
        // The last token is not taken over: somebody wants its logits.
        let mut all = run(&mut manager, &tokens[..96]);
        let mut same = manager.admit(&tokens[..33], 2, Priority::Interactive).unwrap();
        manager.adopt(&mut same, &tokens[..33]);
        assert_eq!(same.blocks().len(), 1);
        for table in [&mut slow, &mut fast, &mut all, &mut same] {
            manager.release(table);
        }
        assert_eq!(manager.available(), 8);
    }

    #[test]
    fn a_promise_is_kept_and_does_not_evict_before_it_is_used() {
        let mut manager = BlockManager::new(4);
        let tokens = text(64, 0);
        let mut first = run(&mut manager, &tokens);
        manager.release(&mut first);
        let mut second = manager.admit(&text(10, 7), 3, Priority::Interactive).unwrap();
        assert_eq!((manager.available(), manager.cached()), (1, 2));
        assert!(manager.admit(&text(40, 9), 2, Priority::Interactive).is_none(), "only one block is not promised");
        assert!(manager.grow(&mut second));
        assert!(!manager.grow(&mut second));
        manager.cover(&mut second, 10);
        assert_eq!(manager.cached(), 2, "promises alone evict nothing");
        manager.cover(&mut second, 128);
        assert_eq!((manager.cached(), manager.used()), (0, 4));
        manager.release(&mut second);
        assert_eq!((manager.available(), manager.used()), (4, 0));
    }

    #[test]
    fn a_cached_hit_is_not_counted_twice() {
        // Four blocks: two cached for `tokens`. A request of 2 hits and 3 more does not fit, one of 2 and 2 does.
        let mut manager = BlockManager::new(4);
        let tokens = text(65, 0);
        let mut table = run(&mut manager, &tokens);
        manager.release(&mut table);
        assert!(manager.admit(&tokens, 5, Priority::Interactive).is_none());
        manager.check().unwrap();
        assert!(manager.admit(&tokens, 4, Priority::Interactive).is_some());
    }

    #[test]
    #[should_panic(expected = "not promised")]
    fn a_block_that_was_not_promised_is_not_taken() {
        let mut manager = BlockManager::new(4);
        let mut table = manager.admit(&text(10, 0), 1, Priority::Interactive).unwrap();
        manager.cover(&mut table, 33);
    }

    /// Imports `blocks` of `tokens`; returns what is cached then, and the blocks that were filled.
    fn import(manager: &mut BlockManager, tokens: &[u32], blocks: Range<usize>) -> (usize, Vec<u32>) {
        let mut filled = Vec::new();
        let cached = manager.import(tokens, blocks, Priority::Interactive, |_, block| {
            filled.push(block.0);
            true
        });
        manager.check().unwrap();
        (cached, filled)
    }

    #[test]
    fn imported_blocks_are_cached_and_owned_by_nobody() {
        let mut manager = BlockManager::new(8);
        let tokens = text(100, 0);
        assert_eq!(import(&mut manager, &tokens, 0..2), (2, vec![0, 1]));
        assert_eq!((manager.used(), manager.cached(), manager.available()), (0, 2, 8));
        assert_eq!(import(&mut manager, &tokens, 2..3), (3, vec![2]), "the next ones come behind them");
        assert_eq!(import(&mut manager, &tokens, 0..3), (3, vec![]), "what is there is not filled again");
        let table = manager.admit(&tokens, 4, Priority::Interactive).unwrap();
        assert_eq!(table.blocks(), [0, 1, 2].map(BlockId));
        manager.check_tables([(&table, &tokens[..])].into_iter()).unwrap();
        assert_eq!(import(&mut manager, &tokens, 0..3), (3, vec![]), "owned by another, they are there all the same");
        manager.check_tables([(&table, &tokens[..])].into_iter()).unwrap();
    }

    #[test]
    fn an_import_evicts_others_and_never_its_own_beginning() {
        let mut manager = BlockManager::new(4);
        let (old, long) = (text(65, 0), text(300, 1000));
        let mut table = run(&mut manager, &old);
        manager.release(&mut table);
        assert_eq!(import(&mut manager, &long, 0..9), (4, vec![2, 3, 1, 0]), "all there are, and no more");
        assert_eq!(manager.prefix().longest_match(&long).len(), 4);
        // A running sequence has its blocks for itself.
        let mut table = run(&mut manager, &old);
        assert_eq!(import(&mut manager, &long, 1..9), (1, vec![]), "no place is left");
        manager.check_tables([(&table, &old[..])].into_iter()).unwrap();
        assert_eq!(import(&mut manager, &long, 2..9), (1, vec![]), "one has gone since the last part came");
        manager.release(&mut table);
    }

    #[test]
    fn a_block_that_could_not_be_filled_is_free_again() {
        let mut manager = BlockManager::new(4);
        let tokens = text(100, 0);
        let cached = manager.import(&tokens, 0..3, Priority::Interactive, |index, _| index < 1);
        assert_eq!((cached, manager.cached(), manager.used(), manager.available()), (1, 1, 0, 4));
        manager.check_tables(std::iter::empty()).unwrap();
    }

    #[test]
    fn an_import_keeps_promises_to_others() {
        let mut manager = BlockManager::new(4);
        let table = manager.admit(&text(10, 7), 3, Priority::Interactive).unwrap();
        assert_eq!(import(&mut manager, &text(100, 0), 0..3).0, 1, "three of the four are promised");
        manager.check_tables([(&table, &text(10, 7)[..])].into_iter()).unwrap();
    }

    proptest! {
        /// Any order of operations on texts with common beginnings, under any hash, keeps every promise.
        #[test]
        fn operations_in_any_order_keep_the_books(
            operations in prop::collection::vec((0u8..7, 0usize..6, 1usize..120), 1..120),
            blocks in 2usize..12,
            weak_hash in any::<bool>(),
        ) {
            let prefix = if weak_hash {
                PrefixCache::with_hash(blocks, |parent, tokens| (parent * 3 + u64::from(tokens[0])) % 3)
            } else {
                PrefixCache::new(blocks)
            };
            let mut manager = BlockManager::with_prefix_cache(blocks, prefix);
            let mut live: Vec<(BlockTable, Vec<u32>, usize)> = Vec::new();
            for (operation, which, size) in operations {
                match operation {
                    0 | 1 => {
                        // Two families of texts that part at token 40.
                        let tokens: Vec<u32> = (0..size as u32).map(|i| if i < 40 { i } else { i + which as u32 % 2 * 1000 }).collect();
                        let reserved = tokens.len().div_ceil(BLOCK_TOKENS) + which % 3;
                        let before = manager.available();
                        let priority = [Priority::Interactive, Priority::Background, Priority::Shadow][size % 3];
                        match manager.admit(&tokens, reserved, priority) {
                            Some(table) => {
                                prop_assert!(table.reserved() >= tokens.len().div_ceil(BLOCK_TOKENS));
                                let computed = table.blocks().len() * BLOCK_TOKENS;
                                prop_assert!(computed < tokens.len(), "the last token is always computed");
                                live.push((table, tokens, computed));
                            }
                            None => prop_assert_eq!(manager.available(), before),
                        }
                    }
                    2 | 3 if !live.is_empty() => {
                        let at = which % live.len();
                        let (table, tokens, computed) = &mut live[at];
                        *computed = (*computed + size).min(tokens.len());
                        manager.cover(table, *computed);
                        manager.publish(table, tokens, *computed);
                    }
                    5 => {
                        let tokens: Vec<u32> = (0..size as u32).map(|i| if i < 40 { i } else { i + which as u32 % 2 * 1000 }).collect();
                        let (available, used) = (manager.available(), manager.used());
                        let priority = [Priority::Interactive, Priority::Background, Priority::Shadow][size % 3];
                        let mut filled = 0;
                        let cached = manager.import(&tokens, which % 2..size / BLOCK_TOKENS, priority, |_, _| {
                            filled += 1;
                            filled <= which
                        });
                        prop_assert!(cached <= manager.prefix().longest_match(&[&tokens[..], &[0]].concat()).len());
                        prop_assert_eq!((manager.available(), manager.used()), (available, used), "an import owns nothing");
                    }
                    4 if !live.is_empty() => {
                        let at = which % live.len();
                        let (table, tokens, computed) = &mut live[at];
                        let before = table.blocks().len();
                        manager.adopt(table, tokens);
                        if table.blocks().len() > before {
                            *computed = table.blocks().len() * BLOCK_TOKENS;
                            prop_assert!(*computed < tokens.len(), "the last token is always computed");
                        }
                    }
                    6 if !live.is_empty() => {
                        let (mut table, _, _) = live.swap_remove(which % live.len());
                        manager.release(&mut table);
                    }
                    _ => {}
                }
                let books = manager.check_tables(live.iter().map(|(table, tokens, _)| (table, &tokens[..])));
                prop_assert!(books.is_ok(), "{}", books.unwrap_err());
            }
            for (mut table, _, _) in live {
                manager.release(&mut table);
            }
            prop_assert_eq!(manager.available(), blocks);
            prop_assert_eq!(manager.used(), 0);
        }
    }
}
