//! Decides which cached block holds the keys and values of a stretch of tokens.
//!
//! Keys and values at a position depend on every token before it, so a block is known by its own 32 tokens and by the block
//! before it. Blocks are found by a chained hash (parent's hash and own tokens), and a hit counts only if the parent is the very
//! block matched before and the token ids are equal: a collision of hashes costs a miss, never another's cache.
//!
//! Where the blocks that match end, one that begins in the same way may hold the next few tokens, to be copied: another conversation's, or
//! one that its owner left before it was full.
//!
//! Knows nothing of who owns a block or when it was used (block_manager), and no tensor.
#![deny(clippy::disallowed_methods)]

use std::collections::HashMap;

use kernels::BLOCK_TOKENS;

/// One block of the paged cache; its number in [`kernels::Step::tables`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

impl BlockId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// `(hash of the parent, tokens) -> hash`.
pub type ChainHash = fn(u64, &[u32]) -> u64;

/// The published blocks, by content.
#[derive(Debug)]
pub struct PrefixCache {
    /// By chained hash. Only looked up, never iterated: the order of a `HashMap` decides nothing.
    by_hash: HashMap<u64, BlockId>,
    /// By block; `None`: the block is not published.
    entries: Vec<Option<Entry>>,
    /// By parent: its published children, in the order in which they came. Only looked up, never iterated.
    children: HashMap<Option<BlockId>, Vec<BlockId>>,
    hash: ChainHash,
}

#[derive(Debug)]
struct Entry {
    /// Of a full block; `None`: the block is not full, and found only by those who look for its beginning.
    hash: Option<u64>,
    parent: Option<BlockId>,
    tokens: Vec<u32>,
}

/// Of the children of one block the youngest so many are looked at: an agent's system prompt may have hundreds.
const CHILDREN_COMPARED_MAX: usize = 64;

/// What became of [`PrefixCache::publish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The block is now found by its content.
    Yes,
    /// Another block with this very content already is.
    Duplicate(BlockId),
    /// Another content has this hash: the block stays private, and so do those after it.
    Collision,
}

impl PrefixCache {
    pub fn new(blocks: usize) -> Self {
        Self::with_hash(blocks, chain_hash)
    }

    /// With a hash of the caller's choice: tests use a bad one.
    pub fn with_hash(blocks: usize, hash: ChainHash) -> Self {
        Self { by_hash: HashMap::new(), entries: (0..blocks).map(|_| None).collect(), children: HashMap::new(), hash }
    }

    /// The blocks of the longest published prefix of `tokens`. The last token is never part of it: somebody wants its logits.
    pub fn longest_match(&self, tokens: &[u32]) -> Vec<BlockId> {
        let mut matched = Vec::new();
        while let Some(block) = self.next_match(matched.last().copied(), tokens, matched.len()) {
            matched.push(block);
        }
        matched
    }

    /// The published block number `index` of `tokens`, where `parent` is the one before it; never one with the last token.
    pub fn next_match(&self, parent: Option<BlockId>, tokens: &[u32], index: usize) -> Option<BlockId> {
        let end = (index + 1) * BLOCK_TOKENS;
        let block_tokens = tokens.get(end - BLOCK_TOKENS..end).filter(|_| end < tokens.len())?;
        self.find(parent, block_tokens).ok().flatten()
    }

    /// Makes the computed `block` findable: `tokens` are its 32 own ones, `parent` the published block before it.
    pub fn publish(&mut self, parent: Option<BlockId>, tokens: &[u32], block: BlockId) -> Published {
        assert!(self.entries[block.index()].is_none(), "{block:?} is published already");
        match self.find(parent, tokens) {
            Ok(Some(other)) => return Published::Duplicate(other),
            Err(Collides) => return Published::Collision,
            Ok(None) => {}
        }
        let hash = self.hash_of(parent, tokens);
        assert!(tokens.len() == BLOCK_TOKENS, "{block:?} is not full");
        self.by_hash.insert(hash, block);
        self.insert(block, Entry { hash: Some(hash), parent, tokens: tokens.to_vec() });
        Published::Yes
    }

    /// Keeps a block that is not full for who begins in the same way; not where another holds as much. Whether it was kept.
    pub fn keep_part(&mut self, parent: Option<BlockId>, tokens: &[u32], block: BlockId) -> bool {
        assert!(self.entries[block.index()].is_none(), "{block:?} is published already");
        assert!((1..BLOCK_TOKENS).contains(&tokens.len()), "{block:?} is empty or full");
        if self.longest_common_part(parent, tokens).is_some_and(|(_, common)| common == tokens.len()) {
            return false;
        }
        self.insert(block, Entry { hash: None, parent, tokens: tokens.to_vec() });
        true
    }

    /// Of the blocks behind `parent` the one that begins with the most of `tokens`, and how many these are.
    pub fn longest_common_part(&self, parent: Option<BlockId>, tokens: &[u32]) -> Option<(BlockId, usize)> {
        let children = self.children.get(&parent)?;
        let common = |block: &BlockId| {
            let entry = self.entries[block.index()].as_ref().expect("every child is published");
            (*block, entry.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count())
        };
        let youngest = children.iter().rev().take(CHILDREN_COMPARED_MAX);
        youngest.map(common).filter(|(_, tokens)| *tokens > 0).max_by_key(|(_, tokens)| *tokens)
    }

    /// Forgets the content of `block`, which is about to be overwritten.
    pub fn forget(&mut self, block: BlockId) {
        let entry = self.entries[block.index()].take().expect("only a published block is forgotten");
        entry.hash.map(|hash| self.by_hash.remove(&hash));
        let siblings = self.children.get_mut(&entry.parent).expect("its parent has a child");
        siblings.retain(|sibling| *sibling != block);
        if siblings.is_empty() {
            self.children.remove(&entry.parent);
        }
    }

    pub fn is_published(&self, block: BlockId) -> bool {
        self.entries[block.index()].is_some()
    }

    /// Parent and tokens of a published block.
    pub fn content(&self, block: BlockId) -> Option<(Option<BlockId>, &[u32])> {
        self.entries[block.index()].as_ref().map(|entry| (entry.parent, &entry.tokens[..]))
    }

    /// The promises of this file: for tests and the simulation.
    pub fn check(&self) -> Result<(), String> {
        let (mut published, mut full) = (0, 0);
        for (index, entry) in self.entries.iter().enumerate() {
            let Some(entry) = entry else { continue };
            published += 1;
            full += usize::from(entry.hash.is_some());
            let block = BlockId(index as u32);
            if entry.hash.is_some_and(|hash| self.by_hash.get(&hash) != Some(&block)) {
                return Err(format!("{block:?} is published but its hash does not lead to it"));
            }
            if entry.hash.is_some() != (entry.tokens.len() == BLOCK_TOKENS) {
                return Err(format!("{block:?} holds {} tokens and is filed as if it did not", entry.tokens.len()));
            }
            if self.children.get(&entry.parent).is_none_or(|children| children.iter().filter(|child| **child == block).count() != 1) {
                return Err(format!("{block:?} is not once among its parent's children"));
            }
            if entry.parent.is_some_and(|parent| !self.is_published(parent)) {
                return Err(format!("{block:?} is published but its parent {:?} is not", entry.parent));
            }
            if entry.hash.is_some_and(|hash| hash != self.hash_of(entry.parent, &entry.tokens)) {
                return Err(format!("{block:?} is filed under a hash that is not that of its parent and tokens"));
            }
        }
        if full != self.by_hash.len() {
            return Err(format!("{full} full blocks are published, {} hashes are filed", self.by_hash.len()));
        }
        let children: usize = self.children.values().map(Vec::len).sum();
        if published != children {
            return Err(format!("{published} blocks are published, {children} are somebody's children"));
        }
        Ok(())
    }

    fn insert(&mut self, block: BlockId, entry: Entry) {
        self.children.entry(entry.parent).or_default().push(block);
        self.entries[block.index()] = Some(entry);
    }

    /// `Err`: the hash is taken by another content.
    fn find(&self, parent: Option<BlockId>, tokens: &[u32]) -> Result<Option<BlockId>, Collides> {
        let Some(&block) = self.by_hash.get(&self.hash_of(parent, tokens)) else { return Ok(None) };
        let entry = self.entries[block.index()].as_ref().expect("every filed hash leads to a published block");
        if entry.parent == parent && entry.tokens == tokens { Ok(Some(block)) } else { Err(Collides) }
    }

    fn hash_of(&self, parent: Option<BlockId>, tokens: &[u32]) -> u64 {
        let entry = |block: BlockId| self.entries[block.index()].as_ref();
        let parent_hash = parent.and_then(entry).and_then(|entry| entry.hash).unwrap_or(0);
        (self.hash)(parent_hash, tokens)
    }
}

struct Collides;

/// Multiply and fold, token by token. Good spread is all that is asked of it: every hit is compared.
fn chain_hash(parent: u64, tokens: &[u32]) -> u64 {
    tokens.iter().fold(parent ^ 0x51_7C_C1_B7_27_22_0A_95, |hash, &token| {
        let mixed = (hash ^ u64::from(token)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ (mixed >> 29)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(blocks: usize, salt: u32) -> Vec<u32> {
        (0..(blocks * BLOCK_TOKENS) as u32).map(|i| i * 7 + salt).collect()
    }

    /// Publishes all full blocks of `tokens` in the given blocks.
    fn fill(cache: &mut PrefixCache, tokens: &[u32], blocks: &[u32]) {
        let mut parent = None;
        for (chunk, &block) in tokens.chunks_exact(BLOCK_TOKENS).zip(blocks) {
            assert_eq!(cache.publish(parent, chunk, BlockId(block)), Published::Yes);
            parent = Some(BlockId(block));
        }
        cache.check().unwrap();
    }

    #[test]
    fn the_longest_prefix_is_found_and_never_the_last_token() {
        let mut cache = PrefixCache::new(8);
        let text = tokens(3, 1);
        fill(&mut cache, &text, &[5, 2, 7]);
        // 96 tokens are cached, but a request of those 96 needs the logits of the last one: two blocks.
        assert_eq!(cache.longest_match(&text), [BlockId(5), BlockId(2)]);
        let longer = [&text[..], &[9]].concat();
        assert_eq!(cache.longest_match(&longer), [BlockId(5), BlockId(2), BlockId(7)]);
        assert_eq!(cache.longest_match(&text[..32]), []);
        assert_eq!(cache.longest_match(&text[..33]), [BlockId(5)]);
        assert_eq!(cache.longest_match(&[]), []);
    }

    #[test]
    fn equal_tokens_after_another_prefix_are_another_block() {
        let mut cache = PrefixCache::new(8);
        let (a, b, tail) = (tokens(1, 1), tokens(1, 2), tokens(1, 3));
        fill(&mut cache, &[&a[..], &tail].concat(), &[0, 1]);
        fill(&mut cache, &[&b[..], &tail].concat(), &[2, 3]);
        let ask = |prefix: &[u32]| cache.longest_match(&[prefix, &tail[..], &[0]].concat());
        assert_eq!(ask(&a), [BlockId(0), BlockId(1)]);
        assert_eq!(ask(&b), [BlockId(2), BlockId(3)]);
        assert_eq!(cache.longest_match(&[&tail[..], &[0]].concat()), []);
    }

    #[test]
    fn a_collision_is_a_miss() {
        // The worst hash there is: all contents collide.
        let mut cache = PrefixCache::with_hash(8, |_, _| 42);
        let (a, b) = (tokens(1, 1), tokens(1, 2));
        assert_eq!(cache.publish(None, &a, BlockId(0)), Published::Yes);
        assert_eq!(cache.publish(None, &b, BlockId(1)), Published::Collision);
        // Same tokens, same hash, another parent: not the same content.
        assert_eq!(cache.publish(Some(BlockId(0)), &a, BlockId(1)), Published::Collision);
        assert_eq!(cache.longest_match(&[&b[..], &[0]].concat()), []);
        assert_eq!(cache.longest_match(&[&a[..], &[0]].concat()), [BlockId(0)]);
        // `a` followed by `a`: the second must not match the first.
        assert_eq!(cache.longest_match(&[&a[..], &a, &[0]].concat()), [BlockId(0)]);
        cache.check().unwrap();
    }

    #[test]
    fn the_longest_common_part_of_a_block_is_found() {
        let mut cache = PrefixCache::new(8);
        let text = tokens(2, 1);
        fill(&mut cache, &text, &[0, 1]);
        let (first, second) = (Some(BlockId(0)), &text[32..]);
        let like = |common: usize, rest: u32| [&second[..common], &[rest; 40][..32 - common]].concat();
        assert_eq!(cache.longest_common_part(first, &like(9, 7)), Some((BlockId(1), 9)));
        assert_eq!(cache.longest_common_part(first, &like(0, 7)), None);
        assert_eq!(cache.longest_common_part(None, &like(9, 7)), None, "behind another block it is another content");
        // One that is not full, and of which more is common.
        assert!(cache.keep_part(first, &like(9, 7)[..20], BlockId(2)));
        cache.check().unwrap();
        assert_eq!(cache.longest_common_part(first, &like(9, 7)), Some((BlockId(2), 20)));
        assert_eq!(cache.longest_common_part(first, &like(10, 7)), Some((BlockId(1), 10)));
        assert_eq!(cache.longest_match(&[&text[..32], &like(9, 7), &[1]].concat()), [BlockId(0)], "it is no whole block");
        // As much is there already.
        assert!(!cache.keep_part(first, &second[..31], BlockId(3)));
        assert!(!cache.keep_part(first, &like(9, 7)[..20], BlockId(3)));
        cache.forget(BlockId(2));
        assert_eq!(cache.longest_common_part(first, &like(9, 7)), Some((BlockId(1), 9)));
        cache.check().unwrap();
    }

    #[test]
    fn duplicates_are_told_and_forgotten_blocks_are_gone() {
        let mut cache = PrefixCache::new(4);
        let text = tokens(2, 4);
        fill(&mut cache, &text, &[0, 1]);
        assert_eq!(cache.publish(None, &text[..32], BlockId(2)), Published::Duplicate(BlockId(0)));
        cache.forget(BlockId(1));
        assert!(!cache.is_published(BlockId(1)));
        assert_eq!(cache.longest_match(&[&text[..], &[0]].concat()), [BlockId(0)]);
        cache.check().unwrap();
        // A parent forgotten before its child is a fault that `check` names.
        fill(&mut cache, &tokens(2, 99), &[2, 3]);
        cache.forget(BlockId(2));
        assert!(cache.check().unwrap_err().contains("its parent"));
    }
}
