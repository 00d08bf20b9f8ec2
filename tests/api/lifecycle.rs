//! Beginning and end: loading, full queues, clients that go away or dawdle, a model that breaks, draining.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use understudy::engine::EngineConfig;
use understudy::server::config::ServerConfig;

use crate::support::chat_stream::read_chat_stream;
use crate::support::http_client::{Connection, Reply, Sse};
use crate::support::test_app::{Options, TestApp};

const CHAT: &str = "/v1/chat/completions";

/// A reply that goes on until the context is full: 4,000 steps of 2 ms.
fn endless(more: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "recite"}]});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

fn slow() -> Options {
    Options { pace: Duration::from_millis(2), ..Options::default() }
}

/// Sends a request without waiting for its reply.
fn begin(app: &TestApp, body: &Value) -> Connection {
    let mut connection = app.connect();
    connection.request("POST", CHAT, &[], body.to_string().as_bytes());
    connection
}

#[track_caller]
fn check_unavailable(reply: &Reply, code: &str) {
    assert_eq!(reply.status(), 503, "{}", reply.text());
    assert_eq!(reply.json()["error"]["code"], code);
    assert!(reply.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().is_ok_and(|seconds| seconds > 0)));
}

#[test]
fn while_the_model_loads() {
    let app = TestApp::start(Options { loaded: false, ..Options::default() });
    assert_eq!((app.get("/livez").status(), app.get("/").status()), (200, 200));
    for path in ["/readyz", "/health", "/v1/models", "/v1/models/x"] {
        check_unavailable(&app.get(path), "model_loading");
    }
    check_unavailable(&app.chat(&endless(json!({}))), "model_loading");
}

#[test]
fn a_streaming_client_that_goes_away_is_cancelled() {
    let app = TestApp::start(slow());
    let (mut stream, head) = app.open_stream(CHAT, &endless(json!({"stream": true})));
    assert_eq!(head.status, 200);
    for _ in 0..3 {
        assert!(stream.next_chunk().is_some());
    }
    drop(stream);
    app.wait_until("the slot is free", |stats| stats.running == 0 && stats.waiting == 0 && stats.cancelled_total == 1);
    assert!(app.stats().generated_tokens_total < 3_000);
}

#[test]
fn a_waiting_client_that_goes_away_is_cancelled() {
    let app = TestApp::start(slow());
    for more in [json!({}), json!({"n": 3})] {
        let connection = begin(&app, &endless(more));
        app.wait_until("it runs", |stats| stats.running > 0);
        drop(connection);
        app.wait_until("the slots are free", |stats| stats.running == 0 && stats.waiting == 0);
    }
    assert_eq!(app.stats().cancelled_total, 4);
}

#[test]
fn a_queued_client_that_goes_away_harms_nobody() {
    let engine = EngineConfig { sequences_max: 1, ..Options::default().engine };
    let app = TestApp::start(Options { engine, ..slow() });
    let mut running = begin(&app, &endless(json!({"max_tokens": 300})));
    app.wait_until("the first runs", |stats| stats.running == 1);
    let queued: Vec<Connection> = [json!({}), json!({"stream": true})].map(|more| begin(&app, &endless(more))).into();
    app.wait_until("two wait", |stats| stats.waiting == 2);
    drop(queued);
    app.wait_until("nobody waits", |stats| stats.waiting == 0);
    let reply = running.read_reply().json();
    assert_eq!(reply["usage"]["completion_tokens"], 300, "the first is not disturbed");
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let engine = EngineConfig { sequences_max: 1, queue_max: 1, ..Options::default().engine };
    let app = TestApp::start(Options { engine, ..slow() });
    let first = begin(&app, &endless(json!({})));
    app.wait_until("one runs", |stats| stats.running == 1);
    let second = begin(&app, &endless(json!({})));
    app.wait_until("one waits", |stats| stats.waiting == 1);
    for more in [json!({}), json!({"stream": true})] {
        check_unavailable(&app.chat(&endless(more)), "server_busy");
    }
    // Of two choices the first would have fitted; neither stays behind.
    drop(second);
    app.wait_until("nobody waits", |stats| stats.waiting == 0);
    check_unavailable(&app.chat(&endless(json!({"n": 2}))), "server_busy");
    app.wait_until("nobody waits again", |stats| stats.waiting == 0 && stats.running == 1);
    drop(first);
    app.wait_until("all is free", |stats| stats.running == 0);
}

#[test]
fn who_would_wait_too_long_is_told_so_at_once() {
    // A step takes longer than anybody is to wait.
    let engine = EngineConfig { first_token_max: Some(Duration::from_micros(1)), ..Options::default().engine };
    let app = TestApp::start(Options { engine, ..slow() });
    assert_eq!(app.get("/readyz?max_wait_ms=0").status(), 200, "nothing was measured");
    let running = begin(&app, &endless(json!({})));
    app.wait_until("steps were measured", |stats| stats.first_token_in.is_some());
    for more in [json!({}), json!({"stream": true}), json!({"n": 2})] {
        check_unavailable(&app.chat(&endless(more)), "server_busy");
    }
    check_unavailable(&app.get("/readyz?max_wait_ms=0"), "server_busy");
    assert_eq!((app.get("/readyz?max_wait_ms=3600000").status(), app.get("/readyz").status()), (200, 200));
    let nonsense = app.get("/readyz?max_wait_ms=soon");
    assert_eq!((nonsense.status(), nonsense.json()["error"]["param"].clone()), (400, json!("max_wait_ms")));
    drop(running);
    app.wait_until("the first is gone", |stats| stats.running == 0);
    assert_eq!(app.stats().refused_total, 4);
}

#[test]
fn a_model_that_breaks_before_the_reply() {
    let app = TestApp::new();
    app.broken.store(true, Ordering::Relaxed);
    let reply = app.send("POST", CHAT, &["x-request-id: broken-1"], endless(json!({})).to_string().as_bytes());
    assert_eq!((reply.status(), reply.header("x-request-id")), (500, Some("broken-1")));
    let error = reply.json()["error"].clone();
    assert_eq!(error["type"], "server_error");
    assert!(error["message"].as_str().is_some_and(|message| message.contains("the fake model is broken")), "{error}");
    app.broken.store(false, Ordering::Relaxed);
    assert_eq!(app.chat(&json!({"messages": [{"role": "user", "content": "SAY[[well again]]"}]})).status(), 200);
}

#[test]
fn a_model_that_breaks_in_mid_stream() {
    let app = TestApp::start(slow());
    let (mut stream, _) = app.open_stream(CHAT, &endless(json!({"stream": true})));
    assert!(stream.next_chunk().is_some() && stream.next_chunk().is_some());
    app.broken.store(true, Ordering::Relaxed);
    let mut rest = Vec::new();
    while let Some(chunk) = stream.next_chunk() {
        rest.extend(chunk);
    }
    let rest = String::from_utf8(rest).expect("text");
    let last = rest.trim_end().rsplit("data: ").next().expect("a last frame");
    let error: Value = serde_json::from_str(last).expect("the last frame is JSON");
    assert_eq!(error["error"]["type"], "server_error");
    assert!(!rest.contains("[DONE]"), "a broken stream does not claim to be done");
}

#[test]
fn draining_lets_running_requests_finish() {
    let mut app = TestApp::start(slow());
    let whole = std::thread::scope(|scope| {
        let mut whole = begin(&app, &endless(json!({"max_tokens": 250})));
        let (mut stream, _) = app.open_stream(CHAT, &endless(json!({"max_tokens": 250, "stream": true})));
        app.wait_until("both run", |stats| stats.running == 2);
        let mut idle = app.connect();
        idle.request("GET", "/readyz", &[], b"");
        assert_eq!(idle.read_reply().status(), 200);
        let whole = scope.spawn(move || whole.read_reply());
        let streamed = scope.spawn(move || {
            let mut body = Vec::new();
            while let Some(chunk) = stream.next_chunk() {
                body.extend(chunk);
            }
            String::from_utf8(body).expect("text")
        });
        app.ask_to_stop();
        // New work is refused, on old connections and new ones, while the old work goes on.
        loop {
            idle.request("GET", "/readyz", &[], b"");
            let reply = idle.read_reply();
            if reply.status() == 503 {
                break check_unavailable(&reply, "shutting_down");
            }
        }
        check_unavailable(&app.chat(&endless(json!({}))), "shutting_down");
        assert_eq!(app.get("/livez").status(), 200);
        let streamed = streamed.join().expect("the stream is read");
        assert!(streamed.ends_with("data: [DONE]\n\n") && streamed.contains("\"finish_reason\":\"length\""));
        whole.join().expect("the reply is read")
    });
    assert_eq!(whole.json()["usage"]["completion_tokens"], 250);
    app.wait_for_end();
    assert!(std::net::TcpStream::connect(app.address).is_err(), "nobody listens any more");
}

#[test]
fn an_idle_server_ends_at_once() {
    let mut app = TestApp::new();
    let mut idle = app.connect();
    idle.request("GET", "/livez", &[], b"");
    assert_eq!(idle.read_reply().status(), 200);
    app.ask_to_stop();
    app.wait_for_end();
    assert!(idle.is_closed());
}

#[test]
fn a_server_without_its_model_ends_too() {
    let mut app = TestApp::start(Options { loaded: false, ..Options::default() });
    app.ask_to_stop();
    app.wait_for_end();
}

#[test]
fn what_outlasts_the_drain_limit_is_told_so() {
    let config = ServerConfig { drain_limit: Duration::from_millis(50), ..ServerConfig::default() };
    let mut app = TestApp::start(Options { config, pace: Duration::from_millis(5), ..Options::default() });
    let mut whole = begin(&app, &endless(json!({})));
    let (mut stream, _) = app.open_stream(CHAT, &endless(json!({"stream": true})));
    app.wait_until("both run", |stats| stats.running == 2);
    app.ask_to_stop();
    check_unavailable(&whole.read_reply(), "shutting_down");
    let mut rest = String::new();
    while let Some(chunk) = stream.next_chunk() {
        rest.push_str(std::str::from_utf8(&chunk).expect("text"));
    }
    assert!(rest.contains("\"code\":\"shutting_down\"") && !rest.contains("[DONE]"), "{rest}");
    app.wait_for_end();
}

#[test]
fn each_answer_says_how_busy_the_server_is() {
    let engine = EngineConfig { sequences_max: 1, queue_max: 1, ..Options::default().engine };
    let app = TestApp::start(Options { engine, ..slow() });
    let told = |reply: &Reply| ["x-queue-depth", "x-slots-free"].map(|name| reply.header(name).map(str::to_owned));
    let says = |depth: &str, free: &str| [Some(depth.to_owned()), Some(free.to_owned())];
    let idle = app.get("/readyz");
    assert_eq!((told(&idle), idle.header("x-queue-wait-ms-est")), (says("0", "1"), None), "nothing was measured");
    let running = begin(&app, &endless(json!({})));
    app.wait_until("it runs", |stats| stats.running == 1 && stats.first_token_in.is_some());
    let waiting = begin(&app, &endless(json!({})));
    app.wait_until("one waits", |stats| stats.waiting == 1);
    let refused = app.chat(&endless(json!({})));
    check_unavailable(&refused, "server_busy");
    for reply in [refused, app.get("/readyz")] {
        assert_eq!(told(&reply), says("1", "0"));
        assert!(reply.header("x-queue-wait-ms-est").is_some_and(|wait| wait.parse::<u64>().is_ok()));
    }
    drop((running, waiting));
}

#[test]
fn a_client_that_dawdles_is_let_go() {
    let limit = Duration::from_millis(100);
    let config = ServerConfig { header_read_limit: limit, body_pause_limit: limit, ..ServerConfig::default() };
    let app = TestApp::start(Options { config, ..Options::default() });
    let mut head = app.connect();
    head.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: local");
    let mut body = app.connect();
    body.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{\"mess");
    let reply = body.read_reply();
    assert_eq!((reply.status(), &reply.json()["error"]["type"]), (408, &json!("invalid_request_error")));
    assert!(head.is_closed(), "half a head is not waited for");
}

#[test]
fn a_client_that_does_not_read_is_let_go() {
    let config = ServerConfig { write_pause_limit: Duration::from_millis(600), ..ServerConfig::default() };
    let app = TestApp::start(Options { config, ..slow() });
    // Four replies of 4,000 tokens, a kilobyte each with its rivals: many times what the system's buffers hold. Without the limit
    // all of it is generated, for nobody.
    let greedy = endless(json!({"stream": true, "n": 4, "logprobs": true, "top_logprobs": 20}));
    let (mut unread, head) = app.open_stream(CHAT, &greedy);
    assert_eq!(head.status, 200);
    // One that reads is left alone meanwhile, however long its reply.
    let reply = app.chat(&endless(json!({"stream": true, "max_tokens": 500})));
    assert_eq!(read_chat_stream(&reply, 1).choices[0]["finish_reason"], "length");
    app.wait_until("the slots are free", |stats| stats.running == 0 && stats.waiting == 0);
    assert_eq!(app.stats().cancelled_total, 4, "{:?}", app.stats());
    assert!(unread.read_to_end_of_connection() > 0, "what was written before is there, and then nothing more");
}

#[test]
fn a_body_that_drips_is_let_go() {
    let config = ServerConfig { body_read_limit: Duration::from_millis(150), ..ServerConfig::default() };
    let app = TestApp::start(Options { config, ..Options::default() });
    let mut connection = app.connect();
    connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n");
    // A byte at a time, each in time for itself, until the answer closes the door.
    while connection.try_send(b" ").is_ok() && !connection.has_reply() {}
    assert_eq!(connection.read_reply().status(), 408);
}

#[test]
fn connections_beyond_the_limit_wait_their_turn() {
    let config = ServerConfig { connections_max: 1, ..ServerConfig::default() };
    let app = TestApp::start(Options { config, ..Options::default() });
    let mut first = app.connect();
    first.request("GET", "/livez", &[], b"");
    assert_eq!(first.read_reply().status(), 200);
    let mut second = app.connect();
    second.request("GET", "/livez", &[], b"");
    drop(first);
    assert_eq!(second.read_reply().status(), 200);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let app = TestApp::new();
    let mut connection = app.connect();
    for word in ["first", "second", "third"] {
        let body = json!({"messages": [{"role": "user", "content": format!("SAY[[{word}]]")}], "stream": true});
        connection.request("POST", CHAT, &[], body.to_string().as_bytes());
    }
    for word in ["first", "second", "third"] {
        let reply = connection.read_reply();
        assert!(!reply.events().contains(&Sse::Comment("keep-alive".into())));
        assert_eq!(read_chat_stream(&reply, 1).choices[0]["message"]["content"], word);
    }
}
