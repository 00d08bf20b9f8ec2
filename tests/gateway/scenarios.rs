//! The sixteen scenarios that other gateways are measured by, from their description: what is required, and what a full pass asks beyond.
//! The last tier is the local model, which says what the cloud would have said, so that an answer is compared word for word.
//!
//! Times are a tenth where only attempts are counted, and a hundredth where an outage or a limit has to pass.

use std::time::Duration;

use understudy::gateway::drill::answer::{AfterStall, Answer, Ending, ErrorAnswer, ErrorKind, Misbehaviour, Pace, Point};
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::{Expect, Plan, Rule};
use understudy::gateway::drill::raw_client::{End, Exchange};
use understudy::gateway::limits::Limits;
use understudy::gateway::status::State;

use super::doors::{door, door_with, setup};
use super::outcome::{Answered, FIRST, attempts_when, briefly, eventually, first_status, held, question, tokens, whole};
use crate::support::front_door::{CLOUD, FrontDoor, LOCAL, Setup};

/// The scenarios are about chats; Anthropic's messages are what most clients here speak.
const DIALECTS: [Dialect; 2] = [Dialect::OpenaiChat, Dialect::AnthropicMessages];

fn ask(door: &FrontDoor, dialect: Dialect) -> Exchange {
    let exchange = door.exchange(&question(dialect));
    assert_ne!(exchange.end, End::Limit, "it hangs");
    exchange
}

/// One plan; what is left to check is the scenario's own. After each, a healthy call succeeds.
fn scenario(plan: &Plan, check: impl Fn(&FrontDoor, Dialect)) {
    scenario_with(plan, |_| {}, check);
}

/// The same with the limits that it is about.
fn scenario_with(plan: &Plan, limits: impl Fn(&mut Limits), check: impl Fn(&FrontDoor, Dialect)) {
    for dialect in DIALECTS {
        let door = door_with(setup(dialect, plan.clone()), |rules| limits(&mut rules.limits));
        check(&door, dialect);
        held(&door);
    }
}

fn answered(door: &FrontDoor, dialect: Dialect) -> Answered {
    let answered = whole(dialect, &ask(door, dialect));
    assert!(tokens(&answered.usage) > 0, "{dialect:?}: usage is told");
    answered
}

fn error(error: ErrorKind) -> Answer {
    Answer::error(error)
}

pub fn s01_retry_after() {
    scenario(&Plan::first(1, Answer::rate_limited(Some("0.2"))), |door, dialect| {
        answered(door, dialect).is_cloud();
        let attempts = door.attempts();
        assert_eq!(attempts.len(), 2);
        let waited = attempts[1].at - attempts[0].at;
        assert!(waited >= Duration::from_millis(180), "asked again after {waited:?}");
    });
}

pub fn s02_rate_limit_for_ever() {
    scenario(&Plan::always(Answer::rate_limited(None)), |door, dialect| {
        answered(door, dialect).is_local("rate_limited");
        assert!(door.attempts().len() <= 4);
    });
}

pub fn s03_one_500() {
    scenario(&Plan::first(1, error(ErrorKind::Internal)), |door, dialect| {
        answered(door, dialect).is_cloud();
        assert_eq!(door.attempts().len(), 2, "at the same provider");
    });
}

pub fn s04_503_for_ever() {
    scenario(&Plan::always(error(ErrorKind::Unavailable)), |door, dialect| {
        answered(door, dialect).is_local("server_error");
        assert!(door.attempts().len() <= 6);
    });
}

pub fn s05_reset_before_any_byte() {
    scenario(&Plan::first(1, Answer::wrong(Misbehaviour::EndBeforeHeaders { how: Ending::Reset })), |door, dialect| {
        answered(door, dialect).is_cloud();
        assert_eq!(door.attempts().len(), 2);
    });
}

/// Twelve seconds at a hundredth.
fn first_content(limits: &mut Limits) {
    limits.first_content = Duration::from_millis(120);
}

pub fn s06_no_response() {
    scenario_with(&Plan::always(Answer::wrong(Misbehaviour::NoHeaders)), first_content, |door, dialect| {
        answered(door, dialect).is_local("first_content_limit");
        assert_eq!(door.attempts().len(), 1, "who is silent is asked once");
    });
}

pub fn s07_first_token_after_20_s() {
    // Not scaled: on a machine that stalls for longer than the difference it would have said all before it hears that nobody waits.
    let slow = Answer::healthy().with_pace(Pace { first_token_ms: 20_000, ..Pace::default() });
    scenario_with(&Plan::always(slow), first_content, |door, dialect| {
        answered(door, dialect).is_local("first_content_limit");
        let attempts = attempts_when(door, |attempts| attempts.iter().all(|attempt| attempt.client_left_at.is_some()));
        assert_eq!(attempts.len(), 1, "and told to stop");
    });
}

/// A reply that the cloud began and another ended: the cloud's name, all words, and a line at the seam.
fn is_taken_over(door: &FrontDoor, dialect: Dialect) {
    let exchange = ask(door, dialect);
    let answered = whole(dialect, &exchange);
    assert_eq!((answered.by.as_str(), answered.told.model.as_str()), (FIRST, CLOUD), "{dialect:?}: who began it is its name");
    assert!(exchange.text().contains(": understudy: "), "{dialect:?}: the seam is told");
    assert_eq!(door.attempts().len(), 1);
}

pub fn s08_dies_after_40_tokens() {
    scenario(&Plan::always(Answer::cut(Point::Tokens(40), Ending::Fin)), is_taken_over);
}

pub fn s09_silent_after_20_tokens() {
    let stall = Misbehaviour::Stall { at: Point::Tokens(20), pings_ms: None, for_ms: Some(300), then: AfterStall::Fin };
    scenario_with(&Plan::always(Answer::wrong(stall)), |limits| limits.byte_silence = Duration::from_millis(150), is_taken_over);
}

pub fn s10_event_that_is_no_json() {
    scenario(&Plan::always(Answer::wrong(Misbehaviour::MalformedEvents { at: Point::Tokens(9), count: 1 })), |door, dialect| {
        answered(door, dialect).is_cloud();
        assert_eq!(door.attempts().len(), 1);
    });
}

pub fn s11_no_last_event() {
    scenario(&Plan::always(Answer::cut(Point::BeforeEnd, Ending::Clean)), |door, dialect| {
        answered(door, dialect).is_cloud();
        assert_eq!(door.attempts().len(), 1);
        assert_eq!(door.app.stats().running, 0);
    });
}

pub fn s12_context_length() {
    scenario(&Plan::always(error(ErrorKind::ContextLength)), |door, dialect| {
        answered(door, dialect).is_local("context_too_long");
        assert_eq!(door.attempts().len(), 1, "the same size is not sent again");
    });
}

pub fn s13_content_policy() {
    scenario(&Plan::always(error(ErrorKind::ContentPolicy)), |door, dialect| {
        let exchange = ask(door, dialect);
        assert_eq!((exchange.status(), &exchange.end), (Some(400), &End::Whole), "{}", exchange.text());
        let message = exchange.json()["error"]["message"].as_str().map(str::to_lowercase).expect("the reason is told");
        assert!(message.contains("content filtering policy") || message.contains("safety system"), "{message}");
        assert_eq!(door.attempts().len(), 1, "nobody else is asked");
    });
}

/// The second cloud takes no words of an assistant to go on with: it is never asked to, and the client never hears of it.
pub fn s14_second_cloud_refuses_to_go_on() {
    for dialect in DIALECTS {
        let first = Plan::always(Answer::cut(Point::Tokens(40), Ending::Fin));
        let second = Plan::healthy().with_expect(Expect { no_prefill: true, ..Expect::default() });
        let door = door(Setup { plans: vec![first, second], ..setup(dialect, Plan::healthy()) });
        is_taken_over(&door, dialect);
        assert!(door.upstreams[1].generations().is_empty());
        held(&door);
    }
}

pub fn s15_outage_of_a_minute() {
    let down = Rule::named("down", error(ErrorKind::Unavailable)).until_ms(600);
    let plan = Plan::default().then(down);
    for dialect in DIALECTS {
        let door = door(Setup { scale: 100, ..setup(dialect, plan.clone()) });
        let mut number = 0;
        let mut conversation = || {
            number += 1;
            briefly(&door, dialect, &format!("conversation {number}"))
        };
        let mut during = 0;
        for at in (0..20).map(|request| Duration::from_millis(40 * request)) {
            std::thread::sleep(at.saturating_sub(door.upstream().elapsed()));
            let answered = conversation();
            if door.upstream().elapsed() < Duration::from_millis(600) {
                answered.is_local("server_error");
                during += 1;
            }
        }
        assert!(during > 0, "{dialect:?}: somebody asked during the outage");
        let in_vain = door.attempts().iter().filter(|attempt| attempt.rule == "down").count();
        // Two requests to open, probes after 50, 150 and 350 ms, and each of them asks once more.
        assert!(in_vain <= 12, "{dialect:?}: {in_vain} attempts in vain");
        eventually("the primary is used again, and well", || {
            conversation();
            first_status(&door).state == State::Well
        });
        conversation().is_cloud();
        held(&door);
    }
}

pub fn s16_name_of_the_fallback() {
    let unavailable = ErrorAnswer { error: ErrorKind::Unavailable, status: Some(503), retry_after: None };
    scenario(&Plan::always(Answer::wrong(Misbehaviour::Error(unavailable))), |door, dialect| {
        let answered = answered(door, dialect);
        answered.is_local("server_error");
        assert_eq!(answered.told.model, LOCAL);
        assert!(door.attempts().len() <= 6);
    });
}
