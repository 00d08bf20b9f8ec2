//! What the journal is told of a door's morning: who failed whom, how long a probe took, and that a takeover is one, in whatever protocol.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use understudy::gateway::drill::answer::{Answer, Ending, ErrorKind, Pace, Point};
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::Plan;
use understudy::gateway::journal::Journal;
use understudy::gateway::journal::line::{Event, Line, ProbeKind};

use super::doors::kind;
use super::outcome::ask;
use crate::support::front_door::{FrontDoor, HANGS, Setup};

const MESSAGES: Dialect = Dialect::AnthropicMessages;

/// A journal and its lines.
fn journal() -> (Journal, Receiver<Event>) {
    let (written, lines) = channel();
    let write = move |line: &str| {
        let event = serde_json::from_str::<Line>(line).expect("a line of the journal").event;
        // The test may have heard enough.
        let _ = written.send(event);
        true
    };
    let journal = Journal::writing(&["cloud-0".to_owned(), "cloud-1".to_owned()], Duration::from_secs(60), write);
    (journal.expect("a thread starts"), lines)
}

/// The first line that is wanted.
#[track_caller]
fn line<T>(lines: &Receiver<Event>, wanted: impl Fn(Event) -> Option<T>) -> T {
    loop {
        if let Some(found) = wanted(lines.recv_timeout(HANGS).expect("the line is written")) {
            return found;
        }
    }
}

#[test]
fn a_switch_is_away_from_whoever_failed() {
    let (journal, lines) = journal();
    // The first one does not take this model, and has not failed.
    let plans = vec![Plan::healthy(), Plan::always(Answer::error(ErrorKind::Overloaded))];
    let setup = Setup { plans, upstream: "models = [\"another-*\"]", journal, kind: kind(MESSAGES), scale: 1, ..Setup::default() };
    let door = FrontDoor::start(setup);
    ask(&door, MESSAGES).is_local("overloaded");
    let (from, reason) = line(&lines, |event| match event {
        Event::Switch { from, reason, .. } => Some((from, reason)),
        _ => None,
    });
    assert_eq!((from.as_str(), reason.as_str()), ("cloud-1", "overloaded"));
    assert_eq!(door.attempts().len(), 0);
}

#[test]
fn a_probe_says_how_long_it_took() {
    let (journal, lines) = journal();
    let setup =
        Setup { plans: vec![Plan::always(Answer::error(ErrorKind::Overloaded))], journal, kind: kind(MESSAGES), ..Setup::default() };
    // Breakers scaled, limits as users have them.
    let door = FrontDoor::start_with(setup, |rules| rules.limits = understudy::gateway::limits::Limits::default());
    for _ in 0..2 {
        ask(&door, MESSAGES).is_local("overloaded");
    }
    let pace = Pace { first_token_ms: 60, ..Pace::default() };
    door.upstream().set_plan(Plan::always(Answer::healthy().with_pace(pace)));
    let mut tries = 0;
    while ask(&door, MESSAGES).by_this_machine() {
        tries += 1;
        assert!(tries < 10_000, "it is never asked again");
    }
    let took_ms = line(&lines, |event| match event {
        Event::Probe { kind: ProbeKind::Request, well: true, took_ms, .. } => Some(took_ms),
        _ => None,
    });
    assert!((60..HANGS.as_millis() as u64).contains(&took_ms), "{took_ms} ms");
}

#[test]
fn a_takeover_by_another_cloud_says_by_whom() {
    let (journal, lines) = journal();
    let plans = vec![Plan::always(Answer::cut(Point::Tokens(20), Ending::Fin)), Plan::healthy()];
    let door = FrontDoor::start(Setup { plans, others: "continues = true", journal, kind: kind(MESSAGES), scale: 1, ..Setup::default() });
    let text = door.ask(MESSAGES).text();
    let (upstream, by, saved) = line(&lines, |event| match event {
        Event::Takeover { upstream, by, saved, .. } => Some((upstream, by, saved)),
        _ => None,
    });
    assert_eq!((upstream.as_str(), by.as_deref(), saved), ("cloud-0", Some("cloud-1"), true), "{text}");
}

#[test]
fn a_takeover_across_protocols_is_one() {
    let (journal, lines) = journal();
    let plans = vec![Plan::always(Answer::cut(Point::Tokens(20), Ending::Fin))];
    // A client of the one, a cloud of the other.
    let door = FrontDoor::start(Setup { plans, journal, kind: "openai", scale: 1, ..Setup::default() });
    let text = door.ask(MESSAGES).text();
    let (upstream, saved, after_ms) = line(&lines, |event| match event {
        Event::Takeover { upstream, saved, after_ms, .. } => Some((upstream, saved, after_ms)),
        _ => None,
    });
    assert_eq!((upstream.as_str(), saved, after_ms.is_some()), ("cloud-0", true, true), "{text}");
}
