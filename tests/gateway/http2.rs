//! Case 50: upstreams that speak HTTP/2. What is refused is tried again at once; whatever else ends a stream is a cut like another.

use std::time::Duration;

use h2::Reason;
use tokio::task::JoinHandle;
use understudy::gateway::drill::answer::SIXTY_WORDS;
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::raw_client::{End, Exchange, RawClient};
use understudy::gateway::limits::Limits;
use understudy::gateway::status::State;

use super::connections::TlsFront;
use super::doors::{DIALECTS, limited_in};
use super::http2_upstream::{Http2Upstream, Wrong};
use super::outcome::{ask, ask_whole, eventually, next_is_answered, upstream_state};
use crate::support::front_door::{FrontDoor, HANGS, LOCAL, Setup, request, text};

const MESSAGES: Dialect = Dialect::AnthropicMessages;

fn before(dialect: Dialect, upstream: &Http2Upstream) -> FrontDoor {
    before_with(dialect, upstream, |_, _| {})
}

/// It is told that the upstream speaks HTTP/2: without TLS it could not ask. What is tried again is so within the time that users give it,
/// however busy the machine.
fn before_with(dialect: Dialect, upstream: &Http2Upstream, choose: impl FnOnce(&mut Limits, &Limits)) -> FrontDoor {
    limited_in(dialect, Setup { urls: vec![upstream.url()], upstream: "http = \"2\"", scale: 1, ..Setup::default() }, choose)
}

fn sent(door: &FrontDoor, number: usize) -> JoinHandle<Exchange> {
    let request = request(MESSAGES, true).header("x-session-id", &format!("of client {number}"));
    let address = door.address();
    door.app.runtime().spawn(async move { RawClient::exchange(address, &request, HANGS).await })
}

fn replies(door: &FrontDoor, tasks: Vec<JoinHandle<Exchange>>) -> Vec<Exchange> {
    tasks.into_iter().map(|task| door.app.runtime().block_on(task).expect("a client does not panic")).collect()
}

#[track_caller]
fn is_whole(exchange: &Exchange) {
    assert_eq!((exchange.status(), &exchange.end), (Some(200), &End::Whole), "{}", exchange.text());
    assert_eq!(text(MESSAGES, exchange), SIXTY_WORDS, "{}", exchange.text());
}

pub fn healthy() {
    for dialect in DIALECTS {
        let upstream = Http2Upstream::start(&[]);
        let door = before(dialect, &upstream);
        ask(&door, dialect).is_cloud();
        ask_whole(&door, dialect).is_cloud();
        next_is_answered(&door, dialect);
        assert_eq!((upstream.connections(), upstream.requests()), (1, 3), "{dialect:?}");
    }
    // Many at once share what there is.
    let upstream = Http2Upstream::start(&[]);
    let door = before(MESSAGES, &upstream);
    ask(&door, MESSAGES).is_cloud();
    let tasks = (0..20).map(|number| sent(&door, number)).collect();
    replies(&door, tasks).iter().for_each(is_whole);
    assert_eq!((upstream.connections(), upstream.requests()), (1, 21));
    assert_eq!(upstream_state(&door).0, State::Well);
}

/// The real program, over TLS: HTTP/2 where the upstream offers it and no setting says otherwise.
pub fn agreed_on() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let upstream = Http2Upstream::start(&[]);
    let authority = super::connections::fixture("authority.pem");
    for (offers, setting, spoken) in
        [(&["h2", "http/1.1"][..], "", 1), (&["h2"], "", 1), (&["h2"], "http = \"2\"\n", 1), (&["http/1.1"], "", 0), (&[], "", 0)]
    {
        let before = upstream.requests();
        let front = runtime.block_on(TlsFront::offering("good.pem", upstream.address(), offers));
        let (exchange, log) = super::connections::through_the_program_with(&runtime, front.port, &authority, setting);
        assert_eq!(upstream.requests() - before, spoken, "{offers:?} {setting}: {log}");
        assert_eq!(exchange.header("x-understudy-served-by") == Some("cloud"), spoken == 1, "{offers:?} {setting}: {log}");
    }
    let before = upstream.requests();
    let front = runtime.block_on(TlsFront::offering("good.pem", upstream.address(), &["h2", "http/1.1"]));
    super::connections::through_the_program_with(&runtime, front.port, &authority, "http = \"1.1\"\n");
    assert_eq!(upstream.requests(), before, "it is told not to");
}

pub fn stream_refused() {
    for dialect in DIALECTS {
        let upstream = Http2Upstream::start(&[Wrong::Refused(Reason::REFUSED_STREAM), Wrong::Nothing]);
        let door = before(dialect, &upstream);
        ask(&door, dialect).is_cloud();
        assert_eq!(upstream.requests(), 2, "{dialect:?}: tried again at once");
        assert_eq!(upstream_state(&door).0, State::Well);
    }
    // On a connection that others have used.
    let upstream = Http2Upstream::start(&[Wrong::Nothing, Wrong::Refused(Reason::REFUSED_STREAM), Wrong::Nothing]);
    let door = before(MESSAGES, &upstream);
    ask(&door, MESSAGES).is_cloud();
    ask(&door, MESSAGES).is_cloud();
    assert_eq!(upstream.requests(), 3);
    // For ever.
    let upstream = Http2Upstream::start(&[Wrong::Refused(Reason::REFUSED_STREAM)]);
    let door = before(MESSAGES, &upstream);
    ask(&door, MESSAGES).is_local("closed_early");
    assert_eq!(upstream.requests(), 2);
}

/// Who says that it is too much is not asked at once again.
pub fn overloaded() {
    let upstream = Http2Upstream::start(&[Wrong::Refused(Reason::ENHANCE_YOUR_CALM)]);
    let door = before(MESSAGES, &upstream);
    ask(&door, MESSAGES).is_local("overloaded");
    assert_eq!(upstream.requests(), 1);
}

/// It speaks HTTP/2, and will not be spoken to in it.
pub fn wants_http_1() {
    let upstream = Http2Upstream::start(&[Wrong::Refused(Reason::HTTP_1_1_REQUIRED)]);
    let door = before(MESSAGES, &upstream);
    // This one speaks nothing else: that the second try is none of HTTP/2's is all there is to see.
    assert!(ask(&door, MESSAGES).by_this_machine());
    assert_eq!(upstream.requests(), 1);
    assert!(upstream.connections() >= 2);
}

/// What has begun comes to its end, and what follows goes elsewhere.
pub fn goes_away_in_mid_stream() {
    for dialect in DIALECTS {
        let upstream = Http2Upstream::start(&[Wrong::GoesAway(20), Wrong::Nothing]);
        let door = before(dialect, &upstream);
        ask(&door, dialect).is_cloud();
        ask(&door, dialect).is_cloud();
        assert_eq!((upstream.connections(), upstream.requests()), (2, 2), "{dialect:?}");
        assert_eq!(upstream_state(&door).0, State::Well);
    }
}

pub fn goes_away_while_idle() {
    // Behind the last event: nobody waits for it.
    let upstream = Http2Upstream::start(&[Wrong::GoesAway(60), Wrong::GoesAway(60), Wrong::Nothing]);
    let door = before(MESSAGES, &upstream);
    for _ in 0..3 {
        ask(&door, MESSAGES).is_cloud();
    }
    assert_eq!(upstream_state(&door).0, State::Well, "an accident of nobody's");
}

pub fn stream_reset() {
    for (reason, dialect) in [Reason::INTERNAL_ERROR, Reason::CANCEL, Reason::NO_ERROR].into_iter().zip(DIALECTS) {
        let upstream = Http2Upstream::start(&[Wrong::Reset(20, reason), Wrong::Nothing]);
        let door = before(dialect, &upstream);
        ask(&door, dialect).is_taken_over("cut");
        next_is_answered(&door, dialect);
    }
    // Of a whole reply nobody has anything yet. If not even its head has come, it is asked for again.
    let upstream = Http2Upstream::start(&[Wrong::Reset(0, Reason::INTERNAL_ERROR), Wrong::Nothing]);
    let door = before(MESSAGES, &upstream);
    let turn = ask_whole(&door, MESSAGES);
    match upstream.requests() {
        1 => turn.is_local("cut"),
        requests => assert_eq!((requests, turn.by_this_machine()), (2, false)),
    }
}

pub fn connection_dies_with_many_streams() {
    // One makes the connection, five stall on it, and the seventh takes it down with all of them.
    let wrongs = [&[Wrong::Nothing][..], &[Wrong::Stalls(20); 5], &[Wrong::Dies(20)]].concat();
    let upstream = Http2Upstream::start(&wrongs);
    let door = before(MESSAGES, &upstream);
    ask(&door, MESSAGES).is_cloud();
    let mut tasks: Vec<_> = (0..5).map(|number| sent(&door, number)).collect();
    eventually("all are under way", || upstream.requests() == 6);
    tasks.push(sent(&door, 5));
    for exchange in replies(&door, tasks) {
        is_whole(&exchange);
        // Some may have been cut before the client had anything.
        let by = exchange.header("x-understudy-served-by");
        assert!(exchange.text().contains("goes on from here (cut)") || by == Some(LOCAL), "{}", exchange.text());
    }
}

/// The others on the connection do not wait for it.
pub fn one_stream_stalls() {
    let upstream = Http2Upstream::start(&[Wrong::Nothing, Wrong::Stalls(20), Wrong::Nothing]);
    let door = before_with(MESSAGES, &upstream, |limits, _| limits.byte_silence = Duration::from_millis(750));
    ask(&door, MESSAGES).is_cloud();
    let stalled = sent(&door, 0);
    eventually("it is under way", || upstream.requests() == 2);
    ask(&door, MESSAGES).is_cloud();
    let exchange = &replies(&door, vec![stalled])[0];
    is_whole(exchange);
    assert!(exchange.text().contains("goes on from here (byte_silence)"), "{}", exchange.text());
    eventually("the stream is reset, and the connection is not", || upstream.resets() == 1);
    assert_eq!(upstream.connections(), 1);
}

/// A connection that is dead, and nobody says so: found out long before a stream's own patience ends.
pub fn ping_is_not_answered() {
    let upstream = Http2Upstream::start(&[Wrong::Deaf(20)]);
    let door = before_with(MESSAGES, &upstream, |limits, _| limits.connect = Duration::from_millis(100));
    let turn = ask(&door, MESSAGES);
    turn.is_taken_over("cut");
    assert!(turn.exchange.ended_after < HANGS / 2, "{:?}", turn.exchange.ended_after);
}

/// What it does not read stays with the upstream, and is nobody else's loss.
pub fn client_that_does_not_read() {
    let upstream = Http2Upstream::start(&[Wrong::Floods(20), Wrong::Nothing]);
    let door = before(MESSAGES, &upstream);
    let asked = request(MESSAGES, true);
    let client = door.app.runtime().block_on(async {
        let mut client = RawClient::connect(door.address()).await.expect("the server accepts");
        client.send(&asked).await.expect("it reads");
        client
    });
    eventually("it is flooded", || upstream.flooded() > 256 << 10);
    for _ in 0..3 {
        ask(&door, MESSAGES).is_cloud();
    }
    assert_eq!(upstream.connections(), 1, "on the same connection");
    assert!(upstream.flooded() < 32 << 20, "{} bytes are held for nobody", upstream.flooded());
    drop(client);
    eventually("the upstream is told that nobody reads", || upstream.resets() == 1);
}

pub fn client_leaves() {
    let upstream = Http2Upstream::start(&[Wrong::Stalls(20), Wrong::Nothing]);
    let door = before(MESSAGES, &upstream);
    let client = door.app.runtime().block_on(async {
        let mut client = RawClient::connect(door.address()).await.expect("the server accepts");
        client.send(&request(MESSAGES, true)).await.expect("it reads");
        client.reply_until(HANGS, |body| body.len() > 500).await;
        client
    });
    drop(client);
    eventually("the upstream is told", || upstream.resets() == 1);
    assert_eq!(upstream_state(&door).0, State::Well);
    ask(&door, MESSAGES).is_cloud();
    assert_eq!(upstream.connections(), 1, "the connection is good for others");
}
