//! What HTTP itself can do to a front door: bodies without end, early answers, connections that were closed meanwhile, other protocols,
//! encodings, and networks that answer in the cloud's place.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use understudy::gateway::drill::answer::{Answer, Ending, ErrorAnswer, ErrorKind, Misbehaviour, Point, SIXTY_WORDS, Wire};
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::Plan;
use understudy::gateway::drill::raw_client::{End, Exchange};
use understudy::gateway::status::State;

use super::doors::{DIALECTS, door, setup};
use super::outcome::{
    FIRST, asked, attempts_when, briefly, directly, eventually, first_status, held, in_every_dialect, is_down, is_well, question,
    text_in_one_piece, whole, with,
};
use super::raw_upstream::{RawUpstream, read_head, read_request, reply};
use crate::support::front_door::{FrontDoor, LOCAL, Setup, request};
use crate::support::test_app::Options;

const MESSAGES: Dialect = Dialect::AnthropicMessages;

/// Before an upstream that a test writes itself.
fn before(upstream: &RawUpstream) -> FrontDoor {
    door(Setup { urls: vec![upstream.url()], ..setup_of_nobody() })
}

fn setup_of_nobody() -> Setup {
    Setup { plans: Vec::new(), ..setup(MESSAGES, Plan::healthy()) }
}

const HUGE: usize = 64 << 20;

/// One event of 64 MiB within the text: it is not held, and the rest is said by another.
pub fn huge_event() {
    let plan = Plan::always(Answer::wrong(Misbehaviour::HugeEvent { at: Point::Tokens(20), bytes: HUGE }));
    let door = door(setup(MESSAGES, plan));
    let exchange = door.exchange(&question(MESSAGES));
    let answered = whole(MESSAGES, &exchange);
    assert_eq!(answered.by, FIRST, "who began the message is its name");
    assert!(exchange.text().contains(": understudy: "), "the local model went on");
    assert!(exchange.body.len() < 1 << 20, "{} bytes reached the client", exchange.body.len());
    let attempts = attempts_when(&door, |attempts| attempts.iter().all(|attempt| attempt.client_left_at.is_some()));
    assert!(attempts[0].bytes_sent < HUGE as u64, "the front door reads no more than it holds");
    held(&door);
}

/// A reply in one piece that never ends.
pub fn huge_reply() {
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    let upstream = RawUpstream::start(move |stream| {
        if read_request(stream).is_none() {
            return;
        }
        let piece = vec![b'x'; 1 << 20];
        let mut bytes = &b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n\""[..];
        while stream.write_all(bytes).is_ok() {
            counted.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            bytes = &piece;
        }
    });
    let door = before(&upstream);
    let exchange = door.exchange(&request(MESSAGES, false));
    assert_eq!(text_in_one_piece(MESSAGES, &exchange), SIXTY_WORDS);
    assert_eq!(exchange.header("x-understudy-reason"), Some("too_large"));
    // What the two sockets hold comes on top.
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < 2 * HUGE as u64, "{sent} bytes were taken");
    held(&door);
}

pub fn header_bomb() {
    in_every_dialect(&Plan::always(Answer::wrong(Misbehaviour::HeaderBomb { bytes: 4 << 20 })), |door, dialect| {
        asked(door, dialect).is_local("too_large");
        assert_eq!(door.attempts().len(), 1, "{dialect:?}");
        assert!(door.attempts()[0].bytes_sent < 4 << 20, "the front door reads no more than it holds");
    });
}

/// A redirect is never followed: the credential is for one host.
pub fn redirect_without_end() {
    in_every_dialect(&Plan::always(Answer::wrong(Misbehaviour::Redirect)), |door, dialect| {
        asked(door, dialect).is_local("not_the_api");
        assert_eq!(door.attempts().len(), 1, "{dialect:?}");
        let in_one_piece = door.exchange(&request(dialect, false).header("x-session-id", "another"));
        assert_eq!(text_in_one_piece(dialect, &in_one_piece), SIXTY_WORDS);
        is_down(door, "not_the_api");
    });
}

/// The client asks first whether it may send its body: that is between it and the front door, and goes no further.
pub fn continue_that_never_comes() {
    in_every_dialect(&Plan::always(Answer::wrong(Misbehaviour::NeverContinue)), |door, dialect| {
        let exchange = door.exchange(&question(dialect).header("expect", "100-continue"));
        whole(dialect, &exchange).is_cloud();
        assert_eq!(door.attempts()[0].header("expect"), None, "{dialect:?}");
    });
}

/// An answer before the request's end: it is heard, and the rest is not sent to who does not listen.
pub fn answer_before_the_body() {
    let body = "x".repeat(6 << 20);
    let (taken, closed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, told) = (taken.clone(), closed.clone());
    let upstream = RawUpstream::start(move |stream| {
        let Some(head) = read_head(stream) else { return };
        if head.starts_with("GET") {
            return reply(stream, "200 OK", &["content-type: application/json"], b"{}");
        }
        let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}).to_string();
        reply(stream, "529 Overloaded", &["content-type: application/json"], error.as_bytes());
        // It listens no more for now; whatever comes then is counted.
        std::thread::sleep(Duration::from_millis(300));
        let mut buffer = vec![0; 1 << 16];
        while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
            counted.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        told.store(true, Ordering::Relaxed);
    });
    let door = before(&upstream);
    let padded = with(question(MESSAGES), "metadata", json!({"user_id": body}));
    whole(MESSAGES, &door.exchange(&padded)).is_local("overloaded");
    eventually("the connection is closed", || closed.load(Ordering::Relaxed));
    briefly(&door, MESSAGES, "another").is_local("overloaded");
    is_down(&door, "overloaded");
    let taken = taken.load(Ordering::Relaxed);
    assert!(taken < 6 << 20, "{taken} bytes were sent to one who had answered");
    held(&door);
}

/// The same from a server that reads to the end.
pub fn early_503() {
    let early = ErrorAnswer { error: ErrorKind::Unavailable, status: None, retry_after: None };
    in_every_dialect(&Plan::first(2, Answer::wrong(Misbehaviour::EarlyError(early))), |door, dialect| {
        asked(door, dialect).is_local("server_error");
        assert!((1..=2).contains(&door.attempts().len()), "{dialect:?}");
    });
}

/// The server closes an idle connection as the next request comes: nobody's fault, and nobody notices.
pub fn connection_closed_while_idle() {
    for dialect in DIALECTS {
        let door = door(setup(dialect, Plan::always(Answer::wrong(Misbehaviour::CloseOnReuse))));
        for times in 1..=5 {
            asked(&door, dialect).is_cloud();
            let attempts = door.attempts();
            assert_eq!(attempts.len(), times, "{dialect:?}: each request is answered once");
            assert_eq!(attempts[times - 1].connection, times as u64, "{dialect:?}: on a new connection");
        }
        is_well(&door);
        held(&door);
    }
}

/// The empty settings of HTTP/2, and a farewell: HTTP/1.1 is what was asked for.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
const GOAWAY: &[u8] = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0d";

pub fn http_2_only() {
    for (at_once, farewell) in [(true, false), (true, true), (false, true)] {
        let upstream = RawUpstream::start(move |stream| {
            if !at_once && read_request(stream).is_none() {
                return;
            }
            let frames = [SETTINGS, if farewell { GOAWAY } else { b"" }].concat();
            let _ = stream.write_all(&frames);
            if !farewell {
                // It waits for a preface.
                let _ = stream.read(&mut [0; 1 << 12]);
            }
        });
        let door = before(&upstream);
        // Whether the farewell is read or the end of the connection noticed first is a matter of chance: two alike open a breaker.
        eventually("it is left alone", || {
            let answered = briefly(&door, MESSAGES, "of one who asks again");
            assert_eq!(answered.by, LOCAL, "at once: {at_once}, farewell: {farewell}");
            first_status(&door).state == State::Down
        });
        held(&door);
    }
}

/// Two upstreams with one plan give the same bytes: one is asked directly.
fn through_and_directly(dialect: Dialect, wire: Wire) -> (FrontDoor, Exchange, Exchange) {
    let plan = Plan::always(Answer::healthy().with_wire(wire));
    let door = door(Setup { plans: vec![plan.clone(), plan], ..setup(dialect, Plan::healthy()) });
    let through = door.exchange(&question(dialect));
    let direct = directly(&door, &door.upstreams[1], &question(dialect));
    (door, through, direct)
}

/// An encoding that nobody asked for is not read, and goes through as it is; so does what comes before trailers.
pub fn encodings_and_trailers() {
    let gzip = Wire { gzip: true, ..Wire::default() };
    let trailers = Wire { trailers: true, ..Wire::default() };
    for (dialect, wire) in
        DIALECTS.into_iter().flat_map(|dialect| [gzip, trailers, Wire { trailers: true, ..gzip }].map(|wire| (dialect, wire)))
    {
        let (door, through, direct) = through_and_directly(dialect, wire);
        assert_eq!((through.status(), &through.end), (Some(200), &End::Whole), "{dialect:?} {wire:?}");
        assert!(through.body == direct.body, "{dialect:?} {wire:?}");
        assert_eq!(through.header("content-encoding"), direct.header("content-encoding"));
        assert_eq!(door.attempts()[0].header("accept-encoding"), Some("identity"), "a stream is to be readable");
        assert_eq!(through.header("x-understudy-served-by"), Some(FIRST));
        if !wire.gzip {
            whole(dialect, &through).is_cloud();
        }
        is_well(&door);
        held(&door);
    }
}

/// Encodings of which the front door knows nothing at all, and a reply in one piece.
pub fn encodings_by_name() {
    let bytes: Vec<u8> = (0..4_000u32).map(|number| (number * 31 % 251) as u8).collect();
    for (encoding, stream) in [("br", true), ("zstd", true), ("zstd", false), ("br", false)] {
        let sent = bytes.clone();
        let kind = if stream { "content-type: text/event-stream" } else { "content-type: application/json" };
        let upstream = RawUpstream::start(move |connection| {
            while let Some(head) = read_request(connection) {
                let body: &[u8] = if head.starts_with("GET") { b"{}" } else { &sent };
                reply(connection, "200 OK", &[kind, &format!("content-encoding: {encoding}")], body);
            }
        });
        let door = before(&upstream);
        let exchange = door.exchange(&request(MESSAGES, stream));
        assert_eq!((exchange.status(), &exchange.end), (Some(200), &End::Whole), "{encoding} {stream}");
        assert!(exchange.body == bytes, "{encoding} {stream}");
        assert_eq!((exchange.header("content-encoding"), exchange.header("x-understudy-served-by")), (Some(encoding), Some(FIRST)));
        is_well(&door);
    }
}

/// Nobody can go on in bytes that are not read: then a cut is a cut, and looks like one.
pub fn encoding_that_is_cut() {
    for how in [Ending::Reset, Ending::Fin] {
        let answer = Answer::cut(Point::Tokens(20), how).with_wire(Wire { gzip: true, ..Wire::default() });
        let door = door(setup(MESSAGES, Plan::first(1, answer)));
        let exchange = door.exchange(&question(MESSAGES));
        assert!(matches!(exchange.end, End::Cut(_)), "a truncated answer ended as {:?}", exchange.end);
        held(&door);
    }
}

/// A network that wants a login answers in the cloud's place.
pub fn captive_portal() {
    type Portal = fn(&mut TcpStream);
    let portals: [(&str, Portal); 4] = [
        ("a redirect", |stream| reply(stream, "302 Found", &["location: http://192.0.2.1/login", "content-type: text/html"], b"<html>")),
        ("a page", |stream| reply(stream, "200 OK", &["content-type: text/html"], b"<html><form>Room number?</form></html>")),
        ("a page that says it is something else", |stream| {
            reply(stream, "200 OK", &["content-type: application/json"], b"<!DOCTYPE html><title>Welcome</title>");
        }),
        ("a demand", |stream| reply(stream, "511 Network Authentication Required", &["content-type: text/html"], b"<html>")),
    ];
    for (name, portal) in portals {
        let upstream = RawUpstream::start(move |stream| {
            while read_request(stream).is_some() {
                portal(stream);
            }
        });
        let door = before(&upstream);
        for stream in [true, false] {
            let exchange = door.exchange(&request(MESSAGES, stream).header("x-session-id", name));
            assert_eq!(exchange.header("x-understudy-reason"), Some("not_the_api"), "{name}: {}", exchange.text());
            assert!(!exchange.text().contains("<html") && !exchange.text().contains("192.0.2.1"), "{name}");
        }
        is_down(&door, "not_the_api");
        held(&door);
    }
}

/// It answers where a certificate is asked for, and has none that is good.
pub fn captive_portal_without_a_certificate() {
    let is_plain = Arc::new(AtomicBool::new(false));
    let told = is_plain.clone();
    let upstream = RawUpstream::start(move |stream| {
        let mut first = [0; 1 << 12];
        let bytes = stream.read(&mut first).unwrap_or(0);
        // A record of TLS that shakes hands.
        told.fetch_or(bytes > 0 && first[0] != 0x16, Ordering::Relaxed);
        reply(stream, "302 Found", &["location: http://192.0.2.1/login"], b"");
    });
    let url = format!("https://127.0.0.1:{}", upstream.port());
    let door = door(Setup { urls: vec![url], ..setup_of_nobody() });
    for session in ["one", "two"] {
        briefly(&door, MESSAGES, session).is_local("tls");
    }
    is_down(&door, "tls");
    assert!(upstream.connections() >= 2 && !is_plain.load(Ordering::Relaxed), "nothing is sent without a certificate");
    held(&door);
}

/// What nobody else can answer ends as an error that a client reads, never as a page.
pub fn captive_portal_without_a_local_model() {
    let upstream = RawUpstream::start(|stream| {
        while read_request(stream).is_some() {
            reply(stream, "302 Found", &["location: http://192.0.2.1/login"], b"");
        }
    });
    let options = Options { loaded: false, ..Options::default() };
    let door = door(Setup { urls: vec![upstream.url()], options, ..setup_of_nobody() });
    let exchange = door.exchange(&question(MESSAGES));
    assert_eq!((exchange.status(), exchange.header("location")), (Some(503), None), "{}", exchange.text());
    assert_eq!(exchange.json()["type"], "error");
}
