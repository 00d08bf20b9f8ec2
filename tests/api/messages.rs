//! `POST /v1/messages` and what belongs to it, from outside: replies, streams, tools, counting, models.

use std::sync::atomic::Ordering;
use std::time::Duration;

use insta::assert_snapshot;
use serde_json::{Value, json};
use understudy::engine::EngineConfig;
use understudy::server::config::ServerConfig;

use crate::support::http_client::Reply;
use crate::support::messages_stream::{Folded, read_messages_stream};
use crate::support::test_app::{MODEL, Options, TestApp, Voice};

const PATH: &str = "/v1/messages?beta=true";
const COUNT: &str = "/v1/messages/count_tokens";
const CALL: &str = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>";

fn say(text: &str) -> Value {
    json!({"model": "claude-opus-4-8", "max_tokens": 1000, "messages": [{"role": "user", "content": format!("SAY[[{text}]]")}]})
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().expect("a body is an object").extend(more.as_object().expect("fields are an object").clone());
    body
}

fn tools() -> Value {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    json!([{"name": "weather", "description": "d", "input_schema": schema}, {"type": "custom", "name": "time", "input_schema": {"type": "object"}}])
}

fn streamed(app: &TestApp, body: &Value) -> Folded {
    read_messages_stream(&app.post(PATH, &with(body.clone(), json!({"stream": true}))))
}

/// The same request as a stream and whole: equal in everything but what is drawn anew. The fold is returned.
#[track_caller]
fn check_stream_equals_whole(app: &TestApp, body: &Value) -> Folded {
    let whole = app.ok(PATH, body);
    let folded = streamed(app, body);
    assert_eq!(masked(folded.message.clone()).to_string(), masked(whole).to_string());
    folded
}

/// Without ids, and without what the cache knew.
fn masked(mut message: Value) -> Value {
    let id = message["id"].take();
    assert!(id.as_str().is_some_and(|id| id.starts_with("msg_") && id.len() == 36), "{id}");
    for block in message["content"].as_array_mut().expect("content is an array") {
        if let Some(id) = block.get_mut("id") {
            assert!(id.as_str().is_some_and(|id| id.starts_with("toolu_") && id.len() == 30), "{id}");
            *id = Value::Null;
        }
    }
    let usage = &mut message["usage"];
    let prompt = usage["input_tokens"].as_u64().expect("a number") + usage["cache_read_input_tokens"].as_u64().expect("a number");
    usage["input_tokens"] = prompt.into();
    usage["cache_read_input_tokens"] = 0.into();
    message
}

#[test]
fn a_whole_reply_is_exactly_this() {
    let app = TestApp::new();
    let reply = app.post(PATH, &say("Hello, wörld 😀!"));
    let id = reply.json()["id"].as_str().expect("an id").to_owned();
    assert_snapshot!(reply.text().replace(&id, "ID"), @r#"{"id":"ID","type":"message","role":"assistant","model":"tiny/test-model:Q8_0","content":[{"type":"text","text":"Hello, wörld 😀!"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":41,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":17,"output_tokens_details":{"thinking_tokens":0}}}"#);
    assert!(reply.header("request-id").is_some());
}

#[test]
fn a_stream_is_exactly_this() {
    let app = TestApp::new();
    let reply = app.post(PATH, &with(say(&format!("ab{CALL}")), json!({"stream": true, "tools": tools()})));
    let folded = read_messages_stream(&reply);
    let (id, call) = (&folded.message["id"], &folded.message["content"][1]["id"]);
    let text = reply.text().replace(id.as_str().expect("an id"), "ID").replace(call.as_str().expect("an id"), "CALL");
    assert_snapshot!(text, @r#"
    event: message_start
    data: {"type":"message_start","message":{"id":"ID","type":"message","role":"assistant","model":"tiny/test-model:Q8_0","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":380,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0,"output_tokens_details":{"thinking_tokens":0}}}}

    event: content_block_start
    data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"b"}}

    event: content_block_stop
    data: {"type":"content_block_stop","index":0}

    event: content_block_start
    data: {"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"CALL","name":"weather","input":{}}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{"}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"\""}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"c"}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"i"}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"t"}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"y"}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"\""}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":":"}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":" "}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"\""}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"O"}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"s"}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"lo"}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"\""}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"}"}}

    event: content_block_stop
    data: {"type":"content_block_stop","index":1}

    event: message_delta
    data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":380,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":74,"output_tokens_details":{"thinking_tokens":0}}}

    event: message_stop
    data: {"type":"message_stop"}
    "#);
}

#[test]
fn streams_equal_whole_replies() {
    let app = TestApp::new();
    for text in ["plain", "one two\n\nthree", "äöü 😀👩‍👩‍👧‍👦 中文", "\"quoted\" \\ and \t tab", CALL] {
        let folded = check_stream_equals_whole(&app, &say(text));
        assert_eq!(folded.message["content"], json!([{"type": "text", "text": text}]));
        assert_eq!(folded.message["stop_reason"], "end_turn");
        assert!(folded.deltas.iter().all(|delta| !delta.contains('\u{FFFD}')), "half a character was sent: {:?}", folded.deltas);
    }
    let silent = check_stream_equals_whole(&app, &say(""));
    assert_eq!((&silent.message["content"], &silent.message["stop_reason"]), (&json!([]), &json!("end_turn")));
}

#[test]
fn reasons_to_stop() {
    let engine = EngineConfig { context_max: 256, ..Options::default().engine };
    let app = TestApp::start(Options { engine, ..Options::default() });
    for (more, shown, reason, sequence) in [
        (json!({}), "one two STOP three", "end_turn", Value::Null),
        (json!({"stop_sequences": ["never", "STOP"]}), "one two ", "stop_sequence", json!("STOP")),
        (json!({"stop_sequences": ["three", "wo S"]}), "one t", "stop_sequence", json!("wo S")),
        (json!({"stop_sequences": []}), "one two STOP three", "end_turn", Value::Null),
        (json!({"max_tokens": 3}), "one", "max_tokens", Value::Null),
    ] {
        let message = check_stream_equals_whole(&app, &with(say("one two STOP three"), more.clone())).message;
        assert_eq!(message["content"][0]["text"], shown, "{more}");
        assert_eq!((&message["stop_reason"], &message["stop_sequence"]), (&json!(reason), &sequence), "{more}");
    }
    // More than the context holds is no error: the reply ends where the context does, and says so.
    let endless = json!({"max_tokens": 64_000, "messages": [{"role": "user", "content": "x"}]});
    let message = check_stream_equals_whole(&app, &endless).message;
    assert_eq!(message["stop_reason"], "model_context_window_exceeded");
    // A limit that is where the context ends is the client's own.
    let room = 256 - masked(message)["usage"]["input_tokens"].as_u64().expect("a number");
    assert_eq!(check_stream_equals_whole(&app, &with(endless, json!({"max_tokens": room}))).message["stop_reason"], "max_tokens");
}

#[test]
fn a_prompt_can_be_computed_for_later() {
    let app = TestApp::new();
    let body = with(say(&"x".repeat(200)), json!({"max_tokens": 0}));
    let message = check_stream_equals_whole(&app, &body).message;
    assert_eq!((&message["content"], &message["stop_reason"]), (&json!([]), &json!("max_tokens")));
    let usage = app.ok(PATH, &with(body, json!({"max_tokens": 1})))["usage"].take();
    assert!(usage["cache_read_input_tokens"].as_u64().is_some_and(|tokens| tokens >= 192), "{usage}");
}

#[test]
fn usage_tells_what_was_cached() {
    let app = TestApp::new();
    let body = say(&"x".repeat(200));
    let cold = app.ok(PATH, &body)["usage"].take();
    let warm = streamed(&app, &body);
    let number = |usage: &Value, field: &str| usage[field].as_u64().expect("a number");
    assert_eq!(number(&cold, "cache_read_input_tokens"), 0);
    let usage = &warm.message["usage"];
    assert!(number(usage, "cache_read_input_tokens") >= 192, "{usage}");
    assert_eq!(number(usage, "cache_read_input_tokens") + number(usage, "input_tokens"), number(&cold, "input_tokens"));
    assert_eq!(number(&warm.opening_usage, "input_tokens"), number(&cold, "input_tokens"), "what is known at the beginning");
}

#[test]
fn tools_are_called() {
    let app = TestApp::new();
    let call = |city: &str| json!({"type": "tool_use", "id": null, "name": "weather", "input": {"city": city}});
    let body = with(say(&format!("Let me see.\n{CALL}\n{}", CALL.replace("Oslo", "Rome"))), json!({"tools": tools()}));
    for (choice, content) in [
        (Value::Null, json!([{"type": "text", "text": "Let me see."}, call("Oslo"), call("Rome")])),
        (json!({"type": "auto", "disable_parallel_tool_use": true}), json!([{"type": "text", "text": "Let me see."}, call("Oslo")])),
    ] {
        let message = masked(check_stream_equals_whole(&app, &with(body.clone(), json!({"tool_choice": choice}))).message);
        assert_eq!((&message["content"], &message["stop_reason"]), (&content, &json!("tool_use")), "{choice}");
    }
    let forced = with(say(CALL), json!({"tools": tools()}));
    for choice in
        [json!({"type": "any"}), json!({"type": "tool", "name": "weather"}), json!({"type": "any", "disable_parallel_tool_use": true})]
    {
        let message = masked(check_stream_equals_whole(&app, &with(forced.clone(), json!({"tool_choice": choice}))).message);
        assert_eq!(message["content"], json!([call("Oslo")]), "{choice}");
    }
    // It may not be said, whatever the model wants: what stands there instead is the sampler's.
    let none = with(forced, json!({"tool_choice": {"type": "none"}, "temperature": 0, "max_tokens": 40}));
    let none = check_stream_equals_whole(&app, &none).message;
    let kinds: Vec<&Value> = none["content"].as_array().expect("blocks").iter().map(|block| &block["type"]).collect();
    assert_eq!(kinds, ["text"], "{none}");
}

#[test]
fn a_tool_that_only_a_server_of_anthropic_runs_is_answered_in_words() {
    let app = TestApp::new();
    let search = json!({"type": "web_search_20250305", "name": "web_search", "max_uses": 8});
    for (tools, choice) in [
        (json!([search]), json!({"type": "tool", "name": "web_search"})),
        (json!([search]), json!({"type": "any"})),
        (json!([search]), json!({"type": "auto"})),
        (json!([search, {"name": "weather", "input_schema": {"type": "object"}}]), json!({"type": "tool", "name": "web_search"})),
    ] {
        let body = with(say("I cannot search."), json!({"tools": tools, "tool_choice": choice}));
        assert_eq!(check_stream_equals_whole(&app, &body).message["content"][0]["text"], "I cannot search.", "{choice}");
    }
}

#[test]
fn results_go_back_in() {
    let app = TestApp::new();
    let asked = json!({"role": "user", "content": "weather?"});
    let first =
        app.ok(PATH, &json!({"max_tokens": 100, "tools": tools(), "messages": [{"role": "user", "content": format!("SAY[[{CALL}]]")}]}));
    let id = &first["content"][0]["id"];
    let result = json!({"type": "tool_result", "tool_use_id": id, "content": [{"type": "text", "text": "3 C SAY[[It is 3 C.]]"}]});
    let messages = json!([asked, {"role": "assistant", "content": first["content"]}, {"role": "user", "content": [result]}]);
    let message = check_stream_equals_whole(&app, &json!({"max_tokens": 100, "tools": tools(), "messages": messages})).message;
    assert_eq!(message["content"][0]["text"], "It is 3 C.");
}

#[test]
fn counting_agrees_with_answering() {
    let app = TestApp::new();
    let search = json!({"type": "web_search_20250305", "name": "web_search"});
    for more in [
        json!({}),
        json!({"system": "Be brief."}),
        json!({"system": [{"type": "text", "text": "Be brief."}], "tools": tools()}),
        json!({"tools": tools(), "tool_choice": {"type": "any"}}),
        json!({"tools": [search], "tool_choice": {"type": "tool", "name": "web_search"}, "thinking": {"type": "adaptive"}}),
        // Large enough to be read away from the sockets.
        json!({"system": "words ".repeat(500)}),
    ] {
        let body = with(say(CALL), more.clone());
        let answered = masked(app.ok(PATH, &body))["usage"]["input_tokens"].clone();
        let mut counted = body.clone();
        counted.as_object_mut().expect("an object").shift_remove("max_tokens");
        assert_eq!(app.ok(COUNT, &counted), json!({"input_tokens": answered}), "{more}");
    }
    // What is too long to be answered can still be counted.
    let long = json!({"messages": [{"role": "user", "content": "x".repeat(10_000)}]});
    assert!(app.ok(COUNT, &long)["input_tokens"].as_u64().is_some_and(|tokens| tokens > 10_000));
}

#[test]
fn counting_asks_nothing_of_the_engine() {
    let app = TestApp::start(Options { pace: Duration::from_secs(30), ..Options::default() });
    assert!(app.ok(COUNT, &say("x"))["input_tokens"].as_u64().is_some_and(|tokens| tokens > 0));
    assert_eq!((app.stats().running, app.stats().steps_total), (0, 0));
}

#[test]
fn models_in_anthropics_form() {
    let app = TestApp::new();
    let version = ["anthropic-version: 2023-06-01"];
    let model = json!({
        "type": "model", "id": MODEL, "display_name": MODEL, "created_at": "2026-03-02T10:49:05Z", "lifecycle": "active",
        "max_input_tokens": 4096, "max_tokens": 4096,
    });
    let list = app.send("GET", "/v1/models?limit=1000", &version, b"").json();
    assert_eq!(list, json!({"data": [model], "has_more": false, "first_id": MODEL, "last_id": MODEL}));
    assert_eq!(app.send("GET", "/v1/models/claude-opus-4-8", &version, b"").json(), model);
    assert_eq!(app.get("/v1/models").json()["object"], "list", "and in OpenAI's for everybody else");
}

#[test]
fn the_opening_comes_before_the_first_token() {
    let app = TestApp::start(Options { pace: Duration::from_secs(3), ..Options::default() });
    let (mut stream, head) = app.open_stream(PATH, &with(say("x"), json!({"stream": true})));
    assert_eq!(head.status, 200);
    let opening = String::from_utf8(stream.next_chunk().expect("an opening event")).expect("text");
    assert!(opening.starts_with("event: message_start\ndata: {\"type\":\"message_start\","), "{opening}");
    assert_eq!(app.stats().generated_tokens_total, 0);
}

#[test]
fn keep_alives_are_deltas_that_change_nothing() {
    let config = ServerConfig { keep_alive_interval: Duration::from_millis(20), ..Default::default() };
    let app = TestApp::start(Options { config, pace: Duration::from_millis(150), ..Options::default() });
    let folded = streamed(&app, &say("xy"));
    assert!(folded.keep_alives > 0);
    assert_eq!(folded.message["content"], json!([{"type": "text", "text": "xy"}]));
    assert_eq!(folded.message["usage"]["output_tokens"], 2);
}

#[test]
fn an_error_in_the_middle_is_an_event() {
    let app = TestApp::start(Options { pace: Duration::from_millis(20), ..Options::default() });
    let (mut stream, head) = app.open_stream(PATH, &with(say(&"x".repeat(500)), json!({"stream": true})));
    let mut body = stream.next_chunk().expect("an opening event");
    app.broken.store(true, Ordering::Relaxed);
    while let Some(chunk) = stream.next_chunk() {
        body.extend(chunk);
    }
    let folded = read_messages_stream(&Reply { head, body });
    assert_eq!(folded.error, Some(json!({"type": "api_error", "message": "the model failed: the fake model is broken"})));
}

#[test]
fn a_reply_follows_its_schema() {
    // Whatever this model would rather say.
    let app = TestApp::start(Options { voice: Voice::Babbling, ..Options::default() });
    let schema = json!({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "schema": schema});
    for field in [json!({"output_config": {"format": format}}), json!({"output_format": format})] {
        let message = check_stream_equals_whole(&app, &with(say("x"), with(field, json!({"seed": 7, "temperature": 0})))).message;
        let text = message["content"][0]["text"].as_str().expect("text");
        let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"));
        assert!(value["ok"].is_boolean(), "{text}");
    }
}

#[test]
fn claude_code_looks_first_whether_somebody_is_there() {
    let app = TestApp::new();
    let mut connection = app.connect();
    connection.request("HEAD", "/", &[], b"");
    assert_eq!(connection.read_head().status, 200);
}
