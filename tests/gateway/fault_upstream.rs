//! The upstream that misbehaves, seen from a raw socket: every fault is what its name says.

use std::time::Duration;

use serde_json::{Value, json};
use understudy::gateway::drill::answer::{
    AfterStall, Answer, Call, Ending, ErrorAnswer, ErrorKind, LineEnds, Misbehaviour, Pace, Point, Reply, SIXTY_WORDS, Stop, Wire,
};
use understudy::gateway::drill::fault_upstream::{Attempt, FaultUpstream};
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::{Plan, Rule, TimeWindow};
use understudy::gateway::drill::raw_client::{Broken, End, Exchange, RawClient, RawRequest, sse_events};

use super::doors::DIALECTS;

/// What ends, ends sooner.
const LIMIT: Duration = Duration::from_secs(10);

/// Long enough to believe that nothing comes.
const SILENCE: Duration = Duration::from_millis(60);

#[tokio::test]
async fn a_healthy_stream_says_sixty_words_in_every_dialect() {
    for dialect in DIALECTS {
        let (exchange, attempt) = stream_of(dialect, Answer::healthy()).await;
        assert_eq!((exchange.status(), &exchange.end), (Some(200), &End::Whole), "{dialect:?}");
        assert_eq!(text(dialect, &exchange), SIXTY_WORDS, "{dialect:?}");
        assert!(attempt.finished_at.is_some() && attempt.client_left_at.is_none() && !attempt.fault_missed);
        assert_eq!((attempt.method.as_str(), attempt.path.as_str(), attempt.model.as_str()), ("POST", dialect.path(), "m"));
        assert_eq!(attempt.json()["stream"], true);
        let last = exchange.events().pop().unwrap();
        match dialect {
            Dialect::AnthropicMessages => assert_eq!(last.event.as_deref(), Some("message_stop")),
            Dialect::OpenaiChat => assert_eq!(last.data, "[DONE]"),
            Dialect::OpenaiResponses => assert_eq!(last.json()["response"]["usage"]["output_tokens"], 60),
        }
    }
}

#[tokio::test]
async fn a_healthy_reply_comes_in_one_piece_where_no_stream_was_asked_for() {
    let reply = Reply::text("Hi.").with_thinking("Say hi.").with_calls(vec![Call::new("f", "{\"a\":1}")]);
    for dialect in DIALECTS {
        let upstream = FaultUpstream::start(Plan::always(Answer::saying(reply.clone()))).await.unwrap();
        let request = RawRequest::post(dialect.path(), &json!({"model": "m"}));
        let exchange = RawClient::exchange(upstream.address(), &request, LIMIT).await;
        let body = exchange.json();
        match dialect {
            Dialect::AnthropicMessages => {
                assert_eq!((&body["content"][1]["text"], &body["stop_reason"]), (&json!("Hi."), &json!("tool_use")));
                assert_eq!(body["content"][2]["input"], json!({"a": 1}));
            }
            Dialect::OpenaiChat => {
                let message = &body["choices"][0]["message"];
                assert_eq!((&message["content"], &message["reasoning_content"]), (&json!("Hi."), &json!("Say hi.")));
                assert_eq!(message["tool_calls"][0]["function"]["arguments"], "{\"a\":1}");
            }
            Dialect::OpenaiResponses => {
                assert_eq!((&body["output"][1]["content"][0]["text"], &body["status"]), (&json!("Hi."), &json!("completed")));
                assert_eq!(body["output"][2]["arguments"], "{\"a\":1}");
            }
        }
    }
}

#[tokio::test]
async fn models_and_counts_are_answered_beside() {
    let upstream = FaultUpstream::start(Plan::always(Answer::error(ErrorKind::Overloaded))).await.unwrap();
    let models = RawClient::exchange(upstream.address(), &RawRequest::get("/v1/models?limit=1000"), LIMIT).await;
    assert_eq!(models.json()["data"][0]["id"], "claude-drill");
    let count = RawRequest::post("/v1/messages/count_tokens?beta=true", &json!({"messages": []}));
    let counted = RawClient::exchange(upstream.address(), &count, LIMIT).await;
    assert!(counted.json()["input_tokens"].is_u64(), "a rule without a path is about replies only");
    assert_eq!((upstream.attempts().len(), upstream.generations().len()), (2, 0));
    let nothing = RawClient::exchange(upstream.address(), &RawRequest::get("/x"), LIMIT).await;
    assert_eq!(nothing.status(), Some(404));
}

#[tokio::test]
async fn endings_before_the_headers() {
    let end = |how| Answer::wrong(Misbehaviour::EndBeforeHeaders { how });
    assert_eq!(stream(end(Ending::Reset)).await.end, End::NoHead(Broken::Reset));
    assert_eq!(stream(end(Ending::Fin)).await.end, End::NoHead(Broken::Closed));
}

#[tokio::test]
async fn a_closed_port_refuses_and_opens_again() {
    let window = TimeWindow { from_ms: 0, until_ms: Some(80), flapping: None };
    let rule = Rule { time: window, answer: Answer::wrong(Misbehaviour::Refuse), ..Rule::default() };
    let upstream = FaultUpstream::start(Plan::healthy().then(rule)).await.unwrap();
    let tried = until(&upstream, |exchange| exchange.end == End::Refused).await;
    assert!(tried.head.is_none());
    until(&upstream, |exchange| exchange.end == End::Whole).await;
    assert!(upstream.elapsed() >= Duration::from_millis(80), "not before its time");
    upstream.set_listening(false);
    until(&upstream, |exchange| exchange.end == End::Refused).await;
    upstream.set_listening(true);
    until(&upstream, |exchange| exchange.end == End::Whole).await;
}

#[tokio::test]
async fn a_host_that_dies_takes_its_streams_along() {
    let upstream = FaultUpstream::start(Plan::always(Answer::stall(Point::Tokens(3)))).await.unwrap();
    let mut client = RawClient::connect(upstream.address()).await.unwrap();
    client.send(&asked(Dialect::AnthropicMessages)).await.unwrap();
    upstream.attempts_when(LIMIT, |attempts| attempts.len() == 1).await.unwrap();
    upstream.set_listening(false);
    assert!(matches!(client.reply(LIMIT).await.end, End::Cut(_) | End::NoHead(_)));
}

#[tokio::test]
async fn silences() {
    let nothing = silent_after(Answer::wrong(Misbehaviour::NoHeaders), 0).await;
    assert!(nothing.head.is_none() && nothing.end == End::Limit);
    let head = silent_after(Answer::stall(Point::Headers), 0).await;
    assert_eq!((head.body.len(), head.end), (0, End::Limit));
    let started = silent_after(Answer::stall(Point::Start), 1).await;
    assert_eq!((started.events()[0].event.as_deref(), started.end), (Some("message_start"), End::Limit));
    // message_start, content_block_start, ping, and a token each.
    let stalled = silent_after(Answer::stall(Point::Tokens(20)), 23).await;
    assert_eq!((words_of(&stalled), stalled.end), (20, End::Limit));
}

#[tokio::test]
async fn pings_and_nothing_else() {
    for (point, words) in [(Point::Start, 0), (Point::Tokens(20), 20)] {
        let upstream = FaultUpstream::start(Plan::always(Answer::pings(point, 4))).await.unwrap();
        let mut client = RawClient::connect(upstream.address()).await.unwrap();
        client.send(&asked(Dialect::AnthropicMessages)).await.unwrap();
        let pinged = |body: &[u8]| sse_events(body).iter().rev().take_while(|event| event.event.as_deref() == Some("ping")).count() >= 4;
        let exchange = client.reply_until(LIMIT, pinged).await;
        assert!(pinged(&exchange.body) && exchange.end == End::Limit);
        assert_eq!(words_of(&exchange), words);
    }
}

#[tokio::test]
async fn a_stall_may_end() {
    let stall = |then, pings_ms| Misbehaviour::Stall { at: Point::Tokens(20), pings_ms, for_ms: Some(40), then };
    let closed = stream(Answer::wrong(stall(AfterStall::Fin, None))).await;
    assert_eq!((words_of(&closed), &closed.end), (20, &End::Cut(Broken::Closed)));
    assert!(closed.ended_after >= Duration::from_millis(40));
    let resumed = stream(Answer::wrong(stall(AfterStall::GoOn, Some(10)))).await;
    assert_eq!((text(Dialect::AnthropicMessages, &resumed).as_str(), &resumed.end), (SIXTY_WORDS, &End::Whole));
    assert!(resumed.ended_after >= Duration::from_millis(40));
}

#[tokio::test]
async fn heads_that_dribble() {
    let exchange = silent_after(Answer::wrong(Misbehaviour::HeadersDribble { every_ms: 5 }), 0).await;
    assert!(exchange.head.is_none() && exchange.end == End::Limit, "more than twelve bytes are a head");
    let exchange = stream(Answer::wrong(Misbehaviour::HeadersDribble { every_ms: 0 })).await;
    assert_eq!(exchange.end, End::Whole);
}

#[tokio::test]
async fn paces() {
    let pace = Pace { headers_ms: 20, first_token_ms: 30, token_interval_ms: 1, ramp: None };
    let exchange = stream(Answer::healthy().with_pace(pace)).await;
    let events = exchange.events();
    let arrival = |name: &str| {
        let event = events.iter().find(|event| event.event.as_deref() == Some(name)).unwrap();
        exchange.arrival_of(event.end).unwrap()
    };
    assert!(arrival("message_start") >= Duration::from_millis(20));
    assert!(arrival("content_block_delta") - arrival("message_start") >= Duration::from_millis(25));
    assert!(arrival("message_stop") - arrival("content_block_delta") >= Duration::from_millis(50));
}

#[tokio::test]
async fn cuts_within_the_text() {
    for dialect in DIALECTS {
        for (how, end) in [(Ending::Reset, End::Cut(Broken::Reset)), (Ending::Fin, End::Cut(Broken::Closed)), (Ending::Clean, End::Whole)] {
            let (exchange, _) = stream_of(dialect, Answer::cut(Point::Tokens(40), how).with_token_interval_ms(1)).await;
            assert_eq!(exchange.end, end, "{dialect:?}");
            let said = text(dialect, &exchange);
            assert!(SIXTY_WORDS.starts_with(&said), "{said}");
            // An RST may overtake what was sent before it.
            assert!(said.split_whitespace().count() == 40 || how == Ending::Reset && !said.is_empty(), "{dialect:?} {how:?}: {said}");
        }
    }
}

#[tokio::test]
async fn cuts_behind_any_byte() {
    let whole = stream(Answer::healthy()).await.body;
    for bytes in [0, 1, 100, 777, whole.len() - 1] {
        let exchange = stream(Answer::cut(Point::Bytes(bytes), Ending::Fin)).await;
        assert_eq!((exchange.body.len(), exchange.end), (bytes, End::Cut(Broken::Closed)));
    }
    let (_, attempt) = stream_of(Dialect::AnthropicMessages, Answer::cut(Point::Bytes(1 << 20), Ending::Fin)).await;
    assert!(attempt.fault_missed, "a fault that finds no place says so");
}

#[tokio::test]
async fn cuts_within_thinking_arguments_and_between_calls() {
    let arguments = "{\"text\":\"caf\\u00e9\",\"n\":12}";
    let calls = vec![Call::new("write", arguments), Call::new("read", "{}")];
    let reply = Reply::text("I will.").with_thinking("He wants a file.").with_calls(calls);
    for dialect in DIALECTS {
        let cut = |at| stream_of(dialect, Answer::saying(reply.clone()).and_wrong(Misbehaviour::Cut { at, how: Ending::Fin }));
        let thinking = cut(Point::ThinkingTokens(2)).await.0;
        assert_eq!((joined(dialect, &thinking).thinking.as_str(), text(dialect, &thinking).as_str()), ("He wants", ""));
        for bytes in 0..arguments.len() {
            let within = cut(Point::Arguments { call: 0, bytes }).await.0;
            assert_eq!(joined(dialect, &within).arguments, [&arguments[..bytes]], "{dialect:?}");
        }
        let between = cut(Point::Calls(1)).await.0;
        assert_eq!(joined(dialect, &between).arguments, [arguments], "{dialect:?}");
    }
    let before_end = stream(Answer::saying(reply).and_wrong(Misbehaviour::Cut { at: Point::BeforeEnd, how: Ending::Fin })).await;
    let names: Vec<_> = before_end.events().into_iter().filter_map(|event| event.event).collect();
    assert_eq!(names.last().map(String::as_str), Some("message_delta"));
}

#[tokio::test]
async fn a_stream_without_done() {
    let (exchange, _) = stream_of(Dialect::OpenaiChat, Answer::cut(Point::BeforeEnd, Ending::Clean)).await;
    let events = exchange.events();
    let finishes = |event: &Value| event["choices"][0]["finish_reason"] == "stop";
    assert!(events.iter().any(|event| finishes(&event.json())) && events.iter().all(|event| event.data != "[DONE]"));
    assert_eq!(events.last().unwrap().json()["usage"]["completion_tokens"], 60);
}

#[tokio::test]
async fn a_length_that_is_never_reached() {
    let (exchange, _) = stream_of(Dialect::AnthropicMessages, Answer::wrong(Misbehaviour::ShortBody { missing_bytes: 10 })).await;
    assert_eq!(exchange.end, End::Cut(Broken::Closed));
    let promised: usize = exchange.header("content-length").unwrap().parse().unwrap();
    assert_eq!(promised, exchange.body.len() + 10);
}

#[tokio::test]
async fn a_reply_in_one_piece_is_cut_too() {
    let upstream = FaultUpstream::start(Plan::always(Answer::cut(Point::Tokens(5), Ending::Fin))).await.unwrap();
    let request = RawRequest::post("/v1/messages", &json!({"model": "m"}));
    let exchange = RawClient::exchange(upstream.address(), &request, LIMIT).await;
    assert_eq!((exchange.end.clone(), exchange.json()), (End::Cut(Broken::Closed), Value::Null));
}

#[tokio::test]
async fn every_error_has_its_status_and_its_dialect() {
    for (error, status, kind) in [
        (ErrorKind::InvalidRequest, 400, "invalid_request_error"),
        (ErrorKind::Authentication, 401, "authentication_error"),
        (ErrorKind::Permission, 403, "permission_error"),
        (ErrorKind::TooLarge, 413, "request_too_large"),
        (ErrorKind::RateLimit, 429, "rate_limit_error"),
        (ErrorKind::Internal, 500, "api_error"),
        (ErrorKind::Unavailable, 503, "api_error"),
        (ErrorKind::Overloaded, 529, "overloaded_error"),
    ] {
        let exchange = stream(Answer::error(error)).await;
        assert_eq!((exchange.status(), &exchange.json()["error"]["type"]), (Some(status), &json!(kind)));
    }
    for (error, code) in [(ErrorKind::ContextLength, "context_length_exceeded"), (ErrorKind::ContentPolicy, "content_policy_violation")] {
        let (exchange, _) = stream_of(Dialect::OpenaiChat, Answer::error(error)).await;
        assert_eq!((exchange.status(), &exchange.json()["error"]["code"]), (Some(400), &json!(code)));
    }
    for text in ["2", "-7", "1000000000", "Wed, 21 Oct 2015 07:28:00 GMT", "soon"] {
        assert_eq!(stream(Answer::rate_limited(Some(text))).await.header("retry-after"), Some(text));
    }
    let other = ErrorAnswer { error: ErrorKind::Internal, status: Some(524), retry_after: None };
    assert_eq!(stream(Answer::wrong(Misbehaviour::Error(other))).await.status(), Some(524));
}

#[tokio::test]
async fn answers_that_are_not_the_api() {
    for status in [200, 502, 524] {
        let page = stream(Answer::wrong(Misbehaviour::Page { status })).await;
        assert_eq!((page.status(), page.header("content-type")), (Some(status), Some("text/html; charset=utf-8")));
        assert!(page.text().starts_with("<!DOCTYPE html>"));
    }
    let empty = stream(Answer::wrong(Misbehaviour::Empty)).await;
    assert_eq!((empty.status(), empty.body.len(), empty.end), (Some(200), 0, End::Whole));
    let strange = stream(Answer::wrong(Misbehaviour::ContentType { value: "image/png".into() })).await;
    assert_eq!((strange.header("content-type"), words_of(&strange)), (Some("image/png"), 60));
    let redirect = stream(Answer::wrong(Misbehaviour::Redirect)).await;
    assert_eq!((redirect.status(), redirect.header("location")), (Some(307), Some("/v1/messages")));
    let bomb = stream(Answer::wrong(Misbehaviour::HeaderBomb { bytes: 100_000 })).await;
    assert_eq!((bomb.header("x-drill-bomb").map(str::len), words_of(&bomb)), (Some(100_000), 60));
}

#[tokio::test]
async fn error_events() {
    for (at, words) in [(Point::Headers, 0), (Point::Start, 0), (Point::Tokens(7), 7)] {
        let exchange = stream(Answer::wrong(Misbehaviour::ErrorEvent { at, error: ErrorKind::Overloaded })).await;
        let last = exchange.events().pop().unwrap();
        assert_eq!((last.event.as_deref(), &last.json()["error"]["type"]), (Some("error"), &json!("overloaded_error")));
        assert_eq!((words_of(&exchange), exchange.end.clone()), (words, End::Whole));
        assert_eq!(exchange.events().len() == 1, at == Point::Headers);
    }
}

#[tokio::test]
async fn events_that_are_no_json_and_events_that_are_too_large() {
    let torn = stream(Answer::wrong(Misbehaviour::MalformedEvents { at: Point::Tokens(9), count: 2 })).await;
    assert_eq!(torn.events().iter().filter(|event| event.json().is_null()).count(), 2);
    assert_eq!(text(Dialect::AnthropicMessages, &torn), SIXTY_WORDS);
    let huge = stream(Answer::wrong(Misbehaviour::HugeEvent { at: Point::Tokens(9), bytes: 3 << 20 })).await;
    assert!(huge.events().iter().any(|event| event.data.len() > 3 << 20));
    assert_eq!(text(Dialect::AnthropicMessages, &huge), SIXTY_WORDS);
}

#[tokio::test]
async fn legal_forms_mean_the_same() {
    let forms = [
        Wire { line_ends: LineEnds::CrLf, ..Wire::default() },
        Wire { line_ends: LineEnds::Cr, bom: true, ..Wire::default() },
        Wire { line_ends: LineEnds::Mixed, comments: true, split_data: true, ..Wire::default() },
        Wire { chunk_bytes: Some(1), trailers: true, ..Wire::default() },
        Wire { close: true, ..Wire::default() },
    ];
    for dialect in DIALECTS {
        let plain = stream_of(dialect, Answer::healthy()).await.0;
        for wire in forms {
            let (exchange, _) = stream_of(dialect, Answer::healthy().with_wire(wire)).await;
            let meaning = |exchange: &Exchange| -> Vec<_> {
                exchange.events().into_iter().map(|event| (event.event, event.data.replace("{\n", "{"))).collect()
            };
            assert_eq!(meaning(&exchange), meaning(&plain), "{dialect:?} {wire:?}");
            assert_eq!(exchange.end, End::Whole);
            assert!(exchange.body != plain.body || wire.chunk_bytes.is_some() || wire.close, "{wire:?} changes the bytes");
            assert_eq!(exchange.header("connection") == Some("close"), wire.close);
        }
    }
}

#[tokio::test]
async fn gzip_is_a_gzip_stream() {
    let plain = stream(Answer::healthy()).await.body;
    let exchange = stream(Answer::healthy().with_wire(Wire { gzip: true, ..Wire::default() })).await;
    assert_eq!(exchange.header("content-encoding"), Some("gzip"));
    assert_eq!(stored_gzip(&exchange.body), plain);
}

#[tokio::test]
async fn an_answer_before_the_body() {
    let early = ErrorAnswer { error: ErrorKind::Unavailable, status: None, retry_after: Some("1".into()) };
    let upstream = FaultUpstream::start(Plan::always(Answer::wrong(Misbehaviour::EarlyError(early)))).await.unwrap();
    let mut client = RawClient::connect(upstream.address()).await.unwrap();
    client.send_bytes(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nhalf").await.unwrap();
    let exchange = client.reply(LIMIT).await;
    assert_eq!((exchange.status(), exchange.header("retry-after")), (Some(503), Some("1")));
    drop(client);
    let left = upstream.attempts_when(LIMIT, |attempts| attempts[0].client_left_at.is_some()).await.unwrap();
    assert_eq!(left[0].body, b"half", "what is uploaded is noted");
}

#[tokio::test]
async fn an_expected_continue() {
    let head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 15\r\n\r\n";
    for (answer, continues) in [(Answer::healthy(), true), (Answer::wrong(Misbehaviour::NeverContinue), false)] {
        let upstream = FaultUpstream::start(Plan::always(answer)).await.unwrap();
        let mut socket = tokio::net::TcpStream::connect(upstream.address()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut socket, head).await.unwrap();
        let mut first = [0; 25];
        let read = tokio::time::timeout(SILENCE, tokio::io::AsyncReadExt::read_exact(&mut socket, &mut first)).await;
        assert_eq!(read.is_ok(), continues);
        assert!(!continues || &first == b"HTTP/1.1 100 Continue\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut socket, b"{\"stream\":true}").await.unwrap();
        upstream.attempts_when(LIMIT, |attempts| attempts[0].finished_at.is_some()).await.expect("answered once the body came");
    }
}

#[tokio::test]
async fn a_connection_that_closes_as_it_is_used_again() {
    let upstream = FaultUpstream::start(Plan::first(1, Answer::wrong(Misbehaviour::CloseOnReuse))).await.unwrap();
    let mut client = RawClient::connect(upstream.address()).await.unwrap();
    let request = asked(Dialect::AnthropicMessages);
    assert_eq!(client.again(&request, LIMIT).await.end, End::Whole);
    assert!(matches!(client.again(&request, LIMIT).await.end, End::NoHead(_)));
    assert_eq!(RawClient::exchange(upstream.address(), &request, LIMIT).await.end, End::Whole, "a new connection is well");
    let connections: Vec<_> = upstream.attempts().iter().map(|attempt| attempt.connection).collect();
    assert_eq!(connections, [1, 2]);
}

#[tokio::test]
async fn connections_are_kept() {
    let upstream = FaultUpstream::start(Plan::healthy()).await.unwrap();
    let mut client = RawClient::connect(upstream.address()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.again(&asked(Dialect::OpenaiChat), LIMIT).await.end, End::Whole);
    }
    assert!(upstream.attempts().iter().all(|attempt| attempt.connection == 1));
}

#[tokio::test]
async fn who_leaves_is_noted() {
    for answer in [Answer::stall(Point::Tokens(5)), Answer::wrong(Misbehaviour::NoHeaders), Answer::pings(Point::Start, 5)] {
        let upstream = FaultUpstream::start(Plan::always(answer)).await.unwrap();
        let mut client = RawClient::connect(upstream.address()).await.unwrap();
        client.send(&asked(Dialect::AnthropicMessages)).await.unwrap();
        upstream.attempts_when(LIMIT, |attempts| attempts.len() == 1).await.unwrap();
        client.reset();
        let attempts = upstream.attempts_when(LIMIT, |attempts| attempts[0].client_left_at.is_some()).await.unwrap();
        assert!(attempts[0].finished_at.is_none());
    }
}

#[tokio::test]
async fn a_refusal_is_a_reply() {
    let reply = Reply { stop: Some(Stop::Refusal), ..Reply::text("I cannot help with that.") };
    let (exchange, _) = stream_of(Dialect::AnthropicMessages, Answer::saying(reply)).await;
    assert!(exchange.text().contains("\"stop_reason\":\"refusal\""));
}

fn asked(dialect: Dialect) -> RawRequest {
    RawRequest::post(dialect.path(), &json!({"model": "m", "stream": true, "stream_options": {"include_usage": true}}))
}

/// One streamed request to an upstream that always answers so.
async fn stream_of(dialect: Dialect, answer: Answer) -> (Exchange, Attempt) {
    let upstream = FaultUpstream::start(Plan::always(answer)).await.unwrap();
    let exchange = RawClient::exchange(upstream.address(), &asked(dialect), LIMIT).await;
    assert_ne!(exchange.end, End::Limit, "it does not end");
    let attempts = upstream.attempts_when(LIMIT, |attempts| attempts.iter().all(|attempt| attempt.finished_at.is_some())).await;
    (exchange, attempts.expect("the upstream is done").pop().expect("an attempt"))
}

async fn stream(answer: Answer) -> Exchange {
    stream_of(Dialect::AnthropicMessages, answer).await.0
}

/// What an answer brings that never ends: so many events, and then nothing for a while.
async fn silent_after(answer: Answer, events: usize) -> Exchange {
    let upstream = FaultUpstream::start(Plan::always(answer)).await.unwrap();
    let mut client = RawClient::connect(upstream.address()).await.unwrap();
    client.send(&asked(Dialect::AnthropicMessages)).await.unwrap();
    let limit = if events == 0 { SILENCE } else { LIMIT };
    let mut exchange = client.reply_until(limit, |body| events > 0 && sse_events(body).len() >= events).await;
    let before = exchange.body.len();
    client.go_on(&mut exchange, SILENCE, |_| false).await;
    assert_eq!((before, sse_events(&exchange.body).len()), (exchange.body.len(), events), "and then nothing");
    exchange
}

/// Asks again until the upstream answers so.
async fn until(upstream: &FaultUpstream, holds: impl Fn(&Exchange) -> bool) -> Exchange {
    let asking = async {
        loop {
            let exchange = RawClient::exchange(upstream.address(), &asked(Dialect::AnthropicMessages), LIMIT).await;
            if holds(&exchange) {
                return exchange;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, asking).await.expect("it becomes so")
}

#[derive(Default)]
struct Joined {
    text: String,
    thinking: String,
    arguments: Vec<String>,
}

/// The pieces of a stream put together.
fn joined(dialect: Dialect, exchange: &Exchange) -> Joined {
    let mut joined = Joined::default();
    for event in exchange.events() {
        let data = event.json();
        let piece = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match dialect {
            Dialect::AnthropicMessages => {
                joined.text += &piece(&data["delta"]["text"]);
                joined.thinking += &piece(&data["delta"]["thinking"]);
                if data["content_block"]["type"] == "tool_use" {
                    joined.arguments.push(String::new());
                }
                if let Some(arguments) = joined.arguments.last_mut() {
                    *arguments += &piece(&data["delta"]["partial_json"]);
                }
            }
            Dialect::OpenaiChat => {
                let delta = &data["choices"][0]["delta"];
                joined.text += &piece(&delta["content"]);
                joined.thinking += &piece(&delta["reasoning_content"]);
                let call = &delta["tool_calls"][0];
                if call["id"].is_string() {
                    joined.arguments.push(String::new());
                }
                if let Some(arguments) = joined.arguments.last_mut() {
                    *arguments += &piece(&call["function"]["arguments"]);
                }
            }
            Dialect::OpenaiResponses => match data["type"].as_str().unwrap_or_default() {
                "response.output_text.delta" => joined.text += &piece(&data["delta"]),
                "response.reasoning_summary_text.delta" => joined.thinking += &piece(&data["delta"]),
                "response.output_item.added" if data["item"]["type"] == "function_call" => joined.arguments.push(String::new()),
                "response.function_call_arguments.delta" => {
                    joined.arguments.last_mut().expect("a call began").push_str(&piece(&data["delta"]));
                }
                _ => {}
            },
        }
    }
    joined
}

fn text(dialect: Dialect, exchange: &Exchange) -> String {
    joined(dialect, exchange).text
}

fn words_of(exchange: &Exchange) -> usize {
    text(Dialect::AnthropicMessages, exchange).split_whitespace().count()
}

/// Reads a gzip stream of stored blocks, the only ones that the upstream writes.
fn stored_gzip(bytes: &[u8]) -> Vec<u8> {
    let (mut at, mut out) = (10, Vec::new());
    loop {
        let (last, length) = (bytes[at] == 1, usize::from(u16::from_le_bytes([bytes[at + 1], bytes[at + 2]])));
        out.extend_from_slice(&bytes[at + 5..at + 5 + length]);
        at += 5 + length;
        if last {
            assert_eq!(bytes[at + 4..], (out.len() as u32).to_le_bytes(), "a check sum, and then the length");
            return out;
        }
    }
}
