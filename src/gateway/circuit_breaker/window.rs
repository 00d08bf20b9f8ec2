//! Counts what went well and what did not within the last minute: a ring of buckets, exact to one bucket's width.
//!
//! No average that fades: a burst of good replies an hour ago must not hide that nothing is answered now.

use std::time::Duration;

/// 10 of 6 s for a minute: the window covers between 54 and 60 s.
const BUCKETS: usize = 10;

#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    bucket: Duration,
    buckets: [Bucket; BUCKETS],
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Bucket {
    /// Number of the stretch of time that is counted here.
    number: u64,
    good: u32,
    bad: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub good: u32,
    pub bad: u32,
}

impl Window {
    pub fn new(length: Duration) -> Self {
        let bucket = (length / BUCKETS as u32).max(Duration::from_nanos(1));
        Self { bucket, buckets: [Bucket::default(); BUCKETS] }
    }

    pub fn good(&mut self, now: Duration) {
        let bucket = self.bucket_of(now);
        bucket.good = bucket.good.saturating_add(1);
    }

    pub fn bad(&mut self, now: Duration) {
        let bucket = self.bucket_of(now);
        bucket.bad = bucket.bad.saturating_add(1);
    }

    pub fn counts(&self, now: Duration) -> Counts {
        let last = self.number(now);
        let within = self.buckets.iter().filter(|bucket| bucket.number <= last && bucket.number + BUCKETS as u64 > last);
        within.fold(Counts::default(), |counts, bucket| Counts {
            good: counts.good.saturating_add(bucket.good),
            bad: counts.bad.saturating_add(bucket.bad),
        })
    }

    pub fn clear(&mut self) {
        self.buckets = [Bucket::default(); BUCKETS];
    }

    fn bucket_of(&mut self, now: Duration) -> &mut Bucket {
        let number = self.number(now);
        let bucket = &mut self.buckets[(number % BUCKETS as u64) as usize];
        if bucket.number != number {
            *bucket = Bucket { number, ..Bucket::default() };
        }
        bucket
    }

    fn number(&self, now: Duration) -> u64 {
        (now.as_nanos() / self.bucket.as_nanos()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn counts_what_a_list_counts(steps in proptest::collection::vec((0u64..30_000, any::<bool>()), 1..200)) {
            let mut window = Window::new(Duration::from_secs(60));
            let (mut list, mut now_ms) = (Vec::new(), 0);
            for (pause_ms, good) in steps {
                now_ms += pause_ms;
                let now = Duration::from_millis(now_ms);
                if good { window.good(now) } else { window.bad(now) }
                list.push((now_ms / 6000, good));
                let recent = list.iter().filter(|(bucket, _)| bucket + 10 > now_ms / 6000);
                let good = recent.clone().filter(|(_, good)| *good).count() as u32;
                prop_assert_eq!(window.counts(now), Counts { good, bad: recent.count() as u32 - good });
            }
            // After a minute of silence there is nothing.
            prop_assert_eq!(window.counts(Duration::from_millis(now_ms + 60_000)), Counts::default());
        }
    }
}
