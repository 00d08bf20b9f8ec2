//! A request that comes again while it is being answered: it joins, and nothing is computed twice; one that only looks like it does not.

use std::time::Duration;

use serde_json::{Value, json};
use understudy::server::config::{ApiKeys, ServerConfig};

use crate::support::chat_stream::read_chat_stream;
use crate::support::http_client::Connection;
use crate::support::test_app::{Options, TestApp};

const PATH: &str = "/v1/chat/completions";
const SESSION: &str = "x-claude-code-session-id: s-1";

fn app() -> TestApp {
    TestApp::start(Options { pace: Duration::from_millis(3), ..Options::default() })
}

fn body(more: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "SAY[[the quick brown fox jumps over the lazy dog]]"}], "stream": true});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

fn send(app: &TestApp, headers: &[&str], body: &Value) -> Connection {
    let mut connection = app.connect();
    connection.request("POST", PATH, headers, body.to_string().as_bytes());
    connection
}

/// How many sequences two requests took that were under way at the same time.
#[track_caller]
fn sequences(first: (&[&str], Value), second: (&[&str], Value)) -> u64 {
    let app = app();
    let mut one = send(&app, first.0, &first.1);
    app.wait_until("the first runs", |stats| stats.running == 1);
    let mut two = send(&app, second.0, &second.1);
    let said = |reply: crate::support::http_client::Reply| match reply.header("content-type") {
        Some("application/json") => reply.json()["choices"][0]["message"]["content"].clone(),
        _ => read_chat_stream(&reply, 1).choices[0]["message"]["content"].clone(),
    };
    let (one, two) = (said(one.read_reply()), said(two.read_reply()));
    assert_eq!(one, two);
    assert_eq!(one, "the quick brown fox jumps over the lazy dog");
    app.wait_until("all is over", |stats| stats.running == 0);
    app.stats().finished_total
}

#[test]
fn the_same_request_of_the_same_session_joins() {
    assert_eq!(sequences((&[SESSION], body(json!({}))), (&[SESSION], body(json!({})))), 1);
    let keys: [&[&str]; 3] = [&["idempotency-key: a"], &["x-client-request-id: 7", "authorization: Bearer k"], &["session-id: t"]];
    for key in keys {
        assert_eq!(sequences((key, body(json!({}))), (key, body(json!({})))), 1, "{key:?}");
    }
}

/// Claude Code asks again without `stream` when a stream broke.
#[test]
fn how_it_is_delivered_makes_no_difference() {
    assert_eq!(sequences((&[SESSION], body(json!({}))), (&[SESSION], body(json!({"stream": false})))), 1);
}

#[test]
fn what_only_looks_the_same_is_another() {
    let agent = [SESSION, "x-claude-code-agent-id: a"];
    for (first, second) in [
        // Without a name duplicates are meant.
        ((&[][..], body(json!({}))), (&[][..], body(json!({})))),
        ((&[SESSION][..], body(json!({}))), (&["x-claude-code-session-id: s-2"][..], body(json!({})))),
        ((&[SESSION][..], body(json!({}))), (&[SESSION, "authorization: Bearer other"][..], body(json!({})))),
        ((&[SESSION][..], body(json!({}))), (&[SESSION][..], body(json!({"max_tokens": 900})))),
        ((&[SESSION][..], body(json!({}))), (&agent[..], body(json!({})))),
    ] {
        assert_eq!(sequences(first.clone(), second.clone()), 2, "{first:?} {second:?}");
    }
}

#[test]
fn a_reply_goes_on_while_one_of_its_listeners_is_there() {
    let app = app();
    let (first, second) = (send(&app, &[SESSION], &body(json!({}))), send(&app, &[SESSION], &body(json!({}))));
    app.wait_until("it runs", |stats| stats.running == 1);
    let mut second = second;
    assert_eq!(second.read_head().status, 200);
    drop(first);
    let mut said = Vec::new();
    while let Some(chunk) = second.next_chunk() {
        said.extend(chunk);
    }
    assert!(String::from_utf8(said).expect("text").ends_with("data: [DONE]\n\n"));
    assert_eq!(app.stats().cancelled_total, 0);
}

#[test]
fn when_all_listeners_are_gone_it_is_cancelled() {
    let app = app();
    let (first, mut second) = (send(&app, &[SESSION], &body(json!({}))), send(&app, &[SESSION], &body(json!({}))));
    // It has joined by now; a request that came after the last listener had gone would begin anew.
    assert_eq!(second.read_head().status, 200);
    app.wait_until("it runs", |stats| stats.running == 1);
    drop((first, second));
    app.wait_until("it is cancelled", |stats| stats.cancelled_total == 1 && stats.running == 0);
}

#[test]
fn a_stranger_joins_nobody() {
    let config = ServerConfig { api_keys: ApiKeys::new(["a".to_owned(), "b".to_owned()]), ..ServerConfig::default() };
    let app = TestApp::start(Options { config, pace: Duration::from_millis(3), ..Options::default() });
    let mut one = send(&app, &[SESSION, "x-api-key: a"], &body(json!({})));
    app.wait_until("the first runs", |stats| stats.running == 1);
    let mut two = send(&app, &[SESSION, "x-api-key: b"], &body(json!({})));
    let ids = [one.read_reply(), two.read_reply()].map(|reply| reply.text().split("\"id\":\"").nth(1).expect("an id")[..41].to_owned());
    assert_ne!(ids[0], ids[1]);
}

/// Not only with the next token: a long prompt has none for a while.
#[test]
fn while_the_prompt_is_computed_too() {
    let app = TestApp::start(Options { pace: Duration::from_millis(100), ..Options::default() });
    // Eight steps of 256 tokens.
    let long = json!({"messages": [{"role": "user", "content": "x".repeat(2_000)}], "stream": true});
    let mut only = send(&app, &[SESSION], &long);
    assert_eq!(only.read_head().status, 200);
    app.wait_until("it runs", |stats| stats.running == 1);
    drop(only);
    app.wait_until("it is cancelled", |stats| stats.cancelled_total == 1 && stats.running == 0);
    assert_eq!(app.stats().generated_tokens_total, 0, "no token came first");
}
