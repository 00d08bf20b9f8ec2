//! The one request that finds out whether a cloud is well again: how long it waits, who gets ready beside it, and for how long nobody
//! asks after it failed. The numbers are tested with `limits` and `breaker`; here, that the door goes by them.

use std::time::Duration;

use understudy::gateway::drill::answer::{Answer, ErrorKind, Misbehaviour};
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::Plan;
use understudy::gateway::latency::LatencyConfig;
use understudy::gateway::rules::Rules;

use super::doors::{DIALECTS, door_with, setup};
use super::outcome::{attempts_when, brief_question, briefly, held, is_down, request_of, sent, text_in_one_piece, with};
use crate::support::front_door::{FrontDoor, LOCAL};

/// Longer than any test waits.
const NEVER: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(40);

/// Each reply says at once what is usual, a cooldown is over at once, and no other limit passes.
fn probing_at_once(rules: &mut Rules) {
    rules.latencies = LatencyConfig { settled_after: Duration::ZERO, spacing: Duration::ZERO, samples_min: 1, ..LatencyConfig::default() };
    (rules.limits.first_content, rules.limits.first_content_max, rules.limits.whole_reply_max) = (NEVER, NEVER, NEVER);
    rules.limits.prefill_after = NEVER;
    rules.limits.probe_first_content = NEVER;
    rules.breakers.cooldown_first = Duration::from_millis(1);
    rules.breakers.cooldown_max_cheap = Duration::from_millis(1);
    rules.breakers.probe_deadline = NEVER;
    rules.breakers.edge_probe_interval = None;
}

/// A cloud of which is known how long it takes, and that is down: it says nothing any more to whoever asks next.
fn silent(dialect: Dialect, change: impl FnOnce(&mut Rules)) -> FrontDoor {
    let door = door_with(setup(dialect, Plan::healthy()), |rules| {
        probing_at_once(rules);
        change(rules);
    });
    briefly(&door, dialect, "while it is well").is_cloud();
    door.upstream().set_plan(Plan::always(Answer::error(ErrorKind::Overloaded)));
    for session in ["down 1", "down 2"] {
        briefly(&door, dialect, session).is_local("overloaded");
    }
    is_down(&door, "overloaded");
    door.upstream().set_plan(Plan::always(Answer::wrong(Misbehaviour::NoHeaders)));
    // The cooldown.
    std::thread::sleep(Duration::from_millis(20));
    door
}

/// Anybody else would wait for minutes.
pub fn waits_for_what_was_usual() {
    for dialect in DIALECTS {
        let door = silent(dialect, |rules| rules.limits.probe_first_content = SHORT);
        let before = door.attempts().len();
        briefly(&door, dialect, "probe").is_local("first_content_limit");
        let attempts = attempts_when(&door, |attempts| attempts.last().is_some_and(|attempt| attempt.client_left_at.is_some()));
        assert_eq!(attempts.len(), before + 1);
        let probe = attempts.last().expect("there is one");
        assert!(probe.client_left_at.expect("looked at above") - probe.at >= SHORT / 2, "its patience was not that short: {probe:?}");
        held(&door);
    }
}

/// It is likelier than not to fail, so the local model does not begin to read when it is late already.
pub fn is_read_along_with() {
    for dialect in DIALECTS {
        let door = silent(dialect, |_| {});
        let before = door.app.stats().prefilled_tokens_total;
        let probe = sent(&door, request_of("probe", dialect));
        door.app.wait_until("the local model reads", |stats| stats.prefilled_tokens_total > before);
        assert!(!probe.is_finished(), "the cloud is still waited for");
        probe.abort();
        held(&door);
    }
}

/// A reply in one piece comes with its end: it gets the time that it may take, and so nobody waits for another like it before long.
pub fn in_one_piece_is_not_asked_for_again_soon() {
    let rules = |rules: &mut Rules| {
        rules.limits.probe_first_content = SHORT;
        rules.limits.whole_reply_max = SHORT * 4;
        // Of the two pauses that a failed probe may be followed by, one is over at once and the other never.
        (rules.breakers.cooldown_first, rules.breakers.cooldown_max) = (NEVER, NEVER);
    };
    for dialect in DIALECTS {
        let door = silent(dialect, rules);
        let before = door.attempts().len();
        for number in 1..=3 {
            briefly(&door, dialect, &format!("stream {number}")).is_local("first_content_limit");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(door.attempts().len(), before + 3, "a stream's failure costs little, and is tried again");

        let in_one_piece = with(brief_question(dialect), "stream", false).header("x-session-id", "in one piece");
        let exchange = door.exchange(&in_one_piece);
        text_in_one_piece(dialect, &exchange);
        assert_eq!(
            (exchange.header("x-understudy-served-by"), exchange.header("x-understudy-reason")),
            (Some(LOCAL), Some("whole_reply_limit"))
        );
        let attempts = attempts_when(&door, |attempts| attempts.last().is_some_and(|attempt| attempt.client_left_at.is_some()));
        let probe = attempts.last().expect("there is one");
        assert!(probe.client_left_at.expect("looked at above") - probe.at >= SHORT * 2, "it had the patience of a stream: {probe:?}");
        for number in 1..=3 {
            std::thread::sleep(Duration::from_millis(5));
            briefly(&door, dialect, &format!("after it {number}")).is_local("whole_reply_limit");
        }
        assert_eq!(door.attempts().len(), before + 4, "nobody waits for it again before long");
    }
}
