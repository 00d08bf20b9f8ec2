//! The one thread pool of the CPU bodies: spins briefly, then parks; no other pool runs beside it.

use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// A job the workers take tasks from until none is left.
struct Job {
    run: &'static (dyn Fn(usize) + Sync),
    tasks: usize,
    next: AtomicUsize,
    done: AtomicUsize,
}

struct Shared {
    current: Mutex<(u64, Option<Arc<Job>>)>,
    wake: Condvar,
}

/// A fixed number of threads, the caller included.
pub struct Pool {
    shared: Arc<Shared>,
    caller: Mutex<()>,
    threads: usize,
}

static POOL: OnceLock<Pool> = OnceLock::new();
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Sets the number of threads of [`pool`]; false once the pool has started (then nothing changes).
pub fn set_threads(threads: NonZeroUsize) -> bool {
    THREADS.store(threads.get(), Ordering::Relaxed);
    POOL.get().is_none()
}

/// The pool, started at first use with [`set_threads`]' number, else one thread a core.
pub fn pool() -> &'static Pool {
    POOL.get_or_init(|| {
        let wanted = THREADS.load(Ordering::Relaxed);
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Pool::new(if wanted == 0 { cores } else { wanted })
    })
}

impl Pool {
    fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared { current: Mutex::new((0, None)), wake: Condvar::new() });
        for index in 1..threads {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name(format!("kernels-{index}"))
                .spawn(move || work(&shared))
                .expect("the system refuses a thread at start-up");
        }
        Self { shared, caller: Mutex::new(()), threads }
    }

    /// Threads, the caller included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `run(0..tasks)`, each index once, on all threads; returns when all are done. Which thread runs which index is
    /// open, so a task's result must depend on its index alone. Not reentrant.
    pub fn run(&self, tasks: usize, run: impl Fn(usize) + Sync) {
        if self.threads == 1 || tasks <= 1 {
            return (0..tasks).for_each(run);
        }
        let _one_caller = self.caller.lock().unwrap_or_else(|e| e.into_inner());
        let run: &(dyn Fn(usize) + Sync) = &run;
        // SAFETY: the job is dropped from `current` and every task is done before this function returns, and workers call
        // `run` only for an index below `tasks`, which they finish before counting it as done.
        let run: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(run) };
        let job = Arc::new(Job { run, tasks, next: AtomicUsize::new(0), done: AtomicUsize::new(0) });
        {
            let mut current = self.shared.current.lock().unwrap_or_else(|e| e.into_inner());
            current.0 += 1;
            current.1 = Some(job.clone());
        }
        self.shared.wake.notify_all();
        take_tasks(&job);
        while job.done.load(Ordering::Acquire) < tasks {
            std::hint::spin_loop();
        }
        self.shared.current.lock().unwrap_or_else(|e| e.into_inner()).1 = None;
    }
}

fn take_tasks(job: &Job) {
    loop {
        let index = job.next.fetch_add(1, Ordering::Relaxed);
        if index >= job.tasks {
            break;
        }
        (job.run)(index);
        job.done.fetch_add(1, Ordering::Release);
    }
}

fn work(shared: &Shared) {
    let mut seen = 0;
    loop {
        let job = {
            let mut current = shared.current.lock().unwrap_or_else(|e| e.into_inner());
            while current.0 == seen || current.1.is_none() {
                seen = current.0;
                current = shared.wake.wait(current).unwrap_or_else(|e| e.into_inner());
            }
            seen = current.0;
            current.1.clone()
        };
        if let Some(job) = job {
            take_tasks(&job);
        }
    }
}
