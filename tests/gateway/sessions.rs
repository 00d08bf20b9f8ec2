//! Who speaks in which conversation: away at any time, back at a human turn, later where the upstream flaps; and what a human turn is.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use understudy::gateway::protocol::Protocol::{self, AnthropicMessages, OpenAiChat, OpenAiResponses};
use understudy::gateway::sessions::{
    Decision, SessionConfig, SessionKey, Sessions, Spoken, Switch, Tier, Turn, is_human_turn, session_key,
};

const KEY: SessionKey = SessionKey(7);
const HUMAN: Turn = Turn { human: true };
const TOOLS: Turn = Turn { human: false };
const CLOUD: Tier = Tier(0);
const SECOND: Tier = Tier(1);
const LOCAL: Tier = Tier(2);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn all_of(tier: Tier) -> Spoken {
    Spoken { began: tier, ended: tier }
}

fn sessions() -> Sessions {
    Sessions::new(SessionConfig::default())
}

#[test]
fn a_tool_loop_stays_with_who_leads_it() {
    let mut sessions = sessions();
    let free = Decision { first: CLOUD, may_return: true };
    assert_eq!(sessions.decide(KEY, TOOLS, s(0)), free, "a conversation that nobody knows");
    assert_eq!(sessions.spoke(KEY, all_of(CLOUD), s(1)), Switch::None);
    assert_eq!(sessions.decide(KEY, TOOLS, s(2)), Decision { first: CLOUD, may_return: false });
    assert_eq!(sessions.spoke(KEY, all_of(LOCAL), s(3)), Switch::Away { from: CLOUD, to: LOCAL });
    for second in 4..200 {
        assert_eq!(sessions.decide(KEY, TOOLS, s(second)), Decision { first: LOCAL, may_return: false });
    }
    assert_eq!(sessions.decide(KEY, HUMAN, s(200)), free);
    assert_eq!(sessions.spoke(KEY, all_of(CLOUD), s(201)), Switch::Back { from: LOCAL, to: CLOUD });
}

#[test]
fn a_minute_of_silence_ends_a_tool_loop() {
    let mut sessions = sessions();
    sessions.spoke(KEY, all_of(LOCAL), s(0));
    assert_eq!(sessions.decide(KEY, TOOLS, s(59)).first, LOCAL);
    assert_eq!(sessions.decide(KEY, TOOLS, s(118)).first, LOCAL, "since the last request, not since the switch");
    assert_eq!(sessions.decide(KEY, TOOLS, s(178)).first, CLOUD);
}

#[test]
fn the_second_cloud_is_a_place_to_stay_and_to_fall_from() {
    let mut sessions = sessions();
    assert_eq!(sessions.spoke(KEY, all_of(SECOND), s(0)), Switch::Away { from: CLOUD, to: SECOND });
    assert_eq!(sessions.decide(KEY, TOOLS, s(1)).first, SECOND);
    assert_eq!(sessions.spoke(KEY, all_of(LOCAL), s(2)), Switch::Away { from: SECOND, to: LOCAL });
    assert_eq!(sessions.spoke(KEY, all_of(SECOND), s(3)), Switch::Back { from: LOCAL, to: SECOND });
}

#[test]
fn a_takeover_keeps_who_began_and_stays_with_who_ended() {
    let mut sessions = sessions();
    sessions.spoke(KEY, all_of(CLOUD), s(0));
    let taken_over = Spoken { began: CLOUD, ended: LOCAL };
    assert_eq!(sessions.spoke(KEY, taken_over, s(5)), Switch::Away { from: CLOUD, to: LOCAL });
    let last = sessions.last(KEY).expect("known");
    assert_eq!((last.last, last.since, last.notice_due), (taken_over, s(5), true));
    assert_eq!(sessions.decide(KEY, TOOLS, s(6)).first, LOCAL);
}

#[test]
fn one_notice_a_switch() {
    let mut sessions = sessions();
    assert!(!sessions.take_notice(KEY));
    sessions.spoke(KEY, all_of(LOCAL), s(0));
    assert!(sessions.take_notice(KEY), "also where a conversation begins so");
    assert!(!sessions.take_notice(KEY));
    sessions.spoke(KEY, all_of(LOCAL), s(1));
    assert!(!sessions.take_notice(KEY));
    sessions.spoke(KEY, all_of(CLOUD), s(2));
    sessions.spoke(KEY, all_of(LOCAL), s(3));
    sessions.spoke(KEY, all_of(CLOUD), s(4));
    assert!(!sessions.take_notice(KEY), "one that came too late is not due any more");
}

/// Away and back as soon as it may, with a person who speaks every second; how long each stay with the local model was.
fn stays_s(sessions: &mut Sessions, from_s: u64, until_s: u64) -> Vec<u64> {
    let (mut stays, mut away_since) = (Vec::new(), None);
    for second in from_s..until_s {
        let decision = sessions.decide(KEY, HUMAN, s(second));
        match (away_since, decision.first) {
            (None, _) => {
                sessions.spoke(KEY, all_of(LOCAL), s(second));
                away_since = Some(second);
            }
            (Some(since), CLOUD) => {
                stays.push(second - since);
                sessions.spoke(KEY, all_of(CLOUD), s(second));
                away_since = None;
            }
            (Some(_), _) => {}
        }
    }
    stays
}

#[test]
fn who_flaps_is_left_alone_longer_each_time() {
    let mut sessions = sessions();
    sessions.spoke(KEY, all_of(CLOUD), s(0));
    assert_eq!(stays_s(&mut sessions, 1, 2500), [1, 60, 120, 240, 480, 600, 600]);
    // A quarter of an hour of calm, and it is forgiven.
    sessions.spoke(KEY, all_of(CLOUD), s(3200));
    assert_eq!(stays_s(&mut sessions, 4100, 4103)[0], 1);
}

#[test]
fn conversations_that_nobody_goes_on_with_are_forgotten() {
    let mut sessions = sessions();
    sessions.spoke(KEY, all_of(LOCAL), s(0));
    for key in 100..1123 {
        sessions.spoke(SessionKey(key), all_of(LOCAL), s(1));
    }
    assert!(sessions.last(KEY).is_some());
    sessions.spoke(SessionKey(9999), all_of(LOCAL), s(1));
    assert!(sessions.last(KEY).is_none());
    assert!(sessions.last(SessionKey(9999)).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nobody_comes_back_within_a_tool_loop_or_a_dwell(
        steps in proptest::collection::vec((0u64..100, any::<bool>(), proptest::option::of(0usize..3)), 1..200),
    ) {
        let mut sessions = sessions();
        let (mut now, mut used, mut switches) = (0, 0, Vec::<u64>::new());
        for (pause, human, answers) in steps {
            now += pause;
            let before = sessions.last(KEY);
            let idle = now - used >= 60;
            let decision = sessions.decide(KEY, Turn { human }, s(now));
            used = now;
            if let Some(before) = before {
                if decision.first < before.last.ended {
                    prop_assert!(human || idle);
                    let flapping = switches.len() >= 3 && switches[switches.len() - 3] + 600 > *switches.last().expect("three");
                    let fell = before.last.ended > CLOUD && switches.last() == Some(&before.since.as_secs());
                    prop_assert!(!(flapping && fell && before.notice_due) || now - before.since.as_secs() >= 60, "back within the dwell");
                } else {
                    prop_assert_eq!(decision.first, before.last.ended, "nobody is sent away without a fault");
                }
                prop_assert_eq!(decision.may_return, decision.first == CLOUD && (human || idle));
            }
            // The tiers before the one that answers fail.
            if let Some(tier) = answers {
                let tier = Tier(tier).max(decision.first);
                let switch = sessions.spoke(KEY, all_of(tier), s(now));
                if switch != Switch::None {
                    switches.push(now);
                }
                prop_assert_eq!(sessions.last(KEY).expect("it spoke").last, all_of(tier));
            }
        }
    }
}

fn check_human(protocol: Protocol, expected: bool, body: Value) {
    assert_eq!(is_human_turn(protocol, &body), expected, "{body}");
}

#[test]
fn a_human_turn_is_one_without_results_of_tools() {
    let result = json!({"type": "tool_result", "tool_use_id": "t", "content": "ok"});
    let text = json!({"type": "text", "text": "go on"});
    let anthropic = |expected, messages: Value| check_human(AnthropicMessages, expected, json!({ "messages": messages }));
    anthropic(true, json!([{"role": "user", "content": "hello"}]));
    anthropic(true, json!([{"role": "user", "content": [text]}]));
    anthropic(false, json!([{"role": "user", "content": [result]}]));
    anthropic(false, json!([{"role": "user", "content": [result, text]}]));
    anthropic(false, json!([{"role": "user", "content": [{"type": "mcp_tool_result"}]}]));
    anthropic(
        true,
        json!([{"role": "user", "content": [result]}, {"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]),
    );
    anthropic(false, json!([{"role": "user", "content": [result]}, {"role": "system", "content": "reminder"}]));
    anthropic(false, json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "begun"}]));
    anthropic(true, json!([]));
    anthropic(true, json!("nonsense"));

    let chat = |expected, messages: Value| check_human(OpenAiChat, expected, json!({ "messages": messages }));
    chat(true, json!([{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}]));
    chat(false, json!([{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": []}, {"role": "tool", "content": "ok"}]));
    chat(false, json!([{"role": "function", "name": "f", "content": "ok"}, {"role": "developer", "content": "note"}]));

    let responses = |expected, input: Value| check_human(OpenAiResponses, expected, json!({ "input": input }));
    responses(true, json!("hello"));
    responses(true, json!([{"role": "user", "content": "hello"}]));
    responses(true, json!([{"type": "message", "role": "user", "content": []}, {"type": "additional_tools", "role": "developer"}]));
    for kind in ["function_call_output", "custom_tool_call_output", "local_shell_call_output", "reasoning", "function_call"] {
        responses(false, json!([{"role": "user", "content": "x"}, {"type": kind}]));
    }
}

#[test]
fn a_conversation_is_known_again() {
    let none: [(&str, &str); 0] = [];
    let key = |headers: &[(&str, &str)], body: &Value| session_key(headers, AnthropicMessages, body);
    let first = json!({"system": "be brief", "messages": [{"role": "user", "content": "hello"}]});
    let later = json!({
        "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}]},
            {"role": "assistant", "content": "hi"},
            {"role": "user", "content": "and now?"},
        ],
    });
    let other = json!({"system": "be brief", "messages": [{"role": "user", "content": "goodbye"}]});
    assert_eq!(key(&none, &first), key(&none, &later));
    assert_ne!(key(&none, &first), key(&none, &other));
    // The name that the client gives goes before its text; an agent of it is another conversation.
    let named = [("X-Claude-Code-Session-Id", "a")];
    assert_eq!(key(&named, &first), key(&named, &other));
    assert_ne!(key(&named, &first), key(&[("x-claude-code-session-id", "b")], &first));
    assert_ne!(key(&named, &first), key(&[named[0], ("x-claude-code-agent-id", "1")], &first));
    let body = json!({"input": "hello", "prompt_cache_key": "k"});
    let next = json!({"input": [{"role": "user", "content": "more"}], "prompt_cache_key": "k"});
    assert_eq!(session_key(&none[..], OpenAiResponses, &body), session_key(&none[..], OpenAiResponses, &next));
}
