//! Cases 16 to 20 and 23: the reply breaks off, in its text, in its thinking, or just before its end.

use std::io::{Read, Write};
use std::net::TcpListener;

use understudy::gateway::drill::answer::{Answer, Ending, Misbehaviour, Point, Reply, SIXTY_WORDS};
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::Plan;
use understudy::gateway::drill::raw_client::{End, RawClient};
use understudy::gateway::history::local_signature;
use understudy::gateway::status::Use;

use super::doors::{DIALECTS, door_to, unscaled};
use super::outcome::{WORDS, ask, ask_whole, ask_with, settled, status};
use super::relay::without_ids;
use super::strict_client::Ended;
use crate::support::front_door::{FrontDoor, HANGS, Setup, request};

/// In the middle of the text, however the connection ends there: the local model goes on where the cloud stopped.
fn cut_in_the_text(how: Ending) {
    for dialect in DIALECTS {
        for tokens in [1, 17, 60] {
            let door = unscaled(dialect, Plan::always(Answer::cut(Point::Tokens(tokens), how)));
            ask(&door, dialect).is_taken_over("cut");
            settled(&door, dialect, 1);
            assert_eq!(status(&door).takeovers, 2, "the next request was one more");
        }
        let door = unscaled(dialect, Plan::always(Answer::cut(Point::Tokens(17), how)));
        ask_whole(&door, dialect).is_local("cut");
        settled(&door, dialect, 1);
    }
}

pub fn reset_mid_text() {
    cut_in_the_text(Ending::Reset);
    // Told not to go on, the door says that it cannot.
    let plan = Plan::always(Answer::cut(Point::Tokens(17), Ending::Reset));
    let door = FrontDoor::start(Setup { plans: vec![plan], gateway: "takeover = false", scale: 1, ..Setup::default() });
    let failed = ask(&door, Dialect::AnthropicMessages).told;
    assert!(matches!(failed.end, Ended::Failed(_)) && SIXTY_WORDS.len() > failed.text.len(), "{failed:?}");
}

pub fn closed_without_last_chunk() {
    cut_in_the_text(Ending::Fin);
    // At any byte, within words of several bytes and within frames: what the client has in the end is the whole reply, once.
    for dialect in DIALECTS {
        let door = unscaled(dialect, Plan::healthy());
        door.gateway.set_use(Use::Cloud);
        let length = ask(&door, dialect).exchange.body.len();
        for bytes in (1..length).step_by(length / 13) {
            door.upstream().set_plan(Plan::always(Answer::cut(Point::Bytes(bytes), Ending::Fin)));
            let turn = ask(&door, dialect);
            assert!(matches!(turn.told.end, Ended::Well(_)), "cut at byte {bytes} of {length}: {}", turn.exchange.text());
        }
    }
}

/// HTTP says that it is whole, and the protocol does not.
pub fn clean_end_without_finish() {
    cut_in_the_text(Ending::Clean);
    for dialect in DIALECTS {
        for point in [Point::Headers, Point::Start] {
            let door = unscaled(dialect, Plan::always(Answer::cut(point, Ending::Clean)));
            ask(&door, dialect).is_local("cut");
            settled(&door, dialect, 1);
        }
    }
}

pub fn content_length_longer_than_body() {
    for dialect in DIALECTS {
        let door_of_bodies = unscaled(dialect, Plan::always(Answer::wrong(Misbehaviour::ShortBody { missing_bytes: 10 })));
        ask_whole(&door_of_bodies, dialect).is_local("cut");
        assert_eq!(door_of_bodies.attempts().len(), 1);
        // A stream that has come to its last event is whole, whatever length it promised.
        door_of_bodies.gateway.set_use(Use::Cloud);
        ask(&door_of_bodies, dialect).is_cloud();
        settled(&door_of_bodies, dialect, 2);

        let source = unscaled(dialect, Plan::healthy());
        let address = source.upstream().address();
        let healthy = source.app.runtime().block_on(RawClient::exchange(address, &request(dialect, true), HANGS)).body;
        let half = door_to(dialect, promises_twice_as_much(&healthy[..healthy.len() / 2]), Setup::default());
        ask(&half, dialect).is_taken_over("cut");
    }
}

/// An upstream's address: one request is answered with this body and twice its length.
fn promises_twice_as_much(body: &[u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n", body.len() * 2);
    let answer = [head.as_bytes(), body].concat();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the door comes");
        // Requests of this test end with the brace of their body.
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            let mut bytes = [0; 4096];
            let length = stream.read(&mut bytes).expect("a request");
            request.extend_from_slice(&bytes[..length]);
        }
        stream.write_all(&answer).expect("the door listens");
    });
    url
}

pub fn cut_in_thinking() {
    let thoughtful =
        Answer::saying(Reply::default().with_thinking("The lamp, the doorman, the gallery: in which order, and how many words?"));
    let cut = thoughtful.and_wrong(Misbehaviour::Cut { at: Point::ThinkingTokens(5), how: Ending::Reset });
    for dialect in DIALECTS {
        let door = unscaled(dialect, Plan::always(cut.clone()));
        let turn = ask(&door, dialect);
        turn.is_taken_over("cut");
        let [thought] = &turn.told.thoughts[..] else { panic!("one thought, and none of the local model's: {:?}", turn.told) };
        assert_eq!(thought.text, "The lamp, the doorman, the");
        if dialect == Dialect::AnthropicMessages {
            assert_eq!(thought.signature, local_signature(&thought.text), "signed as what must not go up again");
        }
        settled(&door, dialect, 1);
    }
    // Claude Code asks again where a stream ends within a thought, and so it is given that end.
    let door = unscaled(Dialect::AnthropicMessages, Plan::always(cut));
    let as_claude_code = || request(Dialect::AnthropicMessages, true).header("user-agent", "claude-cli/2.1.9 (external, cli)");
    let turn = ask_with(&door, Dialect::AnthropicMessages, as_claude_code(), WORDS);
    assert!(matches!((&turn.told.end, &turn.exchange.end), (Ended::Never, End::Cut(_))), "{}", turn.exchange.text());
    // What it asks again, whoever broke off is not asked.
    ask_with(&door, Dialect::AnthropicMessages, as_claude_code(), WORDS).is_local("cut");
    settled(&door, Dialect::AnthropicMessages, 1);
}

/// All has been said, and only the last event is missing: nobody generates anything for that.
pub fn cut_before_the_last_event() {
    for dialect in DIALECTS {
        let whole = unscaled(dialect, Plan::healthy());
        let healthy = ask(&whole, dialect).exchange.text();
        let door = unscaled(dialect, Plan::always(Answer::cut(Point::BeforeEnd, Ending::Fin)));
        let turn = ask(&door, dialect);
        assert!(matches!(turn.told.end, Ended::Well(_)), "{dialect:?}: {}", turn.exchange.text());
        if dialect != Dialect::OpenaiResponses {
            assert_eq!(without_ids(&turn.exchange.text()), without_ids(&healthy), "{dialect:?}");
            assert_eq!(status(&door).takeovers, 0);
        }
        settled(&door, dialect, 1);
    }
}
