//! Whether a reply comes fast enough: so many tokens within a stretch of time, one stretch after the other.
//!
//! Pure: time is an argument.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

/// Fewer tokens a second than this over a whole `window` are too few. 0: nothing is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Floor {
    pub tokens_per_s: f64,
    pub window: Duration,
}

impl Floor {
    pub const NONE: Self = Self { tokens_per_s: 0.0, window: Duration::ZERO };

    /// Time divided, speed multiplied: for tests with sockets.
    pub fn scaled(self, divisor: u32) -> Self {
        Self { tokens_per_s: self.tokens_per_s * f64::from(divisor), window: self.window / divisor }
    }

    fn is_none(self) -> bool {
        self.tokens_per_s <= 0.0 || self.window.is_zero()
    }
}

/// One reply, or a part of it.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    floor: Floor,
    /// Where the stretch begins that is measured.
    from: Duration,
    tokens: f64,
}

impl Pace {
    pub fn new(floor: Floor, now: Duration) -> Self {
        Self { floor, from: now, tokens: 0.0 }
    }

    /// `tokens` may be a guess.
    pub fn add(&mut self, tokens: f64, now: Duration) {
        // A stretch that had enough is over; one that had not is noticed at its deadline.
        if self.has_enough() && now >= self.from + self.floor.window && !self.floor.is_none() {
            let stretches = (now - self.from).div_duration_f64(self.floor.window).floor();
            self.from += self.floor.window.mul_f64(stretches);
            self.tokens = 0.0;
        }
        self.tokens += tokens;
    }

    /// Time that is not the upstream's: whoever reads the reply took it.
    pub fn paused(&mut self, time: Duration) {
        self.from += time;
    }

    /// When it is too slow, if nothing comes; `None`: never.
    pub fn deadline(&self) -> Option<Duration> {
        // A stretch that had enough makes the next one the question.
        let stretches = if self.has_enough() { 2 } else { 1 };
        (!self.floor.is_none()).then(|| self.from + self.floor.window * stretches)
    }

    fn has_enough(&self) -> bool {
        self.tokens >= self.floor.tokens_per_s * self.floor.window.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: Floor = Floor { tokens_per_s: 2.0, window: Duration::from_secs(20) };

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// When a reply of so many tokens, each second, is too slow, within 200 s.
    fn too_slow(floor: Floor, tokens: impl Fn(u64) -> f64) -> Option<Duration> {
        let mut pace = Pace::new(floor, s(1.0));
        for second in 1..200 {
            let now = Duration::from_secs(second);
            if pace.deadline().is_some_and(|deadline| now >= deadline) {
                return pace.deadline();
            }
            pace.add(tokens(second), now);
        }
        None
    }

    #[test]
    fn a_stretch_with_too_little_is_noticed_at_its_end() {
        assert_eq!(too_slow(FLOOR, |_| 0.5), Some(s(21.0)));
        assert_eq!(too_slow(FLOOR, |_| 1.99), Some(s(21.0)));
        assert_eq!(too_slow(FLOOR, |_| 2.0), None);
        assert_eq!(
            too_slow(FLOOR, |second| if second < 30 { 50.0 } else { 0.1 }),
            Some(s(61.0)),
            "the stretch from 41 s is the first without enough"
        );
        assert_eq!(too_slow(FLOOR, |second| if second == 1 { 40.0 } else { 0.0 }), Some(s(41.0)));
        assert_eq!(too_slow(FLOOR, |second| if second % 20 == 1 { 40.0 } else { 0.0 }), None, "in large pieces");
        assert_eq!(too_slow(Floor::NONE, |_| 0.0), None);
        assert_eq!(too_slow(Floor { tokens_per_s: 0.0, ..FLOOR }, |_| 0.0), None);
    }

    #[test]
    fn who_reads_slowly_is_no_slow_upstream() {
        let mut pace = Pace::new(FLOOR, s(0.0));
        pace.add(1.0, s(1.0));
        pace.paused(s(100.0));
        assert_eq!(pace.deadline(), Some(s(120.0)));
    }
}
