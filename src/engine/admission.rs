//! Who is let in: places for those that run and wait, and what others are told instead.
//!
//! Shared by the handles and the engine thread; nothing here waits for a step.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::meters::Meters;
use super::{AdmissionError, EngineConfig, EngineStats};

/// What the handles and the engine thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub config: EngineConfig,
    pub vocab: usize,
    pub occupancy: watch::Sender<Occupancy>,
    /// Held for the time of a copy.
    pub stats: Mutex<(EngineStats, Pace)>,
    pub meters: Meters,
}

/// How full the engine is. Changed under one lock, so that draining and admission have an order.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Occupancy {
    /// Requests running or waiting; a place is free again before the request's last event is sent.
    pub places_taken: usize,
    /// Requests whose last event is not sent yet.
    pub unanswered: usize,
    pub draining: bool,
    pub stopped: bool,
}

/// When requests leave, to tell others how long to wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub last_departure: Instant,
    /// Moving mean of the time between departures while busy; `None` before the first.
    interval_s: Option<f64>,
}

impl Shared {
    pub fn new(config: EngineConfig, vocab: usize) -> Self {
        let stats = EngineStats { blocks_total: config.blocks, ..EngineStats::default() };
        let pace = Pace { last_departure: Instant::now(), interval_s: None };
        Self { config, vocab, occupancy: watch::Sender::default(), stats: Mutex::new((stats, pace)), meters: Meters::new() }
    }

    /// One more request is in the engine, or why not.
    pub fn take_place(self: &Arc<Self>) -> Result<Ticket, AdmissionError> {
        let mut refusal = None;
        self.occupancy.send_if_modified(|occupancy| {
            refusal = self.refusal(occupancy);
            if refusal.is_none() {
                occupancy.places_taken += 1;
                occupancy.unanswered += 1;
            }
            // Nobody waits for it to become fuller.
            false
        });
        match refusal {
            Some(refusal) => Err(refusal),
            None => Ok(Ticket { shared: self.clone(), has_place: true }),
        }
    }

    /// Why nobody is let in now.
    pub fn refusal(&self, occupancy: &Occupancy) -> Option<AdmissionError> {
        match occupancy {
            Occupancy { stopped: true, .. } => Some(AdmissionError::Stopped),
            Occupancy { draining: true, .. } => Some(AdmissionError::Draining),
            Occupancy { places_taken, .. } if *places_taken >= self.config.places() => Some(self.queue_full(*places_taken)),
            _ => None,
        }
    }

    fn queue_full(&self, places_taken: usize) -> AdmissionError {
        let (stats, _) = self.stats();
        AdmissionError::QueueFull {
            waiting: places_taken.saturating_sub(stats.running),
            retry_after_s: bounded_wait_s(self.departure_interval().as_secs_f64()),
        }
    }

    /// The usual time between two departures, or the time since the last one when that is longer already.
    pub fn departure_interval(&self) -> Duration {
        let (_, pace) = self.stats();
        let interval = Duration::from_secs_f64(pace.interval_s.unwrap_or(0.0));
        interval.max(pace.last_departure.elapsed())
    }

    /// Whether a first token that is `predicted` for then comes too late.
    pub fn refusal_of_wait(&self, predicted: Option<Duration>) -> Option<AdmissionError> {
        let max = self.config.first_token_max?;
        let predicted = predicted.filter(|predicted| *predicted > max)?;
        Some(AdmissionError::TooLongToWait {
            predicted_s: predicted.as_secs_f64().ceil() as u64,
            max_s: max.as_secs(),
            // What is before it is computed meanwhile.
            retry_after_s: bounded_wait_s((predicted - max).as_secs_f64()),
        })
    }

    pub fn stats(&self) -> (EngineStats, Pace) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn change_pace(&self, change: impl FnOnce(&mut Pace)) {
        change(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner).1);
    }
}

/// Travels with a request through the engine; dropping it says that the request is answered or gone, however that came about.
#[derive(Debug)]
pub(super) struct Ticket {
    shared: Arc<Shared>,
    has_place: bool,
}

impl Ticket {
    /// The place is free for another, though the last event is still to be sent.
    pub fn leave_place(&mut self) {
        if !std::mem::take(&mut self.has_place) {
            return;
        }
        self.shared.occupancy.send_modify(|occupancy| occupancy.places_taken -= 1);
        self.shared.change_pace(|pace| {
            let now = Instant::now();
            let interval_s = (now - pace.last_departure).as_secs_f64();
            // The last five or so count.
            pace.interval_s = Some(pace.interval_s.map_or(interval_s, |mean_s| 0.8 * mean_s + 0.2 * interval_s));
            pace.last_departure = now;
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.leave_place();
        self.shared.occupancy.send_modify(|occupancy| occupancy.unanswered -= 1);
    }
}

/// Whole seconds that somebody is told to wait. At least 1; at most 300, for who waits longer should ask again sooner.
fn bounded_wait_s(seconds: f64) -> u64 {
    seconds.ceil().clamp(1.0, 300.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(first_token_max: Option<Duration>) -> Shared {
        let config = EngineConfig {
            blocks: 1,
            sequences_max: 1,
            tokens_per_step_max: 1,
            queue_max: 0,
            context_max: 1,
            drafts_max: 0,
            first_token_max,
        };
        Shared::new(config, 1)
    }

    #[test]
    fn the_wait_for_a_place_is_estimated_from_departures() {
        let shared = shared(None);
        let told = |interval_s, ago_s| {
            shared.change_pace(|pace| {
                *pace = Pace { last_departure: Instant::now() - Duration::from_secs(ago_s), interval_s };
            });
            let AdmissionError::QueueFull { retry_after_s, .. } = shared.queue_full(1) else { panic!("it is full") };
            retry_after_s
        };
        // The test itself takes some microseconds more.
        assert_eq!([told(None, 0), told(Some(2.5), 1), told(Some(2.5), 40), told(Some(2.5), 4000)], [1, 3, 41, 300]);
    }

    #[test]
    fn who_would_wait_too_long_is_told_when_it_would_fit() {
        let after = |max_s: Option<u64>, predicted_s: Option<f64>| {
            shared(max_s.map(Duration::from_secs)).refusal_of_wait(predicted_s.map(Duration::from_secs_f64))
        };
        assert_eq!(after(None, Some(1e6)), None);
        assert_eq!(after(Some(30), None), None, "nothing is known");
        assert_eq!(after(Some(30), Some(30.0)), None);
        let refusal = |predicted_s, retry_after_s| Some(AdmissionError::TooLongToWait { predicted_s, max_s: 30, retry_after_s });
        assert_eq!(after(Some(30), Some(30.1)), refusal(31, 1));
        assert_eq!(after(Some(30), Some(75.5)), refusal(76, 46));
        assert_eq!(after(Some(30), Some(9e3)), refusal(9000, 300));
    }
}
