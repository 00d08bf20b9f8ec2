//! The one thread pool of the CPU bodies: spins briefly, then parks; no other pool runs beside it.
//!
//! Decides who runs which task and when a thread sleeps. Knows no op. A job lives on its caller's stack: workers attach to it
//! under the lock while it is current, and the caller leaves only when it has withdrawn the job and the last of them has detached.

use std::any::Any;
use std::cell::Cell;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::affinity;

/// A fixed number of threads, the caller included.
pub struct Pool {
    shared: Arc<Shared>,
    /// Held by the one caller whose job runs.
    caller: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

static POOL: OnceLock<Pool> = OnceLock::new();
static THREADS: AtomicUsize = AtomicUsize::new(0);
static PINNED: AtomicBool = AtomicBool::new(false);
/// 30 microseconds cover the pause between two ops of a step; past them a sleeping thread costs less than a spinning one,
/// above all where the HTTP runtime shares the cores.
static SPIN_US: AtomicU32 = AtomicU32::new(30);

thread_local! {
    /// Whether this thread is inside a task: a `run` there runs in place.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static OVERRIDE: Cell<Option<&'static Pool>> = const { Cell::new(None) };
    /// Whether this thread has been asked to stay on its core.
    static PIN_TRIED: Cell<bool> = const { Cell::new(false) };
}

/// Sets the number of threads of [`pool`]; false once the pool has started (then nothing changes).
pub fn set_threads(threads: NonZeroUsize) -> bool {
    THREADS.store(threads.get(), Ordering::Relaxed);
    POOL.get().is_none()
}

/// Keeps every thread of the pool on a core of its own, the caller on the first one: no migration, but no way round another program on that core
/// either. Takes effect when a thread next has work; where the system refuses it nothing changes.
pub fn set_pinned() {
    PINNED.store(true, Ordering::Relaxed);
}

fn pin_if_asked(nth: usize) {
    if PINNED.load(Ordering::Relaxed) && !PIN_TRIED.replace(true) {
        affinity::pin(nth);
    }
}

/// How long an idle thread spins before it parks; 0 parks at once. Takes effect at its next idle moment.
pub fn set_spin(spin: Duration) {
    SPIN_US.store(u32::try_from(spin.as_micros()).unwrap_or(u32::MAX), Ordering::Relaxed);
}

/// The pool, started at first use with [`set_threads`]' number, else one thread a core.
pub fn pool() -> &'static Pool {
    OVERRIDE.get().unwrap_or_else(|| {
        POOL.get_or_init(|| {
            let wanted = THREADS.load(Ordering::Relaxed);
            let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
            Pool::new(NonZeroUsize::new(wanted).map_or(cores, NonZeroUsize::get))
        })
    })
}

/// Runs `work` with [`pool`] on this thread being one of `threads` threads; for tests and benchmarks. Such a pool is started
/// once for each number, and stays.
pub fn with_threads<R>(threads: NonZeroUsize, work: impl FnOnce() -> R) -> R {
    static POOLS: Mutex<Option<HashMap<usize, &'static Pool>>> = Mutex::new(None);
    struct Restore(Option<&'static Pool>);
    impl Drop for Restore {
        fn drop(&mut self) {
            OVERRIDE.set(self.0);
        }
    }
    let pool: &'static Pool =
        lock(&POOLS).get_or_insert_with(HashMap::new).entry(threads.get()).or_insert_with(|| Box::leak(Box::new(Pool::new(threads.get()))));
    let _restore = Restore(OVERRIDE.replace(Some(pool)));
    work()
}

impl Pool {
    /// Starts `threads - 1` threads. Where the system refuses some, the pool is smaller.
    fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let spawn = |index| {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("kernels-{index}")).spawn(move || shared.work(index))
        };
        let workers = (1..threads).map_while(|index| spawn(index).ok()).collect();
        Self { shared, caller: Mutex::new(()), workers }
    }

    /// Threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `run(0..tasks)`, each index once, on all threads; returns when all are done. Which thread runs which index is
    /// open, so a task's result must depend on its index alone. Callers wait for one another; called from inside a task it
    /// runs in place. A panic in a task stops the tasks not yet begun and goes on in the caller once the others are done.
    pub fn run(&self, tasks: usize, run: impl Fn(usize) + Sync) {
        if self.workers.is_empty() || tasks <= 1 || INSIDE.get() {
            return (0..tasks).for_each(run);
        }
        let _one_caller = lock(&self.caller);
        pin_if_asked(0);
        let job = Job { run: &run, tasks, next: AtomicUsize::new(0), panic: Mutex::new(None) };
        self.shared.publish(&job);
        job.take_tasks();
        self.shared.withdraw();
        let panic = lock(&job.panic).take();
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.current).closed = true;
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks; there is no other result.
            let _ = worker.join();
        }
    }
}

/// Tasks that the threads take one by one.
struct Job<'a> {
    run: &'a (dyn Fn(usize) + Sync),
    tasks: usize,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Job<'_> {
    fn take_tasks(&self) {
        INSIDE.set(true);
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.tasks {
                break;
            }
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (self.run)(index))) {
                // Half the range, so that the counter cannot wrap round to the tasks again.
                self.next.store(usize::MAX / 2, Ordering::Relaxed);
                lock(&self.panic).get_or_insert(payload);
            }
        }
        INSIDE.set(false);
    }
}

#[derive(Default)]
struct Shared {
    current: Mutex<Current>,
    /// Goes up with each job; what idle threads look at while they spin.
    epoch: AtomicU64,
    /// Parked workers wait here.
    wake: Condvar,
    /// Workers inside the current job.
    attached: AtomicUsize,
    /// The caller, parked until `attached` is 0, waits here.
    idle: Condvar,
    caller_parked: AtomicBool,
}

#[derive(Default)]
struct Current {
    /// The job on its caller's stack; set between `publish` and `withdraw`.
    job: Option<JobPointer>,
    parked: usize,
    closed: bool,
}

struct JobPointer(*const Job<'static>);

// SAFETY: a job is shared by reference between threads, all of its fields are Sync, and `Shared` keeps it alive (see `withdraw`).
unsafe impl Send for JobPointer {}

impl Shared {
    fn publish(&self, job: &Job<'_>) {
        let mut current = lock(&self.current);
        current.job = Some(JobPointer(std::ptr::from_ref(job).cast()));
        self.epoch.fetch_add(1, Ordering::SeqCst);
        let parked = current.parked;
        drop(current);
        if parked > 0 {
            self.wake.notify_all();
        }
    }

    /// Takes the job back and waits for the workers that are inside it; afterwards nobody knows its address.
    fn withdraw(&self) {
        lock(&self.current).job = None;
        if spin_until(|| self.attached.load(Ordering::SeqCst) == 0) {
            return;
        }
        let mut current = lock(&self.current);
        self.caller_parked.store(true, Ordering::SeqCst);
        while self.attached.load(Ordering::SeqCst) != 0 {
            current = self.idle.wait(current).unwrap_or_else(|e| e.into_inner());
        }
        self.caller_parked.store(false, Ordering::SeqCst);
    }

    fn work(&self, index: usize) {
        let mut seen = 0;
        loop {
            spin_until(|| self.epoch.load(Ordering::SeqCst) != seen);
            let mut current = lock(&self.current);
            while self.epoch.load(Ordering::SeqCst) == seen {
                current.parked += 1;
                current = self.wake.wait(current).unwrap_or_else(|e| e.into_inner());
                current.parked -= 1;
            }
            seen = self.epoch.load(Ordering::SeqCst);
            if current.closed {
                return;
            }
            // A job that its caller has already finished alone is gone.
            let Some(job) = current.job.as_ref().map(|job| job.0) else { continue };
            self.attached.fetch_add(1, Ordering::SeqCst);
            drop(current);
            pin_if_asked(index);
            // SAFETY: the job was current under the lock when this worker attached, so `withdraw`, and with it the frame that
            // holds the job, waits for the detachment below.
            unsafe { &*job }.take_tasks();
            if self.attached.fetch_sub(1, Ordering::SeqCst) == 1 && self.caller_parked.load(Ordering::SeqCst) {
                let _current = lock(&self.current);
                self.idle.notify_all();
            }
        }
    }
}

/// Whether `done` came true within the spin time.
fn spin_until(done: impl Fn() -> bool) -> bool {
    let limit = Duration::from_micros(SPIN_US.load(Ordering::Relaxed).into());
    let mut start = None;
    loop {
        // 32 pauses are about half a microsecond: the clock is read no more often.
        for _ in 0..32 {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.get_or_insert_with(Instant::now).elapsed() >= limit {
            return done();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one of these locks; the tasks run outside of them.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each_index_once(pool: &Pool, tasks: usize) {
        let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        pool.run(tasks, |i| {
            counts[i].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{tasks} tasks on {} threads", pool.threads());
    }

    #[test]
    fn every_task_runs_once_on_any_number_of_threads() {
        for threads in 1..=9 {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for tasks in [0, 1, 2, 3, 17, 1000] {
                each_index_once(&pool, tasks);
            }
        }
    }

    #[test]
    fn many_short_jobs_and_sleeps_between_them() {
        let pool = Pool::new(4);
        for round in 0..3000 {
            each_index_once(&pool, round % 7);
            if round % 500 == 0 {
                // Long enough for the workers to park; nothing is measured.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    #[test]
    fn callers_take_turns() {
        let pool = Pool::new(3);
        std::thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| (0..200).for_each(|i| each_index_once(&pool, i % 13)));
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(4);
        for bad in [0, 7, 63] {
            let caught = catch_unwind(AssertUnwindSafe(|| pool.run(64, |i| assert_ne!(i, bad, "on purpose"))));
            let payload = caught.expect_err("the task panicked");
            assert!(payload.downcast_ref::<String>().is_some_and(|m| m.contains("on purpose")));
            each_index_once(&pool, 100);
        }
        let caught = catch_unwind(AssertUnwindSafe(|| pool.run(64, |_| panic!("all of them"))));
        assert!(caught.is_err());
        each_index_once(&pool, 100);
    }

    #[test]
    fn a_job_inside_a_task_runs_in_place() {
        let pool = Pool::new(3);
        let count = AtomicUsize::new(0);
        pool.run(8, |_| {
            pool.run(8, |_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(count.load(Ordering::Relaxed), 64);
    }

    #[test]
    fn an_override_has_the_threads_asked_for() {
        let three = NonZeroUsize::new(3).expect("not zero");
        assert_eq!(with_threads(three, || pool().threads()), 3);
    }
}
