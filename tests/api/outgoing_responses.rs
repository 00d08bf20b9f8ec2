//! Requests for an upstream that is spoken to in Responses, word for word, and its replies with what our own dialect does not write.

use serde_json::{Value, json};
use understudy::api::Dialect;
use understudy::api::anthropic_messages::AnthropicMessages;
use understudy::api::openai_chat::OpenAiChat;
use understudy::api::outgoing::Protocol::OpenAiResponses;
use understudy::api::outgoing::reply::{ReadError, whole};
use understudy::api::outgoing::write;
use understudy::chat::{Event, FinishReason, Usage};

use super::outgoing_replies::{lines, read};

#[test]
fn a_session_of_claude_code_for_gpt() {
    let session = json!({
        "model": "claude-opus-4-6", "max_tokens": 9, "stream": true,
        "system": [{"type": "text", "text": "You are an agent."}],
        "messages": [
            {"role": "user", "content": "Fix it."},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_01A", "name": "Bash", "input": {"command": "ls"}},
            ]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_01A", "content": "a.rs"}, {"type": "text", "text": "Go on."}]},
        ],
        "tools": [{"name": "Bash", "description": "Runs.", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "high"},
        "temperature": 1,
    });
    let request = AnthropicMessages::parse(session.to_string().as_bytes()).expect("a good body").request;
    let expected = json!({
        "model": "gpt-5.5",
        "input": [
            {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "You are an agent."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Fix it."}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
            {"type": "function_call", "call_id": "call_01A", "name": "Bash", "arguments": "{\"command\":\"ls\"}"},
            {"type": "function_call_output", "call_id": "call_01A", "output": "a.rs"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Go on."}]},
        ],
        "store": false,
        "tools": [{
            "type": "function",
            "name": "Bash",
            "parameters": {"type": "object", "properties": {"command": {"type": "string"}}},
            "strict": false,
            "description": "Runs.",
        }],
        "tool_choice": "required",
        "parallel_tool_calls": false,
        "max_output_tokens": 16,
        "reasoning": {"effort": "high"},
        "stream": true,
    });
    assert_eq!(write(OpenAiResponses, &request, "gpt-5.5", true), Ok(expected));
}

#[test]
fn what_has_no_words_there_is_refused() {
    for more in [json!({"stop": "END"}), json!({"logprobs": true}), json!({"n": 2}), json!({"guided_regex": "a*"})] {
        let mut body = json!({"messages": [{"role": "user", "content": "x"}]});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let request = OpenAiChat::parse(body.to_string().as_bytes()).expect("a good body").request;
        assert!(write(OpenAiResponses, &request, "gpt-5.5", true).is_err(), "{more}");
    }
}

fn added(index: usize, item: Value) -> Value {
    json!({"type": "response.output_item.added", "output_index": index, "item": item})
}

fn done(index: usize, item: Value) -> Value {
    json!({"type": "response.output_item.done", "output_index": index, "item": item})
}

fn ended(status: &str, more: Value) -> Value {
    let mut response = json!({"id": "resp_1", "status": status, "output": []});
    response.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    json!({"type": format!("response.{status}"), "response": response})
}

fn call(arguments: &str) -> Value {
    json!({"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": arguments})
}

#[test]
fn items_in_pieces_and_at_once() {
    let text = |text: &str| json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]});
    let stream = [
        json!({"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}}),
        added(0, json!({"type": "reasoning", "summary": []})),
        json!({"type": "response.reasoning_summary_part.added", "output_index": 0, "summary_index": 0}),
        json!({"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "hm"}),
        json!({"type": "response.reasoning_summary_part.added", "output_index": 0, "summary_index": 1}),
        json!({"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "so"}),
        done(0, json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}, {"type": "summary_text", "text": "so"}]})),
        added(1, json!({"type": "web_search_call", "status": "in_progress"})),
        done(1, json!({"type": "web_search_call", "status": "completed"})),
        added(2, json!({"type": "message", "content": []})),
        json!({"type": "response.output_text.delta", "output_index": 2, "delta": "one"}),
        json!({"type": "response.output_text.annotation.added", "output_index": 2}),
        done(2, text("one")),
        // Some tell an item only when it is done.
        done(3, text("two")),
        added(4, call("")),
        json!({"type": "response.function_call_arguments.delta", "output_index": 4, "delta": "{\"a\""}),
        json!({"type": "response.function_call_arguments.delta", "output_index": 4, "delta": ":1}"}),
        json!({"type": "response.function_call_arguments.done", "output_index": 4, "arguments": "{\"a\":1}"}),
        done(4, call("{\"a\":1}")),
        added(5, call("")),
        done(5, call("{\"b\":2}")),
        done(6, call("")),
        ended(
            "completed",
            json!({"usage": {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 2}}}),
        ),
    ];
    let events = read(OpenAiResponses, &stream).expect("it can be read");
    let expected = [
        "thinking hm",
        "thinking \n\n",
        "thinking so",
        "text one",
        "text two",
        "0 call_1 f",
        "0 {\"a\"",
        "0 :1}",
        "0 ended",
        "1 call_1 f",
        "1 {\"b\":2}",
        "1 ended",
        "2 call_1 f",
        "2 {}",
        "2 ended",
        "ToolCalls",
    ];
    assert_eq!(lines(&events), expected);
    let usage = Usage { prompt_tokens: 9, cached_tokens: 4, completion_tokens: 7, thinking_tokens: 2 };
    assert_eq!(events.last(), Some(&Event::Finished { reason: FinishReason::ToolCalls, usage }));
}

#[test]
fn ends() {
    for (end, reason) in [
        (ended("completed", json!({})), "EndOfTurn"),
        (ended("incomplete", json!({"incomplete_details": {"reason": "max_output_tokens"}})), "Length"),
        (ended("incomplete", json!({"incomplete_details": {"reason": "content_filter"}})), "Refused"),
    ] {
        assert_eq!(lines(&read(OpenAiResponses, &[end]).expect("it can be read")), [reason]);
    }
    let refused = json!({"type": "response.refusal.delta", "output_index": 0, "delta": "No."});
    assert_eq!(
        lines(&read(OpenAiResponses, &[refused, ended("completed", json!({}))]).expect("it can be read")),
        ["text No.", "EndOfTurn"]
    );
}

#[test]
fn what_is_no_reply_is_an_error() {
    let failed = json!({"error": {"code": "server_error", "message": "down"}});
    let told = Err(ReadError::Upstream { kind: "server_error".into(), message: "down".into() });
    assert_eq!(read(OpenAiResponses, &[ended("failed", failed.clone())]), told);
    assert_eq!(read(OpenAiResponses, &[json!({"type": "error", "code": "server_error", "message": "down", "param": null})]), told);
    assert_eq!(whole(OpenAiResponses, json!({"status": "failed", "error": failed["error"], "output": []}).to_string().as_bytes()), told);
    assert_eq!(read(OpenAiResponses, &[added(0, json!({"type": "message"}))]), Err(ReadError::Cut));
    assert_eq!(whole(OpenAiResponses, json!({"status": "in_progress", "output": []}).to_string().as_bytes()), Err(ReadError::Cut));
    // What is half a call is not closed as one.
    for broken in [
        vec![added(0, call("")), ended("completed", json!({}))],
        vec![added(0, call("")), ended("incomplete", json!({}))],
        vec![added(0, call("")), done(0, json!({"type": "function_call", "status": "incomplete", "arguments": "{"}))],
        vec![added(0, call("")), added(1, json!({"type": "message"}))],
        vec![json!({"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "{"})],
        vec![added(0, json!({"type": "function_call", "call_id": "c"}))],
    ] {
        assert!(matches!(read(OpenAiResponses, &broken), Err(ReadError::OutOfOrder(_))), "{broken:?}");
    }
}
