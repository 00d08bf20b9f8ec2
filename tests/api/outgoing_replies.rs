//! Replies of other servers, in the many ways in which they differ from the API that they imitate.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};
use understudy::api::outgoing::Protocol::{self, AnthropicMessages, OpenAiChat};
use understudy::api::outgoing::names::tool_name;
use understudy::api::outgoing::reply::{ReadError, Reader, whole};
use understudy::chat::{Event, FinishReason, TextDelta, ToolDefinition, Usage};

/// Reads a stream of these events to its end.
pub fn read(protocol: Protocol, stream: &[Value]) -> Result<Vec<Event>, ReadError> {
    let (mut reader, mut events) = (Reader::new(protocol), Vec::new());
    for data in stream {
        reader.event(&data.to_string(), &mut events)?;
    }
    reader.finish(&mut events)?;
    Ok(events)
}

/// Events as short lines.
pub fn lines(events: &[Event]) -> Vec<String> {
    let line = |event: &Event| match event {
        Event::Text(delta) => format!("text {}", delta.text),
        Event::Thinking(text) => format!("thinking {text}"),
        Event::ToolCallStarted { index, id, name } => format!("{index} {id} {name}"),
        Event::ToolCallArguments { index, json } => format!("{index} {json}"),
        Event::ToolCallEnded { index } => format!("{index} ended"),
        Event::Finished { reason, .. } => format!("{reason:?}"),
        Event::Failed(message) => format!("failed {message}"),
    };
    events.iter().map(line).collect()
}

#[track_caller]
fn check(protocol: Protocol, stream: &[Value], expected: &[&str]) {
    assert_eq!(lines(&read(protocol, stream).expect("it can be read")), expected);
}

fn delta(delta: Value) -> Value {
    json!({"id": "chatcmpl-9", "choices": [{"index": 0, "delta": delta, "finish_reason": null}], "usage": null})
}

fn end(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

fn piece(call: Value) -> Value {
    delta(json!({"tool_calls": [call]}))
}

fn function(name: &str, arguments: &str) -> Value {
    json!({"name": name, "arguments": arguments})
}

#[test]
fn names_of_thoughts_and_forms_of_text() {
    for (said, expected) in [
        (json!({"reasoning_content": "hm"}), "thinking hm"),
        (json!({"reasoning": "hm", "reasoning_content": null}), "thinking hm"),
        // Twice the same, for clients of before and after.
        (json!({"reasoning": "hm", "reasoning_content": "hm"}), "thinking hm"),
        (json!({"thinking": "hm", "content": ""}), "thinking hm"),
        (json!({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}), "text ab"),
        (json!({"content": null, "refusal": "No."}), "text No."),
    ] {
        check(OpenAiChat, &[delta(said), end("stop")], &[expected, "EndOfTurn"]);
    }
}

#[test]
fn calls_in_every_form() {
    let expected = ["0 a f", "0 {\"x\":1}", "0 ended", "1 b g", "1 {}", "1 ended", "ToolCalls"];
    // As OpenAI has it; `stop` is what it says where a function was demanded.
    let by_index = [
        piece(json!({"index": 0, "id": "a", "type": "function", "function": function("f", "")})),
        piece(json!({"index": 0, "function": {"arguments": "{\"x\":1}"}})),
        piece(json!({"index": 1, "id": "b", "function": function("g", "{}")})),
        end("stop"),
    ];
    check(OpenAiChat, &by_index, &expected);
    // Without an index; all of them 0; an object instead of its text; both at once.
    let whole = |index: Value, id: &str, name: &str, arguments: Value| {
        let mut call = json!({"id": id, "function": {"name": name, "arguments": arguments}});
        if !index.is_null() {
            call["index"] = index;
        }
        call
    };
    for index in [Value::Null, json!(0)] {
        let calls = [whole(index.clone(), "a", "f", json!({"x": 1})), whole(index.clone(), "b", "g", json!("{}"))];
        check(OpenAiChat, &[piece(calls[0].clone()), piece(calls[1].clone()), end("tool_calls")], &expected);
        check(OpenAiChat, &[delta(json!({"tool_calls": calls})), end("function_call")], &expected);
    }
    // No arguments at all.
    check(
        OpenAiChat,
        &[piece(json!({"id": "a", "function": {"name": "f"}})), end("tool_calls")],
        &["0 a f", "0 {}", "0 ended", "ToolCalls"],
    );
    // No ids: they are made of the reply's, so that those of another reply differ.
    let nameless = [piece(json!({"function": function("f", "{}")})), piece(json!({"function": function("g", "{}")})), end("stop")];
    let expected = ["0 call_9_0 f", "0 {}", "0 ended", "1 call_9_1 g", "1 {}", "1 ended", "ToolCalls"];
    check(OpenAiChat, &nameless, &expected);
    // The name again in every piece.
    let again = [
        piece(json!({"index": 0, "id": "a", "function": function("f", "{\"x\"")})),
        piece(json!({"index": 0, "id": "a", "function": function("f", ":1}")})),
        end("tool_calls"),
    ];
    check(OpenAiChat, &again, &["0 a f", "0 {\"x\"", "0 :1}", "0 ended", "ToolCalls"]);
}

/// Clients of ours are told one call after the other, whole.
#[test]
fn what_comes_mixed_is_told_in_order() {
    let mixed = [
        piece(json!({"index": 0, "id": "a", "function": function("f", "{\"x\"")})),
        piece(json!({"index": 1, "id": "b", "function": function("g", "{\"y\"")})),
        delta(json!({"content": "So."})),
        piece(json!({"index": 0, "function": {"arguments": ":1}"}})),
        piece(json!({"index": 1, "function": {"arguments": ":2}"}})),
        end("tool_calls"),
    ];
    let expected = ["0 a f", "0 {\"x\"", "0 :1}", "0 ended", "1 b g", "1 {\"y\"", "1 :2}", "1 ended", "text So.", "ToolCalls"];
    check(OpenAiChat, &mixed, &expected);
    let late = [
        piece(json!({"index": 0, "id": "a", "function": function("f", "{}")})),
        delta(json!({"content": "So."})),
        piece(json!({"index": 0, "function": {"arguments": "{}"}})),
    ];
    assert!(matches!(read(OpenAiChat, &late), Err(ReadError::OutOfOrder(_))));
    let broken = [piece(json!({"index": 0, "id": "a", "function": function("f", "{\"x")})), end("length")];
    check(OpenAiChat, &broken, &["0 a f", "0 {\"x", "0 ended", "Length"]);
    let nameless = [piece(json!({"index": 0, "id": "a", "function": {"arguments": "{}"}})), end("tool_calls")];
    assert!(matches!(read(OpenAiChat, &nameless), Err(ReadError::OutOfOrder(_))));
}

#[test]
fn the_usage_wherever_it_stands() {
    let expected = Usage { prompt_tokens: 10, cached_tokens: 4, completion_tokens: 5, thinking_tokens: 2 };
    let told = json!({
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": null},
        "completion_tokens_details": {"reasoning_tokens": 2},
    });
    let text = delta(json!({"role": "assistant", "content": "a"}));
    let mut with_end = end("stop");
    with_end["usage"] = told.clone();
    let alone = json!({"choices": [], "usage": told});
    let of_deepseek = json!({"choices": [], "usage": {"prompt_tokens": 10, "prompt_cache_hit_tokens": 4, "completion_tokens": 5,
        "prompt_tokens_details": null, "completion_tokens_details": {"reasoning_tokens": 2}}});
    for stream in
        [vec![text.clone(), with_end.clone()], vec![text.clone(), end("stop"), alone.clone()], vec![text, end("stop"), of_deepseek]]
    {
        let finished = Event::Finished { reason: FinishReason::EndOfTurn, usage: expected };
        assert_eq!(read(OpenAiChat, &stream).expect("it can be read").last(), Some(&finished));
    }
    // More from the cache than there was: what is computed from it must not be negative.
    let wrong = json!({"choices": [], "usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 9}}});
    let Some(Event::Finished { usage, .. }) = read(OpenAiChat, &[end("stop"), wrong]).expect("it can be read").pop() else {
        panic!("it ends")
    };
    assert_eq!(usage.cached_tokens, 3);

    let start = json!({"type": "message_start", "message": {"usage": {
        "input_tokens": 1, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 1,
    }}});
    let stop = json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {
        "output_tokens": 5, "output_tokens_details": {"thinking_tokens": 2}, "input_tokens": null,
    }});
    let finished = Event::Finished { reason: FinishReason::EndOfTurn, usage: expected };
    assert_eq!(read(AnthropicMessages, &[start, stop]), Ok(vec![finished]));
}

fn block(index: u64, block: Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}

fn block_delta(index: u64, delta: Value) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}

fn stop_reason(reason: &str) -> Value {
    json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": "END"}, "usage": {"output_tokens": 1}})
}

#[test]
fn blocks_of_every_kind() {
    let stop = |index: u64| json!({"type": "content_block_stop", "index": index});
    let stream = [
        json!({"type": "message_start", "message": {"id": "msg_1", "usage": {"input_tokens": 1, "output_tokens": 0}}}),
        json!({"type": "ping"}),
        block(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
        block_delta(0, json!({"type": "thinking_delta", "thinking": "hm"})),
        block_delta(0, json!({"type": "signature_delta", "signature": "EqQB"})),
        stop(0),
        block(1, json!({"type": "redacted_thinking", "data": "x"})),
        stop(1),
        // A sign of life.
        json!({"type": "message_delta", "delta": {"stop_reason": null}, "usage": {"output_tokens": 0}}),
        block(2, json!({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}})),
        block_delta(2, json!({"type": "input_json_delta", "partial_json": "{\"query\":1}"})),
        stop(2),
        block(3, json!({"type": "text", "text": "A"})),
        block_delta(3, json!({"type": "text_delta", "text": "b"})),
        block_delta(3, json!({"type": "citations_delta", "citation": {}})),
        stop(3),
        block(4, json!({"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}})),
        block_delta(4, json!({"type": "input_json_delta", "partial_json": ""})),
        stop(4),
        // Whole at once, as some imitators send it, and never ended.
        block(5, json!({"type": "tool_use", "id": "toolu_2", "name": "g", "input": {"x": 1}})),
        json!({"type": "tomorrow"}),
        stop_reason("tool_use"),
        json!({"type": "message_stop"}),
        block_delta(5, json!({"type": "text_delta", "text": "after the end"})),
    ];
    let expected =
        ["thinking hm", "text A", "text b", "0 call_1 f", "0 {}", "0 ended", "1 call_2 g", "1 {\"x\":1}", "1 ended", "ToolCalls"];
    check(AnthropicMessages, &stream, &expected);
}

#[test]
fn reasons() {
    for (told, reason) in [
        ("stop", FinishReason::EndOfTurn),
        ("eos", FinishReason::EndOfTurn),
        ("length", FinishReason::Length),
        // No call came: a client would wait for one.
        ("tool_calls", FinishReason::EndOfTurn),
        ("content_filter", FinishReason::Refused),
    ] {
        assert_eq!(read(OpenAiChat, &[end(told)]), Ok(vec![Event::Finished { reason, usage: Usage::default() }]), "{told}");
    }
    assert!(matches!(read(OpenAiChat, &[end("error")]), Err(ReadError::Upstream { kind, .. }) if kind == "error"));
    for (told, reason) in [
        ("end_turn", FinishReason::EndOfTurn),
        ("pause_turn", FinishReason::EndOfTurn),
        ("stop_sequence", FinishReason::StopString("END".into())),
        ("max_tokens", FinishReason::Length),
        ("model_context_window_exceeded", FinishReason::Length),
        ("refusal", FinishReason::Refused),
    ] {
        let usage = Usage { completion_tokens: 1, ..Usage::default() };
        assert_eq!(read(AnthropicMessages, &[stop_reason(told)]), Ok(vec![Event::Finished { reason, usage }]), "{told}");
    }
}

/// A truncated answer is never taken for a whole one.
#[test]
fn a_stream_without_an_end_is_an_error() {
    let mut events = Vec::new();
    let mut reader = Reader::new(OpenAiChat);
    reader.event(&delta(json!({"content": "a"})).to_string(), &mut events).expect("a piece");
    assert_eq!(reader.event("[DONE]", &mut events), Err(ReadError::Cut));
    assert_eq!(reader.finish(&mut events), Err(ReadError::Cut));
    assert!(!reader.is_finished());
    assert_eq!(events, [Event::Text(TextDelta { text: "a".into(), tokens: Vec::new() })]);
    for protocol in [OpenAiChat, AnthropicMessages] {
        assert_eq!(read(protocol, &[]), Err(ReadError::Cut));
        assert_eq!(whole(protocol, b"{}"), Err(ReadError::Cut));
    }
    assert_eq!(read(AnthropicMessages, &[json!({"type": "message_stop"})]), Err(ReadError::Cut));
}

#[test]
fn errors_within_a_stream() {
    let upstream = |kind: &str, message: &str| Err(ReadError::Upstream { kind: kind.into(), message: message.into() });
    let overloaded = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    assert_eq!(read(AnthropicMessages, std::slice::from_ref(&overloaded)), upstream("overloaded_error", "Overloaded"));
    assert_eq!(whole(AnthropicMessages, overloaded.to_string().as_bytes()), upstream("overloaded_error", "Overloaded"));
    for (data, kind, message) in [
        (json!({"error": {"type": "server_error", "message": "no", "code": null}}), "server_error", "no"),
        (json!({"error": {"message": "no", "code": 429}}), "429", "no"),
        (json!({"error": "no"}), "error", "no"),
        (json!({"object": "error", "type": "BadRequestError", "message": "no", "code": 400}), "BadRequestError", "no"),
        (json!({"error": {}}), "error", "{}"),
    ] {
        assert_eq!(read(OpenAiChat, std::slice::from_ref(&data)), upstream(kind, message), "{data}");
        assert_eq!(whole(OpenAiChat, data.to_string().as_bytes()), upstream(kind, message), "{data}");
    }
    // What is no JSON spoils nothing of what follows.
    for (protocol, last) in [(OpenAiChat, end("stop")), (AnthropicMessages, stop_reason("end_turn"))] {
        let (mut reader, mut events) = (Reader::new(protocol), Vec::new());
        for broken in ["{\"choices\":[{\"del", "<html>", "", "3"] {
            assert!(matches!(reader.event(broken, &mut events), Err(ReadError::NotJson(_))), "{broken}");
        }
        reader.event(&last.to_string(), &mut events).expect("the next can be read");
        reader.finish(&mut events).expect("and it ends");
        assert_eq!(lines(&events), ["EndOfTurn"]);
    }
}

#[test]
fn a_tool_has_the_clients_name_again() {
    let tool = ToolDefinition { name: "files.read".into(), description: None, parameters: None, strict: false };
    let call = json!({"id": "a", "function": {"name": tool_name(&tool.name), "arguments": "{}"}});
    let (mut reader, mut events) = (Reader::new(OpenAiChat).with_tools(std::slice::from_ref(&tool)), Vec::new());
    reader.event(&piece(call.clone()).to_string(), &mut events).expect("it can be read");
    assert_eq!(lines(&events), ["0 a files.read", "0 {}"]);
    let body = json!({"choices": [{"message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]}).to_string();
    let whole = Reader::new(OpenAiChat).with_tools(&[tool]).whole(body.as_bytes()).expect("it can be read");
    assert_eq!(lines(&whole)[0], "0 a files.read");
}

/// One that nobody would write: pieces of calls in any order, named, indexed, identified or not.
fn any_chunk() -> impl Strategy<Value = Value> {
    let words = |words: &[&'static str]| option::of(select(words.to_vec()));
    let call = (option::of(0..3_u64), words(&["", "a", "b", "c"]), words(&["", "f", "g"]), words(&["", "{", "}", "{}", "{\"x\":1}", " "]))
        .prop_map(|(index, id, name, arguments)| json!({"index": index, "id": id, "function": {"name": name, "arguments": arguments}}));
    let content = words(&["", "a", "b"]);
    (content.clone(), content, option::of(vec(call, 0..3)), option::weighted(0.2, select(vec!["stop", "length", "tool_calls"]))).prop_map(
        |(content, reasoning, calls, reason)| {
            let delta = json!({"content": content, "reasoning": reasoning, "tool_calls": calls});
            json!({"choices": [{"delta": delta, "finish_reason": reason}]})
        },
    )
}

fn any_event() -> impl Strategy<Value = Value> {
    let kinds = ["text", "thinking", "tool_use", "other"];
    let deltas = ["text_delta", "thinking_delta", "input_json_delta", "other"];
    let begun = (0..3_u64, select(kinds.to_vec())).prop_map(|(index, kind)| block(index, json!({"type": kind, "name": "f", "text": "a"})));
    let going = (0..3_u64, select(deltas.to_vec()))
        .prop_map(|(index, kind)| block_delta(index, json!({"type": kind, "text": "a", "thinking": "b", "partial_json": "{}"})));
    let kinds = ["content_block_stop", "message_delta", "message_start", "ping", "message_stop"];
    let other = select(kinds.to_vec()).prop_map(|kind| json!({"type": kind}));
    prop_oneof![2 => begun, 3 => going, 2 => other, 1 => Just(stop_reason("tool_use"))]
}

/// What a dialect relies on: one call at a time, begun, filled, ended; one end, and nothing after it.
fn check_order(events: &[Event]) {
    let (mut calls, mut open, mut ended) = (0, false, false);
    for event in events {
        assert!(!ended, "nothing follows the end: {events:?}");
        match event {
            Event::Text(_) | Event::Thinking(_) => assert!(!open, "a call is not interrupted: {events:?}"),
            Event::ToolCallStarted { index, id, name } => {
                assert!(!open && *index == calls && !id.is_empty() && !name.is_empty(), "{events:?}");
                (calls, open) = (calls + 1, true);
            }
            Event::ToolCallArguments { index, json } => assert!(open && index + 1 == calls && !json.is_empty(), "{events:?}"),
            Event::ToolCallEnded { index } => {
                assert!(open && index + 1 == calls, "{events:?}");
                open = false;
            }
            Event::Finished { reason, .. } => {
                assert!(!open && (*reason == FinishReason::ToolCalls) <= (calls > 0), "{events:?}");
                ended = true;
            }
            Event::Failed(_) => panic!("errors are errors"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, rng_seed: RngSeed::Fixed(3), ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_its_events_are_in_order(chunks in vec(any_chunk(), 0..8), blocks in vec(any_event(), 0..12)) {
        for (protocol, stream) in [(OpenAiChat, chunks), (AnthropicMessages, blocks)] {
            let (mut reader, mut events) = (Reader::new(protocol), Vec::new());
            let read = stream.iter().try_for_each(|data| reader.event(&data.to_string(), &mut events));
            let read = read.and_then(|()| reader.finish(&mut events));
            check_order(&events);
            let is_finished = matches!(events.last(), Some(Event::Finished { .. }));
            prop_assert_eq!((read.is_ok(), reader.is_finished()), (is_finished, is_finished));
        }
    }
}
