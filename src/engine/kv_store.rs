//! The prefix cache on the disk: blocks of long prompts outlive the process. Two threads, one that writes and one that reads; the engine
//! only hands over and takes back, and never waits for either.
//!
//! Nothing here can fail a request. What cannot be written, read or believed is counted, told in the log once, and computed again.
//! Which blocks are worth keeping or fetching is decided in `disk_prefix`.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

pub mod block_file;
pub mod chain;
pub mod folder;
pub mod index;

mod shared;
mod threads;

use chain::{BlockName, CacheKey, Chain};
use folder::{Folder, nanoseconds};
use shared::{Phase, Shared, Trouble};
use threads::{ReadJob, Reader, WriteJob, Writer};

/// Blocks that outlive the process, as the engine sees them. No call waits longer than it says.
pub trait BlockStore: Send + 'static {
    /// What blocks are kept under; `None` while that is not known, or when nothing is kept.
    fn key(&self) -> Option<CacheKey>;
    fn contains(&self, name: &BlockName) -> bool;
    /// Asks for some blocks of a chain, in order, one chain at a time. `false`: not now.
    fn fetch(&mut self, chain: &Arc<Chain>, blocks: Range<usize>) -> bool;
    /// The next block of the chain asked for last, waiting at most `limit`.
    fn next_block(&mut self, limit: Duration) -> NextBlock;
    /// What was asked for is wanted no more.
    fn end_fetch(&mut self);
    /// The leading `blocks` of a chain are used now; returns the time for [`BlockToWrite::used_at`].
    fn used(&mut self, chain: &Arc<Chain>, blocks: usize) -> u64;
    /// Takes a block to be written later, or gives it back because too many wait already.
    fn write(&mut self, block: BlockToWrite) -> Result<(), BlockToWrite>;
    /// How many prompts still have blocks that were not handed over: who flushes waits for them, too.
    fn left_to_write(&mut self, prompts: usize);
    fn stats(&self) -> DiskStats;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextBlock {
    /// As it was written, to the bit.
    Block(Vec<u8>),
    NotYet,
    /// No more will come, or not in time.
    End,
}

/// Block `index` of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockToWrite {
    pub chain: Arc<Chain>,
    pub index: usize,
    pub payload: Vec<u8>,
    pub used_at: u64,
}

/// Numbers of the disk cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// On the disk now, whatever model they are of.
    pub blocks: u64,
    pub bytes: u64,
    pub read_total: u64,
    pub written_total: u64,
    /// Found and not believed, or not readable: computed again.
    pub bad_total: u64,
    /// Not written: no room, a full or slow disk.
    pub dropped_total: u64,
}

#[derive(Debug, Clone)]
pub struct StoreOptions {
    pub folder: PathBuf,
    /// Most bytes of files.
    pub bytes_max: u64,
    /// Of one block of the engine's cache.
    pub block_bytes: usize,
    /// How long the next block may keep a request waiting; then the rest is computed.
    pub stall_limit: Duration,
}

/// At 32 tokens a block this is 64 tokens a second: a disk that is slower than that is no help.
pub const STALL_LIMIT: Duration = Duration::from_millis(500);
/// Of each channel's blocks: enough that reading, checking and copying overlap.
const CHANNEL_BYTES: usize = 16 << 20;

/// Memory that blocks on their way may take: part of the memory contract.
pub fn staging_bytes(block_bytes: u64) -> u64 {
    let blocks = channel_blocks(usize::try_from(block_bytes).unwrap_or(usize::MAX)) as u64;
    // Both channels, and on each side one that is being worked on.
    (2 * blocks + 4).saturating_mul(block_bytes)
}

fn channel_blocks(block_bytes: usize) -> usize {
    (CHANNEL_BYTES / block_bytes.max(1)).clamp(2, 32)
}

/// The engine's side of the store. Dropping it lets the threads finish what was handed over, and end.
#[derive(Debug)]
pub struct KvStore {
    shared: Arc<Shared>,
    /// Bounded by [`CHANNEL_BYTES`]; when it is full the engine keeps its blocks and asks again.
    writes: SyncSender<WriteJob>,
    /// One job waits at most: there is one fetch at a time, and one that was given up.
    reads: SyncSender<ReadJob>,
    fetch: Option<Fetch>,
    /// A fetch was given up, and nobody has heard of the disk since.
    stalled: bool,
    options: Arc<StoreOptions>,
}

#[derive(Debug)]
struct Fetch {
    /// Bounded by [`CHANNEL_BYTES`]; the reader waits for room in it.
    blocks: Receiver<Vec<u8>>,
    last_block: Instant,
}

/// What others than the engine may ask of the store.
#[derive(Debug, Clone)]
pub struct StoreHandle(Arc<Shared>);

impl KvStore {
    /// Starts the threads. `identify` runs on one of them and may take its time; until it is through, and for good where it gives no
    /// key, nothing is found and nothing kept.
    pub fn start(options: StoreOptions, identify: impl FnOnce() -> Option<CacheKey> + Send + 'static) -> (Self, StoreHandle) {
        let shared = Arc::new(Shared::new(Folder::of(&options.folder)));
        let options = Arc::new(options);
        let (writes, to_write) = sync_channel(channel_blocks(options.block_bytes));
        let (reads, to_read) = sync_channel(1);
        let mut writer = Writer { shared: shared.clone(), options: options.clone(), written_since_look: 0 };
        let reader = Reader { shared: shared.clone(), payload_bytes: options.block_bytes };
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(body).expect("the operating system gives no thread")
        };
        spawn("kv-write", Box::new(move || writer.run(identify, to_write)));
        spawn("kv-read", Box::new(move || to_read.iter().for_each(|job| reader.read(job))));
        let handle = StoreHandle(shared.clone());
        (Self { shared, writes, reads, fetch: None, stalled: false, options }, handle)
    }
}

impl BlockStore for KvStore {
    fn key(&self) -> Option<CacheKey> {
        match self.shared.state().phase {
            Phase::Ready(key) => Some(key),
            Phase::Starting | Phase::Off => None,
        }
    }

    fn contains(&self, name: &BlockName) -> bool {
        self.shared.state().index.contains(name)
    }

    fn fetch(&mut self, chain: &Arc<Chain>, blocks: Range<usize>) -> bool {
        self.fetch = None;
        let mut state = self.shared.state();
        self.stalled &= state.reading > 0;
        if self.stalled {
            return false;
        }
        let (to, received) = sync_channel(channel_blocks(self.options.block_bytes));
        if self.reads.try_send(ReadJob { chain: chain.clone(), blocks, to }).is_err() {
            return false;
        }
        state.reading += 1;
        self.fetch = Some(Fetch { blocks: received, last_block: Instant::now() });
        true
    }

    fn next_block(&mut self, limit: Duration) -> NextBlock {
        let Some(fetch) = &mut self.fetch else { return NextBlock::End };
        let received = match limit {
            Duration::ZERO => fetch.blocks.try_recv().map_err(|error| error == TryRecvError::Disconnected),
            limit => fetch.blocks.recv_timeout(limit).map_err(|error| error == RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(block) => {
                fetch.last_block = Instant::now();
                NextBlock::Block(block)
            }
            Err(true) => NextBlock::End,
            Err(false) if fetch.last_block.elapsed() > self.options.stall_limit => {
                self.stalled = true;
                self.shared.tell(Trouble::Slow, "the disk is too slow; what it does not give in time is computed");
                NextBlock::End
            }
            Err(false) => NextBlock::NotYet,
        }
    }

    fn end_fetch(&mut self) {
        self.fetch = None;
    }

    fn used(&mut self, chain: &Arc<Chain>, blocks: usize) -> u64 {
        let mut state = self.shared.state();
        let used_at = state.index.next_use(nanoseconds(SystemTime::now()));
        state.index.touch(&chain.names()[..blocks], used_at);
        drop(state);
        if blocks > 0 {
            // No room: the files keep their older times, which matters after a restart only.
            let _ = self.hand_over(WriteJob::Touch { chain: chain.clone(), blocks, used_at });
        }
        used_at
    }

    fn write(&mut self, block: BlockToWrite) -> Result<(), BlockToWrite> {
        match self.hand_over(WriteJob::Block(block)) {
            Err(WriteJob::Block(block)) => Err(block),
            _ => Ok(()),
        }
    }

    fn left_to_write(&mut self, prompts: usize) {
        self.shared.change(|state| state.left = prompts);
    }

    fn stats(&self) -> DiskStats {
        self.shared.stats()
    }
}

impl KvStore {
    /// Errors: no room now. A writer that is gone takes everything, to no effect.
    fn hand_over(&self, job: WriteJob) -> Result<(), WriteJob> {
        self.shared.state().writing += 1;
        let outcome = self.writes.try_send(job);
        if outcome.is_err() {
            self.shared.change(|state| state.writing -= 1);
        }
        match outcome {
            Err(TrySendError::Full(job)) => Err(job),
            Err(TrySendError::Disconnected(_)) => {
                self.shared.change(|state| state.phase = Phase::Off);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

impl StoreHandle {
    /// Waits until the store knows what is there, or never will; `false`: not in time.
    pub fn wait_ready(&self, limit: Duration) -> bool {
        self.0.wait(limit, |state| state.phase != Phase::Starting)
    }

    /// Waits until everything that was computed for long prompts is written; `false`: not in time.
    pub fn flush(&self, limit: Duration) -> bool {
        self.0.wait(limit, |state| state.phase == Phase::Off || state.left + state.writing == 0)
    }

    pub fn stats(&self) -> DiskStats {
        self.0.stats()
    }

    pub fn folder(&self) -> &Path {
        self.0.folder.path()
    }
}
