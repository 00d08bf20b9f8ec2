//! Another cloud goes on where the first broke off: from an assistant's words at the end of the request, only where it is known to, only
//! within a text, and once. Whatever is wrong before its first word, the local model goes on instead.

use std::time::Duration;

use serde_json::Value;
use understudy::gateway::drill::answer::{Answer, Call, Ending, ErrorKind, Misbehaviour, Point, Reply, SIXTY_WORDS};
use understudy::gateway::drill::frames::words;
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::{Expect, Plan};
use understudy::gateway::drill::raw_client::Exchange;
use understudy::gateway::status::State;

use super::calls::{WEATHER, request_with_tools, value};
use super::doors::{DIALECTS, door, door_with, kind, limited_in, setup};
use super::outcome::{
    Answered, Expected, ask_with, held, nothing_got_out, question, request_of, status, tokens, told_as_failed, upstream_state, whole,
    whole_saying,
};
use crate::support::front_door::{FrontDoor, LOCAL, Setup};

/// Words that the first cloud says before it breaks off.
const SAID: usize = 40;
const CONTINUES: &str = "continues = true";

fn said() -> String {
    words(SIXTY_WORDS).take(SAID).collect()
}

/// Says the rest, as who goes on with the beginning would.
fn rest() -> Plan {
    Plan::always(Answer::saying(Reply::text(&SIXTY_WORDS[said().len()..])))
}

fn breaks_off() -> Plan {
    Plan::always(Answer::cut(Point::Tokens(SAID), Ending::Fin))
}

/// A cloud that breaks off, before another.
fn two(dialect: Dialect, first: Plan, second: Plan, others: &'static str) -> Setup {
    Setup { plans: vec![first, second], others, ..setup(dialect, Plan::healthy()) }
}

/// The assistant's words at the end of the only request that came to the second cloud.
#[track_caller]
fn asked_to_go_on_from(door: &FrontDoor) -> String {
    let [attempt] = &door.upstreams[1].generations()[..] else { panic!("asked once: {:#?}", door.upstreams[1].generations()) };
    let body = attempt.json();
    let last = body["messages"].as_array().and_then(|messages| messages.last()).cloned().unwrap_or(Value::Null);
    assert_eq!(last["role"], "assistant", "{body}");
    let text = last["content"].as_str().or_else(|| last["content"][0]["text"].as_str());
    text.unwrap_or_else(|| panic!("no text: {body}")).to_owned()
}

#[track_caller]
fn is_gone_on_with_by(who: &str, dialect: Dialect, exchange: &Exchange) -> Answered {
    let answered = whole(dialect, exchange);
    answered.is_taken_over("cut");
    assert_eq!(answered.seam().map(|(who, _)| who).as_deref(), Some(who), "{dialect:?}");
    answered
}

/// Of whatever protocol the client and the second cloud are.
pub fn goes_on_within_a_text() {
    for dialect in DIALECTS {
        for others_kind in ["anthropic", "openai"] {
            let door = door(Setup { others_kind: Some(others_kind), ..two(dialect, breaks_off(), rest(), CONTINUES) });
            let exchange = door.exchange(&question(dialect));
            let answered = is_gone_on_with_by("cloud-1", dialect, &exchange);
            assert_eq!(asked_to_go_on_from(&door), said(), "{dialect:?} {others_kind}");
            assert!(tokens(&answered.usage) > (60 - SAID) as u64, "both parts are counted: {}", answered.usage);
            let (status, (state, _)) = (status(&door), upstream_state(&door));
            assert_eq!((status.local_turns, status.takeovers, state), (0, 0, State::Well), "this machine has said nothing");
            let continuing = &door.upstreams[1].generations()[0];
            let asks_vllm = continuing.json()["continue_final_message"] == true;
            assert_eq!(asks_vllm, others_kind == "openai");
            assert_eq!(continuing.header("anthropic-version").is_some(), others_kind == "anthropic", "its API demands it");
            held(&door);
        }
    }
}

/// A client whose first cloud speaks another protocol has its reply from events, and so it has the rest.
pub fn goes_on_across_protocols() {
    for dialect in [Dialect::AnthropicMessages, Dialect::OpenaiChat] {
        let other = if kind(dialect) == "anthropic" { "openai" } else { "anthropic" };
        let setup = Setup { kind: other, others_kind: Some(kind(dialect)), ..two(dialect, breaks_off(), rest(), CONTINUES) };
        let door = door(setup);
        let answered = whole(dialect, &door.exchange(&question(dialect)));
        assert_eq!(answered.by, "cloud-0");
        assert_eq!(asked_to_go_on_from(&door), said(), "{dialect:?}");
        assert_eq!((status(&door).local_turns, status(&door).takeovers), (0, 0));
        nothing_got_out(&door);
    }
}

/// By its model where that is a Claude of before 4.6, and else only where the configuration says so.
pub fn only_where_it_is_known_to() {
    for (others, goes_on) in [
        ("", false),
        ("model = \"claude-sonnet-4-5\"", true),
        ("model = \"claude-sonnet-4-5\"\ncontinues = false", false),
        ("model = \"claude-opus-4-6\"", false),
        ("model = \"kimi-k2\"", false),
    ] {
        let dialect = Dialect::AnthropicMessages;
        let door = door(two(dialect, breaks_off(), rest(), others));
        let exchange = door.exchange(&question(dialect));
        is_gone_on_with_by(if goes_on { "cloud-1" } else { LOCAL }, dialect, &exchange);
        assert_eq!(door.upstreams[1].generations().len(), usize::from(goes_on), "{others}");
        held(&door);
    }
}

/// It refuses, is overloaded, breaks off before a word, or is silent: nobody sees it, and it is asked once.
pub fn fails_and_the_local_model_goes_on() {
    let refuses = Plan::healthy().with_expect(Expect { no_prefill: true, ..Expect::default() });
    let plans = [
        refuses,
        Plan::always(Answer::error(ErrorKind::Overloaded)),
        Plan::always(Answer::error(ErrorKind::Unavailable)),
        Plan::always(Answer::cut(Point::Start, Ending::Reset)),
        Plan::always(Answer::wrong(Misbehaviour::NoHeaders)),
    ];
    for dialect in DIALECTS {
        for (number, second) in plans.iter().enumerate() {
            let door = door_with(two(dialect, breaks_off(), second.clone(), CONTINUES), |rules| {
                rules.limits.first_content = if number == 4 { Duration::from_millis(100) } else { rules.limits.first_content };
            });
            let exchange = door.exchange(&question(dialect));
            is_gone_on_with_by(LOCAL, dialect, &exchange);
            assert_eq!((door.upstreams[1].generations().len(), status(&door).takeovers), (1, 1), "{dialect:?} {number}");
            held(&door);
        }
    }
}

/// That it takes no beginning is no fault of its own: it is asked again, and is well for whoever asks it for a whole reply.
pub fn refuses_and_is_none_the_worse() {
    let dialect = Dialect::AnthropicMessages;
    let refuses = Plan::healthy().with_expect(Expect { no_prefill: true, ..Expect::default() });
    let door = door(two(dialect, breaks_off(), refuses, CONTINUES));
    for asked in 1..=2 {
        door.upstream().set_plan(breaks_off());
        is_gone_on_with_by(LOCAL, dialect, &door.exchange(&request_of(&format!("broken {asked}"), dialect)));
        assert_eq!(door.upstreams[1].generations().len(), asked);
        door.upstream().set_plan(Plan::healthy());
        whole(dialect, &door.exchange(&request_of(&format!("whole {asked}"), dialect))).is_cloud();
    }
    assert_eq!(status(&door).upstreams[1].state, State::Well);
}

/// A cloud that rests is not asked in the middle of somebody's sentence.
pub fn is_not_asked_while_it_rests() {
    let dialect = Dialect::AnthropicMessages;
    let overloaded = Plan::always(Answer::error(ErrorKind::Overloaded));
    let door = door_with(two(dialect, breaks_off(), overloaded, CONTINUES), |rules| {
        (rules.breakers.cooldown_first, rules.breakers.edge_probe_interval) = (Duration::from_secs(600), None);
    });
    // Between two that break off one that does not: the first one is asked for all of them.
    for (number, asked) in [(1, 1), (2, 2)] {
        door.upstream().set_plan(breaks_off());
        is_gone_on_with_by(LOCAL, dialect, &door.exchange(&request_of(&format!("broken {number}"), dialect)));
        assert_eq!(door.upstreams[1].generations().len(), asked);
        door.upstream().set_plan(Plan::healthy());
        whole(dialect, &door.exchange(&request_of(&format!("whole {number}"), dialect))).is_cloud();
    }
    door.upstreams[1].set_plan(rest());
    door.upstream().set_plan(breaks_off());
    is_gone_on_with_by(LOCAL, dialect, &door.exchange(&request_of("broken 3", dialect)));
    assert_eq!(door.upstreams[1].generations().len(), 2, "it has failed twice in a row");
}

/// What it takes is words: half a call is gone on with here, under its schema.
pub fn never_within_arguments() {
    let cut = Misbehaviour::Cut { at: Point::Arguments { call: 0, bytes: 20 }, how: Ending::Fin };
    let first = Plan::always(Answer::saying(Reply::calls(vec![Call::new("weather", WEATHER)])).and_wrong(cut));
    for dialect in DIALECTS {
        let door = door(two(dialect, first.clone(), rest(), CONTINUES));
        let expected = Expected { text: "", calls: &[("weather", value(WEATHER))] };
        let answered = ask_with(&door, dialect, request_with_tools(dialect, &[("weather", WEATHER)], &["weather"]), expected);
        answered.is_whole();
        answered.is_taken_over("cut");
        assert_eq!(answered.seam().map(|(who, _)| who).as_deref(), Some(LOCAL));
        assert!(door.upstreams[1].generations().is_empty(), "{dialect:?}");
    }
}

/// One takeover a stream: where the second breaks off as well, that is told.
pub fn breaks_off_as_well() {
    for dialect in DIALECTS {
        let second = Plan::always(
            Answer::saying(Reply::text(&SIXTY_WORDS[said().len()..]))
                .and_wrong(Misbehaviour::Cut { at: Point::Tokens(5), how: Ending::Fin }),
        );
        let door = door(two(dialect, breaks_off(), second, CONTINUES));
        let told = told_as_failed(dialect, &door.exchange(&question(dialect)));
        assert_eq!(told.text, words(SIXTY_WORDS).take(SAID + 5).collect::<String>(), "{dialect:?}: what came is shown");
        assert_eq!(status(&door).takeovers, 0, "once is enough");
        held(&door);
    }
}

/// White space at the end is not shown, for Anthropic refuses that; whether it comes again or not, the client has it once.
pub fn white_space_at_the_seam() {
    for dialect in DIALECTS {
        for again in ["  beta gamma", " beta gamma", "beta gamma"] {
            let first = Plan::always(
                Answer::saying(Reply::text("Alpha  beta gamma")).and_wrong(Misbehaviour::Cut { at: Point::Tokens(2), how: Ending::Fin }),
            );
            let door = door(two(dialect, first, Plan::always(Answer::saying(Reply::text(again))), CONTINUES));
            let exchange = door.exchange(&question(dialect));
            let expected = if again.starts_with("  ") { "Alpha  beta gamma" } else { "Alpha beta gamma" };
            whole_saying(dialect, &exchange, expected);
            assert_eq!(asked_to_go_on_from(&door), "Alpha", "{dialect:?}");
        }
    }
}

/// A text that trickles is another's, too.
pub fn goes_on_with_a_text_that_trickles() {
    let dialect = Dialect::AnthropicMessages;
    let slow = Plan::always(Answer::healthy().with_token_interval_ms(50));
    let said = |exchange: &Exchange| exchange.text().matches("text_delta").count();
    // What it says is no matter: where the first one was given up is not known beforehand.
    let second = Plan::always(Answer::saying(Reply::text(" and so on.")));
    let setup = Setup { plans: vec![slow, second], others: CONTINUES, ..Setup::default() };
    let door = limited_in(dialect, setup, |limits, scaled| limits.text_floor = scaled.text_floor);
    let exchange = door.exchange(&question(dialect));
    let begun = asked_to_go_on_from(&door);
    assert!(SIXTY_WORDS.starts_with(&begun) && said(&exchange) > 0, "{begun}");
    let answered = whole_saying(dialect, &exchange, &format!("{begun} and so on."));
    answered.is_taken_over("too_slow");
    assert_eq!(answered.seam().map(|(who, _)| who).as_deref(), Some("cloud-1"));
}
