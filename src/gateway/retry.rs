//! Decides whether a request is tried again at the upstream that failed it, or goes on to the next tier.
//!
//! The next tier is milliseconds away, so there is little to win by insisting: one second try where the first one probably met an accident.
//! Pure: time and randomness are arguments.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

use super::fault::Fault;

#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// At one upstream, the first one included.
    pub attempts_max: usize,
    /// Before a second try after 5xx, and as much as half of it more or less.
    pub pause_after_error: Duration,
    /// The same where a rate limit says nothing about its end.
    pub pause_after_rate_limit: Duration,
    /// What a request waits out where the upstream asks for it. Longer, and the next tier answers.
    pub retry_after_sat_out: Duration,
    /// An attempt that ends later than this has used up the patience that a second one would need.
    pub begun_within: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 2,
            pause_after_error: Duration::from_millis(300),
            pause_after_rate_limit: Duration::from_secs(1),
            retry_after_sat_out: Duration::from_secs(3),
            begun_within: Duration::from_secs(10),
        }
    }
}

/// How the last attempt failed, and what was before it.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    pub fault: Fault,
    pub retry_after: Option<Duration>,
    /// The upstream says that another try is of no use.
    pub forbidden: bool,
    /// Attempts at this upstream so far, this one included.
    pub attempts: usize,
    /// Since the request began at this upstream.
    pub elapsed: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    SameUpstream { after: Duration },
    NextTier,
}

impl RetryPolicy {
    /// All times divided: for tests with sockets.
    pub fn scaled(self, divisor: u32) -> Self {
        Self {
            attempts_max: self.attempts_max,
            pause_after_error: self.pause_after_error / divisor,
            pause_after_rate_limit: self.pause_after_rate_limit / divisor,
            retry_after_sat_out: self.retry_after_sat_out / divisor,
            begun_within: self.begun_within / divisor,
        }
    }

    /// `random` is in 0..1. A second try is paid from the budget; one that is not made costs nothing.
    pub fn next(&self, failure: Failure, random: f64, budget: &mut RetryBudget, now: Duration) -> Next {
        let Some(after) = self.pause(failure, random) else { return Next::NextTier };
        let in_time = failure.attempts < self.attempts_max && failure.elapsed <= self.begun_within;
        if in_time && budget.withdraw(now) { Next::SameUpstream { after } } else { Next::NextTier }
    }

    /// `None`: this fault is never tried again here. A limit that passed once passes twice, an overload asks for less and not more, and
    /// who has refused the connection refuses it again.
    fn pause(&self, failure: Failure, random: f64) -> Option<Duration> {
        let jittered = |pause: Duration| pause.mul_f64(0.5 + random.clamp(0.0, 1.0));
        let asked = failure.retry_after;
        if failure.forbidden || asked.is_some_and(|asked| asked > self.retry_after_sat_out) {
            return None;
        }
        match failure.fault {
            // A server that restarts, or closes what it kept open too long: the next connection is a new one.
            Fault::ClosedEarly => Some(asked.unwrap_or_default()),
            Fault::Status(_) => Some(jittered(self.pause_after_error).max(asked.unwrap_or_default())),
            // As long as it asks for, and a little more, since its clock is another.
            Fault::RateLimited => Some(asked.map_or(jittered(self.pause_after_rate_limit), |asked| asked + jittered(asked / 50))),
            _ => None,
        }
    }
}

/// Second tries for a fifth of the requests and one a second, so that retries never multiply an outage.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryBudget {
    pub tokens_per_request: f64,
    pub tokens_per_s: f64,
    pub tokens_max: f64,
    tokens: f64,
    filled_at: Duration,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { tokens_per_request: 0.2, tokens_per_s: 1.0, tokens_max: 10.0, tokens: 10.0, filled_at: Duration::ZERO }
    }
}

impl RetryBudget {
    /// Every request pays in, once.
    pub fn deposit(&mut self, now: Duration) {
        self.fill(now);
        self.tokens = (self.tokens + self.tokens_per_request).min(self.tokens_max);
    }

    fn withdraw(&mut self, now: Duration) -> bool {
        self.fill(now);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled_at);
        self.filled_at = self.filled_at.max(now);
        self.tokens = (self.tokens + passed.as_secs_f64() * self.tokens_per_s).min(self.tokens_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn first(fault: Fault, retry_after: Option<u64>) -> Failure {
        let elapsed = Duration::from_secs(1);
        Failure { fault, retry_after: retry_after.map(Duration::from_secs), forbidden: false, attempts: 1, elapsed }
    }

    fn next(failure: Failure, random: f64) -> Next {
        RetryPolicy::default().next(failure, random, &mut RetryBudget::default(), Duration::from_secs(5))
    }

    fn again_after_ms(milliseconds: u64) -> Next {
        Next::SameUpstream { after: Duration::from_millis(milliseconds) }
    }

    #[test]
    fn accidents_are_tried_once_more() {
        assert_eq!(next(first(Fault::ClosedEarly, None), 0.5), again_after_ms(0));
        assert_eq!(next(first(Fault::Status(500), None), 0.0), again_after_ms(150));
        assert_eq!(next(first(Fault::Status(503), None), 1.0), again_after_ms(450));
        assert_eq!(next(first(Fault::Status(503), Some(2)), 0.5), again_after_ms(2000));
        for fault in [Fault::ClosedEarly, Fault::Status(500), Fault::RateLimited] {
            assert_eq!(next(Failure { attempts: 2, ..first(fault, None) }, 0.5), Next::NextTier, "{fault:?}");
            assert_eq!(next(Failure { forbidden: true, ..first(fault, Some(1)) }, 0.5), Next::NextTier, "{fault:?}");
            assert_eq!(next(Failure { elapsed: Duration::from_secs(11), ..first(fault, None) }, 0.5), Next::NextTier, "{fault:?}");
        }
    }

    #[test]
    fn a_rate_limit_is_waited_out_if_it_is_short() {
        assert_eq!(next(first(Fault::RateLimited, Some(2)), 0.5), again_after_ms(2040));
        assert_eq!(next(first(Fault::RateLimited, None), 0.0), again_after_ms(500));
        for fault in [Fault::RateLimited, Fault::Status(503)] {
            assert_eq!(next(first(fault, Some(4)), 0.5), Next::NextTier);
            assert_eq!(next(first(fault, Some(u64::MAX)), 0.5), Next::NextTier);
        }
    }

    #[test]
    fn what_would_only_be_repeated_is_not() {
        use Fault::*;
        let faults = [
            Refused,
            ConnectTimeout,
            NameUnknown,
            Tls,
            FirstContentLimit,
            WholeReplyLimit,
            TooSlow,
            ByteSilence,
            NoProgress,
            Overloaded,
            QuotaSpent,
            Unauthorised(401),
            NotTheApi,
            ErrorEvent,
            Cut,
            Malformed,
            TooLarge,
        ];
        for fault in faults {
            for retry_after in [None, Some(0), Some(1)] {
                assert_eq!(next(first(fault, retry_after), 0.5), Next::NextTier, "{fault:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn retries_stay_within_the_budget(steps in proptest::collection::vec((0u64..3000, any::<bool>()), 1..300)) {
            let (mut budget, mut now, mut requests, mut retries) = (RetryBudget::default(), Duration::ZERO, 0u32, 0u32);
            for (pause_ms, fails) in steps {
                now += Duration::from_millis(pause_ms);
                requests += 1;
                budget.deposit(now);
                let failure = first(Fault::Status(500), None);
                if fails && RetryPolicy::default().next(failure, 0.5, &mut budget, now) != Next::NextTier {
                    retries += 1;
                }
                let paid = 10.0 + 0.2 * f64::from(requests) + now.as_secs_f64();
                prop_assert!(f64::from(retries) <= paid + 1e-6, "{retries} of {requests} in {now:?}");
            }
        }
    }

    #[test]
    fn a_storm_is_not_multiplied() {
        let (mut budget, policy) = (RetryBudget::default(), RetryPolicy::default());
        let mut retries = 0;
        for request in 0..1000 {
            let now = Duration::from_millis(request);
            budget.deposit(now);
            retries += usize::from(policy.next(first(Fault::Status(500), None), 0.5, &mut budget, now) != Next::NextTier);
        }
        // 10 at the beginning, a fifth of 1,000, and 1 for the second that passes.
        assert!((200..=211).contains(&retries), "{retries}");
    }
}
