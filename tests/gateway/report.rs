//! The report: what a journal says of a span of time.

use proptest::prelude::*;
use understudy::gateway::journal::line::{Counts, Event, Evidence, Line, ProbeKind};
use understudy::gateway::report::{OutageEnd, Quantiles, Report, UpstreamReport, Window};

const MINUTE_MS: u64 = 60_000;
const HOUR: Window = Window { from_unix_ms: 60 * MINUTE_MS, until_unix_ms: 120 * MINUTE_MS };

/// Lines at minutes.
fn report(events: &[(u64, Event)]) -> Report {
    let line =
        |(minute, event): &(u64, Event)| serde_json::to_string(&Line { at_unix_ms: minute * MINUTE_MS, event: event.clone() }).unwrap();
    let lines: Vec<String> = events.iter().map(line).collect();
    Report::of(lines.iter().map(String::as_str), HOUR)
}

fn minute(good: u64, bad: u64) -> Event {
    Event::Minute { upstream: "claude".into(), counts: Counts { good, bad, clients: 5, saved: bad } }
}

fn begin() -> Event {
    let evidence = Evidence { status: Some(529), request_id: Some("req_9".into()) };
    Event::OutageBegin { upstream: "claude".into(), reason: "overloaded".into(), evidence }
}

fn end() -> Event {
    Event::OutageEnd { upstream: "claude".into() }
}

fn started() -> Event {
    Event::Started { version: "1".into() }
}

fn only(report: Report) -> UpstreamReport {
    let [upstream] = <[_; 1]>::try_from(report.upstreams).unwrap();
    upstream
}

#[test]
fn availability_is_of_what_the_upstream_is_to_blame_for() {
    let upstream = only(report(&[(59, minute(0, 1_000)), (60, minute(999, 0)), (61, minute(0, 1)), (120, minute(0, 1_000))]));
    assert_eq!(upstream.counts, Counts { good: 999, bad: 1, clients: 10, saved: 1 }, "the window's minutes");
    assert_eq!(upstream.availability, Some(0.999));
    let shown = |good, bad| report(&[(60, minute(good, bad))]).to_string();
    assert!(
        shown(999, 1).contains("99.900 % of 1000 requests, at or above 99.9 %; 1 failed; 5 by their clients' own doing; 1 turns saved")
    );
    assert!(shown(998, 2).contains("99.800 % of 1000 requests, below 99.9 %"));
    assert!(shown(0, 0).contains("no requests; 5 by their clients"));
    assert!(shown(9_999_999, 1).contains("99.999 %"), "what is not all is not shown as all");
}

#[test]
fn outages() {
    let of = |events: &[(u64, Event)]| only(report(events));
    let ended = of(&[(70, begin()), (73, end()), (80, begin()), (81, end())]);
    assert_eq!((ended.outages.len(), ended.outage_ms), (2, 4 * MINUTE_MS));
    assert_eq!(ended.mean_time_to_recovery_ms, Some(2 * MINUTE_MS));
    assert_eq!(ended.outages[0].evidence.request_id.as_deref(), Some("req_9"));

    let open = of(&[(110, begin())]);
    assert_eq!((open.outages[0].end, open.outage_ms, open.mean_time_to_recovery_ms), (OutageEnd::Open, 10 * MINUTE_MS, None));

    let before = of(&[(50, begin()), (65, end())]);
    assert_eq!((before.outage_ms, before.mean_time_to_recovery_ms), (5 * MINUTE_MS, Some(15 * MINUTE_MS)), "it reaches into the window");

    let beyond = of(&[(110, begin()), (130, end())]);
    assert_eq!(
        (beyond.outages[0].end, beyond.outage_ms),
        (OutageEnd::Open, 10 * MINUTE_MS),
        "what came after the window is not known in it"
    );

    assert!(report(&[(40, begin()), (50, end())]).upstreams.is_empty(), "what was over is not told");
    let twice = of(&[(70, begin()), (71, begin()), (73, end()), (74, end())]);
    assert_eq!((twice.outages.len(), twice.outage_ms), (1, 3 * MINUTE_MS));
}

#[test]
fn nobody_knows_what_an_outage_did_while_no_server_ran() {
    let upstream = only(report(&[(70, begin()), (72, minute(0, 3)), (100, started()), (101, minute(3, 0))]));
    assert_eq!(upstream.outages[0].end, OutageEnd::Unknown { last_seen_unix_ms: 72 * MINUTE_MS });
    assert_eq!((upstream.outage_ms, upstream.mean_time_to_recovery_ms), (2 * MINUTE_MS, None));
}

#[test]
fn saves_and_their_times() {
    let switch = |after_ms| Event::Switch {
        from: "claude".into(),
        to: "local".into(),
        reason: "refused".into(),
        after_ms,
        evidence: Evidence::default(),
    };
    let takeover = |saved, after_ms| Event::Takeover {
        by: None,
        upstream: "claude".into(),
        reason: "cut".into(),
        saved,
        after_ms,
        evidence: Evidence::default(),
    };
    let probe = Event::Probe { upstream: "claude".into(), kind: ProbeKind::Edge, well: false, took_ms: 3 };
    let report = report(&[
        (61, switch(Some(9))),
        (62, switch(Some(4))),
        (63, switch(None)),
        (64, takeover(true, Some(120))),
        (65, takeover(false, None)),
        (66, probe),
        (67, Event::Dropped { lines: 7 }),
        (67, Event::Return { upstream: "claude".into() }),
    ]);
    assert_eq!(report.switch_ms, Some(Quantiles { count: 2, p50: 4, p95: 9 }));
    assert_eq!(report.takeover_ms, Some(Quantiles { count: 1, p50: 120, p95: 120 }));
    assert_eq!((report.probes, report.dropped_lines), (1, 7));
    let upstream = &report.upstreams[0];
    assert_eq!((upstream.switches, upstream.mid_stream_saves, upstream.mid_stream_losses), (3, 1, 1));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["upstreams"][0]["mid_stream_saves"], &json["switch_ms"]["p95"]), (&1.into(), &9.into()));
}

#[test]
fn a_report_for_people() {
    let text = report(&[(60, minute(99, 1)), (70, begin()), (73, end()), (110, begin())]).to_string();
    assert_eq!(
        text,
        "1970-01-01 01:00:00 to 1970-01-01 02:00:00 (UTC)\n\n\
         claude       99.000 % of 100 requests, below 99.9 %; 1 failed; 5 by their clients' own doing; 1 turns saved\n  \
         2 outages, 13 min together; recovered after 3 min on average\n  \
         1970-01-01 01:10:00 to 1970-01-01 01:13:00 (3 min)  overloaded, status 529, request req_9\n  \
         1970-01-01 01:50:00 to now  overloaded, status 529, request req_9\n"
    );
    assert!(report(&[]).to_string().contains("nothing was noted of any upstream"));
}

#[test]
fn foreign_and_torn_lines_are_skipped_and_counted() {
    let line = serde_json::to_string(&Line { at_unix_ms: 60 * MINUTE_MS, event: minute(1, 0) }).unwrap();
    let lines = [&line, "", "{\"at_unix_ms\":1}", "not ours", "{\"at_unix_ms\":1,\"event\":\"of_a_later_version\"}", &line, &line[..30]];
    let report = Report::of(lines.into_iter(), HOUR);
    assert_eq!((report.upstreams[0].counts.good, report.unread_lines), (2, 4));
    assert!(report.to_string().contains("4 lines of the journal could not be read"));
}

proptest! {
    /// Any lines in any order: no panic, and sums that can be.
    #[test]
    fn any_journal_has_a_report(events in proptest::collection::vec((0u64..200, 0usize..6, 0u64..5), 0..60)) {
        let events: Vec<(u64, Event)> = events.into_iter().map(|(at, kind, count)| {
            let event = match kind {
                0 => begin(),
                1 => end(),
                2 => started(),
                3 => minute(count, 0),
                4 => minute(0, count),
                _ => Event::Dropped { lines: count },
            };
            (at, event)
        }).collect();
        for upstream in report(&events).upstreams {
            prop_assert!(upstream.outage_ms <= 60 * MINUTE_MS * upstream.outages.len() as u64);
            prop_assert!(upstream.availability.is_none_or(|availability| (0.0..=1.0).contains(&availability)));
            let open = upstream.outages.iter().filter(|outage| outage.end == OutageEnd::Open).count();
            prop_assert!(open <= 1);
        }
    }
}
