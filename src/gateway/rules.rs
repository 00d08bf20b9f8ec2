//! What the front door decides by, in one place: the times that users have, those that a configuration names, and all of them scaled for
//! tests with sockets.

use super::circuit_breaker::BreakerConfig;
use super::latency::LatencyConfig;
use super::limits::Limits;
use super::pace::Floor;
use super::retry::RetryPolicy;
use super::sessions::SessionConfig;
use crate::config::gateway as config;

/// All that the decisions go by.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    pub limits: Limits,
    pub retry: RetryPolicy,
    pub breakers: BreakerConfig,
    pub sessions: SessionConfig,
    pub latencies: LatencyConfig,
}

impl Rules {
    /// All times divided: for tests with sockets.
    pub fn scaled(self, divisor: u32) -> Self {
        Self {
            limits: self.limits.scaled(divisor),
            retry: self.retry.scaled(divisor),
            breakers: self.breakers.scaled(divisor),
            sessions: self.sessions.scaled(divisor),
            latencies: self.latencies.scaled(divisor),
        }
    }

    /// With the limits that a configuration names.
    pub fn of(config: &config::Gateway) -> Self {
        let told = config.limits;
        let limits = Limits {
            connect: told.connect,
            first_content: told.first_content,
            first_content_max: told.first_content_max,
            whole_reply_max: told.whole_reply,
            byte_silence: told.byte_silence,
            progress_text: told.progress_text,
            progress_thinking: told.progress_other,
            progress_tool: told.progress_other,
            text_floor: Floor { tokens_per_s: told.slow_below, window: told.slow },
            ..Limits::default()
        };
        Self { limits, ..Self::default() }
    }
}
