//! Errors of the upstream's own: who is asked again, how often, and that another answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use understudy::gateway::drill::answer::{Answer, ErrorAnswer, ErrorKind, Misbehaviour, Reply, SIXTY_WORDS, Stop};
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::Plan;
use understudy::gateway::drill::raw_client::RawRequest;

use super::doors::{DIALECTS, door, door_with, setup};
use super::outcome::{
    FIRST, as_it_came, asked, briefly, directly, held, in_every_dialect, is_down, is_well, question, reply_to, sent, text_in_one_piece,
    until_the_cloud_answers, whole,
};
use super::raw_upstream::{RawUpstream, read_request, reply};
use super::strict_client::{Ended, read};
use crate::support::front_door::{FrontDoor, LOCAL, Setup, request};
use crate::support::test_app::Options;

const MESSAGES: Dialect = Dialect::AnthropicMessages;

fn page(status: u16) -> Plan {
    Plan::always(Answer::wrong(Misbehaviour::Page { status }))
}

fn error(error: ErrorKind, retry_after: Option<&str>) -> Answer {
    Answer::wrong(Misbehaviour::Error(ErrorAnswer { error, status: None, retry_after: retry_after.map(str::to_owned) }))
}

/// Retries and cooldowns are told apart by their times: the first are scaled, the others are what users have.
fn with_slow_breakers(dialect: Dialect, plan: Plan) -> FrontDoor {
    door_with(Setup { scale: 1, ..setup(dialect, plan) }, |rules| rules.retry = rules.retry.clone().scaled(100))
}

pub fn html_pages() {
    for status in [502, 503, 520, 521, 522, 523, 524] {
        let door = door(setup(MESSAGES, page(status)));
        let exchange = door.exchange(&question(MESSAGES));
        whole(MESSAGES, &exchange).is_local("server_error");
        let in_one_piece = door.exchange(&request(MESSAGES, false));
        assert_eq!(text_in_one_piece(MESSAGES, &in_one_piece), SIXTY_WORDS);
        for shown in [exchange, in_one_piece] {
            assert!(!shown.text().contains('<'), "{status}: a page reached the client: {}", shown.text());
        }
        held(&door);
    }
}

/// Where no local model can answer, the client gets an error that its SDK can read.
pub fn html_pages_without_a_local_model() {
    for status in [502, 522] {
        let options = Options { loaded: false, ..Options::default() };
        let door = door(Setup { options, ..setup(MESSAGES, page(status)) });
        let exchange = door.exchange(&question(MESSAGES));
        assert!(!exchange.text().contains('<'), "a page reached the client: {}", exchange.text());
        assert_eq!((exchange.status(), &exchange.json()["type"]), (Some(503), &"error".into()), "{}", exchange.text());
    }
}

pub fn one_500() {
    in_every_dialect(&Plan::first(1, Answer::error(ErrorKind::Internal)), |door, dialect| {
        asked(door, dialect).is_cloud();
        let attempts = door.attempts();
        assert_eq!(attempts.len(), 2, "{dialect:?}: once more at the same upstream");
        assert_eq!(attempts[0].body, attempts[1].body);
        is_well(door);
    });
}

/// Its own clients would not try again either.
pub fn one_500_that_forbids_another_try() {
    for (forbids, requests) in [("x-should-retry: false", 1), ("x-should-retry: true", 2), ("x-other: false", 2)] {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let upstream = RawUpstream::start(move |stream| {
            while read_request(stream).is_some() {
                counted.fetch_add(1, Ordering::Relaxed);
                reply(stream, "500 Internal Server Error", &[forbids, "content-type: application/json"], b"{\"error\": {}}");
            }
        });
        let door = door(Setup { urls: vec![upstream.url()], kind: "anthropic", scale: 10, ..Setup::default() });
        whole(MESSAGES, &door.exchange(&question(MESSAGES))).is_local("server_error");
        assert_eq!(asked.load(Ordering::Relaxed), requests, "{forbids}");
    }
}

pub fn always_503() {
    for dialect in DIALECTS {
        let door = with_slow_breakers(dialect, Plan::always(Answer::error(ErrorKind::Unavailable)));
        asked(&door, dialect).is_local("server_error");
        assert!((1..=2).contains(&door.attempts().len()), "{dialect:?}");
        is_well(&door);
        briefly(&door, dialect, "another").is_local("server_error");
        is_down(&door, "server_error");
        let attempts = door.attempts().len();
        assert!(attempts <= 4, "{dialect:?}: {attempts}");
        briefly(&door, dialect, "a third").is_local("server_error");
        assert_eq!(door.attempts().len(), attempts, "{dialect:?}: an open breaker asks nobody");
        held(&door);
    }
}

pub fn always_529() {
    for dialect in DIALECTS {
        let door = with_slow_breakers(dialect, Plan::always(Answer::error(ErrorKind::Overloaded)));
        asked(&door, dialect).is_local("overloaded");
        assert_eq!(door.attempts().len(), 1, "{dialect:?}: an overload asks for less and not more");
        briefly(&door, dialect, "another").is_local("overloaded");
        assert_eq!(door.attempts().len(), 2);
        is_down(&door, "overloaded");
        held(&door);
    }
}

/// `retry-after: 0.2` is two seconds at a tenth.
pub fn rate_limit_that_is_short() {
    in_every_dialect(&Plan::first(1, Answer::rate_limited(Some("0.2"))), |door, dialect| {
        asked(door, dialect).is_cloud();
        let attempts = door.attempts();
        assert_eq!(attempts.len(), 2, "{dialect:?}");
        let waited = attempts[1].at - attempts[0].at;
        assert!(waited >= Duration::from_millis(200), "{dialect:?}: asked again after {waited:?}");
        is_well(door);
    });
}

/// The local model reads the prompt while the limit is waited out. Two whole seconds, of which it needs the first tenth.
pub fn rate_limit_is_no_idle_time() {
    let plan = Plan::first(1, Answer::rate_limited(Some("2")));
    let setup = Setup { scale: 1, ..setup(MESSAGES, plan) };
    let door = door_with(setup, |rules| rules.limits.prefill_after = Duration::from_millis(100));
    let asked = sent(&door, question(MESSAGES));
    door.app.wait_until("the prompt is read", |stats| stats.prefilled_tokens_total > 0);
    assert_eq!(door.attempts().len(), 1, "the prompt was read only when the cloud was asked again");
    whole(MESSAGES, &reply_to(&door, asked)).is_cloud();
    held(&door);
}

pub fn quota_is_spent() {
    let quotas = [Answer::rate_limited(Some("3600")), error(ErrorKind::QuotaSpent, None), error(ErrorKind::QuotaSpent, Some("7200"))];
    for (dialect, answer) in DIALECTS.into_iter().flat_map(|dialect| quotas.clone().map(|answer| (dialect, answer))) {
        let door = door(setup(dialect, Plan::first(1, answer)));
        let answered = briefly(&door, dialect, "one");
        answered.is_local("quota_spent");
        assert!(answered.told.text.contains("in the cloud's place"), "{dialect:?}: a person is told");
        assert_eq!(door.attempts().len(), 1, "{dialect:?}: no waiting helps");
        briefly(&door, dialect, "another").is_local("quota_spent");
        assert_eq!(door.attempts().len(), 1, "{dialect:?}: this credential is left alone until it is good again");
        is_well(&door);
        let other = request(dialect, true).header("authorization", "Bearer of-somebody-else");
        whole(dialect, &door.exchange(&other)).is_cloud();
        held(&door);
    }
}

pub fn rate_limit_without_a_word() {
    in_every_dialect(&Plan::always(Answer::rate_limited(None)), |door, dialect| {
        asked(door, dialect).is_local("rate_limited");
        let attempts = door.attempts();
        assert!((1..=2).contains(&attempts.len()), "{dialect:?}: {}", attempts.len());
        is_well(door);
    });
}

/// What `retry-after` may say, sense or nonsense.
pub fn retry_after_that_is_nonsense() {
    let values = [
        "soon",
        "-5",
        "",
        "0",
        "1e400",
        "inf",
        "NaN",
        "0x10",
        "1,5",
        "Mon, 01 Jan 1990 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "1000000000",
        "99999999999999999999999999",
    ];
    for value in values {
        for kind in [ErrorKind::RateLimit, ErrorKind::Unavailable] {
            let door = door(setup(MESSAGES, Plan::always(error(kind, Some(value)))));
            assert_eq!(briefly(&door, MESSAGES, "one").by, LOCAL, "{value:?}");
            assert!((1..=2).contains(&door.attempts().len()), "{value:?}");
        }
    }
}

pub fn retry_after_is_clamped() {
    let huge = "1000000000";
    let plan = Plan::first(1, error(ErrorKind::Unavailable, Some(huge)));
    // Of the ten minutes that are believed at most, 60 ms are left; of thirty years there would be days.
    let door = door_with(setup(MESSAGES, plan), |rules| {
        (rules.breakers.retry_after_max, rules.breakers.retry_after_sat_out) = (Duration::from_millis(60), Duration::from_millis(1));
    });
    asked(&door, MESSAGES).is_local("server_error");
    is_down(&door, "server_error");
    until_the_cloud_answers(&door, MESSAGES);
}

/// What the client has done wrong is the client's to know: word for word, after one attempt, and it speaks against nobody.
fn is_the_clients(door: &FrontDoor, dialect: Dialect) {
    let direct = directly(door, door.upstream(), &question(dialect));
    for times in 1..=6 {
        as_it_came(&door.exchange(&question(dialect)), &direct);
        assert_eq!(door.attempts().len(), 1 + times, "{dialect:?}: nobody is asked twice");
    }
    is_well(door);
    door.upstream().set_plan(Plan::healthy());
    asked(door, dialect).is_cloud();
}

pub fn credential_is_refused() {
    for kind in [ErrorKind::Authentication, ErrorKind::Permission] {
        in_every_dialect(&Plan::always(Answer::error(kind)), is_the_clients);
    }
}

fn of(user: &str) -> RawRequest {
    request(MESSAGES, true).header("x-api-key", user)
}

/// With `auth_outage`: when two that were good are turned away, it is not they.
fn after_both_worked(auth_outage: &'static str) -> FrontDoor {
    let door = door(Setup { gateway: auth_outage, ..setup(MESSAGES, Plan::healthy()) });
    for user in ["one", "other"] {
        whole(MESSAGES, &door.exchange(&of(user))).is_cloud();
    }
    door.upstream().set_plan(Plan::always(Answer::error(ErrorKind::Authentication)));
    let first = door.exchange(&of("one"));
    assert_eq!(first.status(), Some(401), "one alone may be revoked: {}", first.text());
    door
}

pub fn outage_of_logins() {
    let door = after_both_worked("auth_outage = \"local\"");
    whole(MESSAGES, &door.exchange(&of("other"))).is_local("unauthorised");
    whole(MESSAGES, &door.exchange(&of("one"))).is_local("unauthorised");
    let stranger = door.exchange(&of("never seen"));
    assert_eq!(stranger.status(), Some(401), "a key that was never good is wrong: {}", stranger.text());
    held(&door);
}

pub fn outage_of_logins_by_default() {
    let door = after_both_worked("");
    for user in ["other", "one"] {
        assert_eq!(door.exchange(&of(user)).status(), Some(401));
    }
    is_well(&door);
    held(&door);
}

pub fn request_is_invalid() {
    in_every_dialect(&Plan::always(Answer::error(ErrorKind::InvalidRequest)), is_the_clients);
}

pub fn request_is_too_large() {
    in_every_dialect(&Plan::always(Answer::error(ErrorKind::TooLarge)), is_the_clients);
}

/// By a policy, or by the model itself in a stream that succeeds.
pub fn refusal() {
    in_every_dialect(&Plan::always(Answer::error(ErrorKind::ContentPolicy)), is_the_clients);
}

pub fn refusal_as_a_reason_to_stop() {
    for dialect in DIALECTS {
        let reply = Reply { stop: Some(Stop::Refusal), ..Reply::text("I would rather not.") };
        let door = door(setup(dialect, Plan::always(Answer::saying(reply))));
        let exchange = door.exchange(&question(dialect));
        let told = read(dialect, &exchange);
        assert_eq!(told.text, "I would rather not.", "{dialect:?}: nobody answers in its place");
        let reason = match dialect {
            Dialect::AnthropicMessages => "refusal",
            Dialect::OpenaiChat => "content_filter",
            Dialect::OpenaiResponses => "incomplete",
        };
        assert_eq!(told.end, Ended::Well(reason.to_owned()));
        assert_eq!(exchange.header("x-understudy-served-by"), Some(FIRST));
        assert_eq!(door.attempts().len(), 1);
        is_well(&door);
        held(&door);
    }
}

pub fn context_is_too_long() {
    in_every_dialect(&Plan::always(Answer::error(ErrorKind::ContextLength)), |door, dialect| {
        asked(door, dialect).is_local("context_too_long");
        assert_eq!(door.attempts().len(), 1, "{dialect:?}: the same size is not sent again");
        is_well(door);
    });
}

/// Too long for the local model as well: then the cloud's word is the better one.
pub fn context_is_too_long_for_everybody() {
    for dialect in DIALECTS {
        let mut options = Options::default();
        options.engine.context_max = 64;
        let plan = Plan::always(Answer::error(ErrorKind::ContextLength));
        let door = door(Setup { options, ..setup(dialect, plan) });
        let direct = directly(&door, door.upstream(), &question(dialect));
        as_it_came(&door.exchange(&question(dialect)), &direct);
        assert_eq!(door.attempts().len(), 2, "{dialect:?}");
        is_well(&door);
    }
}
