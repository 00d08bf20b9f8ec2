//! Notices that the machine has slept, or that this process was stopped: connections that were kept lead nowhere then.
//!
//! Asleep, the wall clock goes on and the monotonic one stands still (on Linux and macOS); stopped, both go on, and nobody looked. Pure:
//! times are arguments.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

/// So much more on the wall clock is a sleep. Corrections of clocks are smaller; one that is not costs a few new connections.
const SLEPT: Duration = Duration::from_secs(5);
/// Nobody who looks every second looks away for so long.
const STOPPED: Duration = Duration::from_secs(30);

/// Both clocks when they were last looked at.
#[derive(Debug, Clone, Copy)]
pub struct Wake {
    monotonic: Duration,
    wall: Duration,
}

impl Wake {
    pub fn new(monotonic: Duration, wall: Duration) -> Self {
        Self { monotonic, wall }
    }

    /// Whether there was a sleep since the last look. Looked at every second or so.
    pub fn has_slept(&mut self, monotonic: Duration, wall: Duration) -> bool {
        let before = std::mem::replace(self, Self { monotonic, wall });
        let passed = monotonic.saturating_sub(before.monotonic);
        passed >= STOPPED || wall.saturating_sub(before.wall).saturating_sub(passed) >= SLEPT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What passed on both clocks between two looks, in seconds.
    fn slept(monotonic_s: u64, wall_s: i64) -> bool {
        let (start, seconds) = (Duration::from_secs(1_000), Duration::from_secs);
        let mut wake = Wake::new(start, start);
        let wall = if wall_s < 0 { start - seconds(wall_s.unsigned_abs()) } else { start + seconds(wall_s.unsigned_abs()) };
        let slept = wake.has_slept(start + seconds(monotonic_s), wall);
        assert!(!wake.has_slept(start + seconds(monotonic_s + 1), wall + seconds(1)), "a sleep is told once");
        slept
    }

    #[test]
    fn sleeps_are_told_from_busy_times() {
        for (monotonic_s, wall_s) in [(0, 0), (1, 1), (1, 5), (10, 10), (29, 33)] {
            assert!(!slept(monotonic_s, wall_s), "{monotonic_s} {wall_s}");
        }
        for (monotonic_s, wall_s) in [(1, 6), (0, 3_600), (30, 30), (3_600, 3_600)] {
            assert!(slept(monotonic_s, wall_s), "{monotonic_s} {wall_s}");
        }
    }

    /// A clock that is set back is no sleep, and nothing overflows.
    #[test]
    fn clocks_jump() {
        assert!(!slept(1, -900));
        assert!(slept(1, 1_000_000_000));
    }
}
