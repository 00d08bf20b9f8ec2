//! Bad input in Anthropic's dialect: each gets an error in that API's shape, whose message names the field.

use serde_json::{Value, json};
use understudy::server::config::{ApiKeys, ServerConfig};

use crate::support::http_client::Reply;
use crate::support::test_app::{Options, TestApp};

const PATH: &str = "/v1/messages";

/// Status, type and message of an error in Anthropic's exact shape.
#[track_caller]
fn error(reply: &Reply) -> (u16, String, String) {
    let body = reply.json();
    let keys = |value: &Value| value.as_object().map(|value| value.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    assert_eq!(
        (keys(&body), keys(&body["error"])),
        (vec!["type".into(), "error".into(), "request_id".into()], vec!["type".into(), "message".into()])
    );
    assert_eq!(body["type"], "error");
    assert_eq!((reply.header("content-type"), reply.header("request-id")), (Some("application/json"), body["request_id"].as_str()));
    let text = |field: &str| body["error"][field].as_str().expect("text").to_owned();
    (reply.status(), text("type"), text("message"))
}

#[track_caller]
fn check(app: &TestApp, body: &Value, says: &str) {
    let (status, kind, message) = error(&app.post(PATH, body));
    assert_eq!((status, kind.as_str()), (400, "invalid_request_error"), "{message}");
    assert!(message.contains(says), "{message:?} lacks {says:?}");
}

fn with(more: Value) -> Value {
    let mut body = json!({"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "SAY[[x]]"}]});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

fn user(content: Value) -> Value {
    with(json!({"messages": [{"role": "user", "content": content}]}))
}

#[test]
fn fields_that_cannot_be() {
    let app = TestApp::new();
    let tool = json!({"name": "f", "input_schema": {"type": "object"}});
    for (more, says) in [
        (json!({"max_tokens": null}), "`max_tokens` is required"),
        (json!({"max_tokens": -1}), "`max_tokens` must be at least 0, not -1"),
        (json!({"max_tokens": "10"}), "`max_tokens` must be a whole number, not a string"),
        (json!({"messages": null}), "`messages` is required"),
        (json!({"messages": "hi"}), "`messages` must be an array, not a string"),
        (json!({"messages": []}), "`messages` has no content"),
        (json!({"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": []}]}), "`messages` has no content"),
        (json!({"messages": ["hi"]}), "`messages[0]` must be an object, not a string"),
        (json!({"messages": [{"content": "hi"}]}), "`messages[0].role` is required"),
        (json!({"messages": [{"role": "tool", "content": "hi"}]}), "`messages[0].role` must be user, assistant or system, not \"tool\""),
        (
            json!({"messages": [{"role": "user", "content": 5}]}),
            "`messages[0].content` must be a string or an array of blocks, not a number",
        ),
        (json!({"system": 5}), "`system` must be a string or an array of blocks"),
        (json!({"system": [{"type": "image"}]}), "`system[0]` is an image"),
        (json!({"system": [{"type": "thinking", "thinking": "x"}]}), "`system` holds a block of type thinking"),
        (json!({"stream": "yes"}), "`stream` must be true or false"),
        (json!({"temperature": 3}), "`temperature` must be between 0 and 2"),
        (json!({"top_p": 1.5}), "`top_p` must be between 0 and 1"),
        (json!({"top_k": -2}), "`top_k` must be at least -1"),
        (json!({"stop_sequences": 5}), "`stop_sequences` must be a string or an array of strings"),
        (json!({"stop_sequences": ["a", 5]}), "`stop_sequences[1]` must be a string"),
        (json!({"stop_sequences": vec!["x"; 65]}), "`stop_sequences` has 65 strings; at most 64"),
        (json!({"tools": {}}), "`tools` must be an array"),
        (json!({"tools": [5]}), "`tools[0]` must be an object"),
        (json!({"tools": [{"name": "f"}]}), "`tools[0].input_schema` is required"),
        (json!({"tools": [{"input_schema": {}}]}), "`tools[0].name` is required"),
        (json!({"tools": [{"name": "f", "input_schema": "x"}]}), "`tools[0].input_schema` must be an object"),
        (json!({"tool_choice": {"type": "any"}}), "`tool_choice` is `any`, but there are no `tools`"),
        (json!({"tool_choice": {}}), "`tool_choice.type` is required"),
        (json!({"tool_choice": {"type": "some"}}), "`tool_choice` must be of type auto, any, tool or none, not \"some\""),
        (json!({"tool_choice": {"type": "tool"}, "tools": [tool]}), "`tool_choice.name` is required"),
        (json!({"tool_choice": {"type": "tool", "name": "g"}, "tools": [tool]}), "`tool_choice` names the tool \"g\", which is not among"),
        (
            json!({"tool_choice": {"type": "auto", "disable_parallel_tool_use": 1}}),
            "`tool_choice.disable_parallel_tool_use` must be true or false",
        ),
        (json!({"thinking": "yes"}), "`thinking` must be an object"),
        (json!({"thinking": {}}), "`thinking.type` is required"),
        (json!({"thinking": {"type": "hard"}}), "`thinking.type` must be enabled, adaptive or disabled, not \"hard\""),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 0}}), "`thinking.budget_tokens` must be at least 1"),
        (json!({"output_config": {"effort": 5}}), "`output_config.effort` must be a string"),
        (json!({"output_config": {"format": {"type": "xml"}}}), "`output_config.format.type` must be json_schema, not \"xml\""),
        (json!({"output_config": {"format": {"type": "json_schema"}}}), "`output_config.format.schema` is required"),
        (json!({"output_format": {"schema": {}}}), "`output_format.type` is required"),
        (json!({"model": 5}), "`model` must be a string"),
    ] {
        check(&app, &with(more), says);
    }
}

#[test]
fn blocks_that_cannot_be() {
    let app = TestApp::new();
    for (block, says) in [
        (
            json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}}),
            "`messages[0].content[0]` is an image, but this model reads text only",
        ),
        (
            json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "x"}}),
            "is a document that is no plain text",
        ),
        (json!({"type": "document", "source": {"type": "url", "url": "http://x"}}), "is a document that is no plain text"),
        (json!({"type": "document"}), "`messages[0].content[0].source` is required"),
        (json!({"type": "container_upload", "file_id": "x"}), "is a file"),
        (json!({"type": "text"}), "`messages[0].content[0].text` is required"),
        (json!({"type": "text", "text": 5}), "`messages[0].content[0].text` must be a string"),
        (json!({"type": 5}), "`messages[0].content[0].type` must be a string"),
        (json!(5), "`messages[0].content[0]` must be an object"),
        (
            json!({"type": "tool_use", "id": "1", "name": "f", "input": {}}),
            "holds a block of type tool_use, which belongs into a message of the assistant",
        ),
        (json!({"type": "tool_result", "content": "x"}), "`messages[0].content[0].tool_use_id` is required"),
        (
            json!({"type": "tool_result", "tool_use_id": "1", "content": 5}),
            "`messages[0].content[0].content` must be a string or an array of blocks",
        ),
        (json!({"type": "tool_result", "tool_use_id": "1", "content": [5]}), "`messages[0].content[0].content[0]` must be an object"),
        (json!({"type": "tool_result", "tool_use_id": "1", "is_error": "yes"}), "is_error` must be true or false"),
    ] {
        check(&app, &user(json!([block])), says);
    }
    for (block, says) in [
        (json!({"type": "tool_result", "tool_use_id": "1"}), "holds a block of type tool_result, which belongs into a message of the user"),
        (json!({"type": "tool_use", "id": "1"}), "`messages[0].content[0].name` is required"),
        (json!({"type": "tool_use", "id": "1", "name": "f", "input": 5}), "`messages[0].content[0].input` must be an object"),
    ] {
        check(&app, &with(json!({"messages": [{"role": "assistant", "content": [block]}]})), says);
    }
}

#[test]
fn bodies_that_are_none() {
    let app = TestApp::new();
    for path in [PATH, "/v1/messages/count_tokens"] {
        for (body, says) in
            [(&b""[..], "the body is empty"), (b"[]", "not an array"), (b"{\"a\"", "not valid JSON"), (b"{}", "`messages` is required")]
        {
            let (status, kind, message) = error(&app.send("POST", path, &[], body));
            assert_eq!((status, kind.as_str()), (400, "invalid_request_error"));
            assert!(message.contains(says), "{message}");
        }
    }
}

/// Claude Code looks for these words, and makes its history shorter.
#[test]
fn a_prompt_that_is_too_long_is_told_in_the_words_that_clients_read() {
    let app = TestApp::new();
    let (status, kind, message) = error(&app.post(PATH, &user(json!("x".repeat(5_000)))));
    assert_eq!((status, kind.as_str()), (400, "invalid_request_error"));
    let numbers = message.strip_prefix("prompt is too long: ").and_then(|rest| rest.strip_suffix(" maximum"));
    let (tokens, most) = numbers.and_then(|numbers| numbers.split_once(" tokens > ")).unwrap_or_else(|| panic!("{message}"));
    assert!(tokens.parse::<u32>().is_ok_and(|tokens| tokens > 5_000) && most.parse::<u32>().is_ok_and(|most| most <= 4_096), "{message}");
}

#[test]
fn what_the_edge_refuses() {
    let config =
        ServerConfig { api_keys: ApiKeys::new(["key".into()]), body_bytes_max: 1_000, strict_model: true, ..ServerConfig::default() };
    let app = TestApp::start(Options { config, ..Options::default() });
    let send = |method: &str, path: &str, headers: &[&str], body: &[u8]| {
        let (status, kind, _) = error(&app.send(method, path, headers, body));
        (status, kind)
    };
    let body = with(json!({})).to_string();
    assert_eq!(send("POST", PATH, &[], body.as_bytes()), (401, "authentication_error".into()));
    assert_eq!(send("POST", PATH, &["x-api-key: wrong"], body.as_bytes()), (401, "authentication_error".into()));
    assert_eq!(send("POST", PATH, &["x-api-key: key", "host: evil.example"], body.as_bytes()), (403, "permission_error".into()));
    assert_eq!(send("POST", PATH, &["x-api-key: key"], &[b' '; 1_001]), (413, "request_too_large".into()));
    assert_eq!(send("POST", "/v1/messages/count_tokens", &["x-api-key: key"], &[b' '; 1_001]), (413, "request_too_large".into()));
    assert_eq!(send("POST", PATH, &["x-api-key: key"], body.as_bytes()), (404, "not_found_error".into()), "strict names");
    assert_eq!(send("POST", "/v1/messages/count_tokens", &["x-api-key: key"], body.as_bytes()), (404, "not_found_error".into()));
    assert_eq!(send("GET", "/v1/models/other", &["x-api-key: key", "anthropic-version: 2023-06-01"], b""), (404, "not_found_error".into()));
    assert_eq!(send("POST", "/v1/messages/batches", &["x-api-key: key"], b"{}"), (404, "not_found_error".into()));
    assert_eq!(send("GET", PATH, &["x-api-key: key"], b""), (405, "invalid_request_error".into()));
}

#[test]
fn who_comes_too_early_or_too_late_is_told_when_to_come_back() {
    let app = TestApp::start(Options { loaded: false, ..Options::default() });
    for path in [PATH, "/v1/messages/count_tokens"] {
        let reply = app.post(path, &with(json!({})));
        let (status, kind, message) = error(&reply);
        assert_eq!((status, kind.as_str(), message.as_str()), (503, "overloaded_error", "the model is still loading"));
        assert_eq!((reply.header("retry-after"), reply.header("x-should-retry")), (Some("2"), Some("true")));
    }
    let app = TestApp::new();
    app.state.start_draining();
    for path in [PATH, "/v1/messages/count_tokens"] {
        let reply = app.post(path, &with(json!({})));
        let (status, kind, _) = error(&reply);
        assert_eq!((status, kind.as_str(), reply.header("retry-after")), (503, "overloaded_error", Some("10")));
    }
}
