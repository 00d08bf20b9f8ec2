//! Threads on which masks are computed: as many as masks are on their way at once, so that no slow constraint holds up another. They
//! are started when they are needed and end with the engine.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::constraint::MaskJob;

pub struct MaskWorkers {
    /// Not bounded: it holds one job a sequence at most, and these are bounded.
    jobs: Sender<MaskJob>,
    queue: Arc<Mutex<Receiver<MaskJob>>>,
    /// Jobs that are not done.
    open: Arc<AtomicUsize>,
    threads: usize,
}

impl MaskWorkers {
    pub fn new() -> Self {
        let (jobs, queue) = channel();
        Self { jobs, queue: Arc::new(Mutex::new(queue)), open: Arc::default(), threads: 0 }
    }

    /// Has the job done on a thread of its own, or here and now if the system gives none.
    pub fn run(&mut self, job: MaskJob) {
        let open = self.open.clone();
        if open.fetch_add(1, Ordering::AcqRel) >= self.threads && self.start_thread().is_ok() {
            self.threads += 1;
        }
        // Counted as open a moment longer than its answer takes: at worst there is a second thread for a sequence.
        let job: MaskJob = Box::new(move || {
            job();
            open.fetch_sub(1, Ordering::AcqRel);
        });
        if self.threads == 0 {
            return job();
        }
        self.jobs.send(job).expect("the receiver lives in self");
    }

    fn start_thread(&self) -> std::io::Result<()> {
        let queue = self.queue.clone();
        let thread = std::thread::Builder::new().name("mask".into());
        thread.spawn(move || {
            loop {
                // Whoever waits for a job holds the queue; the others wait for the queue.
                let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(job) = job else { return };
                job();
            }
        })?;
        Ok(())
    }
}

impl Default for MaskWorkers {
    fn default() -> Self {
        Self::new()
    }
}
