//! Clients that leave, ask twice, or ask when there is no room; and a server that is told to stop while it speaks.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;
use understudy::gateway::drill::answer::{Answer, Ending, ErrorAnswer, ErrorKind, Misbehaviour, Point};
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::Plan;
use understudy::gateway::drill::raw_client::{End, Exchange, RawClient, RawRequest};

use super::doors::{DIALECTS, door, kind, setup};
use super::outcome::{
    BRIEF, FIRST, PATIENCE, as_it_came, asked, attempts_when, brief_question, briefly, directly, eventually, held, is_down, is_well,
    question, reply_to, request_of, sent, told_as_failed, whole, whole_saying, with,
};
use super::raw_upstream::{RawUpstream, read_request};
use crate::support::front_door::{FrontDoor, HANGS, LOCAL, Setup};
use crate::support::test_app::Options;

const MESSAGES: Dialect = Dialect::AnthropicMessages;

fn before(plan: Plan) -> FrontDoor {
    door(setup(MESSAGES, plan))
}

/// Sends the question and leaves once so many bytes of the reply are there, with a farewell or without.
fn leave(door: &FrontDoor, request: &RawRequest, after_bytes: usize, farewell: bool) {
    let before = door.upstream().attempts().len();
    door.app.runtime().block_on(async {
        let mut client = RawClient::connect(door.address()).await.expect("the server accepts");
        client.send(request).await.expect("it reads");
        if after_bytes > 0 {
            client.reply_until(PATIENCE, |body| body.len() >= after_bytes).await;
        } else {
            let reached = |attempts: &[_]| attempts.len() > before;
            door.upstream().attempts_when(PATIENCE, reached).await.expect("it went up");
        }
        if !farewell {
            client.reset();
        }
    });
}

/// In whatever phase a client leaves, the upstream is told to stop, and it speaks against nobody.
pub fn leaves_in_any_phase() {
    let phases = [
        ("before the head", Answer::wrong(Misbehaviour::NoHeaders), 0),
        ("before the first event", Answer::stall(Point::Headers), 0),
        ("before content", Answer::pings(Point::Start, 20), 0),
        ("within the text", Answer::stall(Point::Tokens(20)), 1_000),
        ("within a text that goes on", Answer::healthy().with_token_interval_ms(50), 1_000),
    ];
    for (phase, answer, bytes) in phases {
        for farewell in [true, false] {
            let door = before(Plan::always(answer.clone()));
            for times in 1..=3 {
                leave(&door, &question(MESSAGES), bytes, farewell);
                let left =
                    attempts_when(&door, |attempts| attempts.iter().filter(|attempt| attempt.client_left_at.is_some()).count() == times);
                assert_eq!(left.len(), times, "{phase}: each was asked once");
            }
            is_well(&door);
            assert_eq!(door.app.stats().running, 0, "{phase}: nobody answers in the place of one whom nobody asks");
            door.upstream().set_plan(Plan::healthy());
            asked(&door, MESSAGES).is_cloud();
            held(&door);
        }
    }
}

/// A door whose local model takes its time, before a cloud that is overloaded.
fn slow_local(pace_ms: u64) -> FrontDoor {
    let options = Options { pace: Duration::from_millis(pace_ms), ..Options::default() };
    door(Setup { options, ..setup(MESSAGES, Plan::always(Answer::error(ErrorKind::Overloaded))) })
}

pub fn leaves_the_local_model() {
    let door = slow_local(20);
    for (times, farewell) in [(1, true), (2, false)] {
        leave(&door, &question(MESSAGES), 600, farewell);
        door.app.wait_until("it is cancelled", |stats| stats.running == 0 && stats.cancelled_total == times);
    }
}

/// After a takeover both have to be told: there is only the local model left.
pub fn leaves_after_a_takeover() {
    let options = Options { pace: Duration::from_millis(50), ..Options::default() };
    let plan = Plan::always(Answer::cut(Point::Tokens(20), Ending::Reset));
    let door = door(Setup { options, ..setup(MESSAGES, plan) });
    door.app.runtime().block_on(async {
        let mut client = RawClient::connect(door.address()).await.expect("the server accepts");
        client.send(&question(MESSAGES)).await.expect("it reads");
        client.reply_until(PATIENCE, |body| String::from_utf8_lossy(body).contains(": understudy: ")).await;
    });
    door.app.wait_until("it is cancelled", |stats| stats.running == 0 && stats.cancelled_total == 1);
}

/// Two sendings of one request, the second while the first is answered here: one run.
pub fn sent_twice() {
    for dialect in DIALECTS {
        let options = Options { pace: Duration::from_millis(3), ..Options::default() };
        let plan = Plan::always(Answer::error(ErrorKind::Overloaded));
        let door = door(Setup { options, kind: kind(dialect), ..setup(dialect, plan) });
        let request = question(dialect).header("x-claude-code-session-id", "s-1");
        let first = sent(&door, request.clone());
        door.app.wait_until("the first runs", |stats| stats.running == 1);
        let second = sent(&door, request);
        for task in [first, second] {
            whole(dialect, &reply_to(&door, task)).is_local("overloaded");
        }
        door.app.wait_until("all is over", |stats| stats.running == 0);
        assert_eq!(door.app.stats().finished_total, 1, "{dialect:?}: one run for both");
        held(&door);
    }
}

/// Two replies to which the cloud has given one id, both gone on with here: who asks by that id means one of them, and nobody knows which.
pub fn two_replies_under_one_id() {
    let dialect = Dialect::OpenaiResponses;
    let source = door(setup(dialect, Plan::healthy()));
    let healthy = directly(&source, source.upstream(), &question(dialect));
    let id = healthy.events()[0].json()["response"]["id"].as_str().expect("a response has an id").to_owned();
    let upstream = RawUpstream::start(move |stream| {
        if read_request(stream).is_some() {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 1000000\r\n\r\n";
            let begun = [head.as_bytes(), &healthy.body[..healthy.body.len() / 2]].concat();
            // Who has left needs no reply.
            let _ = stream.write_all(&begun);
        }
    });
    let options = Options { pace: Duration::from_millis(20), ..Options::default() };
    let door = door(Setup { plans: Vec::new(), urls: vec![upstream.url()], options, ..setup(dialect, Plan::healthy()) });
    let replies = ["one", "two"].map(|session| sent(&door, request_of(session, dialect)));
    door.app.wait_until("both are gone on with", |stats| stats.running == 2);
    for (method, of_it) in [("GET", ""), ("DELETE", ""), ("POST", "/cancel")] {
        let about = door.app.send(method, &format!("/v1/responses/{id}{of_it}"), &[], b"");
        assert_eq!(about.status(), 404, "{method} {of_it}: {}", about.text());
    }
    for reply in replies {
        let exchange = reply_to(&door, reply);
        assert!(exchange.text().contains(": understudy: ") && exchange.text().contains(&id), "{}", exchange.text());
        whole(dialect, &exchange);
    }
    assert_eq!(door.app.get(&format!("/v1/responses/{id}")).status(), 404, "nor is either kept");
}

fn with_retry_after(error: ErrorKind) -> Plan {
    let retry_after = Some("7".to_owned());
    Plan::always(Answer::wrong(Misbehaviour::Error(ErrorAnswer { error, status: None, retry_after })))
}

/// What the upstream said is the best word there is, if the local model is not there.
pub fn no_local_model_yet() {
    for error in [ErrorKind::Unavailable, ErrorKind::Overloaded, ErrorKind::RateLimit] {
        for dialect in DIALECTS {
            let options = Options { loaded: false, ..Options::default() };
            let door = door(Setup { options, ..setup(dialect, with_retry_after(error)) });
            let direct = directly(&door, door.upstream(), &question(dialect));
            let exchange = door.exchange(&question(dialect));
            assert_eq!(exchange.header("retry-after"), Some("7"));
            as_it_came(&exchange, &direct);
            assert_eq!(exchange.header("x-understudy-served-by"), Some(FIRST));
            // Another conversation, once the breaker may be open: still no success, and still a time to come back.
            let again = door.exchange(&request_of("another", dialect));
            assert!(matches!(again.status(), Some(429 | 503 | 529)), "{}", again.text());
            assert!(again.header("retry-after").is_some(), "{}", again.text());
        }
    }
}

/// A local model that has no place for anybody else: it recites the alphabet, without end, to one who has asked for it by its own name.
fn busy(dialect: Dialect, plan: Plan) -> (FrontDoor, JoinHandle<Exchange>) {
    let mut options = Options { pace: Duration::from_millis(5), ..Options::default() };
    (options.engine.sequences_max, options.engine.queue_max) = (1, 0);
    let door = door(Setup { options, ..setup(dialect, plan) });
    let recital = with(with(question(MESSAGES), "model", LOCAL), "messages", json!([{"role": "user", "content": "The alphabet!"}]));
    let recital = sent(&door, with(recital, "max_tokens", 100_000));
    door.app.wait_until("the local model is busy", |stats| stats.running == 1);
    (door, recital)
}

fn is_free_again(door: &FrontDoor, recital: &JoinHandle<Exchange>) {
    recital.abort();
    door.app.wait_until("the local model is free again", |stats| stats.running == 0);
}

/// The same where the local model has no room.
pub fn no_room_at_the_local_model() {
    for dialect in DIALECTS {
        let (door, recital) = busy(dialect, Plan::always(Answer::error(ErrorKind::Overloaded)));
        let direct = directly(&door, door.upstream(), &question(dialect));
        as_it_came(&door.exchange(&question(dialect)), &direct);
        is_free_again(&door, &recital);
        held(&door);
    }
}

/// It has one place, and a queue: the last resort does not turn away whom it can answer a moment later.
pub fn queue_of_the_last_resort() {
    let mut options = Options { pace: Duration::from_millis(2), ..Options::default() };
    options.engine.sequences_max = 1;
    let door = door(Setup { options, ..setup(MESSAGES, Plan::always(Answer::error(ErrorKind::Overloaded))) });
    let tasks: Vec<_> =
        (0..4).map(|number| sent(&door, brief_question(MESSAGES).header("x-session-id", &format!("queued {number}")))).collect();
    for task in tasks {
        whole_saying(MESSAGES, &reply_to(&door, task), BRIEF).is_local("overloaded");
    }
    held(&door);
}

/// The cloud breaks off, and then the local model: an error in the stream, and no success.
pub fn both_fail() {
    for dialect in DIALECTS {
        let plan = Plan::always(Answer::cut(Point::Tokens(20), Ending::Reset));
        let door = door(setup(dialect, plan));
        door.app.broken.store(true, Ordering::Relaxed);
        let told = told_as_failed(dialect, &door.exchange(&question(dialect)));
        assert!(!told.text.is_empty(), "{dialect:?}");
        assert_eq!(door.attempts().len(), 1);
        door.app.broken.store(false, Ordering::Relaxed);
        held(&door);
    }
}

/// The local model has no room for the rest.
pub fn both_fail_for_want_of_room() {
    for dialect in DIALECTS {
        let (door, recital) = busy(dialect, Plan::always(Answer::cut(Point::Tokens(20), Ending::Fin)));
        told_as_failed(dialect, &door.exchange(&question(dialect)));
        is_free_again(&door, &recital);
        held(&door);
    }
}

/// A stream of which so many bytes have come.
fn begun(door: &FrontDoor, bytes: usize) -> (RawClient, Exchange) {
    door.app.runtime().block_on(async {
        let mut client = RawClient::connect(door.address()).await.expect("the server accepts");
        client.send(&question(MESSAGES)).await.expect("it reads");
        let exchange = client.reply_until(PATIENCE, |body| body.len() > bytes).await;
        (client, exchange)
    })
}

/// Told to stop, the server lets streams from clouds come to their end as well, however long they take, and takes no new ones.
pub fn stopped_in_mid_stream() {
    // Sixty tokens in seven seconds: longer than replies that are made may take to be written out.
    let mut door = before(Plan::always(Answer::healthy().with_token_interval_ms(120)));
    let (mut client, mut exchange) = begun(&door, 1_000);
    door.app.ask_to_stop();
    eventually("the server says that it stops", || door.app.get("/readyz").status() == 503);
    let refused = door.exchange(&request_of("late", MESSAGES));
    assert_eq!((refused.status(), refused.header("retry-after").is_some()), (Some(503), true), "{}", refused.text());
    assert_eq!(door.attempts().len(), 1, "no new request goes up");
    door.app.runtime().block_on(client.go_on(&mut exchange, HANGS, |_| false));
    whole(MESSAGES, &exchange).is_cloud();
    door.app.wait_for_end();
}

/// A stream that nobody ends is cut off when the drain limit is over, and looks like it.
pub fn stopped_for_good() {
    let mut options = Options::default();
    options.config.drain_limit = Duration::from_millis(200);
    let plan = Plan::always(Answer::healthy().with_token_interval_ms(1_000));
    let mut door = door(Setup { options, scale: 1, ..setup(MESSAGES, plan) });
    let (mut client, mut exchange) = begun(&door, 500);
    door.app.ask_to_stop();
    door.app.runtime().block_on(client.go_on(&mut exchange, HANGS, |_| false));
    assert!(matches!(exchange.end, End::Cut(_)), "a truncated answer ended as {:?}", exchange.end);
    door.app.wait_for_end();
}

/// What is known of the upstreams stays while streams drain.
pub fn breakers_while_draining() {
    let mut door = slow_local(3);
    for session in ["one", "two"] {
        briefly(&door, MESSAGES, session).is_local("overloaded");
    }
    is_down(&door, "overloaded");
    let third = sent(&door, request_of("three", MESSAGES));
    door.app.wait_until("the third runs", |stats| stats.running == 1);
    door.app.ask_to_stop();
    eventually("the server says that it stops", || door.app.get("/readyz").status() == 503);
    is_down(&door, "overloaded");
    whole(MESSAGES, &reply_to(&door, third)).is_local("overloaded");
    door.app.wait_for_end();
}
