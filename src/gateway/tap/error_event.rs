//! An error told within a stream: which fault it is, and when to come back.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Told;
use super::text::{Text, str_of};
use crate::gateway::fault::Fault;

/// The fields of an error's object, in all dialects.
#[derive(Debug, Default, Deserialize)]
pub struct ErrorFields<'a> {
    #[serde(borrow, default, rename = "type")]
    pub kind: Option<Text<'a>>,
    /// A word, or a status as a number.
    #[serde(borrow, default)]
    pub code: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub message: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub retry_after: Option<&'a RawValue>,
}

/// `error` as it stands in an event: an object, or just a text.
pub fn told(error: &RawValue) -> Told {
    told_by(&serde_json::from_str(error.get()).unwrap_or_default())
}

pub fn told_by(error: &ErrorFields<'_>) -> Told {
    Told::Error { fault: fault(str_of(&error.kind), word(error.code)), retry_after: retry_after(error) }
}

fn fault(kind: &str, code: &str) -> Fault {
    let of_word = |word: &str| match word {
        "overloaded_error"
        | "overloaded"
        | "server_overloaded"
        | "server_is_overloaded"
        | "slow_down"
        | "engine_overloaded"
        | "service_unavailable"
        | "529"
        | "503" => Some(Fault::Overloaded),
        "insufficient_quota" | "billing_error" | "billing_hard_limit_reached" | "enforced_spend_limit_reached" | "402" => {
            Some(Fault::QuotaSpent)
        }
        "rate_limit_error" | "rate_limit_exceeded" | "rate_limit_reached" | "tokens" | "requests" | "429" => Some(Fault::RateLimited),
        "authentication_error" | "invalid_api_key" | "401" => Some(Fault::Unauthorised(401)),
        "permission_error" | "403" => Some(Fault::Unauthorised(403)),
        _ => None,
    };
    // The code is the narrower of the two: a spent quota has the type of any other limit.
    of_word(code).or_else(|| of_word(kind)).unwrap_or(Fault::ErrorEvent)
}

fn retry_after(error: &ErrorFields<'_>) -> Option<Duration> {
    let told = word(error.retry_after).parse().ok();
    let seconds: f64 = told.or_else(|| seconds_in(str_of(&error.message)))?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// OpenAI says it in words: `Please try again in 1.898s.`, `... in 350ms`, `... in 1m12.5s`.
fn seconds_in(message: &str) -> Option<f64> {
    let (_, after) = message.split_once("try again in ")?;
    let mut rest = after;
    let mut seconds = None;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let Ok(number) = rest[..digits].parse::<f64>() else { return seconds };
        let unit_and_on = rest[digits..].trim_start();
        let letters = unit_and_on.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(unit_and_on.len());
        let seconds_each = match &unit_and_on[..letters] {
            "ms" => 0.001,
            "s" | "second" | "seconds" => 1.0,
            "m" | "minute" | "minutes" => 60.0,
            "h" | "hour" | "hours" => 3600.0,
            _ => return seconds,
        };
        seconds = Some(seconds.unwrap_or(0.0) + number * seconds_each);
        rest = &unit_and_on[letters..];
    }
}

/// A word or a number, without what JSON puts around it. Codes have no escapes.
fn word(value: Option<&RawValue>) -> &str {
    value.map_or("", |value| value.get().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_believed_before_the_type() {
        let told_of = |json: &str| told(serde_json::from_str(json).expect("JSON"));
        let fault_of = |json: &str| match told_of(json) {
            Told::Error { fault, .. } => fault,
            other => panic!("{other:?}"),
        };
        assert_eq!(fault_of(r#"{"type":"overloaded_error","message":"Overloaded"}"#), Fault::Overloaded);
        assert_eq!(fault_of(r#"{"type":"rate_limit_error","message":"x"}"#), Fault::RateLimited);
        assert_eq!(fault_of(r#"{"type":"requests","code":"insufficient_quota","message":"x"}"#), Fault::QuotaSpent);
        assert_eq!(fault_of(r#"{"code":503,"message":"x"}"#), Fault::Overloaded);
        assert_eq!(fault_of(r#"{"type":"server_error","code":"overloaded","message":"x"}"#), Fault::Overloaded);
        assert_eq!(fault_of(r#"{"type":"api_error","message":"x"}"#), Fault::ErrorEvent);
        assert_eq!(fault_of(r#""just a text""#), Fault::ErrorEvent);
        assert_eq!(fault_of(r#"{"type":7}"#), Fault::ErrorEvent);
    }

    #[test]
    fn when_to_come_back_is_read_from_a_field_or_from_words() {
        let after = |json: &str| match told(serde_json::from_str(json).expect("JSON")) {
            Told::Error { retry_after, .. } => retry_after.map(|after| after.as_millis()),
            other => panic!("{other:?}"),
        };
        assert_eq!(after(r#"{"retry_after":2.5}"#), Some(2500));
        assert_eq!(after(r#"{"retry_after":"7"}"#), Some(7000));
        assert_eq!(after(r#"{"message":"Limit reached. Please try again in 1.898s. Visit us."}"#), Some(1898));
        assert_eq!(after(r#"{"message":"Please try again in 350ms"}"#), Some(350));
        assert_eq!(after(r#"{"message":"try again in 1m12.5s."}"#), Some(72_500));
        for nonsense in [r#"{"retry_after":-1}"#, r#"{"retry_after":1e300}"#, r#"{"message":"try again in a while"}"#, r#"{}"#] {
            assert_eq!(after(nonsense), None, "{nonsense}");
        }
    }
}
