//! What the engine measures of itself: when each sequence was taken up and when its tokens came, and histograms of that over all.
//!
//! Times come in as arguments; the engine loop looks at the clock. Recording is a few additions to atomic numbers: who reads them, or
//! does not, holds nobody up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus::{Histogram, HistogramOpts};

use super::TokenUsage;

/// Over all sequences that ended well; the first two also over those that did not. Their names and bounds are vLLM's, so that dashboards
/// made for it fit.
#[derive(Debug)]
pub struct Meters {
    time_to_first_token: Histogram,
    inter_token_latency: Histogram,
    e2e_request_latency: Histogram,
    request_queue_time: Histogram,
    request_prefill_time: Histogram,
    request_decode_time: Histogram,
    request_prompt_tokens: Histogram,
    request_generation_tokens: Histogram,
}

/// How long one request waited and was computed; clones tell the same.
#[derive(Debug, Clone, Default)]
pub struct SequenceClock(Arc<Moments>);

/// Microseconds since the arrival, plus one: 0 is "not yet".
#[derive(Debug, Default)]
struct Moments {
    scheduled: AtomicU64,
    first_token: AtomicU64,
    last_token: AtomicU64,
}

/// `None`: it has not come to that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SequenceTimes {
    /// From the arrival at the engine until the first step that computed some of it.
    pub queue: Option<Duration>,
    /// From there to the first token.
    pub prefill: Option<Duration>,
    /// From the first token to the last one so far.
    pub decode: Option<Duration>,
}

/// The engine loop's side of a [`SequenceClock`].
#[derive(Debug)]
pub(super) struct Stopwatch {
    arrived: Instant,
    scheduled: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    clock: SequenceClock,
}

const FIRST_TOKEN_S: &[f64] =
    &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0];
const BETWEEN_TOKENS_S: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
const REQUEST_S: &[f64] =
    &[0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0];
/// vLLM ends them at the context of its model.
const TOKENS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6];

impl Meters {
    pub fn new() -> Self {
        Self {
            time_to_first_token: histogram("time_to_first_token_seconds", "From a request's arrival to its first token.", FIRST_TOKEN_S),
            inter_token_latency: histogram("inter_token_latency_seconds", "From one token of a request to its next.", BETWEEN_TOKENS_S),
            e2e_request_latency: histogram("e2e_request_latency_seconds", "From a request's arrival to its end.", REQUEST_S),
            request_queue_time: histogram("request_queue_time_seconds", "From a request's arrival to its first step.", REQUEST_S),
            request_prefill_time: histogram("request_prefill_time_seconds", "From a request's first step to its first token.", REQUEST_S),
            request_decode_time: histogram("request_decode_time_seconds", "From a request's first token to its last.", REQUEST_S),
            request_prompt_tokens: histogram("request_prompt_tokens", "Tokens of a request's prompt.", TOKENS),
            request_generation_tokens: histogram("request_generation_tokens", "Tokens generated for a request.", TOKENS),
        }
    }

    pub fn histograms(&self) -> [&Histogram; 8] {
        [
            &self.time_to_first_token,
            &self.inter_token_latency,
            &self.e2e_request_latency,
            &self.request_queue_time,
            &self.request_prefill_time,
            &self.request_decode_time,
            &self.request_prompt_tokens,
            &self.request_generation_tokens,
        ]
    }
}

impl Default for Meters {
    fn default() -> Self {
        Self::new()
    }
}

impl SequenceClock {
    pub fn times(&self) -> SequenceTimes {
        let at = |moment: &AtomicU64| moment.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_micros);
        let (scheduled, first, last) = (at(&self.0.scheduled), at(&self.0.first_token), at(&self.0.last_token));
        let between = |from: Option<Duration>, to: Option<Duration>| Some(to?.saturating_sub(from?));
        SequenceTimes { queue: scheduled, prefill: between(scheduled, first), decode: between(first, last) }
    }
}

impl Stopwatch {
    pub fn new(arrived: Instant, clock: SequenceClock) -> Self {
        Self { arrived, scheduled: None, first_token: None, last_token: None, clock }
    }

    /// Some of it is computed in a step that begins `now`. Whether that is the first time.
    pub fn scheduled(&mut self, now: Instant) -> bool {
        if self.scheduled.is_some() {
            return false;
        }
        self.scheduled = Some(now);
        self.note(&self.clock.0.scheduled, now);
        true
    }

    /// A token came. Whether it is the first.
    pub fn token(&mut self, now: Instant, meters: &Meters) -> bool {
        self.note(&self.clock.0.last_token, now);
        if let Some(last) = self.last_token.replace(now) {
            meters.inter_token_latency.observe((now - last).as_secs_f64());
            return false;
        }
        self.first_token = Some(now);
        self.note(&self.clock.0.first_token, now);
        meters.time_to_first_token.observe((now - self.arrived).as_secs_f64());
        true
    }

    pub fn has_token(&self) -> bool {
        self.first_token.is_some()
    }

    /// It ended well.
    pub fn finished(&self, now: Instant, usage: TokenUsage, meters: &Meters) {
        let scheduled = self.scheduled.unwrap_or(now);
        let first_token = self.first_token.unwrap_or(now);
        meters.e2e_request_latency.observe((now - self.arrived).as_secs_f64());
        meters.request_queue_time.observe((scheduled - self.arrived).as_secs_f64());
        meters.request_prefill_time.observe((first_token - scheduled).as_secs_f64());
        meters.request_decode_time.observe((self.last_token.unwrap_or(now) - first_token).as_secs_f64());
        meters.request_prompt_tokens.observe(usage.prompt_tokens as f64);
        meters.request_generation_tokens.observe(usage.completion_tokens as f64);
    }

    fn note(&self, moment: &AtomicU64, now: Instant) {
        moment.store((now - self.arrived).as_micros() as u64 + 1, Ordering::Relaxed);
    }
}

fn histogram(name: &str, help: &str, bounds: &[f64]) -> Histogram {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(bounds.to_vec())).expect("names and bounds are as they must be")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopwatch_tells_the_stretches_of_a_request() {
        let (meters, clock, arrived) = (Meters::new(), SequenceClock::default(), Instant::now());
        let at = |ms: u64| arrived + Duration::from_millis(ms);
        let ms = |ms: u64| Some(Duration::from_millis(ms));
        let mut watch = Stopwatch::new(arrived, clock.clone());
        assert_eq!(clock.times(), SequenceTimes::default());
        assert_eq!([watch.scheduled(at(40)), watch.scheduled(at(50))], [true, false]);
        assert_eq!(clock.times(), SequenceTimes { queue: ms(40), ..SequenceTimes::default() });
        assert_eq!([watch.token(at(100), &meters), watch.token(at(112), &meters), watch.token(at(900), &meters)], [true, false, false]);
        assert_eq!(clock.times(), SequenceTimes { queue: ms(40), prefill: ms(60), decode: ms(800) });
        watch.finished(at(1000), TokenUsage { prompt_tokens: 7, cached_tokens: 0, completion_tokens: 3 }, &meters);
        let told: Vec<(u64, f64)> = meters.histograms().map(|h| (h.get_sample_count(), (h.get_sample_sum() * 1e6).round() / 1e6)).to_vec();
        assert_eq!(told, [(1, 0.1), (2, 0.8), (1, 1.0), (1, 0.04), (1, 0.06), (1, 0.8), (1, 7.0), (1, 3.0)]);
    }

    #[test]
    fn what_happens_in_the_same_microsecond_has_happened() {
        let (clock, arrived) = (SequenceClock::default(), Instant::now());
        let mut watch = Stopwatch::new(arrived, clock.clone());
        watch.scheduled(arrived);
        watch.token(arrived, &Meters::new());
        let none = Some(Duration::ZERO);
        assert_eq!(clock.times(), SequenceTimes { queue: none, prefill: none, decode: none });
    }
}
