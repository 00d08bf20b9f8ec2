//! How a case went, judged by what the client got and what reached the upstream. Pure.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::answer::SIXTY_WORDS;
use super::cases::{Case, Expected};
use super::fault_upstream::Attempt;
use super::raw_client::{End, Exchange};
use super::reading::Reading;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The client got what it should.
    Pass,
    /// It got an error, in time and in the API's own words.
    Safe,
    /// A hang, a broken reply, half an answer as a whole one, or an upstream asked too often.
    Fail,
}

/// The verdict and what it is made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    pub case: &'static str,
    pub verdict: Verdict,
    /// Why it is not a pass.
    pub why: Option<String>,
    /// Until the first word, thought or call.
    pub first_content_ms: Option<u64>,
    pub ended_ms: u64,
    /// Requests for a reply that reached the upstream.
    pub attempts: usize,
    /// Who answered, as the reply says.
    pub model: Option<String>,
}

/// Judges an exchange. `attempts` are those of this case.
pub fn judge(case: &Case, exchange: &Exchange, attempts: &[Attempt]) -> Judged {
    let reading = Reading::of(case.dialect, exchange);
    let attempts = attempts.iter().filter(|attempt| attempt.generates()).count();
    let (verdict, why) = match failure(case, exchange, &reading, attempts) {
        Some(why) => (Verdict::Fail, Some(why)),
        None => match shortfall(case, exchange, &reading) {
            Some(why) => (Verdict::Safe, Some(why)),
            None => (Verdict::Pass, None),
        },
    };
    Judged {
        case: case.name,
        verdict,
        why,
        first_content_ms: reading.first_content_bytes.and_then(|bytes| exchange.arrival_of(bytes)).map(ms),
        ended_ms: ms(exchange.ended_after),
        attempts,
        model: reading.model,
    }
}

fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// What must not be.
fn failure(case: &Case, exchange: &Exchange, reading: &Reading, attempts: usize) -> Option<String> {
    match &exchange.end {
        End::Limit => return Some(format!("it had not ended after {} s", exchange.ended_after.as_secs())),
        End::Refused => return Some("the front door refused the connection".to_owned()),
        // A stream may be broken off on purpose, so that a client asks again; but not after words that it has shown.
        End::Cut(_) if case.expected == Expected::AnsweredOrBrokenOff && reading.text.is_empty() => {}
        End::NoHead(_) | End::Cut(_) => return Some("the connection broke".to_owned()),
        End::NotHttp(what) => return Some(format!("what came is not HTTP: {what}")),
        End::Whole => {}
    }
    if let Some(fault) = reading.faults.first() {
        return Some(fault.clone());
    }
    if exchange.status() == Some(200) && exchange.end == End::Whole && !reading.claims_success() && reading.error.is_none() {
        return Some("the reply ends without saying so".to_owned());
    }
    let is_half = reading.text.len() < SIXTY_WORDS.len() && SIXTY_WORDS.starts_with(&reading.text) && !reading.text.is_empty();
    if reading.claims_success() && is_half && case.says_sixty_words {
        return Some("half of the answer, told as all of it".to_owned());
    }
    if attempts > case.attempts_max {
        return Some(format!("the upstream was asked {attempts} times, at most {} are due", case.attempts_max));
    }
    match case.expected {
        Expected::Relayed(status) if exchange.status() != Some(status) => {
            Some(format!("{status} was to be relayed, and {} came", exchange.status().unwrap_or_default()))
        }
        _ => None,
    }
}

/// What should be and may be missing.
fn shortfall(case: &Case, exchange: &Exchange, reading: &Reading) -> Option<String> {
    match case.expected {
        Expected::Relayed(_) => None,
        Expected::AnsweredOrBrokenOff if matches!(exchange.end, End::Cut(_)) => None,
        Expected::Answered | Expected::AnsweredOrBrokenOff => {
            let empty = reading.text.is_empty() && reading.calls.is_empty();
            match (&reading.error, exchange.status()) {
                (Some(error), Some(200)) => Some(format!("an error within the reply: {error}")),
                (Some(error), Some(status)) => Some(format!("{status}: {error}")),
                _ if empty => Some("an answer without a word".to_owned()),
                _ => None,
            }
        }
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Pass => "pass",
            Verdict::Safe => "safe",
            Verdict::Fail => "FAIL",
        };
        let first = self.first_content_ms.map_or("-".to_owned(), |ms| format!("{ms} ms"));
        let plural = if self.attempts == 1 { " " } else { "s" };
        write!(f, "{verdict}  {:<36} first content {first:>9}, {} attempt{plural}", self.case, self.attempts)?;
        if let Some(model) = &self.model {
            write!(f, ", by {model}")?;
        }
        match &self.why {
            Some(why) => write!(f, "\n      {why}"),
            None => Ok(()),
        }
    }
}
