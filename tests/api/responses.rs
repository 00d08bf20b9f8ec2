//! `POST /v1/responses` over the wire: the stream's grammar, that a stream and a whole response are the same thing, its ends.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use understudy::engine::EngineConfig;
use understudy::server::config::ServerConfig;

use crate::support::response_stream::{check_response, check_stream_equals_whole, masked, masked_text, read_response_stream};
use crate::support::test_app::{Options, TestApp};

const PATH: &str = "/v1/responses";
const CALL: &str = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>";

fn say(text: &str) -> Value {
    json!({"model": "any-name", "input": format!("SAY[[{text}]]")})
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

fn function(name: &str) -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    json!({"type": "function", "name": name, "description": "d", "parameters": parameters, "strict": true})
}

fn patch_tool() -> Value {
    let format = json!({"type": "grammar", "syntax": "lark", "definition": "start: /.+/"});
    json!({"type": "custom", "name": "apply_patch", "description": "Edits files.", "format": format})
}

/// What the model says to call `name` with these arguments.
fn call(name: &str, arguments: &Value) -> String {
    format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {arguments}}}\n</tool_call>")
}

/// A response and its stream, names masked, one event a line.
fn transcript(app: &TestApp, body: &Value) -> String {
    let streaming = with(body.clone(), json!({"stream": true}));
    let reply = app.post(PATH, &streaming);
    let folded = read_response_stream(&reply);
    masked_text(reply.text(), &folded.response).replace("\n\n", "\n")
}

#[test]
fn a_stream_is_exactly_this() {
    let app = TestApp::new();
    insta::assert_snapshot!("response_stream_text", transcript(&app, &say("ab")));
}

#[test]
fn a_whole_response_is_exactly_this() {
    let app = TestApp::new();
    let whole = app.ok(PATH, &with(say("Hello, wörld 😀!"), json!({"metadata": {"a": "b"}, "text": {"verbosity": "low"}})));
    check_response(&whole);
    insta::assert_snapshot!("response_whole", serde_json::to_string_pretty(&masked(&whole)).expect("JSON"));
}

#[test]
fn streams_equal_whole_responses() {
    let app = TestApp::new();
    for text in ["plain", "one two\n\nthree", "äöü 😀👩‍👩‍👧‍👦 中文", "\"quoted\" \\ and \t tab", CALL] {
        let folded = check_stream_equals_whole(&app, &say(text));
        assert_eq!(folded.response["output"][0]["content"][0]["text"], text);
        assert_eq!(folded.response["status"], "completed");
        assert!(folded.deltas.iter().all(|delta| !delta.contains('\u{FFFD}')), "half a character was sent: {:?}", folded.deltas);
    }
    let tools = json!({"tools": [function("weather"), patch_tool()]});
    let patch = call("apply_patch", &json!({"input": "x\n\u{1F600}\"\\"}));
    for text in [CALL.to_owned(), format!("a{CALL}\n{patch}"), format!("{patch}\n{CALL}\n{CALL}"), format!("a {patch}")] {
        check_stream_equals_whole(&app, &with(say(&text), tools.clone()));
    }
}

#[test]
fn silence_is_a_message_without_words() {
    let app = TestApp::new();
    let folded = check_stream_equals_whole(&app, &say(""));
    assert_eq!(folded.response["output"][0]["content"][0]["text"], "");
    assert_eq!(folded.events.last().map(String::as_str), Some("response.completed"));
}

#[test]
fn log_probabilities_come_when_they_are_included() {
    let app = TestApp::new();
    let wanted = json!({"include": ["message.output_text.logprobs", "reasoning.encrypted_content"], "top_logprobs": 2});
    let folded = check_stream_equals_whole(&app, &with(say("abc"), wanted));
    let logprobs = folded.response["output"][0]["content"][0]["logprobs"].as_array().expect("an array");
    assert_eq!(logprobs.len(), 3, "{logprobs:?}");
    assert_eq!((&logprobs[0]["token"], &logprobs[0]["bytes"]), (&json!("a"), &json!([97])));
    assert_eq!(logprobs[0]["top_logprobs"].as_array().map(Vec::len), Some(2));
    let without = check_stream_equals_whole(&app, &with(say("abc"), json!({"top_logprobs": 2})));
    assert_eq!(without.response["output"][0]["content"][0]["logprobs"], json!([]));
}

#[test]
fn what_is_cut_off_is_incomplete() {
    let app = TestApp::new();
    let folded = check_stream_equals_whole(&app, &with(say("many words to say"), json!({"max_output_tokens": 3})));
    assert_eq!(folded.events.last().map(String::as_str), Some("response.incomplete"));
    assert_eq!(folded.response["status"], "incomplete");
    assert_eq!(folded.response["output"][0]["status"], "incomplete");
    assert_eq!(folded.response["usage"]["output_tokens"], 3);
}

#[test]
fn calls_come_back_in_the_clients_words() {
    let app = TestApp::new();
    let tools = json!([
        {"type": "namespace", "name": "crm", "description": "", "tools": [function("find"), patch_tool()]},
        function("find"),
        patch_tool(),
        {"type": "web_search"},
    ]);
    let said = [
        call("find", &json!({"city": "x"})),
        call("crm__find", &json!({"city": "y"})),
        call("crm__apply_patch", &json!({"input": "a"})),
        call("apply_patch", &json!({"input": "b"})),
    ];
    let folded = check_stream_equals_whole(&app, &with(say(&said.join("\n")), json!({"tools": tools})));
    let told: Vec<Value> = folded.response["output"]
        .as_array()
        .expect("an array")
        .iter()
        .map(|item| json!([item["type"], item["namespace"], item["name"], item.get("input").or(item.get("arguments"))]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["function_call", null, "find", "{\"city\":\"x\"}"]),
            json!(["function_call", "crm", "find", "{\"city\":\"y\"}"]),
            json!(["custom_tool_call", "crm", "apply_patch", "a"]),
            json!(["custom_tool_call", null, "apply_patch", "b"]),
        ]
    );
    assert_eq!(folded.response["tools"], tools, "the tools are echoed as they were sent");
}

#[test]
fn the_order_of_items_is_the_order_of_events() {
    let app = TestApp::new();
    let body = with(say(&format!("before\n{CALL}\n{CALL}")), json!({"tools": [function("weather")]}));
    let folded = check_stream_equals_whole(&app, &body);
    let kinds: Vec<&str> =
        folded.response["output"].as_array().expect("an array").iter().filter_map(|item| item["type"].as_str()).collect();
    assert_eq!(kinds, ["message", "function_call", "function_call"]);
}

#[test]
fn a_silent_stream_says_that_it_is_in_progress() {
    let config = ServerConfig { keep_alive_interval: Duration::from_millis(20), ..ServerConfig::default() };
    let app = TestApp::start(Options { config, pace: Duration::from_millis(100), ..Options::default() });
    let folded = read_response_stream(&app.post(PATH, &with(say("ab"), json!({"stream": true}))));
    assert!(folded.keep_alives >= 2, "{:?}", folded.events);
}

#[test]
fn a_model_that_breaks_fails_the_response() {
    let app = TestApp::start(Options { pace: Duration::from_millis(2), ..Options::default() });
    let (mut stream, head) = app.open_stream(PATH, &json!({"input": "recite", "stream": true}));
    assert_eq!(head.status, 200);
    let mut text = Vec::new();
    for _ in 0..6 {
        text.extend(stream.next_chunk().expect("it goes on"));
    }
    app.broken.store(true, Ordering::Relaxed);
    while let Some(chunk) = stream.next_chunk() {
        text.extend(chunk);
    }
    let reply = crate::support::http_client::Reply { head, body: text };
    let folded = read_response_stream(&reply);
    assert_eq!((&folded.response["status"], &folded.response["error"]["code"]), (&json!("failed"), &json!("server_error")));
    assert_eq!(folded.response["output"][0]["content"][0]["text"], folded.deltas.concat(), "what was said is there");
    // Before the first event it is an error like any other.
    let reply = app.post(PATH, &say("x"));
    assert_eq!((reply.status(), &reply.json()["error"]["type"]), (500, &json!("server_error")));
}

#[test]
fn a_prompt_that_is_too_long_is_refused_in_the_words_that_clients_know() {
    let engine = EngineConfig { context_max: 64, ..Options::default().engine };
    let app = TestApp::start(Options { engine, ..Options::default() });
    for stream in [false, true] {
        let reply = app.post(PATH, &json!({"input": "x".repeat(200), "stream": stream}));
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status(), &error["code"], &error["param"]), (400, &json!("context_length_exceeded"), &json!("input")));
    }
}

#[test]
fn a_request_sent_again_hears_the_same_response() {
    let app = TestApp::start(Options { pace: Duration::from_millis(3), ..Options::default() });
    let body = with(say("the quick brown fox"), json!({"stream": true})).to_string();
    let send = || {
        let mut connection = app.connect();
        connection.request("POST", PATH, &["session-id: s", "x-client-request-id: r"], body.as_bytes());
        connection
    };
    let mut first = send();
    app.wait_until("it runs", |stats| stats.running == 1);
    let mut second = send();
    let (first, second) = (read_response_stream(&first.read_reply()), read_response_stream(&second.read_reply()));
    assert_eq!(first.response, second.response);
    let id = first.response["id"].as_str().expect("an id");
    assert_eq!(app.get(&format!("{PATH}/{id}")).json(), first.response);
    assert_eq!(app.stats().finished_total, 1);
}

#[test]
fn prompts_are_counted_without_an_answer() {
    let app = TestApp::new();
    let body = with(say("x"), json!({"instructions": "Be brief.", "tools": [function("weather")]}));
    let counted = app.ok("/v1/responses/input_tokens", &body);
    let answered = app.ok(PATH, &body);
    assert_eq!(counted, json!({"object": "response.input_tokens", "input_tokens": answered["usage"]["input_tokens"]}));
    assert_eq!(app.stats().finished_total, 1);
}
