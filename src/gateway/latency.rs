//! Remembers how long first contents take, by upstream, model and size of the prompt; answers with quantiles, exact over what is kept.
//!
//! What is usual is what was usual ten minutes ago: an upstream that grows slower must not raise its own limit as it goes.
#![deny(clippy::disallowed_methods)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::lru::Lru;

#[derive(Debug, Clone, PartialEq)]
pub struct LatencyConfig {
    /// Younger ones are kept and not counted yet.
    pub settled_after: Duration,
    /// Of those that come thicker, the first: a busy hour must not push out what was before it.
    pub spacing: Duration,
    /// A key's; 120 of them fit into ten minutes, and as many are older.
    pub samples_max: usize,
    /// Fewer say nothing.
    pub samples_min: usize,
    /// 128 x 240 samples x 32 B = 1 MB, where somebody uses so many.
    pub keys_max: usize,
}

impl Default for LatencyConfig {
    fn default() -> Self {
        Self { settled_after: Duration::from_secs(600), spacing: Duration::from_secs(5), samples_max: 240, samples_min: 5, keys_max: 128 }
    }
}

impl LatencyConfig {
    /// All times divided: for tests with sockets.
    pub fn scaled(self, divisor: u32) -> Self {
        Self { settled_after: self.settled_after / divisor, spacing: self.spacing / divisor, ..self }
    }
}

/// Prompts of about one size: each four times as long as those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SizeBucket(u8);

impl SizeBucket {
    /// Up to 1,024 tokens, 4,096, ... 262,144, and all above.
    pub fn of_tokens(tokens: u64) -> Self {
        let end = (0..5u8).find(|step| tokens <= 1024 << (2 * step));
        Self(end.unwrap_or(5))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LatencyKey {
    pub upstream: Arc<str>,
    pub model: Arc<str>,
    pub size: SizeBucket,
}

#[derive(Debug)]
pub struct Latencies {
    config: LatencyConfig,
    keys: Lru<LatencyKey, VecDeque<Sample>>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Duration,
    first_content: Duration,
}

impl Latencies {
    pub fn new(config: LatencyConfig) -> Self {
        Self { keys: Lru::new(config.keys_max), config }
    }

    /// Of a reply that came; one that did not come says how long somebody waited, not how long it takes.
    pub fn record(&mut self, key: &LatencyKey, first_content: Duration, now: Duration) {
        let samples = self.keys.get_or_insert_with(key, VecDeque::new);
        if samples.back().is_some_and(|last| now < last.at + self.config.spacing) {
            return;
        }
        if samples.len() == self.config.samples_max {
            samples.pop_front();
        }
        samples.push_back(Sample { at: now, first_content });
    }

    /// The nearest rank: the smallest that at least the share `quantile` of all does not exceed. `None`: too few are known.
    pub fn quantile(&mut self, key: &LatencyKey, quantile: f64, now: Duration) -> Option<Duration> {
        let samples = self.keys.get_mut(key)?;
        let settled = samples.iter().filter(|sample| sample.at + self.config.settled_after <= now);
        let mut known: Vec<Duration> = settled.map(|sample| sample.first_content).collect();
        if known.len() < self.config.samples_min.max(1) {
            return None;
        }
        let rank = (quantile.clamp(0.0, 1.0) * known.len() as f64).ceil() as usize;
        let (_, value, _) = known.select_nth_unstable(rank.saturating_sub(1));
        Some(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(tokens: u64) -> LatencyKey {
        LatencyKey { upstream: "cloud".into(), model: "large".into(), size: SizeBucket::of_tokens(tokens) }
    }

    #[test]
    fn sizes_are_told_apart() {
        assert_eq!(SizeBucket::of_tokens(0), SizeBucket::of_tokens(1024));
        assert!(SizeBucket::of_tokens(1024) < SizeBucket::of_tokens(1025));
        assert_eq!(SizeBucket::of_tokens(1025), SizeBucket::of_tokens(4096));
        assert!(SizeBucket::of_tokens(262_144) < SizeBucket::of_tokens(262_145));
        assert_eq!(SizeBucket::of_tokens(262_145), SizeBucket::of_tokens(u64::MAX));
    }

    /// A ramp from 1 to 30 s within ten minutes, after an hour of 1 s: the usual stays the usual.
    #[test]
    fn an_upstream_does_not_raise_its_own_limit() {
        let mut latencies = Latencies::new(LatencyConfig::default());
        for minute in 0..60 {
            latencies.record(&key(10), Duration::from_secs(1), Duration::from_secs(60 * minute));
        }
        for step in 0..30 {
            let now = Duration::from_secs(3600 + 20 * step);
            latencies.record(&key(10), Duration::from_secs(step), now);
            assert_eq!(latencies.quantile(&key(10), 0.95, now), Some(Duration::from_secs(1)));
        }
    }

    #[test]
    fn too_few_say_nothing_and_other_sizes_say_nothing() {
        let mut latencies = Latencies::new(LatencyConfig { settled_after: Duration::ZERO, ..LatencyConfig::default() });
        for step in 0..5 {
            assert_eq!(latencies.quantile(&key(10), 0.5, Duration::from_secs(1000)), None);
            latencies.record(&key(10), Duration::from_secs(step), Duration::from_secs(10 * step));
        }
        assert_eq!(latencies.quantile(&key(10), 0.5, Duration::from_secs(1000)), Some(Duration::from_secs(2)));
        assert_eq!(latencies.quantile(&key(10_000), 0.5, Duration::from_secs(1000)), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn equal_to_sorting_a_list(
            steps in proptest::collection::vec((0u64..400, 0u64..40_000), 1..400),
            quantile in 0.0f64..=1.0,
        ) {
            let config = LatencyConfig { settled_after: Duration::from_secs(600), samples_max: 50, ..LatencyConfig::default() };
            let mut latencies = Latencies::new(config.clone());
            let (mut kept, mut now_s): (Vec<(u64, u64)>, u64) = (Vec::new(), 0);
            for (pause_s, milliseconds) in steps {
                now_s += pause_s;
                latencies.record(&key(10), Duration::from_millis(milliseconds), Duration::from_secs(now_s));
                if kept.last().is_none_or(|(at, _)| now_s >= at + 5) {
                    kept.push((now_s, milliseconds));
                }
                let last = kept.iter().rev().take(50).filter(|(at, _)| at + 600 <= now_s);
                let mut expected: Vec<u64> = last.map(|(_, milliseconds)| *milliseconds).collect();
                expected.sort_unstable();
                // The definition, by counting.
                let expected = expected.iter().copied().find(|value| {
                    let covered = expected.iter().filter(|other| *other <= value).count();
                    covered as f64 >= quantile * expected.len() as f64
                }).filter(|_| expected.len() >= 5);
                let now = Duration::from_secs(now_s);
                prop_assert_eq!(latencies.quantile(&key(10), quantile, now), expected.map(Duration::from_millis));
            }
        }
    }
}
