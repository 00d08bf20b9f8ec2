//! How much of the time may be spent on what nobody has asked for yet.

use std::time::Duration;

/// A share of the time, as a balance: it grows with the time, is spent by work, and may be overdrawn by a piece of work that is begun.
#[derive(Debug, Clone)]
pub struct Duty {
    share: f64,
    balance_s: f64,
    balance_s_max: f64,
    at: Duration,
}

impl Duty {
    /// `saved_max`: what is saved up at most while there is nothing to do.
    pub fn new(share: f64, saved_max: Duration) -> Self {
        let balance_s_max = saved_max.as_secs_f64();
        Self { share, balance_s: balance_s_max, balance_s_max, at: Duration::ZERO }
    }

    pub fn may_begin(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.balance_s = (self.balance_s + passed * self.share).min(self.balance_s_max);
        self.balance_s > 0.0
    }

    pub fn spent(&mut self, work: Duration) {
        self.balance_s -= work.as_secs_f64();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_its_share_in_the_long_run() {
        let mut duty = Duty::new(0.1, Duration::from_secs(30));
        let (mut worked, mut now) = (0.0, Duration::ZERO);
        while now < Duration::from_secs(100_000) {
            if duty.may_begin(now) {
                duty.spent(Duration::from_secs(45));
                worked += 45.0;
                now += Duration::from_secs(45);
            } else {
                now += Duration::from_secs(1);
            }
        }
        assert!((9_900.0..10_150.0).contains(&worked), "{worked}");
    }

    #[test]
    fn a_clock_that_stands_or_jumps_back_gives_nothing() {
        let mut duty = Duty::new(0.5, Duration::from_secs(1));
        assert!(duty.may_begin(Duration::from_secs(10)));
        duty.spent(Duration::from_secs(2));
        assert!(!duty.may_begin(Duration::from_secs(10)));
        assert!(!duty.may_begin(Duration::from_secs(1)));
        assert!(!duty.may_begin(Duration::from_secs(12)));
        assert!(duty.may_begin(Duration::from_secs(13)));
    }
}
