//! A disk that is a map: files as the real store writes and believes them, with the weather of a bad disk, and no thread and no clock.
//! What it holds outlives the engine that wrote it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use understudy::engine::kv_store::block_file::{self, HEADER_BYTES};
use understudy::engine::kv_store::chain::{BlockName, CacheKey, Chain, Identity};
use understudy::engine::kv_store::{BlockStore, BlockToWrite, DiskStats, NextBlock};

use super::random::Random;

/// Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<BTreeMap<BlockName, Vec<u8>>>>);

impl MemoryDisk {
    pub fn files(&self) -> MutexGuard<'_, BTreeMap<BlockName, Vec<u8>>> {
        self.0.lock().expect("no panic holds it")
    }
}

impl MemoryDisk {
    /// A file changes, ends early, goes, or stands in another's place.
    pub fn damage(&self, random: &mut Random) {
        let mut files = self.files();
        let names: Vec<_> = files.keys().copied().collect();
        if names.is_empty() {
            return;
        }
        let (name, other) = (names[random.below(names.len() as u64) as usize], names[random.below(names.len() as u64) as usize]);
        let mut file = files.remove(&name).expect("it was there");
        match random.below(4) {
            // One that ended early may have nothing left to change.
            0 if !file.is_empty() => {
                let at = random.below(file.len() as u64) as usize;
                file[at] ^= 1 << random.below(8);
            }
            0 | 1 => file.truncate(random.below(file.len() as u64) as usize),
            2 => return,
            _ => file = files.insert(other, file.clone()).unwrap_or(file),
        }
        files.insert(name, file);
    }
}

/// What goes wrong next: asked each time something could.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The next block is not there yet.
    Late,
    /// The disk does nothing for now.
    Busy,
    /// The writer has no room.
    Full,
    /// What is written is lost, as on a full disk.
    Lost,
}

pub struct MemoryStore {
    disk: MemoryDisk,
    key: CacheKey,
    goes_wrong: Box<dyn FnMut(Moment) -> bool + Send>,
    fetch: Option<(Arc<Chain>, Range<usize>)>,
    uses: u64,
    stats: DiskStats,
}

impl MemoryStore {
    pub fn new(disk: MemoryDisk, goes_wrong: impl FnMut(Moment) -> bool + Send + 'static) -> Self {
        let text = |text: &str| text.to_owned();
        let (kv_type, isa, target) = (text("digests"), text("none"), text("everywhere"));
        let key = CacheKey::new(&Identity { model: [0; 32], kv_type, isa, target, arithmetic: 0, block_bytes: 0 });
        Self { disk, key, goes_wrong: Box::new(goes_wrong), fetch: None, uses: 0, stats: DiskStats::default() }
    }
}

impl BlockStore for MemoryStore {
    fn key(&self) -> Option<CacheKey> {
        Some(self.key)
    }

    fn contains(&self, name: &BlockName) -> bool {
        self.disk.files().contains_key(name)
    }

    fn fetch(&mut self, chain: &Arc<Chain>, blocks: Range<usize>) -> bool {
        assert!(self.fetch.is_none(), "one chain at a time");
        assert!(!blocks.is_empty() && blocks.end <= chain.len());
        if (self.goes_wrong)(Moment::Busy) {
            return false;
        }
        self.fetch = Some((chain.clone(), blocks));
        true
    }

    fn next_block(&mut self, _limit: Duration) -> NextBlock {
        if (self.goes_wrong)(Moment::Late) {
            return NextBlock::NotYet;
        }
        let Some((chain, blocks)) = &mut self.fetch else { return NextBlock::End };
        let Some(index) = blocks.next() else { return NextBlock::End };
        let name = chain.names()[index];
        let mut files = self.disk.files();
        let Some(file) = files.get(&name) else {
            self.fetch = None;
            return NextBlock::End;
        };
        let parts = file.split_first_chunk::<HEADER_BYTES>();
        match parts.filter(|(header, payload)| block_file::check(chain, index, header, payload).is_ok()) {
            Some((_, payload)) => {
                self.stats.read_total += 1;
                NextBlock::Block(payload.to_vec())
            }
            None => {
                files.remove(&name);
                self.stats.bad_total += 1;
                self.fetch = None;
                NextBlock::End
            }
        }
    }

    fn end_fetch(&mut self) {
        self.fetch = None;
    }

    fn used(&mut self, chain: &Arc<Chain>, blocks: usize) -> u64 {
        assert!(blocks <= chain.len());
        self.uses += 1;
        self.uses
    }

    fn write(&mut self, block: BlockToWrite) -> Result<(), BlockToWrite> {
        if (self.goes_wrong)(Moment::Full) {
            return Err(block);
        }
        let BlockToWrite { chain, index, payload, .. } = block;
        if (self.goes_wrong)(Moment::Lost) {
            self.stats.dropped_total += 1;
            return Ok(());
        }
        let file = [&block_file::header(&chain, index, &payload)[..], &payload].concat();
        let before = self.disk.files().insert(chain.names()[index], file.clone());
        assert!(before.is_none_or(|before| before == file || !is_whole(&before, &chain, index)));
        self.stats.written_total += 1;
        Ok(())
    }

    fn left_to_write(&mut self, _prompts: usize) {}

    fn stats(&self) -> DiskStats {
        DiskStats { blocks: self.disk.files().len() as u64, ..self.stats }
    }
}

/// Two whole files of one name are one file: the bits of a block do not depend on who computed it.
fn is_whole(file: &[u8], chain: &Chain, index: usize) -> bool {
    let parts = file.split_first_chunk::<HEADER_BYTES>();
    parts.is_some_and(|(header, payload)| block_file::check(chain, index, header, payload).is_ok())
}
