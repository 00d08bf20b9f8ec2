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
        if self.open.fetch_add(1, Ordering::AcqRel) >= self.threads && self.start_thread().is_ok() {
            self.threads += 1;
        }
        if self.threads == 0 {
            return finish(job, &self.open);
        }
        self.jobs.send(job).expect("the receiver lives in self");
    }

    fn start_thread(&self) -> std::io::Result<()> {
        let (queue, open) = (self.queue.clone(), self.open.clone());
        let thread = std::thread::Builder::new().name("mask".into());
        thread.spawn(move || {
            loop {
                // Whoever waits for a job holds the queue; the others wait for the queue.
                let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(job) = job else { return };
                finish(job, &open);
            }
        })?;
        Ok(())
    }
}

fn finish(job: MaskJob, open: &AtomicUsize) {
    let computed = job.compute();
    // Before it is handed over: whoever has it may send the next job, and for that one this thread is free.
    open.fetch_sub(1, Ordering::AcqRel);
    computed.hand_over();
}

impl Default for MaskWorkers {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::time::Duration;

    use super::super::constraint::{Constraint, Ending, Masks, Matcher, Verdict};
    use super::super::token_mask::TokenMask;
    use super::*;

    /// None comes past it before all are there.
    #[derive(Debug, Clone)]
    struct Meeting(Arc<Barrier>);

    impl Constraint for Meeting {
        fn matcher(&self) -> Result<Box<dyn Matcher>, String> {
            Ok(Box::new(self.clone()))
        }
    }

    impl Matcher for Meeting {
        fn allow(&mut self, output: &[u32], allowed: &mut TokenMask) -> Result<Ending, String> {
            allowed.insert(output.len() as u32);
            self.0.wait();
            Ok(Ending::NotYet)
        }
    }

    #[test]
    fn there_are_as_many_threads_as_masks_at_once() {
        let mut workers = MaskWorkers::new();
        let meeting = Arc::new(Meeting(Arc::new(Barrier::new(3))));
        let mut sequences: Vec<Masks> = (0..3).map(|_| Masks::new(meeting.clone(), &[], 100)).collect();
        for length in 0..50 {
            let output = vec![7; length];
            sequences.iter_mut().for_each(|masks| masks.ask(&output, &[], &mut |job| workers.run(job)));
            for masks in &mut sequences {
                // The limit is for a bug, not for a slow machine.
                masks.wait(Duration::from_secs(60));
                assert_eq!(masks.verdicts(&output, &[]), Some(&[Verdict::Sample(TokenMask::of(100, [length as u32]))][..]));
            }
            assert_eq!(workers.threads, 3, "none more, however often they are asked");
        }
    }
}
