//! The sixteen scenarios that other gateways are measured by, from their description: what is required, and what a full pass asks beyond.
//! The last tier is the local model, which says what the cloud would have said, so that an answer is compared word for word.
//!
//! Times are a tenth where only attempts are counted, and a hundredth where a limit has to pass.

use std::time::{Duration, Instant};

use understudy::gateway::drill::answer::{AfterStall, Answer, Ending, ErrorAnswer, ErrorKind, Misbehaviour, Pace, Point};
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::{Expect, Plan, Rule};
use understudy::gateway::drill::raw_client::{End, Exchange};
use understudy::gateway::status::State;

use super::outcome::{Answered, FIRST, attempts_when, eventually, first_status, held, question, request_of, setup, whole, with};
use crate::support::front_door::{CLOUD, FrontDoor, HANGS, LOCAL, Setup};

/// The scenarios are about chats; Anthropic's messages are what most clients here speak.
const DIALECTS: [Dialect; 2] = [Dialect::OpenaiChat, Dialect::AnthropicMessages];

/// With usage, which chats have to be asked for.
fn ask(door: &FrontDoor, dialect: Dialect) -> Exchange {
    let request = question(dialect);
    let request = match dialect {
        Dialect::OpenaiChat => with(request, "stream_options", serde_json::json!({"include_usage": true})),
        _ => request,
    };
    let exchange = door.exchange(&request);
    assert_ne!(exchange.end, End::Limit, "it hangs");
    exchange
}

/// One plan at so many times the speed; what is left to check is the scenario's own. After each, a healthy call succeeds.
fn scenario(scale: u32, plan: &Plan, check: impl Fn(&FrontDoor, Dialect)) {
    for dialect in DIALECTS {
        let door = FrontDoor::start(Setup { scale, ..setup(dialect, plan.clone()) });
        check(&door, dialect);
        door.upstream().set_plan(Plan::healthy());
        held(&door);
    }
}

fn answered(door: &FrontDoor, dialect: Dialect) -> Answered {
    let answered = whole(dialect, &ask(door, dialect));
    assert!(answered.told.usage.is_object(), "{dialect:?}: usage is told");
    answered
}

fn error(error: ErrorKind) -> Answer {
    Answer::error(error)
}

pub fn s01_retry_after() {
    scenario(10, &Plan::first(1, Answer::rate_limited(Some("0.2"))), |door, dialect| {
        answered(door, dialect).is_cloud();
        let attempts = door.attempts();
        assert_eq!(attempts.len(), 2);
        let waited = attempts[1].at - attempts[0].at;
        assert!(waited >= Duration::from_millis(180), "asked again after {waited:?}");
    });
}

pub fn s02_rate_limit_for_ever() {
    scenario(10, &Plan::always(Answer::rate_limited(None)), |door, dialect| {
        answered(door, dialect).is_local("rate_limited");
        assert!(door.attempts().len() <= 4);
    });
}

pub fn s03_one_500() {
    scenario(10, &Plan::first(1, error(ErrorKind::Internal)), |door, dialect| {
        answered(door, dialect).is_cloud();
        assert_eq!(door.attempts().len(), 2, "at the same provider");
    });
}

pub fn s04_503_for_ever() {
    scenario(10, &Plan::always(error(ErrorKind::Unavailable)), |door, dialect| {
        answered(door, dialect).is_local("server_error");
        assert!(door.attempts().len() <= 6);
    });
}

pub fn s05_reset_before_any_byte() {
    scenario(10, &Plan::first(1, Answer::wrong(Misbehaviour::EndBeforeHeaders { how: Ending::Reset })), |door, dialect| {
        answered(door, dialect).is_cloud();
        assert_eq!(door.attempts().len(), 2);
    });
}

pub fn s06_no_response() {
    scenario(100, &Plan::always(Answer::wrong(Misbehaviour::NoHeaders)), |door, dialect| {
        answered(door, dialect).is_local("first_content_limit");
        assert_eq!(door.attempts().len(), 1, "who is silent is asked once");
    });
}

pub fn s07_first_token_after_20_s() {
    let slow = Answer::healthy().with_pace(Pace { first_token_ms: 200, ..Pace::default() });
    scenario(100, &Plan::always(slow), |door, dialect| {
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
    scenario(10, &Plan::always(Answer::cut(Point::Tokens(40), Ending::Fin)), is_taken_over);
}

pub fn s09_silent_after_20_tokens() {
    let stall = Misbehaviour::Stall { at: Point::Tokens(20), pings_ms: None, for_ms: Some(300), then: AfterStall::Fin };
    scenario(100, &Plan::always(Answer::wrong(stall)), is_taken_over);
}

pub fn s10_event_that_is_no_json() {
    scenario(10, &Plan::always(Answer::wrong(Misbehaviour::MalformedEvents { at: Point::Tokens(9), count: 1 })), |door, dialect| {
        answered(door, dialect).is_cloud();
        assert_eq!(door.attempts().len(), 1);
    });
}

pub fn s11_no_last_event() {
    scenario(10, &Plan::always(Answer::cut(Point::BeforeEnd, Ending::Clean)), |door, dialect| {
        answered(door, dialect).is_cloud();
        assert_eq!(door.attempts().len(), 1);
        assert_eq!(door.app.stats().running, 0);
    });
}

pub fn s12_context_length() {
    scenario(10, &Plan::always(error(ErrorKind::ContextLength)), |door, dialect| {
        answered(door, dialect).is_local("context_too_long");
        assert_eq!(door.attempts().len(), 1, "the same size is not sent again");
    });
}

pub fn s13_content_policy() {
    scenario(10, &Plan::always(error(ErrorKind::ContentPolicy)), |door, dialect| {
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
        let door = FrontDoor::start(Setup { plans: vec![first, second], ..setup(dialect, Plan::healthy()) });
        is_taken_over(&door, dialect);
        assert!(door.upstreams[1].generations().is_empty());
        held(&door);
    }
}

pub fn s15_outage_of_a_minute() {
    let down = Rule::named("down", error(ErrorKind::Unavailable)).until_ms(600);
    for dialect in DIALECTS {
        let door = FrontDoor::start(Setup { scale: 100, ..setup(dialect, Plan::default().then(down.clone())) });
        let mut during = 0;
        for number in 0..20 {
            let begun = door.upstream().elapsed();
            let answered = whole(dialect, &door.exchange(&request_of(&format!("conversation {number}"), dialect)));
            if door.upstream().elapsed() < Duration::from_millis(600) {
                answered.is_local("server_error");
                during += 1;
            }
            let next = begun + Duration::from_millis(40);
            std::thread::sleep(next.saturating_sub(door.upstream().elapsed()));
        }
        assert!(during > 0, "{dialect:?}: somebody asked during the outage");
        let in_vain = door.attempts().iter().filter(|attempt| attempt.rule == "down").count();
        assert!(in_vain < 20, "{dialect:?}: {in_vain} attempts in vain");
        let began = Instant::now();
        let mut number = 20;
        eventually("the primary is used again, and well", || {
            number += 1;
            whole(dialect, &door.exchange(&request_of(&format!("conversation {number}"), dialect)));
            first_status(&door).state == State::Well
        });
        assert!(began.elapsed() < HANGS);
        whole(dialect, &door.exchange(&request_of("and the last", dialect))).is_cloud();
        held(&door);
    }
}

pub fn s16_name_of_the_fallback() {
    let unavailable = ErrorAnswer { error: ErrorKind::Unavailable, status: Some(503), retry_after: None };
    scenario(10, &Plan::always(Answer::wrong(Misbehaviour::Error(unavailable))), |door, dialect| {
        let answered = answered(door, dialect);
        answered.is_local("server_error");
        assert_eq!(answered.told.model, LOCAL);
        assert!(door.attempts().len() <= 6);
        let tokens = ["output_tokens", "completion_tokens"].iter().find_map(|field| answered.told.usage[field].as_u64());
        assert!(tokens.is_some_and(|tokens| tokens > 0), "{:?}", answered.told.usage);
    });
}
