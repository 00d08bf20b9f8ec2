//! Decides whether a 401 or 403 is the provider's fault: outages of logins are told to clients as wrong credentials.
//!
//! It is one where this very credential worked half an hour ago, and either another one that worked is turned away as well, or the host
//! answers 5xx to those who ask for nothing. Off unless `auth_outage = local` is configured: else such a reply is relayed as it is.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

use super::circuit_breaker::{CredentialId, EdgeAnswer};
use super::lru::Lru;

/// So long a credential that worked is taken for a good one.
pub const GOOD_FOR: Duration = Duration::from_secs(30 * 60);
/// Two that are turned away within this time are turned away for one reason.
pub const TOGETHER: Duration = Duration::from_secs(5 * 60);
const CREDENTIALS_MAX: usize = 64;

#[derive(Debug)]
pub struct AuthHistory {
    credentials: Lru<CredentialId, Seen>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    worked: Option<Duration>,
    turned_away: Option<Duration>,
}

impl Default for AuthHistory {
    fn default() -> Self {
        Self { credentials: Lru::new(CREDENTIALS_MAX) }
    }
}

impl AuthHistory {
    pub fn worked(&mut self, credential: CredentialId, now: Duration) {
        *self.credentials.get_or_insert_with(&credential, Seen::default) = Seen { worked: Some(now), turned_away: None };
    }

    /// After a 401 or 403; `edge`: the last answer of its host to the free question, where it is known.
    pub fn is_outage(&mut self, credential: CredentialId, edge: Option<EdgeAnswer>, now: Duration) -> bool {
        let seen = self.credentials.get_or_insert_with(&credential, Seen::default);
        seen.turned_away = Some(now);
        let was_good = seen.was_good(now);
        let mut others = self.credentials.iter().filter(|(other, _)| **other != credential);
        let another = others.any(|(_, seen)| seen.turned_away.is_some_and(|at| now <= at + TOGETHER) && seen.was_good(now));
        was_good && (another || edge == Some(EdgeAnswer::ServerError))
    }
}

impl Seen {
    fn was_good(self, now: Duration) -> bool {
        self.worked.is_some_and(|at| now <= at + GOOD_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: CredentialId = CredentialId(1);
    const OTHER: CredentialId = CredentialId(2);

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(60 * minutes)
    }

    #[test]
    fn a_wrong_key_is_a_wrong_key() {
        let mut history = AuthHistory::default();
        // It never worked, whatever else is broken.
        assert!(!history.is_outage(MINE, Some(EdgeAnswer::ServerError), minutes(1)));
        history.worked(MINE, minutes(2));
        assert!(!history.is_outage(MINE, Some(EdgeAnswer::Alive), minutes(3)), "revoked, and nothing else is wrong");
        assert!(!history.is_outage(MINE, None, minutes(3)));
        // A stranger's wrong key proves nothing.
        assert!(!history.is_outage(OTHER, None, minutes(3)));
        assert!(!history.is_outage(MINE, None, minutes(3)));
    }

    #[test]
    fn a_good_key_and_a_broken_host_is_an_outage_for_half_an_hour() {
        let mut history = AuthHistory::default();
        history.worked(MINE, minutes(0));
        assert!(history.is_outage(MINE, Some(EdgeAnswer::ServerError), minutes(30)));
        assert!(!history.is_outage(MINE, Some(EdgeAnswer::ServerError), minutes(31)));
        assert!(!history.is_outage(MINE, Some(EdgeAnswer::Unreachable), minutes(30)), "another fault, of the host");
    }

    #[test]
    fn two_good_keys_turned_away_together_is_an_outage() {
        let mut history = AuthHistory::default();
        history.worked(MINE, minutes(0));
        history.worked(OTHER, minutes(0));
        assert!(!history.is_outage(OTHER, None, minutes(10)), "the first one stands alone");
        assert!(history.is_outage(MINE, None, minutes(15)));
        assert!(history.is_outage(OTHER, None, minutes(16)));
        // It works again: what was is over.
        history.worked(OTHER, minutes(17));
        assert!(!history.is_outage(MINE, None, minutes(18)));
    }
}
