//! Anthropic's dialect without a server: events go in, the frames must be of the grammar and add up to the whole reply.

use insta::assert_snapshot;
use serde_json::{Value, json};
use understudy::api::anthropic_messages::AnthropicMessages;
use understudy::api::{Dialect, Frame, KeepAlive, ReplyHead};
use understudy::chat::reply::Reply;
use understudy::chat::{Event, FinishReason, TextDelta, Usage};

use crate::support::messages_stream::{Folded, fold};
use crate::support::random::Random;

const USAGE: Usage = Usage { prompt_tokens: 100, cached_tokens: 64, completion_tokens: 9, thinking_tokens: 4 };

/// Names and data.
type NamedFrames = Vec<(String, String)>;

fn dialect(thinking: Value) -> AnthropicMessages {
    let body = json!({"max_tokens": 50, "thinking": thinking, "messages": [{"role": "user", "content": "x"}], "stop_sequences": ["END"]});
    AnthropicMessages::parse(body.to_string().as_bytes()).expect("a good request").dialect
}

fn head() -> ReplyHead {
    ReplyHead { id: "1".into(), created_unix_s: 0, model: "m".into(), choices: 1, prompt_tokens: 100 }
}

/// The frames of a stream of `events`, with a sign of life after each event where `alive` says so.
fn frames(dialect: &mut AnthropicMessages, events: &[Event], mut alive: impl FnMut() -> bool) -> Vec<Frame> {
    let mut frames = Vec::new();
    dialect.open(&head(), &mut frames);
    for event in events {
        dialect.progress(0, USAGE);
        dialect.event(&head(), 0, event.clone(), &mut frames);
        if alive() {
            let KeepAlive::Frame(frame) = dialect.keep_alive(&head()) else { panic!("a comment is no sign of life here") };
            frames.push(frame);
        }
    }
    dialect.close(&head(), USAGE, &mut frames);
    frames
}

fn folded(frames: Vec<Frame>) -> Folded {
    fold(frames.into_iter().map(|frame| (frame.event.expect("every event has a name").to_owned(), frame.data)))
}

fn whole(dialect: &AnthropicMessages, events: &[Event]) -> Value {
    let mut reply = Reply::default();
    events.iter().for_each(|event| reply.push(event.clone()).expect("nothing fails"));
    serde_json::from_str(&dialect.whole(&head(), vec![reply], USAGE)).expect("JSON")
}

fn text(text: &str) -> Event {
    Event::Text(TextDelta { text: text.into(), tokens: Vec::new() })
}

fn thought(text: &str) -> Event {
    Event::Thinking(text.into())
}

fn call(index: usize, arguments: &[&str]) -> Vec<Event> {
    let mut events = vec![Event::ToolCallStarted { index, id: format!("call_{index}abc"), name: "look".into() }];
    events.extend(arguments.iter().map(|json| Event::ToolCallArguments { index, json: (*json).into() }));
    events.push(Event::ToolCallEnded { index });
    events
}

fn finished(reason: FinishReason) -> Event {
    Event::Finished { reason, usage: USAGE }
}

#[test]
fn thinking_text_and_calls_are_blocks_in_their_order() {
    let mut events = vec![thought("Hm"), thought("."), text("I "), text("look.")];
    events.extend(call(0, &["{\"a\":", " 1}"]));
    events.extend(call(1, &[]));
    events.push(finished(FinishReason::ToolCalls));
    let mut dialect = dialect(json!({"type": "enabled", "budget_tokens": 1024}));
    let frames = frames(&mut dialect, &events, || false);
    let lines: Vec<String> = frames.iter().map(|frame| format!("{} {}", frame.event.expect("a name"), frame.data)).collect();
    assert_snapshot!(lines.join("\n"), @r#"
    message_start {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":100,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0,"output_tokens_details":{"thinking_tokens":0}}}}
    content_block_start {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}
    content_block_delta {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Hm"}}
    content_block_delta {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"."}}
    content_block_delta {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"understudy-15ec9c3cf71dc7760cfa2ad9bb9ac39b"}}
    content_block_stop {"type":"content_block_stop","index":0}
    content_block_start {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}
    content_block_delta {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"I "}}
    content_block_delta {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"look."}}
    content_block_stop {"type":"content_block_stop","index":1}
    content_block_start {"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"toolu_0abc","name":"look","input":{}}}
    content_block_delta {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}
    content_block_delta {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":" 1}"}}
    content_block_stop {"type":"content_block_stop","index":2}
    content_block_start {"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"toolu_1abc","name":"look","input":{}}}
    content_block_stop {"type":"content_block_stop","index":3}
    message_delta {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":36,"cache_creation_input_tokens":0,"cache_read_input_tokens":64,"output_tokens":9,"output_tokens_details":{"thinking_tokens":4}}}
    message_stop {"type":"message_stop"}
    "#);
    assert_eq!(folded(frames).message, whole(&dialect, &events));
}

#[test]
fn a_whole_reply_keeps_the_order_too() {
    let mut events = vec![text("a")];
    events.extend(call(0, &["{}"]));
    events.extend([text("b"), thought("hm"), text("c"), text(""), finished(FinishReason::EndOfTurn)]);
    let kinds = |thinking: Value| {
        let content = whole(&dialect(thinking), &events)["content"].take();
        let kind = |block: &Value| block.get("text").unwrap_or(&block["type"]).as_str().expect("text").to_owned();
        content.as_array().expect("blocks").iter().map(kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(json!({"type": "adaptive"})), ["a", "tool_use", "b", "thinking", "c"]);
    assert_eq!(kinds(json!({"type": "disabled"})), ["a", "tool_use", "bc"]);
}

#[test]
fn thinking_is_shown_to_who_asked_for_it() {
    let events = [thought("secret"), text("open"), finished(FinishReason::EndOfTurn)];
    for (thinking, shown) in [
        (Value::Null, None),
        (json!({"type": "disabled"}), None),
        (json!({"type": "enabled", "budget_tokens": 2000}), Some("secret")),
        (json!({"type": "adaptive"}), Some("secret")),
        (json!({"type": "adaptive", "display": "summarized"}), Some("secret")),
        (json!({"type": "adaptive", "display": "omitted"}), Some("")),
    ] {
        let mut dialect = dialect(thinking.clone());
        let message = folded(frames(&mut dialect, &events, || false)).message;
        assert_eq!(message, whole(&dialect, &events), "{thinking}");
        let first = &message["content"][0];
        assert_eq!((first["type"] == "thinking").then(|| first["thinking"].as_str().expect("text")), shown, "{thinking}");
        if shown.is_some() {
            assert!(first["signature"].as_str().is_some_and(|signature| signature.starts_with("understudy-") && signature.len() == 43));
        }
    }
}

#[test]
fn arguments_that_are_no_object_are_handed_on() {
    for (pieces, input) in [
        (&["{\"a\": [1", "]}"][..], json!({"a": [1]})),
        (&[][..], json!({})),
        (&["{\"a\": "], json!({"__unparsedToolInput": "{\"a\": "})),
        (&["5"], json!({"__unparsedToolInput": "5"})),
    ] {
        let events = [call(0, pieces), vec![finished(FinishReason::ToolCalls)]].concat();
        let mut dialect = dialect(Value::Null);
        assert_eq!(folded(frames(&mut dialect, &events, || false)).message["content"][0]["input"], input);
        assert_eq!(whole(&dialect, &events)["content"][0]["input"], input);
    }
}

#[test]
fn reasons() {
    for (reason, completion_tokens, says) in [
        (FinishReason::EndOfTurn, 9, json!(["end_turn", null])),
        (FinishReason::ToolCalls, 9, json!(["tool_use", null])),
        (FinishReason::StopString("END".into()), 9, json!(["stop_sequence", "END"])),
        (FinishReason::StopString("<|im_end|>".into()), 9, json!(["end_turn", null])),
        (FinishReason::Refused, 9, json!(["refusal", null])),
        (FinishReason::Length, 50, json!(["max_tokens", null])),
        (FinishReason::Length, 49, json!(["model_context_window_exceeded", null])),
    ] {
        let usage = Usage { completion_tokens, ..USAGE };
        let mut reply = Reply::default();
        reply.push(Event::Finished { reason: reason.clone(), usage }).expect("nothing fails");
        let whole = dialect(Value::Null).whole(&head(), vec![reply], usage);
        let whole: Value = serde_json::from_str(&whole).expect("JSON");
        assert_eq!(json!([whole["stop_reason"], whole["stop_sequence"]]), says, "{reason:?}");
    }
}

/// Whatever comes, in whatever order: the automaton reads it, and it adds up to the whole reply.
#[test]
fn random_replies_stream_as_they_are() {
    for seed in 0..2_000 {
        let mut random = Random(seed);
        let (mut events, mut calls) = (Vec::new(), 0);
        for _ in 0..random.below(12) {
            match random.below(5) {
                0 => events.push(thought(["", "hm", "so\n"][random.below(3) as usize])),
                1 | 2 => events.push(text(["", "word ", "ü😀"][random.below(3) as usize])),
                _ => {
                    let pieces = [&["{}"][..], &["{\"a\"", ":\"\\u00fc\"}"], &["not json"], &[""], &[]];
                    events.extend(call(calls, pieces[random.below(5) as usize]));
                    calls += 1;
                }
            }
        }
        let reason = if calls > 0 { FinishReason::ToolCalls } else { FinishReason::EndOfTurn };
        events.push(finished(reason));
        let thinking = [Value::Null, json!({"type": "adaptive"}), json!({"type": "adaptive", "display": "omitted"})];
        let mut dialect = dialect(thinking[random.below(3) as usize].clone());
        let frames = frames(&mut dialect, &events, || random.chance(300));
        let folded = folded(frames);
        assert_eq!(folded.message, whole(&dialect, &events), "seed {seed}: {events:?}");
    }
}

#[test]
fn the_automaton_catches_what_it_must() {
    let event = |kind: &str, body: Value| {
        let mut event = json!({"type": kind});
        event.as_object_mut().expect("an object").extend(body.as_object().expect("an object").clone());
        (kind.to_owned(), event.to_string())
    };
    let good = || {
        let events = [text("a"), finished(FinishReason::EndOfTurn)];
        let frames = frames(&mut dialect(Value::Null), &events, || false);
        frames.into_iter().map(|frame| (frame.event.expect("a name").to_owned(), frame.data)).collect::<NamedFrames>()
    };
    fold(good());
    let caught = |change: &dyn Fn(&mut NamedFrames)| {
        let mut frames = good();
        change(&mut frames);
        std::panic::catch_unwind(|| fold(frames)).is_err()
    };
    let delta = event("content_block_delta", json!({"index": 0, "delta": {"type": "text_delta", "text": "x"}}));
    assert!(caught(&|frames| drop(frames.remove(0))), "no opening");
    assert!(caught(&|frames| drop(frames.remove(1))), "a delta without a block");
    assert!(caught(&|frames| drop(frames.remove(2))), "an empty text");
    assert!(caught(&|frames| drop(frames.remove(3))), "a block without an end");
    assert!(caught(&|frames| drop(frames.remove(4))), "no reason");
    assert!(caught(&|frames| drop(frames.pop())), "no stop");
    assert!(caught(&|frames| frames.push(delta.clone())), "something after the stop");
    assert!(caught(&|frames| frames.swap(3, 4)), "a reason within a block");
    assert!(caught(&|frames| frames[2] = event("content_block_delta", json!({"index": 1, "delta": {"type": "text_delta", "text": "x"}}))));
    assert!(caught(
        &|frames| frames[2] = event("content_block_delta", json!({"index": 0, "delta": {"type": "thinking_delta", "thinking": "x"}}))
    ));
    assert!(caught(&|frames| frames.insert(1, event("ping", json!({})))));
}
