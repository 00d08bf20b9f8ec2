//! What each event of a relayed stream means, and what is known of the reply beside it.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use understudy::chat::Usage;
use understudy::chat::begun::BegunContent;
use understudy::gateway::fault::Fault;
use understudy::gateway::sse_splitter::SseEvent;
use understudy::gateway::tap::whole::fold_whole;
use understudy::gateway::tap::{ContentKind, Obstacle, Protocol, Tap, Told};

use super::replies::{Piece, pieces, stream, tell};

fn told_by(protocol: Protocol, data: &[&str]) -> (Vec<Told>, Tap) {
    let mut tap = Tap::new(protocol);
    let frames: Vec<String> = data.iter().map(|data| format!("data: {data}\n\n")).collect();
    let told = tell(&mut tap, frames.iter().map(String::as_str));
    (told, tap)
}

#[track_caller]
fn check(protocol: Protocol, events: &[(&str, Told)]) -> Tap {
    let (told, tap) = told_by(protocol, &events.iter().map(|(data, _)| *data).collect::<Vec<_>>());
    for ((data, expected), told) in events.iter().zip(told) {
        assert_eq!(told, *expected, "{data}");
    }
    tap
}

const TEXT: Told = Told::Content(ContentKind::Text);
const THINKING: Told = Told::Content(ContentKind::Thinking);
const TOOL_CALL: Told = Told::Content(ContentKind::ToolCall);
const OTHER: Told = Told::Content(ContentKind::Other);

fn error(fault: Fault) -> Told {
    Told::Error { fault, retry_after: None }
}

#[test]
fn a_message_of_anthropics() {
    let tap = check(
        Protocol::AnthropicMessages,
        &[
            (
                r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[],"stop_reason":null,"usage":{"input_tokens":70,"cache_creation_input_tokens":20,"cache_read_input_tokens":10,"output_tokens":1}}}"#,
                Told::Preamble,
            ),
            (r#"{"type":"ping"}"#, Told::Ping),
            (r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#, THINKING),
            (r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"h\nm"}}"#, THINKING),
            (r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"Sig="}}"#, Told::Progress),
            (r#"{"type":"content_block_stop","index":0}"#, Told::Progress),
            (r#"{"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}"#, Told::Progress),
            (r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":""}}"#, Told::Ping),
            (r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"é\u0041"}}"#, TEXT),
            (r#"{"type":"content_block_delta","index":1,"delta":{"type":"citations_delta","citation":{}}}"#, Told::Progress),
            (r#"{"type":"message_delta","delta":{"stop_reason":null,"stop_sequence":null},"usage":{"output_tokens":4}}"#, Told::Ping),
            (r#"{"type":"content_block_stop","index":1}"#, Told::Progress),
            (
                r#"{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"toolu_1","name":"look","input":{}}}"#,
                TOOL_CALL,
            ),
            (r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":""}}"#, Told::Ping),
            (r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"a\":1}"}}"#, TOOL_CALL),
            (r#"{"type":"content_block_stop","index":2}"#, Told::Progress),
            (r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":42}}"#, Told::Progress),
            (r#"{"type":"message_stop"}"#, Told::Terminal),
        ],
    );
    let seen = tap.seen();
    assert_eq!((seen.reply.id.as_str(), seen.reply.model.as_str(), seen.reply.frames), ("msg_1", "claude", 18));
    assert_eq!(seen.reply.usage, Usage { prompt_tokens: 100, cached_tokens: 10, completion_tokens: 42, thinking_tokens: 0 });
    assert_eq!(seen.cache_written_tokens, 20);
    let contents: Vec<&BegunContent> = seen.reply.pieces.iter().map(|piece| &piece.content).collect();
    let call = BegunContent::ToolCall { call_id: "toolu_1".into(), name: "look".into(), arguments: "{\"a\":1}".into() };
    assert_eq!(contents, [&BegunContent::Thinking("h\nm".into()), &BegunContent::Text("éA".into()), &call]);
    assert!(seen.reply.pieces.iter().all(|piece| !piece.open));
    assert_eq!(seen.signatures().collect::<Vec<_>>(), ["Sig="]);
    assert_eq!((seen.finish.as_deref(), seen.is_terminal, seen.is_refusal), (Some("tool_use"), true, false));
    assert_eq!(seen.obstacle, None);
}

#[test]
fn blocks_of_other_kinds_and_forms() {
    let tap = check(
        Protocol::AnthropicMessages,
        &[
            (r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#, Told::Preamble),
            (r#"{"type":"content_block_stop","index":0}"#, Told::Preamble),
            (r#"{"type":"content_block_start","index":1,"content_block":{"type":"text","text":"at once"}}"#, TEXT),
            (r#"{"type":"content_block_start","index":2,"content_block":{"type":"redacted_thinking","data":"x+/="}}"#, THINKING),
            (r#"{"type":"content_block_stop","index":2}"#, Told::Progress),
            (r#"{"type":"content_block_start","index":3,"content_block":{"type":"server_tool_use","id":"srv","name":"search"}}"#, OTHER),
            (
                r#"{"type":"content_block_start","index":4,"content_block":{"type":"tool_use","id":"t","name":"n","input":{"a":[1, 2]}}}"#,
                TOOL_CALL,
            ),
            (r#"{"type":"message_delta","delta":{"stop_reason":"refusal"}}"#, Told::Progress),
        ],
    );
    let seen = tap.seen();
    assert_eq!(seen.signatures().collect::<Vec<_>>(), ["x+/="]);
    assert_eq!(seen.reply.pieces[1].content, BegunContent::Text("at once".into()));
    assert!(matches!(&seen.reply.pieces[4].content, BegunContent::ToolCall { arguments, .. } if arguments == "{\"a\":[1, 2]}"));
    assert!(seen.is_refusal);
}

#[test]
fn chunks_of_a_chat() {
    let tap = check(
        Protocol::OpenAiChat,
        &[
            (
                r#"{"id":"chatcmpl-1","created":7,"model":"gpt","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}"#,
                Told::Preamble,
            ),
            (r#"{"choices":[{"index":0,"delta":{}}]}"#, Told::Preamble),
            (r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}"#, THINKING),
            (r#"{"choices":[{"index":0,"delta":{"content":"one"}}]}"#, TEXT),
            (r#"{"choices":[{"index":0,"delta":{}}]}"#, Told::Ping),
            (
                r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"look","arguments":""}}]}}]}"#,
                TOOL_CALL,
            ),
            (r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\""}}]}}]}"#, TOOL_CALL),
            (r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":":1}"}}]}}]}"#, TOOL_CALL),
            (
                r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"call_2","function":{"name":"see","arguments":"{}"}}]}}]}"#,
                TOOL_CALL,
            ),
            (r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#, Told::Progress),
            (
                r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":8,"total_tokens":17,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}}"#,
                Told::Progress,
            ),
            ("[DONE]", Told::Terminal),
        ],
    );
    let seen = tap.seen();
    assert_eq!((seen.reply.id.as_str(), seen.reply.model.as_str(), seen.reply.created_unix_s), ("chatcmpl-1", "gpt", 7));
    assert_eq!(seen.reply.usage, Usage { prompt_tokens: 9, cached_tokens: 4, completion_tokens: 8, thinking_tokens: 2 });
    let contents: Vec<BegunContent> = seen.reply.pieces.iter().map(|piece| piece.content.clone()).collect();
    let call = |id: &str, name: &str, arguments: &str| BegunContent::ToolCall {
        call_id: id.into(),
        name: name.into(),
        arguments: arguments.into(),
    };
    let expected = [
        BegunContent::Thinking("hm".into()),
        BegunContent::Text("one".into()),
        call("call_1", "look", "{\"a\":1}"),
        call("call_2", "see", "{}"),
    ];
    assert_eq!(contents, expected);
    assert_eq!(seen.signatures().collect::<Vec<_>>(), ["hm"]);
    assert!(seen.is_terminal && seen.has_usage_field && seen.is_reply_counted && seen.obstacle.is_none());
}

#[test]
fn only_the_last_piece_of_a_chat_is_open() {
    let one = r#"{"choices":[{"index":0,"delta":{"content":"one"}}]}"#;
    let call = r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","function":{"name":"look","arguments":"{"}}]}}]}"#;
    let (_, tap) = told_by(Protocol::OpenAiChat, &[one, call]);
    assert_eq!(tap.seen().reply.pieces.iter().map(|piece| piece.open).collect::<Vec<_>>(), [false, true]);
    let stop = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"content_filter"}]}"#;
    let (_, tap) = told_by(Protocol::OpenAiChat, &[one, stop]);
    assert!(!tap.seen().reply.pieces[0].open && tap.seen().is_refusal);
}

#[test]
fn calls_of_servers_that_do_not_count_them() {
    let call = |id: &str| {
        format!(r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{{"id":"{id}","function":{{"name":"f","arguments":"{{}}"}}}}]}}}}]}}"#)
    };
    let (_, tap) = told_by(Protocol::OpenAiChat, &[&call("a"), &call("b")]);
    assert_eq!(tap.seen().wire.iter().map(|wire| wire.index).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(tap.seen().obstacle, None);
}

#[test]
fn several_choices_are_followed_by_nobody() {
    let chunk = r#"{"choices":[{"index":1,"delta":{"content":"x"}}]}"#;
    assert_eq!(told_by(Protocol::OpenAiChat, &[chunk]).1.seen().obstacle, Some(Obstacle::SeveralChoices));
    let chunk = r#"{"choices":[{"index":1,"text":"x"}]}"#;
    assert_eq!(told_by(Protocol::OpenAiCompletions, &[chunk]).1.seen().obstacle, Some(Obstacle::SeveralChoices));
}

#[test]
fn chunks_of_a_completion() {
    let tap = check(
        Protocol::OpenAiCompletions,
        &[
            (r#"{"id":"cmpl-1","created":7,"model":"gpt","choices":[{"index":0,"text":"one "}]}"#, TEXT),
            (r#"{"id":"cmpl-1","created":7,"model":"gpt","choices":[{"index":0,"text":"two"}]}"#, TEXT),
            (r#"{"id":"cmpl-1","choices":[{"index":0,"text":"","finish_reason":"stop"}]}"#, Told::Progress),
            ("[DONE]", Told::Terminal),
        ],
    );
    assert_eq!(tap.seen().reply.pieces[0].content, BegunContent::Text("one two".into()));
}

#[test]
fn events_of_a_response() {
    let tap = check(
        Protocol::OpenAiResponses,
        &[
            (
                r#"{"type":"response.created","sequence_number":0,"response":{"id":"resp_1","created_at":7,"model":"gpt","output":[]}}"#,
                Told::Preamble,
            ),
            (
                r#"{"type":"response.in_progress","sequence_number":1,"response":{"id":"resp_1","created_at":7,"model":"gpt","output":[]}}"#,
                Told::Preamble,
            ),
            (r#"{"type":"keepalive","sequence_number":2}"#, Told::Ping),
            (
                r#"{"type":"response.output_item.added","sequence_number":3,"output_index":0,"item":{"id":"rs_1","type":"reasoning","summary":[]}}"#,
                THINKING,
            ),
            (
                r#"{"type":"response.reasoning_summary_part.added","sequence_number":4,"output_index":0,"summary_index":0,"part":{"type":"summary_text","text":""}}"#,
                Told::Progress,
            ),
            (
                r#"{"type":"response.reasoning_summary_text.delta","sequence_number":5,"output_index":0,"summary_index":0,"delta":"hm"}"#,
                THINKING,
            ),
            (
                r#"{"type":"response.output_item.done","sequence_number":8,"output_index":0,"item":{"id":"rs_1","type":"reasoning","encrypted_content":"enc"}}"#,
                Told::Progress,
            ),
            (
                r#"{"type":"response.output_item.added","sequence_number":9,"output_index":1,"item":{"id":"msg_1","type":"message","content":[]}}"#,
                Told::Progress,
            ),
            (r#"{"type":"response.content_part.added","sequence_number":10,"output_index":1,"content_index":0,"part":{}}"#, Told::Progress),
            (r#"{"type":"response.in_progress","sequence_number":11,"response":{"id":"resp_1"}}"#, Told::Ping),
            (r#"{"type":"response.output_text.delta","sequence_number":12,"output_index":1,"content_index":0,"delta":"one"}"#, TEXT),
            (r#"{"type":"response.output_text.annotation.added","sequence_number":13,"output_index":1}"#, Told::Progress),
            (
                r#"{"type":"response.output_item.done","sequence_number":14,"output_index":1,"item":{"id":"msg_1","type":"message"}}"#,
                Told::Progress,
            ),
            (
                r#"{"type":"response.output_item.added","sequence_number":15,"output_index":2,"item":{"id":"fc_1","type":"function_call","call_id":"call_1","name":"look","arguments":""}}"#,
                TOOL_CALL,
            ),
            (r#"{"type":"response.function_call_arguments.delta","sequence_number":16,"output_index":2,"delta":"{}"}"#, TOOL_CALL),
        ],
    );
    let seen = tap.seen();
    assert_eq!((seen.reply.id.as_str(), seen.reply.created_unix_s, seen.reply.frames), ("resp_1", 7, 17));
    assert_eq!(seen.signatures().collect::<Vec<_>>(), ["enc"]);
    assert_eq!(
        seen.reply.pieces.iter().map(|piece| (piece.id.as_deref(), piece.open)).collect::<Vec<_>>(),
        [(Some("rs_1"), false), (Some("msg_1"), false), (Some("fc_1"), true)]
    );
    let call = BegunContent::ToolCall { call_id: "call_1".into(), name: "look".into(), arguments: "{}".into() };
    assert_eq!(seen.reply.pieces[2].content, call);
    check(
        Protocol::OpenAiResponses,
        &[(r#"{"type":"response.incomplete","response":{"incomplete_details":{"reason":"max_output_tokens"}}}"#, Told::Terminal)],
    );
    let filtered = r#"{"type":"response.incomplete","response":{"incomplete_details":{"reason":"content_filter"}}}"#;
    assert!(check(Protocol::OpenAiResponses, &[(filtered, Told::Terminal)]).seen().is_refusal);
}

#[test]
fn arguments_that_come_all_at_once_are_kept() {
    let added =
        r#"{"type":"response.output_item.added","output_index":0,"item":{"id":"fc_1","type":"function_call","call_id":"c","name":"f"}}"#;
    let done = r#"{"type":"response.function_call_arguments.done","output_index":0,"arguments":"{\"a\":1}"}"#;
    let (_, tap) = told_by(Protocol::OpenAiResponses, &[added, done]);
    assert!(matches!(&tap.seen().reply.pieces[0].content, BegunContent::ToolCall { arguments, .. } if arguments == "{\"a\":1}"));
}

#[test]
fn errors_say_which_fault_they_are() {
    let overloaded = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    check(Protocol::AnthropicMessages, &[(overloaded, error(Fault::Overloaded))]);
    check(Protocol::AnthropicMessages, &[(r#"{"type":"error","error":{"type":"api_error","message":"x"}}"#, error(Fault::ErrorEvent))]);
    check(Protocol::OpenAiChat, &[(r#"{"error":{"message":"x","type":"server_error","code":null}}"#, error(Fault::ErrorEvent))]);
    check(Protocol::OpenAiChat, &[(r#"{"error":"x"}"#, error(Fault::ErrorEvent))]);
    let limited = r#"{"error":{"message":"Please try again in 20s","type":"tokens","code":"rate_limit_exceeded"}}"#;
    let told = Told::Error { fault: Fault::RateLimited, retry_after: Some(Duration::from_secs(20)) };
    check(Protocol::OpenAiChat, &[(limited, told)]);
    check(Protocol::OpenAiCompletions, &[(limited, told)]);
    let failed = r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"server_is_overloaded","message":"x"}}}"#;
    check(Protocol::OpenAiResponses, &[(failed, error(Fault::Overloaded))]);
    check(Protocol::OpenAiResponses, &[(r#"{"type":"response.failed"}"#, error(Fault::ErrorEvent))]);
    let flat = r#"{"type":"error","code":"rate_limit_exceeded","message":"x","param":null}"#;
    check(Protocol::OpenAiResponses, &[(flat, error(Fault::RateLimited))]);
    let cancelled = r#"{"type":"response.failed","response":{"status":"cancelled"}}"#;
    check(Protocol::OpenAiResponses, &[(cancelled, Told::Terminal)]);
}

#[test]
fn what_is_unknown_breaks_nothing() {
    for protocol in [Protocol::AnthropicMessages, Protocol::OpenAiChat, Protocol::OpenAiCompletions, Protocol::OpenAiResponses] {
        for unknown in ["{\"type\":\"of.tomorrow\",\"delta\":[1],\"message\":7}", "7", "\"text\"", "[]", "null"] {
            let (told, tap) = told_by(protocol, &[unknown]);
            assert!(matches!(told[0], Told::Unknown | Told::Preamble), "{protocol:?} {unknown} {told:?}");
            assert_eq!((tap.seen().malformed, tap.seen().reply.frames), (0, 1));
        }
        let mut tap = Tap::new(protocol);
        assert_eq!(tell(&mut tap, [": comment\n\n", "event: ping\n\n"]), [Told::Ping, Told::Ping]);
        assert_eq!(tap.seen().reply.frames, 0, "a comment is no event");
    }
    assert_eq!(told_by(Protocol::AnthropicMessages, &["[DONE]"]).0, [Told::Unknown]);
}

#[test]
fn the_third_event_that_is_no_json_is_a_fault() {
    let word = r#"{"choices":[{"index":0,"delta":{"content":"x"}}]}"#;
    let (told, tap) = told_by(Protocol::OpenAiChat, &["{", word, "{\"a\":", word, "nonsense"]);
    assert_eq!(told, [Told::Malformed, TEXT, Told::Malformed, TEXT, error(Fault::Malformed)]);
    assert_eq!((tap.seen().malformed, tap.seen().reply.frames), (3, 2));
    let mut tap = Tap::new(Protocol::OpenAiChat);
    let event = SseEvent::new(Bytes::from_static(b"data: {\"a\":\"\xFF\"}\n\n"));
    assert_eq!(tap.event(&event), Told::Malformed, "no UTF-8, no JSON");
}

#[test]
fn a_hole_in_the_arguments_of_a_call_is_a_fault_at_once() {
    let call =
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"rm","arguments":"{\"path\":\"/a"}}]}}]}"#;
    let (told, tap) = told_by(Protocol::OpenAiChat, &[call, "{\"choi"]);
    assert_eq!(told, [TOOL_CALL, error(Fault::Malformed)]);
    assert!(matches!(&tap.seen().reply.pieces[0].content, BegunContent::ToolCall { arguments, .. } if arguments == "{\"path\":\"/a"));
}

#[test]
fn more_than_a_model_writes_is_relayed_and_not_kept() {
    let start = r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
    let mut tap = told_by(Protocol::AnthropicMessages, &[start]).1;
    let text = "x".repeat(1 << 20);
    let delta = format!(r#"data: {{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{text}"}}}}{}"#, "\n\n");
    for _ in 0..20 {
        assert_eq!(tell(&mut tap, [delta.as_str()]), [TEXT]);
    }
    assert_eq!(tap.seen().obstacle, Some(Obstacle::TooLong));
    let BegunContent::Text(kept) = &tap.seen().reply.pieces[0].content else { panic!("it is text") };
    assert_eq!(kept.len(), 16 << 20);
}

#[test]
fn whole_replies() {
    let message = br#"{"id":"msg_1","type":"message","model":"claude","content":[{"type":"thinking","thinking":"hm","signature":"Sig="},{"type":"text","text":"x"}],"stop_reason":"end_turn","usage":{"input_tokens":5,"cache_read_input_tokens":3,"output_tokens":2}}"#;
    let whole = fold_whole(Protocol::AnthropicMessages, message).expect("a message");
    assert_eq!((whole.id.as_str(), whole.model.as_str(), whole.is_refusal), ("msg_1", "claude", false));
    assert_eq!((whole.usage.prompt_tokens, whole.usage.cached_tokens, whole.usage.completion_tokens), (8, 3, 2));
    assert_eq!(whole.signatures, ["Sig="]);
    let chat = br#"{"id":"c","model":"gpt","choices":[{"index":0,"message":{"role":"assistant","content":"x","reasoning_content":"hm"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#;
    let whole = fold_whole(Protocol::OpenAiChat, chat).expect("a chat");
    assert_eq!((whole.usage.prompt_tokens, whole.signatures), (5, vec!["hm".to_owned()]));
    assert!(
        fold_whole(Protocol::OpenAiCompletions, br#"{"choices":[{"text":"x","finish_reason":"content_filter"}]}"#).expect("one").is_refusal
    );
    let response = br#"{"id":"resp_1","model":"gpt","status":"completed","output":[{"type":"reasoning","id":"rs_1","encrypted_content":"enc"},{"type":"reasoning","id":"rs_2"},{"type":"message"}],"usage":{"input_tokens":5,"output_tokens":2}}"#;
    let whole = fold_whole(Protocol::OpenAiResponses, response).expect("a response");
    assert_eq!((whole.usage.completion_tokens, whole.signatures), (2, vec!["enc".to_owned(), "rs_2".to_owned()]));
}

#[test]
fn what_is_no_whole_reply_is_not_the_api() {
    let protocols = [Protocol::AnthropicMessages, Protocol::OpenAiChat, Protocol::OpenAiCompletions, Protocol::OpenAiResponses];
    for protocol in protocols {
        for body in ["", "<html>Log in</html>", "{}", "[]", "null", "{\"id\":\"x\"}", "{\"choices\":[]}", "{\"choices\":[{}]}"] {
            assert_eq!(fold_whole(protocol, body.as_bytes()), Err(Fault::NotTheApi), "{protocol:?} {body:?}");
        }
        assert_eq!(fold_whole(protocol, b"{\"id\":\"msg"), Err(Fault::Cut), "half a reply was one");
        let overloaded = br#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#;
        assert_eq!(fold_whole(protocol, overloaded), Err(Fault::Overloaded), "an error of the API is its own");
    }
    assert_eq!(fold_whole(Protocol::AnthropicMessages, br#"{"content":[]}"#), Err(Fault::NotTheApi));
    assert_eq!(fold_whole(Protocol::OpenAiChat, br#"{"choices":[{"text":"x"}]}"#), Err(Fault::NotTheApi));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_whole_stream_is_what_was_said(
        (protocol, pieces) in prop::sample::select(vec![Protocol::AnthropicMessages, Protocol::OpenAiChat, Protocol::OpenAiResponses])
            .prop_flat_map(|protocol| (Just(protocol), pieces(protocol)))
    ) {
        let mut tap = Tap::new(protocol);
        let frames = stream(protocol, &pieces);
        let told = tell(&mut tap, frames.iter().map(|frame| frame.raw.as_str()));
        prop_assert_eq!(told.iter().filter(|told| matches!(told, Told::Terminal)).count(), 1);
        prop_assert_eq!(told.last(), Some(&Told::Terminal));
        let is_odd = told.iter().any(|told| matches!(told, Told::Unknown | Told::Malformed | Told::Error { .. }));
        prop_assert!(!is_odd);
        for (frame, told) in frames.iter().zip(&told) {
            let says = frame.adds.as_ref().is_some_and(|(_, added)| !added.is_empty());
            prop_assert!(!says || matches!(told, Told::Content(_)), "{}", frame.raw);
        }
        let said = |piece: &Piece| match piece {
            Piece::Thinking(_) => ("thinking", piece.text()),
            Piece::Text(_) => ("text", piece.text()),
            Piece::Call(_) => ("call", piece.text()),
        };
        let seen = |content: &BegunContent| match content {
            BegunContent::Thinking(text) => ("thinking", text.clone()),
            BegunContent::Text(text) => ("text", text.clone()),
            BegunContent::ToolCall { arguments, .. } => ("call", arguments.clone()),
            BegunContent::Other => ("other", String::new()),
        };
        let seen: Vec<_> = tap.seen().reply.pieces.iter().map(|piece| seen(&piece.content)).filter(|(_, text)| !text.is_empty()).collect();
        prop_assert_eq!(seen, pieces.iter().map(said).collect::<Vec<_>>());
    }
}
