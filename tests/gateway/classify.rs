//! What a reply is taken for: an answer, a mistake of the client, a refusal, or a failure of the upstream, and for how long.

use std::time::Duration;

use proptest::prelude::*;
use understudy::gateway::classify::{Expected, Head, ReplyKind, Verdict, classify, error_event};
use understudy::gateway::fault::Fault;

/// 27 November 2026, 16:30:00 UTC.
const NOW_UNIX_S: u64 = 1_795_797_000;

type Pairs<'a> = &'a [(&'a str, &'a str)];

const JSON: Pairs<'static> = &[("Content-Type", "application/json")];
const EVENTS: Pairs<'static> = &[("content-type", "text/event-stream; charset=utf-8")];
const HTML: Pairs<'static> = &[("content-type", "text/html; charset=UTF-8")];
const PAGE: &str = "<!DOCTYPE html><html><body>Sign in. See our usage policy.</body></html>";

fn whole(status: u16, headers: Pairs<'_>, body: &str, expected: Expected) -> Verdict {
    classify(&Head { status, headers, body_start: body.as_bytes(), body_ended: true }, expected, NOW_UNIX_S)
}

fn error(status: u16, body: &str) -> Verdict {
    whole(status, JSON, body, Expected::Stream)
}

fn failed(fault: Fault) -> Verdict {
    Verdict::Failed { fault, retry_after: None }
}

fn anthropic(kind: &str, message: &str) -> String {
    format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"{message}"}},"request_id":"req_1"}}"#)
}

fn openai(kind: &str, code: &str, message: &str) -> String {
    format!(r#"{{"error":{{"message":"{message}","type":"{kind}","param":null,"code":"{code}"}}}}"#)
}

#[test]
fn answers_are_relayed() {
    use Expected::{Json, Stream};
    let success = Verdict::Relay(ReplyKind::Success);
    assert_eq!(whole(200, JSON, "{\"id\":1}", Json), success);
    assert_eq!(whole(200, &[], " {\"id\":1}", Json), success);
    assert_eq!(whole(200, EVENTS, "event: message_start\n", Stream), success);
    assert_eq!(whole(200, EVENTS, "\u{feff}: hello\n", Stream), success);
    assert_eq!(whole(200, &[], "data: {}\n\n", Stream), success);
    assert_eq!(whole(200, JSON, "{\"error\":null,\"status\":\"completed\"}", Json), success, "as responses have it");
    let headers_alone = Head { status: 200, headers: EVENTS, body_start: b"", body_ended: false };
    assert_eq!(classify(&headers_alone, Stream, NOW_UNIX_S), success, "the body has yet to come");
}

#[test]
fn what_is_not_the_api_is_no_answer() {
    use Expected::{Json, Stream};
    for (status, headers, body, expected) in [
        (200, HTML, PAGE, Stream),
        (200, HTML, PAGE, Json),
        (200, JSON, PAGE, Json),
        (200, EVENTS, PAGE, Stream),
        (200, JSON, "", Json),
        (200, EVENTS, "\r\n", Stream),
        (204, &[], "", Json),
        (200, JSON, "{\"id\":1}", Stream),
        (200, EVENTS, "{\"id\":1}", Stream),
        (200, EVENTS, "data: {}\n\n", Json),
        (200, &[("content-type", "text/plain")], "ok", Json),
        (200, &[], "ok", Stream),
        (301, HTML, PAGE, Stream),
        (302, &[("location", "http://login.example/")], "", Stream),
        (304, &[], "", Json),
        (403, HTML, PAGE, Json),
        (401, HTML, PAGE, Json),
        (404, HTML, PAGE, Json),
        (407, HTML, PAGE, Json),
        (511, HTML, PAGE, Json),
        (101, &[], "", Json),
        (0, &[], "", Json),
    ] {
        assert_eq!(whole(status, headers, body, expected), failed(Fault::NotTheApi), "{status} {headers:?} {body:?} {expected:?}");
    }
}

#[test]
fn errors_of_the_server_are_failures() {
    for status in [500, 501, 502, 503, 504, 520, 521, 522, 523, 524, 408, 599] {
        assert_eq!(whole(status, HTML, PAGE, Expected::Stream), failed(Fault::Status(status)));
        assert_eq!(error(status, &anthropic("api_error", "no")), failed(Fault::Status(status)));
        assert_eq!(error(status, ""), failed(Fault::Status(status)));
    }
    assert_eq!(whole(529, HTML, PAGE, Expected::Stream), failed(Fault::Overloaded));
    for status in [500, 503, 529] {
        assert_eq!(error(status, &anthropic("overloaded_error", "Overloaded")), failed(Fault::Overloaded));
    }
}

#[test]
fn mistakes_of_the_client_are_its_own() {
    for status in [400, 404, 405, 409, 413, 415, 422, 431] {
        for body in [anthropic("invalid_request_error", "max_tokens: must be positive"), String::new(), "no json".into()] {
            assert_eq!(error(status, &body), Verdict::Relay(ReplyKind::ClientError), "{status} {body}");
        }
    }
    for status in [401, 403] {
        let relayed = Verdict::Relay(ReplyKind::Unauthorised(status));
        assert_eq!(error(status, &anthropic("authentication_error", "invalid x-api-key")), relayed);
    }
}

#[test]
fn no_way_leads_around_a_refusal() {
    let refusal = Verdict::Relay(ReplyKind::Refusal);
    let coded = openai("invalid_request_error", "content_policy_violation", "no");
    for status in [400, 403, 422, 429, 500, 503, 529] {
        assert_eq!(error(status, &coded), refusal, "{status}");
    }
    assert_eq!(error_event(coded.as_bytes()), refusal);
    assert_eq!(whole(200, JSON, &coded, Expected::Json), refusal);
    assert_eq!(error(400, &anthropic("invalid_request_error", "Output blocked by content filtering policy")), refusal);
    assert_eq!(error(400, r#"{"error":{"code":"x","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#), refusal);
    // Longer than fits, and refused: refused.
    assert_eq!(error(400, &openai("x", "content_filter", "prompt is too long")), refusal);
    // A policy in the prose of a failure is no refusal.
    assert_eq!(error(503, &anthropic("api_error", "see our usage policy")), failed(Fault::Status(503)));
    assert_eq!(whole(503, HTML, PAGE, Expected::Stream), failed(Fault::Status(503)));
}

#[test]
fn a_prompt_that_does_not_fit_is_named() {
    for body in [
        openai("invalid_request_error", "context_length_exceeded", "This model's maximum context length is 8192 tokens."),
        anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
        anthropic("invalid_request_error", "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000"),
        r#"{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error"}}"#.into(),
    ] {
        assert_eq!(error(400, &body), Verdict::ContextTooLong, "{body}");
        for status in [413, 422] {
            assert_eq!(error(status, &body), Verdict::Relay(ReplyKind::ClientError), "{status}");
        }
    }
    let failed_response = br#"{"type":"response.failed","response":{"error":{"code":"context_length_exceeded","message":"x"}}}"#;
    assert_eq!(error_event(failed_response), Verdict::ContextTooLong);
}

#[test]
fn a_spent_quota_is_told_from_a_rate_limit() {
    let limited = [
        anthropic("rate_limit_error", "This request would exceed the rate limit of 80,000 input tokens per minute"),
        openai("tokens", "rate_limit_exceeded", "Rate limit reached, try again in 2s"),
        String::new(),
    ];
    for body in limited {
        assert_eq!(error(429, &body), failed(Fault::RateLimited), "{body}");
    }
    let spent = [
        (
            429,
            openai(
                "insufficient_quota",
                "insufficient_quota",
                "You exceeded your current quota, please check your plan and billing details.",
            ),
        ),
        (429, r#"{"error":"enforced_spend_limit_reached"}"#.into()),
        (429, r#"[{"error":{"code":429,"status":"QUOTA_EXCEEDED"}}]"#.into()),
        (400, anthropic("invalid_request_error", "Your credit balance is too low to access the API.")),
        (400, anthropic("invalid_request_error", "You have reached your specified API usage limits.")),
        (403, anthropic("billing_error", "no")),
        (402, String::new()),
    ];
    for (status, body) in spent {
        assert_eq!(error(status, &body), failed(Fault::QuotaSpent), "{status} {body}");
    }
}

#[test]
fn a_quota_is_spent_until_its_reset() {
    let verdict = |headers: Pairs<'_>| whole(429, headers, "", Expected::Stream);
    let spent = |seconds| Verdict::Failed { fault: Fault::QuotaSpent, retry_after: Some(Duration::from_secs(seconds)) };
    let rejected = ("anthropic-ratelimit-unified-status", "rejected");
    assert_eq!(verdict(&[rejected, ("anthropic-ratelimit-unified-reset", "1795800600")]), spent(3600));
    assert_eq!(verdict(&[rejected, ("anthropic-ratelimit-unified-reset", "2026-11-27T17:30:00Z")]), spent(3600));
    assert_eq!(verdict(&[rejected, ("anthropic-ratelimit-unified-reset", "1795800600"), ("retry-after", "60")]), spent(3600));
    assert_eq!(verdict(&[rejected, ("anthropic-ratelimit-unified-reset", "99999999999")]), spent(86_400));
    assert_eq!(verdict(&[rejected, ("anthropic-ratelimit-unified-reset", "soon")]), failed(Fault::QuotaSpent));
    assert_eq!(verdict(&[("anthropic-ratelimit-unified-status", "allowed")]), failed(Fault::RateLimited));
    // What lasts an hour is no rate limit, whatever it is called.
    assert_eq!(verdict(&[("retry-after", "3600")]), spent(3600));
}

#[test]
fn retry_after_in_all_its_forms() {
    let after = |headers: Pairs<'_>| match whole(429, headers, "", Expected::Stream) {
        Verdict::Failed { fault: Fault::RateLimited, retry_after } => retry_after,
        other => panic!("{headers:?}: {other:?}"),
    };
    let ms = |milliseconds| Some(Duration::from_millis(milliseconds));
    for (value, expected) in [
        ("2", ms(2000)),
        (" 2 ", ms(2000)),
        ("0", ms(0)),
        ("1.5", ms(1500)),
        ("Fri, 27 Nov 2026 16:30:30 GMT", ms(30_000)),
        ("Fri, 27 Nov 2026 16:29:00 GMT", ms(0)),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("inf", None),
        ("NaN", None),
        ("Fri, 99 Nov 2026 16:30:30 GMT", None),
        // Nobody's quota takes 31 years to come back: kept as short as anything may be.
        ("1000000000", ms(86_400_000)),
        ("1e400", ms(86_400_000)),
        ("99999999999999999999999999", ms(86_400_000)),
    ] {
        assert_eq!(after(&[("Retry-After", value)]), expected, "{value:?}");
    }
    assert_eq!(after(&[("retry-after-ms", "250"), ("retry-after", "9")]), ms(250));
    assert_eq!(after(&[("retry-after-ms", "x"), ("retry-after", "9")]), ms(9000));
    let unavailable = whole(503, &[("retry-after", "7")], "", Expected::Json);
    assert_eq!(unavailable, Verdict::Failed { fault: Fault::Status(503), retry_after: ms(7000) });
}

#[test]
fn errors_within_a_success_are_errors() {
    for (body, expected) in [
        (anthropic("overloaded_error", "Overloaded"), failed(Fault::Overloaded)),
        (anthropic("rate_limit_error", "slower"), failed(Fault::RateLimited)),
        (anthropic("api_error", "Internal server error"), failed(Fault::ErrorEvent)),
        (anthropic("invalid_request_error", "no"), Verdict::Relay(ReplyKind::ClientError)),
        (openai("insufficient_quota", "insufficient_quota", "x"), failed(Fault::QuotaSpent)),
        (openai("server_error", "server_is_overloaded", "x"), failed(Fault::Overloaded)),
        (r#"{"error":"it broke"}"#.into(), failed(Fault::ErrorEvent)),
    ] {
        assert_eq!(error_event(body.as_bytes()), expected, "{body}");
        for wanted in [Expected::Json, Expected::Stream] {
            assert_eq!(whole(200, JSON, &body, wanted), expected, "{body}");
        }
    }
    assert_eq!(error_event(b"not json"), failed(Fault::ErrorEvent));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_makes_it_panic_or_wait_for_ever(
        status in any::<u16>(),
        names in proptest::collection::vec(proptest::sample::select(vec![
            "retry-after", "retry-after-ms", "content-type", "anthropic-ratelimit-unified-reset", "anthropic-ratelimit-unified-status",
        ]), 0..5),
        values in proptest::collection::vec("[-+.0-9eE]{0,12}|[A-Za-z]{3}, [0-9 ]{2,6}(Nov|Feb) [0-9]{1,9} [0-9:]{1,9} GMT|[0-9-]{1,12}T[0-9:.+Z-]{0,12}|\\PC{0,20}", 5),
        body in proptest::collection::vec(any::<u8>(), 0..200),
        stream in any::<bool>(),
    ) {
        let headers: Vec<(&str, &str)> = names.iter().copied().zip(values.iter().map(String::as_str)).collect();
        let expected = if stream { Expected::Stream } else { Expected::Json };
        for now in [0, NOW_UNIX_S, u64::MAX] {
            let head = Head { status, headers: &headers[..], body_start: &body, body_ended: true };
            if let Verdict::Failed { retry_after: Some(after), .. } = classify(&head, expected, now) {
                prop_assert!(after <= Duration::from_secs(86_400));
            }
        }
    }
}
