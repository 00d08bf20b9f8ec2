//! Which blocks stand on the disk, and which of them go first when there is no room.
//!
//! The least recently used goes first; of those used together the deepest, so that a chain is given up from its end: a block without
//! the one before it is of no use. Times are arguments, and no two uses have the same: a clock that jumps cannot turn the order.
//!
//! Knows no file.
#![deny(clippy::disallowed_methods)]

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use super::chain::BlockName;

#[derive(Debug, Default)]
pub struct Index {
    /// The order of a `HashMap` decides nothing: who goes first stands in `by_use`.
    entries: HashMap<BlockName, Entry>,
    /// The first goes first.
    by_use: BTreeSet<(u64, Reverse<u32>, BlockName)>,
    bytes: u64,
    /// The latest use there was.
    newest: u64,
}

/// A block on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its place in its chain, from 0.
    pub depth: u32,
    /// Of its file.
    pub bytes: u64,
    /// Nanoseconds since 1970, or later.
    pub used_at: u64,
}

impl Index {
    pub fn contains(&self, name: &BlockName) -> bool {
        self.entries.contains_key(name)
    }

    pub fn get(&self, name: &BlockName) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub fn blocks(&self) -> usize {
        self.entries.len()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The time of a use that happens now: later than every one before.
    pub fn next_use(&mut self, now_ns: u64) -> u64 {
        self.newest = now_ns.max(self.newest.saturating_add(1));
        self.newest
    }

    /// Replaces what was known of the block.
    pub fn insert(&mut self, name: BlockName, entry: Entry) {
        self.remove(&name);
        self.newest = self.newest.max(entry.used_at);
        self.bytes += entry.bytes;
        self.by_use.insert((entry.used_at, Reverse(entry.depth), name));
        self.entries.insert(name, entry);
    }

    pub fn remove(&mut self, name: &BlockName) -> Option<Entry> {
        let entry = self.entries.remove(name)?;
        self.by_use.remove(&(entry.used_at, Reverse(entry.depth), *name));
        self.bytes -= entry.bytes;
        Some(entry)
    }

    /// The blocks of a chain were used together; those that are not there are passed over.
    pub fn touch(&mut self, names: &[BlockName], used_at: u64) {
        for name in names {
            if let Some(entry) = self.remove(name) {
                self.insert(*name, Entry { used_at: entry.used_at.max(used_at), ..entry });
            }
        }
    }

    /// Takes out what has to go so that `bytes` more are at most `bytes_max`, of what was last used before `before`. `None`, and nothing
    /// goes: that would not do. (A chain that is written pushes out older ones, and never its own beginning.)
    pub fn make_room(&mut self, bytes: u64, bytes_max: u64, before: u64) -> Option<Vec<(BlockName, Entry)>> {
        let mut too_many = (self.bytes + bytes).saturating_sub(bytes_max);
        let mut going = Vec::new();
        let mut candidates = self.by_use.iter();
        while too_many > 0 {
            let &(_, _, name) = candidates.next().filter(|(used_at, _, _)| *used_at < before)?;
            too_many = too_many.saturating_sub(self.entries[&name].bytes);
            going.push(name);
        }
        Some(going.into_iter().filter_map(|name| self.remove(&name).map(|entry| (name, entry))).collect())
    }

    /// The disk was looked at, and `found` is what stands there: others write and delete, too. Of a block that is known already the
    /// later use counts. Quick where little has changed: the engine waits for whoever holds the index.
    pub fn reconcile(&mut self, found: &HashMap<BlockName, Entry>) {
        let lost: Vec<BlockName> = self.entries.keys().filter(|name| !found.contains_key(name)).copied().collect();
        lost.iter().for_each(|name| {
            self.remove(name);
        });
        for (name, entry) in found {
            match self.entries.get(name) {
                Some(known) if known.bytes == entry.bytes && known.used_at >= entry.used_at => {}
                known => {
                    let used_at = known.map_or(0, |known| known.used_at).max(entry.used_at);
                    self.insert(*name, Entry { used_at, ..*entry });
                }
            }
        }
    }

    /// The promises of this file: for tests.
    pub fn check(&self) -> Result<(), String> {
        let bytes: u64 = self.entries.values().map(|entry| entry.bytes).sum();
        if bytes != self.bytes {
            return Err(format!("{} bytes are counted, entries have {bytes}", self.bytes));
        }
        if self.by_use.len() != self.entries.len() {
            return Err(format!("{} entries, {} in the order of use", self.entries.len(), self.by_use.len()));
        }
        for (used_at, Reverse(depth), name) in &self.by_use {
            let entry = self.get(name).ok_or(format!("{name:?} is in the order of use alone"))?;
            if (entry.used_at, entry.depth) != (*used_at, *depth) || *used_at > self.newest {
                return Err(format!("{name:?} is ordered as used at {used_at}, but is {entry:?}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::chain::tests::identity;
    use super::super::chain::{CacheKey, Chain};
    use super::*;

    fn names(salt: u32, blocks: usize) -> Vec<BlockName> {
        let tokens: Vec<u32> = (0..=32 * blocks as u32).map(|i| i + salt).collect();
        Chain::new(CacheKey::new(&identity()), &tokens).names().to_vec()
    }

    fn write(index: &mut Index, names: &[BlockName], used_at: u64) {
        for (depth, name) in (0..).zip(names) {
            index.insert(*name, Entry { depth, bytes: 10, used_at });
        }
        index.check().unwrap();
    }

    fn gone(going: Option<Vec<(BlockName, Entry)>>) -> Vec<BlockName> {
        going.expect("there was room to make").into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn the_oldest_chain_goes_from_its_end() {
        let (old, new) = (names(0, 3), names(1000, 2));
        let mut index = Index::default();
        write(&mut index, &old, 5);
        write(&mut index, &new, 9);
        assert_eq!(gone(index.make_room(10, 60, 100)), []);
        assert_eq!(gone(index.make_room(15, 50, 100)), [old[2], old[1]]);
        index.touch(&old, 10);
        index.check().unwrap();
        assert_eq!(gone(index.make_room(10, 30, 100)), [new[1]], "the older was used since");
        assert_eq!((index.blocks(), index.bytes()), (2, 20));
    }

    #[test]
    fn a_chain_does_not_push_out_its_own_beginning() {
        let (old, new) = (names(0, 2), names(1000, 3));
        let mut index = Index::default();
        write(&mut index, &old, 5);
        write(&mut index, &new, 9);
        assert_eq!(index.make_room(30, 50, 9), None, "20 are older, 30 are needed");
        assert_eq!(index.blocks(), 5, "nothing goes for nothing");
        assert_eq!(gone(index.make_room(20, 50, 9)), [old[1], old[0]]);
        assert_eq!(index.make_room(100, 50, u64::MAX), None, "larger than all there may be");
    }

    #[test]
    fn a_clock_that_jumps_back_turns_nothing() {
        let mut index = Index::default();
        let (first, second) = (names(0, 1), names(1000, 1));
        let used_at = index.next_use(1_000_000);
        write(&mut index, &first, used_at);
        let used_at = index.next_use(10);
        write(&mut index, &second, used_at);
        assert_eq!(gone(index.make_room(10, 20, u64::MAX)), first);
    }

    #[test]
    fn what_the_disk_holds_counts() {
        let (kept, lost, others) = (names(0, 1)[0], names(1000, 1)[0], names(2000, 1)[0]);
        let mut index = Index::default();
        write(&mut index, &[kept], 50);
        write(&mut index, &[lost], 60);
        index.reconcile(&[kept, others].map(|name| (name, Entry { depth: 0, bytes: 7, used_at: 40 })).into());
        index.check().unwrap();
        assert_eq!((index.contains(&lost), index.get(&kept).unwrap().used_at, index.get(&others).unwrap().used_at), (false, 50, 40));
        assert_eq!(index.bytes(), 14);
        assert!(index.next_use(0) > 60, "a use that was forgotten is still a use before");
    }

    proptest! {
        /// Chains written and touched in any order, in any room: the books are right, and no block outlives the one before it.
        #[test]
        fn beginnings_outlive_ends(
            operations in prop::collection::vec((0usize..6, 1usize..8, any::<bool>(), 0u64..1000), 1..80),
            blocks_max in 1u64..20,
        ) {
            let chains: Vec<Vec<BlockName>> = (0..6).map(|chain| names(chain * 10_000, 8)).collect();
            let mut index = Index::default();
            for (chain, len, writes, now) in operations {
                let chain = &chains[chain][..len];
                let present = chain.iter().take_while(|name| index.contains(name)).count();
                let used_at = index.next_use(now);
                index.touch(&chain[..present], used_at);
                if writes {
                    for (depth, name) in (0..).zip(chain).skip(present) {
                        let Some(_) = index.make_room(10, blocks_max * 10, used_at) else { break };
                        index.insert(*name, Entry { depth, bytes: 10, used_at });
                    }
                }
                index.check().map_err(TestCaseError::fail)?;
                prop_assert!(index.bytes() <= blocks_max * 10);
                for chain in &chains {
                    let present = chain.iter().take_while(|name| index.contains(name)).count();
                    let orphan = chain[present..].iter().find(|name| index.contains(name));
                    prop_assert!(orphan.is_none(), "a block outlived the one before it");
                }
            }
        }
    }
}
