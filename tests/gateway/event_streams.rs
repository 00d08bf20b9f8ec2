//! Cases 24 to 30: streams of an unusual form, errors told within a stream, and answers that are none of the API's.

use understudy::gateway::drill::answer::{Answer, Call, Ending, ErrorKind, LineEnds, Misbehaviour, Point, Reply, Wire};
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::Plan;
use understudy::gateway::drill::raw_client::RawClient;
use understudy::gateway::status::{State, Use};

use super::calls::{WEATHER, request_with_tools, value};
use super::doors::{DIALECTS, unscaled};
use super::outcome::{Expected, ask, ask_whole, ask_with, settled, status, upstream_state};
use super::relay::without_ids;
use super::strict_client::Ended;
use crate::support::front_door::{HANGS, request};

/// One slip is passed over and not relayed, since clients stop at it; three are a pattern.
pub fn malformed_events() {
    for dialect in DIALECTS {
        let malformed = |count| Plan::always(Answer::wrong(Misbehaviour::MalformedEvents { at: Point::Tokens(17), count }));
        for count in [1, 2] {
            let door = unscaled(dialect, malformed(count));
            ask(&door, dialect).is_cloud();
            settled(&door, dialect, 1);
            assert_eq!(upstream_state(&door).0, State::Well);
        }
        let door = unscaled(dialect, malformed(3));
        ask(&door, dialect).is_taken_over("malformed");
        settled(&door, dialect, 1);
    }
    // A hole in a text is a pity; in the arguments of a call it may be a command that nobody meant.
    for dialect in DIALECTS {
        let calls = Reply::calls(vec![Call::new("weather", WEATHER)]);
        let wrong = Misbehaviour::MalformedEvents { at: Point::Arguments { call: 0, bytes: 14 }, count: 1 };
        let door = unscaled(dialect, Plan::always(Answer::saying(calls).and_wrong(wrong)));
        let expected = Expected { text: "", calls: &[("weather", value(WEATHER))] };
        let turn = ask_with(&door, dialect, request_with_tools(dialect, &[("weather", WEATHER)], &["weather"]), expected);
        turn.is_taken_over("malformed");
        door.upstream().set_plan(Plan::healthy());
        settled(&door, dialect, 1);
    }
}

/// Some providers never send it. Their replies are whole all the same, and nothing speaks against them.
pub fn missing_done() {
    let door = unscaled(Dialect::OpenaiChat, Plan::always(Answer::cut(Point::BeforeEnd, Ending::Clean)));
    for asked in 1..=5 {
        let turn = ask(&door, Dialect::OpenaiChat);
        turn.is_cloud();
        assert_eq!(turn.told.end, Ended::Well("stop".to_owned()), "the end is written for them");
        assert_eq!(door.attempts().len(), asked);
    }
    assert_eq!((status(&door).local_turns, upstream_state(&door).0), (0, State::Well));
    settled(&door, Dialect::OpenaiChat, 5);
}

pub fn forms_of_event_streams() {
    let lines = [LineEnds::CrLf, LineEnds::Cr, LineEnds::Mixed].map(|line_ends| Wire { line_ends, ..Wire::default() });
    let pieces = [1].map(|bytes| Wire { chunk_bytes: Some(bytes), ..Wire::default() });
    let others = [
        Wire { bom: true, ..Wire::default() },
        Wire { comments: true, ..Wire::default() },
        Wire { split_data: true, ..Wire::default() },
        Wire { trailers: true, close: true, ..Wire::default() },
        Wire { line_ends: LineEnds::Mixed, bom: true, comments: true, split_data: true, chunk_bytes: Some(7), ..Wire::default() },
    ];
    for dialect in DIALECTS {
        let door = unscaled(dialect, Plan::healthy());
        // Cuts speak against the upstream, and it is asked all the same.
        door.gateway.set_use(Use::Cloud);
        for wire in lines.into_iter().chain(pieces).chain(others) {
            let answer = Answer::healthy().with_wire(wire);
            door.upstream().set_plan(Plan::always(answer.clone()));
            let address = door.upstream().address();
            let direct = door.app.runtime().block_on(RawClient::exchange(address, &request(dialect, true), HANGS));
            let turn = ask(&door, dialect);
            turn.is_cloud();
            // The second half of the very last line end may come when all has been said, and is not waited for.
            let (through, direct) = (without_ids(&turn.exchange.text()), without_ids(&direct.text()));
            assert!(through == direct || format!("{through}\n") == direct, "{dialect:?} {wire:?}: {through}");
            let cut = Misbehaviour::Cut { at: Point::Tokens(17), how: Ending::Fin };
            door.upstream().set_plan(Plan::always(answer.and_wrong(cut)));
            ask(&door, dialect).is_taken_over("cut");
        }
    }
}

/// Before any content an error is no more than a status would have been.
fn error_without_content(at: Point) {
    for dialect in DIALECTS {
        for (error, reason) in [(ErrorKind::Overloaded, "overloaded"), (ErrorKind::Internal, "error_event")] {
            let door = unscaled(dialect, Plan::always(Answer::wrong(Misbehaviour::ErrorEvent { at, error })));
            ask(&door, dialect).is_local(reason);
            settled(&door, dialect, 1);
            assert_eq!(upstream_state(&door), (State::Down, Some(reason.to_owned())), "two in a row");
        }
    }
}

pub fn error_as_the_first_event() {
    error_without_content(Point::Headers);
}

pub fn error_after_the_start() {
    error_without_content(Point::Start);
}

pub fn error_mid_text() {
    for dialect in DIALECTS {
        for (error, reason) in [(ErrorKind::Overloaded, "overloaded"), (ErrorKind::Internal, "error_event")] {
            let door = unscaled(dialect, Plan::always(Answer::wrong(Misbehaviour::ErrorEvent { at: Point::Tokens(17), error })));
            let turn = ask(&door, dialect);
            turn.is_taken_over(reason);
            assert!(!turn.exchange.text().contains("rror\":{"), "the client sees no error: {}", turn.exchange.text());
            settled(&door, dialect, 1);
        }
    }
}

/// Pages, nothing at all, other types: something answered that is not the API.
pub fn successes_that_are_none() {
    let typed = |value: &str| Misbehaviour::ContentType { value: value.to_owned() };
    for dialect in DIALECTS {
        for stream in [true, false] {
            // A stream of no event is one that was cut.
            let empty = if stream { "cut" } else { "not_the_api" };
            let wrongs = [(Misbehaviour::Page { status: 200 }, "not_the_api"), (Misbehaviour::Empty, empty)];
            for (wrong, reason) in wrongs.into_iter().chain([typed("text/plain"), typed("text/html")].map(|wrong| (wrong, "not_the_api"))) {
                let door = unscaled(dialect, Plan::always(Answer::wrong(wrong.clone())));
                let turn = if stream { ask(&door, dialect) } else { ask_whole(&door, dialect) };
                turn.is_local(reason);
                settled(&door, dialect, 1);
                if wrong != Misbehaviour::Empty {
                    assert_eq!(upstream_state(&door), (State::Down, Some(reason.to_owned())), "{wrong:?}");
                }
            }
        }
    }
}
