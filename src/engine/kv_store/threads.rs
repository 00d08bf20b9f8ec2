//! The two threads of the store: one writes and deletes, one reads. Each takes jobs until nobody can hand it any.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use super::block_file::{self, HEADER_BYTES};
use super::chain::{CacheKey, Chain};
use super::folder::ReadError;
use super::index::Entry;
use super::shared::{Phase, Shared, Trouble};
use super::{BlockToWrite, StoreOptions};

/// Others may write into the folder: after this share of the limit it is looked at again.
const LOOK_AGAIN_SHARE: u64 = 16;

#[derive(Debug)]
pub(super) enum WriteJob {
    Block(BlockToWrite),
    Touch { chain: Arc<Chain>, blocks: usize, used_at: u64 },
}

#[derive(Debug)]
pub(super) struct ReadJob {
    pub chain: Arc<Chain>,
    pub blocks: Range<usize>,
    pub to: SyncSender<Vec<u8>>,
}

/// The thread that writes, deletes, and knows what is there.
pub(super) struct Writer {
    pub shared: Arc<Shared>,
    pub options: Arc<StoreOptions>,
    pub written_since_look: u64,
}

impl Writer {
    pub fn run(&mut self, identify: impl FnOnce() -> Option<CacheKey>, jobs: Receiver<WriteJob>) {
        let ready = identify().filter(|_| self.look());
        self.shared.change(|state| state.phase = ready.map_or(Phase::Off, Phase::Ready));
        for job in jobs {
            match job {
                WriteJob::Block(block) if ready.is_some() => self.write(&block),
                WriteJob::Touch { chain, blocks, used_at } if ready.is_some() => {
                    let names = (0..).zip(&chain.names()[..blocks]);
                    let gone: Vec<_> = names.filter(|(depth, name)| !self.shared.folder.touch(name, *depth, used_at)).collect();
                    // Somebody emptied the folder: what is used now will be written again.
                    self.shared.change(|state| {
                        for (_, name) in &gone {
                            state.index.remove(name);
                        }
                    });
                }
                WriteJob::Block(_) | WriteJob::Touch { .. } => {}
            }
            self.shared.change(|state| state.writing -= 1);
        }
    }

    /// Makes the folder where it is missing and takes stock. `false`: it cannot be used.
    fn look(&mut self) -> bool {
        self.written_since_look = 0;
        let found = self.shared.folder.make().and_then(|()| self.shared.folder.scan());
        let found: HashMap<_, _> = match found {
            Ok(found) => found.into_iter().collect(),
            Err(error) => {
                self.shared.tell(Trouble::Folder, format_args!("cannot be used: {error}; nothing is kept on the disk"));
                return false;
            }
        };
        let surplus = self.shared.change(|state| {
            state.index.reconcile(&found);
            state.index.make_room(0, self.options.bytes_max, u64::MAX)
        });
        surplus.unwrap_or_default().iter().for_each(|(name, entry)| self.shared.delete(name, entry.depth));
        tracing::debug!(blocks = self.shared.state().index.blocks(), "disk cache in {}", self.shared.folder.path().display());
        true
    }

    fn write(&mut self, block: &BlockToWrite) {
        let BlockToWrite { chain, index, payload, used_at } = block;
        let name = chain.names()[*index];
        let entry = Entry { depth: *index as u32, bytes: (HEADER_BYTES + payload.len()) as u64, used_at: *used_at };
        let going = self.shared.change(|state| {
            if state.index.contains(&name) {
                return None;
            }
            // Without the block before it nobody would ever ask for this one.
            let parent_is_there = *index == 0 || state.index.contains(&chain.parent(*index));
            let going =
                Some(()).filter(|()| parent_is_there).and_then(|()| state.index.make_room(entry.bytes, self.options.bytes_max, *used_at));
            state.stats.dropped_total += u64::from(going.is_none());
            going
        });
        let Some(going) = going else { return };
        going.iter().for_each(|(name, entry)| self.shared.delete(name, entry.depth));
        let header = block_file::header(chain, *index, payload);
        match self.shared.folder.write(&name, &entry, &header, payload) {
            Ok(()) => self.shared.change(|state| {
                state.index.insert(name, entry);
                state.stats.written_total += 1;
            }),
            Err(error) => {
                self.shared.tell(Trouble::Writing, format_args!("cannot write: {error}; what is not written is computed again"));
                return self.shared.change(|state| state.stats.dropped_total += 1);
            }
        }
        self.written_since_look += entry.bytes;
        if self.written_since_look > self.options.bytes_max / LOOK_AGAIN_SHARE {
            self.look();
        }
    }
}

/// The thread that reads.
pub(super) struct Reader {
    pub shared: Arc<Shared>,
    pub payload_bytes: usize,
}

impl Reader {
    /// Block after block until one is missing or doubtful, or nobody takes them any more.
    pub fn read(&self, job: ReadJob) {
        for index in job.blocks.clone() {
            let Some(payload) = self.read_block(&job.chain, index..job.blocks.end) else { break };
            if job.to.send(payload).is_err() {
                break;
            }
            self.shared.state().stats.read_total += 1;
        }
        // First the end of the blocks, then the word that this job is done.
        drop(job);
        self.shared.change(|state| state.reading -= 1);
    }

    /// The first of `blocks`.
    fn read_block(&self, chain: &Chain, blocks: Range<usize>) -> Option<Vec<u8>> {
        let index = blocks.start;
        let (name, depth) = (chain.names()[index], index as u32);
        let read = self.shared.folder.read(&name, depth, self.payload_bytes);
        let checked = read.and_then(|(header, payload)| {
            block_file::check(chain, index, &header, &payload)?;
            Ok(payload)
        });
        let error = match checked {
            Ok(payload) => return Some(payload),
            Err(error) => error,
        };
        match error {
            // Somebody emptied the folder, or we did to make room: the rest will be missing, too, and may be written again.
            ReadError::Gone => {
                return self.shared.change(|state| {
                    for name in &chain.names()[blocks] {
                        state.index.remove(name);
                    }
                    None
                });
            }
            ReadError::Doubt(doubt) => {
                self.shared.tell(Trouble::Doubt, format_args!("a block is not used and deleted: {doubt}; its tokens are computed again"));
                self.shared.delete(&name, depth);
            }
            ReadError::Io(error) => {
                self.shared.tell(Trouble::Reading, format_args!("cannot read: {error}; what is not read is computed again"));
            }
        }
        self.shared.change(|state| {
            state.index.remove(&name);
            state.stats.bad_total += 1;
        });
        None
    }
}
