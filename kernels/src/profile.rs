//! Where the time of a step goes, op by op: calls, seconds, and beside them what the op cannot do without ([`cost`]).
//!
//! Off until [`record`] asks for it; while it is off, a step costs one relaxed atomic load and an op one read of a thread-local flag.
//! The ops of `ops/` and the engine's sampling are timed, whole; the bodies in `cpu/` know nothing of it. What is timed runs on the
//! thread of its step, so nothing is shared until a step ends. Times of one op do not overlap those of another: they add up to the
//! step, less what nobody timed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

pub mod cost;

pub use cost::{Cost, Limits};

/// What is timed: the ops, by their functions' names, and the one part of a step outside of them that is known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    Embed,
    RmsNorm,
    LinearMulti,
    RopeAngles,
    QkNormRope,
    KvWrite,
    PagedAttention,
    LinearAdd,
    FfnGated,
    Route,
    Experts,
    GatherRows,
    Linear,
    Sampling,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Embed => "embed",
            Self::RmsNorm => "rms_norm",
            Self::LinearMulti => "linear_multi",
            Self::RopeAngles => "rope angles",
            Self::QkNormRope => "qk_norm_rope",
            Self::KvWrite => "kv_write",
            Self::PagedAttention => "paged_attention",
            Self::LinearAdd => "linear_add",
            Self::FfnGated => "ffn_gated",
            Self::Route => "route",
            Self::Experts => "experts",
            Self::GatherRows => "gather_rows",
            Self::Linear => "linear",
            Self::Sampling => "sampling",
        })
    }
}

/// One line of a profile: an op and, for a matrix product, type and shape of its weights: `Q4_K 1536 -> 8960`, inputs before
/// outputs, which tells the roles apart that an op has in a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub op: Op,
    pub detail: String,
}

impl Key {
    /// An op that has one role only.
    pub fn of(op: Op) -> Self {
        Self { op, detail: String::new() }
    }
}

/// Sums over all calls of one key.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    pub calls: u64,
    pub seconds: f64,
    pub cost: Cost,
}

/// Sums over all recorded steps of one number of rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Steps {
    pub steps: u64,
    /// Of the whole steps, from schedule to send.
    pub seconds: f64,
    pub ops: BTreeMap<Key, Totals>,
}

impl Steps {
    /// Seconds that some op accounts for; the rest of [`Self::seconds`] nobody timed.
    pub fn seconds_in_ops(&self) -> f64 {
        self.ops.values().map(|totals| totals.seconds).sum()
    }

    fn add(&mut self, seconds: f64, ops: BTreeMap<Key, Totals>) {
        self.steps += 1;
        self.seconds += seconds;
        for (key, more) in ops {
            let totals = self.ops.entry(key).or_default();
            totals.calls += more.calls;
            totals.seconds += more.seconds;
            totals.cost += more.cost;
        }
    }
}

/// Steps by their number of rows: 512 is a chunk of a prompt, 8 a decoding step of 8 streams.
pub type Profile = BTreeMap<usize, Steps>;

static WANTED: AtomicBool = AtomicBool::new(false);
/// Steps being recorded now.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);
static RECORDED: Mutex<Profile> = Mutex::new(Profile::new());

thread_local! {
    /// Whether this thread is inside a step that is recorded.
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
    static OPS: RefCell<BTreeMap<Key, Totals>> = const { RefCell::new(BTreeMap::new()) };
}

/// Turns recording on or off, for steps that begin afterwards.
pub fn record(wanted: bool) {
    WANTED.store(wanted, Ordering::Relaxed);
}

/// What was recorded since the last call. Waits for steps that are under way on other threads: whoever has read the last token of a
/// stream may be faster than the end of the step that made it.
pub fn take() -> Profile {
    while UNDER_WAY.load(Ordering::Acquire) > 0 {
        std::thread::yield_now();
    }
    std::mem::take(&mut *RECORDED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Times the step that begins now on this thread and ends when the result is dropped. Steps do not nest.
pub fn step(rows: usize) -> StepTimer {
    let wanted = WANTED.load(Ordering::Relaxed);
    ACTIVE.set(wanted);
    if wanted {
        UNDER_WAY.fetch_add(1, Ordering::Relaxed);
    }
    StepTimer { rows, started: wanted.then(Instant::now) }
}

/// See [`step`].
#[must_use = "the step ends when this is dropped"]
pub struct StepTimer {
    rows: usize,
    started: Option<Instant>,
}

impl Drop for StepTimer {
    fn drop(&mut self) {
        let Some(started) = self.started else { return };
        let seconds = started.elapsed().as_secs_f64();
        ACTIVE.set(false);
        let ops = OPS.take();
        RECORDED.lock().unwrap_or_else(PoisonError::into_inner).entry(self.rows).or_default().add(seconds, ops);
        UNDER_WAY.fetch_sub(1, Ordering::Release);
    }
}

/// Times an op from now until the result is dropped. `what` is called only inside a step that is recorded.
pub fn op(what: impl FnOnce() -> (Key, Cost)) -> OpTimer {
    OpTimer { running: ACTIVE.get().then(|| (what(), Instant::now())) }
}

/// See [`op`].
#[must_use = "the op ends when this is dropped"]
pub struct OpTimer {
    running: Option<((Key, Cost), Instant)>,
}

impl Drop for OpTimer {
    fn drop(&mut self) {
        let Some(((key, cost), started)) = self.running.take() else { return };
        let seconds = started.elapsed().as_secs_f64();
        OPS.with_borrow_mut(|ops| {
            let totals = ops.entry(key).or_default();
            totals.calls += 1;
            totals.seconds += seconds;
            totals.cost += cost;
        });
    }
}
