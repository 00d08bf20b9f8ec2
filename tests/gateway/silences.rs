//! Cases 7 to 15: the upstream takes its time, or all of it.

use std::time::Duration;

use serde_json::json;
use understudy::gateway::drill::answer::{Answer, Misbehaviour, Pace, Point, Ramp};
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::Plan;
use understudy::gateway::drill::raw_client::{RawClient, RawRequest};
use understudy::gateway::limits::Limits;
use understudy::gateway::status::State;

use super::doors::{DIALECTS, limited, limited_in};
use super::outcome::{Answered, ask, ask_whole, settled, status, upstream_state};
use super::strict_client::Ended;
use crate::support::front_door::{FrontDoor, HANGS, LOCAL, Setup};
use crate::support::test_app::Options;

fn first_content(limits: &mut Limits, scaled: &Limits) {
    limits.first_content = scaled.first_content;
    limits.whole_reply_per_token = scaled.whole_reply_per_token;
}

/// The upstream is told that nobody waits any more.
#[track_caller]
fn upstream_is_left(door: &FrontDoor) {
    let left = door.upstream().attempts_when(HANGS, |attempts| attempts.iter().all(|attempt| attempt.client_left_at.is_some()));
    assert!(door.app.runtime().block_on(left).is_some(), "the upstream works on for nobody: {:#?}", door.attempts());
}

/// Nothing that counts comes before the limit: one attempt, which is ended, and the local model.
fn nothing_in_time(dialect: Dialect, answer: Answer, streams: &[bool]) {
    for stream in streams {
        let door = limited(dialect, Plan::always(answer.clone()), first_content);
        let turn = if *stream { ask(&door, dialect) } else { ask_whole(&door, dialect) };
        turn.is_local(if *stream { "first_content_limit" } else { "whole_reply_limit" });
        upstream_is_left(&door);
        settled(&door, dialect, 1);
        assert_eq!(upstream_state(&door), (State::Down, Some("first_content_limit".to_owned())), "two limits in a row");
    }
}

pub fn no_headers_ever() {
    DIALECTS.into_iter().for_each(|dialect| nothing_in_time(dialect, Answer::wrong(Misbehaviour::NoHeaders), &[true, false]));
}

/// The limit is for the whole head and not for its next byte.
pub fn headers_dribble() {
    let answer = Answer::wrong(Misbehaviour::HeadersDribble { every_ms: 50 });
    DIALECTS.into_iter().for_each(|dialect| nothing_in_time(dialect, answer.clone(), &[true, false]));
}

pub fn headers_then_silence() {
    for point in [Point::Headers, Point::Start] {
        DIALECTS.into_iter().for_each(|dialect| nothing_in_time(dialect, Answer::stall(point), &[true]));
    }
}

pub fn pings_without_content() {
    nothing_in_time(Dialect::AnthropicMessages, Answer::pings(Point::Start, 20), &[true]);
    // More of them than are held: the client has the beginning by then, and the local model goes on from nothing.
    let plan = Plan::always(Answer::pings(Point::Start, 1));
    let door = limited(Dialect::AnthropicMessages, plan, |limits, scaled| limits.progress_tool = scaled.progress_tool);
    ask(&door, Dialect::AnthropicMessages).is_taken_over("no_progress");
    upstream_is_left(&door);
    settled(&door, Dialect::AnthropicMessages, 1);
}

pub fn slow_first_token() {
    let answer = Answer::healthy().with_pace(Pace { first_token_ms: 20_000, ..Pace::default() });
    DIALECTS.into_iter().for_each(|dialect| nothing_in_time(dialect, answer.clone(), &[true, false]));
}

/// An upstream that grows slower and slower is waited for while it is in time, read along with, and given up after two limits.
pub fn latency_ramp() {
    let dialect = Dialect::AnthropicMessages;
    let slow = Answer::healthy().with_pace(Pace { first_token_ms: 1500, ..Pace::default() });
    let door = limited(dialect, Plan::always(slow), |limits, scaled| limits.prefill_after = scaled.prefill_after);
    ask(&door, dialect).is_cloud();
    assert!(door.app.stats().prefilled_tokens_total > 0, "the local model has read the prompt meanwhile");
    assert_eq!(status(&door).local_turns, 0, "and has said nothing");

    let ramp = Pace { ramp: Some(Ramp { to_ms: 5_000, over_ms: 2_000 }), ..Pace::default() };
    let plan = Plan::always(Answer::healthy().with_pace(ramp));
    let door = limited(dialect, plan, |limits, _| limits.first_content = Duration::from_millis(500));
    let (mut relayed, mut late_in_a_row) = (0, 0);
    while upstream_state(&door).0 != State::Down {
        let turn = ask(&door, dialect);
        late_in_a_row = if turn.by_this_machine() { late_in_a_row + 1 } else { 0 };
        relayed += usize::from(!turn.by_this_machine());
    }
    assert!(relayed > 0, "it was well in the beginning");
    assert_eq!(late_in_a_row, 2, "two limits in a row, and no third person waits for one");
    for _ in 0..3 {
        ask(&door, dialect).is_local("first_content_limit");
    }
    assert_ne!(upstream_state(&door).0, State::Well);
}

#[track_caller]
fn relayed_to_its_end(turn: &Answered) {
    turn.is_cloud();
    assert!(matches!(turn.told.end, Ended::Well(_)), "{}", turn.exchange.text());
}

/// A text that trickles is handed over to whoever can go on with it; where nobody can, the client keeps what there is. A whole reply of
/// which only the beginning comes is no reply.
pub fn slow_body() {
    // Twenty words a second: a hundredth of the limits asks for a hundred tokens.
    let plan = |interval_ms| Plan::always(Answer::healthy().with_token_interval_ms(interval_ms));
    let slow = |limits: &mut Limits, scaled: &Limits| limits.text_floor = scaled.text_floor;
    for dialect in DIALECTS {
        let door = limited(dialect, plan(50), slow);
        ask(&door, dialect).is_taken_over("too_slow");
        upstream_is_left(&door);
        settled(&door, dialect, 1);

        let setup = Setup { plans: vec![plan(50)], gateway: "takeover = false", ..Setup::default() };
        let door = limited_in(dialect, setup, slow);
        relayed_to_its_end(&ask(&door, dialect));
        assert_eq!((status(&door).local_turns, upstream_state(&door).0), (0, State::Well));

        let trickle = Answer::stall(Point::Bytes(40));
        let door = limited(dialect, Plan::always(trickle), |limits, scaled| limits.whole_reply_floor = scaled.whole_reply_floor);
        ask_whole(&door, dialect).is_local("too_slow");
        upstream_is_left(&door);
        assert_eq!(door.attempts().len(), 1, "{dialect:?}");
    }
}

/// The local model may not go on, for it has no room: a slow reply is better than an error.
pub fn slow_body_and_nobody_faster() {
    let dialect = Dialect::AnthropicMessages;
    let plan = Plan::always(Answer::healthy().with_token_interval_ms(50));
    let mut options = Options { pace: Duration::from_millis(5), ..Options::default() };
    (options.engine.sequences_max, options.engine.queue_max) = (1, 0);
    let setup = Setup { plans: vec![plan], options, ..Setup::default() };
    let door = limited_in(dialect, setup, |limits, scaled| limits.text_floor = scaled.text_floor);
    let messages = json!([{"role": "user", "content": "The alphabet!"}]);
    let recital = RawRequest::post(dialect.path(), &json!({"model": LOCAL, "messages": messages, "max_tokens": 100_000, "stream": true}));
    let address = door.address();
    let recital = door.app.runtime().spawn(async move { RawClient::exchange(address, &recital, HANGS).await });
    door.app.wait_until("the local model is busy", |stats| stats.running == 1);
    relayed_to_its_end(&ask(&door, dialect));
    recital.abort();
    assert_eq!((status(&door).takeovers, upstream_state(&door).0), (0, State::Well));
}

pub fn stall_mid_text() {
    for dialect in DIALECTS {
        let plan = Plan::always(Answer::stall(Point::Tokens(17)));
        let door = limited(dialect, plan, |limits, scaled| limits.byte_silence = scaled.byte_silence);
        ask(&door, dialect).is_taken_over("byte_silence");
        upstream_is_left(&door);
        settled(&door, dialect, 1);
    }
}

pub fn stall_mid_text_with_pings() {
    let plan = Plan::always(Answer::pings(Point::Tokens(17), 10));
    let door = limited(Dialect::AnthropicMessages, plan, |limits, scaled| limits.progress_text = scaled.progress_text);
    ask(&door, Dialect::AnthropicMessages).is_taken_over("no_progress");
    upstream_is_left(&door);
    settled(&door, Dialect::AnthropicMessages, 1);
}
